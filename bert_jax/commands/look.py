"""`look`: what a model thinks at [MASK], layer by layer."""

import argparse
import json

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "what every layer would predict at [MASK], how its confidence grows, and which tokens matter"
EXAMPLE = """  python -m bert_jax look --model=runs/quickstart "returns the [MASK] of the array." --html=look.html"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--model", required=True, type=expanded, metavar="DIR", help="a run folder or a Hugging Face BERT folder"
  )
  parser.add_argument("text", nargs="+", help="text with [MASK]")
  parser.add_argument("--top_k", type=int, default=3, metavar="K", help="tokens shown per layer (default: %(default)s)")
  parser.add_argument("--html", type=expanded, metavar="FILE.html", help="also write a self-contained HTML page")
  parser.add_argument("--json", action="store_true", help="print one JSON object per text instead of text")


def run(options: argparse.Namespace) -> None:
  from bert_jax.commands.processes import start_jax
  from bert_jax.commands.texts import note_unknown_words, write_for_user
  from bert_jax.errors import UserError
  from bert_jax.inference import model as inference
  from bert_jax.tools.explore import logit_lens, logit_lens_page

  if options.top_k < 1:
    raise UserError(f"--top_k={options.top_k}: at least one token per layer")
  start_jax()
  model = inference.load_model(options.model)
  found = [logit_lens.logit_lens(model, text, options.top_k) for text in options.text]
  note_unknown_words(model, options.text)
  if options.html:
    write_for_user(
      "--html", options.html, logit_lens_page.logit_lens_page(found, options.model, model.config.vocab_size)
    )
  if options.json:
    show("\n".join(json.dumps(logit_lens_json(one), ensure_ascii=False) for one in found))
    return
  show("\n\n".join(map(logit_lens_page.lines, found)), logit_lens_page.logit_lens_legend(), sep="\n\n")
  if options.html:
    show(f"\npage: {options.html}")


def logit_lens_json(found) -> dict:
  """A Look in plain values; NaN becomes null."""
  numbers = lambda array: [None if value != value else round(float(value), 6) for value in array]
  return {
    "text": found.text,
    "tokens": found.tokens,
    "masks": [
      {
        "place": mask.place,
        "word": mask.word,
        "left_out": numbers(mask.left_out),
        "rollout": numbers(mask.rollout),
        "layers": [
          layer._asdict() | {"completions": [c._asdict() for c in layer.completions]} for layer in mask.layers
        ],
      }
      for mask in found.masks
    ],
  }
