"""What do the parts of a training step cost here, each by itself?

    python benchmarks/parts.py --config=configs/bert_base.py:local
    python benchmarks/parts.py --config=configs/bert_base.py:phase2 --config.data.batch_size=32 --sequences=2

Every part is compiled alone, forward and forward with backward, on activations
of the shapes that the config gives, and all take their turn in every round. In
a whole step the compiler joins parts, so the sum is no step; `bert_jax bench`
measures that. Attention is measured by every implementation that this device
has. The loader is measured on the host, by the batch.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from bert_jax.__main__ import quiet

quiet()

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax import config as configs
from bert_jax.batch import ModelInputs, model_inputs
from bert_jax.data.loading.input_pipeline import load_batch
from bert_jax.models import attention
from bert_jax.models.dropout import dropout
from bert_jax.models.heads import MlmHead
from bert_jax.models.layers import Embeddings, FeedForward, layer_norm
from bert_jax.objectives import losses
from bert_jax.tools.bench.rows import BenchData, bench_data
from bert_jax.tools.bench.timing import TimedCall, in_turn, repeated, spread
from bert_jax.training import optimizer as optimizers
from bert_jax.training.train_step import prepare_rows


class Part(NamedTuple):
  """A function to measure.

  Attributes:
    run: see timing.in_turn.
    flops: of matrix products in one call; 0 where there are none to speak of.
  """

  run: TimedCall
  flops: float = 0.0


def main() -> None:
  options, rest = _parse_arguments()
  overrides = [word.removeprefix("--config.") for word in rest]
  config = configs.load_config(options.config, overrides)
  data = bench_data(config, sequences=options.sequences)
  config = data.resolved(config)
  parts = _parts(config, data)
  print(
    f"{config.model.preset}, {config.model.dtype}, {config.data.batch_size} rows ({data.facts.source}), "
    f"{jax.devices()[0].device_kind}\n"
    f"\n{'':34}{'ms':>10}{'from-to':>20}{'TFLOP/s':>10}",
    flush=True,
  )
  found = in_turn({name: part.run for name, part in parts.items()}, rounds=options.rounds, seconds=options.seconds)
  for name, part in parts.items():
    took = spread(found[name])
    rate = f"{part.flops / took.median / 1e12:>10.3f}" if part.flops else ""
    print(f"{name:<34}{1e3 * took.median:>10.3f}{f'{1e3 * took.low:.3f}-{1e3 * took.high:.3f}':>20}{rate}")


def _parse_arguments() -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    "--config", default="configs/bert_base.py:local", metavar="FILE.py[:variant]", help="default: %(default)s"
  )
  parser.add_argument(
    "--sequences", type=int, default=1, metavar="N", help="in a row that is made up (default: %(default)s)"
  )
  parser.add_argument("--rounds", type=int, default=5, help="how often all are measured (default: %(default)s)")
  parser.add_argument("--seconds", type=float, default=0.5, help="of one turn (default: %(default)s)")
  return parser.parse_known_args()


def _parts(config, data: BenchData) -> dict[str, Part]:
  """Name -> part, in the order of a step."""
  encoder, batch = configs.encoder_of(config), data.first(config, 1)[0]
  inputs = model_inputs(jnp.asarray(batch["tokens"]), jnp.asarray(batch["sequences"]))
  dtypes = {name: jnp.dtype(config.model[name]) for name in ("dtype", "param_dtype")}
  (rows, length), hidden = inputs.input_ids.shape, encoder.hidden_size
  x = jax.random.normal(jax.random.key(0), (rows, length, hidden), dtypes["dtype"])
  parts = {
    "loader: one batch": Part(repeated(lambda: load_batch(data.rows, np.arange(rows), seed=0))),
    "masking, positions, segments": Part(_prepare(config, data, batch)),
  }
  embeddings = Embeddings(encoder, **dtypes)
  ids = inputs.input_ids, inputs.token_type_ids, inputs.position_ids
  parts |= _both_ways(
    "embeddings", lambda params: embeddings.apply(params, *ids, None), embeddings.init(jax.random.key(0), *ids, None)
  )
  parts |= _attention(encoder, inputs, dtypes["dtype"], config)
  feed_forward = FeedForward(encoder, **dtypes)
  parts |= _both_ways(
    "feed-forward, residual, LayerNorm",
    lambda both: feed_forward.apply(both[0], both[1], None),
    (feed_forward.init(jax.random.key(0), x, None), x),
    4 * rows * length * hidden * encoder.intermediate_size,
  )
  norm = layer_norm(feed_forward)
  parts |= _both_ways("LayerNorm", lambda both: norm.apply(both[0], both[1]), (norm.init(jax.random.key(0), x), x))
  keys = jax.random.split(jax.random.key(6), rows)
  parts |= _both_ways("dropout of 0.1", lambda x: dropout(x, 0.1, keys), x)
  parts |= _head(config, encoder, dtypes, rows)
  parts["optimizer, all parameters"] = Part(_optimizer(config, data))
  return parts


def _attention(encoder, inputs: ModelInputs, dtype, config) -> dict[str, Part]:
  """By every implementation that this device has; FLOPs as if every token saw the whole row."""
  rows, length = inputs.input_ids.shape
  shape = (rows, length, encoder.num_attention_heads, encoder.head_dim)
  operands = tuple(jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(1), 3))
  use = attention.Use(jax.default_backend(), length, encoder.head_dim, config.model.dtype)
  parts: dict[str, Part] = {}
  for name in attention.IMPLEMENTATIONS:
    if not attention.obstacle(name, use):
      attend = lambda qkv, name=name: attention.dot_product_attention(
        qkv[0], qkv[1], qkv[2], inputs.segment_ids, inputs.sequence_lengths, implementation=name
      )
      parts |= _both_ways(f"attention, {name}", attend, operands, 4 * rows * length**2 * encoder.hidden_size)
  return parts


def _head(config, encoder, dtypes, rows: int) -> dict[str, Part]:
  """MLM head and loss on the positions to predict."""
  count, hidden, vocab = config.masking.max_predictions, encoder.hidden_size, encoder.padded_vocab_size
  x = jax.random.normal(jax.random.key(2), (rows, count, hidden), dtypes["dtype"])
  words = jax.random.normal(jax.random.key(3), (vocab, hidden), dtypes["param_dtype"])
  labels = jax.random.randint(jax.random.key(4), (rows, count), 0, encoder.vocab_size)
  head = MlmHead(encoder, **dtypes)

  def loss(operands):
    params, x, words = operands
    return losses.cross_entropy(head.apply(params, x, words), labels, jnp.ones(labels.shape)).loss

  flops = 2 * rows * count * (hidden * hidden + hidden * vocab)
  return _both_ways("MLM head and loss", loss, (head.init(jax.random.key(5), x, words), x, words), flops)


def _both_ways(name: str, fn: Callable[[Any], jax.Array], operands: Any, flops: float = 0.0) -> dict[str, Part]:
  """fn forward, and with the gradients of all operands."""
  forward = jax.jit(fn)
  both = jax.jit(jax.grad(lambda operands: jnp.sum(fn(operands).astype(jnp.float32) ** 2)))
  return {
    name: Part(repeated(functools.partial(forward, operands)), flops),
    f"{name}, gradients": Part(repeated(functools.partial(both, operands)), 3 * flops),
  }


def _prepare(config, data: BenchData, batch) -> TimedCall:
  """What is done to rows on the device before the model sees them."""
  objective = data.objective(config, jax.default_backend())
  return repeated(
    functools.partial(jax.jit(lambda batch: prepare_rows(objective, config.seed, batch, 0)[0]), jax.device_put(batch))
  )


def _optimizer(config, data: BenchData) -> TimedCall:
  """An update of all parameters, in place as in a step."""
  objective, optimizer = data.objective(config, jax.default_backend()), optimizers.make_optimizer(config)
  params = jax.jit(objective.init)(jax.random.key(0))
  gradients = jax.tree.map(lambda x: jnp.full(x.shape, 1e-3, x.dtype), params)

  def step(params, moments, gradients):
    return optimizers.apply(optimizer, gradients, optax.global_norm(gradients), moments, params, 1e-4)

  update = jax.jit(step, donate_argnums=(0, 1))
  state = [params, optimizer.init(params)]

  def in_place():
    state[:] = update(*state, gradients)
    return state

  return repeated(in_place)


if __name__ == "__main__":
  main()
