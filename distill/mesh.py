"""Devices as a mesh, and the one table that says which logical axis lies along which mesh axis.

This is the only file that names mesh axes. Models speak in the letters of their legend ("d", "f", "e", ...); `RULES`
maps a letter to mesh axes; everything else follows from the letters a parameter carries.
"""

from dataclasses import dataclass, field

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

RULES: dict[str, tuple[str, ...]] = {
    "b": ("data", "fsdp"),  # every device sees its own rows, whether it holds whole or partial weights
    "d": ("fsdp",),  # weights are cut along the model width and gathered where they are used
    "w": ("fsdp",),  # those of the vision tower along its own width
    "a": ("fsdp",),  # and those of its adapter
}


@dataclass(frozen=True)
class Mesh:
    """A grid of `data` x `fsdp` devices: rows are split over both, weights over `fsdp` only."""

    data: int = 1
    """copies of the model, each on its own rows"""
    fsdp: int = 1
    """parts every weight is cut into (fully sharded data parallelism)"""
    first: int = field(default=0, repr=False)
    """number of the first of its devices; the others follow it"""

    def __post_init__(self) -> None:
        if self.data < 1 or self.fsdp < 1:
            raise ValueError(f"Mesh(data={self.data}, fsdp={self.fsdp}): every axis must be at least 1")
        if self.first < 0:
            raise ValueError(f"{self}: first is {self.first}; devices are numbered from 0")

    @property
    def size(self) -> int:
        """Number of devices in the mesh."""
        return self.data * self.fsdp

    def build(self) -> jax.sharding.Mesh:
        """The mesh over `size` devices from `first` on.

        Raises:
          ValueError: there are fewer devices than the mesh needs; says what would fit.
        """
        devices = jax.devices()
        if self.first and self.first + self.size > len(devices):
            raise ValueError(
                f"{self} from device {self.first} on needs {self.first + self.size} devices, found {len(devices)} "
                f"({devices[0].platform}); make it or the mesh before it smaller, or use --tiny"
            )
        if self.size > len(devices):
            fits = max(n for n in range(1, len(devices) + 1) if len(devices) % n == 0 and self.fsdp % n == 0)
            raise ValueError(
                f"{self} needs {self.size} devices, found {len(devices)} ({devices[0].platform}); "
                f"set --mesh.data {len(devices) // fits} --mesh.fsdp {fits}, or use --tiny"
            )
        own = devices[self.first : self.first + self.size]
        grid = np.asarray(own).reshape(self.data, self.fsdp)  # numpy: devices are not an array program
        return jax.sharding.Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))

    def copies(self) -> tuple["Mesh", ...]:
        """Its copies of the model, each as a mesh of its own."""
        return tuple(Mesh(fsdp=self.fsdp, first=self.first + copy * self.fsdp) for copy in range(self.data))

    def check_apart(self, other: "Mesh", option: str = "teacher-on") -> None:
        """Refuse two meshes that have a device in common; `option` of a stage is the one to change."""
        if self.first < other.first + other.size and other.first < self.first + self.size:
            raise ValueError(
                f"{self} takes devices {self.first} to {self.first + self.size - 1}, and {other} takes {other.first} "
                f"to {other.first + other.size - 1}; set --stages.N.{option}.first {other.first + other.size}"
            )

    def check_rows(self, rows: int) -> None:
        """Refuse a batch whose rows do not divide over the mesh."""
        if rows % self.size:
            raise ValueError(
                f"{rows} rows a batch do not divide over {self} ({self.size} devices); use a multiple of {self.size}"
            )


def _partition(mesh: jax.sharding.Mesh, axes: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
    """Sharding of an array whose trailing dimensions carry the letters `axes`; an uneven cut is not made."""
    spec: list[tuple[str, ...] | None] = [None] * len(shape)
    for place, letter in enumerate(axes, start=len(shape) - len(axes)):
        names = RULES.get(letter, ())
        parts = int(np.prod([mesh.shape[name] for name in names], dtype=int))
        if names and parts > 1 and shape[place] % parts == 0 and names not in spec:
            spec[place] = names
    return NamedSharding(mesh, PartitionSpec(*spec))


def shardings(mesh: jax.sharding.Mesh, tree: PyTree) -> PyTree:
    """Shardings of a tree of abstract arrays: parameters, and moments like them, by letter; the rest replicated.

    `jax.jit(tx.init)` loses the sharding of optimizer moments; moments keep the parameters' letters, so naming the
    whole tree's shardings and creating it in one jitted call keeps both.
    """

    def place(leaf: object) -> PyTree:
        if isinstance(leaf, nnx.Variable):
            axes = tuple(leaf.get_metadata().get("axes", ()))
            return jax.tree.map(lambda array: _partition(mesh, axes, array.shape), leaf)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(place, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def rows(mesh: jax.sharding.Mesh, leading: int = 0) -> NamedSharding:
    """Sharding of batch arrays [..., b, t]: rows over the mesh, `leading` unsharded dimensions before them."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, RULES["b"]))
