"""The sides of the step benchmark, and what ours is held to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Side:
    """One row: a worker, where it lives (`peer`: the peers' own environment), its number format."""

    name: str
    module: str
    dtype: str = "float32"
    peer: bool = False
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bar:
    """`ours` must take at most 1 / `atleast` of the time of `theirs`."""

    ours: str
    theirs: str
    atleast: float


CEILING = {"float32": "ceiling", "bfloat16": "ceiling bf16"}
SIDES = (
    Side("ceiling", "benchmarks.ceiling"),
    Side("ceiling bf16", "benchmarks.ceiling", "bfloat16"),
    Side("herd", "benchmarks.herd"),
    Side("herd bf16", "benchmarks.herd", "bfloat16"),
    Side("herd gated", "benchmarks.herd", arguments=("--gated",)),
    Side("herd mixture", "benchmarks.herd", arguments=("--mixture",)),
    Side("hand", "benchmarks.peers.hand_jax"),
    Side("hand bf16", "benchmarks.peers.hand_jax", "bfloat16"),
    Side("torch", "benchmarks.peers.torch_plain", peer=True),
    Side("torch bf16", "benchmarks.peers.torch_plain", "bfloat16", peer=True),
    Side("torch compiled", "benchmarks.peers.torch_plain", peer=True, arguments=("--compile",)),
    Side("trl", "benchmarks.peers.trl_gkd", peer=True),
    Side("tunix", "benchmarks.peers.tunix_logit", peer=True),
    Side("llama4", "benchmarks.peers.torch_llama4", peer=True),
)
BARS = (
    Bar("herd", "hand", 1 / 1.05),
    Bar("herd bf16", "hand bf16", 1 / 1.05),
    Bar("herd", "torch", 0.95),
    Bar("herd bf16", "torch bf16", 0.95),
    Bar("herd", "torch compiled", 0.95),
    Bar("herd", "trl", 1.1),
    Bar("herd", "tunix", 1.05),
    Bar("herd mixture", "llama4", 2.0),
)
FLOORS = {"herd": 0.55, "herd bf16": 0.40}
"""Least share of the ceiling."""
QUIET = 0.1
"""Cores that anything else may keep busy during a step that counts."""


def chosen(only: list[str] | None) -> list[Side]:
    """The sides of these names; the first word of a name stands for all that begin with it."""
    return [side for side in SIDES if not only or side.name in only or side.name.split()[0] in only]
