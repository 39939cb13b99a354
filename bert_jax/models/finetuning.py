"""BERT with one head for labels: of a text, of each token, or of where an answer begins and ends.

The parameter subtrees are encoder, pooler (only where it is read), and classifier or, for answers, span_head, so that a
pretrained encoder and pooler are taken over by name.

Shape legend: B rows, L tokens, H hidden width, C labels.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bert_jax.batch import ModelInputs, fold_in_rows
from bert_jax.errors import UserError
from bert_jax.models.config import EncoderConfig
from bert_jax.models.encoder import Encoder
from bert_jax.models.heads import LabelHead, Pooler
from bert_jax.models.layers import Dtype
from bert_jax.models.pooling import POOLINGS, pool

# What labels belong to.
SEQUENCE, TOKENS, SPAN = "sequence", "tokens", "span"
TARGETS = (SEQUENCE, TOKENS, SPAN)


class FinetuningModel(nn.Module):
  """An encoder with a head for labels, as Hugging Face's BertForSequenceClassification, -TokenClassification,
  -QuestionAnswering.

  Attributes:
    config: sizes and constants.
    target: one of TARGETS. sequence: scores of the pooled text; tokens: of every token; span: two for every token, the
      beginning and the end of an answer.
    num_labels: C; 2 for span.
    pooling: one of POOLINGS, read where the target is a sequence.
    dtype, param_dtype, remat, attention: as in PretrainingModel.
  """

  config: EncoderConfig
  target: str
  num_labels: int
  pooling: str = "pooler"
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32
  remat: str = "none"
  attention: str = "xla"

  @property
  def has_pooler(self) -> bool:
    return self.target == SEQUENCE and self.pooling == "pooler"

  def setup(self):
    if self.target not in TARGETS or self.pooling not in POOLINGS:
      raise UserError(
        f"expected a target of {', '.join(TARGETS)} and a pooling of {', '.join(POOLINGS)}; got {self.target!r}, "
        f"{self.pooling!r}"
      )
    self.encoder = Encoder(self.config, self.dtype, self.param_dtype, self.remat, self.attention)
    if self.has_pooler:
      self.pooler = Pooler(self.config, self.dtype, self.param_dtype)
    head = lambda rate: LabelHead(self.config, self.num_labels, rate, self.dtype, self.param_dtype)
    if self.target == SPAN:
      self.span_head = head(0.0)
    else:
      self.classifier = head(self.config.hidden_dropout_prob)

  def __call__(self, inputs: ModelInputs, dropout_keys: jax.Array | None = None) -> jax.Array:
    """Scores in float32 at least: [B, C] for a sequence, [B, L, C] for tokens, [B, L, 2] for a span.

    Args:
      inputs: one sequence in each row; of it, labels and weights are not read.
      dropout_keys: PRNG keys [B], one for every row, or None for no dropout.
    """
    x_BxLxH = self.encoder(
      inputs.input_ids,
      inputs.token_type_ids,
      inputs.position_ids,
      inputs.segment_ids,
      dropout_keys,
      inputs.sequence_lengths,
    ).sequence_output
    if self.target == SEQUENCE:
      pooled_Bx1xH = self.pooler(x_BxLxH[:, :1]) if self.has_pooler else None
      x_BxLxH = pool(x_BxLxH, pooled_Bx1xH, inputs, self.pooling)
    head = self.span_head if self.target == SPAN else self.classifier
    return head(x_BxLxH, fold_in_rows(dropout_keys, self.config.num_hidden_layers + 1))
