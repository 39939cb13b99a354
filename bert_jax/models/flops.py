"""Model FLOPs of a training step, stated as a formula, and the share of the chip's peak that they are (MFU).

Only what the mathematics asks for counts: no recomputation, no padding, the
MLM head at the predicted positions only. A multiply-add is 2 FLOPs, and the
backward pass costs twice the forward pass.
"""

from collections.abc import Mapping

from bert_jax.models.config import EncoderConfig


def train_flops_per_token(config: EncoderConfig, *, sequence_length: float, predicted_share: float) -> float:
  """FLOPs of forward and backward per real token.

  3 · [n (8 h² + 4 h f + 4 s h) + p (2 h² + 2 h V)], with n layers of width h, feed-forward width f,
  s tokens attended to, p the share of tokens predicted and V the vocabulary. With f = 4 h the
  bracket is the familiar n (24 h² + 4 s h) plus the head.

  Args:
    config: the encoder.
    sequence_length: s, mean length of a sequence (not of the row, which may hold several).
    predicted_share: p, predicted tokens per real token.
  """
  h, f, n = config.hidden_size, config.intermediate_size, config.num_hidden_layers
  layers = n * (8 * h * h + 4 * h * f + 4 * sequence_length * h)
  head = predicted_share * (2 * h * h + 2 * h * config.vocab_size)
  return 3.0 * (layers + head)


def mean_sequence_length(counts: Mapping[str, int]) -> float:
  """Of the rows that a corpus counts so, see the manifest in data/corpus.py."""
  return counts["row_tokens"] / max(counts["sequences"], 1)
