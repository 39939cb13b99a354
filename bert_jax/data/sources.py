"""Raw text to documents, as a stream: the first step of `prepare`.

A source is named by a short text, `KIND[+OPTION]:ARGUMENT`:

    text:GLOB               a blank line between documents; each line is a sentence or a paragraph
    text+one-per-file:GLOB  one document per file; paragraphs between blank lines, wrapped lines joined
    wikiextractor:GLOB      the <doc …> … </doc> blocks that WikiExtractor writes
    jsonl:GLOB              one JSON object per line, the document in its field "text"
    docstrings:[NAMES]      the Python documentation installed on this machine (data/docstrings.py)

Files ending in .gz, .bz2, .xz or .zst are read through their decompressor. Files
come in sorted order, so the same source gives the same documents anywhere. A new
kind is one reader and one line in KINDS.
"""

import collections
import difflib
import html
import json
import re
from typing import Any, Callable, Iterator, NamedTuple, Sequence

from bert_jax.data import docstrings
from bert_jax.data.text_files import matching_files, note_bad, read_lines
from bert_jax.errors import UserError

# Longer documents are cut between lines, so that memory stays bounded whatever comes.
MAX_DOCUMENT_CHARACTERS = 4 * 2**20

# A wider line was not wrapped by hand: it is a paragraph of its own. East Asian characters count twice.
_WIDEST_WRAPPED_LINE = 120

# Han, kana, CJK punctuation and full-width forms: written without spaces, and two columns wide.
_WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]")
_INDENT = re.compile(r"\s*")
_OPENING = re.compile(r"<doc\b[^\n]*>\s*$")
_TITLE = re.compile(r'\btitle="(.*?)"(?:\s+\w+="|\s*>\s*$)')


