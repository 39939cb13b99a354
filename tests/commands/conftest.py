"""Commands called within the tests leave the cache of compiled programs where the tests have theirs."""

import jax
import pytest

from bert_jax.__main__ import main


@pytest.fixture(autouse=True)
def cache_of_the_tests(monkeypatch):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))


@pytest.fixture
def call(capsys):
  """call("encode", "--flag=…", …) -> (exit code, standard output, standard error)."""

  def call(*arguments):
    code = main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return code, shown.out, shown.err

  return call
