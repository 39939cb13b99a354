"""`pretrain` as a user calls it: from text to the last lines, and what it refuses."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from bert_jax.__main__ import main
from bert_jax.commands import pretrain
from bert_jax.data.corpus.folder import read_corpus_manifest
from bert_jax.training.checkpoints import reading
from bert_jax.training.metrics import read_metrics
from tests.helpers.tiny_runs import write_config, write_text


@pytest.fixture
def call(tmp_path, capsys):
  """call("--flag=…", …) -> (exit code, standard output, standard error) of a tiny run in tmp_path/run."""
  config = write_config(tmp_path)

  def call(*flags, config=config, workdir=tmp_path / "run"):
    code = main(["pretrain", f"--config={config}", f"--workdir={workdir}", *flags])
    shown = capsys.readouterr()
    return code, shown.out, shown.err

  return call


def with_source(folder, source):
  """A config that names corpus and source, as quickstart.py does."""
  path = folder / "with_source.py"
  lines = [
    "import sys",
    f"sys.path.insert(0, {str(folder)!r})",
    "import tiny",
    "def get_config(variant=''):",
    "  config = tiny.get_config()",
    f"  config.data.corpus = {str(folder / 'made')!r}",
    f"  config.data.source = {source!r}",
    "  config.total_steps = 2",
    "  config.optimizer.warmup_steps = 1",
    "  config.prepare.update(vocab_size=150, seq_length=32, validation_fraction=0.2, workers=1)",
    "  return config",
  ]
  path.write_text("\n".join(lines) + "\n")
  return path


def test_text_in_a_config_becomes_a_corpus_and_the_last_lines_say_how_good_and_where(call, tmp_path):
  config = with_source(tmp_path, f"text:{write_text(tmp_path / 'text.txt')}")
  code, out, err = call(config=config)
  assert code == 0 and "Preparing the corpus" in out and "corpus" in err
  entropy = read_corpus_manifest(tmp_path / "made")["unigram_entropy"]
  last = out[out.index("On the validation split:") :]
  assert f"the unigram entropy of the training split ({entropy:.3f})" in last
  assert "eval/nsp_accuracy" in last and "pairs; majority baseline: 0." in last
  for place in ("checkpoints", "metrics", "tensorboard", "export"):
    assert str(tmp_path / "run" / place) in last
  assert "already trained" not in out
  code, out, _ = call(config=config)
  assert code == 0 and "has already trained its 2 steps; evaluating it again" in out


def test_another_corpus_is_not_made_of_the_source_that_the_config_file_names(call, tmp_path):
  config = with_source(tmp_path, f"text:{write_text(tmp_path / 'text.txt')}")
  before = sorted(tmp_path.iterdir())
  code, _, err = call(f"--config.data.corpus={tmp_path / 'mistyped'}", config=config)
  assert code == 1 and err.count("\n") == 1
  assert "mistyped: there is no such folder" in err and f"--config.data.source=text:{tmp_path / 'text.txt'}" in err
  assert sorted(path for path in tmp_path.iterdir() if path.name != "__pycache__") == before


def test_another_corpus_is_made_where_its_source_is_given_too(call, tmp_path):
  text = write_text(tmp_path / "text.txt")
  config = with_source(tmp_path, "text:/nowhere")
  code, _, _ = call(f"--config.data.corpus={tmp_path / 'other'}", f"--config.data.source=text:{text}", config=config)
  assert code == 0 and (tmp_path / "other" / "manifest.json").is_file()


def test_a_mistake_in_the_config_is_told_before_a_corpus_is_prepared(call, tmp_path):
  config = with_source(tmp_path, f"text:{write_text(tmp_path / 'text.txt')}")
  for flag, said in (
    ("data.batch_size=7", "data.batch_size=7 does not divide over 8 devices"),
    ("model.preset=bert-huge", "config key 'model.preset' must be one of 'bert-base'"),
    ("optimizer.warmup_steps=3", "optimizer.warmup_steps=3"),
  ):
    code, out, err = call(f"--config.{flag}", config=config)
    assert code == 1 and said in err and "Preparing" not in out
  assert not (tmp_path / "made").exists() and not (tmp_path / "run").exists()


def test_a_finished_run_of_another_config_is_not_said_to_be_evaluated_again(call, tmp_path, corpus):
  flags = (f"--config.data.corpus={corpus}", "--config.total_steps=2", "--config.optimizer.warmup_steps=1")
  assert call(*flags)[0] == 0
  code, out, err = call(*flags, "--config.seed=4")
  assert code == 1 and "already" not in out and "seed: 0 there, 4 now" in err


def test_a_file_in_the_place_of_the_workdir_is_left_alone(call, tmp_path, corpus):
  (tmp_path / "thesis.txt").write_text("years of work")
  for workdir, said in (
    (tmp_path / "thesis.txt", "is a file; a run needs a folder of its own"),
    (tmp_path / "thesis.txt" / "run", "Not a directory; a file stands where a folder is expected"),
  ):
    code, _, err = call(f"--config.data.corpus={corpus}", workdir=workdir)
    assert code == 1 and said in err and err.count("\n") == 1
  assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_corpus_whose_tokenizer_did_not_make_it_is_refused(call, tmp_path, corpus):
  copy = tmp_path / "copy"
  shutil.copytree(corpus, copy)
  path = copy / "tokenizer" / "tokenizer.json"
  content = json.loads(path.read_text())
  vocabulary = content["model"]["vocab"]
  vocabulary["a"], vocabulary["the"] = vocabulary["the"], vocabulary["a"]
  path.write_text(json.dumps(content))
  code, _, err = call(f"--config.data.corpus={copy}")
  assert code == 1 and "is not the tokenizer that made this corpus" in err
  assert not (tmp_path / "run").exists()


def test_stopping_later_than_the_schedule_names_the_remedy(call, corpus):
  code, _, err = call(f"--config.data.corpus={corpus}", "--config.stop_at_step=900000")
  assert code == 1 and "set stop_at_step=0" in err


def test_a_mixture_has_no_entropy_to_compare_with(tmp_path, capsys):
  from bert_jax import config as configs

  metrics = {"eval/mlm_loss": 2.0, "eval/mlm_accuracy": 0.25, "eval/predictions": 10.0}
  pretrain.print_result(tmp_path, configs.default_config(), metrics)
  shown = capsys.readouterr().out
  assert "eval/mlm_loss       2.000 nats\n" in shown and "unigram" not in shown


_START = """
import collections, json, sys, threading
import jax
from bert_jax.__main__ import main
from bert_jax.commands import processes as commands
from bert_jax.training.metrics import MetricsWriter
counts, imported_by, told = collections.Counter(), [], MetricsWriter.event
def start_jax():  # as ever, but that programs which compile fast are kept, too: how fast is a matter of the machine
  plain_start()
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
plain_start, commands.start_jax = commands.start_jax, start_jax
def note(event, of, found=imported_by, thread=threading.current_thread):  # globals are gone at the very end
  if event == "import" and of[0] == "tensorflow":
    found.append(thread().name)
