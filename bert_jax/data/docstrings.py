"""The Python documentation installed on this machine, as running English prose.

The default text of the quickstart: the docstrings of the standard library, its
language reference (`pydoc_data.topics`) and the core packages that bert_jax
stands on. It needs no download and ships no text. Nothing is imported: the
source files are read as text, in sorted order.

One module is one document, its docstrings in the order of the file. What is not
prose is taken out: doctests and code, literal blocks, tables, signature lines
of parameter lists, section underlines and inline markup. A docstring
that was already met is dropped, since many are copied from place to place.
"""

import ast
import collections
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import sysconfig
from typing import Iterator, NamedTuple

from bert_jax.errors import UserError

PYTHON = "python"

# `docstrings:` without names. All come with bert_jax itself, so that its extras do not change the text; those
# that are not installed are left out.
DEFAULT_PACKAGES = (PYTHON, "numpy", "scipy", "jax", "flax", "optax", "orbax", "tensorflow", "keras",
                    "tensorflow_datasets", "ml_collections", "absl", "h5py")

# Folders without documentation of their own: tests, generated interfaces, copies of other packages.
_SKIPPED_FOLDERS = frozenset((
    "__pycache__", "site-packages", "test", "tests", "idlelib", "lib2to3", "_api", "api", "_tf_keras",
    "_vendor", "third_party", "turtledemo", "ensurepip"))

# A module with less prose than this is no document: next-sentence pairs need several sentences.
MIN_DOCUMENT_CHARACTERS = 200

# A string that opens a body: at the top of the file, or after the colon that ends a `def` or `class` line.
# Two patterns, because one that begins with a plain colon is found several times as fast.
_OPENING = r'(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]*([rRuU]?)("""|\'\'\')'
_AT_TOP = re.compile(_OPENING)
_IN_BODY = re.compile(r":[ \t]*(?:#[^\n]*)?\n" + _OPENING)
_END = {
    '"""': re.compile(r'(?:[^\\"]|\\.|"(?!""))*"""', re.S),
    "'''": re.compile(r"(?:[^\\']|\\.|'(?!''))*'''", re.S)}


class Package(NamedTuple):
  """An installed package: its name and the folders that hold it."""

  name: str
  folders: tuple[str, ...]


def find_packages(names: str) -> list[Package]:
  """Finds packages without importing them.

  Args:
    names: names separated by commas, `python` being the standard library; '' for DEFAULT_PACKAGES.

  Raises:
    UserError: a name that is not installed as a package with Python files.
  """
  wanted = [name.strip() for name in names.split(",") if name.strip()]
  packages = []
  for name in wanted or DEFAULT_PACKAGES:
    folders = _folders(name)
    if folders:
      packages.append(Package(name, folders))
    elif wanted:
      raise UserError(f"docstrings:{names}: no package {name!r} is installed here; name importable top-level "
                      f"packages, as in docstrings:{PYTHON},numpy ({PYTHON} is the standard library)")
  return packages


def _folders(name: str) -> tuple[str, ...]:
  if name == PYTHON:
    return (sysconfig.get_paths()["stdlib"],)
  if not name.isidentifier():
    return ()
  try:
    spec = importlib.util.find_spec(name)
  except (ImportError, ValueError):
    return ()
  return tuple(sorted(spec.submodule_search_locations or ())) if spec else ()


def package_versions(names: str) -> dict[str, str]:
  """The version of every package that `docstrings:NAMES` reads, for the manifest."""
  distributions = importlib.metadata.packages_distributions()
  versions = {}
  for package in find_packages(names):
    if package.name == PYTHON:
      versions[PYTHON] = platform.python_version()
    else:
      # An editable or vendored package may have no distribution.
      owners = sorted(set(distributions.get(package.name, ())))
      versions[package.name] = importlib.metadata.version(owners[0]) if owners else "unknown"
  return versions


def read_modules(packages: list[Package], *, counts: collections.Counter) -> Iterator[tuple[str, str]]:
  """Yields (module name, prose) for every module with enough prose.

  Args:
    packages: from `find_packages`.
    counts: receives `files`, `bad_files` (not UTF-8), `duplicate_docstrings` and
      `empty_documents` (modules with less than MIN_DOCUMENT_CHARACTERS of prose).
  """
  seen: set[bytes] = set()
  for module, path in _modules(packages):
    counts["files"] += 1
    try:
      with open(path, encoding="utf-8-sig") as file:
        source = file.read()
    except (UnicodeDecodeError, OSError):
      # A few library files are in another encoding on purpose; they hold no documentation.
      counts["bad_files"] += 1
      continue
    texts = _topics(source) if module == "pydoc_data.topics" else [(module, find_docstrings(source))]
    for origin, docstrings in texts:
      paragraphs = []
      for docstring in docstrings:
        digest = hashlib.blake2b(docstring.encode("utf-8", "replace"), digest_size=16).digest()
        if digest in seen:
          counts["duplicate_docstrings"] += 1
          continue
        seen.add(digest)
        paragraphs.extend(prose(docstring))
      if sum(map(len, paragraphs)) >= MIN_DOCUMENT_CHARACTERS:
        yield origin, "\n".join(paragraphs)
      else:
        counts["empty_documents"] += 1


