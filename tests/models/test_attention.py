"""The mask rule and the attention function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.models import attention


def _draw(shape=(2, 6, 2, 4)):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]


def test_tokens_see_their_own_sequence_and_padding_sees_all_tokens():
  expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]]
  np.testing.assert_array_equal(attention.attention_mask(jnp.array([[1, 1, 2, 0]]))[0], expected)


def test_attention_equals_a_plain_loop():
  query, key, value = _draw()
  segments = np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
  result = np.asarray(attention.dot_product_attention(query, key, value, jnp.asarray(segments)))
  mask = np.asarray(attention.attention_mask(jnp.asarray(segments)))
  query, key, value = np.asarray(query), np.asarray(key), np.asarray(value)
  for b in range(2):
    for head in range(2):
      for q in range(6):
        seen = np.flatnonzero(mask[b, q])
        scores = key[b, seen, head] @ query[b, q, head] / 2  # sqrt(4)
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(result[b, q, head], weights @ value[b, seen, head], atol=1e-5)


def test_a_row_of_nothing_but_padding_gives_no_nan_and_no_nan_gradient():
  query, key, value = _draw()
  segments = jnp.zeros((2, 6), jnp.int32)
  total = lambda *qkv: attention.dot_product_attention(*qkv, segments).sum()
  total, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(query, key, value)
  assert np.isfinite(total) and all(np.isfinite(g).all() for g in gradients)


def test_large_bfloat16_scores_are_added_and_normalised_in_float32():
  """bfloat16 rounds a score of 100 to a half, and its share by as much: the output would be off by 0.18 here."""
  query, key, value = [(scale * x).astype(jnp.bfloat16) for scale, x in zip((5, 5, 1), _draw((2, 64, 2, 16)))]
  segments = jnp.ones((2, 64), jnp.int32)
  result = attention.dot_product_attention(query, key, value, segments)
  assert result.dtype == jnp.bfloat16
  exact = attention.dot_product_attention(*(x.astype(jnp.float32) for x in (query, key, value)), segments)
  np.testing.assert_allclose(result.astype(jnp.float32), exact, atol=0.03)


def test_dropout_drops_the_stated_share_and_keeps_the_mean():
  query, key, _ = _draw((4, 64, 2, 4))
  # With the identity as value, the output shows the probabilities themselves.
  value = jnp.broadcast_to(jnp.eye(64)[None, :, None, :], (4, 64, 2, 64))
  segments = jnp.ones((4, 64), jnp.int32)
  dropped = attention.dot_product_attention(
    query, key, value, segments, dropout_rate=0.25, dropout_keys_B=jax.random.split(jax.random.key(0), len(query))
  )
  kept = attention.dot_product_attention(query, key, value, segments)
  dropped, kept = np.asarray(dropped), np.asarray(kept)
  assert np.mean(dropped == 0) == pytest.approx(0.25, abs=0.01)
  np.testing.assert_allclose(dropped[dropped != 0], kept[dropped != 0] / 0.75, rtol=1e-5)


def test_a_window_reaches_as_far_to_both_sides_and_no_further_than_the_sequence():
  segments = jnp.array([[1, 1, 1, 1, 2, 2, 0]])
  expected = [
    [1, 1, 0, 0, 0, 0, 0],
    [1, 1, 1, 0, 0, 0, 0],
    [0, 1, 1, 1, 0, 0, 0],
    [0, 0, 1, 1, 0, 0, 0],
    [0, 0, 0, 0, 1, 1, 0],
    [0, 0, 0, 0, 1, 1, 0],
    [1, 1, 1, 1, 1, 1, 0],
  ]
  np.testing.assert_array_equal(attention.attention_mask(segments, window=1)[0], expected)


def test_auto_is_a_known_implementation_and_others_are_refused():
  for platform in ("tpu", "gpu", "cpu", ""):
    use = attention.Use(platform, 512, 64, "bfloat16")
    assert attention.choose("auto", use) == attention.choose("xla", use) == "xla" and "xla" in attention.IMPLEMENTATIONS
  assert {name: kernel.platform for name, kernel in attention.KERNELS.items()} == {
    "splash": "tpu",
    "cudnn": "gpu",
    "tokamax": "gpu",
  }
  with pytest.raises(UserError, match="model.attention.*xla.*'flash'"):
    attention.choose("flash")


@pytest.mark.parametrize(
  "implementation, use, reason",
  [
    ("splash", attention.Use("gpu", 512), "a kernel for TPUs, and this is a GPU"),
    ("splash", attention.Use("tpu", 500), "multiple of 128 tokens, not 500"),
    ("splash", attention.Use("tpu", 512, dropout=True), "attention_probs_dropout_prob"),
    ("cudnn", attention.Use("gpu", 512, dtype="float32"), "dtype=bfloat16, not float32"),
    ("cudnn", attention.Use("gpu", 512, head_dim=20, dtype="bfloat16"), "multiple of 8"),
    ("cudnn", attention.Use("gpu", 512, dtype="bfloat16", window=64), "no window"),
    ("tokamax", attention.Use("tpu", 512), "a kernel for GPUs"),
    ("tokamax", attention.Use("gpu", 512, split_heads=True), "mesh.tensor must be 1"),
  ],
)
def test_a_kernel_that_is_asked_for_where_it_cannot_be_used_is_refused_with_the_reason(implementation, use, reason):
  with pytest.raises(UserError, match=reason):
    attention.choose(implementation, use)
  assert attention.choose("auto", use) != implementation


def test_a_kernel_refuses_what_it_is_called_with_too():
  query, key, value = _draw()
  with pytest.raises(UserError, match="multiple of 128 tokens, not 6"):
    attention.dot_product_attention(query, key, value, jnp.ones((2, 6), jnp.int32), implementation="splash")
