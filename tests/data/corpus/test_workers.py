"""`prepare` as real processes: side by side, out of disk, out of memory, interrupted and killed."""

import json
import multiprocessing
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from bert_jax.data.corpus import prepare, rows, workers
from bert_jax.data.corpus.chunk import Chunk
from bert_jax.data.corpus.folder import open_corpus
from bert_jax.data.tokenizer.wordpiece import load_tokenizer
from bert_jax.errors import UserError
from tests.helpers.preparing import (
  ENVIRONMENT,
  IN_SMALL_CHUNKS,
  arguments,
  contents,
  run,
  settings,
  start,
  write_documents,
)


def work_in(tmp_path, vocab) -> workers.Work:
  tokenizer = load_tokenizer(vocab)
  return workers.Work(
    str(tmp_path / "documents"),
    str(tmp_path / "corpus"),
    tokenizer.plain.to_str(),
    tokenizer.template,
    tokenizer.vocab_size,
    "",
    rows.RowSettings("nsp", 32, 4, 0.1, 0),
  )


def test_a_bounded_number_of_chunks_is_under_way(vocab, tmp_path):
  work = work_in(tmp_path, vocab)
  given, done, most = 0, [], 0

  def stream():
    nonlocal given, most
    for index in range(12):
      given += 1
      most = max(most, given - len(done))
      yield Chunk("train", index, [2 * index, 2 * index + 1], ["The dog runs."] * 2, [(0, 1), (0, 2)], 26)

  workers.run_in_processes(stream(), work, 2, done.append)
  assert done == [26] * 12 and most <= 3
  assert all(rows.shard_folder(tmp_path / "corpus", "train", index).is_dir() for index in range(12))


def test_tokenized_documents_that_vanish_meanwhile_do_not_make_an_empty_shard(vocab, tmp_path):
  with pytest.raises(UserError, match="documents/train/00000: cannot be read"):
    workers.run_here([Chunk("train", 0, [], [], [], 0)], work_in(tmp_path, vocab), lambda num_bytes: None)
  assert not (tmp_path / "corpus").exists()


def test_workers_import_neither_jax_nor_tensorflow():
  code = (
    "import sys, bert_jax.data.corpus.workers; print([name for name in ('jax', 'tensorflow', 'torch', 'pyarrow') if "
    "name in sys.modules])"
  )
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
  assert result.stdout.strip() == "[]"


def test_a_worker_that_dies_is_one_clear_message_and_the_same_command_goes_on(source, vocab, tmp_path, small_chunks):
  whole = prepare.prepare_corpus([source], tmp_path / "whole" / "out", settings(vocab))

  def kill_one(phase, num_bytes, total):
    multiprocessing.active_children()[0].kill()

  with pytest.raises(UserError, match="a worker process died.*--workers=1; the same command then resumes"):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, workers=2), progress=kill_one)
  assert not (tmp_path / "out").exists() and not multiprocessing.active_children()
  made = len(list((tmp_path / ".out.partial" / "rows").glob("*/[0-9]*")))
  manifest = prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, workers=2))
  assert made > 0 and manifest["corpus_id"] == whole["corpus_id"]


