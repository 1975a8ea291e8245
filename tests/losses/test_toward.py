"""A teacher's whole word beside a policy loss: by the whole vocabulary, densely; beside Distill; beside credit."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import (
    AdaptiveKL,
    AlphaBeta,
    ConstantMean,
    Credit,
    Dense,
    Distill,
    ForwardKL,
    JensenShannon,
    NoClip,
    NoCorrection,
    NoGate,
    Place,
    PolicyLoss,
    Projected,
    Reinforce,
    ReverseKL,
    SequenceMean,
    SkewKL,
    SkewReverseKL,
    ToDi,
    TokenMean,
    TotalVariation,
    Toward,
    heard_logps,
    token_logps,
)

RNG = np.random.default_rng(0)
B, T, D, W, V = 4, 6, 8, 5, 13
HIDDEN, HEAD = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((B, T, D), (D, V)))
SAID = Projected(*(jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((B, T, W), (W, V))))
LABELS = jnp.asarray(RNG.integers(0, V, (B, T)))
MASK = jnp.asarray(RNG.random((B, T)) < 0.7).at[3].set(False)  # the last row is padding
PLAIN = PolicyLoss(aggregation=TokenMean())
LOSS = Reinforce(policy=PLAIN, chunk=4, toward=Toward(weight=0.3))
DRAWN = token_logps(HIDDEN, HEAD, LABELS, MASK)[0] + jnp.asarray(RNG.normal(size=(B, T)) * 0.1, jnp.float32)
STILL = Credit(advantages=jnp.zeros((B, T)), behaviour=DRAWN, said=SAID)
"""nothing was earned: the term is all there is"""
EARNED = replace(STILL, advantages=jnp.asarray(RNG.normal(size=(B, T)), jnp.float32))


def place(mask):
    return Place(mask, mask.astype(jnp.int32), jnp.zeros(mask.shape, jnp.int32), (), ())


def learn(loss, credit, hidden=HIDDEN, labels=LABELS, mask=MASK):
    """The loss, what is logged, and the gradients of the mean in hidden states and head."""

    @jax.jit
    def found(hidden, credit):
        def mean(hidden, head):
            tally, notes, _ = loss(hidden, head, credit, labels, place(mask), 0.0)
            return tally.mean(), notes

        return jax.value_and_grad(mean, (0, 1), has_aux=True)(hidden, HEAD)

    (value, notes), slopes = found(hidden, credit)
    return value, notes, slopes


def dense(temperature, average):
    """The reverse KL by plain autodiff over all logits at once: value and gradients."""

    def term(hidden, head):
        q = jax.nn.log_softmax(hidden @ head / temperature)
        p = jax.nn.log_softmax(SAID.hidden @ SAID.head / temperature)
        return average(jnp.where(MASK, jnp.sum(jnp.exp(q) * (q - p), axis=-1), 0.0))

    return jax.value_and_grad(term, (0, 1))(HIDDEN, HEAD)


def each_row(values):
    return jnp.sum(jnp.sum(values, axis=1) / jnp.maximum(jnp.sum(MASK, axis=1), 1)) / 3


@pytest.mark.parametrize(
    ("aggregation", "average", "temperature", "chunk"),
    [
        (TokenMean(), lambda values: jnp.sum(values) / jnp.sum(MASK), 1.0, 4),
        (SequenceMean(), each_row, 0.7, None),
        (ConstantMean(length=9), lambda values: jnp.sum(values) / (3 * 9), 0.7, 4),
    ],
)
def test_value_and_gradients_are_those_of_the_whole_vocabulary(aggregation, average, temperature, chunk):
    policy = replace(PLAIN, aggregation=aggregation)
    loss = replace(LOSS, policy=policy, temperature=temperature, chunk=chunk)
    term, slopes = dense(temperature, average)
    found = learn(loss, STILL)
    np.testing.assert_allclose(found[0], 0.3 * term, rtol=1e-5)
    for got, want in zip(found[2], slopes, strict=True):
        np.testing.assert_allclose(got, 0.3 * want, rtol=1e-4, atol=1e-6)


def test_where_nothing_was_earned_it_is_what_distill_has():
    want, _, wanted = learn(Distill(soft=ReverseKL(), gate=NoGate(), chunk=4), SAID)
    value, notes, slopes = learn(LOSS, STILL)
    np.testing.assert_allclose(value, 0.3 * want, rtol=1e-5)
    np.testing.assert_allclose(notes["toward"].mean(), want, rtol=1e-5)
    for got, one in zip(slopes, wanted, strict=True):
        np.testing.assert_allclose(got, 0.3 * one, rtol=1e-4, atol=1e-6)


DIVERGENCES = (
    ForwardKL(), ReverseKL(), JensenShannon(), SkewKL(), SkewReverseKL(), AlphaBeta(), TotalVariation(), AdaptiveKL(),
    ToDi(),
)  # fmt: skip


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda one: type(one).__name__)
def test_every_divergence_is_had_by_pieces_and_without_the_factor_of_temperature(divergence):
    teacher, student = (Dense(jnp.einsum("btd,dv->btv", *side)) for side in ((SAID.hidden, SAID.head), (HIDDEN, HEAD)))

    @jax.jit
    def both(hidden, logits):
        def pieces(hidden):
            return jnp.sum(heard_logps(hidden, HEAD, LABELS, MASK, SAID, divergence, 2.0, 4)[2])

        def whole(logits):
            return jnp.sum(jnp.where(MASK, divergence(teacher, logits, jnp.float32(2.0)), 0.0))

        return jax.value_and_grad(pieces)(hidden), jax.value_and_grad(whole)(logits)

    (value, slope), (want, steep) = both(HIDDEN, student.logits)
    factor = 2.0 if divergence == TotalVariation() else 4.0
    np.testing.assert_allclose(value * factor, want, rtol=1e-5)
    np.testing.assert_allclose(slope * factor, jnp.einsum("btv,dv->btd", steep, HEAD), rtol=1e-4, atol=1e-5)


def test_it_is_added_to_what_the_policy_loss_is_without_it():
    value, notes, slopes = learn(LOSS, EARNED)
    alone, told, steep = learn(replace(LOSS, toward=None), EARNED)
    term, _, pulled = learn(LOSS, STILL)
    np.testing.assert_allclose(value, alone + term, rtol=1e-5)
    for got, one, other in zip(slopes, steep, pulled, strict=True):
        np.testing.assert_allclose(got, one + other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(notes["loss"].mean(), value, rtol=1e-6)
    np.testing.assert_allclose(notes["toward"].mean(), term / 0.3, rtol=1e-5)
    assert {name for name in notes if name not in told} == {"toward"}


def test_without_it_what_a_teacher_says_changes_no_bit():
    without = replace(LOSS, toward=None)
    one, other = (jax.tree.leaves(learn(without, credit)) for credit in (EARNED, replace(EARNED, said=None)))
    for mine, its in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, its)


def test_over_what_might_be_drawn_credit_has_its_gradient():
    one = jnp.repeat(HIDDEN[:1, :1], V, axis=0), SAID.slice(jnp.int32(0), 1).logits[:1]
    labels, mask, temperature = jnp.arange(V)[:, None], jnp.ones((V, 1), bool), 0.7
    q = jax.nn.log_softmax(one[0] @ HEAD / temperature)[:, 0]
    p = jax.nn.log_softmax(one[1][0, 0] / temperature)
    drawn = token_logps(one[0], HEAD, labels, mask, temperature)[0]
    policy = PolicyLoss(aggregation=TokenMean(), clip=NoClip(), correction=NoCorrection())
    asked = Reinforce(policy=policy, teacher=0.3, temperature=temperature)
    credit = Credit(advantages=jnp.zeros((V, 1)), behaviour=drawn, teacher=p[:, None])
    by_token = learn(asked, credit, one[0], labels, mask)[2][0][:, 0] * V
    said = Projected(jnp.repeat(SAID.hidden[:1, :1], V, axis=0), SAID.head)
    exact = learn(replace(asked, teacher=0.0, toward=Toward(weight=0.3)), replace(credit, teacher=None, said=said),
                  one[0], labels, mask)[2][0][:, 0] * V  # fmt: skip
    np.testing.assert_allclose(jnp.exp(q[0]) @ by_token, exact[0], rtol=1e-4, atol=1e-6)
    assert jnp.abs(by_token - exact).max() > 0.01, "a single draw has another gradient"


def test_however_stale_the_answers_it_has_no_weight_of_its_own():
    old = replace(STILL, behaviour=DRAWN - 5.0, age=jnp.full(B, 3))
    (value, notes, slopes), (same, told, _) = learn(LOSS, old), learn(LOSS, STILL)
    assert notes["dropped"].mean() == 1 > told["dropped"].mean()
    np.testing.assert_array_equal(value, same)
    np.testing.assert_array_equal(slopes[0], learn(LOSS, STILL)[2][0])


def test_rows_add_up_to_the_batch():
    def totals(rows):
        said = replace(SAID, hidden=SAID.hidden[rows])
        part = replace(jax.tree.map(lambda x: x[rows], replace(EARNED, said=None)), said=said)
        tally = LOSS(HIDDEN[rows], HEAD, part, LABELS[rows], place(MASK[rows]), 0.0)[0]
        return np.array([tally.total, tally.count])

    whole = totals(slice(0, 4))
    np.testing.assert_allclose(totals(slice(0, 2)) + totals(slice(2, 4)), whole, rtol=1e-5)


def test_masked_positions_may_hold_anything():
    def spoilt(states):
        return jnp.where(MASK[..., None], states, jnp.nan)

    said = replace(SAID, hidden=spoilt(SAID.hidden))
    found = learn(LOSS, replace(EARNED, said=said), spoilt(HIDDEN), jnp.where(MASK, LABELS, -100))
    want = learn(LOSS, EARNED)
    np.testing.assert_allclose(found[0], want[0], rtol=1e-6)
    for got, one in zip(found[2], want[2], strict=True):
        np.testing.assert_allclose(got, one, atol=1e-6)


def test_neither_sides_logits_of_the_whole_batch_are_ever_formed():
    b, t, d, v = 2, 96, 4, 1000

    def total(hidden, head, said, labels):
        found = heard_logps(hidden, head, labels, labels >= 0, said, ReverseKL(), 0.7, 8)
        return found[0].sum() + found[2].sum()

    states, heads = jax.ShapeDtypeStruct((b, t, d), jnp.float32), jax.ShapeDtypeStruct((d, v), jnp.float32)
    labels = jax.ShapeDtypeStruct((b, t), jnp.int32)
    compiled = jax.jit(jax.grad(total, (0, 1))).lower(states, heads, Projected(states, heads), labels).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < b * t * v * 4
    assert f"[{b},{t},{v}]" not in compiled.as_text()


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_cannot_be_is_refused(weight):
    with pytest.raises(ValueError, match=rf"Toward\(weight={weight}\) must be above 0 and finite: .* leave Toward out"):
        Toward(weight=weight)


def test_without_a_teachers_whole_word_it_is_refused():
    with pytest.raises(
        ValueError, match=r"needs what a teacher says of every token \(Credit.said\), and there is none"
    ):
        learn(LOSS, replace(STILL, said=None))


def test_a_teacher_of_another_vocabulary_is_refused():
    other = replace(STILL, said=replace(SAID, head=SAID.head[:, :-1]))
    with pytest.raises(ValueError, match="vocabulary has 12 tokens and the student's 13"):
        learn(LOSS, other)
