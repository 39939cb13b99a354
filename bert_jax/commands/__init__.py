"""The commands: flags, calls, printing. Nothing else lives here."""

import contextlib
import os
import pathlib
import sys
from typing import Sequence


def start_jax() -> None:
  """Settings that every command using JAX shares: compiled programs are kept on disk between runs."""
  import jax

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    folder = pathlib.Path.home() / ".cache" / "bert_jax" / "compiled"
    with contextlib.suppress(OSError):  # without a home to write to, programs are compiled every time
      folder.mkdir(parents=True, exist_ok=True)
      jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def run_or_model(workdir: str | None, model: str | None) -> str:
  """The folder that --workdir or --model names. Raises UserError for a --workdir without checkpoints."""
  from bert_jax.errors import UserError

  if workdir and not os.path.isdir(os.path.join(workdir, "checkpoints")):
    raise UserError(f"--workdir={workdir} is no run folder with checkpoints; a Hugging Face folder is given as --model")
  return workdir or model


def note_unknown_words(model, texts: Sequence[str]) -> None:
  """Says so where the tokenizer knows less than half of what some texts are made of: another language, most likely."""
  from bert_jax.data.tokenizer import encode_batch

  ids = [token for text in encode_batch(model.tokenizer, list(texts)) for token in text]
  unknown = ids.count(model.tokenizer.special.unk)
  if 2 * unknown > len(ids):
    print(f"note: {unknown / len(ids):.0%} of the tokens are [UNK]: the vocabulary of this model does not know such text", file=sys.stderr)
