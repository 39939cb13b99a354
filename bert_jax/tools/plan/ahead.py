"""Compiles the training step of a config for a TPU topology, on a machine that has none.

libtpu, the compiler, is loaded in a child process only: an ordinary command shall
neither load it nor look for TPUs. The child reads requests as JSON from its
standard input and writes a line of JSON for each; one child serves many
requests, so that its start is paid once, until it has grown too large: the compiler keeps memory of every program.
What the compiler prints is shown only where it failed.
"""

import contextlib
import importlib.machinery
import json
import math
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from bert_jax import config as configs
from bert_jax.batch import HOST_BATCH, WORD_STARTS
from bert_jax.cluster.chips import Topology, parse_topology
from bert_jax.errors import UserError
from bert_jax.tools.plan import hlo
from bert_jax.tools.plan.data_facts import DataFacts, stand_in_objective
from bert_jax.training import sharding
from bert_jax.training.train_step import make_program

_MAIN = "from bert_jax.tools.plan import ahead; ahead.serve()"
# How the compiler says that a chip has too little memory: all that it takes, or the temporaries alone; and what a chip
# has.
_OUT_OF_MEMORY = (
  re.compile(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm"),
  re.compile(r"required for HLO temporaries \(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)"),
)
_LARGE = 3 * 2**20  # KiB; a child that has grown to this leaves what is left to another
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class Request(NamedTuple):
  """A step to compile.

  Attributes:
    config: resolved: model.vocab_size and masking.max_predictions are set.
    topology: the name of what it is compiled for, see chips.parse_topology.
    data: what of the corpus decides the program.
    hlo_file: where to keep the HLO text; "" for nowhere.
  """

  config: ml_collections.ConfigDict
  topology: str
  data: DataFacts
  hlo_file: str = ""


class Traffic(NamedTuple):
  """A collective of the compiled step: an hlo.Collective, and the way it takes.

  Attributes:
    axes: mesh axes that it goes along; None where the HLO does not tell.
    spans: chips that a group extends over in each dimension of the torus.
    slices: slices that a group extends over.
  The others: see hlo.Collective.
  """

  kind: str
  axes: tuple[str, ...] | None
  group_size: int
  arrays: tuple[tuple[str, tuple[int, ...]], ...]
  bytes: int
  sent_bytes: float
  times: int
  times_known: bool
  source: str
  spans: tuple[int, ...]
  slices: int


class Compiled(NamedTuple):
  """What the compiler says of a step. Bytes are per chip, FLOPs too.

  Attributes:
    seconds: that compiling took.
    mesh: axis -> devices.
    state: bytes of the train state by kind: "parameters", "moments".
    memory: bytes by kind: "arguments", "outputs", "aliased" (outputs in the place of arguments), "temporaries", "code".
    flops: of a whole step.
    own_seconds: of a step, by the compiler's own cost model; None where it has no usable figure.
    microbatches: turns of the loop over them.
    traffic: the collectives.
  """

  seconds: float
  mesh: dict[str, int]
  state: dict[str, int]
  memory: dict[str, int]
  flops: float
  own_seconds: float | None
  microbatches: int
  traffic: tuple[Traffic, ...]

  @property
  def needed_bytes(self) -> int:
    """Memory of a chip that the step takes."""
    memory = self.memory
    return memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporaries"] + memory["code"]


class Failure(NamedTuple):
  """Why a step was not compiled.

  Attributes:
    kind: "user" (the config does not fit the topology), "memory" (the step does not fit the chip) or "compiler"
      (anything else).
    message: for the user.
    needed_bytes: with "memory": what a chip would have to have, at least; 0 where the compiler does not say.
    hbm_bytes: with "memory": what it has for programs; 0 where the compiler does not say.
  """

  kind: str
  message: str
  needed_bytes: int = 0
  hbm_bytes: int = 0


def compile_ahead(requests: Sequence[Request]) -> Iterator[Compiled | Failure]:
  """Compiles each request in a child process, and yields the results in order, as they come.

  Raises:
    UserError: libtpu is not installed.
  """
  library = _library()
  left = list(requests)
  while left:
    done = 0
    for result in _one_child(left, library):
      done += 1
      yield result
    left = left[done:]


def _library() -> str:
  found = importlib.machinery.PathFinder.find_spec(
    "libtpu"
  )  # the command line hides it from this process, see __main__.quiet
  if found is None or not found.submodule_search_locations:
    raise UserError("plan compiles with libtpu, which is not installed: pip install -c constraints.txt -e '.[plan]'")
  return str(pathlib.Path(found.submodule_search_locations[0]) / "libtpu.so")


def _one_child(requests: Sequence[Request], library: str) -> Iterator[Compiled | Failure]:
  """Results of one child, which ends with the last request, when it has grown too large, or with the request that
  kills it.
  """
  topology = parse_topology(requests[0].topology)
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": "",
    "XLA_FLAGS": "",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": topology.accelerator_type,
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LIBRARY_PATH": library,
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is run: there is no device to fight for
    # a precaution: the compiler was seen to overflow a stack once
    "LIBTPU_INIT_ARGS": "--fibers_default_thread_stack_size=8388608",
  }
  with tempfile.TemporaryFile() as noise:
    child = subprocess.Popen(
      [sys.executable, "-c", _MAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, env=environment
    )
    assert child.stdin and child.stdout
    try:
      with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
        pipe.write("".join(_request_line(request) for request in requests).encode())
      done = 0
      for line in child.stdout:
        yield _from_line(line)
        done += 1
      child.wait()
    finally:
      child.kill()
      child.wait()
      child.stdout.close()
    if done < len(requests) and (child.returncode or not done):
      noise.seek(0)
      words = noise.read().decode(errors="replace").strip().splitlines()
      yield Failure("compiler", f"the compiler ended with code {child.returncode}: " + "; ".join(words[-3:]))


def _request_line(request: Request) -> str:
  parts = {
    "config": configs.to_json(request.config),
    "topology": request.topology,
    "data": request.data,
    "hlo_file": request.hlo_file,
  }
  return json.dumps(parts) + "\n"


def _from_line(line: bytes) -> Compiled | Failure:
  parts = json.loads(line)
  if "message" in parts:
    return Failure(**parts)
  parts["traffic"] = tuple(Traffic(*_as_tuples(record)) for record in parts["traffic"])
  return Compiled(**parts)


def _as_tuples(value: Any) -> Any:
  """What JSON made lists of, as tuples again."""
  return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def serve() -> None:
  """The child: a request per line of standard input, a result per line of standard output."""
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)  # what libraries print is noise
  for line in sys.stdin:
    parts = json.loads(line)
    request = Request(
      configs.from_json(parts["config"]), parts["topology"], DataFacts(*parts["data"]), parts["hlo_file"]
    )
    print(json.dumps(_answer(request)._asdict()), file=answers, flush=True)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _LARGE:
      return
    jax.clear_caches()


