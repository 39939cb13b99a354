"""The command line: `python -m bert_jax COMMAND [flags]`, also installed as `bert-jax`."""

import argparse
import contextlib
import difflib
import functools
import importlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from typing import Any, cast

from bert_jax import __version__
from bert_jax.cluster.chips import tpu_chips_here
from bert_jax.cluster.termination import Terminated, listen
from bert_jax.errors import EXIT_PREEMPTED, ending_of, print_at_once
from bert_jax.internals.orbax import silence_orbax
from bert_jax.internals.python import run_exit_functions
from bert_jax.io.streams import forgiving, only_told, open_closed_streams

# In the order in which a newcomer meets them; each is a module of bert_jax.commands.
COMMANDS = (
  "prepare",
  "inspect",
  "plan",
  "bench",
  "doctor",
  "pretrain",
  "report",
  "finetune",
  "sentence-embedding",
  "predict",
  "evaluate",
  "export",
  "fill-mask",
  "look",
  "probe",
  "next-sentence",
  "encode",
)
# Those that keep what they have finished, and find it again.
RESUMABLE = ("prepare", "pretrain", "finetune", "sentence-embedding")


def main(argv: list[str] | None = None) -> int:
  """Runs a command. Returns the exit code: 0 done, 1 the user's mistake, 2 usage, 75 told to stop, 130 interrupted by
  Ctrl-C; others are named in errors.py.
  """
  listen()
  open_closed_streams()
  arguments = list(sys.argv[1:] if argv is None else argv)
  flags_end = arguments.index("--") if "--" in arguments else len(arguments)
  arguments[:flags_end] = map(with_underscores, arguments[:flags_end])
  name = arguments[0] if arguments and arguments[0] in COMMANDS else None
  quiet()
  keep_interrupts()
  try:
    parser = make_parser(only=name)
    options, rest = parser.parse_known_args(arguments)
    options.overrides = [word.removeprefix("--config.") for word in rest if word.startswith("--config.")]
    unknown = [word for word in rest if not word.startswith("--config.")]
    without_file = getattr(options, "keys_without_file", False)  # commands whose config has no file
    if unknown or (options.overrides and "config" not in options and not without_file):
      options.parser.error(refusal(options.parser, unknown or rest))
    if options.overrides and not without_file and not options.config:
      options.parser.error(f"{rest[0]} changes a key of a config: give the config too, --config=FILE.py")
    with only_told() if name in RESUMABLE else contextlib.nullcontext():
      code = options.run(options) or 0
    sys.stdout.flush()  # here, where a full disk or a closed pipe can still be answered
    return code
  except KeyboardInterrupt as stop:
    told, code = ("stopped by a SIGTERM", EXIT_PREEMPTED) if isinstance(stop, Terminated) else ("interrupted", 130)
    again = "; run the same command again to resume" if name in RESUMABLE else ""
    print_at_once(told + (f": {stop}" if str(stop) else "") + again)
    if argv is None:
      leave(code)
    return code
  except Exception as error:
    code, message = ending_of(error)
    let_go_of_output()
    if isinstance(error, BrokenPipeError) and name not in RESUMABLE:
      return 0  # the reader of our output has gone, as `| head` does
    print_at_once(traceback.format_exc() if message is None else f"error: {message}")
    return code


def with_underscores(word: str) -> str:
  """--skip-bad=x to --skip_bad=x: flags are spelled with underscores, hyphens are accepted."""
  if not word.startswith("--") or word.startswith("--config."):
    return word
  flag, equals, value = word.partition("=")
  return "--" + flag[2:].replace("-", "_") + equals + value


def refusal(command: argparse.ArgumentParser, words: list[str]) -> str:
  """What is said of words that a command does not take, with the flag that may have been meant."""
  flags = re.findall(r"--\w+", command.format_usage())
  near = [difflib.get_close_matches(word.partition("=")[0], flags, n=1) for word in words if word.startswith("-")]
  meant = " ".join(dict.fromkeys(flag for match in near for flag in match))
  return f"unexpected {' '.join(words)}" + (f"; did you mean {meant}?" if meant else "")


def let_go_of_output() -> None:
  """Prints what is still waiting, or sends it nowhere if nobody takes it: Python would complain of that at its end."""
  for stream in (sys.stdout, sys.stderr):
    forgiving(stream).flush()


def leave(code: int) -> None:
  """Ends this process without the end of the interpreter, where JAX crashes after a Ctrl-C during compilation."""
  run_exit_functions()
  let_go_of_output()
  os._exit(code)


@functools.cache
def keep_interrupts() -> None:
  """Sees to it that no Ctrl-C is lost.

  JAX has a callback in Python's garbage collector. A KeyboardInterrupt that falls into it
  cannot be raised from there: Python would print it and go on. Now it comes again a moment later.
  """
  show = sys.unraisablehook

  def again(begun: threading.Event, number: int) -> None:
    begun.wait()
    time.sleep(0.02)
    signal.pthread_kill(threading.main_thread().ident or 0, number)

  def hook(unraisable) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
      begun = threading.Event()  # the start of a thread may take long; an interrupt within would be lost here, too
      number = signal.SIGTERM if issubclass(unraisable.exc_type, Terminated) else signal.SIGINT
      threading.Thread(target=again, args=(begun, number), daemon=True).start()
      begun.set()
    else:
      show(unraisable)

  sys.unraisablehook = hook


def make_parser(only: str | None = None) -> argparse.ArgumentParser:
  """The parser of all commands; with `only`, of that one alone, so that nothing else is imported."""
  parser = argparse.ArgumentParser(
    prog="bert_jax", description="Pretrain BERT encoders from raw text in JAX, and hand them to PyTorch."
  )
  parser.add_argument("--version", action="version", version=f"bert_jax {__version__}")
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name in (only,) if only else COMMANDS:
    module = importlib.import_module(f"bert_jax.commands.{name.replace('-', '_')}")
    command = commands.add_parser(
      name,
      help=module.HELP,
      description=module.HELP,
      epilog=f"example:\n{module.EXAMPLE}",
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    module.add_arguments(command)
    command.set_defaults(run=module.run, parser=command)
  return parser


@functools.cache
def quiet() -> None:
  """Silences what libraries print about themselves, at the source; set any of these to hear it again."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
  if not tpu_chips_here():
    # The extra `plan` brings libtpu, which JAX would start, and which would complain of the missing chips.
    sys.modules.setdefault("libtpu", cast(Any, None))
  silence_orbax()


if __name__ == "__main__":
  sys.exit(main())
