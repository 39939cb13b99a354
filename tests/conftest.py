"""Strict JAX for every test: eight virtual CPU devices, and no silent rank promotion."""

import gc
import logging
import os
import pathlib
import signal
import sys
import warnings

# A shell starts what runs in the background with SIGINT ignored, and every child inherits that; behind a handler they
# have the default. So it is with SIGHUP under nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
  signal.signal(signal.SIGHUP, lambda *_: None)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Compiling is most of what these tests cost, and their programs run for milliseconds: no optimiser of LLVM's, the
# emitters that make the least code, and one module for each program. A train step takes 0.8 s of a core so, else 8.
FAST_COMPILATION = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
  "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"
# Many tests, and the processes that they start, compile the same tiny programs.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(__file__).resolve().parents[1] / ".pytest_cache/compiled")

import jax
import pytest

from bert_jax.internals.orbax import silence_orbax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = [f"tests.fixtures.{name}" for name in ("corpora", "exports", "labelled_models", "runs")]


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """Real text and vocabularies beside the checkout; tests that need them skip where they are absent."""
  folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
  if not folder.is_dir():
    pytest.skip(f"the shared data folder is not at {folder}")
  return folder


@pytest.fixture
def silent_orbax(monkeypatch):
  """Orbax as the commands have it; afterwards everything is as it was."""
  for name in ("absl", "asyncio"):
    monkeypatch.setattr(logging.getLogger(name), "filters", logging.getLogger(name).filters[:])
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
  with warnings.catch_warnings():
    silence_orbax()
    yield


@pytest.fixture(scope="module", autouse=True)
def what_a_file_leaves_behind_is_not_searched_for_garbage_again():
  """Compiled programs and imported libraries are a million objects, which every full collection of the next files
  would walk through.
  """
  yield
  gc.collect()
  gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def small_programs_are_kept_for_other_processes_too():
  """Commands that run within a test let the cache have large ones only."""
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
