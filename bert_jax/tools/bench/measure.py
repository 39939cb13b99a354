"""A bench: contestants are made, held against the float32 step, and then timed in turn.

Correctness comes first. The loss and the norm of the gradients of the first step, on the same rows and masks, are
compared with those of our own step in float32 with plain attention; what differs by more than rounding is not timed.
"""

import functools
import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from bert_jax import config as configs
from bert_jax.cluster.chips import Chip, Topology, chip_of
from bert_jax.data.corpus.job import num_cores
from bert_jax.errors import UserError
from bert_jax.tools.bench.own import Own
from bert_jax.tools.bench.peer import Transformers
from bert_jax.tools.bench.rows import BenchData, bench_data
from bert_jax.tools.bench.timing import Spread, TimedCall, in_turn, ratios, repeated, spread
from bert_jax.tools.plan import estimate

OURS, PEER, COMPILED_PEER = "bert_jax", "transformers", "transformers, torch.compile"
# Relative differences of (loss, norm of the gradients) from float32 that are rounding: float32 sums in another order,
# or products in bfloat16, which has 8 bits.
ROUNDING = {"float32": (1e-4, 1e-3), "bfloat16": (5e-3, 3e-2)}
# Keys that change how a step is computed, and not what: only these can be held against the float32 step.
SAME_MATHEMATICS = (
  "model.dtype",
  "model.remat",
  "model.attention",
  "optimizer.",
  "mesh.",
  "deterministic",
  "data.loader",
)
_BATCHES = 4  # that a contestant is warmed up on, and that the peer goes round
_REFERENCE_ROWS = 8  # in a microbatch of the float32 step: plain attention needs memory
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "tokamax")
_PRODUCT_WIDTH = {"cpu": 1024, "gpu": 8192, "tpu": 8192}  # of the square matrices of the yardstick


class Asked(NamedTuple):
  """What to bench.

  Attributes:
    config: not resolved.
    against: label -> another config, to be measured beside it.
    compare: whether transformers takes part.
    rounds, seconds: see timing.in_turn.
    sequences: in a row that is made up.
  """

  config: ml_collections.ConfigDict
  against: dict[str, ml_collections.ConfigDict]
  compare: bool
  rounds: int
  seconds: float
  sequences: int


class Result(NamedTuple):
  """What came out for a contestant.

  Attributes:
    name: of it.
    failure: why it was not timed; "" where it was.
    loss, grad_norm: of the first step; None where it failed before.
    agrees: with the float32 step; None where it computes something else.
    token_seconds: per round, for one real token; empty where it was not timed.
    step_tokens: real tokens in a step, on average.
    compile_seconds, memory_bytes: None where nobody knows.
  """

  name: str
  failure: str = ""
  loss: float | None = None
  grad_norm: float | None = None
  agrees: bool | None = None
  token_seconds: tuple[float, ...] = ()
  step_tokens: float = 0.0
  compile_seconds: float | None = None
  memory_bytes: int | None = None

  @property
  def tokens_per_second(self) -> Spread:
    """Real tokens."""
    return spread([1 / seconds for seconds in self.token_seconds])

  @property
  def step_seconds(self) -> float:
    """Median."""
    return spread(self.token_seconds).median * self.step_tokens


class Bench(NamedTuple):
  """A finished bench.

  Attributes:
    config: resolved.
    source: where the rows come from.
    reference: (loss, norm of the gradients) of the float32 step.
    results: ours first.
    forward, gradients: seconds of parts of our step: masking to loss; that and the backward pass.
    waiting: share of our time that went into fetching rows and handing them to the device.
    product_flops: FLOP/s that a plain matrix product in the dtype of the model reaches on one device.
    peer_product_flops: that PyTorch's reaches; None where it takes no part.
    flops_per_token: model FLOPs of our step for one real token.
    roofline_seconds: least time of our step by formula and data sheet; None where the device is not known.
    peak_flops: of all devices, in FLOP/s; None where the device is not known.
    machine, versions: where it was measured.
  """

  config: ml_collections.ConfigDict
  source: str
  reference: tuple[float, float]
  results: list[Result]
  forward: float
  gradients: float
  waiting: float
  product_flops: float
  peer_product_flops: float | None
  flops_per_token: float
  roofline_seconds: float | None
  peak_flops: float | None
  machine: str
  versions: dict[str, str]

  def model_flops(self, result: Result) -> float:
    """FLOP/s of the model, ours, that the tokens of a result come to."""
    return result.tokens_per_second.median * self.flops_per_token

  def speedup(self, result: Result) -> Spread:
    """How many times as fast as `result` ours is, per real token, round by round."""
    return ratios(self.results[0].token_seconds, result.token_seconds)


