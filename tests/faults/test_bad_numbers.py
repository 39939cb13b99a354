"""Law 12 with real processes: NaN on one device of one process voids the update everywhere; a streak of them makes the
run go back and on.
"""

import math

import pytest

from bert_jax.training import metrics
from tests.faults.processes import events, losses, run, steps_saved, weights

STEPS = ("total_steps=12", "eval_every_steps=100", "checkpoint.every_steps=4", "checkpoint.keep_last=10")

# The rows of some batches, counted from 1, hold a token that makes the loss (or only the gradient) of its device what
# it should not be.
BAD_ROWS = """
import numpy as np
import jax.numpy as jnp
from bert_jax.objectives import losses
from bert_jax.data.loading import input_pipeline
plain_load, plain_loss = input_pipeline.load_batch, losses.cross_entropy
bad, how = {bad!r}, {how!r}

def load_batch(split, positions, *, seed):
  batch = plain_load(split, positions, seed=seed)
  number = np.asarray(positions) // 8 + 1
  if len(positions) and {process} == jax_process() and number[0] in bad:
    batch["sequences"][0, 0, 2] = 7  # a label that does not exist, in one row
  return batch

def jax_process():
  import jax
  return jax.process_index()

def cross_entropy(logits, labels, weights):
  term = plain_loss(logits, jnp.minimum(labels, logits.shape[-1] - 1), weights)
  if logits.shape[-1] != 2:
    return term
  x = jnp.where(jnp.any(labels == 7), 0.0, 1.0) * (1.0 + 0.0 * jnp.sum(logits))
  poison = {{"nan": jnp.log(x) * 0.0, "inf": 1.0 / x - 1.0,
             "gradient": jnp.sqrt(x) - 1.0 + jnp.where(x > 0, 0.0, 1.0)}}[how]
  return term._replace(loss=term.loss + poison * 1e-30 if how == "gradient" else term.loss + poison)

losses.cross_entropy, input_pipeline.load_batch = cross_entropy, load_batch
"""


def bad_rows(bad, how="nan", process=1):
  return BAD_ROWS.format(bad=sorted(bad), how=how, process=process)


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_an_update_that_is_not_finite_on_one_device_is_void_on_all_and_counted(folder, corpus, how):
  workdir = folder / f"void-{how}"
  run(
    folder,
    corpus,
    workdir.name,
    (*STEPS, "checkpoint.every_steps=1", "checkpoint.keep_last=20"),
    devices=2,
    sabotage=bad_rows({3, 7}, how),
  )
  assert [(event["step"], event["in_a_row"]) for event in events(workdir, "skip")] == [(3, 1), (7, 1)]
  assert not events(workdir, "rollback")
  lines = metrics.read_metrics(workdir)
  assert [step for step in range(1, 13) if lines[step]["train/skipped_steps"]] == [3, 7]
  from etils import epath

  from bert_jax.training.checkpoints import folder as checkpoint_folder

  arrays = lambda step: {
    name: record
    for name, record in checkpoint_folder.read_manifest(epath.Path(workdir / "checkpoints" / str(step))).arrays.items()
    if name != "step"
  }
  for step in (3, 7):
    assert arrays(step) == arrays(step - 1), "parameters and moments are those of before, by their checksums"
  assert arrays(4) != arrays(3)


def test_a_streak_makes_all_processes_go_back_and_on_past_it_and_a_resume_repeats_that(folder, corpus):
  how = {"sabotage": bad_rows({6, 7, 8}), "devices": 2}
  run(folder, corpus, "streak", (*STEPS, "max_bad_steps=3"), **how)
  (rollback,) = events(folder / "streak", "rollback")
  assert (rollback["step"], rollback["from_step"], rollback["position"], rollback["to"]) == (4, 8, 4 * 8, 8 * 8)
  assert all(math.isfinite(value) for line in losses(folder / "streak") for value in line)

  # Killed right after the jump was recorded, before anything else was saved.
  kill = (
    bad_rows({6, 7, 8})
    + """
from bert_jax.training.data_skips import DataSkips
plain_record = DataSkips.record
def record(self, jump, *, write):
  plain_record(self, jump, write=write)
  if write:
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
  import time
  time.sleep(60)
DataSkips.record = record
"""
  )
  from tests.faults.processes import Processes

  with Processes(folder, corpus, "streak-killed", (*STEPS, "max_bad_steps=3"), sabotage=kill, devices=2) as processes:
    assert processes.ended(90)[0].code == -9
  assert max(steps_saved(folder / "streak-killed")) == 4
  run(folder, corpus, "streak-killed", (*STEPS, "max_bad_steps=3"), **how)
  (jump,) = events(folder / "streak-killed", "jump")
  assert (jump["step"], jump["to"]) == (4, 8 * 8) and not events(folder / "streak-killed", "rollback")
  assert weights(folder / "streak-killed") == weights(folder / "streak")
