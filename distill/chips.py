"""Chips: what their makers say of them, and how slices of TPUs are booked.

Rates are peaks; what share of them is reached is for `distill.plan.rates`. From Google's public pages, read in November
2026, are cores, shapes and names:
  https://cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e; https://docs.cloud.google.com/tpu/docs/tpu7x
  https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus     machine types, labels of nodes, topologies
  https://cloud.google.com/tpu/docs/runtimes                             software versions; no Cloud TPU API for TPU7x
"""

from dataclasses import dataclass

GIB = 2**30
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
class Booking:
    """How slices of a kind of TPU are booked, and what each service calls it."""

    shapes: tuple[Shape, ...]
    """of slices that there are, in chips"""
    label: str
    """cloud.google.com/gke-tpu-accelerator of its nodes"""
    machine: str
    """machine type of its hosts, but for the number of chips in it"""
    called: str
    """by accelerator types, and by xpk"""
    runtime: str | None
    """software version of its virtual machines; None: the Cloud TPU API, and queued resources, do not have it"""
    named: tuple[Shape, ...] | None = None
    """shapes that an accelerator type stands for; None: all"""
    shaped: bool = False
    """whether queued resources take its shape itself (--type and --topology)"""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A kind of accelerator. All numbers are of one chip, which is one device or more to JAX."""

    name: str
    platform: str
    """as JAX calls it: tpu or cuda"""
    cores: int = 1
    """TensorCores; accelerator types of some TPUs count these"""
    devices: int = 1
    """of JAX, that a chip is: the two cores of v4 and v5p are one, those of TPU7x are two"""
    config: str = "default"
    """libtpu's name of that choice, where it describes a chip that is not there"""
    target: str = ""
    """a GPU's description for the compiler: XLA's GpuTargetConfig in text form"""
    memory: float
    """bytes that a compiler lets a program have, of all devices of the chip"""
    flops: float
    """of bfloat16 products a second"""
    bandwidth: float
    """bytes a second between the chip and its memory"""
    link: float
    """bytes a second between neighbours on one axis of the torus, or within a host, in one direction"""
    torus: int = 0
    """axes of the torus that links the chips; 0: all of a host to all"""
    closes: int = 4
    """an axis of a torus is a ring where its size is a multiple of this, else a line"""
    network: float = 0.0
    """bytes a second a device between hosts, in one direction, where hosts are not linked like chips"""
    booking: Booking | None = None
    """None: its hosts are booked as any others are"""


# The table of v5p's page. A number of cores stands for one shape; the others can be booked on GKE.
_V5P: tuple[Shape, ...] = SMALL + (
    (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16), (16, 16, 16), (16, 16, 24),
)  # fmt: skip

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84978434048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# Peak rates are those of the makers' public pages; link rates are the one-way rates of jax-ml.github.io/scaling-book.
# Memory of a TPU is what libtpu 0.0.42 says in its refusals, that of the H100 what XLA's target configuration has less
# its reserve of a tenth. By itself libtpu describes a v4 as two devices of 15.25 GiB; hosts in the cloud show one.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4", platform="tpu", cores=2, config="megacore", memory=30.75 * GIB, flops=275e12, bandwidth=1.2e12,
            link=45e9, torus=3,
            booking=Booking(
                shapes=_solid(64), label="tpu-v4-podslice", machine="ct4p-hightpu-{}t", called="v4",
                runtime="tpu-ubuntu2204-base", shaped=True,
            ),
        ),
        Chip(
            name="v5e", platform="tpu", memory=15.75 * GIB, flops=197e12, bandwidth=8.1e11, link=45e9, torus=2,
            closes=16,
            booking=Booking(
                shapes=FLAT, label="tpu-v5-lite-podslice", machine="ct5lp-hightpu-{}t", called="v5litepod",
                runtime="v2-alpha-tpuv5-lite",
            ),
        ),
        Chip(
            name="v5p", platform="tpu", cores=2, memory=95.74 * GIB, flops=459e12, bandwidth=2.765e12, link=90e9,
            torus=3,
            booking=Booking(
                shapes=_solid(96), label="tpu-v5p-slice", machine="ct5p-hightpu-{}t", called="v5p",
                runtime="v2-alpha-tpuv5", named=_V5P,
            ),
        ),
        Chip(
            name="v6e", platform="tpu", memory=31.25 * GIB, flops=918e12, bandwidth=1.64e12, link=90e9, torus=2,
            closes=16,
            booking=Booking(
                shapes=FLAT, label="tpu-v6e-slice", machine="ct6e-standard-{}t", called="v6e",
                runtime="v2-alpha-tpuv6e",
            ),
        ),
        Chip(
            name="tpu7x", platform="tpu", cores=2, devices=2, memory=189.5 * GIB, flops=2307e12, bandwidth=7.37e12,
            link=90e9, torus=3,
            booking=Booking(
                shapes=_solid(144), label="tpu7x", machine="tpu7x-standard-{}t", called="tpu7x", runtime=None,
            ),
        ),
        Chip(
            name="h100", platform="cuda", target=H100, memory=0.9 * 84978434048, flops=989e12, bandwidth=3.35e12,
            link=450e9, network=50e9,
        ),
    )
}  # fmt: skip
