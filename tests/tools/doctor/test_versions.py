"""Versions: what is installed against what the project and its parts ask for."""

import importlib.metadata

import pytest

from bert_jax.tools.doctor import row, versions


def with_(**changes):
  names = {name.replace("_", "-"): value for name, value in changes.items()}
  return lambda name: names[name] if name in names else versions.installed(name)


def test_what_is_installed_here_fits_and_is_shown():
  found = versions.check_versions("tfdata")
  assert found.status == row.OK
  assert f"jax=={importlib.metadata.version('jax')}" in found.found and found.found.startswith("python==3.")


def test_a_version_below_the_lower_bound_and_a_missing_package_are_named_with_what_to_install():
  found = versions.check_versions("tfdata", with_(flax="0.11.0", tokenizers=None))
  assert found.status == row.FAIL
  assert "flax 0.11.0, bert_jax needs <0.13,>=0.12.8" in found.found and "tokenizers is not installed" in found.found
  assert "'flax<0.13,>=0.12.8'" in found.remedy and "'tokenizers<1,>=0.22'" in found.remedy


def test_a_python_that_is_too_old_is_named(monkeypatch):
  monkeypatch.setattr(versions.platform, "python_version", lambda: "3.10.4")
  found = versions.check_versions("tfdata")
  assert (
    found.status == row.FAIL
    and found.found == "python 3.10.4, bert_jax needs >=3.11"
    and "another Python" in found.remedy
  )


def test_jax_and_jaxlib_must_be_of_one_release():
  found = versions.check_versions("tfdata", with_(jaxlib="0.9.1"))
  assert found.status == row.FAIL and "jaxlib 0.9.1, jax " in found.found


def test_a_cuda_plugin_of_another_release_than_jax_is_named():
  """JAX leaves such a plugin out, with a warning, and trains on the CPU."""
  requires = lambda name: (
    ["jax-cuda12-pjrt==0.10.0"] if name == "jax-cuda12-plugin" else importlib.metadata.requires(name)
  )
  found = versions.check_versions("tfdata", with_(jax_cuda12_plugin="0.10.0", jax_cuda12_pjrt="0.9.0"), requires)
  assert found.status == row.FAIL
  assert (
    "jax-cuda12-plugin 0.10.0, jax " in found.found
    and "jax-cuda12-pjrt 0.9.0, jax-cuda12-plugin 0.10.0 needs ==0.10.0" in found.found
  )


def test_without_tfdata_nothing_needs_tensorflow():
  missing = lambda name: None if name.startswith("tensorflow") else versions.installed(name)
  assert versions.check_versions("threads", missing).status == row.OK
  assert "tensorflow-cpu is not installed" in versions.check_versions("tfdata", missing).found


def test_tensorflow_is_one_of_two_distributions(monkeypatch):
  real = importlib.metadata.version
  only = {"tensorflow": "2.20.0"}

  def version(name):
    if name == "tensorflow-cpu":
      raise importlib.metadata.PackageNotFoundError(name)
    return only.get(name) or real(name)

  monkeypatch.setattr(importlib.metadata, "version", version)
  assert versions.installed("tensorflow-cpu") == "2.20.0"


def test_a_folder_that_is_not_installed_is_a_warning(monkeypatch):
  def requires(name):
    raise importlib.metadata.PackageNotFoundError(name)

  found = versions.check_versions("tfdata", requires=requires)
  assert found.status == row.WARN and "pip install" in found.remedy


@pytest.mark.parametrize("version", ["0.10.2.dev20260801", "0.11.0rc1"])
def test_a_nightly_jax_is_compared_by_its_number(version):
  found = versions.check_versions("tfdata", with_(jax=version, jaxlib=version))
  assert ("jax " + version + ", bert_jax" in found.found) == (
    version == "0.10.2.dev20260801"
  )  # before 0.10.2, says PEP 440
