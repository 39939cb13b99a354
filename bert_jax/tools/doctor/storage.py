"""Can the run folder hold this run, and does it? Writes a probe beside it, or into it on an object store, and takes it
away again.
"""

import contextlib
import errno
import os
import pathlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator

from etils import epath

from bert_jax import config as configs
from bert_jax.errors import UserError
from bert_jax.inference.run_folder import is_finished, read_run_config
from bert_jax.io import storage as places
from bert_jax.tools.doctor import row
from bert_jax.tools.doctor.context import Context
from bert_jax.tools.doctor.row import Row, size
from bert_jax.training import metrics
from bert_jax.training.checkpoints import folder as folders
from bert_jax.training.optimizer import last_step

PROBE_BYTES = 2**23
CLOCK_SECONDS = 1.0  # two clocks that differ by less are the same
_REMEDIES = {
  errno.ENOSPC: "free some space, or choose another --workdir",
  errno.EDQUOT: "free some space within your quota, or choose another --workdir",
  errno.EROFS: "mount it for writing, or choose another --workdir",
  errno.EACCES: "make it writable for this user, or choose another --workdir",
  errno.EPERM: "make it writable for this user, or choose another --workdir",
}


def standing(folder: os.PathLike) -> epath.Path:
  """The nearest folder that is there already, `folder` itself or one above it; in an object store, where every folder
  is. Raises UserError for a file.
  """
  text = os.fspath(folder)
  path = places.folder(text)
  if places.is_remote(text):
    return path
  path = path.absolute()
  while not path.exists():
    path = path.parent
  if not path.is_dir():
    raise UserError(f"{text}: {path} is a file, and a run needs folders of its own; choose another --workdir")
  return path


@contextlib.contextmanager
def scratch_folder(workdir: epath.Path) -> Iterator[epath.Path]:
  """A folder to try things in, where the checkpoints will be; gone afterwards, and harmless if this process is
  killed.
  """
  where = standing(workdir / "checkpoints")
  if places.is_remote(where):
    folder = where.parent / f".doctor.partial-{secrets.token_hex(8)}"
  else:
    folder = epath.Path(tempfile.mkdtemp(prefix=".doctor.partial-", dir=where))
  try:
    yield folder
  finally:
    if places.is_remote(where):
      with contextlib.suppress(OSError), places.failures(folder):
        folder.rmtree(missing_ok=True)
    else:
      shutil.rmtree(folder, ignore_errors=True)


def place(context: Context) -> epath.Path | None:
  """The folder in which checkpoints will be made, or None where there is none, which the run folder row is about."""
  try:
    return standing(context.workdir / "checkpoints")
  except UserError:
    return None


def checkpoints(context: Context) -> Row | list[Row]:
  """Whether the folder of the checkpoints does what saving, committing and setting aside rely on, and how fast it
  writes.
  """
  where = place(context)
  if where is None:
    return []
  try:
    with scratch_folder(context.workdir) as folder:
      seconds = _write(folder / "data")
      broken = _semantics_of_store(folder) if places.is_remote(folder) else _semantics(pathlib.Path(folder))
  except OSError as error:
    return row.fail(f"{where}: {error.strerror or error}", _REMEDIES.get(error.errno or 0, "choose another --workdir"))
  if broken:
    return row.fail(
      f"{where}: {broken}, which saving checkpoints relies on", "choose a --workdir on another file system"
    )
  speed = PROBE_BYTES / seconds
  found = f"{where} writes whole files; {size(PROBE_BYTES)} written in {seconds:.2f} s ({size(speed)}/s)"
  with contextlib.suppress(
    UserError
  ):  # how large a checkpoint is, the memory row asks too, and says why it is not known
    saving, limit = context.state_bytes / speed, context.config.watchdog.step_seconds
    if saving > limit:
      return row.warn(
        f"{found}: a checkpoint of {size(context.state_bytes)} would take {saving:.0f} s, watchdog.step_seconds is "
        f"{limit}",
        f"choose a faster --workdir, or set --config.watchdog.step_seconds={round(2 * saving)}",
      )
  return row.ok(found)


