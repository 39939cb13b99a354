"""What the tests of doctor's checks look at: a context over a tiny run, and folders that stand for a machine."""

import contextlib
import pathlib
import subprocess

import pytest

from bert_jax import config as configs
from bert_jax.cluster import rendezvous
from bert_jax.tools.doctor.context import ALONE, Context
from tests.helpers.tiny_runs import tiny_run_config


def context(folder: pathlib.Path, corpus, *overrides: str, **changes) -> Context:
  """The context of a process that is alone, or whatever `changes` say."""
  config = tiny_run_config(folder, corpus, *overrides)
  workdir = str(changes.pop("workdir", folder / "run"))
  introductions = [rendezvous.introduce(configs.flatten(config), workdir)]
  return Context(config, workdir, **{"introductions": introductions, "environ": {}, "cluster": ALONE} | changes)


def machine(folder: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
  """A folder that holds what is read of /proc, /sys and /dev."""
  for name, text in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  return folder


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, options: str):
  """A file system of its own on `folder`; skips where this user may not mount one."""
  folder.mkdir()
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True)
  if mounted.returncode:
    pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
  try:
    yield folder
  finally:
    subprocess.run(["umount", folder], check=True)