def _modules(packages: list[Package]) -> Iterator[tuple[str, str]]:
  """(module name, path) of every Python file, sorted within its package."""
  for package in packages:
    prefix = "" if package.name == PYTHON else package.name + "."
    for root in package.folders:
      for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS)
        inside = os.path.relpath(folder, root)
        dotted = "" if inside == "." else inside.replace(os.sep, ".") + "."
        for file in sorted(files):
          if file.endswith(".py") and not file.endswith("_test.py"):
            name = prefix + dotted + file[:-3]
            yield name.removesuffix(".__init__"), os.path.join(folder, file)


def find_docstrings(source: str) -> list[str]:
  """The triple-quoted docstrings of a Python file, in order, escapes resolved, indentation as written.

  A regular expression instead of `ast`: twenty times as fast, and the same
  docstrings but for rare ones (a test compares the two on the standard library).
  """
  docstrings = []
  found = _AT_TOP.match(source) or _IN_BODY.search(source)
  while found:
    end = _END[found[2]].match(source, found.end())
    if not end:
      break
    text = source[found.end():end.end() - 3]
    if "\\" in text and found[1] not in ("r", "R"):
      text = _unescape(found[2] + text + found[2], text)
    docstrings.append(text)
    found = _IN_BODY.search(source, end.end())
  return docstrings


def _unescape(literal: str, fallback: str) -> str:
  try:
    text = ast.literal_eval(literal)
    text.encode("utf-8")
  except (SyntaxError, ValueError):
    return fallback
  return text


def _topics(source: str) -> list[tuple[str, list[str]]]:
  """The language reference: a module that holds one dictionary of topic -> text."""
  for node in ast.parse(source).body:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
      return [(f"pydoc_data.topics.{topic}", [text]) for topic, text in ast.literal_eval(node.value).items()]
  return []


# --- From a docstring to prose ---

# Directives whose content is prose; the content of every other one is code, mathematics or a list.
_PROSE_DIRECTIVE = re.compile(
    r"\.\. (?:note|warning|tip|important|caution|attention|hint|seealso|admonition|deprecated|versionadded"
    r"|versionchanged|rubric|topic|epigraph|danger|error)::", re.I)
_VERSION = re.compile(r"\s*[\d.]*")
_UNDERLINE = re.compile(r"([-=~^*\"'#+_.:])\1{2,}$")
_TABLE = re.compile(r"(?:[|+].*[|+]|[=-]{2,}(?:\s+[=-]{2,})+)$")
_DOCTEST = (">>>", "$ ", "In [")
# numpydoc: `x, y : array_like, optional`; Google: `name (type): description`.
_NUMPY_ENTRY = re.compile(r"[*`\w.\[\]]+(?:\s*,\s*[*`\w.]+)*\s+:(?:\s|$)")
_GOOGLE_ENTRY = re.compile(r"[*`]{0,2}[\w.*]+`{0,2}(?:\s*\([^()]*(?:\([^()]*\)[^()]*)*\))?:\s+(?=\S)")
_FIELD = re.compile(r":(?:param|arg|argument|keyword|key|raises?|returns?|var|ivar|cvar|yields?)\b[^:]*:\s*")
_OTHER_FIELD = re.compile(r":[\w ]+:(?:\s|$)")
_BULLET_SIGNS = "-*+•("
_BULLET = re.compile(r"(?:[-*+•]|\(?(?:\d{1,2}|[a-z])[.)])\s+")
_SECTIONS = frozenset((
    "parameters", "other parameters", "attributes", "methods", "args", "arguments", "returns", "return",
    "yields", "raises", "receives", "warns", "examples", "example", "notes", "note", "usage", "properties",
    "keyword arguments", "see also", "references", "call arguments", "input shape", "output shape",
    "class variables"))
# Lists of names or of literature: no sentences.
_DROPPED_SECTIONS = frozenset(("see also", "references", "methods"))

_ROLE = re.compile(r":[a-zA-Z:+-]+:`([^`]*)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}")
_MARKDOWN_LINK = re.compile(r"\[([^\[\]]+)\]\((?:[^()\s]|\([^()]*\))*\)")
_CITATION = re.compile(r"\s*(?:\[[\w#*]+\]_|\\\[[0-9]+\\\])")
_URL = re.compile(r"<?https?://[^\s<>]*[^\s<>.,;:)\]'\"]>?")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(?=[^\s*])([^*\n]*?[^\s*])\*{1,2}(?![\w*])")
_WORD = re.compile(r"[A-Za-z]{2,}")
_FEWEST_WORDS = 4
_LARGEST_CODE_SHARE = 0.06  # of the characters of a paragraph
_WITHOUT_CODE_SIGNS = str.maketrans("", "", "=<>{}[]()_\\|@#%^&*+/~`$:")


