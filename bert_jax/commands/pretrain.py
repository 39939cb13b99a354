"""`pretrain`: trains what a config says; resumes by itself."""

import argparse
import os
import pathlib

HELP = "train a BERT on a corpus; goes on by itself where an earlier call stopped"
EXAMPLE = """  python -m bert_jax pretrain --config=configs/quickstart.py --workdir=runs/quickstart
  python -m bert_jax pretrain --config=configs/bert_base.py:phase2 --workdir=runs/base-512 \\
      --config.data.corpus=data/wiki-512 --config.init_from=runs/base-128"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from bert_jax import config as configs

  parser.add_argument("--config", required=True, metavar="FILE.py[:variant]", help="the config file")
  parser.add_argument("--workdir", required=True, metavar="DIR", help="the run folder: checkpoints, metrics, export")
  keys = "\n".join(f"  {key:<38} {configs.meaning(key)}" for key in configs.KEYS)
  parser.epilog += f"\n\nconfig keys, each set by --config.KEY=VALUE:\n{keys}"


def run(options: argparse.Namespace) -> None:
  from bert_jax import config as configs

  config = configs.load_config(options.config, options.overrides)
  if config.deterministic:  # has to stand before JAX starts its GPU backend
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"

  from bert_jax import run as runs
  from bert_jax.commands import start_jax
  from bert_jax.commands.prepare import progress_bar

  start_jax()
  if runs.is_finished(options.workdir, config):
    print(f"{options.workdir} has already trained its {configs.last_step(config):,} steps; evaluating it again.")
    print("To train anew, give another --workdir or remove this one.")
  with progress_bar() as preparing:
    metrics = runs.pretrain_run(config, options.workdir, preparing=preparing)
  print_result(pathlib.Path(options.workdir), config, metrics)


def print_result(workdir: pathlib.Path, config, metrics: dict[str, float]) -> None:
  """The last lines of a run: how good it is, and where everything lies."""
  from bert_jax.data.corpus import read_manifest
  from bert_jax.data.pairs import PAIR_OBJECTIVES

  loss, compared = metrics["eval/mlm_loss"], ""
  if config.data.corpus:  # of a mixture nobody knows the entropy
    entropy = read_manifest(config.data.corpus)["unigram_entropy"]
    side = "below" if loss <= entropy else "above"
    compared = f", {abs(entropy - loss):.2f} {side} the unigram entropy of the corpus ({entropy:.3f})"
  print(f"\neval/mlm_loss      {loss:.3f} nats{compared}")
  print(f"eval/mlm_accuracy  {metrics['eval/mlm_accuracy']:.3f} over {metrics['eval/predictions']:,.0f} masked tokens")
  for name in PAIR_OBJECTIVES:
    if f"eval/{name}_accuracy" in metrics:
      print(
          f"eval/{name}_accuracy  {metrics[f'eval/{name}_accuracy']:.3f} over {metrics['eval/pairs']:,.0f} pairs "
          f"(always the more frequent answer: {metrics[f'eval/{name}_majority']:.3f})"
      )
  places = {"checkpoints": "checkpoints", "metrics": "metrics", "tensorboard": "curves", "export": "PyTorch model"}
  for name, what in places.items():
    if (workdir / name).is_dir():
      print(f"{what:<18} {workdir / name}")
