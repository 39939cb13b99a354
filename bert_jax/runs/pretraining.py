"""Pretraining in a run folder: from a config to the corpus, the model and what the loop needs; and its evaluation
afterwards.
"""

import contextlib
from collections.abc import Callable
from typing import ContextManager

import jax
import ml_collections
from etils import epath

from bert_jax import config as configs
from bert_jax.cluster import agreement
from bert_jax.cluster.distributed import Cluster
from bert_jax.data.corpus.folder import Corpus, open_corpus
from bert_jax.data.corpus.prepare import PrepareSettings, Progress, prepare_corpus
from bert_jax.data.corpus.staging import stage
from bert_jax.data.loading import input_pipeline, mixture
from bert_jax.data.tokenizer.wordpiece import Tokenizer, load_tokenizer
from bert_jax.errors import UserError
from bert_jax.export import export
from bert_jax.inference.model import Model, load_model
from bert_jax.io import storage
from bert_jax.models import flops
from bert_jax.models.config import EncoderConfig
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.runs import launch
from bert_jax.runs.build import make_objective, model_of, resolve
from bert_jax.training import evaluation, loop, metrics, run_folder, sharding
from bert_jax.training import optimizer as optimizers
from bert_jax.training.checkpoints import reading
from bert_jax.training.run_folder import read_run_config
from bert_jax.training.train_state import TrainState

Preparing = Callable[[], ContextManager[Progress | None]]


def pretrain_run(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  cluster: Cluster | None = None,
  profile: tuple[int, int] | None = None,
  log: launch.Log = print,
  prepare_progress: Preparing = contextlib.nullcontext,
) -> dict[str, float]:
  """Trains what `config` says in `workdir`; see `run.conduct`.

  Args:
    config, workdir, cluster, profile, log: as there.
    prepare_progress: entered for as long as the corpus is prepared, should that be needed; its value is the `progress`
      of `prepare_corpus`.

  Raises:
    UserError: corpus, tokenizer, devices or an earlier run in `workdir` do not fit the config.
  """
  set_up = lambda root, log: _set_up(config, root, log, prepare_progress)
  return launch.conduct(config, workdir, set_up, cluster=cluster, profile=profile, log=log)


def _set_up(config: ml_collections.ConfigDict, root: epath.Path, log, prepare_progress) -> launch.Setup:
  """Everything before training. Raises UserError, the same on every process."""
  # What the config alone decides is refused before a corpus is prepared.
  configs.encoder_of(config)
  mesh = sharding.make_mesh(config)
  optimizers.make_schedule(config)
  agreement.on_first(lambda: _prepare_if_missing(config, log, prepare_progress))
  corpus, tokenizer = agreement.together(lambda: _corpus_and_tokenizer(config))
  config = resolve(config, corpus, tokenizer)
  encoder = configs.encoder_of(config)
  start = _initial_parameters(config, encoder, tokenizer, log)
  agreement.on_first(lambda: run_folder.claim_workdir(root, config, corpus.folder / "tokenizer"))
  if run_folder.is_finished(root, config):
    log(
      f"{root} has already trained its {configs.last_step(config):,} steps; evaluating it again.\n"
      "To train anew, give another --workdir or remove this one."
    )
  if launch.peak_flops() is None and metrics.next_attempt(root) == 0:  # said once
    log(f"MFU is not reported: the peak of {jax.devices()[0].device_kind!r} is not known here")

  objective = make_objective(
    config, model_of(config, encoder, jax.default_backend(), seq_length=corpus.train.seq_length), corpus, tokenizer
  )
  evaluate = evaluation.make_evaluator(objective, mesh, lambda: validation_batches(corpus, config))
  trained = loop.Training(
    objective,
    config,
    mesh,
    lambda position: training_batches(corpus, config, position),
    evaluate,
    identity={
      "corpus_id": corpus.manifest["corpus_id"],
      "rows": corpus.train.num_rows,
      "seed": config.seed,
      "batch_size": config.data.batch_size,
    },
    start=start,
    flops_per_token=flops_per_token(encoder, config, corpus),
    peak_flops=launch.peak_flops(),
  )
  return launch.Setup(trained, lambda: export.export_run(root, config.export.format))


