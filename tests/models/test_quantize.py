"""Quantised weights: how far they are off, what they weigh, and that a quantised model is a model like any other."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.data.batch import Batch
from distill.mesh import Mesh, shardings
from distill.state import Weights
from distill.teacher import LiveTeacher
from models.config import MAVERICK, SCOUT, Config, Layer, Tempering
from models.dispatch import Dense
from models.execution import Execution
from models.llama4 import Llama4
from models.quantize import Recipe, contracted, dequantize, is_param, main, quantize, size, weigh_tree
from models.quantized import Quantized, round_to
from models.request import Request
from models.sampler import Sampler
from models.tower import VISION

# One dense and one MoE layer, twice; no two sizes alike.
TOY = Config(
    vocab=40, width=32, layers=4, heads=4, kv_heads=2, head_dim=8, expert_width=24, dense_width=48, experts=6, top_k=2,
    pattern=(Layer(rope=True, moe=False), Layer(rope=False, moe=True)), chunk=4, rope_theta=100.0, rope_scaling=None,
    qk_norm=True, tempering=Tempering(floor=3, scale=0.5), eps=1e-5, max_positions=32,
)  # fmt: skip
SEEING = replace(SCOUT, vision=VISION)
PLAIN = Execution(dispatch=Dense())
RECIPES = [Recipe(bits=8), Recipe(bits=4), Recipe(bits=4, group=8, head=8), Recipe(bits=8, group=1, head=4)]


@pytest.fixture(scope="module")
def model():
    return jax.jit(partial(Llama4, TOY))(jax.random.key(0))


@pytest.fixture(scope="module")
def small(model):
    return jax.jit(partial(quantize, recipe=Recipe(bits=4, group=8, head=8)))(model)


@partial(jax.jit, static_argnames="execution")
def run(model, tokens, execution=PLAIN):
    return model(tokens, execution=execution)[0]


def tokens(b=3, t=8):
    return jax.random.randint(jax.random.key(1), (b, t), 0, 40)


def test_a_value_is_the_nearest_multiple_of_its_groups_scale_worked_by_hand():
    weight = jnp.array([[7.0, 14.0], [-3.4, 1.0], [1.0, 0.0], [0.4, 0.0]])
    found = round_to(weight, -2, 4, 2)
    # Largest of each group over 7: 1 and 2, then 1/7 (0.142578125 in bfloat16) and, for zeros alone, 1/7 too.
    np.testing.assert_array_equal(found.values.astype(jnp.int8), [[7, 7], [-3, 0], [7, 0], [3, 0]])
    np.testing.assert_array_equal(found.scales, jnp.array([[1, 2], [1 / 7, 1 / 7]], jnp.bfloat16))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_no_weight_is_off_by_more_than_half_a_step(bits, axis):
    weight = jax.random.normal(jax.random.key(0), (6, 12, 6))
    found = jax.jit(partial(round_to, axis=axis, bits=bits, group=3))(weight)
    step = np.repeat(np.asarray(found.scales, np.float32), 3, axis)
    # The largest of a group may stand a little beyond the last value, as its scale is rounded to 8 bits.
    slack = step * 2 ** (bits - 1) * 2.0**-8
    assert np.all(np.abs(found.astype(jnp.float32) - weight) <= step / 2 + slack)
    assert found.group == 3 and found.shape == weight.shape


def test_a_weight_that_is_no_number_stays_one():
    rounded = round_to(jnp.array([3.0, jnp.nan, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0]), -1, 8, 4).astype("float32")
    assert np.isnan(rounded[:4]).any()
    np.testing.assert_array_equal(rounded[4:], 0)


def test_values_are_symmetric():
    found = round_to(-jnp.arange(8.0), -1, 4, 8)
    np.testing.assert_array_equal(found.values, round_to(jnp.arange(8.0), -1, 4, 8).values * -1)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("config", [TOY, SCOUT, MAVERICK, SEEING], ids=["toy", "scout", "maverick", "with vision"])
def test_bytes_by_formula_are_those_of_the_tree(config, recipe):
    tree = jax.eval_shape(lambda: quantize(Llama4(config, jax.random.key(0)), recipe))
    assert weigh_tree(tree) == size(config, recipe, rest=4)


def test_a_float_model_weighs_its_parameters(model):
    assert weigh_tree(model) == size(TOY, None, rest=4)


def test_scout_with_its_vision_tower_fits_in_60_gib_in_int4():
    assert size(SEEING, Recipe(bits=4)) < 57 * 2**30
    assert size(SEEING, Recipe(bits=8)) < 139 * 2**30  # of a GPU that was at hand


def test_the_table_is_printed(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["SCOUT", "200.7", "103.8", "102.9", "54.6", "53.7"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "SCOUT", "SCOUT with vision tower", "MAVERICK", "MAVERICK with vision tower",
    ]  # fmt: skip


def test_norms_routers_embedding_and_by_default_the_head_stay_as_they_are(model):
    found = jax.jit(partial(quantize, recipe=Recipe()))(model)
    kept = {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, param in jax.tree_util.tree_flatten_with_path(found, is_leaf=is_param)[0]
        if not isinstance(param[...], Quantized)
    }
    norms = {f"periods.blocks.{i}.{name}_norm.scale" for i in (0, 1) for name in ("attention", "feed_forward")}
    assert kept == norms | {"periods.blocks.1.feed_forward.router", "embed", "head", "norm.scale"}
    np.testing.assert_array_equal(found.embed[...], model.embed[...])


def test_groups_lie_along_an_axis_that_products_sum_over():
    axes = ["d h c", "h c d", "d 2 f", "e d 2 f", "e f d", "d v", "d e", "d"]
    assert [contracted(tuple(each.split())) for each in axes] == [-3, -2, -3, -3, -2, -2, None, None]


def test_a_quantised_model_answers_as_the_floats_it_stands_for(small):
    np.testing.assert_allclose(run(small, tokens()), run(dequantize(small), tokens()), atol=1e-5)


def test_fewer_choices_than_experts_take_only_those_and_answer_the_same(small):
    one = tokens(1, 2)  # 4 choices among 6 experts
    np.testing.assert_allclose(run(small, one), run(dequantize(small), one), atol=1e-5)


def _floats(model, ids):
    """Types that arrays of experts have while the model runs on `ids`."""
    text = str(jax.make_jaxpr(lambda model: model(ids, execution=PLAIN)[0])(model))
    return [name for name in ("f32[6,32,2,24]", "f32[6,24,32]") if name in text]


def test_no_expert_but_the_chosen_is_ever_a_float(small):
    assert _floats(small, tokens(1, 2)) == []
    assert _floats(small, tokens(1, 3)) == ["f32[6,32,2,24]", "f32[6,24,32]"]


def test_int8_is_nearer_than_int4(model):
    def error(bits):
        found = jax.jit(partial(quantize, recipe=Recipe(bits=bits, group=8)))(model)
        return float(jnp.mean((run(found, tokens()) - run(model, tokens())) ** 2))

    assert error(8) < 0.02 * error(4) < 0.02


def test_a_quantised_model_runs_in_bfloat16(small):
    wide = run(small, tokens())
    found = run(small, tokens(), Execution(dtype="bfloat16", dispatch=Dense()))
    assert found.dtype == jnp.bfloat16
    assert float(jnp.mean((found - wide) ** 2)) < 0.05


def test_a_teacher_may_be_quantised(small):
    ids = tokens()
    ones = jnp.ones_like(ids)
    batch = Batch(ids, ids, ones > 0, ones, jnp.cumsum(ones, 1) - 1)
    ask = jax.jit(lambda teacher, batch: teacher.signal(batch))
    said, whole = (ask(LiveTeacher(Weights(each, None), PLAIN), batch) for each in (small, dequantize(small)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), said, whole)


def test_a_quantised_model_samples_as_the_floats_it_stands_for(small):
    sampler = Sampler(slots=2, capacity=16, piece=4, stride=4, seed=3)
    requests = [Request(prompt=i, sample=0, tokens=np.asarray(tokens())[i], limit=6) for i in range(2)]
    found, wanted = (
        {one.prompt: one.tokens.tolist() for one in sampler(each, requests)} for each in (small, dequantize(small))
    )
    assert found == wanted and len(found[0]) == 6


def test_values_and_scales_are_cut_over_a_mesh_like_the_weight(small):
    mesh = Mesh(fsdp=2).build()
    placed = jax.device_put(small, shardings(mesh, small))
    gate_up = placed.periods.blocks[1].feed_forward.experts.gate_up[...]
    halves = [(2, 6, 16, 2, 24), (2, 6, 2, 2, 24)]
    assert [each.addressable_shards[0].data.shape for each in (gate_up.values, gate_up.scales)] == halves
    np.testing.assert_allclose(run(placed, tokens()), run(small, tokens()), atol=1e-5)


def test_a_model_is_not_quantised_twice(small):
    with pytest.raises(ValueError, match="quantised already; quantise its float weights, lest they be rounded twice"):
        quantize(small, Recipe())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 3}, "Recipe.bits is 3; a weight is quantised to 8 or 4 bits"),
        ({"head": 16}, "Recipe.head is 16; a weight is quantised to 8 or 4 bits"),
        ({"group": 0}, "Recipe.group is 0; a scale is shared by at least 1 weight"),
    ],
)
def test_a_recipe_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_a_group_is_the_largest_that_divides():
    assert [Recipe(group=128).fit(size) for size in (5120, 104, 416, 130, 127)] == [128, 104, 104, 65, 127]
