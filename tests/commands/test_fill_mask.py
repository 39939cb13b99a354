"""fill-mask: guesses at [MASK], and models that have no head for it."""

import json
import shutil

import pytest


def test_fill_mask_tells_of_text_that_the_vocabulary_does_not_know(call, model):
  code, shown, err = call("fill-mask", f"--model={model}", "the cat [MASK] on the mat.")
  assert code == 0 and not err and shown.count("%") == 5
  code, shown, err = call("fill-mask", f"--model={model}", "--json", "猫坐在[MASK]垫子上")
  assert code == 0 and "of the tokens are [UNK]" in err
  assert len(json.loads(shown)["masks"][0]) == 5


@pytest.mark.parametrize(
  "text, said",
  [
    ("no mask", "no [MASK] in 'no mask'"),
    ("", "no [MASK] in ''"),
    ("[MASK] " + "cat " * 600, "has 601 tokens; this model takes at most 38"),
  ],
)
def test_fill_mask_refuses_text_without_a_mask_or_too_long(call, model, text, said):
  code, shown, err = call("fill-mask", f"--model={model}", text)
  assert code == 1 and said in err and not shown


def test_a_head_that_a_model_does_not_have_is_named(call, exported):
  for arguments in (
    ("fill-mask", f"--model={exported / 'encoder'}", "[MASK]"),
    ("next-sentence", f"--model={exported / 'mlm'}", "a", "b"),
  ):
    code, _, err = call(*arguments)
    assert code == 1 and "which" in err and "does not have" in err


def test_a_damaged_model_folder_is_named(call, model, tmp_path):
  shutil.copytree(model, tmp_path / "copy")
  with open(tmp_path / "copy" / "model.safetensors", "r+b") as file:
    file.truncate(1000)
  code, _, err = call("fill-mask", f"--model={tmp_path / 'copy'}", "[MASK]")
  assert code == 1 and "model.safetensors: not a readable safetensors file" in err
