"""`sentence-embedding`: trains a pretrained model to give texts vectors whose cosine means similarity; resumes by
itself.
"""

import argparse

from bert_jax.commands.key_flags import add_key_flags, train_by_flags
from bert_jax.errors import show

HELP = "train a pretrained BERT to give similar texts similar vectors, for sentence-transformers"
EXAMPLE = """  python -m bert_jax sentence-embedding --model=runs/base --objective=simcse --data=lines.txt \\
    --dev=stsb-en-dev.csv --workdir=runs/simcse
  python -m bert_jax sentence-embedding --model=runs/base --objective=cosine --task=stsb --data=stsb --workdir=runs/stsb
  python -m bert_jax sentence-embedding --model=runs/base --objective=in-batch --data=faq.csv --text=question \\
    --text_pair=answer --workdir=runs/faq"""

# Flags for the keys that nearly every run sets; --config.KEY=VALUE sets any other.
FLAGS = {
  "model": "init_from",
  "objective": "embedding.objective",
  "task": "tuning.task",
  "data": "tuning.data",
  "dev": "tuning.dev",
  "text": "tuning.text",
  "text_pair": "tuning.text_pair",
  "negative": "embedding.negative",
  "label": "tuning.label",
  "pooling": "tuning.pooling",
  "normalize": "embedding.normalize",
  "epochs": "tuning.epochs",
  "max_length": "tuning.max_length",
  "learning_rate": "optimizer.learning_rate",
  "batch_size": "data.batch_size",
  "seed": "seed",
}
MEANINGS = {
  "data": "file of texts: CSV, TSV, JSON lines, or for simcse plain text, one per line; with --task the folder of its "
  "files",
  "dev": "pairs of texts with a score, on which the model is evaluated: Spearman of the cosine",
  "pooling": "mean, cls, max, pooler",
}
GROUPS = (
  "embedding.",
  "tuning.warmup_share",
  "tuning.evaluations",
  "tuning.patience",
  "tuning.metric",
  "optimizer.",
  "export.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add_key_flags(parser, FLAGS, GROUPS, MEANINGS)


def run(options: argparse.Namespace) -> int:
  from bert_jax.runs import sentence_embedding as runs

  def finished(config) -> None:
    if config.export.format:
      show(f"{options.workdir}/export: that checkpoint, for {config.export.format}")

  return train_by_flags(options, FLAGS, runs.sentence_embedding_config, runs.sentence_embedding_run, finished)
