"""The tiny BERT of tests/fixtures/exports.py under short names."""

import pytest


@pytest.fixture(autouse=True)
def programs_run_once(fast_compilation):
  """See there."""


@pytest.fixture(scope="session")
def config(bert_config):
  return bert_config


@pytest.fixture(scope="session")
def tensors(bert_tensors):
  return bert_tensors


@pytest.fixture(scope="session")
def params(bert_params):
  return bert_params
