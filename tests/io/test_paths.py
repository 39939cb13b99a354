"""paths.py: a home folder is named by "~" in one place, and means the same to everything behind it."""

import argparse
import os

import pytest

from bert_jax import __main__ as command_line
from bert_jax import config as configs
from bert_jax.io.paths import expanded


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  return str(tmp_path / "home")


@pytest.mark.parametrize(
  "given, means",
  [
    ("~", "{home}"),
    ("~/run", "{home}/run"),
    ("~/own.py:base", "{home}/own.py:base"),
    ("text:~/books/*.txt", "text:{home}/books/*.txt"),
    ("~/a=1,~/b=2", "{home}/a=1,{home}/b=2"),
    ("/data/a=1,~/b=2", "/data/a=1,{home}/b=2"),
    ("~nobody-of-this-name/run", "~nobody-of-this-name/run"),
    ("runs/~/x", "runs/~/x"),
    ("runs/x~", "runs/x~"),
    ("gs://bucket/~/x", "gs://bucket/~/x"),
    ("tfds:glue/sst2:train", "tfds:glue/sst2:train"),
    ("-", "-"),
    ("", ""),
  ],
)
def test_a_home_folder_is_expanded_where_one_stands_and_nowhere_else(home, given, means):
  assert expanded(given) == means.format(home=home)


def path_flags() -> list[tuple[str, argparse.Action]]:
  """Every flag of every command that takes files, folders or sources."""
  (commands,) = [found for found in command_line.make_parser()._actions if found.choices and found.dest == "command"]
  named = lambda flag: isinstance(flag.metavar, str) and flag.metavar.startswith(("DIR", "FILE", "SPEC"))
  return [(name, flag) for name, parser in commands.choices.items() for flag in parser._actions if named(flag)]


def test_every_flag_that_names_files_is_expanded():
  flags = path_flags()
  assert len(flags) > 30 and {"--workdir", "--out", "--corpus", "--source", "--model", "--input", "--pairs"} <= {
    word for _, flag in flags for word in flag.option_strings
  }
  assert not [(name, flag.option_strings) for name, flag in flags if flag.type is not expanded]


@pytest.mark.parametrize("key", [key.name for key in configs.KEYS.values() if key.path])
def test_every_key_that_names_files_is_expanded_on_the_command_line_and_in_a_config_file(home, tmp_path, key):
  value = "/c=1,~/b=2" if key == "data.mixture" else "~/place"
  config = configs.default_config()
  configs.apply_override(config, f"{key}={value}")
  assert home in configs.flatten(config)[key]
  file = tmp_path / "own.py"
  file.write_text(
    "from bert_jax import config as configs\ndef get_config(variant):\n  config = configs.default_config()\n"
    f"  config.{key} = {value!r}\n  return config\n"
  )
  assert configs.flatten(configs.load_config(str(file)))[key] == configs.flatten(config)[key]


def test_the_keys_that_name_files_are_marked():
  """By their meaning: a new key that speaks of folders and files is looked at here."""
  speaks = lambda key: any(word in key.meaning.lower() for word in ("folder", "file", "corpora", "raw text that"))
  found = {key.name for key in configs.KEYS.values() if key.type is str and speaks(key)}
  assert found - {key.name for key in configs.KEYS.values() if key.path} == {"export.format", "tuning.text"}


def test_a_run_lies_whole_in_the_home_folder(home, tmp_path, monkeypatch, capfd):
  """Checkpoints, config and everything else: not a part of it in a folder that is called ~."""
  monkeypatch.chdir(tmp_path)
  own = "~/no-corpus"
  words = ["pretrain", "--config=quickstart", "--workdir=~/run", f"--config.data.corpus={own}", "--config.data.source="]
  assert command_line.main(words) == 1
  assert f"{home}/no-corpus" in capfd.readouterr().err and not os.path.exists("~")
