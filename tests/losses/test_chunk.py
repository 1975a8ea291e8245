import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from losses import Constant, Distill, Evidence, Gate, NoGate, Segment, Window
from tests.losses.worked import as_dense, assert_close, call, case, value_and_gradients

GATES = [NoGate(), Evidence(scope=Window(size=2)), Evidence(scope=Segment())]
SIGNALS = {"projected": lambda s: s, "dense": as_dense, "none": lambda s: None}


def mixed(gate, chunk=None):
    return Distill(alpha=Constant(0.7), temperature=Constant(2.0), gate=gate, chunk=chunk)


@functools.cache
def whole(gate, signal="projected"):
    """The arguments of a case, and what the loss makes of them all at once."""
    arguments = case(jax.random.key(0))
    arguments["signal"] = SIGNALS[signal](arguments["signal"])
    return arguments, value_and_gradients(mixed(gate), **arguments)


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("gate", GATES)
def test_value_gradient_and_metrics_do_not_depend_on_the_chunk(gate, chunk):
    arguments, want = whole(gate)
    assert_close(value_and_gradients(mixed(gate, chunk), **arguments), want, rtol=1e-4)


@pytest.mark.parametrize("signal", ["dense", "none"])
def test_nor_do_they_for_another_signal(signal):
    arguments, want = whole(GATES[1], signal)
    assert_close(value_and_gradients(mixed(GATES[1], 3), **arguments), want, rtol=1e-4)


def test_a_window_longer_than_the_chunk_is_still_exact():
    arguments, want = whole(Evidence(scope=Window(size=5)))
    assert_close(value_and_gradients(mixed(Evidence(scope=Window(size=5)), 1), **arguments), want, rtol=1e-4)


@pytest.mark.parametrize("length", [40, 80])
def test_a_gate_that_pools_nearby_is_shown_a_piece_and_its_reach_however_long_the_row(length):
    seen = set()

    class Near(Gate):
        reach = 3

        def __call__(self, look, place):
            seen.add((look.teacher.gold.shape[1], place.mask.shape[1]))
            return jnp.full(place.mask.shape, 0.5)

    arguments = case(jax.random.key(0), t=length)
    jax.eval_shape(run(Distill(gate=Near(), chunk=4)), arguments)
    assert seen == {(4, 4), (4 + 2 * 3, 4 + 2 * 3)}


@pytest.mark.parametrize("gate", GATES)
def test_the_value_alone_is_the_value_with_the_gradient(gate):
    arguments, want = whole(gate)
    value, metrics = jax.jit(lambda a: call(mixed(gate, 4), **a))(arguments)
    assert_close((value.mean(), {name: tally.mean() for name, tally in metrics.items()}), want[::2], rtol=1e-4)


def run(loss, gradient=True):
    """The loss, or its gradients, as a function of its arguments alone."""

    def total(hidden, head, arguments):
        return call(loss, **(arguments | {"hidden": hidden, "head": head}))[0].total

    asked = jax.grad(total, (0, 1)) if gradient else total
    return lambda arguments: asked(arguments["hidden"], arguments["head"], arguments)


def test_the_value_alone_does_not_pay_for_the_gradient():
    arguments = jax.eval_shape(lambda: case(jax.random.key(0), t=64, d=32, v=512))

    def flops(gradient):
        return jax.jit(run(Distill(chunk=16), gradient)).lower(arguments).compile().cost_analysis()["flops"]

    assert flops(gradient=False) < 0.6 * flops(gradient=True)


