"""`fill-mask`: what a model would write at [MASK]."""

import argparse
import json

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "the most likely tokens at each [MASK] of a text"
EXAMPLE = """  python -m bert_jax fill-mask --model=runs/quickstart "returns the [MASK] of the array." """


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--model", required=True, type=expanded, metavar="DIR", help="a run folder or a Hugging Face BERT folder"
  )
  parser.add_argument("--top_k", type=int, default=5, metavar="K", help="tokens per mask (default: %(default)s)")
  parser.add_argument("--json", action="store_true", help="print one JSON object per text instead of text")
  parser.add_argument("text", nargs="+", help="text with [MASK]")


def run(options: argparse.Namespace) -> None:
  from bert_jax.commands.processes import start_jax
  from bert_jax.commands.texts import note_unknown_words
  from bert_jax.errors import UserError
  from bert_jax.inference import model as inference

  if options.top_k < 1:
    raise UserError(f"--top_k={options.top_k}: at least one token per mask")
  start_jax()
  model = inference.load_model(options.model)
  for text in options.text:
    masks = inference.fill_mask(model, text, options.top_k)
    note_unknown_words(model, [text])
    if options.json:
      show(json.dumps({"text": text, "masks": [[c._asdict() for c in mask] for mask in masks]}, ensure_ascii=False))
      continue
    show(text)
    for number, mask in enumerate(masks, 1):
      listed = "  ".join(f"{c.token} {c.probability:.1%}" for c in mask)
      show(f"  [MASK]{f' {number}' if len(masks) > 1 else ''}: {listed}")