def measure(asked: Asked, log: Callable[[str], None] = lambda text: None) -> Bench:
  """Benches. `log` takes one line at a time on what is being done.

  Raises:
    UserError: the config does not fit this machine or the rows, or our own step does not agree with float32.
  """
  data, machine = bench_data(asked.config, sequences=asked.sequences), _machine()
  log(f"compiling {OURS}")
  own = Own(asked.config, data)
  log("checking against float32")
  reference = _reference(own, data)
  checked, runners = {}, {}
  for name, make in ({OURS: lambda: own} | _others(asked, own, data)).items():
    log(f"checking {name}")
    checked[name], runner = _check(name, make, asked, reference)
    if runner is not None:
      runners[name] = runner
  if OURS not in runners:
    raise UserError(f"{OURS} {checked[OURS].failure}")
  width = _PRODUCT_WIDTH[jax.default_backend()]
  products = {"product": _product(own.config.model.dtype, width)}
  if PEER in runners:
    products["peer product"] = runners[PEER].product(width)
  log(f"timing {'; '.join(runners)}")
  runs = {name: runner.run for name, runner in runners.items()} | own.parts() | products
  found = in_turn(runs, rounds=asked.rounds, seconds=asked.seconds)
  rate = lambda name: 2 * width**3 / spread(found[name]).median
  chip = chip_of(jax.devices()[0].device_kind)
  bench = Bench(
    config=own.config,
    source=data.facts.source,
    reference=reference,
    results=[_timed(result, runners.get(name), found.get(name, ())) for name, result in checked.items()],
    forward=spread(found["forward"]).median,
    gradients=spread(found["gradients"]).median,
    waiting=own.wait_seconds / own.seconds,
    product_flops=rate("product"),
    peer_product_flops=rate("peer product") if PEER in runners else None,
    flops_per_token=own.flops_per_token(),
    roofline_seconds=_roofline(own, data, chip),
    peak_flops=chip.flops * jax.device_count() if chip else None,
    machine=machine,
    versions=_versions(),
  )
  for runner in runners.values():
    runner.close()
  return bench


def _reference(own: Own, data: BenchData) -> tuple[float, float]:
  """(loss, norm of the gradients) of the first step in float32 with plain attention, a few rows at a time."""
  config = configs.copy_of(own.config)
  config.model.update(dtype="float32", attention="xla")
  rows, devices = config.data.batch_size, jax.device_count()
  small = [
    parts
    for parts in range(1, rows // devices + 1)
    if rows % (parts * devices) == 0 and rows // parts <= _REFERENCE_ROWS * devices
  ]
  config.optimizer.microbatches = min(small, default=config.optimizer.microbatches)
  with jax.default_matmul_precision("highest"):  # else TPUs and GPUs round products of float32
    step = Own(config, data)
    found = step.first_step()
  step.close()
  return found


def _others(asked: Asked, own: Own, data: BenchData) -> dict[str, Callable[[], Any]]:
  """Makers of all contestants but ours."""
  makers: dict[str, Callable[[], Any]] = {
    name: functools.partial(Own, config, data) for name, config in asked.against.items()
  }
  if asked.compare:
    batches, pairs = own.masked_batches(_BATCHES), bool(data.facts.data.pairs)
    for name in (PEER, COMPILED_PEER):
      makers[name] = functools.partial(
        Transformers, own.config, own.params, batches, pairs=pairs, compiled=name == COMPILED_PEER
      )
  return makers


def _check(name: str, make: Callable[[], Any], asked: Asked, reference: tuple[float, float]) -> tuple[Result, Any]:
  """(what is known of a contestant before it is timed, the contestant, ready and warm, or None where it is not to be
  timed).
  """
  config = asked.against.get(name, asked.config)
  try:
    runner = make()
    first = runner.first_step()
    agrees = None
    if all(key.startswith(SAME_MATHEMATICS) for key in configs.differences(asked.config, config)):
      agrees = all(
        abs(it - due) <= part * abs(due) for it, due, part in zip(first, reference, ROUNDING[config.model.dtype])
      )
    loss, norm = first
    result = Result(
      name, loss=loss, grad_norm=norm, agrees=agrees, compile_seconds=getattr(runner, "compile_seconds", None)
    )
    if agrees is False:
      return result._replace(
        failure=f"does not agree with float32: loss {first[0]:.4f}, gradient norm {first[1]:.4f}; "
        f"expected {reference[0]:.4f} and {reference[1]:.4f}"
      ), None
    runner.run(_BATCHES)
  except UserError as error:
    return Result(name, str(error)), None
  except Exception as error:  # out of memory, no compiler for torch: the others are measured all the same
    if name == OURS:
      raise
    return Result(name, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"), None
  return result, runner


def _timed(result: Result, runner: Any, token_seconds) -> Result:
  if runner is None:
    return result
  return result._replace(
    token_seconds=tuple(token_seconds), step_tokens=runner.tokens / runner.steps, memory_bytes=runner.memory_bytes
  )


def _product(dtype: str, width: int) -> TimedCall:
  """A run of a square matrix product on one device: what this machine reaches at best."""
  matrix = jax.random.normal(jax.random.key(0), (width, width), dtype)
  return repeated(functools.partial(jax.jit(jnp.matmul), matrix, matrix))


def _roofline(own: Own, data: BenchData, chip: Chip | None) -> float | None:
  if chip is None:
    return None
  config = own.config
  topology = Topology(f"{chip.name}:{jax.device_count()}", chip, (jax.device_count(),), 1)
  flops = own.flops_per_token() * data.facts.tokens_per_row * config.data.batch_size
  mesh = dict(own.mesh.shape)
  found = estimate.by_formula(
    config,
    configs.encoder_of(config),
    topology,
    mesh,
    parameters=estimate.count_parameters(configs.encoder_of(config)),
    seq_length=data.facts.data.seq_length,
    model_flops=flops,
  )
  return found.times.roofline


def _machine() -> str:
  """In one line, before anything was done that would load it."""
  load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
  return (
    f"{jax.device_count()} x {jax.devices()[0].device_kind}, {num_cores()} cores of {_processor()}{load} before the "
    "start"
  )


def _processor() -> str:
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
  except (OSError, StopIteration):
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
  found = {"Python": platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      continue
  return found
