"""Publication: the learner's weights, copied for whoever draws with them, each version whole or not there."""

import queue
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from distill.hold import Bfloat16
from distill.mesh import resting, shardings
from distill.state import Weights
from models.placement import Placement

PATIENCE, TRIES = 60.0, 3
"""seconds that a copy may take, and copies that are tried, before a publication has failed"""

Made = TypeVar("Made")


class Publisher:
    """Versions of the weights on the devices of whoever draws. Safe to use from several threads.

    On a mesh where nobody learns weights lie as decoding wants them: at rest, none gathered for a token.

    A version is copied, so that the learner may give its buffers to the next step, and is there when all of it is: who
    asks for it before waits. Sharing buffers would not do: `jax.device_put` to where an array already is makes no copy,
    and the step that donates it would take it from under the sampler. A copy that does not come, or has weights that
    are not finite, is made again, a few times.

    Args:
      meshes: of those who draw; each has a copy of its own.
      dtype: that products are computed in, by who draws and who learns alike: what they read is published in it.
      faults: counts publications_failed, copies that were made again or in vain.
    """

    def __init__(self, *meshes: jax.sharding.Mesh, dtype: str = "float32", faults: Counter[str] | None = None) -> None:
        self._meshes, self._dtype = meshes, dtype
        self._there = threading.Condition()
        self._versions: dict[int, list[Weights]] = {}
        self.faults = Counter[str]() if faults is None else faults

    def publish(self, version: int, weights: Weights) -> None:
        """Copies the weights, to all who draw, who have them when this returns.

        Raises:
          RuntimeError: it could not be done, and why.
        """
        reasons: list[str] = []
        while len(reasons) < TRIES:
            try:
                placed = in_time(lambda: self._checked(weights), PATIENCE)
            except Exception as error:  # the way to the actors' devices may be any
                reasons.append(f"{type(error).__name__}: {error}")
                self.faults["publications_failed"] += 1
                continue
            with self._there:
                self._versions[version] = placed
                self._there.notify_all()
            return
        raise RuntimeError(
            f"version {version} could not be published in {TRIES} tries ({'; '.join(reasons)}); look at the actor's "
            "devices and at the weights that the stage began with, and start again: it goes on from its last checkpoint"
        )

    def copy(self, weights: Weights) -> Weights:
        """The weights as they are published, in buffers of their own, on the devices where they were."""
        return _copy(weights, self._dtype)

    def _placed(self, weights: Weights) -> list[Weights]:
        """A copy on each mesh, when all are there; where the weights were, it is the one that was made."""
        copied = self.copy(weights)
        own, shapes = set(jax.tree.leaves(copied)[0].devices()), jax.eval_shape(lambda: copied)
        return jax.block_until_ready(
            [
                copied
                if own == set(mesh.devices.flat)
                else jax.device_put(copied, shardings(mesh, shapes, resting(mesh)))
                for mesh in self._meshes
            ]
        )

    def _checked(self, weights: Weights) -> list[Weights]:
        placed = self._placed(weights)
        if not all([bool(_finite(one)) for one in placed]):
            raise FloatingPointError("the copy has weights that are not finite")
        return placed

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


def abstract_published(
    weights: Weights, dtype: str, mesh: jax.sharding.Mesh, rules: Placement | None = None
) -> Weights:
    """Shapes, dtypes and shardings over a mesh of what is published of weights, which may be abstract themselves.

    They lie as a learner's do, or by these rules: at rest, where nobody learns.
    """
    shapes = jax.eval_shape(partial(narrowed, dtype=dtype), weights)
    places = shardings(mesh, shapes, rules)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)


def narrowed(weights: Weights, dtype: str) -> Weights:
    """The weights as products in this dtype read them; norms and routers stay in float32."""
    return weights if dtype == "float32" else replace(weights, model=Bfloat16().shrink(weights.model))


@partial(jax.jit, static_argnums=1)
def _copy(weights: Weights, dtype: str) -> PyTree:
    return jax.tree.map(jnp.copy, narrowed(weights, dtype))


@jax.jit
def _finite(tree: PyTree) -> Bool[Array, ""]:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def in_time(make: Callable[[], Made], seconds: float) -> Made:
    """What is made in a thread of its own; if it hangs there, nobody waits for it any more.

    Raises:
      TimeoutError: it is not there after so many seconds.
      Exception: what was raised in making it.
    """
    done: queue.SimpleQueue[tuple[Made, None] | tuple[None, Exception]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((make(), None))
        except Exception as error:
            done.put((None, error))

    threading.Thread(target=work, name="publication", daemon=True).start()
    try:
        found = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no copy after {seconds:g} seconds") from None
    if found[1] is not None:
        raise found[1]
    return found[0]
