"""`pretrain`: trains what a config says; resumes by itself."""

import argparse
import itertools
import os
import shlex
from typing import TYPE_CHECKING

from bert_jax.commands.processes import add_cluster_arguments, outcome_of_run, start_cluster
from bert_jax.errors import UserError, show
from bert_jax.io.paths import expanded

if TYPE_CHECKING:
  from bert_jax.objectives.objective import Shown

HELP = "train a BERT on a corpus; resumes where an earlier call stopped"
EXAMPLE = """  python -m bert_jax pretrain --config=configs/quickstart.py --workdir=runs/quickstart
  python -m bert_jax pretrain --config=configs/bert_base.py:phase2 --workdir=runs/base-512 \\
      --config.data.corpus=data/wiki-512 --config.init_from=runs/base-128"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from bert_jax import config as configs

  parser.add_argument("--config", required=True, type=expanded, metavar="FILE.py[:variant]", help="the config file")
  parser.add_argument(
    "--workdir", required=True, type=expanded, metavar="DIR", help="the run folder: checkpoints, metrics, export"
  )
  parser.add_argument(
    "--profile",
    type=steps_to_trace,
    metavar="START:STOP",
    help="trace the steps from START to before STOP into WORKDIR/profile, for xprof and Perfetto",
  )
  add_cluster_arguments(parser)
  parser.epilog = f"{parser.epilog}\n\nconfig keys, each set by --config.KEY=VALUE:\n{configs.help_lines()}"


def run(options: argparse.Namespace) -> int:
  from bert_jax import config as configs

  config = configs.load_config(options.config, options.overrides)
  check_source_is_meant(config, options.overrides)

  from bert_jax.commands.prepare import progress_bar
  from bert_jax.inference.run_folder import ChangedConfig
  from bert_jax.runs.pretraining import pretrain_run

  cluster = start_cluster(config, options)
  with outcome_of_run(cluster) as outcome:
    try:
      metrics = pretrain_run(
        config, options.workdir, cluster=cluster, profile=options.profile, prepare_progress=progress_bar
      )
    except ChangedConfig as refused:
      command = command_to_train_on(options, refused.keys)
      if not command:
        raise
      raise UserError(f"{refused}, or train its model on with the new ones:\n  {command}") from refused
    if cluster.process_id == 0:
      print_result(options.workdir, config, metrics)
  return outcome.code


def steps_to_trace(text: str) -> tuple[int, int]:
  """The value of --profile: "100:110" to (100, 110)."""
  start, _, stop = text.partition(":")
  if not (start.isdigit() and stop.isdigit() and 1 <= int(start) < int(stop)):
    raise argparse.ArgumentTypeError(
      f"expected START:STOP, two steps with 1 <= START < STOP, as in 100:110; found {text!r}"
    )
  return int(start), int(stop)


def command_to_train_on(options: argparse.Namespace, changed: frozenset[str]) -> str:
  """The command that goes on from a run with other settings, in a folder of its own; empty where its parameters would
  not fit.

  Step, moments and position in the data are taken over too, unless the optimizer's state would have another form.
  """
  if any(key.startswith("model.") for key in changed):
    return ""
  number = next(number for number in itertools.count(2) if not os.path.exists(f"{options.workdir}-{number}"))
  settings = [word for word in options.overrides if word.partition("=")[0] not in ("init_from", "init_optimizer")]
  settings.append(f"init_from={options.workdir}")
  if not changed & {"optimizer.name", "optimizer.moments_dtype", "optimizer.frozen_layers"}:
    settings.append("init_optimizer=True")
  flags = [f"--config={options.config}", f"--workdir={options.workdir}-{number}"]
  return shlex.join(["python", "-m", "bert_jax", "pretrain", *flags, *(f"--config.{setting}" for setting in settings)])


def check_source_is_meant(config, overrides: list[str]) -> None:
  """Refuses to prepare the source of a config file into a corpus folder of the command line.

  The two belong together: a mistyped --config.data.corpus would else become a corpus of
  something that nobody asked for.

  Raises:
    UserError: data.corpus is overridden, data.source is not, and there is no such folder.
  """
  from etils import epath

  given = {override.partition("=")[0] for override in overrides}
  folder, source = config.data.corpus, config.data.source
  if folder and source and "data.corpus" in given and "data.source" not in given and not epath.Path(folder).exists():
    raise UserError(
      f"--config.data.corpus={folder}: there is no such folder. Prepare it first, `python -m bert_jax prepare "
      f"--source=… --out={folder}`; or, to prepare it from the source that the config names, give that too: "
      f"--config.data.source={source}"
    )


def print_result(workdir: str, config, metrics: dict[str, float]) -> None:
  """The last lines of a run: how good it is, and where everything lies."""
  from bert_jax.io import storage
  from bert_jax.objectives.registry import recipe_of

  recipe = recipe_of(config.objective)
  show("\nOn the validation split:")
  for shown in recipe.shown:
    if shown.short and f"eval/{shown.name}" in metrics:
      show(f"  eval/{shown.name:<14} {headline_of(shown, config, metrics)}")
  places = {"checkpoints": "checkpoints", "metrics": "metrics", "tensorboard": "TensorBoard", "export": "PyTorch model"}
  root = storage.folder(workdir)
  there = {what: root / name for name, what in places.items() if (root / name).is_dir()}
  show("In the run folder:")
  for what, path in there.items():
    show(f"  {what:<19} {path}")
  show("Next:")
  show(f"  report              python -m bert_jax report --workdir={workdir}")
  if recipe.use:
    show(f"  try it              python -m bert_jax {recipe.use.format(workdir=workdir)}")


def headline_of(shown: "Shown", config, metrics: dict[str, float]) -> str:
  """A metric of the last evaluation in words: over how many it went, and how it compares."""
  from bert_jax.data.corpus.folder import read_corpus_manifest
  from bert_jax.io import storage

  value, baseline, corpus = metrics[f"eval/{shown.name}"], shown.baseline, config.data.corpus
  text = f"{value:.3f} {shown.unit}".rstrip()
  if shown.over:
    text += f" over {metrics[f'eval/{shown.over}']:,.0f} {shown.counted}"
  if baseline is None:
    return text
  if not baseline.of_corpus:
    return f"{text}; {baseline.meaning}: {metrics[f'eval/{baseline.name}']:.3f}"
  if not corpus or storage.is_remote(corpus):  # of a mixture nobody knows it
    return text
  limit = read_corpus_manifest(corpus)[baseline.name]
  side = "below" if value <= limit else "above"
  return f"{text}, {abs(limit - value):.2f} {side} the {baseline.label} of the training split ({limit:.3f})"
