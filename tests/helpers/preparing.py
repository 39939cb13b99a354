"""A small text, a vocabulary for it, and `prepare` in this process or in others, for tests of the corpus side."""

import os
import pathlib
import random
import subprocess
import sys

import numpy as np

from bert_jax import config
from bert_jax.data.corpus import prepare

WORDS = [
  "the",
  "a",
  "dog",
  "cat",
  "house",
  "tree",
  "runs",
  "sleeps",
  "sees",
  "finds",
  "old",
  "small",
  "green",
  "never",
  "often",
  "and",
  "then",
]
VOCABULARY = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  *WORDS,
  ".",
  "document",
  *"0123456789",
  *"bcxyz",
  *(f"##{digit}" for digit in "0123456789"),
]
SHAPE = {"seq_length": 32, "max_sequences": 4, "validation_fraction": 0.2, "workers": 1}


def settings(vocab: pathlib.Path | str, **changes) -> prepare.PrepareSettings:
  base = config.default_config().prepare.to_dict() | SHAPE | {"tokenizer": str(vocab)}
  return prepare.PrepareSettings(**(base | changes))


def sentence(rng: random.Random) -> str:
  return " ".join(rng.choices(WORDS, k=rng.randint(3, 12))).capitalize() + "."


def write_documents(path: pathlib.Path, count: int, sentences: int = 20) -> str:
  """Documents of up to so many sentences, whose first line tells their number. Returns the source."""
  rng = random.Random(0)
  lines = lambda: [sentence(rng) for _ in range(rng.randint(1, sentences))]
  documents = [[f"Document {number}.", *lines()] for number in range(count)]
  path.write_text("\n\n".join("\n".join(lines) for lines in documents))
  return f"text:{path}"


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sequences_of(corpus, split):
  """(text of A, text of B, label, document of A, document of B) of every sequence."""
  tokens = [line.strip() for line in open(corpus.folder / "tokenizer/vocab.txt", encoding="utf-8")]
  rows = np.arange(getattr(corpus, split).num_rows)
  data, documents = getattr(corpus, split).gather(rows), getattr(corpus, split).gather_documents(rows)
  for ids, table, sources in zip(data["tokens"], data["sequences"], documents):
    start = 0
    for (length, first, label), (of_a, of_b) in zip(table, sources):
      if length:
        words = [tokens[index] for index in ids[start : start + length]]
        assert words[0] == "[CLS]" and words[first - 1] == words[-1] == "[SEP]"
        yield words[1 : first - 1], words[first:-1], label, of_a, of_b
      start += length


ENVIRONMENT = os.environ | {"PYTHONPATH": str(pathlib.Path(prepare.__file__).parents[3])}
IN_SMALL_CHUNKS = (
  "import sys; from bert_jax.data.corpus import splits; from bert_jax.__main__ import main; "
  "splits.CHUNK_BYTES = 6000; sys.exit(main(['prepare'] + sys.argv[1:]))"
)


def arguments(source: str, out: pathlib.Path | str, vocab: pathlib.Path, *more: str) -> list[str]:
  """The flags of `settings`, with one worker unless `more` says otherwise."""
  shape = (f"--{name}={value}" for name, value in SHAPE.items())
  return [f"--source={source}", f"--out={out}", f"--tokenizer={vocab}", *shape, *more]


def start(options: list[str], code: str = IN_SMALL_CHUNKS, **how) -> subprocess.Popen:
  """`prepare` in small chunks, in a process group of its own. What it prints is in stdout and stderr."""
  return subprocess.Popen(
    [sys.executable, "-c", code, *options],
    env=ENVIRONMENT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
    **how,
  )


def run(options: list[str], code: str = IN_SMALL_CHUNKS, **how) -> tuple[int, str, str]:
  """`start`, waited for: (exit status, stdout, stderr)."""
  process = start(options, code, **how)
  shown = process.communicate(timeout=300)
  return process.returncode, *shown
