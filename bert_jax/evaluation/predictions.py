"""What a fine-tuned model says of labelled examples, and how good that is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import model_inputs
from bert_jax.data.labelled import features as data
from bert_jax.data.labelled import questions
from bert_jax.data.labelled.examples import Labelled, Labels
from bert_jax.data.labelled.features import Features
from bert_jax.evaluation import metrics
from bert_jax.models.finetuning import SEQUENCE, FinetuningModel
from bert_jax.objectives import finetuning
from bert_jax.training import sharding

LOWER_IS_BETTER = ("mse",)
# What is measured, by the kind of labels. The first picks the best checkpoint where neither task nor user says so.
_MEASURED = {
  "classification": ("accuracy", "macro_f1", "mcc"),
  "multi-label": ("micro_f1", "macro_f1", "accuracy"),
  "regression": ("spearman", "pearson", "mse"),
  "token-classification": ("f1", "precision", "recall", "accuracy"),
  "question-answering": ("f1", "exact_match"),
}


def metrics_of(labels: Labels) -> tuple[str, ...]:
  """What `score` will measure."""
  return _MEASURED[labels.kind] + (("f1",) if labels.kind == "classification" and len(labels.names) == 2 else ())


def make_predictor(model: FinetuningModel, kind: str, mesh: Mesh) -> Callable:
  """Returns predict(params, features, batch_size=…, max_length=…, after_batch=…) -> scores of every example in order,
  or None.

  Scores are float32 arrays: [C] of a sequence, [L, C] of its tokens, padding left out. `after_batch()` is called after
    every
  batch; where it returns True, all is given up, and None returned. One program is compiled for each length of rows.
  """

  def scores_of(params, batch):
    inputs = model_inputs(batch["tokens"], batch["sequences"])
    scores = finetuning.scores_of_tokens(model.clone(attention="xla").apply({"params": params}, inputs), inputs, kind)
    return scores.astype(jnp.float32)

  each = for_each_example(scores_of, mesh)
  if model.target == SEQUENCE:
    return each

  def predict(params, features: Features, **how):
    found = each(params, features, **how)
    return None if found is None else [one[:length] for one, length in zip(found, features.lengths)]

  return predict


def for_each_example(fn: Callable, mesh: Mesh) -> Callable:
  """Returns run(params, features, batch_size=…, max_length=…, after_batch=…) -> fn's result for every example, in
  order, as NumPy.

  fn: (params, batch as of data/features.py) -> array [B, …]; compiled once for each length of rows. `after_batch()` is
    called after every
  batch; where it returns True, all is given up, and None returned.
  """
  step = jax.jit(fn, out_shardings=sharding.replicated(mesh))

  def run(
    params, features: Features, *, batch_size: int, max_length: int, after_batch: Callable[[], bool] = lambda: False
  ):
    found: list[np.ndarray | None] = [None] * features.num_rows
    own = sharding.rows_of_process(mesh, batch_size)
    for rows, batch in data.sorted_batches(features, batch_size=batch_size, max_length=max_length, process_rows=own):
      for row, one in zip(rows, jax.device_get(step(params, sharding.put_batch(batch, mesh)))):
        if row >= 0:
          found[row] = one
      if after_batch():
        return None
    return found

  return run


def score(labels: Labels, examples: Labelled, scores: list[np.ndarray], *, chinese: bool = False) -> dict[str, float]:
  """Metrics of predictions on labelled examples, see metrics.py; NaN where a prediction is not finite, which has no
  class.
  """
  kind, gold = labels.kind, examples.gold
  if not all(np.all(np.isfinite(one)) for one in scores):
    return dict.fromkeys(metrics_of(labels), np.nan)
  if kind == "classification":
    return metrics.classification(gold, np.argmax(scores, axis=-1), count=len(labels.names))
  if kind == "multi-label":
    return metrics.multilabel(gold, np.asarray(scores) > 0)
  if kind == "regression":
    return metrics.regression(gold, np.asarray(scores)[:, 0] * labels.scale)
  if kind == "token-classification":
    return metrics.seqeval(gold, tags_of(labels, examples.features, scores, [len(tags) for tags in gold]))
  assert examples.windows and examples.asked is not None
  answers = questions.answers_of(examples.windows, examples.asked, scores)
  has_none = any(not one for one in gold)
  said = ["" if has_none and answer.is_none else answer.text for answer in answers]
  return metrics.squad(gold, said, chinese=chinese)


def tags_of(labels: Labels, features: Features, scores: list[np.ndarray], words: list[int]) -> list[list[str]]:
  """The tags of each text's words, from the scores of their first pieces; words that did not fit into a row are "O"."""
  result = []
  for row, (one, count) in enumerate(zip(scores, words)):
    own = features.labels[features.offsets[row] : features.offsets[row + 1]]
    tags = [labels.names[index] for index in np.argmax(one[own != data.IGNORED], axis=-1)]
    result.append(tags + ["O"] * (count - len(tags)))
  return result
