"""An objective that is neither masked language modelling nor has pairs, through whole commands: it needs its own page
and a row of OBJECTIVES, and nothing else.
"""

import json
import shutil
from typing import Any

import jax.numpy as jnp
import pytest
from flax import linen as nn

from bert_jax.__main__ import main
from bert_jax.batch import model_inputs
from bert_jax.models.encoder import Encoder
from bert_jax.models.heads import LabelHead
from bert_jax.objectives import losses, registry
from bert_jax.objectives.objective import Objective, Recipe, Shown
from bert_jax.training.checkpoints.folder import committed_steps
from bert_jax.training.metrics import read_metrics
from tests.helpers.tiny_runs import write_config

# The loss is called best where it is highest, so that the best checkpoint is not among the last ones.
SHOWN = (
  Shown("toy_loss", "{:.3f}", "toy loss", "toy", "Toy loss", "nats", max),
  Shown("toy_accuracy", "{:.1%}", "toy acc", "acc", "Toy accuracy", better=max, over="tokens", counted="real tokens"),
  Shown("toy_doubt", "{:.2f}", "doubt", better=min),
)


class Tagger(nn.Module):
  """An encoder that says of every token whether it is of the first or the second segment."""

  config: Any
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  remat: str = "none"
  attention: str = "xla"

  def setup(self):
    self.encoder = Encoder(self.config, self.dtype, self.param_dtype, self.remat, self.attention)
    self.classifier = LabelHead(self.config, 2, 0.0, self.dtype, self.param_dtype)

  def __call__(self, inputs, dropout_keys=None):
    no_types = jnp.zeros_like(inputs.token_type_ids)
    output = self.encoder(
      inputs.input_ids, no_types, inputs.position_ids, inputs.segment_ids, dropout_keys, inputs.sequence_lengths
    )
    return self.classifier(output.sequence_output, None)


def make_toy_objective(model, config, facts) -> Objective:
  def init(key):
    inputs = model_inputs(jnp.zeros((1, 8), jnp.int32), jnp.array([[[8, 4, 0]]]))
    return model.clone(attention="xla").init(key, inputs)["params"]

  def prepare(batch, keys, step):
    inputs = model_inputs(batch["tokens"], batch["sequences"])
    weights = (inputs.segment_ids > 0).astype(jnp.float32)
    return (inputs, weights), {"toy": jnp.sum(weights)}, jnp.sum(weights)

  def loss(params, rows, global_weights, dropout_keys):
    inputs, weights = rows
    found = losses.cross_entropy(model.apply({"params": params}, inputs, dropout_keys), inputs.token_type_ids, weights)
    sums = {"toy_loss": (found.loss, found.weight), "toy_accuracy": (found.correct, found.weight)}
    return found.loss / jnp.maximum(global_weights["toy"], 1.0), sums

  def metrics(means):
    return means | ({"toy_doubt": 1 - means["toy_accuracy"]} if "toy_accuracy" in means else {})

  return Objective(init, prepare, loss, metrics, SHOWN, model.dtype)


@pytest.fixture(scope="module")
def toy():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(registry.OBJECTIVES, "toy", Recipe(SHOWN, Tagger, make_toy_objective))
    yield


@pytest.fixture(scope="module")
def run(toy, corpus, tmp_path_factory):
  """(flags of `pretrain`, its workdir) of a tiny run."""
  folder = tmp_path_factory.mktemp("toy")
  flags = [
    f"--config={write_config(folder)}",
    f"--config.data.corpus={corpus}",
    "--config.objective=toy",
    "--config.export.format=",
    "--config.eval_every_steps=6",
    "--config.checkpoint.keep_last=2",
    "--config.checkpoint.keep_best=1",
  ]
  assert main(["pretrain", *flags, f"--workdir={folder / 'run'}"]) == 0
  return flags, folder / "run"


@pytest.fixture
def call(capsys):
  """call(arguments) -> (exit code, standard output, standard error)."""

  def call(*arguments):
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return code or 0, shown.out, shown.err

  return call


def metrics_of(workdir):
  return read_metrics(workdir)


def test_its_own_metrics_are_written_and_no_others(run):
  _, workdir = run
  names = {name for line in metrics_of(workdir).values() for name in line if name.startswith(("train/", "eval/"))}
  own = {"toy_loss", "toy_accuracy", "toy_doubt"}
  assert names == {f"train/{name}" for name in own | {"grad_norm", "skipped_steps"}} | {
    f"eval/{name}" for name in own | {"tokens"}
  }
  lines = metrics_of(workdir)
  assert lines[24]["train/toy_loss"] < lines[4]["train/toy_loss"]
  assert lines[24]["eval/tokens"] == lines[6]["eval/tokens"] > 100


def test_the_best_checkpoint_by_its_headline_is_kept_beside_the_last_two(run):
  _, workdir = run
  known = {step: line["eval/toy_loss"] for step, line in metrics_of(workdir).items() if "eval/toy_loss" in line}
  best = max(known, key=known.get)
  assert best < 18 and committed_steps(workdir / "checkpoints") == [best, 18, 24]


