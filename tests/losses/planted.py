"""Mistakes that distillation code has been found with, and the promise of `losses.check` that names each.

    python -m tests.losses.planted

prints them all with what was found. Who made one is in its first line, where it was found in a library; the code that
shows it is this project's.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from losses import Constant, Distill, ForwardKL, Gate, JensenShannon, NoGate, ReverseKL, Tally, check
from losses.scope import neighbours
from losses.signal import contract


def on_mean(student, teacher, labels, mask):
    """Half forward KL, half cross-entropy: the mean that the plain mistakes below are variations of."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    p, q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    p = jnp.maximum(p, -1e30)
    soft = jnp.sum(jnp.exp(p) * (p - jnp.maximum(q, -1e30)), axis=-1)
    hard = -jnp.take_along_axis(q, jnp.where(mask, labels, 0)[..., None], axis=-1)[..., 0]
    return 0.5 * soft + 0.5 * hard


def right(student, teacher, labels, mask):
    return jnp.sum(jnp.where(mask, on_mean(student, teacher, labels, mask), 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def unshifted(student, teacher, labels, mask):
    """The label is the token that the student reads, not the one that follows (EasyDeL)."""
    return right(student, teacher, jnp.roll(labels, 1, axis=1), mask)


def over_padding(student, teacher, labels, mask):
    """The mean is over every position, padding included (tunix)."""
    return jnp.mean(on_mean(student, teacher, labels, jnp.ones_like(mask)))


def without_teacher(student, teacher, labels, mask):
    """The teacher's log-probability is subtracted and drops out of the gradient (AReaL)."""
    q = jax.nn.log_softmax(student)
    gold = jnp.take_along_axis(q, labels[..., None], axis=-1)[..., 0]
    told = jnp.take_along_axis(jax.nn.log_softmax(teacher), labels[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(mask, gold - jax.lax.stop_gradient(told), 0.0)) / jnp.sum(mask)


def runaway(student, teacher, labels, mask):
    """The soft term is scaled to the hard one, without bound as it goes to 0 (NeMo-RL)."""
    p, q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    soft = jnp.sum(jnp.where(mask, jnp.sum(jnp.exp(p) * (p - q), axis=-1), 0.0))
    hard = -jnp.sum(jnp.where(mask, jnp.take_along_axis(q, labels[..., None], axis=-1)[..., 0], 0.0))
    return (jax.lax.stop_gradient(hard / soft) * soft + hard) / jnp.sum(mask)


def in_bfloat16(student, teacher, labels, mask):
    """Normalises and adds up in the dtype of the logits (EasyDeL)."""
    p, q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    soft = jnp.sum(jnp.exp(p) * (jnp.maximum(p, -1e30) - jnp.maximum(q, -1e30)), axis=-1)
    hard = -jnp.take_along_axis(q, jnp.where(mask, labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(mask, 0.5 * soft + 0.5 * hard, 0.0)) / jnp.sum(mask)


class MeanOfMeans:
    """Returns a mean and a count of 1: micro-batches then weigh alike, whatever they hold (tunix, MaxText)."""

    def __call__(self, hidden, head, signal, labels, place, progress):
        tally, metrics, seen = Distill(gate=NoGate(), chunk=None)(hidden, head, signal, labels, place, progress)
        return Tally(tally.mean(), jnp.ones(())), metrics, seen


class TwiceDivided:
    """A mean that is divided by the number of tokens again (torchtune)."""

    def __call__(self, hidden, head, signal, labels, place, progress):
        tally, metrics, seen = Distill(gate=NoGate(), chunk=None)(hidden, head, signal, labels, place, progress)
        return Tally(tally.mean(), tally.count), metrics, seen


@dataclass(frozen=True)
class RenormalisedTop:
    """Both sides renormalised over the teacher's top tokens: blind to what leaks beyond (tunix, MaxText, NeMo-RL)."""

    def __call__(self, signal, logits, temperature):
        sides = signal.against(logits, temperature)
        p, q = (
            x[..., :3] - jax.nn.logsumexp(x[..., :3], axis=-1, keepdims=True) for x in (sides.teacher, sides.student)
        )
        return temperature**2 * contract(jnp.exp(p), p - q)


@dataclass(frozen=True)
class CutTop:
    """The sum over the top tokens alone, without the rest: it can be negative (verl)."""

    def __call__(self, signal, logits, temperature):
        sides = signal.against(logits, temperature)
        p, q = sides.teacher[..., :3], sides.student[..., :3]
        return temperature**2 * contract(jnp.exp(p), p - q)


@dataclass(frozen=True)
class Unscaled:
    """No factor of temperature squared (TRL)."""

    def __call__(self, signal, logits, temperature):
        return ForwardKL()(signal, logits, temperature) / temperature**2


@dataclass(frozen=True)
class Backwards:
    """The Jensen-Shannon divergence with beta counted from the student (EasyDeL)."""

    beta: float = 0.3

    def __call__(self, signal, logits, temperature):
        return replace(JensenShannon(), beta=1.0 - self.beta)(signal, logits, temperature)


@dataclass(frozen=True)
class Jumping:
    """The Jensen-Shannon divergence that becomes the forward KL at beta = 0, at once (TRL)."""

    beta: float = 0.5

    def __call__(self, signal, logits, temperature):
        ends = {0.0: ForwardKL(), 1.0: ReverseKL()}
        return (ends.get(self.beta) or JensenShannon(beta=self.beta))(signal, logits, temperature)


@dataclass(frozen=True)
class ByPiece:
    """Sums over whole pieces, so that what is left at the end is forgotten."""

    chunk: int | None = None

    def __call__(self, hidden, head, signal, labels, place, progress):
        kept = hidden.shape[1] // (self.chunk or 1) * (self.chunk or 1)
        place = replace(place, mask=place.mask & (jnp.arange(hidden.shape[1]) < kept))
        return Distill(gate=NoGate(), chunk=None)(hidden, head, signal, labels, place, progress)


@dataclass(frozen=True)
class Cooled:
    """A whole loss whose soft term lacks the temperature squared (TRL)."""

    temperature: float = 2.0

    def __call__(self, hidden, head, signal, labels, place, progress):
        heat = Constant(self.temperature)
        loss = Distill(soft=Unscaled(), gate=NoGate(), alpha=Constant(0.5), temperature=heat, chunk=None)
        return loss(hidden, head, signal, labels, place, progress)


@dataclass(frozen=True)
class Narrow:
    """Cross-entropy minus entropy, both summed in bfloat16 (EasyDeL)."""

    def __call__(self, signal, logits, temperature):
        sides = signal.against(logits, temperature)
        p, q = sides.teacher.astype(jnp.bfloat16), sides.student.astype(jnp.bfloat16)
        cross, entropy = (-jnp.sum(jnp.exp(p) * x, axis=-1, dtype=jnp.bfloat16) for x in (q, p))
        return temperature**2 * (cross - entropy).astype(logits.dtype)


@dataclass(frozen=True)
class Trapped:
    """0 / 0 behind a `where`: the value is right and the gradient is NaN."""

    def __call__(self, signal, logits, temperature):
        sides = signal.against(logits, temperature)
        p, q = jnp.exp(sides.teacher), jnp.exp(sides.student)
        return temperature**2 * jnp.sum(jnp.where(p > 0.0, p * jnp.log(p / q), 0.0), axis=-1)


class Leaky(Gate):
    """A window that runs across the ends of documents."""

    @property
    def reach(self):
        return 2

    def __call__(self, look, place):
        return jnp.mean(jnp.exp(neighbours(look.teacher.gold, 2)), axis=-1)


class Farsighted(Gate):
    """Looks further than it says."""

    def __call__(self, look, place):
        near = neighbours(look.teacher.gold, 2)
        return jnp.exp(jnp.mean(near, axis=-1))


class Unbounded(Gate):
    """The ratio of two losses as a weight."""

    def __call__(self, look, place):
        return look.student.gold / look.teacher.gold


PLANTED = [
    (unshifted, "next-token shift"),
    (over_padding, "padding"),
    (without_teacher, "the teacher matters"),
    (runaway, "bounded near the teacher"),
    (MeanOfMeans(), "accumulation and split"),
    (TwiceDivided(), "accumulation and split"),
    (RenormalisedTop(), "leaked mass has gradient"),
    (CutTop(), "positive where they do not"),
    (Unscaled(), "temperature squared"),
    (Backwards(), "ends and direction"),
    (Jumping(), "ends and direction"),
    (Cooled(), "temperature squared"),
    (ByPiece(), "pieces"),
    (in_bfloat16, "logits in bfloat16"),
    (Narrow(), "float32 sums"),
    (Trapped(), "excluded tokens"),
    (Leaky(), "documents kept apart"),
    (Farsighted(), "chunks"),
    (Unbounded(), "bounded, finite, float32"),
]


def report() -> tuple[str, bool]:
    """A line for each mistake: its promise, by how much it is broken, which others are; and whether all are found."""
    lines, every = "", True
    for mistake, promise in PLANTED:
        found = check.check(mistake)
        bad = check.broken(found)
        every &= promise in bad
        others = ", ".join(name for name in bad if name != promise)
        lines += f"{'found ' if promise in bad else 'MISSED'} {promise:27} {found[promise]:8.2g}  {_says(mistake)}\n"
        lines += f"{'':43}also: {others}\n" if others else ""
    return lines, every


def _says(mistake: Any) -> str:
    return ((mistake if callable(getattr(mistake, "__get__", None)) else type(mistake)).__doc__ or "").split("\n")[0]


if __name__ == "__main__":
    text, all_found = report()
    print(text, end="")
    sys.exit(not all_found)
