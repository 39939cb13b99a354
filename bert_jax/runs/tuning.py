"""Fine-tuning and sentence embedding: what they have in common, from settings to the files of a finished run.

WORKDIR/labels.json    what the outputs of the model mean, where it learns labels
WORKDIR/source.json    the model that the run began with
WORKDIR/result.json    once it has come to its end: the metrics of the best checkpoint, and which that is
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from etils import epath

from bert_jax import config as configs
from bert_jax.cluster import agreement
from bert_jax.cluster.distributed import Cluster
from bert_jax.data.labelled import features
from bert_jax.data.labelled.examples import Labels, fingerprint
from bert_jax.data.labelled.features import Features
from bert_jax.errors import UserError, show
from bert_jax.export import export
from bert_jax.inference import run_folder
from bert_jax.inference.model import Model, load_model, state_of
from bert_jax.inference.run_folder import LABELS_FILE, RESULT_FILE, SOURCE_FILE, read_labels, result_of
from bert_jax.io import storage
from bert_jax.models import flops, parameters
from bert_jax.objectives.objective import Objective
from bert_jax.runs.launch import Log, launch
from bert_jax.training import loop, sharding
from bert_jax.training import optimizer as optimizers
from bert_jax.training.checkpoints import folder as checkpoint_folder
from bert_jax.training.model_selection import ModelSelection

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


def config_of(overrides: Sequence[str], defaults: dict) -> ml_collections.ConfigDict:
  """The defaults with overrides "key=value". Raises UserError as config.load_config."""
  config = configs.default_config()
  for key, value in defaults.items():
    configs.set_key(config, key, value)
  for override in overrides:
    configs.apply_override(config, override)
  checked = configs.copy_of(config)
  if config.tuning.epochs:
    given = [key for key in SET_BY_EPOCHS if any(override.partition("=")[0] == key for override in overrides)]
    if given:
      raise UserError(
        f"{', '.join(given)}: set by tuning.epochs={config.tuning.epochs:g}, tuning.warmup_share and "
        "tuning.evaluations; tuning.epochs=0 leaves it as you set it"
      )
    checked.stop_at_step = 0  # how many steps there are is not known before the examples are
  configs.validate(checked)
  return config


def max_length_of(config: ml_collections.ConfigDict, positions: int, kind: str = "") -> int:
  """Tokens that a text or pair may have: those of the config, else of the kind, as far as a model of so many positions
  reads.
  """
  wanted = config.tuning.max_length or (_LENGTH_OF_WINDOWS if kind == "question-answering" else _LENGTH)
  if wanted < _LEAST_LENGTH:
    raise UserError(
      f"tuning.max_length={wanted} leaves no room for a text, since [CLS] and [SEP] count; give {_LEAST_LENGTH} or more"
    )
  return min(wanted, positions)


def resolve_tuning(
  config: ml_collections.ConfigDict, source: Model, examples: int, max_length: int
) -> ml_collections.ConfigDict:
  """Fills in what follows from the model and the examples: the encoder's fields, the number of steps, and the length
  that texts were cut to.
  """
  config, settings = configs.copy_of(config), config.tuning
  for name in configs.MODEL_FIELDS:
    given, own = config.model[name], getattr(source.config, name)
    if given is not None and given != own and not name.endswith("dropout_prob"):
      raise UserError(f"model.{name}={given!r}, but the model that is fine-tuned has {own!r}: leave the key out")
    config.model[name] = own if given is None else given
  if config.optimizer.frozen_layers > source.config.num_hidden_layers:
    raise UserError(
      f"optimizer.frozen_layers={config.optimizer.frozen_layers}, but the model has {source.config.num_hidden_layers} "
      "layers"
    )
  config.tuning.max_length = max_length
  if settings.epochs:
    in_epoch = examples / config.data.batch_size
    config.total_steps = max(1, math.ceil(settings.epochs * in_epoch))
    config.optimizer.warmup_steps = min(math.floor(settings.warmup_share * config.total_steps), config.total_steps - 1)
    config.eval_every_steps = config.checkpoint.every_steps = max(1, round(in_epoch / settings.evaluations))
  configs.validate(config)
  optimizers.make_schedule(config)  # refused here, before anything is written
  return config


class PreparedData(NamedTuple):
  """What a run learns from and is evaluated on, as the tokenizer of its source model reads it.

  Attributes:
    train: rows to train on.
    max_length: tokens of a text or pair at most.
    selection: what makes a checkpoint the best.
    files: that the examples were read from.
    held_out: whether the run is evaluated on a part of the training file.
    notes: what a user should know of them, a line each.
    texts: how many texts, each of `max_length`, are packed into a row.
    labels: what the outputs of the model mean; None where it learns vectors.
    evaluate_first: whether the source model is evaluated before it is trained.
    own: what else these stages need to build its objective and evaluation.
  """

  train: Features
  max_length: int
  selection: ModelSelection
  files: tuple[str, ...]
  held_out: bool
  notes: list[str]
  texts: int = 1
  labels: Labels | None = None
  evaluate_first: bool = False
  own: Any = None


class Stages(NamedTuple):
  """What differs between runs that begin with a pretrained model.

  Attributes:
    load: (config) -> the examples as files hold them. Raises UserError.
    prepare: (config, source model, what was loaded) -> PreparedData. Raises UserError.
    build: (resolved config, mesh, PreparedData) -> (Objective, evaluate as of loop.Training).
  """

  load: Callable[[ml_collections.ConfigDict], Any]
  prepare: Callable[[ml_collections.ConfigDict, Model, Any], PreparedData]
  build: Callable[..., tuple[Objective, Callable]]


def tune(
  stages: Stages,
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  cluster: Cluster | None = None,
  profile: tuple[int, int] | None = None,
  log: Log = show,
) -> dict[str, float]:
  """Trains the model of config.init_from in `workdir`, or resumes there; called by every process of the run.

  Args:
    stages: what is learned, and from what.
    config: see `config.KEYS`; not resolved.
    workdir: the run folder; made if missing.
    cluster: see `launch`.
    profile: the first step to trace, and the first one not to.
    log: takes one line of text for the user.

  Returns:
    The metrics of the best checkpoint.

  Raises:
    UserError: model, examples, devices or an earlier run in `workdir` do not fit the config.
    Preempted: the processes were told to stop, and have saved.
    PeerLost: another process has died.
  """
  with launch(config, workdir, cluster=cluster, log=log) as run:
    with run.starting():
      source = _open_source(config, run.root)
      loaded = agreement.together(lambda: stages.load(config))
      examples = stages.prepare(config, source, loaded)
      asked, config = config, resolve_tuning(config, source, examples.train.num_rows, examples.max_length)
      mesh = sharding.make_mesh(config)
      run.claim(config, source.tokenizer_folder)
      agreement.on_first(lambda: _record_meaning(run.root, config, source, examples.labels))
      for line in (*examples.notes, *_notes(asked, config, source, examples.train)):
        run.log(line)
      training = _training(config, mesh, source, examples, *stages.build(config, mesh, examples), run.log)
      digests = digests_of(examples.files)
    with run.services(training, profile) as services:
      loop.train(training, services)
    agreement.on_first(lambda: write_result(run.root, examples.selection, examples=digests, held_out=examples.held_out))
    export.export_run(run.root, config.export.format)
  return result_of(workdir)["metrics"]


def _open_source(config: ml_collections.ConfigDict, root: epath.Path) -> Model:
  """The model that a run begins with. Raises UserError where the run in `root` began with another one."""
  if not config.init_from:
    raise UserError("init_from is empty: give the model to train, --model=DIR, a run folder or a Hugging Face folder")
  run_folder.check_source(root, config)
  return load_model(config.init_from)


def _training(
  config: ml_collections.ConfigDict,
  mesh,
  source: Model,
  examples: PreparedData,
  objective: Objective,
  evaluate,
  log: Log,
) -> loop.Training:
  """What the loop needs."""
  train, size = examples.train, config.data.batch_size

  def batches(position: int):
    return features.length_grouped_batches(
      train,
      batch_size=size,
      seed=config.seed,
      start=position,
      steps=config.total_steps,
      max_length=examples.texts * config.tuning.max_length,
      process_rows=sharding.rows_of_process(mesh, size),
    )

  mean_length = float(train.lengths.mean() / examples.texts)
  return loop.Training(
    objective,
    config,
    mesh,
    batches,
    evaluate,
    identity={"examples": fingerprint(train), "rows": train.num_rows, "seed": config.seed, "batch_size": size},
    start=_start_from(source, log, evaluate if examples.evaluate_first else None),
    selection=examples.selection,
    flops_per_token=flops.train_flops_per_token(
      configs.encoder_of(config), sequence_length=mean_length, predicted_share=0.0
    ),
  )


def _start_from(source: Model, log: Log, evaluate: Callable | None):
  """Training.start: the encoder, and the pooler where it is read, of the source; the head is new."""

  def start(fresh, abstract):
    wanted = [name for name in parameters.PRETRAINED if name in fresh.params]
    taken = {name: source.params[name] for name in wanted if name in source.params}
    for name in set(wanted) - set(taken):
      log(f"{source.origin} has no {name}: a new one is trained; tuning.pooling=mean reads the tokens themselves")
    log(
      f"Starting from {source.origin}: {', '.join(sorted(taken))}; new: "
      f"{', '.join(sorted(set(fresh.params) - set(taken))) or 'nothing'}"
    )
    params = fresh.params | jax.tree.map(
      lambda new, old: old.astype(new.dtype), {name: fresh.params[name] for name in taken}, taken
    )
    params = jax.device_put(params, jax.tree.map(lambda x: x.sharding, fresh.params))
    if evaluate is not None:
      log("Before training: " + ", ".join(f"{name} {value:.4f}" for name, value in evaluate(params).items()))
    return fresh._replace(params=params), 0

  return start


def _record_meaning(root: epath.Path, config: ml_collections.ConfigDict, source: Model, labels: Labels | None) -> None:
  """Writes what the run begins with and what its outputs mean.

  Raises:
    UserError: the outputs of the run in `root` mean something else: it would be spoiled.
  """
  if labels is not None:
    before = read_labels(root)
    known = before if before is None or before.pairs is not None else before._replace(pairs=labels.pairs)
    if before is not None and known != labels:
      raise UserError(
        f"{root} holds a run with other labels, {named(before)}; now they are {named(labels)}: give back the examples "
        "that it had, or another --workdir"
      )
    if before != labels:
      storage.write_text(root / LABELS_FILE, json.dumps(labels._asdict(), ensure_ascii=False, indent=2) + "\n")
  if not storage.exists(root / SOURCE_FILE):
    content = {"model": config.init_from, "state": state_of(config.init_from, source.step)}
    storage.write_text(root / SOURCE_FILE, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def named(labels: Labels) -> str:
  """What labels are, for a line of text."""
  return f"scores up to {labels.scale:g}" if labels.kind == "regression" else shown(labels.names)


def shown(names: Sequence[str]) -> str:
  """The first names of labels, for a line of text."""
  return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


def _notes(
  asked: ml_collections.ConfigDict, config: ml_collections.ConfigDict, source: Model, train: Features
) -> list[str]:
  """Where what was asked for, before `resolve`, fits neither the model nor the examples."""
  notes = []
  unknown = float(np.mean(train.tokens == source.tokenizer.special.unk))
  if unknown > 0.5:
    notes.append(
      f"note: {unknown:.0%} of the tokens are [UNK]: the vocabulary of {source.origin} does not know such text"
    )
  if asked.tuning.max_length > config.tuning.max_length:
    notes.append(
      f"note: the model has {config.tuning.max_length} positions: tuning.max_length={asked.tuning.max_length} "
      f"becomes {config.tuning.max_length}"
    )
  if config.data.batch_size > train.num_rows:
    notes.append(
      f"note: data.batch_size={config.data.batch_size} is more than there are examples: every step sees all of them, "
      "some more than once"
    )
  return notes


def digests_of(files: Iterable[str]) -> dict[str, str]:
  """{file: the beginning of its SHA-256}, of those of some names that are files here."""
  found = {}
  for file in files:
    if os.path.isfile(file):
      with open(file, "rb") as content:
        found[file] = hashlib.file_digest(content, "sha256").hexdigest()[:16]
  return found


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
