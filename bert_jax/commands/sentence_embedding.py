"""`sentence-embedding`: trains a pretrained model to give texts vectors whose cosine means similarity; resumes by itself."""

import argparse

from bert_jax.commands import add_cluster_arguments, start_cluster, trained

HELP = "train a pretrained BERT to give similar texts similar vectors, for sentence-transformers"
EXAMPLE = """  python -m bert_jax sentence-embedding --model=runs/base --objective=simcse --data=lines.txt --dev=stsb-en-dev.csv --workdir=runs/simcse
  python -m bert_jax sentence-embedding --model=runs/base --objective=cosine --task=stsb --data=stsb --workdir=runs/stsb
  python -m bert_jax sentence-embedding --model=runs/base --objective=in-batch --data=faq.csv --text=question --text_pair=answer --workdir=runs/faq"""

# Flags for the keys that nearly every run sets; --config.KEY=VALUE sets any other.
FLAGS = {
    "model": "init_from", "objective": "embedding.objective", "task": "finetune.task", "data": "finetune.data", "dev": "finetune.dev",
    "text": "finetune.text", "text_pair": "finetune.text_pair", "negative": "embedding.negative", "label": "finetune.label",
    "pooling": "finetune.pooling", "normalize": "embedding.normalize", "epochs": "finetune.epochs", "max_length": "finetune.max_length",
    "learning_rate": "optimizer.learning_rate", "batch_size": "data.batch_size", "seed": "seed",
}  # fmt: skip
MEANINGS = {
    "data": "file of texts: CSV, TSV, JSON lines, or for simcse plain text, one per line; with --task the folder of its files",
    "dev": "pairs of texts with a score, by which the model is judged: Spearman of the cosine", "pooling": "mean, cls, max, pooler",
}  # fmt: skip
GROUPS = ("embedding.", "finetune.warmup_share", "finetune.evaluations", "finetune.patience", "finetune.metric", "optimizer.", "export.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from bert_jax import config as configs

  for flag, key in FLAGS.items():
    parser.add_argument(f"--{flag}", metavar="VALUE", help=MEANINGS.get(flag, configs.meaning(key)))
  parser.add_argument("--workdir", metavar="DIR", help="the run folder: checkpoints, metrics, result.json, export")
  add_cluster_arguments(parser)
  parser.set_defaults(keys_without_file=True)
  keys = "\n".join(f"  {key:<38} {configs.meaning(key)}" for key in configs.KEYS if key.startswith(GROUPS))
  parser.epilog += f"\n\nconfig keys that matter here, each set by --config.KEY=VALUE:\n{keys}"


def run(options: argparse.Namespace) -> int | None:
  from bert_jax import run_sentence_embedding as runs
  from bert_jax.commands.finetune import print_result
  from bert_jax.errors import UserError
  from bert_jax.resolve import read_result

  if not options.workdir:
    raise UserError("--workdir is missing: the folder that checkpoints and results are written to")
  given = [f"{key}={getattr(options, flag)}" for flag, key in FLAGS.items() if getattr(options, flag) is not None]
  config = runs.sentence_embedding_config([*given, *options.overrides])
  cluster = start_cluster(config, options)
  metrics, code = trained(cluster, lambda: runs.sentence_embedding_run(config, options.workdir, cluster=cluster))
  if metrics is None:
    return code
  if cluster.process_id == 0:
    print_result(options.workdir, read_result(options.workdir))
    if config.export.format:
      print(f"{options.workdir}/export: the best checkpoint, for {config.export.format}")
  return 0
