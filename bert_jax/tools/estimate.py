"""How long a step should take, and what a chip should hold, from counts and data sheets.

Nothing here was measured. The time is a roofline: what the chip computes, what
it moves through its memory and what it sends each have a least time, and a step
takes as long as the longest of them when all overlap, as long as their sum when
none do. The counts come from the compiled step where there is a compiler for the
target (TPUs), else from formulas.
"""

import math
from typing import NamedTuple

import ml_collections

from bert_jax.chips import Topology
from bert_jax.models.config import EncoderConfig
from bert_jax.tools.ahead import Compiled

# Of a backward pass that recomputes: forward passes besides the usual three parts of a step.
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
    return {"compute": "compute", "memory": "memory bandwidth", "network": "the network between chips"}[max(self._fields, key=self._asdict().get)]


def times_of_compiled(compiled: Compiled, topology: Topology) -> Times:
  """Of a compiled step: its FLOPs; the least traffic of its buffers (what goes in and out once, temporaries written and read once); its collectives."""
  chip, memory = topology.chip, compiled.memory
  moved = memory["arguments"] + memory["outputs"] + 2 * memory["temporaries"]
  network = 0.0
  for traffic in compiled.traffic:
    if traffic.slices > 1:
      bandwidth = chip.network_bandwidth
    else:
      # Each dimension of the torus that the groups extend in has a link in both directions, and a ring uses both.
      links = sum(2 if topology.wraps(dimension) else 1 for dimension in traffic.dimensions) or 1
      bandwidth = links * chip.link_bandwidth
    network += traffic.times * traffic.sent_bytes / bandwidth
  return Times(compiled.cost.get("flops", 0.0) / chip.flops, moved / chip.hbm_bandwidth, network)


def compilers_seconds(compiled: Compiled, topology: Topology) -> tuple[float, str]:
  """(seconds, where they come from) by the compiler: its own estimate, or, where that is no number of seconds, its counts of FLOPs and bytes."""
  own = compiled.cost.get("seconds", 0.0)
  if own > 0 and math.isfinite(own):
    return own, "its own estimate, which is no time at all for some other programs: not to be built on"
  chip = topology.chip
  counted = max(compiled.cost.get("flops", 0.0) / chip.flops, compiled.cost.get("bytes", 0.0) / chip.hbm_bandwidth)
  return counted, "its counts of FLOPs and bytes, which hold operands several times; its own estimate is not usable"


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


def count_parameters(encoder: EncoderConfig) -> int:
  """Of encoder, pooler and both heads, the padding of the vocabulary included."""
  h, f, vocab = encoder.hidden_size, encoder.intermediate_size, encoder.padded_vocab_size
  embeddings = (vocab + encoder.max_position_embeddings + encoder.type_vocab_size + 2) * h
  layer = 4 * (h * h + h) + 2 * h + (h * f + f) + (f * h + h) + 2 * h
  heads = 2 * (h * h + h) + 2 * h + vocab + 2 * h + 2
  return embeddings + encoder.num_hidden_layers * layer + heads


def by_formula(
    config: ml_collections.ConfigDict, encoder: EncoderConfig, topology: Topology, mesh: dict[str, int], *, seq_length: int, model_flops: float
) -> Formula:
  """Memory and time of a step, where there is no compiler for the target, and to leave out what need not be compiled.

  Activations kept for the backward pass, in numbers per token and layer (h wide, f in the feed-forward layer, a heads, s tokens in a row):
  none 10 h + 3 f + 2 a s, dots 6 h + f + a s, full h; what one layer needs at a time comes on top, and 4 bytes for every logit.

  Args:
    config: with optimizer.microbatches, data.batch_size, model.dtype, model.param_dtype, model.remat.
    encoder: the model.
    topology: of GPUs or TPUs.
    mesh: axis -> size.
    seq_length: tokens in a row.
    model_flops: of a step over all chips, see flops.py.
  """
  chip, n = topology.chip, encoder.num_hidden_layers
  data, fsdp, tensor = mesh["data"], mesh["fsdp"], mesh["tensor"]
  count, size, width = count_parameters(encoder), _size(config.model.param_dtype), _size(config.model.dtype)
  parameters = count * size / (fsdp * tensor)
  rows = config.data.batch_size / (data * fsdp * config.optimizer.microbatches)
  tokens, h, f, scores = rows * seq_length, encoder.hidden_size, encoder.intermediate_size, encoder.num_attention_heads * seq_length
  all_of_a_layer = 10 * h + (3 * f + 2 * scores) / tensor
  kept = {"none": all_of_a_layer, "dots": 6 * h + (f + scores) / tensor, "full": h}[config.model.remat]
  logits = rows * (config.masking.max_predictions or 0.16 * seq_length) * encoder.padded_vocab_size / tensor * 4 * 2
  activations = tokens * width * (n * kept + all_of_a_layer) + logits
  gathered = count * width / tensor if fsdp > 1 else 0
  times = Times(
      model_flops * (1 + _RECOMPUTED[config.model.remat] / 3) / topology.chips / chip.flops,
      (parameters * 7 + 2 * activations) / chip.hbm_bandwidth,
      _network_seconds(config, topology, mesh, count=count, tokens=tokens, width=width, encoder=encoder),
  )
  return Formula(parameters, 2 * parameters, parameters * 4 / size + gathered, activations, times)


def _network_seconds(config, topology: Topology, mesh, *, count: int, tokens: float, width: int, encoder: EncoderConfig) -> float:
  """Gradients over data and fsdp, parameters over fsdp for every microbatch, activations over tensor."""
  chip, (data, fsdp, tensor) = topology.chip, (mesh["data"], mesh["fsdp"], mesh["tensor"])
  share = lambda parts: (parts - 1) / parts
  microbatches = config.optimizer.microbatches
  weights = 4.0 * count / tensor
  sent = 2 * share(data) * weights / fsdp + share(fsdp) * microbatches * (weights + weights / 4 * width)
  if chip.is_tpu:
    bandwidth = chip.link_bandwidth * 2 * chip.dimensions if topology.slices == 1 else chip.network_bandwidth
    inner = chip.link_bandwidth * 2
  else:
    inner = chip.link_bandwidth
    bandwidth = chip.link_bandwidth if topology.chips <= chip.chips_per_host else chip.network_bandwidth
  activations = microbatches * tokens * encoder.hidden_size * width * encoder.num_hidden_layers * 4 * 2 * share(tensor)
  return sent / bandwidth + activations / inner


def _size(dtype: str) -> int:
  return {"float32": 4, "bfloat16": 2}[dtype]
