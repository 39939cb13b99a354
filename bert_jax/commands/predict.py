"""`predict`: what a fine-tuned model says of texts."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "labels, scores, entities or answers from a fine-tuned model"
EXAMPLE = """  python -m bert_jax predict --model=runs/sst2 "a film to remember" "two hours of my life"
  python -m bert_jax predict --model=runs/rte "A dog runs." --text_pair="An animal moves."
  python -m bert_jax predict --model=runs/rte --input=test.tsv --text=sentence1 --text_pair=sentence2 --json
  python -m bert_jax predict --model=runs/ner --input=letters.txt --json
  python -m bert_jax predict --model=runs/squad "Paris is the capital of France." \\
    --question="What is the capital of France?"
  python -m bert_jax predict --model=runs/squad --input=dev-v2.0.json --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--model",
    required=True,
    type=expanded,
    metavar="DIR",
    help="the run folder of `finetune`, or a Hugging Face folder with a head for labels",
  )
  parser.add_argument("texts", nargs="*", metavar="TEXT", help="the texts")
  parser.add_argument(
    "--input",
    type=expanded,
    metavar="FILE",
    help="instead, a file with one text per line (-: standard input); with --text a table, .csv, .tsv, "
    ".json or .jsonl; where the model answers questions and --question is not given, questions in the format of SQuAD",
  )
  parser.add_argument(
    "--text",
    metavar="COLUMN",
    help="the column of --input that holds the texts: its name or, in a file without a header, its index from 0",
  )
  parser.add_argument(
    "--text_pair",
    action="append",
    metavar="TEXT",
    help="the second text of each pair, if the model takes pairs; repeat for several texts; with --text, its column",
  )
  parser.add_argument("--question", metavar="TEXT", help="the question about the texts, if the model answers questions")
  parser.add_argument("--json", action="store_true", help="print one JSON object per text instead of text")


class _Asked(NamedTuple):
  """What the model is asked about.

  Attributes:
    first: the texts; where the model answers questions, the questions.
    second: the second text of each, or None; the text that each question is about.
    shown: what a line for people ends with.
    told: what the JSON object of each begins with.
  """

  first: Sequence[str]
  second: Sequence[str] | None
  shown: Sequence[str]
  told: Sequence[dict[str, Any]]


def run(options: argparse.Namespace) -> None:
  from bert_jax.commands.processes import start_jax
  from bert_jax.errors import UserError
  from bert_jax.inference import model as inference

  if bool(options.texts) == bool(options.input):
    raise UserError("give texts or --input=FILE, not both")
  if options.text and not options.input:
    raise UserError("--text=COLUMN is a column of a table: give the table, --input=FILE")
  start_jax()
  model = inference.load_model(options.model)
  kind = model.labels.kind if model.labels else ""
  if options.question and kind != "question-answering":
    raise UserError(f"--question: {options.model} does not answer questions; it was fine-tuned for {kind or 'nothing'}")
  if options.text_pair and kind in ("question-answering", "token-classification"):
    raise UserError(f"--text_pair: {options.model} was fine-tuned for {kind}, which takes texts alone")
  asked = _read(options, kind)
  found, line_of = _ask(model, kind, asked)
  for told, shown, one in zip(asked.told, asked.shown, found):
    show(json.dumps(told | {"found": one}, ensure_ascii=False) if options.json else f"{line_of(one)}    {shown}")


def _read(options: argparse.Namespace, kind: str) -> _Asked:
  """The texts of the command line or of a file."""
  from bert_jax.commands.texts import read_input_lines
  from bert_jax.data.labelled.questions import read_squad
  from bert_jax.data.labelled.tables import is_table, read_table
  from bert_jax.data.labelled.task_files import notes_of
  from bert_jax.errors import UserError

  if kind == "question-answering" and not options.question:
    if not options.input or options.text or not is_table(options.input, (".json", ".jsonl")):
      raise UserError(
        "--question=TEXT is missing: this model answers questions about texts; or give --input=FILE.json, questions "
        "in the format of SQuAD"
      )
    every = read_squad(options.input, answered=False)
    questions = [one.text for one in every]
    return _Asked(
      questions, [one.context for one in every], questions, [{"id": one.name, "question": one.text} for one in every]
    )
  pairs = options.text_pair
  if options.text:
    if len(pairs or ()) > 1:
      raise UserError("--text_pair is one column of the table that --text is a column of")
    table = read_table(options.input, [options.text, *(pairs or ())])
    for note in notes_of(table.path, ragged=table.ragged):
      show(f"note: {note}, and are left out", file=sys.stderr)
    texts, pairs = table.texts(options.text), table.texts(pairs[0]) if pairs else None
    told = [{"line": line, "text": text} for line, text in zip(table.lines, texts)]
  else:
    texts = options.texts or read_input_lines(options.input, "--text=COLUMN reads a column")
    told = [{"text": text} for text in texts]
  if options.question:
    return _Asked([options.question] * len(texts), texts, texts, told)
  return _Asked(texts, pairs, texts, told)


def _ask(model, kind: str, asked: _Asked) -> tuple[list, Callable[[Any], str]]:
  """What the model says of each text as JSON has it, and how a line for people says it."""
  from bert_jax.commands.texts import note_cut
  from bert_jax.inference import pipelines

  if kind == "question-answering":
    answers = pipelines.answer(model, list(zip(asked.first, asked.second or ())))
    return [
      one._asdict() if one.text else {"text": "", "begin": 0, "score": None, "null_score": None} for one in answers
    ], line_of_answer
  if kind == "token-classification":
    found = [[entity._asdict() for entity in entities] for entities in pipelines.find_entities(model, asked.first)]
    line_of = line_of_entities
  else:
    found = [[label._asdict() for label in labels] for labels in pipelines.classify(model, asked.first, asked.second)]
    line_of = line_of_labels
  note_cut(model, asked.first, asked.second)
  return found, line_of


def line_of_labels(labels: list[dict]) -> str:
  """The five likeliest labels of a text."""
  return "  ".join(f"{one['name']} {one['value']:.3f}" for one in labels[:5])


def line_of_entities(entities: list[dict]) -> str:
  """The entities in a text."""
  return "; ".join(f"{one['kind']}: {one['text']} ({one['probability']:.2f})" for one in entities) or "no entities"


def line_of_answer(one: dict) -> str:
  """An answer in a line."""
  if one["score"] is None:
    return "no answer: the text is empty"
  rather = ", so rather none" if one["null_score"] > one["score"] else ""
  return f"{one['text']}    (scores {one['score']:.2f}; no answer {one['null_score']:.2f}{rather})"
