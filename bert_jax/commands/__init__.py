"""The commands: flags, calls, printing. Nothing else lives here."""

import argparse
import contextlib
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence


def start_jax() -> None:
  """Settings that every command using JAX shares: compiled programs are kept on disk between runs."""
  import jax

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    folder = pathlib.Path.home() / ".cache" / "bert_jax" / "compiled"
    with contextlib.suppress(OSError):  # without a home to write to, programs are compiled every time
      folder.mkdir(parents=True, exist_ok=True)
      jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def start_cluster(config, options: argparse.Namespace):
  """JAX, ready to train what a config says: the processes of the run, found out or as the flags say
  (distributed.Cluster).
  """
  if config.deterministic:  # has to stand before JAX starts its GPU backend
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"

  from bert_jax.cluster import distributed

  start_jax()
  cluster = distributed.detect(options.coordinator, options.num_processes, options.process_id)
  if cluster.num_processes > 1 and "NCCL_DEBUG" not in os.environ:
    distributed.keep_stdout_for_python()
  return cluster


def add_key_flags(
  parser: argparse.ArgumentParser, flags: dict[str, str], groups: tuple[str, ...], meanings: dict[str, str] = {}
) -> None:
  """Flags of a command that trains without a config file: --FLAG for each of `flags`, which says what key it sets;
  --workdir; those of processes.

  The help lists all keys that begin with one of `groups`; `meanings` explains a flag where it means something else than
  its key does elsewhere.
  """
  from bert_jax import config as configs

  for flag, key in flags.items():
    parser.add_argument(f"--{flag}", metavar="VALUE", help=meanings.get(flag, configs.meaning(key)))
  parser.add_argument("--workdir", metavar="DIR", help="the run folder: checkpoints, metrics, result.json")
  add_cluster_arguments(parser)
  parser.set_defaults(keys_without_file=True)
  keys = "\n".join(f"  {key:<38} {configs.meaning(key)}" for key in configs.KEYS if key.startswith(groups))
  parser.epilog += f"\n\nconfig keys that matter here, each set by --config.KEY=VALUE:\n{keys}"


def train_by_flags(
  options: argparse.Namespace,
  flags: dict[str, str],
  make_config: Callable,
  train: Callable,
  finished: Callable = lambda config: None,
) -> int:
  """Trains what flags and keys say, and prints how good the best checkpoint is. Returns the exit code.

  Args:
    options: of a parser with `add_key_flags(parser, flags, …)`.
    flags: as there.
    make_config: (overrides) -> config.
    train: (config, workdir, cluster=…) -> metrics.
    finished: (config) -> None, called by the first process when all is done.
  """
  from bert_jax.errors import UserError
  from bert_jax.training.run_folder import read_result

  if not options.workdir:
    raise UserError("--workdir is missing: the folder that checkpoints and results are written to")
  given = [f"{key}={getattr(options, flag)}" for flag, key in flags.items() if getattr(options, flag) is not None]
  config = make_config([*given, *options.overrides])
  cluster = start_cluster(config, options)
  metrics, code = trained(cluster, lambda: train(config, options.workdir, cluster=cluster))
  if metrics is not None and cluster.process_id == 0:
    print_best(options.workdir, read_result(options.workdir))
    finished(config)
  return code


def print_best(workdir: str, result: dict) -> None:
  """The last lines of a run: how good its best checkpoint is, and where it lies."""
  print(
    f"\nBest on the examples held back, by {result['metric']}: step {result['step']:,}"
    if result["metrics"]
    else f"\nThe newest checkpoint, step {result['step']:,}: there was nothing to judge by"
  )
  for name, value in result["metrics"].items():
    print(f"  {name:<14} {value:.4f}")
  print(f"In {workdir}: checkpoints, metrics, result.json")


