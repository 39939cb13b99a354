"""`evaluate`: how good a model is: on a corpus's validation split, without training on scored sentences, or by
fine-tuning.
"""

import argparse
import json
import sys

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = (
  "MLM and NSP metrics on a validation split; fine-tuning on a suite of tasks; similarity and likelihood of sentences"
)
EXAMPLE = """  python -m bert_jax evaluate --workdir=runs/quickstart
  python -m bert_jax evaluate --model=my-bert --corpus=data/wiki
  python -m bert_jax evaluate --model=my-bert --suite=glue --data=glue --seeds=5 --jobs=runs/glue
  python -m bert_jax evaluate --model=my-bert --zero_shot --data=glue
  python -m bert_jax evaluate --model=my-bert --zero_shot --input=sentences.txt"""

# What is asked for, and the flags that it reads.
_READS = {
  "--suite": ("data", "jobs", "seeds"),
  "--zero_shot": ("data", "input", "rows"),
  "a corpus": ("corpus", "batch_size", "rows"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
    "--workdir", type=expanded, metavar="DIR", help="a run folder; evaluated in the same way as during training"
  )
  source.add_argument("--model", type=expanded, metavar="DIR", help="a run folder or a Hugging Face BERT folder")
  parser.add_argument(
    "--corpus", type=expanded, metavar="DIR", help="a corpus made with the model's tokenizer (default: the run's own)"
  )
  parser.add_argument("--batch_size", type=int, metavar="N", help="rows in one call (default: 64)")
  parser.add_argument(
    "--rows", type=int, metavar="N", help="rows of the split, or pairs of STS-B, to read; 0: all (default: 0)"
  )
  parser.add_argument(
    "--suite",
    metavar="NAME",
    help="fine-tune on each task of a suite instead: glue, clue, qa, ner, sts, all, or tasks separated by commas",
  )
  parser.add_argument(
    "--zero_shot",
    action="store_true",
    help="without training instead: pseudo-perplexity and similarity of STS-B's sentences",
  )
  parser.add_argument(
    "--data",
    action="append",
    type=expanded,
    metavar="DIR",
    help="with --suite or --zero_shot: folder that holds the tasks, or TASK=DIR; may be repeated",
  )
  parser.add_argument(
    "--input",
    type=expanded,
    metavar="FILE",
    help="with --zero_shot: a sentence in each line, or - for standard input; gives each one's pseudo-perplexity",
  )
  parser.add_argument("--seeds", type=int, metavar="N", help="with --suite: fine-tunings of each task (default: 5)")
  parser.add_argument(
    "--jobs",
    type=expanded,
    metavar="DIR",
    help="with --suite: folder for results; the same command resumes where it stopped",
  )
  parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
  parser.set_defaults(keys_without_file=True)


def run(options: argparse.Namespace) -> None:
  from bert_jax.commands.processes import start_jax
  from bert_jax.commands.texts import run_or_model

  check_flags(options)
  folder = run_or_model(options.workdir, options.model)
  start_jax()
  if options.suite:
    evaluate_suite(options, folder)
  elif options.input:
    evaluate_sentences(options, folder)
  elif options.zero_shot:
    evaluate_zero_shot(options, folder)
  else:
    evaluate_split(options, folder)


def check_flags(options: argparse.Namespace) -> None:
  """Refuses flags that what is asked for has no use for. Raises UserError."""
  from bert_jax.errors import UserError

  if options.suite and options.zero_shot:
    raise UserError("--suite trains and --zero_shot does not: give one of them")
  asked = "--suite" if options.suite else "--zero_shot" if options.zero_shot else "a corpus"
  given = [
    name
    for name in ("corpus", "batch_size", "rows", "data", "input", "jobs", "seeds")
    if getattr(options, name) is not None
  ]
  useless = [f"--{name}" for name in given if name not in _READS[asked]]
  if useless:
    raise UserError(
      f"{', '.join(useless)} means nothing with {asked}, which takes {', '.join(f'--{name}' for name in _READS[asked])}"
      + (" and keys of fine-tuning, --config.data.batch_size=N" if options.suite else "")
    )
  if options.zero_shot and (options.data is None) == (options.input is None):
    raise UserError(
      "--zero_shot needs --data=DIR, the folder in which STS-B lies, or --input=FILE, sentences of your own"
    )
  if options.overrides and not options.suite:
    raise UserError(f"--config.{options.overrides[0]}: keys are set for fine-tuning, --suite=NAME")
  if options.batch_size is not None and options.batch_size < 1:
    raise UserError(f"--batch_size={options.batch_size}: at least one row per call")
  if options.rows is not None and options.rows < 0:
    raise UserError(f"--rows={options.rows}: a number of rows, or 0 for all")
  if options.seeds is not None and options.seeds < 1:
    raise UserError(f"--seeds={options.seeds}: at least one")


def evaluate_split(options: argparse.Namespace, folder: str) -> None:
  """The metrics of pretraining on a validation split."""
  from bert_jax.objectives.registry import OBJECTIVES
  from bert_jax.runs.evaluate import evaluate_model

  metrics = evaluate_model(folder, options.corpus, batch_size=options.batch_size or 64, rows=options.rows or 0)
  if options.json:
    show(json.dumps(metrics))
    return
  counts = {shown.over for recipe in OBJECTIVES.values() for shown in recipe.shown}
  for name, value in metrics.items():
    show(f"eval/{name:<16} {value:,.0f}" if name in counts else f"eval/{name:<16} {value:.4f}")


def evaluate_suite(options: argparse.Namespace, folder: str) -> None:
  """Fine-tuning on every task under every seed."""
  import contextlib
  import pathlib

  from bert_jax.errors import UserError
  from bert_jax.io import atomic
  from bert_jax.runs import suite
  from bert_jax.tools.report.suite import plot

  if not (options.data and options.jobs):
    raise UserError(
      "--suite needs --data=DIR, the folder in which the tasks lie, and --jobs=DIR, the folder for its results"
    )
  seeds, jobs = options.seeds or 5, pathlib.Path(options.jobs)
  log = lambda text: show(text, flush=True)
  with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):  # the progress of training too
    results = suite.run_suite(
      folder,
      suite.tasks_of(options.suite),
      options.data,
      options.jobs,
      seeds=seeds,
      overrides=options.overrides,
      log=log,
      on_results=lambda results: atomic.write_text(jobs / "results.svg", plot(results, folder)),
    )
  if options.json:
    show((jobs / "results.json").read_text(encoding="utf-8"), end="")
    return
  show(
    "\n"
    f"{suite.table(results)}\n"
    f"mean ± standard error over the seeds, in percent; {options.jobs}/results.json, results.md, results.svg"
  )


