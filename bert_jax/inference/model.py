"""Using a pretrained model: fill in [MASK], judge sentence pairs, turn text into vectors.

A model is loaded from a run folder or a Hugging Face folder; from there on
both are the same. Everything is a function of `Model`.

Shape legend: B texts, L tokens, H hidden width, V vocabulary.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from bert_jax import config as configs
from bert_jax.batch import ModelInputs
from bert_jax.convert import folder as hf_folder
from bert_jax.convert.model_config import find_model, read_outputs
from bert_jax.convert.sentence_folder import Encoding, read_encoding, read_limit
from bert_jax.data.labelled.examples import Labels
from bert_jax.data.tokenizer.wordpiece import Tokenizer, encode_batch, load_tokenizer
from bert_jax.errors import UserError
from bert_jax.inference.run_folder import find_run_config, meaning_of, read_labels, read_result, read_run_config
from bert_jax.io import storage
from bert_jax.models import parameters
from bert_jax.models.config import EncoderConfig
from bert_jax.models.pooling import POOLINGS, pool
from bert_jax.models.pretraining import HEADS, ModelOutput, PretrainingModel
from bert_jax.objectives.registry import check_usable
from bert_jax.training.checkpoints import reading
from bert_jax.training.checkpoints.folder import committed_steps

ENCODINGS = (*POOLINGS, "tokens")
# Rows are padded to a multiple of this many tokens, so that few shapes are compiled.
LENGTH_MULTIPLE = 32


class Model(NamedTuple):
  """A model ready for use.

  Attributes:
    config: the encoder.
    params: nested dict of float32 arrays.
    tokenizer: its tokenizer.
    heads: those of "mlm", "nsp", "pooler" that have trained parameters.
    origin: the folder that it was loaded from.
    max_length: tokens of a text or pair that are read, special tokens included: as many as in fine-tuning, or as a
      Hugging Face folder says of its tokenizer; as many as the model has positions where nothing is said.
    tokenizer_folder: where the tokenizer's files lie.
    labels: what the outputs of a fine-tuned model mean; None for one that is not.
    pooling: what the class of a text is read from, where the labels are of texts.
    step: of the checkpoint; None for a Hugging Face folder.
    encoding: how it makes one vector of a text, where it was trained for that; None where it was not.
    stride: from one window of a long text to the next, in tokens, where questions about it are answered; see
      questions.make_windows.
  """

  config: EncoderConfig
  params: Any
  tokenizer: Tokenizer
  heads: frozenset[str]
  origin: str
  max_length: int
  tokenizer_folder: pathlib.Path
  labels: Labels | None = None
  pooling: str = "pooler"
  step: int | None = None
  encoding: Encoding | None = None
  stride: int = 128


class Completion(NamedTuple):
  """A proposal for one [MASK]."""

  token: str
  token_id: int
  probability: float


def load_model(path: str | os.PathLike) -> Model:
  """Loads a run folder (its newest good checkpoint) or a Hugging Face BERT folder.

  Raises:
    UserError: neither of the two, or one that is damaged.
  """
  folder = storage.folder(path)
  if not storage.is_folder(folder):
    raise UserError(
      f"no folder {str(path)!r}; --model takes a run folder (--workdir of pretrain) or a Hugging Face BERT folder"
    )
  if storage.is_folder(folder / "checkpoints"):
    return load_checkpoint(folder / "checkpoints")
  if find_run_config(folder) is not None:
    raise UserError(
      f"{path} is a run folder without checkpoints: the run stopped before its first checkpoint, or they were removed"
    )
  folder = storage.fetch(folder)
  where = find_model(folder)
  config, params, heads = hf_folder.read_folder(where)
  tokenizer = load_tokenizer(where)
  if tokenizer.vocab_size > config.vocab_size:
    raise UserError(f"{path}: the tokenizer has {tokenizer.vocab_size} entries, the model only {config.vocab_size}")
  limit = read_limit(where, config)
  labels, encoding = read_outputs(where, params), read_encoding(folder, lowercase=tokenizer.lowercase)
  return Model(config, params, tokenizer, heads & HEADS, str(path), limit, where, labels, encoding=encoding)


def load_checkpoint(path: str | os.PathLike) -> Model:
  """Loads a checkpoint of a run, WORKDIR/checkpoints/STEP, or the newest good one under WORKDIR/checkpoints.

  Of a fine-tuned run that has finished, the best one takes the place of the newest. Raises UserError.
  """
  path = storage.folder(path)
  checkpoints, step = (path, None) if path.name == "checkpoints" else (path.parent, path.name)
  if step is not None and not (step.isdigit() and storage.is_folder(path)):
    raise UserError(f"{path} is not a checkpoint; they are called WORKDIR/checkpoints/STEP")
  folder = checkpoints.parent
  config = read_run_config(folder)
  check_usable(config.objective)
  result = read_result(folder)
  if step is None and result is not None:
    step = result["step"]
  params, host = reading.restore_params(checkpoints, None if step is None else int(step), meaning=meaning_of(folder))
  tokenizer = storage.fetch(folder / "tokenizer")
  heads = parameters.heads_of(params)
  encoder, labels, pooling = configs.encoder_of(config), read_labels(folder), config.tuning.pooling
  encoding = Encoding(pooling, config.embedding.normalize) if config.embedding.objective else None
  limit = config.tuning.max_length if labels or encoding else encoder.max_position_embeddings
  return Model(
    encoder,
    params,
    load_tokenizer(tokenizer),
    heads,
    str(path),
    limit,
    tokenizer,
    labels,
    pooling,
    host["step"],
    encoding,
    config.finetune.stride,
  )


def state_of(path: str | os.PathLike, step: int | None = None) -> str:
  """What distinguishes a model from a later one of the same name: the step of a run, or a digest of a folder's weights.

  Args:
    path: a run folder or a Hugging Face folder.
    step: that was loaded; None: that `load_model` would take now.
  """
  folder = storage.folder(path)
  if step is None:
    result = read_result(folder)
    step = result["step"] if result else max(committed_steps(folder / "checkpoints"), default=None)
  if step is not None:
    return f"step {step:,}"
  digest = hashlib.sha256()
  for file in sorted(find_model(folder).glob("*.safetensors"), key=lambda file: file.name):
    with file.open("rb") as content:
      while block := content.read(1 << 24):
        digest.update(block)
  return f"weights {digest.hexdigest()[:16]}"


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(config: EncoderConfig, heads: frozenset[str], params, inputs: ModelInputs, positions) -> ModelOutput:
  return PretrainingModel(config, heads=heads).apply({"params": params}, inputs, positions)


def apply(model: Model, inputs: ModelInputs, masked_positions: ArrayLike | None = None) -> ModelOutput:
  """The model's outputs by name (see ModelOutput), without dropout, compiled once per shape."""
  return _apply(model.config, model.heads, model.params, inputs, masked_positions)


