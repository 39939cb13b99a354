"""Labelled examples out of files: the tasks of tasks.py in their native formats, and people's own tables.

What is wrong with a file is said with its line. What can be lived with is counted: texts that are empty, labels that
say "no agreement", answers that do not stand where the file says.
"""

import collections
import hashlib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from bert_jax.data.labelled.label_cells import SEPARATOR, check_spelling, names_in, read_cells
from bert_jax.data.labelled.questions import Question, answers_stand, answers_with_text, read_squad
from bert_jax.data.labelled.tables import Table, is_table, read_records, read_table
from bert_jax.data.labelled.tagged_words import check_tag, iob2, read_conll
from bert_jax.data.labelled.tasks import TASKS, TaskRow
from bert_jax.data.text import tfds_texts
from bert_jax.errors import UserError

_NO_AGREEMENT = "-"  # SNLI, MNLI, OCNLI; in somebody's own file it is a label like any other
HELD_OUT = 0.1  # share of the training examples that the model is judged by where there is no dev file
_WHOLE_FLOAT = re.compile(r"^(-?\d+)\.0+$")
_WORDS, _TAGS = ("tokens", "words"), ("ner_tags", "tags", "ner", "labels")  # what lists of them are called in JSON
_CLASSES_AT_MOST = 500
_WHOLE_AT_MOST = 20  # different whole numbers that are taken as classes; more may be scores as well
_NUMBERS = 0.9  # of the labels; scores that are not numbers are mistakes then, which are named
TFDS = "tfds"  # instead of a folder: TensorFlow Datasets
KINDS_OF_FORMAT = {"conll": "token-classification", "squad": "question-answering"}


class Examples(NamedTuple):
  """Examples of one split, as text.

  Attributes:
    first: texts; for token-classification lists of words; for question-answering Questions.
    second: the second texts of pairs, else None.
    labels: as they stand in the file: strings; for token-classification lists of tags (IOB2); for question-answering
      empty.
    kind: one of finetuning.KINDS: what the labels are.
    notes: what was counted on the way, for people.
  """

  first: list
  second: list[str] | None
  labels: list
  kind: str
  notes: tuple[str, ...] = ()

  def subset(self, rows: Sequence[int]) -> "Examples":
    """Some of the examples."""
    pick = lambda values: [values[row] for row in rows]
    return self._replace(
      first=pick(self.first),
      second=None if self.second is None else pick(self.second),
      labels=pick(self.labels) if self.labels else [],
    )


class Splits(NamedTuple):
  """What a model is trained and evaluated on.

  Attributes:
    train, dev: the examples.
    kind: one of finetuning.KINDS.
    held_out: dev is a part of the training file, for there was no other.
    files: where they come from.
  """

  train: Examples
  dev: Examples
  kind: str
  held_out: bool
  files: tuple[str, ...]


def load_splits(
  *, task: str = "", data: str = "", dev: str = "", kind: str = "", text: str = "", text_pair: str = "", label: str = ""
) -> Splits:
  """Reads the examples of a task or of somebody's own files; arguments as the config keys tuning.* and
  finetune.kind.

  Raises:
    UserError: an unknown task or column (those that there are are listed), missing files, unusable labels.
  """
  if task and task not in TASKS:
    raise UserError(
      f"tuning.task={task!r} is not known; it is one of {', '.join(TASKS)}, or empty for data of your own"
    )
  if task and kind and kind != TASKS[task].kind:
    raise UserError(
      f"finetune.kind={kind!r}, but {task} is {TASKS[task].kind}: leave --kind out, or --task and say which columns "
      "are meant"
    )
  if not data:
    raise UserError("tuning.data is empty: give the folder with the task's files, or a file of your own, --data=…")
  if dev and not os.path.exists(dev):
    raise UserError(f"--dev={dev}: there is no such file")
  if data == TFDS:
    return _from_tfds(task, dev)
  if not os.path.exists(data):
    raise UserError(f"--data={data}: there is no such file or folder")
  if os.path.isdir(data) and not task:
    raise UserError(
      f"--data={data} is a folder: say which task it holds, --task={'|'.join(list(TASKS)[:4])}|…, or give a file"
    )
  row = TASKS[task] if task else _own_row(data, kind, text, text_pair, label)
  train_path = find_file(data, row.train, task) if os.path.isdir(data) else data
  dev_path = dev or (find_file(data, row.dev, task, needed=False) if os.path.isdir(data) else "")
  train = read_examples(train_path, row)
  if not dev_path or (not dev and dev_path == train_path):  # CMRC's trial file is both where it is alone
    return Splits(*_hold_out(train), train.kind, True, (train_path,))
  return Splits(
    train,
    read_examples(dev_path, row._replace(kind=train.kind), asked=False),
    train.kind,
    False,
    (train_path, dev_path),
  )


