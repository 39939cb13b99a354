"""Fine-tuning in a run folder: from a config to the examples, the model and what the loop needs; and what is written at the end.

    WORKDIR/labels.json    what the outputs of the model mean
    WORKDIR/source.json    the model that the run began with
    WORKDIR/result.json    once it has come to its end: the metrics of the best checkpoint, and which that is
"""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath

from bert_jax import config as configs
from bert_jax import exporting, finetune, flops, predictions, run, storage
from bert_jax.cluster import agreement
from bert_jax.cluster.distributed import Cluster
from bert_jax.data import features, labelled, questions
from bert_jax.data.features import Features
from bert_jax.data.labelled import Labelled, Labels
from bert_jax.data.task_files import Splits, load_splits
from bert_jax.data.tasks import TASKS
from bert_jax.errors import UserError
from bert_jax.inference import Model, load_model, state_of
from bert_jax.models.finetuning import SEQUENCE, FinetuningModel
from bert_jax.resolve import LABELS_FILE, RESULT_FILE, SOURCE_FILE, attention_of, read_labels, read_result, read_run_config, read_source
from bert_jax.training import checkpoint_folder, loop, sharding
from bert_jax.training import optimizer as optimizers
from bert_jax.training.judging import Judge

# Where fine-tuning starts from otherwise than pretraining: Devlin et al. 2018, appendix A.3, and Hugging Face's epsilon. Dropout is
# that of the paper, whatever the pretraining had.
DEFAULTS = {
    "data.batch_size": 32, "optimizer.learning_rate": 5e-5, "optimizer.eps": 1e-8, "log_every_steps": 50, "checkpoint.keep_last": 2,
    "checkpoint.keep_best": 1, "data.loader": "threads", "model.hidden_dropout_prob": 0.1, "model.attention_probs_dropout_prob": 0.1,
}  # fmt: skip
# What follows from the number of examples, see `resolve`.
SET_BY_EPOCHS = ("total_steps", "optimizer.warmup_steps", "eval_every_steps", "checkpoint.every_steps")
_LENGTH, _LENGTH_OF_WINDOWS = 128, 384  # tokens in a row; Devlin et al. 2018 have the second for SQuAD, in their code
_LEAST_LENGTH = 8  # [CLS], [SEP], and a few tokens


def finetuning_config(overrides: list[str] = (), defaults: dict = DEFAULTS) -> ml_collections.ConfigDict:
  """The defaults of fine-tuning with overrides "key=value". Raises UserError as config.load_config."""
  config = configs.default_config()
  for key, value in defaults.items():
    configs.set_key(config, key, value)
  for override in overrides:
    configs.apply_override(config, override)
  checked = configs.copy_of(config)
  if config.finetune.epochs:
    given = [key for key in SET_BY_EPOCHS if any(override.partition("=")[0] == key for override in overrides)]
    if given:
      raise UserError(f"{', '.join(given)}: set by finetune.epochs={config.finetune.epochs:g}, finetune.warmup_share and finetune.evaluations; "
                      "finetune.epochs=0 leaves it as you set it")  # fmt: skip
    checked.stop_at_step = 0  # how many steps there are is not known before the examples are
  configs.validate(checked)
  return config


def finetune_run(
    config: ml_collections.ConfigDict, workdir: str, *, cluster: Cluster | None = None, profile: tuple[int, int] | None = None,
    say: run.Say = print,
) -> dict[str, float]:  # fmt: skip
  """Fine-tunes the model of config.init_from in `workdir`; see `run.conduct`. Returns the metrics of the best checkpoint.

  Raises:
    UserError: model, data, devices or an earlier run in `workdir` do not fit the config.
  """
  if config.embedding.objective:
    raise UserError(f"embedding.objective={config.embedding.objective}: labels are what is learned by here; `bert_jax sentence-embedding` reads that key")
  run.conduct(config, workdir, lambda root, say: _set_up(config, root, say), cluster=cluster, profile=profile, say=say)
  return read_result(workdir)["metrics"]


