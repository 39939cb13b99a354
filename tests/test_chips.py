"""chips.py: topologies by name, and chips by what JAX calls them."""

import pytest

from bert_jax import flops
from bert_jax.chips import CHIPS, chip_of, parse_topology
from bert_jax.errors import UserError


@pytest.mark.parametrize(
    "name, chips, hosts, kind",
    [("v5e:16x16", 256, 64, "v5litepod-256"), ("v5p:4x4x4", 64, 16, "v5p-128"), ("v5e:16x16*2", 512, 128, "v5litepod-256"),
     ("v5e:1x1", 1, 1, "v5litepod-1"), ("h100:8", 8, 1, ""), ("H200:16", 16, 2, "")],
)  # fmt: skip
def test_a_topology_is_read(name, chips, hosts, kind):
  topology = parse_topology(name)
  assert (topology.chips, topology.hosts, topology.accelerator_type) == (chips, hosts, kind)


@pytest.mark.parametrize(
    "name, said",
    [("v9:4x4", "unknown chip 'v9'; known: .*v5e:.*16x16.*h100:COUNT"), ("v5e:3x3", "no such slice; known: v5e:.*4x4"), ("v5e", "expected CHIP:XxY"),
     ("h100:2x4", "no such slice; known: h100:COUNT"), ("v5e:4x4*0", "expected CHIP:XxY"), ("v5p:4x4", "no such slice")],
)  # fmt: skip
def test_what_does_not_exist_is_refused_with_what_does(name, said):
  with pytest.raises(UserError, match=said):
    parse_topology(name)


def test_chips_are_told_by_the_longest_name_that_fits():
  assert chip_of("TPU v5 lite").name == "v5e" and chip_of("TPU v5").name == "v5p" and chip_of("TPU v5p").name == "v5p"
  assert chip_of("NVIDIA A100-SXM4-40GB").name == "a100-40gb" and chip_of("NVIDIA A100-SXM4-80GB").name == "a100-80gb"
  assert chip_of("cpu") is None and flops.peak_flops("cpu") is None
  assert flops.peak_flops("NVIDIA H200") == CHIPS["h200"].flops == 989e12
