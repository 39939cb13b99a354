"""Every test here starts real processes: `make test-slow`."""

import pytest


def pytest_collection_modifyitems(items):
  for item in items:
    if "faults" in item.path.parts:
      item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """One folder for all tests: they share the compilation cache, and each has run folders of its own name."""
  return tmp_path_factory.mktemp("faults")
