"""examples.py: what the outputs of a model mean, and what it is trained and evaluated on."""

import numpy as np
import pytest

from bert_jax.data.labelled import examples
from bert_jax.data.labelled.examples import Labels, describe_balance, labels_of, prepare
from bert_jax.data.labelled.questions import Question
from bert_jax.data.labelled.task_files import Examples, Splits
from bert_jax.data.tokenizer.wordpiece import SPECIAL_TOKENS, build_tokenizer
from bert_jax.errors import UserError

TOKENIZER = build_tokenizer(
  [*SPECIAL_TOKENS, "the", "cat", "sat", "mat", *"abc", *(f"##{c}" for c in "abc")], lowercase=True
)


def splits(kind, train, dev=None):
  of = lambda labels: Examples([f"text {number}" for number in range(len(labels))], None, labels, kind)
  return Splits(of(train), of(train if dev is None else dev), kind, dev is None, ("train.tsv", "dev.tsv"))


@pytest.mark.parametrize(
  "given, names",
  [
    (["10", "9", "-1", "9"], ("-1", "9", "10")),  # numbers by their value: of two, the larger is the positive one
    (["yes", "no"], ("no", "yes")),
    (["b", "2", "²", "1.5"], ("1.5", "2", "b", "²")),
  ],
)
def test_classes_stand_in_an_order_that_the_file_does_not_tell(given, names):
  assert (
    labels_of(splits("classification", given)).names == labels_of(splits("classification", given[::-1])).names == names
  )


def test_no_entity_is_the_first_tag():
  assert labels_of(splits("token-classification", [["B-X", "I-X", "O"], ["B-A"]])).names == ("O", "B-A", "B-X", "I-X")


def test_scores_are_learned_divided_by_the_largest():
  found = labels_of(splits("regression", ["-5", "2.5"]))
  assert found == Labels("regression", ("score",), 5.0, pairs=False)
  made = prepare(splits("regression", ["-5", "2.5"]).train, found, TOKENIZER, max_length=16, stride=8, training=True)
  np.testing.assert_allclose(made.features.labels, [-1.0, 0.5])
  np.testing.assert_allclose(made.gold, [-5.0, 2.5])


@pytest.mark.parametrize(
  "kind, train, dev, words",
  [
    ("classification", ["x", "x"], None, "train.tsv has a single class, 'x'"),
    ("token-classification", [["O", "O"]], None, "has a single class, 'O'"),
    ("multi-label", ["", ""], None, "has a single class, 'none'"),
    (
      "classification",
      ["x", "z"],
      ["x", "y"],
      "dev.tsv has labels that do not occur in train.tsv: y; the model could never predict them",
    ),
    ("multi-label", ["x|z", "z"], ["x|y"], "do not occur in train.tsv: y;"),
    ("regression", ["3", "3.0"], ["1", "2"], "train.tsv: all 2 scores are 3: a correlation needs different scores"),
    ("regression", ["1", "2"], ["4", "4"], "dev.tsv: all 2 scores are 4"),
  ],
)
def test_what_cannot_be_learned_is_refused(kind, train, dev, words):
  with pytest.raises(UserError, match=words):
    labels_of(splits(kind, train, dev))


def test_questions_none_of_which_has_an_answer_teach_nothing():
  asked = [Question(str(number), "who", "the cat sat", ()) for number in range(3)]
  with pytest.raises(UserError, match="train.json: none of its 3 questions has an answer"):
    labels_of(
      Splits(
        Examples(asked, None, [], "question-answering"),
        Examples(asked, None, [], "question-answering"),
        "question-answering",
        False,
        ("train.json",),
      )
    )


def test_several_labels_are_one_yes_or_no_each():
  given = splits("multi-label", ["x|y", "", " y | z "])
  made = prepare(given.train, labels_of(given), TOKENIZER, max_length=16, stride=8, training=True)
  np.testing.assert_array_equal(made.features.labels, [[1, 1, 0], [0, 0, 0], [0, 1, 1]])
  assert made.features.labels.dtype == np.float32


def test_classes_that_are_not_balanced_are_told():
  told = describe_balance(splits("classification", ["no"] * 9 + ["yes"]).train, "classification")
  assert "'no' has 90.0% of 10" in told and "always predicting 'no' reaches that accuracy" in told
  assert describe_balance(splits("classification", ["no", "yes", "no"]).train, "classification") == ""
  assert "'x' has 100.0% of 4" in describe_balance(splits("multi-label", ["x", "x", "x", "x|y"]).train, "multi-label")


QUESTIONS = [
  Question("right", "the cat", "the cat sat", (("cat", 4),)),
  Question("wrong", "the cat", "the cat sat", (("cat", 5),)),
  Question("none", "the mat", "the cat sat", ()),
]


def test_answers_that_stand_elsewhere_are_judged_by_and_not_trained_on():
  given = Examples(QUESTIONS, None, [], "question-answering")
  labels = Labels("question-answering", ("begin", "end"))
  train, dev = (
    prepare(given, labels, TOKENIZER, max_length=100, stride=30, training=training) for training in (True, False)
  )
  assert [one.name for one in train.asked] == ["right", "none"] and train.features.num_rows == 2
  assert [one.name for one in dev.asked] == ["right", "wrong", "none"] and dev.gold == [["cat"], ["cat"], []]
  with pytest.raises(UserError, match="not one of the 1 questions has its answers where the file says"):
    prepare(given.subset([1]), labels, TOKENIZER, max_length=100, stride=30, training=True)


def test_the_fingerprint_tells_tokens_and_labels_apart():
  def of(labels, first="the cat"):
    given = splits("classification", labels)
    return examples.fingerprint(
      prepare(
        given.train._replace(first=[first, "sat"]), labels_of(given), TOKENIZER, max_length=16, stride=8, training=True
      ).features
    )

  assert of(["x", "y"]) == of(["x", "y"])
  assert len({of(["x", "y"]), of(["y", "x"]), of(["x", "y"], "the mat")}) == 3
