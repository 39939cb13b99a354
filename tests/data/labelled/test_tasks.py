"""tasks.py: every task is read from files as its makers distribute them, and says where its figure comes from."""

import csv
import io
import json

import pytest

from bert_jax.data.labelled.examples import labels_of
from bert_jax.data.labelled.task_files import load_splits
from bert_jax.data.labelled.tasks import SUITES, TASKS
from bert_jax.objectives import finetuning


def tsv(*rows):
  return "\n".join("\t".join(map(str, row)) for row in rows) + "\n"


def comma(*rows, quoting=csv.QUOTE_MINIMAL):
  text = io.StringIO()
  csv.writer(text, quoting=quoting).writerows(rows)
  return text.getvalue()


def lines(*records):
  return "\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n"


def squad(version, *answers):
  """Questions about "The cat, a \"big\" one, sat."; None: one without an answer."""
  context = 'The cat, a "big" one, sat.'
  asked = [
    {
      "id": str(number),
      "question": "What?",
      "answers": [{"text": answer, "answer_start": context.index(answer)}] if answer else [],
      **({"is_impossible": not answer} if version == "v2.0" else {}),
    }
    for number, answer in enumerate(answers)
  ]
  return json.dumps(
    {"version": version, "data": [{"title": "Cats", "paragraphs": [{"context": context, "qas": asked}]}]}
  )


def conll(*rows):
  return "-DOCSTART- -X- -X- O\n\n" + "".join(f"{row}\n" if row else "\n" for row in rows)


