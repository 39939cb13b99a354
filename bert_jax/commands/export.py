"""`export`: a run or checkpoint as a folder for PyTorch."""

import argparse

HELP = "write a trained model as a folder that transformers or sentence-transformers loads"
EXAMPLE = """  python -m bert_jax export --workdir=runs/quickstart --out=my-bert
  python -m bert_jax export --workdir=runs/quickstart --out=my-sbert --format=sentence-transformers"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--workdir", metavar="DIR", help="a run folder; its newest good checkpoint is exported")
  source.add_argument("--checkpoint", metavar="DIR", help="one checkpoint, WORKDIR/checkpoints/STEP")
  source.add_argument("--model", metavar="DIR", help="a Hugging Face BERT folder, to write it in another form")
  parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; it must not exist, or be an earlier export")
  parser.add_argument("--head", choices=("pretraining", "mlm", "encoder", "sequence-classification", "token-classification", "question-answering"),
                      help="which heads to write: MLM and NSP, MLM, none, or that of a fine-tuned model (default: what it was trained with; "
                      "none for sentence-transformers)")  # fmt: skip
  parser.add_argument("--format", default="transformers", choices=("transformers", "sentence-transformers"),
                      help="folder layout (default: %(default)s)")  # fmt: skip
  parser.add_argument("--pooling", choices=("cls", "mean", "max"),
                      help="with --format=sentence-transformers: how token vectors become one (default: as sentence-embedding trained it, otherwise mean)")  # fmt: skip


def run(options: argparse.Namespace) -> None:
  from bert_jax import inference, model_card, storage
  from bert_jax.commands import run_or_model
  from bert_jax.convert import folder
  from bert_jax.errors import UserError

  if options.pooling and options.format != "sentence-transformers":
    raise UserError(f"--pooling={options.pooling} is stored in folders of sentence-transformers only: add --format=sentence-transformers")
  if options.checkpoint:
    model = inference.load_checkpoint(options.checkpoint)
  else:
    model = inference.load_model(run_or_model(options.workdir, options.model))
  trained = folder.head_of(model.labels) if model.labels else ""
  head = options.head or (trained if trained and options.format == "transformers" else folder.DEFAULT_HEAD[options.format])
  _check_trained(model, head, trained)
  trained_pooling = model.encoding.pooling if model.encoding and options.format == "sentence-transformers" else "mean"
  pooling = options.pooling or trained_pooling
  normalize = bool(model.encoding and model.encoding.normalize and pooling == trained_pooling)
  workdir = options.workdir or (str(storage.folder(options.checkpoint).parent.parent) if options.checkpoint else None)
  card = model_card.make_card(model, head=head, format=options.format, workdir=workdir, pooling=pooling)
  folder.write_folder(options.out, model.params, model.config, model.tokenizer_folder, head=head, format=options.format,
                      pooling=pooling, normalize=normalize, labels=model.labels, card=card)  # fmt: skip
  print(f"{options.out}: {head} weights of {model.origin}, for {options.format}")


def _check_trained(model, head: str, trained: str) -> None:
  """Raises UserError for a head for labels that this model was not trained with, or that transformers reads otherwise."""
  from bert_jax.errors import UserError

  if head not in ("pretraining", "mlm", "encoder") and head != trained:
    has = f"it was trained for {trained}" if trained else "it was not fine-tuned; `bert_jax finetune` does that"
    raise UserError(f"--head={head}: {model.origin} has no such head: {has}")
  if head == "sequence-classification" and model.pooling != "pooler":
    raise UserError(f"BertForSequenceClassification reads a text's class from the pooler, this model from {model.pooling}: fine-tune with "
                    "--pooling=pooler to export it, or export the encoder alone, --head=encoder")  # fmt: skip
