"""What becomes of a teacher's signal before it is used."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Int

from losses.ensemble import Corrected
from losses.refusal import as_whole
from losses.signal import Signal, Whole
from losses.sparse import TopK, top_k


@runtime_checkable
class Lens(Protocol):
    """Turns a signal into another, piece by piece of the time axis. One of one's own inherits from this class."""

    @property
    def learns_labels(self) -> bool:
        """Whether labels have a say in what becomes of the signal."""
        return True

    def __call__(self, signal: Any, labels: Int[Array, "b t"]) -> Signal:
        """The signal as the loss sees it."""
        ...


@dataclass(frozen=True)
class Clear(Lens):
    """Leaves it as it is."""

    @property
    def learns_labels(self) -> bool:
        """They have none."""
        return False

    def __call__(self, signal: Signal, labels: Int[Array, "b t"]) -> Signal:
        """The signal."""
        return signal


@dataclass(frozen=True, kw_only=True)
class Top(Lens):
    """The k most probable tokens and the mass of the rest: what a store of so many would say."""

    k: int = 64

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"Top(k={self.k}) must be at least 1 token.")

    @property
    def learns_labels(self) -> bool:
        """They have none."""
        return False

    def __call__(self, signal: Whole, labels: Int[Array, "b t"]) -> TopK:
        """The coarser signal."""
        return top_k(signal, labels, self.k)


@dataclass(frozen=True, kw_only=True)
class PutRight(Lens):
    """Mixes the label in where the teacher's first choice is wrong. See `losses.ensemble.Corrected`.

    Attributes:
      lead: probability by which the label then leads.
    """

    lead: float = 0.01

    def __post_init__(self):
        if not 0.0 <= self.lead < 1.0:
            raise ValueError(f"PutRight(lead={self.lead}) must be a probability below 1.")

    def __call__(self, signal: Whole, labels: Int[Array, "b t"]) -> Corrected:
        """The corrected signal."""
        return Corrected(as_whole(signal, str(self)), labels, jnp.float32(self.lead))
