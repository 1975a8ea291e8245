"""Reinforce: a policy gradient called as losses are, on rows that were drawn and judged."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import Credit, Dense, Place, Reinforce, decoupled_ppo, token_logps
from losses.policy_loss import PolicyLoss

RNG = np.random.default_rng(0)
B, T, D, V = 4, 6, 8, 13
HIDDEN = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
HEAD = jnp.asarray(RNG.normal(size=(D, V)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, V, (B, T)))
MASK = jnp.asarray(RNG.random((B, T)) < 0.7)
PLACE = Place(MASK, MASK.astype(jnp.int32), jnp.zeros((B, T), jnp.int32), (), ())
POLICY: PolicyLoss = decoupled_ppo(T).loss
LOSS = Reinforce(policy=POLICY, chunk=4)
CREDIT = Credit(
    advantages=jnp.asarray(RNG.normal(size=(B, T)), jnp.float32),
    behaviour=token_logps(HIDDEN, HEAD, LABELS, MASK)[0] + jnp.asarray(RNG.normal(size=(B, T)) * 0.1, jnp.float32),
)


def slope(loss, credit, hidden=HIDDEN):
    """Value and gradient of the loss's total in the hidden states."""

    def total(hidden):
        return loss(hidden, HEAD, credit, LABELS, PLACE, 0.0)[0].total

    return jax.value_and_grad(total)(hidden)


def test_it_is_the_policy_loss_of_the_labels_log_probabilities():
    def total(hidden):
        logp = token_logps(hidden, HEAD, LABELS, MASK)[0]
        return POLICY(logp, CREDIT.behaviour, CREDIT.advantages, MASK)[0].total

    wanted, gradient = jax.value_and_grad(total)(HIDDEN)
    found, moved = slope(LOSS, CREDIT)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(moved, gradient, atol=1e-6)


def test_it_divides_by_what_the_policy_divides_by():
    tally, notes, seen = LOSS(HIDDEN, HEAD, CREDIT, LABELS, PLACE, 0.0)
    assert tally.count == notes["loss"].count == T * int(MASK.any(axis=1).sum())
    assert seen is None
    np.testing.assert_allclose(notes["hard"].mean(), -np.sum(token_logps(HIDDEN, HEAD, LABELS, MASK)[0]) / MASK.sum())


def test_temperature_is_that_of_the_drawing():
    warm = replace(LOSS, temperature=2.0)
    as_warm = replace(CREDIT, behaviour=token_logps(HIDDEN, HEAD, LABELS, MASK, 2.0)[0])
    notes = warm(HIDDEN, HEAD, as_warm, LABELS, PLACE, 0.0)[1]
    np.testing.assert_allclose(notes["weight"].mean(), 1.0, rtol=1e-5)


def test_a_teacher_that_likes_a_token_better_makes_it_likelier():
    one = jnp.zeros((B, T), bool).at[0, 0].set(True)
    place = Place(one, one.astype(jnp.int32), jnp.zeros((B, T), jnp.int32), (), ())
    logp = token_logps(HIDDEN, HEAD, LABELS, one)[0]

    def moved(better):
        credit = Credit(advantages=jnp.zeros((B, T)), behaviour=logp, teacher=logp + better)
        loss = replace(LOSS, teacher=0.5)
        gradient = jax.grad(lambda x: loss(x, HEAD, credit, LABELS, place, 0.0)[0].total)(HIDDEN)
        after = token_logps(HIDDEN - gradient, HEAD, LABELS, one)[0]
        return float((after - logp)[0, 0])

    assert moved(1.0) > 0 > moved(-1.0)
    assert moved(0.0) == 0


def test_without_weight_a_teacher_changes_nothing_but_is_logged():
    heard = replace(CREDIT, teacher=CREDIT.behaviour - 1.0)
    np.testing.assert_array_equal(slope(LOSS, heard)[1], slope(LOSS, CREDIT)[1])
    notes = LOSS(HIDDEN, HEAD, heard, LABELS, PLACE, 0.0)[1]
    wanted = -np.sum(np.where(MASK, heard.teacher, 0.0)) / MASK.sum()
    np.testing.assert_allclose(notes["teacher_hard"].mean(), wanted, rtol=1e-6)


def test_the_weights_of_each_age_are_told_apart():
    age = jnp.array([0, 2, 0, 1])
    notes = replace(LOSS, ages=3)(HIDDEN, HEAD, replace(CREDIT, age=age), LABELS, PLACE, 0.0)[1]
    weight = np.exp(token_logps(HIDDEN, HEAD, LABELS, MASK)[0] - CREDIT.behaviour)
    for number in range(3):
        own = np.asarray(MASK) & (np.asarray(age) == number)[:, None]
        np.testing.assert_allclose(notes[f"weight/{number}"].mean(), weight[own].mean(), rtol=1e-5)
        assert notes[f"weight/{number}"].count == own.sum()
        np.testing.assert_allclose(notes[f"mismatch/{number}"].mean(), np.abs(np.log(weight[own])).mean(), rtol=1e-4)
        np.testing.assert_allclose(notes[f"mismatch_max/{number}"].mean(), np.abs(np.log(weight[own])).max(), rtol=1e-4)
    assert "weight/0" not in replace(LOSS, ages=3)(HIDDEN, HEAD, CREDIT, LABELS, PLACE, 0.0)[1]


def test_how_many_tokens_are_capped_dropped_and_clipped_is_told_by_age():
    logp = token_logps(HIDDEN, HEAD, LABELS, MASK)[0]
    weight, ratio = jnp.array([1.0, 3.0, 10.0, 1.0])[:, None], jnp.array([1.0, 1.0, 1.0, 1.5])[:, None]
    proximal = logp - jnp.log(ratio)
    behaviour, age = proximal - jnp.log(weight), jnp.arange(4)
    credit = Credit(advantages=jnp.ones((B, T)), behaviour=behaviour, proximal=proximal, age=age)
    notes = replace(LOSS, ages=4)(HIDDEN, HEAD, credit, LABELS, PLACE, 0.0)[1]
    shares = {"capped": [0, 1, 0, 0], "dropped": [0, 0, 1, 0], "clip_high": [0, 0, 0, 1], "clip_low": [0, 0, 0, 0]}
    for name, wanted in shares.items():
        assert [float(notes[f"{name}/{number}"].mean()) for number in range(4)] == wanted
        counts = [float(notes[f"{name}/{number}"].count) for number in range(4)]
        assert counts == MASK.sum(axis=1).tolist()


def test_labels_are_judged_and_not_learned():
    assert not LOSS.learns_labels
    still = replace(CREDIT, advantages=jnp.zeros((B, T)))
    np.testing.assert_array_equal(slope(LOSS, still)[1], 0.0)


@pytest.mark.parametrize("signal", [None, Dense(jnp.zeros((B, T, V)))], ids=["nothing", "a teacher's word"])
def test_rows_that_nobody_judged_are_refused(signal):
    with pytest.raises(ValueError, match=r"Reinforce learns from rows that were drawn and judged \(Credit\) and was"):
        LOSS(HIDDEN, HEAD, signal, LABELS, PLACE, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": -1.0}, r"Reinforce\(teacher=-1.0\) would reward what the teacher dislikes"),
        ({"temperature": 0.0}, r"Reinforce\(temperature=0.0\) must be above 0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(LOSS, **changes)
