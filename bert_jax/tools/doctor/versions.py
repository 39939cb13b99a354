"""Are the installed packages those that this project and its parts ask for? Reads metadata; imports none of them."""

import importlib.metadata
import platform
from collections.abc import Callable

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bert_jax.tools.doctor import row
from bert_jax.tools.doctor.row import Row

PROJECT = "bert_jax"
# What a run's numbers depend on: shown, and the same on every process.
REPORTED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow")
# What a part says of the packages that it works with. jax names the plugins and the libtpu that fit it under its
# extras.
COMPANIONS = {
  "jax": ("jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu"),
  "flax": ("jax", "optax", "orbax-checkpoint"),
}
# jax-cuda12-plugin needs its other half in the very same version.
COMPANIONS |= {f"jax-cuda{cuda}-plugin": (f"jax-cuda{cuda}-pjrt",) for cuda in (12, 13)}
# The same code under several names; any of them will do.
TWINS = dict.fromkeys(("tensorflow-cpu", "tensorflow"), ("tensorflow-cpu", "tensorflow"))

Version = Callable[[str], str | None]  # name of a distribution -> its version, None where it is not installed
Requires = Callable[[str], list[str] | None]  # name of a distribution -> what it requires


def installed(name: str) -> str | None:
  """The version of a distribution, or None."""
  for twin in TWINS.get(name, (name,)):
    try:
      return importlib.metadata.version(twin)
    except importlib.metadata.PackageNotFoundError:
      continue
  return None


def present(version: Version = installed) -> dict[str, str]:
  """Python and the packages of SHOWN that are installed: {"python": "3.11.7", "jax": …}."""
  found = {name: version(name) for name in REPORTED}
  return {"python": platform.python_version()} | {name: value for name, value in found.items() if value}


def check_versions(loader: str, version: Version = installed, requires: Requires = importlib.metadata.requires) -> Row:
  """Compares what is installed with what `setup.py` and the parts themselves ask for.

  Args:
    loader: data.loader of the config; without "tfdata" nothing needs TensorFlow.
    version, requires: how to look a distribution up.
  """
  try:
    needs = [Requirement(text) for text in requires(PROJECT) or ()]
    python = SpecifierSet(importlib.metadata.metadata(PROJECT)["Requires-Python"] or "")
  except importlib.metadata.PackageNotFoundError:
    return row.warn(
      f"{PROJECT} runs from a folder that is not installed, so the versions that it needs are unknown",
      "install it there: pip install --editable . --constraint constraints.txt",
    )
  needs = [
    need
    for need in needs
    if (need.marker is None or need.marker.evaluate({"extra": ""}))
    and (loader == "tfdata" or not need.name.startswith("tensorflow"))
  ]
  wrong: dict[str, str] = {}
  if platform.python_version() not in python:
    return row.fail(f"python {platform.python_version()}, {PROJECT} needs {python}", "install it for another Python")
  for need in needs:
    _compare(wrong, need, version(need.name), PROJECT, required=True)
  for part, others in COMPANIONS.items():
    for need in _asks(requires(part)) if version(part) else ():
      if need.name in others:
        _compare(wrong, need, version(need.name), f"{part} {version(part)}", required=False)
  if wrong:
    return row.fail("; ".join(wrong.values()), f"pip install {' '.join(repr(need) for need in wrong)}")
  return row.ok(", ".join(f"{name}=={value}" for name, value in present(version).items()))


def _asks(requirements: list[str] | None) -> list[Requirement]:
  """What a package requires, whatever the extra; of the extras that only its own developers use, nothing."""
  needs = [Requirement(text) for text in requirements or ()]
  own = ("minimum-jaxlib", "ci", "testing", "docs", "dev")
  return [
    need for need in needs if need.marker is None or not any(f'extra == "{extra}"' in str(need.marker) for extra in own)
  ]


def _compare(wrong: dict[str, str], need: Requirement, found: str | None, whose: str, *, required: bool) -> None:
  """Adds to `wrong`, under what pip would be asked for, a package that is missing or not of the wanted version."""
  asked = f"{need.name}{need.specifier}"
  if found is None:
    if required:
      wrong[asked] = f"{need.name} is not installed ({PROJECT} needs {need.specifier or 'any'})"
  elif not need.specifier.contains(found, prereleases=True):
    wrong[asked] = f"{need.name} {found}, {whose} needs {need.specifier}"
