import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import RouterHealth


def test_the_balancing_loss_of_a_perfect_balance_is_its_weight():
    counts, probs = jnp.full((2, 4), 3.0), jnp.full((2, 4), 3.0)
    loss = RouterHealth(balance=0.01).loss(counts, probs, jnp.zeros(2), jnp.full(2, 12.0))
    np.testing.assert_allclose(loss, 0.01, rtol=1e-6)


def test_the_balancing_loss_of_a_collapse_is_the_number_of_experts():
    collapsed = jnp.array([[8.0, 0.0, 0.0, 0.0]])
    loss = RouterHealth(balance=1.0).loss(collapsed, collapsed, jnp.zeros(1), jnp.array([8.0]))
    np.testing.assert_allclose(loss, 4.0, rtol=1e-6)


def test_its_gradient_reaches_the_router_through_the_probabilities_alone():
    counts, probs = jnp.array([[6.0, 2.0]]), jnp.array([[5.0, 3.0]])
    slope = jax.grad(RouterHealth(balance=1.0).loss, (0, 1))(counts, probs, jnp.zeros(1), jnp.array([8.0]))
    np.testing.assert_array_equal(slope[0], 0.0)
    np.testing.assert_allclose(slope[1], [[2 * 0.75 / 8, 2 * 0.25 / 8]], rtol=1e-6)


def test_two_choices_a_token_leave_a_perfect_balance_at_its_weight():
    loss = RouterHealth(balance=0.01).loss(
        jnp.full((1, 4), 6.0), jnp.full((1, 4), 3.0), jnp.zeros(1), jnp.array([12.0])
    )
    np.testing.assert_allclose(loss, 0.01, rtol=1e-6)


def test_the_z_loss_is_the_mean_over_tokens():
    loss = RouterHealth(balance=0.0, z=0.5).loss(jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.array([8.0]), jnp.array([2.0]))
    np.testing.assert_allclose(loss, 2.0, rtol=1e-6)


def test_the_bias_lifts_the_idle_and_lowers_the_busy():
    bias = RouterHealth(bias_rate=0.02).next_bias(jnp.zeros((1, 4)), jnp.array([[4.0, 2.0, 1.0, 1.0]]))
    np.testing.assert_allclose(bias, [[-0.025, -0.005, 0.015, 0.015]], rtol=1e-5)


def test_the_bias_is_centred_and_rests_without_tokens():
    bias = RouterHealth(bias_rate=0.02).next_bias(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2)))
    np.testing.assert_allclose(bias, [[-1.0, 1.0]])


def test_a_layer_without_tokens_costs_nothing():
    zero = jnp.zeros((1, 4))
    assert float(RouterHealth(z=1.0).loss(zero, zero, jnp.zeros(1), jnp.zeros(1))) == 0.0


def test_a_model_without_moe_layers_has_no_router_loss():
    none = jnp.zeros((0, 16))
    assert float(RouterHealth(z=1.0).loss(none, none, jnp.zeros(0), jnp.zeros(0))) == 0.0


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match=r"RouterHealth\(z=-1.0\) must not be negative"):
        RouterHealth(z=-1.0)