def evaluate_zero_shot(options: argparse.Namespace, folder: str) -> None:
  """Pseudo-perplexity and similarity on the dev sentences of STS-B, English or Chinese, whichever lie there."""
  import numpy as np

  from bert_jax.commands.texts import note_cut, note_unknown_words
  from bert_jax.data.labelled.task_files import read_dev
  from bert_jax.errors import UserError
  from bert_jax.evaluation import zero_shot
  from bert_jax.inference import model as inference
  from bert_jax.runs import suite

  model = inference.load_model(folder)
  figures: dict[str, float] = {}
  for task in ("stsb", "stsb-zh"):
    found = suite.find_data(task, options.data, dev_alone=True)
    if not found.data:
      continue
    dev, file = read_dev(task, found.data, found.dev)
    if options.rows:
      dev = dev.subset(range(min(options.rows, len(dev.first))))
    show(f"{task}: {len(dev.first):,} pairs of {file}", file=sys.stderr)
    second = dev.second or []
    both = [*dev.first, *second]
    note_unknown_words(model, both[:1000])
    note_cut(model, both)
    figures |= {
      f"{task}/spearman_{name}": value
      for name, value in zero_shot.similarity(model, dev.first, second, np.array(dev.labels, float)).items()
    }
    if "mlm" in model.heads:
      perplexities = zero_shot.pseudo_perplexity(model, list(dict.fromkeys(dev.first))[:200])
      figures[f"{task}/pseudo_perplexity_median"] = float(np.nanmedian(perplexities))
  if not figures:
    raise UserError(f"no STS-B in {', '.join(options.data)}; say where it lies: --data=stsb=FOLDER")
  if options.json:
    show(json.dumps(figures))
    return
  for name, value in figures.items():
    show(f"{name:<34} {value:.4f}")


def evaluate_sentences(options: argparse.Namespace, folder: str) -> None:
  """The pseudo-perplexity of each sentence of a file."""
  import math

  from bert_jax.commands.texts import note_cut, note_unknown_words, read_input_lines
  from bert_jax.evaluation import zero_shot
  from bert_jax.inference import model as inference

  lines, model = read_input_lines(options.input)[: options.rows or None], inference.load_model(folder)
  note_unknown_words(model, lines[:1000])
  note_cut(model, lines)
  for line, value in zip(lines, map(float, zero_shot.pseudo_perplexity(model, lines))):
    known = not math.isnan(value)
    if options.json:
      show(json.dumps({"text": line, "pseudo_perplexity": value if known else None}, ensure_ascii=False))
    else:
      show(f"{f'{value:,.2f}' if known else 'no known word':>13}    {line}")
