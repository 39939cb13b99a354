"""The tiny BERT of tests/fixtures/exports.py under short names."""

import pytest


@pytest.fixture(scope="session")
def config(bert_config):
  return bert_config


@pytest.fixture(scope="session")
def tensors(bert_tensors):
  return bert_tensors


@pytest.fixture(scope="session")
def params(bert_params):
  return bert_params
