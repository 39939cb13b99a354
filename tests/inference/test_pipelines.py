"""pipelines.py, and the export of fine-tuned models: transformers' pipelines say the same of the same texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bert_jax.data.labelled import questions
from bert_jax.data.labelled.questions import Question
from bert_jax.data.labelled.tags import spans_of
from bert_jax.errors import UserError
from bert_jax.inference import pipelines
from bert_jax.inference.model import load_model, make_inputs
from tests.helpers.labelled_models import LABELS

TEXTS = ["the cat sat on the mat", "a dog, b 12", "the [MASK]", "x y z " * 12]
PAIRS = ["the dog", "on a cat", "z", "mat mat mat"]


@pytest.mark.parametrize("kind", ["classification", "multi-label", "regression"])
@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_a_pipeline_gives_the_same_labels(model_of, exported_labels, kind, pairs):
  pipeline = transformers.pipeline("text-classification", str(exported_labels(kind)), top_k=None)
  inputs = TEXTS if pairs is None else [{"text": a, "text_pair": b} for a, b in zip(TEXTS, pairs)]
  theirs = [pipeline(one) for one in inputs]
  theirs = [one[0] if isinstance(one[0], list) else one for one in theirs]
  for model in (model_of(kind), load_model(exported_labels(kind))):
    for ours, its in zip(pipelines.classify(model, TEXTS, pairs), theirs, strict=True):
      assert [label.name for label in ours] == [one["label"] for one in its]
      np.testing.assert_allclose([label.value for label in ours], [one["score"] for one in its], rtol=1e-4, atol=1e-5)


def test_a_pipeline_finds_the_same_entities(model_of, exported_labels):
  """Of words in one piece, where its aggregation and ours are the same thing."""
  texts = ["the cat sat on the mat", "a , b . 1 2", "mat the cat x y z"]
  pipeline = transformers.pipeline("token-classification", str(exported_labels("token-classification")))
  labels = LABELS["token-classification"].names
  total = 0
  for text, ours in zip(texts, pipelines.find_entities(model_of("token-classification"), texts), strict=True):
    tags = {one["start"]: one["entity"] for one in pipeline(text)}
    words = text.split()
    begins = np.cumsum([0, *(len(word) + 1 for word in words)])[:-1]
    expected = [
      (kind, int(begins[first]), int(begins[last] + len(words[last])))
      for kind, first, last in spans_of([tags.get(begin, "O") for begin in begins])
    ]
    assert [(one.kind, one.begin, one.end) for one in ours] == expected
    assert all(one.text == text[one.begin : one.end] for one in ours)
    total += len(ours)
  assert total >= 3 and set(labels)


def test_the_line_of_the_card_finds_the_same_entities_in_words_of_many_pieces(model_of, exported_labels):
  folder, texts = (
    exported_labels("token-classification"),
    ["thecat satonthe mat, onmat", "a catmatsat (bcd) xyz.", "matthe u.s. on the catcat"],
  )
  (line,) = (line for line in (folder / "README.md").read_text().splitlines() if line.startswith("pipeline("))
  for text in texts:
    found = eval(line.replace('"a text"', repr(text)), {"HERE": str(folder), "pipeline": transformers.pipeline})
    (ours,) = pipelines.find_entities(model_of("token-classification"), [text])
    assert [(one["entity_group"], one["start"], one["end"]) for one in found] == [
      (one.kind, one.begin, one.end) for one in ours
    ] and ours


def test_equal_tags_without_a_prefix_beside_each_other_are_one_entity(model_of, monkeypatch):
  """As models of other people have them, for parts of speech."""
  model = model_of("token-classification")
  tags = iter([["NOUN", "NOUN", "O", "VERB"]])
  monkeypatch.setattr(
    pipelines,
    "_in_batches",
    lambda model, sequences: [np.eye(3)[[0, *({"O": 0, "NOUN": 1, "VERB": 2}[tag] for tag in next(tags)), 0]]],
  )
  named = model._replace(labels=model.labels._replace(names=("O", "NOUN", "VERB")))
  (found,) = pipelines.find_entities(named, ["a b c d"])
  assert [(one.kind, one.text) for one in found] == [("NOUN", "a b"), ("VERB", "d")]


def test_the_answers_are_those_of_transformers_scores(model_of, exported_labels):
  """transformers 5 has no question-answering pipeline, so its model's own scores are searched, without any window."""
  context, question = "the cat sat on the mat a b c d", "cat mat"
  found = transformers.AutoModelForQuestionAnswering.from_pretrained(exported_labels("question-answering")).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported_labels("question-answering"))
  encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
  places = encoded.pop("offset_mapping")[0].numpy()
  with torch.no_grad():
    scores = found(**encoded)
  begin, end = scores.start_logits[0].numpy(), scores.end_logits[0].numpy()
  first, last = int(encoded["token_type_ids"][0].argmax()), encoded["input_ids"].shape[1] - 2
  best = max((begin[i] + end[j], i, j) for i in range(first, last + 1) for j in range(i, last + 1))
  (ours,) = pipelines.answer(model_of("question-answering"), [(question, context)])
  assert ours.text == context[places[best[1]][0] : places[best[2]][1]] and ours.score == pytest.approx(
    best[0], rel=1e-4
  )
  assert ours.null_score == pytest.approx(begin[0] + end[0], rel=1e-3, abs=1e-3)