NLI = lines(
  {"gold_label": "entailment", "sentence1": 'A "cat".', "sentence2": "It.", "annotator_labels": ["entailment"]},
  {"gold_label": "-", "sentence1": "A dog.", "sentence2": "It."},
  {"gold_label": "neutral", "sentence1": "A.", "sentence2": "B."},
)
PAIR = [['a"b', "c"], ["d", "e, f"]]
BMES = "中 B-LOC\n国 E-LOC\n人 O\n\n我 S-PER\n"
# task: files in their native format, each with the two examples that are expected, in their order: (first, second,
# label).
FILES = {
  "cola": (
    {"train.tsv": tsv(["gj04", 1, "", 'He "ran.'], ["gj04", 0, "*", "Ran he."])},
    [('He "ran.', None, "1"), ("Ran he.", None, "0")],
  ),
  "sst2": (
    {"train.tsv": tsv(["sentence", "label"], ['a " film ', 1], ["bad", 0])},
    [('a " film', None, "1"), ("bad", None, "0")],
  ),
  "mrpc": (
    {
      "msr_paraphrase_train.txt": "\ufeff"
      + tsv(["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], [1, 7, 8, *PAIR[0]], [0, 9, 9, *PAIR[1]])
    },
    [(*PAIR[0], "1"), (*PAIR[1], "0")],
  ),
  "stsb": (
    {
      "train.tsv": tsv(
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"],
        [0, "main", "f", "2012", 1, "none", "none", *PAIR[0], "5.000"],
        [1, "main", "f", "2012", 2, "none", "none", *PAIR[1], "0.25"],
      )
    },
    [(*PAIR[0], "5.000"), (*PAIR[1], "0.25")],
  ),
  "qqp": (
    {
      "train.tsv": tsv(
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], [1, 2, 3, *PAIR[0], 0], [4, 5, 6, *PAIR[1], 1]
      )
    },
    [(*PAIR[0], "0"), (*PAIR[1], "1")],
  ),
  "mnli": (
    {
      "train.tsv": tsv(
        ["index", "promptID", "pairID", "genre", "sentence1", "sentence2", "label1", "gold_label"],
        [0, 1, 2, "g", *PAIR[0], "x", "neutral"],
        [1, 1, 2, "g", *PAIR[1], "x", "entailment"],
      )
    },
    [(*PAIR[0], "neutral"), (*PAIR[1], "entailment")],
  ),
  "qnli": (
    {
      "train.tsv": tsv(
        ["index", "question", "sentence", "label"], [0, *PAIR[0], "entailment"], [1, *PAIR[1], "not_entailment"]
      )
    },
    [(*PAIR[0], "entailment"), (*PAIR[1], "not_entailment")],
  ),
  "rte": (
    {
      "train.tsv": tsv(
        ["index", "sentence1", "sentence2", "label"], [0, *PAIR[0], "entailment"], [1, *PAIR[1], "not_entailment"]
      )
    },
    [(*PAIR[0], "entailment"), (*PAIR[1], "not_entailment")],
  ),
  "snli": ({"snli_1.0_train.jsonl": NLI}, [('A "cat".', "It.", "entailment"), ("A.", "B.", "neutral")]),
  "agnews": (
    {"train.csv": comma([3, 'Oil, "up"', "Again, so\\so"], [1, "War", "No"], quoting=csv.QUOTE_ALL)},
    [('Oil, "up"', "Again, so\\so", "3"), ("War", "No", "1")],
  ),
  "squad": ({"train-v1.1.json": squad("1.1", "cat", "big")}, [("cat", 4), ("big", 12)]),
  "squad2": ({"train-v2.0.json": squad("v2.0", "cat", None)}, [("cat", 4), None]),
  "conll2003": (
    {"eng.train": conll("EU NNP I-NP I-ORG", "US NNP I-NP B-ORG", "", "He PRP I-NP O")},
    [(["EU", "US"], ["B-ORG", "B-ORG"]), (["He"], ["O"])],
  ),
  "chnsenticorp": (
    {"train.tsv": tsv(["label", "text_a"], [1, '房间"好'], [0, "差，"])},
    [('房间"好', None, "1"), ("差，", None, "0")],
  ),
  "tnews": (
    {
      "train.json": lines(
        {"label": "108", "label_desc": "news_edu", "sentence": "上课", "keywords": ""},
        {"label": "104", "label_desc": "news_finance", "sentence": "股票", "keywords": "股"},
      )
    },
    [("上课", None, "news_edu"), ("股票", None, "news_finance")],
  ),
  "ocnli": (
    {
      "train.50k.json": lines(
        {"sentence1": "甲", "sentence2": "乙", "label": "neutral"},
        {"sentence1": "丙", "sentence2": "丁", "label": "-"},
        {"sentence1": "戊", "sentence2": "己", "label": "entailment"},
      )
    },
    [("甲", "乙", "neutral"), ("戊", "己", "entailment")],
  ),
  "afqmc": (
    {
      "train.json": lines(
        {"sentence1": "甲", "sentence2": "乙", "label": "0"}, {"sentence1": "丙", "sentence2": "丁", "label": "1"}
      )
    },
    [("甲", "乙", "0"), ("丙", "丁", "1")],
  ),
  "lcqmc": ({"train.txt": tsv(["甲", "乙", 1], ["丙", "丁", 0])}, [("甲", "乙", "1"), ("丙", "丁", "0")]),
  "stsb-zh": (
    {"stsb-zh-train.csv": comma(["甲,乙", "丙", 4.2], ["丁", "戊", 0.0])},
    [("甲,乙", "丙", "4.2"), ("丁", "戊", "0.0")],
  ),
  "cmrc2018": ({"cmrc2018_train.json": squad("v1.0", "cat", "big")}, [("cat", 4), ("big", 12)]),
  "weibo-ner": (
    {"weiboNER_2nd_conll.train": "中0\tB-LOC.NAM\n国1\tI-LOC.NAM\n\n人0\tO\n"},
    [(["中", "国"], ["B-LOC.NAM", "I-LOC.NAM"]), (["人"], ["O"])],
  ),
  "peoples-daily-ner": ({"example.train": BMES}, [(["中", "国", "人"], ["B-LOC", "I-LOC", "O"]), (["我"], ["B-PER"])]),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_read_from_the_files_of_its_makers(tmp_path, task):
  row, (files, expected) = TASKS[task], FILES[task]
  ((name, content),) = files.items()
  dev = row.dev[row.train.index(name) if len(row.dev) > row.train.index(name) else 0]
  for path in (tmp_path / name, tmp_path / dev):
    path.write_text(content, encoding="utf-8")
  found = load_splits(task=task, data=str(tmp_path))
  assert found.kind == row.kind and not found.held_out and found.files == (str(tmp_path / name), str(tmp_path / dev))
  for examples in (found.train, found.dev):
    if row.kind == "question-answering":
      assert [one.answers[0] if one.answers else None for one in examples.first] == expected
    elif row.kind == "token-classification":
      assert list(zip(examples.first, examples.labels)) == expected
    else:
      assert list(zip(examples.first, examples.second or [None] * 2, examples.labels)) == expected
  assert labels_of(found).kind == row.kind


def test_every_task_says_how_it_is_judged_and_where_its_figure_comes_from():
  for name, row in TASKS.items():
    assert set(row.suites) <= set(SUITES) and row.suites and row.kind in finetuning.KINDS and row.train and row.dev, (
      name
    )
    assert row.format != "table" or (row.text and row.label), name
    assert row.published is None or (
      0 < row.published.value < 1 and "arXiv" in row.published.source and row.published.split in ("dev", "test")
    ), name


@pytest.mark.parametrize("task", [name for name, row in TASKS.items() if row.tfds_labels])
def test_the_classes_of_tensorflow_datasets_are_those_of_the_files_in_their_order(task):
  """So that label 1, whose F1 scores MRPC and QQP, is the same one."""
  tfds = pytest.importorskip("tensorflow_datasets")
  row = TASKS[task]
  features = tfds.builder(row.tfds).info.features
  (label,) = [name for name in row.label if name in features]
  assert list(row.tfds_labels) == features[label].names and list(row.tfds_labels.values()) == sorted(
    row.tfds_labels.values()
  )
