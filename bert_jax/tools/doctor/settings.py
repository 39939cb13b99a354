"""What a run would refuse in its config by itself, whatever the machine."""

import math

import jax

from bert_jax import config as configs
from bert_jax.errors import UserError
from bert_jax.io import storage
from bert_jax.tools.doctor import row
from bert_jax.tools.doctor.context import Context
from bert_jax.tools.doctor.row import Row
from bert_jax.training import optimizer as optimizers
from bert_jax.training.optimizer import last_step


def run_settings(context: Context) -> Row:
  """The model, the schedule, and what the run starts from. Its parameters are not read here."""
  config = context.config
  configs.encoder_of(config)
  optimizers.make_schedule(config)
  source = config.init_from
  if source and not storage.folder(source).is_dir():
    raise UserError(
      f"init_from={source}: there is no such folder; give a run folder or a Hugging Face folder that every process "
      "can read"
    )
  if config.init_optimizer and not (storage.folder(source) / "checkpoints").is_dir():
    raise UserError(
      f"init_optimizer needs a run folder with checkpoints, {source} has none; give one, or set init_optimizer=False"
    )
  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(context.state.params))
  begins = f", starting from {source}" if source else ""
  length = f"{last_step(config):,} steps of {config.data.batch_size:,} rows"
  return row.ok(f"{config.model.preset}, {parameters / 1e6:,.1f} M parameters, {length}{begins}")
