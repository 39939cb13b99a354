"""launch/tpu-vm.sh against a gcloud that knows the real one's flags, and hosts on which its commands really run."""

import pathlib
import subprocess

import pytest

from tests.launch import fake_gcloud
from tests.launch.fake_gcloud import FakeCloud
from tests.launch.programs import LAUNCH, ROOT, wait_until

SCRIPT = LAUNCH / "tpu-vm.sh"
TPU = {
  "TPU_NAME": "bert",
  "TPU_ZONE": "us-west4-a",
  "TPU_TYPE": "v5litepod-16",
  "TPU_SHARE": "10.0.0.2:/share",
  "TPU_POLL_SECONDS": "0.05",
}
RUN = {
  "BERT_JAX_CONFIG": "configs/bert_base.py:phase1",
  "BERT_JAX_WORKDIR": "/mnt/bert_jax/runs/a b",
  "BERT_JAX_FLAGS": "--config.data.corpus=/mnt/bert_jax/wiki-128 --config.seed=1",
}


@pytest.fixture
def cloud(programs):
  cloud = FakeCloud(programs)
  yield cloud
  fake_gcloud.kill_units(cloud.folder, 9)


def call(programs, *words, **environ):
  return programs.run(SCRIPT, *words, **TPU | RUN | environ)


def up(programs, cloud, **environ):
  cloud.set_states("ACTIVE")
  for word in ("install", "run"):
    result = call(programs, word, **environ)
    assert result.returncode == 0, result.stderr


def test_create_asks_for_a_spot_tpu_with_the_software_that_belongs_to_it(programs, cloud):
  assert call(programs, "create").returncode == 0
  assert cloud.gcloud_calls("queued-resources create") == [
    [
      "compute",
      "tpus",
      "queued-resources",
      "create",
      "bert",
      "--node-id=bert",
      "--accelerator-type=v5litepod-16",
      "--runtime-version=v2-alpha-tpuv5-lite",
      "--spot",
      "--zone=us-west4-a",
    ]
  ]


@pytest.mark.parametrize(
  "kind, version",
  [
    ("v2-8", "tpu-ubuntu2204-base"),
    ("v4-32", "tpu-ubuntu2204-base"),
    ("v5p-32", "v2-alpha-tpuv5"),
    ("v6e-8", "v2-alpha-tpuv6e"),
  ],
)
def test_the_software_version_follows_from_the_type(programs, cloud, kind, version):
  call(programs, "create", TPU_TYPE=kind, TPU_SPOT="0", TPU_PROJECT="mine")
  (words,) = cloud.gcloud_calls("queued-resources create")
  assert f"--runtime-version={version}" in words and "--project=mine" in words and "--spot" not in words


def test_a_type_that_is_not_known_is_refused_before_anything_is_asked_for(programs, cloud):
  result = call(programs, "create", TPU_TYPE="tpu7x-8")
  assert result.returncode == 2 and "TPU_TYPE=tpu7x-8 is not known here" in result.stderr and not cloud.calls()


def test_wait_ends_when_the_tpu_is_there_and_fails_when_it_will_not_come(programs, cloud):
  cloud.set_states("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  result = call(programs, "wait")
  assert result.returncode == 0
  assert result.stderr.splitlines() == [
    f"tpu-vm: bert: {state}" for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  ]
  cloud.set_states("WAITING_FOR_RESOURCES", "FAILED")
  result = call(programs, "wait")
  assert result.returncode == 1 and "delete, then create" in result.stderr


def test_wait_without_a_tpu_says_so_with_what_gcloud_says(programs, cloud):
  result = call(programs, "wait")
  assert (
    result.returncode == 2
    and "NOT_FOUND" in result.stderr
    and "there is no queued resource bert in us-west4-a" in result.stderr
  )


def test_install_brings_what_git_knows_to_every_host_and_mounts_the_share(programs, cloud):
  cloud.set_states("ACTIVE")
  result = call(programs, "install")
  assert result.returncode == 0, result.stderr
  tracked = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True
  ).stdout.splitlines()
  for number in range(cloud.hosts):
    home = cloud.folder / f"host-{number}"
    assert (home / "bert_jax" / "setup.py").read_bytes() == (ROOT / "setup.py").read_bytes()
    there = {
      str(path.relative_to(home / "bert_jax"))
      for path in (home / "bert_jax").rglob("*")
      if path.is_file() or path.is_symlink()
    }
    assert there - {".venv/bin/python"} <= set(tracked)
  mounts = [words for words in cloud.calls() if words[0] == "mount"]
  assert mounts == [["mount", "-t", "nfs", "-o", "hard,noatime", "10.0.0.2:/share", "/mnt/bert_jax"]] * cloud.hosts
  installs = [words for words in cloud.calls() if words[:4] == ["python3", "-m", "uv", "pip"]]
  assert (
    all({"--constraint=constraints.txt", "--editable=.[tpu,gcs,zh]"} <= set(words) for words in installs)
    and len(installs) == cloud.hosts
  )


