"""What the benchmark of one device draws, counts and refuses."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.one_gpu import check_room, decode, draw, touched
from models.cache import Cache
from models.config import SCOUT
from models.execution import Execution
from models.quantize import Recipe, size, weigh_tree
from tests.models.test_quantize import TOY

RECIPE = Recipe(bits=4, group=8)


@pytest.fixture(scope="module")
def model():
    return draw(TOY, RECIPE, jax.random.key(0))


def test_what_is_drawn_weighs_what_the_formula_says_and_uses_all_values(model):
    assert weigh_tree(model) == size(TOY, RECIPE)
    values = model.periods.blocks[1].feed_forward.experts.gate_up[...].values
    assert set(values.astype(jnp.int8).ravel().tolist()) == set(range(-8, 8))


def test_a_step_reads_the_chosen_experts_and_not_the_embedding(model):
    cache = Cache.create(TOY, 1, 8, "bfloat16")
    experts = weigh_tree([block.feed_forward.experts for block in [model.periods.blocks[1]]])
    rest = weigh_tree(model) - experts - weigh_tree(model.embed)
    assert touched(model, cache, 1) == rest + experts * 2 // 6 + cache.bytes
    assert touched(model, cache, 3) == rest + experts + cache.bytes


def test_it_decodes(model):
    cache = Cache.create(TOY, 2, 8, "bfloat16")
    cache, tokens, drawn = decode(model, cache, jnp.zeros(2, jnp.int32), 3, Execution(dtype="bfloat16"))
    assert drawn.shape == (3, 2) and (cache.lengths == 3).all() and (drawn[-1] == tokens).all()


def test_what_does_not_fit_is_refused_before_it_is_drawn():
    with pytest.raises(SystemExit, match=r"SCOUT in int4 takes 54.6 GiB, .* cpu has 24.0: take fewer --bits"):
        check_room("SCOUT", SCOUT, Recipe(bits=4), 1, 1024, 24 * 2**30)
    check_room("SCOUT", SCOUT, Recipe(bits=4), 1, 1024, 80 * 10**9)