def trained(cluster, train: Callable[[], dict[str, float]]) -> tuple[dict[str, float] | None, int]:
  """(the metrics that `train` returns, 0); or (None, exit code) where the processes were told to stop.

  With several processes, one that fails ends here and now: the end of the interpreter would wait for the others.
  """
  from bert_jax.cluster import peers
  from bert_jax.cluster.preemption import Preempted
  from bert_jax.errors import EXIT_PEER_LOST, EXIT_PREEMPTED, UserError, print_at_once

  try:
    return train(), 0
  except Preempted as stop:
    if cluster.process_id == 0:
      saved = f"step {stop.step:,} is saved" if stop.step else "nothing was trained yet"
      print(f"stopped by a SIGTERM: {saved}, and the same command goes on from there", file=sys.stderr)
    if cluster.num_processes > 1 and not stop.step:
      peers.leave(EXIT_PREEMPTED)  # some were interrupted where the end of the interpreter would wait for them
    return None, EXIT_PREEMPTED
  except Exception as error:
    if cluster.num_processes == 1:
      raise
    lost = isinstance(error, peers.PeerLost)
    print_at_once(f"error: {error}" if lost or isinstance(error, UserError) else traceback.format_exc())
    peers.leave(EXIT_PEER_LOST if lost else 1)


def read_lines(path: str, remedy: str = "") -> list[str]:
  """The lines of a UTF-8 file, or of standard input for "-"; of a table it is noted that they are, and the remedy.

  Raises UserError naming the file and line.
  """
  from bert_jax.data.labelled.tables import is_table
  from bert_jax.errors import UserError

  try:
    data = sys.stdin.buffer.read() if path == "-" else pathlib.Path(path).read_bytes()
  except OSError as error:
    raise UserError(f"cannot read --input={path}: {error.strerror or error}") from error
  lines = []
  for number, line in enumerate(data.splitlines(), 1):
    try:
      lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
      raise UserError(
        f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file first, as with "
        "`iconv -f gb18030 -t utf-8 FILE > "
        "NEW`"
      ) from error
  if not lines:
    raise UserError(f"--input={path} is empty: a text in each line is expected")
  if is_table(path):
    print(f"note: every line of {path} is read as a text{f'; {remedy}' if remedy else ''}", file=sys.stderr)
  return lines


def write_for_user(flag: str, path: str, text: str) -> None:
  """Writes a file that somebody asked for by a flag. Raises UserError naming the flag where it cannot be written."""
  from bert_jax.errors import UserError
  from bert_jax.io import atomic

  try:
    atomic.write_text(path, text)
  except OSError as error:
    raise UserError(
      f"cannot write {flag}={path}: {error.strerror or error}; choose another place, or make room"
    ) from error


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
  """The flags that say which processes make up a run; see cluster.distributed.detect."""
  group = parser.add_argument_group(
    "several processes",
    "found out by itself under Slurm, on TPU pods and on Kubernetes; else by these flags, or by "
    "BERT_JAX_COORDINATOR, BERT_JAX_NUM_PROCESSES and BERT_JAX_PROCESS_ID",
  )
  group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 can be reached")
  group.add_argument("--num_processes", type=int, metavar="N", help="how many processes there are")
  group.add_argument("--process_id", type=int, metavar="I", help="which of them this is, from 0 to N - 1")


def run_or_model(workdir: str | None, model: str | None) -> str:
  """The folder that --workdir or --model names. Raises UserError for a --workdir without checkpoints."""
  from bert_jax.errors import UserError
  from bert_jax.io import storage

  if workdir and not (storage.folder(workdir) / "checkpoints").is_dir():
    raise UserError(f"--workdir={workdir} is no run folder with checkpoints; a Hugging Face folder is given as --model")
  return workdir or model


def note_cut(model, texts: Sequence[str], pairs: Sequence[str] | None = None) -> None:
  """Says how many texts, or pairs, are longer than the model takes."""
  from bert_jax.inference import labels

  cut = labels.count_cut(model, texts, pairs)
  if cut:
    print(
      f"note: {cut:,} of {len(texts):,} {'pairs' if pairs else 'texts'} are longer than the {model.max_length} tokens "
      "that the model takes, [CLS] and "
      "[SEP] included, and lost their end",
      file=sys.stderr,
    )


def note_unknown_words(model, texts: Sequence[str]) -> None:
  """Says so where the tokenizer knows less than half of what some texts are made of: another language, most likely."""
  from bert_jax.data.tokenizer.wordpiece import encode_batch

  ids = [token for text in encode_batch(model.tokenizer, list(texts)) for token in text]
  unknown = ids.count(model.tokenizer.special.unk)
  if 2 * unknown > len(ids):
    print(
      f"note: {unknown / len(ids):.0%} of the tokens are [UNK]: the vocabulary of this model does not know such text",
      file=sys.stderr,
    )
