"""losses.py (law 3): sums and weights, divided once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.objectives.losses import binary_cross_entropy, cross_entropy, squared_error


def example():
  rng = np.random.default_rng(0)
  return (
    jnp.asarray(rng.normal(size=(4, 5, 7)), jnp.float32),
    jnp.asarray(rng.integers(0, 7, (4, 5))),
    jnp.asarray(rng.integers(0, 3, (4, 5)) / 2, jnp.float32),
  )


def test_the_sum_is_optax_cross_entropy_over_the_counted_examples():
  logits, labels, weights = example()
  term = cross_entropy(logits, labels, weights)
  expected = (optax.softmax_cross_entropy_with_integer_labels(logits, labels) * weights).sum()
  np.testing.assert_allclose(term.loss, expected, rtol=1e-6)
  assert float(term.weight) == float(weights.sum())
  assert float(term.correct) == float(((logits.argmax(-1) == labels) * weights).sum())


def test_sums_of_parts_are_the_sum_of_the_whole():
  logits, labels, weights = example()
  whole = cross_entropy(logits, labels, weights)
  parts = [cross_entropy(logits[i : i + 1], labels[i : i + 1], weights[i : i + 1]) for i in range(4)]
  for name in whole._fields:
    np.testing.assert_allclose(sum(getattr(part, name) for part in parts), getattr(whole, name), rtol=1e-6)


def test_an_uncounted_example_contributes_neither_value_nor_gradient_even_if_it_is_nan():
  logits, labels, _ = example()
  weights = jnp.ones((4, 5)).at[2, 3].set(0)
  poisoned = logits.at[2, 3].set(jnp.nan)
  clean = cross_entropy(logits.at[2, 3].set(0.0), labels, weights)
  assert cross_entropy(poisoned, labels, weights) == clean
  gradient = jax.grad(lambda x: cross_entropy(x, labels, weights).loss)(logits)
  assert not gradient[2, 3].any() and gradient[2, 2].any()


def test_bfloat16_logits_are_summed_in_float32():
  logits, labels, weights = example()
  rounded = logits.astype(jnp.bfloat16)
  term = cross_entropy(rounded, labels, weights)
  assert term.loss.dtype == jnp.float32
  np.testing.assert_allclose(term.loss, cross_entropy(rounded.astype(jnp.float32), labels, weights).loss, rtol=1e-6)


def test_several_labels_are_optax_sigmoid_cross_entropy_the_mean_over_labels():
  logits, _, _ = example()
  labels = jnp.asarray(np.random.default_rng(1).integers(0, 2, (4, 5, 7)), jnp.float32)
  weights = jnp.ones((4, 5)).at[2, 3].set(0)
  term = binary_cross_entropy(logits.at[2, 3].set(jnp.nan), labels, weights)
  each = optax.sigmoid_binary_cross_entropy(logits, labels).mean(-1)
  np.testing.assert_allclose(term.loss, (each * weights).sum(), rtol=1e-6)
  sure = binary_cross_entropy(
    100.0 * (2 * labels - 1).at[0, 0, 0].multiply(-1), labels, weights
  )  # one of 19 * 7 is wrong
  assert float(sure.correct) == 18.0 and float(sure.weight) == 19.0
  np.testing.assert_allclose(sure.loss, 100.0 / 7, rtol=1e-6)


def test_squared_error_is_a_sum_over_the_counted_scores():
  scores, labels, weights = (
    jnp.array([1.0, 2.0, jnp.nan], jnp.bfloat16),
    jnp.array([0.0, 4.5, 1.0]),
    jnp.array([1.0, 2.0, 0.0]),
  )
  total, weight = squared_error(scores, labels, weights)
  assert (float(total), float(weight), total.dtype) == (1.0 + 2 * 6.25, 3.0, jnp.float32)
