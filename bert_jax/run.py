"""A run folder from start to end: corpus, resolved config, training, export.

    WORKDIR/config.json   the resolved config; a resume compares against it
    WORKDIR/tokenizer/    a copy of the corpus's, so that a run can be used alone
    WORKDIR/checkpoints/, metrics/, events/, tensorboard/, export/
"""

import contextlib
import pathlib
import platform
import shutil
import tempfile
import time
from typing import Callable, ContextManager, Iterator, NamedTuple

import jax
import ml_collections
from etils import epath
from jax.experimental import multihost_utils

from bert_jax import config as configs
from bert_jax import atomic, evaluation, flops, locks, storage
from bert_jax.cluster import agreement, distributed, rendezvous
from bert_jax.cluster.distributed import Cluster
from bert_jax.cluster.peers import PeerLost, Peers, leave
from bert_jax.cluster.preemption import Preempted, Preemption
from bert_jax.cluster.watchdog import Watchdog
from bert_jax.convert import folder as hf_folder
from bert_jax.data import input_pipeline, mixture
from bert_jax.data.corpus import Corpus, open_corpus
from bert_jax.data.prepare import PrepareSettings, Progress, prepare_corpus
from bert_jax.data.staging import stage
from bert_jax.data.tokenizer import Tokenizer, load_tokenizer
from bert_jax.errors import EXIT_PREEMPTED, EXIT_STALLED, UserError
from bert_jax.inference import Model, load_model
from bert_jax.models.config import EncoderConfig
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.resolve import model_of, pretraining_task, read_run_config, resolve
from bert_jax.training import checkpoint, checkpoint_reading, loop, metrics, progress, sharding
from bert_jax.training import optimizer as optimizers
from bert_jax.training.jumps import Jumps, read_jumps
from bert_jax.training.profile import Profile
from bert_jax.training.train_state import TrainState

TOKENIZER_FILE = "tokenizer.json"
Preparing = Callable[[], ContextManager[Progress | None]]


def pretrain_run(
    config: ml_collections.ConfigDict, workdir: str, *, cluster: Cluster | None = None, profile: tuple[int, int] | None = None,
    say: Callable[[str], None] = print, preparing: Preparing = contextlib.nullcontext,
) -> dict[str, float]:  # fmt: skip
  """Trains what `config` says in `workdir`, from where it stands there; called by every process of the run.

  Args:
    config: see `config.KEYS`.
    workdir: the run folder; made if missing.
    cluster: the processes of the run, which then meet here, before JAX's first use; None: JAX is started already, or this one is alone.
    profile: the first step to trace, and the first one not to.
    say: takes one line of text for the user; only the first process says anything.
    preparing: entered for as long as the corpus is prepared, should that be needed; its value is the `progress` of `prepare_corpus`.

  Returns:
    The metrics of the last evaluation.

  Raises:
    UserError: corpus, tokenizer, devices or an earlier run in `workdir` do not fit the config; the processes were not started
      alike. The same on every process.
    Preempted: the processes were told to stop, and have saved.
    PeerLost: another process has died.
  """
  with _meet(config, str(workdir), cluster) as peers:
    if cluster is not None:
      distributed.initialize(cluster, connect_seconds=config.cluster.connect_seconds, heartbeat_seconds=config.cluster.heartbeat_seconds,
                             on_lost=peers.on_lost if cluster.num_processes > 1 else None)  # fmt: skip
    speaks, preemption = jax.process_index() == 0, Preemption()  # one process reports for all
    try:
      with _starting(peers, preemption):
        setup = _set_up(config, storage.folder(workdir), say if speaks else lambda text: None, preparing)
      params, last = _train(setup, peers, preemption, profile)
      _export(setup, params)
      return last
    except Preempted:
      raise
    except Exception as error:
      reason = peers.explain(error)
      if not isinstance(reason, PeerLost):
        peers.tell(str(reason) or type(reason).__name__, 1)
      raise reason from (error if reason is not error else error.__cause__)


def _meet(config: ml_collections.ConfigDict, workdir: str, cluster: Cluster | None) -> Peers:
  """The other processes of the run, after all have met. Raises UserError where they were not started alike."""
  if cluster is None:
    return Peers()
  connections = {}
  about = rendezvous.introduce(configs.flatten(config), workdir)
  introductions = rendezvous.meet(cluster, about, seconds=config.cluster.connect_seconds, keep=connections)
  rendezvous.check_alike(introductions)
  return Peers(cluster.process_id, [about["host"] for about in introductions], connections)


