"""How long things take, measured in turn: what slows the machine down for a while then slows all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax


class Spread(NamedTuple):
  """A median with the lowest and the highest of the figures that it stands for."""

  median: float
  low: float
  high: float


def spread(figures: Sequence[float]) -> Spread:
  """Of at least one figure."""
  return Spread(statistics.median(figures), min(figures), max(figures))


TimedCall = Callable[[int], float | None]


def in_turn(runs: Mapping[str, TimedCall], *, rounds: int, seconds: float) -> dict[str, list[float]]:
  """Seconds of one unit of work of each, a figure per round; all take their turn in every round, in alternating order.

  Args:
    runs: name -> run(n), which makes n calls one after the other, returns when the last has ended, and says how many
      units of work they were; None: a call is a unit. All have run before: what is compiled is compiled.
    rounds: figures for each.
    seconds: of one turn, about.

  Returns:
    name -> one figure per round. The same round of two names belongs together: divide those, not the medians.
  """
  found: dict[str, list[float]] = {name: [] for name in runs}
  calls = {name: max(1, round(seconds / max(_clocked(run, 1)[0], 1e-9))) for name, run in runs.items()}
  for number in range(rounds):
    for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
      gc.collect()
      took, units = _clocked(runs[name], calls[name])
      found[name].append(took / units)
  return found


def repeated(call: Callable[[], Any]) -> TimedCall:
  """A run for `in_turn` of a function of no arguments that computes with JAX; called once already, so that it is
  compiled.
  """

  def run(times: int) -> None:
    for _ in range(times):
      result = call()
    jax.block_until_ready(result)

  run(1)
  return run


def _clocked(run: TimedCall, calls: int) -> tuple[float, float]:
  """(seconds, units of work)."""
  began = time.perf_counter()
  units = run(calls)
  return time.perf_counter() - began, calls if units is None else units


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
  """How many times as long theirs takes, round by round."""
  return spread([their / our for our, their in zip(ours, theirs, strict=True)])
