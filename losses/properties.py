"""What must hold of a divergence, of a gate and of a loss with fields, as in `losses.invariants`: numbers near 0.

None where a promise has no meaning for what is asked.
"""

from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from losses.distill import Distill
from losses.divergence import ForwardKL, ReverseKL
from losses.gate import Gate, Look, Place
from losses.invariants import LABELS, MASK, ROWS, SEGMENTS, STUDENT, TEACHER, B, T, V, apart, mean, of_loss, slope
from losses.schedule import Constant
from losses.signal import Belief, Dense, Signal
from losses.sparse import top_k


def value_and_slope(divergence: Any, signal: Signal, student: Any, temperature: float = 1.0) -> tuple[Any, Any]:
    """A divergence [b t], and the gradient of its sum in the student's logits."""

    def total(student):
        values = divergence(signal, student, jnp.float32(temperature))
        return jnp.sum(values), values

    (_, values), slope = jax.value_and_grad(total, has_aux=True)(jnp.asarray(student, jnp.float32))
    return np.asarray(values), np.asarray(slope)


def zero_at_match(divergence: Any) -> float:
    """It is 0 where student and teacher agree, and its gradient too."""
    value, slope = value_and_slope(divergence, Dense(jnp.asarray(TEACHER)), TEACHER)
    return float(max(np.abs(value).max(), np.abs(slope).max())) if np.isfinite(slope).all() else float("inf")


def positive(divergence: Any) -> float:
    """It is above 0 where they do not agree, whole or over the top tokens."""
    worst = 0.0
    for signal in (Dense(jnp.asarray(TEACHER)), _top(3)):
        for student in (STUDENT, TEACHER + 0.3 * STUDENT, -TEACHER):
            value, _ = value_and_slope(divergence, signal, student)
            worst = max(worst, float(-value.min()), 1.0 if value.max() <= 1e-6 else 0.0)
    return worst


def temperature(divergence: Any) -> float:
    """The size of its gradient does not fall with a high temperature: the factor T^2 is there, once."""
    norms = [
        np.linalg.norm(value_and_slope(divergence, Dense(jnp.asarray(TEACHER)), STUDENT, t)[1]) for t in (30.0, 60.0)
    ]
    return max(0.0, abs(float(norms[1] / max(norms[0], 1e-12)) - 1.0) - 0.1)


def direction(divergence: Any) -> float | None:
    """One with a field `beta` tends to the forward KL's gradient near 0, and to the reverse KL's near 1.

    It does not jump to it: at an end, if it takes one, it is what it is beside it.
    """
    if not _has(divergence, "beta"):
        return None
    dense, worst = Dense(jnp.asarray(TEACHER)), 0.0
    for end, near, like in ((0.0, 0.01, ForwardKL()), (1.0, 0.99, ReverseKL())):
        beside, got = value_and_slope(replace(divergence, beta=near), dense, STUDENT)
        want = value_and_slope(like, dense, STUDENT)[1]
        cosine = float((got * want).sum() / (np.linalg.norm(got) * np.linalg.norm(want) + 1e-30))
        worst = max(worst, 1.0 - cosine - 0.05)
        with suppress(ValueError):  # one that refuses its ends has no jump there
            worst = max(worst, apart(value_and_slope(replace(divergence, beta=end), dense, STUDENT)[0], beside) - 0.2)
    return worst


def coarse(divergence: Any) -> float:
    """The top k of all v tokens say what the whole distribution says."""
    whole = value_and_slope(divergence, Dense(jnp.asarray(TEACHER)), STUDENT)
    top = value_and_slope(divergence, _top(V), STUDENT)
    return max(apart(whole[0], top[0]), apart(whole[1], top[1]))


def leak(divergence: Any) -> float:
    """A student that is right within the teacher's top tokens but has half its mass beyond them is told so."""
    signal = _top(3)
    ids, known = np.asarray(signal.ids), np.asarray(signal.log_probs)
    beyond = np.log(np.exp(known).sum(-1, keepdims=True) / (V - 3))
    student = np.broadcast_to(beyond, TEACHER.shape).astype(np.float32).copy()
    np.put_along_axis(student, ids, known, axis=-1)
    value, slope = value_and_slope(divergence, signal, student)
    outside = slope.copy()
    np.put_along_axis(outside, ids, 0.0, axis=-1)
    leaks = np.exp(np.asarray(signal.rest)) < 0.25
    return 0.0 if value[leaks].min() > 0.02 and outside.sum(-1)[leaks].min() > 0.02 else 1.0


def small_values(divergence: Any) -> float:
    """Half the distance of nearly equal logits over 500 tokens, a quarter of the value (or half, of first order).

    Sums in bfloat16 lose a divergence of thousandths in an entropy of several nats.
    """
    random = np.random.default_rng(1)
    teacher, way = random.normal(size=(2, 1, 32, 500)).astype(np.float32)
    signal = Dense(jnp.asarray(teacher, jnp.bfloat16))
    exact = np.asarray(signal.logits, np.float32)
    near, far = (value_and_slope(divergence, signal, exact + x * way)[0].mean() for x in (0.02, 0.04))
    ratio = float(far / near) if near > 0.0 else 0.0
    return max(0.0, min(abs(ratio / 4.0 - 1.0), abs(ratio / 2.0 - 1.0)) - 0.05)


