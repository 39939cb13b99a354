"""loop.py: what a run tells of its steps, with the smallest task that a step can train."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.pretraining_fixtures import tiny_config

from bert_jax.errors import UserError
from bert_jax.training import loop, sharding
from bert_jax.training import optimizer as optimizers
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.metrics import MetricsWriter, Progress, read_events, read_metrics
from bert_jax.training.train_step import Task

BAD = 99  # a row with this token makes the loss NaN
ROWS = 8


def one_matrix_task() -> Task:
  """Two numbers that are to become 3."""

  def loss(params, tokens, global_weights, key):
    error = jnp.sum((params["nsp_head"]["dense"]["kernel"] - 3.0) ** 2)
    error = jnp.where(jnp.any(tokens == BAD), jnp.nan, error)
    return error, {"error": (error, jnp.float32(1))}

  init = lambda key: {"nsp_head": {"dense": {"kernel": jnp.zeros((2, 1))}}}
  prepare = lambda batch, *_: (batch["tokens"], {}, jnp.float32(batch["tokens"].size))
  return Task(init, prepare, loss, dict)


def train(folder, bad=(), **overrides):
  """Trains 8 steps in `folder`, those in `bad` with a loss of NaN. Returns the parameters."""
  config = tiny_config(**{"total_steps": 8, "log_every_steps": 4, "data.batch_size": ROWS, "optimizer.warmup_steps": 2} | overrides)

  def batches(position):
    for step in range(position // ROWS + 1, config.total_steps + 1):
      index = np.arange(ROWS, dtype=np.uint32)
      yield {"tokens": np.full((ROWS, 4), BAD if step in bad else 1, np.int32), "epoch": index * 0, "index": index}

  mesh = sharding.make_mesh(config, jax.devices()[:1])
  run = loop.Run(one_matrix_task(), config, mesh, batches, evaluate=lambda params: {}, identity={})
  with (
      MetricsWriter(folder, 0) as writer,
      Checkpoints(folder / "checkpoints", every_steps=100, keep_last=2, keep_best=0) as checkpoints,
      Progress(config.total_steps, stream=io.StringIO()) as progress,
  ):
    return loop.train(run, checkpoints, writer, progress)[0]


def skips(folder):
  return [(event["step"], event["in_a_row"]) for event in read_events(folder) if event["event"] == "skip"]


def test_every_void_update_is_an_event_and_counted_and_leaves_the_means_alone(tmp_path):
  train(tmp_path, bad=(2, 4, 5))
  assert skips(tmp_path) == [(2, 1), (4, 1), (5, 2)]
  lines = read_metrics(tmp_path)
  assert [lines[step]["train/skipped_steps"] for step in (4, 8)] == [2, 1]
  assert all(np.isfinite(lines[step]["train/error"]) for step in (4, 8))


def test_a_run_without_void_updates_tells_of_none(tmp_path):
  train(tmp_path)
  assert not skips(tmp_path)


def test_the_learning_rate_goes_on_with_the_step_over_a_void_update(tmp_path):
  """Law 12: the rate of update n is that of step n, whatever was skipped before it."""
  train(tmp_path, bad=(1, 3, 8), log_every_steps=1)
  schedule = optimizers.make_schedule(tiny_config(**{"total_steps": 8, "optimizer.warmup_steps": 2}))
  found = [line["learning_rate"] for line in read_metrics(tmp_path).values()]
  np.testing.assert_allclose(found, [schedule(step) for step in range(8)], rtol=1e-6)


def test_too_many_void_updates_in_a_row_end_the_run_and_name_the_remedy(tmp_path):
  with pytest.raises(UserError, match="3 updates in a row, the last at step 6; .*Lower optimizer.learning_rate"):
    train(tmp_path, bad=(1, 2, 4, 5, 6), max_bad_steps=3)
  assert skips(tmp_path) == [(1, 1), (2, 2), (4, 1), (5, 2), (6, 3)]
