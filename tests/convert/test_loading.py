"""What people do with an export: fill masks in transformers, embed sentences in sentence-transformers."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import sentence_transformers
import transformers

from bert_jax import batch
from bert_jax.convert import folder
from bert_jax.convert.sentence_folder import Encoding
from bert_jax.data.tokenizer.wordpiece import load_tokenizer
from bert_jax.models.pretraining import PretrainingModel

TEXTS = ["the cat sat on the mat .", "the mat", "a cat , 42 mats and some words that it has to spell"]


@pytest.fixture(scope="module")
def ours(config, params, tokenizer_dir):
  """Texts to our outputs, and how long each text is in tokens."""
  backend = load_tokenizer(tokenizer_dir).backend

  def run(texts):
    ids = [encoding.ids for encoding in backend.encode_batch(texts)]
    lengths = np.array([len(row) for row in ids])
    tokens = np.zeros((len(ids), lengths.max()), np.int32)
    for row, length, row_ids in zip(tokens, lengths, ids):
      row[:length] = row_ids
    sequences = np.stack([lengths, lengths, 0 * lengths], axis=1)[:, None]
    inputs = batch.model_inputs(jnp.asarray(tokens), jnp.asarray(sequences, jnp.int32))
    return PretrainingModel(config).apply({"params": params}, inputs, None), tokens, lengths

  return run


@pytest.mark.parametrize("head", ["pretraining", "mlm"])
def test_fill_mask_of_transformers_gives_our_probabilities(exported, ours, tokenizer_dir, head):
  text = "the cat sat on the [MASK] ."
  fill = transformers.pipeline("fill-mask", model=str(exported / head), top_k=5, device="cpu")
  output, tokens, _ = ours([text])
  masked = tokens[0].tolist().index(load_tokenizer(tokenizer_dir).special.mask)
  logits = np.asarray(output.prediction_logits)[0, masked]
  probabilities = np.exp(logits - logits.max())
  probabilities /= probabilities.sum()
  answers = fill(text)
  np.testing.assert_array_equal([answer["token"] for answer in answers], np.argsort(-probabilities)[:5])
  best = np.sort(probabilities)[::-1][:5]
  np.testing.assert_allclose([answer["score"] for answer in answers], best, rtol=1e-4)


def test_the_tokenizer_of_an_export_is_ours(exported, ours):
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "pretraining")
  _, tokens, lengths = ours(TEXTS)
  assert tokenizer(TEXTS)["input_ids"] == [row[:length].tolist() for row, length in zip(tokens, lengths)]
  assert tokenizer.model_max_length == 40


@pytest.mark.parametrize(
  "pooling, normalize, head",
  [("mean", False, "encoder"), ("mean", False, "pretraining"), ("cls", True, "encoder"), ("max", False, "encoder")],
)
def test_sentence_transformers_gives_our_pooled_vectors(
  config, params, tokenizer_dir, ours, tmp_path, pooling, normalize, head
):
  out = tmp_path / "out"
  folder.write_folder(out, params, config, tokenizer_dir, head=head, encoding=Encoding(pooling, normalize))
  model = sentence_transformers.SentenceTransformer(str(out), device="cpu")
  assert model.max_seq_length == 40 and len(model) == len(json.loads((out / "modules.json").read_text()))
  output, _, lengths = ours(TEXTS)
  rows = [np.asarray(row)[:length] for row, length in zip(output.sequence_output, lengths)]
  pool = {"mean": lambda row: row.mean(0), "max": lambda row: row.max(0), "cls": lambda row: row[0]}[pooling]
  vectors = np.stack([pool(row) for row in rows])
  if normalize:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  np.testing.assert_allclose(model.encode(TEXTS), vectors, atol=1e-5)
