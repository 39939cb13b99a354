"""BERT pretraining: masked language modelling and a task for pairs of segments, the algorithm on one page.

Devlin et al. 2018, arXiv 1810.04805. Some tokens of a row are hidden and
predicted from both sides; and of every pair "[CLS] A [SEP] B [SEP]" the vector
at [CLS] says whether B followed A in its document (label 0) or was drawn from
another document (label 1). ALBERT (Lan et al. 2019, arXiv 1909.11942) asks instead
whether two segments that follow each other stand in order (0) or swapped (1), and
RoBERTa (Liu et al. 2019, arXiv 1907.11692) asks nothing of the kind.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bert_jax.batch import ModelInputs, model_inputs, word_starts
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.objectives import losses, masking
from bert_jax.objectives.masking import MlmBatch
from bert_jax.objectives.objective import MetricSums, Objective


def make_pretraining_objective(
  model: PretrainingModel,
  masking_config,
  *,
  mask_id: int,
  never_predicted: Sequence[int],
  continuation,
  pairs: str,
  total_steps: int,
) -> Objective:
  """The pretraining task for a model.

  Args:
    model: the encoder with its heads.
    masking_config: the group `masking` of the config, resolved.
    mask_id, never_predicted: see `masking.mask_tokens`.
    continuation: bool [V], which pieces continue a word ("##ing"); where batches bring word starts, these hold.
    pairs: what the labels of the corpus mean, one of data.pairs.PAIR_OBJECTIVES, or empty: no loss on them.
    total_steps: of the schedule that a changing masking rate follows.
  """
  settings = masking.settings_of(masking_config)
  mask = functools.partial(
    masking.mask_tokens,
    settings=settings,
    mask_id=mask_id,
    never_predicted=never_predicted,
    vocab_size=model.config.vocab_size,
  )

  def init(key):
    blank = jnp.zeros((1, 8), jnp.int32)
    inputs = ModelInputs(blank, blank, blank, blank + 1, blank[:, :1], blank[:, :1] + 8, jnp.ones((1, 1)), blank[:, :1])
    # Parameters do not depend on how attention is computed, and kernels refuse rows as short as these.
    return model.clone(attention="xla").init(key, inputs, blank[:, :1])["params"]

  def prepare(batch, keys, step):
    inputs = model_inputs(batch["tokens"], batch["sequences"])
    rate = masking.rate_at(settings, step, total_steps)
    masked = mask(keys, inputs, word_starts=word_starts(batch, continuation), rate=rate)
    global_weights = {"mlm": jnp.sum(masked.weights), "pairs": jnp.sum(inputs.sequence_weights)}
    tokens = jnp.sum(inputs.segment_ids > 0).astype(jnp.float32)
    return (inputs._replace(input_ids=masked.input_ids), masked), global_weights, tokens

  def loss(
    params, microbatch: tuple[ModelInputs, MlmBatch], global_weights, dropout_keys
  ) -> tuple[jax.Array, MetricSums]:
    inputs, masked = microbatch
    output = model.apply({"params": params}, inputs, masked.positions, dropout_keys)
    mlm = losses.cross_entropy(output.padded_mlm_logits, masked.labels, masked.weights)
    sums = {"mlm_loss": (mlm.loss, mlm.weight), "mlm_accuracy": (mlm.correct, mlm.weight)}
    total = mlm.loss / jnp.maximum(global_weights["mlm"], 1.0)
    if pairs:
      pair = losses.cross_entropy(output.nsp_logits, inputs.sequence_labels, inputs.sequence_weights)
      ones = jnp.sum(inputs.sequence_labels * inputs.sequence_weights)
      sums |= {
        f"{pairs}_loss": (pair.loss, pair.weight),
        f"{pairs}_accuracy": (pair.correct, pair.weight),
        f"{pairs}_ones": (ones, pair.weight),
      }
      total += pair.loss / jnp.maximum(global_weights["pairs"], 1.0)
    return total, sums

  def metrics(means):
    means = dict(means)
    if f"{pairs}_ones" in means:  # what always answering the more frequent label would reach
      share = means.pop(f"{pairs}_ones")
      means[f"{pairs}_majority"] = max(share, 1.0 - share)
    if "mlm_loss" in means:
      means["perplexity"] = math.exp(min(means["mlm_loss"], 700.0))
    return means

  return Objective(init, prepare, loss, metrics, model.dtype)
