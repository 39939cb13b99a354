"""Our training step as a contestant: the program of a real run, and its parts by themselves."""

import time
from typing import Any

import jax
import ml_collections

from bert_jax import config as configs
from bert_jax.models import flops
from bert_jax.objectives.objective import divide
from bert_jax.tools.bench.rows import BenchData
from bert_jax.tools.bench.timing import TimedCall, repeated
from bert_jax.training import sharding, train_state
from bert_jax.training.train_step import StepReport, make_eval_step, make_gradients, make_program, prepare_rows


class Own:
  """The step of a config on some rows, compiled and ready. The state lives on as steps are taken.

  Attributes:
    config: resolved.
    mesh: the devices.
    compile_seconds: that compiling took, or reading from the compile cache.
    memory_bytes: of one device, as the compiler sees it: state, batch, temporaries.
    params: the parameters before the first step, on the host.
    steps, tokens: taken by `run` so far, and the real tokens in them.
    seconds, wait_seconds: that they took; that of these were spent on fetching rows and handing them to the device.
  """

  def __init__(self, config: ml_collections.ConfigDict, data: BenchData):
    self.config, self._data = data.resolved(config), data
    self.mesh = sharding.make_mesh(self.config)
    self._objective = data.objective(self.config, jax.default_backend())
    program = make_program(self._objective, self.config, self.mesh)
    self.steps = self.tokens = 0
    self.seconds = self.wait_seconds = 0.0
    self._stream = data.stream(self.config)
    self._batch = self._fetch()
    began = time.perf_counter()
    self._step = program.train_step.lower(program.state, self._batch).compile()
    self.compile_seconds = time.perf_counter() - began
    memory = self._step.memory_analysis()
    self.memory_bytes = (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      - memory.alias_size_in_bytes
      + memory.temp_size_in_bytes
    )
    self._state = train_state.fresh(self._objective.init, program.optimizer, program.state, self.config.seed)
    self.params = jax.device_get(self._state.params)

  def first_step(self) -> tuple[float, float]:
    """Takes the step on the first batch of the rows: (loss, norm of the gradients), before any update."""
    self._state, report = self._step(self._state, self._batch)
    return _loss(report), float(report.grad_norm)

  def run(self, steps: int) -> int:
    """Takes steps as the training loop does, each on the next rows. Returns the real tokens in them."""
    began, counts = time.perf_counter(), []
    for _ in range(steps):
      self._batch = self._fetch()
      self._state, report = self._step(self._state, self._batch)
      counts.append(report.tokens)
    jax.block_until_ready(self._state)
    tokens = int(sum(jax.device_get(counts)))
    self.steps, self.tokens, self.seconds = (
      self.steps + steps,
      self.tokens + tokens,
      self.seconds + time.perf_counter() - began,
    )
    return tokens

  def _fetch(self) -> dict[str, jax.Array]:
    began = time.perf_counter()
    batch = sharding.put_batch(next(self._stream), self.mesh)
    self.wait_seconds += time.perf_counter() - began
    return batch

  def parts(self) -> dict[str, TimedCall]:
    """Runs for timing.in_turn, of parts of the step on one batch: "forward" (masking to loss), "gradients" (that and
    backward).
    """
    settings = {"seed": self.config.seed, "mesh": self.mesh}
    forward = jax.jit(make_eval_step(self._objective, **settings))
    gradients = jax.jit(make_gradients(self._objective, microbatches=self.config.optimizer.microbatches, **settings))
    # The state moves on between two turns: it is asked for anew with every call.
    return {
      "forward": repeated(lambda: forward(self._state.params, self._batch)),
      "gradients": repeated(lambda: gradients(self._state.params, self._state.step, self._batch)),
    }

  def masked_batches(self, count: int) -> list[Any]:
    """What the objective makes of the first batches of the rows, on the host: inputs, and the tokens to predict."""
    prepare = jax.jit(lambda batch: prepare_rows(self._objective, self.config.seed, batch, 0)[0][0])
    return [jax.device_get(prepare(batch)) for batch in self._data.first(self.config, count)]

  def flops_per_token(self) -> float:
    """Model FLOPs of training on one real token, see flops.py."""
    return flops.train_flops_per_token(
      configs.encoder_of(self.config),
      sequence_length=self._data.facts.sequence_length,
      predicted_share=self.config.masking.rate,
    )

  def close(self) -> None:
    """Frees the state, the program and the stream."""
    self._stream.close()
    del self._state, self._step, self._batch, self.params


def _loss(report: StepReport) -> float:
  """The loss that was minimised: the sum of the means of its terms."""
  return sum(value for name, value in divide(jax.device_get(report.sums)).items() if name.endswith("_loss"))
