"""Fine-tuning in a run folder: from a config to the examples, the model and what the loop needs.

WORKDIR/labels.json    what the outputs of the model mean; the rest is as in tuning.py
"""

import json

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath

from bert_jax import config as configs
from bert_jax.cluster import agreement
from bert_jax.cluster.distributed import Cluster
from bert_jax.data.labelled import examples as labelled
from bert_jax.data.labelled import questions
from bert_jax.data.labelled.examples import Labelled, Labels
from bert_jax.data.labelled.task_files import Splits, load_splits
from bert_jax.data.labelled.tasks import TASKS
from bert_jax.errors import UserError
from bert_jax.evaluation import predictions
from bert_jax.export import export
from bert_jax.inference.model import load_model
from bert_jax.io import storage
from bert_jax.models import flops
from bert_jax.models.finetuning import SEQUENCE, FinetuningModel
from bert_jax.objectives import finetuning
from bert_jax.runs import launch, tuning
from bert_jax.runs.build import attention_of
from bert_jax.training import loop, run_folder, sharding
from bert_jax.training.model_selection import ModelSelection
from bert_jax.training.run_folder import LABELS_FILE, read_labels, read_result, read_run_config, read_source


def finetuning_config(overrides: list[str] = ()) -> ml_collections.ConfigDict:
  """The defaults of fine-tuning with overrides "key=value". Raises UserError as config.load_config."""
  return tuning.config_of(overrides, tuning.DEFAULTS)


def finetune_run(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  cluster: Cluster | None = None,
  profile: tuple[int, int] | None = None,
  log: launch.Log = print,
) -> dict[str, float]:
  """Fine-tunes the model of config.init_from in `workdir`; see `run.conduct`. Returns the metrics of the best
  checkpoint.

  Raises:
    UserError: model, data, devices or an earlier run in `workdir` do not fit the config.
  """
  if config.embedding.objective:
    raise UserError(
      f"embedding.objective={config.embedding.objective}: labels are what is learned by here; `bert_jax "
      "sentence-embedding` reads that key"
    )
  launch.conduct(
    config, workdir, lambda root, log: _set_up(config, root, log), cluster=cluster, profile=profile, log=log
  )
  return read_result(workdir)["metrics"]


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
    """Whether the value in the run is what `tuning.resolve` makes of the one that is given."""
    if key.startswith("model."):
      return now is None
    if key == "finetune.max_length":
      return before == tuning.max_length_of(config, held.model.max_position_embeddings, read_labels(workdir).kind)
    if key in ("finetune.data", "finetune.dev"):
      return storage.are_same(before, now)
    return bool(config.finetune.epochs) and key in tuning.SET_BY_EPOCHS

  changed = configs.changed_keys(held, config)
  if not storage.are_same(held.init_from, config.init_from):
    changed["init_from"] = held.init_from, config.init_from
  began = read_source(workdir).get("state", "a state that is not known")
  if began != state:
    changed["init_from"] = f"{held.init_from} at {began}", f"{config.init_from} at {state}"
  changed = {key: values for key, values in changed.items() if not is_resolved(key, *values)}
  examples = read_result(workdir)["examples"]
  for file, digest in tuning.digests_of(examples).items():
    if digest != examples[file]:
      changed[file] = examples[file], digest
  if changed:
    listed = "; ".join(f"{key}: {before!r} there, {now!r} now" for key, (before, now) in changed.items())
    raise UserError(f"{workdir} holds a result of other settings: {listed}. Give another folder, or remove this one")