def _write(path: epath.Path) -> float:
  """Seconds to write PROBE_BYTES through to the disk. Raises OSError, also where they do not come back."""
  data = os.urandom(PROBE_BYTES)
  began = time.perf_counter()
  if places.is_remote(path):
    places.write_bytes(path, data)
  else:
    with open(path, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
  seconds = time.perf_counter() - began
  with places.failures(path):
    came_back = path.read_bytes()
  if came_back != data:
    raise OSError(errno.EIO, "what was written there was read back altered")
  return seconds


def _semantics_of_store(folder: epath.Path) -> str:
  """What this object store does not do that runs rely on: everybody sees an object, its new contents and its end at
  once.
  """
  with places.failures(folder):
    for text in ("old", "new"):
      (folder / "step" / "object").write_text(text)
      if (folder / "step" / "object").read_text() != text or [path.name for path in (folder / "step").iterdir()] != [
        "object"
      ]:
        return "it does not show immediately what was written"
    (folder / "step").rmtree()
    return "it still shows what was deleted" if (folder / "step").exists() else ""


def _semantics(folder: pathlib.Path) -> str:
  """What this file system does not do as POSIX says; empty where it does all of it."""
  old, new = folder / "old", folder / "new"
  old.touch()
  try:
    os.close(os.open(old, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    return "it creates the same file twice (O_EXCL)"
  except FileExistsError:
    pass
  new.write_text("new")
  os.replace(new, old)  # config.json, metrics
  if new.exists() or old.read_text() != "new":
    return "it does not replace a file with another"
  (folder / "step").mkdir()
  (folder / "step" / folders.COMMIT_MARKER).touch()  # what commits a checkpoint
  (folder / "step").rename(folder / folders.SET_ASIDE)  # where a damaged one goes
  if {path.name for path in (folder / folders.SET_ASIDE).iterdir()} != {folders.COMMIT_MARKER} or (
    folder / "step"
  ).exists():
    return "it does not rename a folder with its contents"
  return ""


def disk_space(context: Context) -> Row | list[Row]:
  """Free space against the checkpoints that will lie there together: those that are kept, and the one being written."""
  where, settings = place(context), context.config.checkpoint
  if where is None or places.is_remote(where):
    return []
  free, together = shutil.disk_usage(where).free, max(2, settings.keep_last) + settings.keep_best + 1
  there = len(folders.step_folders(context.workdir / "checkpoints"))
  missing = max(1, together - there)
  needed = missing * context.state_bytes
  more = f" more ({there} are there)" if there else ""
  found = (
    f"{size(free)} free on {where}; {missing}{more} checkpoints of {size(context.state_bytes)} need {size(needed)}"
  )
  if free < needed:
    return row.fail(
      found, "free some space, keep fewer with --config.checkpoint.keep_last and keep_best, or choose another --workdir"
    )
  return row.ok(found)


def file_clock(context: Context) -> Row | list[Row]:
  """This machine's clock against that of the file system, and against what the run folder says has happened."""
  try:
    places.folder(context.workdir)
    ahead = 0.0 if places.is_remote(context.workdir) else _ahead(context.workdir)
    newest = max((event["time"] for event in metrics.read_events(context.workdir)), default=0.0)
  except (UserError, OSError):  # the rows of the run folder and of the checkpoints say why
    return []
  if abs(ahead) > CLOCK_SECONDS:
    return row.warn(
      f"the clock of the file system is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}",
      "set the clocks of this machine and of its file server (NTP)",
    )
  if newest > time.time() + CLOCK_SECONDS:
    return row.warn(
      f"this machine's clock is {newest - time.time():.0f} s before the newest event of {context.workdir}: times and "
      "goodput would make no sense",
      "set the clock of this machine (NTP)",
    )
  return [] if places.is_remote(context.workdir) else row.ok(f"within {abs(ahead):.2f} s of the file system's")


def _ahead(workdir: os.PathLike) -> float:
  """Seconds by which the clock of the file system is ahead of this machine's."""
  with scratch_folder(workdir) as folder:
    before = time.time()
    (folder / "clock").write_text("tick")
    return os.stat(folder / "clock").st_mtime - (before + time.time()) / 2


def run_folder(context: Context) -> Row | list[Row]:
  """What the run folder holds already: nothing, this run, another one, damage."""
  root = context.workdir
  standing(root / "checkpoints")  # refuses files where folders belong
  if not root.exists():
    return row.ok(f"{root} is new")
  if not (root / "config.json").exists():
    if any(".partial" not in path.name for path in root.iterdir()):
      return row.fail(f"{root} is not empty and holds no bert_jax run (no config.json)", "choose another --workdir")
    return row.ok(f"{root} is empty")
  before = read_run_config(root)
  try:
    now = context.resolved
  except UserError:  # the corpus row says why
    now = context.config
  return row.combined(_changed(before, now, root), _saved(context))


def _changed(before, now, root) -> list[Row]:
  """The keys that make this another run than the one in the folder."""
  changed = {
    key: pair for key, pair in configs.changed_keys(before, now).items() if pair[1] is not None
  }  # None: not derived yet
  if not changed:
    return []
  listed = "; ".join(f"{key}: {there!r} there, {here!r} now" for key, (there, here) in changed.items())
  return [
    row.fail(f"{root} holds a run with another config: {listed}", "restore the old values, or choose another --workdir")
  ]


def _saved(context: Context) -> list[Row]:
  """The checkpoints as far as their markers and manifests tell; their arrays are not read."""
  directory, rows, sound, broken = context.workdir / "checkpoints", [], {}, {}
  for path in folders.step_folders(directory):
    try:
      folders.check_committed(path)
      sound[folders.step_of(path)] = folders.read_manifest(path)
    except folders.Damaged as damage:
      broken[path.name] = damage
  goes_on = f", and resumes from step {max(sound):,}" if sound else ""
  for name, damage in broken.items():
    if damage.reason == "unfinished":
      rows.append(row.warn(f"checkpoint {name}: {damage.found}", f"nothing: the next start removes it{goes_on}"))
    else:
      rows.append(
        row.warn(
          f"checkpoint {name} is damaged: {damage.found}",
          f"nothing: the next start moves it to {folders.SET_ASIDE}{goes_on}",
        )
      )
  if folders.has_damage(directory):
    aside = sorted(path.name for path in (directory / folders.SET_ASIDE).iterdir())
    rows.append(
      row.warn(
        f"damaged checkpoints were set aside before: {', '.join(aside)}",
        "check the disk; delete them when they are no longer needed",
      )
    )
  if not sound:
    if folders.has_damage(directory) or any(damage.reason not in ("unfinished", "empty") for damage in broken.values()):
      rows.append(
        row.fail(f"no checkpoint in {directory} is intact", "restore one from a backup, or choose another --workdir")
      )
    return rows or [row.ok(f"{context.workdir} holds this run, without a checkpoint yet")]
  newest = max(sound)
  rows += _belongs(context, folders.folder_of(directory, newest), sound[newest])
  if is_finished(context.workdir, context.config):
    return rows or [row.ok(f"{context.workdir} has trained its {last_step(context.config):,} steps")]
  return rows or [row.ok(f"{context.workdir} resumes from step {newest:,} ({len(sound)} checkpoints)")]


def _belongs(context: Context, path, manifest: folders.Manifest) -> list[Row]:
  """Whether the newest checkpoint has the arrays of this config, and was made with the corpus that is there now."""
  try:
    corpus, state = context.corpus, context.state
  except UserError:
    return []  # the corpus row says why
  folders.check_fits(path, manifest, folders.by_path(state))
  made_with, now = manifest.host.get("corpus_id"), corpus and corpus.manifest["corpus_id"]
  if now and made_with != now:
    return [
      row.fail(
        f"checkpoint {path.name} was made with corpus_id={made_with!r}, {context.config.data.corpus} has {now!r}",
        "restore its corpus, or choose another --workdir with --config.init_from",
      )
    ]
  return []
