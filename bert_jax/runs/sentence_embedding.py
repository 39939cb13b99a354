"""Sentence embeddings in a run folder: from a config to texts, model and loop; at the end the best checkpoint, for
sentence-transformers.

    WORKDIR/result.json    the metrics of the best checkpoint, and which that is; without scored pairs to judge by, the
                           newest
    WORKDIR/export/        that checkpoint in the layout of sentence-transformers, with pooling and normalisation as
                           trained

What it shares with fine-tuning stands in tuning.py, settings too: the keys tuning.* hold here as there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from bert_jax import config as configs
from bert_jax.batch import model_inputs
from bert_jax.cluster.distributed import Cluster
from bert_jax.convert.sentence_folder import POOLING_MODES
from bert_jax.data.labelled import features, text_groups
from bert_jax.data.labelled.features import Features
from bert_jax.data.labelled.text_groups import TextGroups, Where
from bert_jax.errors import UserError, show
from bert_jax.evaluation import metrics, predictions
from bert_jax.inference.model import Model
from bert_jax.models.sentence import SentenceModel, l2_normalize
from bert_jax.objectives import sentence_embedding as objective
from bert_jax.runs import tuning
from bert_jax.runs.build import attention_of
from bert_jax.runs.launch import Log
from bert_jax.training import collectives
from bert_jax.training.model_selection import ModelSelection

# Where sentence embedding starts from otherwise than fine-tuning: Reimers & Gurevych 2019, section 3.1 (one epoch,
# mean pooling), Gao et al. 2021, table D.1 (batches of 64, learning rate 3e-5).
DEFAULTS = tuning.DEFAULTS | {
  "tuning.pooling": "mean",
  "tuning.epochs": 1.0,
  "data.batch_size": 64,
  "optimizer.learning_rate": 3e-5,
  "export.format": "sentence-transformers",
}
METRICS = ("spearman", "pearson")  # of the cosine with the scores of the dev pairs


def sentence_embedding_config(overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
  """The defaults of sentence embedding with overrides "key=value". Raises UserError as config.load_config."""
  return tuning.config_of(overrides, DEFAULTS)


def sentence_embedding_run(
  config: ml_collections.ConfigDict, workdir: str, *, cluster: Cluster | None = None, log: Log = show
) -> dict[str, float]:
  """Trains the model of config.init_from in `workdir`; arguments, result and errors as of `tuning.tune`."""
  _check(config)
  return tuning.tune(tuning.Stages(_load, _prepare, _build), config, workdir, cluster=cluster, log=log)


def _check(config: ml_collections.ConfigDict) -> None:
  """Refuses what can be refused before anything is read. Raises UserError."""
  settings, wanted = config.tuning, config.embedding
  if not wanted.objective:
    raise UserError(
      f"embedding.objective is empty: say what is to be learned by, --objective={'|'.join(objective.LOSSES)}"
    )
  if settings.metric and settings.metric not in METRICS:
    raise UserError(f"tuning.metric={settings.metric!r} is not measured here; there are {', '.join(METRICS)}")
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
  if config.export.format == "sentence-transformers" and settings.pooling not in POOLING_MODES:
    raise UserError(
      f"sentence-transformers has no pooling {settings.pooling!r}: take {', '.join(POOLING_MODES)}, or "
      "--config.export.format=transformers"
    )


def _check_differ(train: TextGroups, learned_by: str) -> None:
  """Raises UserError where all examples are the same, for those objectives that learn by the others of a batch."""
  if learned_by in objective.RANKING and len(set(zip(*train.texts))) < 2:
    raise UserError(
      f"{', '.join(train.files)}: {learned_by} learns to tell the examples of a batch apart, and all "
      f"{len(train.texts[0]):,} are the same"
    )


def _load(config: ml_collections.ConfigDict) -> tuple[TextGroups, TextGroups | None]:
  settings, wanted = config.tuning, config.embedding
  given = {name: getattr(settings, name) for name in ("task", "data", "dev", "text", "text_pair", "label")}
  return text_groups.load_groups(
    wanted.objective, Where(**given, negative=wanted.negative, dev_columns=wanted.dev_columns)
  )


class _Own(NamedTuple):
  """What model and evaluation need besides the rows."""

  classes: int
  dev: Features | None  # scored pairs; None: there is nothing to evaluate on


def _prepare(
  config: ml_collections.ConfigDict, source: Model, loaded: tuple[TextGroups, TextGroups | None]
) -> tuning.PreparedData:
  """Rows of packed texts. Raises UserError for what nothing can be learned from."""
  train, dev = loaded
  settings, learned_by = config.tuning, config.embedding.objective
  _check_differ(train, learned_by)
  if learned_by == "simcse" and not any(_dropout_rates(config, source)):
    raise UserError(
      "simcse tells two readings of a text apart by dropout, and there is none: set model.hidden_dropout_prob (BERT "
      "has 0.1)"
    )
  max_length = tuning.max_length_of(config, source.config.max_position_embeddings)
  prepare = lambda groups: features.of_texts_apart(
    source.tokenizer, groups.texts, None if learned_by in objective.RANKING else _labels(groups), max_length=max_length
  )
  rows = prepare(train)
  patience = settings.patience if dev else 0
  return tuning.PreparedData(
    rows,
    max_length,
    ModelSelection(f"eval/{settings.metric or METRICS[0]}", True, patience),
    files=(*train.files, *(dev.files if dev else ())),
    held_out=dev is not None and dev.files == train.files,
    notes=_describe(train, dev, rows, learned_by, max_length),
    texts=len(train.texts),
    evaluate_first=dev is not None,
    own=_Own(len(train.classes), None if dev is None else prepare(dev)._replace(labels=_labels(dev))),
  )


def _dropout_rates(config: ml_collections.ConfigDict, source: Model) -> list[float]:
  names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
  given = {name: config.model[name] for name in names}
  return [getattr(source.config, name) if rate is None else rate for name, rate in given.items()]


def _build(config: ml_collections.ConfigDict, mesh: Mesh, examples: tuning.PreparedData):
  """(Objective, evaluate) of learning vectors from examples."""
  wanted, encoder = config.embedding, configs.encoder_of(config)
  model = SentenceModel(
    encoder,
    config.tuning.pooling,
    wanted.normalize,
    examples.own.classes,
    jnp.dtype(config.model.dtype),
    jnp.dtype(config.model.param_dtype),
    config.model.remat,
    attention_of(config, encoder, jax.default_backend(), 0),
  )
  learned = objective.make_embedding_objective(
    model,
    wanted.objective,
    temperature=wanted.temperature,
    margin=wanted.margin,
    all_gather_rows=lambda rows: collectives.all_gather_rows(rows, mesh),
  )
  return learned, _make_evaluator(model, examples.own.dev, config, mesh)


def _labels(groups: TextGroups) -> np.ndarray:
  return np.zeros(len(groups.texts[0]), np.int32) if groups.labels is None else groups.labels


def _describe(train: TextGroups, dev: TextGroups | None, rows: Features, learned_by: str, max_length: int) -> list[str]:
  """What a user should know of the examples before they are trained on."""
  notes = [f"note: {note}" for note in (*train.notes, *(dev.notes if dev else ()))]
  judged = (
    f"{len(dev.texts[0]):,} scored pairs to judge by, from {', '.join(dev.files)}"
    if dev
    else "nothing to judge by: --dev=FILE takes scored pairs"
  )
  classes = f" with {len(train.classes)} classes ({tuning.shown(train.classes)})" if train.classes else ""
  notes.append(f"{rows.num_rows:,} training examples{classes} from {', '.join(train.files)}; {judged}")
  if rows.truncated:
    notes.append(f"{rows.truncated:,} training texts are longer than {max_length} tokens and lose their end")
  if learned_by in objective.RANKING:
    places = rows.labels if learned_by == "in-batch" else rows.labels[:, :1]
    again = int((np.unique(places, return_counts=True)[1] > 1).sum())
    if again:
      notes.append(f"{again:,} texts occur more than once; where a batch has one twice, it is no negative of itself")
  return notes


def _make_evaluator(model: SentenceModel, dev: Features | None, config: ml_collections.ConfigDict, mesh):
  """Training.evaluate: METRICS of the cosine on scored pairs; without any, no metrics."""

  def cosines_of(params, batch):
    vectors_BxSxH = l2_normalize(
      model.clone(attention="xla").apply({"params": params}, model_inputs(batch["tokens"], batch["sequences"]))
    )
    return jnp.sum(vectors_BxSxH[:, 0] * vectors_BxSxH[:, 1], axis=-1)

  cosines = predictions.for_each_example(cosines_of, mesh)

  def evaluate(params, after_batch=lambda: False):
    if dev is None:
      return {}
    found = cosines(
      params, dev, batch_size=config.data.batch_size, max_length=2 * config.tuning.max_length, after_batch=after_batch
    )
    if found is None:
      return None
    scores = metrics.regression(dev.labels, np.array(found, np.float64))
    return {name: scores[name] for name in METRICS}

  return evaluate
