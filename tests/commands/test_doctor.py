"""The command: what it prints, how it ends, and what it says to bad input."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from bert_jax.__main__ import main
from tests.helpers.machines import small_disk
from tests.helpers.tiny_runs import write_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


def words(folder, corpus, *more):
  return [
    "doctor",
    f"--config={write_config(folder)}",
    f"--workdir={folder / 'run'}",
    f"--config.data.corpus={corpus}",
    *more,
  ]


def test_the_table_ends_with_a_verdict_and_fits_the_terminal(tmp_path, corpus, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  assert main(words(tmp_path, corpus)) == 0
  printed = capsys.readouterr().out
  assert printed.endswith("\nready\n") and printed.startswith("ok    coordinator")
  assert all(len(line) <= 80 or len(line.split()[-1]) > 40 for line in printed.splitlines())  # long paths stay whole


def test_a_failure_is_exit_code_1_and_a_warning_is_not(tmp_path, corpus, capsys):
  assert main(words(tmp_path, corpus, "--config.mesh.fsdp=3")) == 1
  assert "FAIL  devices" in capsys.readouterr().out
  assert main(words(tmp_path, corpus, "--config.data.batch_size=100000")) == 0
  assert capsys.readouterr().out.endswith("\nready, with 1 warning\n")


def test_json_is_for_programs(tmp_path, corpus, capsys):
  assert main(words(tmp_path, corpus, "--json", "--quick")) == 0
  loaded = json.loads(capsys.readouterr().out)
  assert loaded["status"] == "ok" and {"check", "status", "found", "remedy"} == set(loaded["rows"][0])


@pytest.mark.parametrize(
  "arguments, said",
  [
    (["--config=nowhere.py", "--workdir=x"], "no config file 'nowhere.py'"),
    (["--config=configs/quickstart.py", "--workdir=x", "--config.data.batchsize=3"], "did you mean 'data.batch_size'"),
    (["--config=configs/quickstart.py:no", "--workdir=x"], "no variant 'no'"),
    (
      ["--config=configs/quickstart.py", "--workdir=x", "--num_processes=2"],
      "--coordinator and --process_id are not given",
    ),
    (
      ["--config=configs/quickstart.py", "--workdir=x", "--coordinator=here", "--num_processes=2", "--process_id=0"],
      "expected HOST:PORT",
    ),
  ],
)
def test_what_cannot_be_asked_at_all_is_one_message(arguments, said, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert main(["doctor", *arguments]) == 1
  printed = capsys.readouterr()
  assert said in printed.err and printed.err.startswith("error: ") and not printed.out


def test_a_mistyped_corpus_is_told_as_pretrain_would(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  code = main(
    [
      "doctor",
      "--config=configs/quickstart.py",
      f"--workdir={tmp_path}",
      f"--config.data.corpus={tmp_path / 'typo'}",
      "--json",
    ]
  )
  (found,) = [one for one in json.loads(capsys.readouterr().out)["rows"] if one["check"] == "corpus"]
  assert code == 1 and found["status"] == "fail" and "there is no such folder" in found["found"]


def test_a_full_disk_is_a_row_and_no_traceback(tmp_path, corpus, capsys):
  with small_disk(tmp_path / "run", "size=16k") as disk:
    assert main(words(tmp_path, corpus)) == 1
    printed = capsys.readouterr().out
  assert (
    f"FAIL  checkpoints  {disk}: No space left on device" in printed.replace("\n                   ", " ")
    and "Traceback" not in printed
  )


def test_a_package_that_cannot_be_imported_is_a_row_beside_the_versions(tmp_path):
  (tmp_path / "optax").mkdir()
  (tmp_path / "optax" / "__init__.py").write_text("raise ImportError('built for another jax')\n")
  command = [
    sys.executable,
    "-m",
    "bert_jax",
    "doctor",
    "--config=configs/quickstart.py",
    f"--workdir={tmp_path / 'run'}",
  ]
  done = subprocess.run(
    command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
  )
  assert (
    done.returncode == 1
    and "FAIL  import" in done.stdout
    and "built for another jax" in done.stdout
    and "Traceback" not in done.stderr
  )
