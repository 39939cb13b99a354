"""The Python documentation installed on this machine, as text to train on.

The default text of the quickstart: the docstrings of the standard library, its
language reference (`pydoc_data.topics`) and the core packages that bert_jax
stands on. It needs no download and ships no text. Nothing is imported: the
source files are read as text, in sorted order.

One module is one document, its docstrings in the order of the file. They stay
as they stand there: prose, parameter lists, markup and examples alike; only the
line breaks and indentation within a paragraph become single spaces. Two things
are dropped. A line that only underlines a heading would become a token for each
of its signs, all trivially predictable. A docstring that was already met says
nothing new, and many are copied from place to place.
"""

import ast
import collections
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from typing import NamedTuple

from bert_jax.errors import UserError

PYTHON = "python"

# `docstrings:` without names. All come with bert_jax itself, so that its extras do not change the text; those
# that are not installed are left out.
DEFAULT_PACKAGES = (
  PYTHON,
  "numpy",
  "scipy",
  "jax",
  "flax",
  "optax",
  "orbax",
  "tensorflow",
  "keras",
  "tensorflow_datasets",
  "ml_collections",
  "absl",
  "h5py",
)

# Folders without documentation of their own: tests, generated interfaces, copies of other packages.
_SKIPPED_FOLDERS = frozenset(
  (
    "__pycache__",
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "_api",
    "api",
    "_tf_keras",
    "_vendor",
    "third_party",
    "turtledemo",
    "ensurepip",
  )
)

# A module with less text than this is no document: next-sentence pairs need several sentences.
MIN_DOCUMENT_CHARACTERS = 200

# A string that opens a body: at the top of the file, or after the colon that ends a `def` or `class` line.
# Two patterns, because one that begins with a plain colon is found several times as fast.
_OPENING = r'(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]*([rRuU]?)("""|\'\'\')'
_AT_TOP = re.compile(_OPENING)
_IN_BODY = re.compile(r":[ \t]*(?:#[^\n]*)?\n" + _OPENING)
_END = {'"""': re.compile(r'(?:[^\\"]|\\.|"(?!""))*"""', re.S), "'''": re.compile(r"(?:[^\\']|\\.|'(?!''))*'''", re.S)}


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
      raise UserError(
        f"docstrings:{names}: no package {name!r} is installed here; name importable top-level "
        f"packages, as in docstrings:{PYTHON},numpy ({PYTHON} is the standard library)"
      )
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
  """Yields (module name, text) for every module with enough text, each paragraph on a line of its own.

  Args:
    packages: from `find_packages`.
    counts: receives `files`, `bad_files` (not UTF-8), `duplicate_docstrings` and
      `empty_documents` (modules with less than MIN_DOCUMENT_CHARACTERS of text).
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
      kept = []
      for docstring in docstrings:
        digest = hashlib.blake2b(docstring.encode("utf-8", "replace"), digest_size=16).digest()
        if digest in seen:
          counts["duplicate_docstrings"] += 1
          continue
        seen.add(digest)
        kept.extend(paragraphs(docstring))
      if sum(map(len, kept)) >= MIN_DOCUMENT_CHARACTERS:
        yield origin, "\n".join(kept)
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
    text = source[found.end() : end.end() - 3]
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


# A line of one punctuation sign at least three times, with its end: a token each, trivially predicted.
_UNDERLINE = re.compile(r"^[^\S\n]*([-=~^*\"'#+_.:])\1{2,}[^\S\n]*(?:\n|\Z)", re.M)


def paragraphs(docstring: str) -> list[str]:
  """The paragraphs of a docstring as written, each on one line, without section underlines.

  Example: 'Adds two numbers.\\n\\nNotes\\n-----\\nThey may be\\nnegative.' gives
  ['Adds two numbers.', 'Notes They may be negative.'].
  """
  joined = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", _UNDERLINE.sub("", docstring)))
  return [paragraph for paragraph in joined if paragraph]
