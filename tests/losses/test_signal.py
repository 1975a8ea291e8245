import jax
import jax.numpy as jnp
import numpy as np

from losses import Dense, Projected, Signal
from tests.losses.worked import as_dense, brier, softmax


def test_a_belief_holds_what_one_works_out_by_hand():
    belief = Dense(jnp.log(jnp.array([[[1.0, 2.0, 1.0]]]))).belief(jnp.array([[2]]))
    np.testing.assert_allclose(belief.gold, np.log(0.25), rtol=1e-6)
    np.testing.assert_allclose(belief.square, 0.25 + 2 / 16, rtol=1e-6)
    np.testing.assert_array_equal(belief.top, 1)
    np.testing.assert_allclose(belief.brier(), brier(np.array([0.25, 0.5, 0.25]), 2), rtol=1e-6)


def test_the_brier_score_is_best_for_the_truth():
    truth, sharp, flat = np.array([0.7, 0.3]), np.array([0.95, 0.05]), np.array([0.5, 0.5])
    expected = [sum(truth[y] * brier(p, y) for y in (0, 1)) for p in (truth, sharp, flat)]
    assert expected[0] == max(expected)


def test_projected_hidden_states_say_what_their_logits_say(key):
    keys = jax.random.split(key, 3)
    signal = Projected(jax.random.normal(keys[0], (2, 7, 4)), jax.random.normal(keys[1], (4, 9)))
    dense, labels = as_dense(signal), jax.random.randint(keys[2], (2, 7), 0, 9)
    temperature = jnp.float32(2.0)
    np.testing.assert_allclose(signal.log_probs(temperature), dense.log_probs(temperature), rtol=1e-5, atol=1e-6)
    for one, other in (
        (signal.belief(labels), dense.belief(labels)),
        (signal.slice(jnp.int32(2), 3).belief(labels[:, 2:5]), dense.slice(jnp.int32(2), 3).belief(labels[:, 2:5])),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def test_the_most_probable_token_is_found_whatever_the_size_of_the_vocabulary(key):
    for v in (3, 64, 200):
        logits = jax.random.normal(key, (2, 5, v))
        top = jax.jit(Dense(logits).belief)(jnp.zeros((2, 5), jnp.int32)).top
        np.testing.assert_array_equal(top, np.argmax(logits, axis=-1))


def test_excluded_tokens_have_no_probability():
    dense = Dense(jnp.array([[[0.0, -jnp.inf, 0.0]]]))
    np.testing.assert_array_equal(jnp.exp(dense.log_probs(jnp.float32(3.0)))[..., 1], 0.0)
    np.testing.assert_allclose(dense.belief(jnp.array([[0]])).square, 0.5, rtol=1e-6)


def test_bfloat16_logits_are_normalised_in_float32(key):
    logits = jax.random.normal(key, (1, 1, 500)).astype(jnp.bfloat16)
    log_probs = Dense(logits).log_probs(jnp.float32(1.0))
    assert log_probs.dtype == jnp.float32
    np.testing.assert_allclose(np.exp(log_probs[0, 0]), softmax(logits[0, 0]), rtol=1e-5)


def test_shipped_signals_are_signals():
    assert isinstance(Dense(jnp.zeros((1, 1, 2))), Signal)
    assert isinstance(Projected(jnp.zeros((1, 1, 2)), jnp.zeros((2, 3))), Signal)