def read_dev(task: str, data: str, dev: str = "") -> tuple[Examples, str]:
  """All examples of the file that a task is evaluated on, for evaluation without training; and that file.

    Args:
      task: one of TASKS.
      data: its folder, or a file.
  dev: a file to evaluate on instead.

    Raises:
      UserError: as load_splits.
  """
  row = TASKS[task]
  file = dev or (find_file(data, (*row.dev, *row.train), task) if os.path.isdir(data) else data)
  return read_examples(file, row), file


def _from_tfds(task: str, dev: str) -> Splits:
  """The examples of a task as TensorFlow Datasets has them, downloaded by it where they are not on disk; `dev`: a file
  to evaluate on instead of its split.
  """
  row = TASKS.get(task)
  if row is None or not row.tfds:
    having = ", ".join(name for name, one in TASKS.items() if one.tfds)
    raise UserError(f"--data={TFDS} has no task {task!r}; it has {having}")
  found = tfds_texts.find(row.tfds)
  read = lambda split: _of_rows(list(tfds_texts.read_rows(found._replace(split=split))), row, f"{found.name}:{split}")
  train = read("train")  # of a data set that is not on disk before this, the splits may not be known
  if dev:
    return Splits(train, read_examples(dev, row), row.kind, False, (f"tfds:{row.tfds}:train", dev))
  known = tuple(found.builder.info.splits)
  split = next((split for split in ("validation", "validation_matched", "dev", "test") if split in known), "validation")
  return Splits(train, read(split), row.kind, False, (f"tfds:{row.tfds}:train", f"tfds:{row.tfds}:{split}"))


def _of_rows(rows: list[dict], row: TaskRow, name: str) -> Examples:
  """Examples from the features of TensorFlow Datasets."""
  if row.format == "conll":
    return Examples([one["tokens"] for one in rows], None, [iob2(one["ner"]) for one in rows], row.kind)
  if row.format == "squad":
    answers = lambda one: answers_with_text(zip(one["answers"]["text"], one["answers"]["answer_start"]))
    return Examples(
      [Question(one["id"], one["question"], one["context"], answers(one)) for one in rows], None, [], row.kind
    )
  columns = tuple(rows[0]) if rows else ()
  named = lambda value, column: row.tfds_labels.get(value, value) if column in row.label else value
  cells = [[str(named(one[column], column)) for column in columns] for one in rows]
  return _from_table(Table(name, columns, cells, list(range(1, len(rows) + 1)), 0), row)


def _own_row(data: str, kind: str, text: str, text_pair: str, label: str) -> TaskRow:
  """A row like those of TASKS for a file of somebody's own."""
  name = pathlib.PurePath(data).name.lower()
  format = "conll" if kind == "token-classification" else "squad" if kind == "question-answering" else "table"
  if format == "table" and not kind and not text and any(mark in name for mark in (".conll", ".bio", ".iob")):
    format = "conll"
  if format == "table" and not (text and label):
    listed = ", ".join(read_table(data, ["?"]).columns)
    raise UserError(
      f"{data}: say which columns are meant, --text=… --label=… and, for pairs, --text_pair=…; its first line: "
      f"{listed}. CoNLL and SQuAD files have no columns: --kind=token-classification or "
      "--kind=question-answering"
    )
  columns = (
    {"text": (text,), "text_pair": (text_pair,) if text_pair else (), "label": (label,)} if format == "table" else {}
  )
  if format == "conll":  # for lists of words and tags in JSON
    columns = {"text": (text,) if text else _WORDS, "label": (label,) if label else _TAGS}
  return TaskRow((), KINDS_OF_FORMAT.get(format, kind), "", (), format=format, **columns)


def find_file(folder: str, names: tuple[str, ...], task: str, needed: bool = True) -> str:
  """The first of `names` that lies in a folder, compressed or not."""
  for name in names:
    for ending in ("", ".gz", ".xz", ".bz2", ".zst"):
      if (path := os.path.join(folder, name + ending)) and os.path.isfile(path):
        return path
  if not needed:
    return ""
  there = ", ".join(sorted(os.listdir(folder))[:20]) or "nothing"
  raise UserError(
    f"{folder} has no training file of {task} ({' or '.join(names)}); it holds {there}. Or give the files themselves: "
    "--data=FILE --dev=FILE"
  )


