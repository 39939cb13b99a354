"""A run folder: what lies in it beside checkpoints and logs, how it is claimed for a run, and how others read it.

WORKDIR/config.json   the resolved config; a resume compares against it
WORKDIR/tokenizer/    a copy, so that a run can be used alone
WORKDIR/run.json      what tells this run from all others
WORKDIR/labels.json, source.json, result.json    of a run that began with a model, see runs/tuning.py
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from bert_jax import config as configs
from bert_jax.data.labelled.examples import Labels
from bert_jax.data.tokenizer.files import TOKENIZER_FILES
from bert_jax.data.tokenizer.wordpiece import load_tokenizer, save_tokenizer
from bert_jax.errors import UserError
from bert_jax.io import atomic, storage
from bert_jax.io.json_files import check_types, read_object
from bert_jax.objectives.finetuning import KINDS
from bert_jax.training import metrics
from bert_jax.training.checkpoints.folder import RUN_FILE, committed_steps
from bert_jax.training.optimizer import last_step

TOKENIZER_FILE = "tokenizer.json"

# Keys that say how weights are read, besides the fields of the encoder.
_MEANING_KEYS = (
  "objective",
  "tuning.pooling",
  "tuning.max_length",
  "finetune.kind",
  "finetune.stride",
  "embedding.objective",
  "embedding.normalize",
)


# Of a fine-tuned run: what its outputs mean, what model it began with, and, once it has come to its end, how good its
# best checkpoint is.
LABELS_FILE = "labels.json"


SOURCE_FILE = "source.json"


RESULT_FILE = "result.json"


def read_run_config(folder: str | os.PathLike):
  """The resolved config of a run folder. Raises UserError if the folder holds none."""
  path = storage.folder(folder) / "config.json"
  if not storage.exists(path):
    raise UserError(f"{folder} is not a run folder: it has no config.json")
  content = read_object(path, nan=True, halves=True)
  try:
    return configs.from_flat(content)
  except (ValueError, AttributeError, TypeError) as error:
    raise UserError(f"{path} is not the config of a run: {error}") from error
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def find_run_config(folder: str | os.PathLike):
  """The resolved config of a run folder; None for a folder of another kind, or one that is not there."""
  try:
    return read_run_config(folder)
  except UserError:
    return None


def read_labels(folder: str | os.PathLike) -> Labels | None:
  """What the outputs of a fine-tuned model mean, from its run folder; None for a run of another kind."""
  path = storage.folder(folder) / LABELS_FILE
  content = _read(path, {"kind": str, "names": list, "scale": (int, float)})
  if not content:
    return None
  names, pairs = content["names"], content.get("pairs")
  if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
    raise UserError(f"{path}: 'names' has to list texts, each once; the file was altered: restore it from a copy")
  if content["kind"] not in KINDS or not content["scale"] > 0 or pairs not in (None, True, False):
    raise UserError(f"{path}: a kind, scale or pairs that no run writes; restore it from a copy")
  return Labels(content["kind"], tuple(names), content["scale"], pairs)


def read_source(folder: str | os.PathLike) -> dict[str, str]:
  """The model that a fine-tuning began with: {"model": its folder, "state": see inference.state_of}; empty for a run
  of another kind.
  """
  return _read(storage.folder(folder) / SOURCE_FILE, {"model": str, "state": str}) or {}


def result_of(folder: str | os.PathLike) -> dict[str, Any]:
  """As read_result, of a fine-tuning that has ended."""
  result = read_result(folder)
  assert result is not None
  return result


def read_result(folder: str | os.PathLike) -> dict[str, Any] | None:
  """What a fine-tuning has written at its end; None before that, and once it has gone on since.

  "step" is that of the best checkpoint, "metric" what that was picked by, "metrics" what was measured at it, "examples"
  the files for training and evaluation with their digests, "held_out" whether the model was evaluated on a part of
  the training file, and "last_step" the newest checkpoint.
  """
  folder = storage.folder(folder)
  result = _read(folder / RESULT_FILE, {"step": int, "last_step": int, "metric": str, "metrics": dict})
  newest = max(committed_steps(folder / "checkpoints"), default=0) if result else 0
  return result if result and newest <= result["last_step"] else None


def _read(path: epath.Path, types: Mapping[str, Any]) -> dict[str, Any] | None:
  if not storage.exists(path):
    return None
  content = read_object(path, nan=True)
  check_types(content, str(path), types)
  return content


def is_finished(workdir: str, config: ml_collections.ConfigDict) -> bool:
  """Whether the run in `workdir` has already trained to where `config` ends it, or to where it ended early."""
  is_last = lambda event: event["step"] >= last_step(config) or event.get("stopped_early", False)
  return any(event["event"] == "finish" and is_last(event) for event in metrics.read_events(workdir))


def check_source(root: epath.Path, config: ml_collections.ConfigDict) -> None:
  """Raises UserError where the run in `root`, which would be resumed, began with another model than the one that
  is named now, if one is.
  """
  if not config.init_from or not storage.exists(root / "config.json"):
    return
  before = read_run_config(root).init_from
  if before and not storage.are_same(before, config.init_from):
    raise UserError(
      f"{root} holds a run that began with the model {before}, and now {config.init_from} is given: give another "
      f"--workdir; or, if that model has only moved, say so in {root / 'config.json'}"
    )


class ChangedConfig(UserError):
  """A run folder holds a run with other values of `keys`, which a resume may not change."""

  def __init__(self, message: str, keys: frozenset[str]):
    super().__init__(message)
    self.keys = keys


def claim_workdir(root: epath.Path, config: ml_collections.ConfigDict, tokenizer_folder: pathlib.Path) -> None:
  """Takes `root` as the folder of this run, or as the place where it goes on.

  Raises UserError for another run's folder, ChangedConfig where only the config is another.
  """
  path = root / "config.json"
  if storage.exists(path):
    changed = configs.changed_keys(read_run_config(root), config)
    if changed:
      listed = "\n".join(f"  {key}: {before!r} there, {now!r} now" for key, (before, now) in changed.items())
      raise ChangedConfig(
        f"{root} holds a run with another config:\n{listed}\n"
        "Restore the old values to resume it, or give another --workdir to start a new run",
        frozenset(changed),
      )
    check_source(root, config)
  elif any(".partial" not in entry.name for entry in storage.listing(root)):
    raise UserError(f"{root} is not empty and holds no bert_jax run (no config.json); choose another --workdir")
  else:  # the first thing in the folder: by it, what was stopped after it is known as ours
    storage.write_text(path, configs.to_json(config))
  has_tokenizer = storage.exists(root / "tokenizer" / (TOKENIZER_FILE if storage.is_remote(root) else ""))
  if has_tokenizer:
    _check_tokenizer(root / "tokenizer", tokenizer_folder)
  elif storage.is_remote(root):
    with tempfile.TemporaryDirectory() as made_in:
      _copy_tokenizer(tokenizer_folder, pathlib.Path(made_in), config)
      storage.send(pathlib.Path(made_in), root / "tokenizer", last=TOKENIZER_FILE)
  else:
    with atomic.new_folder(root / "tokenizer") as partial:
      _copy_tokenizer(tokenizer_folder, partial, config)
  if not storage.exists(root / RUN_FILE) and not committed_steps(root / "checkpoints"):
    storage.write_text(root / RUN_FILE, json.dumps({"id": secrets.token_hex(16)}) + "\n")


def _copy_tokenizer(source: pathlib.Path, target: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """The files of a tokenizer, and nothing else that lies beside them. Those of a model folder are written anew: what
  they leave unsaid, its config.json may say.
  """
  if (source / TOKENIZER_FILE).is_file() and not (source / "config.json").exists():
    for name in TOKENIZER_FILES:
      if (source / name).is_file():
        shutil.copyfile(source / name, target / name)
  else:
    save_tokenizer(load_tokenizer(source), target, max_length=configs.encoder_of(config).max_position_embeddings)


def _check_tokenizer(own: epath.Path, given: pathlib.Path) -> None:
  """Raises UserError where the tokenizer in a run folder gives other ids than the one that the run trains with."""
  if load_tokenizer(storage.fetch(own)).fingerprint != load_tokenizer(given).fingerprint:
    raise UserError(
      f"{own} is another tokenizer than {given}, which this run trains with, and of which it was a copy: restore it "
      f"from there, or give another --workdir"
    )


def meaning_of(folder: str | os.PathLike) -> dict[str, Any]:
  """What the files of a run folder say about the weights in its checkpoints, to be compared with what they said when
  these were saved: see training.checkpoints.folder.check_meaning.

  Returns:
    File of the run folder -> its digest, or {key: value} of what counts in it. A run of an earlier version has no
    RUN_FILE.

  Raises:
    UserError: this is no run folder, or a file in it is not what it should be.
    StorageError: storage failed.
  """
  root = storage.folder(folder)
  config = read_run_config(root)
  values = {f"model.{name}": value for name, value in dataclasses.asdict(configs.encoder_of(config)).items()}
  meaning: dict[str, Any] = {"config.json": values | {key: configs.flatten(config)[key] for key in _MEANING_KEYS}}
  for file in storage.listing(root / "tokenizer"):
    if file.name in TOKENIZER_FILES:
      meaning[f"tokenizer/{file.name}"] = _digest(storage.patiently(file.read_bytes, file))
  labels = read_labels(root)
  if labels is not None:
    meaning[LABELS_FILE] = labels._asdict() | {"names": _digest(json.dumps(labels.names).encode())}
  run = _read(root / RUN_FILE, {"id": str})
  return meaning | ({RUN_FILE: run["id"]} if run else {})


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