def open_data(config: ml_collections.ConfigDict) -> Corpus:
  """The corpus of a config, or the mixture of corpora; copied to this host first where `data.cache_dir` says so."""
  here = lambda folder: stage(folder, config.data.cache_dir) if config.data.cache_dir else folder
  if config.data.mixture:
    if config.data.corpus:
      raise UserError(
        f"data.corpus={config.data.corpus} and data.mixture={config.data.mixture}: give one of them, and the other "
        "empty"
      )
    return mixture.open_mixture(
      {str(here(folder)): weight for folder, weight in mixture.parse(config.data.mixture).items()}
    )
  return open_corpus(here(config.data.corpus))


def _prepare_if_missing(config: ml_collections.ConfigDict, log, prepare_progress) -> None:
  """Prepares the corpus where the config names a source for it, and it is not there."""
  folder = config.data.corpus
  if not (folder or config.data.mixture):
    raise UserError(
      "data.corpus is empty: name a corpus folder, --config.data.corpus=DIR; `bert_jax prepare` makes one from raw text"
    )
  if folder and config.data.source and not config.data.mixture and not epath.Path(folder).exists():
    log(f"Preparing the corpus {folder} from {config.data.source}")
    settings = PrepareSettings(**{name: config.prepare[name] for name in PrepareSettings._fields})
    with prepare_progress() as shown:
      prepare_corpus([config.data.source], folder, settings, progress=shown, log=log)


def _corpus_and_tokenizer(config: ml_collections.ConfigDict) -> tuple[Corpus, Tokenizer]:
  corpus = open_data(config)
  return corpus, _tokenizer(corpus)


def _tokenizer(corpus: Corpus) -> Tokenizer:
  """The tokenizer in the folder of a corpus. Raises UserError for one that did not make it: its ids mean other
  words.
  """
  tokenizer = load_tokenizer(corpus.folder / "tokenizer")
  if tokenizer.fingerprint != corpus.manifest["tokenizer_fingerprint"]:
    raise UserError(
      f"{corpus.folder / 'tokenizer'} is not the tokenizer that made this corpus (fingerprint "
      f"{tokenizer.fingerprint}, expected {corpus.manifest['tokenizer_fingerprint']}); put that one back, or prepare "
      "the corpus anew with this one"
    )
  return tokenizer