class Document(NamedTuple):
  """One document.

  Attributes:
    text: lines separated by newlines; a newline is always a sentence boundary
      (lines that were wrapped by hand are already joined). Never empty, valid UTF-8.
    file: where it came from: a path or URL, or 'docstrings:MODULE'.
    position: where in it: the number of the line, from 1; 0 for docstrings, whose module is the document.
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


class Kind(NamedTuple):
  """What a kind of source is made of.

  Attributes:
    options: the words that may follow `+`.
    resolve: argument -> what `read` walks over; UserError where that is nothing. Called
      before anything is read.
    read: (source, resolved, skip_bad, counts) -> documents.
    versions: (source) -> {name: version} of what the text depends on, for the manifest.
  """

  options: tuple[str, ...]
  resolve: Callable[[str], Any]
  read: Callable[[Source, Any, bool, collections.Counter], Iterator[Document]]
  versions: Callable[[Source], dict[str, str]] = lambda source: {}


def parse_source(spec: str) -> Source:
  """Parses 'text+one-per-file:books/*.txt' and the like; the files are looked for later.

  Raises:
    UserError: an unknown kind or option, or no argument where one is needed.
  """
  head, colon, argument = spec.partition(":")
  kind, _, option = head.partition("+")
  known = ", ".join(f"{name}:" for name in KINDS)
  if not colon:
    raise UserError(f"source {spec!r}: expected KIND:ARGUMENT with one of {known}; "
                    f"for plain text write text:{spec}")
  if kind not in KINDS:
    near = difflib.get_close_matches(kind, KINDS, n=1)
    raise UserError(f"source {spec!r}: unknown kind {kind!r}; "
                    + (f"did you mean {near[0]}: ? " if near else "") + f"Known: {known}")
  if option and option not in KINDS[kind].options:
    allowed = ", ".join(f"{kind}+{name}:" for name in KINDS[kind].options) or "none"
    raise UserError(f"source {spec!r}: {kind}: has no option {option!r}; options: {allowed}")
  if not argument.strip() and kind != "docstrings":
    raise UserError(f"source {spec!r}: names no files; write {kind}:PATTERN, as in {kind}:corpus/*.txt")
  return Source(spec, kind, option, argument.strip())


def source_versions(sources: Sequence[Source]) -> dict[str, str]:
  """Versions of installed packages that the text of these sources depends on, {} for plain files."""
  versions = {}
  for source in sources:
    versions |= KINDS[source.kind].versions(source)
  return versions


def read_documents(
    sources: Sequence[Source], *, skip_bad: bool, counts: collections.Counter) -> Iterator[Document]:
  """Streams the documents of all sources, one source after the other.

  Every source is looked up before the first one is read, so that a mistake in
  the last comes at once. Memory does not grow with the corpus.

  Args:
    sources: from `parse_source`.
    skip_bad: skip and count what cannot be read as text, instead of raising.
    counts: grows while reading: `documents`, `bytes` (UTF-8 bytes of their text),
      `files`, `empty_documents`, `split_documents` (cut because of their length),
      `bad_lines`, `bad_documents`, `bad_files`, `nul_bytes`, `duplicate_docstrings`.

  Raises:
    UserError: nothing matches (at the call); text that cannot be read (unless
      skip_bad), a source without a single document (while iterating).
  """
  resolved = [KINDS[source.kind].resolve(source.argument) for source in sources]
  if not resolved:
    raise UserError("no source: name at least one, as in --source=text:corpus/*.txt")
  return _read(sources, resolved, skip_bad, counts)


def _read(sources, resolved, skip_bad, counts) -> Iterator[Document]:
  for source, where in zip(sources, resolved):
    before = collections.Counter(counts)
    for document in KINDS[source.kind].read(source, where, skip_bad, counts):
      counts["documents"] += 1
      counts["bytes"] += len(document.text.encode("utf-8"))
      yield document
    if counts["documents"] == before["documents"]:
      seen = {key: n - before[key] for key, n in counts.items() if n > before[key]}
      found = ", ".join(f"{n} {key.replace('_', ' ')}" for key, n in seen.items()) or "nothing at all"
      raise UserError(f"source {source.spec!r}: no text in it (read: {found}); "
                      "check that it holds text and that its kind is right")


def _read_text(source, paths, skip_bad, counts) -> Iterator[Document]:
  reader = _one_per_file if source.option == "one-per-file" else _blank_line_between
  for path in paths:
    yield from reader(path, skip_bad, counts)


def _blank_line_between(path: str, skip_bad: bool, counts: collections.Counter) -> Iterator[Document]:
  lines, start, size = [], 0, 0
  for number, line in read_lines(path, skip_bad=skip_bad, counts=counts):
    line = line.strip()
    if lines and (not line or size + len(line) > MAX_DOCUMENT_CHARACTERS):
      counts["split_documents"] += bool(line)
      yield Document("\n".join(lines), path, start)
      lines, size = [], 0
    if line:
      start = start if lines else number
      lines.append(line)
      size += len(line)
  if lines:
    yield Document("\n".join(lines), path, start)


def _one_per_file(path: str, skip_bad: bool, counts: collections.Counter) -> Iterator[Document]:
  paragraphs, start, size, written = [], 1, 0, 0
  for number, paragraph in _paragraphs(read_lines(path, skip_bad=skip_bad, counts=counts)):
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
  paragraph, start, indent, size, wrapped = [], 0, 0, 0, False
  for number, line in lines:
    text = line.strip()
    depth = _INDENT.match(line).end() if text else 0
    narrow = len(text) + len(_WIDE.findall(text)) <= _WIDEST_WRAPPED_LINE
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


def _read_wikiextractor(source, paths, skip_bad, counts) -> Iterator[Document]:
  for path in paths:
    yield from _wiki_documents(path, skip_bad, counts)


def _wiki_documents(path: str, skip_bad: bool, counts: collections.Counter) -> Iterator[Document]:
  """The <doc> blocks of a file.

  The title line, which WikiExtractor repeats as the first line of the text, is
  dropped: it is a label, not a sentence. Section headings ("History.", "概要.")
  stay as lines. The entities of its HTML-safe output (&lt; &amp;) are decoded.
  """
  def unclosed(line: int, what: str):
    note_bad(f"{path}:{opened}: <doc> is not closed before {what} at line {line}; expected </doc>",
             skip_bad=skip_bad, counts=counts, key="bad_documents")

  lines, opened, number, title, size = [], 0, 0, None, 0
  for number, line in read_lines(path, skip_bad=skip_bad, counts=counts):
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
    elif line and not opened:
      note_bad(f"{path}:{number}: text outside of <doc …> … </doc>; expected WikiExtractor's output "
               "(for plain text use text:, for its --json output jsonl:)",
               skip_bad=skip_bad, counts=counts, key="bad_lines")
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


def _read_jsonl(source, paths, skip_bad, counts) -> Iterator[Document]:
  for path in paths:
    for number, line in read_lines(path, skip_bad=skip_bad, counts=counts):
      if not line.strip():
        continue
      text, problem = _json_text(line)
      if problem:
        note_bad(f"{path}:{number}: {problem}; expected one JSON object per line, as in {{\"text\": \"…\"}}",
                 skip_bad=skip_bad, counts=counts, key="bad_lines")
      elif text:
        yield Document(text, path, number)
      else:
        counts["empty_documents"] += 1


def _json_text(line: str) -> tuple[str, str]:
  """(text, '') or ('', what is wrong) for one line of JSON."""
  try:
    record = json.loads(line)
  except (ValueError, RecursionError) as error:
    return "", f"not JSON ({error})"
  if not isinstance(record, dict):
    return "", f"a JSON {type(record).__name__}, not an object"
  if "text" not in record:
    return "", f"no field \"text\" (fields: {', '.join(sorted(record)[:8]) or 'none'})"
  text = record["text"]
  if not isinstance(text, str):
    return "", f"field \"text\" is a {type(text).__name__}, not a string"
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return "", "field \"text\" holds half of a surrogate pair, which is no character"
  lines = (part.strip() for part in text.replace("\0", "").replace("\r", "\n").split("\n"))
  return "\n".join(part for part in lines if part), ""


def _read_docstrings(source, packages, skip_bad, counts) -> Iterator[Document]:
  for module, text in docstrings.read_modules(packages, counts=counts):
    yield Document(text, f"docstrings:{module}", 0)


KINDS: dict[str, Kind] = {
    "text": Kind(("one-per-file",), matching_files, _read_text),
    "wikiextractor": Kind((), matching_files, _read_wikiextractor),
    "jsonl": Kind((), matching_files, _read_jsonl),
    "docstrings": Kind((), docstrings.find_packages, _read_docstrings,
                       lambda source: docstrings.package_versions(source.argument)),
}
