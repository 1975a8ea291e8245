"""Weights by Ray's object store: put once, read by every process of a host from the same memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array

from distill.rl.publishing import Form
from distill.rl.ray_cluster import ray_module
from distill.state import Weights


@dataclass(frozen=True)
class ObjectStore:
    """The usual way between Ray's processes."""

    def begin(self, form: Form, folder: Path) -> "StoreCarrier":
        """Nothing is needed but that Ray runs."""
        return StoreCarrier(form)


class StoreCarrier:
    """Puts versions into the store."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._versions: dict[int, Any] = {}

    def send(self, version: int, named: Mapping[str, Array]) -> None:
        """Copies a version to the host, and from there into the store."""
        self._versions[version] = ray_module().put(jax.device_get(dict(named)))

    def source(self, version: int) -> "StoreSource":
        """Where it is in the store."""
        return StoreSource(self._form, [self._versions[version]])

    def forget(self, oldest: int) -> None:
        """Lets go of versions before `oldest`; the store frees them when nobody reads them."""
        self._versions = {version: one for version, one in self._versions.items() if version >= oldest}


@dataclass(frozen=True)
class StoreSource:
    """Reads a version from the store."""

    form: Form
    found: list[Any]

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The weights.

        Raises:
          TimeoutError: the store did not hand them out within `patience` seconds.
        """
        ray = ray_module()
        try:
            return self.form.joined(ray.get(self.found[0], timeout=patience))
        except ray.exceptions.GetTimeoutError as error:
            raise TimeoutError(f"version {version} did not come from Ray's store within {patience} seconds") from error
