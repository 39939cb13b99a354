"""`inspect`: rows of a corpus in readable form."""

import argparse

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "show what a corpus holds: statistics, and rows as text with sentence A, sentence B and label"
EXAMPLE = """  python -m bert_jax inspect --corpus=data/wiki
  python -m bert_jax inspect --corpus=data/wiki --split=validation --row=17 --masks"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from bert_jax.data.corpus.folder import SPLITS

  parser.add_argument("--corpus", required=True, type=expanded, metavar="DIR", help="the corpus folder")
  parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="default: %(default)s")
  parser.add_argument("--row", type=int, action="append", metavar="N", help="show only this row; may be repeated")
  parser.add_argument(
    "--rows",
    type=int,
    default=3,
    metavar="N",
    help="without --row: how many, spread over the split (default: %(default)s)",
  )
  parser.add_argument(
    "--masks", action="store_true", help="also show what training predicts: ⟦token→what the model sees in its place⟧"
  )
  parser.add_argument(
    "--epoch", type=int, default=0, metavar="N", help="with --masks: which pass over the corpus (default: %(default)s)"
  )
  parser.add_argument(
    "--config",
    type=expanded,
    metavar="FILE.py[:variant]",
    help="with --masks: whose masking and seed are meant (default: the defaults)",
  )


def run(options: argparse.Namespace) -> None:
  from bert_jax.data.corpus.folder import open_corpus, tokenizer_of
  from bert_jax.errors import UserError
  from bert_jax.tools.explore import corpus as inspect

  if not 0 <= options.epoch < 2**32:
    raise UserError(f"--epoch={options.epoch}: passes over the corpus are counted from 0")
  corpus = open_corpus(options.corpus, verify=False)
  tokenizer = tokenizer_of(corpus)
  available = getattr(corpus, options.split).num_rows
  wanted = min(max(options.rows, 0), available)
  rows = options.row if options.row else [place * available // wanted for place in range(wanted)]
  shown = [inspect.show_row(corpus, tokenizer, options.split, row) for row in rows]
  if options.masks and rows:
    marks = _marks(options, corpus, tokenizer, rows)
    shown = [inspect.show_row(corpus, tokenizer, options.split, row, own) for row, own in zip(rows, marks)]
  if not options.row:
    shown.insert(0, inspect.corpus_summary(options.corpus, corpus.manifest))
  show("\n\n".join(shown))


def _marks(options: argparse.Namespace, corpus, tokenizer, rows: list[int]):
  from bert_jax import config as configs
  from bert_jax.tools.explore import corpus as inspect

  config = configs.load_config(options.config, options.overrides) if options.config else configs.default_config()
  return inspect.draw_marks(
    corpus, tokenizer, options.split, rows, masking=config.masking, seed=config.seed, epoch=options.epoch
  )