@contextlib.contextmanager
def _starting(peers: Peers, preemption: Preemption) -> Iterator[None]:
  """While a run is set up: a SIGTERM ends what is being done on all processes. Raises Preempted."""

  def tell() -> None:
    peers.tell("told to stop by a SIGTERM, before training had begun", EXIT_PREEMPTED)

  def end() -> None:
    tell()
    leave(EXIT_PREEMPTED)

  try:
    with preemption.while_starting(end):
      yield
  except Preempted:
    tell()  # others may be waiting for this process where nothing interrupts them
    raise


class _Setup(NamedTuple):
  """A run that is ready to train: what the loop needs, the folder, the encoder."""

  run: loop.Run
  root: epath.Path
  encoder: EncoderConfig


def _set_up(config: ml_collections.ConfigDict, root: epath.Path, say, preparing) -> _Setup:
  """Everything before training. Raises UserError, the same on every process."""
  if root.exists() and not root.is_dir():
    raise UserError(f"--workdir={root} is a file; a run needs a folder of its own")
  # What the config alone decides is refused before a corpus is prepared.
  configs.encoder_of(config)
  mesh = sharding.make_mesh(config)
  optimizers.make_schedule(config)
  agreement.on_first(lambda: _prepare_if_missing(config, say, preparing))
  corpus, tokenizer = agreement.together(lambda: _corpus_and_tokenizer(config))
  config = resolve(config, corpus, tokenizer)
  encoder = configs.encoder_of(config)
  start = _initial_parameters(config, encoder, tokenizer, say)
  agreement.on_first(lambda: adopt(root, config, corpus.folder / "tokenizer"))
  if is_finished(root, config):
    say(f"{root} has already trained its {configs.last_step(config):,} steps; evaluating it again.\n"
        "To train anew, give another --workdir or remove this one.")  # fmt: skip
  if peak_flops() is None and metrics.next_attempt(root) == 0:  # said once
    say(f"MFU is not reported: the peak of {jax.devices()[0].device_kind!r} is not known here")

  task = pretraining_task(config, model_of(config, encoder, jax.default_backend(), seq_length=corpus.train.seq_length), corpus, tokenizer)
  evaluate = evaluation.make_evaluator(task, mesh, lambda: validation_batches(corpus, config))
  run = loop.Run(
      task, config, mesh, lambda position: training_batches(corpus, config, position), evaluate,
      identity={"corpus_id": corpus.manifest["corpus_id"], "rows": corpus.train.num_rows, "seed": config.seed,
                "batch_size": config.data.batch_size},
      start=start, flops_per_token=flops_per_token(encoder, config, corpus), peak_flops=peak_flops(),
  )  # fmt: skip
  return _Setup(run, root, encoder)


def _train(setup: _Setup, peers: Peers, preemption: Preemption, profile: tuple[int, int] | None):
  """(parameters, metrics of the last evaluation) of a run, with everything that stands around the loop."""
  run, root = setup.run, setup.root
  config, end = run.config, configs.last_step(run.config)
  speaks = jax.process_index() == 0
  with contextlib.ExitStack() as stack:
    if not storage.is_remote(root):  # where there are no locks, the writer of events sees to it
      lock = stack.enter_context(locks.FolderLock(root))
      agreement.on_first(lambda: _take(lock, root, seconds=config.cluster.heartbeat_seconds))
    attempt = agreement.from_first(metrics.next_attempt(root))
    name = f"attempt-{attempt:04d}-process-{jax.process_index():04d}"
    writer = stack.enter_context(metrics.MetricsWriter(root, attempt, active=speaks))
    writer.event("start", attempt=attempt, processes=jax.process_count(), devices=jax.device_count(),
                 device_kind=jax.devices()[0].device_kind, jax=jax.__version__, python=platform.python_version(),
                 host=distributed.host_name(), code=rendezvous.code_fingerprint())  # fmt: skip

    peers.on_told = lambda message: writer.event("fail", message=message)
    # The stacks of a run that stands still must not wait for a store that may be what stands still.
    stalls = pathlib.Path(tempfile.gettempdir(), "bert_jax-stalls") if storage.is_remote(root) else root / "stalls"

    def on_stall(seconds: float) -> None:
      if speaks:
        writer.event("stall", seconds=round(seconds, 1), process=jax.process_index())
      peers.tell(f"nothing has happened for {seconds:.0f} s; it was ended, and its stacks are in {stalls}", EXIT_STALLED)

    around = loop.Around(
        checkpoints=stack.enter_context(checkpoint.Checkpoints(
            root / "checkpoints", every_steps=config.checkpoint.every_steps, keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best, on_event=writer.event)),
        writer=writer,
        progress=stack.enter_context(progress.Progress(end, active=speaks)),
        watchdog=stack.enter_context(Watchdog(
            start_seconds=config.watchdog.start_seconds, step_seconds=config.watchdog.step_seconds,
            dump=stalls / f"{name}.txt", on_stall=on_stall)),
        preemption=preemption,
        jumps=Jumps(root, agreement.on_first(lambda: read_jumps(root))),
        profile=Profile(profile, root / "profile" / name),
    )  # fmt: skip
    try:
      result = loop.train(run, around)
    except Preempted:
      raise
    except Exception as error:
      reason = peers.explain(error)
      if not isinstance(reason, UserError):
        around.checkpoints.abandon()  # a save needs all processes, and would be waited for in vain
      writer.event("peer_lost" if isinstance(reason, PeerLost) else "fail", message=str(reason))
      raise reason from (error if reason is not error else error.__cause__)
    writer.event("finish", step=end)
  return result


