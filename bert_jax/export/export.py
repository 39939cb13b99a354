"""A trained model as a folder for PyTorch: which head is written, what is refused, and the card that goes with it."""

import pathlib

from etils import epath

from bert_jax.cluster import agreement
from bert_jax.convert import folder as hf_folder
from bert_jax.convert.sentence_folder import POOLING_MODES, Encoding
from bert_jax.errors import UserError, print_at_once
from bert_jax.export import model_card
from bert_jax.inference import model as inference
from bert_jax.inference.model import Model

_LABEL_HEADS = frozenset(hf_folder.EXPORT_HEADS) - {"pretraining", "mlm", "encoder"}


def export_model(
  model: Model,
  out: str | pathlib.Path,
  *,
  format: str = "transformers",
  head: str | None = None,
  pooling: str | None = None,
  workdir: str | None = None,
) -> str:
  """Writes a model and its card as `out`; returns the head that was written.

  Args:
    model: what is exported.
    out: the folder to make.
    format: "transformers", or "sentence-transformers" with what that library needs besides.
    head: one of convert.folder.EXPORT_HEADS; None: what the model was trained with.
    pooling: how sentence-transformers makes one vector of many; None: as the model was trained to, mean where it was
      not.
    workdir: the run folder that the model comes from, for the card; None: not from one.

  Raises:
    UserError: the model has no such head, transformers would read it otherwise, or the folder cannot be written.
  """
  head = head or head_of(model, format)
  _check_trained(model, head)
  encoding = _encoding_of(model, pooling) if format == "sentence-transformers" else None
  card = _card_of(model, head, encoding, workdir)
  labels = model.labels if head in _LABEL_HEADS else None
  hf_folder.write_folder(
    out,
    model.params,
    model.config,
    model.tokenizer_folder,
    head=head,
    encoding=encoding,
    labels=labels,
    max_length=model.max_length,
    card=card,
  )
  return head


def _card_of(model: Model, head: str, encoding: Encoding | None, workdir: str | None) -> str:
  """The card; empty, with a note, where it cannot be made: it only tells of the model."""
  try:
    return model_card.make_card(model, head=head, encoding=encoding, workdir=workdir)
  except Exception as error:
    print_at_once(f"note: the model is exported without a README.md ({type(error).__name__}: {error})")
    return ""


def export_run(root: epath.Path, format: str) -> None:
  """Writes ROOT/export, the model that a finished run has come to; called on every process. An empty format: nothing
  is written.
  """
  if format:
    model = inference.load_model(root)  # on every process: Orbax waits for all of them, also where one would do
    agreement.on_first(lambda: export_model(model, root / "export", format=format, workdir=str(root)))


def format_of(model: Model) -> str:
  """The layout that loses nothing of a model."""
  return "sentence-transformers" if model.encoding and model.encoding.pooling in POOLING_MODES else "transformers"


def head_of(model: Model, format: str) -> str:
  """The head that a model was trained with, as far as the format has a use for it."""
  if format == "sentence-transformers" or model.encoding:
    return "encoder"
  if model.labels:
    return hf_folder.head_of_labels(model.labels)
  return "pretraining" if "nsp" in model.heads else "mlm" if "mlm" in model.heads else "encoder"


def _encoding_of(model: Model, pooling: str | None) -> Encoding:
  """How the model was trained to make one vector of a text, or this pooling."""
  trained = model.encoding or Encoding("mean", False)
  return trained if pooling in (None, trained.pooling) else Encoding(pooling, False)


def check_class_is_of_pooler(pooling: str, origin: str, remedy: str) -> None:
  """Raises UserError where BertForSequenceClassification would read the class of a text from another vector than the
  model does.
  """
  if pooling != "pooler":
    raise UserError(
      f"BertForSequenceClassification reads a text's class from the pooler, {origin} from {pooling}: fine-tune with "
      f"--pooling=pooler to export it, or {remedy}"
    )


def _check_trained(model: Model, head: str) -> None:
  trained = hf_folder.head_of_labels(model.labels) if model.labels else ""
  if head in _LABEL_HEADS and head != trained:
    has = f"it was trained for {trained}" if trained else "it was not fine-tuned; `bert_jax finetune` does that"
    raise UserError(f"--head={head}: {model.origin} has no such head: {has}")
  if head == "sequence-classification":
    check_class_is_of_pooler(model.pooling, model.origin, "export the encoder alone, --head=encoder")
