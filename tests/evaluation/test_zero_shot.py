"""zero_shot.py: each token hidden in turn, as transformers would do it; similarity by each pooling."""

import math

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from bert_jax.errors import UserError
from bert_jax.evaluation import zero_shot
from bert_jax.inference import model as inference


@pytest.fixture(scope="module")
def trained(finished):
  return finished[1]


def test_pseudo_perplexity_is_that_of_a_loop_over_transformers_predictions(trained):
  texts = ["The array file is small.", "a list", "one key error function returns a value and takes the next"]
  model = transformers.AutoModelForMaskedLM.from_pretrained(trained / "export").eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(trained / "export")
  expected = []
  for text in texts:
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    nats = []
    for place in range(1, ids.shape[1] - 1):
      hidden = ids.clone()
      hidden[0, place] = tokenizer.mask_token_id
      with torch.no_grad():
        logits = model(hidden).logits[0, place]
      nats.append(-torch.log_softmax(logits, -1)[ids[0, place]].item())
    expected.append(math.exp(np.mean(nats)))
  np.testing.assert_allclose(zero_shot.pseudo_perplexity(inference.load_model(trained), texts), expected, rtol=1e-4)


def test_an_empty_text_has_no_perplexity(trained):
  assert np.isnan(zero_shot.pseudo_perplexity(inference.load_model(trained), ["", "a list"])[0])


def test_words_that_the_model_does_not_know_are_not_counted(trained):
  model = inference.load_model(trained)
  unknown = "\u0f40"
  assert model.tokenizer.backend.encode(unknown, add_special_tokens=False).tokens == ["[UNK]"]
  assert np.isnan(zero_shot.pseudo_perplexity(model, [unknown])[0])
  assert zero_shot.pseudo_perplexity(model, [f"a list {unknown}"])[0] < model.config.vocab_size * 10


def test_similarity_is_spearman_of_the_cosines(trained):
  model = inference.load_model(trained)
  first, second, scores = (
    ["the array", "a small file", "this list", "one key"],
    ["the file", "a large name", "this list", "two"],
    np.array([1.0, 0.5, 5.0, 2.0]),
  )
  found = zero_shot.similarity(model, first, second, scores)
  assert set(found) == {"cls", "pooler", "mean", "max"}
  for pooling, value in found.items():
    vectors = inference.encode(model, [*first, *second], pooling).vectors
    cosines = [np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(vectors[:4], vectors[4:])]
    assert value == pytest.approx(stats.spearmanr(scores, cosines)[0], abs=1e-6)


def test_a_model_without_an_mlm_head_is_refused(trained):
  model = inference.load_model(trained)
  with pytest.raises(UserError, match="needs the masked-language-model head"):
    zero_shot.pseudo_perplexity(model._replace(heads=frozenset({"pooler"})), ["a"])
