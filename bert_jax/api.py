"""What `import bert_jax` offers: thin functions that import the rest when they are first called, since importing JAX
takes seconds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bert_jax.io.lazy_imports import LazyModule
from bert_jax.io.paths import expanded

if TYPE_CHECKING:
  from bert_jax.inference import loaded
else:  # an object, so that typing.get_type_hints(load) finds the class behind it
  loaded = LazyModule("bert_jax.inference.loaded")


def load(path: str | os.PathLike) -> loaded.LoadedModel:
  """A model ready for use: `config`, `params`, `tokenizer`, and the pure functions `encode`, `fill_mask`, `classify`,
  `tokenize`, `apply`.

  Args:
    path: a run folder of `pretrain` or `finetune` (its newest good checkpoint, or its best), or a Hugging Face BERT
      folder.

  Returns:
    inference.loaded.LoadedModel; its parameters are a nested dict of float32 arrays.

  Raises:
    errors.UserError: neither of the two, or one that is damaged.
  """
  return loaded.load_model(expanded(os.fspath(path)))
