"""Pretraining in a run folder, from top to bottom: processes meet, corpus and model are built, the loop trains, the
model is exported.
"""

import contextlib
from typing import Any

import jax
import ml_collections

from bert_jax import config as configs
from bert_jax.cluster import agreement, chips
from bert_jax.cluster.distributed import Cluster
from bert_jax.data.corpus import suitability
from bert_jax.data.corpus.folder import Corpus, tokenizer_of
from bert_jax.data.tokenizer.wordpiece import Tokenizer
from bert_jax.errors import UserError, show
from bert_jax.export import export
from bert_jax.inference import run_folder
from bert_jax.inference.model import Model, load_model
from bert_jax.io import storage
from bert_jax.models.config import EncoderConfig
from bert_jax.objectives.registry import check_usable
from bert_jax.runs import corpus as corpora
from bert_jax.runs.build import make_objective, model_of, resolve_pretraining
from bert_jax.runs.corpus import PrepareProgress
from bert_jax.runs.launch import Log, Run, launch
from bert_jax.training import evaluation, loop, metrics, sharding
from bert_jax.training import optimizer as optimizers
from bert_jax.training.checkpoints import reading
from bert_jax.training.model_selection import by_headline
from bert_jax.training.optimizer import last_step
from bert_jax.training.train_state import TrainState


def pretrain_run(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  cluster: Cluster | None = None,
  profile: tuple[int, int] | None = None,
  log: Log = show,
  prepare_progress: PrepareProgress = contextlib.nullcontext,
) -> dict[str, float]:
  """Pretrains in `workdir`, or resumes there; called by every process of the run.

  Args:
    config: see `config.KEYS`; not resolved.
    workdir: the run folder; made if missing.
    cluster: see `launch`.
    profile: the first step to trace, and the first one not to.
    log: takes one line of text for the user.
    prepare_progress: entered while the corpus is prepared, should that be needed; its value is the `progress` of
      `prepare_corpus`.

  Returns:
    The metrics of the last evaluation.

  Raises:
    UserError: corpus, tokenizer, devices or an earlier run in `workdir` do not fit the config; the same on every
      process.
    Preempted: the processes were told to stop, and have saved.
    PeerLost: another process has died.
  """
  with launch(config, workdir, cluster=cluster, log=log) as run:
    with run.starting():
      training = build(config, run, prepare_progress)
    with run.services(training, profile) as services:
      _, last = loop.train(training, services)
    export.export_run(run.root, config.export.format)
  return last


def build(config: ml_collections.ConfigDict, run: Run, prepare_progress: PrepareProgress) -> loop.Training:
  """Corpus, model, objective, batches and evaluation of a config; claims the run folder for them. Raises UserError."""
  # What the config alone decides is refused before a corpus is prepared.
  configs.encoder_of(config)
  if config.export.format:
    check_usable(config.objective)
  mesh = sharding.make_mesh(config)
  optimizers.make_schedule(config)

  agreement.on_first(lambda: corpora.prepare_if_missing(config, run.log, prepare_progress))
  corpus = agreement.together(lambda: corpora.open_data(config))
  tokenizer = agreement.together(lambda: tokenizer_of(corpus))
  _check_suitable(corpus, config, run)
  config = resolve_pretraining(config, corpus, tokenizer)
  encoder = configs.encoder_of(config)
  identity = {
    "corpus_id": corpus.manifest["corpus_id"],
    "rows": corpus.train.num_rows,
    "seed": config.seed,
    "batch_size": config.data.batch_size,
  }
  start = _initial_parameters(config, encoder, tokenizer, identity, run.log)
  run.claim(config, corpus.folder / "tokenizer")
  _describe(config, run)

  model = model_of(config, encoder, jax.default_backend(), seq_length=corpus.train.seq_length)
  objective = make_objective(config, model, corpus, tokenizer)
  return loop.Training(
    objective,
    config,
    mesh,
    batches=lambda position: corpora.training_batches(corpus, config, mesh, position),
    evaluate=evaluation.make_evaluator(objective, mesh, lambda: corpora.validation_batches(corpus, config, mesh)),
    identity=identity,
    selection=by_headline(objective),
    start=start,
    flops_per_token=corpora.flops_per_token(encoder, config, corpus),
  )


def _check_suitable(corpus: Corpus, config: ml_collections.ConfigDict, run: Run) -> None:
  """Says what is odd about a corpus. Raises UserError where nothing can be learned from it, unless it has begun."""
  name = config.data.corpus or config.data.mixture
  judge = suitability.findings if metrics.next_attempt(run.root) else lambda manifest: suitability.check(manifest, name)
  for finding in judge(corpus.manifest):
    run.log(f"WARNING: {name}: {finding}")


def _describe(config: ml_collections.ConfigDict, run: Run) -> None:
  """What a user should know before training."""
  if run_folder.is_finished(run.root, config):
    run.log(
      f"{run.root} has already trained its {last_step(config):,} steps; evaluating it again.\n"
      "To train anew, give another --workdir or remove this one."
    )
  device_kind = jax.devices()[0].device_kind
  if chips.peak_flops(device_kind) is None and metrics.next_attempt(run.root) == 0:  # once is enough
    run.log(f"MFU is not reported: the peak of {device_kind!r} is not known here")


def _initial_parameters(
  config: ml_collections.ConfigDict, encoder: EncoderConfig, tokenizer: Tokenizer, identity: dict[str, Any], log: Log
):
  """Returns Training.start: None to begin from scratch, else what takes over the parameters of init_from."""
  if not (config.init_from or config.init_optimizer):
    return None
  if config.init_optimizer and not storage.is_folder(storage.folder(config.init_from) / "checkpoints"):
    raise UserError(f"init_optimizer needs a run folder with checkpoints; {config.init_from} has none")
  source = load_model(config.init_from)
  _check_fits(source, encoder, tokenizer)

  def start(fresh: TrainState, abstract: TrainState) -> tuple[TrainState, int]:
    if config.init_optimizer:
      root = storage.folder(config.init_from)
      state, host = reading.restore_state(root / "checkpoints", abstract, meaning=run_folder.meaning_of(root))
      # In the same order of the same rows it goes on with those that have not been seen.
      same_rows = all(host.get(key) == identity[key] for key in ("corpus_id", "rows", "seed"))
      log(
        f"Starting from {config.init_from}: parameters, moments and step {host['step']}"
        + (f"; the data from row {host['position']:,} on" if same_rows else "; the data from its beginning")
      )
      return state, int(host["position"]) if same_rows else 0
    taken = {name: source.params[name] for name in fresh.params if name in source.params}
    missing = sorted(set(fresh.params) - set(taken))
    log(f"Starting from the parameters of {config.init_from}" + (f"; new: {', '.join(missing)}" if missing else ""))
    params = jax.device_put(fresh.params | taken, jax.tree.map(lambda x: x.sharding, fresh.params))
    return fresh._replace(params=params), 0

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
        if name == "vocab_size" and theirs == source.tokenizer.vocab_size
        else f"set model.{name}={theirs}"
      )
      raise UserError(f"init_from={source.origin} has {name}={theirs}, this run {ours}; {remedy}")
  if source.tokenizer.fingerprint != tokenizer.fingerprint:
    raise UserError(
      f"init_from={source.origin} was trained with another tokenizer than the corpus; "
      f"prepare the corpus with --tokenizer={source.tokenizer_folder}"
    )
