"""The loss terms. Each returns a sum and a weight; division happens once, by the weight of the whole global batch.

Dividing per microbatch or per device and averaging afterwards would weigh
tokens unequally, since the number of masked tokens differs from part to part.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class WeightedSum(NamedTuple):
  """One loss term over some examples.

  Attributes:
    loss: float32 scalar (float64 for float64 logits), Σ weight · cross-entropy, in nats.
    correct: float32 scalar, Σ weight · [the highest logit is the label's].
    weight: float32 scalar, Σ weight.
  """

  loss: jax.Array
  correct: jax.Array
  weight: jax.Array

  def sums(self) -> dict[str, tuple[jax.Array, jax.Array]]:
    """As an objective reports it: "loss" and "accuracy", each (sum, weight)."""
    return {"loss": (self.loss, self.weight), "accuracy": (self.correct, self.weight)}


def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> WeightedSum:
  """Weighted softmax cross-entropy.

  Args:
    logits: [..., C], any float dtype; computed in float32 at least.
    labels: int [...].
    weights: float [...]; where it is 0, logits and labels do not matter.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  log_normaliser = jax.nn.logsumexp(logits, axis=-1)
  label_logit = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  counted = weights > 0
  nats = jnp.where(counted, log_normaliser - label_logit, 0.0)  # `where`: 0 · NaN would be NaN
  # No logit is higher than the label's: argmax would give the same, but does not vectorise on CPU.
  correct = jnp.where(counted, label_logit >= jnp.max(logits, axis=-1), False)
  return WeightedSum(jnp.sum(nats * weights), jnp.sum(correct * weights), jnp.sum(weights))


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> WeightedSum:
  """Weighted sigmoid cross-entropy, the mean over C independent yes-or-no questions; correct where all of them are.

  Args:
    logits: [..., C], any float dtype; computed in float32 at least.
    labels: [..., C], 0 or 1.
    weights: float [...]; where it is 0, logits and labels do not matter.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  counted = weights > 0
  nats = jnp.mean(jnp.logaddexp(0.0, logits) - labels * logits, axis=-1)
  correct = jnp.all((logits > 0) == (labels > 0.5), axis=-1)
  nats, correct = jnp.where(counted, nats, 0.0), jnp.where(counted, correct, False)
  return WeightedSum(jnp.sum(nats * weights), jnp.sum(correct * weights), jnp.sum(weights))


def squared_error(scores: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(Σ weight · (score - label)², Σ weight), float32 at least; scores, labels and weights [...], ignored where a
  weight is 0.
  """
  error = jnp.where(weights > 0, scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) - labels, 0.0)
  return jnp.sum(error**2 * weights), jnp.sum(weights)
