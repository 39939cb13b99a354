"""What a run takes on a pod that is not here: the step compiled for it (ahead.py), counted, and told.

For TPUs the real training step is compiled by the TPU compiler. For GPUs there
is none to take along, so their figures come from a formula and say so.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections

from bert_jax import config as configs
from bert_jax.cluster.chips import GIB, Topology
from bert_jax.errors import UserError
from bert_jax.models import flops
from bert_jax.models.encoder import REMAT
from bert_jax.runs.build import attention_of
from bert_jax.tools.plan import ahead, estimate
from bert_jax.tools.plan.data_facts import Facts, facts_of, resolved
from bert_jax.training import sharding
from bert_jax.training.optimizer import last_step

MICROBATCHES = (1, 2, 4, 8, 16)  # that a sweep tries


class Plan(NamedTuple):
  """A run on a topology.

  Attributes:
    config: resolved. topology, mesh, facts: what was planned.
    compiled: by the compiler; None where a formula had to do, or the step was not compiled.
    failure: why it was not; None else.
    formula: by formula.
    steps: updates of the run.
  """

  config: ml_collections.ConfigDict
  topology: Topology
  mesh: dict[str, int]
  facts: Facts
  compiled: ahead.Compiled | None
  failure: ahead.Failure | None
  formula: estimate.Formula
  steps: int

  @property
  def needed_bytes(self) -> float:
    """Memory that a chip would have to have."""
    if self.compiled:
      return self.compiled.needed_bytes
    return (self.failure.needed_bytes if self.failure else 0) or self.formula.needed_bytes

  @property
  def fits(self) -> bool:
    """Whether a chip has it."""
    return self.failure is None and self.needed_bytes <= self.hbm_bytes

  @property
  def hbm_bytes(self) -> float:
    """Memory of a chip: where the step does not fit, what the compiler says that programs may use of it."""
    return (self.failure.hbm_bytes if self.failure else 0) or self.topology.chip.hbm_bytes

  @property
  def times(self) -> estimate.Times:
    """Least seconds of a step."""
    return estimate.times_of_compiled(self.compiled, self.topology) if self.compiled else self.formula.times

  @property
  def tokens(self) -> float:
    """Real tokens in a step."""
    return self.config.data.batch_size * self.facts.tokens_per_row

  @property
  def model_flops(self) -> float:
    """Of a step over all chips."""
    return _model_flops(self.config, self.facts)

  def mfu(self, seconds: float) -> float:
    """Model FLOPs utilisation of a step of so many seconds."""
    return self.model_flops / (seconds * self.topology.chips * self.topology.chip.flops)

  def chip_hours(self, seconds: float) -> float:
    """Of the run, if its steps take so many seconds."""
    return self.steps * seconds * self.topology.chips / 3600


class Sweep(NamedTuple):
  """Plans to choose from.

  Attributes:
    config: as it was given.
    plans: the fastest that fits first; at least one.
    considered: combinations of mesh, microbatches and remat that divide chips, heads and batch.
    worthwhile: of these, those that do not save memory where there is enough.
  """

  config: ml_collections.ConfigDict
  plans: list[Plan]
  considered: int
  worthwhile: int


def make_plan(config: ml_collections.ConfigDict, topology: Topology, *, steps: int | None = None) -> Plan:
  """Plans a run as its config says.

  Raises:
    UserError: the mesh or the batch does not fit the topology; libtpu is not installed.
  """
  facts = facts_of(config)
  config = resolved(config, facts.data)
  mesh = _mesh(config, topology)
  compiled = failure = None
  if topology.chip.is_tpu:
    (found,) = ahead.compile_ahead([_request(config, topology, facts)])
    compiled, failure = (found, None) if isinstance(found, ahead.Compiled) else (None, found)
    if failure and failure.kind != "memory":
      raise UserError(f"--topology={topology.name}: {failure.message}")
  return _plan(config, topology, mesh, facts, compiled, failure, steps)


def sweep(config: ml_collections.ConfigDict, topology: Topology, *, compiled: int, steps: int | None = None) -> Sweep:
  """Plans for the sensible meshes, microbatches and remat policies.

  More microbatches, and recomputing, save memory and nothing else: they are tried on a mesh only where less of both may
  not fit by formula.

  Args:
    config, topology, steps: as for make_plan.
    compiled: how many are compiled (TPUs) or shown (GPUs): the config as it is, and the best by formula.

  Raises:
    UserError: no combination divides the devices and the batch.
  """
  facts = facts_of(config)
  candidates = list(_candidates(config, topology, facts, steps))
  if not candidates:
    raise UserError(
      f"data.batch_size={config.data.batch_size} and the model divide over no mesh of {topology.chips} chips; "
      f"make data.batch_size a multiple of {topology.chips}"
    )
  worthwhile = [one for one in candidates if not any(_saves_needlessly(one, other) for other in candidates)]
  # What does not fit by formula is kept behind: the formula may be wrong by a third.
  worthwhile.sort(
    key=lambda plan: (plan.needed_bytes > 1.3 * topology.chip.hbm_bytes, round(plan.times.apart, 5), plan.needed_bytes)
  )
  # The config as it is comes along, for comparison.
  own = [one for one in candidates if _as_in(one, config)]
  plans = own + [one for one in worthwhile if not _as_in(one, config)][: max(0, compiled - len(own))]
  if topology.chip.is_tpu:
    results = ahead.compile_ahead([_request(plan.config, topology, facts) for plan in plans])
    plans = [
      plan._replace(compiled=found) if isinstance(found, ahead.Compiled) else plan._replace(failure=found)
      for plan, found in zip(plans, results)
    ]
  plans.sort(key=lambda plan: (not plan.fits, plan.times.apart if plan.fits else plan.needed_bytes))
  return Sweep(config, plans, len(candidates), len(worthwhile))


def _candidates(
  config: ml_collections.ConfigDict, topology: Topology, facts: Facts, steps: int | None
) -> Iterator[Plan]:
  """Every mesh of powers of two that divides the chips, the model and the batch, with all microbatches and policies,
  by formula.
  """
  chips, encoder = topology.chips, configs.encoder_of(config)
  powers = {2**power for power in range(int(math.log2(chips)) + 1)}
  for fsdp, tensor, microbatches, remat in itertools.product(
    sorted({*powers, chips}), (1, 2, 4, 8), MICROBATCHES, tuple(REMAT)
  ):
    if chips % (fsdp * tensor) or encoder.num_attention_heads % tensor or encoder.hidden_size % fsdp:
      continue
    one = configs.copy_of(config)
    one.mesh.update(data=chips // (fsdp * tensor), fsdp=fsdp, tensor=tensor)
    one.optimizer.microbatches, one.model.remat = microbatches, remat
    if one.data.batch_size % (chips // tensor * microbatches) or one.mesh.data % topology.slices:
      continue
    one = resolved(one, facts.data)
    yield _plan(one, topology, _mesh(one, topology), facts, None, None, steps)


def _as_in(one: Plan, config: ml_collections.ConfigDict) -> bool:
  """Whether a candidate has the mesh (but for an axis at -1), the microbatches and the policy of a config."""
  mesh = all(config.mesh[axis] in (-1, size) for axis, size in one.mesh.items())
  return (
    mesh
    and one.config.optimizer.microbatches == config.optimizer.microbatches
    and one.config.model.remat == config.model.remat
  )


def _saves_needlessly(one: Plan, other: Plan) -> bool:
  """Whether `one` saves more memory than `other`, on the same mesh, which has room to spare (the formula may be wrong
  by a third).
  """
  more = lambda plan: (plan.config.optimizer.microbatches, list(REMAT).index(plan.config.model.remat))
  saves = more(one) != more(other) and all(mine >= its for mine, its in zip(more(one), more(other)))
  return one.mesh == other.mesh and saves and 1.3 * other.needed_bytes <= one.topology.chip.hbm_bytes


def _mesh(config: ml_collections.ConfigDict, topology: Topology) -> dict[str, int]:
  """Sizes of the axes; the same refusals as in a run, from stand-ins for the devices."""
  stand_in = type("StandIn", (), {"platform": "cpu"})
  return dict(
    zip(sharding.MESH_AXES, sharding.make_mesh(config, [stand_in() for _ in range(topology.chips)]).devices.shape)
  )


def _request(config, topology: Topology, facts: Facts) -> ahead.Request:
  return ahead.Request(config, topology.name, facts.data)


def _plan(config, topology, mesh, facts, compiled, failure, steps) -> Plan:
  encoder = configs.encoder_of(config)
  formula = estimate.by_formula(
    config,
    encoder,
    topology,
    mesh,
    parameters=estimate.count_parameters(encoder),
    seq_length=facts.data.seq_length,
    model_flops=_model_flops(config, facts),
  )
  return Plan(config, topology, mesh, facts, compiled, failure, formula, steps or last_step(config))


def _model_flops(config, facts: Facts) -> float:
  per_token = flops.train_flops_per_token(
    configs.encoder_of(config), sequence_length=facts.sequence_length, predicted_share=config.masking.rate
  )
  return per_token * config.data.batch_size * facts.tokens_per_row


def plan_text(plan: Plan) -> str:
  """The plan for people; the verdict first."""
  chip, config = plan.topology.chip, plan.config
  how = (
    "compiled for it"
    if plan.compiled
    else "BY FORMULA, NOT COMPILED"
    if plan.failure is None
    else "not compiled: it does not fit"
  )
  rows = [
    ("verdict", _verdict(plan)),
    ("", ""),
    (
      "topology",
      f"{plan.topology.name}, {_counted(plan.topology.chips, 'chip')} on {_counted(plan.topology.hosts, 'host')}"
      + (f" ({plan.topology.accelerator_type})" if plan.topology.accelerator_type else "")
      + f"; {how}",
    ),
    (
      "mesh",
      ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
      + f"; remat {config.model.remat}; attention {config.model.attention} is "
      + attention_of(config, configs.encoder_of(config), "tpu" if chip.is_tpu else "gpu", plan.facts.data.seq_length),
    ),
    ("batch", _batch(plan)),
    ("data", plan.facts.source),
    ("", ""),
  ]
  encoder = configs.encoder_of(config)
  rows += [("parameters", f"{estimate.count_parameters(encoder) / 1e6:,.1f} M"), *_memory(plan), ("", "")]
  rows.append(
    (
      "model FLOPs",
      f"{_engineering(plan.model_flops)} a step, {_engineering(plan.model_flops / plan.topology.chips)} a chip",
    )
  )
  if plan.compiled:
    rows.append(("compiled FLOPs", f"{_engineering(plan.compiled.flops)} a chip, padding and the optimizer included"))
    rows += _collectives(plan.compiled)
  rows += [("", ""), *_step(plan)] if plan.failure is None else []
  width = max(len(name) for name, _ in rows) + 2
  return "\n".join(f"{name:<{width}}{value}".rstrip() for name, value in rows)


def _verdict(plan: Plan) -> str:
  size = f"{_tenths(plan.needed_bytes / GIB)} of {plan.hbm_bytes / GIB:.1f} GiB a chip"
  if not plan.fits:
    return (
      f"DOES NOT FIT: {'at least ' if plan.failure else ''}{size}. Raise mesh.fsdp, optimizer.microbatches or "
      "model.remat (dots, full), or use more chips; --sweep searches for a configuration that fits"
    )
  rows = _rows(plan)
  small = (
    f"; only {_counted(rows, 'row')} a chip: fewer chips would take fewer chip-hours"
    if rows < 4 and plan.times.bound_by != "compute"
    else ""
  )
  return f"fits: {size}; bound by {plan.times.bound_by}{small}"


def _rows(plan: Plan) -> float:
  """Of a step, on a chip."""
  return plan.config.data.batch_size / (plan.mesh["data"] * plan.mesh["fsdp"])


def _counted(number: float, noun: str) -> str:
  """1 row, 4 rows, 0.5 rows."""
  return f"{number:,g} {noun}" + ("" if number == 1 else "es" if noun.endswith("ch") else "s")


def _batch(plan: Plan) -> str:
  size, microbatches = plan.config.data.batch_size, plan.config.optimizer.microbatches
  return (
    f"{_counted(size, 'row')} of {plan.facts.data.seq_length} = {plan.tokens:,.0f} tokens; "
    f"{_counted(_rows(plan), 'row')} a chip and step, in {_counted(microbatches, 'microbatch')}"
  )


def _memory(plan: Plan) -> list[tuple[str, str]]:
  gib = lambda count: f"{count / GIB:7.2f} GiB"
  form, whole = plan.formula, plan.needed_bytes if plan.compiled else plan.formula.needed_bytes
  if plan.compiled is None:
    rows = [
      ("  parameters", form.parameters),
      ("  moments", form.moments),
      ("  gradients", form.gradients),
      ("  activations", form.activations),
    ]
  else:
    memory, state = plan.compiled.memory, plan.compiled.state
    rows = [
      ("  parameters", state["parameters"]),
      ("  moments", state["moments"]),
      ("  batch, step", max(0, memory["arguments"] - sum(state.values()))),
      ("  gradients, activations", memory["temporaries"]),
      ("  outputs not in place", memory["outputs"] - memory["aliased"]),
      ("  program", memory["code"]),
    ]
  label = "memory a chip" if plan.compiled else "memory a chip (formula)"
  return [
    (label, f"{gib(whole)} of {plan.topology.chip.hbm_bytes / GIB:.1f} GiB"),
    *((name, gib(size)) for name, size in rows),
  ]


def _collectives(compiled: ahead.Compiled) -> list[tuple[str, str]]:
  totals: dict[tuple[str, str], list[float]] = {}
  for one in compiled.traffic:
    axes = (" x ".join(one.axes) if one.axes else "?") + (", between slices" if one.slices > 1 else "")
    total = totals.setdefault((one.kind, axes), [0, 0.0, 0.0])
    total[0] += one.times
    total[1] += one.times * one.bytes
    total[2] += one.times * one.sent_bytes
  rows = [
    (
      f"  {kind}",
      f"over {axes}: {count:,.0f} a step, {size / 2**20:,.1f} MiB, {sent / 2**20:,.1f} MiB sent by each chip",
    )
    for (kind, axes), (count, size, sent) in sorted(totals.items(), key=lambda item: -item[1][2])
  ]
  return [("collectives", "" if rows else "none"), *rows]


def _engineering(number: float) -> str:
  """1.53 P: FLOPs with a prefix."""
  for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
    if number >= size:
      return f"{number / size:,.2f} {prefix}"
  return f"{number:,.0f}"


def _tenths(number: float) -> str:
  return f"{number:,.1f}" if number >= 0.05 else "under 0.1"


def _step(plan: Plan) -> list[tuple[str, str]]:
  times = plan.times
  ms = lambda seconds: f"{1000 * seconds:,.2f} ms"
  rows = [
    (
      "step, at least",
      f"{ms(times.roofline)} if all overlaps, {ms(times.apart)} if nothing does: compute {ms(times.compute)}, "
      f"memory {ms(times.memory)}, network {ms(times.network)}",
    )
  ]
  if plan.compiled:
    rows.append(("step, by the compiler", _own_estimate(plan.compiled, ms)))
  for label, seconds in (("all overlaps", times.roofline), ("nothing overlaps", times.apart)):
    rows.append(
      (
        f"  {label}",
        f"{plan.tokens / seconds:,.0f} tokens/s, MFU {plan.mfu(seconds):.1%}, {_tenths(plan.chip_hours(seconds))} "
        f"chip-hours for {_counted(plan.steps, 'step')} ({_tenths(plan.steps * seconds / 3600)} h)",
      )
    )
  if plan.config.init_optimizer and plan.steps == last_step(plan.config):
    rows.append(
      ("", "the step that init_optimizer starts at is not known here, and steps are counted from 0: give --steps=N")
    )
  return rows


def _own_estimate(compiled: ahead.Compiled, ms) -> str:
  if compiled.own_seconds is not None:
    return f"{ms(compiled.own_seconds)}, by its own cost model, which leaves out what it does not know"
  return "no estimate: its cost model " + (
    "counts the loop over microbatches once" if compiled.microbatches > 1 else "gives no number of seconds"
  )


def sweep_text(found: Sweep) -> str:
  """A table of plans, and the flags of the best."""
  plans, topology = found.plans, found.plans[0].topology
  how = f"{len(plans)} compiled" if topology.chip.is_tpu else f"BY FORMULA, NOT COMPILED; {len(plans)} shown"
  lines = [
    f"{topology.name}: {_counted(found.considered, 'combination')} of mesh, microbatches and remat, "
    f"{found.worthwhile:,} worth a try (the others save memory that is not short)",
    f"{how}: the config as it is (*), and the best by formula",
    "",
    f"  {'data':>5}{'fsdp':>6}{'tensor':>8}{'microbatches':>14}  "
    f"{'remat':<6}{'GiB':>7}{'step, at least':>20}{'tokens/s':>14}{'MFU':>8}  bound by",
  ]
  for plan in plans:
    mesh, times = plan.mesh, plan.times
    step = (
      f"{1000 * times.roofline:.1f} to {1000 * times.apart:.1f} ms"
      if plan.fits
      else "not compiled"
      if plan.failure and plan.failure.kind != "memory"
      else "does not fit"
    )
    line = (
      f"{'*' if _as_in(plan, found.config) else '':<2}{mesh['data']:>5}{mesh['fsdp']:>6}{mesh['tensor']:>8}"
      f"{plan.config.optimizer.microbatches:>14}  {plan.config.model.remat:<6}{plan.needed_bytes / GIB:>7.1f}{step:>20}"
    )
    lines.append(
      line
      + (f"{plan.tokens / times.apart:>14,.0f}{plan.mfu(times.apart):>8.1%}  {times.bound_by}" if plan.fits else "")
    )
  lines += ["", "step: if all overlaps to if nothing does; tokens/s and MFU: if nothing does", ""]
  lines += sorted(
    {f"not compiled: {plan.failure.message}\n" for plan in plans if plan.failure and plan.failure.kind != "memory"}
  )
  first = plans[0]
  if first.fits:
    flags = " ".join(f"--config.mesh.{axis}={size}" for axis, size in first.mesh.items())
    lines.append(
      f"best: {flags} --config.optimizer.microbatches={first.config.optimizer.microbatches} "
      f"--config.model.remat={first.config.model.remat}"
    )
  else:
    lines.append("none of these fits: use more chips or shorter rows")
  return "\n".join(lines)


def plan_json(plan: Plan) -> dict[str, Any]:
  """The plan for programs."""
  times, compiled = plan.times, plan.compiled
  return {
    "topology": plan.topology.name,
    "chips": plan.topology.chips,
    "mesh": plan.mesh,
    "compiled": compiled is not None,
    "fits": plan.fits,
    "bound_by": times.bound_by,
    "needed_bytes": plan.needed_bytes,
    "hbm_bytes": plan.hbm_bytes,
    "microbatches": plan.config.optimizer.microbatches,
    "remat": plan.config.model.remat,
    "memory": compiled.memory | compiled.state if compiled else plan.formula._asdict() | {"times": None},
    "compiled_flops": compiled.flops if compiled else None,
    "compilers_seconds": compiled.own_seconds if compiled else None,
    "collectives": [one._asdict() for one in compiled.traffic] if compiled else None,
    "model_flops": plan.model_flops,
    "tokens_per_step": plan.tokens,
    "seconds": times._asdict() | {"roofline": times.roofline, "apart": times.apart},
    "mfu": {"roofline": plan.mfu(times.roofline), "apart": plan.mfu(times.apart)},
    "steps": plan.steps,
    "chip_hours": {"roofline": plan.chip_hours(times.roofline), "apart": plan.chip_hours(times.apart)},
    "assumptions": plan.facts.source,
    "failure": plan.failure.message if plan.failure else None,
  }
