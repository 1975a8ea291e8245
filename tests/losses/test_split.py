"""A loss whose positions are shared out over devices is the loss of the whole, in value, gradient and notes."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from losses import Batch, Distill, Evidence, NoGate, Place, Split, TeacherGold, Window, token_logps
from losses.split import shared
from tests.losses.worked import assert_close, case

DEVICES = ("rows", "width", "columns")
GATES = {
    "reach 0": TeacherGold(),
    "reach 3": Evidence(scope=Window(size=3)),
    "reach None": Evidence(scope=Batch()),
    "trust": NoGate(),
}


def split(rows=1, width=1, columns=1):
    shape = (rows, width, columns)
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = jax.make_mesh(shape, DEVICES, (AxisType.Auto,) * 3, devices=devices)
    return Split(mesh, rows=("rows", "width"), columns=("columns",), width=("width",))


ALL = split(2, 2, 2)


@cache
def given():
    return case(jax.random.key(0), b=4, t=12, d=6, v=11)


def found(loss, over, arguments, scale=1.0):
    """Value, gradients in hidden and head, and tallies."""
    rest = {name: each for name, each in arguments.items() if name not in ("hidden", "head")}

    def total(hidden, head, rest):
        place = Place(rest["mask"], rest["segments"], jnp.zeros_like(rest["segments"]), split=over)
        tally, metrics, _ = loss(hidden, head, rest["signal"], rest["labels"], place, 0.0)
        return scale * tally.total, metrics

    return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(arguments["hidden"], arguments["head"], rest)


@cache
def whole(gate, chunk):
    return found(Distill(gate=gate, chunk=chunk), None, given())


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("gate", GATES.values(), ids=GATES.keys())
def test_a_loss_whose_rows_and_columns_are_cut_is_the_loss_of_the_whole(gate, chunk):
    assert_close(found(Distill(gate=gate, chunk=chunk), ALL, given()), whole(gate, None), rtol=1e-5, atol=1e-5)


def test_a_gate_that_sees_its_neighbours_sees_them_where_columns_are_whole():
    gate = GATES["reach 3"]
    assert_close(found(Distill(gate=gate, chunk=4), split(2, 2), given()), whole(gate, None), rtol=1e-5, atol=1e-5)


def test_sizes_that_do_not_divide_are_left_whole():
    odd, gate = case(jax.random.key(1), b=3, t=13, d=5), GATES["reach 3"]
    loss = Distill(gate=gate, chunk=4)
    assert ALL.columns_of(13) == () and ALL.columns_of(12) == ("columns",)
    assert_close(found(loss, ALL, odd), found(loss, None, odd), rtol=1e-5, atol=1e-5)


def test_a_vocabulary_as_long_as_the_row_is_not_split_and_the_same():
    """The teacher's head [4 12] could be taken for a page of 4 rows of 12 columns."""
    alike, loss = case(jax.random.key(0), b=4, t=12, d=2, v=12), Distill(gate=GATES["reach 3"], chunk=4)
    assert alike["signal"].head.shape == alike["labels"].shape
    assert_close(found(loss, ALL, alike), found(loss, None, alike), rtol=1e-5, atol=1e-5)


def test_a_loss_that_is_weighed_by_something_later_has_its_gradient_weighed():
    loss = Distill(gate=NoGate(), chunk=4)
    assert_close(found(loss, ALL, given(), scale=-3.0)[1], jax.tree.map(lambda g: -3.0 * g, whole(NoGate(), None)[1]),
                 rtol=1e-5, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("chunk", [None, 4])
def test_log_probabilities_are_those_of_the_whole(chunk):
    arguments, pull = given(), jnp.sin(jnp.arange(48.0)).reshape(4, 12)

    @partial(jax.jit, static_argnums=0)
    def both(over, hidden, head):
        def total(hidden, head):
            logps, entropy = token_logps(hidden, head, arguments["labels"], arguments["mask"], 0.7, chunk, over)
            return jnp.sum(pull * logps), (logps, entropy)

        return jax.value_and_grad(total, (0, 1), has_aux=True)(hidden, head)

    one, other = (both(over, arguments["hidden"], arguments["head"]) for over in (ALL, None))
    assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_no_device_sees_more_than_its_positions():
    seen = set()

    @dataclass(frozen=True)
    class Watched:
        reach: int | None = 0

        def look(self, logits, rows):
            return logits[..., 0]

        def weigh(self, notes, rows):
            return jnp.ones_like(notes)

        def judge(self, logits, rows, weights):
            seen.add(logits.shape)
            return jnp.sum(logits, axis=-1), None

    def total(objective, chunk, hidden, head, rows):
        logits = hidden @ head
        notes = objective.look(logits, rows)
        values, remarks = objective.judge(logits, rows, objective.weigh(notes, rows))
        return jnp.sum(values), (notes, None, remarks)

    one = given()
    for reach in (0, None):
        shared(total, ALL, Watched(reach), None, one["hidden"], one["head"], replace_rows(one))
    assert seen == {(1, 6, 11)}


def replace_rows(arguments) -> Any:
    """Rows of an objective that reads none."""
    return Place(arguments["mask"], arguments["segments"], arguments["segments"])
