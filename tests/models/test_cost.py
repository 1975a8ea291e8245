from dataclasses import replace

import jax
import pytest

from models import config as configs
from models.config import BEHEMOTH, MAVERICK, SCOUT, SCOUT_PICO, Config, Layer
from models.cost import Parameters, active, forward_flops, main, total, train_flops
from models.llama4 import Llama4
from models.tower import VISION, VISION_NANO, VISION_PICO

FAMILY = [config for config in vars(configs).values() if type(config) is Config]
SEEING = replace(SCOUT, vision=VISION)
VISION_UNUSUAL = replace(VISION_PICO, ratio=1 / 3, image=24, hidden=9 * 32, channels=1, heads=2, output=7)
# One layer of one head with one channel pair, every width 2: all counts can be done by hand.
ONE = replace(
    SCOUT_PICO, vocab=3, width=2, layers=1, heads=1, kv_heads=1, head_dim=2, expert_width=2, dense_width=2, experts=4,
    chunk=2, pattern=(Layer(rope=True, moe=True),),
)  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [*FAMILY, SEEING, *(replace(SCOUT_PICO, vision=vision) for vision in (VISION_NANO, VISION_PICO, VISION_UNUSUAL))],
)
def test_the_formula_counts_the_tree(config):
    model = jax.eval_shape(lambda: Llama4(config, jax.random.key(0)))
    assert total(config) == sum(leaf.size for leaf in jax.tree.leaves(model))


@pytest.mark.parametrize(
    ("config", "all_of_them", "met_by_a_token"),
    [
        (SCOUT, 107_769_861_120, 17_172_894_720),
        (MAVERICK, 400_711_848_960, 17_184_691_200),
        (BEHEMOTH, 2_014_543_888_384, 287_161_729_024),
    ],
)
def test_full_sizes_are_the_published_ones(config, all_of_them, met_by_a_token):
    assert total(config) == all_of_them
    assert active(config) == met_by_a_token


def test_the_published_tower_adds_its_published_sizes():
    parts = Parameters.of(SEEING)
    assert (parts.vision, parts.projector, parts.total) == (850_960_896, 20_971_520, 108_641_793_536)
    assert active(SEEING) == active(SCOUT)


def test_active_parameters_leave_out_the_experts_not_chosen():
    assert total(ONE) - active(ONE) == 3 * 3 * 2 * 2
    assert total(replace(ONE, top_k=4)) == active(replace(ONE, top_k=4))


def test_flops_are_twice_the_matrices_and_four_per_visible_key_and_channel():
    # q k v o: 4 of 2 x 2; router 2 x 4; one expert and the shared one: 3 of 2 x 2 each; head 2 x 3.
    matrices = 16 + 8 + 24 + 6
    assert forward_flops(ONE, context=1) == 2 * matrices + 4 * 2 * 1
    # Chunks of 2: the tokens see 1, 2, 1, 2 keys.
    assert forward_flops(ONE, context=4) == 2 * matrices + 4 * 2 * 1.5
    assert forward_flops(ONE, context=3) == pytest.approx(2 * matrices + 4 * 2 * 4 / 3)


def test_a_nope_layer_sees_all_earlier_tokens():
    nope = replace(ONE, pattern=(Layer(rope=False, moe=True),))
    assert forward_flops(nope, context=4) - forward_flops(ONE, context=4) == 4 * 2 * (2.5 - 1.5)


def test_a_training_step_is_three_forward_passes():
    assert train_flops(ONE, 4) == 3 * forward_flops(ONE, 4)


def test_the_command_prints_sizes_and_compile_times(capsys, monkeypatch):
    monkeypatch.setattr("models.cost.compile_seconds", lambda config: config.layers / 10)
    main()
    printed = capsys.readouterr().out
    assert "107,769,861,120" in printed
    assert "850,960,896" in printed
    assert "SCOUT_PICO with 48 layers compiles in 4.8 s" in printed
