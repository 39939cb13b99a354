"""loaded.py: what bert_jax.load gives, and that JAX can differentiate and compile through it."""

import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference import loaded, pipelines
from bert_jax.inference import model as inference
from bert_jax.models.pooling import pool
from tests.helpers.labelled_models import LABELS

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(exported):
  return bert_jax.load(exported / "pretraining")  # of 40 positions


def test_importing_the_package_imports_neither_jax_nor_numpy():
  code = (
    "import bert_jax, sys; bert_jax.load; sys.exit(bool({'jax', 'numpy', 'flax', 'tokenizers'} & set(sys.modules)))"
  )
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# What a user's process has that a library must leave alone. The libraries that ours imports, and what they change, come
# first.
UNTOUCHED = """
import importlib, logging, pathlib, signal, sys, warnings
import jax, flax.linen, optax, orbax.checkpoint, scipy.stats

def seen():
  loggers = [logging.root, *(each for each in logging.root.manager.loggerDict.values() if hasattr(each, "level"))]
  return {
    "hooks": (sys.unraisablehook, sys.excepthook, sys.displayhook),
    "loggers": {each.name: (each.level, each.filters[:], each.handlers[:], each.propagate) for each in loggers},
    "warnings": (warnings.filters[:], warnings.showwarning),
    "signals": [signal.getsignal(each) for each in signal.valid_signals()],
  }

before = seen()
import bert_jax
package = pathlib.Path(bert_jax.__file__).parent
for path in package.rglob("*.py"):
  importlib.import_module(".".join(["bert_jax", *path.relative_to(package).with_suffix("").parts]))
bert_jax.load(sys.argv[1]).fill_mask("the [MASK] sat")
after = seen()
after["loggers"] = {name: after["loggers"][name] for name in before["loggers"]}  # not those of later imports
assert after == before, [kind for kind in before if after[kind] != before[kind]]
"""


