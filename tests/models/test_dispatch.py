"""Every way to dispatch tokens to experts is the same sum."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from models.dispatch import sort_by_expert
from models.moe import Blocks, Dense, Each, Megablox, Ragged, suited
from models.rounds import Rounds

N, D, F, E = 37, 8, 12, 5
FAST = {
    "ragged": Ragged(),
    "blocks": Blocks(),
    "loop alone": Blocks(first=0, rows=4),
    "tight": Blocks(first=4, rows=3),
    "each": Each(),
}
fast = pytest.mark.parametrize("dispatch", FAST.values(), ids=FAST.keys())


def arrays(ids, n=N, e=E, r=1, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(keys[0], (n, D)).astype(dtype)
    scores = jax.random.uniform(keys[1], (n, r))
    gate_up = jax.random.normal(keys[2], (e, D, 2, F)).astype(dtype)
    down = jax.random.normal(keys[3], (e, F, D)).astype(dtype)
    return x, jnp.asarray(ids, jnp.int32), scores, gate_up, down


@partial(jax.jit, static_argnums=0)
def value_and_slopes(dispatch, x, ids, scores, gate_up, down):
    weight = jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)

    def loss(x, scores, gate_up, down):
        y = dispatch(x, ids, scores, gate_up, down)
        return jnp.sum(y.astype(jnp.float32) * weight), y

    slopes, y = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(x, scores, gate_up, down)
    return (y, *slopes)


def assert_same(ours, theirs, tolerance=1e-5):
    for name, a, b in zip(["y", "x", "scores", "gate_up", "down"], ours, theirs, strict=True):
        assert a.dtype == b.dtype, name
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3), err_msg=name)


@partial(jax.jit, static_argnums=0)
def value(dispatch, *given):
    return dispatch(*given)


def by_hand(x, ids, scores, gate_up, down):
    """The sum over experts, one token at a time, in float64."""
    x, scores, gate_up, down = (np.asarray(each, np.float64) for each in (x, scores, gate_up, down))
    y = np.zeros_like(x)
    for n, row in enumerate(np.asarray(ids)):
        for r, e in enumerate(row):
            if e < len(down):
                gate, up = np.einsum("d,dzf->zf", scores[n, r] * x[n], gate_up[e])
                y[n] += (gate / (1 + np.exp(-gate)) * up) @ down[e]
    return y


def random_ids(n, e, r=1):
    return np.argsort(np.random.default_rng(0).random((n, e)), axis=1)[:, :r]


LOADS = {
    "random": random_ids(N, E),
    "empty experts": np.arange(N)[:, None] % 2 * 3,
    "all to one": np.full((N, 1), 2),
    "all to the last": np.full((N, 1), E - 1),
    "top 2": random_ids(N, E, 2),
    "fewer tokens than experts": random_ids(3, E),
    "some nowhere": np.arange(N)[:, None] % (E + 1),
    "all nowhere": np.full((N, 1), E),
    "the same expert twice": np.full((N, 2), 1),
}
loads = pytest.mark.parametrize("ids", LOADS.values(), ids=LOADS.keys())


@loads
def test_the_oracle_is_the_sum_over_experts_written_by_hand(ids):
    given = arrays(ids, ids.shape[0], r=ids.shape[1])
    np.testing.assert_allclose(value(Dense(), *given), by_hand(*given), rtol=1e-5, atol=1e-4)


@loads
def test_rounds_equal_the_oracle_however_many_it_takes(ids):
    given = arrays(ids, ids.shape[0], r=ids.shape[1])
    np.testing.assert_allclose(value(Rounds(rows=3), *given), value(Dense(), *given), rtol=1e-5, atol=1e-5)


def test_a_token_is_the_same_in_every_bit_in_whichever_round_it_is():
    x, ids, *rest = arrays(LOADS["all to one"])
    together = value(Rounds(rows=3), x, ids, *rest)
    alone = value(Rounds(rows=3), x, jnp.where(jnp.arange(N)[:, None] == 30, ids, E), *rest)
    np.testing.assert_array_equal(together[30], alone[30])


def test_rounds_have_places_for_the_even_share_and_four_deviations_by_eights():
    assert [Rounds.suited(choices, 128).rows for choices in (1, 512, 8192)] == [8, 16, 96]
    with pytest.raises(ValueError, match="Rounds.rows is 0; an expert needs at least 1"):
        Rounds(rows=0)


@loads
@fast
def test_every_dispatch_equals_the_oracle_in_value_and_in_every_gradient(dispatch, ids):
    given = arrays(ids, ids.shape[0], r=ids.shape[1])
    assert_same(value_and_slopes(dispatch, *given), value_and_slopes(Dense(), *given))


def test_many_experts_and_a_large_skew_leave_no_token_out():
    ids = (np.random.default_rng(0).random((301, 1)) ** 6 * 64).astype(int)
    given = arrays(ids, 301, 64)
    assert_same(value_and_slopes(Blocks(), *given), value_and_slopes(Dense(), *given))


@fast
def test_the_score_is_on_the_input_of_the_expert_not_on_its_output(dispatch):
    x, ids, scores, gate_up, down = arrays(LOADS["random"])
    inside = value(dispatch, scores * x, ids, jnp.ones_like(scores), gate_up, down)
    np.testing.assert_allclose(value(dispatch, x, ids, scores, gate_up, down), inside, rtol=1e-5, atol=1e-5)
    assert not np.allclose(inside, scores * value(dispatch, x, ids, jnp.ones_like(scores), gate_up, down), atol=1e-2)


@fast
def test_a_token_answers_the_same_whoever_else_is_there(dispatch):
    x, ids, scores, gate_up, down = arrays(LOADS["random"])
    alone = value(dispatch, x[7:8], ids[7:8], scores[7:8], gate_up, down)
    np.testing.assert_allclose(value(dispatch, x, ids, scores, gate_up, down)[7:8], alone, rtol=1e-5, atol=1e-5)


@fast
def test_what_goes_nowhere_poisons_nothing(dispatch):
    x, _, scores, gate_up, down = arrays(LOADS["random"])
    ids = jnp.where(jnp.arange(N) < 30, 1, E)[:, None]
    got = value_and_slopes(dispatch, x.at[30:].set(jnp.nan), ids, scores, gate_up, down)
    want = value_and_slopes(Dense(), x.at[30:].set(0.0), ids, scores, gate_up, down)
    for ours, theirs in ((got[0][:30], want[0][:30]), (got[3], want[3]), (got[4], want[4])):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@fast
def test_bfloat16_adds_up_in_float32_and_answers_in_bfloat16(dispatch):
    narrow = arrays(LOADS["top 2"], r=2, dtype=jnp.bfloat16)
    wide = [each.astype(jnp.float32) if each.dtype == jnp.bfloat16 else each for each in narrow]
    got, want = value_and_slopes(dispatch, *narrow), value_and_slopes(Dense(), *wide)
    assert [each.dtype for each in got] == [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.bfloat16, jnp.bfloat16]
    assert_same([each.astype(jnp.float32) for each in got], want, tolerance=2e-2)


def test_bfloat16_weight_gradients_of_blocks_lose_nothing_over_many_blocks():
    """4096 tokens of slope 1 each: added one block at a time in bfloat16, the sum would stop growing at 256."""
    x, scores = jnp.ones((4096, D), jnp.bfloat16), jnp.ones((4096, 1))
    gate_up, down = jnp.ones((1, D, 2, F), jnp.bfloat16), jnp.zeros((1, F, D), jnp.bfloat16)
    ids = jnp.zeros((4096, 1), jnp.int32)
    slope = jax.grad(lambda down: Blocks(first=0, rows=1)(x, ids, scores, gate_up, down).astype(jnp.float32).sum())(
        down
    )
    inner = float(jnp.bfloat16(D * D / (1 + np.exp(-D))))
    np.testing.assert_allclose(np.asarray(slope, np.float32), 4096 * inner, rtol=1e-2)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "checkpoint"])
def test_blocks_run_inside_a_scan_over_layers_and_under_checkpoint(wrap):
    x, ids, scores, gate_up, down = arrays(LOADS["random"])
    stacks = jnp.stack([gate_up, 0.5 * gate_up, -gate_up]), jnp.stack([down, down, 2 * down])

    def run(dispatch, stacks):
        def layer(x, weights):
            return x + 0.1 * dispatch(x, ids, scores, *weights), None

        return jnp.sum(jnp.sin(jax.lax.scan(wrap(layer), x, stacks)[0]))

    got, want = (jax.jit(jax.value_and_grad(partial(run, each)))(stacks) for each in (Blocks(first=4, rows=3), Dense()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()), got, want)


@fast
def test_eight_devices_give_the_numbers_of_one(dispatch):
    ids = random_ids(64, E, 2)
    given = arrays(ids, 64, r=2)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    spread = [jax.device_put(each, how) for each, how in zip(given, [rows, rows, rows, whole, whole], strict=True)]
    assert_same(value_and_slopes(dispatch, *spread), value_and_slopes(dispatch, *given))


def test_blocks_give_the_same_bits_twice():
    given = arrays(LOADS["top 2"], r=2)
    for a, b in zip(value_and_slopes(Blocks(), *given), value_and_slopes(Blocks(), *given), strict=True):
        np.testing.assert_array_equal(a, b)


def test_blocks_take_the_mean_load_in_the_batch_and_none_of_it_when_experts_outnumber_tokens():
    assert Blocks().sizes(2048, 16) == (128, 32)
    assert Blocks().sizes(1000, 16) == (64, 16)
    assert Blocks().sizes(4, 16) == (0, 16)
    assert Blocks().sizes(2048, 128) == (0, 16) and Blocks().sizes(2048, 64) == (32, 16)
    assert Blocks(first=3, rows=5).sizes(2048, 16) == (3, 5)


def test_sorting_by_expert_keeps_tokens_in_order_and_knows_the_way_back():
    order, place, start = sort_by_expert(jnp.array([[2, 0], [0, 3], [2, 0]]), 3)
    assert order.tolist() == [1, 2, 5, 0, 4, 3]
    assert place.tolist() == [3, 0, 1, 5, 4, 2]
    assert start.tolist() == [0, 3, 3, 5]


def test_too_many_choices_for_one_key_are_refused():
    with pytest.raises(ValueError, match=r"must stay below 2\*\*31; split the batch"):
        jax.eval_shape(lambda ids: sort_by_expert(ids, 127), jax.ShapeDtypeStruct((2**24, 1), jnp.int32))


def test_blocks_that_hold_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 0 rows an expert"):
        Blocks(first=-1)
    with pytest.raises(ValueError, match="at least 1 token"):
        Blocks(rows=0)


MEGABLOX = Megablox(rows=16, depth=5, width=7, interpret=True)
"""tiles that neither tokens nor widths are multiples of"""
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def megablox():
    """Value and gradients of one program for all loads: to compile it takes seconds, to run it none."""
    given = arrays(LOADS["top 2"][:21], 21, r=2)
    run = value_and_slopes.lower(MEGABLOX, *given).compile(QUICK)
    return lambda ids: (run(*arrays(ids, 21, r=2)), value_and_slopes(Dense(), *arrays(ids, 21, r=2)))


@pytest.mark.parametrize(
    "ids",
    [
        random_ids(21, E, 2),
        np.full((21, 2), E - 1),
        np.arange(42).reshape(21, 2) % (E + 1),
        np.full((21, 2), E),
        np.where(np.arange(42).reshape(21, 2) < 3, 1, E),
    ],
    ids=["random", "all to the last", "some nowhere", "all nowhere", "three somewhere"],
)
def test_megablox_equals_the_oracle_in_value_and_in_every_gradient_whatever_lies_in_rows_of_no_expert(megablox, ids):
    assert_same(*megablox(ids))


def test_megablox_refuses_tiles_that_a_tpu_has_no_lanes_for():
    with pytest.raises(
        ValueError, match=r"Megablox.depth is 100; it must be a multiple of 128: take 512 rows, 1024 by"
    ):
        Megablox(depth=100)
    with pytest.raises(ValueError, match=r"Megablox.rows is 0; it must be a multiple of 8"):
        Megablox(rows=0, interpret=True)


@pytest.mark.parametrize(("platform", "kind"), [("cpu", Blocks), ("gpu", Ragged), ("tpu", Megablox)])
def test_every_platform_has_a_dispatch_that_suits_it(platform, kind):
    assert type(suited(platform)) is kind
