"""The rules of MaximalUpdate by hand, and what they are for: a step changes as much at every width and depth."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from distill import AdamW, MaximalUpdate, WarmupCosine
from distill.scaling import rule, size
from experiments.coordinates import arms, changes, scout
from models.config import MAVERICK_PICO, SCOUT_PICO, Layer, Vision
from models.llama4 import Llama4

TUNED = MaximalUpdate(width=64, layers=4)


def shapes(config):
    return jax.eval_shape(lambda: Llama4(config, jax.random.key(0)))


@pytest.fixture(scope="module")
def large():
    """Four times as wide and four times as deep as the tuned size, dense layers and experts."""
    wide = replace(MAVERICK_PICO, width=256, layers=16, heads=16, expert_width=416, dense_width=832)
    return shapes(wide)


def by_name(tree):
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path).removesuffix(".value").split(".", 1)[1]: leaf for path, leaf in found}


def test_the_size_is_read_from_the_parameters(large):
    assert size(large) == (256, 16)


@pytest.mark.parametrize(("name", "rate", "gradient"), [
    ("embed", 1, 1 / 4), ("head", 1 / 4, 1), ("norm.scale", 1, 1 / 4),
    ("periods.blocks[0].attention_norm.scale", 1 / 2, 1 / 8),
    ("periods.blocks[0].attention.q", 1 / 8, 1 / 8), ("periods.blocks[0].attention.k", 1 / 8, 1 / 8),
    ("periods.blocks[0].attention.v", 1 / 8, 1 / 8), ("periods.blocks[0].attention.o", 1 / 16, 1 / 4),
    ("periods.blocks[0].feed_forward.gate_up", 1 / 8, 1 / 8), ("periods.blocks[0].feed_forward.down", 1 / 16, 1 / 4),
    ("periods.blocks[1].feed_forward.router", 1 / 8, 1 / 2),
    ("periods.blocks[1].feed_forward.experts.gate_up", 1 / 8, 1 / 8),
    ("periods.blocks[1].feed_forward.experts.down", 1 / 16, 1 / 4),
    ("periods.blocks[1].feed_forward.shared.down", 1 / 16, 1 / 4),
])  # fmt: skip
def test_four_times_as_wide_and_as_deep_every_parameter_has_its_rate(large, name, rate, gradient):
    assert by_name(TUNED.rates(large))[name] == pytest.approx(rate)
    assert by_name(TUNED.gradients(large))[name] == pytest.approx(gradient)


def test_a_vision_tower_keeps_its_rates():
    vision = Vision(
        width=32, layers=2, heads=2, hidden=128, image=16, patch=4, output=64, rope_theta=1e4, patch_token=270
    )
    rates = by_name(TUNED.rates(shapes(replace(SCOUT_PICO, width=256, heads=16, vision=vision))))
    assert {value for name, value in rates.items() if name.startswith("vision")} == {1.0}


def small(letters=("f", "d"), value=1.0):
    """Parameters of one layer, twice as wide as 4, with one of these letters."""
    return {
        "embed": nnx.Param(jnp.zeros((3, 8)), axes=("v", "d")),
        "o": nnx.Param(jnp.zeros((1, 2, 4, 8)), axes=("h", "c", "d")),
        "w": nnx.Param(jnp.full((1, *(8 for _ in letters)), value), axes=letters),
    }


def test_at_the_tuned_size_every_bit_is_adamws():
    def train(scaling):
        params = jax.tree.map(lambda x: x + jnp.sin(7e3 * jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), small())
        tx = AdamW(rate=WarmupCosine(peak=1e-2), weight_decay=0.1, scaling=scaling).build(3)
        state = tx.init(params)
        for step in range(3):
            gradient = jax.tree.map(lambda x, step=step: jnp.cos(1e3 * x + step), params)
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    jax.tree.map(np.testing.assert_array_equal, train(None), train(MaximalUpdate(width=8, layers=1)))


def moved(letters, eps=1e-8, decay=0.0, slope=1.0):
    """How far the first step moves a weight of one, at twice the width, at a rate of one."""
    tx = AdamW(rate=WarmupCosine(1.0, warmup=0.0, floor=1.0), eps=eps, weight_decay=decay, clip=1e9)
    params = small(letters)
    gradient = jax.tree.map(lambda x: jnp.full_like(x, slope), params)
    tx = replace(tx, scaling=MaximalUpdate(width=4, layers=1)).build(1)
    return -float(tx.update(gradient, tx.init(params), params)[0]["w"][...].ravel()[0])


def test_decay_does_not_shrink_with_the_rate():
    assert moved(("f", "d")) == pytest.approx(0.5, rel=1e-4)
    assert moved(("f", "d"), decay=0.25) == pytest.approx(0.5 + 0.25, rel=1e-4)


def test_eps_stands_to_a_gradient_as_it_did_at_the_tuned_size():
    # Half as large a gradient with the same eps, where twice the width halves it: 0.1 / (0.1 + 0.1), as 0.2 with 0.2.
    assert moved(("f", "d"), eps=0.1, slope=0.05) == pytest.approx(0.5 * 0.5, rel=1e-4)
    assert moved(("d", "v"), eps=0.1, slope=0.1) == pytest.approx(0.5 * 0.5, rel=1e-4)


def test_a_step_changes_as_much_at_every_width_and_with_plain_adamw_it_does_not():
    one = (Layer(rope=True, moe=True),)  # a pattern of one layer compiles in half the time
    found = [changes(replace(scout(width), pattern=one), arms(6e-3, 64, 2)) for width in (32, 64, 128)]
    assert found[1][0] == found[1][1], "at the tuned width both are the same"
    grown = {
        (arm, name): found[2][place][name] / found[0][place][name]
        for place, arm in enumerate(("plain", "scaled"))
        for name in ("stream", "logits", "routers")
    }
    assert grown["plain", "stream"] > 2 and grown["plain", "logits"] > 1.3
    assert all(2 / 3 < grown["scaled", name] < 3 / 2 for name in ("stream", "logits", "routers"))


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"MaximalUpdate\(width=0, layers=4\) must be at least 1 and 1"):
        MaximalUpdate(width=0, layers=4)


def test_a_parameter_as_wide_as_the_stream_without_a_rule_is_refused():
    with pytest.raises(ValueError, match=r"no rule for a parameter of the axes \('d', 'x'\)"):
        rule(("d", "x"), 2)


def test_parameters_without_letters_are_refused():
    with pytest.raises(ValueError, match="0 layers; it must be given the parameters of one language model"):
        size({"w": jnp.ones((2, 2))})
