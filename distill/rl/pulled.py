"""Weights from devices to devices of another process, by `jax.experimental.transfer`."""

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array

from distill.items import named_leaves
from distill.rl.publishing import Form
from distill.state import Weights


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """JAX's own transfer, which is experimental.

    It has no timeouts: here a thread waits, and is given up. A version that was promised to a process that died before
    it took it stays in memory until the run ends.
    """

    address: str = "127.0.0.1"
    """of this host, as those who draw reach it"""

    def begin(self, form: Form, folder: Path) -> "PullCarrier":
        """Opens a server in this process, if it has none."""
        return PullCarrier(form, self.address)


class PullCarrier:
    """Has versions ready to be pulled."""

    def __init__(self, form: Form, address: str) -> None:
        self._form, self._server = form, _server(address)
        self._versions: dict[int, list[Array]] = {}

    def send(self, version: int, named: Mapping[str, Array]) -> None:
        """Keeps the arrays, whole, on one device."""
        self._versions[version] = [jax.device_put(leaf, jax.local_devices()[0]) for leaf in named.values()]

    def source(self, version: int) -> "PullSource":
        """By which one process pulls a version, once."""
        promise = next(_PROMISES)
        self._server.await_pull(promise, self._versions[version])
        return PullSource(self._form, self._server.address(), promise)

    def forget(self, oldest: int) -> None:
        """Lets go of versions before `oldest`, but for what is promised."""
        self._versions = {version: leaves for version, leaves in self._versions.items() if version >= oldest}


_PROMISES = itertools.count(1)
"""a server knows what it promised by number, whoever it promised it for"""


@dataclass(frozen=True)
class PullSource:
    """Pulls one version from the process that has it."""

    form: Form
    address: str
    promise: int

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The weights.

        Raises:
          TimeoutError: they did not come within `patience` seconds.
        """
        pull = _Pull(self)
        pull.start()
        pull.join(patience)
        if pull.is_alive():
            raise TimeoutError(f"version {version} did not come from {self.address} within {patience} seconds")
        if pull.error is not None:
            raise pull.error
        return self.form.joined(pull.found)


class _Pull(threading.Thread):
    def __init__(self, source: PullSource) -> None:
        super().__init__(name="pull", daemon=True)
        self._source, self.found, self.error = source, dict[str, Array](), None

    def run(self) -> None:
        try:
            one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            names = named_leaves(self._source.form.shapes())
            asked = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one) for leaf in names.values()]
            leaves = _connection(self._source.address).pull(self._source.promise, asked)
            self.found = dict(zip(names, jax.block_until_ready(leaves), strict=True))
        except Exception as error:
            self.error = error


@cache
def _server(address: str) -> Any:
    from jax.experimental import transfer

    return transfer.start_transfer_server(jax.local_devices()[0].client, f"{address}:0", [f"{address}:0"])


@cache
def _connection(address: str) -> Any:
    return _server("127.0.0.1" if address.startswith("127.") else "0.0.0.0").connect(address)
