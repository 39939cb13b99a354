"""Where the time of a run went: goodput, and what took the rest, over all its attempts.

A pure function of the events and the metrics that a run leaves behind (see
training/metrics.py), so it needs no account anywhere and can be computed while
the run goes on. Every second between the first start and the last sign of life
belongs to exactly one part:

    useful       steps whose updates are in the newest parameters
    lost         steps done in vain: done again after a restart or a rollback, skipped, or standing still
    starting     from a start to the end of its first step: reading the checkpoint, compiling
    data_wait    the devices waited for rows
    evaluation   on the validation split
    checkpoint   training stood still for a save, or waited for the last one to be committed
    down         between the last sign of life of an attempt and the next start

Goodput is useful / all of them. What a killed attempt did after its last sign
of life left no trace and counts as down; so does what comes before the start
event (starting Python, waiting for the other processes). The steps since the last
save of an attempt that has just died are useful until the next one goes back. After a run has
finished nobody waits for it: the time until it is started again is left out.
"""

import bisect
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from bert_jax.tools.report.history import LINE, REWINDS, TELL_THE_STEP, by_attempt, is_training, number_in

PARTS = ("useful", "lost", "starting", "data_wait", "evaluation", "checkpoint", "down")
KILLED = "killed without a word"
# How an attempt ended, by the last event of one of these kinds.
ENDINGS = {"preempt": "preempted", "stall": "stalled", "peer_lost": "peer lost", "fail": "failed", "finish": "finished"}
_IDLE = "idle"  # after a finish


class Span(NamedTuple):
  """A stretch of time that went into one part.

  Attributes:
    attempt: in which one; for "down" the one that had ended.
    part: one of PARTS.
    begin, end: Unix seconds.
    steps: of "useful" and "lost": how many, as far as known.
  """

  attempt: int
  part: str
  begin: float
  end: float
  steps: int = 0


class Attempt(NamedTuple):
  """One start of a run.

  Attributes:
    number: as in the names of its files.
    begin, end: Unix seconds of its start and of its last sign of life.
    first: the step that it went on from, or None where it not reached.
    last: the last step that is known of it.
    lost_steps: of those that it did, how many do not count: done again later, or skipped.
    ended: a word out of ENDINGS or KILLED; empty for the newest one, if it has not said how it ended.
    message: what it said at its end, may be empty.
    down: seconds until the next start.
  """

  number: int
  begin: float
  end: float
  first: int | None
  last: int
  lost_steps: int
  ended: str
  message: str
  down: float


class Goodput(NamedTuple):
  """The account of a run.

  Attributes:
    seconds: of every part; they add up to `wall`.
    wall: seconds from the first start to the last sign of life, without the time after a finish.
    spans: every second, in order.
    attempts: in order.
  """

  seconds: dict[str, float]
  wall: float
  spans: list[Span]
  attempts: list[Attempt]

  def share(self, part: str) -> float:
    """Of the wall time; share("useful") is the goodput."""
    return self.seconds[part] / self.wall if self.wall else 0.0

  def clock(self) -> Callable[[float], float]:
    """Unix seconds -> wall seconds since the first start; the time after a finish stands still."""
    begins = [span.begin for span in self.spans] or [0.0]
    before = [0.0, *itertools.accumulate(span.end - span.begin for span in self.spans)]

    def elapsed(time: float) -> float:
      at = max(bisect.bisect_right(begins, time) - 1, 0)
      return before[at] + min(max(time - begins[at], 0.0), before[min(at + 1, len(before) - 1)] - before[at])

    return elapsed


