"""Law 8: the same numbers as Hugging Face, to 1e-9 in float64, in every output and at padding too.

Weights are drawn from N(0, 0.3) with scales around 1: start values are so small that swapped tensors hide.
`test_bert.py` shows that with these no swap goes unnoticed.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from bert_jax import batch
from bert_jax.convert import folder
from bert_jax.convert.bert import BERT
from bert_jax.convert.folder import from_huggingface
from bert_jax.convert.table import entries, their_shape
from bert_jax.models.config import encoder_config
from bert_jax.models.pretraining import HEADS, PretrainingModel

# Hugging Face's class -> the heads that it has.
CLASSES = {
  "BertForPreTraining": HEADS,
  "BertForMaskedLM": frozenset({"mlm"}),
  "BertForNextSentencePrediction": frozenset({"nsp", "pooler"}),
  "BertModel": frozenset({"pooler"}),
}


def _inputs(config, length):
  """Three rows of one pair each, two of them padded."""
  rng = np.random.default_rng(1)
  lengths = np.array([length, length - 5, length // 2])
  sequences = np.stack([lengths, lengths // 2, [0, 1, 0]], axis=1)[:, None].astype(np.int32)
  tokens = rng.integers(1, config.vocab_size, (3, length)) * (np.arange(length)[None] < lengths[:, None])
  return batch.model_inputs(jnp.asarray(tokens, jnp.int32), jnp.asarray(sequences))


def _torch_inputs(inputs):
  """The same for Hugging Face, which counts positions itself."""
  as_tensor = lambda x: torch.from_numpy(np.array(x)).long()
  return {
    "input_ids": as_tensor(inputs.input_ids),
    "token_type_ids": as_tensor(inputs.token_type_ids),
    "attention_mask": as_tensor(inputs.segment_ids > 0),
  }


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params, inputs):
  return model.apply({"params": params}, inputs, None)


def _ours(config, params, heads, inputs, dtype=jnp.float64):
  with jax.enable_x64(dtype == jnp.float64):
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    return _apply(PretrainingModel(config, dtype=dtype, param_dtype=dtype, heads=heads), params, inputs)


def _theirs(model, inputs):
  """Hugging Face's outputs under our names; of a missing head, nothing."""
  with torch.no_grad():
    output = model(**_torch_inputs(inputs), output_hidden_states=True)
    core = model if isinstance(model, transformers.BertModel) else model.bert
    pooled = core.pooler(output.hidden_states[-1]) if core.pooler is not None else None
  named = {"sequence_output": output.hidden_states[-1], "pooled_output": pooled}
  named |= {f"hidden_states[{n}]": state for n, state in enumerate(output.hidden_states)}
  if isinstance(model, transformers.BertForPreTraining):
    named |= {"prediction_logits": output.prediction_logits, "nsp_logits": output.seq_relationship_logits}
  elif isinstance(model, transformers.BertForMaskedLM):
    named["prediction_logits"] = output.logits
  elif isinstance(model, transformers.BertForNextSentencePrediction):
    named["nsp_logits"] = output.logits
  else:
    np.testing.assert_array_equal(output.last_hidden_state, output.hidden_states[-1])
    np.testing.assert_array_equal(output.pooler_output, pooled)
  return {name: value.numpy() for name, value in named.items() if value is not None}


def _compare(ours, theirs, tolerance):
  """The largest difference relative to the size of each output is below `tolerance`."""
  values = ours._asdict()
  del values["padded_prediction_logits"]  # prediction_logits, with padding
  values |= {f"hidden_states[{n}]": state for n, state in enumerate(values.pop("hidden_states"))}
  for name in ("pooled_output", "nsp_logits"):
    values[name] = None if values[name] is None else values[name][:, 0]  # one sequence per row
  values.pop("masked_output")  # all positions: the sequence output again
  values = {name: np.asarray(value) for name, value in values.items() if value is not None}
  assert set(values) == set(theirs)
  for name, value in theirs.items():
    assert values[name].dtype == value.dtype and values[name].shape == value.shape, name
    difference = np.abs(values[name] - value).max() / np.abs(value).max()
    assert difference < tolerance, f"{name}: {difference:.1e}"


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_of_hugging_face_gives_its_outputs_here(config, tensors, tmp_path, name):
  model = getattr(transformers, name)(transformers.BertConfig(**dataclasses.asdict(config))).eval()
  prefix = "bert." if name == "BertModel" else ""
  names = [name for name in model.state_dict() if prefix + name in tensors]
  state = {name: torch.from_numpy(tensors[prefix + name]) for name in names}
  missing, unexpected = model.load_state_dict(state, strict=False)
  assert not unexpected and all(key.startswith("cls.predictions.decoder.") for key in missing)
  model.save_pretrained(tmp_path)

  read_config, params, heads = folder.read_folder(tmp_path)
  assert read_config == config and heads == CLASSES[name]
  inputs = _inputs(config, 30)
  _compare(_ours(config, params, heads, inputs), _theirs(model.double(), inputs), 1e-9)


def _load(name, path, dtype=torch.float64):
  """Loads an export; nothing may stay at its random start, nor be dropped unless the class lacks the head."""
  model, report = getattr(transformers, name).from_pretrained(path, output_loading_info=True, dtype=dtype)
  assert not report["missing_keys"] and not report["mismatched_keys"] and not report["error_msgs"]
  lacking = {
    "BertForPreTraining": (),
    "BertForMaskedLM": ("bert.pooler.", "cls.seq_relationship."),
    "BertForNextSentencePrediction": ("cls.predictions.",),
    "BertModel": ("cls.",),
  }[name]
  assert all(key.startswith(lacking) for key in report["unexpected_keys"]), report["unexpected_keys"]
  return model


