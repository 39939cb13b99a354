"""predictions.py: scores of every example in its place, and what they are compared with."""

import jax
import numpy as np
import pytest

from bert_jax import config as configs
from bert_jax.data.labelled import examples, features
from bert_jax.data.labelled.examples import Labelled, Labels
from bert_jax.data.labelled.questions import Question
from bert_jax.data.labelled.task_files import Examples
from bert_jax.data.tokenizer.wordpiece import load_tokenizer
from bert_jax.evaluation import predictions
from bert_jax.models.finetuning import FinetuningModel
from bert_jax.objectives import finetuning
from bert_jax.training import sharding
from tests.helpers.labelled_models import LABELS

TEXTS = [
  "the cat",
  "the cat sat on the mat",
  "a " * 40,
  "mat",
  "sat sat",
  "the mat, the cat.",
  "b c d e f g",
  "x",
  "the dog sat",
  "y " * 50,
  "cat cat",
]


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(configs.default_config())


def predictor(model, mesh):
  kind = model.labels.kind
  module = FinetuningModel(model.config, finetuning.KINDS[kind].target, len(model.labels.names), model.pooling)
  predict = predictions.make_predictor(module, kind, mesh)
  return lambda given, **more: predict(model.params, given, max_length=64, **{"batch_size": 8, **more})


@pytest.mark.parametrize("kind", ["classification", "token-classification"])
def test_scores_are_those_of_each_text_alone_in_the_order_of_the_texts(model_of, mesh, kind):
  model = model_of(kind)
  given = features.of_texts(model.tokenizer, TEXTS, None, np.zeros(len(TEXTS), np.int32), max_length=64)
  predict = predictor(model, mesh)
  found = predict(given)
  assert len(found) == len(TEXTS) and len({one.shape[0] for one in found}) > 1 or kind == "classification"
  for row, text in enumerate(TEXTS):
    (alone,) = predict(features.of_texts(model.tokenizer, [text], None, np.zeros(1, np.int32), max_length=64))
    np.testing.assert_allclose(found[row], alone, atol=1e-5)
    if kind == "token-classification":
      assert len(found[row]) == given.lengths[row]


def test_padding_can_neither_begin_nor_end_an_answer(model_of, mesh):
  model = model_of("question-answering")
  given = features.of_texts(model.tokenizer, TEXTS, None, np.zeros((len(TEXTS), 2), np.int32), max_length=64)
  module = FinetuningModel(model.config, finetuning.KINDS["question-answering"].target, 2)
  (_, batch), *_ = features.sorted_batches(given, batch_size=8, max_length=64)
  inputs = finetuning.model_inputs(batch["tokens"], batch["sequences"])
  scores = jax.jit(
    lambda params: finetuning.scores_of_tokens(module.apply({"params": params}, inputs), inputs, "question-answering")
  )(model.params)
  padding = np.asarray(inputs.segment_ids) == 0
  assert padding.any() and np.all(np.asarray(jax.nn.softmax(scores, axis=1))[padding] == 0.0)


def test_a_prediction_that_is_stopped_gives_nothing(model_of, mesh):
  model, calls = model_of("classification"), []
  given = features.of_texts(model.tokenizer, TEXTS, None, np.zeros(len(TEXTS), np.int32), max_length=64)
  assert predictor(model, mesh)(given, after_batch=lambda: calls.append(1) or True) is None and len(calls) == 1


def classes_of(gold, count=3):
  return np.eye(count, dtype=np.float32)[gold]


def test_certain_scores_are_perfect_by_the_metric_of_their_kind():
  """And scores of one example in the place of another are not: what is compared is what belongs together."""
  gold = np.array([0, 1, 2, 1, 0])
  labels = Labels("classification", ("a", "b", "c"))
  assert predictions.score(labels, Labelled(None, gold), list(classes_of(gold)))["accuracy"] == 1.0
  assert predictions.score(labels, Labelled(None, gold), list(classes_of(np.roll(gold, 1))))["accuracy"] < 0.5
  several = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
  found = predictions.score(Labels("multi-label", ("a", "b")), Labelled(None, several), list(several - 0.5))
  assert found["micro_f1"] == found["accuracy"] == 1.0
  scores = np.array([0.0, 2.5, 5.0], np.float32)
  found = predictions.score(Labels("regression", ("score",), 5.0), Labelled(None, scores), list(scores[:, None] / 5))
  assert found["mse"] == pytest.approx(0.0) and found["pearson"] == pytest.approx(1.0)


