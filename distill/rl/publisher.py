"""Publication: the learner's weights, copied for whoever draws with them, each version whole or not there."""

import threading
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from distill.hold import Bfloat16
from distill.mesh import shardings
from distill.state import Weights


class Publisher:
    """Versions of the weights on the devices of whoever draws. Safe to use from several threads.

    A version is copied, so that the learner may give its buffers to the next step, and is there when all of it is: who
    asks for it before waits. Sharing buffers would not do: `jax.device_put` to where an array already is makes no copy,
    and the step that donates it would take it from under the sampler.

    Args:
      meshes: of those who draw; each has a copy of its own.
      dtype: that products are computed in, by who draws and who learns alike: what they read is published in it.
    """

    def __init__(self, *meshes: jax.sharding.Mesh, dtype: str = "float32") -> None:
        self._meshes, self._dtype = meshes, dtype
        self._there = threading.Condition()
        self._versions: dict[int, list[Weights]] = {}

    def publish(self, version: int, weights: Weights) -> None:
        """Copies the weights, to all who draw, who have them when this returns."""
        cast = _copy(weights, self._dtype)
        own, placed = set(jax.tree.leaves(cast)[0].devices()), []
        for mesh in self._meshes:
            here = own == set(mesh.devices.flat)
            placed.append(cast if here else jax.device_put(cast, shardings(mesh, jax.eval_shape(lambda: cast))))
        jax.block_until_ready(placed)
        with self._there:
            self._versions[version] = placed
            self._there.notify_all()

    def at(self, place: int) -> "Place":
        """What is published, as whoever draws on the mesh of this number finds it."""
        return Place(self, place)

    def get(self, version: int, patience: float | None = None, place: int = 0) -> Weights:
        """The weights of a version, on the mesh of number `place`; waits until they are published.

        Raises:
          TimeoutError: they were not, within `patience` seconds.
          KeyError: they were, and have been forgotten.
        """
        with self._there:
            if version < min(self._versions, default=version):
                raise KeyError(f"version {version} was forgotten; there are {sorted(self._versions)}")
            if not self._there.wait_for(lambda: version in self._versions, patience):
                raise TimeoutError(
                    f"version {version} was not published within {patience} seconds; there are {sorted(self._versions)}"
                )
            return self._versions[version][place]

    def forget(self, oldest: int) -> None:
        """Lets go of versions before `oldest`, which nobody will draw with again."""
        with self._there:
            for version in [one for one in self._versions if one < oldest]:
                del self._versions[version]

    @property
    def versions(self) -> dict[int, Weights]:
        """What is there now, as it is on the first mesh."""
        with self._there:
            return {version: placed[0] for version, placed in self._versions.items()}


@dataclass(frozen=True)
class Place:
    """What a publisher has on one of its meshes."""

    publisher: Publisher
    number: int

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The weights of a version, as the publisher's `get`."""
        return self.publisher.get(version, patience, self.number)


def abstract_published(weights: Weights, dtype: str, mesh: jax.sharding.Mesh) -> Weights:
    """Shapes, dtypes and shardings over a mesh of what is published of weights, which may be abstract themselves."""
    shapes = jax.eval_shape(partial(narrowed, dtype=dtype), weights)
    places = shardings(mesh, shapes)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)


def narrowed(weights: Weights, dtype: str) -> Weights:
    """The weights as products in this dtype read them; norms and routers stay in float32."""
    return weights if dtype == "float32" else replace(weights, model=Bfloat16().shrink(weights.model))


@partial(jax.jit, static_argnums=1)
def _copy(weights: Weights, dtype: str) -> PyTree:
    return jax.tree.map(jnp.copy, narrowed(weights, dtype))
