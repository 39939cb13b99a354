"""What others wrote reaches a terminal as text."""

import ast
import json
import pathlib

import pytest
import safetensors.numpy

import bert_jax
from bert_jax.__main__ import main
from bert_jax.convert import folder
from bert_jax.data.tokenizer.wordpiece import build_tokenizer, save_tokenizer
from bert_jax.errors import show

_PRINTING = ("errors.py", "__main__.py", "config/__main__.py", "tools/plan/ahead.py", "training/progress.py")
_EVIL = "\x1b[2J\x9b1A\u202e"


def test_control_characters_come_out_as_escapes_and_json_stays_json(capsys):
  show("a\tb\n", _EVIL, "\x7f", sep="")
  assert capsys.readouterr().out == "a\tb\n\\x1b[2J\\u009b1A\\u202e\\u007f\n"
  show(json.dumps({"token": _EVIL + "\x7f\r\u2028"}, ensure_ascii=False))
  assert json.loads(capsys.readouterr().out) == {"token": _EVIL + "\x7f\r\u2028"}


@pytest.mark.parametrize("text", ["में क्\u200dष", "می\u200cخواهم", "👩\u200d👩", "全角\u3000空白", "é e\u0301 \xa0"])
def test_the_text_of_no_language_is_touched(text, capsys):
  show(text)
  assert capsys.readouterr().out == text + "\n"


def test_nothing_else_prints():
  """But for the page of a configuration and answers that are JSON by construction."""
  package = pathlib.Path(bert_jax.__file__).parent
  for path in package.rglob("*.py"):
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)]
    prints = [node.lineno for node in nodes if node.id == "print"]
    named = path.relative_to(package).as_posix()
    assert not prints or named in _PRINTING, f"{named}:{prints}"


def test_tokens_of_a_vocabulary_are_no_commands_to_a_terminal(exported, tmp_path, capsys):
  """All tokens but the special ones hold an escape: whichever are the likeliest, none of them reaches the terminal."""
  model = tmp_path / "model"
  params, config = folder.read_folder(exported / "pretraining")[1], folder.read_folder(exported / "pretraining")[0]
  vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  vocabulary += [f"{_EVIL}{number}" for number in range(config.vocab_size - 5)]
  save_tokenizer(build_tokenizer(vocabulary, lowercase=False), tmp_path / "tokenizer", max_length=32)
  folder.write_folder(model, params, config, tmp_path / "tokenizer")
  assert safetensors.numpy.load_file(model / "model.safetensors")
  for flags in ([], ["--json"]):
    assert main(["fill-mask", f"--model={model}", f"the [MASK] {_EVIL}", *flags]) == 0
    out = capsys.readouterr()
    assert not set("\x1b\x9b\u202e") & set(out.out + out.err) and "\\u009b1A" in out.out
