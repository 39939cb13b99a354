"""The account of a run's time: every second in one part, and only steps that count are useful."""

import itertools
import random

import pytest

from bert_jax.runs.pretraining import pretrain_run
from bert_jax.tools.report import goodput, history
from bert_jax.training.metrics import read_events, read_lines
from tests.helpers.run_history import Log, begun, killed_between_saves
from tests.helpers.tiny_runs import tiny_run_config


def check_whole(account):
  """The parts add up, and the spans follow each other."""
  assert sum(account.seconds.values()) == pytest.approx(account.wall)
  assert all(seconds >= 0 for seconds in account.seconds.values())
  assert sum(map(account.share, goodput.PARTS)) == pytest.approx(1.0 if account.wall else 0.0)
  for before, after in itertools.pairwise(account.spans):
    assert before.begin <= before.end <= after.begin


def test_a_run_without_trouble():
  log = Log()
  begun(log)
  log.window(10, 10, step=9, data_wait=1)
  log(3, "eval", 10)
  log(2, "save", 10, seconds=2)
  log.window(15, 20, step=10, data_wait=0, evaluation=3, checkpoint=2)
  log(3, "eval", 20)
  log(2, "save", 20, seconds=2)
  log(1, "finish", 20)
  assert log.parts() == {"useful": 9 + 15, "starting": 10, "data_wait": 1, "evaluation": 3 + 3, "checkpoint": 2 + 2 + 1}
  account = log.account()
  check_whole(account)
  assert account.wall == log.time - 1000
  assert account.share("useful") == 24 / account.wall
  (attempt,) = account.attempts
  assert (attempt.first, attempt.last, attempt.lost_steps, attempt.ended, attempt.down) == (0, 20, 0, "finished", 0)


def test_a_kill_costs_the_steps_since_the_save_the_time_away_and_another_start():
  log = killed_between_saves()
  assert log.parts() == {"useful": 20 + 9, "lost": 10, "starting": 10 + 5, "checkpoint": 2, "down": 100}
  first, second = log.account().attempts
  assert (first.first, first.last, first.lost_steps, first.ended, first.down) == (0, 30, 10, goodput.KILLED, 100)
  assert (second.first, second.last, second.lost_steps, second.ended) == (20, 30, 0, "")


def test_of_a_window_that_a_save_fell_into_only_the_steps_after_it_are_lost():
  log = Log()
  begun(log)
  log.window(20, 20, step=20)
  log(6, "save", 25, seconds=1)
  log(1, "saved", 25, seconds=2)
  log.window(5, 30, step=11, checkpoint=1)
  log(7, "start")
  log(3, "restore", 25)
  log(1, "first_step", 26)
  assert log.parts() == {"useful": 20 + 5.5, "lost": 5.5, "starting": 10 + 4, "checkpoint": 1, "down": 7}
  assert log.account().attempts[0].lost_steps == 5


def test_a_preemption_loses_no_step():
  log = Log()
  begun(log)
  log.window(20, 20, step=20)
  log(6, "save", 25, seconds=1)
  log(2, "saved", 25, seconds=2)
  log(0, "preempt", 25)
  log(60, "start")
  log(4, "restore", 25)
  log(1, "first_step", 26)
  log.window(5, 30, step=5)
  assert log.parts() == {"useful": 20 + 5 + 5, "starting": 10 + 5, "checkpoint": 1 + 2, "down": 60}
  assert [attempt.ended for attempt in log.account().attempts] == ["preempted", ""]


def test_a_preemption_that_is_told_before_its_save_comes_to_the_same():
  log = Log()
  begun(log)
  log.window(20, 20, step=20)
  log(5, "preempt", 25)
  log(1, "save", 25, seconds=1)
  log(2, "saved", 25, seconds=2)
  assert log.parts() == {"useful": 25, "starting": 10, "checkpoint": 3}


