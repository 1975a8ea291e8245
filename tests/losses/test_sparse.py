import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import (
    AdaptiveKL,
    AlphaBeta,
    Balance,
    Constant,
    Dense,
    Distill,
    Ensemble,
    ForwardKL,
    JensenShannon,
    Lens,
    NoGate,
    Place,
    Projected,
    PutRight,
    ReverseKL,
    Sampled,
    Signal,
    SkewKL,
    SkewReverseKL,
    ToDi,
    Top,
    TopK,
    TotalVariation,
)
from losses.gate import Look
from losses.sparse import draw, top_k
from tests.losses.worked import as_dense, assert_close, call, case, value_and_gradients

ONE = jnp.float32(1.0)
ALL = [ForwardKL(), ReverseKL(), JensenShannon(), SkewKL(), SkewReverseKL(), AlphaBeta(), TotalVariation()]
ALL += [AdaptiveKL(), ToDi()]


def teach(key, v=12, scale=3.0):
    return Dense(scale * jax.random.normal(key, (2, 3, v))), jax.random.randint(key, (2, 3), 0, v)


def value_and_slope(divergence, signal, logits):
    return jax.value_and_grad(lambda x: divergence(signal, x, ONE).sum())(logits)


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_top_k_of_the_whole_vocabulary_is_dense(divergence, key):
    dense, labels = teach(key)
    logits = jax.random.normal(jax.random.fold_in(key, 1), dense.logits.shape)
    got, want = (value_and_slope(divergence, s, logits) for s in (top_k(dense, labels, 12), dense))
    assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 11, 12])
@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_top_k_is_never_negative_nor_nan(divergence, k, key):
    dense, labels = teach(key, scale=8.0)
    for spread in (0.0, 1.0, 30.0):
        logits = spread * jax.random.normal(jax.random.fold_in(key, 1), dense.logits.shape)
        value, slope = jax.value_and_grad(lambda x: divergence(top_k(dense, labels, k), x, ONE).min())(logits)
        assert value > -1e-6 and jnp.isfinite(slope).all()


def test_top_k_says_no_more_than_the_whole_distribution(key):
    dense, labels = teach(key)
    logits = jax.random.normal(jax.random.fold_in(key, 1), dense.logits.shape)
    values = [ForwardKL()(top_k(dense, labels, k), logits, ONE) for k in (1, 2, 4, 8, 12)]
    for coarse, fine in zip(values, values[1:], strict=False):
        assert (np.asarray(coarse) <= np.asarray(fine) + 1e-6).all()


def test_a_student_that_leaks_mass_beyond_the_top_k_is_told_so():
    teacher = Dense(jnp.log(jnp.array([[[0.5, 0.3, 0.15, 0.05]]])))
    leaky = jnp.log(jnp.array([[[0.05, 0.03, 0.015, 0.905]]]))  # right within the top three, which renormalising hides
    value, slope = value_and_slope(ForwardKL(), top_k(teacher, jnp.zeros((1, 1), jnp.int32), 3), leaky)
    assert value > 1.0 and slope[0, 0, 3] > 0.5


def test_a_tiny_leak_keeps_its_digits(key):
    teacher = top_k(Dense(jnp.array([[[0.0, 0.0, -50.0]]])), jnp.zeros((1, 1), jnp.int32), 2)
    sides = teacher.against(jnp.array([[[0.0, 0.0, -40.0]]]), ONE)
    np.testing.assert_allclose(sides.student[0, 0, 2], -40.0 - np.log(2.0), rtol=1e-6)


def test_top_k_of_a_padded_vocabulary_takes_no_excluded_token_before_the_others(key):
    dense, labels = teach(key)
    padded = Dense(dense.logits.at[..., 7:].set(-jnp.inf))
    coarse = top_k(padded, labels % 7, 9)
    logits = jax.random.normal(key, dense.logits.shape).at[..., 7:].set(-jnp.inf)
    value, slope = value_and_slope(ForwardKL(), coarse, logits)
    np.testing.assert_allclose(value, ForwardKL()(padded, logits, ONE).sum(), rtol=1e-5)
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_loss_seen_through_a_coarse_lens_is_that_of_the_coarse_targets(key, chunk):
    arguments = case(key)
    lens = Distill(alpha=Constant(0.6), gate=NoGate(), lens=Top(k=3), chunk=chunk)
    clear = Distill(alpha=Constant(0.6), gate=NoGate(), chunk=chunk)
    coarse = top_k(as_dense(arguments["signal"]), jnp.where(arguments["mask"], arguments["labels"], 0), 3)
    got, want = value_and_gradients(lens, **arguments), value_and_gradients(clear, **(arguments | {"signal": coarse}))
    assert_close(got, want)


