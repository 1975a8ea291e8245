"""What must hold of a distillation loss, a gate or a divergence, each as a number that should be near 0.

A check returns by how much it is broken, relative to the size of what it compares; `TOLERANCE` is what rounding and
float32 may do. Every one is a mistake that a published library has made or was asked to repair.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from losses.gate import Place
from losses.signal import Dense

TOLERANCE = 2e-3
B, T, V = 2, 12, 9
RNG = np.random.default_rng(0)
TEACHER, STUDENT = (2.0 * RNG.normal(size=(B, T, V))).astype(np.float32), RNG.normal(size=(B, T, V)).astype(np.float32)
LABELS = RNG.integers(0, V, (B, T))
MASK = np.arange(T)[None] < np.array([[T], [T - 5]])
SEGMENTS = np.ones((B, T), np.int32)


@dataclass(frozen=True)
class Rows:
    """What a loss is given: logits of both sides, labels, which of them count, documents."""

    student: Any
    teacher: Any
    labels: Any
    mask: Any
    segments: Any


ROWS = Rows(STUDENT, TEACHER, LABELS, MASK, SEGMENTS)
Loss = Callable[[Rows], tuple[Any, Any]]
"""total and count of a loss of some rows"""


def apart(one: Any, other: Any) -> float:
    """Largest difference over largest size; infinite where a number is not finite."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(one - other).max() / max(np.abs(one).max(), np.abs(other).max(), 1e-6))


def slope(loss: Loss, rows: Rows) -> np.ndarray:
    """Gradient of the total in the student's logits."""
    return np.asarray(jax.grad(lambda x: loss(replace(rows, student=x))[0])(jnp.asarray(rows.student)))


def mean(loss: Loss, rows: Rows) -> float:
    """Total over count."""
    total, count = loss(rows)
    return float(total) / max(float(count), 1.0)


def next_token(loss: Loss) -> float:
    """A student that knows the next token beats one that repeats the current one."""
    labels = np.arange(B * T).reshape(B, T) % V  # numpy: no array program
    current = np.roll(labels, 1, axis=1)
    knows, repeats = (12.0 * np.eye(V, dtype=np.float32)[x] for x in (labels, current))
    rows = replace(ROWS, teacher=knows, labels=labels)
    good, bad = (mean(loss, replace(rows, student=x)) for x in (knows, repeats))
    return 0.0 if good < bad - 1.0 else 1.0 + good - bad


def padding(loss: Loss) -> float:
    """More padding changes neither value nor gradient, whatever it holds."""

    def pad(x: np.ndarray, value: Any) -> np.ndarray:
        return np.concatenate([x, np.full((B, 7, *x.shape[2:]), value, x.dtype)], axis=1)

    rows = ROWS
    padded = Rows(pad(STUDENT, 3.0), pad(TEACHER, -7.0), pad(LABELS, 0), pad(MASK, False), pad(SEGMENTS, 0))
    return max(
        apart(mean(loss, rows), mean(loss, padded)),
        apart(slope(loss, rows) / loss(rows)[1], slope(loss, padded)[:, :T] / loss(padded)[1]),
    )


def packing(loss: Loss) -> float:
    """Two documents in one row are worth what they are in rows of their own."""

    def join(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x[:1], x[1:]], axis=1)

    apart_rows = replace(ROWS, mask=np.ones((B, T), bool))
    one = Rows(
        *(join(x) for x in (STUDENT, TEACHER, LABELS, np.ones((B, T), bool))),
        segments=np.repeat(np.array([[1, 2]], np.int32), T, axis=1),
    )
    return max(apart(mean(loss, apart_rows), mean(loss, one)), apart(join(slope(loss, apart_rows)), slope(loss, one)))


def split(loss: Loss) -> float:
    """Totals, counts and gradients of the parts of a batch add up to those of the whole, lengths differing."""
    halves = [Rows(STUDENT[b], TEACHER[b], LABELS[b], MASK[b], SEGMENTS[b]) for b in (slice(0, 1), slice(1, 2))]
    whole, parts = loss(ROWS), [loss(half) for half in halves]
    return max(
        apart(sum(float(p[0]) for p in parts), whole[0]),
        apart(sum(float(p[1]) for p in parts), whole[1]),
        apart(np.concatenate([slope(loss, half) for half in halves]), slope(loss, ROWS)),
    )


def teacher_matters(loss: Loss) -> float:
    """Another teacher, another gradient."""
    other = replace(ROWS, teacher=-TEACHER)
    moved = np.abs(slope(loss, ROWS) - slope(loss, other)).max() / max(np.abs(slope(loss, ROWS)).max(), 1e-9)
    return 0.0 if moved > 1e-3 else 1.0 - float(moved)