def _take(lock: locks.FolderLock, root: pathlib.Path, *, seconds: float) -> None:
  """Sees to it that nobody else trains in this folder; an earlier attempt that is just ending is waited for."""
  deadline = time.monotonic() + seconds
  while not lock.take(alone=True):
    if time.monotonic() > deadline:
      raise UserError(f"another process has been training in {root} for the last {seconds:.0f} s, on this machine or on one that shares the "
                      "folder; let it end, or give another --workdir. Processes that belong together are started with --coordinator")  # fmt: skip
    time.sleep(0.2)


def _export(setup: _Setup, params) -> None:
  """The folder that `export.format` asks for, written by the first process while the others wait."""
  export_format = setup.run.config.export.format
  if not export_format:
    return
  whole = multihost_utils.process_allgather(params, tiled=True) if jax.process_count() > 1 else jax.device_get(params)
  agreement.on_first(lambda: hf_folder.write_folder(
      setup.root / "export", whole, setup.encoder, storage.fetch(setup.root / "tokenizer"), format=export_format))  # fmt: skip


def is_finished(workdir: str, config: ml_collections.ConfigDict) -> bool:
  """Whether the run in `workdir` has already trained to where `config` ends it."""
  return any(event["event"] == "finish" and event["step"] >= configs.last_step(config) for event in metrics.read_events(workdir))


def open_data(config: ml_collections.ConfigDict) -> Corpus:
  """The corpus of a config, or the mixture of corpora; copied to this host first where `data.cache_dir` says so."""
  here = lambda folder: stage(folder, config.data.cache_dir) if config.data.cache_dir else folder
  if config.data.mixture:
    if config.data.corpus:
      raise UserError(f"data.corpus={config.data.corpus} and data.mixture={config.data.mixture}: give one of them, and the other empty")
    return mixture.open_mixture({str(here(folder)): weight for folder, weight in mixture.parse(config.data.mixture).items()})
  return open_corpus(here(config.data.corpus))


def _prepare_if_missing(config: ml_collections.ConfigDict, say, preparing) -> None:
  """Prepares the corpus where the config names a source for it, and it is not there."""
  folder = config.data.corpus
  if not (folder or config.data.mixture):
    raise UserError("data.corpus is empty: name a corpus folder, --config.data.corpus=DIR; `bert_jax prepare` makes one from raw text")
  if folder and config.data.source and not config.data.mixture and not epath.Path(folder).exists():
    say(f"Preparing the corpus {folder} from {config.data.source}")
    settings = PrepareSettings(**{name: config.prepare[name] for name in PrepareSettings._fields})
    with preparing() as shown:
      prepare_corpus([config.data.source], folder, settings, progress=shown, say=say)


def _corpus_and_tokenizer(config: ml_collections.ConfigDict) -> tuple[Corpus, Tokenizer]:
  corpus = open_data(config)
  return corpus, _tokenizer(corpus)


def _tokenizer(corpus: Corpus) -> Tokenizer:
  """The tokenizer in the folder of a corpus. Raises UserError for one that did not make it: its ids mean other words."""
  tokenizer = load_tokenizer(corpus.folder / "tokenizer")
  if tokenizer.fingerprint != corpus.manifest["tokenizer_fingerprint"]:
    raise UserError(f"{corpus.folder / 'tokenizer'} is not the tokenizer that made this corpus (fingerprint {tokenizer.fingerprint}, "
                    f"expected {corpus.manifest['tokenizer_fingerprint']}); put that one back, or prepare the corpus anew with this one")  # fmt: skip
  return tokenizer


