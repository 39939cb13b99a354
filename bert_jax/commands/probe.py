"""`probe`: which layer and which pooling of a model says how alike texts are."""

import argparse
import json

HELP = "which layer and pooling tells how alike texts are: Spearman of the cosine on scored pairs, as a table and a heat map"
EXAMPLE = """  python -m bert_jax probe --model=runs/base --pairs=stsb-en-dev.csv --out=probe.svg
  python -m bert_jax probe --model=my-bert --pairs=pairs.jsonl --text=a --text_pair=b --score=alike"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--model", required=True, metavar="DIR", help="a run folder or a Hugging Face BERT folder")
  parser.add_argument("--pairs", required=True, metavar="FILE", help="a table of pairs with scores: .csv, .tsv, .json or .jsonl")
  parser.add_argument("--text", default="", metavar="COLUMN", help="column of the first text (default: the first column)")
  parser.add_argument("--text_pair", default="", metavar="COLUMN", help="column of the second text (default: the second column)")
  parser.add_argument("--score", default="", metavar="COLUMN", help="column of the score (default: the third column)")
  parser.add_argument("--out", metavar="FILE.svg", help="a heat map")
  parser.add_argument("--json", action="store_true", help="one JSON object instead of lines for people")


def run(options: argparse.Namespace) -> None:
  from bert_jax import inference
  from bert_jax.commands import start_jax, write_for_user
  from bert_jax.errors import UserError
  from bert_jax.tools import probe

  if options.out and not options.out.endswith(".svg"):
    raise UserError(f"--out={options.out}: expected a file name ending in .svg")
  pairs = probe.read_pairs(options.pairs, options.text, options.text_pair, options.score)
  start_jax()
  found = probe.probe(inference.load_model(options.model), pairs)
  if options.out:
    write_for_user("--out", options.out, probe.heat_map(found, options.model, options.pairs))
  if options.json:
    rows = {pooling: [None if value != value else round(value, 6) for value in row] for pooling, row in found.spearman.items()}
    print(json.dumps({"spearman": rows, "best": found.best, "pairs": found.pairs, "truncated": found.truncated}))
    return
  print(f"{probe.table(found)}\n\n{probe.verdict(found)}")
  if found.truncated:
    print(f"{found.truncated:,} of {2 * found.pairs:,} texts were longer than the model and lost their end")
  if options.out:
    print(f"heat map: {options.out}")
