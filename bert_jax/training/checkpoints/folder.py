"""The folder of a checkpoint: does it count, what does it say of itself, and how does it leave.

Plain files, JSON and names; reading and writing arrays is the business of
checkpoint.py, which describes the layout.

A damaged checkpoint leaves by a rename where there is one. In an object store
it stays where it is, and a marker object of the same name says that it does
not count; a step that is saved again gets another folder:

    a file system                         an object store
    checkpoints/300/                      checkpoints/300/  does not count any more
                                          checkpoints/300.2/
                set-aside/300-REASON/                 set-aside/300-REASON  the marker

Readers take both, so that a copy of a run folder on another kind of storage is the same run.
"""

import hashlib
import json
import re
from typing import Any, NamedTuple

import jax
from etils import epath

from bert_jax.errors import UserError
from bert_jax.io import storage

# What Orbax calls the files that decide whether a folder counts, in the order in which it writes them.
COMMIT_METADATA, COMMIT_MARKER = "_CHECKPOINT_METADATA", "commit_success.txt"
MANIFEST_FILE = "manifest/data.json"
SET_ASIDE, UNMARKED = "set-aside", "-no-commit-marker"
RUN_FILE = "run.json"  # in the run folder: tells it from all others
_STEP_FOLDER = re.compile(r"(\d+)(?:\.(\d+))?")
FORMAT = 1


class Damaged(Exception):
  """A folder that cannot be used.

  Attributes:
    reason: a short word, for the name that the folder is set aside under.
    found: what was found, for people.
  """

  def __init__(self, reason: str, found: str):
    super().__init__(found)
    self.reason, self.found = reason, found


class Manifest(NamedTuple):
  """What a checkpoint says of itself.

  Attributes:
    step: the step it was saved at.
    host: JSON values saved beside the state.
    metrics: name -> finite float, known when it was saved; may be empty.
    arrays: path ("params/encoder/layer_0/…") -> (dtype name, shape, checksum).
    meaning: file of the run folder -> its digest, or {key: value} of what counts in it: what gives the weights their
      meaning, see `check_meaning`; empty in checkpoints of earlier versions.
  """

  step: int
  host: dict[str, Any]
  metrics: dict[str, float]
  arrays: dict[str, tuple[str, tuple[int, ...], int]]
  meaning: dict[str, Any] = {}

  @property
  def host_values(self) -> dict[str, Any]:
    """`host`, with the step."""
    return self.host | {"step": self.step}


def encode(manifest: Manifest) -> dict[str, Any]:
  """The JSON object that is stored: the manifest, and a SHA-256 of it in canonical form."""
  content = json.loads(json.dumps({"format": FORMAT, **manifest._asdict()}))
  return {"sha256": _digest(content), "content": content}


def read_manifest(path: epath.Path) -> Manifest:
  """The manifest of the checkpoint in `path`.

  Raises:
    Damaged: it is missing, has been altered, or is that of another step.
    UserError: a later version of the project wrote it, or it may not be read.
    StorageError: storage failed.
  """
  try:
    loaded = json.loads(storage.read_text(path / MANIFEST_FILE))
    content = loaded["content"]
    intact = loaded["sha256"] == _digest(content)
  except FileNotFoundError as error:
    raise Damaged("manifest", f"{MANIFEST_FILE} is missing") from error
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise Damaged("manifest", f"{MANIFEST_FILE} cannot be read ({type(error).__name__}: {error})") from error
  if not intact:
    raise Damaged("manifest", f"{MANIFEST_FILE} has been altered")
  if content["format"] != FORMAT:
    raise UserError(f"{path} has format {content['format']}, this bert_jax reads {FORMAT}: update bert_jax")
  if _STEP_FOLDER.fullmatch(path.name) and step_of(path) != content["step"]:
    raise Damaged("other-step", f"it is a copy of checkpoint {content['step']} under another name")
  arrays = {name: (dtype, tuple(shape), total) for name, (dtype, shape, total) in content["arrays"].items()}
  return Manifest(content["step"], content["host"], content["metrics"], arrays, content.get("meaning", {}))


def rewrite_metrics(path: epath.Path, metrics: dict[str, float]) -> None:
  """Gives the checkpoint in `path` other metrics, and leaves everything else as it is."""
  manifest = read_manifest(path)
  storage.write_text(path / MANIFEST_FILE, json.dumps(encode(manifest._replace(metrics=metrics))))