def test_run_trains_on_every_host_with_the_variables_as_they_are(programs, cloud):
  up(programs, cloud, STAND_IN_PLAN='["train"]')
  calls = wait_until(lambda: [c for c in programs.calls() if "pretrain" in c["argv"]], times=2)
  for seen in calls:
    assert seen["argv"][2:] == [
      "pretrain",
      "--config=configs/bert_base.py:phase1",
      "--workdir=/mnt/bert_jax/runs/a b",
      "--config.data.corpus=/mnt/bert_jax/wiki-128",
      "--config.seed=1",
    ]
    assert "BERT_JAX_COORDINATOR" not in seen["environ"]  # JAX reads the TPU's metadata


def test_run_twice_starts_nothing_twice(programs, cloud):
  up(programs, cloud, STAND_IN_PLAN='["train"]')
  wait_until(lambda: [c for c in programs.calls() if "pretrain" in c["argv"]], times=2)
  result = call(programs, "run")
  assert result.returncode == 1 and "training is under way already" in result.stderr


def test_a_run_folder_on_the_disk_of_one_host_is_refused(programs, cloud):
  for folder in ("/home/me/run", "gs://bucket/run", "/mnt/bert_jax/"):
    result = call(programs, "run", BERT_JAX_WORKDIR=folder)
    assert result.returncode == 2 and f"BERT_JAX_WORKDIR={folder} must lie below /mnt/bert_jax" in result.stderr
  assert not cloud.calls()


def test_stop_lets_every_host_save(programs, cloud):
  up(programs, cloud, STAND_IN_PLAN='["train"]')
  programs.wait_for("training", times=2)
  assert call(programs, "stop").returncode == 0
  assert len(programs.wait_for("saved", times=2)) == 2
  status = call(programs, "status")
  assert status.stdout.count(": 75: ") == cloud.hosts and "tpu-vm: bert: ACTIVE" in status.stderr


def test_an_interrupted_run_is_started_again_on_the_host(programs, cloud):
  up(programs, cloud, STAND_IN_PLAN="[76, 75, 0]")
  wait_until(lambda: list(cloud.folder.glob("host-*/bert_jax.exit")), times=2)
  assert [path.read_text(encoding="ascii") for path in cloud.folder.glob("host-*/bert_jax.exit")] == ["0\n", "0\n"]


def test_keep_asks_again_for_a_tpu_that_was_taken_away_and_ends_with_the_training(programs, cloud):
  plan = '["train", 0]'  # on each host: a run that is lost, and one that comes to its end
  process = programs.start(SCRIPT, "keep", **TPU | RUN | {"STAND_IN_PLAN": plan})
  programs.wait_for("training", times=2)
  cloud.take_away()
  _, printed = process.communicate(timeout=60)
  assert process.returncode == 0, printed
  assert "bert was taken away, or not given" in printed and "training is done" in printed
  asked = [words[3] for words in cloud.gcloud_calls("queued-resources") if words[3] != "describe"]
  assert asked == ["create", "delete", "create"]