def test_a_text_longer_than_the_model_is_answered_from_windows(model_of):
  context = " ".join(["the cat sat on the mat ."] * 60)
  (found,) = pipelines.answer(model_of("question-answering"), [("cat", context)])
  assert found.text and context[found.begin :].startswith(found.text)


def test_windows_overlap_as_in_training(model_of):
  """Another stride is another way to cut the text, and the answers are then those of other windows."""
  context, model = (
    " ".join(f"the cat sat on {letter} mat ." for letter in "abcdefghijklmnop"),
    model_of("question-answering"),
  )
  examples = [Question("0", "cat", context, ())]
  for stride in (20, 60):
    windows = questions.make_windows(model.tokenizer, examples, max_length=model.max_length, stride=stride)
    rows = [
      (row[1 : first - 1], row[first:-1])
      for row, first in (
        (windows.features.tokens[begin:end].tolist(), first)
        for begin, end, first in zip(
          windows.features.offsets, windows.features.offsets[1:], windows.features.first_lengths
        )
      )
    ]
    scores = [np.asarray(pipelines.scores_of(model, make_inputs(model, [row]))[0]) for row in rows]
    (expected,), (found,) = (
      questions.answers_of(windows, examples, scores),
      pipelines.answer(model._replace(stride=stride), [("cat", context)]),
    )
    assert (found.begin, found.text) == (expected.begin, expected.text) and found.null_score == pytest.approx(
      expected.null_score, abs=1e-3
    )


def test_scores_are_differentiable_and_jit_able(model_of):
  model = model_of("classification")
  inputs = make_inputs(model, [([10, 11], []), ([12, 13, 14], [])])
  loss = lambda params: jnp.sum(pipelines.scores_of(model._replace(params=params), inputs)[:, 0])
  gradients = jax.jit(jax.grad(loss))(model.params)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
  assert np.abs(gradients["classifier"]["dense"]["kernel"][:, 0]).sum() > 0


def test_many_texts_of_many_lengths_come_back_in_their_order(model_of):
  model, texts = model_of("regression"), [("cat " * (1 + number % 17)).strip() for number in range(70)]
  together = [labels[0].value for labels in pipelines.classify(model, texts)]
  alone = [pipelines.classify(model, [text])[0][0].value for text in texts[:18]]
  np.testing.assert_allclose(together[:18], alone, rtol=1e-4)


def test_a_model_of_pairs_wants_pairs_and_one_of_texts_wants_texts(model_of):
  model = model_of("classification")
  of = lambda pairs: model._replace(labels=model.labels._replace(pairs=pairs))
  assert pipelines.classify(of(True), ["a"], ["b"]) == pipelines.classify(of(None), ["a"], ["b"])
  assert pipelines.classify(of(False), ["a"]) == pipelines.classify(of(None), ["a"])
  with pytest.raises(UserError, match="was fine-tuned on pairs of texts: give the second text of each"):
    pipelines.classify(of(True), ["a"])
  with pytest.raises(UserError, match="was fine-tuned on single texts, not on pairs"):
    pipelines.classify(of(False), ["a"], ["b"])


@pytest.mark.parametrize(
  "call, words",
  [
    (
      lambda model: pipelines.find_entities(model, ["a"]),
      "was fine-tuned for classification, not for token-classification",
    ),
    (lambda model: pipelines.answer(model, [("a", "b")]), "not for question-answering"),
    (lambda model: pipelines.classify(model, ["a"], ["b", "c"]), "1 texts and 2 second texts"),
    (lambda model: pipelines.classify(model._replace(labels=None), ["a"]), "not fine-tuned and has no labels"),
  ],
)
def test_a_model_is_asked_only_for_what_it_learned(model_of, call, words):
  with pytest.raises(UserError, match=words):
    call(model_of("classification"))


def test_a_card_tells_how_to_load_what_it_lies_beside(exported_labels):
  text = (exported_labels("token-classification") / "README.md").read_text(encoding="utf-8")
  assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: token-classification")
  assert "AutoModelForTokenClassification" in text and "B-PER" in text
