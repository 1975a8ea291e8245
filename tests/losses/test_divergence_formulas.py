"""Each divergence, value and gradient, beside its formula in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import (
    AdaptiveKL,
    AlphaBeta,
    Dense,
    Divergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    ToDi,
    TotalVariation,
)
from losses.adaptive import least_of_head
from tests.losses import formulas

PAIRS = [
    (ForwardKL(), formulas.forward_kl),
    (ReverseKL(), formulas.reverse_kl),
    (JensenShannon(), formulas.jensen_shannon),
    (JensenShannon(beta=0.1), partial(formulas.jensen_shannon, beta=0.1)),
    (JensenShannon(beta=0.9, normalise=True), partial(formulas.jensen_shannon, beta=0.9, normalise=True)),
    (SkewKL(), formulas.skew_kl),
    (SkewReverseKL(), formulas.skew_reverse_kl),
    (AlphaBeta(), formulas.alpha_beta),
    (AlphaBeta(a=0.5, b=0.5), partial(formulas.alpha_beta, a=0.5, b=0.5)),
    (TotalVariation(), formulas.total_variation),
]
WEIGHTED = [AdaptiveKL(), ToDi()]
NAMES = [str(ours) for ours, _ in PAIRS]
rng = np.random.default_rng(0)


def masked(logits):
    logits = logits.copy()
    logits[..., 3] = -np.inf
    return logits


def one_hot(logits):
    """A teacher that is sure beyond float32: its other tokens are 1e4 nats away."""
    out = np.zeros_like(logits)
    out[..., 2] = 1e4
    return out


TEACHER, STUDENT = (3.0 * rng.normal(size=(2, 11))).astype(np.float32)
CASES = {
    "random": (TEACHER, STUDENT),
    "equal": (TEACHER, TEACHER),
    "close": (TEACHER, TEACHER + 0.03 * STUDENT),
    "far": (20.0 * TEACHER, -20.0 * TEACHER),
    "masked in both": (masked(TEACHER), masked(STUDENT)),
    "student at 1e4": (TEACHER, one_hot(STUDENT)),
    "shifted by 1e4": (TEACHER + 1e4, STUDENT - 1e4),
}
FINITE = {
    "teacher excludes a token": (masked(TEACHER), STUDENT),
    "one-hot teacher": (one_hot(TEACHER), STUDENT),
    "teacher one-hot by -inf": (np.where(np.arange(11) == 2, 0.0, -np.inf).astype(np.float32), STUDENT),
}


def ours(divergence, teacher, student, temperature=1.0):
    """Value and gradient in the student's logits."""

    def total(student):
        signal = Dense(jnp.asarray(teacher)[None, None])
        return divergence(signal, student[None, None].astype(jnp.float32), jnp.float32(temperature))[0, 0]

    value, slope = jax.value_and_grad(total)(jnp.asarray(student))
    return float(value), np.asarray(slope, np.float64)


def stated(formula, teacher, student, temperature=1.0):
    """Value and central differences of T^2 times the formula."""

    def total(student):
        p, q = (formulas.log_softmax(x, temperature) for x in (teacher, student))
        return temperature ** (1 if formula is formulas.total_variation else 2) * formula(p, q)

    student = np.asarray(student, np.float64)
    slope = np.zeros(len(student))
    for i in np.flatnonzero(np.isfinite(student)):
        step = np.zeros(len(student))
        step[i] = 1e-5
        slope[i] = (total(student + step) - total(student - step)) / 2e-5
    return total(student), slope


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("divergence", "formula"), PAIRS, ids=NAMES)
def test_value_and_gradient_are_the_formulas(divergence, formula, case, temperature):
    teacher, student = CASES[case]
    value, slope = ours(divergence, teacher, student, temperature)
    want, want_slope = stated(formula, teacher, student, temperature)
    # Logits near 1e4 have 3 digits after the point in float32: that much of them is not ours to know.
    loose = 1e-2 if "1e4" in case else 0.0
    # Normalised, the roundings of the logarithms are 1 / (beta (1 - beta)) = 11 times as large.
    least = 2e-5 if "normalise=True" in str(divergence) else 2e-6
    np.testing.assert_allclose(value, want, rtol=2e-5 + loose, atol=least + loose)
    if case == "equal" and isinstance(divergence, TotalVariation):
        return  # it has a kink where both agree
    size = max(np.abs(want_slope).max(), 1e-2)
    # A gradient may be the small difference of numbers as large as the value.
    np.testing.assert_allclose(slope, want_slope, atol=(2e-5 + loose) * size + 1e-6 + 2e-7 * want)