def limited(limit_bytes: int) -> str:
  """`prepare` in a process that may write no file longer than this: the disk is full, as it were."""
  return (
    f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes})); {IN_SMALL_CHUNKS}"
  )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_clear_message_and_the_same_command_goes_on(vocab, tmp_path, small_chunks, workers):
  """The last chunks are larger than the others, and the disk has no room for them."""
  documents = [f"Document {number}.\n{'The dog runs. ' * (1000 if number > 60 else 20)}" for number in range(64)]
  (tmp_path / "text.txt").write_text("\n\n".join(documents))
  source, out = f"text:{tmp_path}/text.txt", tmp_path / "out"
  options = arguments(source, out, vocab, f"--workers={workers}", "--overwrite")
  prepare.prepare_corpus([source], out, settings(vocab, seed=7), documents=tmp_path / "other")
  before = contents(out)
  status, _, shown = run(options, limited(10_000))
  assert status == 1 and "Traceback" not in shown
  assert re.search(r"\d/\w+.npy: cannot be written: File too large; free some space", shown)
  assert "the same command then resumes from here" in shown
  assert contents(out) == before  # the corpus that was to be replaced
  assert any(tmp_path.glob("documents-*/*/0*"))
  status, shown, _ = run(options)
  assert status == 0 and "resuming" in shown
  whole = prepare.prepare_corpus([source], tmp_path / "whole" / "out", settings(vocab))
  assert open_corpus(out).manifest["corpus_id"] == whole["corpus_id"]
  assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_disk_that_is_full_from_the_beginning_is_told_and_nothing_is_left(source, vocab, tmp_path):
  before = contents(tmp_path)
  status, _, shown = run(arguments(source, tmp_path / "out", vocab), limited(50))
  assert status == 1 and "free some space" in shown and "Traceback" not in shown
  assert contents(tmp_path) == before and not (tmp_path / "out").exists()


def test_a_disk_that_is_full_in_the_end_is_told_and_the_same_command_goes_on(source, vocab, tmp_path):
  """No shard is as large as the tokenizer, which is written into the corpus last."""
  vocab.write_text(vocab.read_text() + "".join(f"filler{number}\n" for number in range(3000)))
  options = arguments(source, tmp_path / "out", vocab)
  status, _, shown = run(options, limited(30_000))
  assert status == 1 and "free some space" in shown and "Traceback" not in shown
  assert not (tmp_path / "out").exists()
  status, shown, _ = run(options)
  assert status == 0 and "nothing is read or tokenized again" in shown
  open_corpus(tmp_path / "out")


def test_shares_side_by_side_make_the_corpus_of_one_process(source, vocab, tmp_path, small_chunks):
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab), documents=tmp_path / "elsewhere")
  options = arguments(source, tmp_path / "out", vocab)
  ended = [
    (process, *process.communicate(timeout=300))
    for process in [start([*options, f"--shard={index}/3"]) for index in range(3)]
  ]
  assert [process.returncode for process, _, _ in ended] == [0, 0, 0], ended
  assert open_corpus(tmp_path / "out").manifest["corpus_id"] == whole["corpus_id"]
  assert sum("corpus_id" in shown for _, shown, _ in ended) >= 1
  assert not (tmp_path / ".out.partial").exists()


def start_long_run(vocab, tmp_path) -> tuple[subprocess.Popen, list[str]]:
  """`prepare` with two workers, caught in the middle, and the workers' process ids."""
  documents = (f"Document {number}. " + "The dog runs. " * 200 for number in range(9000))
  (tmp_path / "text.txt").write_text("\n\n".join(documents))
  parent = start(arguments(f"text:{tmp_path}/text.txt", tmp_path / "out", vocab, "--workers=2"))
  children = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
  deadline = time.monotonic() + 60
  while not list(tmp_path.glob(".out.partial/rows/train/[0-9]*")) and time.monotonic() < deadline:
    time.sleep(0.1)
  workers = children.read_text().split()
  assert len(workers) >= 2
  return parent, workers


def is_running(pid: str) -> bool:
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
  except OSError:
    return False


