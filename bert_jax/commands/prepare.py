"""`prepare`: raw text to a corpus folder."""

import argparse
import contextlib
import sys

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "raw text to a corpus folder: sentences, vocabulary, pairs, packed rows"
EXAMPLE = """  python -m bert_jax prepare --source=docstrings: --out=data/docstrings --vocab_size=8192
  python -m bert_jax prepare --source='wikiextractor:wiki/*.bz2' --out=data/wiki --tokenizer=vocab.txt
  python -m bert_jax prepare … --shard=3/100                     one job of an array; the last one finishes
  python -m bert_jax prepare … --runner=beam -- --runner=DataflowRunner --project=…     Beam's own options last

Text is tokenized once: another --objective, --seq_length or --seed reuses the tokenized documents that
the first preparation left beside --out. A preparation that was stopped resumes where it stopped.

sources (repeatable):
  text:GLOB               a blank line between documents
  text+one-per-file:GLOB  one document per file, wrapped lines joined
  wikiextractor:GLOB      <doc …> blocks
  jsonl:GLOB              one JSON object per line, the text in --text_field
  parquet:GLOB            one document per row, the text in the column --text_field
  tfds:NAME[/CONFIG][:SPLIT]  a TensorFlow Datasets corpus, the text in the feature --text_field
  docstrings:             the Python documentation installed on this machine
files ending in .gz .bz2 .xz .zst are read as they are"""

# Flags that are config keys `prepare.…`: their defaults, types and meanings stand in bert_jax.config.
_KEYS = (
  "seq_length",
  "objective",
  "max_sequences",
  "validation_fraction",
  "short_probability",
  "seed",
  "workers",
  "text_field",
  "min_characters",
  "word_segmenter",
)
_SWITCHES = ("deduplicate", "skip_bad")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from bert_jax import config as configs

  defaults = configs.default_config().prepare

  def add(target, name: str, **how):
    how.setdefault("type", type(defaults[name]))
    how.setdefault("metavar", name.upper())
    meaning = _help(configs.meaning(f"prepare.{name}"), defaults[name])
    target.add_argument(f"--{name}", default=defaults[name], help=meaning, **how)

  parser.add_argument(
    "--source",
    required=True,
    action="append",
    type=expanded,
    metavar="SPEC",
    help="raw text, see below; may be repeated",
  )
  parser.add_argument("--out", required=True, type=expanded, metavar="DIR", help="the corpus folder to make")
  vocabulary = parser.add_mutually_exclusive_group()
  add(vocabulary, "tokenizer", type=expanded, metavar="DIR_OR_VOCAB")
  add(vocabulary, "vocab_size", metavar="N")
  parser.add_argument(
    "--cased",
    dest="lowercase",
    action="store_false",
    default=defaults.lowercase,
    help="keep capitals; by default texts are lowercased, as in BERT uncased",
  )
  accents = parser.add_mutually_exclusive_group()
  accents.add_argument(
    "--strip_accents",
    action="store_true",
    default=defaults.strip_accents,
    help="strip accents and other marks; by default so where texts are lowercased, unless the vocabulary that is given "
    "holds marks, or more than one word in a hundred of the text does",
  )
  accents.add_argument(
    "--keep_accents", dest="strip_accents", action="store_false", default=defaults.strip_accents, help="keep them"
  )
  for name in _KEYS:
    choices = configs.KEYS[f"prepare.{name}"].options
    if choices:
      add(parser, name, choices=choices, metavar=None)
    else:
      add(parser, name, metavar="NAME" if name == "text_field" else "N")
  for name in _SWITCHES:
    parser.add_argument(
      f"--{name}", action="store_true", default=defaults[name], help=configs.meaning(f"prepare.{name}")
    )
  parser.add_argument(
    "--documents",
    default="",
    type=expanded,
    metavar="DIR",
    help="folder for tokenized documents (default: a folder beside --out)",
  )
  where = parser.add_mutually_exclusive_group()
  where.add_argument(
    "--shard", type=_share, default=(0, 1), metavar="I/N", help="make every N-th shard, from shard I on"
  )
  where.add_argument(
    "--runner",
    choices=("local", "beam"),
    default="local",
    help="beam: --workers shares as an Apache Beam pipeline; all its machines must see the same folders",
  )
  parser.add_argument(
    "beam_options", nargs="*", metavar="-- BEAM_OPTION", help="options of Beam itself, for --runner=beam"
  )
  parser.add_argument("--overwrite", action="store_true", help="replace a finished corpus once the new one is complete")


def _share(text: str) -> tuple[int, int]:
  index, _, count = text.partition("/")
  if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
    raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, as in 0/3, found {text!r}")
  return int(index), int(count)


def _help(meaning: str, default) -> str:
  return (meaning + (f" (default: {default})" if default != "" else "")).replace("%", "%%")


def run(options: argparse.Namespace) -> None:
  from bert_jax.data.corpus import suitability
  from bert_jax.data.corpus.prepare import PrepareSettings, Share, prepare_corpus
  from bert_jax.errors import UserError
  from bert_jax.tools.explore.corpus import corpus_summary

  run_shares = None
  if options.runner == "beam":
    from bert_jax.data.corpus.beam import beam_runner

    run_shares = beam_runner(options.beam_options)
  elif options.beam_options:
    raise UserError(
      f"unexpected arguments {' '.join(options.beam_options)}: only --runner=beam takes options of its own"
    )
  settings = PrepareSettings(**{name: getattr(options, name) for name in PrepareSettings._fields})
  with progress_bar() as progress:
    manifest = prepare_corpus(
      options.source,
      options.out,
      settings,
      overwrite=options.overwrite,
      documents=options.documents,
      share=Share(*options.shard),
      run_shares=run_shares,
      progress=progress,
      log=show,
    )
  if manifest is None:
    return
  show(corpus_summary(options.out, manifest))
  for finding in suitability.findings(manifest):
    show(f"\nWARNING: {finding}")
  show(f"\nread rows:  python -m bert_jax inspect --corpus={options.out}")


@contextlib.contextmanager
def progress_bar():
  """A `progress` for `prepare_corpus` that shows megabytes of text, megabytes a second, and the time left."""
  import tqdm

  bars: dict[str, tqdm.tqdm] = {}

  def progress(phase: str, num_bytes: int, total: int | None):
    if phase not in bars:
      for bar in bars.values():
        bar.close()
      seconds = 0.5 if sys.stderr.isatty() else 30  # a log file needs no second-by-second account
      bars[phase] = tqdm.tqdm(
        desc=f"{phase:<10}", unit="B", unit_scale=True, file=sys.stderr, mininterval=seconds, bar_format="{desc}"
      )
    bar = bars[phase]
    bar.total = total and max(total, bar.n + num_bytes)  # an estimate, while the text is still being read
    known = "{percentage:3.0f}%  {n_fmt} of {total_fmt}  {rate_fmt}  {elapsed}, {remaining} left"
    bar.bar_format = "{desc} " + (known if total else "{n_fmt}  {rate_fmt}  {elapsed}")
    bar.update(num_bytes)

  try:
    yield progress
  finally:
    for bar in bars.values():
      bar.close()