def compare_checksums(manifest: Manifest, checksums: dict[str, int]) -> None:
  """Raises Damaged, naming the first array, where a checksum is not the manifest's."""
  bad = [name for name, checksum in checksums.items() if checksum != manifest.arrays[name][2]]
  if bad:
    others = f" (nor those of {len(bad) - 1} others)" if len(bad) > 1 else ""
    raise Damaged("checksum", f"the checksum of {bad[0]} does not match{others}")


def check_meaning(path: epath.Path, manifest: Manifest, meaning: dict[str, Any]) -> None:
  """Raises UserError, naming the file, where the run folder around a checkpoint says something else about its weights
  than at the save.

  Args:
    path: of the checkpoint.
    manifest: what it says of itself; without a meaning it is of an earlier version, and nothing is compared.
    meaning: as Manifest.meaning, of the folder as it is now; empty: nothing is compared.
  """
  if not manifest.meaning or not meaning:
    return
  root = path.parent.parent
  for name in dict.fromkeys([*manifest.meaning, *meaning]):
    then, now = manifest.meaning.get(name), meaning.get(name)
    if name == RUN_FILE:
      if None not in (then, now) and then != now:
        raise UserError(
          f"checkpoint {path} belongs to another run: its id is {then}, and {root / name} has {now}. Move it out of "
          f"{path.parent}"
        )
    elif found := _difference(then, now):
      raise UserError(
        f"{root / name}: {found}. That file gives the weights of checkpoint {path} their meaning, and is not the one "
        "that they were trained with; restore it from a copy of the run folder"
      )


def _difference(then: Any, now: Any) -> str:
  """How a file of a run folder differs from what it was, in words; empty: not at all. Keys that are new do not count:
  later versions may add some.
  """
  if then is None or now is None:
    return "" if then == now else "it is missing" if now is None else "it was not there when they were saved"
  if isinstance(then, dict) and isinstance(now, dict):
    changed = [key for key in then if then[key] != now.get(key)]
    return f"{changed[0]} is {now.get(changed[0])!r} now, and was {then[changed[0]]!r}" if changed else ""
  return "" if then == now else "its content has changed"


def check_fits(path: epath.Path, manifest: Manifest, abstract: dict[str, Any]) -> None:
  """Raises UserError, naming the first array, where a checkpoint holds others than the run expects.

  Args:
    path: of the checkpoint, for the message.
    manifest: what it holds.
    abstract: path -> anything with shape and dtype.
  """
  differences = []
  for name in dict.fromkeys([*abstract, *manifest.arrays]):
    ours, theirs = abstract.get(name), manifest.arrays.get(name)
    has = f"{theirs[0]} {list(theirs[1])}" if theirs else "nothing"
    wants = f"{ours.dtype} {list(ours.shape)}" if ours is not None else "nothing"
    if has != wants:
      differences.append(f"{name}: the checkpoint has {has}, this run {wants}")
  if differences:
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    raise UserError(
      f"checkpoint {path} belongs to another configuration. {differences[0]}{more}. Give this run the "
      "model and the optimizer that the checkpoint was made with, or choose another --workdir"
    )


def step_folders(directory: epath.Path) -> list[epath.Path]:
  """Folders named by a step, in the order of steps, whatever is in them; without those that a marker has set aside."""
  marked = _marked(directory)
  folders = [
    path
    for path in storage.listing(directory)
    if _STEP_FOLDER.fullmatch(path.name) and path.name not in marked and storage.is_folder(path)
  ]
  return sorted(folders, key=lambda path: (step_of(path), path.name))


def step_of(path: epath.Path) -> int:
  """The step of one of `step_folders`: 300 for "300" and for "300.2"."""
  return int(path.name.partition(".")[0])


def folder_of(directory: epath.Path, step: int) -> epath.Path:
  """Where a step lies, or will be saved: the first of the names 300, 300.2, 300.3 … that no marker has set aside."""
  marked, name, number = _marked(directory), str(step), 1
  while name in marked:
    number += 1
    name = f"{step}.{number}"
  return directory / name


def committed_steps(directory: epath.Path) -> list[int]:
  """Steps whose folders have the commit marker, ascending."""
  return [step_of(path) for path in step_folders(directory) if storage.exists(path / COMMIT_MARKER)]


