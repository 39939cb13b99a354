"""The corpus of a config: prepared where it is missing, opened, and read in batches."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import ml_collections
import numpy as np
from jax.sharding import Mesh

from bert_jax.data.corpus.folder import Corpus, open_corpus
from bert_jax.data.corpus.prepare import PrepareSettings, ProgressCallback, prepare_corpus
from bert_jax.data.corpus.staging import stage
from bert_jax.data.loading import input_pipeline, mixture
from bert_jax.errors import UserError
from bert_jax.io import storage
from bert_jax.models import flops
from bert_jax.models.config import EncoderConfig
from bert_jax.training import sharding

PrepareProgress = Callable[[], AbstractContextManager[ProgressCallback | None]]


def prepare_if_missing(
  config: ml_collections.ConfigDict, log: Callable[[str], None], progress: PrepareProgress
) -> None:
  """Prepares the corpus if the config names a source for it and it does not exist; `progress` is entered meanwhile."""
  folder = config.data.corpus
  if not (folder or config.data.mixture):
    raise UserError(
      "data.corpus is empty: name a corpus folder, --config.data.corpus=DIR; `bert_jax prepare` makes one from raw text"
    )
  if folder and config.data.source and not config.data.mixture and not storage.exists(folder):
    log(f"Preparing the corpus {folder} from {config.data.source}")
    settings = PrepareSettings(**{name: config.prepare[name] for name in PrepareSettings._fields})
    with progress() as shown:
      prepare_corpus([config.data.source], folder, settings, progress=shown, log=log)


def open_data(config: ml_collections.ConfigDict) -> Corpus:
  """The corpus of a config, or the mixture of corpora; copied to this host first where `data.cache_dir` says so."""
  here = lambda folder: stage(folder, config.data.cache_dir) if config.data.cache_dir else folder
  if config.data.mixture:
    if config.data.corpus:
      raise UserError(
        f"data.corpus={config.data.corpus} and data.mixture={config.data.mixture}: give one of them, and the other "
        "empty"
      )
    weights = mixture.parse(config.data.mixture)
    return mixture.open_mixture({str(here(folder)): weight for folder, weight in weights.items()})
  return open_corpus(here(config.data.corpus))


def training_batches(
  corpus: Corpus, config: ml_collections.ConfigDict, mesh: Mesh, position: int
) -> Iterator[dict[str, np.ndarray]]:
  """Host batches from a global position to the end of the run."""
  size = config.data.batch_size
  return input_pipeline.train_batches(
    corpus.train,
    batch_size=size,
    seed=config.seed,
    start=position,
    steps=config.total_steps,
    loader=config.data.loader,
    process_rows=sharding.rows_of_process(mesh, size),
  )


def validation_batches(
  corpus: Corpus, config: ml_collections.ConfigDict, mesh: Mesh
) -> Iterator[dict[str, np.ndarray]]:
  """Host batches of the validation split, in order, the last one filled up."""
  size = config.data.batch_size
  return input_pipeline.evaluation_batches(
    corpus.validation, batch_size=size, max_rows=config.eval_rows, process_rows=sharding.rows_of_process(mesh, size)
  )


def flops_per_token(encoder: EncoderConfig, config: ml_collections.ConfigDict, corpus: Corpus) -> float:
  """Training FLOPs per real token of this corpus under this masking rate."""
  mean_length = flops.mean_sequence_length(corpus.manifest["counts"])
  return flops.train_flops_per_token(encoder, sequence_length=mean_length, predicted_share=config.masking.rate)