@pytest.mark.parametrize("tells_twice", [False, True], ids=["as now", "as before, with a restore"])
def test_a_rollback_loses_what_came_after_its_checkpoint(tells_twice):
  log = Log()
  begun(log)
  log.window(20, 20, step=20)
  log(2, "save", 20, seconds=2)
  log.window(10, 30, step=10, checkpoint=2)
  log(1, "skip", 31, in_a_row=1)
  log(1, "skip", 32, in_a_row=2)
  log(1, "verify", 20, ok=True)
  log.time += 1
  if tells_twice:
    log(0, "restore", 20, position=160)
  log(1, "rollback", 20, from_step=32, position=160, to=256)
  log.window(10, 30, step=10)
  log.window(10, 40, step=10)
  assert log.parts() == {"useful": 20 + 20, "lost": 10 + 5, "starting": 10, "checkpoint": 2}
  check_whole(log.account())
  assert tells_twice or log.account().attempts[0].lost_steps == 12
  assert list(history.lineage(log.events, log.lines)) == [20, 30, 40]


def test_a_skipped_update_is_a_step_lost():
  log = Log()
  begun(log)
  log(5, "skip", 4, in_a_row=1)
  log.window(5, 10, step=10)
  assert log.parts() == {"useful": 9, "lost": 1, "starting": 10}
  assert log.account().attempts[0].lost_steps == 1


def test_a_run_that_goes_on_is_counted_up_to_its_last_sign_of_life():
  log = Log()
  begun(log)
  log.window(10, 10, step=10)
  log(6, "save", 15, seconds=1)
  log(3, "saved", 15, seconds=3)  # training went on meanwhile
  assert log.parts() == {"useful": 10 + 5 + 3, "starting": 10, "checkpoint": 1}
  assert log.account().attempts[-1].ended == ""
  starting = Log()
  starting(0, "start")
  assert starting.account().wall == 0 and starting.account().share("useful") == 0


def test_starts_that_come_to_nothing_take_no_steps_away():
  log = killed_between_saves()
  for _ in range(2):
    log(50, "start")
    log(7, "fail", message="no space left on device")
  parts = log.parts()
  assert parts["useful"] == 29 and parts["down"] == 200 and parts["starting"] == 15 + 14
  assert [attempt.ended for attempt in log.account().attempts] == [goodput.KILLED, goodput.KILLED, "failed", "failed"]
  assert log.account().attempts[-1].message == "no space left on device"
  assert log.account().attempts[-1].first is None


def test_a_stall_is_time_lost_and_names_the_process():
  log = Log()
  begun(log)
  log.window(10, 10, step=10)
  log(65, "stall", 12, seconds=60, process=1)
  log(5, "start")
  assert log.parts() == {"useful": 10, "lost": 65, "starting": 10, "down": 5}
  attempt = log.account().attempts[0]
  assert attempt.ended == "stalled" and attempt.message == "process 1 stood still for 60 s"


def test_a_lost_peer_is_told_from_other_failures():
  log = Log()
  begun(log)
  log(5, "peer_lost", message="process 1 on a is gone")
  log(5, "start")
  log(5, "fail", message="no space left")
  assert [attempt.ended for attempt in log.account().attempts] == ["peer lost", "failed"]


def test_a_run_that_began_again_from_nothing_lost_all_that_came_before():
  log = Log()
  begun(log)
  log.window(10, 10, step=10)
  log(0, "start")
  log(3, "first_step", 1)
  log.window(5, 5, step=5)
  assert log.parts() == {"useful": 5, "lost": 10, "starting": 10 + 3}
  assert list(history.lineage(log.events, log.lines)) == [5]


def test_nobody_waits_for_a_run_that_has_finished():
  log = Log()
  begun(log)
  log.window(10, 10, step=10)
  log(0, "finish", 10)
  log(10_000, "start")
  log(2, "restore", 10)
  log(3, "eval", 10)
  log(0, "finish", 10)
  assert log.parts() == {"useful": 10, "starting": 10 + 2, "evaluation": 3}
  check_whole(log.account())