def end_within(seconds: float, pids: list[str]) -> bool:
  deadline = time.monotonic() + seconds
  while any(map(is_running, pids)) and time.monotonic() < deadline:
    time.sleep(0.1)
  return not any(map(is_running, pids))


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(vocab, tmp_path):
  parent, workers = start_long_run(vocab, tmp_path)
  parent.kill()
  parent.wait()
  try:
    assert end_within(30, workers)
  finally:
    if any(map(is_running, workers)):
      os.killpg(parent.pid, signal.SIGKILL)
    parent.communicate()
  assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupt_ends_everything_at_once_and_leaves_whole_chunks(vocab, tmp_path):
  parent, workers = start_long_run(vocab, tmp_path)
  os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C does: to all of them
  _, shown = parent.communicate(timeout=30)
  assert parent.returncode == 130 and "Traceback" not in shown
  assert end_within(10, workers)
  (documents,) = tmp_path.glob("documents-*")
  assert sorted(tmp_path.iterdir()) == [tmp_path / ".out.partial", documents, tmp_path / "text.txt", vocab]
  for folder, last in ((documents, "chunk.json"), (tmp_path / ".out.partial" / "rows", "record.json")):
    made = list(folder.glob("*/[0-9]*"))
    assert made and all((one / last).is_file() for one in made)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(vocab, tmp_path):
  """Five while text is tokenized, five while rows are made of tokenized documents: `kill -9` for all processes at
  once.
  """
  rng = random.Random(time.time_ns())
  source = write_documents(tmp_path / "text.txt", 4000)
  assert run(arguments(source, tmp_path / "a" / "whole", vocab))[0] == 0
  assert run(arguments(source, tmp_path / "a" / "other", vocab, "--seed=7"))[0] == 0
  expected = [open_corpus(tmp_path / "a" / name).manifest for name in ("whole", "other")]
  num_chunks = sum(len(expected[0]["splits"][split]["shards"]) for split in ("train", "validation"))
  for name, manifest in zip(("whole", "other"), expected):
    out = tmp_path / "b" / name
    options = arguments(source, out, vocab, "--workers=2", f"--seed={manifest['seed']}")
    made = lambda: len(list(out.parent.glob(f".{name}.partial/rows/*/[0-9]*")))
    for moment in sorted(rng.randrange(num_chunks * 9 // 10) for _ in range(5)):
      process = start(options)
      while made() < moment and process.poll() is None:
        time.sleep(0.005)
      time.sleep(rng.uniform(0, 0.1))
      os.killpg(process.pid, signal.SIGKILL)
      process.communicate()
      assert process.returncode == -signal.SIGKILL and not out.exists()
      assert not (out.parent / f".{name}.partial" / "manifest.json").exists()
    assert 0 < made() < num_chunks
    status, shown, _ = run(options)
    assert status == 0 and ("resuming" in shown) == (name == "whole")
    assert open_corpus(out).manifest["corpus_id"] == manifest["corpus_id"]
    assert not [path for path in out.parent.rglob("*") if path.name.startswith(".")]


# Runs preparations in forks, and kills one of them at its n-th change of the disk, for every n.
AT_EVERY_STEP = """
import json, os, pathlib, shutil, sys
from bert_jax.data.corpus import folder as corpus, prepare, splits

splits.CHUNK_BYTES = 600
os.fsync = lambda descriptor: None  # what a killed process has written is there all the same
source, folder, settings, plan = sys.argv[1:]
settings, plan = prepare.PrepareSettings(**json.loads(settings)), json.loads(plan)
folder = pathlib.Path(folder)
CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "fcntl.flock"}

def changes_the_disk(event, arguments):
  writes = lambda flags: isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
  return event in CHANGES or event == "open" and writes(arguments[2])

def attempt(seed, kill_at=None, **how):
  child = os.fork()
  if not child:
    steps = 0
    def hook(event, arguments):
      nonlocal steps
      if changes_the_disk(event, arguments):
        steps += 1
        if steps == kill_at:
          os.kill(os.getpid(), 9)
    sys.addaudithook(hook)
    try:
      prepare.prepare_corpus([source], folder / "out", settings._replace(seed=seed), **how)
      os._exit(0)
    except BaseException as error:
      print(type(error).__name__, error, flush=True)
      os._exit(1)
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def made():
  return corpus.open_corpus(folder / "out").manifest["corpus_id"] if (folder / "out").exists() else None

def begin_from(state):
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(state, folder) if state.exists() else folder.mkdir()

begin_from(pathlib.Path("nowhere"))
assert attempt(1) == 0
expected, step, wrong = made(), 0, []
begin_from(pathlib.Path("nowhere"))
for seed, kill_at in plan["before"]:
  attempt(seed, kill_at)
state = folder.with_name("state")
folder.rename(state)
while True:
  step += 1
  begin_from(state)
  before = made()
  status = attempt(plan["seed"], step, **plan["how"])
  if status == 0:
    break
  interrupted = made()
  if status != -9 or interrupted not in (before, expected) and not plan["how"]:
    wrong.append([step, "killed", status, interrupted])
  if interrupted != expected:
    status = attempt(1, **plan["how"])
    left = [str(path) for path in folder.rglob("*") if path.name.startswith(".")]
    if status or made() != expected or left:
      wrong.append([step, "finished", status, made(), left])
print(json.dumps({"steps": step, "wrong": wrong}))
"""

# "before" says which preparations there were, as (seed, killed at which step); "seed" and "how" which one is killed.
PLANS = {
  "a preparation": {"before": [], "seed": 1, "how": {}},
  "a corpus that replaces another": {"before": [(2, None)], "seed": 1, "how": {"overwrite": True}},
  "other settings over an unfinished preparation": {"before": [(1, 75)], "seed": 2, "how": {}},
}


@pytest.mark.slow
@pytest.mark.parametrize("plan, trained", [*((plan, False) for plan in PLANS), ("a preparation", True)])
def test_a_kill_at_any_change_of_the_disk_is_made_good_by_the_same_command(vocab, tmp_path, plan, trained):
  source = write_documents(tmp_path / "text.txt", 12, sentences=6)
  chosen = settings("" if trained else vocab, vocab_size=80)
  result = subprocess.run(
    [
      sys.executable,
      "-c",
      AT_EVERY_STEP,
      source,
      str(tmp_path / "work"),
      json.dumps(chosen._asdict()),
      json.dumps(PLANS[plan]),
    ],
    env=ENVIRONMENT | {"TOKENIZERS_PARALLELISM": "false"},
    capture_output=True,
    text=True,
    timeout=580,
  )
  assert result.returncode == 0, result.stderr
  told = json.loads(result.stdout.splitlines()[-1])
  assert told["steps"] > 40 and not told["wrong"], told


def peak_memory(pid: int | str) -> int:
  """The most that a process has used so far, in MiB; 0 where it has ended."""
  try:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
  except OSError:
    return 0
  return int((re.search(r"VmHWM:\s+(\d+) kB", status) or [0, 0])[1]) // 1024


@pytest.mark.slow
def test_the_memory_of_a_worker_does_not_grow_with_the_text(vocab, tmp_path):
  """10 MB and 50 MB of text, in chunks of 2 MiB: five and twenty-five of them."""
  code = IN_SMALL_CHUNKS.replace("6000", "2**21")
  line, peaks = "The old dog runs and the small cat sleeps often. ", {}
  for megabytes in (10, 50):
    with open(tmp_path / "text.txt", "w") as file:
      for number in range(megabytes * 10**6 // (40 * len(line))):
        file.write(f"Document {number}. {line * 40}\n\n")
    process = start(arguments(f"text:{tmp_path}/text.txt", tmp_path / str(megabytes), vocab, "--workers=2"), code)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    worker = parent = 0
    while process.poll() is None:
      worker = max([worker, *map(peak_memory, children.read_text().split())])
      parent = max(parent, peak_memory(process.pid))
      time.sleep(0.1)
    assert process.returncode == 0, process.communicate()
    process.communicate()
    peaks[megabytes] = (worker, parent)
  print("MiB of the largest worker and of the parent:", peaks)
  for small, large in zip(*peaks.values()):
    assert 0 < large < small + 30
