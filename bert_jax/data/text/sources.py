"""Raw text to documents, as a stream: the first step of `prepare`.

A source is named by a short text, `KIND[+OPTION]:ARGUMENT`:

    text:GLOB               a blank line between documents; each line is a sentence or a paragraph
    text+one-per-file:GLOB  one document per file; paragraphs between blank lines, wrapped lines joined
    wikiextractor:GLOB      the <doc …> … </doc> blocks that WikiExtractor writes
                            (also its --json output)
    jsonl:GLOB              one JSON object per line, the document in its field "text"
    parquet:GLOB            one row per document, in the column "text" (data/parquet_files.py)
    tfds:NAME[/CONFIG][:VERSION][:SPLIT]
                            a data set of TensorFlow Datasets, its feature "text", split train
                            (data/tfds_texts.py)
    docstrings:[NAMES]      the Python documentation installed on this machine (data/docstrings.py)

Another field, column or feature than "text" is named by `text_field`. A GLOB may
begin with a protocol, as in gs://bucket/*.jsonl.gz (data/files.py). Files of lines
that end in .gz, .bz2, .xz or .zst are read through their decompressor. Files come
in sorted order, so the same source gives the same documents anywhere. A new kind
is one reader and one line in SOURCE_KINDS.
"""

import collections
import difflib
import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bert_jax.data.text import docstrings, parquet_files, tfds_texts
from bert_jax.data.text.files import file_stamp, matching_files, note_bad
from bert_jax.data.text.text_files import cut_place, read_text_lines
from bert_jax.errors import UserError

# Longer documents are cut, between lines or behind a sentence, so that memory stays bounded whatever comes.
MAX_DOCUMENT_CHARACTERS = 4 * 2**20

# A wider line was not wrapped by hand: it is a paragraph of its own. East Asian characters count twice.
_WIDEST_WRAPPED_LINE = 120

# Han, kana, CJK punctuation and full-width forms: written without spaces, and two columns wide.
_WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]")

_OPENING = re.compile(r"<doc\b[^\n]*>\s*$")
_TITLE = re.compile(r'\btitle="(.*?)"(?:\s+\w+="|\s*>\s*$)')


class Document(NamedTuple):
  """One document.

  Attributes:
    text: lines separated by newlines; a newline is always a sentence boundary
      (lines that were wrapped by hand are already joined). Never empty, valid UTF-8.
    file: where it came from: a path or URL, 'tfds:NAME/CONFIG/VERSION:SPLIT', or 'docstrings:MODULE'.
    position: where in it: the number of the line, from 1, in files of lines; of the row, from 0, in
      Parquet; of the example, from 0, in TFDS; 0 for docstrings, whose module is the document.
  """

  text: str
  file: str
  position: int

  @property
  def origin(self) -> str:
    """'file:position', or the file alone for docstrings."""
    return self.file if self.file.startswith("docstrings:") else f"{self.file}:{self.position}"


class Source(NamedTuple):
  """A parsed specification; `parse_source` makes it."""

  spec: str
  kind: str
  option: str
  argument: str


class SourceKind(NamedTuple):
  """What a kind of source is made of.

  Attributes:
    options: the words that may follow `+`.
    resolve: argument -> what `read` walks over; UserError where that is nothing. Called
      before anything is read.
    read: (source, resolved, text_field, skip_bad, counts) -> documents.
    entries: (resolved) -> (name, size, time or version) of everything that is read, see `source_files`.
    example: how it is written, for messages; '' where the argument may be empty.
    has_fields: whether `text_field` means something to it.
    check: (resolved, text_field) raises UserError for a mistake that shows before anything is read.
    versions: (resolved) -> {name: version} of what the text depends on, for the manifest.
  """

  options: tuple[str, ...]
  resolve: Callable[[str], Any]
  read: Callable[[Source, Any, str, bool, collections.Counter], Iterator[Document]]
  entries: Callable[[Any], list[tuple[str, int, int]]]
  example: str = ""
  has_fields: bool = False
  check: Callable[[Any, str], None] = lambda resolved, text_field: None
  versions: Callable[[Any], dict[str, str]] = lambda resolved: {}


