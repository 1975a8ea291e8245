"""TPU generations as they can be booked: shapes, hosts, machine types, and what each service calls them.

From Google's public pages, read in November 2026:
  https://cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e; https://docs.cloud.google.com/tpu/docs/tpu7x
  https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus     machine types, labels of nodes, topologies
  https://cloud.google.com/tpu/docs/runtimes                             software versions; no Cloud TPU API for TPU7x
"""

from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]
CUBE = 64
"""chips of a 4x4x4 block: larger three-dimensional slices are made of whole ones"""

FLAT: tuple[Shape, ...] = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
SMALL: tuple[Shape, ...] = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))


def _solid(cubes: int) -> tuple[Shape, ...]:
    """Shapes of at most so many cubes, each side a multiple of four, the longest last; and those below a cube."""
    sides = range(4, 4 * cubes + 1, 4)
    whole = [
        (a, b, c)
        for a in sides
        for b in sides
        if a <= b and a * b * b <= cubes * CUBE
        for c in sides
        if b <= c and a * b * c <= cubes * CUBE
    ]
    return SMALL + tuple(whole)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A kind of TPU."""

    name: str
    shapes: tuple[Shape, ...]
    """of slices that can be booked, in chips"""
    label: str
    """cloud.google.com/gke-tpu-accelerator of its nodes"""
    machine: str
    """machine type of its hosts, but for the number of chips in it"""
    booked: str
    """what accelerator types, and xpk, call it"""
    cores: int
    """TensorCores of a chip: accelerator types of some count these"""
    devices: int = 1
    """JAX devices of a chip; the two cores of v4 and v5p are one, those of TPU7x are two"""
    runtime: str | None
    """software version of its virtual machines; None: the Cloud TPU API, and queued resources, do not have it"""
    named: tuple[Shape, ...] | None = None
    """shapes that an accelerator type stands for; None: all"""
    shaped: bool = False
    """whether queued resources take its shape itself (--type and --topology)"""


# The table of v5p's page. A number of cores stands for one shape; the others can be booked on GKE.
_V5P: tuple[Shape, ...] = SMALL + (
    (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16), (16, 16, 16), (16, 16, 24),
)  # fmt: skip

GENERATIONS = {
    one.name: one
    for one in (
        Generation(
            name="v4", shapes=_solid(64), label="tpu-v4-podslice", machine="ct4p-hightpu-{}t", booked="v4", cores=2,
            runtime="tpu-ubuntu2204-base", shaped=True,
        ),
        Generation(
            name="v5e", shapes=FLAT, label="tpu-v5-lite-podslice", machine="ct5lp-hightpu-{}t", booked="v5litepod",
            cores=1, runtime="v2-alpha-tpuv5-lite",
        ),
        Generation(
            name="v5p", shapes=_solid(96), label="tpu-v5p-slice", machine="ct5p-hightpu-{}t", booked="v5p", cores=2,
            runtime="v2-alpha-tpuv5", named=_V5P,
        ),
        Generation(
            name="v6e", shapes=FLAT, label="tpu-v6e-slice", machine="ct6e-standard-{}t", booked="v6e", cores=1,
            runtime="v2-alpha-tpuv6e",
        ),
        Generation(
            name="tpu7x", shapes=_solid(144), label="tpu7x", machine="tpu7x-standard-{}t", booked="tpu7x", cores=2,
            devices=2, runtime=None,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """Chips that are wired together, and their hosts."""

    generation: Generation
    shape: Shape

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
        return self.chips * self.generation.devices

    @property
    def topology(self) -> str:
        """As GKE writes it: 4x4x8."""
        return "x".join(map(str, self.shape))

    @property
    def machine(self) -> str:
        """Machine type of its hosts."""
        return self.generation.machine.format(self.per_host)

    @property
    def accelerator(self) -> str:
        """As accelerator types are written: v5p-1024 counts TensorCores, v5litepod-16 chips."""
        return f"{self.generation.booked}-{self.chips * self.generation.cores}"


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
