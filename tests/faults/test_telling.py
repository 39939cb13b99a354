"""What only tells of a run never ends it: old records that cannot be read, a terminal or a reader that has gone."""

import json
import pathlib

import pytest

from bert_jax.__main__ import main
from tests.faults.processes import Processes, run, steps_saved, weights

STEPS = ("total_steps=6", "eval_every_steps=3", "checkpoint.every_steps=3", "export.format=transformers")
BROKEN = [b'{"step": 3, "time": 1.0, "na\xffme": 1}\n', b"5\n", b'{"step": 3, "time": "noon"}\n', b"null\n"]


def break_records(workdir: pathlib.Path) -> None:
  for kind in ("metrics", "events"):
    for path in (workdir / kind).iterdir():
      first, *rest = path.read_bytes().splitlines(keepends=True)
      path.write_bytes(b"".join([*BROKEN, first, *BROKEN, *rest, rest[-1][:-9] if rest else b""]))


def test_records_that_cannot_be_read_end_neither_a_run_nor_its_card_nor_its_report(folder, corpus):
  workdir = folder / "broken-records"
  run(folder, corpus, workdir.name, (*STEPS, "stop_at_step=3"), count=1)
  break_records(workdir)
  (ended,) = run(folder, corpus, workdir.name, STEPS, count=1)
  assert "lines of" in ended.output and "cannot be read and are left out" in ended.output
  assert "## Evaluation" in (workdir / "export" / "README.md").read_text()
  break_records(workdir)
  run(folder, corpus, workdir.name, STEPS, count=1)  # evaluates again
  assert main(["report", f"--workdir={workdir}"]) == 0 and (workdir / "report.html").is_file()


@pytest.mark.parametrize(
  "name, redirection",
  [
    ("closed", ">&- 2>&-"),
    ("full", ">/dev/full 2>/dev/full"),
    ("gone", "2>&1 | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}"),
  ],
)
def test_a_run_to_which_nobody_listens_is_the_same_run(folder, corpus, name, redirection):
  bash = ("bash", "-c", f'"$@" {redirection}', "bash")
  run(folder, corpus, f"output-{name}", STEPS, count=1, prefix={0: bash})
  workdir = folder / f"output-{name}"
  assert steps_saved(workdir)[-1] == 6 and (workdir / "export" / "model.safetensors").is_file()
  run(folder, corpus, "output", STEPS, count=1)
  assert weights(workdir) == weights(folder / "output")


def test_a_terminal_without_the_letters_that_are_shown_is_no_reason_to_stop(folder, corpus):
  how = {"count": 1, "environ": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}}
  with Processes(folder, corpus, "ascii", STEPS, **how) as processes:
    (ended,) = processes.ended()
  assert ended.code == 0 and "\\u2026" in ended.output, ended.output


def test_metrics_that_cannot_be_written_are_written_when_they_can(folder, corpus):
  """A file stands where the folder of metrics, and of TensorBoard's files, belongs."""
  workdir = folder / "no-metrics"
  run(folder, corpus, workdir.name, (*STEPS, "stop_at_step=3"), count=1)
  for name in ("metrics", "tensorboard"):
    (workdir / name).rename(workdir / f"{name}.away")
    (workdir / name).write_text("in the way")
  (ended,) = run(folder, corpus, workdir.name, STEPS, count=1)
  for name in ("metrics", "tensorboard"):
    assert ended.output.count(f"note: {workdir / name} cannot be written") == 1
  assert steps_saved(workdir)[-1] == 6 and json.loads((workdir / "export" / "config.json").read_text())
