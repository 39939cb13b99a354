"""The commands: flags, calls, printing. Nothing else lives here."""

import os
import pathlib


def start_jax() -> None:
  """Settings that every command using JAX shares: compiled programs are kept on disk between runs."""
  import jax

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "bert_jax" / "compiled"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
