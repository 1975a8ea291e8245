"""Devices as a mesh, and the one table that says which logical axis lies along which mesh axis.

This is the only file that names mesh axes. Models speak in the letters of their legend ("d", "f", "e", ...); `RULES`
maps a letter to mesh axes; everything else follows from the letters an array carries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from distill.grid import lay
from losses import Split
from models.config import Config
from models.execution import Execution
from models.placement import Placement

AXES = ("data", "fsdp", "expert", "context", "tensor")
"""of every mesh, the slowest first: neighbours of the last lie side by side"""

RULES: dict[str, tuple[str, ...]] = {
    "b": ("data", "fsdp", "expert"),  # every device sees its own rows, whether it holds whole or partial weights
    "t": ("context",),  # and its own columns of them
    "e": ("expert",),  # experts stay where they are, and tokens travel
    "h": ("tensor",),  # heads, and the hidden channels of feed-forwards, are computed in parts and added up
    "k": ("tensor",),
    "f": ("tensor",),
    "s": ("context", "expert"),  # the columns of a cache; experts answer for few tokens then, and have room
    "d": ("fsdp", "expert", "context"),  # weights are cut along the model width and gathered where they are used
    "w": ("fsdp", "expert", "context"),  # those of the vision tower along its own width
    "a": ("fsdp", "expert", "context"),  # and those of its adapter
}
STORED = ("d", "w", "a")
"""letters along which weights are cut to be kept alone"""
RESTING: dict[str, tuple[str, ...]] = {
    **{letter: axes for letter, axes in RULES.items() if letter not in (*STORED, "t")},
    "v": ("tensor",),  # nobody gathers a vocabulary either
    "n": ("data", "fsdp", "expert", "tensor"),  # rows of logits: a token is drawn on one device, by all of its row
}
"""of whoever decodes: no weight is cut to be gathered, as each token would wait for it; a piece of a prompt is whole

