"""A corpus as people read it: its summary, and its rows as text.

`prepare` ends with `corpus_summary`, and `inspect` begins with it. What a row shows is
read back from the folder, so it is what training will see.
"""

import os
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.corpus import folder as corpus_lib
from bert_jax.data.tokenizer.wordpiece import Tokenizer, split_mark
from bert_jax.errors import UserError

LABELS = {
  "nsp": {0: "0: B follows A", 1: "1: B is random"},
  "sop": {0: "0: in order", 1: "1: swapped, A stood behind B"},
}
WORD_BOUNDARY = "·"  # between words that are written without a space
_CLOSING = frozenset(",.:;!?%)]}”’»…，。、；：！？）」』》】〉")
_OPENING = frozenset("([{“‘«（「『《【〈")
# Marks that join two words, and which: (left, right) -> bool.
_ENDINGS = frozenset(["s", "t", "d", "m", "ll", "re", "ve"])
_INSIDE = {
  "-": lambda left, right: left.isalnum() and right.isalnum(),
  ".": lambda left, right: left.isdigit() and right.isdigit(),
  ":": lambda left, right: left.isdigit() and right.isdigit(),
  "'": lambda left, right: left.isalpha() and right in _ENDINGS,
}
_BAR = 24  # characters of the longest bar of the histogram


class Mark(NamedTuple):
  """What masking does to a token: the model has to predict it, and sees `seen` in its place."""

  seen: str


def corpus_summary(folder: str | os.PathLike, manifest: dict[str, Any]) -> str:
  """What a person judges a corpus by, as aligned lines."""
  splits = manifest["splits"]
  provenance = manifest[corpus_lib.PROVENANCE]
  # Said where it does not follow from casing, as in BERT.
  marks = {None: "", False: ", accents kept", True: ", accents stripped"}[manifest.get("strip_accents")]
  lines = [
    ("corpus", str(folder)),
    ("corpus_id", manifest["corpus_id"]),
    ("made from", f"{', '.join(provenance['sources'])}  ({provenance['created']})"),
    ("skipped", _skipped(provenance["read"])),
    (
      "rows",
      f"{manifest['seq_length']} tokens, at most {manifest['max_sequences']} sequences; "
      f"objective {manifest['objective']}",
    ),
    ("vocabulary", f"{manifest['vocab_size']:,} entries, {'lowercase' if manifest['lowercase'] else 'cased'}{marks}"),
  ]
  head = [f"{name:<20}{value}" for name, value in lines if value]
  table = [("", *corpus_lib.SPLITS)]
  row = lambda name, show: table.append((name, *(show(splits[split]) for split in corpus_lib.SPLITS)))
  for name in ("documents", "sentences", "tokens", "sequences", "rows"):
    row(name, lambda one: f"{one['counts'][name]:,}")
  row("tokens in rows", lambda one: f"{one['counts']['row_tokens']:,}")
  if unused := provenance.get("unused_tokens"):
    table.append(("tokens in no row", f"{unused['train']:,}", f"{unused['validation']:,}"))
  row("packing efficiency", lambda one: f"{one['counts']['packing_efficiency']:.1%}")
  row("tokens per word", lambda one: f"{one['tokens_per_word']:.3f}")
  row("unknown tokens", lambda one: f"{one['unknown_rate']:.3%}")
  row("unigram entropy", lambda one: f"{one['unigram_entropy']:.3f} nats")
  if manifest["objective"] in LABELS:
    row(
      {"nsp": "B follows A", "sop": "in order"}[manifest["objective"]],
      lambda one: f"{one['label_counts'][0] / max(sum(one['label_counts']), 1):.1%}",
    )
    row("majority label", lambda one: f"{one['majority_label_share']:.1%}")
  body = [f"{name:<20}{left:>16}{right:>16}" for name, left, right in table]
  return "\n".join([*head, "", *body, "", *_lengths(splits["train"]), "", *_frequent(splits["train"])])


