"""metrics.py: the definitions of the leaderboards, by cases counted by hand and by the libraries that are known
for them.
"""

import random
import warnings

import numpy as np
import pytest

from bert_jax.data.labelled.tags import spans_of
from bert_jax.evaluation import metrics


def test_classes_by_hand():
  gold, found = np.array([1, 1, 1, 0, 0, 1, 0, 0]), np.array([1, 1, 0, 0, 1, 1, 0, 0])  # tp 3, fn 1, fp 1, tn 3
  assert metrics.classification(gold, found, count=2) == pytest.approx(
    {"accuracy": 0.75, "mcc": 0.5, "macro_f1": 0.75, "f1": 0.75}
  )
  assert metrics.classification(np.array([0, 1, 2]), np.array([0, 1, 1]), count=3)["macro_f1"] == pytest.approx(
    (1 + 2 / 3 + 0) / 3
  )


def test_the_f1_of_a_class_is_measured_where_there_are_two_whichever_come_up():
  some = np.array([0, 1, 1])
  assert "f1" in metrics.classification(some, some, count=2) and "f1" not in metrics.classification(some, some, count=3)


def test_one_class_alone_is_no_reason_for_a_warning():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert metrics.classification(np.ones(4, int), np.ones(4, int), count=2) == {
      "accuracy": 1.0,
      "mcc": 0.0,
      "macro_f1": 1.0,
      "f1": 1.0,
    }


def test_several_classes_by_hand():
  gold, found = np.array([[1, 0, 1], [0, 1, 0]]), np.array([[1, 0, 0], [0, 1, 0]])
  assert metrics.multilabel(gold, found) == pytest.approx({"micro_f1": 0.8, "macro_f1": 2 / 3, "accuracy": 0.5})
  gold, found = np.array([[1], [1], [0], [0], [0]]), np.array([[1], [0], [0], [0], [0]])
  assert metrics.multilabel(gold, found) == pytest.approx({"micro_f1": 2 / 3, "macro_f1": 2 / 3, "accuracy": 0.8})
  assert metrics.multilabel(np.zeros((2, 3)), np.zeros((2, 3), bool)) == {
    "micro_f1": 0.0,
    "macro_f1": 0.0,
    "accuracy": 1.0,
  }


def test_several_classes_are_those_of_scikit_learn():
  from sklearn import metrics as sklearn_metrics

  rng = np.random.default_rng(0)
  for _ in range(50):
    gold, found = (rng.random((9, 4)) < rng.random(4) for _ in range(2))
    ours = metrics.multilabel(gold, found)
    for average in ("micro", "macro"):
      assert ours[f"{average}_f1"] == pytest.approx(
        sklearn_metrics.f1_score(gold, found, average=average, zero_division=0)
      )
    assert ours["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(gold, found))


def test_scores_by_hand_and_a_constant_correlates_with_nothing():
  found = metrics.regression(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 10.0]))
  assert (
    found["spearman"] == pytest.approx(0.8)
    and found["pearson"] == pytest.approx(13 / (5 * 50) ** 0.5)
    and found["mse"] == pytest.approx(9.5)
  )
  assert metrics.regression(np.array([1.0, 2.0]), np.array([3.0, 3.0]))["spearman"] == 0.0
  assert metrics.regression(np.array([1.0]), np.array([3.0])) == {"pearson": 0.0, "spearman": 0.0, "mse": 4.0}


