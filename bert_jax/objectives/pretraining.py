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

import jax
import jax.numpy as jnp

from bert_jax.batch import ModelInputs, model_inputs, word_starts
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.objectives import losses, masking
from bert_jax.objectives.masking import MlmBatch
from bert_jax.objectives.objective import UNIGRAM_ENTROPY, Baseline, CorpusFacts, MetricSums, Objective, Recipe, Shown

PAIRS = ("nsp", "sop")  # corpora whose labels of pairs are learned; metrics are named after them


def _shown_of_pairs(name: str) -> tuple[Shown, ...]:
  """The loss and accuracy on pairs, and what always giving the same label would reach."""
  majority = Baseline(f"{name}_majority", "majority share", "majority baseline")
  return (
    Shown(f"{name}_loss", "{:.3f}", title=f"{name.upper()} loss", unit="nats", better=min),
    Shown(
      f"{name}_accuracy",
      "{:.1%}",
      f"{name} acc",
      name,
      f"{name.upper()} accuracy",
      better=max,
      baseline=majority,
      over="pairs",
      counted="pairs",
    ),
    Shown(majority.name, "{:.1%}", "majority"),
  )


SHOWN = (
  Shown("mlm_loss", "{:.3f}", "mlm loss", "loss", "MLM loss", "nats", min, UNIGRAM_ENTROPY),
  Shown(
    "mlm_accuracy", "{:.1%}", "mlm acc", "mlm", "MLM accuracy", better=max, over="predictions", counted="masked tokens"
  ),
  *(shown for name in PAIRS for shown in _shown_of_pairs(name)),
  Shown("perplexity", "{:,.1f}", better=min),
)


def make_pretraining_objective(model: PretrainingModel, config, facts: CorpusFacts) -> Objective:
  """The pretraining objective of a model.

  Args:
    model: the encoder with its heads; without the NSP head there is no loss on pairs.
    config: of a run, resolved; `masking` and `total_steps` are read.
    facts: of the corpus; there is a loss on pairs where they are among PAIRS.
  """
  settings = masking.settings_of(config.masking)
  mask = functools.partial(
    masking.mask_tokens,
    settings=settings,
    mask_id=facts.mask_id,
    never_predicted=facts.never_predicted,
    vocab_size=len(facts.continuation),
  )
  pairs = facts.pairs if facts.pairs in PAIRS and "nsp" in model.heads else ""

  def init(key):
    blank = jnp.zeros((1, 8), jnp.int32)
    inputs = ModelInputs(blank, blank, blank, blank + 1, blank[:, :1], blank[:, :1] + 8, jnp.ones((1, 1)), blank[:, :1])
    # Parameters do not depend on how attention is computed, and kernels refuse rows as short as these.
    return model.clone(attention="xla").init(key, inputs, blank[:, :1])["params"]

  def prepare(batch, keys, step):
    inputs = model_inputs(batch["tokens"], batch["sequences"])
    rate = masking.rate_at(settings, step, config.total_steps)
    masked = mask(keys, inputs, word_starts=word_starts(batch, facts.continuation), rate=rate)
    global_weights = {"mlm": jnp.sum(masked.weights), "pairs": jnp.sum(inputs.sequence_weights)}
    tokens = jnp.sum(inputs.segment_ids > 0).astype(jnp.float32)
    return (inputs._replace(input_ids=masked.input_ids), masked), global_weights, tokens

  def loss(
    params, microbatch: tuple[ModelInputs, MlmBatch], global_weights, dropout_keys
  ) -> tuple[jax.Array, MetricSums]:
    inputs, masked = microbatch
    output = model.apply({"params": params}, inputs, masked.positions, dropout_keys)
    mlm = losses.cross_entropy(output.padded_prediction_logits, masked.labels, masked.weights)
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

  return Objective(init, prepare, loss, metrics, SHOWN, model.dtype)


RECIPE = Recipe(
  SHOWN, PretrainingModel, make_pretraining_objective, use='fill-mask --model={workdir} "text with a [MASK] in it"'
)
