"""How long a step should take, and what a chip should hold, from counts and data sheets.

Nothing here was measured. The time is a roofline: what the chip computes, what
it moves through its memory and what it sends each have a least time, and a step
takes as long as the longest of them when all overlap, as long as their sum when
none do. The counts come from the compiled step where there is a compiler for the
target (TPUs), else from formulas.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from bert_jax.batch import model_inputs
from bert_jax.cluster.chips import Topology
from bert_jax.models.config import EncoderConfig
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.tools.plan.ahead import Compiled, Traffic

# Forward passes that are computed again, besides the three thirds of a step.
_RECOMPUTED = {"none": 0.0, "dots": 0.05, "full": 1.0}


class Times(NamedTuple):
  """Least seconds of a step by what they are spent on.

  Attributes:
    compute: FLOPs at the chip's peak.
    memory: bytes through its memory at the full bandwidth.
    network: bytes sent over the links of the slowest path.
  """

  compute: float
  memory: float
  network: float

  @property
  def roofline(self) -> float:
    """Everything overlaps."""
    return max(self)

  @property
  def apart(self) -> float:
    """Nothing overlaps."""
    return sum(self)

  @property
  def bound_by(self) -> str:
    """What a step waits for."""
    return {"compute": "compute", "memory": "memory bandwidth", "network": "the network between chips"}[
      max(self._fields, key=self._asdict().__getitem__)
    ]


def times_of_compiled(compiled: Compiled, topology: Topology) -> Times:
  """Of a compiled step: its FLOPs; the least traffic of its buffers; its collectives.

  What goes in and what comes out passes the memory once, and temporaries (activations, summed gradients) are written
  and read for every microbatch.
  """
  chip, memory = topology.chip, compiled.memory
  moved = memory["arguments"] + memory["outputs"] + 2 * memory["temporaries"] * compiled.microbatches
  network = sum(traffic.times * traffic.sent_bytes / _bandwidth(traffic, topology) for traffic in compiled.traffic)
  return Times(compiled.flops / chip.flops, moved / chip.hbm_bandwidth, network)


def _bandwidth(traffic: Traffic, topology: Topology) -> float:
  """Bytes/s that a chip can send in a collective.

  Each dimension of the torus that a group extends in has a link; it has two, in both directions, where the group fills
  a dimension that closes to a ring.
  """
  if traffic.slices > 1:
    return topology.chip.network_bandwidth
  fills = lambda dimension, span: span == topology.shape[dimension] and topology.wraps(dimension)
  links = sum(2 if fills(dimension, span) else 1 for dimension, span in enumerate(traffic.spans) if span > 1)
  return max(links, 1) * topology.chip.link_bandwidth


class Formula(NamedTuple):
  """A step by formula.

  Attributes:
    parameters, moments, gradients, activations: bytes on a chip.
    times: least seconds.
  """

  parameters: float
  moments: float
  gradients: float
  activations: float
  times: Times

  @property
  def needed_bytes(self) -> float:
    return self.parameters + self.moments + self.gradients + self.activations


@functools.cache
def count_parameters(encoder: EncoderConfig) -> int:
  """Of encoder, pooler and both heads, the padding of the vocabulary included."""
  inputs = model_inputs(jnp.zeros((1, 8), jnp.int32), jnp.array([[[8, 8, 0]]]))
  params = jax.eval_shape(lambda: PretrainingModel(encoder).init(jax.random.key(0), inputs, None)["params"])
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def by_formula(
  config: ml_collections.ConfigDict,
  encoder: EncoderConfig,
  topology: Topology,
  mesh: dict[str, int],
  *,
  parameters: int,
  seq_length: int,
  model_flops: float,
) -> Formula:
  """Memory and time of a step, where there is no compiler for the target, and to leave out what need not be compiled.

  Activations kept for the backward pass, in numbers per token and layer (h wide, f in the feed-forward layer, a heads,
  s tokens in a row): none 10 h + 3 f + 2 a s, dots 6 h + f + a s, full h; what one layer needs at a time comes on top,
  and 4 bytes for every logit and for its gradient.

  Args:
    config: with optimizer.microbatches, data.batch_size, model.dtype, model.param_dtype, model.remat,
      optimizer.moments_dtype.
    encoder: the model.
    topology: of GPUs or TPUs.
    mesh: axis -> size.
    parameters: how many there are, see count_parameters.
    seq_length: tokens in a row.
    model_flops: of a step over all chips, see flops.py.
  """
  chip, n = topology.chip, encoder.num_hidden_layers
  data, fsdp, tensor = mesh["data"], mesh["fsdp"], mesh["tensor"]
  size, width = _size(config.model.param_dtype), _size(config.model.dtype)
  on_chip = parameters * size / (fsdp * tensor)
  moments = 2 * parameters * _size(config.optimizer.moments_dtype) / (fsdp * tensor)
  rows = config.data.batch_size / (data * fsdp * config.optimizer.microbatches)
  tokens, h, f, scores = (
    rows * seq_length,
    encoder.hidden_size,
    encoder.intermediate_size,
    encoder.num_attention_heads * seq_length,
  )
  all_of_a_layer = 10 * h + (3 * f + 2 * scores) / tensor
  kept = {"none": all_of_a_layer, "dots": 6 * h + (f + scores) / tensor, "full": h}[config.model.remat]
  logits = rows * (config.masking.max_predictions or 0.16 * seq_length) * encoder.padded_vocab_size / tensor * 4 * 2
  activations = tokens * width * (n * kept + all_of_a_layer) + logits
  written = tokens * width * n * all_of_a_layer + logits  # also what is not kept passes the memory
  gathered = parameters * width / tensor if fsdp > 1 else 0
  times = Times(
    model_flops * (1 + _RECOMPUTED[config.model.remat] / 3) / topology.chips / chip.flops,
    (3 * on_chip + 2 * moments + 2 * written * config.optimizer.microbatches) / chip.hbm_bandwidth,
    _network_seconds(config, topology, mesh, count=parameters, tokens=tokens, width=width, encoder=encoder),
  )
  return Formula(on_chip, moments, on_chip * 4 / size + gathered, activations, times)


def _network_seconds(
  config, topology: Topology, mesh, *, count: int, tokens: float, width: int, encoder: EncoderConfig
) -> float:
  """Gradients over data once, over fsdp for every microbatch; parameters over fsdp for every microbatch; activations
  over tensor.

  Axes fill a slice of TPUs, or a host of GPUs, from the last of the mesh to the first. Sums and gathers are taken
  within it, and each of its chips passes on its part to the others.
  """
  chip, microbatches, room = topology.chip, config.optimizer.microbatches, topology.chip.chips_per_host
  fast = one_link = chip.link_bandwidth
  if chip.is_tpu:
    room = math.prod(topology.shape)
    fast = one_link * max(
      1, sum(2 if topology.wraps(dimension) else 1 for dimension, size in enumerate(topology.shape) if size > 1)
    )
  inside = {}
  for axis in ("tensor", "fsdp", "data"):
    inside[axis] = min(mesh[axis], room)
    room = max(1, room // inside[axis])
  share = lambda parts: (parts - 1) / parts

  def seconds(axis: str, size: float, bandwidth: float) -> float:
    """Of gathering, or of summing and scattering, `size` bytes."""
    within = inside[axis]
    return size * (share(within) / bandwidth + share(mesh[axis] / within) / within / chip.network_bandwidth)

  weights = 4.0 * count / mesh["tensor"]
  activations = microbatches * tokens * encoder.hidden_size * width * encoder.num_hidden_layers
  return (
    2 * seconds("data", weights / mesh["fsdp"], fast)
    + microbatches * seconds("fsdp", weights + weights / 4 * width, fast)
    + 4 * 2 * seconds("tensor", activations, one_link)
  )


def _size(dtype: str) -> int:
  return {"float32": 4, "bfloat16": 2}[dtype]
