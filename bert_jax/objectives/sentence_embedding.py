"""Sentence embeddings: an encoder learns vectors whose closeness means something, the algorithm on one page.

A row holds the texts of one example, and one encoder reads each of them by itself (models/sentence.py). What it learns
by:

    in-batch  texts that belong together: the second is to be found among the seconds of the whole batch, and hard
              negatives where the row has a third text. Henderson et al. 2017, arXiv 1705.00652; sentence-transformers'
              MultipleNegativesRankingLoss
    simcse    the same with one text twice, told apart by dropout alone. Gao et al. 2021, arXiv 2104.08821
    cosine    pairs with a score, which their cosine is to be. Reimers & Gurevych 2019, arXiv 1908.10084, section 3
    triplet   the second text is to be nearer to the first than the third is, by a margin. The same
    softmax   pairs with a class, read from (u, v, |u - v|). The same

The batch of in-batch and simcse is the global one: vectors are gathered from all devices, and with
optimizer.microbatches all vectors come before the loss (train_step.make_gradients). A text that stands in a batch twice
is no negative of itself.

Shape legend: B rows of a device, N rows of all devices, S texts in a row, H hidden width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.batch import ModelInputs, model_inputs
from bert_jax.models.sentence import SentenceModel, l2_normalize
from bert_jax.objectives import losses
from bert_jax.objectives.objective import MetricSums, Objective, Shown

RANKING = ("in-batch", "simcse")  # these compare the rows of a batch with each other
# A pytree whose arrays begin with the rows of one device -> the same with those of all devices, in the order of the
# batch.
AllGatherRows = Callable[[Any], Any]
LOSSES = (*RANKING, "cosine", "triplet", "softmax")
SHOWN = (
  Shown("loss", "{:.4f}", "loss", "loss"),
  Shown("accuracy", "{:.1%}", "accuracy", "acc"),
  Shown("pearson", "{:.3f}", "pearson"),
  Shown("spearman", "{:.3f}", "spearman"),
)


class TextRows(NamedTuple):
  """A prepared batch.

  Attributes:
    inputs: S texts in each row.
    labels: as the losses need them: int32 [B, S] which text each is, for RANKING; float32 [B] scores; int32 [B]
      classes.
    weights: float32 [B].
    number: int32 [B], the row's place in the global batch.
  """

  inputs: ModelInputs
  labels: jax.Array
  weights: jax.Array
  number: jax.Array


def ranking_loss(
  vectors_BxSxH: jax.Array, rows: TextRows, temperature: float, all_gather_rows: AllGatherRows = lambda rows: rows
) -> MetricSums:
  """Cross-entropy of the own second text among the second and third texts of the whole batch, by cosine / temperature.

  Left out of the candidates: texts equal to one of the row's first two, and second texts of rows that have the same
    first.
  """
  unit_BxSxH = l2_normalize(vectors_BxSxH)
  unit_NxSxH, texts_NxS = all_gather_rows((unit_BxSxH, rows.labels))
  scores_BxSxN = jnp.einsum("bh,nsh->bsn", unit_BxSxH[:, 0], unit_NxSxH[:, 1:], precision="highest") / temperature

  first_Bx1x1, second_Bx1x1 = rows.labels[:, 0, None, None], rows.labels[:, 1, None, None]
  texts_1xSxN = texts_NxS[:, 1:].T[None]
  same_BxSxN = (texts_1xSxN == first_Bx1x1) | (texts_1xSxN == second_Bx1x1)
  is_second_1xSx1 = (jnp.arange(texts_NxS.shape[1] - 1) == 0)[None, :, None]
  same_BxSxN |= is_second_1xSx1 & (texts_NxS[:, 0][None, None, :] == first_Bx1x1)
  own_BxSxN = is_second_1xSx1 & (jnp.arange(len(texts_NxS))[None, None, :] == rows.number[:, None, None])

  scores_BxSxN = jnp.where(same_BxSxN & ~own_BxSxN, jnp.finfo(scores_BxSxN.dtype).min, scores_BxSxN)
  return losses.cross_entropy(scores_BxSxN.reshape(len(scores_BxSxN), -1), rows.number, rows.weights).sums()


def cosine_loss(vectors_BxSxH: jax.Array, rows: TextRows) -> MetricSums:
  """Squared error of the cosine of the first two texts."""
  unit_BxSxH = l2_normalize(vectors_BxSxH)
  return {
    "loss": losses.squared_error(jnp.sum(unit_BxSxH[:, 0] * unit_BxSxH[:, 1], axis=-1), rows.labels, rows.weights)
  }


def triplet_loss(vectors_BxSxH: jax.Array, rows: TextRows, margin: float) -> MetricSums:
  """max(0, |a - p| - |a - n| + margin), Euclidean; right where the second text is nearer than the third."""
  squares_BxS = jnp.sum((vectors_BxSxH[:, :1] - vectors_BxSxH[:, 1:]) ** 2, axis=-1)
  distance_BxS = jnp.sqrt(jnp.maximum(squares_BxS, 1e-12))  # the root of 0 has no gradient
  further = distance_BxS[:, 0] - distance_BxS[:, 1]
  total = lambda values_B: (jnp.sum(values_B * rows.weights), jnp.sum(rows.weights))
  return {"loss": total(jnp.maximum(further + margin, 0.0)), "accuracy": total((further < 0).astype(further.dtype))}


def make_embedding_objective(
  model: SentenceModel,
  loss_name: str,
  *,
  temperature: float = 0.05,
  margin: float = 5.0,
  all_gather_rows: AllGatherRows = lambda rows: rows,
) -> Objective:
  """The objective of learning sentence embeddings by one of LOSSES; batches are those of data/features.py with packed
  texts.

  Args:
    model: with num_labels for softmax.
    loss_name: one of LOSSES.
    temperature: of RANKING.
    margin: of triplet.
    all_gather_rows: from the rows of this device to those of all devices, differentiable (training/collectives.py).
  """

  def init(key):
    inputs = model_inputs(jnp.zeros((1, 8), jnp.int32), jnp.array([[[4, 4, 0], [4, 4, 0]]]))
    return model.clone(attention="xla").init(key, inputs)["params"]

  def prepare(batch, keys, step):
    del keys, step  # nothing is drawn
    inputs = model_inputs(batch["tokens"], batch["sequences"])
    rows = TextRows(inputs, batch["labels"], batch["weights"], jnp.arange(len(batch["weights"]), dtype=jnp.int32))
    return rows, {"rows": jnp.sum(rows.weights)}, jnp.sum(inputs.segment_ids > 0).astype(jnp.float32)

  def embed(params, rows: TextRows, dropout_keys) -> jax.Array:
    return model.apply({"params": params}, rows.inputs, dropout_keys)

  def sums_of(params, rows: TextRows, vectors) -> MetricSums:
    if loss_name in RANKING:
      return ranking_loss(vectors, rows, temperature, all_gather_rows)
    if loss_name == "triplet":
      return triplet_loss(vectors, rows, margin)
    if loss_name == "softmax":
      return losses.cross_entropy(
        model.apply({"params": params}, vectors, method="classify"), rows.labels, rows.weights
      ).sums()
    return cosine_loss(vectors, rows)

  def mean(sums: MetricSums, global_weights) -> tuple[jax.Array, MetricSums]:
    return sums["loss"][0] / jnp.maximum(global_weights["rows"], 1.0), sums

  def loss(params: Any, rows: TextRows, global_weights, dropout_keys) -> tuple[jax.Array, MetricSums]:
    return mean(sums_of(params, rows, embed(params, rows, dropout_keys)), global_weights)

  def loss_of_vectors(rows: TextRows, vectors, global_weights) -> tuple[jax.Array, MetricSums]:
    return mean(sums_of(None, rows, vectors), global_weights)

  if loss_name in RANKING:
    return Objective(init, prepare, loss, dict, SHOWN, model.dtype, embed=embed, loss_of_vectors=loss_of_vectors)
  return Objective(init, prepare, loss, dict, SHOWN, model.dtype)
