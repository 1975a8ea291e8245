"""Learning rates by hand, and which leaf each optimizer treats how."""

import jax
import pytest
from flax import nnx

from distill.optim import AdamW, Muon, WarmupCosine, WarmupStableDecay, decayed, muon_dimensions
from models.config import MAVERICK_PICO, tiny
from models.llama4 import Llama4


@pytest.fixture(scope="module")
def model():
    return jax.eval_shape(lambda: Llama4(tiny(MAVERICK_PICO), jax.random.key(0)))


def names(tree, chosen):
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None or isinstance(x, tuple))[0]
    return {jax.tree_util.keystr(path).split(".")[-2] for path, leaf in found if chosen(leaf)}


def test_warmup_cosine_rises_to_its_peak_and_falls_to_its_floor():
    rate = WarmupCosine(peak=2.0, warmup=0.5, floor=0.1)
    assert [round(float(rate.at(f)), 4) for f in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 1.0, 2.0, 1.1, 0.2]


def test_warmup_stable_decay_has_a_plateau():
    rate = WarmupStableDecay(peak=2.0, warmup=0.25, decay=0.25, floor=0.0)
    assert [round(float(rate.at(f)), 4) for f in (0.125, 0.25, 0.5, 0.75, 0.875, 1.0)] == [1.0, 2.0, 2.0, 2.0, 1.0, 0.0]


def test_the_first_update_moves_and_the_last_is_at_the_floor():
    tx = AdamW(rate=WarmupCosine(peak=1.0, warmup=0.5, floor=0.25), weight_decay=0.0, clip=1e9).build(2)
    params = {"w": nnx.Param(jax.numpy.ones(2), axes=("d",))}
    state, seen = tx.init(params), []
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        seen.append(float(-updates["w"][...][0]))
    assert seen == pytest.approx([1.0, 0.25], rel=1e-3)


def test_norm_scales_do_not_decay_though_they_are_stacked(model):
    assert names(decayed(model), lambda decays: not decays) == {"scale"}


def test_muon_takes_the_layers_matrices_and_adam_the_rest(model):
    adam = names(muon_dimensions(model), lambda leaf: leaf is None)
    assert adam == {"scale", "embed", "head", "router"}


def test_muon_reads_the_output_projection_from_heads_and_channels(model):
    dimensions = muon_dimensions(model).periods.blocks[0].attention.o
    one = dimensions.get_raw_value()
    assert (one.reduction_axis, one.output_axis) == ((1, 2), (3,))


def test_muon_builds_a_state_with_momentum_for_matrices_only(model):
    state = jax.eval_shape(Muon().build(10).init, model)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert len(shapes) > 10


def test_moments_in_bfloat16_take_half_the_memory_and_move_nearly_alike():
    params = {"w": nnx.Param(jax.numpy.ones((8, 8)), axes=("d", "f"))}
    slopes = {"w": nnx.Param(jax.random.normal(jax.random.key(0), (8, 8)), axes=("d", "f"))}
    moved = {}
    for moments in ("float32", "bfloat16"):
        tx = AdamW(moments=moments).build(10)
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(slopes, state, params)
        moved[moments] = updates["w"][...]
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.ndim} == {moments}
    norms = [jax.numpy.linalg.norm(x) for x in (moved["float32"] - moved["bfloat16"], moved["float32"])]
    assert 0 < norms[0] < 0.01 * norms[1]


def test_moments_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match='moments="float16".* must be "float32" or "bfloat16"'):
        AdamW(moments="float16")
