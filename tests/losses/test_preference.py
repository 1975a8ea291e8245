"""DPO beside its formula in float64, and on pairs one can check by hand."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import DPO, IPO, Sigmoid
from tests.losses import policy_formulas as stated

RNG = np.random.default_rng(0)
# Three pairs, chosen and rejected of other lengths, behind prompts; the fourth is padding.
CHOSEN, REJECTED = -RNG.exponential(size=(4, 6)), -RNG.exponential(size=(4, 5))
CHOSEN_MASK = np.arange(6) >= np.array([[1], [3], [0], [9]])
REJECTED_MASK = np.arange(5) < np.array([[2], [5], [4], [0]])
REFERENCES = np.stack([(CHOSEN * CHOSEN_MASK).sum(1), (REJECTED * REJECTED_MASK).sum(1)]) + RNG.normal(size=(2, 4))
LOSSES = [
    DPO(),
    DPO(beta=0.1, length_normalised=False, nll=0.0),
    DPO(beta=2.0, label_smoothing=0.2),
    DPO(beta=0.5, objective=IPO()),
    DPO(beta=0.3, objective=IPO(), length_normalised=False, label_smoothing=0.1, nll=0.2),
]


@partial(jax.jit, static_argnums=0)
def learn(loss, chosen, rejected, *rest):
    def mean(chosen, rejected):
        found = loss(chosen, rejected, *rest)
        return found[0].mean(), found

    return jax.value_and_grad(mean, (0, 1), has_aux=True)(chosen, rejected)


def ours(loss, chosen=CHOSEN, rejected=REJECTED, masks=(CHOSEN_MASK, REJECTED_MASK), references=REFERENCES):
    """Mean, gradients, tally and notes."""
    (value, (tally, notes)), slopes = learn(
        loss, np.float32(chosen), np.float32(rejected), *masks, *np.float32(references)
    )
    return float(value), [np.asarray(x, np.float64) for x in slopes], tally, notes


def theirs(loss, chosen, rejected):
    pairs = range(3)
    return stated.dpo(
        [chosen[i][CHOSEN_MASK[i]] for i in pairs],
        [rejected[i][REJECTED_MASK[i]] for i in pairs],
        REFERENCES.T[:3],
        loss.beta,
        loss.length_normalised,
        loss.nll,
        loss.label_smoothing,
        isinstance(loss.objective, IPO),
    )


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_value_and_gradient_are_the_formulas(loss):
    value, (up, down), tally, _ = ours(loss)
    np.testing.assert_allclose(value, theirs(loss, CHOSEN, REJECTED), rtol=1e-5)
    np.testing.assert_allclose(up, stated.slope(lambda x, _: theirs(loss, x, REJECTED), CHOSEN), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(down, stated.slope(lambda x, _: theirs(loss, CHOSEN, x), REJECTED), rtol=1e-4, atol=1e-7)
    assert float(tally.count) == 3.0


def test_pairs_that_learner_and_reference_prefer_alike_cost_log_two():
    chosen, rejected = (np.round(8 * x) / 8 for x in (CHOSEN, REJECTED))  # whose sums are exact
    references = np.stack([(chosen * CHOSEN_MASK).sum(1), (rejected * REJECTED_MASK).sum(1)])
    for normalised in (True, False):
        value, *_ = ours(DPO(nll=0.0, length_normalised=normalised), chosen, rejected, references=references)
        np.testing.assert_allclose(value, np.log(2.0), rtol=1e-6)


def test_swapping_the_sides_swaps_the_gradient():
    loss = DPO(beta=0.4, nll=0.0, length_normalised=False)
    _, (up, down), *_ = ours(loss)
    _, (other_up, other_down), *_ = ours(loss, REJECTED, CHOSEN, (REJECTED_MASK, CHOSEN_MASK), REFERENCES[::-1])
    assert np.all(up[CHOSEN_MASK] < 0.0) and np.all(other_down[CHOSEN_MASK] > 0.0)
    # sigmoid(-x) + sigmoid(x) = 1: what one order does not push, the other does.
    np.testing.assert_allclose((other_down - up)[CHOSEN_MASK], 0.4 / 3, rtol=1e-5)
    np.testing.assert_allclose((down - other_up)[REJECTED_MASK], 0.4 / 3, rtol=1e-5)


def test_labels_that_are_wrong_half_the_time_nearly_say_nothing():
    loss = DPO(beta=1e-3, nll=0.0, label_smoothing=0.499)
    assert max(np.abs(x).max() for x in ours(loss)[1]) < 0.003 * max(
        np.abs(x).max() for x in ours(replace(loss, label_smoothing=0.0))[1]
    )


def test_ipo_is_content_at_its_margin():
    loss = DPO(beta=0.25, nll=0.0, objective=IPO(), length_normalised=False)
    chosen, rejected, mask = np.full((1, 2), -1.0), np.full((1, 2), -2.0), np.ones((1, 2), bool)
    value, slopes, *_ = ours(loss, chosen, rejected, (mask, mask), np.zeros((2, 1)))
    assert value == 0.0 and not np.any(slopes)  # m = -2 - -4 = 2 = 1 / (2 * 0.25)


def test_length_normalised_a_longer_answer_is_not_preferred_for_its_length():
    for normalised, margin in ((True, 0.0), (False, 0.2 * 4 - 0.2 * 2)):
        mask = np.arange(4) < np.array([[4]]), np.arange(4) < np.array([[2]])
        loss = DPO(length_normalised=normalised)
        *_, notes = ours(loss, np.full((1, 4), -0.8), np.full((1, 4), -0.8), mask, np.array([[-4.0], [-2.0]]))
        np.testing.assert_allclose(notes["margin"].mean(), margin, atol=1e-6)


def test_what_is_logged_tells_a_falling_chosen_answer_from_a_growing_margin():
    mask = np.ones((1, 2), bool)
    *_, notes = ours(
        DPO(), np.array([[-2.0, -2.0]]), np.array([[-5.0, -5.0]]), (mask, mask), np.array([[-3.0], [-3.0]])
    )
    found = {name: float(tally.mean()) for name, tally in notes.items()}
    assert (found["chosen"], found["rejected"], found["margin"]) == (-0.5, -3.5, 3.0)
    assert (found["accuracy"], found["nll"]) == (1.0, 2.0)
    np.testing.assert_allclose(found["loss"], np.log1p(np.exp(-15.0)) + 0.2, rtol=1e-6)


def test_micro_batches_add_up_to_the_batch():
    whole = ours(DPO())
    parts = [
        ours(DPO(), CHOSEN[cut], REJECTED[cut], (CHOSEN_MASK[cut], REJECTED_MASK[cut]), REFERENCES[:, cut])
        for cut in (slice(0, 1), slice(1, 4))
    ]
    for name, tally in whole[3].items():
        np.testing.assert_allclose((parts[0][3][name] + parts[1][3][name]).mean(), tally.mean(), rtol=1e-5)


def test_masked_places_and_the_references_of_padding_may_hold_anything():
    chosen, rejected = np.where(CHOSEN_MASK, CHOSEN, -np.inf), np.where(REJECTED_MASK, REJECTED, np.nan)
    references = REFERENCES.copy()
    references[:, 3] = -np.inf, np.nan
    one, other = ours(DPO()), ours(DPO(), chosen, rejected, references=references)
    assert one[0] == other[0]
    for slope, want, mask in zip(other[1], one[1], (CHOSEN_MASK, REJECTED_MASK), strict=True):
        np.testing.assert_array_equal(slope, want)
        assert not np.any(slope[~mask]) and np.any(slope)


def test_a_pair_of_which_one_side_is_missing_is_padding():
    masks = CHOSEN_MASK, REJECTED_MASK & np.array([[True], [False], [True], [True]])
    _, (up, _), tally, _ = ours(DPO(), masks=masks)
    assert float(tally.count) == 2.0 and not np.any(up[1])


def test_margins_of_a_thousand_nats_are_finite():
    mask = np.ones((1, 2), bool)
    for far in (1e3, -1e3):
        value, slopes, *_ = ours(DPO(), np.zeros((1, 2)), np.zeros((1, 2)), (mask, mask), np.array([[far], [-far]]))
        assert np.isfinite(value) and all(np.all(np.isfinite(x)) for x in slopes)


def test_no_gradient_enters_the_reference():
    rest = (jnp.asarray(CHOSEN_MASK), jnp.asarray(REJECTED_MASK))

    def total(up, down):
        return DPO()(jnp.asarray(CHOSEN, jnp.float32), jnp.asarray(REJECTED, jnp.float32), *rest, up, down)[0].total

    assert not np.any(jax.grad(total, (0, 1))(*jnp.asarray(REFERENCES, jnp.float32)))


@pytest.mark.parametrize(("settings", "message"), [
    ({"beta": 0.0}, "beta=0.0.* must be above 0; 5 for nats a token"),
    ({"nll": -0.1}, "nll=-0.1.* must be 0 or more"),
    ({"label_smoothing": 0.5}, "label_smoothing=0.5.* from 0 to below 0.5"),
])  # fmt: skip
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DPO(objective=Sigmoid(), **settings)
