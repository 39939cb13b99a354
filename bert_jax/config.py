"""The one schema of a run: every key, its default, its meaning and unit, each on one line.

`configs/*.py` start from `default_config()` and override it; they hold no
defaults of their own. Command-line overrides (`--config.data.batch_size=64`)
go through the same table, so an unknown key is an error wherever it stands,
and the nearest known one is named.

A run saves its resolved configuration as JSON (`to_json`), and a resume reads
only that: config files are code, and code is not what a run is resumed from.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import os
import pathlib
import re
import traceback
from collections.abc import Sequence
from typing import Any

import ml_collections

from bert_jax import errors
from bert_jax.models import config as models_config

# key: (default, meaning). A default of None means "derived"; its type stands in DERIVED.
KEYS: dict[str, tuple[Any, str]] = {
  "total_steps": (1000, "optimizer updates in the whole schedule"),
  "stop_at_step": (0, "save and end after this step although the schedule runs to total_steps; 0: at total_steps"),
  "log_every_steps": (50, "steps between two logged lines of training metrics"),
  "eval_every_steps": (1000, "steps between two evaluations; the last step is always evaluated"),
  "eval_rows": (0, "rows of the validation split that an evaluation reads; 0: all"),
  "seed": (0, "decides the initial parameters, the order of rows, masks and dropout"),
  "deterministic": (False, "bitwise reproducible on GPU too, at some speed (CPU and TPU always are)"),
  "init_from": ("", "run folder or Hugging Face folder whose parameters to start from; empty: from scratch"),
  "init_optimizer": (False, "with init_from a run: take its optimizer moments and step as well"),
  "max_bad_steps": (
    20,
    "updates in a row with a non-finite loss or gradient (each is skipped) before the run goes back to a checkpoint",
  ),
  "max_rollbacks": (
    3,
    "times that a run goes back to one and the same checkpoint, past the bad data each time, before it stops",
  ),
  "data.corpus": ("", "the corpus folder"),
  "data.mixture": ("", "several corpora instead of one, with their shares of the rows: DIR=WEIGHT,DIR=WEIGHT"),
  "data.source": (
    "",
    "raw text that `data.corpus` is prepared from when it is missing, e.g. docstrings: or text:books/*.txt",
  ),
  "data.batch_size": (256, "rows in a global batch (a packed row holds several sequences)"),
  "data.loader": ("tfdata", "tfdata, or threads (needs no TensorFlow); the batches are the same"),
  "data.cache_dir": ("", "local folder that a remote corpus is copied to; empty: the corpus is read where it is"),
  "prepare.tokenizer": ("", "vocab.txt or tokenizer folder to use; empty: train a vocabulary"),
  "prepare.vocab_size": (30522, "entries of a vocabulary trained here, the five special tokens included"),
  "prepare.lowercase": (True, "lowercase and strip accents (BERT uncased)"),
  "prepare.seq_length": (128, "tokens in a row, [CLS] and [SEP] included"),
  "prepare.objective": (
    "nsp",
    "nsp: next-sentence pairs (BERT); sop: pairs in order or swapped (ALBERT); none: plain text (RoBERTa)",
  ),
  "prepare.max_sequences": (8, "sequences packed into one row at most; 1: no packing"),
  "prepare.validation_fraction": (0.05, "share of the documents that is held out, chosen by content"),
  "prepare.short_probability": (0.1, "share of the pairs with a random shorter target length (BERT: 0.1)"),
  "prepare.seed": (12345, "decides pairs, random sentences and lengths"),
  "prepare.workers": (0, "worker processes; 0: one per core. The corpus is the same for any number"),
  "prepare.skip_bad": (False, "skip and count undecodable lines instead of stopping"),
  "prepare.text_field": ("text", "name of the text in jsonl:, parquet: and tfds: sources"),
  "prepare.deduplicate": (False, "drop documents whose text stood there before, letter by letter"),
  "prepare.min_characters": (0, "drop documents with fewer characters"),
  "prepare.word_segmenter": (
    "",
    "jieba: store where Chinese words begin, for masking.unit=word; empty: the vocabulary tells",
  ),
  "masking.rate": (
    0.15,
    "share of a row's maskable tokens that are predicted, at the end if it changes, and in evaluation",
  ),
  "masking.first_rate": (
    0.0,
    "the share at step 0, from where it goes straight to masking.rate at the last step; 0: no change",
  ),
  "masking.mask_share": (0.8, "share of the predicted tokens replaced by [MASK]"),
  "masking.random_share": (0.1, "share of the predicted tokens replaced by a random token; the rest stay as they are"),
  "masking.unit": (
    "token",
    "token; word: all pieces of a word or none; span: runs of words (SpanBERT); ngram: (ALBERT)",
  ),
  "masking.span_stop": (0.2, "span: the length is n words with a probability that goes as (1 - span_stop)^n"),
  "masking.max_span": (10, "span: words at most"),
  "masking.max_ngram": (3, "ngram: words at most; n words with a probability that goes as 1/n"),
  "masking.max_predictions": (
    None,
    "predicted tokens in a row at most; derived: highest rate x seq_length, rounded up",
  ),
  "model.preset": ("bert-base", "the encoder whose fields hold where none is set below"),
  "model.dtype": ("float32", "dtype of activations and matrix products: float32 or bfloat16"),
  "model.param_dtype": ("float32", "dtype of parameters and gradients"),
  "model.remat": (
    "none",
    "what the backward pass recomputes to save memory: none; dots (all but matrix products); full (whole layers)",
  ),
  "model.attention": (
    "auto",
    "attention: auto, xla, splash (TPU), cudnn (GPU from Hopper on) or tokamax (GPU); see docs/performance.md",
  ),
  "optimizer.name": ("adamw", "adamw or lamb"),
  "optimizer.learning_rate": (1e-4, "peak of the schedule"),
  "optimizer.warmup_steps": (100, "steps of linear rise from 0 to the peak"),
  "optimizer.schedule": ("linear", "linear (decay to 0 at total_steps) or wsd (warmup, stable, decay)"),
  "optimizer.decay_fraction": (0.1, "wsd: share of total_steps spent in the final decay"),
  "optimizer.b1": (0.9, "decay of the first moment"),
  "optimizer.b2": (0.999, "decay of the second moment"),
  "optimizer.eps": (1e-6, "added to the root of the second moment (BERT: 1e-6)"),
  "optimizer.moments_dtype": (
    "float32",
    "dtype that both moments are kept in; bfloat16 halves their memory, and rounds without bias",
  ),
  "optimizer.weight_decay": (0.01, "decoupled decay of matrices; biases and LayerNorm have none"),
  "optimizer.layer_decay": (
    1.0,
    "factor of the learning rate from each layer to the one below (ELECTRA: 0.8); 1: the same for all",
  ),
  "optimizer.frozen_layers": (
    -1,
    "layers from below that stay as they are, embeddings with them; 0: the embeddings alone, -1: none",
  ),
  "optimizer.clip_norm": (1.0, "global norm that gradients are clipped to; 0: no clipping"),
  "optimizer.microbatches": (1, "parts that a batch is split into, one after another, to save memory"),
  "mesh.data": (-1, "devices that split the batch and hold whole parameters; -1: what is left"),
  "mesh.fsdp": (1, "devices that split the batch and the parameters"),
  "mesh.tensor": (1, "devices that split each layer's matrices"),
  "cluster.connect_seconds": (300, "how long the processes of a run wait for each other at the start"),
  "cluster.heartbeat_seconds": (30, "silence after which a process counts as lost, and the others end"),
  "watchdog.start_seconds": (
    3600,
    "a start (reading a checkpoint, compiling) that takes longer is ended, with the stacks of all threads",
  ),
  "watchdog.step_seconds": (
    600,
    "so is a step, a batch of evaluation or a save; at least ten times the slowest so far",
  ),
  "checkpoint.every_steps": (1000, "steps between two checkpoints; the last step is always saved"),
  "checkpoint.keep_last": (3, "newest checkpoints to keep (at least two)"),
  "checkpoint.keep_best": (
    1,
    "checkpoints with the best evaluation to keep besides (in pretraining: the lowest eval/mlm_loss)",
  ),
  "finetune.task": ("", "a task that is known, see `bert_jax finetune --list`; empty: data of your own"),
  "finetune.data": ("", "folder with the task's files; a file: CSV, TSV, JSON lines, CoNLL, SQuAD; or tfds"),
  "finetune.dev": ("", "file that the model is judged by; empty: the task's own, else a tenth of finetune.data"),
  "finetune.kind": (
    "",
    "classification, multi-label, regression, token-classification, question-answering; empty: the data tell",
  ),
  "finetune.text": ("", "column of the text: its name or, in a file without a header, its number from 0"),
  "finetune.text_pair": ("", "column of the second text; empty: there is none"),
  "finetune.label": ("", "column of the label; | separates several labels of one text, which may have none, too"),
  "finetune.epochs": (3.0, "passes over the training examples, which set total_steps; 0: total_steps as it is"),
  "finetune.warmup_share": (
    0.1,
    "share of the steps in which the learning rate rises, which sets optimizer.warmup_steps",
  ),
  "finetune.evaluations": (1.0, "evaluations in an epoch, which set eval_every_steps and checkpoint.every_steps"),
  "finetune.max_length": (
    0,
    "tokens in a text or pair at most, [CLS] and [SEP] included; longer ones lose their end; 0: 128, and 384 for "
    "question-answering",
  ),
  "finetune.stride": (128, "question-answering: tokens from one window of a long text to the next"),
  "finetune.pooling": ("pooler", "what the class of a text is read from: pooler, cls, mean, max"),
  "finetune.metric": ("", "metric of the dev examples that picks the checkpoint; empty: the task's, else its kind's"),
  "finetune.patience": (0, "evaluations without a better metric before the run ends; 0: it never ends early"),
  "embedding.objective": (
    "",
    "what sentence-embedding learns by: in-batch, simcse, cosine, triplet, softmax; empty: in all other runs",
  ),
  "embedding.negative": (
    "",
    "column of a text that does not belong to the first: of triplets, and in-batch where there is one",
  ),
  "embedding.temperature": (0.05, "in-batch, simcse: what cosines are divided by"),
  "embedding.margin": (5.0, "triplet: how much nearer the second text is to be than the third, Euclidean"),
  "embedding.normalize": (False, "vectors have length 1, in training and in the export"),
  "embedding.dev_columns": (
    "",
    "columns of finetune.dev: first text, second, score, with commas between; empty: as in STS-B (cosine: as in "
    "finetune.data)",
  ),
  "export.format": ("", "folder written at the end: transformers, sentence-transformers, or empty for none"),
}
MODEL_FIELDS = {field.name: field for field in dataclasses.fields(models_config.EncoderConfig)}
for _name, _field in MODEL_FIELDS.items():
  KEYS[f"model.{_name}"] = (
    None,
    "overrides the preset" if _name != "vocab_size" else "derived: the corpus tokenizer's",
  )
DERIVED = {"masking.max_predictions": int} | {f"model.{name}": field.type for name, field in MODEL_FIELDS.items()}

# Keys that a resumed run may change: they touch neither the data nor the mathematics of a step.
FREE_TO_CHANGE = (
  "stop_at_step",
  "log_every_steps",
  "eval_every_steps",
  "eval_rows",
  "max_bad_steps",
  "max_rollbacks",
  "data.corpus",
  "data.source",
  "data.loader",
  "data.cache_dir",
  "prepare.*",
  "mesh.*",
  "model.remat",
  "model.attention",
  "optimizer.microbatches",
  "checkpoint.*",
  "cluster.*",
  "watchdog.*",
  "export.*",
  "init_from",
)


def default_config() -> ml_collections.ConfigDict:
  """Every key at its default, locked: setting an unknown key raises."""
  nested: dict[str, Any] = {}
  for key, (value, _) in KEYS.items():
    *groups, name = key.split(".")
    node = nested
    for group in groups:
      node = node.setdefault(group, {})
    node[name] = value if value is not None else ml_collections.config_dict.placeholder(DERIVED[key])
  return ml_collections.ConfigDict(nested).lock()


def encoder_of(config: ml_collections.ConfigDict) -> models_config.EncoderConfig:
  """The encoder that the group `model` of a config describes: the preset, with the fields that are set.

  Raises UserError.
  """
  overrides = {name: config.model[name] for name in MODEL_FIELDS if config.model[name] is not None}
  return models_config.encoder_config(config.model.preset, **overrides)


def meaning(key: str) -> str:
  """The one-line meaning of a key such as "prepare.seq_length"."""
  return KEYS[key][1]


def check_key(key: str) -> None:
  """Raises UserError for a key that the schema does not have, naming the nearest one."""
  if key not in KEYS:
    near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)
    raise errors.UserError(
      f"unknown config key {key!r}; did you mean {near[0]!r}? `bert_jax pretrain --help` lists all keys"
    )


def load_config(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
  """Reads a config file and applies overrides.

  Args:
    spec: "FILE.py", or the name of a ready one ("quickstart"), and ":variant" if it has several; the
      file's `get_config(variant)` returns a config made from `default_config()`.
    overrides: "key=value" strings with dotted keys, values in Python syntax or bare strings.

  Raises:
    UserError: no such file, no get_config, an unknown variant or key, a value of the wrong type.
  """
  path, _, variant = spec.partition(":")
  ready = _ready_configs()
  path = ready.get(path, path)
  if not os.path.isfile(path):
    raise errors.UserError(f"no config file {path!r}; ready by name: {', '.join(f'--config={name}' for name in ready)}")
  module_spec = importlib.util.spec_from_file_location("bert_jax_user_config", path)
  if module_spec is None:
    raise errors.UserError(f"{path}: a config is a Python file, NAME.py, with a function get_config(variant)")
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
    config = module.get_config(variant)
  except errors.UserError:
    raise
  except Exception as error:  # a config is code, and may fail in any way
    raise errors.UserError(
      f"{_line_of(path, error)}: {_unknown_key(error) or f'{type(error).__name__}: {error}'}"
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.UserError(
      f"{path}: get_config must return the ConfigDict of bert_jax.config.default_config(), with overrides"
    )
  for key in flatten(config):
    check_key(key)
  for override in overrides:
    apply_override(config, override)
  validate(config)
  return config


def _ready_configs() -> dict[str, str]:
  """Name to path: configs/ lies inside the package in a wheel, and beside it in a checkout."""
  package = pathlib.Path(__file__).parent
  folders = [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]
  return {path.stem: str(path) for path in sorted(folders[0].glob("*.py"))} if folders else {}


def _line_of(path: str, error: Exception) -> str:
  """FILE:LINE of an error in a config file, or FILE where the line is not known."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if os.path.realpath(frame.filename) == os.path.realpath(path)
  ]
  if isinstance(error, SyntaxError):
    lines.append(error.lineno)
  return f"{path}:{lines[-1]}" if lines else path


