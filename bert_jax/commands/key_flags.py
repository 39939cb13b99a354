"""Commands that train without a config file: their flags set keys."""

import argparse
from collections.abc import Callable

from bert_jax.commands.processes import add_cluster_arguments, outcome_of_run, start_cluster
from bert_jax.errors import show
from bert_jax.io.paths import expanded


def add_key_flags(
  parser: argparse.ArgumentParser,
  flags: dict[str, str],
  groups: tuple[str, ...],
  meanings: dict[str, str] | None = None,
) -> None:
  """Flags of a command that trains without a config file: --FLAG for each of `flags`, which says what key it sets;
  --workdir; those of processes.

  The help lists all keys that begin with one of `groups`; `meanings` explains a flag where it means something else than
  its key does elsewhere.
  """
  from bert_jax import config as configs

  for flag, key in flags.items():
    parser.add_argument(
      f"--{flag}",
      metavar=configs.KEYS[key].type.__name__.upper(),
      help=(meanings or {}).get(flag, configs.meaning(key)),
    )
  parser.add_argument(
    "--workdir", type=expanded, metavar="DIR", help="the run folder: checkpoints, metrics, result.json"
  )
  add_cluster_arguments(parser)
  parser.set_defaults(keys_without_file=True)
  parser.epilog = (
    f"{parser.epilog}\n\nconfig keys that matter here, each set by --config.KEY=VALUE:\n{configs.help_lines(*groups)}"
  )


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
  from bert_jax.inference.run_folder import read_result

  if not options.workdir:
    raise UserError("--workdir is missing: the folder that checkpoints and results are written to")
  given = [f"{key}={getattr(options, flag)}" for flag, key in flags.items() if getattr(options, flag) is not None]
  config = make_config([*given, *options.overrides])
  cluster = start_cluster(config, options)
  with outcome_of_run(cluster) as outcome:
    train(config, options.workdir, cluster=cluster)
    if cluster.process_id == 0:
      print_best(options.workdir, read_result(options.workdir) or {})
      finished(config)
  return outcome.code


def print_best(workdir: str, result: dict) -> None:
  """The last lines of a run: how good its best checkpoint is, and where it lies."""
  show(
    f"\nBest by {result['metric']}: step {result['step']:,}"
    if result["metrics"]
    else f"\nThe newest checkpoint, step {result['step']:,}: there were no evaluation examples"
  )
  for name, value in result["metrics"].items():
    show(f"  {name:<14} {value:.4f}")
  show(f"In {workdir}: checkpoints, metrics, result.json")
