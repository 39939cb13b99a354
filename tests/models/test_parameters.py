"""parameters.py: every parameter of every model is named by one row, which says how deep it lies and whether it
decays.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import model_inputs
from bert_jax.models import parameters
from bert_jax.models.config import EncoderConfig
from bert_jax.models.finetuning import TARGETS, FinetuningModel
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.models.sentence import SentenceModel
from tests.helpers.later_families import later_family

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 3}
ENCODER = EncoderConfig(vocab_size=100, max_position_embeddings=16, **SIZES)


def parameters_of(model):
  inputs = model_inputs(jnp.zeros((1, 8), jnp.int32), jnp.array([[[4, 4, 0], [4, 4, 0]]]))
  more = (None,) if isinstance(model, PretrainingModel) else ()
  return jax.eval_shape(lambda key: model.init(key, inputs, *more)["params"], jax.random.key(0))


MODELS = {
  "pretraining": PretrainingModel(ENCODER),
  **{target: FinetuningModel(ENCODER, target, 2) for target in TARGETS},
  "mean pooling": FinetuningModel(ENCODER, "sequence", 2, pooling="mean"),
  "sentences": SentenceModel(ENCODER, pooling="pooler"),
  "sentences with classes": SentenceModel(ENCODER, num_labels=3),
}


@pytest.fixture(scope="module")
def trees():
  return {name: parameters_of(model) for name, model in MODELS.items()} | {"a later family": later_family()}


def leaves(tree):
  return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.parametrize("name", [*MODELS, "a later family"])
def test_every_parameter_of_every_model_is_named_by_one_row_with_an_axis_for_each_dimension(trees, name):
  for path, leaf in leaves(trees[name]):
    assert len(parameters.row_of(path).axes) == leaf.ndim, path


def test_every_row_names_a_parameter(trees):
  names = [parameters.name_of(path) for tree in trees.values() for path, _ in leaves(tree)]
  for row in parameters.PARAMETERS:
    assert any(re.search(f"(^|/){row.pattern}$", name) for name in names), f"no parameter is called {row.pattern}"


def test_the_moments_of_a_parameter_have_its_row(trees):
  for path, _ in leaves({"opt_state": ({"mu": trees["pretraining"]},)}):
    assert parameters.row_of(path) == parameters.row_of(path[3:])


@pytest.mark.parametrize(
  "name",
  [
    "encoder/new_thing/kernel",
    "encoder/layer_x/attention/query/kernel",
    "other_encoder/embeddings/layer_norm/scale",
    "encoder/final_norm/scale/more",
  ],
)
def test_a_parameter_that_no_row_names_is_an_error(name):
  (path, _), *_ = leaves(tree_of(name))
  with pytest.raises(ValueError, match=f"no row of models/parameters.py names the parameter {name};"):
    parameters.row_of(path)


def test_a_parameter_that_two_rows_name_is_an_error_that_names_both(monkeypatch):
  second = parameters.Row("encoder/.*/scale", (None,), parameters.LAYER, parameters.VECTOR)
  monkeypatch.setattr(parameters, "PARAMETERS", (*parameters.PARAMETERS, second))
  (path, _), *_ = leaves(tree_of("encoder/final_norm/scale"))
  with pytest.raises(ValueError, match=r"'encoder/final_norm/\(scale\|bias\)' and 'encoder/\.\*/scale'.*final_norm/sc"):
    parameters.row_of(path)


def tree_of(name):
  tree = np.zeros(4)
  for part in reversed(name.split("/")):
    tree = {part: tree}
  return tree


def test_what_decays_are_the_matrices_and_the_tables(trees):
  for tree in trees.values():
    for path, leaf in leaves(tree):
      assert parameters.row_of(path).decays == (leaf.ndim == 2), path


def test_a_matrix_is_multiplied_and_a_table_is_looked_up(trees):
  kinds = {"kernel": parameters.MATRIX, "embedding": parameters.TABLE}
  for tree in trees.values():
    for path, _ in leaves(tree):
      assert parameters.row_of(path).kind == kinds.get(path[-1].key, parameters.VECTOR), path


def test_depth_counts_from_the_embeddings_through_the_layers_to_the_heads(trees):
  for tree in trees.values():
    assert parameters.num_layers(tree) == 3
    for path, _ in leaves(tree):
      name = parameters.name_of(path)
      layer = re.match("encoder/layer_([0-9]+)/", name)
      expected = int(layer[1]) + 1 if layer else 0 if name.startswith("encoder/embedding") else 4
      if name.startswith("encoder/final_norm"):
        expected = 3  # it is the last layer's, and frozen with it
      assert parameters.depth_of(path, 3) == expected, name


def test_the_number_of_layers_has_any_number_of_digits_and_parameters_may_lack_an_encoder():
  assert parameters.num_layers({"encoder": {f"layer_{n}": {} for n in range(12)} | {"layer_norm": {}}}) == 12
  (path, _), *_ = leaves(tree_of("encoder/layer_11/feed_forward/output/bias"))
  assert parameters.depth_of(path, 12) == 12
  assert parameters.num_layers({"nsp_head": {}}) == 0


def test_the_heads_of_a_tree_are_those_that_have_a_subtree(trees):
  assert parameters.heads_of(trees["pretraining"]) == {"mlm", "nsp", "pooler"}
  assert parameters.heads_of(trees["tokens"]) == frozenset()
  assert parameters.word_embeddings(trees["pretraining"]).shape == (128, 16)
  assert parameters.head(trees["pretraining"], "mlm")["bias"].shape == (128,)
