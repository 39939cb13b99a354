"""pretrain.py: what the model is shown, what it is asked, and what the answer costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.batch import row_keys
from tests.helpers.tiny_pretraining import (
  LENGTH,
  ROWS,
  SPECIAL,
  VOCAB,
  tiny_batch,
  tiny_config,
  tiny_model,
  tiny_objective,
)

BATCH = tiny_batch(0)
PAIRS = BATCH["sequences"][:, :, 0] > 0
LABELS = BATCH["sequences"][:, :, 2][PAIRS]


def prepare(objective, batch=BATCH, step=0):
  """(inputs, masked), global weights, tokens; step None for evaluation."""
  keys = row_keys(0, batch["epoch"], batch["index"])
  return jax.device_get(jax.jit(objective.prepare)(batch, keys, None if step is None else jnp.int32(step)))


@pytest.fixture(scope="module")
def params():
  """Parameters larger than at the start, so that logits differ."""
  return jax.tree.map(lambda x: 5.0 * x, tiny_objective(tiny_config()).init(jax.random.key(0)))


def test_the_model_sees_the_masked_tokens_and_is_asked_for_the_original_ones():
  (inputs, masked), _, _ = prepare(
    tiny_objective(tiny_config(**{"masking.mask_share": 1.0, "masking.random_share": 0.0}))
  )
  used = masked.weights == 1
  at = lambda ids: np.take_along_axis(ids, masked.positions, axis=1)[used]
  assert used.any() and (at(inputs.input_ids) == SPECIAL.mask).all()
  np.testing.assert_array_equal(masked.labels[used], at(BATCH["tokens"]))
  assert (inputs.input_ids != BATCH["tokens"]).sum() == used.sum()


def test_weights_count_predictions_and_pairs_and_tokens_leave_padding_out():
  (_, masked), weights, tokens = prepare(tiny_objective(tiny_config()))
  assert weights["mlm"] == masked.weights.sum() > ROWS
  assert weights["pairs"] == PAIRS.sum() < PAIRS.size
  assert tokens == BATCH["sequences"][:, :, 0].sum() < ROWS * LENGTH


def test_the_loss_is_the_mean_over_predictions_plus_the_mean_over_pairs(params):
  """Both are cross-entropies of the model's logits: under the original tokens, and under the labels of the corpus."""
  config = tiny_config()
  objective = tiny_objective(config)
  (inputs, masked), weights, _ = prepare(objective)
  total, sums = jax.jit(lambda *given: objective.loss(*given, None))(params, (inputs, masked), weights)
  output = jax.jit(tiny_model(config).apply)({"params": params}, inputs, masked.positions)
  used = masked.weights == 1
  entropies = optax.softmax_cross_entropy_with_integer_labels
  mlm = entropies(output.prediction_logits[used], masked.labels[used])
  nsp = entropies(output.nsp_logits[PAIRS], LABELS)
  np.testing.assert_allclose([sums["mlm_loss"][0], sums["nsp_loss"][0]], [mlm.sum(), nsp.sum()], rtol=1e-5)
  np.testing.assert_allclose(total, mlm.mean() + nsp.mean(), rtol=1e-5)
  assert [float(sums[name][1]) for name in ("mlm_loss", "nsp_loss")] == [used.sum(), PAIRS.sum()]


def test_logit_0_says_that_b_follows_a(params):
  """Law 5: a model that always says "follows" is right for the pairs with label 0, and pays for those with label 1."""
  head = {"dense": {"kernel": jnp.zeros((16, 2)), "bias": jnp.array([5.0, 0.0])}}
  objective = tiny_objective(tiny_config())
  prepared, weights, _ = prepare(objective)
  _, sums = jax.jit(lambda *given: objective.loss(*given, None))(params | {"nsp_head": head}, prepared, weights)
  assert float(sums["nsp_accuracy"][0]) == (LABELS == 0).sum()
  expected = (LABELS == 0).sum() * np.log1p(np.exp(-5)) + (LABELS == 1).sum() * np.log1p(np.exp(5))
  np.testing.assert_allclose(sums["nsp_loss"][0], expected, rtol=1e-5)


def test_the_majority_is_the_share_of_the_more_frequent_label():
  objective = tiny_objective(tiny_config())
  for share in (0.3, 0.7):
    metrics = objective.metrics({"nsp_ones": share, "mlm_loss": 2.0})
    assert metrics == {"nsp_majority": pytest.approx(0.7), "mlm_loss": 2.0, "perplexity": pytest.approx(np.exp(2.0))}


def test_the_masking_rate_follows_the_step_and_evaluation_has_the_last_one():
  objective = tiny_objective(
    tiny_config(**{"masking.rate": 0.1, "masking.first_rate": 0.6, "masking.max_predictions": 20, "total_steps": 10})
  )
  count = {step: prepare(objective, step=step)[1]["mlm"] for step in (0, 5, 10, None)}
  assert count[0] > 1.5 * count[5] > 2 * count[10]
  assert count[None] == count[10]


CONTINUATION = np.arange(VOCAB) >= 40
STORED = np.broadcast_to(np.arange(LENGTH) % 2 == 0, (ROWS, LENGTH))


@pytest.mark.parametrize(
  "batch, starts",
  [
    (BATCH, ~CONTINUATION[BATCH["tokens"]]),
    (BATCH | {"word_starts": np.packbits(STORED, axis=1, bitorder="little")}, STORED),
  ],
  ids=["vocabulary", "stored"],
)
def test_words_are_those_of_the_vocabulary_or_those_that_the_corpus_stored(batch, starts):
  objective = tiny_objective(
    tiny_config(**{"masking.unit": "word", "masking.rate": 0.5, "masking.max_predictions": 12}), CONTINUATION
  )
  (_, masked), _, _ = prepare(objective, batch)
  chosen = np.zeros((ROWS, LENGTH), bool)
  for row, used in enumerate(masked.weights == 1):
    chosen[row, masked.positions[row][used]] = True
  maskable = ~np.isin(BATCH["tokens"], SPECIAL)
  one_word = maskable[:, 1:] & maskable[:, :-1] & ~starts[:, 1:]
  assert (one_word & chosen[:, 1:]).sum() > 10
  np.testing.assert_array_equal(chosen[:, 1:][one_word], chosen[:, :-1][one_word])
