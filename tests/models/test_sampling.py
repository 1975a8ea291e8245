from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from models.sampling import Sampling, invert

LOGITS = np.random.default_rng(0).normal(size=300).astype(np.float32) * 3  # three blocks, the last not full


@partial(jax.jit, static_argnums=0)
def _draw(sampling, logits, uniform):
    return sampling(logits, uniform)


def _claimed(sampling):
    """The distribution by definition, in float64 and with a sort."""
    probs = np.exp(LOGITS.astype(np.float64) / sampling.temperature)
    order = np.argsort(-probs)
    if sampling.top_k is not None:
        probs[order[sampling.top_k :]] = 0
    probs /= probs.sum()
    before = np.cumsum(probs[order]) - probs[order]
    probs[order[before >= sampling.top_p]] = 0
    return probs / probs.sum()


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling(temperature=0.5), Sampling(temperature=2.0, top_k=20), Sampling(top_p=0.9),
    Sampling(temperature=1.5, top_k=50, top_p=0.7),
])  # fmt: skip
def test_draws_follow_the_distribution_claimed(sampling):
    n, probs = 40_000, _claimed(sampling)
    uniform = jax.random.uniform(jax.random.key(1), (n,))
    tokens, _ = _draw(sampling, jnp.broadcast_to(LOGITS, (n, 300)), uniform)
    seen = np.bincount(tokens, minlength=300)
    assert np.all(seen[probs == 0] == 0)
    # Rare tokens are counted together: chi-square wants five of each.
    often = probs * n >= 5
    seen, wanted = ([*x[often], x[~often].sum()] for x in (seen, probs * n))
    keep = 2 if wanted[-1] == 0 else 1
    assert stats.chisquare(seen[: len(seen) + 1 - keep], wanted[: len(wanted) + 1 - keep]).pvalue > 0.01


def test_a_wrong_distribution_would_be_found_out():
    uniform = jax.random.uniform(jax.random.key(1), (40_000,))
    tokens, _ = _draw(Sampling(temperature=1.05), jnp.broadcast_to(LOGITS, (40_000, 300)), uniform)
    often = _claimed(Sampling()) * 40_000 >= 5
    seen, wanted = np.bincount(tokens, minlength=300)[often], _claimed(Sampling())[often]
    assert stats.chisquare(seen, wanted / wanted.sum() * seen.sum()).pvalue < 1e-6


def test_the_log_probability_is_over_the_whole_vocabulary_at_the_temperature():
    sampling = Sampling(temperature=0.7, top_k=3, top_p=0.5)
    tokens, logprobs = _draw(sampling, jnp.asarray(LOGITS)[None], jnp.array([0.4]))
    wanted = jax.nn.log_softmax(LOGITS / 0.7)[tokens[0]]
    np.testing.assert_allclose(logprobs[0], wanted, atol=1e-6)


def test_temperature_zero_takes_the_likeliest_and_says_what_the_model_gives_it():
    tokens, logprobs = _draw(Sampling(temperature=0.0), jnp.asarray(LOGITS)[None], jnp.array([0.99]))
    assert tokens[0] == np.argmax(LOGITS)
    np.testing.assert_allclose(logprobs[0], jax.nn.log_softmax(LOGITS).max(), atol=1e-6)


def test_top_k_of_one_takes_the_likeliest():
    tokens, _ = _draw(Sampling(top_k=1), jnp.asarray(LOGITS)[None], jnp.array([0.99]))
    assert tokens[0] == np.argmax(LOGITS)


def test_top_p_keeps_the_token_that_reaches_it():
    weights = jnp.exp(jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]])) - jnp.log(0.5))
    kept = [np.flatnonzero(Sampling(top_p=p).keep(weights)[0]).tolist() for p in (0.1, 0.5, 0.51, 0.81, 0.999)]
    assert kept == [[0], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_tokens_as_likely_as_the_last_one_kept_are_kept():
    assert np.flatnonzero(Sampling(top_k=2).keep(jnp.array([[0.5, 1.0, 0.5, 0.1]]))[0]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_what_has_no_weight_is_never_drawn(uniform):
    weights = jnp.zeros((3, 400)).at[:, 130:140].set(0.1).at[1, 300].set(1e-30).at[2, 5].set(1e-3)
    ids = invert(weights, jnp.full(3, uniform, jnp.float32))
    assert jnp.all(jnp.take_along_axis(weights, ids[:, None], axis=1) > 0)


def test_the_draw_is_the_inverse_of_the_distribution_function():
    weights = jnp.array([[0.0, 2.0, 0.0, 1.0, 1.0]])
    ids = [int(invert(weights, jnp.array([u], jnp.float32))[0]) for u in (0.0, 0.49, 0.51, 0.74, 0.76)]
    assert ids == [1, 1, 3, 3, 4]


def test_logits_that_are_no_numbers_still_give_an_id():
    tokens, logprobs = _draw(Sampling(), jnp.full((1, 300), jnp.nan), jnp.array([0.5]))
    assert 0 <= tokens[0] < 300
    assert jnp.isnan(logprobs[0])


def test_a_negative_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature is -1.0; it must be at least 0"):
        Sampling(temperature=-1.0)


def test_a_top_k_of_nothing_is_refused():
    with pytest.raises(ValueError, match="top_k is 0; it must be at least 1 token"):
        Sampling(top_k=0)


@pytest.mark.parametrize("top_p", [0.0, 1.5])
def test_a_top_p_that_is_no_share_is_refused(top_p):
    with pytest.raises(ValueError, match=f"top_p is {top_p}; it must be above 0 and at most 1"):
        Sampling(top_p=top_p)
