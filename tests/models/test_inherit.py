"""A student's weights out of its teacher's."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import SCOUT, Config, Layer
from models.dispatch import Dense
from models.execution import Execution
from models.heritage import heritage
from models.inherit import alike, inherit
from models.llama4 import Llama4
from models.tower import Vision

R, N = Layer(rope=True, moe=True), Layer(rope=False, moe=True)
DENSE = Layer(rope=True, moe=False)
TEACHER = Config(
    vocab=40, width=16, layers=4, heads=4, kv_heads=2, head_dim=4, expert_width=8, dense_width=16, experts=4, top_k=1,
    pattern=(R, N), chunk=4, rope_theta=100.0, rope_scaling=None, qk_norm=True, tempering=None, eps=1e-5,
    max_positions=32,
)  # fmt: skip
KEY = jax.random.key(1)
TOKENS = jax.random.randint(jax.random.key(2), (2, 12), 0, 40)
SIGHT = Vision(
    width=8, layers=1, heads=1, hidden=32, image=4, patch=2, channels=1, output=8, rope_theta=9.0, patch_token=39
)


@partial(jax.jit, static_argnums=0)
def draw(config, key):
    return Llama4(config, key)


@pytest.fixture(scope="module")
def teacher():
    return draw(TEACHER, jax.random.key(0))


@partial(jax.jit, static_argnums=(1, 2, 3))
def pass_on(teacher, config, keep, noise):
    return inherit(teacher, config, KEY, keep, noise)


def make(teacher, keep=None, noise=0.0, **changes):
    return pass_on(teacher, replace(TEACHER, **changes), keep, noise)


@jax.jit
def logits(model):
    hidden, routing = model(TOKENS, execution=Execution(dispatch=Dense()))
    return model.logits(hidden), routing.counts


def same(one, other, tolerance=0.0):
    both = jax.tree.leaves(one), jax.tree.leaves(other)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), *both)


def layer(model, number):
    """The weights of one layer."""
    size = len(model.config.pattern)
    return jax.tree.map(lambda x: x[number // size], model.periods.blocks[number % size])


def test_the_same_configuration_is_an_exact_copy(teacher):
    copy = make(teacher)
    same(copy, teacher)
    same(logits(copy), logits(teacher))


def test_half_the_layers_are_the_first_and_the_last_and_all_else_is_the_teachers(teacher):
    student = make(teacher, layers=2)
    same([layer(student, 0), layer(student, 1)], [layer(teacher, 0), layer(teacher, 3)])
    same([student.embed, student.head, student.norm], [teacher.embed, teacher.head, teacher.norm])


def test_layers_that_are_named_fill_a_pattern_of_another_length(teacher):
    student = make(teacher, layers=3, pattern=(R, N, N), keep=(0, 1, 3))
    same([layer(student, i) for i in range(3)], [layer(teacher, i) for i in (0, 1, 3)])


def test_dropped_layers_that_did_nothing_are_not_missed(teacher):
    silent = jax.tree.map(lambda x: x, teacher)
    for block, kept in zip(silent.periods.blocks, (0, 1), strict=True):
        for part in (block.attention.o, block.feed_forward.shared.down, block.feed_forward.experts.down):
            part[...] = part[...].at[1 - kept].set(0.0)
    same(logits(make(silent, layers=2))[0], logits(silent)[0], 1e-6)


@pytest.mark.parametrize(
    ("deep", "pattern", "kept"),
    [
        ((R, N) * 2, (R, N), (0, 3)),
        ((R, N) * 4, (R, N) * 2, (0, 3, 4, 7)),
        ((R, R, R, N) * 2, (R, R, R, N), (0, 2, 5, 7)),
        ((R, R, R, N) * 2, (R, N), (0, 7)),
        ((R, R, R, N) * 3, (R, R, R, N) * 3, tuple(range(12))),
        ((DENSE, R, DENSE, N), (R, N), (1, 3)),  # rather uneven than a dense layer turned into a mixture
        ((R,), (R,), (0,)),
    ],
)
def test_layers_are_spread_evenly_and_match_in_positions_and_in_kind(deep, pattern, kept):
    one = replace(TEACHER, pattern=deep, layers=len(deep))
    assert heritage(one, replace(one, pattern=pattern, layers=len(pattern))) == kept


def test_scout_at_half_depth_keeps_its_first_and_last_layer_and_one_without_positions_of_every_four():
    kept = heritage(SCOUT, replace(SCOUT, layers=24))
    assert kept[0] == 0 and kept[-1] == 47 and len(kept) == 24
    assert [i % 4 == 3 for i in kept] == [n % 4 == 3 for n in range(24)]


def test_copies_without_noise_leave_the_function_as_it_was_and_get_no_token(teacher):
    student = make(teacher, experts=10)
    (found, counts), (wanted, before) = logits(student), logits(teacher)
    same(found, wanted)
    same(counts, np.pad(before, ((0, 0), (0, 6))))
    same(layer(student, 0).feed_forward.experts.down[9], layer(teacher, 0).feed_forward.experts.down[1])


def test_copies_with_noise_share_the_tokens_and_answer_as_before(teacher):
    student = make(teacher, noise=0.01, experts=8)
    found, counts = logits(student)
    assert np.all(np.sum(counts[:, 4:], axis=1) > 0)
    assert np.median(np.abs(found - logits(teacher)[0])) < 1e-3
    one, other = layer(student, 0).feed_forward, layer(teacher, 0).feed_forward
    same(one.router[:, :4], other.router[...])
    same([x[4:] for x in jax.tree.leaves(one.experts)], other.experts)


def test_merged_experts_are_means_of_groups_and_so_are_their_router_columns(teacher):
    merged, whole = layer(make(teacher, experts=2), 2).feed_forward, layer(teacher, 2).feed_forward
    same(merged.shared, whole.shared)
    for number, pair in enumerate(np.split(np.asarray(alike(whole.router[...], 2)), 2)):
        same(merged.router[:, number], whole.router[:, pair].mean(1), 1e-6)
        same(merged.experts.gate_up[number], whole.experts.gate_up[pair].mean(0), 1e-6)
        same(merged.experts.down[number], whole.experts.down[pair].mean(0), 1e-6)


def test_merging_copies_gives_back_the_experts_in_some_order(teacher):
    many = make(teacher, experts=8)
    back, whole = layer(pass_on(many, TEACHER, None, 0.0), 1).feed_forward, layer(teacher, 1).feed_forward
    found = [int(np.argmin(np.abs(whole.router[...] - column[:, None]).sum(0))) for column in back.router[...].T]
    assert sorted(found) == [0, 1, 2, 3]
    same(back.experts, jax.tree.map(lambda x: x[np.array(found)], whole.experts), 1e-6)


def test_experts_whose_columns_point_the_same_way_are_one_group():
    router = jnp.array([[1.0, 0.0, 5.0, 0.1], [0.0, 1.0, 0.5, 9.0]])
    np.testing.assert_array_equal(alike(router, 2), [0, 2, 1, 3])


def test_a_dense_layer_as_a_mixture_without_noise_is_the_function_it_was_and_turns_back():
    dense = draw(replace(TEACHER, layers=1, pattern=(DENSE,)), jax.random.key(3))
    mixture = pass_on(dense, replace(TEACHER, layers=1, pattern=(R,), top_k=2), None, 0.0)
    same(logits(mixture)[0], logits(dense)[0], 1e-5)
    same(pass_on(mixture, dense.config, None, 0.0), dense, 1e-6)


def test_a_vision_tower_that_the_teacher_has_not_is_drawn_and_one_that_it_has_is_passed_on(teacher):
    seeing = make(teacher, vision=SIGHT)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(seeing.vision))
    same(pass_on(seeing, replace(TEACHER, layers=2, vision=SIGHT), None, 0.0).vision, seeing.vision)


@pytest.mark.parametrize(
    ("changes", "keep", "message"),
    [
        ({"width": 32, "heads": 8}, None, r"differs in width \(32, not 16\), heads \(8, not 4\): weights of another"),
        ({"vocab": 41}, None, r"differs in vocab \(41, not 40\): .* cannot be inherited; give it the same"),
        ({"expert_width": 4}, None, r"differs in expert_width \(4, not 8\)"),
        ({"experts": 3}, None, "4 experts do not fall into 3 equal groups; give it a number of experts that divides 4"),
        ({"layers": 6}, None, "its 6 layers are RNRNRN .* no selection of the teacher's 4, RNRN; change its layers or"),
        ({"pattern": (N, R)}, None, "its 4 layers are NRNR .* no selection"),
        ({"layers": 2}, (3, 0), r"keep is \(3, 0\); it must be 2 rising numbers from 0 to 3: a layer of the teacher"),
        ({"layers": 2}, (0, 4), "must be 2 rising numbers from 0 to 3"),
        ({"layers": 2}, (0, 1, 2), "must be 2 rising numbers"),
        ({"layers": 2}, (0, 2), "layer 2 is rotary where its own is without positions; keep layers of its own kinds"),
        ({"pattern": (DENSE, N), "dense_width": 12}, None, r"dense_width 12 is not that of one expert .*, 2 \* 8; set"),
    ],
)
def test_what_cannot_be_inherited_is_refused(changes, keep, message):
    with pytest.raises(ValueError, match=message):
        heritage(TEACHER, replace(TEACHER, **changes), keep)


def test_dense_layers_and_towers_of_another_size_are_refused():
    dense, seeing = replace(TEACHER, pattern=(DENSE, N)), replace(TEACHER, vision=SIGHT)
    with pytest.raises(ValueError, match=r"differs in dense_width \(12, not 16\)"):
        heritage(dense, replace(dense, dense_width=12))
    with pytest.raises(ValueError, match="differs in vision"):
        heritage(seeing, replace(seeing, vision=replace(SIGHT, layers=2)))
