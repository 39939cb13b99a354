"""Fine-tuned models of every kind with weights that were drawn, and their exports."""

import functools
import string

import jax
import numpy as np
import pytest

from bert_jax.data.labelled.examples import Labels
from bert_jax.data.tokenizer import wordpiece as tokenizers
from bert_jax.export import export
from bert_jax.inference.model import Model
from bert_jax.models.config import EncoderConfig
from bert_jax.models.finetuning import FinetuningModel
from bert_jax.objectives import finetuning
from tests.model_fixtures import draw_weights

CONFIG = EncoderConfig(
  vocab_size=130,
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=4,
  intermediate_size=64,
  max_position_embeddings=100,
  hidden_dropout_prob=0.0,
  attention_probs_dropout_prob=0.0,
)
LABELS = {
  "classification": Labels("classification", ("negative", "neutral", "positive")),
  "multi-label": Labels("multi-label", ("red", "green", "blue", "round")),
  "regression": Labels("regression", ("score",), 5.0),
  "token-classification": Labels("token-classification", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
  "question-answering": Labels("question-answering", ("begin", "end")),
}


@pytest.fixture(scope="session")
def label_tokenizer(tmp_path_factory):
  words = ["the", "cat", "sat", "on", "mat", ".", ",", *string.ascii_lowercase, *string.digits]
  vocabulary = [*tokenizers.SPECIAL_TOKENS, *words, *(f"##{letter}" for letter in string.ascii_lowercase)]
  vocabulary += [f"[unused{n}]" for n in range(CONFIG.vocab_size - len(vocabulary))]
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizers.save_tokenizer(tokenizers.build_tokenizer(vocabulary, lowercase=True), path, max_length=100)
  return path


@pytest.fixture(scope="session")
def model_of(label_tokenizer):
  """kind -> a fine-tuned model with weights that were drawn."""

  @functools.cache
  def make(kind, pooling="pooler"):
    module = FinetuningModel(CONFIG, finetuning.KINDS[kind].target, len(LABELS[kind].names), pooling)
    shapes = jax.eval_shape(finetuning.make_task(module, kind).init, jax.random.key(0))
    rng = np.random.default_rng(len(kind))
    params = jax.tree_util.tree_map_with_path(
      lambda path, leaf: draw_weights(rng, leaf.shape, scale=path[-1].key == "scale"), shapes
    )
    heads = frozenset({"pooler"} if "pooler" in params else ())
    return Model(
      CONFIG,
      params,
      tokenizers.load_tokenizer(label_tokenizer),
      heads,
      "drawn",
      CONFIG.max_position_embeddings,
      label_tokenizer,
      LABELS[kind],
      pooling,
    )

  return make


@pytest.fixture(scope="session")
def exported_labels(model_of, tmp_path_factory):
  """kind -> the folder of its export."""

  @functools.cache
  def write(kind):
    model, out = model_of(kind), tmp_path_factory.mktemp("exported") / kind
    export.export_model(model, out)
    return out

  return write
