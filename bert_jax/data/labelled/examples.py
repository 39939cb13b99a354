"""From labelled examples to what a model is trained and evaluated on: names of labels, token ids, and gold values."""

import collections
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.labelled import features, questions
from bert_jax.data.labelled.features import Features
from bert_jax.data.labelled.label_cells import names_in
from bert_jax.data.labelled.questions import Windows
from bert_jax.data.labelled.task_files import Examples, Splits, is_number
from bert_jax.data.tokenizer.wordpiece import Tokenizer
from bert_jax.errors import UserError

IMBALANCE = 3.0  # a class that is so much more frequent than another one is worth a line


class Labels(NamedTuple):
  """What the outputs of a model mean.

  Attributes:
    kind: one of finetuning.KINDS.
    names: of the classes or tags, in the order of the outputs; ("score",) for regression, ("begin", "end") for answers.
    scale: regression: scores are learned divided by it.
    pairs: whether they are labels of pairs of texts; None: not known.
  """

  kind: str
  names: tuple[str, ...]
  scale: float = 1.0
  pairs: bool | None = None


class Labelled(NamedTuple):
  """Examples ready for a model.

  Attributes:
    features: token ids and labels; for question-answering those of `windows`.
    gold: what predictions are compared with: int [N], float [N], [N, C] of 0 and 1, lists of tags, or lists of answers.
    windows, asked: for question-answering the windows and the questions, else None.
  """

  features: Features
  gold: Any
  windows: Windows | None = None
  asked: list | None = None


def labels_of(splits: Splits) -> Labels:
  """Finds the labels of a training split.

  Raises:
    UserError: one class or one score alone, questions none of which has an answer, or labels that only dev has.
  """
  kind, pairs = splits.kind, splits.train.second is not None
  if kind == "regression":
    for examples, file in ((splits.train, splits.files[0]), (splits.dev, splits.files[-1])):
      if len({float(label) for label in examples.labels}) < 2:
        raise UserError(
          f"{file}: all {len(examples.labels):,} scores are {examples.labels[0]}: a correlation needs "
          "different scores; is that the right column?"
        )
    return Labels(kind, ("score",), max(abs(float(label)) for label in splits.train.labels), pairs)
  if kind == "question-answering":
    if not any(one.answers for one in splits.train.first):
      raise UserError(
        f"{splits.files[0]}: none of its {len(splits.train.first):,} questions has an answer: there is nothing to learn"
      )
    return Labels(kind, ("begin", "end"))
  known, judged = (_names(kind, examples) for examples in (splits.train, splits.dev))
  if len(known) < (1 if kind == "multi-label" else 2):
    raise UserError(
      f"{splits.files[0]} has a single class, {next(iter(known), 'none')!r}: there is nothing to learn; is that the "
      "right column?"
    )
  new = sorted(set(judged) - set(known))
  if new:
    raise UserError(
      f"{splits.files[-1]} has labels that do not occur in {splits.files[0]}: {', '.join(new[:10])}; the model could "
      "never predict them"
    )
  names = sorted(known, key=lambda name: (0, float(name), name) if is_number(name) else (1, 0.0, name))
  if kind == "token-classification":
    names = ["O", *(name for name in names if name != "O")]
  return Labels(kind, tuple(names), pairs=pairs)


def _names(kind: str, examples: Examples) -> collections.Counter:
  return collections.Counter(name for label in examples.labels for name in names_in(label, kind))


def describe_balance(examples: Examples, kind: str) -> str:
  """One line about frequent and rare classes, or empty where they are about equal."""
  if kind not in ("classification", "multi-label"):
    return ""
  counts = _names(kind, examples)
  (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
  if many < IMBALANCE * few:
    return ""
  total = len(examples.labels)
  told = f"classes are not balanced: {most!r} has {many / total:.1%} of {total:,}, {least!r} {few / total:.1%}; "
  if kind == "multi-label":
    return told + "look at macro_f1 besides micro_f1"
  return told + f"always predicting {most!r} reaches that accuracy, so look at macro_f1 or mcc besides accuracy"


def prepare(
  examples: Examples, labels: Labels, tokenizer: Tokenizer, *, max_length: int, stride: int, training: bool
) -> Labelled:
  """Token ids, labels and gold values of a split.

  Args:
    examples: see Examples.
    labels: of the training split.
    tokenizer: the model's.
    max_length, stride: see the config keys tuning.max_length and finetune.stride.
    training: leave out questions whose answers are not where they should be; evaluation may keep them.
  """
  kind, number = labels.kind, {name: index for index, name in enumerate(labels.names)}
  if kind == "question-answering":
    asked = examples.first
    if training:
      asked = [one for one in asked if questions.answers_stand(one)]
      if not asked:
        raise UserError(
          f"not one of the {len(examples.first):,} questions has its answers where the file says (answer_start counts "
          "characters of the context from 0): there is nothing to train on"
        )
    windows = questions.make_windows(tokenizer, asked, max_length=max_length, stride=stride)
    gold = [[text for text, _ in one.answers] for one in asked]
    return Labelled(windows.features, gold, windows, asked)
  if kind == "token-classification":
    tags = [[number[tag] for tag in own] for own in examples.labels]
    return Labelled(features.of_words(tokenizer, examples.first, tags, max_length=max_length), examples.labels)
  gold = _gold(examples.labels, labels, number)
  values = gold / labels.scale if kind == "regression" else gold
  return Labelled(features.of_texts(tokenizer, examples.first, examples.second, values, max_length=max_length), gold)


def _gold(given: Sequence[str], labels: Labels, number: dict[str, int]) -> np.ndarray:
  if labels.kind == "regression":
    return np.array([float(label) for label in given], np.float32)
  if labels.kind == "classification":
    return np.array([number[label] for label in given], np.int32)
  several = np.zeros((len(given), len(labels.names)), np.float32)
  for row, label in enumerate(given):
    several[row, [number[name] for name in names_in(label, labels.kind)]] = 1.0
  return several


def fingerprint(part: Features) -> str:
  """SHA-256 of the token ids and labels of a split: what a resumed run must find again."""
  digest = hashlib.sha256()
  for array in (part.tokens, part.offsets, part.first_lengths, part.labels):
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()
