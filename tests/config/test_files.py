"""Config files and overrides (law 9): no silent keys."""

import pathlib

import pytest

from bert_jax import config as configs
from bert_jax.errors import UserError

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"


def write(tmp_path, body):
  path = tmp_path / "mine.py"
  path.write_text(
    f"from bert_jax.config import default_config\ndef get_config(variant=''):\n  config = default_config()\n{body}\n  "
    "return config\n"
  )
  return str(path)


def test_an_unknown_key_in_a_file_is_an_error_that_names_the_nearest(tmp_path):
  with pytest.raises(UserError, match="learning_rat.*learning_rate"):
    configs.load_config(write(tmp_path, "  config.optimizer.learning_rat = 1.0"))


@pytest.mark.parametrize(
  "body, said",
  [
    ("  config.dta = 3", r"mine.py:4: unknown config key 'dta'; did you mean 'data"),
    (
      "  config.optimizer.update(learningrate=3)",
      "mine.py:4: unknown config key 'learningrate'; did you mean 'optimizer.learning_rate'",
    ),
    ("  config.data.batch_size = 'x'", "mine.py:4: TypeError"),
    ("  import nosuchmodule", "mine.py:4: ModuleNotFoundError: No module named 'nosuchmodule'"),
    ("  1 / 0", "mine.py:4: ZeroDivisionError"),
    ("  x = (", "mine.py:[45]: SyntaxError"),
  ],
)
def test_a_config_file_that_fails_is_one_line_with_file_and_line(tmp_path, body, said):
  with pytest.raises(UserError, match=said) as error:
    configs.load_config(write(tmp_path, body))
  assert len(str(error.value)) < 250


def test_a_config_that_is_no_python_file_is_refused(tmp_path):
  (tmp_path / "notes.txt").write_text("hello")
  with pytest.raises(UserError, match="notes.txt: a config is a Python file"):
    configs.load_config(str(tmp_path / "notes.txt"))


def test_an_unknown_key_on_the_command_line_is_an_error_that_names_the_nearest(tmp_path):
  with pytest.raises(UserError, match="'data.batchsize'; did you mean 'data.batch_size'"):
    configs.load_config(write(tmp_path, ""), ["data.batchsize=4"])


def test_an_override_by_the_name_that_a_key_had_names_the_new_one(tmp_path):
  with pytest.raises(UserError, match=r"'finetune.max_length' is called 'tuning.max_length' now"):
    configs.load_config(write(tmp_path, ""), ["finetune.max_length=64"])


@pytest.mark.parametrize(
  "override, key, value",
  [
    ("data.batch_size=64", "data.batch_size", 64),
    ("total_steps=1e3", "total_steps", 1000),
    ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
    ("deterministic=true", "deterministic", True),
    ("data.corpus=7", "data.corpus", "7"),
    ("model.hidden_size=64", "model.hidden_size", 64),
    ("masking.max_predictions=20", "masking.max_predictions", 20),
  ],
)
def test_overrides_take_the_type_of_the_key(tmp_path, override, key, value):
  found = configs.flatten(configs.load_config(write(tmp_path, ""), [override]))[key]
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  "override",
  [
    "data.batch_size=many",
    "total_steps=1.5",
    "deterministic=2",
    "masking.rate=2",
    "optimizer.name=sgd",
    "data.batch_size=0",
    "optimizer.microbatches=7",
    "data.batch_size",
    "optimizer.learning_rate=-1",
    "optimizer.warmup_steps=-1",
    "eval_rows=-1",
    "checkpoint.keep_last=-1",
    "optimizer.b1=1",
    "optimizer.weight_decay=-1",
    "optimizer.clip_norm=-1",
    "masking.rate=0",
    "seed=-1",
    "seed=4294967296",
    "optimizer.decay_fraction=2",
  ],
)
def test_values_that_cannot_work_are_refused_by_the_name_of_their_key(tmp_path, override):
  with pytest.raises(UserError, match=override.partition("=")[0]):
    configs.load_config(write(tmp_path, ""), [override])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_of_the_project_loads_and_says_what_it_costs(path):
  text = path.read_text(encoding="utf-8")
  for heading in ("Paper:", "Command:", "Hardware:", "Cost:", "Result:"):
    assert heading in text, f"{path.name} does not state its {heading}"
  variants = [""] if path.stem == "quickstart" else ["phase1", "phase2", "local"]
  for variant in variants:
    configs.load_config(f"{path}:{variant}")
  with pytest.raises(UserError, match="nonsense"):
    configs.load_config(f"{path}:nonsense")


def test_a_missing_file_and_a_file_without_get_config_are_named(tmp_path):
  with pytest.raises(UserError, match="no config file"):
    configs.load_config(str(tmp_path / "none.py"))
  (tmp_path / "empty.py").write_text("x = 1\n")
  with pytest.raises(UserError, match="get_config"):
    configs.load_config(str(tmp_path / "empty.py"))
