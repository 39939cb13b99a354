"""A SIGTERM while a corpus is prepared or copied: the run ends soon with 75, and the same command goes on from what
was finished.
"""

import os
import signal
import time

import pytest

from bert_jax.data.corpus import folder as corpora
from bert_jax.errors import EXIT_PREEMPTED
from tests.faults.processes import Processes, events, run
from tests.helpers.tiny_runs import write_text

STEPS = ("total_steps=8", "eval_every_steps=100", "checkpoint.every_steps=100")
# A file says that the work has begun; then it takes for ever.
_ENDLESS = """
import pathlib, time
def endless(*_, **__):
  pathlib.Path({mark!r}).touch()
  time.sleep(600)
"""
PREPARING = (
  _ENDLESS
  + """
from bert_jax.data.{package} import {module}
{module}.{function} = endless
"""
)


def stopped(folder, corpus, name, overrides, sabotage, mark, *, to, count=1):
  """Sends a SIGTERM to a process (None: to all) once the work is under way; how they ended, and the seconds that it
  took.
  """
  with Processes(folder, corpus, name, (*STEPS, *overrides), sabotage=sabotage, count=count) as processes:
    processes.wait_for(mark.exists)
    began = time.monotonic()
    for number in range(count) if to is None else (to,):
      processes.signal(number, signal.SIGTERM)
    return processes.ended(60), time.monotonic() - began


@pytest.mark.parametrize(
  "package, module, function", [("tokenizer", "vocabulary", "train_wordpiece"), ("corpus", "workers", "make_shard")]
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_corpus_in_the_making_is_finished_by_the_next_start(folder, corpus, package, module, function, count):
  name = f"preparing-{module}-{count}"
  made, mark = folder / f"{name}-corpus", folder / f"{name}-begun"
  keys = (
    f"data.corpus={made}",
    f"data.source=text:{write_text(folder / f'{name}.txt')}",
    "prepare.vocab_size=150",
    "prepare.seq_length=32",
    "prepare.validation_fraction=0.2",
    "prepare.workers=1",
  )
  # With two processes the notice goes to the one that waits for the other.
  ended, seconds = stopped(
    folder,
    corpus,
    name,
    keys,
    PREPARING.format(package=package, mark=str(mark), module=module, function=function),
    mark,
    to=count - 1,
    count=count,
  )
  assert [one.code for one in ended] == [EXIT_PREEMPTED] * count, ended
  assert (
    "stopped by a SIGTERM: nothing was trained yet" in ended[0].output
    and "Traceback" not in ended[0].output + ended[-1].output
  )
  assert seconds < 25 and not made.exists()
  run(folder, corpus, name, (*STEPS, *keys), count=count)
  assert corpora.read_corpus_manifest(made)["corpus_id"] == corpora.read_corpus_manifest(corpus)["corpus_id"]
  assert events(folder / name, "finish") and not list(folder.glob(f".{name}-corpus*"))


@pytest.mark.parametrize("count", [1, 2])
def test_a_half_copied_corpus_is_taken_away_and_copied_anew(folder, corpus, count):
  name = f"staging-{count}"
  cache, mark = folder / f"{name}-cache", folder / f"{name}-begun"
  keys = (f"data.cache_dir={cache}",)
  endless = """
from bert_jax.io import storage
plain = storage.copy_folder
def slow(source, target):
  plain(source, target)
  endless()
storage.copy_folder = slow
"""
  ended, seconds = stopped(
    folder, corpus, name, keys, _ENDLESS.format(mark=str(mark)) + endless, mark, to=0, count=count
  )
  assert [one.code for one in ended] == [EXIT_PREEMPTED] * count, ended
  assert seconds < 25 and os.listdir(cache) == []
  run(folder, corpus, name, (*STEPS, *keys), count=count)
  assert os.listdir(cache) == [corpora.read_corpus_manifest(corpus)["corpus_id"][:16]] and events(
    folder / name, "finish"
  )