def prediction_logits(model: Model, inputs: ModelInputs, masked_positions: ArrayLike) -> jax.Array:
  """float32 [B, K, V], of a model that has the MLM head."""
  logits = apply(model, inputs, masked_positions).prediction_logits
  assert logits is not None
  return logits


def finite(model: Model, values: ArrayLike, what: str) -> np.ndarray:
  """What a model computed, on the host.

  Raises:
    UserError: NaN or infinity in it. Weights are checked when they are loaded, so that it has overflowed.
  """
  values = np.asarray(values)
  if not np.all(np.isfinite(values)):
    raise UserError(
      f"{model.origin}: {what} came out as NaN or infinite, so there is no result. All weights are finite: some are "
      "too large, as after a training that has diverged; take another checkpoint or copy"
    )
  return values


def check_takes_pairs(model: Model) -> None:
  """Raises UserError for a model that cannot tell the second text of a pair from the first."""
  types = model.config.type_vocab_size
  if types < 2:
    raise UserError(
      f"{model.origin} has {types} token type (type_vocab_size={types}); pairs of texts, and questions with their "
      "texts, need two. Give single texts, or a model with two"
    )


def make_inputs(model: Model, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> ModelInputs:
  """Token ids of (A, B) to inputs, framed by the tokenizer, A alone where B is empty; one sequence per row, padded.

  Args:
    model: whose special tokens are used.
    sequences: ids without special tokens, short enough (see `encode_texts`).

  Returns:
    ModelInputs of shape [B, L], L a multiple of 32 or the model's limit.
  """
  template = model.tokenizer.template
  rows, types = zip(*(template.frame(first, second or None) for first, second in sequences))
  if max(map(max, types)) >= model.config.type_vocab_size:
    check_takes_pairs(model)
  longest = max(len(row) for row in rows)
  length = min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max(longest, model.config.max_position_embeddings))
  pad = lambda lists, value: np.array([[*x, *[value] * (length - len(x))] for x in lists], np.int32)
  segments = pad([[1] * len(row) for row in rows], 0)
  first_column = np.zeros((len(rows), 1), np.int32)
  return ModelInputs(
    input_ids=pad(rows, template.special.pad),
    token_type_ids=pad(types, 0),
    position_ids=np.broadcast_to(np.arange(length, dtype=np.int32), segments.shape),
    segment_ids=segments,
    cls_positions=first_column,
    sequence_lengths=np.array([[len(row)] for row in rows], np.int32),
    sequence_weights=np.ones((len(rows), 1), np.float32),
    sequence_labels=first_column,
  )