def test_equal_scores_share_their_rank():
  found = metrics.regression(
    np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
  )  # ranks 1.5 1.5 3 4 and 1 2 3 4
  assert found["spearman"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_an_entity_counts_with_its_type_and_both_ends():
  gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
  found = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG"]]
  assert metrics.seqeval(gold, found) == pytest.approx(
    {"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 0.5}
  )
  assert metrics.seqeval([["O"]], [["O"]])["f1"] == 0.0


@pytest.mark.parametrize(
  "tags, spans",
  [
    (["I-A", "I-A", "B-A"], [("A", 0, 1), ("A", 2, 2)]),
    (["B-A", "I-B", "I-B"], [("A", 0, 0), ("B", 1, 2)]),
    (["B-A", "M-A", "E-A", "S-A", "E-B"], [("A", 0, 2), ("A", 3, 3), ("B", 4, 4)]),
    (["O", "O"], []),
  ],
)
def test_entities_of_every_way_to_tag(tags, spans):
  assert spans_of(tags) == spans


def begins(before: str, now: str) -> bool:
  """Whether an entity begins at a tag behind another one, by the rules of CoNLL-2000's scorer, conlleval."""
  (letter_before, _, kind_before), (letter, _, kind) = before.partition("-"), now.partition("-")
  return (
    letter in ("B", "S")
    or (letter_before, letter) in {("E", "E"), ("E", "I"), ("S", "E"), ("S", "I"), ("O", "E"), ("O", "I")}
    or (letter != "O" and kind_before != kind)
  )


def ends(now: str, after: str) -> bool:
  """Whether an entity ends at a tag in front of another one, by the same rules."""
  (letter, _, kind), (letter_after, _, kind_after) = now.partition("-"), after.partition("-")
  return (
    letter in ("E", "S")
    or (letter, letter_after) in {("B", "B"), ("B", "S"), ("B", "O"), ("I", "B"), ("I", "S"), ("I", "O")}
    or (letter != "O" and kind != kind_after)
  )


def by_rules(tags: list[str]) -> list[tuple[str, int, int]]:
  found, first = [], 0
  for place, (before, now, after) in enumerate(zip(["O", *tags], tags, [*tags[1:], "O"])):
    if begins(before, now):
      first = place
    if ends(now, after):
      found.append((now.partition("-")[2], first, place))
  return found


WAYS = (
  ["O", "B-A", "I-A", "B-B", "I-B"],
  ["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B"],
  ["O", "B-a-b", "I-a-b", "I-a"],
)


@pytest.mark.parametrize("tags", WAYS)
def test_entities_are_those_of_conllevals_rules(tags):
  rng = random.Random(0)
  for _ in range(2000):
    one = [rng.choice(tags) for _ in range(rng.randint(1, 9))]
    assert spans_of(one) == by_rules(one), one


def test_entities_are_those_of_seqeval():
  metrics = pytest.importorskip("seqeval.metrics", reason="seqeval's source package does not build with every pip")
  rng = random.Random(0)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for tags in WAYS[:2]:
      for _ in range(500):
        gold = [[rng.choice(tags) for _ in range(rng.randint(1, 9))] for _ in range(3)]
        found = [[rng.choice(tags) for _ in one] for one in gold]
        ours = metrics.seqeval(gold, found)
        for name in ("f1", "precision", "recall", "accuracy"):
          assert ours[name] == pytest.approx(getattr(metrics, f"{name}_score")(gold, found)), (gold, found)


@pytest.mark.parametrize(
  "gold, found, exact, f1",
  [
    (["The Cat."], "cat", 1.0, 1.0),  # case, articles and punctuation do not count
    (["a red cat"], "the red dog", 0.0, 0.5),
    (["red red cat"], "red cat cat", 0.0, 2 / 3),  # a word counts as often as both have it
    (["cat", "a big dog"], "dog", 0.0, 2 / 3),  # the best of the gold answers
    ([], "", 1.0, 1.0),
    ([], "cat", 0.0, 0.0),
    (["cat"], "", 0.0, 0.0),
    (["the"], "a", 1.0, 1.0),  # nothing is left of either
    (["y", "an"], "a an", 0.0, 0.0),  # an answer that nothing is left of is none
  ],
)
def test_answers_in_english(gold, found, exact, f1):
  assert metrics.squad([gold], [found]) == pytest.approx({"exact_match": exact, "f1": f1})


@pytest.mark.parametrize(
  "gold, found, exact, f1",
  [
    (["北京大学。"], "北京大学", 1.0, 1.0),
    (["北京，大学"], "北京大学", 1.0, 1.0),
    (["19-20岁"], "1920岁", 1.0, 1.0),  # what is dropped leaves no gap
    (["3.5米"], "35米", 0.0, 2 * 1 / 4),  # CMRC's list has no full stop of ours: 3.5, 米 and 35, 米
    (["甲", "北京大学"], "北京大学", 1.0, 1.0),
    (["北京大学"], "上海", 0.0, 0.0),
    (["北京大学"], "在北京", 0.0, 2 * 2 / 7),  # the longest run that both have: 北京
    (["1998年5月"], "1998年", 0.0, 2 * 2 / 6),  # numbers are words: 1998, 年
    (["BERT模型"], "bert", 0.0, 2 * 1 / 4),
    (["。"], "，", 1.0, 0.0),  # CMRC's script counts no run of nothing
    ([], "", 1.0, 1.0),
  ],
)
def test_answers_in_chinese(gold, found, exact, f1):
  assert metrics.squad([gold], [found], chinese=True) == pytest.approx({"exact_match": exact, "f1": f1})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_has_no_correlation_rather_than_0(value):
  found = metrics.regression(np.array([1.0, 2.0, 3.0]), np.array([1.0, value, 3.0]))
  assert all(np.isnan(one) for one in found.values())
