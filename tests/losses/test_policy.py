"""The sampled-token reverse KL beside its formula, and beside the divergence whose gradient it estimates."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import Dense, Distill, ForwardKL, JensenShannon, NoGate, Place, ReverseKL, SampledReverseKL, Tally
from losses.check import broken, check
from losses.policy import returned
from losses.sparse import top_k
from tests.losses import formulas

rng = np.random.default_rng(0)
B, T, V = 2, 7, 5
STUDENT, TEACHER = rng.normal(size=(2, B, T, V)).astype(np.float32)
LABELS = rng.integers(0, V, (B, T))
# A prompt of two, then what was drawn; the second row holds a shorter completion and padding.
MASK = np.array([[0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0]], bool)


def ask(loss, student=STUDENT, teacher=TEACHER, labels=LABELS, mask=MASK, segments=None):
    """The tallies, and the gradient in the student's logits."""
    mask = jnp.asarray(mask)
    segments = jnp.asarray(np.ones(mask.shape, np.int32) if segments is None else segments)
    head, signal = jnp.eye(student.shape[-1]), Dense(jnp.asarray(teacher))

    def total(student):
        tally, found, _ = loss(student, head, signal, jnp.asarray(labels), Place(mask, segments, 0 * segments), 0.5)
        return tally.total, (tally, found)

    slope, (tally, found) = jax.grad(total, has_aux=True)(jnp.asarray(student))
    return tally, found, np.asarray(slope)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize(("discount", "centred"), [(0.0, False), (0.0, True), (0.7, False), (1.0, True)])
def test_value_and_gradient_are_those_of_the_formula(discount, centred, chunk):
    tally, found, slope = ask(SampledReverseKL(discount=discount, centred=centred, chunk=chunk))
    want, values = np.zeros((B, T, V)), []
    for row in range(B):
        own = MASK[row]
        p, q = ([formulas.log_softmax(x[row, t]) for t in np.flatnonzero(own)] for x in (TEACHER, STUDENT))
        ratio, want[row, own] = formulas.sampled_reverse_kl(
            np.array(p), np.array(q), LABELS[row, own], discount, centred
        )
        values += list(ratio)
    np.testing.assert_allclose(slope, want, atol=2e-6)
    np.testing.assert_allclose(tally.total, sum(values), rtol=1e-5)
    assert float(tally.count) == 8 == float(found["loss"].count)


def draws(centred):
    """Gradient of one position for every token that might be drawn, and the chance of each."""
    student, teacher = (np.repeat(x[:1, :1], V, axis=0) for x in (STUDENT, TEACHER))
    loss = SampledReverseKL(centred=centred)
    _, _, slope = ask(loss, student, teacher, np.arange(V)[:, None], np.ones((V, 1), bool))
    return slope[:, 0], np.exp(formulas.log_softmax(STUDENT[0, 0]))


@pytest.mark.parametrize("centred", [False, True])
def test_over_what_might_be_drawn_the_gradient_is_that_of_the_reverse_kl(centred):
    slopes, chances = draws(centred)
    one = (STUDENT[:1, :1], TEACHER[:1, :1], LABELS[:1, :1], np.ones((1, 1), bool))
    _, _, exact = ask(Distill(soft=ReverseKL(), gate=NoGate()), *one)
    np.testing.assert_allclose(chances @ slopes, exact[0, 0], atol=1e-6)


def test_centring_takes_away_as_much_noise_as_the_formula_says():
    p, q = formulas.log_softmax(TEACHER[0, 0]), formulas.log_softmax(STUDENT[0, 0])

    def noise(slopes):
        chances = np.exp(q)
        return (chances[:, None] * (slopes - chances @ slopes) ** 2).sum()

    def wanted(centred):
        each = [formulas.sampled_reverse_kl(p[None], q[None], np.array([y]), 0.0, centred)[1][0] for y in range(V)]
        return noise(np.array(each))

    plain, centred = (noise(draws(each)[0]) for each in (False, True))
    np.testing.assert_allclose([plain, centred], [wanted(False), wanted(True)], rtol=1e-5)
    assert centred < plain


