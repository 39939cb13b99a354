"""Texts and models that commands are given, and files that they are asked for."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from bert_jax.errors import show

_MAX_LINE_BYTES = 64 * 2**20  # whatever is longer has no lines


def read_input_lines(path: str, remedy: str = "") -> list[str]:
  """The lines of a UTF-8 file, or of standard input for "-"; of a table it is noted that they are, and the remedy.

  Raises UserError naming the file and line.
  """
  from bert_jax.data.labelled.tables import is_table
  from bert_jax.errors import UserError

  lines: list[str] = []
  for number, line in enumerate(_lines_of(path), 1):
    try:
      lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
      raise UserError(
        f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file first, as with "
        "`iconv -f gb18030 -t utf-8 FILE > NEW`"
      ) from error
  if not lines:
    raise UserError(f"--input={path} is empty: expected one text per line")
  if is_table(path):
    show(f"note: every line of {path} is read as one text{f'; {remedy}' if remedy else ''}", file=sys.stderr)
  return lines


def _lines_of(path: str) -> Iterator[bytes]:
  """The lines of a file, of standard input for "-", or of a pipe that the shell has opened, `<(zcat FILE)`."""
  from bert_jax.errors import UserError
  from bert_jax.io.plain_files import open_plain

  try:
    is_open = path == "-" or path.startswith("/dev/fd/")
    with contextlib.ExitStack() as opened:
      if path == "-":
        file = sys.stdin.buffer
      else:
        file = opened.enter_context(open(path, "rb") if is_open else open_plain(path))
      while piece := file.readline(_MAX_LINE_BYTES + 1):
        if len(piece) > _MAX_LINE_BYTES:
          raise UserError(f"--input={path}: a line longer than {_MAX_LINE_BYTES >> 20} MiB; expected one text per line")
        yield from piece.splitlines()
  except OSError as error:
    raise UserError(f"cannot read --input={path}: {error.strerror or error}") from error


def write_for_user(flag: str, path: str, text: str) -> None:
  """Writes a file that somebody asked for by a flag. Raises UserError naming the flag where it cannot be written."""
  from bert_jax.errors import UserError
  from bert_jax.io import storage

  try:
    storage.write_text(path, text)
  except OSError as error:
    raise UserError(
      f"cannot write {flag}={path}: {error.strerror or error}; choose another place, or free some space"
    ) from error


def run_or_model(workdir: str | None, model: str | None) -> str:
  """The folder that --workdir or --model names. Raises UserError for a --workdir without checkpoints."""
  from bert_jax.errors import UserError
  from bert_jax.io import storage

  if workdir and not storage.is_folder(storage.folder(workdir) / "checkpoints"):
    raise UserError(f"--workdir={workdir} is not a run folder with checkpoints; for a Hugging Face folder use --model")
  named = workdir or model
  assert named  # the parser asks for one of them
  return named


def note_cut(model, texts: Sequence[str], pairs: Sequence[str] | None = None) -> None:
  """Says how many texts, or pairs, are longer than the model takes."""
  from bert_jax.inference import pipelines

  cut = pipelines.count_cut(model, texts, pairs)
  if cut:
    show(
      f"note: {cut:,} of {len(texts):,} {'pairs' if pairs else 'texts'} are longer than the {model.max_length} tokens "
      "that the model takes, [CLS] and [SEP] included, and were truncated",
      file=sys.stderr,
    )


def note_unknown_words(model, texts: Sequence[str]) -> None:
  """Says so where the tokenizer knows less than half of what some texts are made of: another language, most likely."""
  from bert_jax.data.tokenizer.wordpiece import encode_batch

  ids = [token for text in encode_batch(model.tokenizer, list(texts)) for token in text]
  unknown = ids.count(model.tokenizer.special.unk)
  if 2 * unknown > len(ids):
    show(
      f"note: {unknown / len(ids):.0%} of the tokens are [UNK]: the vocabulary of this model does not cover this text",
      file=sys.stderr,
    )
