"""From a config and a corpus to what a run is made of: the resolved config, the encoder, the model, the task."""

import json
import os
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from bert_jax import config as configs
from bert_jax.objectives import pretraining
from bert_jax.io import storage
from bert_jax.config import encoder_of
from bert_jax.data.corpus.folder import Corpus
from bert_jax.data.labelled.examples import Labels
from bert_jax.data.corpus.pairs import PAIR_OBJECTIVES
from bert_jax.data.tokenizer.wordpiece import Tokenizer
from bert_jax.errors import UserError
from bert_jax.objectives.masking import default_max_predictions, settings_of
from bert_jax.models import attention
from bert_jax.models.config import EncoderConfig
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.training.checkpoints.folder import committed_steps
from bert_jax.training.train_step import Task

# Of a fine-tuned run: what its outputs mean, what model it began with, and, once it has come to its end, how good its
# best checkpoint is.
LABELS_FILE, SOURCE_FILE, RESULT_FILE = "labels.json", "source.json", "result.json"


def read_run_config(folder: str | os.PathLike):
  """The resolved config of a run folder. Raises UserError if the folder holds none."""
  path = storage.folder(folder) / "config.json"
  try:
    return configs.from_json(path.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise UserError(f"{folder} is not a run folder: it has no config.json") from error
  except (ValueError, AttributeError, TypeError) as error:
    raise UserError(f"{path} is not the config of a run: {error}") from error
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def find_run_config(folder: str | os.PathLike):
  """The resolved config of a run folder; None for a folder of another kind, or one that is not there."""
  try:
    return read_run_config(folder)
  except UserError:
    return None


def read_labels(folder: str | os.PathLike) -> Labels | None:
  """What the outputs of a fine-tuned model mean, from its run folder; None for a run of another kind."""
  content = _read_json(storage.folder(folder) / LABELS_FILE)
  return content and Labels(content["kind"], tuple(content["names"]), content["scale"], content.get("pairs"))


def read_source(folder: str | os.PathLike) -> dict[str, str]:
  """The model that a fine-tuning began with: {"model": its folder, "state": see inference.state_of}; empty for a run
  of another kind.
  """
  return _read_json(storage.folder(folder) / SOURCE_FILE) or {}


def read_result(folder: str | os.PathLike) -> dict[str, Any] | None:
  """What a fine-tuning has written at its end; None before that, and once it has gone on since.

  "step" is that of the best checkpoint, "metric" what that was picked by, "metrics" what was measured at it, "examples"
  the files that was trained on and judged by with their digests, "held_out" whether the model was judged by a part of
  the training file, and "last_step" the newest checkpoint.
  """
  folder = storage.folder(folder)
  result = _read_json(folder / RESULT_FILE)
  newest = max(committed_steps(folder / "checkpoints"), default=0) if result else 0
  return result if result and newest <= result["last_step"] else None


def _read_json(path) -> dict[str, Any] | None:
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def resolve(config: ml_collections.ConfigDict, corpus: Corpus, tokenizer: Tokenizer) -> ml_collections.ConfigDict:
  """Fills in what follows from the corpus, and refuses a model that does not fit it. Raises UserError."""
  config = configs.copy_of(config)
  if config.model.vocab_size is None:
    config.model.vocab_size = tokenizer.vocab_size
  if config.model.vocab_size != tokenizer.vocab_size:
    raise UserError(
      f"model.vocab_size={config.model.vocab_size}, but the tokenizer of {corpus.folder} has {tokenizer.vocab_size} "
      "entries; "
      "leave model.vocab_size out, or prepare the corpus with the model's own tokenizer"
    )
  length = corpus.train.seq_length
  if config.masking.max_predictions is None:
    config.masking.max_predictions = default_max_predictions(settings_of(config.masking).highest_rate, length)
  if not 1 <= config.masking.max_predictions <= length:
    raise UserError(
      f"masking.max_predictions={config.masking.max_predictions} must lie between 1 and the row length {length}"
    )
  positions = encoder_of(config).max_position_embeddings
  if length > positions:
    raise UserError(
      f"rows of {corpus.folder} have {length} tokens, the model has {positions} positions; raise "
      f"model.max_position_embeddings to {length} or prepare the corpus with --seq_length={positions}"
    )
  return config


def model_of(
  config: ml_collections.ConfigDict, encoder: EncoderConfig, platform: str = "", *, seq_length: int = 0
) -> PretrainingModel:
  """The Flax module of a config. Raises UserError for an attention that cannot be used.

  Args:
    config: resolved or not.
    encoder: `encoder_of(config)`.
    platform: tpu, gpu or cpu: where it will run; empty: anywhere.
    seq_length: tokens in a row; 0: any.
  """
  dtypes = {name: jnp.dtype(config.model[name]) for name in ("dtype", "param_dtype")}
  return PretrainingModel(
    encoder, **dtypes, remat=config.model.remat, attention=attention_of(config, encoder, platform, seq_length)
  )


def attention_of(config: ml_collections.ConfigDict, encoder: EncoderConfig, platform: str, seq_length: int) -> str:
  """The implementation of attention that a config comes to, with arguments as of `model_of`."""
  if config.deterministic:
    return "xla"
  use = attention.Use(
    platform,
    seq_length,
    encoder.head_dim,
    config.model.dtype,
    dropout=encoder.attention_probs_dropout_prob > 0,
    split_heads=config.mesh.tensor != 1,
  )
  return attention.choose(config.model.attention, use)


def pretraining_task(
  config: ml_collections.ConfigDict, module: PretrainingModel, corpus: Corpus, tokenizer: Tokenizer
) -> Task:
  """The pretraining task of a module on a corpus; without a loss on pairs where either of them has none."""
  objective = corpus.manifest["objective"]
  return pretraining.make_task(
    module,
    config.masking,
    special=tokenizer.special,
    continuation=continuation(tokenizer),
    pairs=objective if "nsp" in module.heads and objective in PAIR_OBJECTIVES else "",
    total_steps=config.total_steps,
  )


def continuation(tokenizer: Tokenizer) -> np.ndarray:
  """bool [V]: which pieces continue a word ("##ing")."""
  pieces = tokenizer.backend.get_vocab(with_added_tokens=True)
  table = np.zeros(tokenizer.vocab_size, bool)
  table[[index for piece, index in pieces.items() if piece.startswith("##")]] = True
  return table
