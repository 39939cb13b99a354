"""bert_jax: pretrain BERT encoders from raw text in JAX, and hand them to PyTorch."""

import importlib.util
import os

__version__ = "0.1.0"

# Paths of etils, Orbax's too, take TensorFlow as their client for gs:// wherever it is installed: it keeps lists for seconds,
# raises errors of its own, and costs seconds to import. It has to be said before the first path is asked for anything.
if importlib.util.find_spec("gcsfs") is not None:
  os.environ.setdefault("EPATH_USE_TF", "false")
