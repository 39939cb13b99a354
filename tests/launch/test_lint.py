"""Shell scripts and Dockerfiles under their linters, and the helper of the GPU image."""

import pathlib
import subprocess
import sys

import pytest

from tests.launch.programs import LAUNCH

BIN = pathlib.Path(sys.executable).parent
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck_are_executable_and_explain_themselves(script, programs):
  checked = subprocess.run([BIN / "shellcheck", script], text=True, capture_output=True)
  assert checked.returncode == 0, checked.stdout
  result = programs.run(script, "--help")
  assert result.returncode == 0 and "usage: " in result.stdout


@pytest.mark.parametrize("name", ["gpu.Dockerfile", "tpu.Dockerfile"])
def test_dockerfiles_pass_hadolint(name):
  checked = subprocess.run([BIN / "hadolint", LAUNCH / name], text=True, capture_output=True)
  assert checked.returncode == 0, checked.stdout


def install(site, **versions):
  for name, version in versions.items():
    (site / f"{name}-{version}.dist-info").mkdir(parents=True)
    (site / f"{name}-{version}.dist-info" / "METADATA").write_text(
      f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )


def hold(site, *flags):
  return subprocess.run(
    [sys.executable, "-S", LAUNCH / "hold_jax.py", *flags],
    env={"PYTHONPATH": str(site)},
    text=True,
    capture_output=True,
  )


def test_an_image_s_jax_is_held_and_a_change_of_it_is_named(tmp_path):
  install(
    tmp_path / "a",
    jax="0.12.1.dev20260601",
    jaxlib="0.12.1",
    jax_cuda13_plugin="0.12.1",
    nvidia_nccl_cu13="2.30.7",
    flax="0.12.8",
  )
  (tmp_path / "versions").write_text(hold(tmp_path / "a").stdout)
  assert (tmp_path / "versions").read_text().split() == [
    "jax-cuda13-plugin==0.12.1",
    "jax==0.12.1.dev20260601",
    "jaxlib==0.12.1",
    "nvidia-nccl-cu13==2.30.7",
  ]
  assert hold(tmp_path / "a", "--compare", tmp_path / "versions").returncode == 0
  install(tmp_path / "b", jax="0.10.2", jaxlib="0.12.1", jax_cuda13_plugin="0.12.1", nvidia_nccl_cu13="2.30.7")
  changed = hold(tmp_path / "b", "--compare", tmp_path / "versions")
  assert (
    changed.returncode == 1
    and "jax==0.12.1.dev20260601 is gone" in changed.stderr
    and "jax==0.10.2 is new" in changed.stderr
  )


def test_an_image_without_jax_is_refused(tmp_path):
  assert hold(tmp_path).returncode == 1