sys.addaudithook(note)
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.rpartition("/")[2]]))
def event(writer, kind, **fields):
  told(writer, kind, **fields)
  if kind == "first_step":
    counts.update(tensorflow_before_first_step="tensorflow" in sys.modules)
MetricsWriter.event = event
assert main(sys.argv[1:]) == 0
print(json.dumps(counts | {"imported_by": imported_by}))
"""


@pytest.mark.slow
def test_a_second_start_compiles_nothing_anew_and_imports_tensorflow_behind_the_first_step(
  tmp_path, monkeypatch, corpus
):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
  config = write_config(tmp_path)

  def start(run, loader="tfdata"):
    flags = [
      f"--config={config}",
      f"--workdir={tmp_path / run}",
      f"--config.data.corpus={corpus}",
      f"--config.data.loader={loader}",
      "--config.total_steps=4",
      "--config.eval_every_steps=2",
      "--config.checkpoint.every_steps=2",
      "--config.optimizer.warmup_steps=1",
    ]
    done = subprocess.run([sys.executable, "-c", _START, "pretrain", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])

  first, second, without_tensorflow = start("first"), start("second"), start("third", loader="threads")
  assert first["cache_misses"] > 3  # the first state, the step, the evaluation, the checksums
  for found in (second, without_tensorflow):
    assert found.get("cache_misses", 0) == 0 and found["cache_hits"] == found["compile_requests_use_cache"]
  assert second["tensorflow_before_first_step"] == 0
  assert second["imported_by"] and all(name.startswith("bert_jax-tensorflow") for name in second["imported_by"])
  assert without_tensorflow["imported_by"] == []


def test_a_corpus_of_pairs_is_not_given_to_a_model_with_one_token_type(tmp_path, corpus, capsys):
  words = ["pretrain", f"--config={write_config(tmp_path)}", f"--workdir={tmp_path / 'run'}"]
  assert main([*words, f"--config.data.corpus={corpus}", "--config.model.type_vocab_size=1"]) == 1
  assert "a pair needs two token types. Set model.type_vocab_size=2" in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


@pytest.fixture
def trained(call, corpus, tmp_path):
  """The flags of a run of four steps that has ended; its folder is tmp_path/run."""
  flags = (f"--config.data.corpus={corpus}", "--config.optimizer.warmup_steps=2")
  assert call(*flags, "--config.total_steps=4")[0] == 0
  return flags


def position_of(workdir) -> tuple[int, int]:
  """(step, position) of the newest checkpoint."""
  _, host = reading.restore_params(workdir / "checkpoints")
  return host["step"], host["position"]


@pytest.mark.parametrize("given", [("total_steps=6",), ("total_steps=6", "optimizer.learning_rate=5e-4")])
def test_the_command_that_a_refused_change_names_trains_on_from_where_the_run_stands(
  call, trained, tmp_path, capsys, given
):
  code, _, err = call(*trained, *(f"--config.{setting}" for setting in given))
  assert code == 1 and "holds a run with another config" in err and "total_steps: 4 there, 6 now" in err
  command = shlex.split(err.splitlines()[-1])
  assert command[:4] == ["python", "-m", "bert_jax", "pretrain"] and {
    f"--config.init_from={tmp_path / 'run'}",
    "--config.init_optimizer=True",
  } < set(command)
  assert position_of(tmp_path / "run") == (4, 32)
  assert main(command[3:]) == 0
  assert "moments and step 4; the data from row 32 on" in capsys.readouterr().out
  assert position_of(tmp_path / "run-2") == (6, 48) and min(read_metrics(tmp_path / "run-2")) > 4


def test_of_another_optimizer_the_command_takes_over_the_parameters_alone(call, trained, tmp_path):
  code, _, err = call(*trained, "--config.total_steps=4", "--config.optimizer.name=lamb")
  command = shlex.split(err.splitlines()[-1])
  assert code == 1 and not [word for word in command if "init_optimizer" in word] and main(command[3:]) == 0
  assert position_of(tmp_path / "run-2") == (4, 32)


def test_of_another_model_nothing_can_be_taken_over(call, trained):
  code, _, err = call(*trained, "--config.total_steps=4", "--config.model.intermediate_size=48")
  assert code == 1 and "init_from" not in err and "another --workdir" in err


def test_with_another_order_of_the_rows_the_data_begins_anew(call, trained, tmp_path):
  start = (f"--config.init_from={tmp_path / 'run'}", "--config.init_optimizer=True", "--config.total_steps=6")
  code, out, _ = call(*trained, *start, "--config.seed=9", workdir=tmp_path / "other")
  assert code == 0 and "the data from its beginning" in out and position_of(tmp_path / "other") == (6, 16)
