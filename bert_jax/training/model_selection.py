"""What makes an evaluation better than another: which checkpoints are kept for it, and when a run ends early."""

import math
from typing import Any, NamedTuple

from bert_jax.objectives.objective import Objective


class ModelSelection(NamedTuple):
  """What makes an evaluation better than another.

  Attributes:
    metric: name among the metrics of an evaluation.
    higher_is_better: else lower.
    patience: evaluations without a new best before a run ends early; 0: never.
  """

  metric: str
  higher_is_better: bool = False
  patience: int = 0

  def best_first(self, evaluations: dict[int, dict[str, float]]) -> list[int]:
    """The steps whose metrics have this one, the best first; of equals, the newer."""
    sign = -1 if self.higher_is_better else 1
    return sorted(
      (step for step in evaluations if self.metric in evaluations[step]),
      key=lambda step: (sign * evaluations[step][self.metric], -step),
    )


def by_headline(objective: Objective) -> ModelSelection:
  """The better headline metric of an objective."""
  headline = objective.shown[0]
  return ModelSelection(f"eval/{headline.name}", headline.better is max)


class EarlyStopping:
  """Counts evaluations since the best one.

  Its counts are saved with every checkpoint, so that a resumed run ends where it would have.
  """

  def __init__(self, selection: ModelSelection):
    self._judge = selection
    self.restore({})

  def restore(self, host: dict[str, Any]) -> None:
    """Goes on from what `host_values` was when a checkpoint was saved."""
    self._best, self._since = host.get("best_evaluation"), int(host.get("evaluations_since_best", 0))

  def host_values(self) -> dict[str, Any]:
    """What has to be saved beside the state."""
    return {"best_evaluation": self._best, "evaluations_since_best": self._since}

  def add(self, metrics: dict[str, float]) -> None:
    """Takes note of an evaluation; a metric that is missing or not a number is never the best."""
    value = metrics.get(self._judge.metric, math.nan)
    sign = 1.0 if self._judge.higher_is_better else -1.0
    better = math.isfinite(value) and (self._best is None or sign * (value - self._best) > 0)
    self._best, self._since = (value, 0) if better else (self._best, self._since + 1)

  @property
  def is_over(self) -> bool:
    """Whether the run should end."""
    return 0 < self._judge.patience <= self._since