@pytest.mark.parametrize("divergence", [ours for ours, _ in PAIRS] + WEIGHTED, ids=str)
@pytest.mark.parametrize("case", CASES | FINITE)
def test_nothing_is_nan_and_a_disagreement_is_never_a_silent_zero(divergence, case):
    teacher, student = (CASES | FINITE)[case]
    value, slope = ours(divergence, teacher, student)
    assert np.isfinite(value) and not np.isnan(slope).any()
    assert value >= -1e-6
    if case != "equal":
        assert value > 1e-6
    # Masked entries get no gradient, whatever else happens.
    assert (slope[~np.isfinite(student)] == 0.0).all()


@pytest.mark.parametrize("divergence", [ours for ours, _ in PAIRS] + WEIGHTED, ids=str)
def test_bfloat16_logits_are_taken_as_they_are_and_summed_in_float32(divergence):
    rounded = [np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)) for x in (TEACHER, STUDENT)]
    narrow = ours(divergence, *(jnp.asarray(x, jnp.bfloat16) for x in (TEACHER, STUDENT)))
    wide = ours(divergence, *rounded)
    np.testing.assert_allclose(narrow[0], wide[0], rtol=1e-6)
    np.testing.assert_allclose(narrow[1], wide[1], atol=1e-2 * np.abs(wide[1]).max())


@pytest.mark.parametrize("divergence", [ours for ours, _ in PAIRS] + WEIGHTED, ids=str)
def test_each_is_a_divergence_of_no_nats_from_itself(divergence):
    assert isinstance(divergence, Divergence)
    assert abs(ours(divergence, TEACHER, TEACHER)[0]) < 1e-6


def test_adaptive_kl_weighs_by_head_and_tail_without_gradient():
    for teacher, student in (CASES["random"], CASES["far"], CASES["masked in both"]):
        value, slope = ours(AdaptiveKL(), teacher, student)
        p, q = formulas.log_softmax(teacher), formulas.log_softmax(student)
        want, share = formulas.adaptive_kl(p, q)
        fixed = lambda p, q, share=share: share * formulas.kl(p, q) + (1 - share) * formulas.kl(q, p)  # noqa: E731
        np.testing.assert_allclose(value, want, rtol=2e-5)
        want_slope = stated(fixed, teacher, student)[1]
        np.testing.assert_allclose(slope, want_slope, atol=2e-5 * max(np.abs(want_slope).max(), 1.0))


def test_todi_weighs_outcome_by_outcome_without_gradient():
    for teacher, student in (CASES["random"], CASES["far"], CASES["masked in both"]):
        value, slope = ours(ToDi(), teacher, student)
        want, w = formulas.todi(formulas.log_softmax(teacher), formulas.log_softmax(student))

        def fixed(p, q, w=w):
            return (w * np.exp(p) * (p - q) + (1 - w) * np.exp(q) * (q - p)).sum()

        np.testing.assert_allclose(value, want, rtol=2e-5)
        want_slope = stated(fixed, teacher, student)[1]
        np.testing.assert_allclose(slope, want_slope, atol=2e-5 * max(np.abs(want_slope).max(), 1.0))


