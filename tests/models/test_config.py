import dataclasses
import re
from pathlib import Path

import pytest

from models import config as configs
from models.config import MAVERICK, SCOUT, Config, Layer, RopeScaling, Tempering, interleave, shortest

ROPE_MOE, NOPE_MOE = Layer(rope=True, moe=True), Layer(rope=False, moe=True)


def test_every_field_is_read_by_the_models():
    sources = [path.read_text() for path in Path("models").glob("*.py") if path.name not in ("config.py", "cost.py")]
    for field in dataclasses.fields(Config):
        if field.name == "layers":  # through periods, the length of the scan
            continue
        assert any(re.search(rf"config\.{field.name}\b", source) for source in sources), field.name


def test_scout_is_all_experts_with_every_fourth_layer_nope():
    assert SCOUT.pattern == (ROPE_MOE, ROPE_MOE, ROPE_MOE, NOPE_MOE)
    assert (SCOUT.periods, SCOUT.moe_per_period) == (12, 4)


def test_maverick_alternates_dense_and_experts():
    assert MAVERICK.pattern == (Layer(rope=True, moe=False), ROPE_MOE, Layer(rope=True, moe=False), NOPE_MOE)
    assert (MAVERICK.periods, MAVERICK.moe_per_period) == (12, 2)


def test_students_read_what_their_teacher_writes():
    for size in ("", "_MINI", "_NANO", "_PICO"):
        family = [vars(configs)[name + size] for name in ("BEHEMOTH", "SCOUT", "MAVERICK")]
        assert len({config.vocab for config in family}) == 1
        assert family[0].width > family[1].width == family[2].width


def test_an_interleave_repeats_at_the_least_common_multiple():
    assert len(interleave(nope=4, moe=2)) == 4
    assert len(interleave(nope=4, moe=3)) == 12
    assert interleave(nope=4, moe=3)[2] == Layer(rope=True, moe=True)


def test_the_shortest_pattern_divides_the_layers():
    assert shortest((ROPE_MOE, NOPE_MOE) * 3) == (ROPE_MOE, NOPE_MOE)
    assert shortest((ROPE_MOE, NOPE_MOE, ROPE_MOE)) == (ROPE_MOE, NOPE_MOE, ROPE_MOE)
    assert shortest((ROPE_MOE,) * 5) == (ROPE_MOE,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 47}, "layers = 47 is not a whole number of patterns of 4"),
        ({"pattern": ()}, "not a whole number of patterns of 0"),
        ({"heads": 41}, "heads = 41 cannot share kv_heads = 8"),
        ({"head_dim": 127}, "head_dim = 127 must be even"),
        ({"top_k": 17}, "top_k = 17 is more than experts = 16"),
        ({"width": 0}, "width is 0; every size must be at least 1"),
        ({"eps": 0.0}, "eps > 0"),
        ({"rope_theta": 1.0}, "rope_theta > 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SCOUT, **change)


def test_a_rope_scaling_with_crossed_bands_is_refused():
    with pytest.raises(ValueError, match="0 < low <= high; swap them"):
        RopeScaling(factor=8.0, low=4.0, high=1.0, original=8192)


def test_a_rope_scaling_that_shrinks_is_refused():
    with pytest.raises(ValueError, match="factor >= 1"):
        RopeScaling(factor=0.5, low=1.0, high=4.0, original=8192)


def test_a_tempering_floor_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 token"):
        Tempering(floor=0, scale=0.1)
