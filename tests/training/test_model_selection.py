"""judging.py: the best first, and an end where nothing gets better."""

import math

import pytest

from bert_jax.objectives.objective import Objective, Shown
from bert_jax.training.model_selection import EarlyStopping, ModelSelection, by_headline


def test_the_best_is_the_lowest_or_the_highest_and_of_equals_the_newer():
  evaluations = {10: {"eval/x": 2.0}, 20: {"eval/x": 1.0}, 30: {}, 40: {"eval/x": 2.0}, 50: {"eval/x": 1.0}}
  assert ModelSelection("eval/x").best_first(evaluations) == [50, 20, 40, 10]
  assert ModelSelection("eval/x", higher_is_better=True).best_first(evaluations) == [40, 10, 50, 20]


def ends(values, **selection):
  """After which evaluation a run ends; None: never."""
  stopping = EarlyStopping(ModelSelection("eval/x", **selection))
  for number, value in enumerate(values, 1):
    stopping.add({"eval/x": value})
    if stopping.is_over:
      return number
  return None


@pytest.mark.parametrize(
  "values, selection, end",
  [
    ([3, 2, 2, 2, 2], {"patience": 2}, 4),
    ([1, 2, 2, 3, 3, 3], {"patience": 2, "higher_is_better": True}, 6),
    ([1, 1, 1, 1], {"patience": 0}, None),
    ([3, 4, 2, 3, 1, 2], {"patience": 2}, None),
    ([math.nan, math.nan, 1], {"patience": 2}, 2),
    ([1, math.nan, 0.5, math.inf, 0.4], {"patience": 2}, None),
  ],
)
def test_a_run_ends_after_so_many_evaluations_without_a_better_one(values, selection, end):
  assert ends(values, **selection) == end


def test_what_is_saved_is_all_that_it_knows():
  one = EarlyStopping(ModelSelection("eval/x", patience=3))
  for value in (3.0, 2.0, 2.5):
    one.add({"eval/x": value})
  other = EarlyStopping(ModelSelection("eval/x", patience=3))
  other.restore(one.host_values())
  for stopping in (one, other):
    stopping.add({"eval/x": 2.0})
    assert not stopping.is_over
    stopping.add({"eval/x": 2.0})
    assert stopping.is_over


def test_a_checkpoint_from_before_there_was_a_judge_begins_anew():
  stopping = EarlyStopping(ModelSelection("eval/x", patience=1))
  stopping.restore({"position": 8})
  assert not stopping.is_over


def test_the_first_metric_that_an_objective_shows_selects_in_its_own_direction():
  loss, accuracy = Shown("a_loss", "{}", better=min), Shown("an_accuracy", "{}", better=max)
  for shown, selection in (
    ((loss, accuracy), ModelSelection("eval/a_loss")),
    ((accuracy, loss), ModelSelection("eval/an_accuracy", higher_is_better=True)),
  ):
    assert by_headline(Objective(None, None, None, dict, shown)) == selection
