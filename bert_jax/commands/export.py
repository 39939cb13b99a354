"""`export`: a run or checkpoint as a folder for PyTorch."""

import argparse

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "write a trained model as a folder for transformers or sentence-transformers"
EXAMPLE = """  python -m bert_jax export --workdir=runs/quickstart --out=my-bert
  python -m bert_jax export --workdir=runs/quickstart --out=my-sbert --format=sentence-transformers"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
    "--workdir", type=expanded, metavar="DIR", help="a run folder; its newest good checkpoint is exported"
  )
  source.add_argument("--checkpoint", type=expanded, metavar="DIR", help="one checkpoint, WORKDIR/checkpoints/STEP")
  source.add_argument("--model", type=expanded, metavar="DIR", help="a Hugging Face BERT folder, to convert it")
  parser.add_argument(
    "--out",
    required=True,
    type=expanded,
    metavar="DIR",
    help="the folder to write; it must not exist, or be an earlier export",
  )
  parser.add_argument(
    "--head",
    choices=("pretraining", "mlm", "encoder", "sequence-classification", "token-classification", "question-answering"),
    help="which heads to write: MLM and NSP, MLM, none, or that of a fine-tuned model (default: what it was trained "
    "with; none for sentence-transformers)",
  )
  parser.add_argument(
    "--format",
    choices=("transformers", "sentence-transformers"),
    help="folder layout (default: sentence-transformers for what sentence-embedding has trained, otherwise "
    "transformers)",
  )
  parser.add_argument(
    "--pooling",
    choices=("cls", "mean", "max"),
    help="with --format=sentence-transformers: how token vectors become one (default: as sentence-embedding trained "
    "it, otherwise mean)",
  )


def run(options: argparse.Namespace) -> None:
  from bert_jax.commands.texts import run_or_model
  from bert_jax.errors import UserError
  from bert_jax.export import export
  from bert_jax.inference import model as inference
  from bert_jax.io import storage

  if options.checkpoint:
    model, workdir = (
      inference.load_checkpoint(options.checkpoint),
      str(storage.folder(options.checkpoint).parent.parent),
    )
  else:
    folder = run_or_model(options.workdir, options.model)
    model = inference.load_model(folder)
    workdir = None if model.step is None else folder
  format = options.format or export.format_of(model)
  if options.pooling and format != "sentence-transformers":
    raise UserError(
      f"--pooling={options.pooling} is stored in folders of sentence-transformers only: add "
      "--format=sentence-transformers"
    )
  head = export.export_model(
    model, options.out, format=format, head=options.head, pooling=options.pooling, workdir=workdir
  )
  show(f"{options.out}: {head} weights of {model.origin}, for {format}")
