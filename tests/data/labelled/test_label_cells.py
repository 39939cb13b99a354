import json

import pytest

from bert_jax.data.labelled.label_cells import check_spelling, read_cells
from bert_jax.data.labelled.task_files import load_splits
from bert_jax.errors import UserError


def read(cells, kind="", **options):
  return read_cells(cells, range(1, len(cells) + 1), "a.csv", kind, **options)


@pytest.mark.parametrize(
  "cells, labels, kind",
  [
    (['["x", "y"]', '["y"]', "[]"], ["x|y", "y", ""], "multi-label"),
    (["['x', 'y']", "['y']", ""], ["x|y", "y", ""], "multi-label"),
    (["{'y', 'x'}", "('x',)", "set()"], None, "the label 'set\\(\\)' is a text, and others are lists"),
    (["{'y', 'x'}", "('x',)"], ["x|y", "x"], "multi-label"),
    (['["x"]', '["y"]'], ["x", "y"], "classification"),
    (['{"x": 1, "y": 0}', '{"x": true, "y": true}'], ["x", "x|y"], "multi-label"),
    (["[3, 17]", "[17]"], ["3|17", "17"], "multi-label"),
    (["[3.0]", "[17.0]"], ["3", "17"], "classification"),
    (["[0, 1]", "[1, 0]"], ["1", "0"], "classification"),
    (["[0, 1, 1]", "[0, 0, 0]", ""], ["1|2", "", ""], "multi-label"),
    (["[true, false]", "[false, true]"], ["0", "1"], "classification"),
    (["[1.0, 0.0]", "[1, 1]"], ["0", "0|1"], "multi-label"),
    (["[0 1 0]", "[1. 0. 1.]"], ["1", "0|2"], "multi-label"),
    (["0 1 0", "1 0 1"], ["1", "0|2"], "multi-label"),
    (["0,1", "1,0"], ["1", "0"], "classification"),
    (["0|1|0", "1|0|0"], ["1", "0"], "classification"),
    (["[0]", "[1]", "[0, 1]"], ["0", "1", "0|1"], "multi-label"),  # numbers of classes
    (["red|round", "red", ""], ["red|round", "red", ""], ""),
    (["[CLS]", "(a)", "{"], ["[CLS]", "(a)", "{"], ""),
    (["1.0", "nan", "NaN"], ["1.0", "", ""], ""),
    (["Paris, France", "London, England"], ["Paris, France", "London, England"], ""),
    (["+", "-", "a/b", "a"], ["+", "-", "a/b", "a"], ""),
    (["[0.2, 0.8]", "[1, 0]"], None, r"a.csv:1: the label '\[0.2, 0.8\]' holds something else than names"),
    (["[0, 1, 0]", "[1, 0]", "[0, 0, 0]"], None, "a.csv:2: .* has 2 places, and other vectors of 0 and 1 have 3"),
    (["['x']", "x"], None, "a.csv:2: the label 'x' is a text, and others are lists"),
    (['[["x"]]', '["y"]'], None, "a.csv:1: .* holds something else than names"),
    (['["a|b"]', '["y"]'], None, "a.csv:1: .* a name that is empty or has a bar in it"),
    (['{"x": 0.5}', '{"x": 1}'], None, "a.csv:1: .* an object whose values are not 0 or 1"),
    (["x, y", "x", "y"], None, "a.csv:1: the label 'x, y' reads as several labels, separated by ','"),
    (["x", "y", "x;y"], None, "a.csv:3: .* separated by ';'"),
    (["x", "y", "x y"], None, "a.csv:3: .* separated by spaces"),
    (["x", "y", "x\ny"], None, "a.csv:3: .* separated by line ends"),
    (["x", "y|z", "x/y"], None, "a.csv:3: .* separated by '/'"),
    (["3", "2,5", "1.25"], None, "a.csv:2: the label '2,5': a number with a decimal comma, or several labels"),
    (["体育", "财经", "体育、财经"], None, "a.csv:3: .* separated by '、'"),
  ],
)
def test_cells_name_one_label_or_several_or_are_asked_about(cells, labels, kind):
  if labels is None:
    with pytest.raises(UserError, match=kind):
      read(cells)
  else:
    found = read(cells)
    assert (found.labels, found.kind) == (labels, kind)


@pytest.mark.parametrize(
  "cells, message",
  [
    (["x, y", "z"], "a.csv:1: the label 'x, y' reads as several labels, separated by ','"),
    (["x", "a; b"], "a.csv:2: .* separated by ';'"),
    (["x", "x，y"], "a.csv:2: .* separated by '，'"),
    (["x y", "x", "y"], "a.csv:1: .* separated by spaces"),
  ],
)
def test_where_texts_are_said_to_have_several_labels_any_comma_is_asked_about(cells, message):
  with pytest.raises(UserError, match=message):
    read(cells, "multi-label")
  assert read(cells, "multi-label", asked=False).labels == cells
  assert read(cells, "classification").labels == cells


def test_a_comma_is_part_of_a_name_where_bars_separate():
  assert read(["sad, lonely|glad", "glad"], "multi-label").labels == ["sad, lonely|glad", "glad"]


def test_digits_without_marks_are_a_vector_only_where_labels_are_said_to_be_several():
  assert read(["010", "110"], "multi-label").labels == ["1", "0|1"] and read(["010", "110"]).labels == ["010", "110"]


def test_one_class_for_each_text_is_not_read_from_lists_of_several():
  assert read(["['x']", "['y']"], "classification").labels == ["x", "y"]
  with pytest.raises(UserError, match="a.csv:2: .* names 2 classes, and each text has one: --kind=multi-label"):
    read(["['x']", "['x', 'y']"], "classification")


@pytest.mark.parametrize(
  "names, line",
  [
    (["Good", "bad", "good"], 3),
    (["a b", "a  b"], 2),
    (["é", "e\u0301"], 2),
    (["x", "x\u200b"], 2),
    (["Ａ", "b", "A"], 3),
    (["good", "bad", "good"], None),
  ],
)
def test_labels_that_differ_only_in_how_they_are_written_are_asked_about(names, line):
  if line is None:
    check_spelling(names, range(1, 4), "a.csv")
    return
  with pytest.raises(UserError, match=f"a.csv:{line}: the labels .* differ only in how they are written"):
    check_spelling(names, range(1, 9), "a.csv")


def test_lists_in_a_file_to_evaluate_on_are_read_as_those_of_the_training_file(tmp_path):
  for name in ("train", "dev"):
    rows = [{"text": f"text {n}", "label": [n % 2, 1 - n % 2]} for n in range(20)]
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  found = load_splits(data=str(tmp_path / "train.jsonl"), dev=str(tmp_path / "dev.jsonl"), text="text", label="label")
  assert found.kind == "classification" and found.train.labels == found.dev.labels == ["1", "0"] * 10
  assert "counted from 0 to 1" in found.train.notes[0]


def test_capitals_that_differ_are_asked_about_in_a_table_of_ones_own(tmp_path):
  (tmp_path / "a.csv").write_text("text,label\n" + "a film,good\nanother,bad \none more,Good\n" * 9)
  with pytest.raises(UserError, match="a.csv:4: the labels 'good' and 'Good' differ only"):
    load_splits(data=str(tmp_path / "a.csv"), text="text", label="label")