def parse_source(spec: str) -> Source:
  """Parses 'text+one-per-file:books/*.txt' and the like; the files are looked for later.

  Raises:
    UserError: an unknown kind or option, or no argument where one is needed.
  """
  head, colon, argument = spec.partition(":")
  kind, _, option = head.partition("+")
  known = ", ".join(f"{name}:" for name in SOURCE_KINDS)
  if not colon or argument.startswith("//") and kind not in SOURCE_KINDS:  # an address, as in s3://…
    raise UserError(f"source {spec!r}: expected KIND:ARGUMENT with one of {known}; for plain text write text:{spec}")
  if kind not in SOURCE_KINDS:
    near = difflib.get_close_matches(kind, SOURCE_KINDS, n=1)
    raise UserError(
      f"source {spec!r}: unknown kind {kind!r}; " + (f"did you mean {near[0]}: ? " if near else "") + f"Known: {known}"
    )
  if option and option not in SOURCE_KINDS[kind].options:
    allowed = ", ".join(f"{kind}+{name}:" for name in SOURCE_KINDS[kind].options) or "none"
    raise UserError(f"source {spec!r}: {kind}: has no option {option!r}; options: {allowed}")
  if not argument.strip() and SOURCE_KINDS[kind].example:
    raise UserError(f"source {spec!r}: names nothing to read; write it as in {SOURCE_KINDS[kind].example}")
  return Source(spec, kind, option, argument.strip())


def source_versions(sources: Sequence[Source]) -> dict[str, str]:
  """Versions of installed packages and data sets that the text of these sources depends on, {} for plain files."""
  versions: dict[str, str] = {}
  for source in sources:
    versions |= SOURCE_KINDS[source.kind].versions(SOURCE_KINDS[source.kind].resolve(source.argument))
  return versions


def source_files(sources: Sequence[Source], *, text_field: str | None = None) -> list[tuple[str, int, int]]:
  """What the sources read, in the order of reading, without reading it: to know whether it is the same as last time.

  A TFDS data set that is not prepared on disk is downloaded, to know its size.

  Args:
    sources: from `parse_source`.
    text_field: if given, what can be known of it is checked before anything is downloaded.

  Returns:
    (path, size in bytes, time of the last change in ns) of every file; behind a protocol the third is a hash of
    what the store tells of the contents. For docstrings ('docstrings:NAME VERSION', 0, 0) of every package, for
    TFDS ('tfds:NAME/CONFIG/VERSION:SPLIT', bytes, examples).

  Raises:
    UserError: nothing matches, as in `read_documents`.
  """
  resolved = _resolve(sources, text_field)
  return [entry for source, where in zip(sources, resolved) for entry in SOURCE_KINDS[source.kind].entries(where)]


def read_documents(
  sources: Sequence[Source], *, skip_bad: bool, counts: collections.Counter, text_field: str = "text"
) -> Iterator[Document]:
  """Streams the documents of all sources, one source after the other.

  Every source is looked up before the first one is read, so that a mistake in
  the last comes at once. Memory does not grow with the corpus.

  Args:
    sources: from `parse_source`.
    skip_bad: skip and count what cannot be read as text, instead of raising.
    counts: grows while reading: `documents`, `bytes` (UTF-8 bytes of their text),
      `files`, `empty_files`, `empty_documents`, `split_documents` (cuts because of
      their length), `bad_lines`, `bad_documents`, `bad_files`, `nul_bytes`,
      `duplicate_docstrings`.
    text_field: the name of the text in jsonl:, parquet: and tfds: sources.

  Raises:
    UserError: nothing matches, or no source has a field to be named (at the call);
      text that cannot be read (unless skip_bad), a source without a single document
      (while iterating).
  """
  return _read(sources, _resolve(sources, text_field), text_field, skip_bad, counts)


