"""What a run can be pretrained with: the table behind the config key `objective`."""

from bert_jax.errors import UserError
from bert_jax.objectives import pretraining
from bert_jax.objectives.objective import Recipe

OBJECTIVES: dict[str, Recipe] = {"mlm": pretraining.RECIPE}


def recipe_of(name: str) -> Recipe:
  """The row of an objective. Raises UserError for one that this version does not have."""
  if name not in OBJECTIVES:
    raise UserError(f"there is no objective {name!r} here, only {', '.join(map(repr, OBJECTIVES))}")
  return OBJECTIVES[name]


def check_usable(name: str) -> None:
  """Raises UserError for an objective whose trained models nothing but their own run reads."""
  if not recipe_of(name).use:
    known = ", ".join(one for one, recipe in OBJECTIVES.items() if recipe.use)
    raise UserError(f"a model of objective={name} can be neither loaded nor exported; those of {known} can")
