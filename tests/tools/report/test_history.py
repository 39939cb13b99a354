"""One history out of the files of many attempts: what was done in vain is not in its curves."""

import math
import tracemalloc

import pytest

from bert_jax.tools.report import goodput, history
from tests.helpers.run_history import Log, begun, killed_between_saves


def test_curves_drop_what_a_restart_went_back_behind():
  log = killed_between_saves()
  log.lines[-1]["train/mlm_loss"] = None  # NaN
  log(5, "start")
  log(5, "restore", 20)
  assert list(history.lineage(log.events, log.lines)) == [20]
  log(1, "train", 25)
  log(1, "eval", 25)
  known = history.lineage(log.events, log.lines)
  assert list(known) == [20, 25] and known[25].keys() == {"time", "train/mlm_loss", "eval/mlm_loss"}
  log.lines[-2]["train/mlm_loss"] = None
  assert math.isnan(history.lineage(log.events, log.lines)[25]["train/mlm_loss"])


def test_a_line_of_the_newest_attempt_wins_over_an_older_one_for_the_same_step():
  log = killed_between_saves()
  log.lines[1]["train/mlm_loss"], log.lines[2]["train/mlm_loss"] = 7.0, 3.0  # both of step 30
  assert [log.lines[1]["step"], log.lines[2]["step"]] == [30, 30]
  assert history.lineage(log.events, log.lines)[30]["train/mlm_loss"] == 3.0


def test_a_clock_that_was_set_back_does_not_mix_up_the_order():
  log = Log()
  begun(log)
  log.window(10, 10)
  log(-500, "save", 10)
  log(1, "rollback", 10, from_step=12)
  log(600, "finish", 10)
  kinds = [record["event"] for record in history.by_attempt(log.events, log.lines)[0] if record["event"] != "line"]
  assert kinds == ["start", "fresh", "first_step", "save", "rollback", "finish"]


@pytest.mark.parametrize("back", [-30, -500, -100_000_000])
@pytest.mark.parametrize("at", range(1, 9))
def test_wherever_a_clock_is_set_back_the_history_is_the_same(at, back):
  def run(later):
    log, kinds = Log(), iter(later)
    log(next(kinds), "start")
    log(next(kinds), "restore", 10)
    log(next(kinds), "first_step", 11)
    log(next(kinds), "train", 20)
    log(next(kinds), "save", 20)
    log(next(kinds), "train", 30)
    log(next(kinds), "eval", 30)
    log(next(kinds), "start")
    log(next(kinds), "restore", 20)
    log(next(kinds), "train", 40)
    return log

  usual = [10.0] * 10
  straight, odd = run(usual), run([*usual[:at], back, *usual[at + 1 :]])
  assert (
    list(history.lineage(odd.events, odd.lines)) == list(history.lineage(straight.events, straight.lines)) == [20, 40]
  )
  found = goodput.account(odd.events, odd.lines)
  assert all(span.end >= span.begin for span in found.spans) and found.wall <= straight.account().wall
  assert [attempt.last for attempt in found.attempts] == [30, 40]
  history.climbs(odd.events, odd.lines)


def test_the_climb_of_the_steps_tells_which_of_them_count():
  climbs = [([step for _, step in points], last) for points, last in history.climbs(*killed_between_saves().records)]
  assert climbs == [([0, 1, 20, 20, 30], 20), ([20, 21, 30], 30)]


def windows(count):
  """Training every 10 steps, an evaluation every 50, after which the loss is lowest in the middle of the run."""
  for number in range(1, count + 1):
    step, time = 10 * number, 1000.0 + 3 * number
    train = {"attempt": 0, "step": step, "time": time, "train/loss": float(number), "window_steps": 10}
    yield train | {"seconds/step": 2.0, "seconds/data_wait": 1.0}
    if number % 5 == 0:
      yield {"attempt": 0, "step": step, "time": time, "eval/loss": abs(number - count / 2), "eval/accuracy": None}


def test_few_lines_stay_as_they_are(monkeypatch):
  monkeypatch.setattr(history, "MOST_LINES", 100)
  lines = list(windows(100))
  assert history.thinned(iter(lines)) == (lines, len(lines))


def test_of_many_lines_neighbours_become_one_and_nothing_of_the_time_is_lost(monkeypatch):
  monkeypatch.setattr(history, "MOST_LINES", 100)
  every = list(windows(10_000))
  kept, count = history.thinned(iter(every))
  assert count == len(every) == 12_000 and len(kept) <= 200
  assert kept[-1] == every[-1] and [line["time"] for line in kept] == sorted(line["time"] for line in kept)
  trained = [line for line in kept if "train/loss" in line]
  assert sum(line["window_steps"] for line in trained) == 100_000 and trained[-1]["step"] == 100_000
  assert sum(line["seconds/data_wait"] for line in trained) == 10_000.0
  judged = [line["eval/loss"] for line in kept if "eval/loss" in line]
  assert min(judged) == 0.0 and max(judged) == 5000.0 and judged[-1] == 5000.0 and len(judged) > 10
  events = [
    {"attempt": 0, "event": "start", "time": 1000.0},
    {"attempt": 0, "event": "first_step", "time": 1000.0, "step": 1},
  ]
  whole, part = (goodput.account(events, lines) for lines in (every, kept))
  assert part.seconds == pytest.approx(whole.seconds) and part.wall == whole.wall


def test_lines_without_a_neighbour_of_their_kind_stay(monkeypatch):
  """As of a run that goes back again and again."""
  monkeypatch.setattr(history, "MOST_LINES", 10)
  lines = [{"attempt": number, "step": 1, "time": float(number), "train/loss": 1.0} for number in range(500)]
  assert history.thinned(iter(lines)) == (lines, 500)


def test_the_memory_for_lines_does_not_grow_with_their_number(monkeypatch):
  monkeypatch.setattr(history, "MOST_LINES", 1000)
  tracemalloc.start()
  try:
    kept, count = history.thinned(windows(20_000))
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert count == 24_000 and len(kept) <= 2000 and peak < 5e6  # all of them take 17 MB