def _resolve(sources: Sequence[Source], text_field: str | None) -> list[Any]:
  """What the readers of the sources walk over: all is looked up, and checked, before anything is read or downloaded."""
  resolved = [SOURCE_KINDS[source.kind].resolve(source.argument) for source in sources]
  if not resolved:
    raise UserError("no source: name at least one, as in --source=text:corpus/*.txt")
  if text_field is None:
    return resolved
  if text_field != "text" and not any(SOURCE_KINDS[source.kind].has_fields for source in sources):
    having = ", ".join(f"{name}:" for name, kind in SOURCE_KINDS.items() if kind.has_fields)
    raise UserError(f"--text_field={text_field}: no source has fields; only {having} have")
  for source, where in zip(sources, resolved):
    SOURCE_KINDS[source.kind].check(where, text_field)
  return resolved


def _read(sources, resolved, text_field, skip_bad, counts) -> Iterator[Document]:
  for source, where in zip(sources, resolved):
    before = collections.Counter(counts)
    for document in SOURCE_KINDS[source.kind].read(source, where, text_field, skip_bad, counts):
      counts["documents"] += 1
      counts["bytes"] += len(document.text if document.text.isascii() else document.text.encode("utf-8"))
      yield document
    if counts["documents"] == before["documents"]:
      seen = {key: n - before[key] for key, n in counts.items() if n > before[key]}
      found = ", ".join(f"{n} {key.replace('_', ' ')}" for key, n in seen.items()) or "nothing at all"
      raise UserError(
        f"source {source.spec!r}: no text in it (read: {found}); check that it holds text and that its kind is right"
      )


def _read_text(source, paths, text_field, skip_bad, counts) -> Iterator[Document]:
  reader = _one_per_file if source.option == "one-per-file" else _blank_line_between
  for path in paths:
    yield from reader(path, skip_bad, counts)


def _blank_line_between(path: str, skip_bad: bool, counts: collections.Counter) -> Iterator[Document]:
  lines: list[str] = []
  start, size = 0, 0
  for number, line in read_text_lines(path, skip_bad=skip_bad, counts=counts):
    line = line.strip()
    if lines and (not line or size + len(line) > MAX_DOCUMENT_CHARACTERS):
      if line:
        counts["split_documents"] += 1
      yield Document("\n".join(lines), path, start)
      lines, size = [], 0
    if line:
      start = start if lines else number
      lines.append(line)
      size += len(line)
  if lines:
    yield Document("\n".join(lines), path, start)


def _one_per_file(path: str, skip_bad: bool, counts: collections.Counter) -> Iterator[Document]:
  paragraphs: list[str] = []
  start, size, written = 1, 0, 0
  for number, paragraph in _paragraphs(read_text_lines(path, skip_bad=skip_bad, counts=counts)):
    if paragraphs and size + len(paragraph) > MAX_DOCUMENT_CHARACTERS:
      counts["split_documents"] += 1
      yield Document("\n".join(paragraphs), path, start)
      paragraphs, size, written = [], 0, written + 1
    start = start if paragraphs else number
    paragraphs.append(paragraph)
    size += len(paragraph)
  if paragraphs:
    yield Document("\n".join(paragraphs), path, start)
  elif not written:
    counts["empty_documents"] += 1


