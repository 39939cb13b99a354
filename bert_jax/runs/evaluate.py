"""Evaluation of a model, wherever it comes from, on the validation split of a corpus."""

import jax
from etils import epath

from bert_jax import config as configs
from bert_jax.data.corpus.folder import open_corpus, tokenizer_of
from bert_jax.errors import UserError
from bert_jax.inference import run_folder
from bert_jax.inference.model import finite, load_model
from bert_jax.io import storage
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.runs.build import make_objective, resolve_pretraining
from bert_jax.runs.corpus import open_data, validation_batches
from bert_jax.training import evaluation, sharding


def evaluate_model(path: str, corpus_folder: str | None, *, batch_size: int, rows: int) -> dict[str, float]:
  """Metrics of a run or Hugging Face folder on the validation split of a corpus (default: the run's own).

  The rows and masks are those of the evaluations during training, whatever the batch size.

  Raises:
    UserError: no corpus; another tokenizer; rows longer than the model; no MLM head.
  """
  model = load_model(path)
  if "mlm" not in model.heads:
    raise UserError(f"{path} has no masked-language-model head to evaluate")
  is_run = storage.is_folder(storage.folder(path) / "checkpoints")
  if not corpus_folder and not is_run:
    raise UserError("--corpus is needed: a Hugging Face folder does not say which corpus it belongs to")
  own = run_folder.read_run_config(path) if is_run else configs.default_config()
  if not corpus_folder and own.data.corpus and not epath.Path(own.data.corpus).exists():
    raise UserError(f"{own.data.corpus}, the corpus of {path}, is not there; say where it lies now: --corpus=DIR")
  corpus = open_corpus(corpus_folder) if corpus_folder else open_data(own)
  tokenizer = tokenizer_of(corpus)
  if tokenizer.fingerprint != model.tokenizer.fingerprint:
    raise UserError(
      f"{corpus.folder} was made with another tokenizer than {path}; prepare it with "
      f"--tokenizer={model.tokenizer_folder}"
    )

  config = configs.default_config()
  for name in own.masking:
    config.masking[name] = own.masking[name]
  if corpus_folder:  # as many predictions as its rows need
    config.masking.max_predictions = None
  config.model.update({name: getattr(model.config, name) for name in configs.MODEL_FIELDS})
  config.model.vocab_size = tokenizer.vocab_size
  config.data.batch_size = -(-batch_size // jax.device_count()) * jax.device_count()
  config.eval_rows = rows
  config = resolve_pretraining(config, corpus, tokenizer)
  objective = make_objective(config, PretrainingModel(model.config, heads=model.heads), corpus, tokenizer)
  mesh = sharding.make_mesh(config)
  found = evaluation.make_evaluator(objective, mesh, lambda: validation_batches(corpus, config, mesh))(model.params)
  finite(model, list(found.values()), ", ".join(found))
  if objective.shown[0].name not in found:
    raise UserError(
      f"{corpus.folder}: its validation split has no token that could be predicted, so there is nothing to evaluate; "
      "prepare a corpus of text that the vocabulary of the model knows"
    )
  return found