def read_examples(path: str, row: TaskRow, *, asked: bool = True) -> Examples:
  """The examples of one file, its format and columns as those of a task. Raises UserError.

  `asked`: labels that read as several are asked about; of a file to evaluate on they have to be those of the training
  file.
  """
  if row.format == "conll":
    return _read_tagged(path, row) if is_table(path, (".json", ".jsonl")) else _read_conll(path, row)
  if row.format == "squad":
    questions = read_squad(path)
    wrong = [one.name for one in questions if not answers_stand(one)]
    named = (
      f"{len(wrong):,} answers are not at the positions that {path} gives: "
      f"{', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}; left out of training"
    )
    return Examples(questions, None, [], row.kind, (named,) if wrong else ())
  table = read_table(path, [str(name) for name in (*row.text, *row.text_pair, *row.label)])
  return _from_table(table, row, asked=asked)


def _from_table(table: Table, row: TaskRow, *, asked: bool = False) -> Examples:
  path = table.path
  first, label = table.texts(_column(table, row.text)), table.column(_column(table, row.label))
  second = table.texts(_column(table, row.text_pair)) if row.text_pair else None
  no_label = {"", _NO_AGREEMENT} if row.suites else {""}
  label, kind, notes = read_cells(label, table.lines, path, row.kind, asked=asked and not row.suites)
  kind = kind or _kind_of([one for one in label if one.strip() not in no_label], path)
  if kind == "multi-label":  # a text may have none of several labels
    no_label -= {""}
  kept = [
    i
    for i in range(len(first))
    if label[i].strip() not in no_label and first[i].strip() and (second is None or second[i].strip())
  ]
  unlabelled = sum(one.strip() in no_label for one in label)
  empty = len(first) - len(kept) - unlabelled
  notes += notes_of(path, ragged=table.ragged, unlabelled=unlabelled, empty=empty)
  if not kept:
    raise UserError(f"{path}: none of its {len(first):,} lines has a text and a label; are the columns right?")
  all_of_them = Examples(
    [one.strip() for one in first],
    None if second is None else [one.strip() for one in second],
    [_plain(one) if kind == "classification" else one.strip() for one in label],
    kind,
  )
  if _may_be_header(table, label, kind):
    notes += (
      f"the label {label[0]!r} of the first line of {path} occurs nowhere else: is that line a header? Call columns "
      "by their names then",
    )
  examples = all_of_them.subset(kept)._replace(notes=notes)
  if kind in ("classification", "multi-label") and not row.suites:
    named = [(name, table.lines[i]) for i in kept for name in names_in(all_of_them.labels[i], kind)]
    check_spelling([name for name, _ in named], [line for _, line in named], path)
  if kind == "regression":
    _check_scores(examples.labels, path, [table.lines[i] for i in kept])
  return examples


def _plain(label: str) -> str:
  """A class without white space around it; of a whole number that is written as a float, as pandas does beside missing
  ones, the number.
  """
  return _WHOLE_FLOAT.sub(r"\1", label.strip())


def notes_of(path: str, *, ragged: int = 0, unlabelled: int = 0, empty: int = 0) -> tuple[str, ...]:
  """What is said of the lines of a table that are left out; nothing of those that there are none of."""
  counted = {"have too few or too many columns": ragged, "have no label": unlabelled, "have an empty text": empty}
  return tuple(f"{count:,} lines of {path} {what}" for what, count in counted.items() if count)


def _may_be_header(table: Table, label: list[str], kind: str) -> bool:
  """Whether the first line of a table that is read without a header has labels of its own, while others occur again
  and again.
  """
  if table.columns[0] != "0" or kind not in ("classification", "multi-label"):
    return False
  counts = collections.Counter(name for one in label for name in names_in(one, kind))
  first = names_in(label[0], kind)
  return bool(first) and max(counts.values()) > 1 and all(counts[name] == 1 for name in first)


def _column(table: Table, names: tuple[str | int, ...]) -> str:
  """The first of `names` that a table has. Raises UserError listing what it has."""
  known = [str(name) for name in names if str(name) in table.columns]
  if not known:
    wanted = " or ".join(repr(str(name)) for name in names)
    raise UserError(f"{table.path} has no column {wanted}; it has: {', '.join(table.columns)}")
  return known[0]


