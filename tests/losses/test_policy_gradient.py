"""The losses of the papers beside their statements in float64, on ordinary numbers and on others."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import (
    BatchScaled,
    Centred,
    GroupScaled,
    PolicyGradient,
    cispo,
    dapo,
    decoupled_ppo,
    dr_grpo,
    grpo,
    gspo,
)
from tests.losses import policy_formulas as stated

PRESETS = {
    "grpo": (grpo(), stated.grpo),
    "dr_grpo": (dr_grpo(9), stated.dr_grpo),
    "dapo": (dapo(), stated.dapo),
    "gspo": (gspo(), stated.gspo),
    "cispo": (cispo(), stated.cispo),
    "decoupled_ppo": (decoupled_ppo(9), stated.decoupled_ppo),
}
B, T = 4, 9
# Completions of 6, 9, 4 and no tokens, behind prompts; the last row is padding. The advantages are +, + and -.
MASK = (np.arange(T) >= np.array([[1], [0], [4], [0]])) & (np.arange(T) < np.array([[7], [9], [8], [0]]))


def case(kind):
    """Log-probabilities (learner, proximal, behaviour) and advantages, exact in float32."""
    rng = np.random.default_rng(33)
    behaviour = -rng.exponential(1.0, (B, T))
    near = 1e-3 if kind == "close" else 0.3
    proximal = behaviour + near * rng.normal(size=(B, T))
    logp = proximal + near * rng.normal(size=(B, T))
    advantages = rng.normal(size=B)
    if kind == "huge ratios":
        behaviour[0, 2], behaviour[1, 3:5], behaviour[2, 5], behaviour[2, 6] = -60.0, -30.0, -60.0, -60.0
        proximal[1, 7], proximal[2, 6], logp[2, 4], logp[1, 8] = -60.0, -60.0, -80.0, -80.0
        behaviour[0, 5] = proximal[0, 5] - np.log(3.0)
    if kind == "no advantage":
        advantages[:] = 0.0
    if kind == "masked places hold anything":
        for array in (logp, proximal, behaviour):
            array[~MASK] = rng.choice([-np.inf, np.inf, np.nan], (~MASK).sum())
    precision = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
    return tuple(np.asarray(jnp.asarray(x, precision), np.float64) for x in (logp, proximal, behaviour, advantages))


@partial(jax.jit, static_argnums=0)
def learn(loss, logp, proximal, behaviour, advantages, mask):
    def mean(logp):
        found = loss(logp, behaviour, advantages, mask, proximal)
        return found[0].mean(), found

    return jax.value_and_grad(mean, has_aux=True)(logp)


def ours(loss, logp, proximal, behaviour, advantages, mask=MASK, precision=jnp.float32):
    """Mean and gradient, and what is logged."""
    arrays = (np.asarray(x, precision) for x in (logp, proximal, behaviour))
    (value, found), slope = learn(loss, *arrays, np.float32(advantages), mask)
    return float(value), np.asarray(slope, np.float64), found


CASES = ["random", "close", "huge ratios", "no advantage", "masked places hold anything", "bfloat16"]


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("name", PRESETS)
def test_value_and_gradient_are_the_papers(name, kind):
    preset, formula = PRESETS[name]
    logp, proximal, behaviour, advantages = case(kind)
    rest = proximal, behaviour, advantages, MASK
    half = kind == "bfloat16"
    value, slope, _ = ours(preset.loss, logp, *rest, precision=jnp.bfloat16 if half else jnp.float32)
    want = stated.slope(formula, logp, *rest)
    np.testing.assert_allclose(value, formula(logp, logp, *rest), rtol=1e-5, atol=1e-7)
    # A gradient comes back in the precision of what it is the gradient of; bfloat16 has 8 bits.
    np.testing.assert_allclose(slope, want, rtol=2**-8 if half else 2e-4, atol=1e-6)
    assert np.all(slope[~MASK] == 0.0)
    assert (np.abs(slope).max() > 1e-3) == (kind != "no advantage")


def test_the_cases_reach_every_branch():
    def reached(preset, kind):
        return {key for key, note in ours(preset.loss, *case(kind))[2][1].items() if float(note.total) > 0}

    assert "clip_high" in reached(decoupled_ppo(9), "random")
    assert {"clip_low", "clip_high", "capped", "dropped"} <= reached(decoupled_ppo(9), "huge ratios")
    assert "clip_high" in reached(gspo(), "random")
    assert "clip_high" in reached(cispo(), "huge ratios")


@pytest.mark.parametrize("name", PRESETS)
def test_an_advantage_of_zero_has_a_gradient_of_exactly_zero(name):
    _, slope, _ = ours(PRESETS[name][0].loss, *case("no advantage"))
    assert np.all(slope == 0.0)


@pytest.mark.parametrize("name", PRESETS)
def test_micro_batches_add_up_to_the_batch(name):
    loss = PRESETS[name][0].loss
    arrays = case("random")
    _, whole, (tally, notes, peaks) = ours(loss, *arrays)
    parts = [ours(loss, *(x[cut] for x in arrays), MASK[cut]) for cut in (slice(0, 1), slice(1, 4))]
    tallies = [part[2][0] for part in parts]
    total = tallies[0] + tallies[1]
    np.testing.assert_allclose(total.total, tally.total, rtol=1e-6)
    assert float(total.count) == float(tally.count)
    slopes = [part[1] * max(float(part[2][0].count), 1.0) for part in parts]
    np.testing.assert_allclose(np.concatenate(slopes) / float(tally.count), whole, rtol=1e-5, atol=1e-8)
    for key, note in notes.items():
        np.testing.assert_allclose((parts[0][2][1][key] + parts[1][2][1][key]).mean(), note.mean(), rtol=1e-5)
    for key, peak in peaks.items():
        assert float(peak) == max(float(part[2][2][key]) for part in parts)


@pytest.mark.parametrize("name", PRESETS)
def test_on_fresh_samples_every_loss_is_reinforce(name):
    # rho = w = 1: the gradient is -A at every token, by each paper's own denominator.
    preset, _ = PRESETS[name]
    logp, _, _, advantages = case("random")
    _, slope, (tally, _, _) = ours(preset.loss, logp, logp, logp, advantages)
    share = 1.0 / MASK.sum(axis=1, keepdims=True).clip(1) if name in ("grpo", "gspo") else 1.0
    np.testing.assert_allclose(slope * float(tally.count), -advantages[:, None] * MASK * share, atol=1e-5)


def test_a_presets_advantage_is_its_papers():
    scaled = {name for name, (preset, _) in PRESETS.items() if preset.advantage == GroupScaled()}
    assert scaled == {"grpo", "dapo", "gspo", "cispo"}
    assert {preset.advantage for name, (preset, _) in PRESETS.items() if name not in scaled} == {Centred()}
    assert PolicyGradient(loss=grpo().loss).advantage == Centred() != BatchScaled()
