"""The tags of words, and the entities that they spell."""

from collections.abc import Sequence


def spans_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
  """(type, first word, last word) of each entity in a text's tags, see evaluation.metrics.seqeval."""
  spans, open_type, begin = [], None, 0
  for place, tag in enumerate([*tags, "O"]):
    letter, _, kind = tag.partition("-")
    goes_on = letter in ("I", "M", "E") and kind == open_type
    if open_type is not None and not goes_on:
      spans.append((open_type, begin, place - 1))
      open_type = None
    if letter != "O" and open_type is None:
      open_type, begin = kind, place
    if letter in ("E", "S") and open_type is not None:
      spans.append((open_type, begin, place))
      open_type = None
  return spans
