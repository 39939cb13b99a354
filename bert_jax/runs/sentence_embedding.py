"""Sentence embeddings in a run folder: from a config to texts, model and loop; at the end the best checkpoint, for
sentence-transformers.

    WORKDIR/result.json    the metrics of the best checkpoint, and which that is; without scored pairs to judge by, the
                           newest
    WORKDIR/export/        that checkpoint in the layout of sentence-transformers, with pooling and normalisation as
                           trained

What it shares with fine-tuning stands in tuning.py, settings too: the keys finetune.* hold here as there.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from bert_jax import config as configs
from bert_jax.batch import model_inputs
from bert_jax.cluster import agreement
from bert_jax.cluster.distributed import Cluster
from bert_jax.convert.sentence_folder import POOLINGS
from bert_jax.data.labelled import examples as labelled
from bert_jax.data.labelled import features, text_groups
from bert_jax.data.labelled.features import Features
from bert_jax.data.labelled.text_groups import TextGroups, Where
from bert_jax.errors import UserError
from bert_jax.evaluation import metrics, predictions
from bert_jax.inference import model as inference
from bert_jax.models import flops
from bert_jax.models.sentence import SentenceModel, unit
from bert_jax.objectives import sentence_embedding
from bert_jax.runs import launch, tuning
from bert_jax.runs.build import attention_of
from bert_jax.training import collectives, loop, run_folder, sharding
from bert_jax.training.model_selection import ModelSelection
from bert_jax.training.run_folder import read_result

# Where sentence embedding starts from otherwise than fine-tuning: Reimers & Gurevych 2019, section 3.1 (one epoch,
# mean pooling), Gao et al. 2021, table D.1 (batches of 64, learning rate 3e-5).
DEFAULTS = tuning.DEFAULTS | {
  "finetune.pooling": "mean",
  "finetune.epochs": 1.0,
  "data.batch_size": 64,
  "optimizer.learning_rate": 3e-5,
  "export.format": "sentence-transformers",
}
METRICS = ("spearman", "pearson")  # of the cosine with the scores of the dev pairs


def sentence_embedding_config(overrides: list[str] = ()) -> ml_collections.ConfigDict:
  """The defaults of sentence embedding with overrides "key=value". Raises UserError as config.load_config."""
  return tuning.config_of(overrides, DEFAULTS)


def sentence_embedding_run(
  config: ml_collections.ConfigDict, workdir: str, *, cluster: Cluster | None = None, log: launch.Log = print
) -> dict[str, float]:
  """Trains the model of config.init_from in `workdir`; see `run.conduct`. Returns the metrics of the best checkpoint.

  Raises:
    UserError: model, texts, devices or an earlier run in `workdir` do not fit the config.
  """
  launch.conduct(config, workdir, lambda root, log: _set_up(config, root, log), cluster=cluster, log=log)
  return read_result(workdir)["metrics"]


def _set_up(config: ml_collections.ConfigDict, root: epath.Path, log) -> launch.Setup:
  """Everything before training. Raises UserError, the same on every process."""
  settings, objective = config.finetune, config.embedding.objective
  _check(config)
  run_folder.check_source(root, config)
  source = inference.load_model(config.init_from)
  train, dev = agreement.together(lambda: _load(config))
  max_length = tuning.max_length_of(config, source.config.max_position_embeddings)
  prepare = lambda groups: features.of_texts_apart(
    source.tokenizer,
    groups.texts,
    None if objective in sentence_embedding.RANKING else _labels(groups),
    max_length=max_length,
  )
  rows = prepare(train)
  _check_differ(train, objective)
  asked, config = config, tuning.resolve(config, source, rows.num_rows, max_length)
  encoder, mesh = configs.encoder_of(config), sharding.make_mesh(config)
  if objective == "simcse" and not (encoder.hidden_dropout_prob or encoder.attention_probs_dropout_prob):
    raise UserError(
      "simcse tells two readings of a text apart by dropout, and there is none: set model.hidden_dropout_prob (BERT "
      "has 0.1)"
    )
  agreement.on_first(lambda: run_folder.claim_workdir(root, config, source.tokenizer_folder))
  tuning.begin(root, config.init_from, source)
  _describe(train, dev, rows, objective, max_length, log)
  tuning.note_unknown(rows, source, log)
  tuning.note_sizes(asked, config, rows.num_rows, log)

  model = SentenceModel(
    encoder,
    settings.pooling,
    config.embedding.normalize,
    len(train.classes),
    jnp.dtype(config.model.dtype),
    jnp.dtype(config.model.param_dtype),
    config.model.remat,
    attention_of(config, encoder, jax.default_backend(), 0),
  )
  task = sentence_embedding.make_embedding_objective(
    model,
    objective,
    temperature=config.embedding.temperature,
    margin=config.embedding.margin,
    all_rows=lambda rows: collectives.all_rows(rows, mesh),
  )
  evaluate = _make_evaluator(model, dev and prepare(dev)._replace(labels=dev.labels), config, mesh)
  selection, texts = (
    ModelSelection(f"eval/{settings.metric or METRICS[0]}", True, settings.patience if dev else 0),
    len(train.texts),
  )
  take_over = tuning.start_from(source, log)

  def start(fresh, abstract):
    state = take_over(fresh, abstract)
    if dev is not None:
      log("Before training: " + ", ".join(f"{name} {value:.4f}" for name, value in evaluate(state.params).items()))
    return state

  trained = loop.Training(
    task,
    config,
    mesh,
    lambda position: tuning.batches_from(position, rows, config, mesh, texts=texts),
    evaluate,
    identity={
      "examples": labelled.fingerprint(rows),
      "rows": rows.num_rows,
      "seed": config.seed,
      "batch_size": config.data.batch_size,
    },
    start=start,
    selection=selection,
    peak_flops=launch.peak_flops(),
    flops_per_token=flops.train_flops_per_token(
      encoder, sequence_length=float(rows.lengths.mean() / texts), predicted_share=0.0
    ),
  )
  held_out = dev is not None and dev.files == train.files
  examples = tuning.digests_of((*train.files, *(dev.files if dev else ())))
  return launch.Setup(
    trained, lambda: tuning.finish(root, selection, config.export.format, examples=examples, held_out=held_out)
  )


def _check(config: ml_collections.ConfigDict) -> None:
  """Refuses what can be refused before anything is read. Raises UserError."""
  settings, wanted = config.finetune, config.embedding
  if not config.init_from:
    raise UserError("init_from is empty: give the model to train, --model=DIR, a run folder or a Hugging Face folder")
  if not wanted.objective:
    raise UserError(
      f"embedding.objective is empty: say what is to be learned by, --objective={'|'.join(sentence_embedding.LOSSES)}"
    )
  if settings.metric and settings.metric not in METRICS:
    raise UserError(f"finetune.metric={settings.metric!r} is not measured here; there are {', '.join(METRICS)}")
  alone = wanted.objective == "simcse" or (wanted.objective == "in-batch" and not wanted.negative)
  if alone and config.data.batch_size < 2:
    raise UserError(
      f"data.batch_size=1: {wanted.objective} learns by the other examples of a batch, and there are none; give at "
      "least 2, better 64"
    )
  if wanted.normalize and wanted.objective == "triplet" and wanted.margin >= 2:
    raise UserError(
      f"embedding.margin={wanted.margin:g}: vectors of length 1 are at most 2 apart; give less, such as 0.5, or "
      "embedding.normalize=False"
    )
  if config.export.format == "sentence-transformers" and settings.pooling not in POOLINGS:
    raise UserError(
      f"sentence-transformers has no pooling {settings.pooling!r}: take {', '.join(POOLINGS)}, or "
      "--config.export.format=transformers"
    )


def _check_differ(train: TextGroups, objective: str) -> None:
  """Raises UserError where all examples are the same, for those objectives that learn by the others of a batch."""
  if objective in sentence_embedding.RANKING and len(set(zip(*train.texts))) < 2:
    raise UserError(
      f"{', '.join(train.files)}: {objective} learns to tell the examples of a batch apart, and all "
      f"{len(train.texts[0]):,} are the same"
    )


def _load(config: ml_collections.ConfigDict) -> tuple[TextGroups, TextGroups | None]:
  settings, wanted = config.finetune, config.embedding
  given = {name: getattr(settings, name) for name in ("task", "data", "dev", "text", "text_pair", "label")}
  return text_groups.load_groups(
    wanted.objective, Where(**given, negative=wanted.negative, dev_columns=wanted.dev_columns)
  )


def _labels(groups: TextGroups) -> np.ndarray:
  return np.zeros(len(groups.texts[0]), np.int32) if groups.labels is None else groups.labels


def _describe(train: TextGroups, dev: TextGroups | None, rows: Features, objective: str, max_length: int, log) -> None:
  """What a user should know of the examples before they are trained on."""
  for note in (*train.notes, *(dev.notes if dev else ())):
    log(f"note: {note}")
  judged = (
    f"{len(dev.texts[0]):,} scored pairs to judge by, from {', '.join(dev.files)}"
    if dev
    else "nothing to judge by: --dev=FILE takes scored pairs"
  )
  classes = f" with {len(train.classes)} classes ({tuning.shown(train.classes)})" if train.classes else ""
  log(f"{rows.num_rows:,} training examples{classes} from {', '.join(train.files)}; {judged}")
  if rows.truncated:
    log(f"{rows.truncated:,} training texts are longer than {max_length} tokens and lose their end")
  if objective in sentence_embedding.RANKING:
    places = rows.labels if objective == "in-batch" else rows.labels[:, :1]
    again = int((np.unique(places, return_counts=True)[1] > 1).sum())
    if again:
      log(f"{again:,} texts occur more than once; where a batch has one twice, it is no negative of itself")


def _make_evaluator(model: SentenceModel, dev: Features | None, config: ml_collections.ConfigDict, mesh):
  """Training.evaluate: METRICS of the cosine on scored pairs; without any, no metrics."""

  def cosines_of(params, batch):
    vectors_BxSxH = unit(
      model.clone(attention="xla").apply({"params": params}, model_inputs(batch["tokens"], batch["sequences"]))
    )
    return jnp.sum(vectors_BxSxH[:, 0] * vectors_BxSxH[:, 1], axis=-1)

  cosines = predictions.for_each_example(cosines_of, mesh)

  def evaluate(params, after_batch=lambda: False):
    if dev is None:
      return {}
    found = cosines(
      params, dev, batch_size=config.data.batch_size, max_length=2 * config.finetune.max_length, after_batch=after_batch
    )
    if found is None:
      return None
    scores = metrics.scores(dev.labels, np.array(found, np.float64))
    return {name: scores[name] for name in METRICS}

  return evaluate
