"""What is learned, as pure functions; and the sums in which metrics travel."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

# metric -> (Σ value, Σ weight), arrays on the device or floats on the host; division comes last
MetricSums = dict[str, tuple[Any, Any]]


class Baseline(NamedTuple):
  """What a metric is compared with: its value for a model that has learned nothing.

  Attributes:
    name: of another metric of the evaluation, or of a fact in the manifest of the corpus.
    label: "majority share".
    meaning: who reaches it; empty: reports tell by how much the metric differs.
    of_corpus: whether it stands in the manifest.
  """

  name: str
  label: str
  meaning: str = ""
  of_corpus: bool = False


UNIGRAM_ENTROPY = Baseline("unigram_entropy", "unigram entropy", of_corpus=True)


class Shown(NamedTuple):
  """A metric that people see, wherever a run has it.

  Attributes:
    name: what follows train/ or eval/.
    format: of the value, without the unit: "{:.3f}", "{:.1%}".
    label: in lines of the terminal; empty: not there.
    short: in the progress bar, which has to fit 80 columns; empty: only lines of evaluations show it.
    title: of its curves in the report, without the unit; empty: none.
    unit: "nats"; empty: none.
    better: min or max, the better end of it; None: neither. The table of the report has a row where there is one.
    baseline: what it is compared with, or None.
    over: name under which an evaluation reports over how many it went; empty: it does not.
    counted: what these are: "masked tokens".
  """

  name: str
  format: str
  label: str = ""
  short: str = ""
  title: str = ""
  unit: str = ""
  better: Callable[..., float] | None = None
  baseline: Baseline | None = None
  over: str = ""
  counted: str = ""

  @property
  def is_share(self) -> bool:
    return self.format.endswith("%}")

  def text(self, value: float) -> str:
    """The value with its unit: "5.950 nats"."""
    return f"{self.format.format(value)} {self.unit}".rstrip()


class Objective(NamedTuple):
  """What is learned, as pure functions, and what is told of it.

  Attributes:
    init: (key) -> parameters.
    prepare: (global host batch as in batch.HOST_BATCH, row keys [B], step or None in evaluation) -> (prepared
      batch, a pytree whose arrays all have B as the first dimension; {term: global weight}; real tokens in the batch).
    loss: (params, some rows of the prepared batch, {term: global weight}, dropout keys of these rows or None) -> (loss,
      MetricSums). Both are sums over rows: those of all microbatches and devices are added.
    metrics: ({metric: value}) -> {metric: value}, adds what is derived, such as perplexity.
    shown: what people see of it, in this order. The first is the headline: by it checkpoints are compared.
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
  shown: tuple[Shown, ...] = ()
  dtype: Any = None
  embed: Callable[..., jax.Array] | None = None
  loss_of_vectors: Callable[..., tuple[jax.Array, MetricSums]] | None = None


class CorpusFacts(NamedTuple):
  """What an objective has to know of the rows that it learns from.

  Attributes:
    mask_id, never_predicted: see `masking.mask_tokens`.
    continuation: bool [V], which pieces continue a word ("##ing"); where batches bring word starts, these hold.
    pairs: what the labels of its sequences mean: "nsp", "sop", "none".
  """

  mask_id: int
  never_predicted: Sequence[int]
  continuation: Any
  pairs: str


class Recipe(NamedTuple):
  """How a run is pretrained, a row of registry.OBJECTIVES.

  Attributes:
    shown: Objective.shown, for what reads the files of a run.
    module: (EncoderConfig, dtype=, param_dtype=, remat=, attention=) -> the Flax module.
    make: (module, config, CorpusFacts) -> Objective; of the config the groups that it reads, resolved.
    use: the command that uses a trained model; empty: `convert` and `inference` do not know such a model.
  """

  shown: tuple[Shown, ...]
  module: Callable[..., Any]
  make: Callable[[Any, Any, CorpusFacts], Objective]
  use: str = ""


def counts_of(shown: tuple[Shown, ...], sums: MetricSums) -> dict[str, float]:
  """Over how many an evaluation went, {name of the count: weight}, from its MetricSums on the host."""
  return {one.over: float(sums[one.name][1]) for one in shown if one.over and one.name in sums}


def divide(sums: MetricSums) -> dict[str, float]:
  """MetricSums on the host to means; a metric without weight is left out."""
  return {name: float(total) / float(weight) for name, (total, weight) in sums.items() if weight > 0}


def add_sums(left: MetricSums, right: MetricSums) -> MetricSums:
  """Adds two MetricSums; an empty one counts as zero."""
  return {name: (left[name][0] + s, left[name][1] + w) if name in left else (s, w) for name, (s, w) in right.items()}
