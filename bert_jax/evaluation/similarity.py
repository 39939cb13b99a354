"""Cosines of pairs of texts, by every layer and every pooling of a model.

Shape legend: N pairs.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import ModelInputs
from bert_jax.inference import model as inference
from bert_jax.inference.model import Model
from bert_jax.models.config import EncoderConfig
from bert_jax.models.pooling import POOLINGS, pool
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.models.sentence import l2_normalize

_BATCH = 32  # pairs in one call of the model


def cosines_of_pairs(model: Model, first: Sequence[str], second: Sequence[str]) -> tuple[dict[str, np.ndarray], int]:
  """({pooling: float32 [layers, N], of the pooler the last layer alone}, how many texts lost their end), in the order
  of POOLINGS.
  """
  count = len(first)
  cut = inference.encode_texts(model, [*first, *second])
  both = [(cut[i][:2], cut[i + count][:2]) for i in range(count)]
  heads = model.heads & {"pooler"}
  cosines: dict[str, np.ndarray] = {}
  for members, filled in inference.batches_by_length([max(len(ids) for ids, _ in pair) for pair in both], _BATCH):
    inputs = inference.make_inputs(model, [both[i][0] for i in filled] + [both[i][1] for i in filled])
    for name, found in _cosines(model.config, heads, model.params, inputs).items():
      cosines.setdefault(name, np.zeros((len(found), count), np.float32))[:, members] = inference.finite(
        model, found, "the cosines"
      )[:, : len(members)]
  return {name: cosines[name] for name in filter(cosines.__contains__, POOLINGS)}, sum(was_cut for _, _, was_cut in cut)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _cosines(config: EncoderConfig, heads: frozenset[str], params, inputs: ModelInputs) -> dict[str, jax.Array]:
  """{pooling: float32 [layers, N]}, the last layer alone for the pooler; inputs: the N first texts, then the N second
  ones.
  """
  output = PretrainingModel(config, heads=heads).apply({"params": params}, inputs, None)
  found = {}
  for name in POOLINGS:
    if name == "pooler" and name not in heads:
      continue
    states = output.hidden_states[-1:] if name == "pooler" else output.hidden_states
    vectors = jnp.stack([pool(state, output.pooled_output, inputs, name) for state in states])
    first, second = jnp.split(l2_normalize(vectors), 2, axis=1)
    found[name] = jnp.sum(first * second, axis=-1)
  return found
