"""plan.py and the command: the real step compiled for TPUs that are not here, GPUs by formula, and every mistake in
one message.
"""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from bert_jax import __main__ as command_line
from bert_jax import config as configs
from bert_jax.cluster.chips import parse_topology
from bert_jax.tools.plan import ahead, plan
from bert_jax.tools.plan.data_facts import facts_of

ROOT = pathlib.Path(__file__).resolve().parents[3]
BASE, LARGE, QUICKSTART = (str(ROOT / "configs" / f"{name}.py") for name in ("bert_base", "bert_large", "quickstart"))


def run(capsys, *words):
  code = command_line.main(["plan", *words])
  shown = capsys.readouterr()
  return code, shown.out, shown.err


def test_gpus_are_planned_by_a_formula_that_says_so(capsys):
  code, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=h100:8")
  assert code == 0 and out.startswith("verdict") and "BY FORMULA, NOT COMPILED" in out
  assert (
    "fits: " in out.splitlines()[0]
    and "parameters               110.2 M" in out
    and "chip-hours for 900,000 steps" in out
  )
  assert "assumed, for data/wiki-128 is not here" in out


def test_what_does_not_fit_is_said_first_with_the_remedies_and_is_exit_code_1(capsys):
  code, out, _ = run(capsys, f"--config={LARGE}:phase2", "--topology=a100-40gb:1", "--config.data.batch_size=512")
  assert (
    code == 1
    and out.startswith("verdict")
    and "DOES NOT FIT" in out.splitlines()[0]
    and "mesh.fsdp" in out.splitlines()[0]
  )


@pytest.mark.parametrize(
  "words, said",
  [
    (["--topology=v5e:5x5"], "there is no such slice; known: v5e:"),
    (["--topology=h100:3"], "data.batch_size=256 does not divide over 3 devices"),
    (["--topology=h100:8", "--config.mesh.tensor=5"], "does not fit 8 devices"),
    (["--topology=h100:8", "--config.mesh.fsdp=-1"], "at most one -1"),
    (["--topology=h100:8", "--steps=0"], "--steps=0: expected a number from 1"),
    (["--topology=h100:8", "--sweep", "--compile=0"], "--compile=0: expected a number from 1"),
    (["--topology=h100:8", "--sweep", "--config.data.batch_size=3"], "make data.batch_size a multiple of 8"),
  ],
)
def test_mistakes_are_one_line(capsys, words, said):
  code, out, err = run(capsys, f"--config={BASE}:phase1", *words)
  assert code == 1 and not out and said in err and err.count("\n") == 1


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(capsys, monkeypatch):
  monkeypatch.setattr(ahead.importlib.machinery.PathFinder, "find_spec", lambda name: None)
  code, _, err = run(capsys, f"--config={BASE}:phase1", "--topology=v5e:4x4")
  assert code == 1 and "pip install -c constraints.txt -e '.[plan]'" in err


def test_a_sweep_ranks_what_fits_before_what_does_not(capsys):
  code, out, _ = run(capsys, f"--config={LARGE}:phase2", "--topology=a100-40gb:8", "--sweep", "--compile=6")
  assert code == 0 and "BY FORMULA, NOT COMPILED; 6 shown" in out and "best: --config.mesh.data=" in out
  plans = plan.sweep(configs.load_config(f"{LARGE}:phase2"), parse_topology("a100-40gb:8"), compiled=500).plans
  assert [one.fits for one in plans] == sorted((one.fits for one in plans), reverse=True) and not plans[-1].fits
  speeds = [one.times.apart for one in plans if one.fits]
  assert speeds == sorted(speeds) and len({str(one.config.mesh) for one in plans}) > 1


def test_a_sweep_saves_memory_only_where_it_may_be_short():
  base = plan.sweep(configs.load_config(f"{BASE}:phase1"), parse_topology("h100:8"), compiled=500)
  assert base.considered > 100 and base.worthwhile == len(base.plans) < 12
  assert {(one.config.optimizer.microbatches, one.config.model.remat) for one in base.plans} == {(1, "none")}
  short = plan.sweep(configs.load_config(f"{LARGE}:phase2"), parse_topology("a100-40gb:8"), compiled=500)
  assert {one.config.model.remat for one in short.plans} == {
    "none",
    "dots",
    "full",
  } and short.worthwhile > base.worthwhile
  assert len({one.config.optimizer.microbatches for one in short.plans}) > 1