def test_lines_without_a_start_are_read_as_far_as_they_go():
  log = killed_between_saves()
  log.events = [event for event in log.events if event["attempt"] == 0]
  account = log.account()
  check_whole(account)
  assert list(history.lineage(log.events, log.lines)) == [20, 30]
  assert goodput.account([], log.lines) is None


def random_log(seed):
  """A run with all kinds of trouble, and how many of its steps count: (log, steps)."""
  draw, log = random.Random(seed), Log()
  saved, skips = [0], {}
  for number in range(draw.randint(1, 6)):
    step = max(saved)
    log(draw.choice([0, 3.5, 500]) if number else 0, "start")
    if draw.random() < 0.15:
      continue  # killed at once
    if step:
      log(draw.random() * 20, "verify", step, ok=True)
      log(draw.random(), "restore", step)
    skips = {at: value for at, value in skips.items() if at <= step}
    log(draw.random() * 30, "first_step", step + 1)
    end = step
    for _ in range(draw.randint(0, 8)):
      fields = {"window_steps": 10} | {
        f"seconds/{part}": draw.random() * 6 for part in ("step", "data_wait", "evaluation", "checkpoint")
      }
      bad = draw.random() < 0.2
      if bad:
        log(draw.random(), "skip", end + 3)
        skips[end + 3] = True
      end += 10
      log(draw.random() * 20, "train", end, **fields)
      if draw.random() < 0.3:
        log(draw.random() * 9, "eval", end)
      if draw.random() < 0.4:
        log(draw.random() * 9, "save", end, seconds=draw.random() * 12)
        saved.append(end)
      if draw.random() < 0.15:
        log(draw.random() * 9, "rollback", max(saved), from_step=end)
        end = max(saved)
        skips = {at: value for at, value in skips.items() if at <= end}
    if draw.random() < 0.1:
      log(-draw.random() * 100, "fail", message="another machine, whose clock is late")
    if draw.random() < 0.3:
      log(
        draw.random() * 9,
        draw.choice(["preempt", "stall", "fail", "finish"]),
        end,
        seconds=draw.random() * 50,
        message="",
      )
  records = [record for records in history.by_attempt(log.events, log.lines).values() for record in records]
  reached = 0
  for record in records:
    if record["event"] in ("restore", "fresh", "rollback", "line"):
      reached = record["step"]
  return log, reached - len(skips)


@pytest.mark.parametrize("seeds", [range(start, start + 100) for start in range(0, 500, 100)], ids=str)
def test_the_parts_add_up_whatever_happened(seeds):
  for seed in seeds:
    log, steps = random_log(seed)
    account = log.account()
    check_whole(account)
    times = [record["time"] for record in log.events + log.lines]
    finished = any(attempt.ended == "finished" for attempt in account.attempts[:-1])
    if not finished and times == sorted(times):
      assert account.wall == pytest.approx(max(times) - min(times)), seed
    assert sum(span.steps for span in account.spans if span.part == "useful") == steps, seed


def test_a_real_run_is_accounted_for(corpus, tmp_path):
  for stop in (12, 24):
    pretrain_run(
      tiny_run_config(tmp_path, corpus, f"stop_at_step={stop}", "export.format="),
      str(tmp_path / "run"),
      log=lambda _: None,
    )
  account = goodput.account(read_events(tmp_path / "run"), list(read_lines(tmp_path / "run")))
  check_whole(account)
  assert [(attempt.first, attempt.last, attempt.ended) for attempt in account.attempts] == [
    (0, 12, "finished"),
    (12, 24, "finished"),
  ]
  assert sum(span.steps for span in account.spans if span.part == "useful") == 24
  assert all(account.seconds[part] > 0 for part in ("useful", "starting", "data_wait", "evaluation", "checkpoint"))
  assert account.seconds["lost"] == account.seconds["down"] == 0
