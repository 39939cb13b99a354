"""Reads what a compiled program sends between devices out of its HLO text.

A collective may stand there in several disguises, and each is counted once:
alone; split into `-start` and `-done`; inside an `async-start`; inside a fusion
(the TPU compiler's all-reduce-scatter is a reduce-scatter); or cut into a chain of
fusions that share its `chain_id`, each of which does a part of it beside other work.
One in a loop happens as often as the loop turns, where that is known. What slices of TPUs
send to each other goes through their hosts: a send and a receive that name the collective
which they are a part of.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
BITS = {"pred": 8, "c64": 64, "c128": 128, "bf16": 16, "token": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\]")
_CALLED = re.compile(
  r"\b(calls|body|condition|to_apply|branch_computations|true_computation|false_computation)=\{?(%?[\w.\-]+(?:, "
  r"?%[\w.\-]+)*)"
)
_COLLECTIVE = re.compile(f"^({'|'.join(COLLECTIVES)})(-start)?$")
_BETWEEN_SLICES = re.compile(r'_xla_megascale_target="\{([\d,]+)\}x[^"]*",_xla_megascale_transfer_type="(\w+)"')


class Collective(NamedTuple):
  """One collective of a program.

  Attributes:
    kind: the name of its instruction, one of COLLECTIVES.
    name: of the instruction.
    arrays: ((dtype, shape), …) as one device sees them, whole: the result of an all-gather, the
      operand of a reduce-scatter, what goes in and comes out of the others.
    bytes: of `arrays` together.
    groups: int [groups, group size], places of devices in the flattened mesh that exchange data; of a
      collective-permute the pairs (from, to). None where the text has a form that is not known here.
    times: how often it happens in one run of the program.
    times_known: False where it stands in a loop of unknown length, which counts as one turn.
    source: the operation of the program that it serves, as JAX names it, or "".
  """

  kind: str
  name: str
  arrays: tuple[tuple[str, tuple[int, ...]], ...]
  bytes: int
  groups: np.ndarray | None
  times: int
  times_known: bool
  source: str

  @property
  def group_size(self) -> int:
    """Devices that exchange data with each other; 0 where that is not known."""
    return 0 if self.groups is None else self.groups.shape[1]

  @property
  def sent_bytes(self) -> float:
    """Bytes that each device sends, once: by a ring, which no algorithm on a torus undercuts.

    As in a large group where the groups are not known.
    """
    share = 1 - 1 / self.group_size if self.group_size else 1.0
    if self.kind in ("collective-permute", "collective-broadcast"):
      return float(self.bytes)
    return self.bytes * share * (2 if self.kind == "all-reduce" else 1)


def collectives(text: str, *, num_devices: int) -> list[Collective]:
  """Every collective of a compiled module.

  Args:
    text: `jax.stages.Compiled.as_text()`.
    num_devices: that the program runs on.
  """
  computations, entry = _parse(text)
  turns = _turns(computations, entry)
  found, chains = [], set()
  for name, turn in turns.items():
    for line in computations.get(name, ()):
      if line.opcode == "send" and (between := _BETWEEN_SLICES.search(line.rest)):
        found.append(_between_slices(line, between[1].count(",") + 1, between[2], turn, num_devices))
        continue
      match = _COLLECTIVE.match(line.opcode)
      if not match:
        continue
      chain = re.search(r'\bchain_id="(\d+)"', line.rest)
      if chain and (chain[1], match[1]) in chains:
        continue
      if chain:
        chains.add((chain[1], match[1]))
      found.append(_collective(line, match[1], bool(match[2]), name, turn, num_devices))
  return found


def uncosted_calls(text: str) -> int:
  """Custom calls of the entry that XLA's cost analysis books as -1 s, -1 FLOP and -1 byte each ("unknown").

  So it was found to be: those in fusions do not count, nor those that only allocate; of a conditional the dearer branch
    counts.
  """
  computations, entry = _parse(text)
  return sum(
    line.opcode == "custom-call" and 'custom_call_target="AllocateBuffer"' not in line.rest
    for line in computations.get(entry, ())
  )


def mesh_axes(groups: np.ndarray | None, mesh: dict[str, int]) -> tuple[str, ...] | None:
  """The mesh axes that a collective goes along.

  Args:
    groups: of a Collective.
    mesh: axis -> size, in the order of the mesh.

  Returns:
    The fewest axes within which every group stays; None where groups is None or the mesh has another size.
  """
  names = [name for name, size in mesh.items() if size > 1]
  total = math.prod(mesh.values())
  if groups is None or groups.max(initial=0) >= total:
    return None
  places = np.stack(np.unravel_index(groups, tuple(mesh.values())))  # [axes, groups, group size]
  differs = (places != places[:, :, :1]).any(axis=(1, 2))
  return tuple(name for name, differ in zip(mesh, differs) if differ and name in names)


class _Line(NamedTuple):
  name: str
  type: str
  opcode: str
  rest: str

  @property
  def source(self) -> str:
    found = re.search(r'op_name="([^"]*)"', self.rest)
    return found[1] if found else ""


class _Turns(NamedTuple):
  """How often a computation runs, whether that is known, and what it serves."""

  times: int
  known: bool
  source: str


def _parse(text: str) -> tuple[dict[str, list[_Line]], str]:
  """Splits a module into its computations. Returns ({computation: instructions}, name of the entry)."""
  computations: dict[str, list[_Line]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if not line.startswith(" "):
      match = _COMPUTATION.match(line)
      if match:
        current = computations.setdefault(match[2], [])
        entry = match[2] if match[1] else entry
      continue
    match = _INSTRUCTION.match(line)
    if match and current is not None:
      current.append(_Line(*match.groups()))
  return computations, entry


def _turns(computations: dict[str, list[_Line]], entry: str) -> dict[str, _Turns]:
  """Every computation that runs. Those that reduce pairs of numbers are left out."""
  turns = {entry: _Turns(1, True, "")}
  waiting = [entry]
  while waiting:
    name = waiting.pop()
    times, known, _ = turns[name]
    for line in computations.get(name, ()):
      if line.opcode in ("async-update", "async-done"):  # they name what async-start has begun
        continue
      for role, called in _calls(line):
        if called in turns or role == "to_apply" and line.opcode != "call":
          continue
        count = _trip_count(line, computations) if role == "body" else 1
        turns[called] = _Turns(times * (count or 1), known and count is not None, line.source)
        waiting.append(called)
  return turns


def _calls(line: _Line) -> Iterator[tuple[str, str]]:
  for role, names in _CALLED.findall(line.rest):
    for name in names.split(","):
      yield role, name.strip().lstrip("%")


def _trip_count(loop: _Line, computations: dict[str, list[_Line]]) -> int | None:
  """How often a while loop turns: as the compiler noted it, or as its condition compares a counter from 0 with a
  constant.
  """
  noted = re.search(r'known_trip_count[":{ ]+n[": ]+(\d+)', loop.rest)
  if noted:
    return int(noted[1])
  condition = dict(_calls(loop)).get("condition", "")
  lines = [line for name in _with_fusions(condition, computations) for line in computations.get(name, ())]
  compares = [line for line in lines if line.opcode == "compare"]
  constants = [
    int(match[1]) for line in lines if line.opcode == "constant" and (match := re.match(r"(-?\d+)\)", line.rest))
  ]
  if len(compares) != 1 or len(constants) != 1:
    return None
  direction = re.search(r"direction=(\w+)", compares[0].rest)
  return constants[0] if direction and direction[1] in ("LT", "GT", "NE") else None


def _with_fusions(name: str, computations: dict[str, list[_Line]]) -> list[str]:
  return [name, *(called for line in computations.get(name, ()) for role, called in _calls(line) if role == "calls")]


def _collective(line: _Line, kind: str, started: bool, computation: str, turns: _Turns, num_devices: int) -> Collective:
  groups = _groups(line.rest, kind, num_devices)
  arrays = _arrays(_result(line.type, kind) if started else line.type)
  size = 0 if groups is None else groups.shape[1]
  if kind == "reduce-scatter" and size:
    arrays = _unscattered(arrays, line.rest, size)
  if kind == "all-reduce" and "all-reduce-scatter" in computation:
    kind = "reduce-scatter"
  return Collective(
    kind, line.name, arrays, sum(map(_bytes, arrays)), groups, turns.times, turns.known, line.source or turns.source
  )


def _between_slices(line: _Line, slices: int, transfer: str, turns: _Turns, num_devices: int) -> Collective:
  """A collective of the devices that have the same place in every slice; slices are the outermost blocks of the
  mesh.
  """
  kind = transfer.lower().replace("_", "-")
  arrays = _arrays(line.type)[:1]  # a send hands on its operand, a number and a token
  groups = np.arange(num_devices).reshape(slices, -1).T
  kind = kind if kind in COLLECTIVES else "collective-permute"
  return Collective(
    kind, line.name, arrays, sum(map(_bytes, arrays)), groups, turns.times, turns.known, line.source or turns.source
  )


def _result(type_text: str, kind: str) -> str:
  """The result among what a `-start` hands on: (operand, result, …), where the first two may be tuples themselves."""
  if kind == "all-reduce":  # hands on its result alone
    return type_text
  parts, depth, start = [], 0, 1
  for place, letter in enumerate(type_text):
    depth += (letter in "([{") - (letter in ")]}")
    if (letter == "," and depth == 1) or depth == 0:
      parts.append(type_text[start:place])
      start = place + 1
  return parts[1] if len(parts) > 1 else type_text


def _arrays(type_text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
  layouts_away = re.sub(r"\{[^{}]*\}", "", type_text)
  return tuple(
    (dtype, tuple(int(size.lstrip("<=")) for size in shape.split(",") if size))
    for dtype, shape in _ARRAY.findall(layouts_away)
  )


def _unscattered(arrays, rest: str, size: int):
  """The operands of a reduce-scatter, from its results."""
  match = re.search(r"dimensions=\{(\d+)\}", rest)
  axis = int(match[1]) if match else 0
  return tuple((dtype, shape[:axis] + (shape[axis] * size,) + shape[axis + 1 :]) for dtype, shape in arrays)


def _bytes(array: tuple[str, tuple[int, ...]]) -> int:
  dtype, shape = array
  digits = re.match(r"[a-z]+(\d+)", dtype)
  return math.prod(shape) * BITS.get(dtype, int(digits[1]) if digits else 0) // 8


def _groups(rest: str, kind: str, num_devices: int) -> np.ndarray | None:
  """replica_groups in any of its spellings, as int [groups, group size]."""
  if kind == "collective-permute":
    pairs = re.search(r"source_target_pairs=\{(.*?\})\}", rest)
    return (
      np.array([[int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]) if pairs else None
    )
  listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", rest)
  if listed:
    rows = [[int(n) for n in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", listed[1])]
    even = len({len(row) for row in rows}) <= 1
    return (np.array(rows) if rows else np.arange(num_devices)[None]) if even else None
  counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
  if counted:
    return _iota(counted[2], counted[3]).reshape([int(n) for n in counted[1].split(",")])
  named = re.search(
    r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\))? ?\{([^}]*)\}",
    rest,
  )
  return _groups_by_name(*named.groups()) if named else None


def _iota(shape: str, order: str | None) -> np.ndarray:
  """[2,4]T(1,0): the numbers from 0 in that shape, transposed."""
  sizes = [int(n) for n in shape.split(",")]
  return (
    np.arange(math.prod(sizes))
    .reshape(sizes)
    .transpose([int(n) for n in order.split(",")] if order else range(len(sizes)))
  )


def _groups_by_name(
  axes: str, shape: str | None, order: str | None, listed: str | None, along: str
) -> np.ndarray | None:
  """Groups of mesh['x'=4,'y'=2] {'y'}: devices that differ in y alone.

  Of an axis of 8, 'x':(2)4 is the part that has 2 before it and is 4 long.
  """
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
  chosen = {
    name: (int(before or 1), int(size)) for name, before, size in re.findall(r"'([^']+)':\((\d+)\)(\d+)", along)
  }
  whole = {name: (1, sizes[name]) for name in re.findall(r"'([^']+)'(?!:)", along) if name in sizes}
  chosen |= whole
  if not sizes or not set(chosen) <= set(sizes):
    return None
  if listed:
    places = np.array([int(n) for n in listed.split(",")])
  else:
    places = _iota(shape or ",".join(map(str, sizes.values())), order)
  split: list[int] = []
  inside: list[int] = []
  for name, size in sizes.items():
    before, length = chosen.get(name, (size, 1))
    inside += [len(split) + 1] if name in chosen else []
    split += [before, length, size // (before * length)]
  outside = [axis for axis in range(len(split)) if axis not in inside]
  return places.reshape(split).transpose(outside + inside).reshape(-1, math.prod(split[axis] for axis in inside))
