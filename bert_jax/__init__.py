"""bert_jax: pretrain BERT encoders from raw text in JAX, and hand them to PyTorch."""

__version__ = "0.1.0"