def adopt(root: epath.Path, config: ml_collections.ConfigDict, tokenizer_folder: pathlib.Path) -> None:
  """Takes `root` as the folder of this run, or as the place where it goes on. Raises UserError for another run's folder."""
  path = root / "config.json"
  if path.exists():
    changed = configs.changed_keys(read_run_config(root), config)
    if changed:
      listed = "\n".join(f"  {key}: {before!r} there, {now!r} now" for key, (before, now) in changed.items())
      raise UserError(
          f"{root} holds a run with another config:\n{listed}\n"
          "Give the keys their old values to go on with it, or another --workdir to start a new run"
          " (--config.init_from takes over the parameters)"
      )
  elif root.exists() and any(".partial" not in entry.name for entry in root.iterdir()):
    raise UserError(f"{root} is not empty and holds no run of ours (no config.json); choose another --workdir")
  root.mkdir(parents=True, exist_ok=True)
  if not path.exists():  # the first thing in the folder: by it, what was stopped after it is known as ours
    storage.write_text(path, configs.to_json(config))
  if storage.is_remote(root):
    if not (root / "tokenizer" / TOKENIZER_FILE).exists():
      storage.send(tokenizer_folder, root / "tokenizer", last=TOKENIZER_FILE)
  elif not (root / "tokenizer").exists():
    with atomic.new_folder(root / "tokenizer") as partial:
      for file in tokenizer_folder.iterdir():
        shutil.copyfile(file, partial / file.name)


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
    raise UserError(f"{corpus.folder} was made with another tokenizer than {path}; prepare it with --tokenizer={model.tokenizer_folder}")

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
  task = pretraining_task(config, PretrainingModel(model.config, heads=model.heads), corpus, tokenizer)
  evaluate = evaluation.make_evaluator(task, sharding.make_mesh(config), lambda: validation_batches(corpus, config))
  return evaluate(model.params)


def training_batches(corpus: Corpus, config: ml_collections.ConfigDict, position: int):
  """Host batches from a global position to the end of the run."""
  size = config.data.batch_size
  return input_pipeline.train_batches(
      corpus.train, batch_size=size, seed=config.seed, start=position, steps=config.total_steps, loader=config.data.loader,
      process_rows=sharding.rows_of_process(sharding.make_mesh(config), config.data.batch_size),
  )  # fmt: skip


def validation_batches(corpus: Corpus, config: ml_collections.ConfigDict):
  """Host batches of the validation split, in order, the last one filled up."""
  return input_pipeline.evaluation_batches(
      corpus.validation, batch_size=config.data.batch_size, max_rows=config.eval_rows,
      process_rows=sharding.rows_of_process(sharding.make_mesh(config), config.data.batch_size),
  )  # fmt: skip


def flops_per_token(encoder: EncoderConfig, config: ml_collections.ConfigDict, corpus: Corpus) -> float:
  """Training FLOPs per real token of this corpus under this masking rate."""
  mean_length = flops.mean_sequence_length(corpus.manifest["counts"])
  return flops.train_flops_per_token(encoder, sequence_length=mean_length, predicted_share=config.masking.rate)


def peak_flops() -> float | None:
  """Dense bf16 peak of all devices together, or None if this kind is not in the table."""
  peak = flops.peak_flops(jax.devices()[0].device_kind)
  return peak * jax.device_count() if peak else None


def _initial_parameters(config: ml_collections.ConfigDict, encoder: EncoderConfig, tokenizer: Tokenizer, say):
  """Returns Run.start: None to begin from scratch, else what takes over the parameters of init_from."""
  if not (config.init_from or config.init_optimizer):
    return None
  if config.init_optimizer and not (storage.folder(config.init_from) / "checkpoints").is_dir():
    raise UserError(f"init_optimizer needs a run folder with checkpoints; {config.init_from} has none")
  source = load_model(config.init_from)
  _check_fits(source, encoder, tokenizer)

  def start(fresh: TrainState, abstract: TrainState) -> TrainState:
    if config.init_optimizer:
      state, host = checkpoint_reading.restore_state(storage.folder(config.init_from) / "checkpoints", abstract)
      say(f"Starting from {config.init_from}: parameters, moments and step {host['step']}")
      return state
    missing = sorted(set(fresh.params) - set(source.params))
    say(f"Starting from the parameters of {config.init_from}" + (f"; new: {', '.join(missing)}" if missing else ""))
    return fresh._replace(params=jax.device_put(fresh.params | source.params, jax.tree.map(lambda x: x.sharding, fresh.params)))

  return start


def _check_fits(source: Model, encoder: EncoderConfig, tokenizer: Tokenizer) -> None:
  """Raises UserError where the parameters of `source` cannot start a model of this encoder and tokenizer."""
  shapes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps")  # fmt: skip
  for name in shapes:
    theirs, ours = getattr(source.config, name), getattr(encoder, name)
    if theirs != ours:
      remedy = f"prepare the corpus with --tokenizer={source.tokenizer_folder}" if name == "vocab_size" else f"set model.{name}={theirs}"
      raise UserError(f"init_from={source.origin} has {name}={theirs}, this run {ours}; {remedy}")
  if source.tokenizer.fingerprint != tokenizer.fingerprint:
    raise UserError(f"init_from={source.origin} was trained with another tokenizer than the corpus; "
                    f"prepare the corpus with --tokenizer={source.tokenizer_folder}")  # fmt: skip