def _answer(request: Request) -> Compiled | Failure:
  try:
    return compile_here(request)
  except UserError as error:
    return Failure("user", str(error))
  except jax.errors.JaxRuntimeError as error:
    return failure_of(str(error))


def failure_of(message: str) -> Failure:
  """What a message of the compiler means."""
  found = next(filter(None, (form.search(message) for form in _OUT_OF_MEMORY)), None)
  if found:
    size = lambda number, unit: round(float(number) * _UNITS[unit])
    return Failure("memory", message, size(found[1], found[2]), size(found[3], found[4]))
  return Failure("memory" if "RESOURCE_EXHAUSTED" in message else "compiler", message[:2000])


def topology_devices(topology: Topology) -> list[jax.Device]:
  """The devices of a topology, which can be compiled for but not run on. Loads libtpu: for the child process only."""
  from jax.experimental import topologies

  how: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
  if topology.chip.name == "v4":
    how["chip_config_name"] = "megacore"  # its two cores as one device, as in a run; later chips are so by default
  if math.prod(topology.shape) == 1:
    how["chips_per_host_bounds"] = [1, 1, 1]
  return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.slice_name, **how).devices)


def compile_here(request: Request) -> Compiled:
  """Compiles a request in this process, which must be a child: see compile_ahead."""
  config, data = request.config, request.data
  mesh = sharding.make_mesh(config, topology_devices(parse_topology(request.topology)))
  objective = stand_in_objective(config, data, "tpu")
  program = make_program(objective, config, mesh)
  began = time.perf_counter()
  compiled = program.train_step.lower(program.state, _abstract_batch(config, data, mesh)).compile()
  seconds = time.perf_counter() - began
  text = compiled.as_text()
  if request.hlo_file:
    pathlib.Path(request.hlo_file).write_text(text, encoding="utf-8")
  memory, cost, microbatches = compiled.memory_analysis(), compiled.cost_analysis(), config.optimizer.microbatches
  return Compiled(
    seconds=seconds,
    mesh=dict(mesh.shape),
    state={"parameters": _bytes_per_chip(program.state.params), "moments": _bytes_per_chip(program.state.opt_state)},
    memory={
      "arguments": memory.argument_size_in_bytes,
      "outputs": memory.output_size_in_bytes,
      "aliased": memory.alias_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
      "code": memory.generated_code_size_in_bytes,
    },
    # The compiler counts the body of a loop once. What stands outside of the loop over microbatches, the optimizer, is
    # about a hundredth.
    flops=float(cost.get("flops", 0.0)) * microbatches,
    own_seconds=own_seconds(cost.get("optimal_seconds"), text, microbatches),
    microbatches=microbatches,
    traffic=tuple(_traffic(collective, mesh) for collective in hlo.collectives(text, num_devices=mesh.size)),
  )


