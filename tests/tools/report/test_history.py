"""One history out of the files of many attempts: what was done in vain is not in its curves."""

import math

from bert_jax.tools.report import history
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


def test_the_climb_of_the_steps_tells_which_of_them_count():
  climbs = [([step for _, step in points], last) for points, last in history.climbs(*killed_between_saves().records)]
  assert climbs == [([0, 1, 20, 20, 30], 20), ([20, 21, 30], 30)]
