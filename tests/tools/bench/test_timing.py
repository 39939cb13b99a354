"""timing.py: all take their turn in every round, and a round's figures belong together."""

import time

import pytest

from bert_jax.tools.bench.timing import in_turn, ratios, spread

pytestmark = pytest.mark.alone


def recorder(name, log, *, seconds, units=None):
  def run(times):
    log.append((name, times))
    time.sleep(seconds * times)
    return None if units is None else units * times

  return run


def test_all_take_their_turn_in_every_round_and_every_other_round_goes_backwards():
  log = []
  in_turn({name: recorder(name, log, seconds=0.001) for name in "abc"}, rounds=4, seconds=0.001)
  assert [name for name, _ in log[:3]] == list("abc")  # one call each, to know how many make a turn
  assert "".join(name for name, _ in log[3:]) == "abccbaabccba"


def test_a_turn_has_as_many_calls_as_fill_it_and_the_figure_is_that_of_one():
  log = []
  found = in_turn(
    {"slow": recorder("slow", log, seconds=0.05), "fast": recorder("fast", log, seconds=0.01)}, rounds=2, seconds=0.1
  )
  calls = dict(log[2:])
  assert calls["slow"] == 2 and 5 <= calls["fast"] <= 10
  assert found["slow"] == pytest.approx([0.05, 0.05], abs=0.02) and found["fast"] == pytest.approx(
    [0.01, 0.01], abs=0.005
  )


def test_a_run_that_counts_its_work_is_measured_by_it():
  found = in_turn({"tokens": recorder("tokens", [], seconds=0.02, units=100)}, rounds=1, seconds=0.02)
  assert found["tokens"][0] == pytest.approx(0.0002, rel=0.3)


def test_a_spread_has_the_median_and_both_ends():
  assert spread([3.0, 1.0, 10.0]) == (3.0, 1.0, 10.0)


def test_ratios_divide_round_by_round_so_that_a_slow_minute_falls_out():
  assert ratios([1.0, 10.0], [2.0, 20.0]) == (2.0, 2.0, 2.0)
  with pytest.raises(ValueError):
    ratios([1.0], [1.0, 2.0])
