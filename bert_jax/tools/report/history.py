"""The records of a run in their order: which followed which, and which of them led to the newest parameters.

Every attempt has its own files of events and of metrics; here they become one
history. A run goes back to an earlier step when it restarts, and when it rolls
back; what it had logged after that step then belongs to no parameters any more.
"""

import heapq
import itertools
import math
from collections.abc import Iterable
from typing import Any

MOST_LINES = 20_000  # that a report keeps in memory; a chart is 1,000 pixels wide
LINE = "line"  # the kind that a line of metrics gets among the events
REWINDS = ("restore", "fresh", "rollback")
TELL_THE_STEP = (*REWINDS, LINE, "first_step", "save", "preempt", "finish")
# At equal times: what begins an attempt, then its metrics, then what follows from them.
_RANK = {"start": 0, "verify": 0, "restore": 0, "jump": 0, "first_step": 0, LINE: 1}


def thinned(lines: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
  """Lines of metrics, no more than some MOST_LINES, and how many there were.

  Of more, neighbours become one line: the later one, which of training takes over the time and the steps of the earlier
  one. The least and the greatest value of every metric of an evaluation stay.
  """
  kept: list[dict[str, Any]] = []
  count, full = 0, 2 * MOST_LINES
  for line in lines:
    kept.append(line)
    count += 1
    if len(kept) >= full:
      kept = _halved(kept)
      full *= 1 + (len(kept) > 0.75 * full)  # where few have a neighbour of their kind
  return kept, count


def _halved(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Every line that has a neighbour of its attempt and kind is put together with it."""
  extreme: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
  for line in lines:
    for name in line:
      if name.startswith("eval/") and (value := number_in(line, name)) is not None:
        least, most = extreme.get(name, (line, line))
        extreme[name] = (line if value < least[name] else least, line if value > most[name] else most)
  keep = {id(line) for both in extreme.values() for line in both}
  earlier: dict[bool, dict[str, Any]] = {}  # by whether it is of an evaluation
  gone: set[int] = set()
  result = []
  for line in lines:
    evaluation = is_evaluation(line)
    before = earlier.pop(evaluation, None)
    if before is None or before["attempt"] != line["attempt"] or not before["step"] < line["step"]:
      earlier[evaluation] = line
      result.append(line)
    elif id(before) in keep:
      result.append(line)
    else:
      gone.add(id(before))
      result.append(line if evaluation else _together(before, line))
  return [line for line in result if id(line) not in gone]


def _together(before: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
  """Two windows of training as one."""
  added = [name for name in before if name == "window_steps" or name.startswith("seconds/")]
  return line | {name: (number_in(before, name) or 0.0) + (number_in(line, name) or 0.0) for name in added}


def is_evaluation(record: dict[str, Any]) -> bool:
  """Whether a line holds metrics of an evaluation."""
  return any(name.startswith("eval/") for name in record)


def by_attempt(events: list[dict[str, Any]], lines: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
  """attempt -> its records in the order of time.

  Metrics have {"event": "line"}; an attempt that took steps without a checkpoint has
  {"event": "fresh", "step": the one that it began at} after its start.
  """
  kept: dict[int, tuple[list, list]] = {
    number: ([], []) for number in sorted({record["attempt"] for record in events + lines})
  }
  for event in events:
    kept[event["attempt"]][0].append(event)
  for line in lines:
    kept[line["attempt"]][1].append({"event": LINE} | line)
  order = lambda record: (record["time"], _RANK.get(record["event"], 2))
  merged: dict[int, list[dict[str, Any]]] = {}
  least = 0.0
  for number, (told, logged) in kept.items():
    events_of, moved = _forward(told, least)
    # The first line comes after what was restored at the beginning.
    beginning = itertools.takewhile(lambda event: event["event"] in ("start", "verify", "restore", "jump"), events_of)
    least = max((event["time"] for event in beginning), default=least)
    merged[number] = list(heapq.merge(events_of, _forward(logged, least, moved)[0], key=order))
    least = merged[number][-1]["time"]
  for records in merged.values():
    kinds = {record["event"] for record in records}
    begun = next(
      (_before(record) for record in records if record["event"] == "first_step" or is_training(record)), None
    )
    if "start" in kinds and "restore" not in kinds and begun is not None:
      records.insert(1, records[0] | {"event": "fresh", "step": begun})
  return merged


def _forward(records: list[dict[str, Any]], least: float, moved: float = 0.0) -> tuple[list[dict[str, Any]], float]:
  """(records of a file, which are in their order, with times that never go back; by how much the first has moved).

  Where a clock was set back, all later ones move by as much. None is earlier than `least`; all move by `moved` or more.
  """
  result: list[dict[str, Any]] = []
  first = moved
  for record in records:
    time = record["time"] + moved
    if time < least:
      moved, time = moved + least - time, least
    if not result:
      first = moved
    result.append(record | {"time": time} if moved else record)
    least = time
  return result, first


def _before(record: dict[str, Any]) -> int:
  """The step before a first step, or before the window of a first line; 0 where that is not said."""
  if record["event"] == "first_step":
    return record["step"] - 1
  return record["step"] - int(number_in(record, "window_steps") or record["step"])


def is_training(record: dict[str, Any]) -> bool:
  """A line of training metrics, not of an evaluation."""
  return record["event"] == LINE and not is_evaluation(record)


def number_in(record: dict[str, Any], name: str) -> float | None:
  """A finite number of a record, or None."""
  value = record.get(name)
  return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def lineage(events: list[dict[str, Any]], lines: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
  """The metrics of the steps that led to the newest parameters: {100: {"time": …, "train/loss": …}, …}.

  Where an attempt or a rollback goes back to a step, what was logged after that step is dropped; the
  last line for a step wins.
  """
  steps: dict[int, dict[str, float]] = {}
  for records in by_attempt(events, lines).values():
    for record in records:
      if record["event"] in REWINDS:
        steps = {step: known for step, known in steps.items() if step <= record["step"]}
      elif record["event"] == LINE:
        values = {name: math.nan if value is None else value for name, value in record.items()}
        for name in ("event", "attempt", "step"):
          del values[name]
        steps.setdefault(record["step"], {}).update(values)
  return dict(sorted(steps.items()))


def climbs(events: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[tuple[list[tuple[float, int]], int]]:
  """How the step rose over time: for every stretch without a rewind ([(Unix seconds, step), …], the last of its steps
  that counts).
  """
  found: list[list[tuple[float, int]]] = []
  for records in by_attempt(events, lines).values():
    found.append([])
    for record in records:
      if record["event"] in REWINDS:
        found.append([])
      if record["event"] in TELL_THE_STEP:
        found[-1].append((record["time"], record["step"]))
  found = [points for points in found if points]
  kept: Iterable[float] = itertools.accumulate([math.inf, *(points[0][1] for points in reversed(found[1:]))], min)
  return list(zip(found, [int(min(points[-1][1], most)) for points, most in zip(found, reversed(list(kept)))]))
