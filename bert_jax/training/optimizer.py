"""Optimizers and schedules, put together from Optax.

The learning rate is a function of the step and is applied in `apply`, outside
the Optax chain: the chain returns a direction, so its state holds moments and
nothing that counts the schedule.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from bert_jax.errors import UserError
from bert_jax.models import parameters
from bert_jax.training.rounding import round_to_bfloat16


def last_step(config: ml_collections.ConfigDict) -> int:
  """The step after which a run ends."""
  return config.stop_at_step or config.total_steps


def make_schedule(config: ml_collections.ConfigDict) -> Callable[[Any], jax.Array]:
  """The learning rate as a function of the step (0 for the first update).

  linear: a linear rise over warmup_steps, then a linear fall to 0 at total_steps, as BERT. wsd:
  warmup, a constant stretch, then a linear fall over the last decay_fraction of the run (Hu et
  al. 2024, MiniCPM), so that a run can be prolonged from before the fall.

  Raises:
    UserError: the warmup does not leave room for the rest.
  """
  peak, warmup, total = config.optimizer.learning_rate, config.optimizer.warmup_steps, config.total_steps
  decay = total - warmup
  if config.optimizer.schedule == "wsd":
    decay = max(1, round(config.optimizer.decay_fraction * total))
  if warmup + decay > total or decay < 1:
    raise UserError(
      f"optimizer.warmup_steps={warmup} and a decay of {max(decay, 1)} steps do not fit into total_steps={total}; "
      "lower warmup_steps"
    )
  # The first update has a rate above 0, and the last one too: step + 1 of warmup, total - step of decay.
  rise = lambda step: peak * (step + 1) / max(warmup, 1)
  fall = lambda step: peak * (total - step) / decay
  return lambda step: jnp.maximum(0.0, jnp.minimum(peak, jnp.minimum(rise(step), fall(step)))).astype(jnp.float32)


def decay_mask(params) -> Any:
  """Tree of bools: True for matrices and embeddings, False for biases and LayerNorm scales (Row.decays)."""
  return jax.tree_util.tree_map_with_path(lambda path, _: parameters.row_of(path).decays, params)


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """Gradients to a descent direction at learning rate 1: clipping, moments, decoupled decay (and LAMB's trust ratio).

  Where it clips, its update takes the global norm of the gradients as `grad_norm`, see `apply`.

  AdamW: Loshchilov & Hutter 2017. LAMB: You et al. 2019, arXiv 1904.00962, whose trust ratio is
  taken per parameter array, one layer's array at a time.
  """
  settings = config.optimizer
  parts = [_clip(settings.clip_norm)] if settings.clip_norm else []
  parts.append(_adam(settings))
  parts.append(optax.add_decayed_weights(settings.weight_decay, mask=decay_mask))
  if settings.name == "lamb":
    # As in the paper's reference code, arrays without decay keep Adam's own step length.
    parts.append(optax.masked(optax.scale_by_trust_ratio(), decay_mask))
  parts.append(_descend(settings))
  return optax.chain(*parts)


def stop_gradient_below(params, frozen_layers: int) -> Any:
  """Parameters of which those in the lowest layers are constants, see optimizer.frozen_layers: nothing is
  differentiated down there.
  """
  if frozen_layers < 0:
    return params
  layers = parameters.num_layers(params)
  hold = lambda path, p: jax.lax.stop_gradient(p) if parameters.depth_of(path, layers) <= frozen_layers else p
  return jax.tree_util.tree_map_with_path(hold, params)


def _descend(settings: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """The direction turned around: times -1, or less the deeper a layer lies (Clark et al.

  2020, ELECTRA), 0 where it is frozen.
  """
  if settings.layer_decay == 1.0 and settings.frozen_layers < 0:
    return optax.scale(-1.0)

  def factor(path, num_layers: int) -> float:
    depth = parameters.depth_of(path, num_layers)
    return 0.0 if depth <= settings.frozen_layers else -(settings.layer_decay ** (num_layers + 1 - depth))

  def update(direction, state, params=None):
    layers = parameters.num_layers(params)
    return jax.tree_util.tree_map_with_path(lambda path, d: factor(path, layers) * d, direction), state

  return optax.GradientTransformation(optax.init_empty_state, update)


def _clip(max_norm: float) -> optax.GradientTransformationExtraArgs:
  """What optax.clip_by_global_norm does, from a norm that is known already, by a product with one number.

  Not the division of each element as in Optax: that is too dear for XLA:CPU to do it twice, for either moment, so it
    writes all
  clipped gradients to memory in between (docs/performance.md). The state is Optax's, nothing: checkpoints do not tell
  the two apart.
  """

  def update(gradients, state, params=None, *, grad_norm):
    scale = jnp.where(grad_norm < max_norm, 1.0, max_norm / grad_norm)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _adam(settings: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """Adam's direction. Its moments are computed in float32 at least, and kept in settings.moments_dtype."""
  adam = optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps)
  wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)

  def kept(state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
    if settings.moments_dtype == "float32":
      return state
    rounded = lambda tree, stream: jax.tree.map(
      lambda x: round_to_bfloat16(x.astype(jnp.float32), state.count, stream=stream), tree
    )
    return state._replace(mu=rounded(state.mu, 0), nu=rounded(state.nu, 1))

  def update(gradients, state, params=None):
    direction, state = adam.update(wide(gradients), state._replace(mu=wide(state.mu), nu=wide(state.nu)), params)
    return direction, kept(state)

  return optax.GradientTransformation(lambda params: kept(adam.init(wide(params))), update)


def apply(optimizer, gradients, grad_norm, state, params, learning_rate):
  """One update: returns (new params, new optimizer state). `grad_norm`: optax.global_norm of the gradients."""
  direction, state = optimizer.update(gradients, state, params, grad_norm=grad_norm)
  params = jax.tree.map(lambda p, d: (p + learning_rate * d).astype(p.dtype), params, direction)
  return params, state
