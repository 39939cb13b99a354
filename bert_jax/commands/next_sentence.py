"""`next-sentence`: whether B follows A."""

import argparse
import sys

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "the probability that sentence B follows sentence A"
EXAMPLE = (
  """  python -m bert_jax next-sentence --model=runs/quickstart "It opens a file." "It returns a file object." """
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--model", required=True, type=expanded, metavar="DIR", help="a run folder or a Hugging Face BERT folder"
  )
  parser.add_argument("first", metavar="A", help="the first sentence")
  parser.add_argument("second", metavar="B", help="the sentence that may follow it")


def run(options: argparse.Namespace) -> None:
  from bert_jax.commands.processes import start_jax
  from bert_jax.commands.texts import note_unknown_words
  from bert_jax.data.tokenizer.wordpiece import encode_batch
  from bert_jax.inference import model as inference

  start_jax()
  model = inference.load_model(options.model)
  follows = float(inference.next_sentence(model, [(options.first, options.second)])[0])
  show(f"B follows A (label 0): {follows:.3f}")
  show(f"B is random (label 1): {1 - follows:.3f}")
  note_unknown_words(model, [options.first, options.second])
  count = sum(map(len, encode_batch(model.tokenizer, [options.first, options.second])))
  limit = model.max_length - model.tokenizer.template.room(pair=True)
  if count > limit:
    show(
      f"note: the two have {count:,} tokens and the model takes {limit}: the longer one was truncated", file=sys.stderr
    )
