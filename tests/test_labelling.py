"""labelling.py, and the export of fine-tuned models: transformers' pipelines say the same of the same texts."""

import functools
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from tests.model_fixtures import draw_weights, fast_compilation  # noqa: F401  (an autouse fixture)

from bert_jax import finetune, labelling, model_card, task_metrics
from bert_jax.convert import folder
from bert_jax.data import tokenizer as tokenizers
from bert_jax.data.labelled import Labels
from bert_jax.errors import UserError
from bert_jax.inference import Model, load_model, make_inputs
from bert_jax.models.config import EncoderConfig
from bert_jax.models.finetuning import FinetuningModel

CONFIG = EncoderConfig(
    vocab_size=130, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=100,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
LABELS = {
    "classification": Labels("classification", ("negative", "neutral", "positive")),
    "multi-label": Labels("multi-label", ("red", "green", "blue", "round")),
    "regression": Labels("regression", ("score",), 5.0),
    "token-classification": Labels("token-classification", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
    "question-answering": Labels("question-answering", ("begin", "end")),
}
TEXTS = ["the cat sat on the mat", "a dog, b 12", "the mat", "x y z " * 12]
PAIRS = ["the dog", "on a cat", "z", "mat mat mat"]


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
  words = ["the", "cat", "sat", "on", "mat", ".", ",", *string.ascii_lowercase, *string.digits]
  vocabulary = [*tokenizers.SPECIAL_TOKENS, *words, *(f"##{letter}" for letter in string.ascii_lowercase)]
  vocabulary += [f"[unused{n}]" for n in range(CONFIG.vocab_size - len(vocabulary))]
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizers.save_tokenizer(tokenizers.build_tokenizer(vocabulary, lowercase=True), path, max_length=100)
  return path


@pytest.fixture(scope="module")
def model_of(tokenizer_dir):
  """kind -> a fine-tuned model with weights that were drawn."""

  @functools.cache
  def make(kind, pooling="pooler"):
    module = FinetuningModel(CONFIG, finetune.KINDS[kind].target, len(LABELS[kind].names), pooling)
    shapes = jax.eval_shape(finetune.make_task(module, kind).init, jax.random.key(0))
    rng = np.random.default_rng(len(kind))
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: draw_weights(rng, leaf.shape, scale=path[-1].key == "scale"), shapes)
    heads = frozenset({"pooler"} if "pooler" in params else ())
    return Model(CONFIG, params, tokenizers.load_tokenizer(tokenizer_dir), heads, "drawn", tokenizer_dir, LABELS[kind], pooling)

  return make


@pytest.fixture(scope="module")
def exported(model_of, tmp_path_factory):
  """kind -> the folder of its export."""

  @functools.cache
  def write(kind):
    model, out = model_of(kind), tmp_path_factory.mktemp("exported") / kind
    head = folder.head_of(model.labels)
    card = model_card.make_card(model, head=head, format="transformers", workdir=None)
    folder.write_folder(out, model.params, model.config, model.tokenizer_folder, head=head, labels=model.labels, card=card)
    return out

  return write


@pytest.mark.parametrize("kind", ["classification", "multi-label", "regression"])
@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_a_pipeline_gives_the_same_labels(model_of, exported, kind, pairs):
  pipeline = transformers.pipeline("text-classification", str(exported(kind)), top_k=None)
  inputs = TEXTS if pairs is None else [{"text": a, "text_pair": b} for a, b in zip(TEXTS, pairs)]
  theirs = [pipeline(one) for one in inputs]
  theirs = [one[0] if isinstance(one[0], list) else one for one in theirs]
  for model in (model_of(kind), load_model(exported(kind))):
    for ours, its in zip(labelling.classify(model, TEXTS, pairs), theirs, strict=True):
      assert [label.name for label in ours] == [one["label"] for one in its]
      np.testing.assert_allclose([label.value for label in ours], [one["score"] for one in its], rtol=1e-4, atol=1e-5)


def test_a_pipeline_finds_the_same_entities(model_of, exported):
  """Of words in one piece, where its aggregation and ours are the same thing."""
  texts = ["the cat sat on the mat", "a , b . 1 2", "mat the cat x y z"]
  pipeline = transformers.pipeline("token-classification", str(exported("token-classification")))
  labels = LABELS["token-classification"].names
  total = 0
  for text, ours in zip(texts, labelling.find_entities(model_of("token-classification"), texts), strict=True):
    tags = {one["start"]: one["entity"] for one in pipeline(text)}
    words = text.split()
    begins = np.cumsum([0, *(len(word) + 1 for word in words)])[:-1]
    expected = [(kind, int(begins[first]), int(begins[last] + len(words[last])))
                for kind, first, last in task_metrics.spans_of([tags.get(begin, "O") for begin in begins])]  # fmt: skip
    assert [(one.kind, one.begin, one.end) for one in ours] == expected
    assert all(one.text == text[one.begin : one.end] for one in ours)
    total += len(ours)
  assert total >= 3 and set(labels)


def test_the_answers_are_those_of_transformers_scores(model_of, exported):
  """transformers 5 has no question-answering pipeline, so its model's own scores are searched, without any window."""
  context, question = "the cat sat on the mat a b c d", "cat mat"
  found = transformers.AutoModelForQuestionAnswering.from_pretrained(exported("question-answering")).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported("question-answering"))
  encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
  places = encoded.pop("offset_mapping")[0].numpy()
  with torch.no_grad():
    scores = found(**encoded)
  begin, end = scores.start_logits[0].numpy(), scores.end_logits[0].numpy()
  first, last = int(encoded["token_type_ids"][0].argmax()), encoded["input_ids"].shape[1] - 2
  best = max((begin[i] + end[j], i, j) for i in range(first, last + 1) for j in range(i, last + 1))
  (ours,) = labelling.answer(model_of("question-answering"), [(question, context)])
  assert ours.text == context[places[best[1]][0] : places[best[2]][1]] and ours.score == pytest.approx(best[0], rel=1e-4)
  assert ours.null == pytest.approx(begin[0] + end[0] - best[0], rel=1e-3, abs=1e-3)