def evaluate_model(path: str, corpus_folder: str | None, *, batch_size: int, rows: int) -> dict[str, float]:
  """Metrics of a run or Hugging Face folder on the validation split of a corpus (default: the run's own).

  The rows and masks are those of the evaluations during training, whatever the batch size.

  Raises:
    UserError: no corpus; another tokenizer; rows longer than the model; no MLM head.
  """
  model = load_model(path)
  if "mlm" not in model.heads:
    raise UserError(f"{path} has no masked-language-model head to evaluate")
  is_run = (storage.folder(path) / "checkpoints").is_dir()
  if not corpus_folder and not is_run:
    raise UserError("--corpus is needed: a Hugging Face folder does not say which corpus it belongs to")
  own = read_run_config(path) if is_run else configs.default_config()
  if not corpus_folder and own.data.corpus and not epath.Path(own.data.corpus).exists():
    raise UserError(f"{own.data.corpus}, the corpus of {path}, is not there; say where it lies now: --corpus=DIR")
  corpus = open_corpus(corpus_folder) if corpus_folder else open_data(own)
  tokenizer = _tokenizer(corpus)
  if tokenizer.fingerprint != model.tokenizer.fingerprint:
    raise UserError(
      f"{corpus.folder} was made with another tokenizer than {path}; prepare it with "
      f"--tokenizer={model.tokenizer_folder}"
    )

  config = configs.default_config()
  for name in own.masking:
    config.masking[name] = own.masking[name]
  if corpus_folder:  # as many predictions as its rows need
    config.masking.max_predictions = None
  config.model.update({name: getattr(model.config, name) for name in configs.MODEL_FIELDS})
  config.model.vocab_size = tokenizer.vocab_size
  config.data.batch_size = -(-batch_size // jax.device_count()) * jax.device_count()
  config.eval_rows = rows
  config = resolve(config, corpus, tokenizer)
  objective = make_objective(config, PretrainingModel(model.config, heads=model.heads), corpus, tokenizer)
  evaluate = evaluation.make_evaluator(
    objective, sharding.make_mesh(config), lambda: validation_batches(corpus, config)
  )
  return evaluate(model.params)


def training_batches(corpus: Corpus, config: ml_collections.ConfigDict, position: int):
  """Host batches from a global position to the end of the run."""
  size = config.data.batch_size
  return input_pipeline.train_batches(
    corpus.train,
    batch_size=size,
    seed=config.seed,
    start=position,
    steps=config.total_steps,
    loader=config.data.loader,
    process_rows=sharding.rows_of_process(sharding.make_mesh(config), config.data.batch_size),
  )


def validation_batches(corpus: Corpus, config: ml_collections.ConfigDict):
  """Host batches of the validation split, in order, the last one filled up."""
  return input_pipeline.evaluation_batches(
    corpus.validation,
    batch_size=config.data.batch_size,
    max_rows=config.eval_rows,
    process_rows=sharding.rows_of_process(sharding.make_mesh(config), config.data.batch_size),
  )


def flops_per_token(encoder: EncoderConfig, config: ml_collections.ConfigDict, corpus: Corpus) -> float:
  """Training FLOPs per real token of this corpus under this masking rate."""
  mean_length = flops.mean_sequence_length(corpus.manifest["counts"])
  return flops.train_flops_per_token(encoder, sequence_length=mean_length, predicted_share=config.masking.rate)


def _initial_parameters(config: ml_collections.ConfigDict, encoder: EncoderConfig, tokenizer: Tokenizer, log):
  """Returns Training.start: None to begin from scratch, else what takes over the parameters of init_from."""
  if not (config.init_from or config.init_optimizer):
    return None
  if config.init_optimizer and not (storage.folder(config.init_from) / "checkpoints").is_dir():
    raise UserError(f"init_optimizer needs a run folder with checkpoints; {config.init_from} has none")
  source = load_model(config.init_from)
  _check_fits(source, encoder, tokenizer)

  def start(fresh: TrainState, abstract: TrainState) -> TrainState:
    if config.init_optimizer:
      state, host = reading.restore_state(storage.folder(config.init_from) / "checkpoints", abstract)
      log(f"Starting from {config.init_from}: parameters, moments and step {host['step']}")
      return state
    missing = sorted(set(fresh.params) - set(source.params))
    log(f"Starting from the parameters of {config.init_from}" + (f"; new: {', '.join(missing)}" if missing else ""))
    return fresh._replace(
      params=jax.device_put(fresh.params | source.params, jax.tree.map(lambda x: x.sharding, fresh.params))
    )

  return start


def _check_fits(source: Model, encoder: EncoderConfig, tokenizer: Tokenizer) -> None:
  """Raises UserError where the parameters of `source` cannot start a model of this encoder and tokenizer."""
  shapes = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
  )
  for name in shapes:
    theirs, ours = getattr(source.config, name), getattr(encoder, name)
    if theirs != ours:
      remedy = (
        f"prepare the corpus with --tokenizer={source.tokenizer_folder}"
        if name == "vocab_size"
        else f"set model.{name}={theirs}"
      )
      raise UserError(f"init_from={source.origin} has {name}={theirs}, this run {ours}; {remedy}")
  if source.tokenizer.fingerprint != tokenizer.fingerprint:
    raise UserError(
      f"init_from={source.origin} was trained with another tokenizer than the corpus; "
      f"prepare the corpus with --tokenizer={source.tokenizer_folder}"
    )
