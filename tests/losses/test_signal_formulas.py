"""Each divergence of each signal it is defined for, value and gradient, beside its statement in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import (
    AdaptiveKL,
    AlphaBeta,
    Corrected,
    Dense,
    Ensemble,
    ForwardKL,
    JensenShannon,
    Projected,
    ReverseKL,
    Sampled,
    SkewKL,
    SkewReverseKL,
    ToDi,
    TotalVariation,
)
from losses.sparse import top_k
from tests.losses import formulas

V, D, K = 11, 5, 4
RNG = np.random.default_rng(3)
HIDDEN, HEAD = RNG.normal(size=(D, 2, D)), 2.0 * RNG.normal(size=(D, V))
LABEL = 6
ONE_HOT = np.where(np.arange(V) == 2, 1e4, 0.0)
NEVER = np.where(np.arange(V) == 3, -np.inf, 0.0)
ONLY = np.where(np.arange(V) == 2, 0.0, -np.inf)


def adaptive(p, q):
    share = formulas.adaptive_kl(p, q)[1]
    return lambda p, q: share * formulas.kl(p, q) + (1 - share) * formulas.kl(q, p)


def todi(p, q):
    w = formulas.todi(p, q)[1]
    return lambda p, q: (w * np.exp(p) * (p - q) + (1 - w) * np.exp(q) * (q - p)).sum()


def plain(formula):
    return lambda p, q: formula


DIVERGENCES = [
    (ForwardKL(), plain(formulas.forward_kl)),
    (ReverseKL(), plain(formulas.reverse_kl)),
    (JensenShannon(), plain(formulas.jensen_shannon)),
    (JensenShannon(normalise=True), plain(lambda p, q: formulas.jensen_shannon(p, q, normalise=True))),
    (SkewKL(), plain(formulas.skew_kl)),
    (SkewReverseKL(), plain(formulas.skew_reverse_kl)),
    (AlphaBeta(), plain(formulas.alpha_beta)),
    (TotalVariation(), plain(formulas.total_variation)),
    (AdaptiveKL(), adaptive),
    (ToDi(), todi),
]
"""with what of its statement is held fixed where the student stands"""

TEACHER, STUDENT = 3.0 * RNG.normal(size=(2, V))
CASES = {
    "random": (TEACHER, STUDENT),
    "close": (TEACHER, TEACHER + 0.05 * STUDENT),
    "far": (20.0 * TEACHER, -20.0 * TEACHER),
    "masked in both": (TEACHER + NEVER, STUDENT + NEVER),
    "teacher excludes a token": (TEACHER + NEVER, STUDENT),
    "one-hot teacher": (ONE_HOT, STUDENT),
    "teacher one-hot by -inf": (ONLY, STUDENT),
    "student at 1e4": (TEACHER, np.roll(ONE_HOT, 1)),
    "shifted by 1e4": (TEACHER + 1e4, STUDENT - 1e4),
    "bfloat16": tuple(np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in (TEACHER, STUDENT)),
}
OTHER = -TEACHER  # of the ensemble


def rows(side):
    """The cases as positions of one row."""
    return jnp.asarray(np.stack([pair[side] for pair in CASES.values()])[None], jnp.float32)


def dense(teacher):
    return formulas.log_softmax(teacher)


def ensemble(teacher):
    p = dense(teacher), dense(OTHER)
    return np.maximum(np.logaddexp(np.log(0.25) + p[0], np.log(0.75) + p[1]), formulas.FLOOR)


def corrected(teacher, lead=0.05):
    p = dense(teacher)
    gold, rival = np.exp(p[LABEL]), np.exp(np.delete(p, LABEL).max())
    m = (rival - gold + lead) / (1.0 + rival - gold) if rival > gold else 0.0
    return np.where(np.arange(V) == LABEL, np.log((1 - m) * gold + m) if m else p[LABEL], np.log1p(-m) + p)


def coarse(log_probs, ids):
    """The logarithms of some tokens and of the rest together; of sums too small for float64, of the largest."""
    rest = np.delete(log_probs, ids)
    return np.append(log_probs[ids], rest.max() + np.log(np.exp(rest - rest.max()).sum()))


def best(teacher):
    return np.asarray(jax.lax.top_k(jnp.maximum(jnp.asarray(dense(teacher), jnp.float32), formulas.FLOOR), K)[1])


LABELS = jnp.full((1, len(CASES)), LABEL)
SIGNALS = {
    "dense": (Dense(rows(0)), lambda teacher: (dense(teacher), lambda q: q)),
    "ensemble": (
        Ensemble(
            (Dense(rows(0)), Dense(jnp.broadcast_to(jnp.asarray(OTHER, jnp.float32), rows(0).shape))),
            jnp.array([0.25, 0.75]),
        ),
        lambda teacher: (ensemble(teacher), lambda q: q),
    ),
    "corrected": (
        Corrected(Dense(rows(0)), LABELS, jnp.float32(0.05)),
        lambda teacher: (corrected(teacher), lambda q: q),
    ),
    "top-k": (
        top_k(Dense(rows(0)), LABELS, K),
        lambda teacher: (coarse(dense(teacher), best(teacher)), lambda q: coarse(q, best(teacher))),
    ),
}


def ours(divergence, signal, student):
    """Values [t] and gradients [t v]."""

    def total(student):
        values = divergence(signal, student.astype(jnp.float32), jnp.float32(1.0))
        return jnp.sum(values), values

    (_, values), slopes = jax.value_and_grad(total, has_aux=True)(student)
    return np.asarray(values[0], np.float64), np.asarray(slopes[0], np.float64)


def stated(value, student):
    """A function of the student's logits and its central differences."""
    slope = np.zeros(V)
    for i in np.flatnonzero(np.isfinite(student)):
        step = np.where(np.arange(V) == i, 1e-5, 0.0)
        slope[i] = (value(student + step) - value(student - step)) / 2e-5
    return value(student), slope


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(("divergence", "fixed"), DIVERGENCES, ids=[str(one) for one, _ in DIVERGENCES])
def test_value_and_gradient_are_the_statements_whatever_the_logits(divergence, fixed, signal):
    made, told = SIGNALS[signal]
    values, slopes = ours(divergence, made, rows(1))
    assert np.isfinite(values).all() and np.isfinite(slopes).all()
    for place, (case, (teacher, student)) in enumerate(CASES.items()):
        p, seen = told(teacher)
        formula = fixed(p, seen(formulas.log_softmax(student)))
        want, slope = stated(lambda z, p=p, seen=seen, f=formula: f(p, seen(formulas.log_softmax(z))), student)
        # Logits near 1e4 have 3 digits after the point in float32: that much of them is not ours to know.
        loose = 1e-2 if "1e4" in case else 0.0
        np.testing.assert_allclose(values[place], want, rtol=5e-5 + loose, atol=2e-5 + loose, err_msg=case)
        size = max(np.abs(slope).max(), 1e-2)
        np.testing.assert_allclose(
            slopes[place], slope, atol=(5e-5 + loose) * size + 2e-6 + 2e-7 * abs(want), err_msg=case
        )


