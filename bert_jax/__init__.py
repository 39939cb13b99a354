"""bert_jax: pretrain BERT encoders from raw text in JAX, and hand them to PyTorch.

    model = bert_jax.load("runs/quickstart")          # a run folder, or a Hugging Face BERT folder
    model.fill_mask("Returns the [MASK] of the array.")

See `bert_jax.load`; everything else is the command line, `python -m bert_jax`.
"""

from bert_jax.api import load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"
