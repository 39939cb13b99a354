"""`python -m bert_jax.config > docs/configuration.md` writes the page of all keys."""

from bert_jax.config.page import page

print(page(), end="")
