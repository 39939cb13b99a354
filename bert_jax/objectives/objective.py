"""What is learned, as pure functions; and the sums in which metrics travel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# metric -> (Σ value, Σ weight), arrays on the device or floats on the host; division comes last
MetricSums = dict[str, tuple[Any, Any]]


class Objective(NamedTuple):
  """What is learned, as pure functions.

  Attributes:
    init: (key) -> parameters.
    prepare: (global host batch as in batch.HOST_BATCH, row keys [B], step or None in evaluation) -> (prepared
      batch, a pytree whose arrays all have B as the first dimension; {term: global weight}; real tokens in the batch).
    loss: (params, some rows of the prepared batch, {term: global weight}, dropout keys of these rows or None) -> (loss,
      MetricSums). Both are sums over rows: those of all microbatches and devices are added.
    metrics: ({metric: value}) -> {metric: value}, adds what is derived, such as perplexity.
    dtype: of the matrix products, in which parameters travel between devices; None: that of the parameters.
    embed, loss_of_vectors: given where the loss compares the rows of a batch with each other, so that `loss` has to be
      given all rows of a device at once. It is then the second of the first: embed: (params, some rows of the prepared
      batch, dropout keys) -> vectors [rows, ...]; loss_of_vectors: (all rows of a device, their vectors, {term: global
      weight}) -> (loss, MetricSums).
  """

  init: Callable[[jax.Array], Any]
  prepare: Callable[[dict, jax.Array, jax.Array | int | None], tuple[Any, dict[str, jax.Array], jax.Array]]
  loss: Callable[..., tuple[jax.Array, MetricSums]]
  metrics: Callable[[dict[str, float]], dict[str, float]]
  dtype: Any = None
  embed: Callable[..., jax.Array] | None = None
  loss_of_vectors: Callable[..., tuple[jax.Array, MetricSums]] | None = None


def divide(sums: MetricSums) -> dict[str, float]:
  """MetricSums on the host to means; a metric without weight is left out."""
  return {name: float(total) / float(weight) for name, (total, weight) in sums.items() if weight > 0}


def add_sums(left: MetricSums, right: MetricSums) -> MetricSums:
  """Adds two MetricSums; an empty one counts as zero."""
  return {name: (left[name][0] + s, left[name][1] + w) if name in left else (s, w) for name, (s, w) in right.items()}
