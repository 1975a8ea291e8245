"""On-policy distillation as a policy gradient: a student's own draws, rewarded by what the teacher thinks of them."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, PyTree

from losses.chunk import total_loss
from losses.gate import Place
from losses.loss import Loss
from losses.refusal import as_whole, check_vocab
from losses.signal import Belief, Dense, Signal, contract, cut, pick
from losses.tally import Tally


@dataclass(frozen=True, kw_only=True)
class SampledReverseKL(Loss):
    """The reverse KL by the tokens that the student drew: L = sum over its tokens of sg(A_t) log q(y_t), where

      r_t = log q(y_t) - log p(y_t),   A_t = sum over t' >= t of discount^(t' - t) r_t' - [centred] KL_t(q || p),

    p the teacher, q the student, sg without gradient. A teacher that likes what was drawn makes it likelier (REINFORCE,
    Williams 1992). Right for labels that this very student drew at temperature 1, and for no others: then with
    discount 0 the expected gradient is that of ReverseKL at every position (Thinking Machines, On-Policy Distillation,
    2025), with discount 1 that of the reverse KL of whole completions, which also counts where a token leads
    (MiniLLM, arXiv:2306.08543). ReverseKL on the same rows has the gradient of discount 0 without the noise of drawing,
    for the price of nothing here, where both sides' logits are at hand. Differentiating the mean of r_t itself, as some
    libraries do, loses the teacher: its expected gradient is 0.

    The value is r_t, whose mean over draws is the reverse KL; the gradient is not its slope.

    Attributes:
      discount: of what comes later, in [0, 1]; above 0 the logits are made twice (see `losses.chunk`).
      centred: subtract the position's exact reverse KL, the mean of r_t over draws: less noise, the same expectation
        (vOPD, arXiv:2605.07865). A mean over the completion would not do: what came later depends on the token.
      limit: of |r_t|, nats, so that a token which the teacher excludes is no infinity.
      chunk: positions of t whose logits exist at a time; None for all. See `losses.chunk`.
    """

    detached: ClassVar[bool] = True
    """the advantage is held fixed: the gradient is not the slope of the value"""
    on_policy: ClassVar[bool] = True
    """the labels must be the student's own draws"""

    discount: float = 0.0
    centred: bool = False
    limit: float = 20.0
    chunk: int | None = 64

    def __post_init__(self):
        if not 0.0 <= self.discount <= 1.0:
            raise ValueError(
                f"SampledReverseKL(discount={self.discount}) must lie within 0 (each token answers for itself) and 1."
            )
        if not self.limit > 0.0:
            raise ValueError(f"SampledReverseKL(limit={self.limit}) must be above 0 nats; 20 is the tested value.")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"SampledReverseKL(chunk={self.chunk}) must be at least 1 position; None takes all.")

    @property
    def learns_labels(self) -> bool:
        """Labels are draws to be judged, not truths to be learned."""
        return False

    def __call__(
        self,
        hidden: Float[Array, "b t d"],
        head: Float[Array, "d v"],
        signal: Signal | None,
        labels: Int[Array, "b t"],
        place: Place,
        progress: Float[Array, ""] | float,
    ) -> tuple[Tally, dict[str, Tally], PyTree]:
        """The loss over the tokens that were drawn, and what to log; called like `Distill`.

        Returns:
          The loss (differentiable total; its value sums r_t); tallies without gradient; None. The tallies are loss,
          soft (the exact reverse KL), hard and teacher_hard (both sides' cross-entropy of the draws), ahead (hard
          minus teacher_hard), accuracy (draws that were the first choice) and agreement (of the first choices).

        Raises:
          ValueError: there is no teacher, it does not know every token's probability, or its vocabulary is another.
        """
        if signal is None:
            raise ValueError("SampledReverseKL has no teacher to judge the student's draws; set the stage's teacher.")
        check_vocab(signal, head)
        labels = jnp.where(place.mask, labels, 0)
        rows = jax.lax.stop_gradient(_Rows(signal, labels, place))
        objective = _Policy(self.discount, self.centred, self.limit)
        total, (notes, _, _) = total_loss(objective, self.chunk, hidden, head, rows, place.split)
        values = {
            "loss": notes.ratio,
            "soft": notes.exact,
            "hard": -notes.student.gold,
            "teacher_hard": -notes.teacher.gold,
            "ahead": notes.teacher.gold - notes.student.gold,
            "accuracy": notes.student.top == labels,
            "agreement": notes.student.top == notes.teacher.top,
        }
        tallies = {name: Tally.of(value, place.mask) for name, value in values.items()}
        return Tally(total, jnp.sum(place.mask, dtype=jnp.float32)), tallies, None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Rows:
    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    signal: Any
    labels: Int[Array, "b t"]
    place: Place

    def slice(self, start: Int[Array, ""], size: int) -> "_Rows":
        place = self.place.slice(start, size)
        return replace(self, signal=self.signal.slice(start, size), labels=cut(self.labels, start, size), place=place)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Notes:
    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    teacher: Belief
    student: Belief
    ratio: Float[Array, "b t"]
    exact: Float[Array, "b t"]  # mean of the ratio over what the student might have drawn


@dataclass(frozen=True)
class _Policy:
    discount: float
    centred: bool
    limit: float

    @property
    def reach(self) -> int | None:
        return None if self.discount else 0

    def look(self, logits, rows) -> _Notes:
        signal = as_whole(rows.signal, "SampledReverseKL, for whatever was drawn,")
        p, q = signal.against(logits, jnp.float32(1.0)).whole("SampledReverseKL")
        ratios = jnp.clip(q - p, -self.limit, self.limit)
        teacher, student = rows.signal.belief(rows.labels), Dense(logits).belief(rows.labels)
        return _Notes(teacher, student, pick(ratios, rows.labels), contract(jnp.exp(q), ratios))

    def weigh(self, notes: _Notes, rows):
        ratio = jnp.where(rows.place.mask, notes.ratio, 0.0)
        returns = returned(ratio, rows.place.segments, self.discount) if self.discount else ratio
        return ratio, returns - notes.exact if self.centred else returns

    def judge(self, logits, rows, weights):
        ratio, advantage = jax.lax.stop_gradient(weights)
        drawn = pick(jax.nn.log_softmax(logits, axis=-1), rows.labels)
        values = ratio + advantage * (drawn - jax.lax.stop_gradient(drawn))
        return jnp.where(rows.place.mask, values, 0.0), ()


def returned(values: Float[Array, "b t"], segments: Int[Array, "b t"], discount: float) -> Float[Array, "b t"]:
    """Sum of a position's value and the discounted ones after it, as far as its document goes."""
    goes_on = jnp.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (0, 1)))

    def add(later: Array, each: tuple[Array, Array]) -> tuple[Array, Array]:
        value, on = each
        total = value + discount * jnp.where(on, later, 0.0)
        return total, total

    columns = rearrange(values, "b t -> t b"), rearrange(goes_on, "b t -> t b")
    _, found = jax.lax.scan(add, jnp.zeros_like(values[:, 0]), columns, reverse=True)
    return rearrange(found, "t b -> b t")
