import importlib.util

import pytest

from distill.chips import CHIPS
from distill.plan.topology import PLUGINS, Topology


def test_a_torus_and_hosts_are_read_from_their_names():
    torus, hosts = Topology.parse("v5p:8x8x8"), Topology.parse("H100:4x8")
    assert (torus.chips, str(torus), torus.rings) == (512, "v5p:8x8x8", (True, True, True))
    assert (hosts.chips, str(hosts), hosts.sizes) == (32, "h100:4x8", (4, 8))


def test_an_axis_that_is_too_short_to_close_is_a_line():
    assert Topology.parse("v5e:4x16").rings == (False, True)


def test_a_slice_of_less_than_a_cube_has_no_ring():
    assert Topology.parse("v5p:2x4x4").rings == (False, False, False)
    assert Topology.parse("v5p:4x4x20").rings == (True, True, True)


def test_a_chip_of_two_cores_is_two_devices_with_half_of_everything():
    one = Topology.parse("tpu7x:4x4x4")
    assert 2 * one.flops == one.chip.flops and 2 * one.memory == one.chip.memory
    assert 2 * one.bandwidth == one.chip.bandwidth


@pytest.mark.parametrize(("text", "message"), [
    ("v5p", "--topology 'v5p' is no chip and its layout; write v5p:8x8x8, v5e:4x4 or h100:4x8"),
    ("v5p:8,8,8", "is no chip and its layout"),
    ("v9:4x4", "there is no chip 'v9'; there are v4, v5e, v5p, v6e, tpu7x, h100"),
    ("v5p:8x8", "v5p needs 3 numbers of at least 1, the axes of its torus; it has .8, 8."),
    ("h100:32", "h100 needs 2 numbers of at least 1, hosts and chips of each; it has .32,."),
    ("v5e:0x4", "v5e needs 2 numbers of at least 1"),
])  # fmt: skip
def test_what_is_no_topology_is_refused_with_what_is(text, message):
    with pytest.raises(ValueError, match=message):
        Topology.parse(text)


@pytest.mark.parametrize("name", ["v5e:4x4", "h100:4x8"])
def test_without_its_compiler_the_extra_to_install_is_named(name):
    topology = Topology.parse(name)
    platform = topology.chip.platform
    if any(importlib.util.find_spec(plugin) for plugin in PLUGINS[platform]):
        pytest.skip("its compiler is installed")
    with pytest.raises(ValueError, match=rf"{name} is compiled for by .*pip install .*\[{platform}\]"):
        topology.devices()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu)")
@pytest.mark.parametrize("name", [name for name, chip in CHIPS.items() if chip.platform == "tpu"])
def test_the_compiler_describes_as_many_devices_of_a_chip_as_are_written_down(name):
    topology = Topology.parse(f"{name}:{'x'.join(['2', '2', '1'][: CHIPS[name].torus])}")
    assert len(topology.devices()) == 4 * topology.chip.devices


def test_no_chip_says_more_of_its_torus_than_it_has():
    for chip in CHIPS.values():
        assert chip.torus in (0, 2, 3) and (chip.torus > 0) == (chip.platform == "tpu")
        assert (chip.network > 0.0) == (chip.torus == 0)
