"""Shapes, hosts and names of TPU slices, as Google's pages list them."""

import pytest

from distill.chips import CHIPS
from distill.pods.topology import Cluster, Slice, read_topology

BOOKED = {name: chip.booking.shapes for name, chip in CHIPS.items() if chip.booking is not None}

# topology, chips, hosts, chips of a host, JAX devices, accelerator type, machine type
LISTED = [
    ("v4:2x2x1", 4, 1, 4, 4, "v4-8", "ct4p-hightpu-4t"),
    ("v4:4x4x8", 128, 32, 4, 128, "v4-256", "ct4p-hightpu-4t"),
    ("v4:8x16x16", 2048, 512, 4, 2048, "v4-4096", "ct4p-hightpu-4t"),
    ("v5e:1x1", 1, 1, 1, 1, "v5litepod-1", "ct5lp-hightpu-1t"),
    ("v5e:2x2", 4, 1, 4, 4, "v5litepod-4", "ct5lp-hightpu-4t"),
    ("v5e:2x4", 8, 1, 8, 8, "v5litepod-8", "ct5lp-hightpu-8t"),
    ("v5e:16x16", 256, 64, 4, 256, "v5litepod-256", "ct5lp-hightpu-4t"),
    ("v5p:2x2x2", 8, 2, 4, 8, "v5p-16", "ct5p-hightpu-4t"),
    ("v5p:8x8x8", 512, 128, 4, 512, "v5p-1024", "ct5p-hightpu-4t"),
    ("v5p:16x16x24", 6144, 1536, 4, 6144, "v5p-12288", "ct5p-hightpu-4t"),
    ("v6e:4x8", 32, 8, 4, 32, "v6e-32", "ct6e-standard-4t"),
    ("v6e:2x4", 8, 1, 8, 8, "v6e-8", "ct6e-standard-8t"),
    ("tpu7x:4x4x4", 64, 16, 4, 128, "tpu7x-128", "tpu7x-standard-4t"),
]


@pytest.mark.parametrize(("text", "chips", "hosts", "each", "devices", "accelerator", "machine"), LISTED)
def test_a_slice_is_as_it_is_listed(text, chips, hosts, each, devices, accelerator, machine):
    on = read_topology(text)
    assert isinstance(on, Slice)
    assert (on.chips, on.hosts, on.per_host, on.devices) == (chips, hosts, each, devices)
    assert (on.accelerator, on.machine) == (accelerator, machine) and str(on) == text


@pytest.mark.parametrize(("name", "most"), [("v4", 4096), ("v5e", 256), ("v5p", 6144), ("v6e", 256), ("tpu7x", 9216)])
def test_the_largest_slice_of_a_generation(name, most):
    assert max(Slice(CHIPS[name], shape).chips for shape in BOOKED[name]) == most


def test_every_slice_is_whole_hosts():
    for name, shapes in BOOKED.items():
        assert len(set(shapes)) == len(shapes)
        for shape in shapes:
            on = Slice(CHIPS[name], shape)
            assert on.hosts * on.per_host == on.chips, on


def test_hosts_of_gpus():
    on = read_topology("h100:4x8")
    assert on == Cluster("h100", 4, 8) and on.devices == 32


@pytest.mark.parametrize(("text", "said"), [
    ("v5p:8x8x9", r"no such slice of v5p: sides are multiples of 4.* at most 6144 chips; nearest are .*v5p:8x8x8"),
    ("v5p:16x16x28", r"at most 6144 chips; nearest are .*v5p:16x16x24"),
    ("v5e:4x5", r"no such slice of v5e: it has 2 sides, and it has at most 256 chips; nearest are .*v5e:4x4"),
    ("v5e:4x4x4", r"nearest are .*v5e:8x8"),
    ("v4:8x4x4", r"sides are written the shortest first: v4:4x4x8"),
    ("v7:2x2", r"TPU generations that are known here are v4, v5e, v5p, v6e, tpu7x"),
    ("h100:8", r"h100 is no TPU, and GPUs are hosts x GPUs of a host: h100:4x8"),
    ("h100:0x8", r"h100 is no TPU"),
    ("v5p", r"write v5p:8x8x8 \(TPU chips along each axis\) or h100:4x8"),
    ("v5p-1024", r"write v5p:8x8x8"),
])  # fmt: skip
def test_what_cannot_be_booked_is_refused_with_what_can(text, said):
    with pytest.raises(ValueError, match=f"--topology {text}: .*{said}"):
        read_topology(text)
