"""train_step.py (laws 3, 12): the same gradient however the batch is cut, and void updates that change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.pretraining_fixtures import losses, run_steps, tiny_batch, tiny_config

from bert_jax.training.train_step import add_sums, divide, split_rows


@pytest.fixture(scope="module")
def whole():
  return run_steps(tiny_config(), 10)


@pytest.mark.parametrize("parts", [2, 4])
def test_ten_steps_in_microbatches_agree_with_whole_batches(whole, parts):
  state, reports = run_steps(tiny_config(**{"optimizer.microbatches": parts}), 10)
  np.testing.assert_allclose(losses(reports), losses(whole[1]), atol=1e-6, rtol=0)
  np.testing.assert_allclose([r.grad_norm for r in reports], [r.grad_norm for r in whole[1]], rtol=1e-5)


def test_the_microbatches_of_the_fixture_differ_in_their_masked_counts():
  """Otherwise averaging microbatches would pass the test above as well."""
  lengths = split_rows(jnp.asarray(tiny_batch(0)["sequences"][:, :, 0].sum(1)), 4).sum(1)
  assert len(set(np.asarray(lengths).tolist())) > 1


def test_the_loss_falls(whole):
  _, reports = run_steps(tiny_config(), 30, change=lambda step, batch: tiny_batch(0))
  assert losses(reports)[-1].sum() < losses(reports)[0].sum() - 1.0


def test_bfloat16_activations_follow_float32_closely(whole):
  _, reports = run_steps(tiny_config(**{"model.dtype": "bfloat16"}), 10)
  np.testing.assert_allclose(losses(reports), losses(whole[1]), atol=0.05)
  assert not np.array_equal(losses(reports), losses(whole[1]))


def test_lamb_trains_too():
  _, reports = run_steps(tiny_config(**{"optimizer.name": "lamb"}), 30, change=lambda step, batch: tiny_batch(0))
  assert losses(reports)[-1].sum() < losses(reports)[0].sum() - 0.3


def test_a_non_finite_update_leaves_parameters_and_moments_as_they_were():
  from bert_jax.training import optimizer as optimizers
  from bert_jax.training import train_state
  from bert_jax.training.train_step import make_train_step
  from tests.pretraining_fixtures import tiny_task

  config = tiny_config()
  task, optimizer = tiny_task(config), optimizers.make_optimizer(config)
  broken = task._replace(loss=lambda params, part, weights, key: _nan_loss(task, params, part, weights, key))
  step = jax.jit(make_train_step(broken, optimizer, optimizers.make_schedule(config), seed=0, microbatches=2))
  before = train_state.create(task.init(jax.random.key(0)), optimizer)
  batch = tiny_batch(0)
  good, report = step(before, batch)
  assert report.skipped == 0 and int(good.step) == 1
  batch["tokens"][3, 1] = 99  # the token that makes the loss of its microbatch NaN
  after, report = step(good, batch)
  assert report.skipped == 1 and int(after.step) == 2
  jax.tree.map(np.testing.assert_array_equal, (good.params, good.opt_state), (after.params, after.opt_state))
  again, report = step(after, tiny_batch(1))
  assert report.skipped == 0 and np.isfinite(report.grad_norm)


def _nan_loss(task, params, part, weights, key):
  loss, sums = task.loss(params, part, weights, key)
  return loss * jnp.where(jnp.any(part[1].labels == 99) | jnp.any(part[0].input_ids[:, 1] == 99), jnp.nan, 1.0), sums


def test_dropout_differs_from_step_to_step_and_is_the_same_again():
  config = tiny_config(**{"model.hidden_dropout_prob": 0.5, "optimizer.learning_rate": 1e-30})
  first, again = (losses(run_steps(config, 2, change=lambda step, batch: tiny_batch(0))[1]) for _ in range(2))
  np.testing.assert_array_equal(first, again)
  assert first[0][0] != first[1][0]


def test_split_rows_stripes_the_batch():
  np.testing.assert_array_equal(split_rows(jnp.arange(6), 2), [[0, 2, 4], [1, 3, 5]])


def test_sums_add_up_and_are_divided_once():
  total = add_sums(add_sums({}, {"a": (3.0, 2.0), "b": (0.0, 0.0)}), {"a": (1.0, 2.0), "b": (0.0, 0.0)})
  assert divide(total) == {"a": 1.0}