def half(signal):
    """A signal whose words are bfloat16, and the same numbers in float32; shares and leads are nobody's words."""
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim == 3 else x, signal)
    return low, jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, low)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: top_k(x, LABELS, K)], ids=["whole", "top-k"])
@pytest.mark.parametrize("signal", ["dense", "ensemble", "corrected"])
@pytest.mark.parametrize("divergence", [one for one, _ in DIVERGENCES], ids=str)
def test_a_teacher_in_bfloat16_is_computed_with_in_float32(divergence, signal, make):
    low, wide = (make(one) for one in half(SIGNALS[signal][0]))
    for got, want in zip(ours(divergence, low, rows(1)), ours(divergence, wide, rows(1)), strict=True):
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("divergence", [ForwardKL(), SkewReverseKL()], ids=str)
def test_hidden_states_and_a_head_are_the_logits_they_make(divergence):
    hidden, head, student = (jnp.asarray(x, jnp.float32) for x in (HIDDEN, HEAD, RNG.normal(size=(D, 2, V))))
    signals = Projected(hidden, head), Dense(jnp.einsum("btd,dv->btv", hidden, head))
    for got, want in zip(*(ours(divergence, one, student) for one in signals), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_sampled_targets_give_the_statement_over_the_draws():
    ids, t = np.array([2, 2, 6, 4]), len(CASES)
    p = np.stack([formulas.log_softmax(teacher) for teacher, _ in CASES.values()])[:, ids]
    draws, judged = jnp.broadcast_to(jnp.asarray(ids), (1, t, 4)), Dense(rows(0)).belief(LABELS)
    signal = Sampled(draws, jnp.full((1, t, 4), 0.25), jnp.asarray(p[None], jnp.float32), judged, V)
    values, slopes = ours(ForwardKL(), signal, rows(1))
    for place, (case, (_, student)) in enumerate(CASES.items()):
        q, loose = formulas.log_softmax(student), 1e-2 if "1e4" in case else 0.0
        np.testing.assert_allclose(
            values[place], (p[place] - q[ids]).mean(), rtol=5e-5 + loose, atol=2e-5, err_msg=case
        )
        # The gradient in the logits is q minus the share of the draws.
        want = np.exp(q) - np.bincount(ids, minlength=V) / 4
        np.testing.assert_allclose(slopes[place], want, atol=5e-5 + loose, err_msg=case)
