"""bert_jax: pretrain BERT encoders from raw text in JAX, and hand them to PyTorch.

    model = bert_jax.load("runs/quickstart")          # a run folder, or a Hugging Face BERT folder
    model.fill_mask("Returns the [MASK] of the array.")

See `bert_jax.load`; everything else is the command line, `python -m bert_jax`.
"""

import importlib.util
import os

__version__ = "0.1.0"

# Paths of etils, Orbax's too, take TensorFlow as their client for gs:// wherever it is installed: it keeps lists for
# seconds, raises errors of its own, and costs seconds to import. It has to be said before the first path is asked for
# anything.
if importlib.util.find_spec("gcsfs") is not None:
  os.environ.setdefault("EPATH_USE_TF", "false")


def load(path: "str | os.PathLike") -> "bert_jax.inference.api.LoadedModel":
  """A model ready for use: `config`, `params`, `tokenizer`, and the pure functions `encode`, `fill_mask`, `classify`,
  `tokenize`, `apply`.

  Args:
    path: a run folder of `pretrain` or `finetune` (its newest good checkpoint, or its best), or a Hugging Face BERT
      folder.

  Returns:
    api.LoadedModel; its parameters are a nested dict of float32 arrays.

  Raises:
    errors.UserError: neither of the two, or one that is damaged.
  """
  from bert_jax.inference import api  # here, for JAX takes seconds to import, and the package should not

  return api.load(path)
