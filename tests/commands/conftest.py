"""Commands called within the tests leave the cache of compiled programs where the tests have theirs."""

import jax
import pytest


@pytest.fixture(autouse=True)
def cache_of_the_tests(monkeypatch):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