def test_the_terminal_shows_it_while_it_trains_and_in_its_last_lines(run, call):
  flags, workdir = run
  code, out, _ = call("pretrain", *flags, f"--workdir={workdir}2", "--config.stop_at_step=4")
  assert code == 0
  header = next(line for line in out.splitlines() if line.split()[:1] == ["step"])
  assert header.split() == ["step", "toy", "loss", "toy", "acc", "tok/s", "left"]
  last = metrics_of(f"{workdir}2")[4]
  loss, share, tokens = (last[f"eval/{name}"] for name in ("toy_loss", "toy_accuracy", "tokens"))
  assert f"eval at 4   toy loss {loss:.3f}   toy acc {share:.1%}   doubt {1 - share:.2f}" in out.replace(
    "  eval", "eval"
  )
  assert f"  eval/toy_loss       {loss:.3f} nats\n" in out
  assert f"  eval/toy_accuracy   {share:.3f} over {tokens:,.0f} real tokens\n" in out
  assert not any(word in out.lower() for word in ("mlm", "nsp", "unigram", "fill-mask", "perplexity"))


def test_a_second_call_evaluates_it_again(run, call):
  flags, workdir = run
  before = metrics_of(workdir)[24]["eval/toy_loss"]
  code, out, _ = call("pretrain", *flags, f"--workdir={workdir}")
  assert code == 0 and "already trained its 24 steps" in out and f"eval/toy_loss       {before:.3f} nats" in out


def test_the_report_has_its_table_its_curves_and_its_picture(run, call, tmp_path):
  _, workdir = run
  code, out, _ = call(
    "report", f"--workdir={workdir}", f"--html={tmp_path / 'page.html'}", f"--plot={tmp_path / 'curves.svg'}"
  )
  assert code == 0
  rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("toy_")}
  known = metrics_of(workdir)
  steps = [step for step in known if "eval/toy_loss" in known[step]]
  best = max(steps, key=lambda step: known[step]["eval/toy_loss"])
  last = [f"{known[24][name]:.3f}" for name in ("train/toy_loss", "eval/toy_loss")]
  assert rows["toy_loss"] == [
    *("toy_loss", last[0], "nats", last[1], "nats"),
    *(f"{known[best]['eval/toy_loss']:.3f}", "nats", "at", f"{best}"),
  ]
  assert rows.keys() == {"toy_loss", "toy_accuracy", "toy_doubt"}
  assert "samples             none: a model of objective=toy can be neither loaded nor exported" in out
  page, picture = ((tmp_path / name).read_text(encoding="utf-8") for name in ("page.html", "curves.svg"))
  for text in (page, picture):
    assert "Toy loss (nats)" in text and "Toy accuracy" in text and "Toy doubt" not in text
  assert "eval/toy_loss" in page and "eval/toy_accuracy" in page
  assert not any(word in text.lower() for text in (picture, out) for word in ("mlm_", "nsp_", "majority", "unigram"))


def test_an_export_is_refused_before_anything_is_trained(run, call, tmp_path):
  flags, _ = run
  code, _, err = call("pretrain", *flags, f"--workdir={tmp_path / 'run'}", "--config.export.format=transformers")
  assert code == 1 and err.count("\n") == 1 and not (tmp_path / "run").exists()
  assert "objective=toy can be neither loaded nor exported; those of mlm can" in err


@pytest.mark.parametrize(
  "command", [("export", "--out=x"), ("fill-mask", "a [MASK]"), ("evaluate",), ("encode", "--input=x", "--out=y.npy")]
)
def test_what_needs_a_bert_refuses_its_run(run, call, tmp_path, monkeypatch, command):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "x").write_text("a text\n")
  name, *rest = command
  flag = "--workdir" if name in ("export", "evaluate") else "--model"
  code, _, err = call(name, f"{flag}={run[1]}", *rest)
  assert code == 1 and "objective=toy can be neither loaded nor exported" in err and err.count("\n") == 1


def test_a_resume_with_another_objective_is_refused(run, call):
  flags, workdir = run
  code, _, err = call("pretrain", *flags, f"--workdir={workdir}", "--config.objective=mlm")
  assert code == 1 and "objective: 'toy' there, 'mlm' now" in err


def test_an_objective_that_there_is_not_is_refused_by_name(run, call):
  flags, workdir = run
  code, _, err = call("pretrain", *flags, f"--workdir={workdir}", "--config.objective=toi")
  assert code == 1 and "'mlm', 'toy'" in err and "'toi'" in err


def test_a_run_of_an_objective_that_is_gone_is_still_reported(run, tmp_path, call):
  _, workdir = run
  config = json.loads((workdir / "config.json").read_text())
  shutil.copytree(workdir, tmp_path / "run")
  (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"objective": "gone"}))
  code, out, _ = call("report", f"--workdir={tmp_path / 'run'}")
  assert code == 0 and "toy_loss" not in out and "24 of 24, finished" in out
