"""Training a pretrained model on: what fine-tuning and sentence embedding have in common, settings and files.

WORKDIR/source.json    the model that the run began with
WORKDIR/result.json    once it has come to its end: the metrics of the best checkpoint, and which that is
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence

import jax
import ml_collections
import numpy as np
from etils import epath

from bert_jax import config as configs
from bert_jax.cluster import agreement
from bert_jax.data.labelled import features
from bert_jax.data.labelled.features import Features
from bert_jax.errors import UserError
from bert_jax.export import export
from bert_jax.inference.model import Model, state_of
from bert_jax.io import storage
from bert_jax.training import optimizer as optimizers
from bert_jax.training import sharding
from bert_jax.training.checkpoints import folder as checkpoint_folder
from bert_jax.training.model_selection import ModelSelection
from bert_jax.training.run_folder import RESULT_FILE, SOURCE_FILE

# Where fine-tuning starts from otherwise than pretraining: Devlin et al. 2018, appendix A.3, and Hugging Face's
# epsilon. Dropout is that of the paper, whatever the pretraining had.
DEFAULTS = {
  "data.batch_size": 32,
  "optimizer.learning_rate": 5e-5,
  "optimizer.eps": 1e-8,
  "log_every_steps": 50,
  "checkpoint.keep_last": 2,
  "checkpoint.keep_best": 1,
  "data.loader": "threads",
  "model.hidden_dropout_prob": 0.1,
  "model.attention_probs_dropout_prob": 0.1,
}
# What follows from the number of examples, see `resolve`.
SET_BY_EPOCHS = ("total_steps", "optimizer.warmup_steps", "eval_every_steps", "checkpoint.every_steps")
_LENGTH, _LENGTH_OF_WINDOWS = 128, 384  # tokens in a row; Devlin et al. 2018 have the second for SQuAD, in their code
_LEAST_LENGTH = 8  # [CLS], [SEP], and a few tokens


def config_of(overrides: list[str], defaults: dict) -> ml_collections.ConfigDict:
  """The defaults with overrides "key=value". Raises UserError as config.load_config."""
  config = configs.default_config()
  for key, value in defaults.items():
    configs.set_key(config, key, value)
  for override in overrides:
    configs.apply_override(config, override)
  checked = configs.copy_of(config)
  if config.finetune.epochs:
    given = [key for key in SET_BY_EPOCHS if any(override.partition("=")[0] == key for override in overrides)]
    if given:
      raise UserError(
        f"{', '.join(given)}: set by finetune.epochs={config.finetune.epochs:g}, finetune.warmup_share and "
        "finetune.evaluations; finetune.epochs=0 leaves it as you set it"
      )
    checked.stop_at_step = 0  # how many steps there are is not known before the examples are
  configs.validate(checked)
  return config


def max_length_of(config: ml_collections.ConfigDict, positions: int, kind: str = "") -> int:
  """Tokens that a text or pair may have: those of the config, else of the kind, as far as a model of so many positions
  reads.
  """
  wanted = config.finetune.max_length or (_LENGTH_OF_WINDOWS if kind == "question-answering" else _LENGTH)
  if wanted < _LEAST_LENGTH:
    raise UserError(
      f"finetune.max_length={wanted} leaves no room for a text, since [CLS] and [SEP] count; give {_LEAST_LENGTH} or "
      "more"
    )
  return min(wanted, positions)


def resolve(
  config: ml_collections.ConfigDict, source: Model, examples: int, max_length: int
) -> ml_collections.ConfigDict:
  """Fills in what follows from the model and the examples: the encoder's fields, the number of steps, and the length
  that texts were cut to.
  """
  config, settings = configs.copy_of(config), config.finetune
  for field in dataclasses.fields(source.config):
    given, own = config.model[field.name], getattr(source.config, field.name)
    if given is not None and given != own and not field.name.endswith("dropout_prob"):
      raise UserError(f"model.{field.name}={given!r}, but the model that is fine-tuned has {own!r}: leave the key out")
    config.model[field.name] = own if given is None else given
  if config.optimizer.frozen_layers > source.config.num_hidden_layers:
    raise UserError(
      f"optimizer.frozen_layers={config.optimizer.frozen_layers}, but the model has {source.config.num_hidden_layers} "
      "layers"
    )
  config.finetune.max_length = max_length
  if settings.epochs:
    in_epoch = examples / config.data.batch_size
    config.total_steps = max(1, math.ceil(settings.epochs * in_epoch))
    config.optimizer.warmup_steps = min(math.floor(settings.warmup_share * config.total_steps), config.total_steps - 1)
    config.eval_every_steps = config.checkpoint.every_steps = max(1, round(in_epoch / settings.evaluations))
  configs.validate(config)
  optimizers.make_schedule(config)  # refused here, before anything is written
  return config


def begin(root: epath.Path, init_from: str, source: Model) -> None:
  """Says in SOURCE_FILE what the run begins with; called on every process, also where the run goes on."""

  def write() -> None:
    if not (root / SOURCE_FILE).exists():
      content = {"model": init_from, "state": state_of(init_from, source.step)}
      storage.write_text(root / SOURCE_FILE, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

  agreement.on_first(write)


def shown(names: Sequence[str]) -> str:
  """The first names of labels, for a line of text."""
  return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


def note_sizes(asked: ml_collections.ConfigDict, config: ml_collections.ConfigDict, rows: int, log) -> None:
  """Says where a size that was asked for fits neither the model nor the examples.

  Args:
    asked: the config before `resolve`.
    config: the resolved config.
    rows: how many rows of examples there are.
    log: takes one line for the user.
  """
  if asked.finetune.max_length > config.finetune.max_length:
    log(
      f"note: the model has {config.finetune.max_length} positions: finetune.max_length={asked.finetune.max_length} "
      f"becomes {config.finetune.max_length}"
    )
  if config.data.batch_size > rows:
    log(
      f"note: data.batch_size={config.data.batch_size} is more than there are examples: every step sees all of them, "
      "some more than once"
    )


def note_unknown(part: Features, source: Model, log) -> None:
  """Says so where the model's tokenizer does not know most of what the examples are made of."""
  share = float(np.mean(part.tokens == source.tokenizer.special.unk))
  if share > 0.5:
    log(f"note: {share:.0%} of the tokens are [UNK]: the vocabulary of {source.origin} does not know such text")