def check_same(config: ml_collections.ConfigDict, workdir: str, state: str) -> None:
  """Raises UserError where a finished run in `workdir` was of another model, other examples or other settings, naming the keys.

  Args:
    config: not resolved.
    workdir: the run folder.
    state: of the model config.init_from, see inference.state_of.
  """
  held = read_run_config(workdir)

  def is_resolved(key: str, before, now) -> bool:
    """Whether the value in the run is what `resolve` makes of the one that is given."""
    if key.startswith("model."):
      return now is None
    if key == "finetune.max_length":
      return before == max_length_of(config, held.model.max_position_embeddings, read_labels(workdir).kind)
    if key in ("finetune.data", "finetune.dev"):
      return storage.are_same(before, now)
    return bool(config.finetune.epochs) and key in SET_BY_EPOCHS

  changed = configs.changed_keys(held, config)
  if not storage.are_same(held.init_from, config.init_from):
    changed["init_from"] = held.init_from, config.init_from
  began = read_source(workdir).get("state", "a state that is not known")
  if began != state:
    changed["init_from"] = f"{held.init_from} at {began}", f"{config.init_from} at {state}"
  changed = {key: values for key, values in changed.items() if not is_resolved(key, *values)}
  if changed:
    listed = "; ".join(f"{key}: {before!r} there, {now!r} now" for key, (before, now) in changed.items())
    raise UserError(f"{workdir} holds a result of other settings: {listed}. Give another folder, or remove this one")


def _set_up(config: ml_collections.ConfigDict, root: epath.Path, say) -> run.Setup:
  """Everything before training. Raises UserError, the same on every process."""
  if not config.init_from:
    raise UserError("init_from is empty: give the model to fine-tune, --model=DIR, a run folder or a Hugging Face folder")
  run.check_source(root, config)
  source = load_model(config.init_from)
  splits = agreement.together(lambda: _splits(config))
  labels = labelled.labels_of(splits)
  settings, max_length = config.finetune, max_length_of(config, source.config.max_position_embeddings, labels.kind)
  prepare = lambda examples, training: labelled.prepare(
      examples, labels, source.tokenizer, max_length=max_length, stride=settings.stride, training=training)
  train, dev = prepare(splits.train, True), prepare(splits.dev, False)
  if config.export.format == "transformers" and finetune.KINDS[labels.kind].target == SEQUENCE:
    exporting.check_class_is_of_pooler(settings.pooling, "this run", "leave export.format empty")
  row = TASKS.get(settings.task)
  metric = settings.metric or (row.metric if row else "") or predictions.METRIC[labels.kind]
  if metric not in predictions.metrics_of(labels):
    raise UserError(f"finetune.metric={metric!r} is not measured here; there are {', '.join(predictions.metrics_of(labels))}")
  config = resolve(config, source, train.features.num_rows, max_length)
  mesh = sharding.make_mesh(config)
  agreement.on_first(lambda: run.adopt(root, config, source.tokenizer_folder))
  agreement.on_first(lambda: _keep_labels(root, labels))
  begin(root, config.init_from, source)
  chinese = labels.kind == "question-answering" and _are_chinese(splits)
  _describe(splits, labels, train, dev, say)
  if chinese:
    say("answers are compared as CMRC 2018 does it, by characters")

  encoder, target = configs.encoder_of(config), finetune.KINDS[labels.kind].target
  if target != SEQUENCE and settings.pooling != "pooler":
    say(f"note: finetune.pooling={settings.pooling} means nothing here: what is learned are labels of tokens, not of whole texts")
  judge = Judge(f"eval/{metric}", metric not in predictions.LOWER_IS_BETTER, settings.patience)
  model = FinetuningModel(
      encoder, target, len(labels.names), settings.pooling, jnp.dtype(config.model.dtype),
      jnp.dtype(config.model.param_dtype), config.model.remat, attention_of(config, encoder, jax.default_backend(), 0),
  )  # fmt: skip
  evaluate = _make_evaluator(model, labels, dev, config, mesh, chinese=chinese)
  trained = loop.Run(
      finetune.make_task(model, labels.kind), config, mesh, lambda position: batches_from(position, train.features, config, mesh), evaluate,
      identity={"examples": labelled.fingerprint(train.features), "rows": train.features.num_rows, "seed": config.seed,
                "batch_size": config.data.batch_size},
      start=start_from(source, say), judge=judge, peak_flops=run.peak_flops(),
      flops_per_token=flops.train_flops_per_token(encoder, sequence_length=float(train.features.lengths.mean()), predicted_share=0.0),
  )  # fmt: skip
  return run.Setup(trained, lambda: finish(root, judge, config.export.format, held_out=splits.held_out))