def test_keep_ends_at_a_mistake_of_the_user(programs, cloud):
  result = call(programs, "keep", STAND_IN_PLAN="[1]")
  assert result.returncode == 1 and "exit code 1 is final: launch/tpu-vm.sh logs says what to mend" in result.stderr
  assert not cloud.gcloud_calls("queued-resources delete")


def test_keep_gives_up_after_so_many_starts(programs, cloud):
  result = call(programs, "keep", BERT_JAX_CONFIG="")
  assert result.returncode == 2 and "BERT_JAX_CONFIG is not set" in result.stderr
  cloud.set_states("ACTIVE")
  programs.add("tar", "exit 1")
  result = call(programs, "keep", BERT_JAX_MAX_RESTARTS="1")
  assert result.returncode == 1 and "BERT_JAX_MAX_RESTARTS=1 restarts are used up" in result.stderr


def test_fetch_exports_on_the_cpu_of_host_0_and_copies_the_folder(programs, cloud):
  cloud.set_states("ACTIVE")
  call(programs, "install")
  (cloud.folder / "host-0" / "bert_jax.export").mkdir()
  (cloud.folder / "host-0" / "bert_jax.export" / "config.json").write_text("{}")
  target = programs.folder / "my bert"
  result = call(programs, "fetch", target)
  assert result.returncode == 0, result.stderr
  assert (target / "config.json").read_text() == "{}"
  exported = programs.calls()[-1]
  assert exported["argv"][2:] == ["export", "--workdir=/mnt/bert_jax/runs/a b", "--out=bert_jax.export"]
  assert exported["environ"]["JAX_PLATFORMS"] == "cpu"


def test_delete_leaves_the_question_to_gcloud(programs, cloud):
  cloud.set_states("ACTIVE")
  assert call(programs, "delete").returncode == 0
  (words,) = cloud.gcloud_calls("queued-resources delete")
  assert "--force" in words and "--quiet" not in words


@pytest.mark.parametrize("words", [[], ["--help"], ["no-such-command"]])
def test_help_without_and_with_asking(programs, cloud, words):
  result = programs.run(SCRIPT, *words)
  assert (result.returncode, result.stdout if words == ["--help"] else result.stderr)[0] == (
    0 if words == ["--help"] else 2
  )
  assert "usage: launch/tpu-vm.sh COMMAND" in result.stdout + result.stderr and not cloud.calls()


def test_missing_variables_are_named(programs, cloud):
  assert programs.run(SCRIPT, "create").stderr.startswith("error: TPU_NAME is not set")
  assert call(programs, "install", TPU_SHARE="").stderr.startswith("error: TPU_SHARE is not set")
  host = pathlib.Path(LAUNCH / "tpu-vm-host.sh")
  assert programs.run(host, "setup", "no-share").stderr.startswith("error: no-share is no NFS share: give HOST:/PATH")
  assert programs.run(host).returncode == 2


@pytest.mark.parametrize(
  "name, value, expected",
  [
    ("BERT_JAX_MAX_RESTARTS", "fifty", "a whole number"),
    ("BERT_JAX_MAX_RESTARTS", "1.5", "a whole number"),
    ("TPU_POLL_SECONDS", "soon", "a number of seconds"),
    ("TPU_SPOT", "yes", "0 or 1"),
    ("BERT_JAX_DOCTOR", "yes", "0 or 1"),
  ],
)
@pytest.mark.parametrize("command", ["keep", "run", "wait"])
def test_a_variable_that_is_no_number_is_refused_before_anything_is_asked_for(
  programs, cloud, command, name, value, expected
):
  result = call(programs, command, **{name: value})
  assert result.returncode == 2 and result.stderr == f"error: {name}={value} must be {expected}\n"


def test_flags_that_gcloud_does_not_have_are_refused_by_the_stand_in():
  with pytest.raises(ValueError, match="unrecognized arguments: --worker"):
    fake_gcloud.check(["compute", "tpus", "queued-resources", "create", "bert", "--worker=all"])
  with pytest.raises(ValueError, match="Invalid choice"):
    fake_gcloud.check(["compute", "tpus", "queued-resource", "create", "bert"])