def test_draws_have_the_teachers_frequencies(key):
    dense, _ = teach(key, v=6, scale=1.5)
    labels = jnp.zeros((2, 3), jnp.int32)
    count = 40000
    ids = np.asarray(draw(dense, labels, count, key).ids)
    seen = np.stack([np.bincount(row, minlength=6) for row in ids.reshape(-1, count)])
    expected = count * np.asarray(jax.nn.softmax(dense.logits)).reshape(-1, 6)
    chi = ((seen - expected) ** 2 / expected).sum(-1)
    assert (chi < 25.7).all()  # 5 degrees of freedom: one in ten thousand is larger


@pytest.mark.parametrize("known", [0, 3])
def test_the_gradient_of_sampled_targets_is_unbiased(key, known):
    """The mean over many sets of draws is the dense gradient, within its own standard error."""
    dense, labels = teach(key, v=8, scale=1.5)
    logits = jax.random.normal(jax.random.fold_in(key, 1), dense.logits.shape)
    want_value, want = value_and_slope(ForwardKL(), dense, logits)

    def one(key):
        return value_and_slope(ForwardKL(), draw(dense, labels, 4, key, known), logits)

    values, slopes = jax.lax.map(one, jax.random.split(key, 4000), batch_size=500)
    error = np.asarray(slopes.std(0)) / np.sqrt(4000)
    off, noisy = np.asarray(slopes.mean(0)) - np.asarray(want), error > 1e-7
    z = off[noisy] / error[noisy]
    assert np.abs(z).max() < 4.5 and 0.7 < z.std() < 1.3
    assert np.abs(off[~noisy]).max(initial=0.0) < 1e-6 and (~noisy).sum() == 6 * known  # the known are without noise
    assert abs(values.mean() - want_value) < 4 * values.std() / np.sqrt(4000)


def test_what_is_known_is_drawn_no_more_and_leaves_noise_in_the_rest_alone(key):
    dense, labels = teach(key)
    best = top_k(dense, labels, 4)
    drawn = draw(dense, labels, 500, key, known=4)
    assert_close(drawn.ids[..., :4], best.ids)
    assert_close(drawn.weights[..., :4], jnp.exp(best.log_probs))
    assert_close(drawn.weights.sum(-1), jnp.ones((2, 3)))
    assert not (drawn.ids[..., 4:, None] == best.ids[..., None, :]).any()
    logits = jax.random.normal(jax.random.fold_in(key, 1), dense.logits.shape)
    want = value_and_slope(ForwardKL(), dense, logits)[1]

    def error(known, draws):
        slopes = jax.vmap(lambda key: value_and_slope(ForwardKL(), draw(dense, labels, draws, key, known), logits)[1])
        return jnp.square(slopes(jax.random.split(key, 200)) - want).mean()

    assert error(4, 4) < 0.2 * error(0, 8)


@pytest.mark.parametrize("known", [2, 3, 11])
def test_a_rest_without_mass_takes_no_draw(known):
    """A teacher that is sure of two tokens, and more are asked for."""
    sure = Dense(jnp.full((1, 1, 12), -jnp.inf).at[0, 0, :2].set(0.0))
    labels = jnp.zeros((1, 1), jnp.int32)
    drawn = draw(sure, labels, 4, jax.random.key(0), known)
    np.testing.assert_allclose(drawn.weights[..., known:], 0.0)
    value, slope = value_and_slope(ForwardKL(), drawn, jnp.zeros((1, 1, 12)))
    want = value_and_slope(ForwardKL(), sure, jnp.zeros((1, 1, 12)))
    assert_close((value, slope), want)


