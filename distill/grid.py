"""Grid: devices in the shape of a mesh, so that its axes lie along the links between them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils


def lay(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Devices by mesh axes; on a torus so that the axes lie along its rings.

    Raises:
      ValueError: the devices are of several TPU slices, between which no axis of ours is meant to lie.
    """
    slices = {getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}
    if len(slices) > 1:
        raise ValueError(
            f"the devices of a mesh of {len(devices)} lie in {len(slices)} TPU slices; all must be of one, as "
            "every axis is laid along a slice's own links: book one larger slice, or a run for each"
        )
    if devices[0].platform == "tpu" and _is_block(devices):
        return mesh_utils.create_device_mesh(shape, list(devices), allow_split_physical_axes=True)
    return np.asarray(devices).reshape(shape)  # numpy: devices are not an array program


def _is_block(devices: Sequence[Any]) -> bool:
    """Whether chips are a block of the torus; others have no rings to lie along."""
    places = {tuple(device.coords) for device in devices}
    sides = [len(set(along)) for along in zip(*places, strict=True)]
    return len(places) == math.prod(sides) > 1