def check_committed(path: epath.Path) -> None:
  """Raises Damaged unless everything is there that a finished save leaves."""
  names = {child.name for child in storage.listing(path)}
  if not names:
    raise Damaged("empty", "its folder is empty")
  if COMMIT_MARKER not in names:
    if COMMIT_METADATA in names:
      raise Damaged(UNMARKED[1:], f"{COMMIT_MARKER} is missing")
    raise Damaged("unfinished", "its saving was interrupted")
  missing = sorted({"state", "manifest"} - names)
  if missing:
    raise Damaged("incomplete", f"{' and '.join(missing)} missing")


def set_aside(path: epath.Path, reason: str) -> epath.Path:
  """Moves a step's folder away, under a name that is still free, and returns where it lies; in an object store a
  marker has to do.
  """
  parent, number = path.parent / SET_ASIDE, 1
  if storage.is_remote(path):
    storage.write_text(parent / f"{path.name}-{reason}", f"{path} is damaged ({reason}) and does not count\n")
    return path
  parent.mkdir(parents=True, exist_ok=True)
  target = parent / f"{path.name}-{reason}"
  while storage.exists(target):
    number += 1
    target = parent / f"{path.name}-{reason}-{number}"
  path.rename(target)
  return target


def unmarked(directory: epath.Path) -> list[str]:
  """Names of the step folders that were set aside for nothing but a missing commit marker, the newest first."""
  names = [path.name.removesuffix(UNMARKED) for path in _aside(directory) if path.name.endswith(UNMARKED)]
  return sorted(names, key=lambda name: (step_of(directory / name), name), reverse=True)


def put_back(directory: epath.Path, name: str) -> None:
  """Gives a folder of `unmarked` its commit marker and its place again: it may be read now, and has to be verified."""
  aside, path = directory / SET_ASIDE / f"{name}{UNMARKED}", directory / name
  moved = storage.is_folder(aside)
  storage.write_text((aside if moved else path) / COMMIT_MARKER, "written again: only the marker was missing\n")
  if moved:
    aside.rename(path)
  else:
    aside.unlink()


def has_damage(directory: epath.Path) -> bool:
  """Whether anything but empty folders was ever set aside here."""
  return any("-empty" not in path.name for path in _aside(directory))


def _aside(directory: epath.Path) -> list[epath.Path]:
  """What was set aside: folders that were moved, or the markers of those that could not be."""
  return storage.listing(directory / SET_ASIDE)


def _marked(directory: epath.Path) -> set[str]:
  """The names of folders that lie where they were saved, and do not count."""
  return {path.name.partition("-")[0] for path in _aside(directory) if not storage.is_folder(path)}


def remove(path: epath.Path) -> None:
  """Deletes a checkpoint; killed half-way, it leaves a whole one or one that does not count."""
  for name in (COMMIT_METADATA, COMMIT_MARKER):
    (path / name).unlink(missing_ok=True)
  if storage.exists(path):
    path.rmtree()


def by_path(tree) -> dict[str, Any]:
  """path ("params/encoder/…", "opt_state/0/mu/…") -> leaf, in the order of jax.tree.leaves."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
  if len(named) != len(leaves):
    raise ValueError("two leaves of the state have the same path")
  return named


def nested(named: dict[str, Any]) -> dict[str, Any]:
  """Nested dicts, whatever containers the state is made of: Orbax then stores nothing about our classes."""
  tree: dict[str, Any] = {}
  for name, leaf in named.items():
    *parents, last = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def remedy(text: str, directory: epath.Path) -> str | None:
  """What a user can do about a failed save, or None if it is not for the user to mend."""
  for sign in ("No space left on device", "Disk quota exceeded", "File too large"):
    if sign in text:
      return f"{sign}. Free some space for {directory}, then run the same command again: it resumes by itself"
  for sign in ("Permission denied", "PERMISSION_DENIED", "Read-only file system"):
    if sign in text:
      return f"{sign}. Make {directory} writable, then run the same command again"
  return None


def short(error: Exception) -> str:
  """An error's text on one line, without TensorStore's description of everything that it has open."""
  text = " ".join(str(error).split()).split(" [tensorstore_spec")[0] or type(error).__name__
  return text if len(text) <= 400 else f"{text[:200]} … {text[-200:]}"


def _digest(content) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
