"""The distillation loss: soft and hard targets, weighted by a schedule and by how far the teacher is trusted."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from losses.chunk import total_loss
from losses.divergence import Divergence, ForwardKL
from losses.gate import Evidence, Gate, NoGate
from losses.hard import CrossEntropy, Hard
from losses.schedule import WSD, Constant, Cosine, Linear, Schedule
from losses.signal import Belief, Dense, Signal
from losses.tally import Tally


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
      chunk: positions of t whose logits exist at a time; None for all. See `losses.chunk`.
    """

    soft: ForwardKL | Divergence = ForwardKL()
    hard: CrossEntropy | Hard = CrossEntropy()
    alpha: Constant | Linear | Cosine | WSD | Schedule = Constant(1.0)
    temperature: Constant | Linear | Cosine | WSD | Schedule = Constant(1.0)
    gate: Evidence | NoGate | Gate = Evidence()
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

    def __call__(
        self,
        hidden: Float[Array, "b t d"],
        head: Float[Array, "d v"],
        signal: Signal | None,
        labels: Int[Array, "b t"],
        mask: Bool[Array, "b t"],
        segments: Int[Array, "b t"],
        progress: Float[Array, ""] | float,
    ) -> tuple[Tally, dict[str, Tally]]:
        """The loss over the labels that count, and what to log.

        Args:
          hidden: the student's final hidden states; position t predicts the token after it.
          head: the student's vocabulary head.
          signal: what the teacher says at the same positions; None for hard targets only. No gradient enters it.
          labels: labels[:, t] is the token that FOLLOWS position t: shifting is the data's work, done once for all.
          mask: which labels count. Others may hold anything.
          segments: number of the document at every position; a gate never looks past its document's ends.
          progress: share of the optimizer steps that are done, in [0, 1]; what schedules read.

        Returns:
          The loss (differentiable total), and tallies without gradient: loss, hard (cross-entropy), accuracy, and with
          a signal soft (the divergence), alpha, teacher_hard, agreement (of the most probable tokens) and evidence (the
          teacher's advantage in Brier score).
        """
        if signal is not None and signal.vocab != head.shape[1]:
            raise ValueError(
                f"The teacher's vocabulary has {signal.vocab} tokens and the student's {head.shape[1]}; they must be "
                "one tokenizer's. Where only the padding differs, pad the shorter and give its new logits -inf."
            )
        rows = _Rows(
            signal=signal,
            labels=jnp.where(mask, labels, 0),
            mask=mask,
            segments=segments,
            alpha=self.alpha.at(progress),
            temperature=self.temperature.at(progress),
        )
        rows = jax.lax.stop_gradient(rows)
        if signal is None:
            total, (student, _, values) = total_loss(_Hard(self.hard), self.chunk, hidden, head, rows)
            taught = {}
        else:
            total, notes = total_loss(_Mixed(self.soft, self.hard, self.gate), self.chunk, hidden, head, rows)
            (teacher, student), alpha, (values, soft) = notes
            taught = {
                "soft": soft,
                "alpha": alpha,
                "teacher_hard": -teacher.gold,
                "agreement": teacher.top == student.top,
                "evidence": teacher.brier() - student.brier(),
            }
        seen = {"loss": values, "hard": -student.gold, "accuracy": student.top == rows.labels} | taught
        return Tally(total, jnp.sum(mask, dtype=jnp.float32)), {k: Tally.of(v, mask) for k, v in seen.items()}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Rows:
    """What the student is asked, [b t], and the knobs of this moment."""

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    signal: Any
    labels: Int[Array, "b t"]
    mask: Bool[Array, "b t"]
    segments: Int[Array, "b t"]
    alpha: Float[Array, ""]
    temperature: Float[Array, ""]

    def slice(self, start: Int[Array, ""], size: int) -> "_Rows":
        def cut(x):
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)

        signal = None if self.signal is None else self.signal.slice(start, size)
        return _Rows(signal, cut(self.labels), cut(self.mask), cut(self.segments), self.alpha, self.temperature)


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
        values = jnp.where(rows.mask, self.hard(logits, rows.labels), 0.0)
        return values, values


@dataclass(frozen=True)
class _Mixed:
    """Soft and hard targets."""

    soft: Divergence
    hard: Hard
    gate: Gate

    @property
    def reach(self) -> int:
        return self.gate.reach

    def look(self, logits, rows) -> tuple[Belief, Belief]:
        return rows.signal.belief(rows.labels), Dense(logits).belief(rows.labels)

    def weigh(self, notes, rows):
        teacher, student = notes
        return rows.alpha * self.gate(teacher, student, rows.mask, rows.segments)

    def judge(self, logits, rows, weights):
        soft = self.soft(rows.signal, logits, rows.temperature)
        values = weights * soft + (1.0 - weights) * self.hard(logits, rows.labels)
        values = jnp.where(rows.mask, values, 0.0)
        return values, (values, soft)
