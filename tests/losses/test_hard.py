import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import CrossEntropy


def test_cross_entropy_of_even_odds_is_the_log_of_the_number_of_tokens():
    value = CrossEntropy()(jnp.zeros((1, 2, 8)), jnp.array([[0, 7]]))
    np.testing.assert_allclose(value, np.log(8.0), rtol=1e-6)


def test_the_z_loss_is_the_squared_logsumexp():
    logits, labels = jnp.array([[[np.log(3.0), 0.0]]]), jnp.array([[0]])
    plain, weighted = CrossEntropy()(logits, labels), CrossEntropy(z_weight=0.5)(logits, labels)
    np.testing.assert_allclose(plain, np.log(4 / 3), rtol=1e-6)
    np.testing.assert_allclose(weighted - plain, 0.5 * np.log(4.0) ** 2, rtol=1e-6)


def test_the_gradient_is_finite_and_zero_at_excluded_tokens():
    logits, labels = jnp.array([[[1.0, -jnp.inf, 2.0]]]), jnp.array([[2]])
    slope = jax.grad(lambda z: CrossEntropy(z_weight=1e-4)(z, labels).sum())(logits)
    assert jnp.isfinite(slope).all() and slope[0, 0, 1] == 0.0


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        CrossEntropy(z_weight=-1.0)
