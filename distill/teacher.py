"""Teachers: what a stage hears while it learns. Each turns a batch into a Signal, or into silence."""

from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from distill.data.batch import Batch
from distill.state import Weights
from losses import Anchor, Credit, Ensemble, Projected, Signal
from models.execution import Execution
from models.trace import Trace


@runtime_checkable
class Teacher(Protocol):
    """Anything that says something about every position of a batch: a model, a store of its targets, an ensemble."""

    def signal(self, batch: Batch) -> Signal | Credit | Anchor | None:
        """What it says; None when it has nothing to say and learners follow the labels alone."""
        ...


@runtime_checkable
class Open(Teacher, Protocol):
    """A teacher whose layers can be seen."""

    def open(self, batch: Batch) -> tuple[Signal, Trace]:
        """What it says, and the pass in which it found it, both without gradient."""
        ...


def listen(teacher: Teacher, batch: Batch, inside: bool) -> tuple[Signal | Credit | Anchor | None, Trace | None]:
    """What a teacher says of a batch and, if asked, its inside: from one pass.

    Raises:
      ValueError: its inside is not to be had.
    """
    if not inside:
        return teacher.signal(batch), None
    if not isinstance(teacher, Open):
        raise ValueError(
            f"a {type(teacher).__name__} hands over no hidden states, and a learner's features or routing asks for "
            "them; a LiveTeacher does"
        )
    return teacher.open(batch)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Silent:
    """No teacher."""

    def signal(self, batch: Batch) -> None:
        """Nothing."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StoredTeacher:
    """A teacher that is not here: what it said comes with the batch (`distill.stored`)."""

    def signal(self, batch: Batch) -> Signal | Credit | Anchor | None:
        """What it said, what the rows earned, or a reference thinks of them; silence where there are no targets."""
        return batch.targets


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeardTeacher:
    """A teacher on a mesh of its own: its hidden states come with the batch, its head is here (`distill.apart`)."""

    __no_type_check__ = True  # a plan has shapes at its leaves

    head: Float[Array, "d v"]

    def signal(self, batch: Batch) -> Signal | None:
        """What it said of the batch; silence where it was not asked."""
        return None if batch.heard is None else Projected(batch.heard, self.head)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BesideRewards:
    """A teacher of rows that were drawn and judged: its hidden states come with them, its head is here."""

    __no_type_check__ = True  # a plan has shapes at its leaves

    head: Float[Array, "d v"]

    def signal(self, batch: Batch) -> Credit:
        """What the rows have earned, and what it says of every token."""
        assert isinstance(batch.targets, Credit) and batch.heard is not None
        return replace(batch.targets, said=Projected(batch.heard, self.head))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LiveTeacher:
    """A frozen model asked once per batch. It hands over hidden states; learners re-project them by its head."""

    weights: Weights
    execution: Execution = field(default_factory=Execution, metadata={"static": True})

    def signal(self, batch: Batch) -> Projected:
        """The teacher's hidden states [b, t, d] and head [d, v], without gradient."""
        weights = self.weights
        hidden, _ = weights.model(batch.tokens, batch.layout(), weights.bias, self.execution, batch.images)
        return jax.lax.stop_gradient(Projected(hidden, weights.model.head[...].astype(hidden.dtype)))

    def open(self, batch: Batch) -> tuple[Projected, Trace]:
        """What `signal` says, and all layers' states of that same pass: memory of its depth times [b t d]."""
        weights = self.weights
        trace = weights.model.trace(batch.tokens, batch.layout(), weights.bias, self.execution, batch.images)
        projected = Projected(trace.hidden, weights.model.head[...].astype(trace.hidden.dtype))
        return jax.lax.stop_gradient((projected, trace))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Council:
    """Several frozen models, each asked once per batch: what is heard is the mean of their probabilities."""

    members: tuple[LiveTeacher, ...]

    def signal(self, batch: Batch) -> Ensemble:
        """All members' hidden states and heads, in equal shares."""
        shares = jnp.full(len(self.members), 1.0 / len(self.members))
        return Ensemble(tuple(each.signal(batch) for each in self.members), shares)
