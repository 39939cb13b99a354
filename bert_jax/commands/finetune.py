"""`finetune`: trains a pretrained model on labelled examples; resumes by itself."""

import argparse

from bert_jax.commands.key_flags import add_key_flags, train_by_flags
from bert_jax.errors import show

HELP = "train a pretrained BERT on labelled texts: classes, scores, tags of words, answers"
EXAMPLE = """  python -m bert_jax finetune --model=runs/base --task=sst2 --data=glue/SST-2 --workdir=runs/sst2
  python -m bert_jax finetune --model=runs/base --data=reviews.csv --text=review --label=stars --workdir=runs/reviews
  python -m bert_jax finetune --list"""

# Flags for the keys that nearly every run sets; --config.KEY=VALUE sets any other.
FLAGS = {
  "model": "init_from",
  "task": "tuning.task",
  "data": "tuning.data",
  "dev": "tuning.dev",
  "kind": "finetune.kind",
  "text": "tuning.text",
  "text_pair": "tuning.text_pair",
  "label": "tuning.label",
  "epochs": "tuning.epochs",
  "max_length": "tuning.max_length",
  "pooling": "tuning.pooling",
  "learning_rate": "optimizer.learning_rate",
  "batch_size": "data.batch_size",
  "seed": "seed",
}
GROUPS = (
  "tuning.",
  "finetune.",
  "optimizer.",
  "checkpoint.",
  "mesh.",
  "model.dtype",
  "model.remat",
  "model.hidden_dropout_prob",
  "model.attention_probs_dropout_prob",
  "export.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add_key_flags(parser, FLAGS, GROUPS)
  parser.add_argument("--list", action="store_true", help="list the known tasks and the files that they are read from")


def run(options: argparse.Namespace) -> int | None:
  if options.list:
    list_tasks()
    return None

  from bert_jax.runs import finetuning as runs

  return train_by_flags(options, FLAGS, runs.finetuning_config, runs.finetune_run)


def list_tasks() -> None:
  """One line for each task that is known."""
  from bert_jax.data.labelled.tasks import TASKS

  for name, row in TASKS.items():
    published = f"BERT-base {100 * row.published.value:.1f} ({row.published.split})" if row.published else ""
    show(
      f"{name:<18} {','.join(row.suites):<8} {row.kind:<21} {row.metric:<9} {published:<23} {', '.join(row.train[:2])}"
    )
