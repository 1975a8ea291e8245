"""What the choices of a policy loss do, one at a time, on numbers one can check by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import (
    Behaviour,
    Clip,
    ClippedWeight,
    ConstantMean,
    Masked,
    NoClip,
    NoCorrection,
    PolicyLoss,
    SequenceMasked,
    SequenceMean,
    SequenceRatio,
    TokenMean,
    Truncated,
    TruncatedAndMasked,
    decoupled_ppo,
    mismatch,
)


@partial(jax.jit, static_argnums=0)
def learn(loss, logp, *rest):
    def total(logp):
        found = loss(logp, *rest)
        return found[0].total, found

    return jax.value_and_grad(total, has_aux=True)(logp)


def ask(loss, ratios, advantages, weights=None, mask=None):
    """Total, gradient in the log-ratios, tallies and peaks of ratios and weights [b t] as they are."""
    ratios = np.float32(ratios)
    weights = np.ones_like(ratios) if weights is None else np.float32(weights)
    mask = np.ones(ratios.shape, bool) if mask is None else np.array(mask)
    proximal = np.full(ratios.shape, -1.0, np.float32)
    arrays = proximal + np.log(ratios), proximal - np.log(weights), np.float32(advantages), mask, proximal
    (value, (tally, notes, peaks)), slope = learn(loss, *arrays)
    return float(value), np.asarray(slope), tally, {k: float(v.total) for k, v in notes.items()}, peaks


@pytest.mark.parametrize(("clip", "ratio", "advantage", "objective", "slope"), [
    (Clip(), 1.1, 2.0, 2.2, 2.2),
    (Clip(), 1.5, 2.0, 2.56, 0.0),
    (Clip(), 0.5, 2.0, 1.0, 1.0),
    (Clip(), 0.5, -2.0, -1.6, 0.0),
    (Clip(), 4.0, -2.0, -8.0, -8.0),
    (Clip(dual=3.0), 4.0, -2.0, -6.0, 0.0),
    (Clip(dual=3.0), 2.0, -2.0, -4.0, -4.0),
    (Clip(dual=3.0), 4.0, 2.0, 2.56, 0.0),
    (NoClip(), 4.0, -2.0, -8.0, -8.0),
    (NoClip(), 4.0, 2.0, 8.0, 8.0),
])  # fmt: skip
def test_what_a_clip_makes_of_ratio_and_advantage(clip, ratio, advantage, objective, slope):
    loss = PolicyLoss(aggregation=TokenMean(), clip=clip)
    value, found, *_ = ask(loss, [[ratio]], [advantage])
    np.testing.assert_allclose((value, found.item()), (-objective, -slope), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("ratio", "slope"), [(2.0, 6.0), (9.0, 15.0)])
def test_a_clipped_weight_never_takes_a_tokens_gradient(ratio, slope):
    _, found, _, notes, _ = ask(PolicyLoss(aggregation=TokenMean(), clip=ClippedWeight()), [[ratio]], [3.0])
    np.testing.assert_allclose(found.item(), -slope, rtol=1e-6)
    assert notes["clip_high"] == (ratio > 5.0) and notes["clip_low"] == 0.0


WEIGHTS = [0.1, 0.5, 1.0, 3.0, 6.0]


@pytest.mark.parametrize(("correction", "used", "capped", "dropped"), [
    (NoCorrection(), [1.0, 1.0, 1.0, 1.0, 1.0], 0, 0),
    (Truncated(), [0.1, 0.5, 1.0, 2.0, 2.0], 2, 0),
    (Masked(), [0.0, 0.5, 1.0, 3.0, 0.0], 0, 2),
    (TruncatedAndMasked(), [0.0, 0.5, 1.0, 2.0, 0.0], 1, 2),
    # The geometric mean of the five is 0.98.
    (SequenceMasked(low=0.9), [0.1, 0.5, 1.0, 2.0, 2.0], 2, 0),
    (SequenceMasked(low=0.9, cap=float("inf")), WEIGHTS, 0, 0),
    (SequenceMasked(low=0.99), [0.0] * 5, 0, 5),
])  # fmt: skip
def test_what_a_correction_makes_of_the_weights(correction, used, capped, dropped):
    loss = PolicyLoss(aggregation=TokenMean(), correction=correction)
    value, slope, tally, notes, peaks = ask(loss, [[1.0] * 5], [1.0], [WEIGHTS])
    np.testing.assert_allclose(slope, [[-w for w in used]], rtol=1e-5)
    assert (notes["capped"], notes["dropped"]) == (capped, dropped)
    assert float(tally.count) == 5.0  # counted before anything is dropped
    np.testing.assert_allclose(float(peaks["weight_max"]), 6.0, rtol=1e-5)


def test_a_dropped_token_leaves_the_others_as_they_were():
    for aggregation in (TokenMean(), SequenceMean(), ConstantMean(length=4)):
        loss = PolicyLoss(aggregation=aggregation)
        slopes = [ask(loss, [[1.0, 1.0]], [1.0], [[1.0, w]]) for w in (1.0, 100.0)]
        assert slopes[0][1][0, 0] == slopes[1][1][0, 0] != 0.0 == slopes[1][1][0, 1]
        assert float(slopes[0][2].count) == float(slopes[1][2].count)


@pytest.mark.parametrize(("aggregation", "total", "count"), [
    (TokenMean(), 1 + 2 + 3 + 10, 4),
    (SequenceMean(), 2 + 10, 2),
    (ConstantMean(length=7), 16, 14),
])  # fmt: skip
def test_what_an_aggregation_adds_and_divides_by(aggregation, total, count):
    values = jnp.array([[1.0, 2.0, 3.0], [10.0, jnp.nan, jnp.inf], [jnp.nan] * 3])
    mask = jnp.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    tally = aggregation(values, mask)
    assert (float(tally.total), float(tally.count)) == (total, count)


def test_a_sequence_ratio_does_not_grow_with_the_length():
    for length in (2, 300):
        *_, peaks = ask(PolicyLoss(aggregation=SequenceMean(), level=SequenceRatio()), [[1.005] * length], [1.0])
        np.testing.assert_allclose(float(peaks["ratio_max"]), 1.005, rtol=1e-6)


def test_with_advantages_of_tokens_each_answers_for_its_own_under_a_sequence_ratio():
    loss = PolicyLoss(aggregation=SequenceMean(), level=SequenceRatio(), clip=NoClip())
    _, slope, *_ = ask(loss, [[4.0, 1.0]], [[1.0, 5.0]])
    np.testing.assert_allclose(slope, [[-2.0 * 1.0 / 2, -2.0 * 5.0 / 2]], rtol=1e-6)


def test_advantages_of_completions_are_those_of_all_their_tokens():
    rng = np.random.default_rng(0)
    ratios, advantages = np.exp(0.3 * rng.normal(size=(3, 3))), rng.normal(size=3)
    loss = decoupled_ppo(3).loss
    one, other = (ask(loss, ratios, a) for a in (advantages, np.repeat(advantages[:, None], 3, 1)))
    np.testing.assert_array_equal(one[1], other[1])


def test_without_a_proximal_policy_the_learner_is_its_own():
    rng = np.random.default_rng(0)
    logp, behaviour = jnp.asarray(-rng.exponential(size=(2, 3, 5)), jnp.float32)
    advantages, mask = jnp.array([1.0, -1.0, 0.5]), jnp.ones((3, 5), bool)
    loss = decoupled_ppo(5).loss
    slopes = [learn(loss, logp, behaviour, advantages, mask, p)[1] for p in (None, logp)]
    np.testing.assert_array_equal(*slopes)
    _, notes, peaks = loss(logp, behaviour, advantages, mask)
    assert float(notes["kl"].total) == 0.0 and float(peaks["ratio_max"]) == 1.0


def test_no_gradient_enters_what_is_held():
    rng = np.random.default_rng(0)
    logp, proximal, behaviour = jnp.asarray(-rng.exponential(size=(3, 2, 4)), jnp.float32)
    loss, mask = decoupled_ppo(4).loss, jnp.ones((2, 4), bool)

    def total(proximal, behaviour, advantages):
        return loss(logp, behaviour, advantages, mask, proximal)[0].total

    for slope in jax.jit(jax.grad(total, (0, 1, 2)))(proximal, behaviour, jnp.array([1.0, -1.0])):
        assert not np.any(slope)


def test_what_is_logged_of_the_weights_is_their_sums():
    _, _, _, notes, _ = ask(PolicyLoss(aggregation=TokenMean()), [[1.0] * 5], [1.0], [WEIGHTS])
    np.testing.assert_allclose(notes["weight"], sum(WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(notes["weight_square"], sum(w * w for w in WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(notes["mismatch"], sum(abs(np.log(w)) for w in WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(notes["mismatch_kl"], sum(w - 1 - np.log(w) for w in WEIGHTS), rtol=1e-5)


def test_the_kl_of_the_update_is_exact_where_ratios_are_near_one():
    logp = jnp.full((1, 4), 1e-4)
    _, notes, _ = PolicyLoss(aggregation=TokenMean())(logp, 0 * logp, jnp.ones(1), logp == logp, 0 * logp)
    np.testing.assert_allclose(float(notes["kl"].mean()), np.expm1(1e-4) - 1e-4, rtol=1e-2)


def test_over_draws_the_mismatch_is_the_kl_divergence():
    rng = np.random.default_rng(0)
    q, p = np.exp(rng.normal(size=(2, 6)))
    q, p = q / q.sum(), p / p.sum()
    counts = np.round(q * 10_000).astype(int)
    drawn = np.repeat(np.arange(6), counts)[None]
    found = mismatch(
        jnp.asarray(np.log(p)[drawn], jnp.float32),
        jnp.asarray(np.log(q)[drawn], jnp.float32),
        jnp.ones(drawn.shape, bool),
    )
    np.testing.assert_allclose(float(found["mismatch_kl"].mean()), (q * np.log(q / p)).sum(), rtol=1e-3)
    np.testing.assert_allclose(float(found["weight"].mean()), 1.0, rtol=1e-3)


def test_a_policy_that_excludes_a_token_is_bounded():
    never = jnp.full((1, 2), -jnp.inf)
    for logp, behaviour in ((never, never), (jnp.zeros((1, 2)), never), (never, jnp.zeros((1, 2)))):
        for loss in (decoupled_ppo(2).loss, PolicyLoss(aggregation=TokenMean(), level=SequenceRatio())):
            (total, _), slope = learn(loss, logp, behaviour, jnp.ones(1), jnp.ones((1, 2), bool))
            assert np.isfinite(total) and np.all(np.isfinite(slope))


def test_a_batch_of_padding_is_zero_everywhere():
    value, slope, tally, notes, peaks = ask(
        decoupled_ppo(3).loss, [[2.0, np.nan, 1.0]], [1.0], mask=[[False, False, False]]
    )
    assert value == 0.0 == float(tally.count) == float(tally.mean()) and not np.any(slope)
    assert set(notes.values()) == {0.0} == {float(peak) for peak in peaks.values()}


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Clip(low=1.5), "low=1.5.* must have low within 0 and 1"),
    (lambda: Clip(high=-0.1), "high=-0.1.* high 0 or more"),
    (lambda: Clip(dual=1.0), "dual=1.0.* must have dual above 1"),
    (lambda: ClippedWeight(high=-1.0), "high=-1.0.* must have high 0 or more"),
    (lambda: Truncated(cap=0.5), "cap=0.5.* must have a cap of 1 or more"),
    (lambda: TruncatedAndMasked(cap=0.5), "cap=0.5.* must have a cap of 1 or more"),
    (lambda: TruncatedAndMasked(high=1.0), "high=1.0.* must have low below 1 and high above it"),
    (lambda: Masked(low=1.0), "low=1.0.* must have low below 1 and high above it"),
    (lambda: SequenceMasked(low=-0.1), "low=-0.1.* must have low below 1 and high above it"),
    (lambda: SequenceMasked(cap=0.0), "cap=0.0.* must have a cap of 1 or more"),
    (lambda: ConstantMean(length=0), "length=0.* must be at least 1: the tokens"),
    (lambda: PolicyLoss(aggregation=TokenMean(), reference=Behaviour()), "twice, in .*set correction=NoCorrection"),
])  # fmt: skip
def test_a_setting_without_meaning_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("shapes", "message"), [
    (((2, 3), (2, 1), (2,), (2, 3), (2, 3)), r"behaviour has shape \(2, 1\) and logp \(2, 3\)"),
    (((2, 3), (2, 3), (2,), (1, 3), (2, 3)), r"mask has shape \(1, 3\)"),
    (((2, 3), (2, 3), (2,), (2, 3), (1, 3)), r"proximal has shape \(1, 3\)"),
    (((2, 3), (2, 3), (3,), (2, 3), (2, 3)), r"advantages have shape \(3,\), and must have \(2,\)"),
])  # fmt: skip
def test_arrays_that_do_not_belong_together_are_refused(shapes, message):
    logp, behaviour, advantages, mask, proximal = (jnp.ones(shape) for shape in shapes)
    call = PolicyLoss.__call__
    # Past the types that tests check and runs do not.
    call = getattr(call, "__wrapped__", call)
    with pytest.raises(ValueError, match=message):
        call(decoupled_ppo(3).loss, logp, behaviour, advantages, mask == 1.0, proximal)
