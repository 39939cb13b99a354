"""model.py: what a model computes is a result only where it is finite, and pairs go to models that can tell them
apart.
"""

import dataclasses

import jax
import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.evaluation import similarity, zero_shot
from bert_jax.inference import pipelines
from bert_jax.inference.model import encode, fill_mask, load_model, make_inputs, next_sentence
from bert_jax.tools.explore.logit_lens import logit_lens

TEXTS = ["the cat", "the dog sat"]
QUESTIONS = {
  "encode": lambda model: encode(model, TEXTS),
  "tokens": lambda model: encode(model, TEXTS, "tokens"),
  "fill_mask": lambda model: fill_mask(model, "the [MASK]"),
  "next_sentence": lambda model: next_sentence(model, [("the cat", "the dog")]),
  "pseudo_perplexity": lambda model: zero_shot.pseudo_perplexity(model, TEXTS),
  "cosines": lambda model: similarity.cosines_of_pairs(model, TEXTS, TEXTS),
  "logit_lens": lambda model: logit_lens(model, "the [MASK]"),
}


@pytest.fixture(scope="module")
def model(exported):
  return load_model(exported / "pretraining")


@pytest.mark.parametrize("asked", QUESTIONS)
def test_an_answer_that_has_overflowed_is_no_answer(model, asked):
  QUESTIONS[asked](model)
  # Every weight is finite, and what they give is not.
  huge = model._replace(params=jax.tree.map(lambda x: np.full_like(x, 3e38), model.params))
  with pytest.raises(UserError, match="came out as NaN or infinite, so there is no result"):
    QUESTIONS[asked](huge)


@pytest.mark.parametrize("kind", ["classification", "multi-label", "regression", "token-classification"])
def test_labels_are_not_read_from_scores_that_are_not_finite(model_of, kind):
  model = model_of(kind)
  huge = model._replace(params=jax.tree.map(lambda x: np.full_like(x, 3e38), model.params))
  ask = pipelines.find_entities if kind == "token-classification" else pipelines.classify
  assert ask(model, TEXTS)
  with pytest.raises(UserError, match="the scores came out as NaN or infinite"):
    ask(huge, TEXTS)


def test_a_pair_needs_two_token_types(model):
  one = model._replace(config=dataclasses.replace(model.config, type_vocab_size=1))
  make_inputs(one, [([5], [])])
  with pytest.raises(UserError, match=r"has 1 token type \(type_vocab_size=1\)"):
    make_inputs(one, [([5], [6])])
