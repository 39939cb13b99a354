"""chips.py: topologies by name, and chips by what JAX calls them."""

import pytest

from bert_jax.cluster import chips
from bert_jax.cluster.chips import CHIPS, chip_of, parse_topology
from bert_jax.errors import UserError


@pytest.mark.parametrize(
  "name, chips, hosts, kind",
  [
    ("v5e:16x16", 256, 64, "v5litepod-256"),
    ("v5p:4x4x4", 64, 16, "v5p-128"),
    ("v5e:16x16*2", 512, 128, "v5litepod-256"),
    ("v5e:1x1", 1, 1, "v5litepod-1"),
    ("h100:8", 8, 1, ""),
    ("H200:16", 16, 2, ""),
  ],
)
def test_a_topology_is_read(name, chips, hosts, kind):
  topology = parse_topology(name)
  assert (topology.chips, topology.hosts, topology.accelerator_type) == (chips, hosts, kind)


@pytest.mark.parametrize(
  "name, said",
  [
    ("v9:4x4", "unknown chip 'v9'; known: .*v5e:.*16x16.*h100:COUNT"),
    ("v5e:3x3", "no such slice; known: v5e:.*4x4"),
    ("v5e", "expected CHIP:XxY"),
    ("h100:2x4", "no such slice; known: h100:COUNT"),
    ("v5e:4x4*0", "expected CHIP:XxY"),
    ("v5p:4x4", "no such slice"),
  ],
)
def test_what_does_not_exist_is_refused_with_what_does(name, said):
  with pytest.raises(UserError, match=said):
    parse_topology(name)


def test_chips_are_told_by_what_jax_calls_them_and_no_other_form_of_them():
  assert chip_of("TPU v5 lite").name == "v5e" and chip_of("TPU v5").name == "v5p" and chip_of("TPU v5p").name == "v5p"
  assert chip_of("NVIDIA A100-SXM4-40GB").name == "a100-40gb" and chip_of("NVIDIA A100-SXM4-80GB").name == "a100-80gb"
  assert chips.peak_flops("NVIDIA H200") == CHIPS["h200"].flops == 989e12
  for other in ("cpu", "TPU v4 lite", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H200 NVL"):
    assert chip_of(other) is None and chips.peak_flops(other) is None


def test_every_chip_names_where_its_figures_were_read_and_no_kind_is_two_chips():
  assert all(any(site in chip.source for site in (".com/", ".io/", ".jp/")) for chip in CHIPS.values())
  kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
  assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize(
  "name, wraps",
  [
    ("v5e:16x16", [True, True]),
    ("v5e:8x16", [False, True]),
    ("v6e:8x8", [False, False]),
    ("v5p:4x4x4", [True] * 3),
    ("v5p:4x4x8", [True] * 3),
    ("v4:2x4x4", [False] * 3),
  ],
)
def test_a_dimension_closes_to_a_ring_when_it_is_a_whole_side_of_the_pod_or_of_whole_cubes(name, wraps):
  topology = parse_topology(name)
  assert [topology.wraps(dimension) for dimension in range(len(topology.shape))] == wraps


def test_tpu_chips_are_told_from_googles_network_cards_and_disks(tmp_path):
  def device(number, vendor, kind):
    folder = tmp_path / f"sys/bus/pci/devices/0000:00:0{number}.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{kind}\n")

  for number, (vendor, kind) in enumerate([("0x1ae0", "0x0042"), ("0x1ae0", "0x001f"), ("0x10de", "0x0063")]):
    device(number, vendor, kind)
  assert chips.tpu_chips_here(tmp_path) == 0
  for number in (5, 6):
    device(number, "0x1ae0", "0x0063")
  assert chips.tpu_chips_here(tmp_path) == 2
