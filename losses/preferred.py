"""Preferred: what a learner minimises on rows in pairs, a better answer to a prompt and a worse one."""

from dataclasses import dataclass, field

import jax
from einops import rearrange
from jaxtyping import Array, Float, Int, PyTree

from losses.gate import Place
from losses.logps import token_logps
from losses.loss import Loss
from losses.preference import DPO
from losses.signal import Signal
from losses.tally import Tally


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Anchor:
    """What a frozen reference thinks of rows in pairs; it comes where a teacher's word would.

    logp: log-probability, nats, of all labels of a row that count, at temperature 1.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    logp: Float[Array, " b"]


@dataclass(frozen=True, kw_only=True)
class Preferred(Loss):
    """`DPO` on rows in pairs: rows 2i and 2i + 1 are the chosen and the rejected answer to one prompt.

    Attributes:
      preference: from log-probabilities of both answers to a loss.
      chunk: positions of t whose logits exist at a time; None for all.
    """

    preference: DPO = field(default_factory=DPO)
    chunk: int | None = 64

    @property
    def learns_labels(self) -> bool:
        """Labels are compared; every second row's are to be shunned."""
        return False

    def __call__(
        self,
        hidden: Float[Array, "b t d"],
        head: Float[Array, "d v"],
        signal: Signal | Anchor | None,
        labels: Int[Array, "b t"],
        place: Place,
        progress: Float[Array, ""] | float,
    ) -> tuple[Tally, dict[str, Tally], PyTree]:
        """The loss over pairs, and what to log; called like `Distill`. A pair of which a row has no labels is padding.

        Returns:
          The loss (counts pairs); tallies without gradient: those of `DPO`, means over pairs; hard, -log q of the
          chosen answers' tokens, and entropy, of all answers' tokens, nats; None.

        Raises:
          ValueError: what comes with the rows is not an `Anchor`, or their number is odd.
        """
        if not isinstance(signal, Anchor):
            raise ValueError(
                f"Preferred learns from rows in pairs, beside what a reference thinks of them (Anchor), and was given "
                f"{type(signal).__name__}; use it in a Preference stage"
            )
        if labels.shape[0] % 2:
            raise ValueError(
                f"Preferred was given {labels.shape[0]} rows; they must be pairs, chosen and rejected in turn"
            )
        logp, entropy = token_logps(hidden, head, labels, place.mask, chunk=self.chunk, split=place.split)
        chosen, rejected = _sides(logp)
        liked, shunned = _sides(place.mask)
        loss, notes = self.preference(chosen, rejected, liked, shunned, *_sides(signal.logp))
        notes |= {"hard": Tally.of(-chosen, liked), "entropy": Tally.of(entropy, place.mask)}
        return loss, jax.lax.stop_gradient(notes), None


def _sides(rows: Array) -> tuple[Array, Array]:
    """The chosen rows and the rejected ones."""
    chosen, rejected = rearrange(rows, "(b two) ... -> two b ...", two=2)
    return chosen, rejected