def own_seconds(said: float | None, text: str, microbatches: int) -> float | None:
  """Seconds of a step by the compiler's cost model, or None where it has no usable figure.

  XLA's HloCostAnalysis books -1 s for a custom call, "unknown", which makes many sums negative: this takes them out, so
  that the calls cost nothing (most of them only rename memory). A loop it counts as one turn.

  Args:
    said: `optimal_seconds` of the cost analysis.
    text: the HLO text.
    microbatches: turns of the loop over them.
  """
  if said is None or not math.isfinite(said) or microbatches > 1:
    return None
  seconds = said + hlo.uncosted_calls(text)
  return seconds if seconds > 0 else None


def _abstract_batch(config: ml_collections.ConfigDict, data: DataFacts, mesh) -> dict[str, jax.ShapeDtypeStruct]:
  sizes = {
    "B": config.data.batch_size,
    "L": data.seq_length,
    "S": data.max_sequences,
    "W": -(-data.seq_length // 8),
    "3": 3,
  }
  features = HOST_BATCH | (WORD_STARTS if data.word_starts else {})
  where = sharding.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct([sizes[letter] for letter in shape.split()], dtype, sharding=where)
    for name, (dtype, shape) in features.items()
  }


def _bytes_per_chip(tree: Any) -> int:
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _traffic(collective: hlo.Collective, mesh) -> Traffic:
  spans, slices = (), 1
  if collective.groups is not None:
    devices = mesh.devices.reshape(-1)
    first = [devices[place] for place in collective.groups[0]]
    spans = tuple(len(set(places)) for places in zip(*(device.coords for device in first)))
    slices = len({getattr(device, "slice_index", None) or 0 for device in first})
  return Traffic(
    collective.kind,
    hlo.mesh_axes(collective.groups, dict(mesh.shape)),
    collective.group_size,
    collective.arrays,
    collective.bytes,
    collective.sent_bytes,
    collective.times,
    collective.times_known,
    collective.source,
    spans,
    slices,
  )