def _check_scores(labels: list[str], path: str, lines: list[int]) -> None:
  for text, line in zip(labels, lines):
    if not is_number(text):
      raise UserError(
        f"{path}:{line}: the score {text!r} is not a number; regression needs numbers; for classes use "
        "--kind=classification"
      )


def is_number(text: str) -> bool:
  """Whether a label reads as a finite number."""
  try:
    return abs(float(text)) < float("inf") and "_" not in text
  except ValueError:
    return False


def _kind_of(labels: list[str], path: str) -> str:
  """What the labels of somebody's own table are."""
  if any(SEPARATOR in label for label in labels):
    return "multi-label"
  different = set(labels)
  numbers = {label for label in different if is_number(label)}
  if sum(label in numbers for label in labels) > _NUMBERS * len(labels):
    values = {float(label) for label in numbers}
    if not all(value.is_integer() for value in values):
      return "regression"
    if len(values) > _WHOLE_AT_MOST:
      raise UserError(
        f"{path}: {len(values):,} different whole numbers, {min(values):.0f} to {max(values):.0f}: are they classes "
        "or scores? Say --kind=classification or --kind=regression"
      )
  if len(different) > _CLASSES_AT_MOST or len(different) > max(20, len(labels) / 2):
    raise UserError(
      f"{path}: {len(different):,} different labels, such as {sorted(different)[0]!r}; is that the right column? If "
      "it is, say so: --kind=classification"
    )
  return "classification"


def _read_conll(path: str, row: TaskRow) -> Examples:
  named = lambda names, usual: "" if names in ((), usual) else str(names[0])
  found = read_conll(path, named(row.text, _WORDS), named(row.label, _TAGS))
  return Examples(found.words, None, found.tags, row.kind, found.notes)


def _read_tagged(path: str, row: TaskRow) -> Examples:
  """Objects with a list of words and a list of tags, as Hugging Face's datasets write them; tags become IOB2."""
  words, tags = [], []
  for line, record in read_records(path):
    columns = [next((name for name in names if name in record), None) for names in (row.text, row.label)]
    if None in columns:
      raise UserError(
        f"{path}:{line}: expected a list of words and one of their tags, called {row.text[0]} and {row.label[0]}; "
        f"there are: {', '.join(record)}; say which are meant, --text=… --label=…"
      )
    own = [record[name] for name in columns if name]
    if not all(isinstance(one, list) and all(isinstance(cell, str) for cell in one) for one in own) or len(
      own[0]
    ) != len(own[1]):
      raise UserError(
        f"{path}:{line}: expected as many tags in {columns[1]} as words in {columns[0]}, all of them texts; of tags "
        "that are numbers write the names, as B-PER"
      )
    for tag in own[1]:
      check_tag(tag, f"{path}:{line}")
    if own[0]:
      words.append(own[0])
      tags.append(iob2(own[1]))
  if not words:
    raise UserError(f"{path} holds no words")
  return Examples(words, None, tags, row.kind)


def _hold_out(examples: Examples) -> tuple[Examples, Examples]:
  """(the rest, a tenth), chosen by the content of the first text, so that the pairs of one text stay together.

  Texts with a class that would not occur in the rest stay in it.
  """
  content_of = lambda one: one.context if isinstance(one, Question) else " ".join(one) if isinstance(one, list) else one
  contents = [content_of(one) for one in examples.first]
  held = {
    one for one in contents if int.from_bytes(hashlib.sha256(one.encode()).digest()[:4], "big") < HELD_OUT * 2**32
  }
  notes = examples.notes
  if examples.kind not in ("regression", "question-answering"):
    named = [names_in(label, examples.kind) for label in examples.labels]
    known = {name for names, content in zip(named, contents) if content not in held for name in names}
    rare = {content for names, content in zip(named, contents) if content in held and not known.issuperset(names)}
    held -= rare
    notes += (
      (f"{len(rare):,} texts with a rare label stay in the training set instead of being held out",) if rare else ()
    )
  rows = [[row for row, content in enumerate(contents) if (content in held) is side] for side in (False, True)]
  if not all(rows):
    raise UserError(
      f"{len(contents):,} examples of {len(set(contents)):,} different texts are too few to hold some of them out; "
      "give an evaluation file, --dev=FILE"
    )
  return examples.subset(rows[0])._replace(notes=notes), examples.subset(rows[1])._replace(notes=())
