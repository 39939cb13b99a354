"""plan.py and the command: the real step compiled for TPUs that are not here, GPUs by formula, and every mistake in one message."""

import json
import pathlib
import subprocess
import sys

import pytest
from tests.run_fixtures import corpus, write_config  # noqa: F401  (corpus is a fixture)

from bert_jax import __main__ as command_line
from bert_jax import config as configs
from bert_jax.chips import parse_topology
from bert_jax.tools import ahead, plan

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE, LARGE, QUICKSTART = (str(ROOT / "configs" / f"{name}.py") for name in ("bert_base", "bert_large", "quickstart"))


def run(capsys, *words):
  code = command_line.main(["plan", *words])
  shown = capsys.readouterr()
  return code, shown.out, shown.err


def test_gpus_are_planned_by_a_formula_that_says_so(capsys):
  code, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=h100:8")
  assert code == 0 and out.startswith("verdict") and "BY FORMULA, NOT COMPILED" in out
  assert "fits: " in out.splitlines()[0] and "parameters               110.2 M" in out and "chip-hours for 900,000 steps" in out
  assert "assumed, for data/wiki-128 is not here" in out


def test_what_does_not_fit_is_said_first_with_the_remedies_and_is_exit_code_1(capsys):
  code, out, _ = run(capsys, f"--config={LARGE}:phase2", "--topology=a100-40gb:1", "--config.data.batch_size=512")
  assert code == 1 and out.startswith("verdict") and "DOES NOT FIT" in out.splitlines()[0] and "mesh.fsdp" in out.splitlines()[0]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--topology=v5e:5x5"], "there is no such slice; known: v5e:"),
        (["--topology=h100:3"], "data.batch_size=256 does not divide over 3 devices"),
        (["--topology=h100:8", "--config.mesh.tensor=5"], "does not fit 8 devices"),
        (["--topology=h100:8", "--config.mesh.fsdp=-1"], "at most one of them is -1"),
    ],
)
def test_mistakes_are_one_line(capsys, words, said):
  code, out, err = run(capsys, f"--config={BASE}:phase1", *words)
  assert code == 1 and not out and said in err and err.count("\n") == 1


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(capsys, monkeypatch):
  monkeypatch.setattr(ahead.importlib.machinery.PathFinder, "find_spec", lambda name: None)
  code, _, err = run(capsys, f"--config={BASE}:phase1", "--topology=v5e:4x4")
  assert code == 1 and "pip install -c constraints.txt -e '.[plan]'" in err


def test_a_corpus_that_is_there_gives_its_own_figures(tmp_path, corpus):  # noqa: F811
  config = configs.load_config(write_config(tmp_path), [f"data.corpus={corpus}"])
  facts = plan.facts_of(config)
  assert facts.source == f"the corpus {corpus}" and facts.data.seq_length == 32 and facts.data.vocab_size == 150
  assert 0 < facts.sequence_length <= facts.tokens_per_row <= 32


def test_a_sweep_ranks_what_fits_before_what_does_not(capsys):
  code, out, _ = run(capsys, f"--config={LARGE}:phase2", "--topology=h100:8", "--sweep", "--compile=6")
  assert code == 0 and "BY FORMULA, NOT COMPILED" in out and "best: --config.mesh.data=" in out
  plans, considered = plan.sweep(configs.load_config(f"{LARGE}:phase2"), parse_topology("h100:8"), compiled=50)
  assert considered > 50 and [one.fits for one in plans] == sorted((one.fits for one in plans), reverse=True)
  speeds = [one.times.apart for one in plans if one.fits]
  assert speeds == sorted(speeds) and len({str(one.config.mesh) for one in plans}) > 1


TINY = ("--config.model.preset=bert-tiny", "--config.prepare.seq_length=128", "--config.data.batch_size=64")


def in_process(*words):
  """The command in a process of its own: what people see, noise included."""
  return subprocess.run([sys.executable, "-m", "bert_jax", "plan", *words], cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_the_real_step_is_compiled_for_a_pod_without_a_word_from_libraries():
  done = in_process(f"--config={BASE}:phase1", "--topology=v5e:2x4", "--config.mesh.fsdp=2", *TINY)
  assert done.returncode == 0 and done.stderr == "", done.stderr
  assert "compiled for it" in done.stdout and "mesh" in done.stdout and "all-gather" in done.stdout and "step, by the compiler" in done.stdout
  found = json.loads(in_process(f"--config={BASE}:phase1", "--topology=v5e:2x4", "--json", *TINY).stdout)
  assert found["compiled"] and found["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
  (gradients,) = [one for one in found["collectives"] if one["bytes"] > 1e6]
  assert gradients["kind"] == "all-reduce" and gradients["axes"] == ["data"] and gradients["bytes"] == pytest.approx(found["memory"]["parameters"], rel=0.01)


@pytest.mark.slow
def test_a_step_that_does_not_fit_a_chip_is_said_so_with_what_it_would_take():
  done = in_process(f"--config={BASE}:phase1", "--topology=v5e:1x1", *TINY, "--config.data.batch_size=65536")
  assert done.returncode == 1 and done.stdout.startswith("verdict") and "DOES NOT FIT" in done.stdout.splitlines()[0], done.stdout + done.stderr


@pytest.mark.slow
def test_a_sweep_compiles_the_best_and_gives_their_flags():
  done = in_process(f"--config={BASE}:phase1", "--topology=v5e:2x2", "--sweep", "--compile=2", *TINY)
  assert done.returncode == 0 and "the 2 best by formula were compiled" in done.stdout and "best: --config.mesh.data=" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("config, topology", [(f"{QUICKSTART}", "v5e:1x1"), (f"{BASE}:phase1", "v5e:4x4"), (f"{LARGE}:phase1", "v5e:8x8")])
def test_every_config_fits_the_pod_that_its_header_names(config, topology):
  assert f"--topology={topology}" in pathlib.Path(config.partition(":")[0]).read_text()
  done = in_process(f"--config={config}", f"--topology={topology}")
  assert done.returncode == 0 and "fits: " in done.stdout.splitlines()[0], done.stdout + done.stderr
