"""Seconds of collectives, worked out by hand: v5p has links of 90e9 bytes a second one way, h100 450e9 and 50e9."""

import itertools

import numpy as np
import pytest

from distill.plan.collectives import Collective
from distill.plan.links import Links
from distill.plan.rates import Rates
from distill.plan.topology import Topology

BYTES = 180e6


def one(kind: str, groups: list[list[int]], axes: tuple[str, ...] = ("x",), ring: bool = False) -> Collective:
    return Collective(
        kind=kind, axes=axes, size=len(groups[0]), bytes=BYTES, times=1.0, groups=np.array(groups), source="", ring=ring
    )


def links(name: str, **changes) -> Links:
    topology = Topology.parse(name)
    places = np.array(list(itertools.product(*map(range, topology.sizes))))
    return Links(topology, Rates(**changes), places)


def ms(found: Links, *arguments, **more) -> float:
    return 1e3 * found.seconds(one(*arguments, **more))


Z, YZ = [list(range(8))], [list(range(64))]


def test_a_ring_gathers_from_both_sides():
    assert ms(links("v5p:8x8x8"), "all-gather", Z) == pytest.approx(1.0 * 7 / 8)
    assert ms(links("v5p:8x8x8"), "reduce-scatter", Z) == pytest.approx(1.0 * 7 / 8)
    assert ms(links("v5p:8x8x8"), "all-reduce", Z) == pytest.approx(2.0 * 7 / 8)


def test_a_part_of_a_ring_is_a_line_and_takes_twice_as_long():
    assert ms(links("v5p:8x8x8"), "all-gather", [list(range(4))]) == pytest.approx(2.0 * 3 / 4)
    assert ms(links("v5p:2x2x2"), "all-gather", [[0, 1]]) == pytest.approx(2.0 * 1 / 2)


def test_devices_of_two_axes_are_one_ring_unless_several_may_be_used():
    assert ms(links("v5p:8x8x8"), "all-gather", YZ) == pytest.approx(1.0 * 63 / 64)
    assert ms(links("v5p:8x8x8", axes=2), "all-gather", YZ) == pytest.approx(0.5 * 63 / 64)
    assert ms(links("v5p:8x8x8", axes=2), "all-gather", YZ, ring=True) == pytest.approx(1.0 * 63 / 64)


def test_an_exchange_on_a_ring_travels_a_quarter_of_it():
    assert ms(links("v5p:8x8x8"), "all-to-all", Z) == pytest.approx(2.0)


def test_a_message_takes_as_long_as_its_busiest_link():
    assert ms(links("v5p:8x8x8"), "collective-permute", [[0, 1], [1, 2]]) == pytest.approx(2.0)
    assert ms(links("v5p:8x8x8"), "collective-permute", [[0, 2]]) == pytest.approx(2.0)  # on both links at once
    assert ms(links("v5p:8x8x8"), "collective-permute", [[0, 2], [1, 3]]) == pytest.approx(4.0)  # both from 1 to 2
    assert ms(links("v5p:8x8x8"), "collective-permute", [[0, 2], [2, 0]]) == pytest.approx(2.0)  # one each way
    assert ms(links("v5p:8x8x8"), "collective-permute", [[0, 0]]) == 0.0


def test_a_message_goes_the_shorter_way_around_where_there_is_a_ring():
    assert ms(links("v5p:8x8x8"), "collective-permute", [[0, 6], [1, 2]]) == pytest.approx(2.0)
    assert ms(links("v5p:8x8x8"), "collective-permute", [[6, 0], [7, 1]]) == pytest.approx(4.0)  # both from 7 to 0
    assert ms(links("v5p:2x4x4"), "collective-permute", [[0, 3], [1, 2]]) == pytest.approx(4.0)  # a line: by way of 1


def test_on_a_line_an_exchange_takes_twice_as_long_as_on_a_ring():
    assert ms(links("v5p:4x4x4"), "all-to-all", [list(range(4))]) == pytest.approx(1.0)
    assert ms(links("v5p:2x4x4"), "all-to-all", [list(range(4))]) == pytest.approx(2.0)


def test_groups_that_lie_between_each_other_share_their_links():
    assert ms(links("v5p:8x8x8"), "all-gather", [[0, 2, 4, 6]]) == pytest.approx(7 / 4 * 2.0 * 3 / 4)


def test_within_a_host_the_network_is_not_used():
    assert ms(links("h100:4x8"), "all-gather", [list(range(8))]) == pytest.approx(0.4 * 7 / 8)


def test_between_hosts_as_many_rings_run_as_a_host_has_devices():
    found = links("h100:4x8", network=1.0)
    assert ms(found, "all-gather", [list(range(32))]) == pytest.approx(0.4 * 31 / 32)  # 8 adapters keep up
    assert ms(links("h100:4x8", network=0.5), "all-gather", [list(range(32))]) == pytest.approx(0.9 * 3 / 4)
    assert ms(found, "all-gather", [[0, 8, 16, 24]]) == pytest.approx(3.6 * 3 / 4)  # one each
    assert ms(found, "all-to-all", [list(range(32))]) == pytest.approx(3.6 * 24 / 32)
    assert ms(found, "collective-permute", [[0, 1], [7, 8]]) == pytest.approx(3.6)


def test_an_axis_may_have_a_rate_of_its_own():
    found = links("v5p:8x8x8", slow=(("slices", 18e9),))
    assert ms(found, "all-gather", Z, axes=("slices",)) == pytest.approx(10.0 * 7 / 8)
    assert ms(found, "all-gather", Z) == pytest.approx(1.0 * 7 / 8)


@pytest.mark.parametrize(("changes", "message"), [
    ({"matmul": 1.2}, "rate matmul is 1.2; it is a share, above 0 and at most 1"),
    ({"link": 0.0}, "rate link is 0.0; it is a share, above 0 and at most 1"),
    ({"overlap": 1.5}, "rate overlap is 1.5; it is a share of the communication, 0 to 1"),
    ({"axes": 0}, "rate axes is 0; a collective uses at least 1 axis of the torus"),
    ({"slow": (("data", 0.0),)}, "rate of axis data is 0.0; it must be above 0 bytes a second"),
])  # fmt: skip
def test_a_rate_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Rates(**changes)


def test_every_rate_is_said():
    said = {row["rate"]: row["absolute"] for row in Rates(slow=(("data", 1e9),)).said(Topology.parse("v5p:8x8x8"))}
    assert said["matmul"] == pytest.approx(0.86 * 459e12) and said["slow.data"] == 1e9 and "network" not in said
    assert set(said) == {"matmul", "grouped", "attention", "memory", "link", "overlap", "axes", "slow.data"}
    assert "network" in {row["rate"] for row in Rates().said(Topology.parse("h100:4x8"))}
