"""Publication: the learner's weights, copied for whoever draws with them, each version whole or not there."""

import threading

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from distill.mesh import shardings
from distill.state import Weights


class Publisher:
    """Versions of the weights on the actor's devices. Safe to use from several threads.

    A version is copied, so that the learner may give its buffers to the next step, and is there when all of it is: who
    asks for it before waits. Sharing buffers would not do: `jax.device_put` to where an array already is makes no copy,
    and the step that donates it would take it from under the sampler.

    Args:
      mesh: the actor's.
    """

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        self._mesh = mesh
        self._there = threading.Condition()
        self._versions: dict[int, Weights] = {}

    def publish(self, version: int, weights: Weights) -> None:
        """Copies the weights; they are the actor's when this returns."""
        places = shardings(self._mesh, jax.eval_shape(lambda: weights))
        copied = _copy(weights) if _same_devices(weights, self._mesh) else jax.device_put(weights, places)
        copied = jax.block_until_ready(copied)
        with self._there:
            self._versions[version] = copied
            self._there.notify_all()

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The weights of a version; waits until they are published.

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
            return self._versions[version]

    def forget(self, oldest: int) -> None:
        """Lets go of versions before `oldest`, which nobody will draw with again."""
        with self._there:
            for version in [one for one in self._versions if one < oldest]:
                del self._versions[version]

    @property
    def versions(self) -> dict[int, Weights]:
        """What is there now."""
        with self._there:
            return dict(self._versions)


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def _same_devices(weights: Weights, mesh: jax.sharding.Mesh) -> bool:
    return set(jax.tree.leaves(weights)[0].devices()) == set(mesh.devices.flat)