def _skipped(read: dict[str, int]) -> str:
  """What reading left out, from the source's counts; empty where there was nothing."""
  left_out = sorted(read.keys() - {"documents", "bytes", "files"})
  return ", ".join(f"{read[name]:,} {name.replace('_', ' ')}" for name in left_out if read[name])


def _lengths(train: dict[str, Any]) -> list[str]:
  counts = train["length_counts"]
  most, total = max(counts.values()) or 1, sum(counts.values()) or 1
  bar = lambda count: "█" * round(_BAR * count / most)
  return ["sequences by length in tokens (train)"] + [
    f"{span:>12}  {bar(count):<{_BAR}}{count / total:>7.1%}" for span, count in counts.items()
  ]


def _frequent(train: dict[str, Any]) -> list[str]:
  total = max(train["counts"]["row_tokens"], 1)
  return [
    "most frequent tokens (train)",
    "  " + "  ".join(f"{token} {count / total:.1%}" for token, count in train["frequent_tokens"]),
  ]


def show_row(
  corpus: corpus_lib.Corpus, tokenizer: Tokenizer, split: str, row: int, marks: dict[int, Mark] | None = None
) -> str:
  """One row as text.

  Args:
    corpus: an opened corpus.
    tokenizer: its tokenizer.
    split: "train" or "validation".
    row: which one.
    marks: position in the row -> what masking does there.

  Raises:
    UserError: the split has no such row.
  """
  rows: corpus_lib.Split = getattr(corpus, split)
  if not 0 <= row < rows.num_rows:
    raise UserError(f"row {row}: expected 0 to {rows.num_rows - 1:,}, the rows of the {split} split")
  data, sources = rows.gather(np.array([row])), rows.gather_documents(np.array([row]))[0]
  origins, files = rows.origins(row), corpus_lib.read_files(corpus.folder)
  starts = _word_starts(data) if rows.has_word_starts else None
  ids = data["tokens"][0].tolist()
  filled = [(place, entry) for place, entry in enumerate(data["sequences"][0].tolist()) if entry[0]]
  used = sum(length for _, (length, _, _) in filled)
  lines = [
    f"row {row:,} of {split}: {len(filled)} sequence{'s' * (len(filled) != 1)}, {used} tokens, "
    f"{len(ids) - used} of padding"
  ]
  start = 0
  for place, (length, first_length, label) in filled:
    lines.append(f"  {place + 1}. {length} tokens{_label(corpus.manifest['objective'], label)}")
    for name, part, number in zip("AB", tokenizer.template.texts(length, first_length), sources[place].tolist()):
      if part.start < part.stop or name == "A":
        own = slice(start + part.start, start + part.stop)
        own_marks = {at - own.start: mark for at, mark in (marks or {}).items() if own.start <= at < own.stop}
        text = readable(list(map(tokenizer.token, ids[own])), own_marks, starts and starts[own])
        lines.append(f"     {name}, {_origin(number, origins, files)}: {text}")
    start += length
  return "\n".join(lines)


def _origin(number: int, origins: dict[int, tuple[int, int]], files: list[str]) -> str:
  """document 17 (books/emma.txt:1234)"""
  file, position = origins[number]
  if file >= len(files):  # of a corpus made before its manifest had a digest of that file
    raise UserError(
      f"files.txt of this corpus names {len(files):,} files, and document {number} is of number {file + 1}"
    )
  return f"document {number} ({files[file]}:{position})"


def _word_starts(data: dict[str, np.ndarray]) -> list[bool]:
  """Of the one row that was gathered."""
  return np.unpackbits(data["word_starts"][0], bitorder="little").astype(bool).tolist()


def _label(objective: str, label: int) -> str:
  return f", label {LABELS[objective][label]}" if objective in LABELS else ""


