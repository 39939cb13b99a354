"""What the accelerators can do, and the TPU topologies that are for rent.

Peaks are what the vendors publish: dense bfloat16, decimal bandwidths. Each row
names where its figures were read. Nothing here was measured by us, and clouds
differ in the network between hosts: that is what to check before renting.
"""

import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from bert_jax.errors import UserError

GIB = 2**30


class Chip(NamedTuple):
  """One accelerator, as its vendor describes it.

  Attributes:
    name: as it stands in topologies, e.g. "v5e".
    device_kinds: what JAX calls it (`device.device_kind`). A PCIe form of the same peak is among them;
      forms of another peak (H100 PCIe, a part of a GPU) are not.
    flops: dense bfloat16 peak, FLOP/s.
    hbm_bytes: memory.
    hbm_bandwidth: bytes/s.
    link_bandwidth: of one link to a neighbour, bytes/s in one direction. GPUs: all NVLinks of one together.
    network_bandwidth: of the data centre's network, per chip, bytes/s in one direction.
    dimensions: of the torus of links; 0 for GPUs, whose hosts have a switch.
    chips_per_host: in a slice of several hosts.
    source: where these figures were read, November 2026.
  """

  name: str
  device_kinds: tuple[str, ...]
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


_TPU = "docs.cloud.google.com/tpu/docs"
_BOOK = "jax-ml.github.io/scaling-book"  # Austin et al., "How to Scale Your Model"
_DGX = "docs.nvidia.com/dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai"
# TPU: Google gives the links of a chip in both directions together: 4 of them (2 dimensions) or 6 (3 dimensions), and
# the network of v5e and v6e by the pod of 256 chips. Of a v4 it gives what all links carry in an all-reduce: 1.1 PB/s
# / 4096 / 6. GPU: the SXM form, memory as sold (GB); NVIDIA gives peaks with sparsity, which is half of them without,
# and NVLink in both directions together; one network card per GPU as in NVIDIA's DGX systems.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", ("TPU v4",), 275e12, 32 * GIB, 1200e9, 45e9, 6.25e9, 3, 4, f"{_TPU}/v4; network: {_BOOK}/tpus"),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 819e9, 50e9, 3.1e9, 2, 4, f"{_TPU}/v5e"),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * GIB, 2765e9, 100e9, 6.25e9, 3, 4, f"{_TPU}/v5p"),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, 1638e9, 100e9, 12.5e9, 2, 4, f"{_TPU}/v6e"),
    Chip(
      "a100-40gb",
      ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
      312e12,
      40e9,
      1555e9,
      300e9,
      25e9,
      0,
      8,
      f"glennklockwood.com/garden/processors/A100 (after NVIDIA's datasheet); NVLink: {_BOOK}/gpus; network: system "
      "specifications of the DGX A100",
    ),
    Chip(
      "a100-80gb",
      ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
      312e12,
      80e9,
      2039e9,
      300e9,
      25e9,
      0,
      8,
      f"glennklockwood.com/garden/processors/A100 (after NVIDIA's datasheet); NVLink: {_BOOK}/gpus; network: system "
      "specifications of the DGX A100",
    ),
    Chip(
      "h100",
      ("NVIDIA H100 80GB HBM3",),
      989e12,
      80e9,
      3350e9,
      450e9,
      50e9,
      0,
      8,
      f"archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html (NVIDIA's table); network: {_DGX}",
    ),
    Chip(
      "h200",
      ("NVIDIA H200",),
      989e12,
      141e9,
      4800e9,
      450e9,
      50e9,
      0,
      8,
      f"{_BOOK}/gpus; NVLink: github.com/mlcommons/inference_results_v4.1, H200-SXM-141GBx8; network: {_DGX}",
    ),
    Chip(
      "b200",
      ("NVIDIA B200",),
      2250e12,
      180e9,
      8000e9,
      900e9,
      50e9,
      0,
      8,
      f"{_BOOK}/gpus; memory, NVLink, network: docs.nvidia.com/dgx/dgxb200-user-guide",
    ),
  )
}

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
# What can be rented as one slice. Sources: the pages of each TPU named above.
SHAPES = {"v4": (*_CUBES, "8x8x12"), "v5e": _FLAT, "v5p": (*_CUBES, "16x16x16", "16x16x24"), "v6e": _FLAT}


# As PCI knows them: those that jax 0.10.2 knows too, in jax/_src/hardware_utils.py. Google's network cards and disks
# have the same vendor.
_GOOGLE, _TPU_DEVICES = "0x1ae0", ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")


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
    """What one slice is called where it is rented, e.g. "v5litepod-256"; "" for GPUs.

    v4 and v5p count cores, two per chip.
    """
    count = math.prod(self.shape)
    names = {"v4": f"v4-{2 * count}", "v5e": f"v5litepod-{count}", "v5p": f"v5p-{2 * count}", "v6e": f"v6e-{count}"}
    return names.get(self.chip.name, "")

  def wraps(self, dimension: int) -> bool:
    """Whether the links of a dimension of the torus close to a ring: 16 chips of a v5e or v6e, whole cubes of 4 of a v4
    or v5p.

    Source: How to Scale Your Model, part 2 (jax-ml.github.io/scaling-book/tpus).
    """
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
  if not all(number.isdigit() and int(number) for number in numbers) or (
    star and not (slices.isdigit() and int(slices))
  ):
    raise UserError(
      f"--topology={name}: expected {'CHIP:XxY or CHIP:XxY*SLICES' if chip.is_tpu else 'CHIP:COUNT'}; "
      f"{_known(chip_name)}"
    )
  if chip.is_tpu and shape not in SHAPES[chip_name] or not chip.is_tpu and (len(numbers) > 1 or star):
    raise UserError(f"--topology={name}: there is no such slice; {_known(chip_name)}")
  return Topology(name, chip, tuple(map(int, numbers)), int(slices or 1))


def _known(only: str = "") -> str:
  tpus = [f"{name}:{{{','.join(shapes)}}}" for name, shapes in SHAPES.items() if only in ("", name)]
  gpus = [f"{chip.name}:COUNT" for chip in CHIPS.values() if not chip.is_tpu and only in ("", chip.name)]
  return f"known: {', '.join(tpus + gpus)}" + ("; TPU slices may be joined: v5e:16x16*2" if tpus else "")


def tpu_chips_here(root: pathlib.Path = pathlib.Path("/")) -> int:
  """How many TPU chips are built into the machine whose /sys lies in `root`."""
  ids = lambda vendor: (vendor.read_text().strip(), vendor.with_name("device").read_text().strip())
  found = map(ids, (root / "sys/bus/pci/devices").glob("*/vendor"))
  return sum(vendor == _GOOGLE and device in _TPU_DEVICES for vendor, device in found)


def chip_of(device_kind: str) -> Chip | None:
  """The chip that JAX calls so, or None where it is not known here."""
  return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)


def peak_flops(device_kind: str) -> float | None:
  """Peak of one chip in FLOP/s, or None where it is not known (no MFU is reported then)."""
  chip = chip_of(device_kind)
  return chip.flops if chip else None


def peak_flops_of(devices: Iterable[Any]) -> float | None:
  """Peak of devices (jax.Device) of one kind together, in FLOP/s, or None where that kind is not known."""
  devices = list(devices)
  peak = peak_flops(devices[0].device_kind)
  return peak * len(devices) if peak else None
