"""What a row of the schema says of a key."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Range(NamedTuple):
  """Numbers from `low` to `high`; without `low` itself where `above`, without `high` where `below`."""

  low: float
  high: float = math.inf
  above: bool = False
  below: bool = False

  def holds(self, value: float) -> bool:
    """Whether a number lies in the range; NaN and infinity lie in none."""
    return (
      math.isfinite(value)
      and self.low <= value <= self.high
      and not (self.above and value == self.low)
      and not (self.below and value == self.high)
    )

  def __str__(self) -> str:
    least = f"{'above' if self.above else 'at least'} {self.low}"
    return least if self.high == math.inf else f"{least} and {'below' if self.below else 'at most'} {self.high}"


class Key(NamedTuple):
  """A row of the schema.

  Attributes:
    name: dotted, "data.batch_size".
    default: its value where nothing is said; None: it follows from others.
    meaning: what it is, with its unit, in words that need no other row.
    range: what numbers it takes; None: any.
    choices: what texts it takes, besides the default, or a function that gives them; empty: any.
    free: whether a resumed run may change it, which it may where neither the data nor the mathematics of a step do.
    derived: the type, where the default is None.
    path: whether it names files or folders, in which "~" is expanded.
  """

  name: str
  default: Any
  meaning: str
  range: Range | None = None
  choices: tuple[str, ...] | Callable[[], Iterable[str]] = ()
  free: bool = False
  derived: type | None = None
  path: bool = False

  @property
  def type(self) -> type:
    return self.derived or type(self.default)

  @property
  def options(self) -> tuple[str, ...]:
    """All texts that the key takes, the default first; empty: any."""
    own = self.choices() if callable(self.choices) else self.choices
    return tuple(dict.fromkeys((self.default, *own))) if own else ()

  @property
  def expected(self) -> str:
    """What it takes, in words: "at least 1", "one of 'adamw', 'lamb'"; empty: any value of its type."""
    return str(self.range or "") or (f"one of {', '.join(map(repr, self.options))}" if self.choices else "")

  def allows(self, value: Any) -> bool:
    """Whether it takes a value of its type."""
    if value == self.default:
      return True
    return self.range.holds(value) if self.range else not self.choices or value in self.options


def at_least(low: int) -> Range:
  return Range(low)


SHARE, ABOVE_0 = Range(0, 1), Range(0, above=True)
