"""Fine-tuning in a run folder: examples with labels, the model, and how it is evaluated; the rest is in tuning.py."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from bert_jax import config as configs
from bert_jax.cluster.distributed import Cluster
from bert_jax.data.labelled import examples as labelled
from bert_jax.data.labelled import questions
from bert_jax.data.labelled.examples import Labelled, Labels
from bert_jax.data.labelled.task_files import Splits, load_splits
from bert_jax.data.labelled.tasks import TASKS
from bert_jax.errors import UserError, show
from bert_jax.evaluation import predictions
from bert_jax.export import export
from bert_jax.inference.model import Model, check_takes_pairs
from bert_jax.inference.run_folder import read_labels, read_run_config, read_source, result_of
from bert_jax.io import storage
from bert_jax.models.finetuning import SEQUENCE, FinetuningModel
from bert_jax.objectives import finetuning as objective
from bert_jax.runs import tuning
from bert_jax.runs.build import attention_of
from bert_jax.runs.launch import Log
from bert_jax.training.model_selection import ModelSelection


def finetuning_config(overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
  """The defaults of fine-tuning with overrides "key=value". Raises UserError as config.load_config."""
  return tuning.config_of(overrides, tuning.DEFAULTS)


def finetune_run(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  cluster: Cluster | None = None,
  profile: tuple[int, int] | None = None,
  log: Log = show,
) -> dict[str, float]:
  """Fine-tunes the model of config.init_from in `workdir`; arguments, result and errors as of `tuning.tune`."""
  if config.embedding.objective:
    raise UserError(
      f"embedding.objective={config.embedding.objective}: labels are what is learned by here; `bert_jax "
      "sentence-embedding` reads that key"
    )
  stages = tuning.Stages(_load, _prepare, _build)
  return tuning.tune(stages, config, workdir, cluster=cluster, profile=profile, log=log)


def check_same(config: ml_collections.ConfigDict, workdir: str, state: str) -> None:
  """Raises UserError where a finished run in `workdir` was of another model, other examples or other settings, naming
  the keys.

  Args:
    config: not resolved.
    workdir: the run folder.
    state: of the model config.init_from, see inference.state_of.
  """
  held = read_run_config(workdir)

  def is_resolved(key: str, before, now) -> bool:
    """Whether the value in the run is what `tuning.resolve_tuning` makes of the one that is given."""
    if key.startswith("model."):
      return now is None
    if key == "tuning.max_length":
      labels = read_labels(workdir)
      assert labels
      return before == tuning.max_length_of(config, held.model.max_position_embeddings, labels.kind)
    if key in ("tuning.data", "tuning.dev"):
      return storage.are_same(before, now)
    return bool(config.tuning.epochs) and key in tuning.SET_BY_EPOCHS

  changed = configs.changed_keys(held, config)
  if not storage.are_same(held.init_from, config.init_from):
    changed["init_from"] = held.init_from, config.init_from
  began = read_source(workdir).get("state", "a state that is not known")
  if began != state:
    changed["init_from"] = f"{held.init_from} at {began}", f"{config.init_from} at {state}"
  changed = {key: values for key, values in changed.items() if not is_resolved(key, *values)}
  examples = result_of(workdir)["examples"]
  for file, digest in tuning.digests_of(examples).items():
    if digest != examples[file]:
      changed[file] = examples[file], digest
  if changed:
    listed = "; ".join(f"{key}: {before!r} there, {now!r} now" for key, (before, now) in changed.items())
    raise UserError(f"{workdir} holds a result of other settings: {listed}. Give another folder, or remove this one")


def _load(config: ml_collections.ConfigDict) -> Splits:
  names = ("task", "data", "dev", "text", "text_pair", "label")
  return load_splits(**{name: config.tuning[name] for name in names}, kind=config.finetune.kind)


class _Own(NamedTuple):
  """What evaluation needs besides the labels."""

  dev: Labelled
  chinese: bool  # answers are compared by characters


def _prepare(config: ml_collections.ConfigDict, source: Model, splits: Splits) -> tuning.PreparedData:
  """Rows of token ids and their labels. Raises UserError for labels that do not fit what is asked for."""
  settings, labels = config.tuning, labelled.labels_of(splits)
  if splits.train.second is not None or labels.kind == "question-answering":
    check_takes_pairs(source)
  max_length = tuning.max_length_of(config, source.config.max_position_embeddings, labels.kind)
  prepare = lambda examples, training: labelled.prepare(
    examples, labels, source.tokenizer, max_length=max_length, stride=config.finetune.stride, training=training
  )
  train, dev = prepare(splits.train, True), prepare(splits.dev, False)
  of_texts = objective.KINDS[labels.kind].target == SEQUENCE
  if config.export.format == "transformers" and of_texts:
    export.check_class_is_of_pooler(settings.pooling, "this run", "leave export.format empty")
  row = TASKS.get(settings.task)
  metric = settings.metric or (row.metric if row else "") or predictions.metrics_of(labels)[0]
  measured = predictions.metrics_of(labels)
  if metric not in measured:
    raise UserError(f"tuning.metric={metric!r} is not measured here; there are {', '.join(measured)}")
  chinese = labels.kind == "question-answering" and _are_chinese(splits)
  notes = _describe(splits, labels, train, dev, max_length)
  if chinese:
    notes.append("answers are compared as CMRC 2018 does it, by characters")
  if not of_texts and settings.pooling != "pooler":
    notes.append(
      f"note: tuning.pooling={settings.pooling} means nothing here: what is learned are labels of tokens, not of "
      "whole texts"
    )
  selection = ModelSelection(f"eval/{metric}", metric not in predictions.LOWER_IS_BETTER, settings.patience)
  return tuning.PreparedData(
    train.features, max_length, selection, splits.files, splits.held_out, notes, labels=labels, own=_Own(dev, chinese)
  )


def _build(config: ml_collections.ConfigDict, mesh: Mesh, examples: tuning.PreparedData):
  """(Objective, evaluate) of fine-tuning on examples."""
  labels, own = examples.labels, examples.own
  assert labels
  encoder = configs.encoder_of(config)
  model = FinetuningModel(
    encoder,
    objective.KINDS[labels.kind].target,
    len(labels.names),
    config.tuning.pooling,
    jnp.dtype(config.model.dtype),
    jnp.dtype(config.model.param_dtype),
    config.model.remat,
    attention_of(config, encoder, jax.default_backend(), 0),
  )
  predict = predictions.make_predictor(model, labels.kind, mesh)

  def evaluate(params, after_batch=lambda: False):
    scores = predict(
      params,
      own.dev.features,
      batch_size=config.data.batch_size,
      max_length=config.tuning.max_length,
      after_batch=after_batch,
    )
    return None if scores is None else predictions.score(labels, own.dev, scores, chinese=own.chinese)

  return objective.make_finetuning_objective(model, labels.kind), evaluate


def _are_chinese(splits: Splits) -> bool:
  """Whether most of the texts that are asked about are Chinese."""
  asked = splits.dev.first
  return 2 * sum(questions.is_chinese(one.context) for one in asked) > len(asked)


def _describe(splits: Splits, labels: Labels, train: Labelled, dev: Labelled, max_length: int) -> list[str]:
  """What a user should know of the examples before they are trained on."""
  notes = [f"note: {note}" for note in (*splits.train.notes, *splits.dev.notes)]
  what = labels.kind
  if what in ("classification", "multi-label", "token-classification"):
    what += f" with {len(labels.names)} labels ({tuning.named(labels)})"
  counts = [len(part.gold) for part in (train, dev)]
  notes.append(f"{counts[0]:,} training examples, {counts[1]:,} to judge by, {what}, from {', '.join(splits.files)}")
  if splits.held_out:
    notes.append(
      "a tenth of the different (first) texts is held out to judge by, chosen by their content; --dev=FILE gives a "
      "file of its own"
    )
  elif len(splits.files) == 2 and storage.are_same(*splits.files):
    notes.append("note: the model is judged by the examples that it is trained on")
  long = [part.features.truncated for part in (train, dev)]
  if labels.kind == "question-answering":
    notes.append(
      f"{long[0]:,} and {long[1]:,} of them have a text that needs several windows; with these there are "
      f"{train.features.num_rows:,} rows to train on"
    )
  elif any(long):
    notes.append(f"{long[0]:,} and {long[1]:,} of them are longer than {max_length} tokens and lose their end")
  balance = labelled.describe_balance(splits.train, labels.kind)
  if balance:
    notes.append(balance)
  return notes
