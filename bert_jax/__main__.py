"""The command line: `python -m bert_jax COMMAND [flags]`, also installed as `bert-jax`."""

import argparse
import importlib
import os
import sys

from bert_jax import __version__
from bert_jax.errors import UserError

# In the order in which a newcomer meets them; each is a module of bert_jax.commands.
COMMANDS = ("prepare", "inspect", "pretrain", "report", "evaluate", "export", "fill-mask", "next-sentence", "encode")


def main(argv: list[str] | None = None) -> int:
  """Runs a command. Returns the exit code: 0 done, 1 the user's mistake, 2 usage, 75 preempted after saving."""
  arguments = [with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
  name = arguments[0] if arguments and arguments[0] in COMMANDS else None
  quiet()
  try:
    parser = make_parser(only=name)
    options, rest = parser.parse_known_args(arguments)
    options.overrides = [word.removeprefix("--config.") for word in rest if word.startswith("--config.")]
    unknown = [word for word in rest if not word.startswith("--config.")]
    if unknown or (options.overrides and "config" not in options):
      parser.error(f"{options.command} does not take {' '.join(unknown or rest)}")
    return options.run(options) or 0
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return 130
  except BrokenPipeError:  # the reader of our output has gone, as `| head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def with_underscores(word: str) -> str:
  """--skip-bad=x to --skip_bad=x: flags are spelled with underscores, hyphens are accepted."""
  if not word.startswith("--") or word.startswith("--config."):
    return word
  flag, equals, value = word.partition("=")
  return "--" + flag[2:].replace("-", "_") + equals + value


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
        name, help=module.HELP, description=module.HELP, epilog=f"example:\n{module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    module.add_arguments(command)
    command.set_defaults(run=module.run)
  return parser


def quiet() -> None:
  """Silences what libraries print about themselves, at the source; set any of these to hear it again."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


if __name__ == "__main__":
  sys.exit(main())