def _unknown_key(error: Exception) -> str:
  """What is said of a key that a locked ConfigDict does not have; empty for any other error.

  Its own message lists the whole config.
  """
  found = re.match(r"[\"']*Key [\"'](\w+)[\"'] does not exist", str(error))
  if not found:
    return ""
  near = max(
    KEYS, key=lambda key: max(difflib.SequenceMatcher(None, found[1], part).ratio() for part in key.split("."))
  )
  return f"unknown config key {found[1]!r}; did you mean {near!r}? `bert_jax pretrain --help` lists all keys"


def apply_override(config: ml_collections.ConfigDict, override: str) -> None:
  key, equals, text = override.partition("=")
  if not equals:
    raise errors.UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
  check_key(key)
  set_key(config, key, _parse(key, text, DERIVED.get(key) or type(KEYS[key][0])))


def set_key(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
  *groups, name = key.split(".")
  for group in groups:
    config = config[group]
  config[name] = value


def _parse(key: str, text: str, wanted: type) -> Any:
  """`text` as a value of type `wanted`; an int is accepted where a float is wanted."""
  if wanted is str:
    return text
  try:
    value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
  except (ValueError, SyntaxError):
    value = text
  if wanted is float and type(value) is int:
    return float(value)
  if wanted is int and type(value) is float and value.is_integer():
    return int(value)  # 1e5 for 100_000
  if type(value) is not wanted:
    raise errors.UserError(f"config key {key!r} ({meaning(key)}) takes a value of type {wanted.__name__}, not {text!r}")
  return value


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as one level: {"data.batch_size": 256, …}; underived placeholders are None."""
  flat = {}
  for key, value in config.items(preserve_field_references=False):
    if isinstance(value, ml_collections.ConfigDict):
      flat |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
    else:
      flat[key] = value
  return flat


CHOICES = {
  "data.loader": ("tfdata", "threads"),
  "prepare.objective": ("nsp", "sop", "none"),
  "prepare.word_segmenter": ("", "jieba"),
  "masking.unit": ("token", "word", "span", "ngram"),
  "model.dtype": ("float32", "bfloat16"),
  "model.param_dtype": ("float32", "bfloat16"),
  "model.remat": ("none", "dots", "full"),
  "optimizer.name": ("adamw", "lamb"),
  "optimizer.schedule": ("linear", "wsd"),
  "optimizer.moments_dtype": ("float32", "bfloat16"),
  "finetune.pooling": ("pooler", "cls", "mean", "max"),
  "finetune.kind": ("", "classification", "multi-label", "regression", "token-classification", "question-answering"),
  "embedding.objective": ("", "in-batch", "simcse", "cosine", "triplet", "softmax"),
  "export.format": ("", "transformers", "sentence-transformers"),
}
POSITIVE = (
  "total_steps",
  "log_every_steps",
  "eval_every_steps",
  "data.batch_size",
  "checkpoint.every_steps",
  "optimizer.microbatches",
  "max_bad_steps",
  "masking.max_span",
  "masking.max_ngram",
  "cluster.connect_seconds",
  "cluster.heartbeat_seconds",
  "watchdog.start_seconds",
  "watchdog.step_seconds",
  "finetune.stride",
)
NOT_NEGATIVE = (
  "eval_rows",
  "optimizer.learning_rate",
  "optimizer.warmup_steps",
  "optimizer.weight_decay",
  "optimizer.clip_norm",
  "optimizer.eps",
  "max_rollbacks",
  "checkpoint.keep_last",
  "checkpoint.keep_best",
  "finetune.epochs",
  "finetune.max_length",
  "finetune.patience",
)


def validate(config: ml_collections.ConfigDict) -> None:
  """Refuses values and combinations that cannot work, naming the key. Raises UserError."""
  flat = flatten(config)
  for key, choices in CHOICES.items():
    if flat[key] not in choices:
      raise errors.UserError(f"config key {key!r} must be one of {', '.join(map(repr, choices))}; it is {flat[key]!r}")
  for key in POSITIVE:
    if flat[key] < 1:
      raise errors.UserError(f"config key {key!r} must be at least 1; it is {flat[key]}")
  for key in NOT_NEGATIVE:
    if not flat[key] >= 0:
      raise errors.UserError(f"config key {key!r} must not be negative; it is {flat[key]}")
  if not 0 <= flat["seed"] < 2**32:  # jax.random.key drops what is above 32 bits
    raise errors.UserError(f"config key 'seed' must lie between 0 and 2^32 - 1; it is {flat['seed']}")
  for key in ("optimizer.b1", "optimizer.b2"):
    if not 0 <= flat[key] < 1:
      raise errors.UserError(f"config key {key!r} must lie in [0, 1); it is {flat[key]}")
  if not flat["masking.rate"] > 0:
    raise errors.UserError(
      f"config key 'masking.rate' is {flat['masking.rate']}: nothing would be predicted; BERT has 0.15"
    )
  for key in (
    "masking.rate",
    "masking.first_rate",
    "masking.span_stop",
    "masking.mask_share",
    "masking.random_share",
    "optimizer.decay_fraction",
    "optimizer.layer_decay",
    "finetune.warmup_share",
  ):
    if not 0 <= flat[key] <= 1:
      raise errors.UserError(f"config key {key!r} is a share and must lie in [0, 1]; it is {flat[key]}")
  if flat["masking.mask_share"] + flat["masking.random_share"] > 1:
    raise errors.UserError(
      "masking.mask_share + masking.random_share must not exceed 1: the rest of the tokens stay as they are"
    )
  if flat["data.batch_size"] % flat["optimizer.microbatches"]:
    raise errors.UserError(
      f"data.batch_size={flat['data.batch_size']} does not divide into "
      f"optimizer.microbatches={flat['optimizer.microbatches']} parts"
    )
  if not 0 <= flat["stop_at_step"] <= flat["total_steps"]:
    raise errors.UserError(
      f"stop_at_step={flat['stop_at_step']} must lie between 0 and total_steps={flat['total_steps']}; "
      "set stop_at_step=0 to train to the end of the schedule"
    )
  if not flat["finetune.evaluations"] > 0:
    raise errors.UserError(f"config key 'finetune.evaluations' must be above 0; it is {flat['finetune.evaluations']}")
  for key in ("embedding.temperature", "embedding.margin"):
    if not flat[key] > 0:
      raise errors.UserError(f"config key {key!r} must be above 0; it is {flat[key]}")
  if flat["init_optimizer"] and not flat["init_from"]:
    raise errors.UserError("init_optimizer takes the moments of the run named by init_from, which is empty")


def last_step(config: ml_collections.ConfigDict) -> int:
  """The step after which a run ends."""
  return config.stop_at_step or config.total_steps


def to_json(config: ml_collections.ConfigDict) -> str:
  """The resolved config as JSON text, one dotted key per line, sorted."""
  return json.dumps(flatten(config), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
  """The inverse of `to_json`. Raises UserError for keys that this version does not know."""
  config = default_config()
  for key, value in json.loads(text).items():
    check_key(key)
    set_key(config, key, value)
  return config


def copy_of(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Another config with the same values, that can be changed by itself."""
  return from_json(to_json(config))


def differences(before: ml_collections.ConfigDict, after: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Keys whose values differ: {key: (value before, value now)}."""
  old, new = flatten(before), flatten(after)
  return {key: (old[key], new[key]) for key in KEYS if old[key] != new[key]}


def changed_keys(before: ml_collections.ConfigDict, after: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Keys whose change would make a resumed run another run: {key: (value before, value now)}."""
  free = lambda key: any(
    key == entry or (entry.endswith("*") and key.startswith(entry[:-1])) for entry in FREE_TO_CHANGE
  )
  return {key: values for key, values in differences(before, after).items() if not free(key)}
