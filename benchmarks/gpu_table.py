"""Ceilings: what a card does in this call; rows: what was measured, and their shares of it."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.one_gpu import bandwidth
from benchmarks.timing import alternate

PRODUCTS = 8
"""that wait for each other in a chain: a call asks for so many at once, as a step asks for many"""


@jax.jit
def chain(x: jax.Array, w: jax.Array) -> jax.Array:
    """Products that wait for each other."""
    for _ in range(PRODUCTS):
        x = x @ w
    return x


def chained(side: int) -> float:
    """FLOPs of the chain of this side."""
    return PRODUCTS * 2.0 * side**3


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """FLOP/s of large square products in bfloat16, and bytes/s that a copy reads and writes."""

    flops: float
    bandwidth: float

    @staticmethod
    def measure(side: int, copied: int, rounds: int) -> "Ceilings":
        """On this device, by products of this side, the median of rounds, and a copy of so many bytes, the best."""
        w = (jax.random.normal(jax.random.key(0), (side, side)) / side**0.5).astype(jnp.bfloat16)
        seconds = alternate({"products": lambda: chain(w, w)}, rounds, patience=0.0).median("products")
        return Ceilings(flops=chained(side) / seconds, bandwidth=bandwidth(copied))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. What is not known or makes no sense is 0.

    flops, bytes: that cannot be done without. tokens: that come out. bar: share of the ceiling asked for.
    """

    part: str
    name: str
    seconds: float
    flops: float = 0.0
    bytes: float = 0.0
    tokens: float = 0.0
    bar: float = 0.0
    note: str = ""

    def utilisation(self, ceilings: Ceilings) -> float:
        """FLOPs a second of those that the products reach: of a step, its MFU."""
        return self.flops / self.seconds / ceilings.flops

    def bound(self, ceilings: Ceilings) -> float:
        """Seconds that it must take: of FLOPs and bytes the longer, as if they overlapped perfectly."""
        return max(self.flops / ceilings.flops, self.bytes / ceilings.bandwidth)

    def reached(self, ceilings: Ceilings) -> float:
        """Share of what the card allows."""
        return self.bound(ceilings) / self.seconds

    def told(self, ceilings: Ceilings) -> dict[str, Any]:
        """All of it, for a file."""
        derived = {"tokens_per_second": self.tokens / self.seconds, "utilisation": self.utilisation(ceilings)}
        derived |= {"bound": self.bound(ceilings), "reached": self.reached(ceilings)}
        return asdict(self) | derived | {"met": self.utilisation(ceilings) >= self.bar if self.bar else None}

    def show(self, ceilings: Ceilings) -> str:
        """All of it, in a line."""
        line = f"{self.part:10} {self.name:44} {1e3 * self.seconds:10.3f} ms"
        line += f" {self.tokens / self.seconds:11,.0f} tokens/s" if self.tokens else f" {'':20}"
        line += (
            f" {self.flops / self.seconds / 1e12:7.2f} TFLOP/s {self.utilisation(ceilings):5.0%}" if self.flops else ""
        )
        if self.bytes:
            by = "FLOPs" if self.flops / ceilings.flops > self.bytes / ceilings.bandwidth else "bytes"
            line += f" {self.reached(ceilings):5.0%} of what {by} allow"
        if self.bar:
            line += f" (bar {self.bar:.0%}: {'met' if self.utilisation(ceilings) >= self.bar else 'MISSED'})"
        return f"{line} {self.note}".rstrip()


@dataclass(frozen=True)
class Refused:
    """What could not be measured, and why."""

    part: str
    name: str
    why: str

    def told(self, ceilings: Ceilings) -> dict[str, Any]:
        """All of it, for a file."""
        return asdict(self)

    def show(self, ceilings: Ceilings) -> str:
        """All of it, in a line."""
        return f"{self.part:10} {self.name:44} not measured: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Calls that are timed in alternation, each with what its row says beside the seconds."""

    part: str
    rounds: int

    def rows(self, sides: Iterable[tuple[dict[str, Any], Callable[[], Callable[[], Any]]]]) -> list[Row | Refused]:
        """A row a side; a side is what its row says, and what makes the call: one that fails costs no other."""
        found: list[Row | Refused] = []
        calls: dict[str, Callable[[], Any]] = {}
        said: dict[str, dict[str, Any]] = {}
        for about, make in sides:
            try:
                call = make()
                jax.block_until_ready(call())
            except Exception as error:  # noqa: BLE001 — a kernel that this card or jax does not know, or no memory
                found.append(
                    Refused(self.part, about["name"], f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
                )
                continue
            calls[about["name"]], said[about["name"]] = call, about
        if calls:
            table = alternate(calls, self.rounds, warm=1, patience=0.0)
            found = [Row(part=self.part, seconds=table.median(name), **about) for name, about in said.items()] + found
        return found