def test_a_text_longer_than_the_model_is_answered_from_windows(model_of):
  context = " ".join(["the cat sat on the mat ."] * 60)
  (found,) = labelling.answer(model_of("question-answering"), [("cat", context)])
  assert found.text and context[found.begin :].startswith(found.text)


def test_scores_are_differentiable_and_jit_able(model_of):
  model = model_of("classification")
  inputs = make_inputs(model, [([10, 11], []), ([12, 13, 14], [])])
  loss = lambda params: jnp.sum(labelling.scores_of(model._replace(params=params), inputs)[:, 0])
  gradients = jax.jit(jax.grad(loss))(model.params)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
  assert np.abs(gradients["classifier"]["dense"]["kernel"][:, 0]).sum() > 0


def test_many_texts_of_many_lengths_come_back_in_their_order(model_of):
  model, texts = model_of("regression"), [("cat " * (1 + number % 17)).strip() for number in range(70)]
  together = [labels[0].value for labels in labelling.classify(model, texts)]
  alone = [labelling.classify(model, [text])[0][0].value for text in texts[:18]]
  np.testing.assert_allclose(together[:18], alone, rtol=1e-4)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda model: labelling.find_entities(model, ["a"]), "was fine-tuned for classification, not for token-classification"),
        (lambda model: labelling.answer(model, [("a", "b")]), "not for question-answering"),
        (lambda model: labelling.classify(model, ["a"], ["b", "c"]), "1 texts and 2 second texts"),
        (lambda model: labelling.classify(model._replace(labels=None), ["a"]), "not fine-tuned: it has no labels"),
    ],
)
def test_a_model_is_asked_only_for_what_it_learned(model_of, call, words):
  with pytest.raises(UserError, match=words):
    call(model_of("classification"))


def test_a_card_tells_how_to_load_what_it_lies_beside(exported):
  text = (exported("token-classification") / "README.md").read_text(encoding="utf-8")
  assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: token-classification")
  assert "AutoModelForTokenClassification" in text and "B-PER" in text
