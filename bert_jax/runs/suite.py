"""Judging a pretrained model by fine-tuning it: every task of a suite under several seeds, and a table of means.

    JOBS/TASK/seed-N/      the run folder of one fine-tuning; its checkpoints are removed when it has finished
    JOBS/results.json      all figures; results.md the same as a table

A job that has finished is never run again, so the same command goes on where it was stopped. Tasks and seeds that an
earlier call has finished for the same model stay in the results.
"""

import collections
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from bert_jax.data.labelled.tasks import SUITES, TASKS, Published
from bert_jax.errors import UserError, show
from bert_jax.inference import model as inference
from bert_jax.inference.run_folder import read_result, result_of
from bert_jax.io import atomic, locks, storage
from bert_jax.io.json_files import check_types, read_object
from bert_jax.runs import finetuning
from bert_jax.training import metrics

# What is still to be removed of a job that has finished: called so in one move, for a part of the checkpoints would
# tell another result.
_DONE = "checkpoints.done"
_RESULT_TYPES = {"metric": str, "values": list, "metrics": list, "seconds": (int, float), "held_out": bool}
_DEPTH = 2  # folders below the one that is given, in which tasks are looked for


class Found(NamedTuple):
  """Where the examples of a task lie, as the config keys tuning.data and tuning.dev; empty where there are none."""

  data: str
  dev: str = ""


class TaskResult(NamedTuple):
  """A task under several seeds.

  Attributes:
    task: its name.
    metric: what `values` are.
    values: one for each seed.
    metrics: everything that was measured, one dict for each seed.
    seconds: of all seeds together.
    held_out: whether that was measured on a part of the training file, for want of another.
  """

  task: str
  metric: str
  values: list[float]
  metrics: list[dict[str, float]]
  seconds: float
  held_out: bool

  @property
  def mean(self) -> float:
    return statistics.fmean(self.values)

  @property
  def error(self) -> float:
    """Standard error of the mean; NaN for one seed."""
    return statistics.stdev(self.values) / math.sqrt(len(self.values)) if len(self.values) > 1 else math.nan

  @property
  def published(self) -> Published | None:
    """BERT-base's figure, where one of the same metric is known."""
    row = TASKS[self.task]
    return row.published if self.metric == row.metric else None


def tasks_of(suite: str) -> list[str]:
  """Names of the tasks in a suite, or in several separated by commas; a task counts as a suite of one.

  Raises UserError.
  """
  wanted: list[str] = []
  for name in suite.split(","):
    if name == "all":
      wanted += TASKS
    elif name in SUITES:
      wanted += [task for task, row in TASKS.items() if name in row.suites]
    elif name in TASKS:
      wanted.append(name)
    else:
      raise UserError(f"--suite={name}: expected all, {', '.join(SUITES)}, or tasks: {', '.join(TASKS)}")
  return list(dict.fromkeys(wanted))


def find_data(task: str, places: Sequence[str], dev_alone: bool = False) -> Found:
  """Where a task's examples lie.

  Args:
    task: its name.
    places: TASK=FOLDER, TASK=TRAIN_FILE,DEV_FILE, or a folder below which folders are called as tasks are ("sst2",
      "SST-2"). A folder of another name counts where it holds a file that only this task has.
    dev_alone: a folder without a training file will do.

  Raises:
    UserError: a place that is not there, a task that is not known.
  """
  for place in places:
    name, equals, path = place.partition("=")
    if equals and name not in TASKS:
      raise UserError(f"--data={place}: {name!r} is no task; it is one of {', '.join(TASKS)}")
    if equals and name == task:
      data, _, dev = path.partition(",")
      return Found(data, dev)
    if not equals and not os.path.isdir(place):
      raise UserError(f"--data={place}: there is no such folder; expected a folder of tasks, or TASK=FOLDER")
  row = TASKS[task]
  folders = [folder for place in places if "=" not in place for folder in _folders(pathlib.Path(place), _DEPTH)]
  wanted = lambda row: (*row.train, *row.dev) if dev_alone else row.train
  named = [folder for folder in folders if _plain(folder.name).startswith(_plain(task)) and _has(folder, wanted(row))]
  telling = tuple(name for name in wanted(row) if sum(name in wanted(other) for other in TASKS.values()) == 1)
  found = named or [folder for folder in folders if _has(folder, telling)]
  return Found(str(found[0]) if found else "")


