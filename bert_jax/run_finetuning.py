"""Fine-tuning in a run folder: from a config to the examples, the model and what the loop needs; and what is written at the end.

    WORKDIR/labels.json    what the outputs of the model mean
    WORKDIR/result.json    the metrics of the best checkpoint, and which that is
"""

import dataclasses
import json
import math
import jax
import jax.numpy as jnp
import ml_collections
from etils import epath

from bert_jax import config as configs
from bert_jax import finetune, flops, predictions, run, storage
from bert_jax.cluster import agreement
from bert_jax.cluster.distributed import Cluster
from bert_jax.data import features, labelled
from bert_jax.data.labelled import Labelled, Labels
from bert_jax.data.task_files import Splits, load_splits
from bert_jax.data.tasks import TASKS
from bert_jax.errors import UserError
from bert_jax.inference import Model, load_model
from bert_jax.models.finetuning import FinetuningModel
from bert_jax.resolve import LABELS_FILE, RESULT_FILE, attention_of, read_result, read_run_config
from bert_jax.training import checkpoint_folder, loop, sharding
from bert_jax.training.judging import Judge

# Where fine-tuning starts from otherwise than pretraining: Devlin et al. 2018, appendix A.3, and Hugging Face's epsilon. Dropout is
# that of the paper, whatever the pretraining had.
DEFAULTS = {
    "data.batch_size": 32, "optimizer.learning_rate": 5e-5, "optimizer.eps": 1e-8, "log_every_steps": 50, "checkpoint.keep_last": 2,
    "checkpoint.keep_best": 1, "data.loader": "threads", "model.hidden_dropout_prob": 0.1, "model.attention_probs_dropout_prob": 0.1,
}  # fmt: skip


def finetuning_config(overrides: list[str] = ()) -> ml_collections.ConfigDict:
  """The defaults of fine-tuning with overrides "key=value". Raises UserError as config.load_config."""
  config = configs.default_config()
  for key, value in DEFAULTS.items():
    configs.set_key(config, key, value)
  for override in overrides:
    configs.apply_override(config, override)
  configs.validate(config)
  return config


def finetune_run(
    config: ml_collections.ConfigDict, workdir: str, *, cluster: Cluster | None = None, profile: tuple[int, int] | None = None,
    say: run.Say = print,
) -> dict[str, float]:  # fmt: skip
  """Fine-tunes the model of config.init_from in `workdir`; see `run.conduct`. Returns the metrics of the best checkpoint.

  Raises:
    UserError: model, data, devices or an earlier run in `workdir` do not fit the config.
  """
  run.conduct(config, workdir, lambda root, say: _set_up(config, root, say), cluster=cluster, profile=profile, say=say)
  return read_result(workdir)["metrics"]


