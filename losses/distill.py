"""The distillation loss: soft and hard targets, weighted by a schedule and by how far the teacher is trusted."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from losses.adaptive import AdaptiveKL, ToDi
from losses.chunk import total_loss
from losses.divergence import (
    AlphaBeta,
    Divergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)
from losses.evidence import Evidence
from losses.gate import WSLD, Balance, Gap, Gate, Look, NoGate, Place, TeacherConfidence, TeacherGold
from losses.hard import CrossEntropy, Hard
from losses.lens import Clear, Lens, PutRight, Top
from losses.refusal import check_vocab
from losses.schedule import WSD, Constant, Cosine, Linear, Schedule
from losses.signal import Belief, Dense, Signal, cut
from losses.tally import Tally

Divergences = (
    ForwardKL | ReverseKL | JensenShannon | SkewKL | SkewReverseKL | AlphaBeta | TotalVariation | AdaptiveKL | ToDi
)
Gates = Evidence | NoGate | TeacherGold | TeacherConfidence | WSLD | Gap | Balance


@dataclass(frozen=True, kw_only=True)
class Distill:
    """L = sum over labels of a T^2 D(teacher, student) + (1 - a) CE, with a = alpha(progress) * gate.

    With the forward KL at temperature 1 the gradient in the logits is q - (a p + (1 - a) e_y): mixing the losses is
    mixing the targets, and the gate's work is to find the mixture closest to the truth. Alpha is the weight of the SOFT
    term everywhere in this project (tutorials and libraries disagree).

    Attributes:
      soft: divergence from the teacher.
      hard: loss against the labels.
      alpha: greatest weight of the soft term; may move.
      temperature: of the soft term only; may move. 1 is best in pre-training (arXiv:2410.16215).
      gate: trust in the teacher, position by position.
      lens: what becomes of the teacher's signal before it is used.
      chunk: positions of t whose logits exist at a time; None for all. See `losses.chunk`. A GPU wants about a
        thousand rows of logits at a time, rows of the batch on a device times positions (benchmarks/README.md).
    """

    detached: ClassVar[bool] = True
    """the gate is held fixed: the gradient is not the slope of the value"""
    on_policy: ClassVar[bool] = False
    """any labels will do"""

    soft: Divergences | Divergence = ForwardKL()
    hard: CrossEntropy | Hard = CrossEntropy()
    alpha: Constant | Linear | Cosine | WSD | Schedule = Constant(1.0)
    temperature: Constant | Linear | Cosine | WSD | Schedule = Constant(1.0)
    gate: Gates | Gate = Evidence()
    lens: Clear | Top | PutRight | Lens = Clear()
    chunk: int | None = 64

    def __post_init__(self):
        low, high = self.alpha.span()
        if low < 0.0 or high > 1.0:
            raise ValueError(
                f"Distill(alpha={self.alpha}) runs from {low} to {high}; it is the share of the soft targets and must "
                "stay within 0 and 1."
            )
        if self.temperature.span()[0] <= 0.0:
            raise ValueError(
                f"Distill(temperature={self.temperature}) must stay above 0; 1 leaves the teacher as it is."
            )
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"Distill(chunk={self.chunk}) must be at least 1 position; None takes all at once.")

    @property
    def learns_labels(self) -> bool:
        """Whether labels have a say: it is not always the teacher alone, as it is."""
        return self.alpha.span() != (1.0, 1.0) or self.gate != NoGate() or self.lens.learns_labels

    def __call__(
        self,
        hidden: Float[Array, "b t d"],
        head: Float[Array, "d v"],
        signal: Signal | None,
        labels: Int[Array, "b t"],
        place: Place,
        progress: Float[Array, ""] | float,
    ) -> tuple[Tally, dict[str, Tally], PyTree]:
        """The loss over the labels that count, and what to log.

        Args:
          hidden: the student's final hidden states; position t predicts the token after it.
          head: the student's vocabulary head.
          signal: what the teacher says at the same positions; None for hard targets only. No gradient enters it.
          labels: labels[:, t] is the token that FOLLOWS position t: shifting is the data's work, done once for all.
          place: which labels count (others may hold anything), where documents and domains lie, and what the gate
            remembers; () there is a gate that has seen nothing.
          progress: share of the optimizer steps that are done, in [0, 1]; what schedules read.

        Returns:
          The loss (differentiable total); tallies without gradient; what the gate saw, for its `update`, None without
          a signal. The tallies are loss, hard (cross-entropy; of every named domain too), accuracy, and with a signal
          soft (the divergence), alpha (of every named domain too), teacher_hard, ahead (hard minus teacher_hard),
          agreement (of the most probable tokens), evidence (the teacher's advantage in Brier score) and its quantiles
          in the batch (of micro-batches, the mean of theirs).
        """
        if signal is not None:
            check_vocab(signal, head)
        if not jax.tree.leaves(place.memory):
            place = replace(place, memory=self.gate.init())
        labels = jnp.where(place.mask, labels, 0)
        rows = _Rows(signal, labels, place, self.alpha.at(progress), self.temperature.at(progress))
        rows = jax.lax.stop_gradient(rows)
        if signal is None:
            total, (student, _, values) = total_loss(_Hard(self.hard), self.chunk, hidden, head, rows, place.split)
            seen, taught = None, {}
        else:
            self._check_temperature(signal, labels)
            objective = _Mixed(self.soft, self.hard, self.gate, self.lens)
            total, (look, alpha, (values, soft)) = total_loss(objective, self.chunk, hidden, head, rows, place.split)
            student, seen = look.student, self.gate.observe(look, place)
            taught = _taught(look, alpha, soft, place)
        metrics = {"loss": values, "hard": -student.gold, "accuracy": student.top == labels}
        tallies = {name: Tally.of(value, place.mask) for name, value in metrics.items()}
        for number, name in enumerate(place.names):
            tallies[f"hard_{name}"] = Tally.of(-student.gold, place.mask & (place.domains == number))
        return Tally(total, jnp.sum(place.mask, dtype=jnp.float32)), tallies | taught, jax.lax.stop_gradient(seen)

    def _check_temperature(self, signal: Signal, labels: Int[Array, "b t"]) -> None:
        shown = jax.eval_shape(self.lens, signal, labels)
        if not shown.tempers and self.temperature.span() != (1.0, 1.0):
            raise ValueError(
                f"Distill(temperature={self.temperature}) needs the whole distribution, and {type(shown).__name__} is "
                "known at temperature 1 only; take Constant(1.0), or a teacher that is there."
            )


def _taught(look: Look, alpha: Float[Array, "b t"], soft: Float[Array, "b t"], place: Place) -> dict[str, Tally]:
    """What to log of a teacher."""
    evidence = look.teacher.brier() - look.student.brier()
    values = {
        "soft": soft,
        "alpha": alpha,
        "teacher_hard": -look.teacher.gold,
        "ahead": look.teacher.gold - look.student.gold,
        "agreement": look.teacher.top == look.student.top,
        "evidence": evidence,
    }
    tallies = {name: Tally.of(value, place.mask) for name, value in values.items()}
    for number, name in enumerate(place.names):
        tallies[f"alpha_{name}"] = Tally.of(alpha, place.mask & (place.domains == number))
    some = jnp.any(place.mask)
    counted = jnp.where(place.mask | ~some, evidence, jnp.nan)
    for percent in (10, 50, 90):
        value = jnp.nanquantile(counted, percent / 100.0)
        tallies[f"evidence_p{percent}"] = Tally(jnp.where(some, value, 0.0), some.astype(jnp.float32))
    return tallies


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Rows:
    """What the student is asked, [b t], and the knobs of this moment."""

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    signal: Any
    labels: Int[Array, "b t"]
    place: Place
    alpha: Float[Array, ""]
    temperature: Float[Array, ""]

    def slice(self, start: Int[Array, ""], size: int) -> "_Rows":
        signal = None if self.signal is None else self.signal.slice(start, size)
        return replace(self, signal=signal, labels=cut(self.labels, start, size), place=self.place.slice(start, size))


@dataclass(frozen=True)
class _Hard:
    """The labels alone."""

    hard: Hard
    reach: int = 0

    def look(self, logits, rows) -> Belief:
        return Dense(logits).belief(rows.labels)

    def weigh(self, notes, rows) -> None:
        return None

    def judge(self, logits, rows, weights):
        values = jnp.where(rows.place.mask, self.hard(logits, rows.labels), 0.0)
        return values, values


@dataclass(frozen=True)
class _Mixed:
    """Soft and hard targets."""

    soft: Divergence
    hard: Hard
    gate: Gate
    lens: Lens

    @property
    def reach(self) -> int | None:
        return self.gate.reach

    def look(self, logits, rows) -> Look:
        signal = self.lens(rows.signal, rows.labels)
        sides = signal.against(logits, jnp.float32(1.0))
        return Look(signal.belief(rows.labels), Dense(logits).belief(rows.labels), sides.overlap())

    def weigh(self, notes: Look, rows):
        return rows.alpha * jax.lax.stop_gradient(self.gate(notes, rows.place))

    def judge(self, logits, rows, weights):
        soft = self.soft(self.lens(rows.signal, rows.labels), logits, rows.temperature)
        values = weights * soft + (1.0 - weights) * self.hard(logits, rows.labels)
        values = jnp.where(rows.place.mask, values, 0.0)
        return values, (values, soft)
