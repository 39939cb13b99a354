"""Embeddings, dense layers and their start values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models import layers
from bert_jax.models.pretraining import PretrainingModel


def _embedding(padded_size, dtype=jnp.float32):
  return layers.Embedding(100, padded_size, 16, jax.nn.initializers.truncated_normal(0.02), dtype)


def test_real_rows_start_the_same_whatever_the_padding():
  ids = jnp.zeros(1, jnp.int32)
  tables = [_embedding(size).init(jax.random.key(0), ids)["params"]["embedding"] for size in (100, 128, 256)]
  for table in tables[1:]:
    np.testing.assert_array_equal(table[:100], tables[0])
    np.testing.assert_array_equal(table[100:], 0)


@pytest.fixture(scope="module")
def start(config, rows):
  """The initial parameters of a model with enough of them for statistics, as (path, NumPy array)."""
  config = dataclasses.replace(config, hidden_size=128, intermediate_size=512, vocab_size=1000)
  params = jax.jit(PretrainingModel(config).init)(jax.random.key(0), *rows)["params"]
  return [(path, np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def test_weights_start_truncated_normal_and_biases_zero_and_scales_one(start):
  for path, leaf in start:
    name = path[-1].key
    if name in ("kernel", "embedding"):
      real = leaf[:1000] if "word" in str(path) else leaf
      assert np.abs(real).max() <= 2 * 0.02 and np.abs(real.mean()) < 0.004
      # A normal cut at two standard deviations has 0.8796 of its standard deviation left.
      assert real.std() == pytest.approx(0.8796 * 0.02, rel=0.1), path
    else:
      np.testing.assert_array_equal(leaf, 1 if name == "scale" else 0)


def test_sinusoidal_positions_are_a_rotation_apart_and_all_else_starts_as_ever(config, rows, start):
  config = dataclasses.replace(
    config, hidden_size=128, intermediate_size=512, vocab_size=1000, position_init="sinusoidal"
  )
  params = jax.jit(PretrainingModel(config).init)(jax.random.key(0), *rows)["params"]
  table = np.asarray(params["encoder"]["embeddings"]["position_embeddings"]["embedding"], np.float64)
  assert np.sqrt((table**2).mean()) == pytest.approx(2.5 * config.initializer_range / np.sqrt(2), rel=1e-3)
  products = table @ table.T  # depend on the distance alone
  for distance in range(4):
    diagonal = np.diagonal(products, distance)
    np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4)
  assert np.diagonal(products, 1)[0] < np.diagonal(products)[0]
  others = dict(jax.tree_util.tree_leaves_with_path(params))
  for path, leaf in start:
    if "position" not in str(path):
      np.testing.assert_array_equal(others[path], leaf)


def test_no_two_tensors_start_alike(start):
  starts = [tuple(np.ravel(leaf)[:8]) for path, leaf in start if path[-1].key in ("kernel", "embedding")]
  assert len(set(starts)) == len(starts)


def test_embedding_gradients_are_summed_in_float32_under_bfloat16():
  table = {"params": {"embedding": jnp.ones((100, 16))}}
  ids = jnp.zeros(1000, jnp.int32)
  gradient = jax.grad(lambda p: _embedding(100, jnp.bfloat16).apply(p, ids).astype(jnp.float32).sum())(table)
  # Adding 1 to 256 in bfloat16 gives 256.
  np.testing.assert_array_equal(gradient["params"]["embedding"][0], 1000)
