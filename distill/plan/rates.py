"""Rates: what is assumed of a machine. Each is printed with every second that follows from it, and can be set."""

from dataclasses import dataclass

from distill.plan.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of peaks, and how links are used. Nothing here was measured on the machine that is planned for."""

    matmul: float = 0.86
    """share of peak that products with weights reach: libtpu takes 1.165 times the ideal for 8192 x 5120 x 16384"""
    grouped: float = 0.75
    """share of peak that kernels of grouped products reach"""
    attention: float = 0.5
    """share of peak that attention reaches, of what it needs: what its backward pass computes again is within this"""
    memory: float = 0.9
    """share of the memory's bandwidth that the optimizer's update, and decoding, reach"""
    link: float = 1.0
    """share of a link's rate that collectives reach; both directions of an axis are used where it closes to a ring"""
    network: float = 0.8
    """share of the network between hosts that collectives reach"""
    overlap: float = 0.5
    """share of the communication that runs beside products, where not none and not all of it does"""
    axes: int = 1
    """axes of the torus that one collective uses at a time; 1 is one ring, which the compiler does not improve on
    where it says so"""
    slow: tuple[tuple[str, float], ...] = ()
    """mesh axes whose collectives are given a rate of their own: bytes a second a device"""

    def __post_init__(self) -> None:
        for name in ("matmul", "grouped", "attention", "memory", "link", "network"):
            if not 0.0 < vars(self)[name] <= 1.0:
                raise ValueError(f"rate {name} is {vars(self)[name]}; it is a share, above 0 and at most 1")
        if not 0.0 <= self.overlap <= 1.0:
            raise ValueError(f"rate overlap is {self.overlap}; it is a share of the communication, 0 to 1")
        if self.axes < 1:
            raise ValueError(f"rate axes is {self.axes}; a collective uses at least 1 axis of the torus")
        for name, rate in self.slow:
            if not rate > 0.0:
                raise ValueError(f"rate of axis {name} is {rate}; it must be above 0 bytes a second")

    @property
    def hidden(self) -> dict[str, float]:
        """Shares of the communication that are hidden, by name: none, a part, all."""
        return {"none": 0.0, "part": self.overlap, "all": 1.0}

    def said(self, topology: Topology) -> list[dict[str, object]]:
        """Every rate, as a share and in units, and how it is set."""
        chip = topology.chip
        peaks = {
            "matmul": (topology.flops, "FLOP/s"), "grouped": (topology.flops, "FLOP/s"),
            "attention": (topology.flops, "FLOP/s"), "memory": (topology.bandwidth, "B/s"),
            "link": (chip.link, "B/s one way"), "network": (chip.network, "B/s one way"),
        }  # fmt: skip
        rows: list[dict[str, object]] = [
            {"rate": name, "value": vars(self)[name], "absolute": vars(self)[name] * peak, "unit": unit}
            for name, (peak, unit) in peaks.items()
            if peak
        ]
        rows.append({"rate": "overlap", "value": self.overlap, "absolute": self.overlap, "unit": "of communication"})
        if chip.torus:
            rows.append({"rate": "axes", "value": self.axes, "absolute": float(self.axes), "unit": "axes at a time"})
        rows += [{"rate": f"slow.{name}", "value": rate, "absolute": rate, "unit": "B/s"} for name, rate in self.slow]
        return rows