def _paragraphs(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
  """Joins the wrapped lines of each paragraph: (number of its first line, text without newlines).

  A paragraph ends at a blank line, before a line indented deeper than the one
  above, and around lines too wide to have been wrapped.
  """
  paragraph: list[str] = []
  start, indent, size, wrapped = 0, 0, 0, False
  for number, line in lines:
    text = line.strip()
    depth = len(line) - len(line.lstrip())
    narrow = len(text) <= _WIDEST_WRAPPED_LINE and len(text) + len(_WIDE.findall(text)) <= _WIDEST_WRAPPED_LINE
    goes_on = wrapped and narrow and depth <= indent and size + len(text) <= MAX_DOCUMENT_CHARACTERS
    if paragraph and not (text and goes_on):
      yield start, _join(paragraph)
      paragraph, size = [], 0
    if text:
      start = start if paragraph else number
      paragraph.append(text)
      indent, size, wrapped = depth, size + len(text), narrow
  if paragraph:
    yield start, _join(paragraph)


def _join(lines: list[str]) -> str:
  """Joins wrapped lines, without a space in Chinese and Japanese and behind the hyphen of a word."""
  parts = [lines[0]]
  for above, below in zip(lines, lines[1:]):
    east_asian = _WIDE.match(above[-1]) and _WIDE.match(below[0])
    hyphen = len(above) > 1 and above[-1] == "-" and above[-2].isalpha() and below[0].islower()
    parts.append(below if east_asian or hyphen else " " + below)
  return "".join(parts)


def _read_wikiextractor(source, paths, text_field, skip_bad, counts) -> Iterator[Document]:
  for path in paths:
    yield from _wiki_documents(path, skip_bad, counts)


def _wiki_documents(path: str, skip_bad: bool, counts: collections.Counter) -> Iterator[Document]:
  """The <doc> blocks of a file, or the articles of WikiExtractor's --json output.

  The title line, which WikiExtractor repeats as the first line of the text, is
  dropped: it is a label, not a sentence. Section headings ("History.", "概要.")
  stay as lines. The entities of its HTML-safe output (&lt; &amp;) are decoded.
  """

  def unclosed(line: int, what: str):
    note_bad(
      f"{path}:{opened}: <doc> is not closed before {what} at line {line}; expected </doc>",
      skip_bad=skip_bad,
      counts=counts,
      key="bad_documents",
    )

  lines: list[str] = []
  opened, number, title, size = 0, 0, None, 0
  for number, line in read_text_lines(path, skip_bad=skip_bad, counts=counts):
    line = line.strip()
    if line.startswith("<doc") and _OPENING.match(line):
      if opened:
        unclosed(number, "the next <doc>")
      found = _TITLE.search(line)
      lines, opened, title, size = [], number, html.unescape(found[1]).strip() if found else None, 0
    elif line == "</doc>" and opened:
      if lines:
        yield Document("\n".join(lines), path, opened)
      else:
        counts["empty_documents"] += 1
      lines, opened = [], 0
    elif line.startswith("{") and not opened:
      text, problem = _json_text(line, "text")
      if problem:
        note_bad(
          f"{path}:{number}: {problem}; expected WikiExtractor's output",
          skip_bad=skip_bad,
          counts=counts,
          key="bad_lines",
        )
      else:
        yield from _documents(html.unescape(text), path, number, counts)
    elif line and not opened:
      note_bad(
        f"{path}:{number}: text outside of <doc …> … </doc>; expected WikiExtractor's output "
        "(for plain text use text:)",
        skip_bad=skip_bad,
        counts=counts,
        key="bad_lines",
      )
    elif line:
      line = html.unescape(line) if "&" in line else line
      if title is not None and line == title:
        title = None
        continue
      title = None
      if size + len(line) > MAX_DOCUMENT_CHARACTERS and lines:
        counts["split_documents"] += 1
        yield Document("\n".join(lines), path, opened)
        lines, size = [], 0
      lines.append(line)
      size += len(line)
  if opened:
    unclosed(number, "the end of the file")


def _read_jsonl(source, paths, text_field, skip_bad, counts) -> Iterator[Document]:
  for path in paths:
    for number, line in read_text_lines(path, skip_bad=skip_bad, counts=counts, whole=True):
      if not line.strip():
        continue
      text, problem = _json_text(line, text_field)
      if problem:
        note_bad(
          f'{path}:{number}: {problem}; expected one JSON object per line, as in {{"{text_field}": "…"}}',
          skip_bad=skip_bad,
          counts=counts,
          key="bad_lines",
        )
      else:
        yield from _documents(text, path, number, counts)


def _json_text(line: str, field: str) -> tuple[str, str]:
  """(text, '') or ('', what is wrong) for one line of JSON."""
  try:
    record = json.loads(line)
  except (ValueError, RecursionError) as error:
    return "", f"not JSON ({error})"
  if not isinstance(record, dict):
    return "", f"a JSON {type(record).__name__}, not an object"
  if field not in record:
    return "", (
      f'no field "{field}" (fields: {", ".join(sorted(record)[:8]) or "none"}; another one is named by --text_field)'
    )
  text = record[field]
  if text is None:
    return "", ""
  if not isinstance(text, str):
    return "", f'field "{field}" is a {type(text).__name__}, not a string'
  try:
    text.isascii() or text.encode("utf-8")
  except UnicodeEncodeError:
    return "", f'field "{field}" holds half of a surrogate pair, which is not a character'
  return text, ""


def _read_parquet(source, paths, text_field, skip_bad, counts) -> Iterator[Document]:
  for path in paths:
    for row, text in parquet_files.read_parquet_texts(path, text_field, skip_bad=skip_bad, counts=counts):
      yield from _documents(text, path, row, counts)


def _read_tfds(source, examples, text_field, skip_bad, counts) -> Iterator[Document]:
  for number, text in tfds_texts.read_tfds_texts(examples, text_field, skip_bad=skip_bad, counts=counts):
    yield from _documents(text, examples.file, number, counts)


def _documents(text: str, file: str, position: int, counts: collections.Counter) -> Iterator[Document]:
  """A text that came whole, as one document, or as several if it is too long; none if nothing is in it."""
  start, made = 0, 0
  while start < len(text):
    end = len(text)
    if end - start > MAX_DOCUMENT_CHARACTERS:
      end = start + cut_place(text[start : start + MAX_DOCUMENT_CHARACTERS + 1], MAX_DOCUMENT_CHARACTERS)
    lines = _lines(text[start:end] if end - start < len(text) else text, counts)
    start = end
    if lines:
      made += 1
      yield Document(lines, file, position)
  if made > 1:
    counts["split_documents"] += made - 1
  elif not made:
    counts["empty_documents"] += 1


def _lines(text: str, counts: collections.Counter) -> str:
  """The lines that hold something, without white space around them, byte-order marks and NUL characters."""
  if "\0" in text:
    counts["nul_bytes"] += text.count("\0")
    text = text.replace("\0", "")
  lines = (part.strip() for part in text.removeprefix("\ufeff").replace("\r", "\n").split("\n"))
  return "\n".join(part for part in lines if part)


def _read_docstrings(source, packages, text_field, skip_bad, counts) -> Iterator[Document]:
  for module, text in docstrings.read_modules(packages, counts=counts):
    yield Document(text, f"docstrings:{module}", 0)


def _file_entries(paths: Sequence[str]) -> list[tuple[str, int, int]]:
  return [(path, *file_stamp(path)) for path in paths]


def _docstring_versions(packages) -> dict[str, str]:
  return docstrings.package_versions(",".join(package.name for package in packages))


def _docstring_entries(packages) -> list[tuple[str, int, int]]:
  return [(f"docstrings:{name} {version}", 0, 0) for name, version in _docstring_versions(packages).items()]


def _tfds_entries(examples) -> list[tuple[str, int, int]]:
  return [(examples.file, *tfds_texts.split_size(examples))]


SOURCE_KINDS: dict[str, SourceKind] = {
  "text": SourceKind(("one-per-file",), matching_files, _read_text, _file_entries, "text:corpus/*.txt"),
  "wikiextractor": SourceKind(
    (), matching_files, _read_wikiextractor, _file_entries, "wikiextractor:extracted/*/wiki_*"
  ),
  "jsonl": SourceKind((), matching_files, _read_jsonl, _file_entries, "jsonl:corpus/*.jsonl.gz", has_fields=True),
  "parquet": SourceKind((), matching_files, _read_parquet, _file_entries, "parquet:corpus/*.parquet", has_fields=True),
  "tfds": SourceKind(
    (),
    tfds_texts.find,
    _read_tfds,
    _tfds_entries,
    "tfds:lm1b",
    has_fields=True,
    check=tfds_texts.check_feature,
    versions=lambda examples: {f"tfds:{examples.name}": examples.version},
  ),
  "docstrings": SourceKind(
    (), docstrings.find_packages, _read_docstrings, _docstring_entries, versions=_docstring_versions
  ),
}
