"""`prepare`: raw text to a corpus folder."""

import argparse
import contextlib
import sys

HELP = "raw text to a corpus folder: sentences, vocabulary, pairs, packed rows"
EXAMPLE = """  python -m bert_jax prepare --source=docstrings: --out=data/docstrings --vocab_size=8192
  python -m bert_jax prepare --source='wikiextractor:wiki/*.bz2' --out=data/wiki --tokenizer=vocab.txt

sources (repeatable):
  text:GLOB               a blank line between documents
  text+one-per-file:GLOB  one document per file, wrapped lines joined
  wikiextractor:GLOB      <doc …> blocks
  jsonl:GLOB              one JSON object per line, with a field "text"
  docstrings:             the Python documentation installed on this machine
files ending in .gz .bz2 .xz .zst are read as they are"""

# Flags that are config keys `prepare.…`: their defaults, types and meanings stand in bert_jax.config.
_KEYS = (
    "seq_length", "objective", "max_sequences", "validation_fraction", "short_probability", "seed", "workers",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from bert_jax import config as configs

  defaults = configs.default_config().prepare

  def add(target, name: str, **how):
    how.setdefault("type", type(defaults[name]))
    how.setdefault("metavar", name.upper())
    meaning = _help(configs.meaning(f"prepare.{name}"), defaults[name])
    target.add_argument(f"--{name}", default=defaults[name], help=meaning, **how)

  parser.add_argument("--source", required=True, action="append", metavar="SPEC",
                      help="raw text, see below; may be repeated")
  parser.add_argument("--out", required=True, metavar="DIR", help="the corpus folder to make")
  vocabulary = parser.add_mutually_exclusive_group()
  add(vocabulary, "tokenizer", metavar="DIR_OR_VOCAB")
  add(vocabulary, "vocab_size", metavar="N")
  parser.add_argument("--cased", dest="lowercase", action="store_false", default=defaults.lowercase,
                      help=f"keep capitals and accents (default: {configs.meaning('prepare.lowercase')})")
  for name in _KEYS:
    if name == "objective":
      add(parser, name, choices=configs.CHOICES["prepare.objective"], metavar=None)
    else:
      add(parser, name, metavar="N")
  parser.add_argument("--skip_bad", action="store_true", default=defaults.skip_bad,
                      help=configs.meaning("prepare.skip_bad"))
  parser.add_argument("--overwrite", action="store_true",
                      help="replace a finished corpus, once the new one is complete")


def _help(meaning: str, default) -> str:
  return (meaning + (f" (default: {default})" if default != "" else "")).replace("%", "%%")


def run(options: argparse.Namespace) -> None:
  from bert_jax.data.prepare import PrepareSettings, prepare_corpus
  from bert_jax.tools.inspect import summary

  settings = PrepareSettings(**{name: getattr(options, name) for name in PrepareSettings._fields})
  with progress_bar() as progress:
    manifest = prepare_corpus(
        options.source, options.out, settings, overwrite=options.overwrite, progress=progress)
  print(summary(options.out, manifest))
  print(f"\nread rows:  python -m bert_jax inspect --corpus={options.out}")


@contextlib.contextmanager
def progress_bar():
  """A `progress` for `prepare_corpus` that shows megabytes read and megabytes a second."""
  import tqdm

  bars: dict[str, tqdm.tqdm] = {}

  def progress(phase: str, num_bytes: int):
    if phase not in bars:
      for bar in bars.values():
        bar.close()
      seconds = 0.5 if sys.stderr.isatty() else 30  # a log file needs no second-by-second account
      bars[phase] = tqdm.tqdm(desc=f"{phase:<10}", unit="B", unit_scale=True, file=sys.stderr,
                              mininterval=seconds, bar_format="{desc} {n_fmt}  {rate_fmt}  {elapsed}")
    bars[phase].update(num_bytes)

  try:
    yield progress
  finally:
    for bar in bars.values():
      bar.close()
