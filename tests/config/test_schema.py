"""The rows of the schema."""

import subprocess
import sys

import pytest

from bert_jax import config as configs


@pytest.mark.parametrize("key", configs.KEYS.values(), ids=lambda key: key.name)
def test_a_meaning_stands_alone_and_names_every_choice(key):
  assert key.meaning[0].isupper() or key.meaning.startswith(("vocab.txt", "jieba:"))
  assert key.meaning.endswith(".") and "\n" not in key.meaning
  if key.name != "model.preset":
    assert [name for name in key.options if name not in key.meaning] == []


def test_the_fields_of_the_encoder_say_in_their_docstring_what_they_mean():
  assert configs.meaning("model.hidden_size") == "Overrides the preset: width of the residual stream."
  assert all(f": {name}" not in configs.meaning(f"model.{name}") for name in configs.MODEL_FIELDS)


def test_help_waits_for_no_jax():
  code = "import sys; from bert_jax import config; config.help_lines(); sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
