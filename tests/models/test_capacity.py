"""A fixed number of places for each expert: the same sum where they suffice, and exactly what is beyond them is 0."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.capacity import Capacity, place_in_slots
from models.moe import Dense
from tests.models.test_dispatch import E, N, arrays, assert_same, loads, value_and_slopes

ENOUGH = Capacity(factor=float(E))


def test_there_are_so_many_places_as_the_factor_says_in_eights_but_never_more_than_choices():
    assert Capacity(factor=1.25).room(1024, 16) == 80
    assert Capacity(factor=1.0).room(100, 4) == 32
    assert Capacity(factor=1.25).room(4, 16) == 4


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_less_than_nothing_is_refused(factor):
    with pytest.raises(ValueError, match=r"Capacity\.factor is .*; it must be above 0; 1\.25 is"):
        Capacity(factor=factor)


@loads
def test_where_the_places_suffice_nothing_is_dropped(ids):
    given = arrays(ids, ids.shape[0], r=ids.shape[1])
    enough = Capacity(factor=2.0 * E)  # of two choices both may go to one expert
    assert_same(value_and_slopes(enough, *given), value_and_slopes(Dense(), *given))


def test_an_expert_takes_the_first_that_come_and_the_others_get_nothing_and_learn_nothing():
    x, ids, scores, gate_up, down = arrays(np.full((N, 1), 2))
    tight = Capacity(factor=1.0)
    assert tight.room(N, E) == 8
    kept = value_and_slopes(Dense(), x, jnp.where(jnp.arange(N)[:, None] < 8, ids, E), scores, gate_up, down)
    found = value_and_slopes(tight, x, ids, scores, gate_up, down)
    assert_same(found, kept)
    for beyond in (found[0][8:], found[1][8:], found[2][8:]):
        np.testing.assert_array_equal(beyond, 0)


def test_a_token_may_keep_one_of_its_two_experts():
    ids = np.stack([np.zeros(N, int), np.arange(N) % 4 + 1], axis=1)
    x, ids, scores, gate_up, down = arrays(ids, r=2)
    room = Capacity(factor=1.0).room(ids.size, E)
    assert room < N  # of expert 0, while the others have places for all who come
    beyond = jnp.stack([jnp.arange(N) >= room, jnp.zeros(N, bool)], axis=1)
    kept = value_and_slopes(Dense(), x, jnp.where(beyond, E, ids), scores, gate_up, down)
    assert_same(value_and_slopes(Capacity(factor=1.0), x, ids, scores, gate_up, down), kept)


def test_what_goes_nowhere_takes_no_place():
    ids = jnp.concatenate([jnp.full((20, 1), E), jnp.full((8, 1), 1)])
    slots = place_in_slots(ids, E, 8)
    assert slots.kept.tolist() == [False] * 20 + [True] * 8
    assert slots.choice[1].tolist() == list(range(20, 28)) and slots.filled.sum() == 8


def test_what_goes_nowhere_poisons_nothing():
    x, _, scores, gate_up, down = arrays(np.ones((N, 1), int))
    ids = jnp.where(jnp.arange(N) < 30, 1, E)[:, None]
    got = value_and_slopes(ENOUGH, x.at[30:].set(jnp.nan), ids, scores, gate_up, down)
    want = value_and_slopes(Dense(), x.at[30:].set(0.0), ids, scores, gate_up, down)
    for ours, theirs in ((got[0][:30], want[0][:30]), (got[3], want[3]), (got[4], want[4])):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_its_gradient_scatters_no_row():
    """A scatter of rows is slow where a gather is not: of numbers alone there is one, which inverts the order."""
    given = arrays(np.ones((N, 1), int))
    text = str(jax.make_jaxpr(partial(value_and_slopes, ENOUGH))(*given))
    written = [line.split(" = ")[0] for line in text.splitlines() if "= scatter" in line]
    assert written and all(":i32[" in line for line in written)
