"""Fine-tuning: a pretrained encoder learns labels, the algorithm on one page.

Devlin et al. 2018, arXiv 1810.04805, section 4: one dense layer is put on the encoder, and everything is trained on.
What the labels belong to makes the kinds: a text or a pair of texts has one class of several, several classes at once,
or a score; every word has a class; or an answer to a question has its first and its last token in a text.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.batch import ModelInputs, model_inputs
from bert_jax.models.finetuning import SEQUENCE, SPAN, TOKENS, FinetuningModel
from bert_jax.objectives import losses
from bert_jax.objectives.objective import MetricSums, Objective, Shown

# (scores, labels, weights [B]) -> MetricSums with "loss" among them. The loss of a batch is its sum over its weight in
# the whole global batch.
Loss = Callable[[jax.Array, jax.Array, jax.Array], MetricSums]


def _classification(scores_BxC, labels_B, weights_B) -> MetricSums:
  return losses.cross_entropy(scores_BxC, labels_B, weights_B).sums()


def _multi_label(scores_BxC, labels_BxC, weights_B) -> MetricSums:
  return losses.binary_cross_entropy(scores_BxC, labels_BxC, weights_B).sums()


def _regression(scores_Bx1, labels_B, weights_B) -> MetricSums:
  return {"loss": losses.squared_error(scores_Bx1[:, 0], labels_B, weights_B)}


def _tokens(scores_BxLxC, labels_BxL, weights_B) -> MetricSums:
  weights_BxL = (labels_BxL >= 0) * weights_B[:, None]
  return losses.cross_entropy(scores_BxLxC, jnp.maximum(labels_BxL, 0), weights_BxL).sums()


def _span(scores_BxLx2, labels_Bx2, weights_B) -> MetricSums:
  """The mean of two cross-entropies over the tokens of a row, one for the beginning, one for the end."""
  scores_2BxL = jnp.concatenate([scores_BxLx2[:, :, 0], scores_BxLx2[:, :, 1]])
  term = losses.cross_entropy(
    scores_2BxL, jnp.concatenate([labels_Bx2[:, 0], labels_Bx2[:, 1]]), jnp.tile(weights_B, 2)
  )
  return term.sums()


SHOWN = (
  Shown("loss", "{:.4f}", "loss", "loss"),
  Shown("accuracy", "{:.1%}", "accuracy", "acc"),
  *(
    Shown(name, "{:.3f}", name)
    for name in ("f1", "macro_f1", "micro_f1", "mcc", "precision", "recall", "pearson", "spearman", "exact_match")
  ),
)


class Kind(NamedTuple):
  """What labels are, and what is learned from them.

  Attributes:
    target: what a label belongs to, one of models.finetuning.TARGETS.
    loss: see Loss.
  """

  target: str
  loss: Loss


KINDS = {
  "classification": Kind(SEQUENCE, _classification),
  "multi-label": Kind(SEQUENCE, _multi_label),
  "regression": Kind(SEQUENCE, _regression),
  "token-classification": Kind(TOKENS, _tokens),
  "question-answering": Kind(SPAN, _span),
}


def make_finetuning_objective(model: FinetuningModel, kind: str) -> Objective:
  """The fine-tuning task of a model for one of KINDS; batches are those of data/features.py."""
  loss_of = KINDS[kind].loss

  def init(key):
    blank = jnp.zeros((1, 8), jnp.int32)
    inputs = model_inputs(blank, jnp.array([[[8, 8, 0]]]))
    return model.clone(attention="xla").init(key, inputs)["params"]

  def prepare(batch, keys, step):
    del keys, step  # nothing is drawn
    inputs = model_inputs(batch["tokens"], batch["sequences"])
    labels, weights = batch["labels"], batch["weights"]
    counted = weights[:, None] * (labels >= 0) if kind == "token-classification" else weights
    total = jnp.sum(counted) * (2 if kind == "question-answering" else 1)  # a beginning and an end
    return (inputs, labels, weights), {"labels": total}, jnp.sum(inputs.segment_ids > 0).astype(jnp.float32)

  def loss(
    params, rows: tuple[ModelInputs, jax.Array, jax.Array], global_weights, dropout_keys
  ) -> tuple[jax.Array, MetricSums]:
    inputs, labels, weights = rows
    scores = scores_of_tokens(model.apply({"params": params}, inputs, dropout_keys), inputs, kind)
    sums = loss_of(scores, labels, weights)
    return sums["loss"][0] / jnp.maximum(global_weights["labels"], 1.0), sums

  return Objective(init, prepare, loss, dict, SHOWN, model.dtype)


def scores_of_tokens(scores: jax.Array, inputs: ModelInputs, kind: str) -> jax.Array:
  """Scores as they enter loss and answers: padding can neither begin nor end an answer."""
  if kind != "question-answering":
    return scores
  return jnp.where((inputs.segment_ids > 0)[:, :, None], scores, jnp.finfo(scores.dtype).min)
