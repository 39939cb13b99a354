"""`evaluate`: MLM and NSP metrics of a model on a corpus's validation split."""

import argparse
import json

HELP = "MLM loss, perplexity, accuracy and NSP accuracy on a validation split"
EXAMPLE = """  python -m bert_jax evaluate --workdir=runs/quickstart
  python -m bert_jax evaluate --model=my-bert --corpus=data/wiki"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--workdir", metavar="DIR", help="a run folder; evaluates it as its own training does")
  source.add_argument("--model", metavar="DIR", help="a run folder or a Hugging Face BERT folder")
  parser.add_argument("--corpus", metavar="DIR", help="a corpus made with the model's tokenizer (default: the run's own)")
  parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="rows in one call (default: %(default)s)")
  parser.add_argument("--rows", type=int, default=0, metavar="N", help="rows to read; 0: all (default: %(default)s)")
  parser.add_argument("--json", action="store_true", help="one JSON object instead of lines for people")


def run(options: argparse.Namespace) -> None:
  from bert_jax import run_pretraining as runs
  from bert_jax.commands import run_or_model, start_jax
  from bert_jax.errors import UserError

  if options.batch_size < 1:
    raise UserError(f"--batch_size={options.batch_size}: at least one row per call")
  if options.rows < 0:
    raise UserError(f"--rows={options.rows}: a number of rows, or 0 for all")
  folder = run_or_model(options.workdir, options.model)
  start_jax()
  metrics = runs.evaluate_model(folder, options.corpus, batch_size=options.batch_size, rows=options.rows)
  if options.json:
    print(json.dumps(metrics))
    return
  for name, value in metrics.items():
    print(f"eval/{name:<16} {value:,.0f}" if name in ("predictions", "pairs") else f"eval/{name:<16} {value:.4f}")