def _set_up(config: ml_collections.ConfigDict, root: epath.Path, log) -> launch.Setup:
  """Everything before training. Raises UserError, the same on every process."""
  if not config.init_from:
    raise UserError(
      "init_from is empty: give the model to fine-tune, --model=DIR, a run folder or a Hugging Face folder"
    )
  run_folder.check_source(root, config)
  source = load_model(config.init_from)
  splits = agreement.together(lambda: _splits(config))
  labels = labelled.labels_of(splits)
  settings, max_length = (
    config.finetune,
    tuning.max_length_of(config, source.config.max_position_embeddings, labels.kind),
  )
  prepare = lambda examples, training: labelled.prepare(
    examples, labels, source.tokenizer, max_length=max_length, stride=settings.stride, training=training
  )
  train, dev = prepare(splits.train, True), prepare(splits.dev, False)
  if config.export.format == "transformers" and finetuning.KINDS[labels.kind].target == SEQUENCE:
    export.check_class_is_of_pooler(settings.pooling, "this run", "leave export.format empty")
  row = TASKS.get(settings.task)
  metric = settings.metric or (row.metric if row else "") or predictions.metrics_of(labels)[0]
  if metric not in predictions.metrics_of(labels):
    raise UserError(
      f"finetune.metric={metric!r} is not measured here; there are {', '.join(predictions.metrics_of(labels))}"
    )
  asked, config = config, tuning.resolve(config, source, train.features.num_rows, max_length)
  mesh = sharding.make_mesh(config)
  agreement.on_first(lambda: run_folder.claim_workdir(root, config, source.tokenizer_folder))
  agreement.on_first(lambda: _keep_labels(root, labels))
  tuning.begin(root, config.init_from, source)
  chinese = labels.kind == "question-answering" and _are_chinese(splits)
  _describe(splits, labels, train, dev, max_length, log)
  tuning.note_unknown(train.features, source, log)
  tuning.note_sizes(asked, config, train.features.num_rows, log)
  if chinese:
    log("answers are compared as CMRC 2018 does it, by characters")

  encoder, target = configs.encoder_of(config), finetuning.KINDS[labels.kind].target
  if target != SEQUENCE and settings.pooling != "pooler":
    log(
      f"note: finetune.pooling={settings.pooling} means nothing here: what is learned are labels of tokens, not of "
      "whole texts"
    )
  selection = ModelSelection(f"eval/{metric}", metric not in predictions.LOWER_IS_BETTER, settings.patience)
  model = FinetuningModel(
    encoder,
    target,
    len(labels.names),
    settings.pooling,
    jnp.dtype(config.model.dtype),
    jnp.dtype(config.model.param_dtype),
    config.model.remat,
    attention_of(config, encoder, jax.default_backend(), 0),
  )
  evaluate = _make_evaluator(model, labels, dev, config, mesh, chinese=chinese)
  trained = loop.Training(
    finetuning.make_finetuning_objective(model, labels.kind),
    config,
    mesh,
    lambda position: tuning.batches_from(position, train.features, config, mesh),
    evaluate,
    identity={
      "examples": labelled.fingerprint(train.features),
      "rows": train.features.num_rows,
      "seed": config.seed,
      "batch_size": config.data.batch_size,
    },
    start=tuning.start_from(source, log),
    selection=selection,
    peak_flops=launch.peak_flops(),
    flops_per_token=flops.train_flops_per_token(
      encoder, sequence_length=float(train.features.lengths.mean()), predicted_share=0.0
    ),
  )
  examples = tuning.digests_of(splits.files)
  return launch.Setup(
    trained, lambda: tuning.finish(root, selection, config.export.format, examples=examples, held_out=splits.held_out)
  )


def _keep_labels(root: epath.Path, labels: Labels) -> None:
  """Writes what the outputs mean. Raises UserError where those of a run in `root` mean something else: it would be
  spoiled.
  """
  before = read_labels(root)
  if before is not None and before._replace(pairs=labels.pairs) != labels:
    raise UserError(
      f"{root} holds a run with other labels, {_shown(before)}; now they are {_shown(labels)}: give back the examples "
      "that it had, or another --workdir"
    )
  storage.write_text(root / LABELS_FILE, json.dumps(labels._asdict(), ensure_ascii=False, indent=2) + "\n")


def _shown(labels: Labels) -> str:
  if labels.kind == "regression":
    return f"scores up to {labels.scale:g}"
  return tuning.shown(labels.names)


def _are_chinese(splits: Splits) -> bool:
  """Whether most of the texts that are asked about are Chinese."""
  asked = splits.dev.first
  return 2 * sum(questions.is_chinese(one.context) for one in asked) > len(asked)


def _splits(config: ml_collections.ConfigDict) -> Splits:
  wanted = config.finetune
  return load_splits(
    task=wanted.task,
    data=wanted.data,
    dev=wanted.dev,
    kind=wanted.kind,
    text=wanted.text,
    text_pair=wanted.text_pair,
    label=wanted.label,
  )


def _describe(splits: Splits, labels: Labels, train: Labelled, dev: Labelled, max_length: int, log) -> None:
  """What a user should know of the examples before they are trained on."""
  for note in (*splits.train.notes, *splits.dev.notes):
    log(f"note: {note}")
  what = labels.kind
  if what in ("classification", "multi-label", "token-classification"):
    what += f" with {len(labels.names)} labels ({_shown(labels)})"
  counts = [len(part.gold) for part in (train, dev)]
  log(f"{counts[0]:,} training examples, {counts[1]:,} to judge by, {what}, from {', '.join(splits.files)}")
  if splits.held_out:
    log(
      "a tenth of the different (first) texts is held out to judge by, chosen by their content; --dev=FILE gives a "
      "file of its own"
    )
  elif len(splits.files) == 2 and storage.are_same(*splits.files):
    log("note: the model is judged by the examples that it is trained on")
  long = [part.features.truncated for part in (train, dev)]
  if labels.kind == "question-answering":
    log(
      f"{long[0]:,} and {long[1]:,} of them have a text that needs several windows; with these there are "
      f"{train.features.num_rows:,} rows to train on"
    )
  elif any(long):
    log(f"{long[0]:,} and {long[1]:,} of them are longer than {max_length} tokens and lose their end")
  balance = labelled.describe_balance(splits.train, labels.kind)
  if balance:
    log(balance)


def _make_evaluator(model, labels: Labels, dev: Labelled, config, mesh, *, chinese: bool):
  predict = predictions.make_predictor(model, labels.kind, mesh)

  def evaluate(params, after_batch=lambda: False):
    scores = predict(
      params,
      dev.features,
      batch_size=config.data.batch_size,
      max_length=config.finetune.max_length,
      after_batch=after_batch,
    )
    return None if scores is None else predictions.score(labels, dev, scores, chinese=chinese)

  return evaluate
