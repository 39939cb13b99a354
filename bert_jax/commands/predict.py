"""`predict`: what a fine-tuned model says of texts."""

import argparse
import json
import sys

HELP = "labels, scores, entities or answers from a fine-tuned model"
EXAMPLE = """  python -m bert_jax predict --model=runs/sst2 "a film to remember" "two hours of my life"
  python -m bert_jax predict --model=runs/rte "A dog runs." --text_pair="An animal moves."
  python -m bert_jax predict --model=runs/ner --input=letters.txt --json
  python -m bert_jax predict --model=runs/squad "Paris is the capital of France." --question="What is the capital of France?" """


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--model", required=True, metavar="DIR", help="the run folder of `finetune`, or a Hugging Face folder with a head for labels")
  parser.add_argument("texts", nargs="*", metavar="TEXT", help="the texts")
  parser.add_argument("--input", metavar="FILE", help="a file with a text in each line, instead; -: standard input")
  parser.add_argument("--text_pair", action="append", metavar="TEXT", help="the second text of each, where the model takes pairs; repeated for several texts")
  parser.add_argument("--question", metavar="TEXT", help="what is asked about the texts, where the model answers questions")
  parser.add_argument("--json", action="store_true", help="one JSON object per text instead of lines for people")


def run(options: argparse.Namespace) -> None:
  from bert_jax import inference, labelling
  from bert_jax.commands import read_lines, start_jax
  from bert_jax.errors import UserError

  if bool(options.texts) == bool(options.input):
    raise UserError("give either texts or --input=FILE")
  texts = options.texts or read_lines(options.input)
  start_jax()
  model = inference.load_model(options.model)
  kind = model.labels.kind if model.labels else ""
  if (kind == "question-answering") != bool(options.question):
    raise UserError("--question=TEXT is missing: this model answers questions about texts" if kind == "question-answering" else
                    f"--question: {options.model} does not answer questions; it was fine-tuned for {kind or 'nothing'}")  # fmt: skip
  if options.text_pair and kind in ("question-answering", "token-classification"):
    raise UserError(f"--text_pair: {options.model} was fine-tuned for {kind}, which takes texts alone")
  if kind == "question-answering":
    answers = labelling.answer(model, [(options.question, text) for text in texts])
    found = [one._asdict() if one.text else {"text": "", "begin": 0, "score": None, "null": None} for one in answers]
    show = show_answer
  elif kind == "token-classification":
    found = [[entity._asdict() for entity in entities] for entities in labelling.find_entities(model, texts)]
    show = lambda entities: "; ".join(f"{one['kind']}: {one['text']} ({one['probability']:.2f})" for one in entities) or "no entities"
  else:
    found = [[label._asdict() for label in labels] for labels in labelling.classify(model, texts, options.text_pair)]
    show = lambda labels: "  ".join(f"{one['name']} {one['value']:.3f}" for one in labels[:5])
  cut = labelling.count_cut(model, texts, options.text_pair) if kind != "question-answering" else 0
  if cut:
    what = "pairs" if options.text_pair else "texts"
    print(f"note: {cut:,} of {len(texts):,} {what} are longer than the {model.max_length} tokens that the model takes, [CLS] and [SEP] included, and lost "
          "their end", file=sys.stderr)  # fmt: skip
  for text, one in zip(texts, found):
    print(json.dumps({"text": text, "found": one}, ensure_ascii=False) if options.json else f"{show(one)}    {text}")


def show_answer(one: dict) -> str:
  """An answer in a line."""
  if one["score"] is None:
    return "no answer: the text is empty"
  return f"{one['text']}    (score {one['score']:.2f}; {'rather no answer' if one['null'] > 0 else 'no answer'} scores {one['null']:+.2f})"
