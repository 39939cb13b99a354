"""What launch/README.md and its Chinese version tell people to type, and the files and variables they name."""

import re

import pytest

from bert_jax import __main__ as command_line
from tests import test_readme as readmes
from tests.launch.fake_gcloud import check
from tests.launch.programs import LAUNCH, ROOT

PAGES = ("launch/README.md", "launch/README.zh-CN.md")
SOURCES = "".join(path.read_text(encoding="utf-8") for path in LAUNCH.iterdir() if path.suffix != ".md")


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse_and_files_and_variables_are_there(page):
  for words in readmes.bert_jax_commands(page):
    _, rest = command_line.make_parser(only=words[0]).parse_known_args(words)
    assert all(word.startswith("--config.") for word in rest), words
  for words in readmes.commands(page):
    if words[0] == "gcloud":
      check(words[1:])
  text = readmes.read(page)
  assert all((ROOT / path).exists() for path in re.findall(r"(?:launch|configs)/[\w-]+(?:\.[\w]+)+", text))
  assert set(re.findall(r"\b(?:BERT_JAX|TPU)_[A-Z_]+", text)) <= set(re.findall(r"\b(?:BERT_JAX|TPU)_[A-Z_]+", SOURCES))
