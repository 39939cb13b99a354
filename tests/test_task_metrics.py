"""task_metrics.py: the definitions of the leaderboards, by cases counted by hand and by the libraries that are known for them."""

import random
import warnings

import numpy as np
import pytest

from bert_jax import task_metrics


def test_classes_by_hand():
  gold, found = np.array([1, 1, 1, 0, 0, 1, 0, 0]), np.array([1, 1, 0, 0, 1, 1, 0, 0])  # tp 3, fn 1, fp 1, tn 3
  assert task_metrics.classes(gold, found) == pytest.approx({"accuracy": 0.75, "mcc": 0.5, "macro_f1": 0.75, "f1": 0.75})
  assert "f1" not in task_metrics.classes(np.array([0, 1, 2]), np.array([0, 1, 1]))
  assert task_metrics.classes(np.array([0, 1, 2]), np.array([0, 1, 1]))["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_several_classes_by_hand():
  gold, found = np.array([[1, 0, 1], [0, 1, 0]]), np.array([[1, 0, 0], [0, 1, 0]])
  assert task_metrics.several_classes(gold, found) == pytest.approx({"micro_f1": 0.8, "macro_f1": 2 / 3, "accuracy": 0.5})


def test_scores_by_hand_and_a_constant_correlates_with_nothing():
  found = task_metrics.scores(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 10.0]))
  assert found["spearman"] == pytest.approx(0.8) and found["pearson"] == pytest.approx(0.8, abs=0.1) and found["mse"] == pytest.approx(9.5)
  assert task_metrics.scores(np.array([1.0, 2.0]), np.array([3.0, 3.0]))["spearman"] == 0.0


def test_an_entity_counts_with_its_type_and_both_ends():
  gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
  found = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG"]]
  assert task_metrics.entities(gold, found) == pytest.approx({"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 0.5})
  assert task_metrics.entities([["O"]], [["O"]])["f1"] == 0.0


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
  assert task_metrics.spans_of(tags) == spans


def test_entities_are_those_of_seqeval():
  metrics = pytest.importorskip("seqeval.metrics")
  rng = random.Random(0)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for tags in (["O", "B-A", "I-A", "B-B", "I-B"], ["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B"]):
      for _ in range(500):
        gold = [[rng.choice(tags) for _ in range(rng.randint(1, 9))] for _ in range(3)]
        found = [[rng.choice(tags) for _ in one] for one in gold]
        ours = task_metrics.entities(gold, found)
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
    ],
)
def test_answers_in_english(gold, found, exact, f1):
  assert task_metrics.answers([gold], [found]) == pytest.approx({"exact_match": exact, "f1": f1})


@pytest.mark.parametrize(
    "gold, found, exact, f1",
    [
        (["北京大学。"], "北京大学", 1.0, 1.0),
        (["北京大学"], "在北京", 0.0, 2 * 2 / 7),  # the longest run that both have: 北京
        (["1998年5月"], "1998年", 0.0, 2 * 2 / 6),  # numbers are words: 1998, 年
        (["BERT模型"], "bert", 0.0, 2 * 1 / 4),
    ],
)
def test_answers_in_chinese(gold, found, exact, f1):
  assert task_metrics.answers([gold], [found], chinese=True) == pytest.approx({"exact_match": exact, "f1": f1})