def prose(docstring: str) -> list[str]:
  """The paragraphs of running text in a docstring, each on one line, without markup.

  Example: 'Adds two numbers.\\n\\nArgs:\\n  x: the first\\n    number.\\n\\n>>> add(1, 2)\\n3' gives
  ['Adds two numbers.', 'the first number.'].
  """
  paragraphs = []
  for lines in _blocks(inspect.cleandoc(docstring).split("\n")):
    text = _plain(" ".join(lines))
    if _is_prose(text):
      paragraphs.append(text)
  return paragraphs


def _blocks(lines: list[str]) -> Iterator[list[str]]:
  """Groups the lines of a docstring into paragraphs, leaving out what is not text."""
  block: list[str] = []
  literal = None  # The indentation that a literal block or a dropped directive must exceed to go on.
  fenced = doctest = dropped = False
  underlined, stripped_lines = False, [line.strip() for line in lines]
  for line, stripped, below in zip(lines, stripped_lines, [*stripped_lines[1:], ""]):
    is_underline, underlined = underlined, _is_underline(below)
    if stripped.startswith(("```", "~~~")):
      fenced = not fenced
      stripped = ""
    if fenced or not stripped:
      doctest = False
      yield block
      block = []
      continue
    indent = len(line) - len(line.lstrip())
    if literal is not None and indent > literal:
      continue
    literal = None
    if doctest or stripped.startswith(_DOCTEST):
      doctest = True
      continue
    section = _section(stripped, underlined)
    if section is not None:
      dropped = section in _DROPPED_SECTIONS
    if section is not None or underlined or is_underline:
      # A heading is a label of what follows, not a sentence.
      yield block
      block = []
      continue
    if dropped or stripped[0] in "|+=-" and _TABLE.match(stripped):
      continue
    if stripped.startswith(".. "):
      yield block
      block = []
      found = _PROSE_DIRECTIVE.match(stripped)
      if not found:
        literal = indent
        continue
      stripped = stripped[found.end():]
      if _VERSION.fullmatch(stripped):
        continue
    if stripped.endswith("::"):
      literal = indent
      stripped = stripped[:-1]
    if _is_signature(stripped):
      yield block
      block = []
      continue
    label = _label(stripped)
    if label:
      yield block
      block = []
      stripped = stripped[label:]
    if stripped:
      block.append(stripped)
  yield block


def _is_underline(stripped: str) -> bool:
  return len(stripped) > 2 and not stripped[0].isalnum() and bool(_UNDERLINE.match(stripped))


def _is_signature(stripped: str) -> bool:
  """`x : array_like` or `:rtype: int`: a name and its type, not text."""
  if stripped[0] == ":":
    return bool(_OTHER_FIELD.match(stripped)) and not _FIELD.match(stripped)
  return " :" in stripped and bool(_NUMPY_ENTRY.match(stripped))


def _label(stripped: str) -> int:
  """Length of what opens an entry of a list (`x (int): `, `:param x: `, `- `, `1. `), else 0."""
  found = None
  if stripped[0] == ":":
    found = _FIELD.match(stripped)
  elif stripped[0] in _BULLET_SIGNS or stripped[1:2] in (".", ")") or stripped[2:3] in (".", ")"):
    found = _BULLET.match(stripped)
  if not found and ": " in stripped:
    found = _GOOGLE_ENTRY.match(stripped)
  return found.end() if found else 0


def _section(stripped: str, underlined: bool) -> str | None:
  """The name of a section that this line opens ('Args:', or 'Parameters' above an underline), else None."""
  if not (underlined or stripped[-1] in ":*" or stripped[0] == "#"):
    return None
  name = stripped.strip("#* ").rstrip(":").strip("* ").lower()
  return name if name in _SECTIONS else None


def _plain(text: str) -> str:
  """Takes out inline markup: roles, links, citations, emphasis, back quotes, URLs."""
  if "`" in text:
    text = _ROLE.sub(lambda found: found[1].split(" <")[0].lstrip("~!").split(".")[-1]
                     if found[1].startswith("~") else found[1].split(" <")[0].lstrip("!"), text)
    text = _LINK.sub(r"\1", text)
    text = text.replace("`", "")
  if "[" in text:
    text = _MARKDOWN_LINK.sub(r"\1", text)
    text = _CITATION.sub("", text)
  if "http" in text:
    text = _URL.sub("", text)
  if "*" in text:
    text = _EMPHASIS.sub(r"\1", text)
  return " ".join(text.split())


def _is_prose(text: str) -> bool:
  """Whether a paragraph reads as a sentence: several words, and few signs of code among them."""
  if text.count(" ") < _FEWEST_WORDS - 1 or len(_WORD.findall(text, 0, 200)) < _FEWEST_WORDS:
    return False
  return len(text) - len(text.translate(_WITHOUT_CODE_SIGNS)) <= _LARGEST_CODE_SHARE * len(text)
