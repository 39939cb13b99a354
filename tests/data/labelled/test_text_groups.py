"""data/text_groups.py: texts that belong together, out of files; and what is refused of them."""

import re

import numpy as np
import pytest

from bert_jax.data.labelled.text_groups import Where, load_groups
from bert_jax.errors import UserError

PAIRS = "question,answer,wrong,score\nwho,me,you,4\nwhere,here,there,1\n,nobody,x,3\nwhen,now,then,2\n"


@pytest.fixture
def pairs(tmp_path):
  (tmp_path / "pairs.csv").write_text(PAIRS)
  (tmp_path / "dev.csv").write_text("first,second,value\na,b,5\nc,d,0\n")
  return tmp_path / "pairs.csv"


def test_pairs_with_hard_negatives_without_those_that_have_an_empty_text(pairs):
  train, dev = load_groups("in-batch", Where(data=str(pairs), text="question", text_pair="answer", negative="wrong"))
  assert train.texts == [["who", "where", "when"], ["me", "here", "now"], ["you", "there", "then"]]
  assert dev is None and train.labels is None and "1 lines of" in train.notes[0] and "empty" in train.notes[0]


def test_lines_with_other_columns_are_counted(tmp_path):
  (tmp_path / "pairs.csv").write_text("a,b\n" + "x,y\n" * 150 + "alone\n")
  train, _ = load_groups("in-batch", Where(data=str(tmp_path / "pairs.csv"), text="a", text_pair="b"))
  assert (
    len(train.texts[0]) == 150 and "1 lines of" in train.notes[0] and "too few or too many columns" in train.notes[0]
  )


def test_simcse_reads_lines_or_a_column_twice(pairs, tmp_path):
  (tmp_path / "lines.txt").write_text("one, two\n\nthree\n")
  train, _ = load_groups("simcse", Where(data=str(tmp_path / "lines.txt")))
  assert train.texts == [["one, two", "three"]] * 2
  train, _ = load_groups("simcse", Where(data=str(pairs), text="question"))
  assert train.texts == [["who", "where", "when"]] * 2


def test_scores_are_learned_as_shares_of_the_largest(pairs, tmp_path):
  train, dev = load_groups(
    "cosine", Where(data=str(pairs), dev=str(pairs), text="question", text_pair="answer", label="score")
  )
  np.testing.assert_allclose(train.labels, [1.0, 0.25, 0.5])
  assert dev.texts == train.texts


def test_dev_has_columns_of_its_own(pairs, tmp_path):
  _, dev = load_groups(
    "in-batch",
    Where(
      data=str(pairs),
      text="question",
      text_pair="answer",
      dev=str(tmp_path / "dev.csv"),
      dev_columns="first,second,value",
    ),
  )
  assert dev.texts == [["a", "c"], ["b", "d"]]
  np.testing.assert_allclose(dev.labels, [1.0, 0.0])
  own = Where(
    data=str(pairs),
    text="question",
    text_pair="answer",
    label="score",
    dev=str(tmp_path / "dev.csv"),
    dev_columns="first,second,value",
  )
  train, scored = load_groups("cosine", own)
  np.testing.assert_allclose(train.labels, [1.0, 0.25, 0.5])
  assert scored.texts == dev.texts


def test_classes_are_numbered(tmp_path):
  (tmp_path / "nli.csv").write_text("a,b,label\nx,y,yes\nz,w,no\nx,w,yes\n")
  train, _ = load_groups("softmax", Where(data=str(tmp_path / "nli.csv"), text="a", text_pair="b", label="label"))
  assert train.classes == ("no", "yes") and train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
  "objective, given, message",
  [
    ("in-batch", {"text": "question"}, "more columns: give --text_pair="),
    ("triplet", {"text": "question", "text_pair": "answer"}, "give --negative="),
    ("cosine", {"text": "question", "text_pair": "answer"}, "give --label="),
    (
      "in-batch",
      {"text": "question", "text_pair": "reply"},
      "no column 'reply'; it has: question, answer, wrong, score",
    ),
    (
      "cosine",
      {"text": "question", "text_pair": "answer", "label": "wrong"},
      r"pairs\.csv:2: the score 'you' is not a number",
    ),
    ("simcse", {}, "is a table: say which column holds the text, --text=…; it has: question, answer"),
    ("in-batch", {"task": "stsb"}, "learns from files of your own"),
    ("cosine", {"task": "sst2"}, "cosine learns from stsb"),
    ("cosine", {"task": "unknown"}, "is not known; it is one of"),
    ("simcse", {"text": "question", "dev": "nowhere.csv"}, "--dev=nowhere.csv: there is no such file"),
    ("simcse", {"text": "question", "dev": "dev.csv", "dev_columns": "a,b"}, "expected three names"),
    ("simcse", {"text": "question", "data": "nowhere.txt"}, "--data=nowhere.txt: there is no such file"),
    ("simcse", {"text": "question", "data": ""}, "tuning.data is empty"),
  ],
)
def test_what_cannot_be_learned_from_is_refused(pairs, objective, given, message):
  with pytest.raises(UserError, match=message):
    load_groups(objective, Where(**{"data": str(pairs), **given}))


def test_classes_of_pairs_are_no_texts_and_no_scores(tmp_path):
  own = lambda label: Where(data=str(tmp_path / "x.csv"), text="a", text_pair="b", label=label)
  (tmp_path / "x.csv").write_text(
    "a,b,score,class\n" + "".join(f"text {n},other {n},{n / 7:.2f},{'yes' if n % 3 else 'no'}\n" for n in range(60))
  )
  assert load_groups("softmax", own("class"))[0].classes == ("no", "yes")
  with pytest.raises(
    UserError,
    match="softmax learns from one class for each pair; the column 'score' reads as regression, which "
    "--objective=cosine",
  ):
    load_groups("softmax", own("score"))
  with pytest.raises(UserError, match="60 different labels, such as 'other 0'; is that the right column"):
    load_groups("softmax", own("b"))


def test_pairs_to_judge_by_with_other_columns_name_the_key(pairs, tmp_path):
  with pytest.raises(
    UserError,
    match="evaluation pairs have columns sentence1, sentence2 and score, or "
    "--config.embedding.dev_columns=FIRST,SECOND,SCORE",
  ):
    load_groups("simcse", Where(data=str(pairs), text="question", dev=str(tmp_path / "dev.csv")))


def test_a_file_of_nothing_but_empty_texts_is_refused(tmp_path):
  (tmp_path / "empty.txt").write_text("\n \n\n")
  with pytest.raises(UserError, match=re.escape("holds no complete example")):
    load_groups("simcse", Where(data=str(tmp_path / "empty.txt")))
