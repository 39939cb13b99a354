"""A tiny pretraining set-up that tests of the training code share: random packed rows and a model of one layer."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import config as configs
from bert_jax.data.tokenizer.template import SpecialIds
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.objectives import pretraining
from bert_jax.objectives.objective import CorpusFacts
from bert_jax.training import sharding, train_state
from bert_jax.training.train_step import make_program

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
VOCAB, LENGTH, ROWS = 100, 32, 16


def tiny_config(**overrides):
  """A config of 40 steps whose model trains in no time; overrides by dotted key."""
  config = configs.default_config()
  config.total_steps = 40
  config.data.batch_size = ROWS
  config.model.update(
    preset="bert-tiny",
    vocab_size=VOCAB,
    hidden_size=16,
    num_attention_heads=2,
    num_hidden_layers=1,
    intermediate_size=32,
    max_position_embeddings=LENGTH,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
  )
  config.masking.max_predictions = 6
  config.optimizer.update(learning_rate=1e-2, warmup_steps=5)
  for key, value in overrides.items():
    group, _, name = key.rpartition(".")
    (config[group] if group else config)[name] = value
  return config


def tiny_model(config):
  """The model of `tiny_config`, in the dtypes that it says."""
  dtypes = {name: jnp.dtype(config.model[name]) for name in ("dtype", "param_dtype")}
  return PretrainingModel(configs.encoder_of(config), **dtypes, remat=config.model.remat)


def tiny_objective(config, continuation=np.zeros(VOCAB, bool)):
  """The pretraining objective of `tiny_config`; `continuation` says which ids are ## pieces."""
  facts = CorpusFacts(SPECIAL.mask, SPECIAL, continuation, "nsp")
  return pretraining.make_pretraining_objective(tiny_model(config), config, facts)


def tiny_batch(step, rows=ROWS):
  """A global host batch: one to three pairs per row, of very different lengths."""
  rng = np.random.default_rng(step)
  tokens = np.zeros((rows, LENGTH), np.int32)
  sequences = np.zeros((rows, 4, 3), np.int32)
  for row in range(rows):
    start = 0
    for slot in range(rng.integers(1, 4)):
      length = int(rng.integers(7, 11))
      first = int(rng.integers(3, length - 2))
      words = rng.integers(5, VOCAB, length)
      words[0], words[first - 1], words[-1] = SPECIAL.cls, SPECIAL.sep, SPECIAL.sep
      tokens[row, start : start + length] = words
      sequences[row, slot] = (length, first, rng.integers(0, 2))
      start += length
  index = np.arange(rows, dtype=np.uint32) + np.uint32(step * rows)
  return {"tokens": tokens, "sequences": sequences, "epoch": np.zeros(rows, np.uint32), "index": index}


_PROGRAMS = {}  # a process compiles each train step once, whichever tests take it


def _program(config, devices):
  key = json.dumps(configs.flatten(config)), devices, jax.config.jax_enable_x64
  if key not in _PROGRAMS:
    mesh, objective = sharding.make_mesh(config, jax.devices()[:devices]), tiny_objective(config)
    program = make_program(objective, config, mesh)
    start = lambda: train_state.fresh(objective.init, program.optimizer, program.state, config.seed)
    _PROGRAMS[key] = mesh, program, start
  return _PROGRAMS[key]


def run_steps(config, steps, devices=1, change=lambda step, batch: batch):
  """Trains `steps` steps with the program of the loop. Returns (final state, list of StepReports on the host)."""
  mesh, program, start = _program(config, devices)
  state, reports = start(), []
  for number in range(steps):
    state, report = program.train_step(state, sharding.put_batch(change(number, tiny_batch(number)), mesh))
    reports.append(jax.device_get(report))
  return state, reports


def losses(reports):
  """[steps, 2]: MLM and NSP loss of every step."""
  divide = lambda pair: float(pair[0]) / float(pair[1])
  return np.array([[divide(report.sums["mlm_loss"]), divide(report.sums["nsp_loss"])] for report in reports])
