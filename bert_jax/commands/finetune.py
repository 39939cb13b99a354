"""`finetune`: trains a pretrained model on labelled examples; resumes by itself."""

import argparse

from bert_jax.commands import add_cluster_arguments, start_cluster, trained

HELP = "train a pretrained BERT on labelled texts: classes, scores, tags of words, answers"
EXAMPLE = """  python -m bert_jax finetune --model=runs/base --task=sst2 --data=glue/SST-2 --workdir=runs/sst2
  python -m bert_jax finetune --model=runs/base --data=reviews.csv --text=review --label=stars --workdir=runs/reviews
  python -m bert_jax finetune --list"""

# Flags for the keys that nearly every run sets; --config.KEY=VALUE sets any other.
FLAGS = {
    "model": "init_from", "task": "finetune.task", "data": "finetune.data", "dev": "finetune.dev", "kind": "finetune.kind",
    "text": "finetune.text", "text_pair": "finetune.text_pair", "label": "finetune.label", "epochs": "finetune.epochs",
    "max_length": "finetune.max_length", "pooling": "finetune.pooling", "learning_rate": "optimizer.learning_rate",
    "batch_size": "data.batch_size", "seed": "seed",
}  # fmt: skip
GROUPS = ("finetune.", "optimizer.", "checkpoint.", "mesh.", "model.dtype", "model.remat", "model.hidden_dropout_prob", "model.attention_probs_dropout_prob")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from bert_jax import config as configs

  for flag, key in FLAGS.items():
    parser.add_argument(f"--{flag}", metavar="VALUE", help=configs.meaning(key))
  parser.add_argument("--workdir", metavar="DIR", help="the run folder: checkpoints, metrics, result.json")
  parser.add_argument("--list", action="store_true", help="the tasks that are known, and the files that they are read from")
  add_cluster_arguments(parser)
  parser.set_defaults(keys_without_file=True)
  keys = "\n".join(f"  {key:<38} {configs.meaning(key)}" for key in configs.KEYS if key.startswith(GROUPS))
  parser.epilog += f"\n\nconfig keys that matter here, each set by --config.KEY=VALUE:\n{keys}"


def run(options: argparse.Namespace) -> int | None:
  if options.list:
    list_tasks()
    return None

  from bert_jax import run_finetuning as runs
  from bert_jax.errors import UserError
  from bert_jax.resolve import read_result

  if not options.workdir:
    raise UserError("--workdir is missing: the folder that checkpoints and results are written to")
  given = [f"{key}={getattr(options, flag)}" for flag, key in FLAGS.items() if getattr(options, flag) is not None]
  config = runs.finetuning_config([*given, *options.overrides])
  cluster = start_cluster(config, options)
  metrics, code = trained(cluster, lambda: runs.finetune_run(config, options.workdir, cluster=cluster))
  if metrics is None:
    return code
  if cluster.process_id == 0:
    print_result(options.workdir, read_result(options.workdir))
  return 0


def list_tasks() -> None:
  """One line for each task that is known."""
  from bert_jax.data.tasks import TASKS

  for name, row in TASKS.items():
    published = f"BERT-base {100 * row.published.value:.1f} ({row.published.split})" if row.published else ""
    print(f"{name:<18} {row.suite:<5} {row.kind:<21} {row.metric:<9} {published:<23} {', '.join(row.train[:2])}")


def print_result(workdir: str, result: dict) -> None:
  """The last lines of a run: how good its best checkpoint is, and where it lies."""
  print(f"\nBest on the examples held back, by {result['metric']}: step {result['step']:,}")
  for name, value in result["metrics"].items():
    print(f"  {name:<14} {value:.4f}")
  print(f"In {workdir}: checkpoints, metrics, result.json")