def test_with_discount_one_it_is_the_gradient_of_the_reverse_kl_of_whole_completions():
    # Two tokens of three: the second's distribution depends on the first, for student and teacher alike.
    first, second = jnp.asarray(STUDENT[0, 0, :3]), jnp.asarray(STUDENT[0, 1:4, :3])
    teacher = jnp.asarray(TEACHER[0, 0, :3]), jnp.asarray(TEACHER[0, 1:4, :3])
    pairs = jnp.array(list(product(range(3), repeat=2)))

    def read(tables):
        return jnp.stack([jnp.broadcast_to(tables[0], (9, 3)), tables[1][pairs[:, 0]]], axis=1)

    def log_chance(tables):
        return jnp.take_along_axis(jax.nn.log_softmax(read(tables)), pairs[..., None], axis=-1).sum((1, 2))

    def exact(tables):
        own = log_chance(tables)
        return jnp.sum(jnp.exp(own) * (own - log_chance(teacher)))

    _, _, slope = ask(
        SampledReverseKL(discount=1.0), read((first, second)), read(teacher), pairs, np.ones((9, 2), bool)
    )
    chances, pull = jnp.exp(log_chance((first, second))), jax.vjp(read, (first, second))[1]
    found, want = pull(chances[:, None, None] * slope)[0], jax.grad(exact)((first, second))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, want)


def test_what_comes_later_counts_within_its_document():
    values, segments = jnp.array([[1.0, 2.0, 4.0, 8.0]]), jnp.array([[1, 1, 2, 2]])
    assert returned(values, segments, 0.5).tolist() == [[2.0, 2.0, 8.0, 8.0]]


LOSSES = [Distill(soft=soft, gate=NoGate()) for soft in (ForwardKL(), ReverseKL(), JensenShannon())]


@pytest.mark.parametrize("loss", [*LOSSES, SampledReverseKL(), SampledReverseKL(discount=1.0, centred=True)], ids=str)
def test_another_teacher_gives_another_gradient(loss):
    assert np.abs(ask(loss)[2] - ask(loss, teacher=-TEACHER)[2]).max() > 0.1


def test_a_token_that_the_teacher_excludes_is_bounded():
    teacher = np.where(np.arange(V) == LABELS[..., None], -np.inf, TEACHER)
    tally, _, slope = ask(SampledReverseKL(limit=4.0, centred=True), teacher=teacher)
    assert float(tally.mean()) == 4.0 and np.abs(slope).max() <= 8.0


def test_it_keeps_the_promises_of_a_loss_of_own_draws():
    found = check(SampledReverseKL(chunk=5))
    assert broken(found) == [] and {"reverse KL in expectation", "pieces"} <= set(found)
    assert "next-token shift" not in found


@dataclass(frozen=True)
class Slope:
    """Differentiates log q - log p itself: the teacher drops out, and the expected gradient is 0."""

    on_policy: ClassVar[bool] = True

    def __call__(self, hidden, head, signal, labels, place, progress):
        """The mistake of the libraries."""
        p, q = signal.log_probs(jnp.float32(1.0)), jax.nn.log_softmax(hidden @ head)
        ratio = jnp.take_along_axis(q - p, jnp.where(place.mask, labels, 0)[..., None], axis=-1)[..., 0]
        return Tally.of(ratio, place.mask), {}, None


def test_the_check_finds_a_gradient_without_a_teacher():
    assert {"reverse KL in expectation", "the teacher matters"} <= set(broken(check(Slope())))


@pytest.mark.parametrize(("settings", "message"), [
    ({"discount": 1.5}, "discount=1.5.* must lie within 0"),
    ({"limit": 0.0}, "limit=0.0.* must be above 0 nats"),
    ({"chunk": 0}, "chunk=0.* must be at least 1 position"),
])  # fmt: skip
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SampledReverseKL(**settings)


def test_without_a_teacher_there_is_nothing_to_learn():
    segments = jnp.ones((B, T), jnp.int32)
    with pytest.raises(ValueError, match="no teacher to judge the student's draws"):
        SampledReverseKL()(
            jnp.asarray(STUDENT),
            jnp.eye(V),
            None,
            jnp.asarray(LABELS),
            Place(jnp.asarray(MASK), segments, segments),
            0.0,
        )


def test_a_teacher_that_does_not_know_every_token_is_refused():
    segments, labels = jnp.ones((B, T), jnp.int32), jnp.asarray(LABELS)
    few = top_k(Dense(jnp.asarray(TEACHER)), labels, 2)
    with pytest.raises(ValueError, match="whatever was drawn, asks .* and TopK does not know every token"):
        SampledReverseKL()(
            jnp.asarray(STUDENT), jnp.eye(V), few, labels, Place(jnp.asarray(MASK), segments, segments), 0.0
        )


def test_a_teacher_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="teacher's vocabulary has 4 tokens and the student's 5"):
        ask(SampledReverseKL(), teacher=TEACHER[..., :4])
