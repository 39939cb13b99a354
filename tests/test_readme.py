"""The two READMEs against the code: what they tell people to type has to work, and what they name has to be there."""

import ast
import functools
import pathlib
import re
import shlex

import pytest

from bert_jax import __main__ as command_line
from bert_jax import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[1]
READMES = ("README.md", "README.zh-CN.md")
PAGES = (
  *READMES,
  "CONTRIBUTING.md",
  "docs/architecture.md",
  "docs/corpus.md",
  "docs/run.md",
  "docs/report.md",
  "docs/plan.md",
  "docs/performance.md",
  "launch/README.md",
  "launch/README.zh-CN.md",
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
GROUPS = {key.partition(".")[0] for key in configs.KEYS if "." in key}
NOT_CONFIG_STEPS = {"skipped_steps", "window_steps"}  # names of metrics
# Files of a corpus, a run or an export that look like config keys.
NOT_KEYS = {"config.json", "export.py", "model.safetensors", "data.json", "config.py", "prepare.py", "checkpoint.py"}


def read(page):
  return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
  return [text for found, text in BLOCK.findall(read(page)) if found == language]


def inline(page):
  """What stands between single backticks outside of code blocks."""
  return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", BLOCK.sub("", read(page)))


def commands(page):
  """Every line of the shell blocks as words, with continued lines joined."""
  lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
  return [shlex.split(line, comments=True) for line in lines if line.strip()]


def bert_jax_commands(page):
  """The words behind `python -m bert_jax`, whatever stands in front of it, up to the end of the command; a variable of
  the shell is a 0.
  """
  for words in commands(page):
    if "bert_jax" in words and words[: words.index("bert_jax")][-2:] == ["python", "-m"]:
      words = words[words.index("bert_jax") + 1 :]
      end = next((place for place, word in enumerate(words) if word in ("&", "&&", "||", "|", ";", ">")), len(words))
      yield [re.sub(r"\$\w+", "0", word) for word in words[:end]]


@functools.cache
def parser_of(command):
  return command_line.make_parser(only=command)


@functools.cache
def known_flags():
  """All flags of all commands, and --config.KEY for every key."""
  flags = {"--help", "--version"} | {f"--config.{key}" for key in configs.KEYS}
  for command in command_line.COMMANDS:
    subparsers = next(action for action in parser_of(command)._actions if action.dest == "command")
    flags |= {flag for action in subparsers.choices[command]._actions for flag in action.option_strings}
  return flags


@pytest.mark.parametrize("page", READMES)
def test_every_command_parses(page):
  found = list(bert_jax_commands(page))
  assert len(found) >= 15
  for words in found:
    words = [command_line.with_underscores(word) for word in words]
    assert words[0] in command_line.COMMANDS, words
    try:
      options, rest = parser_of(words[0]).parse_known_args(words)
    except SystemExit:
      pytest.fail(f"{page}: `python -m bert_jax {shlex.join(words)}` is not what the command line takes")
    assert all(word.startswith("--config.") for word in rest), (page, words, rest)
    assert not rest or "config" in options, (page, words)
    if getattr(options, "config", None):
      overrides = [word.removeprefix("--config.") for word in rest]
      configs.load_config(str(ROOT / options.config), overrides)  # the file, its variant, every key and value


def test_both_readmes_show_the_same_commands_in_the_same_order():
  english, chinese = map(commands, READMES)
  assert english == chinese


def test_both_readmes_show_the_same_python_but_for_comments():
  english, chinese = ([ast.dump(ast.parse(text)) for text in blocks(page, "python")] for page in READMES)
  assert english == chinese and english


@pytest.mark.parametrize("page", READMES)
def test_make_targets_exist(page):
  targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.M)
  used = [word for words in commands(page) if words[0] == "make" for word in words[1:]]
  used += [text.removeprefix("make ") for text in inline(page) if re.fullmatch(r"make [a-z-]+", text)]
  assert {"pretrain", "test", "test-slow"} <= set(used) <= set(targets)


@pytest.mark.parametrize("page", READMES)
def test_the_table_of_commands_is_that_of_the_program(page):
  section = re.search(r"^## (?:Commands|命令)\n(.*?)^## ", read(page), re.S | re.M)[1]
  assert re.findall(r"^\| `([a-z-]+)` \|", section, re.M) == list(command_line.COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_test_that_is_named_exists(page):
  here = (ROOT / page).parent
  named = [name for name in inline(page) if re.match(r"(bert_jax|configs|tests|docs|\.ci)/[\w./:-]+$", name)]
  for name in named:
    path, _, test = name.partition("::")
    assert (ROOT / path).exists(), (page, name)
    assert not test or f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8"), (page, name)
  for target in re.findall(r"\]\(([^)#]+)\)", BLOCK.sub("", read(page))):
    assert target.startswith("https://") or (here / target).exists(), (page, target)


@pytest.mark.parametrize("page", PAGES)
def test_every_config_key_and_flag_that_is_named_exists(page):
  for name in inline(page):
    key = name.partition("=")[0]
    group, dot, rest = key.partition(".")
    if dot and group in GROUPS and re.fullmatch(r"[a-z_]+", rest) and key not in NOT_KEYS:
      assert key in configs.KEYS, (page, name)
    if re.fullmatch(r"[a-z]+(_[a-z]+)*_steps", name):
      assert key in configs.KEYS or name in NOT_CONFIG_STEPS, (page, name)
    if name.startswith("--") and not page.startswith("launch/"):  # those pages name flags of other programs too
      assert key in known_flags() or key == "--config.KEY", (page, name)
