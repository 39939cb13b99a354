"""A SIGTERM to any process: all save the same step and end with 75; the same command resumes from there."""

import signal
import time

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


def test_the_first_ctrl_c_saves_the_step_and_ends_with_130(folder, corpus):
  workdir = folder / "interrupted"
  with Processes(folder, corpus, "interrupted", STEPS, count=1, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(3)
    processes.signal(0, signal.SIGINT)
    (ended,) = processes.ended(60)
  (preempt,) = events(workdir, "preempt")
  assert ended.code == 130 and steps_saved(workdir) == [preempt["step"]] and preempt["step"] >= 3, ended
  assert f"interrupted: step {preempt['step']} is saved; run the same command again to resume" in ended.output
  assert "Traceback" not in ended.output
  run(folder, corpus, "interrupted", STEPS, count=1)
  run(folder, corpus, "not-interrupted", STEPS, count=1)
  assert weights(workdir) == weights(folder / "not-interrupted")


def test_a_ctrl_c_to_one_of_two_processes_is_final_for_both(folder, corpus):
  with Processes(folder, corpus, "interrupted-two", STEPS, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(3)
    processes.signal(1, signal.SIGINT)
    ended = processes.ended(60)
  assert [one.code for one in ended] == [130] * 2, ended
  assert steps_saved(folder / "interrupted-two") == [events(folder / "interrupted-two", "preempt")[0]["step"]]


# The second step stands in native code, as compiling does, where Python hears of no signal.
STUCK = """
from bert_jax.training import sharding
plain, steps = sharding.put_batch, []
def put_batch(batch, mesh):
  steps.append(1)
  if len(steps) > 2:
    import hashlib
    print("stuck", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
  return plain(batch, mesh)
sharding.put_batch = put_batch
"""


def test_a_second_ctrl_c_ends_at_once_even_while_native_code_runs(folder, corpus):
  with Processes(folder, corpus, "impatient", STEPS, count=1, sabotage=STUCK) as processes:
    processes.wait_for(lambda: "stuck" in processes.output(0))
    processes.signal(0, signal.SIGINT)
    processes.wait_for(lambda: "another Ctrl-C ends it at once" in processes.output(0))
    processes.signal(0, signal.SIGINT)
    (ended,) = processes.ended(30)
  assert ended.code == 130 and not steps_saved(folder / "impatient"), ended


def test_a_terminal_that_hangs_up_counts_as_a_sigterm_but_not_under_nohup(folder, corpus):
  with Processes(folder, corpus, "hung-up", STEPS, count=1, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(3)
    processes.signal(0, signal.SIGHUP)
    (ended,) = processes.ended(60)
  assert ended.code == EXIT_PREEMPTED and steps_saved(folder / "hung-up"), ended
  with Processes(folder, corpus, "nohup", STEPS, count=1, sabotage=SLOW_STEPS, prefix={0: ("nohup",)}) as processes:
    processes.wait_for_step(3)
    processes.signal(0, signal.SIGHUP)
    (ended,) = processes.ended(60)
  assert ended.code == 0 and steps_saved(folder / "nohup")[-1] == 30, ended


def test_a_process_that_is_alone_survives_being_stopped_longer_than_any_limit(folder, corpus):
  limits = ("watchdog.step_seconds=2", "watchdog.start_seconds=60", "cluster.heartbeat_seconds=5")
  with Processes(folder, corpus, "stopped", (*STEPS, *limits), count=1, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(3)
    processes.signal(0, signal.SIGSTOP)
    time.sleep(15)
    processes.signal(0, signal.SIGCONT)
    (ended,) = processes.ended(60)
  assert ended.code == 0 and steps_saved(folder / "stopped")[-1] == 30, ended
