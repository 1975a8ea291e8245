import jax.numpy as jnp
import numpy as np

from losses import Tally


def test_a_tally_counts_where_the_mask_holds():
    tally = Tally.of(jnp.array([[1.0, 2.0, 4.0]]), jnp.array([[True, False, True]]))
    assert (float(tally.total), float(tally.count), float(tally.mean())) == (5.0, 2.0, 2.5)


def test_a_masked_value_may_be_nan():
    assert float(Tally.of(jnp.array([[1.0, jnp.nan]]), jnp.array([[True, False]])).mean()) == 1.0


def test_tallies_add_so_that_every_token_weighs_the_same():
    long = Tally.of(jnp.full((1, 9), 1.0), jnp.ones((1, 9), bool))
    short = Tally.of(jnp.full((1, 1), 11.0), jnp.ones((1, 1), bool))
    assert float((long + short).mean()) == 2.0


def test_the_mean_of_nothing_is_zero():
    assert float(Tally.of(jnp.ones((1, 2)), jnp.zeros((1, 2), bool)).mean()) == 0.0


def test_bfloat16_values_are_summed_in_float32():
    values = jnp.full((1, 4096), 1.0, jnp.bfloat16)
    np.testing.assert_equal(float(Tally.of(values, jnp.ones((1, 4096), bool)).total), 4096.0)