def test_a_sweep_of_slices_lays_only_the_data_axis_between_them():
  found = plan.sweep(configs.load_config(f"{BASE}:phase1"), parse_topology("h100:8"), compiled=500)
  assert {one.mesh["data"] for one in found.plans} == {1, 2, 4, 8}
  slices = plan._candidates(
    configs.load_config(f"{BASE}:phase1"),
    parse_topology("v5e:2x2*2"),
    facts_of(configs.load_config(f"{BASE}:phase1")),
    None,
  )
  assert {one.mesh["data"] for one in slices} == {2, 4, 8}


def test_a_sweep_shows_the_config_as_it_is_beside_the_best(capsys):
  full = ["optimizer.microbatches=4", "model.remat=full", "mesh.data=4", "mesh.fsdp=2"]
  _, out, _ = run(
    capsys,
    f"--config={BASE}:phase1",
    "--topology=h100:8",
    "--sweep",
    "--compile=3",
    *(f"--config.{key}" for key in full),
  )
  (own,) = [line for line in out.splitlines() if line.startswith("*")]
  assert own.split()[1:6] == ["4", "2", "1", "4", "full"] and "best: --config.mesh.data=1 --config.mesh.fsdp=8" in out
  _, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=h100:8", "--sweep", "--compile=1")
  assert [line.split()[1:4] for line in out.splitlines() if line.startswith("*")] == [["8", "1", "1"]]


def test_a_sweep_tries_no_more_microbatches_or_shards_than_divide_the_batch_and_the_model():
  config = configs.load_config(f"{LARGE}:phase2", ["data.batch_size=768"])
  found = list(plan._candidates(config, parse_topology("a100-40gb:24"), facts_of(config), None))
  assert {one.config.optimizer.microbatches for one in found if one.mesh["tensor"] == 1} == {1, 2, 4, 8, 16}
  assert {one.mesh["fsdp"] for one in found} == {1, 2, 4, 8}, "24 would not divide the width of 1024"
  few = configs.load_config(f"{LARGE}:phase2", ["data.batch_size=24"])
  assert {
    one.config.optimizer.microbatches
    for one in plan._candidates(few, parse_topology("h100:8"), facts_of(few), None)
    if one.mesh["tensor"] == 1
  } == {1}


def test_what_of_a_sweep_was_not_compiled_is_not_said_not_to_fit(capsys, monkeypatch):
  compiled_as(monkeypatch, ahead.Failure("compiler", "INTERNAL: a check failed"))
  code, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=v5e:4x4", "--sweep", "--compile=1")
  assert code == 1 and "\n1 compiled: " in out and "does not fit" not in out and "not compiled: INTERNAL" in out


def compiled_as(monkeypatch, result):
  """Puts a result in the place of the compiler."""
  monkeypatch.setattr(ahead, "compile_ahead", lambda requests: [result for _ in requests])