def test_the_ends_of_the_normalised_jensen_shannon_are_the_two_kls():
    forward, reverse = ours(ForwardKL(), TEACHER, STUDENT)[0], ours(ReverseKL(), TEACHER, STUDENT)[0]
    assert abs(forward - reverse) > 0.1
    for beta, want in ((0.0, forward), (1e-3, forward), (1.0 - 1e-3, reverse), (1.0, reverse)):
        got = ours(JensenShannon(beta=beta, normalise=True), TEACHER, STUDENT)[0]
        np.testing.assert_allclose(got, want, rtol=0.03)


def test_the_plain_jensen_shannon_vanishes_at_its_ends_and_is_refused_there():
    assert ours(JensenShannon(beta=1e-3), TEACHER, STUDENT)[0] < 0.02
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError, match="is 0 for every student; take ForwardKL"):
            JensenShannon(beta=beta)


def test_jensen_shannon_counts_beta_as_the_teachers_share():
    slope = ours(JensenShannon(beta=1e-4), TEACHER, STUDENT)[1] / 1e-4
    p, q = np.exp(formulas.log_softmax(TEACHER)), np.exp(formulas.log_softmax(STUDENT))
    np.testing.assert_allclose(slope, q - p, atol=0.02)


def test_jensen_shannon_is_at_most_ln_two():
    assert ours(JensenShannon(), *CASES["far"])[0] <= np.log(2) + 1e-6


def test_alpha_beta_has_the_kls_at_its_corners():
    for kwargs, other in (({"a": 1.0, "b": 0.0}, ForwardKL()), ({"a": 0.0, "b": 1.0}, ReverseKL())):
        one, two = ours(AlphaBeta(**kwargs), TEACHER, STUDENT), ours(other, TEACHER, STUDENT)
        np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
        np.testing.assert_allclose(one[1], two[1], atol=1e-5)


def test_alpha_beta_is_continuous_where_an_exponent_goes_to_zero():
    for near, at in (((0.4, 1e-3), (0.4, 0.0)), ((1e-3, 0.4), (0.0, 0.4))):
        one, two = (ours(AlphaBeta(a=a, b=b), TEACHER, STUDENT)[0] for a, b in (near, at))
        np.testing.assert_allclose(one, two, rtol=0.02)


def test_a_skewed_gradient_is_bounded_where_the_forward_kls_is_too_but_not_its_value():
    teacher, student = CASES["far"]
    assert ours(SkewKL(), teacher, student)[0] <= np.log(10.0) + 1e-5 < ours(ForwardKL(), teacher, student)[0]


def test_total_variation_is_one_minus_the_rate_at_which_drafts_are_accepted():
    p, q = np.exp(formulas.log_softmax(TEACHER)), np.exp(formulas.log_softmax(STUDENT))
    np.testing.assert_allclose(ours(TotalVariation(), TEACHER, STUDENT)[0], 1 - np.minimum(p, q).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JensenShannon(beta=1.5), "must lie within 0 and 1"),
        (lambda: SkewKL(share=1.0), "from 0 to below 1"),
        (lambda: SkewReverseKL(share=-0.1), "from 0 to below 1"),
        (lambda: AlphaBeta(a=-0.5), "must have exponents of 0 or more"),
        (lambda: AlphaBeta(a=0.0, b=0.0), "not both 0"),
        (lambda: AdaptiveKL(mass=0.0), "above 0 and at most 1"),
    ],
)
def test_an_impossible_divergence_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_head_of_a_distribution_ends_where_its_greatest_shares_add_up_to_the_mass():
    probs = jnp.array([[[0.2, 0.5, 0.05, 0.25]]])
    ends = [float(least_of_head(probs, mass)[0, 0]) for mass in (0.5, 0.6, 0.76, 1.5)]
    np.testing.assert_array_equal(ends, np.float32([0.5, 0.25, 0.2, 0.0]))