def begin(root: epath.Path, init_from: str, source: Model) -> None:
  """Says in SOURCE_FILE what the run begins with, and that it has no result yet; called on every process, also where the run goes on."""

  def write() -> None:
    if not (root / SOURCE_FILE).exists():
      content = {"model": init_from, "state": state_of(init_from, source.step)}
      storage.write_text(root / SOURCE_FILE, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    (root / RESULT_FILE).unlink(missing_ok=True)  # what it says of the best checkpoint ends here

  agreement.on_first(write)


def finish(root: epath.Path, judge: Judge, export_format: str, *, held_out: bool) -> None:
  """Writes RESULT_FILE, and exports the checkpoint that it names; called on every process."""
  agreement.on_first(lambda: write_result(root, judge, held_out=held_out))
  exporting.export_run(root, export_format)


def _keep_labels(root: epath.Path, labels: Labels) -> None:
  """Writes what the outputs mean. Raises UserError where those of a run in `root` mean something else: it would be spoiled."""
  before = read_labels(root)
  if before is not None and before._replace(pairs=labels.pairs) != labels:
    raise UserError(f"{root} holds a run with other labels, {_shown(before)}; now they are {_shown(labels)}: give back the examples that it had, or "
                    "another --workdir")  # fmt: skip
  storage.write_text(root / LABELS_FILE, json.dumps(labels._asdict(), ensure_ascii=False, indent=2) + "\n")


def _shown(labels: Labels) -> str:
  if labels.kind == "regression":
    return f"scores up to {labels.scale:g}"
  return ", ".join(labels.names[:10]) + (" …" if len(labels.names) > 10 else "")


def _are_chinese(splits: Splits) -> bool:
  """Whether most of the texts that are asked about are Chinese."""
  asked = splits.dev.first
  return 2 * sum(questions.is_chinese(one.context) for one in asked) > len(asked)


def _splits(config: ml_collections.ConfigDict) -> Splits:
  wanted = config.finetune
  return load_splits(task=wanted.task, data=wanted.data, dev=wanted.dev, kind=wanted.kind, text=wanted.text, text_pair=wanted.text_pair, label=wanted.label)


def max_length_of(config: ml_collections.ConfigDict, positions: int, kind: str = "") -> int:
  """Tokens that a text or pair may have: those of the config, else of the kind, as far as a model of so many positions reads."""
  wanted = config.finetune.max_length or (_LENGTH_OF_WINDOWS if kind == "question-answering" else _LENGTH)
  if wanted < _LEAST_LENGTH:
    raise UserError(f"finetune.max_length={wanted} leaves no room for a text, since [CLS] and [SEP] count; give {_LEAST_LENGTH} or more")
  return min(wanted, positions)


def resolve(config: ml_collections.ConfigDict, source: Model, examples: int, max_length: int) -> ml_collections.ConfigDict:
  """Fills in what follows from the model and the examples: the encoder's fields, the number of steps, and the length that texts were cut to."""
  config, settings = configs.copy_of(config), config.finetune
  for field in dataclasses.fields(source.config):
    given, own = config.model[field.name], getattr(source.config, field.name)
    if given is not None and given != own and not field.name.endswith("dropout_prob"):
      raise UserError(f"model.{field.name}={given!r}, but the model that is fine-tuned has {own!r}: leave the key out")
    config.model[field.name] = own if given is None else given
  if config.optimizer.frozen_layers > source.config.num_hidden_layers:
    raise UserError(f"optimizer.frozen_layers={config.optimizer.frozen_layers}, but the model has {source.config.num_hidden_layers} layers")
  config.finetune.max_length = max_length
  if settings.epochs:
    in_epoch = examples / config.data.batch_size
    config.total_steps = max(1, math.ceil(settings.epochs * in_epoch))
    config.optimizer.warmup_steps = min(math.floor(settings.warmup_share * config.total_steps), config.total_steps - 1)
    config.eval_every_steps = config.checkpoint.every_steps = max(1, round(in_epoch / settings.evaluations))
  configs.validate(config)
  optimizers.make_schedule(config)  # refused here, before anything is written
  return config


def _describe(splits: Splits, labels: Labels, train: Labelled, dev: Labelled, say) -> None:
  """What a user should know of the examples before they are trained on."""
  for note in (*splits.train.notes, *splits.dev.notes):
    say(f"note: {note}")
  what = labels.kind + (f" with {len(labels.names)} labels" if labels.kind in ("classification", "multi-label", "token-classification") else "")
  counts = [len(part.gold) for part in (train, dev)]
  say(f"{counts[0]:,} training examples, {counts[1]:,} to judge by, {what}, from {', '.join(splits.files)}")
  if splits.held_out:
    say("a tenth of the file is held out to judge by, chosen by the content of the (first) text; --dev=FILE gives a file of its own")
  long = [part.features.truncated for part in (train, dev)]
  if labels.kind == "question-answering":
    say(f"{long[0]:,} and {long[1]:,} of them have a text that needs several windows; with these there are {train.features.num_rows:,} rows to train on")
  elif any(long):
    say(f"{long[0]:,} and {long[1]:,} of them are longer than finetune.max_length and lose their end")
  balance = labelled.describe_balance(splits.train, labels.kind)
  if balance:
    say(balance)


def start_from(source: Model, say):
  """Run.start: the encoder, and the pooler where it is read, of the source; the head is new."""

  def start(fresh, abstract):
    taken = {name: source.params[name] for name in fresh.params if name in ("encoder", "pooler") and name in source.params}
    if "pooler" in fresh.params and "pooler" not in taken:
      say(f"{source.origin} has no pooler: a new one is trained; finetune.pooling=mean reads the tokens themselves")
    say(f"Starting from {source.origin}: {', '.join(sorted(taken))}; new: {', '.join(sorted(set(fresh.params) - set(taken)))}")
    params = fresh.params | jax.tree.map(lambda new, old: old.astype(new.dtype), {name: fresh.params[name] for name in taken}, taken)
    return fresh._replace(params=jax.device_put(params, jax.tree.map(lambda x: x.sharding, fresh.params)))

  return start


def batches_from(position: int, train: Features, config: ml_collections.ConfigDict, mesh, *, texts: int = 1):
  """Run.batches of features; `texts`: how many, each of finetune.max_length, are packed into a row."""
  size, max_length = config.data.batch_size, texts * config.finetune.max_length
  return features.train_batches(
      train, batch_size=size, seed=config.seed, start=position, steps=config.total_steps, max_length=max_length,
      process_rows=sharding.rows_of_process(mesh, size),
  )  # fmt: skip


def _make_evaluator(model, labels: Labels, dev: Labelled, config, mesh, *, chinese: bool):
  predict = predictions.make_predictor(model, labels.kind, mesh)

  def evaluate(params, after_batch=lambda: False):
    scores = predict(params, dev.features, batch_size=config.data.batch_size, max_length=config.finetune.max_length, after_batch=after_batch)
    return None if scores is None else predictions.score(labels, dev, scores, chinese=chinese)

  return evaluate


def best_checkpoint(root: epath.Path, judge: Judge) -> tuple[int, dict[str, float]]:
  """(step, metrics) of the checkpoint that is kept for its evaluation; where nothing was measured, of the newest."""
  folder = root / "checkpoints"
  evaluations = {step: checkpoint_folder.read_manifest(checkpoint_folder.folder_of(folder, step)).metrics
                 for step in checkpoint_folder.committed_steps(folder)}  # fmt: skip
  step = (judge.best_first(evaluations) or sorted(evaluations, reverse=True))[0]
  return step, evaluations[step]


def write_result(root: epath.Path, judge: Judge, *, held_out: bool) -> None:
  """Says in RESULT_FILE which checkpoint is the best, how good it is, and on what."""
  step, metrics = best_checkpoint(root, judge)
  result = {"step": step, "metric": judge.metric.removeprefix("eval/"), "metrics": {name.removeprefix("eval/"): value for name, value in metrics.items()},
            "held_out": held_out}  # fmt: skip
  storage.write_text(root / RESULT_FILE, json.dumps(result, indent=2) + "\n")
