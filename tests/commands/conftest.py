"""Commands called within the tests."""

import pytest

from bert_jax.__main__ import main


@pytest.fixture
def call(capsys):
  """call("encode", "--flag=…", …) -> (exit code, standard output, standard error)."""

  def call(*arguments):
    code = main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return code, shown.out, shown.err

  return call


@pytest.fixture
def model(exported):
  """A folder of transformers' with all heads, of 40 positions."""
  return exported / "pretraining"
