"""A process that dies or goes silent takes the others with it, within a minute, and is named: nothing hangs."""

import re
import signal
import socket
import time

import pytest

from bert_jax.errors import EXIT_PEER_LOST, EXIT_UNKNOWN
from tests.faults.processes import SLOW_STEPS, Ended, Processes, events, run, steps_saved

STEPS = ("total_steps=300", "eval_every_steps=1000", "checkpoint.every_steps=5", "cluster.heartbeat_seconds=10")
KILLED = "its connection closed without a message: it was killed"
FROZEN = "it is frozen or cut off from the network"


def expect_one_message(one: Ended, *words: str):
  """One plain message on the terminal, exit code 76, and no word of a runtime."""
  assert one.code == EXIT_PEER_LOST, one
  errors = [
    line for line in one.output.splitlines() if not re.match(r" *[\d,]+/[\d,]+ |E\d{4} ", line)
  ]  # the progress, and JAX's own log
  (message,) = [line for line in errors if line.startswith("error: ")]
  for word in ("another process of this run is gone: ", "resumes from its newest checkpoint", *words):
    assert word in message, one.output
  assert errors.index(message) == len(errors) - 1
  # JAX may log a line when it notices too, before it would abort (E1125 …); what may not be there is that abort.
  assert not re.search(r"Traceback|terminate called|stack trace|    @ |^F\d{4} ", one.output, re.M), one.output


def expect_an_end_by_jax(one: Ended):
  """JAX's words and abort, which a shell calls 134: every launcher starts that again."""
  assert one.code == -signal.SIGABRT, one
  assert "Terminating process because the JAX distributed service detected fatal errors" in one.output
  assert "Traceback" not in one.output


@pytest.fixture
def three(folder, corpus, request):
  """Three processes past step 5."""
  name = re.sub(r"\W+", "-", request.node.name)
  with Processes(folder, corpus, name, (*STEPS, "data.batch_size=6"), count=3, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(7)
    yield processes
  assert 5 in steps_saved(processes.workdir)


def test_the_others_end_within_seconds_and_name_a_process_that_was_killed(three):
  """They sit in a collective, or wait for the next one: nothing there tells them."""
  three.signal(1, signal.SIGKILL)
  began = time.monotonic()
  for one in three.ended(60, numbers=[0, 2]):
    expect_one_message(one, f": process 1 on {socket.gethostname()}; ", KILLED)
  assert time.monotonic() - began < 10
  (lost,) = events(three.workdir, "fail", "peer_lost")
  assert lost["event"] == "peer_lost" and "process 1 on" in lost["message"]


def test_when_the_first_process_is_killed_the_others_say_so_or_jax_does(three):
  """Its service is gone with it."""
  three.signal(0, signal.SIGKILL)
  began = time.monotonic()
  for one in three.ended(60, numbers=[1, 2]):
    if one.code == EXIT_PEER_LOST:
      assert f"error: another process of this run is gone: process 0 on {socket.gethostname()}; {KILLED}" in one.output
    else:
      expect_an_end_by_jax(one)
    assert "Traceback" not in one.output
  assert time.monotonic() - began < 10


@pytest.mark.parametrize("victim", [1, 0])
def test_jax_ends_the_others_within_a_minute_when_one_is_frozen_and_it_is_named(three, victim):
  three.signal(victim, signal.SIGSTOP)
  began = time.monotonic()
  ended = three.ended(60, numbers=[number for number in range(3) if number != victim])
  assert time.monotonic() - began < 45
  for one in ended:
    expect_an_end_by_jax(one)
  assert f"process {victim} on {socket.gethostname()} has been silent for " in ended[0].output
  assert FROZEN in ended[0].output
  three.signal(victim, signal.SIGCONT)  # and it ends itself when it wakes up
  (woken,) = three.ended(60, numbers=[victim])
  assert woken.code in (EXIT_PEER_LOST, -signal.SIGABRT) and woken.output.count("error: ") <= 1, woken


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
  ended = run(
    folder, corpus, "defect", STEPS, code=EXIT_UNKNOWN, sabotage={1: FAIL.format(error='KeyError("nonsense")')}
  )
  assert "Traceback" in ended[1].output and "KeyError: 'nonsense'" in ended[1].output
  assert (
    "error: process 1 on " in ended[0].output and "nonsense" in ended[0].output and "Traceback" not in ended[0].output
  )
