"""A process that dies or goes silent takes the others with it, within a minute and with a message: nothing hangs."""

import signal
import time

import pytest
from tests.faults.processes import SLOW_STEPS, Processes, run, steps_saved

from bert_jax.errors import EXIT_PEER_LOST

STEPS = ("total_steps=300", "eval_every_steps=1000", "checkpoint.every_steps=5", "cluster.heartbeat_seconds=10")
ABORTED_BY_JAX = -signal.SIGABRT


@pytest.mark.parametrize(
    "victim, kill, said",
    [
        (1, signal.SIGKILL, ("another process of this run is gone", "goes on from its newest checkpoint")),
        (0, signal.SIGKILL, ("leader task was preempted/died",)),
        (1, signal.SIGSTOP, ("stopped sending heartbeats",)),
    ],
    ids=["killed", "first killed", "frozen"],
)
def test_the_others_end_within_a_minute_and_say_why(folder, corpus, victim, kill, said):
  name = f"lost-{victim}-{kill}"
  with Processes(folder, corpus, name, STEPS, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(7)
    processes.signal(victim, kill)
    began = time.monotonic()
    (survivor,) = processes.ended(60, numbers=[1 - victim])
    assert time.monotonic() - began < 60
  # JAX itself ends a process whose coordinator has vanished; where it leaves the time, the message is ours.
  assert survivor.code in (EXIT_PEER_LOST, ABORTED_BY_JAX), survivor
  assert any(words in survivor.output for words in said), survivor.output
  assert 5 in steps_saved(folder / name)


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
  from bert_jax.errors import UserError  # noqa: F401  (named in FAIL)

  sabotage = {number: "from bert_jax.errors import UserError\n" + FAIL.format(error='UserError("the disk of this host is full; make room")')}
  ended = run(folder, corpus, f"mistake-{number}", STEPS, code=1, sabotage=sabotage)
  for one in ended:
    assert one.output.count("the disk of this host is full; make room") == 1, one.output
    assert "Traceback" not in one.output
  assert f"error: process {number} on " in ended[1 - number].output


def test_a_defect_in_one_process_shows_its_traceback_there_and_ends_the_other(folder, corpus):
  ended = run(folder, corpus, "defect", STEPS, code=1, sabotage={1: FAIL.format(error='KeyError("nonsense")')})
  assert "Traceback" in ended[1].output and "KeyError: 'nonsense'" in ended[1].output
  assert "error: process 1 on " in ended[0].output and "nonsense" in ended[0].output and "Traceback" not in ended[0].output