def account(events: list[dict[str, Any]], lines: list[dict[str, Any]]) -> Goodput | None:
  """The account of a run, or None where it has left no event.

  Args:
    events: see `metrics.read_events`.
    lines: see `metrics.read_lines`.
  """
  if not events:
    return None
  attempts = by_attempt(events, lines)
  ledger = _Ledger()
  for number, records in attempts.items():
    ledger.attempt(number, records)
  spans = _settled(ledger.stretches, ledger.rewinds, max(attempts))
  seconds = dict.fromkeys(PARTS, 0.0)
  for span in spans:
    seconds[span.part] += span.end - span.begin
  told = [_attempt(number, records, spans, newest=number == max(attempts)) for number, records in attempts.items()]
  return Goodput(seconds, sum(seconds.values()), spans, told)


class _Stretch(NamedTuple):
  """A stretch as it is cut off; of the part "steps" it is not decided yet whether they count."""

  attempt: int
  part: str
  begin: float
  end: float
  first: int = 0  # after this step
  last: int = 0  # up to this one; equal where that is not known
  skipped: int = 0  # of these steps


class _Ledger:
  """Cuts the time of a run into stretches, record by record.

  Attributes:
    stretches: without a gap between them.
    rewinds: (how many stretches came before it, the step that was gone back to).
    clock: Unix seconds up to which everything is cut.
  """

  def __init__(self):
    self.stretches: list[_Stretch] = []
    self.rewinds: list[tuple[int, int]] = []
    self.clock = -math.inf  # until the first record
    self._number, self._step, self._skipped = 0, 0, 0
    self._pace = 0.0  # seconds of a step, by the last window
    self._finished = False

  def attempt(self, number: int, records: list[dict[str, Any]]) -> None:
    """Adds an attempt, see by_attempt."""
    if self.clock == -math.inf:
      self.clock = records[0]["time"]
    self._spend(_IDLE if self._finished else "down", records[0]["time"])
    self._number, self._rest = number, "starting"  # what time is spent on, if nothing else is known
    self._mark()
    for record in records:
      handle = self._HANDLERS.get(record["event"])
      if handle is not None:
        handle(self, record)
    self._spend(self._rest, max(record["time"] for record in records))
    self._finished = _ending(records) == "finish"

  def _spend(self, part: str, until: float, last: int | None = None) -> None:
    """Everything up to `until` went into `part`; with steps up to `last`, if that is known."""
    end = max(self.clock, until)
    last = self._step if last is None else max(self._step, last)
    steps = (self._step, last, self._skipped) if part == "steps" else ()
    if end > self.clock or last > self._step:
      self.stretches.append(_Stretch(self._number, part, self.clock, end, *steps))
      if steps:
        self._step, self._skipped = last, 0
    self.clock = end

  def _mark(self) -> None:
    """The next line of training metrics accounts for everything from here on."""
    self._since = (len(self.stretches), self.clock, self._step)

  def _rewind(self, record) -> None:
    self._spend(self._rest, record["time"], record.get("from_step"))
    self.rewinds.append((len(self.stretches), record["step"]))
    self._step, self._skipped = record["step"], 0
    self._mark()

  def _first_step(self, record) -> None:
    self._spend("starting", record["time"])
    self._rest = "steps"
    self._mark()

  def _skip(self, record) -> None:
    self._skipped += 1

  def _line(self, record) -> None:
    if is_training(record):
      self._window(record)
    elif self._rest == "steps":  # an evaluation; what came before it at the last known speed is steps
      steps = record["step"] - self._step
      if steps > 0:
        self._spend(
          "steps",
          min(self.clock + steps * self._pace, record["time"]) if self._pace else record["time"],
          record["step"],
        )
      self._spend("evaluation", record["time"])
    else:
      self._spend("evaluation", record["time"])

  def _save(self, record) -> None:
    if self._rest == "steps" and record["step"] > self._step:
      self._spend("steps", record["time"] - (number_in(record, "seconds") or 0.0), record["step"])
    self._spend("checkpoint", record["time"])

  def _end(self, record) -> None:
    more = self._rest == "steps" and record["step"] > self._step
    self._spend("steps" if more else "checkpoint", record["time"], record["step"] if more else None)
    self._rest = "checkpoint"

  def _stall(self, record) -> None:
    self._spend(self._rest, record["time"] - (number_in(record, "seconds") or 0.0))
    self._rest = "lost"

  def _window(self, record) -> None:
    """A line of training metrics tells how the time since the one before was spent."""
    count, began, step = self._since
    skipped = self._skipped + sum(stretch.skipped for stretch in self.stretches[count:])
    del self.stretches[count:]
    self.clock, self._step, self._skipped = began, step, skipped
    elapsed, steps = max(record["time"] - began, 0.0), max(record["step"] - step, 1)
    parts = ("step", "evaluation", "checkpoint", "data_wait")
    told = {part: max(number_in(record, f"seconds/{part}") or 0.0, 0.0) for part in parts}
    shrink = min(elapsed / (sum(told.values()) or 1.0), 1.0)
    for part in parts[1:]:
      self._spend(part, self.clock + shrink * told[part])
    self._pace = (record["time"] - self.clock) / steps
    self._spend("steps", record["time"], record["step"])
    self._rest = "steps"
    self._mark()

  _HANDLERS = {
    "restore": _rewind,
    "fresh": _rewind,
    "rollback": _rewind,
    "first_step": _first_step,
    "skip": _skip,
    LINE: _line,
    "save": _save,
    "preempt": _end,
    "finish": _end,
    "stall": _stall,
  }