MIB = 2**20
STEP = ahead.Compiled(
  seconds=100.0,
  mesh={"data": 16, "fsdp": 1, "tensor": 1},
  state={"parameters": 400 * MIB, "moments": 800 * MIB},
  memory={
    "arguments": 1210 * MIB,
    "outputs": 1205 * MIB,
    "aliased": 1200 * MIB,
    "temporaries": 1024 * MIB,
    "code": 100 * MIB,
  },
  flops=1.97e12,
  own_seconds=0.0187,
  microbatches=1,
  traffic=(
    ahead.Traffic(
      "all-reduce", ("data",), 16, (("f32", (400 * MIB // 4,)),), 400 * MIB, 750 * MIB, 2, True, "", (4, 4), 1
    ),
    ahead.Traffic("all-reduce", ("data",), 2, (("f32", (MIB,)),), 4 * MIB, 4 * MIB, 1, True, "", (1, 1), 2),
  ),
)


def test_every_figure_of_a_compiled_step_is_that_of_a_count_by_hand(capsys, monkeypatch):
  compiled_as(monkeypatch, STEP)
  code, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=v5e:4x4", "--json")
  found = json.loads(out)
  assert code == 0 and found["needed_bytes"] == (1210 + 1205 - 1200 + 1024 + 100) * MIB
  seconds = found["seconds"]
  assert seconds["compute"] == pytest.approx(0.01)
  assert seconds["memory"] == pytest.approx((1210 + 1205 + 2 * 1024) * MIB / 819e9)
  assert seconds["network"] == pytest.approx(2 * 750 * MIB / 100e9 + 4 * MIB / 3.1e9)
  assert (
    seconds["roofline"] == max(seconds[kind] for kind in ("compute", "memory", "network"))
    and found["bound_by"] == "the network between chips"
  )
  assert seconds["apart"] == pytest.approx(seconds["compute"] + seconds["memory"] + seconds["network"])
  tokens = 256 * 128 * 0.98
  per_token = 3 * (12 * (8 * 768**2 + 4 * 768 * 3072 + 4 * 128 * 768) + 0.15 * (2 * 768**2 + 2 * 768 * 30522))
  assert found["tokens_per_step"] == pytest.approx(tokens) and found["model_flops"] == pytest.approx(tokens * per_token)
  assert found["mfu"]["apart"] == pytest.approx(tokens * per_token / (seconds["apart"] * 16 * 197e12))
  assert found["steps"] == 900_000 and found["chip_hours"]["roofline"] == pytest.approx(
    900_000 * 16 * seconds["roofline"] / 3600
  )


def test_a_compiled_step_is_told_in_words_and_numbers_that_agree(capsys, monkeypatch):
  compiled_as(monkeypatch, STEP)
  _, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=v5e:4x4", "--config.optimizer.microbatches=2")
  assert "16 rows a chip and step, in 2 microbatches" in out and "16 chips on 4 hosts" in out
  assert (
    "over data: 2 a step, 800.0 MiB, 1,500.0 MiB sent by each chip" in out
    and "over data, between slices: 1 a step" in out
  )
  assert "step, by the compiler     18.70 ms" in out
  kinds = [float(line.split()[-2]) for line in out.splitlines() if line.startswith("  ") and line.endswith(" GiB")]
  assert kinds == [0.39, 0.78, 0.01, 1.00, 0.00, 0.10] and "memory a chip                2.28 GiB of 16.0 GiB" in out
  verdicts = [
    run(capsys, f"--config={BASE}:phase1", "--topology=v5e:4x4", f"--config.data.batch_size={rows}")[1].splitlines()[0]
    for rows in (32, 64)
  ]
  assert "only 2 rows a chip" in verdicts[0] and "only" not in verdicts[1]
  _, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=v5e:1x1", "--config.data.batch_size=1")
  assert "1 row of 128 = 125 tokens; 1 row a chip and step, in 1 microbatch\n" in out and "1 chip on 1 host " in out
  assert "only 1 row a chip" in out.splitlines()[0]


@pytest.mark.parametrize(
  "microbatches, said", [(1, "gives no number of seconds"), (4, "counts the loop over microbatches once")]
)
def test_where_the_compiler_has_no_estimate_it_is_said_why_and_no_number_is_shown(
  capsys, monkeypatch, microbatches, said
):
  compiled_as(monkeypatch, STEP._replace(own_seconds=None, microbatches=microbatches))
  _, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=v5e:4x4")
  assert f"step, by the compiler     no estimate: its cost model {said}\n" in out


def test_what_the_compiler_says_of_a_step_that_does_not_fit_is_in_the_verdict(capsys, monkeypatch):
  compiled_as(monkeypatch, ahead.Failure("memory", "no room", round(20.28 * 2**30), round(15.75 * 2**30)))
  code, out, _ = run(capsys, f"--config={BASE}:phase1", "--topology=v5e:4x4")
  assert code == 1 and "DOES NOT FIT: at least 20.3 of 15.8 GiB a chip" in out.splitlines()[0]
  assert "memory a chip (formula)" in out and "tokens/s" not in out


TINY = ("--config.model.preset=bert-tiny", "--config.prepare.seq_length=128", "--config.data.batch_size=64")


def in_process(*words):
  """The command in a process of its own: what people see, noise included."""
  return subprocess.run(
    [sys.executable, "-m", "bert_jax", "plan", *words], cwd=ROOT, capture_output=True, text=True, timeout=900
  )


@pytest.mark.slow
def test_the_real_step_is_compiled_for_a_pod_without_a_word_from_libraries():
  done = in_process(f"--config={BASE}:phase1", "--topology=v5e:2x4", "--config.mesh.fsdp=2", *TINY)
  assert done.returncode == 0 and done.stderr == "", done.stderr
  assert "compiled for it" in done.stdout and "all-gather" in done.stdout and "by its own cost model" in done.stdout
  found = json.loads(in_process(f"--config={BASE}:phase1", "--topology=v5e:2x4", "--json", *TINY).stdout)
  assert found["compiled"] and found["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
  (gradients,) = [one for one in found["collectives"] if one["bytes"] > 1e6]
  assert (
    gradients["kind"] == "all-reduce"
    and gradients["axes"] == ["data"]
    and gradients["bytes"] == pytest.approx(found["memory"]["parameters"], rel=0.01)
  )
  assert found["memory"]["moments"] == pytest.approx(2 * found["memory"]["parameters"], rel=0.001)
  assert 1 < found["compiled_flops"] * 8 / found["model_flops"] < 1.3 and 0 < found["compilers_seconds"] < 0.1


@pytest.mark.slow
def test_microbatches_change_the_memory_of_a_step_and_not_what_it_computes():
  one, four = (
    json.loads(
      in_process(
        f"--config={BASE}:phase1", "--topology=v5e:2x2", "--json", *TINY, f"--config.optimizer.microbatches={count}"
      ).stdout
    )
    for count in (1, 4)
  )
  assert four["compiled_flops"] == pytest.approx(one["compiled_flops"], rel=0.05) and four["compilers_seconds"] is None


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2", "v5e:2x2*2"])
def test_every_generation_and_joined_slices_are_compiled_for(topology):
  found = json.loads(in_process(f"--config={BASE}:phase1", f"--topology={topology}", "--json", *TINY).stdout)
  assert found["compiled"] and found["chips"] == found["mesh"]["data"] == parse_topology(topology).chips
  assert any(one["slices"] == 2 for one in found["collectives"]) == ("*" in topology)
  assert (
    0 < found["compilers_seconds"] < 0.1 and 1 < found["compiled_flops"] * found["chips"] / found["model_flops"] < 1.3
  )


@pytest.mark.slow
def test_a_step_that_does_not_fit_a_chip_is_said_so_with_what_it_would_take():
  done = in_process(f"--config={BASE}:phase1", "--topology=v5e:1x1", *TINY, "--config.data.batch_size=65536")
  assert (
    done.returncode == 1 and "DOES NOT FIT: at least " in done.stdout.splitlines()[0] and "of 15.8 GiB" in done.stdout
  ), done.stdout + done.stderr


@pytest.mark.slow
def test_a_sweep_compiles_the_best_and_gives_their_flags():
  done = in_process(f"--config={BASE}:phase1", "--topology=v5e:2x2", "--sweep", "--compile=2", *TINY)
  assert done.returncode == 0 and "\n2 compiled: " in done.stdout and "best: --config.mesh.data=" in done.stdout, (
    done.stderr
  )


VARIANTS = {"bert_base": ["phase1", "phase2"], "bert_large": ["phase1", "phase2"], "quickstart": [""]}


def stated(name):
  """{variant: words of the command} of the plans that the header of a config states."""
  header = (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
  found = re.findall(rf"python -m bert_jax plan (--config=configs/{name}\.py:?(\w*) --topology=.*)", header)
  return {variant: command.split() for command, variant in found}


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*.py")))
def test_the_header_of_every_config_names_a_pod_that_each_of_its_variants_divides_over_and_fits_by_formula(
  name, capsys, monkeypatch
):
  assert sorted(stated(name)) == VARIANTS[name]
  monkeypatch.chdir(ROOT)
  compiled_as(monkeypatch, STEP)
  for words in stated(name).values():
    code, out, err = run(capsys, *words)
    assert code == 0 and "fits: " in out.splitlines()[0], out + err
    config = configs.load_config(words[0].partition("=")[2])
    found = plan.make_plan(config, parse_topology(words[1].partition("=")[2]))
    assert found.formula.needed_bytes < found.topology.chip.hbm_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name, variant", [("quickstart", ""), ("bert_base", "phase1")])
def test_what_the_header_of_a_config_says_of_its_pod_is_what_plan_prints(name, variant):
  words = stated(name)[variant]
  done = in_process(*words)
  assert done.returncode == 0 and "fits: " in done.stdout.splitlines()[0], done.stdout + done.stderr
  header = (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
  said = re.search(re.escape(" ".join(words)) + r"\n +([\d.]+ of [\d.]+ GiB a chip)", header)
  assert said is None or f"fits: {said[1]}" in done.stdout