def masked_labels(loss: Loss) -> float:
    """Labels that do not count may be anything, and get no gradient."""
    odd = replace(ROWS, labels=np.where(MASK, LABELS, -100))
    return max(apart(mean(loss, ROWS), mean(loss, odd)), float(np.abs(slope(loss, odd)[~MASK]).max()))


def finite_differences(loss: Loss) -> float:
    """The gradient is the slope of the value; not asked of a loss that holds parts of itself fixed."""
    # Drawn anew, so that what was asked before does not matter: some directions lead across a kink.
    direction = np.random.default_rng(1).normal(size=STUDENT.shape).astype(np.float32)
    found = slope(loss, ROWS)
    step = 1e-2
    up, down = (float(loss(replace(ROWS, student=STUDENT + s * step * direction))[0]) for s in (1, -1))
    return apart((up - down) / (2 * step), (found * direction).sum()) / 5.0


def balanced(loss: Loss) -> float:
    """At a student that has become its teacher no slope in a logit exceeds 4: a label's own, and room to spare."""
    close = replace(ROWS, student=TEACHER + np.float32(1e-4) * STUDENT)
    size = np.abs(slope(loss, close)).max()
    return 0.0 if np.isfinite(size) and size < 4.0 else float(size)


def padded_vocabulary(loss: Loss) -> float:
    """Two tokens more that both exclude by -inf change nothing."""
    grown = [np.concatenate([x, np.full((B, T, 2), -np.inf, np.float32)], axis=-1) for x in (STUDENT, TEACHER)]
    rows = replace(ROWS, student=grown[0], teacher=grown[1])
    return max(apart(mean(loss, ROWS), mean(loss, rows)), apart(slope(loss, ROWS), slope(loss, rows)[..., :V]))


def narrow(loss: Loss) -> float:
    """Logits in bfloat16 are summed in float32: 11 equal ones are worth log 11, which bfloat16 misses by 3 in 1000."""
    sure = np.where(np.arange(11) == LABELS[..., None], np.float32(8.0), np.float32(0.0))
    wide = replace(ROWS, student=np.zeros((B, T, 11), np.float32), teacher=sure)
    rows = replace(wide, student=jnp.asarray(wide.student, jnp.bfloat16), teacher=jnp.asarray(sure, jnp.bfloat16))
    return apart(mean(loss, wide), mean(loss, rows))


def unbiased(loss: Loss) -> float:
    """Over what the student might have drawn at a position, the mean gradient is that of the exact reverse KL.

    The other labels stay as they are: a baseline that looks at the draw which it judges is found out.
    """
    places = (0, 3, T - 6)
    labels = np.stack([np.where(np.arange(T)[None] == t, y, LABELS) for t in places for y in range(V)])
    rows = [np.concatenate([x] * len(labels)) for x in (STUDENT, TEACHER, MASK, SEGMENTS)]
    many = Rows(rows[0], rows[1], rearrange(labels, "n b t -> (n b) t"), rows[2], rows[3])
    found = rearrange(slope(loss, many), "(p y b) t v -> p y b t v", y=V, b=B)
    q, want = np.asarray(jax.nn.softmax(STUDENT)), np.asarray(jax.grad(_reverse_kl)(jnp.asarray(STUDENT)))
    means = [np.einsum("by,ybv->bv", q[:, t], found[n, :, :, t]) for n, t in enumerate(places)]
    return max(apart(mean, want[:, t]) for mean, t in zip(means, places, strict=True))


def _reverse_kl(student: Any) -> Any:
    q, p = jax.nn.log_softmax(student), jax.nn.log_softmax(TEACHER)
    return jnp.sum(jnp.exp(q) * (q - p))


def of_loss(loss: Any) -> Loss:
    """A loss of this project (hidden, head, signal, labels, place, progress), asked with the head of ones."""

    def ask(rows: Rows) -> tuple[Any, Any]:
        segments = jnp.asarray(rows.segments)
        place = Place(jnp.asarray(rows.mask), segments, 0 * segments)
        signal, labels = Dense(jnp.asarray(rows.teacher)), jnp.asarray(rows.labels)
        student = jnp.maximum(jnp.asarray(rows.student), -1e9)  # through a product with ones and zeros, -inf is NaN
        head = jnp.eye(student.shape[-1], dtype=student.dtype)
        tally = loss(student, head, signal, labels, place, 0.5)[0]
        return tally.total, tally.count

    return ask


def of_function(function: Callable) -> Loss:
    """A plain function (student logits, teacher logits, labels, mask) that returns a mean."""

    def ask(rows: Rows) -> tuple[Any, Any]:
        count = float(np.asarray(rows.mask).sum())
        arrays = (jnp.asarray(x) for x in (rows.student, rows.teacher, rows.labels, rows.mask))
        return function(*arrays) * count, count

    return ask
