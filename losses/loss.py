"""What a learner needs of its loss."""

from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, PyTree

from losses.gate import Gate, NoGate, Place
from losses.signal import Signal
from losses.tally import Tally


@runtime_checkable
class Loss(Protocol):
    """What a learner minimises. One of one's own inherits from this class and defines `__call__`, as `Distill` does."""

    on_policy: ClassVar[bool] = False
    """whether labels must be the student's own draws"""

    @property
    def gate(self) -> Gate:
        """How far the teacher is trusted; its memory is kept for the loss."""
        return NoGate()

    @property
    def learns_labels(self) -> bool:
        """Whether labels have a say."""
        return True

    def __call__(
        self,
        hidden: Float[Array, "b t d"],
        head: Float[Array, "d v"],
        signal: Signal | None,
        labels: Int[Array, "b t"],
        place: Place,
        progress: Float[Array, ""] | float,
    ) -> tuple[Tally, dict[str, Tally], PyTree]:
        """The loss over the labels that count, what to log (loss and hard among it), and what the gate saw."""
        ...
