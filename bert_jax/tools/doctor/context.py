"""What the checks look at: the config, the machine, and what follows from both, worked out once and when it is
needed.
"""

import functools
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
from etils import epath
from jax.sharding import Mesh

from bert_jax import config as configs
from bert_jax.cluster.chips import tpu_chips_here
from bert_jax.cluster.distributed import Cluster, host_name
from bert_jax.data.corpus.folder import Corpus, open_corpus, tokenizer_of
from bert_jax.data.loading import mixture
from bert_jax.data.tokenizer.wordpiece import Tokenizer
from bert_jax.errors import UserError
from bert_jax.inference.run_folder import read_run_config
from bert_jax.objectives.masking import default_max_predictions, settings_of
from bert_jax.objectives.objective import CorpusFacts
from bert_jax.objectives.registry import recipe_of
from bert_jax.runs.build import model_of, resolve_pretraining
from bert_jax.training import optimizer as optimizers
from bert_jax.training import sharding, train_state

ALONE = Cluster("127.0.0.1:0", 1, 0, "alone")


class Accelerators(NamedTuple):
  """What is built into this machine, whether JAX uses it or not: so many chips of `kind`, "gpu" or "tpu"."""

  kind: str
  chips: int


class Context:
  """One process's view of the run that is about to start.

  Attributes that cannot be had raise when they are asked for.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    quick: bool = False,
    cluster: Cluster = ALONE,
    introductions: list[dict[str, Any]] | None = None,
    environ: Mapping[str, str] = os.environ,
    root: pathlib.Path = pathlib.Path("/"),
  ):
    """
    Args:
      config: as `config.load_config` gives it.
      workdir: the run folder.
      quick: look at the sizes of the corpus's files only.
      cluster: who takes part.
      introductions: what every process says of itself (rendezvous.introduce), or None if they did not meet.
      environ: the environment variables.
      root: where /proc, /sys and /dev are.
    """
    self.config, self.workdir, self.quick, self.cluster = config, epath.Path(workdir), quick, cluster
    self.introductions, self.environ, self.root = introductions, environ, root

  @property
  def hosts(self) -> list[str]:
    """The host of every process; of this one alone where they did not meet."""
    return [about["host"] for about in self.introductions or [{"host": host_name()}]]

  @property
  def neighbours(self) -> list[int]:
    """The processes on this machine, this one included."""
    if self.introductions is None:
      return [self.cluster.process_id]
    own = self.hosts[self.cluster.process_id]
    return [number for number, host in enumerate(self.hosts) if host == own]

  @property
  def speaks_for_host(self) -> bool:
    """Whether this process does what one process on every machine has to do."""
    return self.neighbours[0] == self.cluster.process_id

  @functools.cached_property
  def accelerators(self) -> Accelerators | None:
    """GPUs or TPU chips of this machine."""
    gpus = [path for path in (self.root / "dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    if gpus or (self.root / "dev/dxg").exists():  # dxg: Windows's subsystem for Linux
      return Accelerators("gpu", max(len(gpus), 1))
    chips = tpu_chips_here(self.root)
    return Accelerators("tpu", chips) if chips else None

  @functools.cached_property
  def devices(self) -> list[jax.Device]:
    """The devices of all processes. Raises UserError where JAX has none, or where looking for them would end this
    process.
    """
    if self.introductions is None:
      raise UserError("the devices are unknown until all processes meet; fix the coordinator first")
    for number, about in enumerate(self.introductions):  # JAX's devices come together, or not at all
      if about.get("xla_flags"):
        raise UserError(
          f"process {number}: {about['xla_flags']}" if len(self.introductions) > 1 else about["xla_flags"]
        )
    try:
      return jax.devices()
    except Exception as error:
      asked = self.environ.get("JAX_PLATFORMS", "")
      text = " ".join(str(error).split()) or "it has none"
      remedy = "check the driver, and what `python -c 'import jax; jax.devices()'` says"
      if asked:
        text, remedy = f"{text} (JAX_PLATFORMS={asked})", f"unset JAX_PLATFORMS, or install what {asked} needs"
      raise UserError(f"JAX cannot start its devices: {text}\n{remedy}") from error

  @functools.cached_property
  def mesh(self) -> Mesh:
    """The mesh of the config over the devices."""
    return sharding.make_mesh(self.config, self.devices)

  @functools.cached_property
  def corpus(self) -> Corpus | None:
    """The corpus, sizes checked; None where a run would have to prepare it, or to copy it here, first."""
    data = self.config.data
    if data.mixture:
      folders = mixture.parse(data.mixture)
      return None if any("://" in folder for folder in folders) else mixture.open_mixture(folders, verify=False)
    if "://" in data.corpus or (data.source and not epath.Path(data.corpus).exists()):
      return None
    return open_corpus(data.corpus, verify=False)

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The tokenizer of the corpus."""
    assert self.corpus
    return tokenizer_of(self.corpus)

  @functools.cached_property
  def resolved(self) -> ml_collections.ConfigDict:
    """The config as the run would save it; of a corpus that is still to be made, what is known beforehand."""
    return resolve_pretraining(self.config, self.corpus, self.tokenizer) if self.corpus is not None else self._guessed()

  def _guessed(self) -> ml_collections.ConfigDict:
    config = configs.copy_of(self.config)
    try:  # a run that is there already knows its corpus
      known = read_run_config(self.workdir)
      vocab_size, max_predictions = known.model.vocab_size, known.masking.max_predictions
    except (UserError, OSError):
      vocab_size = config.prepare.vocab_size
      max_predictions = default_max_predictions(settings_of(config.masking).highest_rate, config.prepare.seq_length)
    if config.model.vocab_size is None:
      config.model.vocab_size = vocab_size
    if config.masking.max_predictions is None:
      config.masking.max_predictions = max_predictions
    return config

  @functools.cached_property
  def state(self) -> train_state.TrainState:
    """The train state as ShapeDtypeStructs; without a corpus that fits, with as many words as one prepared here would
    have.
    """
    try:
      config = self.resolved
    except UserError:  # the corpus row says why
      config = self._guessed()
    encoder = configs.encoder_of(config)
    facts = CorpusFacts(0, (), [False] * encoder.vocab_size, "none")  # they decide no shape of the state
    objective = recipe_of(config.objective).make(model_of(config, encoder), config, facts)
    optimizer = optimizers.make_optimizer(config)
    return jax.eval_shape(lambda: train_state.create(objective.init(jax.random.key(0)), optimizer))

  @property
  def state_bytes(self) -> int:
    """Of the whole state."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.state))

  @property
  def state_bytes_here(self) -> int:
    """Of the part of the state that the devices of this process hold, each part counted once."""
    total, shardings = 0, sharding.state_shardings(self.mesh, self.state)
    for leaf, where in zip(jax.tree.leaves(self.state), jax.tree.leaves(shardings)):
      parts = {str(index) for index in where.addressable_devices_indices_map(leaf.shape).values()}
      total += len(parts) * math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


def refused_flags(environ: Mapping[str, str]) -> str:
  """What is wrong with XLA_FLAGS, found out in a child process: XLA ends a process for a flag that it does not know.

  Empty where all is well.
  """
  if not environ.get("XLA_FLAGS"):
    return ""
  child = subprocess.run(
    [sys.executable, "-c", "import jax; jax.devices()"],
    env={**environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
  )
  if child.returncode == 0:
    return ""
  said = [line for line in child.stderr.splitlines() if "XLA_FLAGS" in line] or child.stderr.splitlines()[-1:]
  reason = said[0].partition("] ")[2] or said[0] if said else f"JAX ends with {child.returncode}"
  return f"XLA_FLAGS={environ['XLA_FLAGS']}: {reason}; remove that flag, or unset XLA_FLAGS"
