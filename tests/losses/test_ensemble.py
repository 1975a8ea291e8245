import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import Corrected, Dense, Distill, Ensemble, NoGate, Projected, PutRight, Signal
from tests.losses.worked import assert_close, case, softmax, value_and_gradients

ONE = jnp.float32(1.0)


def test_an_ensemble_says_the_mean_of_its_members_probabilities():
    members = Dense(jnp.log(jnp.array([[[0.8, 0.2]]]))), Dense(jnp.log(jnp.array([[[0.2, 0.8]]])))
    mean = jnp.exp(Ensemble(members, jnp.array([0.75, 0.25])).log_probs(ONE))
    np.testing.assert_allclose(mean, [[[0.65, 0.35]]], rtol=1e-6)


def test_each_member_is_tempered_before_the_mean(key):
    one, two = 2.0 * jax.random.normal(key, (2, 1, 1, 5))
    got = jnp.exp(Ensemble((Dense(one), Dense(two)), jnp.array([0.5, 0.5])).log_probs(jnp.float32(3.0)))
    np.testing.assert_allclose(got[0, 0], (softmax(one[0, 0], 3.0) + softmax(two[0, 0], 3.0)) / 2, rtol=1e-5)


def test_a_token_that_all_members_exclude_has_no_probability(key):
    one = Dense(jnp.array([[[0.0, -jnp.inf, 0.0]]]))
    probs = jnp.exp(Ensemble((one, one), jnp.array([0.5, 0.5])).log_probs(ONE))
    np.testing.assert_allclose(probs, [[[0.5, 0.0, 0.5]]], rtol=1e-6)


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_loss_against_an_ensemble_of_one_is_that_against_the_one(key, chunk):
    arguments = case(key)
    alone = Ensemble((arguments["signal"],), jnp.ones(1))
    loss = Distill(gate=NoGate(), chunk=chunk)
    got, want = value_and_gradients(loss, **(arguments | {"signal": alone})), value_and_gradients(loss, **arguments)
    assert_close(got, want)


def test_a_teacher_that_is_right_is_left_alone(key):
    logits = jnp.array([[[3.0, 1.0, 0.0]]])
    right = Corrected(Dense(logits), jnp.array([[0]]), jnp.float32(0.01))
    np.testing.assert_allclose(right.log_probs(ONE), jax.nn.log_softmax(logits), rtol=1e-6)


def test_a_teacher_that_errs_is_mixed_with_the_label_until_it_leads():
    p = np.array([0.6, 0.3, 0.1])
    corrected = jnp.exp(Corrected(Dense(jnp.log(p)[None, None]), jnp.array([[1]]), jnp.float32(0.1)).log_probs(ONE))[
        0, 0
    ]
    np.testing.assert_allclose(corrected.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(corrected[1] - corrected[0], 0.1, rtol=1e-5)
    np.testing.assert_allclose(corrected[0] / corrected[2], 6.0, rtol=1e-5)


def test_the_correction_is_a_lens(key):
    arguments = case(key)
    loss = Distill(gate=NoGate(), lens=PutRight(lead=0.05), chunk=4)
    agreement = value_and_gradients(loss, **arguments)[2]
    signal, labels = arguments["signal"], arguments["labels"]
    assert agreement["teacher_hard"] < value_and_gradients(Distill(gate=NoGate()), **arguments)[2]["teacher_hard"]
    top = Corrected(signal, labels, jnp.float32(0.05)).belief(labels).top
    np.testing.assert_array_equal(np.asarray(top)[np.asarray(arguments["mask"])], labels[arguments["mask"]])


def test_both_are_signals(key):
    signal = Projected(jnp.zeros((1, 1, 2)), jnp.zeros((2, 3)))
    assert isinstance(Ensemble((signal,), jnp.ones(1)), Signal)
    assert isinstance(Corrected(signal, jnp.zeros((1, 1), jnp.int32), ONE), Signal)


def test_a_lead_of_one_is_refused():
    with pytest.raises(ValueError, match="must be a probability below 1"):
        PutRight(lead=1.0)


def test_members_of_different_vocabularies_are_refused(key):
    with pytest.raises(ValueError, match=r"vocabularies \[4, 5\]; there must be members, of one tokenizer"):
        Ensemble((Dense(jnp.zeros((1, 1, 4))), Dense(jnp.zeros((1, 1, 5)))), jnp.array([0.5, 0.5])).vocab  # noqa: B018