def _settled(stretches: list[_Stretch], rewinds: list[tuple[int, int]], running: int) -> list[Span]:
  """Decides which steps count, backwards from the newest: those that no later rewind went back behind.

  Of steps that nobody has counted, only those of the attempt `running`, the newest.
  """
  spans, rewinds, newest = [], list(rewinds), math.inf  # steps up to `newest` are in the newest parameters
  for index in range(len(stretches) - 1, -1, -1):
    while rewinds and rewinds[-1][0] > index:
      newest = min(newest, rewinds.pop()[1])
    attempt, part, begin, end, first, last, skipped = stretches[index]
    if part == _IDLE:
      continue
    if part != "steps":
      spans.append(Span(attempt, part, begin, end))
      continue
    count = last - first
    kept = int(min(max(min(last, newest) - first, 0), count))
    void = round(skipped * kept / count) if count else 0
    share = (kept - void) / count if count else float(newest == math.inf and attempt == running)
    middle = begin + share * (end - begin)
    halves = [
      Span(attempt, "useful", begin, middle, kept - void),
      Span(attempt, "lost", middle, end, count - kept + void),
    ]
    spans += [span for span in reversed(halves) if span.end > span.begin or span.steps]
  return spans[::-1]


def _attempt(number: int, records: list[dict[str, Any]], spans: list[Span], *, newest: bool) -> Attempt:
  mine = [span for span in spans if span.attempt == number]
  last_step = 0
  for record in records:
    if record["event"] in TELL_THE_STEP:
      last_step = record["step"] if record["event"] in REWINDS else max(last_step, record["step"])
  ending = _ending(records)
  last: dict[str, Any] = next((record for record in reversed(records) if record["event"] == ending), {})
  message = str(last.get("message", ""))
  if ending == "stall":
    message = f"process {last.get('process')} stood still for {number_in(last, 'seconds') or 0:.0f} s"
  return Attempt(
    number,
    records[0]["time"],
    max(record["time"] for record in records),
    first=next((record["step"] for record in records if record["event"] in REWINDS), None),
    last=last_step,
    lost_steps=sum(span.steps for span in mine if span.part == "lost"),
    ended=ENDINGS.get(ending, "" if newest else KILLED),
    message=message,
    down=sum(span.end - span.begin for span in mine if span.part == "down"),
  )


def _ending(records: list[dict[str, Any]]) -> str:
  """The kind of event that an attempt ended with, or empty."""
  return next((record["event"] for record in reversed(records) if record["event"] in ENDINGS), "")
