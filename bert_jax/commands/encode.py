"""`encode`: vectors for lines of text."""

import argparse
import json
import pathlib
import sys

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "turn each line of a text file into a vector"
EXAMPLE = """  python -m bert_jax encode --model=runs/quickstart --pooling=mean --input=lines.txt --out=vectors.npy"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--model", required=True, type=expanded, metavar="DIR", help="a run folder or a Hugging Face BERT folder"
  )
  parser.add_argument(
    "--pooling",
    choices=("cls", "pooler", "mean", "max", "tokens"),
    help="cls: the last layer's vector at [CLS]; pooler: that vector through a dense layer and tanh; mean, max: over "
    "all tokens but padding; tokens: one vector per token (default: what the model was trained with by "
    "sentence-embedding, or what a folder of sentence-transformers says, normalisation included; otherwise mean)",
  )
  parser.add_argument("--normalize", action="store_true", help="scale vectors to length 1")
  parser.add_argument(
    "--batch_size", type=int, default=32, metavar="N", help="lines in one call (default: %(default)s)"
  )
  parser.add_argument(
    "--input",
    required=True,
    type=expanded,
    metavar="FILE",
    help="UTF-8 text, one line per vector; - for standard input",
  )
  parser.add_argument(
    "--out",
    required=True,
    type=expanded,
    metavar="FILE.npy",
    help="float32 [lines, hidden]; for tokens [lines, tokens, hidden], and a JSON-lines file of the tokens next to it",
  )


def run(options: argparse.Namespace) -> None:
  import numpy as np

  from bert_jax.commands.processes import start_jax
  from bert_jax.commands.texts import note_unknown_words, read_input_lines
  from bert_jax.errors import UserError
  from bert_jax.inference import model as inference
  from bert_jax.io import atomic

  if options.batch_size < 1:
    raise UserError(f"--batch_size={options.batch_size}: at least one line per call")
  out = pathlib.Path(options.out)
  if out.suffix != ".npy":
    raise UserError(f"--out={out} must end in .npy")
  if out.is_dir():
    raise UserError(f"--out={out} is a folder; name a file in it")
  lines = read_input_lines(options.input)
  start_jax()
  model = inference.load_model(options.model)
  out.parent.mkdir(parents=True, exist_ok=True)
  encoded = inference.encode(model, lines, options.pooling, normalize=options.normalize, batch_size=options.batch_size)
  names = out.with_suffix(".tokens.jsonl")
  try:
    if encoded.tokens is not None:
      atomic.write_text(names, "".join(json.dumps(tokens, ensure_ascii=False) + "\n" for tokens in encoded.tokens))
    with atomic.new_file(out) as file:
      np.save(file, encoded.vectors, allow_pickle=False)
  except OSError as error:
    raise UserError(
      f"cannot write {out}: {error.strerror or error}; choose another --out, or free some space"
    ) from error
  show(f"{out}: float32 {list(encoded.vectors.shape)}, pooling {encoded.pooling}")
  if encoded.tokens is not None:
    show(f"{names}: the tokens of each line")
  if encoded.truncated:
    show(
      f"note: {encoded.truncated:,} of {len(lines):,} lines exceeded the {model.max_length - 2} tokens that the "
      "model takes and were truncated",
      file=sys.stderr,
    )
  note_unknown_words(model, lines[:1000])
