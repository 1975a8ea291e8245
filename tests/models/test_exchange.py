"""Experts spread over devices answer as those of one device do, and who has no place is dropped device by device."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from models.capacity import Capacity
from models.exchange import Exchange
from models.moe import Blocks, Dense, Each, Ragged
from models.placement import Placement
from models.rounds import Rounds
from tests.models.test_dispatch import arrays, assert_same, value, value_and_slopes

B, T, E = 8, 6, 8
"""48 tokens, an expert of which every device of eight has one"""
RULES = (("b", ("rows", "experts")), ("t", ("columns",)), ("e", ("experts",)), ("f", ("hidden",)), ("d", ("rows",)))


def place(rows=1, experts=1, columns=1, hidden=1):
    shape = (rows, experts, columns, hidden)
    devices = jax.devices()[: int(np.prod(shape))]
    names = ("rows", "experts", "columns", "hidden")
    return Placement(jax.make_mesh(shape, names, (AxisType.Auto,) * 4, devices=devices), RULES, ("d",))


def given(ids):
    """Tokens [b t] that ask for these experts [b t r]."""
    x, ids, scores, gate_up, down = arrays(np.asarray(ids).reshape(-1, np.shape(ids)[-1]), B * T, E, np.shape(ids)[-1])
    rows = lambda each: each.reshape(B, T, -1)  # noqa: E731
    return rows(x), rows(ids), rows(scores), gate_up, down


EVEN = np.arange(B * T * 2).reshape(B, T, 2) % E
LOADS = {
    "even": EVEN,
    "all to one": np.full((B, T, 2), 5),
    "padded": np.where((np.arange(T) >= 4)[None, :, None] | (np.arange(B) == 3)[:, None, None], E, EVEN[:, ::-1] // 2),
}
WAYS = {
    "dense": Dense(),
    "ragged": Ragged(),
    "blocks": Blocks(),
    "tight": Blocks(first=0, rows=4),
    "each": Each(),
    "capacity": Capacity(factor=2.0 * E),  # a place for every choice
}


@pytest.mark.parametrize(
    "devices", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dispatch", WAYS.values(), ids=WAYS.keys())
def test_experts_on_several_devices_answer_and_learn_as_on_one(dispatch, devices):
    spread = Exchange(place(experts=devices), dispatch)
    for ids in LOADS.values():
        assert_same(value_and_slopes(spread, *given(ids)), value_and_slopes(Dense(), *given(ids)))


@pytest.mark.parametrize("dispatch", [Blocks(), WAYS["capacity"]], ids=["blocks", "capacity"])
def test_so_do_those_that_are_cut_along_their_width_and_their_hidden_channels_too(dispatch):
    cut = Exchange(place(rows=2, experts=2, hidden=2), dispatch)
    for ids in LOADS.values():
        assert_same(value_and_slopes(cut, *given(ids[..., :1])), value_and_slopes(Dense(), *given(ids[..., :1])))


def test_rounds_give_the_same_however_many_exchanges_they_take():
    """All 24 choices of a device go to one other in one load, where a pair has 16 places and an expert 4.

    In the last load one device alone has more than a pair's places: the others take another turn with it.
    """
    spread = Exchange(place(experts=4, hidden=2), Rounds(rows=4))
    one_alone = np.where(np.arange(B)[:, None, None] < 2, 5, EVEN)
    for ids in (*LOADS.values(), one_alone):
        np.testing.assert_allclose(value(spread, *given(ids)), value(Dense(), *given(ids)), rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_divide_are_everywhere_and_columns_are_cut():
    x, ids, scores, gate_up, down = given(EVEN)
    some = x[:3], ids[:3], scores[:3], gate_up, down
    spread = Exchange(place(experts=4, columns=2), Blocks())
    assert_same(value_and_slopes(spread, *some), value_and_slopes(Dense(), *some))


def test_experts_that_do_not_divide_stay_together():
    x, ids, scores, gate_up, down = given(EVEN % 6)
    some = x, ids, scores, gate_up[:6], down[:6]
    assert_same(value_and_slopes(Exchange(place(experts=4), Blocks()), *some), value_and_slopes(Dense(), *some))


def test_exactly_those_beyond_the_places_of_their_device_get_nothing_and_learn_nothing():
    """Of two rows of 12 choices a device keeps 8 for each expert: who comes later is as if it had gone nowhere."""
    ids = np.where(np.arange(B)[:, None, None] < 4, 5, EVEN)  # the first two devices ask for one expert alone
    tight, room = Capacity(factor=1.0), 8
    assert tight.room(2 * T * 2, E) == room
    kept = np.array(ids)
    for device in kept.reshape(4, -1):
        for expert in range(E):
            device[np.flatnonzero(device == expert)[room:]] = E
    assert (kept == E).sum() == 2 * (2 * T * 2 - room)
    found = value_and_slopes(Exchange(place(experts=4), tight), *given(ids))
    assert_same(found, value_and_slopes(Dense(), *given(kept)))
    nothing = np.all(kept == E, axis=-1)
    for each in (found[0][nothing], found[1][nothing], found[2][kept == E]):
        np.testing.assert_array_equal(each, 0)


def test_gradients_of_experts_stay_where_the_experts_are():
    there = place(experts=8)
    x, ids, scores, gate_up, down = given(EVEN)

    def loss(gate_up, down):
        return jnp.sum(Exchange(there, Blocks())(x, ids, scores, gate_up, down) ** 2)

    home = there.sharding(("e", "d", "2", "f"), gate_up.shape), there.sharding(("e", "f", "d"), down.shape)
    weights = jax.device_put((gate_up, down), home)
    for slope in jax.jit(jax.grad(loss, (0, 1)))(*weights):
        assert slope.sharding.shard_shape(slope.shape)[0] == 1


@dataclass(frozen=True)
class Counting:
    """Answers every token with the number of those that go to an expert here."""

    def __call__(self, x, ids, scores, gate_up, down):
        return jnp.full(x.shape, jnp.sum(ids < gate_up.shape[0]), x.dtype)


def test_a_device_pays_for_the_tokens_that_come_and_not_for_the_room_that_it_has():
    y = jax.jit(lambda *given: Exchange(place(experts=4), Counting())(*given))(*given(EVEN[..., :1] // 2 * 2))
    np.testing.assert_array_equal(y, B * T // 4)
