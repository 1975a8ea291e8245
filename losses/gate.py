"""How far to trust the teacher, position by position."""

from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from losses.signal import Belief, cut
from losses.split import Split
from losses.tally import Tally


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Look:
    """What can be seen of a position at temperature 1.

    Attributes:
      teacher, student: what both think of the label.
      overlap: sum of p q over the tokens that the signal names, the chance that both draw the same: right in
        expectation of a sample, and without what lies beyond the top k of a signal of those.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    teacher: Belief
    student: Belief
    overlap: Float[Array, "b t"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Place:
    """Where the positions lie, and what the gate remembers.

    Attributes:
      mask: which labels count.
      segments: number of the document at every position.
      domains: number of the document's domain at every position.
      memory: what the gate's `update` returned last.
      names: of the domains, by number, where their weights are to be logged apart.
      split: devices over which the positions are shared out; None: one, or the compiler sees to it.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    mask: Bool[Array, "b t"]
    segments: Int[Array, "b t"]
    domains: Int[Array, "b t"]
    memory: PyTree = ()
    names: tuple[str, ...] = field(default=(), metadata={"static": True})
    split: Split | None = field(default=None, metadata={"static": True})

    def slice(self, start: Int[Array, ""], size: int) -> "Place":
        """The positions [start, start + size) of every row."""
        mask, segments, domains = cut((self.mask, self.segments, self.domains), start, size)
        return replace(self, mask=mask, segments=segments, domains=domains)


@runtime_checkable
class Gate(Protocol):
    """Weight of the teacher's word in [0, 1] at every position; no gradient flows through it.

    A gate of one's own inherits from this class and defines `__call__`; one that looks at neighbours says how far in
    `reach`, and one with a memory defines the other three as well.
    """

    @property
    def reach(self) -> int | None:
        """Positions to either side that the weight depends on; None for all of the batch.

        The loss is computed by pieces of the time axis, and this says how far ahead a piece must have been read.
        """
        return 0

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """The weight, from what both think of the labels."""
        ...

    def init(self) -> PyTree:
        """The memory before the first step."""
        return ()

    def observe(self, look: Look, place: Place) -> PyTree:
        """What a micro-batch adds to the memory: sums, which add up over micro-batches and devices."""
        return ()

    def update(self, memory: Any, seen: Any) -> PyTree:
        """The memory after a step that saw these sums."""
        return memory


@dataclass(frozen=True)
class NoGate(Gate):
    """Trusts the teacher everywhere."""

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """One everywhere."""
        return jnp.ones_like(look.overlap)


@dataclass(frozen=True, kw_only=True)
class TeacherGold(Gate):
    """p(y)^power: trusts a teacher that finds the label likely. Goes hard on noisy labels, where it should go soft."""

    power: float = 1.0

    def __post_init__(self):
        check_positive(self, "power", self.power)

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """The label's probability to the power."""
        return jnp.exp(self.power * look.teacher.gold)


@dataclass(frozen=True, kw_only=True)
class TeacherConfidence(Gate):
    """(1 - H(p) / log v)^power: trusts a teacher that is sure, whatever it is sure of.

    Attributes:
      vocab: tokens that can occur; log of it is the greatest entropy.
      power: sharpness.
    """

    vocab: int
    power: float = 1.0

    def __post_init__(self):
        check_positive(self, "power", self.power)
        if self.vocab < 2:
            raise ValueError(f"TeacherConfidence(vocab={self.vocab}) must be at least 2 tokens.")

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """The share of the greatest entropy that the teacher lacks, to the power."""
        return jnp.clip(1.0 - look.teacher.entropy / jnp.log(float(self.vocab)), 0.0, 1.0) ** self.power


@dataclass(frozen=True)
class WSLD(Gate):
    """1 - exp(-CE_student / CE_teacher), the soft weight of weighted soft labels (arXiv:2102.00650).

    Here a convex weight; the paper adds it to a hard loss of constant weight.
    """

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """Near 1 where the student is far worse at the label, towards 0 as it beats the teacher."""
        ratio = jax.lax.stop_gradient(look.student.gold) / jnp.minimum(look.teacher.gold, -1e-6)
        return -jnp.expm1(-jnp.maximum(ratio, 0.0))


@dataclass(frozen=True, kw_only=True)
class Gap(Gate):
    """sigmoid(offset + (log p(y) - log q(y)) / scale), the log-ratio held within 5 nats.

    One label says little: a low p(y) may be a wrong teacher or a noisy label. See Evidence.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self):
        check_positive(self, "scale", self.scale)

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """Above a half where the teacher likes the label better than the student does."""
        return jax.nn.sigmoid(self.offset + log_ratio(look) / self.scale)


@dataclass(frozen=True, kw_only=True)
class Balance(Gate):
    """Gives soft and hard targets gradients of one size in the logits: a = |e_y - q| / (|e_y - q| + |p - q|).

    The norms are root mean squares over the steps before this one, as GradNorm (arXiv:1711.02257) balances them. A
    baseline: it balances magnitudes and knows nothing of who is right. Before the first step the weight is a half.

    Attributes:
      decay: of the running mean squares, a step.
    """

    decay: float = 0.95

    def __post_init__(self):
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"Balance(decay={self.decay}) must be from 0 to below 1.")

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """The same weight everywhere."""
        soft, hard = place.memory
        norms = jnp.sqrt(soft), jnp.sqrt(hard)
        share = jnp.where(norms[0] + norms[1] > 0.0, norms[1] / jnp.maximum(norms[0] + norms[1], 1e-12), 0.5)
        return jnp.full_like(look.overlap, share)

    def init(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Mean squares of zero."""
        return jnp.zeros(()), jnp.zeros(())

    def observe(self, look: Look, place: Place) -> tuple[Tally, Tally]:
        """Sums of |p - q|^2 and |e_y - q|^2."""
        soft = look.teacher.square - 2.0 * look.overlap + look.student.square
        hard = 1.0 - 2.0 * jnp.exp(look.student.gold) + look.student.square
        return Tally.of(jnp.maximum(soft, 0.0), place.mask), Tally.of(jnp.maximum(hard, 0.0), place.mask)

    def update(self, memory: Any, seen: tuple[Tally, Tally]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Both fade alike, so that their ratio needs no correction for a start from zero."""
        soft, hard = (self.decay * old + (1.0 - self.decay) * new.mean() for old, new in zip(memory, seen, strict=True))
        return soft, hard


def log_ratio(look: Look, limit: float = 5.0) -> Float[Array, "b t"]:
    """Log p(y) - log q(y), within the limit, without gradient."""
    ratio = jnp.maximum(look.teacher.gold, -1e30) - jnp.maximum(look.student.gold, -1e30)
    return jax.lax.stop_gradient(jnp.clip(ratio, -limit, limit))


def check_positive(asker: object, name: str, value: float) -> None:
    """Refuses a setting that must be above 0."""
    if value <= 0.0:
        raise ValueError(f"{type(asker).__name__}({name}={value}) must be positive.")
