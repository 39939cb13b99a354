"""A tiny BERT whose every tensor is drawn, and a tokenizer for it."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import string

import numpy as np
import pytest

from bert_jax.convert import bert, folder
from bert_jax.data.tokenizer import wordpiece as tokenizers
from bert_jax.models.config import EncoderConfig
from tests.model_fixtures import draw_weights, fast_compilation  # noqa: F401  (the second is a fixture)


@pytest.fixture(scope="session")
def config() -> EncoderConfig:
  """All sizes differ, so that none can be taken for another; no dropout, so that training can be compared."""
  return EncoderConfig(
    vocab_size=130,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=80,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
  ).validate()


@pytest.fixture(scope="session")
def tensors(config) -> dict[str, np.ndarray]:
  """The tensors of a BertForPreTraining under Hugging Face's names."""
  rng = np.random.default_rng(0)
  return {
    entry.theirs: draw_weights(rng, bert.their_shape(entry, config), scale="LayerNorm.weight" in entry.theirs)
    for entry in bert.entries(config)
  }


@pytest.fixture(scope="session")
def params(tensors, config):
  """The same as our parameter tree, with all heads."""
  return bert.from_huggingface(tensors, config)[0]


@pytest.fixture(scope="session")
def tokenizer_dir(config, tmp_path_factory):
  words = ["the", "cat", "sat", "on", "mat", ".", ",", *string.ascii_lowercase, *string.digits]
  vocabulary = [*tokenizers.SPECIAL_TOKENS, *words, *(f"##{letter}" for letter in string.ascii_lowercase)]
  vocabulary += [f"[unused{n}]" for n in range(config.vocab_size - len(vocabulary))]
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizer = tokenizers.build_tokenizer(vocabulary, lowercase=True)
  tokenizers.save_tokenizer(tokenizer, path, max_length=512)
  return path


@pytest.fixture(scope="session")
def exported(config, params, tokenizer_dir, tmp_path_factory):
  """Folders for transformers, by head."""
  root = tmp_path_factory.mktemp("exported")
  for head in ("pretraining", "mlm", "encoder"):
    folder.write_folder(root / head, params, config, tokenizer_dir, head=head)
  return root
