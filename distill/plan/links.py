"""Links: seconds that a collective takes, from where its devices lie and what their links carry."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.plan.collectives import Collective
from distill.plan.rates import Rates
from distill.plan.topology import Topology

SOME = 64
"""groups of a collective that are looked at; they lie alike"""


@dataclass(frozen=True)
class Links:
    """The devices of a mesh, in its order, on their torus or in their hosts."""

    topology: Topology
    rates: Rates
    places: np.ndarray
    """[n, axes]"""

    @staticmethod
    def of(topology: Topology, rates: Rates, devices: Sequence[Any]) -> "Links":
        """Of the devices of a mesh, in its order."""
        return Links(topology, rates, topology.places(devices))

    def seconds(self, one: Collective) -> float:
        """That it takes, once: of the slowest of its groups."""
        share = (one.size - 1) / one.size
        for name, rate in self.rates.slow:
            if name in one.axes:
                return one.bytes * (2 if one.kind == "all-reduce" else 1) * share / rate
        torus = self.topology.chip.torus > 0
        if torus and one.kind == "collective-permute":
            return one.bytes * self._crowd(one.groups) / (self.topology.chip.link * self.rates.link)
        groups = one.groups if one.kind == "collective-permute" else one.groups[:SOME]
        seconds = self._on_torus if torus else self._in_hosts
        return max(seconds(one, self.places[group]) for group in groups)

    def _on_torus(self, one: Collective, at: np.ndarray) -> float:
        link, rings = self.topology.chip.link * self.rates.link, self.topology.rings
        sizes = [len(np.unique(at[:, axis])) for axis in range(at.shape[1])]
        along = [axis for axis, size in enumerate(sizes) if size > 1]
        if not along:  # cores of one chip
            return 0.0
        # A line over part of a ring has neighbours that use the same links; so have groups that lie between each other.
        between = max((np.ptp(at[:, axis]) + 1) / sizes[axis] for axis in along)
        closed = {axis: rings[axis] and sizes[axis] == self.topology.sizes[axis] for axis in along}
        if one.kind in ("all-to-all", "ragged-all-to-all"):
            each = [one.bytes * sizes[axis] / 4 / (link * (2 if closed[axis] else 1)) for axis in along]
            return between * (max(each) if self.rates.axes > 1 else sum(each))
        snake = len(along) > 1 and any(sizes[axis] % 2 == 0 for axis in along)
        both = 2 if snake or all(closed.values()) else 1
        used = 1 if one.ring else min(self.rates.axes, len(along))
        turns = 2 if one.kind == "all-reduce" else 1
        return between * turns * one.bytes * (one.size - 1) / one.size / (used * both * link)

    def _crowd(self, pairs: np.ndarray) -> int:
        """Messages on the busiest link, in one direction: each goes along one axis after the other, the shorter way.

        A message of many packets is on all links of its way at once, so that a long way alone costs no more.
        """
        crowd: Counter[tuple[tuple[int, ...], int, int]] = Counter()
        for start, end in self.places[pairs]:
            here = list(start)
            for axis, size in enumerate(self.topology.sizes):
                far = int(end[axis] - here[axis])
                around = self.topology.rings[axis] and 2 * abs(far) > size
                step = -1 if (far < 0) != around else 1
                while here[axis] != end[axis]:
                    crowd[tuple(here), axis, step] += 1
                    here[axis] = (here[axis] + step) % size
        return max(crowd.values(), default=0)

    def _in_hosts(self, one: Collective, at: np.ndarray) -> float:
        link, network = self.topology.chip.link * self.rates.link, self.topology.chip.network * self.rates.network
        hosts = len(np.unique(at[:, 0]))
        if one.kind == "collective-permute":
            return one.bytes / (network if hosts > 1 else link)
        size = len(at)
        inside = one.bytes * (size - 1) / size / link
        if one.kind in ("all-to-all", "ragged-all-to-all"):
            return max(inside, one.bytes * (size - size / hosts) / size / network)
        # As many rings as devices of the group in a host, each with a network adapter of its own.
        outside = one.bytes * (hosts - 1) / hosts / (size / hosts * network)
        return max(inside, outside) * (2 if one.kind == "all-reduce" else 1)
