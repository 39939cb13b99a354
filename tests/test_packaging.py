"""What is installed: the wheel holds the package and its ready configs, and the version stands in one place."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import bert_jax
from bert_jax import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """Built from a copy, so that the checkout keeps no build folder."""
  source = tmp_path_factory.mktemp("source")
  for name in ("bert_jax", "configs"):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source / name)
  subprocess.run([sys.executable, "setup.py", "--quiet", "bdist_wheel"], cwd=source, check=True, capture_output=True)
  (built,) = (source / "dist").iterdir()
  return built


def test_the_wheel_has_the_version_of_the_package(wheel):
  assert wheel.name == f"bert_jax-{bert_jax.__version__}-py3-none-any.whl"


def test_the_wheel_holds_every_module_and_every_ready_config(wheel):
  there = {f"bert_jax/{path.relative_to(ROOT / 'bert_jax').as_posix()}" for path in ROOT.glob("bert_jax/**/*.py")}
  there |= {f"bert_jax/configs/{path.name}" for path in ROOT.glob("configs/*.py")} | {"bert_jax/py.typed"}
  assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == there


def test_a_ready_config_is_found_by_name_without_a_checkout(wheel, tmp_path):
  zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
  code = """
from bert_jax import config
print(config.__file__)
print(config.load_config("quickstart").total_steps, config.load_config("bert_base:phase2").total_steps)
"""
  environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
  printed = subprocess.run(
    [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
  ).stdout.split()
  assert printed[0].startswith(str(tmp_path))
  assert printed[1:] == [
    str(configs.load_config(str(ROOT / spec)).total_steps)
    for spec in ("configs/quickstart.py", "configs/bert_base.py:phase2")
  ]
