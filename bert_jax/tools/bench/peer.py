"""transformers as a contestant: its BERT under PyTorch, on the same weights, rows, masks and labels as ours.

It gets what its users would give it: one sequence per row, padded to the longest of the batch, and no attention mask
where nothing is padded; scaled-dot-product attention; fused AdamW; bfloat16 by autocast where ours computes in it. Its
masked batches lie ready on its device, while ours draws masks within the step. The only file of the package that
imports torch and transformers.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from bert_jax import config as configs
from bert_jax.batch import ModelInputs
from bert_jax.convert.folder import config_json, to_huggingface
from bert_jax.errors import UserError
from bert_jax.objectives.masking import MlmBatch
from bert_jax.training import optimizer as optimizers

_IGNORED = -100  # label of a token that is not to be predicted, in PyTorch


def one_sequence_per_row(inputs: ModelInputs, masked: MlmBatch) -> dict[str, np.ndarray]:
  """A packed batch as transformers' users have it.

  Args:
    inputs: of B packed rows, NumPy arrays, `input_ids` masked.
    masked: the positions to predict, with labels and weights.

  Returns:
    int64 arrays by the names of BertForPreTraining.forward: input_ids, token_type_ids, attention_mask, labels, all [N,
    W] with N sequences of at most W tokens, and next_sentence_label [N].
  """
  labels = np.full(inputs.input_ids.shape, _IGNORED, np.int64)
  rows, slots = np.nonzero(masked.weights)
  labels[rows, masked.positions[rows, slots]] = masked.labels[rows, slots]
  where = np.argwhere(inputs.sequence_lengths > 0)
  starts = inputs.cls_positions[where[:, 0], where[:, 1]]
  lengths = inputs.sequence_lengths[where[:, 0], where[:, 1]]
  offsets = np.arange(lengths.max())
  real = offsets[None, :] < lengths[:, None]
  places = np.minimum(starts[:, None] + offsets[None, :], inputs.input_ids.shape[1] - 1)
  take = lambda array, padding: np.where(real, array[where[:, :1], places], padding).astype(np.int64)
  return {
    "input_ids": take(inputs.input_ids, 0),
    "token_type_ids": take(inputs.token_type_ids, 0),
    "attention_mask": real.astype(np.int64),
    "labels": take(labels, _IGNORED),
    "next_sentence_label": inputs.sequence_labels[where[:, 0], where[:, 1]].astype(np.int64),
  }


class Transformers:
  """transformers' training step, ready to be run.

  Args:
    config: resolved, of the run to compare with.
    params: its parameters before the first step, on the host.
    batches: what its objective makes of its first batches, see Own.masked_batches.
    pairs: whether there is a loss on pairs.
    compiled: whether by torch.compile.

  Attributes:
    steps, tokens: taken by `run` so far, and the real tokens in them.

  Raises:
    UserError: torch or transformers is not installed.
  """

  def __init__(self, config: ml_collections.ConfigDict, params: Any, batches: list, *, pairs: bool, compiled: bool):
    try:
      import torch
      import transformers
    except ImportError as error:
      raise UserError(
        f"--compare=transformers needs {error.name}, which is not installed: pip install torch transformers"
      ) from error
    self._torch, self._device = torch, "cuda" if torch.cuda.is_available() else "cpu"
    encoder, head = configs.encoder_of(config), "pretraining" if pairs else "mlm"
    settings = transformers.BertConfig(**config_json(encoder, head), attn_implementation="sdpa")
    model = (transformers.BertForPreTraining if pairs else transformers.BertForMaskedLM)(settings)
    tensors = {name: torch.tensor(array) for name, array in to_huggingface(params, encoder, head).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or any("decoder" not in name for name in missing):  # the decoder is tied
      raise AssertionError(f"weights missing for transformers: {missing}; unknown to it: {unexpected}")
    self._parameters = list(model.to(self._device).train().parameters())
    self._model = torch.compile(model) if compiled else model
    self._optimizer, self._clip_norm = _adamw(torch, model, config), config.optimizer.clip_norm
    unpacked = [one_sequence_per_row(*batch) for batch in batches]
    self._batch_tokens, self._batches = (
      [int(batch["attention_mask"].sum()) for batch in unpacked],
      [self._put(batch, pairs) for batch in unpacked],
    )
    bfloat16 = config.model.dtype == "bfloat16"
    self._precision = (lambda: torch.autocast(self._device, torch.bfloat16)) if bfloat16 else contextlib.nullcontext
    self.steps = self.tokens = 0

  @property
  def memory_bytes(self) -> int | None:
    """The most that it has held on a GPU; None on a CPU, where nobody counts."""
    return self._torch.cuda.max_memory_allocated() if self._device == "cuda" else None

  def first_step(self) -> tuple[float, float]:
    """Takes the step on the first batch: (loss, norm of the gradients), before any update."""
    loss, norm = self._step(self._batches[0])
    return float(loss), float(norm)

  def run(self, steps: int) -> int:
    """Takes steps, each on the next batch, round and round. Returns the real tokens in them."""
    tokens = 0
    for number in range(self.steps, self.steps + steps):
      place = number % len(self._batches)
      self._step(self._batches[place])
      tokens += self._batch_tokens[place]
    if self._device == "cuda":
      self._torch.cuda.synchronize()
    self.steps, self.tokens = self.steps + steps, self.tokens + tokens
    return tokens

  def product(self, width: int) -> Callable[[int], None]:
    """A run of PyTorch's square matrix product in the dtype that the model computes in, for timing.in_turn."""
    dtype = self._torch.float32 if self._precision is contextlib.nullcontext else self._torch.bfloat16
    matrix = self._torch.randn(width, width, device=self._device).to(dtype)

    def run(times: int) -> None:
      for _ in range(times):
        matrix @ matrix
      if self._device == "cuda":
        self._torch.cuda.synchronize()

    run(1)
    return run

  def _step(self, batch: dict[str, Any]):
    with self._precision():
      loss = self._model(**batch).loss
    loss.backward()
    norm = self._torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm or float("inf"))
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss.detach(), norm.detach()

  def _put(self, batch: dict[str, np.ndarray], pairs: bool) -> dict[str, Any]:
    whole = bool(batch["attention_mask"].all())
    left_out = {"attention_mask"} if whole else set()
    left_out |= set() if pairs else {"next_sentence_label"}
    return {
      name: self._torch.from_numpy(array).to(self._device) for name, array in batch.items() if name not in left_out
    }

  def close(self) -> None:
    """Frees everything."""
    del self._model, self._optimizer, self._parameters, self._batches
    if self._device == "cuda":
      self._torch.cuda.empty_cache()


def _adamw(torch, model, config: ml_collections.ConfigDict):
  """Fused AdamW with the settings of a config; biases and LayerNorm do not decay."""
  settings = config.optimizer
  decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
  others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
  groups: list[dict] = [
    {"params": decayed, "weight_decay": settings.weight_decay},
    {"params": others, "weight_decay": 0.0},
  ]
  rate = float(optimizers.make_schedule(config)(0))
  return torch.optim.AdamW(groups, lr=rate, betas=(settings.b1, settings.b2), eps=settings.eps, fused=True)
