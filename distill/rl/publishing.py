"""Publishing: how weights come from who learns to who draws, in this process or in others, whole or not at all.

`Publisher` is the way within a process. `Across` is it to other processes, by a `Carrier`: a file system that all see
(`on_disk`), Ray's object store (`ray_store`), or JAX's own transfer from devices to devices (`pulled`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array

from distill.items import named_leaves
from distill.mesh import Mesh, resting
from distill.rl.actor import Source
from distill.rl.publisher import Publisher, abstract_published, in_time
from distill.state import Weights, abstract_weights
from models.config import Config

PATIENCE = 600.0
"""seconds that a version may take to other processes"""


@runtime_checkable
class Publishing(Protocol):
    """What the learner's side asks of a way to publish."""

    def publish(self, version: int, weights: Weights) -> None:
        """Copies the weights; whoever draws can have them when this returns."""
        ...

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The weights of a version; waits until they are published, at most `patience` seconds."""
        ...

    def forget(self, oldest: int) -> None:
        """Lets go of versions before `oldest`."""
        ...

    @property
    def versions(self) -> dict[int, Weights]:
        """What is there now, on devices of this process."""
        ...


@dataclass(frozen=True, kw_only=True)
class Form:
    """What published weights are, for a process that has none yet."""

    model: Config
    biased: bool
    """whether routers have a selection bias"""
    dtype: str
    """that products are computed in"""
    mesh: Mesh
    """of that process, in the numbers of its own devices"""

    def shapes(self) -> Weights:
        """Shapes, dtypes and shardings, in the process that asks."""
        mesh = self.mesh.build()
        return abstract_published(abstract_weights(self.model, self.biased, mesh), self.dtype, mesh, resting(mesh))

    def joined(self, named: Mapping[str, Any]) -> Weights:
        """Weights on the devices of the process that asks, from arrays by their names.

        Raises:
          ValueError: they are not those of this form.
        """
        shapes = self.shapes()
        wanted = named_leaves(shapes)
        if _kinds(wanted) != _kinds(named):
            raise ValueError(
                f"the {len(named)} arrays that came are not the {len(wanted)} of this model; who learns and who draws "
                "must run the same version of the project, on the same experiment"
            )
        placed = [jax.device_put(named[name], leaf.sharding) for name, leaf in wanted.items()]
        return jax.block_until_ready(jax.tree.unflatten(jax.tree.structure(shapes), placed))


def _kinds(named: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (leaf.shape, leaf.dtype) for name, leaf in named.items()}


@runtime_checkable
class Carrier(Protocol):
    """A way to other processes."""

    def send(self, version: int, named: Mapping[str, Array]) -> None:
        """Makes the arrays of a version available to them; all or nothing."""
        ...

    def source(self, version: int) -> Source:
        """What a process is sent that is to have a version: it gets it by that, once."""
        ...

    def forget(self, oldest: int) -> None:
        """Lets go of versions before `oldest`."""
        ...


@runtime_checkable
class Way(Protocol):
    """A choice of a carrier, as an experiment makes it."""

    def begin(self, form: Form, folder: Path) -> Carrier:
        """A carrier of weights of this form; `folder` is the stage's own in the run's."""
        ...


class Across:
    """Publishes to other processes. A copy of each version stays on the learner's mesh, for its checkpoints.

    Args:
      home: the learner's mesh.
      dtype: as for `Publisher`.
      carrier: the way.
      faults: as for `Publisher`, of the copy here.
    """

    def __init__(
        self, home: jax.sharding.Mesh, dtype: str, carrier: Carrier, faults: Counter[str] | None = None
    ) -> None:
        self._here, self._carrier = Publisher(home, dtype=dtype, faults=faults), carrier

    def publish(self, version: int, weights: Weights) -> None:
        """Copies the weights, and sends them; other processes can have them when this returns.

        Raises:
          RuntimeError: they could not be copied, and why.
          TimeoutError: they were not sent in time. That is not tried again: it might meet the first try on its way.
        """
        self._here.publish(version, weights)
        named = named_leaves(self._here.get(version))
        try:
            in_time(lambda: self._carrier.send(version, named), PATIENCE)
        except TimeoutError as error:
            raise TimeoutError(
                f"version {version} was not sent to other processes within {PATIENCE:g} seconds, by "
                f"{type(self._carrier).__name__}; look at the way there, and start again: it goes on from its last "
                "checkpoint"
            ) from error

    def source(self, version: int) -> Source:
        """By which another process gets a version, once."""
        return self._carrier.source(version)

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The copy of a version in this process, as of `Publisher`."""
        return self._here.get(version, patience)

    def forget(self, oldest: int) -> None:
        """Lets go of versions before `oldest`, here and there."""
        self._here.forget(oldest)
        self._carrier.forget(oldest)

    @property
    def versions(self) -> dict[int, Weights]:
        """The copies in this process."""
        return self._here.versions