def excluded(divergence: Any) -> float:
    """Tokens that both exclude by -inf change neither value nor gradient: no NaN hides behind a `where`."""
    wide = [np.concatenate([x, np.full((B, T, 2), -np.inf, np.float32)], axis=-1) for x in (TEACHER, STUDENT)]
    value, slope = value_and_slope(divergence, Dense(jnp.asarray(wide[0])), wide[1])
    want, want_slope = value_and_slope(divergence, Dense(jnp.asarray(TEACHER)), STUDENT)
    return max(
        apart(value, want), apart(slope[..., :V], want_slope), float(np.abs(np.nan_to_num(slope[..., V:], nan=1)).max())
    )


def looks(spread: float = 2.0) -> Look:
    """What a gate sees of the rows, the student's logits by a factor."""
    teacher, student = jnp.asarray(TEACHER), jnp.asarray(STUDENT) * spread
    labels = jnp.asarray(LABELS)
    overlap = jnp.sum(jax.nn.softmax(teacher) * jax.nn.softmax(student), axis=-1)
    return Look(Dense(teacher).belief(labels), Dense(student).belief(labels), overlap)


def place(gate: Gate) -> Place:
    """Where the rows lie, and a gate that has seen nothing."""
    segments = jnp.asarray(SEGMENTS)
    return Place(jnp.asarray(MASK), segments, 0 * segments, gate.init())


def bounded(gate: Gate) -> float:
    """Its weight is within 0 and 1, in float32, at random beliefs and at certain ones, before and after a step."""
    gold = jnp.tile(jnp.array([0.0, -1e30, 0.0, -1e30]), (B, T // 4))
    zeros = jnp.zeros((B, T))
    sure = Belief(gold, jnp.ones((B, T)), zeros, zeros.astype(jnp.int32))
    other = replace(sure, gold=gold[:, ::-1])
    worst, here = 0.0, place(gate)
    for look in (looks(), looks(0.0), Look(looks().teacher, looks().teacher, zeros), Look(sure, other, zeros)):
        for now in (here, replace(here, memory=gate.update(gate.init(), gate.observe(look, here)))):
            weight = jnp.asarray(gate(look, now))
            if weight.dtype != jnp.float32 or not bool(jnp.isfinite(weight).all()):
                return float("inf")
            worst = max(worst, float(jnp.max(weight)) - 1.0, -float(jnp.min(weight)))
    return worst


def documents(gate: Gate) -> float | None:
    """A document's weights do not depend on the next document in the row; not asked of one that pools over the row."""
    if gate.reach is None:
        return None
    half = T // 2
    segments = jnp.asarray(np.where(np.arange(T)[None] < half, 1, 2) + 0 * SEGMENTS)
    here = replace(place(gate), mask=jnp.ones((B, T), bool), segments=segments)
    look, other = looks(), jax.tree.map(lambda x: x, looks())
    swap = lambda x: jnp.concatenate([x[:, :half], x[:, half:] * 0], axis=1)  # noqa: E731
    other = jax.tree.map(swap, other)
    return apart(gate(look, here)[:, :half], gate(other, here)[:, :half])


def reaches(gate: Gate) -> float:
    """Its weight depends on no position beyond its `reach`: taken by pieces, the loss is what it is at once."""
    rows = {"hidden": jnp.asarray(STUDENT), "head": jnp.eye(V), "signal": Dense(jnp.asarray(TEACHER))}
    found = []
    for chunk in (None, 1):
        loss = Distill(gate=gate, chunk=chunk)
        run = jax.value_and_grad(
            lambda hidden, loss=loss: (
                loss(hidden, rows["head"], rows["signal"], jnp.asarray(LABELS), place(gate), 0.5)[0].total
            )
        )
        found.append(run(rows["hidden"]))
    return max(apart(found[0][0], found[1][0]), apart(found[0][1], found[1][1]))


def heat(loss: Any) -> float | None:
    """What a teacher adds to the gradient does not fall with a high temperature: asked of a field `temperature`."""
    if not _has(loss, "temperature"):
        return None
    plain = isinstance(loss.temperature, int | float)
    added = []
    for degrees in (30.0, 60.0):
        hot = of_loss(replace(loss, temperature=degrees if plain else Constant(degrees)))
        added.append(np.linalg.norm(slope(hot, ROWS) - slope(hot, replace(ROWS, teacher=-TEACHER))))
    return max(0.0, abs(float(added[1] / max(added[0], 1e-12)) - 1.0) - 0.1)


def pieces(loss: Any) -> float | None:
    """Taken by pieces of the time axis it is what it is at once: value and gradient of one with a field `chunk`."""
    if not _has(loss, "chunk"):
        return None
    whole, worst = of_loss(replace(loss, chunk=None)), 0.0
    for chunk in (1, 5):
        cut = of_loss(replace(loss, chunk=chunk))
        worst = max(worst, apart(mean(whole, ROWS), mean(cut, ROWS)), apart(slope(whole, ROWS), slope(cut, ROWS)))
    return worst


def _has(subject: Any, name: str) -> bool:
    return is_dataclass(subject) and name in {field.name for field in fields(subject)}


def _top(k: int):
    return top_k(Dense(jnp.asarray(TEACHER)), jnp.asarray(LABELS), k)
