"""timing.py: all take their turn in every round, and a round's figures belong together."""

import types

import pytest

from bert_jax.tools.bench import timing
from bert_jax.tools.bench.timing import in_turn, ratios, spread


@pytest.fixture
def recorder(monkeypatch):
  """recorder(name, log, seconds=…): a run that takes so many seconds a call by the clock that `timing` reads."""
  now = [100.0]
  monkeypatch.setattr(timing, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

  def make(name, log, *, seconds, units=None):
    def run(times):
      log.append((name, times))
      now[0] += seconds * times
      return None if units is None else units * times

    return run

  return make


def test_all_take_their_turn_in_every_round_and_every_other_round_goes_backwards(recorder):
  log = []
  in_turn({name: recorder(name, log, seconds=0.001) for name in "abc"}, rounds=4, seconds=0.001)
  assert [name for name, _ in log[:3]] == list("abc")  # one call each, to know how many make a turn
  assert "".join(name for name, _ in log[3:]) == "abccbaabccba"


def test_a_turn_has_as_many_calls_as_fill_it_and_the_figure_is_that_of_one(recorder):
  log = []
  found = in_turn(
    {"slow": recorder("slow", log, seconds=0.05), "fast": recorder("fast", log, seconds=0.01)}, rounds=2, seconds=0.1
  )
  assert dict(log[2:]) == {"slow": 2, "fast": 10}
  assert found["slow"] == pytest.approx([0.05, 0.05]) and found["fast"] == pytest.approx([0.01, 0.01])


def test_a_run_that_counts_its_work_is_measured_by_it(recorder):
  found = in_turn({"tokens": recorder("tokens", [], seconds=0.02, units=100)}, rounds=1, seconds=0.02)
  assert found["tokens"][0] == pytest.approx(0.0002)


def test_a_spread_has_the_median_and_both_ends():
  assert spread([3.0, 1.0, 10.0]) == (3.0, 1.0, 10.0)


def test_ratios_divide_round_by_round_so_that_a_slow_minute_falls_out():
  assert ratios([1.0, 10.0], [2.0, 20.0]) == (2.0, 2.0, 2.0)
  with pytest.raises(ValueError):
    ratios([1.0], [1.0, 2.0])