def test_importing_every_module_and_loading_a_model_leaves_the_process_as_it_was(exported):
  done = subprocess.run(
    [sys.executable, "-c", UNTOUCHED, str(exported / "pretraining")], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_a_loaded_model_does_what_the_commands_do(model):
  assert isinstance(model, inference.Model) and model.config.hidden_size == 32
  texts = ["the cat sat.", "on the mat, the cat"]
  for pooling in ("cls", "pooler", "mean", "max"):
    np.testing.assert_array_equal(model.encode(texts, pooling).vectors, inference.encode(model, texts, pooling).vectors)
  assert model.fill_mask("the [MASK] sat", top_k=3) == inference.fill_mask(model, "the [MASK] sat", 3)


def test_a_model_is_one_line_in_a_notebook(model, model_of, bert_params):
  count = sum(leaf.size for leaf in jax.tree.leaves(bert_params))
  assert repr(model).endswith(
    f"pretraining': 3 layers of 32, 130 words, {count:,} parameters; heads: mlm, nsp, pooler)"
  )
  assert repr(loaded.LoadedModel(*model_of("classification"))).endswith("heads: pooler; classification)")


def test_a_fine_tuned_model_classifies_and_another_says_that_it_cannot(model_of, model):
  tuned = loaded.LoadedModel(*model_of("classification"))
  assert tuned.classify(["the cat", "a mat"]) == pipelines.classify(tuned, ["the cat", "a mat"])
  with pytest.raises(UserError, match="is not fine-tuned"):
    model.classify(["the cat"])


@pytest.mark.parametrize("kind", LABELS)
def test_an_export_of_a_fine_tuned_model_has_outputs_and_scores(exported_labels, model_of, kind):
  tuned = bert_jax.load(exported_labels(kind))
  inputs = tuned.tokenize(["the cat", "a mat"])
  assert tuned.apply(tuned.params, inputs).sequence_output.shape == (2, 32, 32) and tuned.heads <= {
    "mlm",
    "nsp",
    "pooler",
  }
  scores, before = tuned.scores(tuned.params, inputs), pipelines.scores_of(model_of(kind), inputs)
  assert scores.shape == ((2,) if kind in ("classification", "multi-label", "regression") else (2, 32)) + (
    len(LABELS[kind].names),
  )
  np.testing.assert_allclose(scores, before * LABELS[kind].scale, rtol=1e-4, atol=1e-4)


def test_tokenize_makes_rows_of_pairs_with_masks_cut_to_the_model(model):
  special = model.tokenizer.special
  inputs = model.tokenize(["the [MASK] sat", "cat " * 99], ["on the mat", ""])
  ids = [model.tokenizer.backend.token_to_id(word) for word in ("the", "sat", "on", "mat")]
  the, sat, on, mat = ids
  row = [special.cls, the, special.mask, sat, special.sep, on, the, mat, special.sep]
  assert inputs.input_ids.shape == (2, 40) and inputs.input_ids.dtype == np.int32
  assert inputs.input_ids[0, : len(row)].tolist() == row and not inputs.segment_ids[0, len(row) :].any()
  assert inputs.token_type_ids[0, : len(row)].tolist() == [0] * 5 + [1] * 4
  assert inputs.sequence_lengths.tolist() == [[9], [40]]  # the long one lost its end
  assert model.tokenize(["the cat"]).token_type_ids.sum() == 0


@pytest.mark.parametrize("texts, pairs", [([], None), ("one text", None), (["a", "b"], ["c"])])
def test_tokenize_refuses_what_is_no_list_of_texts(model, texts, pairs):
  with pytest.raises(UserError, match="expected a list of texts"):
    model.tokenize(texts, pairs)


def test_one_text_in_place_of_a_list_is_not_read_as_characters(model, model_of):
  labelled = loaded.LoadedModel(*model_of("classification"))
  for call in (model.encode, labelled.classify):
    with pytest.raises(UserError, match=r"expected a list of texts, got one text: \['the cat'\]"):
      call("the cat")


@pytest.mark.parametrize(
  "texts, said", [(["a", None], "number 1 of 2 is None, a NoneType"), ([b"a"], "is b'a', a bytes")]
)
def test_what_is_no_text_is_named(model, model_of, texts, said):
  for call in (model.encode, model.tokenize, loaded.LoadedModel(*model_of("classification")).classify):
    with pytest.raises(UserError, match=said):
      call(texts)


@pytest.mark.parametrize("text", [["the [MASK] sat", "a mat"], ("the [MASK]",), None])
def test_masks_are_filled_in_one_text(model, text):
  with pytest.raises(UserError, match="expected one text, got"):
    model.fill_mask(text)


def test_texts_come_in_anything_that_yields_them(model, model_of):
  labelled, texts = loaded.LoadedModel(*model_of("classification")), ["the cat", "a mat"]
  for given in (lambda: np.array(texts), lambda: (text for text in texts), lambda: tuple(texts)):
    assert labelled.classify(given(), given()) == labelled.classify(texts, texts)
    np.testing.assert_array_equal(model.encode(given()).vectors, model.encode(texts).vectors)
    np.testing.assert_array_equal(model.tokenize(given(), given()).input_ids, model.tokenize(texts, texts).input_ids)
  with pytest.raises(UserError, match="got one text"):
    labelled.classify(["a"], "b")
  with pytest.raises(UserError, match="batch_size=0: expected 1 or more"):
    model.encode(["a"], batch_size=0)


def test_outputs_have_the_shapes_that_are_promised(model):
  output = model.apply(model.params, model.tokenize(["the cat", "a mat"]), jnp.array([[1, 2], [1, 3]]))
  shapes = {
    name: value.shape
    for name, value in output._asdict().items()
    if not isinstance(value, tuple) and name != "padded_prediction_logits"
  }
  assert shapes == {
    "sequence_output": (2, 32, 32),
    "pooled_output": (2, 1, 32),
    "masked_output": (2, 2, 32),
    "prediction_logits": (2, 2, 130),
    "nsp_logits": (2, 1, 2),
  }
  assert [state.shape for state in output.hidden_states] == 4 * [(2, 32, 32)]
  assert model.apply(model.params, model.tokenize(["the cat"])).prediction_logits.shape == (1, 32, 130)
  assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {np.dtype(np.float32)}


def test_gradients_through_apply_are_those_of_finite_differences_and_of_jit(model):
  inputs = model.tokenize(["the cat sat on the mat.", "a cat"])

  def distance(params):
    output = model.apply(params, inputs)
    a, b = pool(output.sequence_output, output.pooled_output, inputs, "mean")
    return (
      a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b) + output.prediction_logits[0, 2, 7] + output.nsp_logits[1, 0, 0]
    )

  gradients = jax.grad(distance)(model.params)
  compiled = jax.jit(jax.grad(distance))(model.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, compiled)
  assert all(
    np.any(np.asarray(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
    if "key" not in str(path) or "bias" not in str(path)
  )  # softmax does not see a bias of the keys
  rng = np.random.default_rng(0)
  direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), model.params)
  along = lambda t: distance(jax.tree.map(lambda leaf, step: leaf + t * step, model.params, direction))
  slope = sum(float(np.vdot(g, d)) for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction)))
  assert slope == pytest.approx(float(along(1e-3) - along(-1e-3)) / 2e-3, rel=0.02)


def test_apply_itself_can_be_jitted_and_changes_nothing(model):
  inputs = model.tokenize(["the [MASK] sat"])
  before = jax.tree.map(np.array, model.params)
  plain, compiled = model.apply(model.params, inputs), jax.jit(model.apply)(model.params, inputs)
  np.testing.assert_allclose(plain.prediction_logits, compiled.prediction_logits, atol=1e-4)
  jax.tree.map(np.testing.assert_array_equal, before, model.params)
  zeros = jax.tree.map(np.zeros_like, model.params)
  assert not np.asarray(model.apply(zeros, inputs).sequence_output).any()  # the parameters are those that were given


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_examples_of_the_readme_run(page, exported, tmp_path, monkeypatch, capsys):
  blocks = [
    text
    for text in re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.S | re.M)
    if "bert_jax.load(" in text
  ]
  assert len(blocks) == 2
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "quickstart").symlink_to(exported / "pretraining")
  monkeypatch.chdir(tmp_path)
  for code in blocks:
    exec(compile(code, page, "exec"), {"__name__": "example"})
  cosines = [
    float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if "cosine" in line and "step" in line
  ]
  assert cosines[-1] > cosines[0]  # the second one pulls two vectors together


def test_vectors_need_no_scores_of_words(model):
  without = model._replace(
    params={name: tree for name, tree in model.params.items() if name not in ("mlm_head", "nsp_head")}
  )
  np.testing.assert_array_equal(
    without.encode(["the cat"], "pooler").vectors, model.encode(["the cat"], "pooler").vectors
  )
