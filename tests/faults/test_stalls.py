"""A step that takes far too long ends the run with the stacks of every thread, on all processes."""

from bert_jax.errors import EXIT_STALLED
from tests.faults.processes import events, run

STUCK = """
import time
from bert_jax.data.loading import input_pipeline
plain = input_pipeline.load_batch
def load_batch(split, positions, *, seed):
  if len(positions) and positions[0] >= 8 * 8:
    stuck_in_the_file_system()
  return plain(split, positions, seed=seed)
def stuck_in_the_file_system():
  time.sleep(1000)
input_pipeline.load_batch = load_batch
"""


def test_a_host_that_is_stuck_ends_the_run_with_its_own_exit_code(folder, corpus):
  settings = ("total_steps=30", "eval_every_steps=100", "watchdog.step_seconds=5")
  # The first step compiles, and ten times its length is waited for: it must be quick here.
  ended = run(
    folder, corpus, "stuck", (*settings, "checkpoint.every_steps=100"), code=EXIT_STALLED, sabotage={1: STUCK}
  )
  stacks = sorted((folder / "stuck" / "stalls").glob("attempt-0000-process-*.txt"))
  assert stacks and any("stuck_in_the_file_system" in path.read_text() for path in stacks)
  together = ended[0].output + ended[1].output
  assert "no progress for" in together and "stuck_in_the_file_system" in together
  assert not events(folder / "stuck", "finish")


def test_a_start_that_is_stuck_is_ended_too(folder, corpus):
  stuck = """
  import time
  from bert_jax.training import train_state
  def fresh(*_):
    time.sleep(1000)
  train_state.fresh = fresh
  """
  (ended,) = run(
    folder, corpus, "stuck-start", ("watchdog.start_seconds=3",), code=EXIT_STALLED, count=1, sabotage=stuck
  )
  assert "watchdog.start_seconds" in ended.output and "in fresh" in ended.output