Rows, where there are many, take the axes of "b", and each sees its own part of the cache; the columns of few rows lie
along the axes that are left. Experts stay on theirs, heads and hidden channels on those of "tensor".
"""


@dataclass(frozen=True)
class Mesh:
    """A grid of devices, `size` of them. Rows are split over data, fsdp and expert, columns over context."""

    data: int = 1
    """copies of the model, each on its own rows"""
    fsdp: int = 1
    """parts every weight is cut into (fully sharded data parallelism)"""
    expert: int = 1
    """devices over which the experts of a layer are spread; tokens travel to them and back, other weights are cut"""
    context: int = 1
    """parts of every row, each on a device of its own; weights are cut over them too"""
    tensor: int = 1
    """parts in which heads and hidden channels are computed, on the same tokens"""
    first: int = field(default=0, repr=False)
    """number of the first of its devices; the others follow it"""

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"{self}: every axis must be at least 1")
        if self.first < 0:
            raise ValueError(f"{self}: first is {self.first}; devices are numbered from 0")

    def __repr__(self) -> str:
        """The axes that are more than 1, data and fsdp always."""
        later = [f", {name}={size}" for name, size in zip(AXES[2:], self.shape[2:], strict=True) if size > 1]
        return f"Mesh(data={self.data}, fsdp={self.fsdp}{''.join(later)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Devices along each of `AXES`."""
        return self.data, self.fsdp, self.expert, self.context, self.tensor

    @property
    def size(self) -> int:
        """Number of devices in the mesh."""
        return math.prod(self.shape)

    def build(self, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
        """The mesh over `size` devices from `first` on, of those that are here or of these.

        Raises:
          ValueError: there are fewer devices than the mesh needs; says what would fit.
        """
        devices = jax.devices() if devices is None else devices
        if self.first and self.first + self.size > len(devices):
            raise ValueError(
                f"{self} from device {self.first} on needs {self.first + self.size} devices, found {len(devices)} "
                f"({devices[0].platform}); make it or the mesh before it smaller, or use --tiny"
            )
        if self.size > len(devices):
            fits = max(n for n in range(1, len(devices) + 1) if len(devices) % n == 0 and self.fsdp % n == 0)
            rest = "".join(f" --mesh.{name} 1" for name, size in zip(AXES[2:], self.shape[2:], strict=True) if size > 1)
            raise ValueError(
                f"{self} needs {self.size} devices, found {len(devices)} ({devices[0].platform}); "
                f"set --mesh.data {len(devices) // fits} --mesh.fsdp {fits}{rest}, or use --tiny"
            )
        own = devices[self.first : self.first + self.size]
        return jax.sharding.Mesh(lay(self.shape, own), AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def copies(self) -> tuple["Mesh", ...]:
        """Its copies of the model, each as a mesh of its own."""
        one = replace(self, data=1)
        return tuple(replace(one, first=self.first + copy * one.size) for copy in range(self.data))

    def check_apart(self, other: "Mesh", option: str = "teacher-on") -> None:
        """Refuse two meshes that have a device in common; `option` of a stage is the one to change."""
        if self.first < other.first + other.size and other.first < self.first + self.size:
            raise ValueError(
                f"{self} takes devices {self.first} to {self.first + self.size - 1}, and {other} takes {other.first} "
                f"to {other.first + other.size - 1}; set --stages.N.{option}.first {other.first + other.size}"
            )

    def check_rows(self, rows: int) -> None:
        """Refuse a batch whose rows do not divide over the mesh."""
        parts = math.prod(self.shape[: len(RULES["b"])])
        if rows % parts:
            raise ValueError(
                f"{rows} rows a batch do not divide over {self} ({parts} parts of rows); use a multiple of {parts}"
            )

    def check_columns(self, length: int) -> None:
        """Refuse rows that cannot be cut in equal parts; twice as many, so that halves of parts can be exchanged."""
        if self.context > 1 and length % (2 * self.context):
            raise ValueError(
                f"rows of {length} tokens do not divide over {self}: context={self.context} needs a multiple of "
                f"{2 * self.context}"
            )

    def check_model(self, name: str, model: Config) -> None:
        """Refuse a model whose heads or experts the mesh cannot share out equally."""
        for axis, size, what, count in (
            ("tensor", self.tensor, "key/value heads", model.kv_heads),
            ("expert", self.expert, "experts", model.experts),
        ):
            if count % size:
                raise ValueError(
                    f"{name!r} has {count} {what}, which {self} cannot share out over {axis}={size}; set --mesh.{axis} "
                    f"{math.gcd(count, size)}"
                )


def placement(mesh: jax.sharding.Mesh) -> Placement:
    """The rules on a mesh, as models ask for them."""
    return Placement(mesh, tuple(RULES.items()), STORED)


def resting(mesh: jax.sharding.Mesh) -> Placement:
    """The rules for decoding."""
    return Placement(mesh, tuple(RESTING.items()), ())


def executed(execution: Execution, mesh: jax.sharding.Mesh) -> Execution:
    """How a model is run on a mesh; one device needs no placement."""
    return execution if mesh.size == 1 else replace(execution, placement=placement(mesh))


def split(execution: Execution) -> Split | None:
    """Over which devices a loss over the vocabulary head is shared out; columns also over what shares the heads."""
    place = execution.placement
    if place is None:
        return None
    return Split(place.mesh, rows=place.axes("b"), columns=(*place.axes("t"), *place.axes("h")), width=place.axes("d"))


def shardings(mesh: jax.sharding.Mesh, tree: PyTree, rules: Placement | None = None) -> PyTree:
    """Shardings of a tree of abstract arrays: parameters, and moments like them, by letter; the rest replicated.

    `jax.jit(tx.init)` loses the sharding of optimizer moments; moments keep the parameters' letters, so naming the
    whole tree's shardings and creating it in one jitted call keeps both.
    """
    return (placement(mesh) if rules is None else rules).shardings(tree)


def formats(mesh: jax.sharding.Mesh, tree: PyTree, rules: Placement | None = None) -> PyTree:
    """Shardings of a tree and, on a TPU, the order in which numbers lie: a state is born so, and stays so."""
    return (placement(mesh) if rules is None else rules).formats(tree)


def kept(mesh: jax.sharding.Mesh, tree: PyTree) -> PyTree:
    """What a jitted step is told of the states it returns, so that each takes the place of the one it is given.

    None where there is nothing but shardings to tell: these follow from what goes in.
    """
    return formats(mesh, tree) if mesh.devices.flat[0].platform == "tpu" else None


def laid(mesh: jax.sharding.Mesh, tree: PyTree) -> PyTree:
    """Arrays that came from elsewhere, as a state is kept."""
    return jax.device_put(tree, formats(mesh, tree)) if mesh.devices.flat[0].platform == "tpu" else tree


def parts(mesh: jax.sharding.Mesh) -> int:
    """How many parts the rows of a batch are cut into."""
    return math.prod(mesh.shape[axis] for axis in RULES["b"])


def rows(mesh: jax.sharding.Mesh, leading: int = 0) -> NamedSharding:
    """Sharding of batch arrays [..., b, t]: rows over the mesh, `leading` unsharded dimensions before them.

    Columns come whole, as a batch is small and not all of its arrays have columns; a model takes its own.
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, RULES["b"]))


def shares(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Sharding of rows in the order of processes, an equal share each: as files are read and written.

    On a mesh they lie otherwise, where that follows the rings of a torus and not the numbers of hosts.
    """
    devices = sorted(mesh.devices.flat, key=lambda device: device.process_index)
    grid = np.asarray(devices).reshape(jax.process_count(), -1)  # numpy: devices are not an array program
    return NamedSharding(jax.sharding.Mesh(grid, ("process", "device")), PartitionSpec("process"))
