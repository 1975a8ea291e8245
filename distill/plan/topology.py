"""Topology: devices that are described, not there."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from distill.chips import CHIPS, Chip

HOST = {
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server is asked what this machine is
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # of any kind; the topology's name has the last word
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second plan beside this one aborts on a lock file
    "TPU_MIN_LOG_LEVEL": "3",
}
PLUGINS = {"tpu": ("libtpu",), "cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin")}


@dataclass(frozen=True)
class Topology:
    """Chips of one kind and how they are laid out: `v5p:8x8x8` is a torus of 512, `h100:4x8` four hosts of eight."""

    chip: Chip
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.sizes))}"

    @staticmethod
    def parse(text: str) -> "Topology":
        """From its name.

        Raises:
          ValueError: it is none, or of a chip that is not known; says which are.
        """
        found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", text.strip().lower())
        if found is None:
            raise ValueError(f"--topology {text!r} is no chip and its layout; write v5p:8x8x8, v5e:4x4 or h100:4x8")
        name, layout = found.groups()
        if name not in CHIPS:
            raise ValueError(f"--topology {text!r}: there is no chip {name!r}; there are {', '.join(CHIPS)}")
        chip, sizes = CHIPS[name], tuple(map(int, layout.split("x")))
        wanted = chip.torus or 2
        if len(sizes) != wanted or min(sizes) < 1:
            what = "the axes of its torus" if chip.torus else "hosts and chips of each"
            raise ValueError(
                f"--topology {text!r}: {name} needs {wanted} numbers of at least 1, {what}; it has {sizes}"
            )
        return Topology(chip, sizes)

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.sizes)

    @property
    def memory(self) -> float:
        """Bytes that a program may have, of one device."""
        return self.chip.memory / self.chip.devices

    @property
    def flops(self) -> float:
        """Peak of bfloat16 products a second, of one device."""
        return self.chip.flops / self.chip.devices

    @property
    def bandwidth(self) -> float:
        """Bytes a second from and to memory, of one device."""
        return self.chip.bandwidth / self.chip.devices

    @property
    def rings(self) -> tuple[bool, ...]:
        """Of each axis of the torus, whether its ends are linked.

        Three axes are closed by optical switches, which link whole cubes: all are rings, or none is.
        """
        closed = tuple(size % self.chip.closes == 0 for size in self.sizes)
        return (all(closed),) * len(closed) if self.chip.torus == 3 else closed

    def devices(self) -> tuple[Any, ...]:
        """Descriptions of its devices, from the compiler's own library.

        Raises:
          ValueError: that is not installed, or it does not know such a layout; says what to do.
        """
        plugins = PLUGINS[self.chip.platform]
        if not any(importlib.util.find_spec(name) for name in plugins):
            raise ValueError(
                f"{self} is compiled for by {' or '.join(plugins)}, which is not installed; "
                f"pip install -c constraints.txt -e '.[{self.chip.platform}]'"
            )
        from jax.experimental import topologies

        prepare()
        try:
            if self.chip.platform == "tpu":
                found = topologies.get_topology_desc(str(self), "tpu", chip_config_name=self.chip.config)
            else:
                layout = "x".join(map(str, (1, *self.sizes)))
                found = topologies.get_topology_desc(
                    self.chip.name, self.chip.platform, target_config=self.chip.target, topology=layout
                )
        except Exception as error:
            raise ValueError(f"--topology {self}: the compiler knows no such layout: {_first(error)}") from error
        return tuple(found.devices)

    def places(self, devices: Sequence[Any]) -> np.ndarray:
        """Where each of its devices lies, [n, axes]: on the torus, or its host and its number there."""
        if self.chip.torus:
            return np.array([device.coords[: self.chip.torus] for device in devices])  # pyright: ignore
        per = self.sizes[1]
        return np.array([divmod(device.id, per) for device in devices])


def prepare() -> None:
    """Has JAX look for no device, and libtpu for no machine. Harmless when it is done again."""
    os.environ |= HOST
    jax.config.update("jax_platforms", "cpu")


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
