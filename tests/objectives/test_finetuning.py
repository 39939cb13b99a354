"""finetune.py: the losses of transformers' own heads, step by step; and what does not depend on how a batch is cut."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bert_jax import config as configs
from bert_jax.convert.folder import to_huggingface
from bert_jax.models import parameters
from bert_jax.models.config import EncoderConfig
from bert_jax.models.finetuning import FinetuningModel
from bert_jax.objectives import finetuning
from bert_jax.training import optimizer as optimizers
from bert_jax.training import train_state
from bert_jax.training.train_step import make_gradients, make_train_step
from tests.helpers.weights import draw_weights

ENCODER = EncoderConfig(
  vocab_size=60,
  hidden_size=16,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=32,
  max_position_embeddings=24,
  hidden_dropout_prob=0.0,
  attention_probs_dropout_prob=0.0,
)
ROWS, LENGTH, STEPS = 8, 24, 20
LABELS = {"classification": 3, "multi-label": 4, "regression": 1, "token-classification": 5, "question-answering": 2}
THEIRS = {
  "classification": (
    transformers.BertForSequenceClassification,
    {"num_labels": 3, "problem_type": "single_label_classification"},
    "sequence-classification",
  ),
  "multi-label": (
    transformers.BertForSequenceClassification,
    {"num_labels": 4, "problem_type": "multi_label_classification"},
    "sequence-classification",
  ),
  "regression": (
    transformers.BertForSequenceClassification,
    {"num_labels": 1, "problem_type": "regression"},
    "sequence-classification",
  ),
  "token-classification": (transformers.BertForTokenClassification, {"num_labels": 5}, "token-classification"),
  "question-answering": (transformers.BertForQuestionAnswering, {}, "question-answering"),
}


def settings(**overrides):
  config = configs.default_config()
  config.total_steps = 2 * STEPS
  config.optimizer.update(learning_rate=1e-3, warmup_steps=5, eps=1e-8, clip_norm=1.0, weight_decay=0.01)
  for key, value in overrides.items():
    configs.set_key(config, key, value)
  return config


def batch_of(kind, step, rows=ROWS):
  """A batch of pairs, the first of which fills its row: transformers lets padding end an answer, and we do not."""
  rng = np.random.default_rng([step, len(kind)])
  full = kind == "question-answering"
  lengths = np.array([LENGTH if full else rng.integers(6, LENGTH + 1) for _ in range(rows)])
  lengths[0] = LENGTH
  tokens = np.where(np.arange(LENGTH) < lengths[:, None], rng.integers(5, 60, (rows, LENGTH)), 0).astype(np.int32)
  sequences = np.stack([lengths, rng.integers(3, 6, rows), np.zeros(rows, int)], axis=-1)[:, None, :].astype(np.int32)
  real = np.arange(LENGTH) < lengths[:, None]
  labels = {
    "classification": lambda: rng.integers(0, 3, rows).astype(np.int32),
    "multi-label": lambda: rng.integers(0, 2, (rows, 4)).astype(np.float32),
    "regression": lambda: rng.uniform(0, 1, rows).astype(np.float32),
    "token-classification": lambda: np.where(
      real & (rng.random((rows, LENGTH)) < 0.7), rng.integers(0, 5, (rows, LENGTH)), -1
    ).astype(np.int32),
    "question-answering": lambda: np.sort(rng.integers(0, LENGTH, (rows, 2)), axis=-1).astype(np.int32),
  }[kind]()
  return {
    "tokens": tokens,
    "sequences": sequences,
    "epoch": np.zeros(rows, np.uint32),
    "index": np.arange(rows, dtype=np.uint32),
    "labels": labels,
    "weights": np.ones(rows, np.float32),
  }


def objective_and_params(kind, pooling="pooler", encoder=ENCODER):
  model = FinetuningModel(encoder, finetuning.KINDS[kind].target, LABELS[kind], pooling)
  objective = finetuning.make_finetuning_objective(model, kind)
  shapes = jax.eval_shape(objective.init, jax.random.key(0))
  rng = np.random.default_rng(7)
  draw = lambda path, leaf: jnp.asarray(
    draw_weights(rng, leaf.shape, scale=path[-1].key == "scale") * 0.3 + 0.7 * (path[-1].key == "scale")
  )
  return objective, jax.tree_util.tree_map_with_path(draw, shapes)


def train(kind, config, steps=STEPS, batches=batch_of, **how):
  """(losses, parameters) of so many steps of ours."""
  objective, params = objective_and_params(kind, **how)
  optimizer = optimizers.make_optimizer(config)
  step = jax.jit(
    make_train_step(
      objective,
      optimizer,
      optimizers.make_schedule(config),
      seed=0,
      microbatches=config.optimizer.microbatches,
      frozen_layers=config.optimizer.frozen_layers,
    )
  )
  state, losses = train_state.create(params, optimizer), []
  for number in range(steps):
    state, report = step(state, batches(kind, number))
    losses.append(float(report.sums["loss"][0] / report.sums["loss"][1]))
  return np.array(losses), params, state.params


def their_model(kind, params):
  """transformers' model of a kind with our weights."""
  made, extra, head = THEIRS[kind]
  model = made(
    transformers.BertConfig(
      vocab_size=60,
      hidden_size=16,
      num_hidden_layers=2,
      num_attention_heads=2,
      intermediate_size=32,
      max_position_embeddings=24,
      hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0,
      **extra,
    )
  )
  tensors = {name: torch.from_numpy(array.copy()) for name, array in to_huggingface(params, ENCODER, head).items()}
  missing, unexpected = model.load_state_dict(tensors, strict=False)
  assert not unexpected and not [name for name in missing if "position_ids" not in name], (missing, unexpected)
  return model.train()


