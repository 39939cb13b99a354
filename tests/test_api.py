"""The Python API: cheap to import, and its annotations can be resolved."""

import typing

import bert_jax
from bert_jax.inference.loaded import LoadedModel


def test_the_annotations_of_load_resolve():
  assert typing.get_type_hints(bert_jax.load)["return"] is LoadedModel