def _folders(folder: pathlib.Path, depth: int) -> list[pathlib.Path]:
  below = sorted(child for child in folder.iterdir() if child.is_dir()) if depth else []
  return [folder, *(one for child in below for one in _folders(child, depth - 1))]


def _plain(name: str) -> str:
  return re.sub("[^a-z0-9]", "", name.lower())


def _has(folder: pathlib.Path, names: tuple[str, ...]) -> bool:
  return any(file.name.startswith(names) for file in folder.iterdir()) if names else False


def run_suite(
  model: str,
  tasks: Sequence[str],
  places: Sequence[str],
  jobs: str,
  *,
  seeds: int,
  overrides: Sequence[str] = (),
  log: Callable[[str], None] = show,
  on_results: Callable[[list[TaskResult]], None] = lambda results: None,
) -> list[TaskResult]:
  """Fine-tunes a model on tasks under seeds 0, 1, …, and writes what came out into `jobs` after every task.

  Args:
    model: run folder or Hugging Face folder.
    tasks: names; those without data are left out, and named.
    places: see find_data.
    jobs: the folder of the jobs.
    seeds: how many; those that have finished besides count, too.
    overrides: config keys for every job, "key=value".
    log: takes one line for the user.
    on_results: called with all results so far, after every task.

  Returns:
    The results of `tasks`, without those that have no data.

  Raises:
    UserError: no data for any task; a seed among the overrides; results of another model in `jobs`. When all tasks have
      had their turn: what kept some from running, such as a job of other settings, or labels that only dev has.
  """
  data = {task: find_data(task, places) for task in tasks}
  missing = [task for task in tasks if not data[task].data]
  if missing:
    log(f"no data for {', '.join(missing)}: left out")
  if len(missing) == len(tasks):
    raise UserError(
      f"no data for any of {', '.join(tasks)} in {', '.join(places)}; say where a task lies: --data=TASK=FOLDER"
    )
  if any(override.partition("=")[0] == "seed" for override in overrides):
    raise UserError("seed: a suite trains under the seeds 0, 1, …; --seeds says how many")
  finetuning.finetuning_config(list(overrides))  # what is wrong with them is wrong for every task
  os.makedirs(jobs, exist_ok=True)
  with locks.FolderLock(jobs) as lock:
    if not lock.take(alone=True):
      raise UserError(f"another process is evaluating a suite in {jobs}; let it end, or give another --jobs")
    tasks = [task for task in tasks if task not in missing]
    return _run_tasks(model, tasks, data, jobs, seeds, overrides, log, on_results)


def _run_tasks(
  model: str,
  tasks: Sequence[str],
  data: dict[str, Found],
  jobs: str,
  seeds: int,
  overrides: Sequence[str],
  log: Callable[[str], None],
  on_results: Callable[[list[TaskResult]], None],
) -> list[TaskResult]:
  """run_suite, of tasks that have data, in a folder of jobs that is ours alone."""
  state = inference.state_of(model)
  results, refused = _earlier_results(model, state, pathlib.Path(jobs)), {}
  for task in tasks:
    began = time.perf_counter()
    try:
      number = max(seeds, _finished(pathlib.Path(jobs) / task))
      done = [_job(model, state, task, data[task], pathlib.Path(jobs), seed, overrides, log) for seed in range(number)]
    except UserError as error:
      refused[task] = error
      log(f"{task} is left out: {error}")
      continue
    if any(
      set(one["examples"].values()) != set(done[0]["examples"].values()) or one["held_out"] != done[0]["held_out"]
      for one in done
    ):
      refused[task] = UserError(
        f"its seeds in {jobs}/{task} were trained or judged on different examples, so their mean says nothing: remove "
        "that folder"
      )
      log(f"{task} is left out: {refused[task]}")
      continue
    results[task] = TaskResult(
      task,
      done[0]["metric"],
      [one["metrics"][one["metric"]] for one in done],
      [one["metrics"] for one in done],
      sum(one["seconds"] for one in done),
      done[0]["held_out"],
    )
    in_order = [results[name] for name in TASKS if name in results]
    write_results(in_order, model, state, pathlib.Path(jobs))
    on_results(in_order)
    log(
      f"{task}: {results[task].metric} {percent(results[task])} over {number} seeds, "
      f"{time.perf_counter() - began:.0f} s"
    )
  if refused:
    others = f"; the others are in {jobs}/results.md" if len(refused) < len(tasks) else ""
    raise UserError("\n".join(f"{task}: {error}" for task, error in refused.items()) + others)
  return [results[task] for task in tasks]


