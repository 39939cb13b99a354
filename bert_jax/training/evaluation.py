"""Evaluation on a validation split: the same rows and the same masks at every evaluation, of every run."""

from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.objectives.objective import MetricSums, Objective, add_sums, counts_of, divide
from bert_jax.training import sharding
from bert_jax.training.train_step import make_eval_step

# Masks of evaluation do not depend on the run's seed, so that runs can be compared.
MASK_SEED = 0


def make_evaluator(objective: Objective, mesh: Mesh, batches: Callable[[], Iterable[dict[str, np.ndarray]]]):
  """Returns evaluate(params, after_batch) -> metrics of the objective and what it counts, compiled once.

  `after_batch()` is called after every batch; where it returns True, the evaluation is given up and None returned.

  Args:
    objective: what was learned.
    mesh: where parameters live.
    batches: returns the validation batches from the first one on.
  """
  step = jax.jit(make_eval_step(objective, seed=MASK_SEED, mesh=mesh), out_shardings=sharding.replicated(mesh))

  def evaluate(params, after_batch: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
    total: MetricSums = {}
    for batch in batches():
      sums = jax.device_get(step(params, sharding.put_batch(batch, mesh)))
      total = add_sums(total, {name: (float(s), float(w)) for name, (s, w) in sums.items()})
      if after_batch():
        return None
    return objective.metrics(divide(total)) | counts_of(objective.shown, total)

  return evaluate
