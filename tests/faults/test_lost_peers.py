"""A process that dies or goes silent takes the others with it, within a minute and with a message: nothing hangs."""

import re
import signal
import socket
import time

import pytest

from bert_jax.errors import EXIT_PEER_LOST
from tests.faults.processes import SLOW_STEPS, Ended, Processes, events, run, steps_saved

STEPS = ("total_steps=300", "eval_every_steps=1000", "checkpoint.every_steps=5", "cluster.heartbeat_seconds=10")
KILLED = "its connection closed without a word: it was killed"
FROZEN = "it is frozen, or cut off from the network"


def expect_one_message(one: Ended, *words: str):
  """One plain message on the terminal, exit code 76, and no word of a runtime."""
  assert one.code == EXIT_PEER_LOST, one
  errors = [
    line for line in one.output.splitlines() if not re.match(r" *[\d,]+/[\d,]+ |E\d{4} ", line)
  ]  # the progress, and JAX's own log
  (message,) = [line for line in errors if line.startswith("error: ")]
  for word in ("another process of this run is gone: ", "goes on from its newest checkpoint", *words):
    assert word in message, one.output
  assert errors.index(message) == len(errors) - 1
  # JAX may log a line when it notices too, before it would abort (E1125 …); what may not be there is that abort.
  assert not re.search(r"Traceback|terminate called|stack trace|    @ |^F\d{4} ", one.output, re.M), one.output


@pytest.mark.parametrize(
  "victim, kill, said",
  [(1, signal.SIGKILL, KILLED), (0, signal.SIGKILL, KILLED), (1, signal.SIGSTOP, FROZEN), (0, signal.SIGSTOP, FROZEN)],
  ids=["killed", "first killed", "frozen", "first frozen"],
)
def test_the_others_end_within_a_minute_and_name_the_process(folder, corpus, victim, kill, said):
  """They sit in a collective, or wait for the next one: nothing there tells them."""
  name = f"lost-{victim}-{kill}"
  with Processes(folder, corpus, name, (*STEPS, "data.batch_size=6"), count=3, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(7)
    processes.signal(victim, kill)
    began = time.monotonic()
    ended = processes.ended(60, numbers=[number for number in range(3) if number != victim])
    took = time.monotonic() - began
    for one in ended:
      expect_one_message(one, f": process {victim} on {socket.gethostname()}; ", said)
    assert took < (10 if kill == signal.SIGKILL else 45)
    if kill == signal.SIGSTOP:  # and it ends itself when it wakes up
      processes.signal(victim, signal.SIGCONT)
      (woken,) = processes.ended(60, numbers=[victim])
      assert woken.code == EXIT_PEER_LOST and woken.output.count("error: ") == 1, woken
  assert 5 in steps_saved(folder / name)
  if victim != 0:
    assert [
      event["message"]
      for event in events(folder / name, "fail", "peer_lost")
      if f"process {victim} on" in event["message"]
    ]


def test_a_killed_process_is_code_76_and_the_run_goes_on(folder, corpus):
  with Processes(folder, corpus, "lost-again", (*STEPS, "total_steps=30"), sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(7)
    processes.signal(1, signal.SIGKILL)
    (survivor,) = processes.ended(60, numbers=[0])
  assert survivor.code == EXIT_PEER_LOST and "Traceback" not in survivor.output, survivor
  run(folder, corpus, "lost-again", (*STEPS, "total_steps=30"))
  assert steps_saved(folder / "lost-again")[-1] == 30


FAIL = """
from bert_jax.training import loop
plain = loop._Trainer.take_step
def take_step(self):
  if self.step == 3:
    raise {error}
  plain(self)
loop._Trainer.take_step = take_step
"""


@pytest.mark.parametrize("number", [0, 1])
def test_a_mistake_of_one_process_is_the_same_message_and_exit_code_on_all(folder, corpus, number):
  sabotage = {
    number: "from bert_jax.errors import UserError\n"
    + FAIL.format(error='UserError("the disk of this host is full; make room")')
  }
  ended = run(folder, corpus, f"mistake-{number}", STEPS, code=1, sabotage=sabotage)
  for one in ended:
    assert one.output.count("the disk of this host is full; make room") == 1, one.output
    assert "Traceback" not in one.output
  assert f"error: process {number} on " in ended[1 - number].output


def test_a_defect_in_one_process_shows_its_traceback_there_and_ends_the_other(folder, corpus):
  ended = run(folder, corpus, "defect", STEPS, code=1, sabotage={1: FAIL.format(error='KeyError("nonsense")')})
  assert "Traceback" in ended[1].output and "KeyError: 'nonsense'" in ended[1].output
  assert (
    "error: process 1 on " in ended[0].output and "nonsense" in ended[0].output and "Traceback" not in ended[0].output
  )