def _earlier_results(model: str, state: str, jobs: pathlib.Path) -> dict[str, TaskResult]:
  """What earlier calls have written. Raises UserError where that is about another model."""
  path = jobs / "results.json"
  if not path.exists():
    return {}
  content = read_object(path, nan=True)
  check_types(content, str(path), {"model": str, "tasks": dict})
  for task, one in content["tasks"].items():
    check_types({task: one}, str(path), {task: dict})
    check_types(one, f"{path}, {task}", _RESULT_TYPES)
  if not storage.are_same(content["model"], model) or content.get("state") != state:
    raise UserError(
      f"{jobs} holds results of the model {content['model']} at {content.get('state')}, and now {model} at {state} is "
      "given: give another --jobs"
    )
  return {
    task: TaskResult(task, *(one[name] for name in TaskResult._fields[1:])) for task, one in content["tasks"].items()
  }


def _finished(folder: pathlib.Path) -> int:
  """How many of the seeds 0, 1, … of a task have a result."""
  is_finished = lambda seed: (
    read_result(folder / f"seed-{seed}") is not None and not (folder / f"seed-{seed}" / "checkpoints").exists()
  )
  return next(seed for seed in itertools.count() if not is_finished(seed))


def _job(
  model: str, state: str, task: str, found: Found, jobs: pathlib.Path, seed: int, overrides: Sequence[str], log
) -> dict[str, Any]:
  """The result of one fine-tuning, trained now or before."""
  workdir = jobs / task / f"seed-{seed}"
  config = finetuning.finetuning_config(
    [
      f"init_from={model}",
      f"tuning.task={task}",
      f"tuning.data={found.data}",
      f"tuning.dev={found.dev}",
      *overrides,
      f"seed={seed}",
    ]
  )
  if (workdir / "checkpoints").exists() or read_result(workdir) is None:
    log(f"== {task}, seed {seed}")
    finetuning.finetune_run(config, str(workdir), log=log)
    (workdir / "checkpoints").rename(workdir / _DONE)  # from here on the job counts as done
    jax.clear_caches()
  else:
    finetuning.check_same(config, str(workdir), state)
  shutil.rmtree(workdir / _DONE, ignore_errors=True)
  return result_of(workdir) | {"seconds": _seconds(workdir)}


def _seconds(workdir: pathlib.Path) -> float:
  """How long a run was at work, all its attempts together: from the start of each to the last thing that it wrote."""
  times = collections.defaultdict(list)
  for event in metrics.read_events(workdir):
    times[event["attempt"]].append(event["time"])
  return sum(max(own) - min(own) for own in times.values())


def percent(result: TaskResult) -> str:
  spread = "" if math.isnan(result.error) else f" ± {100 * result.error:.1f}"
  return f"{100 * result.mean:.1f}{spread}"


def table(results: Sequence[TaskResult]) -> str:
  """A Markdown table: mean and standard error beside the published figure."""
  lines = ["| task | metric | this model | seeds | BERT-base, published | seconds |", "|---|---|---|---|---|---|"]
  for result in results:
    published = result.published
    known = f"{100 * published.value:.1f} ({published.split}; {published.source})" if published else ""
    mark = "*" if result.held_out else ""
    lines.append(
      f"| {result.task} | {result.metric}{mark} | {percent(result)} | {len(result.values)} | {known} | "
      f"{result.seconds:.0f} |"
    )
  if any(result.held_out for result in results):
    lines += ["", "\\* on a tenth of the training file, held out from training: there was no file to judge by"]
  return "\n".join(lines) + "\n"


def write_results(results: Sequence[TaskResult], model: str, state: str, jobs: pathlib.Path) -> None:
  """results.json and results.md in the folder of the jobs."""
  content = {
    "model": model,
    "state": state,
    "tasks": {
      one.task: {
        "metric": one.metric,
        "mean": one.mean,
        "standard_error": None if math.isnan(one.error) else one.error,
        "values": one.values,
        "metrics": one.metrics,
        "seconds": round(one.seconds, 1),
        "held_out": one.held_out,
      }
      for one in results
    },
  }
  atomic.write_text(jobs / "results.json", json.dumps(content, indent=2) + "\n")
  atomic.write_text(jobs / "results.md", f"{model}; mean ± standard error, in percent\n\n{table(results)}")
