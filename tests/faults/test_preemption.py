"""A SIGTERM to any process: all save the same step and end with 75; the same command resumes from there."""

import signal

from bert_jax.errors import EXIT_PREEMPTED
from tests.faults.processes import SLOW_STEPS, Processes, events, losses, run, steps_saved, weights

STEPS = ("total_steps=30", "eval_every_steps=100", "checkpoint.every_steps=100")


def test_a_sigterm_to_one_of_two_processes_makes_both_save_the_same_step(folder, corpus):
  workdir = folder / "terminated"
  with Processes(folder, corpus, "terminated", STEPS, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(3)
    processes.signal(1, signal.SIGTERM)
    ended = processes.ended(60)
  assert [one.code for one in ended] == [EXIT_PREEMPTED] * 2, ended
  (preempt,) = events(workdir, "preempt")
  assert steps_saved(workdir) == [preempt["step"]] and 3 <= preempt["step"] < 30
  assert (
    f"stopped by a SIGTERM: step {preempt['step']} is saved, and the same command resumes from there" in ended[0].output
  )
  assert "Traceback" not in ended[0].output + ended[1].output

  run(folder, corpus, "terminated", STEPS)
  run(folder, corpus, "undisturbed", STEPS)
  assert weights(workdir) == weights(folder / "undisturbed")
  assert losses(workdir) == losses(folder / "undisturbed")


def test_a_process_that_is_alone_saves_too(folder, corpus):
  workdir = folder / "terminated-alone"
  with Processes(folder, corpus, "terminated-alone", STEPS, count=1, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(3)
    processes.signal(0, signal.SIGTERM)
    (ended,) = processes.ended(60)
  assert ended.code == EXIT_PREEMPTED and steps_saved(workdir) == [events(workdir, "preempt")[0]["step"]], ended


SLOW_EVALUATION = """
import time
from bert_jax.runs import corpus as runs
plain = runs.validation_batches
def validation_batches(corpus, config, *more):
  batch = next(iter(plain(corpus, config, *more)))
  for _ in range(1000):
    time.sleep(0.1)
    yield batch
runs.validation_batches = validation_batches
"""


def test_a_long_evaluation_is_given_up(folder, corpus):
  """100 seconds of it would be the end: schedulers give 30."""
  workdir = folder / "evaluating"
  with Processes(folder, corpus, "evaluating", (*STEPS, "eval_every_steps=4"), sabotage=SLOW_EVALUATION) as processes:
    processes.wait_for_step(4)
    processes.signal(0, signal.SIGTERM)
    ended = processes.ended(30)
  assert [one.code for one in ended] == [EXIT_PREEMPTED] * 2, ended
  assert steps_saved(workdir) == [4]


def test_a_sigterm_while_the_run_starts_ends_it_before_it_trains(folder, corpus):
  with Processes(folder, corpus, "starting", STEPS, sabotage=SLOW_STEPS) as processes:
    processes.wait_for(lambda: events(folder / "starting", "start"))
    processes.signal(0, signal.SIGTERM)
    ended = processes.ended(90)
  assert [one.code for one in ended] == [EXIT_PREEMPTED] * 2, ended
  assert max(steps_saved(folder / "starting"), default=0) <= 2