def train_theirs(kind, params, config):
  model = their_model(kind, params)
  matrix = lambda name: name.endswith("weight") and "LayerNorm" not in name
  groups = [
    {"params": [p for name, p in model.named_parameters() if matrix(name) is side], "weight_decay": 0.01 * side}
    for side in (True, False)
  ]
  optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
  schedule, losses = optimizers.make_schedule(config), []
  for number in range(STEPS):
    batch = batch_of(kind, number)
    length, first = batch["sequences"][:, 0, 0][:, None], batch["sequences"][:, 0, 1][:, None]
    place = np.arange(LENGTH)
    labels = torch.from_numpy(batch["labels"].astype(np.int64 if batch["labels"].dtype == np.int32 else np.float32))
    if kind == "question-answering":
      targets = {"start_positions": labels[:, 0], "end_positions": labels[:, 1]}
    else:
      targets = {"labels": torch.where(labels < 0, -100, labels) if kind == "token-classification" else labels}
    output = model(
      input_ids=torch.from_numpy(batch["tokens"].astype(np.int64)),
      attention_mask=torch.from_numpy((place < length).astype(np.int64)),
      token_type_ids=torch.from_numpy(((place >= first) & (place < length)).astype(np.int64)),
      **targets,
    )
    losses.append(output.loss.item())
    optimizer.zero_grad()
    output.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
      group["lr"] = float(schedule(jnp.int32(number)))
    optimizer.step()
  return np.array(losses)


@pytest.mark.parametrize("kind", finetuning.KINDS)
def test_twenty_steps_have_the_losses_of_transformers(kind):
  ours, params, _ = train(kind, settings())
  theirs = train_theirs(kind, params, settings())
  assert abs(ours[0] - ours[-1]) > 1e-3, "the weights have to move in this test"
  np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", finetuning.KINDS)
def test_microbatches_change_nothing(kind):
  """Law 3: the rows of a batch have different numbers of labelled words."""
  one, _, _ = train(kind, settings(), 5)
  four, _, _ = train(kind, settings(**{"optimizer.microbatches": 4}), 5)
  np.testing.assert_allclose(four, one, atol=1e-5)


@pytest.mark.parametrize("kind", finetuning.KINDS)
def test_padding_changes_nothing(kind):
  """Law 4, with rows twice as long as they need to be."""

  def padded(kind, step):
    batch = batch_of(kind, step)
    batch["tokens"] = np.pad(batch["tokens"], ((0, 0), (0, LENGTH)))
    if kind == "token-classification":
      batch["labels"] = np.pad(batch["labels"], ((0, 0), (0, LENGTH)), constant_values=-1)
    return batch

  longer = dataclasses.replace(ENCODER, max_position_embeddings=2 * LENGTH)
  one, _, _ = train(kind, settings(), 5, encoder=longer)
  two, _, _ = train(kind, settings(), 5, batches=padded, encoder=longer)
  np.testing.assert_allclose(two, one, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "pooler"])
def test_every_pooling_learns(pooling):
  same = lambda kind, step: batch_of(kind, 0)
  losses, _, _ = train(
    "classification", settings(**{"optimizer.learning_rate": 1e-2}), 20, batches=same, pooling=pooling
  )
  assert losses[-1] < 0.5 * losses[0]


def changed(before, after):
  """Depths (0: embeddings) of the parameters that training has moved."""
  depth = lambda path: parameters.depth_of(path, 2)
  moved = jax.tree_util.tree_map_with_path(lambda path, a, b: (depth(path), bool(np.any(a != b))), before, after)
  return {depth for depth, has_moved in jax.tree.leaves(moved, is_leaf=lambda x: isinstance(x, tuple)) if has_moved}


@pytest.mark.parametrize("frozen, moved", [(-1, {0, 1, 2, 3}), (0, {1, 2, 3}), (1, {2, 3}), (2, {3})])
def test_frozen_layers_stay_bit_for_bit(frozen, moved):
  _, before, after = train("classification", settings(**{"optimizer.frozen_layers": frozen}), 3)
  assert changed(before, after) == moved


def test_with_layer_decay_a_layer_moves_by_its_share_of_the_rate():
  plain = settings(**{"optimizer.clip_norm": 0.0})
  _, before, whole = train("classification", plain, 1)
  _, _, decayed = train("classification", settings(**{"optimizer.clip_norm": 0.0, "optimizer.layer_decay": 0.5}), 1)
  for names, depth in (
    (("encoder", "embeddings"), 0),
    (("encoder", "layer_0"), 1),
    (("encoder", "layer_1"), 2),
    (("classifier",), 3),
  ):
    pick = lambda tree: jax.tree.leaves(tree[names[0]] if len(names) == 1 else tree[names[0]][names[1]])
    for start, a, b in zip(pick(before), pick(whole), pick(decayed)):
      np.testing.assert_allclose(b - start, (a - start) * 0.5 ** (3 - depth), atol=2e-7)


def test_what_is_frozen_has_no_gradients_and_the_rest_has_its_own():
  """So nothing of it enters the global norm that gradients are clipped by."""
  objective, params = objective_and_params("classification")
  gradients = lambda frozen: jax.jit(make_gradients(objective, seed=0, microbatches=1, frozen_layers=frozen))(
    params, 0, batch_of("classification", 0)
  )[1]

  def check(path, held, whole):
    np.testing.assert_allclose(held, 0 * whole if parameters.depth_of(path, 2) <= 1 else whole, atol=1e-6)

  jax.tree_util.tree_map_with_path(check, gradients(1), gradients(-1))
