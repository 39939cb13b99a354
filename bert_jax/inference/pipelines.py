"""Using a fine-tuned model: classes or scores of texts, entities in them, answers to questions.

Everything is a function of inference.Model, whose `labels` say what its outputs mean.

Shape legend: B texts, L tokens, C labels.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy import special

from bert_jax.batch import ModelInputs
from bert_jax.data.labelled import questions
from bert_jax.data.labelled.questions import Answer, Question
from bert_jax.data.labelled.tags import spans_of
from bert_jax.data.tokenizer.wordpiece import encode_with_offsets
from bert_jax.errors import UserError
from bert_jax.inference.model import Model, batches_by_length, encode_texts, finite, list_of, make_inputs
from bert_jax.models.config import EncoderConfig
from bert_jax.models.finetuning import FinetuningModel
from bert_jax.objectives import finetuning

_BATCH = 32


class Label(NamedTuple):
  """A label that a model gives.

  Attributes:
    name: of the class; "score" for regression.
    value: its probability, or the score itself.
  """

  name: str
  value: float


class Entity(NamedTuple):
  """A piece of text with a type.

  Attributes:
    kind: its type, such as PER.
    text: as it stands there.
    begin, end: where, in characters.
    probability: mean probability of its words' tags.
  """

  kind: str
  text: str
  begin: int
  end: int
  probability: float


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _apply(config: EncoderConfig, kind: str, num_labels: int, pooling: str, params, inputs: ModelInputs) -> jax.Array:
  model = FinetuningModel(config, finetuning.KINDS[kind].target, num_labels, pooling)
  return finetuning.scores_of_tokens(model.apply({"params": params}, inputs), inputs, kind)


def scores_of(model: Model, inputs: ModelInputs) -> jax.Array:
  """The scores of a fine-tuned model, before any softmax: float32 [B, C] of texts, [B, L, C] of tokens, [B, L, 2] of
  answers.

  Pure, differentiable in model.params, compiled once per shape. Raises UserError for a model that is not fine-tuned.
  """
  labels = _labels(model)
  return _apply(model.config, labels.kind, len(labels.names), model.pooling, model.params, inputs)


def classify(model: Model, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[list[Label]]:
  """The labels of each text, the likeliest first.

  Args:
    model: fine-tuned with classification (probabilities of all classes, which add up to 1), multi-label (of each class
      by itself) or regression (one score).
    texts: those longer than Model.max_length lose their end.
    pairs: the second text of each, where the model was trained on pairs.

  Raises:
    UserError: a model for something else, single texts for one of pairs, or pairs for one of single texts.
  """
  labels = _labels(model, "classification", "multi-label", "regression")
  texts, pairs = list_of(texts), None if pairs is None else list_of(pairs)
  if pairs is not None and len(pairs) != len(texts):
    raise UserError(f"{len(texts)} texts and {len(pairs)} second texts; expected as many")
  if labels.pairs not in (None, pairs is not None):
    raise UserError(
      f"{model.origin} was fine-tuned on "
      + ("pairs of texts: give the second text of each (--text_pair)" if labels.pairs else "single texts, not on pairs")
    )
  result = []
  for scores in _in_batches(model, [(a, b) for a, b, _ in encode_texts(model, texts, pairs)]):
    if labels.kind == "regression":
      result.append([Label(labels.names[0], float(scores[0]) * labels.scale)])
      continue
    probabilities = special.softmax(scores) if labels.kind == "classification" else special.expit(scores)
    found = [Label(name, float(value)) for name, value in zip(labels.names, probabilities)]
    result.append(sorted(found, key=lambda label: -label.value))
  return result


def count_cut(model: Model, texts: Sequence[str], pairs: Sequence[str] | None = None) -> int:
  """How many texts, or pairs, are longer than Model.max_length, so that `classify` and `find_entities` do not see
  their end.
  """
  return sum(was_cut for _, _, was_cut in encode_texts(model, texts, pairs))


def find_entities(model: Model, texts: Sequence[str]) -> list[list[Entity]]:
  """The entities in each text, in order; texts are split into words as BERT does; those longer than Model.max_length
  lose their end.

  Raises:
    UserError: a model that was not fine-tuned with token-classification.
  """
  labels = _labels(model, "token-classification")
  texts = list_of(texts)
  template = model.tokenizer.template
  limit = model.max_length - template.room(pair=False)
  result = []
  encodings = encode_with_offsets(model.tokenizer, texts)
  scores = _in_batches(model, [(encoding.ids[:limit], []) for encoding in encodings])
  for text, encoding, one in zip(texts, encodings, scores):
    firsts = [
      place
      for place, word in enumerate(encoding.word_ids[:limit])
      if place == 0 or word != encoding.word_ids[place - 1]
    ]
    ends = [*(first - 1 for first in firsts[1:]), min(len(encoding.ids), limit) - 1] if firsts else []
    probabilities = special.softmax(one[template.offset :][firsts], axis=-1)
    tags = [_with_prefix(labels.names[index]) for index in np.argmax(probabilities, axis=-1)]
    entities = []
    for kind, first, last in spans_of(tags):
      begin, end = encoding.offsets[firsts[first]][0], encoding.offsets[ends[last]][1]
      entities.append(
        Entity(kind, text[begin:end], begin, end, float(probabilities[first : last + 1].max(axis=-1).mean()))
      )
    result.append(entities)
  return result


def _with_prefix(tag: str) -> str:
  """A tag as IOB has it. Other people's models have tags like NOUN: equal ones beside each other are taken together."""
  return tag if tag == "O" or tag[:2] in ("B-", "I-", "E-", "S-", "M-") else f"I-{tag}"


def answer(model: Model, asked: Sequence[tuple[str, str]]) -> list[Answer]:
  """The best answer to each (question, text); a text may be of any length. See Answer.is_none.

  Raises:
    UserError: a model that was not fine-tuned with question-answering.
  """
  _labels(model, "question-answering")
  numbered = [Question(str(number), question, context, ()) for number, (question, context) in enumerate(asked)]
  windows = questions.make_windows(model.tokenizer, numbered, max_length=model.max_length, stride=model.stride)
  features = windows.features
  rows = [features.tokens[begin:end].tolist() for begin, end in zip(features.offsets, features.offsets[1:])]
  texts = [windows.template.texts(len(row), int(first)) for row, first in zip(rows, features.first_lengths)]
  sequences = [(row[question], row[context]) for row, (question, context) in zip(rows, texts)]
  return questions.answers_of(windows, numbered, list(_in_batches(model, sequences)))


def _labels(model: Model, *kinds: str):
  """Raises UserError where a model does not do what is asked of it."""
  if model.labels is None:
    raise UserError(f"{model.origin} is not fine-tuned and has no labels; fine-tune it with `bert_jax finetune`")
  if kinds and model.labels.kind not in kinds:
    raise UserError(f"{model.origin} was fine-tuned for {model.labels.kind}, not for {' or '.join(kinds)}")
  return model.labels


def _in_batches(model: Model, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]):
  """Scores of each sequence of ids, float32 NumPy [C] or [L, C], in their order, padding of the row included."""
  found = [None] * len(sequences)
  for members, filled in batches_by_length(
    [len(a) + len(b) for a, b in sequences], min(_BATCH, max(len(sequences), 1))
  ):
    inputs = make_inputs(model, [sequences[i] for i in filled])
    scores = np.asarray(scores_of(model, inputs), np.float32)
    for i, one, length in zip(members, scores, inputs.sequence_lengths[:, 0]):
      finite(model, one[:length] if one.ndim > 1 else one, "the scores")
      found[i] = one
  return found