def list_of(texts: Iterable[str]) -> list[str]:
  """Texts as a list. Raises UserError for one text, which would be read as a list of characters, and for what is no
  text.
  """
  if isinstance(texts, str):
    raise UserError(f"expected a list of texts, got one text: [{texts[:40]!r}]")
  texts = list(texts)
  odd = next((number for number, text in enumerate(texts) if not isinstance(text, str)), None)
  if odd is not None:
    raise UserError(
      f"expected texts; number {odd} of {len(texts)} is {texts[odd]!r:.60}, a {type(texts[odd]).__name__}"
    )
  return texts


def encode_texts(
  model: Model, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> list[tuple[Sequence[int], Sequence[int], bool]]:
  """(ids of the text, ids of its second text if there are `pairs`, whether it was cut), no longer than Model.max_length
  with their special tokens; the longer of the two loses its end.
  """
  ids = encode_batch(model.tokenizer, [*texts, *(pairs or ())])
  seconds = ids[len(texts) :] if pairs is not None else [[]] * len(texts)
  return [model.tokenizer.template.truncate(a, b, model.max_length) for a, b in zip(ids, seconds)]


def find_masks(model: Model, text: str, purpose: str) -> tuple[list[int], list[int]]:
  """(token ids of a text without special tokens, where in the row of `make_inputs` its [MASK]s stand).

  Raises:
    UserError: no [MASK] in the text, a text longer than the model, a model without an MLM head, which `purpose` needs.
  """
  _require_head(model, "mlm", f"{purpose} needs the masked-language-model head")
  if not isinstance(text, str):
    raise UserError(f"expected one text, got {text!r:.60}, a {type(text).__name__}")
  ids = encode_batch(model.tokenizer, [text])[0]
  template = model.tokenizer.template
  limit = model.config.max_position_embeddings - template.room(pair=False)
  if len(ids) > limit:
    raise UserError(f"the text has {len(ids)} tokens; this model takes at most {limit}")
  places = [template.offset + place for place, token in enumerate(ids) if token == template.special.mask]
  if not places:
    raise UserError(f"no [MASK] in {text!r}: write [MASK] where a token is to be predicted")
  return ids, places


def fill_mask(model: Model, text: str, top_k: int = 5) -> list[list[Completion]]:
  """The `top_k` likeliest tokens at every [MASK] of a text, best first, with probabilities over the whole vocabulary.

  Raises:
    UserError: no [MASK] in the text, a text longer than the model, a model without an MLM head.
  """
  ids, places = find_masks(model, text, "fill-mask")
  logits = prediction_logits(model, make_inputs(model, [(ids, [])]), np.array([places], np.int32))
  probabilities = finite(model, jax.nn.softmax(logits[0], axis=-1), "the probabilities")
  return [likeliest(model, row, top_k) for row in probabilities]


def likeliest(model: Model, probabilities: np.ndarray, top_k: int) -> list[Completion]:
  """The `top_k` likeliest tokens, best first; probabilities [V]."""
  best = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
  return [Completion(model.tokenizer.token(index), index, float(probabilities[index])) for index in best]


def next_sentence(model: Model, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
  """The probability that B follows A, float32 [B], for each pair (A, B).

  Raises:
    UserError: a model without pooler or NSP head; an empty sentence.
  """
  _require_head(model, "nsp", "next-sentence needs the next-sentence head")
  if any(not a.strip() or not b.strip() for a, b in pairs):
    raise UserError("next-sentence takes two sentences that are not empty")
  cut = encode_texts(model, [a for a, _ in pairs], [b for _, b in pairs])
  logits = apply(model, make_inputs(model, [(a, b) for a, b, _ in cut])).nsp_logits
  assert logits is not None
  return finite(model, jax.nn.softmax(logits[:, 0], axis=-1), "the probabilities")[:, 0]  # label 0: B follows A


def batches_by_length(lengths: Sequence[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
  """Batches of texts of about one length, the shortest first: (which texts, the same filled up to `size`, so that
  there is one batch shape only).
  """
  by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
  for begin in range(0, len(by_length), size):
    members = by_length[begin : begin + size]
    yield members, members + [members[-1]] * (size - len(members))


class Encoded(NamedTuple):
  """Vectors of texts.

  Attributes:
    vectors: float32 [B, H]; for pooling "tokens" [B, L, H], zero beyond a text's tokens.
    tokens: for pooling "tokens", the tokens of each text, special tokens included; else None.
    truncated: how many texts were longer than Model.max_length and lost their end.
    pooling: how the vectors were made.
  """

  vectors: np.ndarray
  tokens: list[list[str]] | None
  truncated: int
  pooling: str


def encode(
  model: Model, texts: Iterable[str], pooling: str | None = None, *, normalize: bool = False, batch_size: int = 32
) -> Encoded:
  """Turns texts into vectors.

  Args:
    model: the model.
    texts: the texts; an empty one is nothing but special tokens.
    pooling: cls (the last layer's vector at [CLS]), pooler (that vector through the pooler: dense and
      tanh), mean or max (over all tokens but padding), tokens (no pooling: the sequence output). None:
      as the model was trained to make one vector of a text (Model.encoding), normalisation included; mean where it was
      not.
    normalize: scale each vector to length 1.
    batch_size: texts in one call of the model.

  Raises:
    UserError: an unknown pooling; pooling "pooler" of a model without one.
  """
  texts = list_of(texts)
  if batch_size < 1:
    raise UserError(f"batch_size={batch_size}: expected 1 or more")
  if pooling is None:
    pooling, trained_to = model.encoding or Encoding("mean", False)
    normalize = normalize or trained_to
  if pooling not in ENCODINGS:
    raise UserError(f"unknown pooling {pooling!r}; one of {', '.join(ENCODINGS)}")
  if pooling == "pooler":
    _require_head(model, "pooler", "--pooling=pooler needs the pooler")
  model = model._replace(
    heads=model.heads & {"pooler"}
  )  # scores of words are not asked for, and would be most of the memory
  cut = encode_texts(model, texts)
  vectors: list[Any] = [None] * len(cut)
  for members, filled in batches_by_length([len(ids) for ids, _, _ in cut], batch_size):
    inputs = make_inputs(model, [cut[i][:2] for i in filled])
    output = apply(model, inputs)
    pooled = (
      output.sequence_output
      if pooling == "tokens"
      else pool(output.sequence_output, output.pooled_output, inputs, pooling)
    )
    pooled = np.asarray(pooled)
    if normalize:
      pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)
    for i, vector in zip(members, pooled):
      vectors[i] = vector
  truncated = sum(was_cut for _, _, was_cut in cut)
  if pooling != "tokens":
    stacked = np.stack(vectors) if vectors else np.zeros((0, model.config.hidden_size), np.float32)
    return Encoded(finite(model, stacked, "the vectors"), None, truncated, pooling)
  tokens = [list(map(model.tokenizer.token, model.tokenizer.template.frame(first)[0])) for first, _, _ in cut]
  longest = max(map(len, tokens), default=0)
  padded = np.zeros((len(cut), longest, model.config.hidden_size), np.float32)
  for row, vector, names in zip(padded, vectors, tokens):
    row[: len(names)] = vector[: len(names)]
  return Encoded(finite(model, padded, "the vectors"), tokens, truncated, pooling)


def _require_head(model: Model, head: str, need: str) -> None:
  if head not in model.heads:
    raise UserError(f"{need}, which {model.origin} does not have (it has: {', '.join(sorted(model.heads)) or 'none'})")
