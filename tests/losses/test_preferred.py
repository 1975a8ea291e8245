"""Preferred: DPO called as losses are, on rows in pairs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import DPO, IPO, Anchor, Dense, Place, Preferred, token_logps

RNG = np.random.default_rng(0)
B, T, D, V = 6, 7, 8, 13
HIDDEN = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
HEAD = jnp.asarray(RNG.normal(size=(D, V)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, V, (B, T)))
MASK = jnp.asarray(RNG.random((B, T)) < 0.7)
ANCHOR = Anchor(jnp.sum(token_logps(HIDDEN, HEAD, LABELS, MASK)[0], axis=1) + jnp.asarray(RNG.normal(size=B)))
LOSS = Preferred(chunk=3)


def place(mask=MASK):
    """Where labels count."""
    return Place(mask, mask.astype(jnp.int32), jnp.zeros_like(mask, jnp.int32), (), ())


def slope(loss, rows=slice(None), hidden=HIDDEN, head=HEAD):
    """Value and gradient of the loss's total, in hidden states and head."""

    def total(hidden, head):
        word = Anchor(ANCHOR.logp[rows])
        return loss(hidden[rows], head, word, LABELS[rows], place(MASK[rows]), 0.0)[0].total

    return jax.value_and_grad(total, (0, 1))(hidden, head)


@pytest.mark.parametrize(
    "preference",
    [DPO(), DPO(beta=0.1, length_normalised=False, nll=0.0), DPO(beta=0.5, objective=IPO(), label_smoothing=0.1)],
    ids=["length-normalised", "the paper's", "IPO"],
)
def test_it_is_dpo_of_the_labels_log_probabilities(preference):
    def total(hidden, head):
        logp = jax.nn.log_softmax(hidden @ head)[jnp.arange(B)[:, None], jnp.arange(T), LABELS]
        up, down = ANCHOR.logp[0::2], ANCHOR.logp[1::2]
        return preference(logp[0::2], logp[1::2], MASK[0::2], MASK[1::2], up, down)[0].total

    wanted, gradients = jax.value_and_grad(total, (0, 1))(HIDDEN, HEAD)
    found, moved = slope(replace(LOSS, preference=preference))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for mine, its in zip(moved, gradients, strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-5)


def test_it_divides_by_pairs_and_logs_what_dpo_logs():
    tally, notes, seen = LOSS(HIDDEN, HEAD, ANCHOR, LABELS, place(), 0.0)
    assert float(tally.count) == float(notes["loss"].count) == B / 2
    assert {"loss", "margin", "accuracy", "chosen", "rejected", "nll", "hard", "entropy"} == set(notes)
    assert seen is None and not LOSS.learns_labels
    logp = token_logps(HIDDEN, HEAD, LABELS, MASK)[0]
    np.testing.assert_allclose(notes["hard"].mean(), -np.sum(logp[0::2]) / np.sum(MASK[0::2]), rtol=1e-6)


def test_beside_itself_a_learner_has_no_margin_and_pays_log_two_and_its_nll():
    own = Anchor(jnp.sum(token_logps(HIDDEN, HEAD, LABELS, MASK)[0], axis=1))
    _, notes, _ = LOSS(HIDDEN, HEAD, own, LABELS, place(), 0.0)
    assert abs(float(notes["margin"].mean())) < 1e-6 and abs(float(notes["chosen"].mean())) < 1e-6
    np.testing.assert_allclose(notes["loss"].mean(), np.log(2.0) + 0.1 * notes["nll"].mean(), rtol=1e-6)


def test_micro_batches_of_whole_pairs_add_up_to_the_batch():
    whole = LOSS(HIDDEN, HEAD, ANCHOR, LABELS, place(), 0.0)[1]
    cuts = slice(0, 2), slice(2, 6)
    parts = [LOSS(HIDDEN[c], HEAD, Anchor(ANCHOR.logp[c]), LABELS[c], place(MASK[c]), 0.0)[1] for c in cuts]
    for name, tally in whole.items():
        added = parts[0][name] + parts[1][name]
        np.testing.assert_allclose(added.mean(), tally.mean(), rtol=1e-5, atol=1e-6)
    _, (gradient, _) = slope(LOSS)
    np.testing.assert_allclose(sum(slope(LOSS, c)[1][0] for c in cuts), gradient, atol=1e-6)


def test_a_pair_without_labels_is_padding_whatever_lies_there():
    empty = MASK.at[2:4].set(False)
    hidden, anchor = HIDDEN.at[2:4].set(jnp.nan), Anchor(ANCHOR.logp.at[2:4].set(jnp.nan))
    keep = jnp.array([0, 1, 4, 5])

    def total(hidden):
        return LOSS(hidden, HEAD, anchor, LABELS, place(empty), 0.0)[0].total

    value, gradient = jax.value_and_grad(total)(hidden)
    wanted, (its, _) = slope(LOSS, keep)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, its, atol=1e-6)


@pytest.mark.parametrize("signal", [None, Dense(jnp.zeros((B, T, V)))], ids=["nothing", "a teacher's word"])
def test_rows_that_no_reference_has_seen_are_refused(signal):
    with pytest.raises(ValueError, match=r"Preferred learns from rows in pairs, .* \(Anchor\), and was given"):
        LOSS(HIDDEN, HEAD, signal, LABELS, place(), 0.0)


def test_an_odd_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="was given 5 rows; they must be pairs, chosen and rejected in turn"):
        LOSS(HIDDEN[:5], HEAD, Anchor(ANCHOR.logp[:5]), LABELS[:5], place(MASK[:5]), 0.0)
