"""What the accelerators can do, and the TPU topologies that are for rent.

Peaks are what the vendors publish: dense bfloat16, decimal bandwidths. Nothing
here was measured by us, and not every figure was looked up: those marked
QUOTED are as they are commonly quoted. Check them before you rely on them.
"""

import math
from typing import NamedTuple

from bert_jax.errors import UserError

GIB = 2**30
_TPU_DOCS = "docs.cloud.google.com/tpu/docs"
QUOTED = "commonly quoted, not looked up"


class Chip(NamedTuple):
  """One accelerator, as its vendor describes it.

  Attributes:
    name: as it stands in topologies, e.g. "v5e".
    device_kind: what the kind that JAX reports (`device.device_kind`) begins with.
    flops: dense bfloat16 peak, FLOP/s.
    hbm_bytes: memory.
    hbm_bandwidth: bytes/s.
    link_bandwidth: of one link to a neighbour, bytes/s in one direction. GPUs: all NVLinks together.
    network_bandwidth: of the data centre's network, per chip, bytes/s in one direction.
    dimensions: of the torus of links; 0 for GPUs, whose hosts have a switch.
    chips_per_host: in a slice of several hosts.
    source: of these numbers.
  """

  name: str
  device_kind: str
  flops: float
  hbm_bytes: float
  hbm_bandwidth: float
  link_bandwidth: float
  network_bandwidth: float
  dimensions: int
  chips_per_host: int
  source: str

  @property
  def is_tpu(self) -> bool:
    """Whether there is a compiler for it here."""
    return self.dimensions > 0


# TPU: Google gives the links of a chip in both directions together: 4 of them (2 dimensions) or 6 (3 dimensions).
# The network per chip: v5e and v4 from the network cards of a host (v5e: 2 x 100 Gbit/s for 8 chips; v4: 100 Gbit/s for
# 4 chips). GPUs: memory in GB as sold; NVLink in both directions together, halved here; one 400 Gbit/s card (A100: 200)
# per GPU, as in NVIDIA's DGX systems of that generation. Clouds differ: the network is what to check before renting.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 275e12, 32 * GIB, 1200e9, 50e9, 3.1e9, 3, 4, f"{_TPU_DOCS}/v4; links and network: {QUOTED}"),
        Chip("v5e", "TPU v5 lite", 197e12, 16 * GIB, 819e9, 50e9, 3.1e9, 2, 4, f"{_TPU_DOCS}/v5e"),
        Chip("v5p", "TPU v5", 459e12, 95 * GIB, 2765e9, 100e9, 6.2e9, 3, 4, f"{_TPU_DOCS}/v5p"),
        Chip("v6e", "TPU v6 lite", 918e12, 32 * GIB, 1638e9, 100e9, 12.5e9, 2, 4, f"{_TPU_DOCS}/v6e"),
        Chip("a100-40gb", "NVIDIA A100-SXM4-40GB", 312e12, 40e9, 1555e9, 300e9, 25e9, 0, 8, QUOTED),
        Chip("a100-80gb", "NVIDIA A100", 312e12, 80e9, 2039e9, 300e9, 25e9, 0, 8, QUOTED),
        Chip("h100", "NVIDIA H100", 989e12, 80e9, 3350e9, 450e9, 50e9, 0, 8, QUOTED),
        Chip("h200", "NVIDIA H200", 989e12, 141e9, 4800e9, 450e9, 50e9, 0, 8, QUOTED),
        Chip("b200", "NVIDIA B200", 2250e12, 180e9, 7700e9, 900e9, 50e9, 0, 8, QUOTED),
    )
}

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
# What can be rented as one slice. Sources: the pages of each TPU named above.
SHAPES = {"v4": (*_CUBES, "8x8x12"), "v5e": _FLAT, "v5p": (*_CUBES, "16x16x16", "16x16x24"), "v6e": _FLAT}


class Topology(NamedTuple):
  """The machines of a run.

  Attributes:
    name: as it was asked for, e.g. "v5e:16x16*2".
    chip: what they are made of.
    shape: of one slice, e.g. (16, 16); (8,) for eight GPUs.
    slices: slices of that shape, joined by the data centre's network.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]
  slices: int

  @property
  def chips(self) -> int:
    """All of them."""
    return math.prod(self.shape) * self.slices

  @property
  def hosts(self) -> int:
    """Machines, as a rule; some clouds put another number of chips into one."""
    return max(1, -(-math.prod(self.shape) // self.chip.chips_per_host)) * self.slices

  @property
  def slice_name(self) -> str:
    """Name of one slice, as the compiler knows it: "v5e:16x16"."""
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

  @property
  def accelerator_type(self) -> str:
    """What one slice is called where it is rented, e.g. "v5litepod-256"; "" for GPUs. v4 and v5p count cores, two per chip."""
    count = math.prod(self.shape)
    names = {"v4": f"v4-{2 * count}", "v5e": f"v5litepod-{count}", "v5p": f"v5p-{2 * count}", "v6e": f"v6e-{count}"}
    return names.get(self.chip.name, "")

  def wraps(self, dimension: int) -> bool:
    """Whether the links of a dimension of the torus close to a ring. Assumed: 16 chips of a v5e or v6e, whole cubes of 4 of a v4 or v5p."""
    size = self.shape[dimension]
    return size == 16 if self.chip.dimensions == 2 else min(self.shape) >= 4 and size % 4 == 0


def parse_topology(name: str) -> Topology:
  """Reads "v5e:16x16", "v5e:16x16*2" (two slices) or "h100:8".

  Raises:
    UserError: there is no such thing; the known ones are listed.
  """
  chip_name, _, rest = name.strip().lower().partition(":")
  shape, star, slices = rest.partition("*")
  if chip_name not in CHIPS:
    raise UserError(f"--topology={name}: unknown chip {chip_name!r}; {_known()}")
  chip = CHIPS[chip_name]
  numbers = shape.split("x")
  if not all(number.isdigit() and int(number) for number in numbers) or (star and not (slices.isdigit() and int(slices))):
    raise UserError(f"--topology={name}: expected {'CHIP:XxY or CHIP:XxY*SLICES' if chip.is_tpu else 'CHIP:COUNT'}; {_known(chip_name)}")
  if chip.is_tpu and shape not in SHAPES[chip_name] or not chip.is_tpu and (len(numbers) > 1 or star):
    raise UserError(f"--topology={name}: there is no such slice; {_known(chip_name)}")
  return Topology(name, chip, tuple(map(int, numbers)), int(slices or 1))


def _known(only: str = "") -> str:
  tpus = [f"{name}:{{{','.join(shapes)}}}" for name, shapes in SHAPES.items() if only in ("", name)]
  gpus = [f"{chip.name}:COUNT" for chip in CHIPS.values() if not chip.is_tpu and only in ("", chip.name)]
  return f"known: {', '.join(tpus + gpus)}" + ("; TPU slices may be joined: v5e:16x16*2" if tpus else "")


def chip_of(device_kind: str) -> Chip | None:
  """The chip that JAX calls so, or None where it is not known here."""
  fitting = [chip for chip in CHIPS.values() if device_kind.startswith(chip.device_kind)]
  return max(fitting, key=lambda chip: len(chip.device_kind), default=None)
