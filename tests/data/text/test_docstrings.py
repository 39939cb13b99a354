"""The documentation of this machine: found without importing, and kept as written."""

import ast
import collections
import subprocess
import sys

import pytest

from bert_jax.data.text import docstrings
from bert_jax.data.text.docstrings import find_docstrings, find_packages, package_versions, paragraphs, read_modules


def test_docstrings_are_those_that_ast_finds():
  missing = found = extra = 0
  for module, path in docstrings._modules(find_packages("python,absl")):
    if not module.startswith(("a", "c", "d")):
      continue
    try:
      source = open(path, encoding="utf-8").read()
      nodes = list(ast.walk(ast.parse(source)))
    except (UnicodeDecodeError, SyntaxError):
      continue
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    want = [ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, kinds)]
    want = [docstring for docstring in want if docstring]
    got = find_docstrings(source)
    found += len(set(want) & set(got))
    missing += len(set(want) - set(got))
    extra += len(set(got) - set(want))
  # Only docstrings in plain quotes are missed, and strings that look like one are very rare.
  assert found > 1000 and missing < 0.06 * found and extra <= 3


def test_escapes_are_resolved_but_not_in_raw_strings():
  source = 'def f():\n  """A tab \\t here."""\n\ndef g():\n  r"""A \\t stays."""\n'
  assert find_docstrings(source) == ["A tab \t here.", "A \\t stays."]


def test_other_strings_are_no_docstrings():
  source = 'x = """\nno\n"""\ny = {"a":\n  1}\n\ndef f(x=":"):  # a comment\n  # more\n  """Yes."""\n  z = """no"""\n'
  assert find_docstrings(source) == ["Yes."]


_NUMPY_STYLE = """
    Computes the sum of two ``numbers``, as in [1]_ or `the manual <https://x.org/y>`_.

    It goes on in :func:`~numpy.add` and on
    a second line of the *same* paragraph::

        result = add(1, 2)

    Parameters
    ----------
    x, y : array_like, optional
        The numbers that are added up.
     \t
    .. math:: a + b

    Examples
    ~~~~~~~~
    >>> add(1, 2)
    3

    ======  =======
    name    meaning
    ======  =======
    """


def test_a_docstring_is_kept_as_written_but_for_underlines():
  assert paragraphs(_NUMPY_STYLE) == [
    "Computes the sum of two ``numbers``, as in [1]_ or `the manual <https://x.org/y>`_.",
    "It goes on in :func:`~numpy.add` and on a second line of the *same* paragraph::",
    "result = add(1, 2)",
    "Parameters x, y : array_like, optional The numbers that are added up.",
    ".. math:: a + b",
    "Examples >>> add(1, 2) 3",
    "====== ======= name meaning ====== =======",
  ]


def test_google_sections_and_short_paragraphs_are_kept():
  text = "Trains.\n\n  Args:\n    steps (int): how many\n      to take.\n\n  ```python\n  train(3)\n  ```\n  "
  assert paragraphs(text) == ["Trains.", "Args: steps (int): how many to take.", "```python train(3) ```"]


@pytest.mark.parametrize(
  "line, dropped",
  [
    ("---", True),
    ("  =====", True),
    ("...", True),
    ("'''''", True),
    ("--", False),
    ("-=-", False),
    ("--- ---", False),
    ("aaa", False),
    ("-----x", False),
  ],
)
def test_an_underline_is_one_sign_at_least_three_times(line, dropped):
  assert paragraphs(f"Title\n{line}\nText.") == ["Title Text." if dropped else f"Title {line} Text."]


def test_an_empty_docstring_has_no_paragraphs():
  assert paragraphs("") == paragraphs(" \n\n\t\n") == paragraphs("\n-----\n\n=====\n") == []


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package that must not be imported, with the same docstring in two of its modules."""
  folder = tmp_path / "undocumented_wonder"
  (folder / "tests").mkdir(parents=True)
  long = " ".join(["This sentence describes what the function does, in some detail."] * 4)
  (folder / "__init__.py").write_text(f'"""{long} It is the package."""\nraise RuntimeError("imported")\n')
  (folder / "b.py").write_text(f'def f():\n  """{long}"""\n\ndef g():\n  """Second docstring of the module b."""\n')
  (folder / "c.py").write_text(f'def f():\n  """{long}"""\n\ndef g():\n  """{long} But more."""\n')
  (folder / "d.py").write_text('"""Almost nothing is here."""\n')
  (folder / "latin.py").write_bytes(b'"""caf\xe9"""\n')
  (folder / "tests" / "t.py").write_text(f'"""{long} A test."""\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  return long


def test_a_module_is_a_document_and_a_repeated_docstring_is_dropped(package):
  counts = collections.Counter()
  documents = dict(read_modules(find_packages("undocumented_wonder"), counts=counts))
  assert documents == {
    "undocumented_wonder": package + " It is the package.",
    "undocumented_wonder.b": package + "\nSecond docstring of the module b.",
    "undocumented_wonder.c": package + " But more.",
  }
  assert counts["duplicate_docstrings"] == 1
  assert counts["empty_documents"] == 1 and counts["bad_files"] == 1
  assert "undocumented_wonder" not in sys.modules


def test_versions_are_recorded_by_package():
  versions = package_versions("python,numpy,orbax")
  assert versions["python"].startswith("3.") and set(versions) == {"python", "numpy", "orbax"}
  assert all(version[0].isdigit() for version in versions.values())


def test_reading_documentation_imports_nothing():
  code = (
    "import sys, collections\nfrom bert_jax.data.text import docstrings as d\n"
    "n = sum(1 for _ in d.read_modules(d.find_packages('optax,absl'), counts=collections.Counter()))\n"
    "print(n, 'optax' in sys.modules, 'tensorflow' in sys.modules)"
  )
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  modules, optax, tensorflow = run.stdout.split()
  assert int(modules) > 20 and (optax, tensorflow) == ("False", "False")


@pytest.mark.slow
def test_the_default_packages_hold_enough_text_for_the_quickstart():
  size = sum(len(text) for _, text in read_modules(find_packages(""), counts=collections.Counter()))
  assert 18e6 < size < 25e6