def test_renormalised_top_k_is_biased_by_the_mass_that_was_cut(key):
    """Beside the two repairs: its gradient does not vanish at the teacher, theirs does."""
    dense, labels = teach(key)
    coarse = top_k(dense, labels, 3)
    naive = Sampled(coarse.ids, jax.nn.softmax(coarse.log_probs), coarse.log_probs, coarse.judged, coarse.vocab)
    biased, repaired = (value_and_slope(ForwardKL(), s, dense.logits)[1] for s in (naive, coarse))
    np.testing.assert_allclose(repaired, 0.0, atol=1e-6)
    missing = np.asarray(1.0 - jnp.exp(coarse.log_probs).sum(-1))
    np.testing.assert_allclose(jnp.abs(biased).sum(-1), 2.0 * missing, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("divergence", [d for d in ALL if d != ForwardKL()], ids=str)
def test_what_is_not_linear_in_the_teacher_refuses_samples(divergence, key):
    dense, labels = teach(key)
    with pytest.raises(ValueError, match="take ForwardKL, or top-k targets"):
        divergence(draw(dense, labels, 4, key), dense.logits, ONE)


class Drawn(Lens):
    def __call__(self, signal, labels):
        return draw(signal, labels, 3, jax.random.key(0))


@pytest.mark.parametrize("lens", [Top(k=3), Drawn()], ids=["top", "drawn"])
def test_a_temperature_needs_the_whole_distribution(key, lens):
    with pytest.raises(ValueError, match="known at temperature 1 only"):
        call(Distill(temperature=Constant(2.0), lens=lens), **case(key))


@pytest.mark.parametrize("few", [lambda s, y: top_k(s, y, 3), lambda s, y: draw(s, y, 3, jax.random.key(0))])
@pytest.mark.parametrize(
    "ask",
    [
        lambda s, y: Top(k=2)(s, y),
        lambda s, y: PutRight()(s, y),
        lambda s, y: top_k(s, y, 2),
        lambda s, y: draw(s, y, 2, jax.random.key(0)),
        lambda s, y: Ensemble((s, s), jnp.array([0.5, 0.5])).log_probs(ONE),
    ],
    ids=["Top", "PutRight", "top_k", "draw", "Ensemble"],
)
def test_what_needs_every_token_refuses_a_signal_that_knows_some(ask, few, key):
    dense, labels = teach(key)
    signal = few(dense, labels)
    with pytest.raises(ValueError, match=f"{type(signal).__name__} does not know every token"):
        ask(signal, labels)


@pytest.mark.parametrize("make", [lambda s, y: top_k(s, y, 3), lambda s, y: draw(s, y, 3, jax.random.key(0))])
def test_another_temperature_is_refused_or_poisons_the_loss(make, key):
    dense, labels = teach(key)
    signal = make(dense, labels)
    with pytest.raises(ValueError, match="known at temperature 1 only, and was asked at 2.0"):
        ForwardKL()(signal, dense.logits, jnp.float32(2.0))
    traced = jax.jit(lambda degrees: ForwardKL()(signal, dense.logits, degrees))
    assert jnp.isnan(traced(2.0)).all()
    assert_close(traced(1.0), ForwardKL()(signal, dense.logits, ONE))


def test_the_overlap_counts_the_tokens_that_a_signal_names(key):
    dense, labels = teach(key)
    logits = jax.random.normal(key, dense.logits.shape)
    p, q = jax.nn.softmax(dense.logits), jax.nn.softmax(logits)
    best = jnp.argsort(-p)[..., :3]
    want = (jnp.take_along_axis(p, best, -1) * jnp.take_along_axis(q, best, -1)).sum(-1)
    assert_close(dense.against(logits, ONE).overlap(), (p * q).sum(-1))
    assert_close(top_k(dense, labels, 3).against(logits, ONE).overlap(), want)
    draws = draw(dense, labels, 40000, key).against(logits, ONE).overlap()
    np.testing.assert_allclose(draws, (p * q).sum(-1), rtol=0.03)


def test_gradients_are_balanced_by_stored_targets_as_by_the_teacher(key):
    """The rest of a vocabulary hardly overlaps, and as one token it would."""
    dense, labels = Dense(2.0 * jax.random.normal(key, (2, 3, 400))), jnp.zeros((2, 3), jnp.int32)
    logits = jax.random.normal(jax.random.fold_in(key, 1), dense.logits.shape)
    place = Place(labels == 0, labels, labels)
    norms = []
    for signal in (dense, top_k(dense, labels, 40)):
        sides = signal.against(logits, ONE)
        look = Look(signal.belief(labels), Dense(logits).belief(labels), sides.overlap())
        norms.append([float(tally.mean()) for tally in Balance().observe(look, place)])
    np.testing.assert_allclose(norms[1], norms[0], rtol=0.05)


def test_both_are_signals_and_keep_what_the_whole_thought_of_the_labels(key):
    dense, labels = teach(key)
    for signal in (top_k(dense, labels, 3), draw(dense, labels, 3, key)):
        assert isinstance(signal, Signal) and isinstance(signal, TopK | Sampled) and not signal.tempers
        assert_close(signal.belief(labels), dense.belief(labels))
        assert_close(
            signal.slice(jnp.int32(1), 2).belief(labels[:, 1:]), dense.slice(jnp.int32(1), 2).belief(labels[:, 1:])
        )


def test_targets_are_made_from_hidden_states_as_from_logits(key):
    signal = Projected(jax.random.normal(key, (2, 3, 5)), jax.random.normal(key, (5, 12)))
    labels = jnp.zeros((2, 3), jnp.int32)
    assert_close(top_k(signal, labels, 4), top_k(as_dense(signal), labels, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, y: top_k(s, y, 13), "from 1 to the 12 tokens"),
        (lambda s, y: top_k(s, y, 0), "from 1 to the 12 tokens"),
        (lambda s, y: draw(s, y, 0, jax.random.key(0)), "at least 1 token"),
        (lambda s, y: draw(s, y, 4, jax.random.key(0), known=12), "known=12.* below the 12 tokens"),
        (lambda s, y: Top(k=0), "at least 1 token"),
    ],
)
def test_impossible_targets_are_refused(key, make, message):
    with pytest.raises(ValueError, match=message):
        make(*teach(key))
