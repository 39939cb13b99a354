"""optimizer.py (law 12): the learning rate is a function of the step, decay leaves biases and LayerNorm alone, moments
keep their dtype.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.errors import UserError
from bert_jax.training import optimizer as optimizers
from tests.helpers.later_families import later_family
from tests.helpers.tiny_pretraining import tiny_config, tiny_objective


def kernel(tree):
  return tree["pooler"]["dense"]["kernel"]


def rates(**overrides):
  config = tiny_config(**{"optimizer.learning_rate": 1.0, "optimizer.warmup_steps": 4, "total_steps": 20} | overrides)
  return np.array([float(optimizers.make_schedule(config)(jnp.int32(step))) for step in range(config.total_steps + 1)])


def test_linear_rises_over_the_warmup_and_falls_to_zero_at_the_end():
  found = rates()
  np.testing.assert_allclose(found[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
  np.testing.assert_allclose(np.diff(found[4:]), -1 / 16, atol=1e-6)
  assert found[20] == 0.0 and found[19] > 0


def test_wsd_stays_at_the_peak_until_the_final_decay():
  found = rates(**{"optimizer.schedule": "wsd", "optimizer.decay_fraction": 0.25})
  np.testing.assert_allclose(found[3:16], 1.0)
  np.testing.assert_allclose(found[15:21], [1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)


def test_a_warmup_that_leaves_no_room_is_refused():
  with pytest.raises(UserError, match="warmup_steps=20"):
    rates(**{"optimizer.warmup_steps": 20})


def test_matrices_and_embeddings_decay_and_nothing_else():
  params = tiny_objective(tiny_config()).init(jax.random.key(0))
  for path, decays in jax.tree_util.tree_leaves_with_path(optimizers.decay_mask(params)):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    assert decays == name.endswith(("kernel", "embedding")), name
    assert decays or name.endswith(("bias", "scale")), name


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("frozen", [-1, 0, 2, 3])
def test_layers_below_a_final_norm_and_an_embedding_projection_have_their_own_rates_and_may_be_frozen(name, frozen):
  """Subtrees of the encoder that BERT lacks: the projection counts as an embedding, the norm to the last layer."""
  params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), later_family())
  settings = {"optimizer.name": name, "optimizer.layer_decay": 0.8, "optimizer.weight_decay": 0.0}
  optimizer = optimizers.make_optimizer(tiny_config(**settings, **{"optimizer.frozen_layers": frozen}))
  plain = optimizers.make_optimizer(tiny_config(**settings | {"optimizer.layer_decay": 1.0}))
  norm = optax.global_norm(params)
  found, _ = optimizer.update(params, optimizer.init(params), params, grad_norm=norm)
  whole, _ = plain.update(params, plain.init(params), params, grad_norm=norm)
  total = lambda params: sum(map(jnp.sum, jax.tree.leaves(optimizers.stop_gradient_below(params, frozen))))
  gradients = jax.grad(total)(params)
  for names, depth in (
    (("encoder", "embeddings"), 0),
    (("encoder", "embedding_projection"), 0),
    (("encoder", "layer_0"), 1),
    (("encoder", "layer_2"), 3),
    (("encoder", "final_norm"), 3),
    (("pooler", "dense"), 4),
  ):
    pick = lambda tree: jax.tree.leaves(tree[names[0]][names[1]])
    share = 0.0 if depth <= frozen else 0.8 ** (4 - depth)
    for ours, plainly, gradient in zip(pick(found), pick(whole), pick(gradients), strict=True):
      np.testing.assert_allclose(ours, share * plainly, rtol=1e-6)
      np.testing.assert_array_equal(gradient, float(depth > frozen))


def test_adamw_is_optax_adamw_after_clipping():
  config = tiny_config(
    **{
      "optimizer.clip_norm": 0.5,
      "optimizer.b1": 0.8,
      "optimizer.b2": 0.9,
      "optimizer.eps": 1e-2,
      "optimizer.weight_decay": 0.1,
    }
  )
  params = {"pooler": {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}}
  gradients = jax.tree.map(lambda p: jnp.arange(p.size, dtype=jnp.float32).reshape(p.shape) - 2.0, params)
  reference = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.adamw(1e-2, b1=0.8, b2=0.9, eps=1e-2, weight_decay=0.1, mask=optimizers.decay_mask),
  )
  ours, theirs = params, params
  optimizer = optimizers.make_optimizer(config)
  our_state, their_state = optimizer.init(ours), reference.init(theirs)
  for factor in (1.0, -0.1, 0.02):  # under equal gradients the decay of the moments would not matter
    now = jax.tree.map(lambda g: factor * g, gradients)
    ours, our_state = optimizers.apply(optimizer, now, optax.global_norm(now), our_state, ours, jnp.float32(1e-2))
    updates, their_state = reference.update(now, their_state, theirs)
    theirs = optax.apply_updates(theirs, updates)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize("factor", [0.01, 1.0, 1e4])
def test_clipping_by_a_norm_that_is_known_is_optax_clipping(factor):
  """To the last bit where nothing is clipped, to the rounding of one product where something is."""
  optimizer, reference = (
    optimizers.make_optimizer(tiny_config(**{"optimizer.clip_norm": 0.7})),
    optax.clip_by_global_norm(0.7),
  )
  without = optimizers.make_optimizer(tiny_config(**{"optimizer.clip_norm": 0.0}))
  gradients = {
    "pooler": {
      "dense": {
        "kernel": jnp.asarray(factor * np.random.default_rng(0).normal(size=(3, 5)), jnp.float32),
        "bias": jnp.full(5, factor),
      }
    }
  }
  params = jax.tree.map(jnp.zeros_like, gradients)
  expected = without.update(reference.update(gradients, reference.init(gradients))[0], without.init(params), params)
  direction, state = optimizer.update(gradients, optimizer.init(params), params, grad_norm=optax.global_norm(gradients))
  tolerance = 0 if factor == 0.01 else 1e-6
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance), (direction, state[1:]), expected)


def test_the_state_of_an_optimizer_that_clips_is_the_one_with_optax_clipping():
  """Checkpoints of runs that clipped by optax.clip_by_global_norm stay readable."""
  params = {"pooler": {"dense": {"kernel": jnp.ones((3, 2))}}}
  clipped, plain = (optimizers.make_optimizer(tiny_config(**{"optimizer.clip_norm": norm})) for norm in (1.0, 0.0))
  assert jax.tree.structure(clipped.init(params)) == jax.tree.structure(
    (optax.clip_by_global_norm(1.0).init(params), *plain.init(params))
  )


def test_lamb_scales_each_matrix_by_its_trust_ratio_and_leaves_biases_to_adam():
  config = tiny_config(**{"optimizer.name": "lamb", "optimizer.clip_norm": 0.0, "optimizer.weight_decay": 0.0})
  params = {"pooler": {"dense": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 5.0)}}}
  gradients = jax.tree.map(jnp.ones_like, params)
  optimizer = optimizers.make_optimizer(config)
  direction, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_allclose(jnp.linalg.norm(kernel(direction)), jnp.linalg.norm(kernel(params)), rtol=1e-5)
  np.testing.assert_allclose(direction["pooler"]["dense"]["bias"], -1.0, rtol=1e-5)


def test_lamb_is_optax_lamb_where_everything_decays():
  """The decay is part of the step whose length the trust ratio sets (You et al. 2019, algorithm 2)."""
  config = tiny_config(**{"optimizer.name": "lamb", "optimizer.clip_norm": 0.0, "optimizer.weight_decay": 0.5})
  params = {"pooler": {"dense": {"kernel": jnp.array([[1.0, -2.0], [0.5, 4.0]])}}}
  gradients = {"pooler": {"dense": {"kernel": jnp.array([[1.0, 2.0], [-3.0, 0.1]])}}}
  ours, theirs = optimizers.make_optimizer(config), optax.lamb(1.0, eps=1e-6, weight_decay=0.5)
  direction, _ = ours.update(gradients, ours.init(params), params)
  expected, _ = theirs.update(gradients, theirs.init(params), params)
  np.testing.assert_allclose(kernel(direction), kernel(expected), rtol=1e-6)


def moments_after(gradients, moments_dtype: str, **overrides):
  """(mu, nu) as float32 after a step for each row of `gradients`."""
  optimizer = optimizers.make_optimizer(
    tiny_config(**{"optimizer.clip_norm": 0.0, "optimizer.moments_dtype": moments_dtype} | overrides)
  )
  params = {"pooler": {"dense": {"kernel": jnp.zeros(gradients.shape[1:])}}}

  @jax.jit
  def run(params, gradients):
    one = lambda state, gradient: (
      optimizers.apply(optimizer, {"pooler": {"dense": {"kernel": gradient}}}, None, state, params, 0.0)[1],
      None,
    )
    return jax.lax.scan(one, optimizer.init(params), gradients)[0]

  adam = next(part for part in run(params, gradients) if isinstance(part, optax.ScaleByAdamState))
  assert kernel(adam.mu).dtype == kernel(adam.nu).dtype == jnp.dtype(moments_dtype)
  return [np.asarray(kernel(tree).astype(jnp.float32)) for tree in (adam.mu, adam.nu)]


def test_moments_in_bfloat16_follow_those_in_float32_even_where_a_step_is_smaller_than_their_last_bit():
  """b2 = 0.999 moves the second moment by a thousandth, and bfloat16 has steps of 1/256: rounded to the nearest it
  would stand still.
  """
  scale = np.concatenate([np.full(1000, 1.0), np.full(1500, 0.1)])[:, None]
  gradients = jnp.asarray(scale * np.random.default_rng(0).normal(size=(2500, 400)), jnp.float32)
  plain, half = moments_after(gradients, "float32"), moments_after(gradients, "bfloat16")
  stuck = np.median(moments_after(gradients[:1000], "float32")[1])
  assert np.median(plain[1]) < stuck / 3, "the second moment has to fall in this test"
  relative = half[1] / plain[1] - 1
  independent = (
    np.sqrt(1 / 6) * 2**-7.5 / np.sqrt(2 * 0.001)
  )  # what chances without memory would leave, b2 = 0.999 adding up a thousand of them
  assert abs(relative.mean()) < 0.003 and relative.std() < independent
  error = half[0] - plain[0]
  assert np.sqrt(np.mean(error**2)) < 0.02 * plain[0].std() and abs(error.mean()) < 0.005 * plain[0].std()


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_an_update_with_moments_in_bfloat16_is_that_of_float32_until_they_are_read_again(name):
  """The direction comes from the moments before they are rounded."""
  params = {"pooler": {"dense": {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4)}}}
  gradients = {"pooler": {"dense": {"kernel": jnp.linspace(0.3, -0.1, 12).reshape(3, 4)}}}
  found = []
  for dtype in ("float32", "bfloat16"):
    optimizer = optimizers.make_optimizer(tiny_config(**{"optimizer.name": name, "optimizer.moments_dtype": dtype}))
    found.append(kernel(optimizer.update(gradients, optimizer.init(params), params, grad_norm=jnp.float32(2.0))[0]))
  np.testing.assert_array_equal(*found)


def test_parameters_in_bfloat16_have_moments_in_float32():
  optimizer = optimizers.make_optimizer(tiny_config())
  params = {"pooler": {"dense": {"kernel": jnp.ones((3, 2), jnp.bfloat16)}}}
  _, state = optimizers.apply(
    optimizer, params, optax.global_norm(params), optimizer.init(params), params, jnp.float32(0.1)
  )
  assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype("float32")}
