"""The README.md of an exported model: what it was trained on and for how long, how good it is, and how to load it."""

import contextlib
import json
from typing import Any

from bert_jax.convert import folder as hf_folder
from bert_jax.convert.sentence_folder import Encoding
from bert_jax.data.corpus.folder import read_corpus_manifest
from bert_jax.errors import UserError
from bert_jax.inference.model import Model
from bert_jax.inference.run_folder import find_run_config, read_result, read_run_config, read_source
from bert_jax.io import storage
from bert_jax.models.families import FAMILIES, family_of
from bert_jax.training import metrics
from bert_jax.training.optimizer import last_step

_LOAD = {
  "pretraining": ("AutoModelForPreTraining", ""),
  "mlm": ("AutoModelForMaskedLM", 'pipeline("fill-mask", model=HERE)("text with a [MASK] in it")'),
  "encoder": ("AutoModel", ""),
  "sequence-classification": (
    "AutoModelForSequenceClassification",
    'pipeline("text-classification", model=HERE)("a text")',
  ),
  "token-classification": (
    "AutoModelForTokenClassification",
    'pipeline("token-classification", model=HERE, aggregation_strategy="first")("a text")',
  ),
  "question-answering": ("AutoModelForQuestionAnswering", ""),
}


def make_card(model: Model, *, head: str, encoding: Encoding | None, workdir: str | None) -> str:
  """Markdown with the metadata block that model hubs read.

  Args:
    model: what is exported.
    head, encoding: see convert.folder.write_folder.
    workdir: the run folder that it comes from; None: it comes from a Hugging Face folder, of whose training nothing is
      known here.
  """
  run = read_run_config(workdir) if workdir else None
  how = "trained" if run is not None else "converted"
  title = f"# {FAMILIES[family_of(model.config)].heads[head]}, {how} with bert_jax"
  parts = [_metadata(head, encoding), title, _model_table(model)]
  # The figures are those of the pooling that was trained.
  as_trained = encoding is None or model.encoding in (None, encoding)
  parts += (
    [_training(workdir, f"step {model.step:,}"), _evaluation(workdir, run, model.step) if as_trained else ""]
    if workdir and run is not None and model.step is not None
    else [f"Converted from `{model.origin}`; its training is not documented."]
  )
  if model.labels is not None and head == hf_folder.head_of_labels(model.labels):
    parts.append(f"Labels ({model.labels.kind}): {', '.join(map(_verbatim, model.labels.names))}")
  parts.append(_how_to_load(head, encoding))
  return "\n\n".join(part for part in parts if part) + "\n"


def _verbatim(name: str) -> str:
  """A name in which nothing is Markdown."""
  return f"`{' '.join(name.split()).replace('`', chr(39))}`"


def _metadata(head: str, encoding: Encoding | None) -> str:
  tag = {
    "mlm": "fill-mask",
    "pretraining": "fill-mask",
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
  }.get(head, "feature-extraction")
  library, tag = ("sentence-transformers", "sentence-similarity") if encoding else ("transformers", tag)
  return f"---\nlibrary_name: {library}\npipeline_tag: {tag}\ntags: [bert, bert_jax]\n---"


def _model_table(model: Model) -> str:
  config, strips = model.config, model.tokenizer.normalisation["strip_accents"]
  rows = {
    "layers": config.num_hidden_layers,
    "width": config.hidden_size,
    "attention heads": config.num_attention_heads,
    "positions": config.max_position_embeddings,
    "maximum tokens per text": model.max_length,
    "vocabulary": f"{config.vocab_size:,}",
    "text": ("lower-cased" if model.tokenizer.lowercase else "cased")
    + ("" if strips == model.tokenizer.lowercase else ", accents stripped" if strips else ", accents kept"),
  }
  return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _training(workdir: str, state: str) -> str:
  """What was done to make the model of a run at a state (see inference.state_of), from the last run back to the first
  that is found.
  """
  lines, seen = ["## Training"], set()
  while True:
    run = find_run_config(workdir) if workdir not in seen else None
    if run is None:
      lines.append("The training of that model is not documented.")
      break
    seen.add(workdir)
    lines += _training_of(run, state)
    source = read_source(workdir)
    workdir, state = source.get("model", run.init_from), source.get("state", "an unknown step")
    if not workdir:
      break
    lines.append(f"Initialized from `{workdir}`, {state}.")
  return "\n\n".join(lines)


def _training_of(run: Any, state: str) -> list[str]:
  """The paragraphs on one run."""
  if run.tuning.data:
    how = f"Trained for sentence embeddings (`{run.embedding.objective}`)" if run.embedding.objective else "Fine-tuned"
    return [
      f"{how} on {f'the task {run.tuning.task}' if run.tuning.task else 'own data'} (`{run.tuning.data}`), "
      f"{state} of {last_step(run):,}, {run.data.batch_size} texts each, learning rate "
      f"{run.optimizer.learning_rate:g}, seed {run.seed}."
    ]
  lines = [
    f"Pretrained, {state} of {last_step(run):,}, {run.data.batch_size} rows each, {run.optimizer.name}, "
    f"learning rate {run.optimizer.learning_rate:g}, {run.masking.rate:.0%} of the tokens predicted (unit: "
    f"{run.masking.unit}), seed {run.seed}."
  ]
  with contextlib.suppress(UserError, OSError):  # the corpus may have gone, or lie on another machine
    manifest = read_corpus_manifest(run.data.corpus)
    counts, sources = manifest["counts"], ", ".join(f"`{source}`" for source in manifest["provenance"]["sources"])
    lines.append(
      f"Text: {sources}; {counts['documents']:,} documents, {counts['tokens']:,} tokens in {counts['rows']:,} rows of "
      f"{manifest['seq_length']}, validation included; pairs: {manifest['objective']}; corpus_id "
      f"`{manifest['corpus_id'][:16]}`."
    )
  return lines


def _evaluation(workdir: str, run: Any, step: int) -> str:
  """What was measured at the step that is exported; empty where nothing was."""
  line = metrics.read_metrics(storage.folder(workdir)).get(step, {})
  found = {name.removeprefix("eval/"): value for name, value in line.items() if name.startswith("eval/")}
  if not found:
    return ""
  result = read_result(workdir)
  best = f", the best by {result['metric']}" if result and result["step"] == step else ""
  judged_by = (
    "examples held out from the training file"
    if result and result["held_out"]
    else "dev examples"
    if run.tuning.data
    else "validation split of its corpus"
  )
  where = f"step {step:,}{best}, on the {judged_by}, seed {run.seed}"
  table = "\n".join(f"| {name} | {value:,.4f} |" for name, value in found.items())
  return (
    f"## Evaluation\n\nMeasured at {where}; from a single run, so the spread between seeds is not known.\n\n| "
    "metric | value "
    f"|\n|---|---|\n{table}"
  )


def _how_to_load(head: str, encoding: Encoding | None) -> str:
  if encoding:
    code = (
      'from sentence_transformers import SentenceTransformer\n\nvectors = SentenceTransformer(HERE).encode(["a '
      'text"])  # pooling: '
      f"{encoding.pooling}"
    )
  else:
    name, pipeline = _LOAD[head]
    code = f"from transformers import AutoTokenizer, {name}{', pipeline' if pipeline else ''}\n\n"
    code += f"tokenizer, model = AutoTokenizer.from_pretrained(HERE), {name}.from_pretrained(HERE)" + (
      f"\n{pipeline}" if pipeline else ""
    )
  return f"## Use\n\n```python\nHERE = {json.dumps('this folder')}\n{code}\n```"
