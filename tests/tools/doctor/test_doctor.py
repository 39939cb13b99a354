"""Doctor as a whole: alone, and with two real processes that look at one run together."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import pytest

from bert_jax import config as configs
from bert_jax.cluster import distributed
from bert_jax.tools.doctor import doctor, row
from bert_jax.tools.doctor.context import ALONE
from tests.helpers.tiny_runs import write_config

CHECKS = ["coordinator", *doctor.OWN]


def files(folder):
  return sorted(
    (str(path), path.read_bytes() if path.is_file() else b"")
    for path in folder.rglob("*")
    if "__pycache__" not in str(path)
  )


def load(folder, corpus, *overrides):
  return configs.load_config(write_config(folder), [f"data.corpus={corpus}", *overrides])


def test_every_check_has_a_row_and_nothing_is_changed(tmp_path, corpus):
  config = load(tmp_path, corpus)
  before = files(tmp_path)
  rows, status = doctor.run_checks(config, str(tmp_path / "run"), ALONE)
  assert list(rows) == CHECKS and status == row.OK
  assert files(tmp_path) == before


def test_a_check_that_crashes_is_a_failure_and_the_rest_still_run(tmp_path, corpus, monkeypatch):
  monkeypatch.setitem(doctor.OWN, "memory", lambda context: 1 // 0)
  rows, status = doctor.run_checks(load(tmp_path, corpus), str(tmp_path / "run"), ALONE)
  assert rows["memory"][0].found.startswith("ZeroDivisionError") and status == row.FAIL
  assert list(rows) == CHECKS and all(found[0].status == row.OK for name, found in rows.items() if name != "memory")


def test_every_row_that_is_not_ok_has_a_remedy(tmp_path):
  config = load(tmp_path, tmp_path / "nowhere", "mesh.fsdp=3")
  (tmp_path / "file").write_text("")
  rows, _ = doctor.run_checks(config, str(tmp_path / "file" / "run"), ALONE)
  wrong = [one for found in rows.values() for one in found if one.status != row.OK]
  assert len(wrong) >= 3 and all(one.remedy and "run doctor again" not in one.remedy for one in wrong)


def test_a_process_that_waits_in_vain_makes_its_other_checks(tmp_path, corpus):
  config = load(tmp_path, corpus, "cluster.connect_seconds=1")
  rows, status = doctor.run_checks(
    config, str(tmp_path / "run"), distributed.Cluster(f"127.0.0.1:{port()}", 2, 1, "arguments")
  )
  assert status == row.FAIL and rows["coordinator"][0].status == row.FAIL and rows["devices"][0].status == row.WARN
  assert {rows[name][0].status for name in ("versions", "corpus", "run folder", "checkpoints", "disk space")} == {
    row.OK
  }


def port():
  with socket.create_server(("127.0.0.1", 0)) as free:
    return free.getsockname()[1]


def start(address, number, words, *, before=(), **environ):
  """A process of two; `before` is the command that starts it, if any."""
  command = [
    *before,
    sys.executable,
    "-m",
    "bert_jax",
    "doctor",
    f"--coordinator={address}",
    "--num_processes=2",
    f"--process_id={number}",
    "--json",
    "--config.cluster.heartbeat_seconds=10",
    "--config.cluster.connect_seconds=30",
    *words,
  ]
  root = pathlib.Path(__file__).resolve().parents[3]
  return subprocess.Popen(
    command,
    cwd=root,
    env={**os.environ, "JAX_PLATFORMS": "cpu", **environ},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def results(*started):
  """(exit codes, {check: [rows]} of process 0, what the other one printed)."""
  printed = [process.communicate(timeout=100) for process in started]
  assert printed[0][0], printed[0][1]
  rows = {}
  for one in json.loads(printed[0][0])["rows"]:
    rows.setdefault(one.pop("check"), []).append(row.Row(**one))
  return [process.returncode for process in started], rows, printed[1][0]


def test_two_processes_print_one_table_and_agree_on_the_exit_code(tmp_path, corpus):
  words = [f"--config={write_config(tmp_path)}", f"--workdir={tmp_path / 'run'}", f"--config.data.corpus={corpus}"]
  before = files(tmp_path)
  address = f"127.0.0.1:{port()}"
  codes, rows, other = results(*(start(address, number, words) for number in (0, 1)))
  assert codes == [0, 0] and other == "" and list(rows) == CHECKS
  assert files(tmp_path) == before
  assert "all 2 processes met there" in rows["coordinator"][0].found
  assert rows["processes"][0].found.startswith("2 by arguments: 2 on ")
  assert rows["devices"][0].found == "2 x cpu; mesh data=2, fsdp=1, tensor=1"
  assert "those of all processes within 0." in rows["clocks"][0].found and "SHA-256" in rows["corpus"][0].found


def test_what_differs_on_one_process_is_named_with_it(tmp_path, corpus):
  damaged = shutil.copytree(corpus, tmp_path / "damaged")
  shard = next((damaged / "train").glob("tokens-*.npy"))
  shard.write_bytes(shard.read_bytes()[:-1])
  (tmp_path / "fast").mkdir()
  (tmp_path / "fast" / "sitecustomize.py").write_text(
    "import time\nright = time.time\ntime.time = lambda: right() + 7\n"
  )
  words = [f"--config={write_config(tmp_path)}", f"--workdir={tmp_path / 'run'}"]
  address = f"127.0.0.1:{port()}"
  first = start(address, 0, [*words, f"--config.data.corpus={corpus}"])
  second = start(
    address, 1, [*words, f"--config.data.corpus={damaged}", "--config.seed=3"], PYTHONPATH=str(tmp_path / "fast")
  )
  codes, rows, _ = results(first, second)
  assert codes == [1, 1]
  told = " ".join(one.found for one in rows["clocks"])
  assert (
    "7.0 s ahead of that of" in told and "process 1 (" in told and "clock of the file system is 7.0 s behind" in told
  )
  assert (
    rows["corpus"][0].status == row.FAIL
    and rows["corpus"][0].found.startswith("process 1 (")
    and shard.name in rows["corpus"][0].found
  )
  assert "seed=3, process 0 0" in rows["processes"][0].found


def test_a_run_folder_that_is_not_shared_and_flags_that_xla_does_not_know_are_found(tmp_path, corpus):
  """The second process lives in a mount namespace with a folder of its own at the place of the run folder."""
  if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
    pytest.skip("this user may not make a mount namespace")
  shared = tmp_path / "shared"
  shared.mkdir()
  words = [f"--config={write_config(tmp_path)}", f"--workdir={shared / 'run'}", f"--config.data.corpus={corpus}"]
  address, script = f"127.0.0.1:{port()}", f'mount -t tmpfs none {shared} && exec "$@"'
  apart = ["unshare", "--mount", "sh", "-c", script, "sh"]
  codes, rows, _ = results(
    start(address, 0, words, XLA_FLAGS="--xla_no_such_flag=1"), start(address, 1, words, before=apart)
  )
  assert codes == [1, 1]
  (found,) = rows["checkpoints"]
  assert (
    found.status == row.FAIL
    and found.found.startswith("process 1 (")
    and "does not see what process 0 writes" in found.found
  )
  assert not list(shared.iterdir())
  assert rows["devices"][0].status == row.FAIL and rows["devices"][0].found.startswith("process 0: XLA_FLAGS")


def test_it_takes_seconds(tmp_path, corpus):
  began = time.monotonic()
  doctor.run_checks(load(tmp_path, corpus), str(tmp_path / "run"), ALONE)
  assert time.monotonic() - began < 20
