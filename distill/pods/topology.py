"""Topologies as they are written, `v5p:8x8x8` or `h100:4x8`: read, and refused where there are none such."""

import re
from dataclasses import dataclass
from math import prod

from distill.chips import CHIPS, CUBE, Booking, Chip, Shape


@dataclass(frozen=True)
class Slice:
    """TPU chips that are wired together, and their hosts."""

    chip: Chip
    shape: Shape

    @property
    def booking(self) -> Booking:
        """How it is booked."""
        assert self.chip.booking is not None, f"{self.chip.name} has no slices"
        return self.chip.booking

    @property
    def chips(self) -> int:
        """Of the whole slice."""
        return prod(self.shape)

    @property
    def per_host(self) -> int:
        """Chips of a host: four; one or eight where they are all of the slice."""
        return self.chips if self.chips in (1, 8) and len(self.shape) == 2 else 4

    @property
    def hosts(self) -> int:
        """Virtual machines, each with a process."""
        return self.chips // self.per_host

    @property
    def devices(self) -> int:
        """As JAX counts them."""
        return self.chips * self.chip.devices

    @property
    def topology(self) -> str:
        """As GKE writes it: 4x4x8."""
        return "x".join(map(str, self.shape))

    @property
    def machine(self) -> str:
        """Machine type of its hosts."""
        return self.booking.machine.format(self.per_host)

    @property
    def accelerator(self) -> str:
        """As accelerator types are written: v5p-1024 counts TensorCores, v5litepod-16 chips."""
        return f"{self.booking.called}-{self.chips * self.chip.cores}"

    def __str__(self) -> str:
        return f"{self.chip.name}:{self.topology}"


@dataclass(frozen=True)
class Cluster:
    """GPUs in hosts."""

    gpu: str
    hosts: int
    per_host: int

    @property
    def devices(self) -> int:
        """As JAX counts them."""
        return self.hosts * self.per_host


def read_topology(text: str) -> Slice | Cluster:
    """A slice of TPUs, GENERATION:AxB or AxBxC in chips; or GPUs, NAME:HOSTSxGPUS.

    Raises:
      ValueError: it is not written so, or no such slice can be booked; says which can.
    """
    found = re.fullmatch(r"([a-z]\w*):(\d+(?:x\d+)*)", text)
    if found is None:
        raise ValueError(f"--topology {text}: write v5p:8x8x8 (TPU chips along each axis) or h100:4x8 (hosts x GPUs)")
    name, shape = found[1], tuple(map(int, found[2].split("x")))
    known = {chip.name: chip.booking for chip in CHIPS.values() if chip.booking is not None}
    if name in known:
        _check(text, name, known[name].shapes, shape)
        return Slice(CHIPS[name], shape)
    if re.fullmatch(r"(v\d|tpu)\w*", name):
        raise ValueError(f"--topology {text}: TPU generations that are known here are {', '.join(known)}")
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"--topology {text}: {name} is no TPU, and GPUs are hosts x GPUs of a host: {name}:4x8")
    return Cluster(name, *shape)


def _check(text: str, name: str, shapes: tuple[Shape, ...], shape: Shape) -> None:
    """Refuses a shape that is not one of these, and says which are near."""
    if shape in shapes:
        return
    turned = tuple(sorted(shape))
    if turned in shapes:
        raise ValueError(f"--topology {text}: sides are written the shortest first: {_written(name, turned)}")

    def distance(one: Shape) -> tuple[int, int]:
        apart = sum(abs(a - b) for a, b in zip(one, turned, strict=True)) if len(one) == len(turned) else 0
        return apart, abs(prod(one) - prod(shape))

    near = sorted(sorted(shapes, key=distance)[:4], key=prod)
    most = max(map(prod, shapes))
    sides = f"sides are multiples of 4 (from {CUBE} chips on)" if len(shapes[-1]) == 3 else "it has 2 sides"
    raise ValueError(
        f"--topology {text}: there is no such slice of {name}: {sides}, and it has at most {most} chips; "
        f"nearest are {', '.join(_written(name, one) for one in near)}"
    )


def _written(name: str, shape: Shape) -> str:
    return f"{name}:{'x'.join(map(str, shape))}"
