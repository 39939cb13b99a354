"""`probe`: which layer and which pooling of a model says how alike texts are."""

import argparse
import json
import sys

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = (
  "which layer and pooling measures similarity best: Spearman of the cosine on scored pairs, as a table and a heat map"
)
EXAMPLE = """  python -m bert_jax probe --model=runs/base --pairs=stsb-en-dev.csv --out=probe.svg
  python -m bert_jax probe --model=my-bert --pairs=pairs.jsonl --text=a --text_pair=b --score=alike"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--model", required=True, type=expanded, metavar="DIR", help="a run folder or a Hugging Face BERT folder"
  )
  parser.add_argument(
    "--pairs",
    required=True,
    type=expanded,
    metavar="FILE",
    help="a table of pairs with scores: .csv, .tsv, .json or .jsonl",
  )
  parser.add_argument(
    "--text",
    default="",
    metavar="COLUMN",
    help="column of the first text (default: sentence1, or else the first column)",
  )
  parser.add_argument(
    "--text_pair",
    default="",
    metavar="COLUMN",
    help="column of the second text (default: sentence2, or else the second column)",
  )
  parser.add_argument(
    "--score", default="", metavar="COLUMN", help="column of the score (default: score, or else the third column)"
  )
  parser.add_argument("--out", type=expanded, metavar="FILE.svg", help="a heat map")
  parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(options: argparse.Namespace) -> None:
  from bert_jax.commands.processes import start_jax
  from bert_jax.commands.texts import note_unknown_words, write_for_user
  from bert_jax.errors import UserError
  from bert_jax.inference import model as inference
  from bert_jax.tools.explore import pooling as probe

  if options.out and not options.out.endswith(".svg"):
    raise UserError(f"--out={options.out}: expected a file name ending in .svg")
  pairs = probe.read_pairs(options.pairs, options.text, options.text_pair, options.score)
  start_jax()
  model = inference.load_model(options.model)
  found = probe.compare_poolings(model, pairs)
  notes = list(pairs.notes)
  if found.truncated:
    notes.append(
      f"{found.truncated:,} of {2 * found.pairs:,} texts exceeded the {model.max_length - 2} tokens that the "
      "model takes and were truncated"
    )
  for note in notes:
    show(f"note: {note}", file=sys.stderr)
  note_unknown_words(model, pairs.first[:1000])
  if options.out:
    write_for_user("--out", options.out, probe.heat_map(found, options.model, options.pairs))
  if options.json:
    rows = {
      pooling: [None if value != value else round(value, 6) for value in row] for pooling, row in found.spearman.items()
    }
    show(
      json.dumps(
        {
          "model": options.model,
          "file": options.pairs,
          "pairs": found.pairs,
          "truncated": found.truncated,
          "notes": notes,
          "spearman": rows,
          "best": {"pooling": found.best[0], "layer": found.best[1]},
        }
      )
    )
    return
  show(
    f"Spearman of cosine and score, {found.pairs:,} "
    f"pairs\n\n{probe.cosine_table(found)}\n{probe.NO_VECTOR}\n\n{probe.verdict(found)}"
  )
  if options.out:
    show(f"heat map: {options.out}")
