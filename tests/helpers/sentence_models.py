"""A tiny model of sentences with weights that were drawn, and batches for it."""

import jax
import numpy as np

from bert_jax.models.config import EncoderConfig
from bert_jax.models.sentence import SentenceModel
from bert_jax.objectives import sentence_embedding
from tests.helpers.weights import draw_weights

CONFIG = EncoderConfig(
  vocab_size=60,
  hidden_size=32,
  num_hidden_layers=1,
  num_attention_heads=4,
  intermediate_size=64,
  max_position_embeddings=16,
  hidden_dropout_prob=0.1,
  attention_probs_dropout_prob=0.1,
)


def drawn(model: SentenceModel, loss_name: str):
  """(params of a model, its objective for one device)."""
  objective = sentence_embedding.make_embedding_objective(model, loss_name)
  shapes, rng = jax.eval_shape(objective.init, jax.random.key(0)), np.random.default_rng(5)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: draw_weights(rng, leaf.shape, scale=path[-1].key == "scale"), shapes
  ), objective


def packed_batch(texts: int, labels: np.ndarray | None = None, rows: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
  """Rows of `texts` texts of 3 to 7 tokens each; labels None: which text each is, one of them twice."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(3, 8, (rows, texts))
  tokens = np.zeros((rows, 8 * texts), np.int32)
  for row, count in enumerate(lengths.sum(1)):
    tokens[row, :count] = rng.integers(1, CONFIG.vocab_size, count)
  if labels is None:
    labels = np.arange(rows * texts, dtype=np.int32).reshape(rows, texts)
    labels[2, -1] = labels[3, -1]
  return {
    "tokens": tokens,
    "sequences": np.stack([lengths, lengths, 0 * lengths], axis=-1).astype(np.int32),
    "epoch": np.zeros(rows, np.uint32),
    "index": np.arange(rows, dtype=np.uint32),
    "labels": labels,
    "weights": np.ones(rows, np.float32),
  }
