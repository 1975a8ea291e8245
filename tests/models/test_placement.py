"""Where letters lie on a mesh, and what is gathered to be read."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from models.execution import Execution
from models.placement import Placement

AXES = ("rows", "experts", "columns", "hidden")
RULES = (
    ("b", ("rows", "experts")),
    ("t", ("columns",)),
    ("e", ("experts",)),
    ("f", ("hidden",)),
    ("k", ("hidden",)),
    ("d", ("rows", "experts")),
)


def place(*shape):
    mesh = jax.make_mesh(shape, AXES, (AxisType.Auto,) * 4, devices=jax.devices()[: int(np.prod(shape))])
    return Placement(mesh, RULES, ("d",))


WIDE = place(4, 2, 1, 1)
MIXED = place(2, 2, 1, 2)


def test_on_a_tpu_a_kept_weight_is_cut_into_whole_tiles_of_eight_rows(monkeypatch):
    monkeypatch.setattr(Placement, "platform", "tpu")
    assert WIDE.spec(("d", "v"), (32, 5)) == Spec(("rows",), None)
    assert WIDE.spec(("d", "v"), (64, 5)) == Spec(("rows", "experts"), None)
    assert WIDE.spec(("b", "t"), (8, 5)) == Spec(("rows", "experts"), None)  # rows are not weights


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
def test_weights_that_are_tied_to_a_batch_for_a_tpu_keep_their_dtype(monkeypatch, dtype):
    monkeypatch.setattr(Placement, "platform", "tpu")
    module = nnx.Module()
    module.experts = nnx.Param(jnp.arange(-4, 4).astype(dtype), axes=("e",))
    found = Execution(placement=WIDE).ready(module, jnp.zeros((1, 1), jnp.int32)).experts[...]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype("int32"), jnp.arange(-4, 4))


@pytest.mark.parametrize(
    ("letters", "shape", "spec"),
    [
        (("d", "v"), (8, 5), Spec(("rows", "experts"), None)),
        (("d", "v"), (4, 5), Spec(("rows",), None)),  # as many axes as divide
        (("d", "v"), (2, 5), Spec(("experts",), None)),  # one that does not is passed over
        (("d", "v"), (3, 5), Spec(None, None)),
        (("e", "d", "2", "f"), (2, 8, 2, 6), Spec(("experts",), ("rows",), None, None)),  # whoever is first takes it
        (("e", "d", "2", "f"), (3, 8, 2, 6), Spec(None, ("rows", "experts"), None, None)),
        (("d",), (3, 8), Spec(None, ("rows", "experts"))),  # letters name the last dimensions
        (("b", "t"), (8, 6), Spec(("rows", "experts"), None)),  # columns have one device
        ((), (4, 4), Spec(None, None)),
    ],
)
def test_a_dimension_is_cut_over_the_axes_of_its_letter_that_are_free_and_divide_it(letters, shape, spec):
    assert WIDE.spec(letters, shape) == spec


def test_letters_may_be_left_whole():
    assert WIDE.spec(("d", "f"), (8, 6), without=("d",)) == Spec(None, None)


def test_an_axis_of_one_device_is_none():
    assert WIDE.axes("t") == () and WIDE.axes("f") == () and WIDE.axes("b") == ("rows", "experts")
    assert (WIDE.parts("b"), WIDE.parts("f"), MIXED.parts("f"), WIDE.parts("x")) == (8, 1, 2, 1)


def numbers(*shape):
    return jnp.sin(jnp.arange(int(np.prod(shape)), dtype=jnp.float32)).reshape(shape)


@pytest.mark.parametrize("rows", [8, 3])
@pytest.mark.parametrize("width", [16, 6, 3])
@pytest.mark.parametrize("there", [MIXED, place(2, 1, 2, 2)], ids=["experts", "columns"])
def test_to_look_up_is_to_index_in_value_and_gradient(there, width, rows):
    table, ids, weight = numbers(11, width), jnp.arange(rows * 4).reshape(rows, 4) * 5 % 11, numbers(rows, 4, width)

    def both(find):
        asked = jax.value_and_grad(lambda table: jnp.sum(find(table) * weight))
        return jax.jit(lambda table: (find(table), asked(table)[1]))(table)

    for one, other in zip(both(lambda t: there.look_up(t, ids, "float32")), both(lambda t: t[ids]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_table_cut_along_its_words_is_looked_up_where_they_are():
    there = Placement(WIDE.mesh, (("b", ("rows",)), ("v", ("experts",))), ())
    table, ids = numbers(10, 16), jnp.arange(32).reshape(8, 4) * 5 % 10
    find = jax.jit(lambda table: there.look_up(table, ids, "float32"))
    kept = jax.device_put(table, there.sharding(("v", "d"), table.shape))
    np.testing.assert_array_equal(find(kept), table[ids])
    text = find.lower(kept).compile().as_text()
    assert "f32[5,16]" in text and "f32[10,16]" not in text


def test_the_table_and_its_gradient_are_never_whole():
    table = jax.device_put(numbers(11, 16), WIDE.sharding(("v", "d"), (11, 16)))
    ids = jnp.arange(32).reshape(8, 4) % 11
    find = jax.jit(jax.value_and_grad(lambda table: jnp.sum(WIDE.look_up(table, ids, "float32") ** 2)))
    text = find.lower(table).compile().as_text()
    assert "f32[11,2]" in text and "f32[11,16]" not in text


def test_what_is_found_has_the_dtype_that_was_asked_and_equal_ids_add_up_in_float32():
    """4096 times a slope of 1: in bfloat16 the sum would stop growing at 256."""
    ids = jnp.zeros((8, 512), jnp.int32)
    find = jax.jit(lambda table: WIDE.look_up(table, ids, "bfloat16"))
    assert find(numbers(11, 16)).dtype == jnp.bfloat16
    slope = jax.jit(jax.grad(lambda table: jnp.sum(find(table).astype(jnp.float32))))(numbers(11, 16))
    np.testing.assert_array_equal(slope[0], 4096)


def module():
    return {
        "matrix": nnx.Param(numbers(16, 6), axes=("d", "f")),
        "expert": nnx.Param(numbers(2, 8, 6), axes=("e", "d", "f")),
        "scale": nnx.Param(numbers(6), axes=("f",)),
    }


def test_weights_are_gathered_along_the_letters_of_keeping_alone_and_experts_not_at_all():
    @jax.jit
    def read(given):
        return {name: each[...] * 1 for name, each in MIXED.gather(given).items()}

    kept = {name: MIXED.sharding(each.axes, each.shape) for name, each in module().items()}
    found = read({name: each.replace(jax.device_put(each[...], kept[name])) for name, each in module().items()})
    assert found["matrix"].sharding.shard_shape((16, 6)) == (16, 3)
    assert found["expert"].sharding.shard_shape((2, 8, 6)) == (1, 4, 3)
    for name, each in module().items():
        np.testing.assert_array_equal(found[name], each[...])


def test_the_gradient_of_a_gathered_weight_comes_back_cut():
    def loss(matrix, x):
        param = nnx.Param(matrix, axes=("d", "f"))
        return jnp.sum(jnp.sin(x @ MIXED.gather({"m": param})["m"][...]))

    x = jax.device_put(numbers(8, 16), MIXED.sharding(("b", "c"), (8, 16)))
    matrix, home = numbers(16, 6), MIXED.sharding(("d", "f"), (16, 6))
    slope = jax.jit(jax.grad(loss))(matrix, x)  # of a matrix that is whole: nothing but the gather says where it lies
    assert slope.sharding.is_equivalent_to(home, 2)
    np.testing.assert_allclose(slope, jax.grad(lambda m: jnp.sum(jnp.sin(x @ m)))(matrix), atol=1e-5)


def test_a_function_is_split_over_the_parts_of_its_operands_but_where_one_does_not_divide():
    def part(q, pages):
        return q + pages["k"].sum(), pages

    def run(heads):
        q, pages = jnp.ones((8, heads)), {"k": jnp.ones((8, heads))}
        return jax.jit(partial(MIXED.split, part, letters=(("b", "k"), ("b", "k")), out=(("b", "k"), ("b", "k"))))(
            operands=(q, pages)
        )

    y, pages = run(4)
    np.testing.assert_array_equal(y, 1 + 2 * 2)  # two of eight rows, two of four heads
    assert pages["k"].shape == (8, 4)
    np.testing.assert_array_equal(run(3)[0], 1 + 2 * 3)  # three heads are whole on every device