def start_from(source: Model, log):
  """Training.start: the encoder, and the pooler where it is read, of the source; the head is new."""

  def start(fresh, abstract):
    taken = {
      name: source.params[name] for name in fresh.params if name in ("encoder", "pooler") and name in source.params
    }
    if "pooler" in fresh.params and "pooler" not in taken:
      log(f"{source.origin} has no pooler: a new one is trained; finetune.pooling=mean reads the tokens themselves")
    log(
      f"Starting from {source.origin}: {', '.join(sorted(taken))}; new: "
      f"{', '.join(sorted(set(fresh.params) - set(taken))) or 'nothing'}"
    )
    params = fresh.params | jax.tree.map(
      lambda new, old: old.astype(new.dtype), {name: fresh.params[name] for name in taken}, taken
    )
    return fresh._replace(params=jax.device_put(params, jax.tree.map(lambda x: x.sharding, fresh.params)))

  return start


def batches_from(position: int, train: Features, config: ml_collections.ConfigDict, mesh, *, texts: int = 1):
  """Training.batches of features; `texts`: how many, each of finetune.max_length, are packed into a row."""
  size, max_length = config.data.batch_size, texts * config.finetune.max_length
  return features.length_grouped_batches(
    train,
    batch_size=size,
    seed=config.seed,
    start=position,
    steps=config.total_steps,
    max_length=max_length,
    process_rows=sharding.rows_of_process(mesh, size),
  )


def digests_of(files: Iterable[str]) -> dict[str, str]:
  """{file: the beginning of its SHA-256}, of those of some names that are files here."""
  found = {}
  for file in files:
    if os.path.isfile(file):
      with open(file, "rb") as content:
        found[file] = hashlib.file_digest(content, "sha256").hexdigest()[:16]
  return found


def finish(
  root: epath.Path, selection: ModelSelection, export_format: str, *, examples: dict[str, str], held_out: bool
) -> None:
  """Writes RESULT_FILE, and exports the checkpoint that it names; called on every process.

  Args:
    root: the run folder.
    selection: what makes a checkpoint the best.
    export_format: see exporting.export_run.
    examples: files and digests, as they were when the run began or went on.
    held_out: whether the model was judged by a part of the training file.
  """
  agreement.on_first(lambda: write_result(root, selection, examples=examples, held_out=held_out))
  export.export_run(root, export_format)


def write_result(root: epath.Path, selection: ModelSelection, *, examples: dict[str, str], held_out: bool) -> None:
  """Says in RESULT_FILE which checkpoint is the best, how good it is, and on what."""
  step, metrics = best_checkpoint(root, selection)
  result = {
    "step": step,
    "metric": selection.metric.removeprefix("eval/"),
    "metrics": {name.removeprefix("eval/"): value for name, value in metrics.items()},
    "examples": examples,
    "held_out": held_out,
    "last_step": max(checkpoint_folder.committed_steps(root / "checkpoints")),
  }
  storage.write_text(root / RESULT_FILE, json.dumps(result, indent=2) + "\n")


def best_checkpoint(root: epath.Path, selection: ModelSelection) -> tuple[int, dict[str, float]]:
  """(step, metrics) of the checkpoint that is kept for its evaluation; where nothing was measured, of the newest."""
  folder = root / "checkpoints"
  evaluations = {
    step: checkpoint_folder.read_manifest(checkpoint_folder.folder_of(folder, step)).metrics
    for step in checkpoint_folder.committed_steps(folder)
  }
  step = (selection.best_first(evaluations) or sorted(evaluations, reverse=True))[0]
  return step, evaluations[step]