def readable(
  tokens: Sequence[str], marks: dict[int, Mark] | None = None, word_starts: Sequence[bool] | None = None
) -> str:
  """Tokens as text: pieces joined to words, no spaces inside Chinese, punctuation where people put it.

    ["un", "##like", "me", ",", "你", "好"] -> "unlike me, 你好"

  For reading only: the spaces of the original are not known any more.

  Args:
    tokens: WordPiece tokens.
    marks: index -> what masking does to that token; shown as ⟦token→what the model sees⟧.
    word_starts: where words begin, should the corpus know more than the vocabulary: "你好·世界".
  """
  marks = marks or {}
  plain = [split_mark(token)[0] for token in tokens]
  text = ""
  for index, token in enumerate(plain):
    if text and token == tokens[index] and _space_before(plain, index):
      text += " "
    elif (
      text
      and word_starts is not None
      and word_starts[index]
      and token[0] not in _CLOSING
      and plain[index - 1] not in _OPENING
    ):
      text += WORD_BOUNDARY if _is_wide(token[0]) or _is_wide(plain[index - 1][-1:]) else ""
    text += f"⟦{token}→{marks[index].seen}⟧" if index in marks else token
  return text


def _space_before(words: Sequence[str], index: int) -> bool:
  left, right = words[index - 1], words[index]
  if right in _CLOSING or left in _OPENING or (_is_wide(left[-1:]) and _is_wide(right[:1])):
    return False
  # Inside "best-selling", "3.5", "23:40", "it's": the mark itself, then what follows it.
  if right in _INSIDE and index + 1 < len(words):
    return not _INSIDE[right](left, words[index + 1])
  if left in _INSIDE and index >= 2:
    return not _INSIDE[left](words[index - 2], right)
  return True


def _is_wide(character: str) -> bool:
  """Chinese characters and full-width punctuation."""
  return bool(character) and unicodedata.east_asian_width(character) in "WF"


def draw_marks(
  corpus: corpus_lib.Corpus,
  tokenizer: Tokenizer,
  split: str,
  rows: Sequence[int],
  *,
  masking: Any,
  seed: int,
  epoch: int,
) -> list[dict[int, Mark]]:
  """The masks that a training run with this seed draws for these rows in this epoch.

  Args:
    corpus, tokenizer, split: as in `show_row`.
    rows: which ones.
    masking: the group `masking` of a config.
    seed: the run's.
    epoch: which pass over the corpus.
  """
  import jax  # imported here because reading a corpus needs no JAX, and it takes a second

  from bert_jax import batch as batch_lib
  from bert_jax.objectives import masking as masking_lib

  data = getattr(corpus, split).gather(np.asarray(rows, np.int64))
  inputs = batch_lib.model_inputs(jax.numpy.asarray(data["tokens"]), jax.numpy.asarray(data["sequences"]))
  keys = batch_lib.row_keys(seed, np.full(len(rows), epoch, np.uint32), np.asarray(rows, np.uint32))
  continuation = ~tokenizer.word_starts_table
  word_starts = batch_lib.word_starts({name: jax.numpy.asarray(array) for name, array in data.items()}, continuation)
  settings = masking_lib.settings_of(masking)
  if not settings.max_predictions:
    settings = settings._replace(
      max_predictions=masking_lib.default_max_predictions(settings.highest_rate, corpus.manifest["seq_length"])
    )
  masked = masking_lib.mask_tokens(
    keys,
    inputs,
    settings,
    mask_id=tokenizer.special.mask,
    never_predicted=tokenizer.template.never_predicted,
    vocab_size=tokenizer.vocab_size,
    word_starts=word_starts,
  )
  input_ids, positions, _, weights = map(np.asarray, masked)
  seen = lambda row, at: Mark(tokenizer.token(int(input_ids[row, at])))
  return [
    {int(at): seen(row, at) for at, weight in zip(positions[row], weights[row]) if weight} for row in range(len(rows))
  ]
