"""The conversion table, without torch: a bijection, and errors that name the tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bert_jax import batch
from bert_jax.convert.bert import BERT
from bert_jax.convert.folder import from_huggingface, to_huggingface
from bert_jax.convert.table import entries, our_shape
from bert_jax.errors import UserError
from bert_jax.models.pretraining import PretrainingModel

INPUTS = batch.model_inputs(jnp.arange(5, 25).reshape(2, 10), jnp.array([[[10, 4, 0]], [[7, 3, 0]]]))
WORDS, BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"


def _equal(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


def test_the_table_names_every_parameter_once_with_its_shape(config):
  shapes = jax.eval_shape(PretrainingModel(config).init, jax.random.key(0), INPUTS, None)["params"]
  leaves = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}
  table = entries(BERT, config)
  assert {entry.ours: our_shape(entry, config) for entry in table} == leaves
  assert len({entry.theirs for entry in table}) == len({entry.ours for entry in table}) == len(table)


def test_there_and_back_is_bitwise_the_same(config, tensors, params):
  again = to_huggingface(params, config)
  assert set(again) == set(tensors)
  _equal(again, tensors)
  _equal(from_huggingface(again, config)[0], params)


def test_every_exported_tensor_is_contiguous_float32(config, params):
  for tensor in to_huggingface(jax.tree.map(jnp.asarray, params), config).values():
    assert tensor.flags.c_contiguous and tensor.dtype == np.float32


def test_padding_rows_are_added_as_zeros_and_never_exported(config, tensors, params):
  words = params["encoder"]["embeddings"]["word_embeddings"]["embedding"]
  assert words.shape == (256, 32) and not words[130:].any() and words[:130].all()
  assert to_huggingface(params, config)[WORDS].shape == (130, 32)


def test_no_two_tensors_of_one_shape_can_be_swapped_unnoticed(config, tensors):
  """What the parity tests rest on: with such weights, any swap shows in the outputs."""

  def outputs(params):
    output = PretrainingModel(config).apply({"params": params}, INPUTS, None)
    return jnp.concatenate([x.ravel() for x in (*output.hidden_states, output.prediction_logits, output.nsp_logits)])

  outputs = jax.jit(outputs)
  right = outputs(from_huggingface(tensors, config)[0])
  last = {}
  for name, tensor in tensors.items():
    other = last.get(tensor.shape)
    last[tensor.shape] = name
    # Two key biases are the exception: they shift all scores of a query alike, which softmax does not see.
    if other is not None and not (name.endswith("key.bias") and other.endswith("key.bias")):
      swapped = tensors | {name: tensors[other], other: tensor}
      assert np.abs(outputs(from_huggingface(swapped, config)[0]) - right).max() > 1e-2, (name, other)


@pytest.mark.parametrize(
  "keep, heads, export",
  [
    (("bert.", "cls."), {"mlm", "nsp", "pooler"}, "pretraining"),
    (("bert.embeddings", "bert.encoder", "cls.predictions"), {"mlm"}, "mlm"),
    (("bert.",), {"pooler"}, "encoder"),
    (("bert.embeddings", "bert.encoder"), set(), "encoder"),
    (("bert.", "cls.seq_relationship"), {"nsp", "pooler"}, "encoder"),
  ],
)
def test_whole_heads_may_be_absent_and_are_reported(config, tensors, keep, heads, export):
  params, found = from_huggingface({n: t for n, t in tensors.items() if n.startswith(keep)}, config)
  assert found == heads
  assert set(params) == {"encoder"} | {"pooler" if head == "pooler" else f"{head}_head" for head in heads}
  to_huggingface(params, config, export)
  if "nsp" not in heads:
    with pytest.raises(UserError, match="'pretraining' export needs parameter"):
      to_huggingface(params, config, "pretraining")


def test_every_missing_tensor_is_an_error_that_names_it(config, tensors):
  for name in tensors:
    with pytest.raises(UserError, match=f"missing tensors: {name}"):
      from_huggingface({n: t for n, t in tensors.items() if n != name}, config)


def test_every_mis_shaped_tensor_is_an_error_that_names_it(config, tensors):
  for name, tensor in tensors.items():
    with pytest.raises(UserError, match=rf"tensor {name}: expected shape \[{tensor.shape[0]}.*got \["):
      from_huggingface(tensors | {name: np.concatenate([tensor, tensor])}, config)


def test_unknown_tensors_and_integers_are_errors_that_name_them(config, tensors):
  extra = {"bert.encoder.layer.3.output.dense.bias": np.zeros(32), "classifier.weight": np.zeros((2, 32))}
  with pytest.raises(UserError, match="unknown tensors: bert.encoder.layer.3.*bias, classifier.weight"):
    from_huggingface(tensors | extra, config)
  with pytest.raises(UserError, match=f"{BIAS}: expected a floating dtype, got int8"):
    from_huggingface(tensors | {BIAS: np.zeros(130, np.int8)}, config)


def test_missing_unknown_and_mis_shaped_parameters_are_errors_that_name_them(config, params):
  dense = params["pooler"]["dense"]
  with pytest.raises(UserError, match="no counterpart in Hugging Face BERT: pooler/dense/scale"):
    to_huggingface(params | {"pooler": {"dense": dense | {"scale": np.ones(32)}}}, config)
  with pytest.raises(UserError, match="needs parameter pooler/dense/bias"):
    to_huggingface(params | {"pooler": {"dense": {"kernel": dense["kernel"]}}}, config)
  with pytest.raises(UserError, match=r"pooler/dense/bias: expected shape \[32\], got \[31\]"):
    to_huggingface(params | {"pooler": {"dense": dense | {"bias": np.ones(31)}}}, config)
  with pytest.raises(UserError, match="head: expected one of pretraining, mlm, encoder, .*; got 'nsp'"):
    to_huggingface(params, config, "nsp")


def test_files_without_prefix_and_with_the_names_of_2019_are_read(config, tensors, params):
  old = {
    n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
    for n, t in tensors.items()
  }
  assert old.keys() != tensors.keys()
  _equal(from_huggingface(old, config)[0], params)
  bare = {n.removeprefix("bert."): t for n, t in tensors.items() if n.startswith("bert.")}
  _equal(from_huggingface(bare, config)[0]["encoder"], params["encoder"])


def test_tied_copies_and_constant_buffers_are_accepted_when_they_agree(config, tensors, params):
  positions = np.arange(40)[None]
  known = {
    "cls.predictions.decoder.weight": tensors[WORDS],
    "cls.predictions.decoder.bias": tensors[BIAS],
    "bert.embeddings.position_ids": positions,
    "bert.embeddings.token_type_ids": 0 * positions,
  }
  _equal(from_huggingface(tensors | known, config)[0], params)
  for name, tensor in known.items():
    with pytest.raises(UserError, match=name):
      from_huggingface(tensors | {name: tensor + 1}, config)
  # Some files name the bias by the decoder alone.
  alone = {n: t for n, t in tensors.items() if n != BIAS} | {"cls.predictions.decoder.bias": tensors[BIAS]}
  _equal(from_huggingface(alone, config)[0], params)


def test_half_precision_is_read_without_loss(config, tensors):
  halves = {n: jnp.asarray(t, jnp.bfloat16) for n, t in tensors.items()}
  params, _ = from_huggingface({n: np.asarray(t) for n, t in halves.items()}, config)
  bias = params["mlm_head"]["bias"]
  assert bias.dtype == np.float32
  np.testing.assert_array_equal(bias[:130], np.asarray(halves[BIAS], np.float32))