def check_same(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Raises UserError where a finished run in `workdir` was of another model, other examples or other settings, naming the keys."""
  derived = ("total_steps", "eval_every_steps", "optimizer.warmup_steps", "checkpoint.every_steps", "model.", "finetune.max_length")
  changed = configs.changed_keys(read_run_config(workdir), config)
  changed |= {key: values for key, values in configs.differences(read_run_config(workdir), config).items() if key == "init_from"}
  changed = {key: values for key, values in changed.items() if not key.startswith(derived)}
  if changed:
    listed = "; ".join(f"{key}: {before!r} there, {now!r} now" for key, (before, now) in changed.items())
    raise UserError(f"{workdir} holds a result of other settings: {listed}. Give another folder, or remove this one")


def _set_up(config: ml_collections.ConfigDict, root: epath.Path, say) -> run.Setup:
  """Everything before training. Raises UserError, the same on every process."""
  if not config.init_from:
    raise UserError("init_from is empty: give the model to fine-tune, --model=DIR, a run folder or a Hugging Face folder")
  source = load_model(config.init_from)
  splits = agreement.together(lambda: _splits(config))
  labels = labelled.labels_of(splits)
  settings = config.finetune
  prepare = lambda examples, training: labelled.prepare(
      examples, labels, source.tokenizer, max_length=_max_length(config, source), stride=settings.stride, training=training)
  train, dev = prepare(splits.train, True), prepare(splits.dev, False)
  config = resolve(config, source, train)
  mesh = sharding.make_mesh(config)
  agreement.on_first(lambda: run.adopt(root, config, source.tokenizer_folder))
  agreement.on_first(lambda: storage.write_text(root / LABELS_FILE, json.dumps(labels._asdict(), ensure_ascii=False, indent=2) + "\n"))
  _describe(splits, labels, train, dev, say)

  encoder = configs.encoder_of(config)
  row = TASKS.get(settings.task)
  metric = settings.metric or (row.metric if row else "") or predictions.METRIC[labels.kind]
  judge = Judge(f"eval/{metric}", metric not in predictions.LOWER_IS_BETTER, settings.patience)
  model = FinetuningModel(
      encoder, finetune.KINDS[labels.kind].target, len(labels.names), settings.pooling, jnp.dtype(config.model.dtype),
      jnp.dtype(config.model.param_dtype), config.model.remat, attention_of(config, encoder, jax.default_backend(), 0),
  )  # fmt: skip
  evaluate = _make_evaluator(model, labels, dev, config, mesh, chinese=bool(row and row.chinese), metric=metric)
  trained = loop.Run(
      finetune.make_task(model, labels.kind), config, mesh, lambda position: _batches(train, config, position, mesh), evaluate,
      identity={"examples": labelled.fingerprint(train.features), "rows": train.features.num_rows, "seed": config.seed,
                "batch_size": config.data.batch_size},
      start=_start(source, say), judge=judge, peak_flops=run.peak_flops(),
      flops_per_token=flops.train_flops_per_token(encoder, sequence_length=float(train.features.lengths.mean()), predicted_share=0.0),
  )  # fmt: skip
  return run.Setup(trained, lambda params: agreement.on_first(lambda: _finish(root, judge)))


def _splits(config: ml_collections.ConfigDict) -> Splits:
  wanted = config.finetune
  return load_splits(task=wanted.task, data=wanted.data, dev=wanted.dev, kind=wanted.kind, text=wanted.text, text_pair=wanted.text_pair, label=wanted.label)


def _max_length(config: ml_collections.ConfigDict, source: Model) -> int:
  return min(config.finetune.max_length, source.config.max_position_embeddings)


def resolve(config: ml_collections.ConfigDict, source: Model, train: Labelled) -> ml_collections.ConfigDict:
  """Fills in what follows from model and examples: the encoder's fields, and the number of steps."""
  config, settings = configs.copy_of(config), config.finetune
  for field in dataclasses.fields(source.config):
    if config.model[field.name] is None:
      config.model[field.name] = getattr(source.config, field.name)
  config.finetune.max_length = _max_length(config, source)
  if settings.epochs:
    in_epoch = train.features.num_rows / config.data.batch_size
    config.total_steps = max(1, math.ceil(settings.epochs * in_epoch))
    config.optimizer.warmup_steps = math.floor(settings.warmup_share * config.total_steps)
    config.eval_every_steps = config.checkpoint.every_steps = max(1, round(in_epoch / settings.evaluations))
  configs.validate(config)
  return config


def _describe(splits: Splits, labels: Labels, train: Labelled, dev: Labelled, say) -> None:
  """What a user should know of the examples before they are trained on."""
  for note in (*splits.train.notes, *splits.dev.notes):
    say(f"note: {note}")
  what = f"{len(labels.names)} classes" if labels.kind in ("classification", "multi-label", "token-classification") else labels.kind
  say(f"{train.features.num_rows:,} training examples, {dev.features.num_rows:,} to judge by, {what}, from {', '.join(splits.files)}")
  if splits.held_out:
    say("a tenth of the file is held out to judge by, chosen by the content of the (first) text; --dev=FILE gives a file of its own")
  if labels.kind == "question-answering":
    say(f"{train.features.truncated:,} questions have a text that needs several windows")
  elif train.features.truncated:
    say(f"{train.features.truncated:,} training examples are longer than finetune.max_length and lose their end")
  balance = labelled.describe_balance(splits.train, labels.kind)
  if balance:
    say(balance)


def _start(source: Model, say):
  """Run.start: the encoder, and the pooler where it is read, of the source; the head is new."""

  def start(fresh, abstract):
    taken = {name: source.params[name] for name in fresh.params if name in ("encoder", "pooler") and name in source.params}
    if "pooler" in fresh.params and "pooler" not in taken:
      say(f"{source.origin} has no pooler: a new one is trained; finetune.pooling=mean reads the tokens themselves")
    say(f"Starting from {source.origin}: {', '.join(sorted(taken))}; new: {', '.join(sorted(set(fresh.params) - set(taken)))}")
    params = fresh.params | jax.tree.map(lambda new, old: old.astype(new.dtype), {name: fresh.params[name] for name in taken}, taken)
    return fresh._replace(params=jax.device_put(params, jax.tree.map(lambda x: x.sharding, fresh.params)))

  return start


def _batches(train: Labelled, config: ml_collections.ConfigDict, position: int, mesh):
  size = config.data.batch_size
  return features.train_batches(
      train.features, batch_size=size, seed=config.seed, start=position, steps=config.total_steps, max_length=config.finetune.max_length,
      process_rows=sharding.rows_of_process(mesh, size),
  )  # fmt: skip


def _make_evaluator(model, labels: Labels, dev: Labelled, config, mesh, *, chinese: bool, metric: str):
  predict = predictions.make_predictor(model, labels.kind, mesh)

  def evaluate(params, after_batch=lambda: False):
    scores = predict(params, dev.features, batch_size=config.data.batch_size, max_length=config.finetune.max_length, after_batch=after_batch)
    if scores is None:
      return None
    found = predictions.score(labels, dev, scores, chinese=chinese)
    if metric not in found:
      raise UserError(f"finetune.metric={metric!r} is not measured here; there are {', '.join(found)}")
    return found

  return evaluate


def best_checkpoint(root: epath.Path, judge: Judge) -> tuple[int, dict[str, float]]:
  """(step, metrics) of the checkpoint that is kept for its evaluation."""
  folder = root / "checkpoints"
  evaluations = {step: checkpoint_folder.read_manifest(checkpoint_folder.folder_of(folder, step)).metrics
                 for step in checkpoint_folder.committed_steps(folder)}  # fmt: skip
  step = judge.best_first(evaluations)[0]
  return step, evaluations[step]


def _finish(root: epath.Path, judge: Judge) -> None:
  step, metrics = best_checkpoint(root, judge)
  result = {"step": step, "metric": judge.metric.removeprefix("eval/"), "metrics": {name.removeprefix("eval/"): value for name, value in metrics.items()}}
  storage.write_text(root / RESULT_FILE, json.dumps(result, indent=2) + "\n")
