"""The size of the fine-tuned models of tests/fixtures/labelled_models.py, and their labels."""

from bert_jax.data.labelled.examples import Labels
from bert_jax.models.config import EncoderConfig

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