def test_words_that_did_not_fit_are_outside_of_entities(label_tokenizer):
  labels = LABELS["token-classification"]
  words, tags = (
    [["the", "cat", "sat"], ["xyz", "the", "mat", "on"]],
    [["O", "B-PER", "I-PER"], ["B-LOC", "O", "B-PER", "O"]],
  )
  tokenizer = load_tokenizer(label_tokenizer)
  given = Examples(words, None, tags, labels.kind)
  made = examples.prepare(given, labels, tokenizer, max_length=7, stride=4, training=False)
  scores = []
  for row in range(2):
    own = made.features.labels[made.features.offsets[row] : made.features.offsets[row + 1]]
    scores.append(np.eye(5, dtype=np.float32)[np.maximum(own, 0)])
  assert predictions.tags_of(labels, made.features, scores, [3, 4]) == [
    ["O", "B-PER", "I-PER"],
    ["B-LOC", "O", "B-PER", "O"],
  ]
  assert predictions.score(labels, made, scores)["f1"] == 1.0
  short = examples.prepare(given, labels, tokenizer, max_length=5, stride=4, training=False)  # "xyz" is three pieces
  scores = [
    np.eye(5, dtype=np.float32)[np.maximum(short.features.labels[a:b], 0)]
    for a, b in zip(short.features.offsets, short.features.offsets[1:])
  ]
  assert predictions.tags_of(labels, short.features, scores, [3, 4])[1] == ["B-LOC", "O", "O", "O"]
  assert predictions.score(labels, short, scores)["recall"] == pytest.approx(2 / 3)


def questions(label_tokenizer, asked):
  labels = LABELS["question-answering"]
  made = examples.prepare(
    Examples(asked, None, [], labels.kind),
    labels,
    load_tokenizer(label_tokenizer),
    max_length=96,
    stride=40,
    training=False,
  )
  scores = []
  for row, (begin, end) in enumerate(made.features.labels):
    one = np.zeros((int(made.features.lengths[row]), 2), np.float32)
    one[begin, 0] = one[end, 1] = 9.0
    scores.append(one)
  return labels, made, scores


def test_nothing_is_answered_only_where_some_question_has_no_answer(label_tokenizer):
  """SQuAD 1.1 has an answer to everything; a model of it must not lose by what it says of [CLS]."""
  answered = [Question("1", "who", "the cat sat", (("cat", 4),))]
  labels, made, scores = questions(label_tokenizer, [*answered, Question("2", "who", "the cat sat", ())])
  assert predictions.score(labels, made, scores) == {"exact_match": 1.0, "f1": 1.0}
  labels, made, scores = questions(label_tokenizer, answered)
  scores[0][0] += 100.0
  assert predictions.score(labels, made, scores)["exact_match"] == 1.0


def test_chinese_answers_are_compared_by_characters(label_tokenizer):
  labels, made, scores = questions(label_tokenizer, [Question("1", "who", "a b c d", (("b c", 2),))])
  made = made._replace(gold=[["b，c"]])
  assert (
    predictions.score(labels, made, scores, chinese=True)["exact_match"] == 0.0
  )  # the blank of the answer stays, as in CMRC's scorer
  made = made._replace(gold=[["b c。"]])
  assert predictions.score(labels, made, scores, chinese=True)["exact_match"] == 1.0
  assert predictions.score(labels, made, scores, chinese=False)["exact_match"] == 0.0


def test_what_is_measured_is_known_before(label_tokenizer):
  gold = np.array([0, 1])
  two, three = Labels("classification", ("a", "b")), Labels("classification", ("a", "b", "c"))
  several = Labels("multi-label", ("a", "b"))
  found = {
    two: predictions.score(two, Labelled(None, gold), list(classes_of(gold, 2))),
    three: predictions.score(three, Labelled(None, gold), list(classes_of(gold, 3))),
    several: predictions.score(several, Labelled(None, classes_of(gold, 2)), list(classes_of(gold, 2))),
    LABELS["regression"]: predictions.score(
      LABELS["regression"], Labelled(None, gold), list(classes_of(gold, 2)[:, :1])
    ),
  }
  labels, made, scores = questions(label_tokenizer, [Question("1", "who", "the cat sat", (("cat", 4),))])
  found[labels] = predictions.score(labels, made, scores)
  words = LABELS["token-classification"]
  made = examples.prepare(
    Examples([["the"]], None, [["O"]], words.kind),
    words,
    load_tokenizer(label_tokenizer),
    max_length=9,
    stride=4,
    training=False,
  )
  found[words] = predictions.score(words, made, [np.zeros((3, 5), np.float32)])
  assert {labels.kind for labels in found} == set(finetuning.KINDS)
  for labels, measured in found.items():
    assert set(predictions.metrics_of(labels)) == set(measured)
