"""Chips: what their makers say of them. Rates are peaks; what share of them is reached is for `distill.plan.rates`."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A kind of accelerator. All numbers are of one chip, which is one device or more to JAX."""

    name: str
    platform: str
    """as JAX calls it: tpu or cuda"""
    devices: int = 1
    """of JAX, that a chip is"""
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


# Peak rates are those of the makers' public pages; link rates are the one-way rates of jax-ml.github.io/scaling-book.
# Memory of a TPU is what libtpu 0.0.42 says in its refusals, that of the H100 what XLA's target configuration has less
# its reserve of a tenth.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4", platform="tpu", devices=2, memory=30.5 * GIB, flops=275e12, bandwidth=1.2e12, link=45e9, torus=3
        ),
        Chip(
            name="v5e", platform="tpu", memory=15.75 * GIB, flops=197e12, bandwidth=8.1e11, link=45e9, torus=2,
            closes=16,
        ),
        Chip(name="v5p", platform="tpu", memory=95.74 * GIB, flops=459e12, bandwidth=2.765e12, link=90e9, torus=3),
        Chip(
            name="v6e", platform="tpu", memory=31.25 * GIB, flops=918e12, bandwidth=1.64e12, link=90e9, torus=2,
            closes=16,
        ),
        Chip(
            name="tpu7x", platform="tpu", devices=2, memory=189.5 * GIB, flops=2307e12, bandwidth=7.37e12, link=90e9,
            torus=3,
        ),
        Chip(
            name="h100", platform="cuda", memory=0.9 * 84978434048, flops=989e12, bandwidth=3.35e12, link=450e9,
            network=50e9,
        ),
    )
}  # fmt: skip

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
"""XLA's GpuTargetConfig of an H100, in text form"""
TARGETS = {"h100": H100}
