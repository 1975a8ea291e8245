"""Compose: from what a program does and what is assumed of the machine to seconds of a step and its utilisation.

A model of a step, not a measurement. Not in it: norms, rotations, gathers of rows, softmax of the loss, uneven routing,
launches of kernels, input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.plan.collectives import Collective
from distill.plan.flops import Comparison, Flops, by_formula
from distill.plan.links import Links
from distill.plan.products import Products
from distill.plan.programs import Program
from distill.plan.rates import Rates
from distill.plan.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of one step of one program."""

    matrices: float
    grouped: float
    attention: float
    memory: float
    """the optimizer's update, or reading the weights for a token"""
    links: float
    """all collectives, one after the other"""
    by_axes: dict[str, float]
    """of `links`, by the mesh axes that they run along"""
    needed: float
    """model FLOPs of the step, over all devices"""
    peak: float
    """FLOP/s of all devices"""

    @property
    def busy(self) -> float:
        """Seconds without communication."""
        return self.matrices + self.grouped + self.attention + self.memory

    def seconds(self, hidden: float) -> float:
        """Of the step, where this share of the communication is hidden; no more of it than there is to hide behind."""
        return self.busy + self.links - min(hidden * self.links, self.busy)

    def mfu(self, hidden: float) -> float:
        """Model FLOPs utilisation: what is needed, over what the devices could do in that time."""
        return self.needed / (self.seconds(hidden) * self.peak)


def compose(
    program: Program,
    topology: Topology,
    rates: Rates,
    products: Products,
    comparison: Comparison,
    collectives: Sequence[Collective],
) -> Step:
    """One step of a program."""
    found = by_formula(program.work)
    devices, flops = program.mesh.size, topology.flops
    matrices = (comparison.counted or comparison.expected) - comparison.grouped
    links = Links.of(topology, rates, list(program.mesh.devices.flat))
    by_axes: dict[str, float] = {}
    for one in collectives:
        name = " ".join(one.axes)
        by_axes[name] = by_axes.get(name, 0.0) + one.times * links.seconds(one)
    return Step(
        matrices=matrices / devices / (flops * rates.matmul),
        grouped=comparison.grouped / devices / (flops * rates.grouped),
        attention=_attention(found, products, devices) / devices / (flops * rates.attention),
        memory=program.touched / (topology.bandwidth * rates.memory),
        links=sum(by_axes.values(), 0.0),
        by_axes=by_axes,
        needed=found.needed,
        peak=flops * devices,
    )


def _attention(found: Flops, products: Products, devices: int) -> float:
    """Needed and done again; or more, where the compiler sees products with masked keys too."""
    return max(found.attention + found.attention_again, products.attention * devices)


def total(steps: Sequence[tuple[Program, Step]], hidden: float) -> dict[str, float]:
    """A step of the stage, whose programs on devices of their own run side by side.

    Returns:
      seconds: of the slowest; programs that share devices run one after the other.
      mfu: over all devices.
    """
    spent: dict[frozenset[int], float] = {}
    peaks: dict[frozenset[int], float] = {}
    for program, step in steps:
        where = frozenset(device.id for device in program.mesh.devices.flat)
        spent[where] = spent.get(where, 0.0) + program.turns * step.seconds(hidden)
        peaks[where] = step.peak * program.copies
    seconds = max(spent.values())
    needed = sum(step.needed * program.turns * program.copies for program, step in steps)
    return {"seconds": seconds, "mfu": needed / (seconds * sum(peaks.values()))}