@pytest.mark.parametrize(
  "name, head", [*((name, "pretraining") for name in CLASSES), ("BertForMaskedLM", "mlm"), ("BertModel", "encoder")]
)
def test_an_export_gives_the_same_outputs_in_hugging_face(config, params, exported, name, head):
  model, inputs = _load(name, exported / head).eval(), _inputs(config, 30)
  kept = {"pooler": {"pooler"}, "nsp_head": {"nsp"}, "mlm_head": {"mlm"}, "encoder": HEADS}
  params = {part: tree for part, tree in params.items() if kept[part] & CLASSES[name]}
  _compare(_ours(config, params, CLASSES[name], inputs), _theirs(model, inputs), 1e-9)


LEARNING = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.01}


@jax.jit
def _loss(output, inputs, labels, weights):
  """The three terms that `_torch_loss` has, each with a weight."""
  mlm = optax.softmax_cross_entropy_with_integer_labels(output.prediction_logits, jnp.maximum(labels, 0))
  nsp = optax.softmax_cross_entropy_with_integer_labels(output.nsp_logits[:, 0], inputs.sequence_labels[:, 0])
  real = (inputs.segment_ids > 0)[:, :, None]
  cubes = jnp.where(real, output.sequence_output**3, 0).sum() / real.sum() + (output.pooled_output**3).mean()
  mlm = (mlm * (labels >= 0)).sum() / (labels >= 0).sum()
  return weights[0] * mlm + weights[1] * nsp.mean() + weights[2] * cubes


@functools.partial(jax.jit, static_argnums=0)
def _train_step(model, params, inputs, labels, weights):
  optimizer = optax.adamw(**LEARNING)
  loss = lambda p: _loss(model.apply({"params": p}, inputs, None), inputs, labels, weights)
  gradient = jax.grad(loss)(params)
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  return optax.apply_updates(params, updates)


def _torch_loss(model, inputs, labels):
  """Hugging Face's own loss; a BertModel has none, so it gets the mean cube of its outputs."""
  labels = torch.from_numpy(labels).long()
  nsp_labels = torch.from_numpy(np.array(inputs.sequence_labels[:, 0])).long()
  batch_ = _torch_inputs(inputs)
  if isinstance(model, transformers.BertForPreTraining):
    return model(**batch_, labels=labels, next_sentence_label=nsp_labels).loss
  if isinstance(model, transformers.BertForMaskedLM):
    return model(**batch_, labels=labels).loss
  if isinstance(model, transformers.BertForNextSentencePrediction):
    return model(**batch_, labels=nsp_labels).loss
  output, real = model(**batch_), batch_["attention_mask"][:, :, None]
  return (output.last_hidden_state**3 * real).sum() / real.sum() + (output.pooler_output**3).mean()


@pytest.mark.parametrize(
  "name, weights",
  [
    ("BertForPreTraining", (1, 1, 0)),
    ("BertForMaskedLM", (1, 0, 0)),
    ("BertForNextSentencePrediction", (0, 1, 0)),
    ("BertModel", (0, 0, 1)),
  ],
)
def test_one_step_of_adamw_in_torch_and_here_gives_the_same_outputs(config, params, exported, name, weights):
  """Outputs, not parameters: a key bias has no gradient but rounding errors, which Adam may blow up."""
  inputs = _inputs(config, 30)
  chosen = np.random.default_rng(2).random((3, 30)) < 0.2
  labels = np.where(chosen & (np.asarray(inputs.segment_ids) > 0), 3 + np.arange(30)[None], -100)
  model = _load(name, exported / "pretraining").train()
  optimizer = torch.optim.AdamW(
    model.parameters(),
    lr=LEARNING["learning_rate"],
    eps=LEARNING["eps"],
    betas=(LEARNING["b1"], LEARNING["b2"]),
    weight_decay=LEARNING["weight_decay"],
  )
  before = _theirs(model, inputs)
  _torch_loss(model, inputs, labels).backward()
  optimizer.step()
  after = _theirs(model, inputs)

  with jax.enable_x64(True):
    stepped = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    ours = PretrainingModel(config, dtype=jnp.float64, param_dtype=jnp.float64)
    stepped = _train_step(ours, stepped, inputs, jnp.asarray(labels), jnp.asarray(weights, jnp.float64))
    output = _apply(ours, stepped, inputs)
  lacking = {name: None for name in ("pooled_output", "prediction_logits", "nsp_logits") if name not in after}
  _compare(output._replace(**lacking), after, 1e-9)
  trained = {"BertForMaskedLM": "prediction_logits", "BertModel": "sequence_output"}.get(name, "nsp_logits")
  assert np.abs(after[trained] - before[trained]).max() > 1e-2


@pytest.mark.slow
def test_bert_base_agrees_in_float32(tmp_path):
  config, rng = encoder_config("bert-base"), np.random.default_rng(0)
  tensors = {}
  for entry in entries(BERT, config):
    mean = 1.0 if "LayerNorm.weight" in entry.theirs else 0.0
    # 0.04 is the size of trained weights: at 0.3 and this width, softmax is a step function.
    drawn = rng.standard_normal(their_shape(entry, config), np.float32)
    tensors[entry.theirs] = (mean + 0.04 * drawn).astype(np.float32)
  params, heads = from_huggingface(tensors, config)
  model = transformers.BertForPreTraining(transformers.BertConfig(**dataclasses.asdict(config))).eval()
  state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
  missing, _ = model.load_state_dict(state, strict=False)
  assert all(key.startswith("cls.predictions.decoder.") for key in missing)
  inputs = _inputs(config, 128)
  _compare(_ours(config, params, heads, inputs, jnp.float32), _theirs(model, inputs), 1e-4)
