"""train_step.py (laws 3, 12): the same gradient however the batch is cut, and void updates that change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import row_keys
from bert_jax.objectives.objective import Objective, add_sums, divide
from bert_jax.training import optimizer as optimizers
from bert_jax.training import train_state
from bert_jax.training.train_step import make_eval_step, make_train_step, split_rows
from tests.helpers.tiny_pretraining import losses, run_steps, tiny_batch, tiny_config, tiny_objective


@pytest.fixture(scope="module")
def whole():
  return run_steps(tiny_config(), 10)


@pytest.mark.parametrize("parts", [2, 4])
def test_ten_steps_in_microbatches_agree_with_whole_batches(whole, parts):
  state, reports = run_steps(tiny_config(**{"optimizer.microbatches": parts}), 10)
  np.testing.assert_allclose(losses(reports), losses(whole[1]), atol=1e-6, rtol=0)
  np.testing.assert_allclose([r.grad_norm for r in reports], [r.grad_norm for r in whole[1]], rtol=1e-5)


def test_in_float64_microbatches_change_nothing_but_the_order_of_sums():
  """In float32 one unit in the last place of a loss is 5e-7 already, so only this tells a small mistake from
  rounding.
  """
  with jax.enable_x64(True):
    double = {"model.dtype": "float64", "model.param_dtype": "float64"}
    (one, whole), (other, split) = (
      run_steps(tiny_config(**double, **{"optimizer.microbatches": parts}), 5) for parts in (1, 4)
    )
    np.testing.assert_allclose(losses(split), losses(whole), rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), other.params, one.params)


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
  config = tiny_config()
  objective, optimizer = tiny_objective(config), optimizers.make_optimizer(config)
  broken = objective._replace(loss=lambda params, part, weights, key: _nan_loss(objective, params, part, weights, key))
  step = jax.jit(make_train_step(broken, optimizer, optimizers.make_schedule(config), seed=0, microbatches=2))
  before = train_state.create(objective.init(jax.random.key(0)), optimizer)
  batch = tiny_batch(0)
  good, report = step(before, batch)
  assert report.skipped == 0 and int(good.step) == 1
  batch["tokens"][3, 1] = 99  # the token that makes the loss of its microbatch NaN
  after, report = step(good, batch)
  assert report.skipped == 1 and int(after.step) == 2
  jax.tree.map(np.testing.assert_array_equal, (good.params, good.opt_state), (after.params, after.opt_state))
  again, report = step(after, tiny_batch(1))
  assert report.skipped == 0 and np.isfinite(report.grad_norm)


def _nan_loss(objective, params, part, weights, key):
  loss, sums = objective.loss(params, part, weights, key)
  return loss * jnp.where(jnp.any(part[1].labels == 99) | jnp.any(part[0].input_ids[:, 1] == 99), jnp.nan, 1.0), sums


def test_dropout_acts_in_training_and_is_the_same_again(whole):
  config = tiny_config(**{"model.hidden_dropout_prob": 0.5})
  first, again = (losses(run_steps(config, 2)[1]) for _ in range(2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - losses(whole[1])[:2]).max() > 1e-3


def one_number_task(loss=lambda w: w):
  """Trains one number, and reports as sums the random keys that it is given."""
  init = lambda key: {"pooler": {"dense": {"kernel": jnp.zeros(())}}}
  prepare = lambda batch, keys, step: ({"keys": keys, "no_step": jnp.full(len(keys), step is None)}, {}, jnp.float32(0))

  def with_keys(params, part, global_weights, dropout_keys):
    sums = {"rows": jax.random.key_data(part["keys"]), "no_step": part["no_step"].all()}
    return loss(params["pooler"]["dense"]["kernel"]), sums | (
      {} if dropout_keys is None else {"dropout": jax.random.key_data(dropout_keys)}
    )

  return Objective(init, prepare, with_keys, dict)


def step_once(objective, *, seed=0, microbatches=1, number=0, epoch=5):
  """(state before, state after, report) of a step on eight rows."""
  config = tiny_config(**{"optimizer.warmup_steps": 0})
  optimizer = optimizers.make_optimizer(config)
  step = jax.jit(
    make_train_step(objective, optimizer, optimizers.make_schedule(config), seed=seed, microbatches=microbatches)
  )
  before = train_state.create(objective.init(None), optimizer)._replace(step=jnp.int32(number))
  return before, *step(before, {"epoch": jnp.full(8, epoch, jnp.uint32), "index": jnp.arange(8, dtype=jnp.uint32)})


def test_the_masks_of_a_step_and_of_an_evaluation_follow_seed_epoch_and_row():
  index = jnp.arange(8, dtype=jnp.uint32)
  for seed, epoch, number in ((0, 5, 0), (1, 6, 3)):
    expected = jax.random.key_data(row_keys(seed, jnp.full(8, epoch, jnp.uint32), index))
    _, _, report = step_once(one_number_task(), seed=seed, epoch=epoch, number=number)
    np.testing.assert_array_equal(report.sums["rows"], expected)
    evaluate = make_eval_step(one_number_task(), seed=seed)
    sums = evaluate({"pooler": {"dense": {"kernel": 0.0}}}, {"epoch": jnp.full(8, epoch, jnp.uint32), "index": index})
    np.testing.assert_array_equal(sums["rows"], expected)
    assert sums["no_step"] and "dropout" not in sums, "an evaluation has neither a step nor dropout"


def test_dropout_has_a_key_of_its_own_for_every_seed_epoch_and_row():
  key = lambda **how: step_once(one_number_task(), **how)[2].sums["dropout"]
  first = key()
  np.testing.assert_array_equal(key(number=1), first)  # a row comes once in an epoch
  found = {tuple(row) for keys in (first, key(seed=1), key(epoch=6)) for row in np.asarray(keys).tolist()}
  masks = {tuple(row) for row in np.asarray(step_once(one_number_task())[2].sums["rows"]).tolist()}
  assert len(found) == 24 and not found & masks


def test_dropout_does_not_depend_on_microbatches():
  config = {"model.hidden_dropout_prob": 0.3, "model.attention_probs_dropout_prob": 0.3}
  one, four = (losses(run_steps(tiny_config(**config, **{"optimizer.microbatches": parts}), 5)[1]) for parts in (1, 4))
  np.testing.assert_allclose(four, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
  "bad", [lambda w: w + jax.lax.stop_gradient(jnp.inf), lambda w: jnp.sqrt(w)], ids=["loss", "gradient"]
)
def test_a_loss_or_a_gradient_that_is_not_finite_is_enough_to_void_an_update(bad):
  before, after, report = step_once(one_number_task(bad))
  assert report.skipped == 1
  jax.tree.map(np.testing.assert_array_equal, (before.params, before.opt_state), (after.params, after.opt_state))
  assert step_once(one_number_task())[2].skipped == 0


def test_split_rows_stripes_the_batch():
  np.testing.assert_array_equal(split_rows(jnp.arange(6), 2), [[0, 2, 4], [1, 3, 5]])


def test_sums_add_up_and_are_divided_once():
  total = add_sums(add_sums({}, {"a": (3.0, 2.0), "b": (0.0, 0.0)}), {"a": (1.0, 2.0), "b": (0.0, 0.0)})
  assert divide(total) == {"a": 1.0}
