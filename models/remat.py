"""Remat: what a model keeps of its forward pass for the gradient; the rest is computed again when it is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from jax.ad_checkpoint import checkpoint_name

PRODUCT = "product"
"""name of what `Products` keeps"""


@runtime_checkable
class Remat(Protocol):
    """Wraps a layer."""

    def wrap(self, layer: Callable[..., Any], scanned: bool) -> Callable[..., Any]:
        """The same layer, with another appetite for memory.

        scanned: its gradient is computed in a scan of its own, where nothing can merge what is computed again with the
            first computation; elsewhere that has to be forbidden.
        """
        ...


@dataclass(frozen=True)
class Everything:
    """Nothing is computed twice."""

    def wrap(self, layer: Callable[..., Any], scanned: bool) -> Callable[..., Any]:
        """The layer as it is."""
        return layer


@dataclass(frozen=True)
class Inputs:
    """The input of each layer alone is kept: a third more products, and memory of one layer at a time."""

    def wrap(self, layer: Callable[..., Any], scanned: bool) -> Callable[..., Any]:
        """Nothing but what goes in is kept."""
        return jax.checkpoint(layer, prevent_cse=not scanned)


@dataclass(frozen=True)
class Products:
    """Inputs, and what the large matrix products and attention gave: only cheap work is done twice."""

    def wrap(self, layer: Callable[..., Any], scanned: bool) -> Callable[..., Any]:
        """What carries the name `PRODUCT` is kept."""
        kept = jax.checkpoint_policies.save_only_these_names(PRODUCT)
        return jax.checkpoint(layer, prevent_cse=not scanned, policy=kept)


def product(x: jax.Array) -> jax.Array:
    """Names an array that `Products` keeps."""
    return checkpoint_name(x, PRODUCT)
