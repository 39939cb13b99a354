"""What sentence embeddings are learned from: pairs and triplets of texts, pairs with a score or a class, or plain
lines.

Examples with an empty text are left out and counted.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.data.labelled import examples as labelled
from bert_jax.data.labelled.tables import is_table, read_table
from bert_jax.data.labelled.task_files import Examples, Splits, find_file, load_splits, notes_of, read_examples
from bert_jax.data.labelled.tasks import TASKS, TaskRow
from bert_jax.data.text.text_files import read_whole
from bert_jax.errors import UserError

_LABELLED = {"cosine": "regression", "softmax": "classification"}  # objectives that read a label, and its kind


class TextGroups(NamedTuple):
  """Examples of some texts each.

  Attributes:
    texts: S lists of N texts: the first of every example, the second of every example, …
    labels: float32 [N] scores divided by the largest, int32 [N] classes, or None.
    classes: names of the classes.
    notes: what was counted on the way, for people.
    files: where they come from.
  """

  texts: list[list[str]]
  labels: np.ndarray | None = None
  classes: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  files: tuple[str, ...] = ()


class Where(NamedTuple):
  """Where examples are to be found: the config keys tuning.* and, for `negative` and `dev_columns`, embedding.* of
  these names.
  """

  task: str = ""
  data: str = ""
  dev: str = ""
  text: str = ""
  text_pair: str = ""
  label: str = ""
  negative: str = ""
  dev_columns: str = ""


def load_groups(objective: str, where: Where) -> tuple[TextGroups, TextGroups | None]:
  """Reads the training texts, and the scored pairs for evaluation, if there are any.

  Args:
    objective: one of sentence_embedding.LOSSES.
    where: see there.

  Raises:
    UserError: files or columns that do not exist (those that do are listed), scores that are not numbers, no examples.
  """
  _check_columns(objective, where)
  task, data, dev, text, text_pair, label, negative, dev_columns = where
  if objective == "cosine" and not (dev and dev_columns):
    splits = load_splits(
      task=task, data=data, dev=dev, kind="" if task else "regression", text=text, text_pair=text_pair, label=label
    )
    return _of_examples(splits.train, splits.files[:1], "regression"), _of_examples(
      splits.dev, splits.files[-1:], "regression"
    )
  if not data or not os.path.exists(data):
    raise UserError(
      f"--data={data}: there is no such file" if data else "tuning.data is empty: give a file of texts, --data=FILE"
    )
  if os.path.isdir(data) and not task:
    raise UserError(f"--data={data} is a folder; give a file in it")
  own_kind = "regression" if objective == "cosine" else ""  # that labels are classes has to show
  row = TASKS.get(task) or TaskRow((), own_kind, "", (), text=(text,), text_pair=(text_pair,), label=(label,))
  path = find_file(data, row.train, task) if os.path.isdir(data) else data
  if objective in _LABELLED:
    kind = _LABELLED[objective]
    examples = read_examples(path, row)
    if examples.kind != kind:
      raise UserError(
        f"{path}: {objective} learns from one class for each pair; the column {label!r} reads as {examples.kind}"
        f"{', which --objective=cosine learns from' if examples.kind == 'regression' else ''}"
      )
    train = _of_examples(examples, (path,), kind)
  elif objective == "simcse":
    train = _of_columns(path, [text]) if text else _of_lines(path)
    train = train._replace(texts=train.texts * 2)
  else:
    train = _of_columns(path, [text, text_pair, *([negative] if negative else [])])
  return train, _scored(dev, dev_columns) if dev else None


def _check_columns(objective: str, where: Where) -> None:
  """Refuses an objective whose columns, or whose task, are not given. Raises UserError."""
  kind, task = _LABELLED.get(objective), where.task
  if task and task not in TASKS:
    raise UserError(
      f"tuning.task={task!r} is not known; it is one of {', '.join(TASKS)}, or empty for data of your own"
    )
  if task:
    fits = [name for name, row in TASKS.items() if row.kind == kind and row.text_pair and row.format == "table"]
    if task not in fits:
      able = (
        f"; {objective} learns from {', '.join(fits)}"
        if fits
        else f"; {objective} learns from files of your own, --data=FILE --text=…"
      )
      raise UserError(f"--task={task} does not fit --objective={objective}{able}")
    return
  needed = {"simcse": (), "in-batch": ("text", "text_pair"), "triplet": ("text", "text_pair", "negative")}
  missing = [name for name in needed.get(objective, ("text", "text_pair", "label")) if not getattr(where, name)]
  if missing:
    raise UserError(f"--objective={objective} needs more columns: give {', '.join(f'--{name}=…' for name in missing)}")


def _of_examples(examples: Examples, files: tuple[str, ...], kind: str) -> TextGroups:
  labels = labelled.labels_of(Splits(examples, examples, kind, False, files))
  if kind == "classification":
    values = np.array([labels.names.index(name) for name in examples.labels], np.int32)
  else:
    values = np.array([float(score) for score in examples.labels], np.float32) / np.float32(labels.scale)
  classes = labels.names if kind == "classification" else ()
  return TextGroups([examples.first, examples.second or []], values, classes, examples.notes, files)


def _scored(path: str, columns: str) -> TextGroups:
  """Pairs with scores, in columns that are given, or called as in STS-B."""
  names = columns.split(",") if columns else []
  if columns and len(names) != 3:
    raise UserError(
      f"embedding.dev_columns={columns!r}: expected three names, of the first text, the second, and the score: "
      "a,b,score"
    )
  if not os.path.isfile(path):
    raise UserError(f"--dev={path}: there is no such file; it holds pairs of texts with a score")
  row = TASKS["stsb"]
  if columns:
    row = row._replace(text=(names[0],), text_pair=(names[1],), label=(names[2],))
  try:
    return _of_examples(read_examples(path, row), (path,), "regression")
  except UserError as error:
    raise UserError(
      f"{str(error).partition(';')[0]}; evaluation pairs have columns sentence1, sentence2 and score, or "
      "--config.embedding.dev_columns=FIRST,SECOND,SCORE names them"
    ) from error


def _of_columns(path: str, columns: Sequence[str]) -> TextGroups:
  table = read_table(path, columns)
  rows = list(zip(*(map(str.strip, table.texts(name)) for name in columns)))
  return _without_empty([list(column) for column in zip(*rows)], path, ragged=table.ragged)


def _of_lines(path: str) -> TextGroups:
  """A text per line; empty lines say nothing."""
  if is_table(path):
    raise UserError(
      f"{path} is a table: say which column holds the text, --text=…; it has: "
      f"{', '.join(read_table(path, ['?']).columns)}"
    )
  lines = [text.strip() for _, text in read_whole(path)]
  return _without_empty([lines], path)


def _without_empty(texts: list[list[str]], path: str, ragged: int = 0) -> TextGroups:
  kept = [row for row in zip(*texts) if all(row)]
  if not kept:
    raise UserError(f"{path} holds no complete example")
  notes = notes_of(path, ragged=ragged, empty=len(texts[0]) - len(kept))
  return TextGroups([list(column) for column in zip(*kept)], notes=notes, files=(path,))