@pytest.mark.parametrize("gate", GATES)
def test_the_logits_of_the_whole_batch_are_never_formed(gate):
    b, t, v = 2, 96, 1000
    arguments = jax.eval_shape(lambda: case(jax.random.key(0), b=b, t=t, v=v))
    compiled = jax.jit(run(Distill(gate=gate, chunk=8))).lower(arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < b * t * v * 4
    assert f"[{b},{t},{v}]" not in compiled.as_text()


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("chunk", [None, 4])
def test_padding_changes_neither_value_nor_gradient(key, gate, chunk):
    arguments = case(key)
    loss = mixed(gate, chunk)

    def pad(x, fill):
        return jnp.concatenate([x, jnp.full((x.shape[0], 6, *x.shape[2:]), fill, x.dtype)], axis=1)

    padded = arguments | {
        "hidden": pad(arguments["hidden"], 3.0),
        "signal": replace(arguments["signal"], hidden=pad(arguments["signal"].hidden, -2.0)),
        "labels": pad(arguments["labels"], -100),
        "mask": pad(arguments["mask"], False),
        "segments": pad(arguments["segments"], 0),
    }
    want, got = value_and_gradients(loss, **arguments), value_and_gradients(loss, **padded)
    np.testing.assert_array_equal(got[1][0][:, 13:], 0.0)
    assert_close((got[0], got[1][0][:, :13], got[1][1], got[2]), (want[0], *want[1], want[2]))


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_document_packed_behind_another_is_judged_as_if_alone(key, chunk):
    arguments = case(key, b=2, documents=False)
    arguments["mask"] = arguments["mask"].at[:, 0].set(True)
    head, signal = arguments["head"], arguments["signal"]

    def join(x):
        return jnp.concatenate([x[:1], x[1:]], axis=1)

    packed = {
        "hidden": join(arguments["hidden"]),
        "head": head,
        "signal": replace(signal, hidden=join(signal.hidden)),
        "labels": join(arguments["labels"]),
        "mask": join(arguments["mask"]),
        "segments": jnp.repeat(jnp.array([[1, 2]]), 13, axis=1),
    }
    want = value_and_gradients(mixed(Evidence(scope=Window(size=4)), chunk), **arguments)
    got = value_and_gradients(mixed(Evidence(scope=Window(size=4)), chunk), **packed)
    assert_close((got[0], got[1][0], got[1][1]), (want[0], join(want[1][0]), want[1][1]))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("micro", [2, 4])
def test_micro_batches_of_ragged_lengths_add_up_to_the_batch(key, gate, micro):
    arguments = case(key, b=4)
    lengths = jnp.array([13, 2, 7, 1])
    arguments["mask"] = jnp.arange(13)[None] < lengths[:, None]
    head = arguments.pop("head")
    loss = mixed(gate, 4)
    teacher_head = arguments["signal"].head
    rows = arguments | {"signal": arguments["signal"].hidden}

    def gradient(rows):
        def total(head, hidden):
            signal = replace(arguments["signal"], hidden=rows["signal"], head=teacher_head)
            tally, _ = call(loss, **(rows | {"signal": signal, "head": head, "hidden": hidden}))
            return tally.total, tally

        (_, tally), slope = jax.value_and_grad(total, has_aux=True)(head, rows["hidden"])
        return tally, slope

    @jax.jit
    def accumulate(rows):
        def body(carry, part):
            return jax.tree.map(jnp.add, carry, gradient(part)), None

        parts = jax.tree.map(lambda x: jnp.stack(jnp.split(x, micro)), rows)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, rows))
        return jax.lax.scan(body, zero, parts)[0]

    assert_close(accumulate(rows), jax.jit(gradient)(rows))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("chunk", [None, 4])
def test_eight_devices_give_what_one_gives(key, gate, chunk):
    arguments = case(key, b=8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    spread = jax.device_put(arguments, jax.tree.map(lambda x: split if x.shape[0] == 8 else whole, arguments))
    want, got = (value_and_gradients(mixed(gate, chunk), **a) for a in (arguments, spread))
    assert len(got[1][0].sharding.device_set) == 8
    assert_close(got, want)


def test_rows_are_not_gathered_across_the_data_axis():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    arguments = case(jax.random.key(0), b=8, t=64)
    spread = jax.device_put(arguments, jax.tree.map(lambda x: split if x.shape[0] == 8 else whole, arguments))

    text = jax.jit(run(Distill(chunk=16))).lower(spread).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text


def test_the_gradient_is_scaled_by_what_the_loss_is_multiplied_with(key):
    arguments = case(key)

    def total(hidden, factor):
        return factor * call(Distill(chunk=4), **(arguments | {"hidden": hidden}))[0].total

    one, three = (jax.grad(total)(arguments["hidden"], factor) for factor in (1.0, 3.0))
    assert_close(3.0 * one, three)


def test_a_gradient_agrees_with_differences(key):
    arguments = case(key, b=1, t=7, documents=False)
    loss = mixed(NoGate(), 4)

    def total(head):
        return call(loss, **(arguments | {"head": jnp.asarray(head)}))[0].total

    jax.test_util.check_grads(total, (arguments["head"],), order=1, modes=["rev"], rtol=2e-2)
