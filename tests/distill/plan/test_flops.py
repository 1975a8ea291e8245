from dataclasses import replace

import pytest

from distill import Mesh
from distill.plan.flops import by_formula
from distill.plan.programs import Work, on
from models import cost
from models.config import MAVERICK_NANO, SCOUT_NANO
from models.execution import Execution
from models.moe import Capacity
from models.remat import Inputs, Products

TOKENS, CONTEXT = 4096, 256
WORK = Work(model=SCOUT_NANO, kind="train", tokens=TOKENS, context=CONTEXT, execution=Execution())


def test_what_is_needed_is_the_formula_of_the_model():
    for model in (SCOUT_NANO, MAVERICK_NANO):
        train, asked = (by_formula([replace(WORK, model=model, kind=kind)]) for kind in ("train", "forward"))
        assert train.needed == pytest.approx(cost.train_flops(model, CONTEXT) * TOKENS)
        assert asked.needed == pytest.approx(cost.forward_flops(model, CONTEXT) * TOKENS)


def test_remat_of_inputs_does_all_layers_again_but_for_what_they_end_with():
    found = by_formula([replace(WORK, execution=Execution(remat=Inputs()))])
    plain, parts = by_formula([WORK]), cost.Parameters.of(SCOUT_NANO)
    layers = plain.matrices / 3 - 2.0 * parts.head * TOKENS
    down = 2 * SCOUT_NANO.expert_width * SCOUT_NANO.width * SCOUT_NANO.layers  # of the expert and of the shared one
    assert found.again == pytest.approx(layers - 2.0 * down * TOKENS)
    assert found.attention_again == pytest.approx(plain.attention / 3)
    assert found.needed == plain.needed


def test_remat_of_all_but_products_does_none_of_them_again():
    found = by_formula([replace(WORK, execution=Execution(remat=Products()))])
    assert found == by_formula([WORK])


def test_a_capacity_of_a_quarter_to_spare_makes_a_quarter_more_of_routed_products():
    execution = on(Execution(dispatch=Capacity(factor=1.25)), Mesh(data=2, expert=2).build())
    found = by_formula([replace(WORK, execution=execution)])
    assert found.empty == pytest.approx(found.routed / 5)
    assert found.routed == pytest.approx(1.25 * by_formula([WORK]).routed)
    assert found.needed == by_formula([WORK]).needed


def test_empty_rows_are_computed_again_but_for_what_a_layer_ends_with():
    execution = on(Execution(dispatch=Capacity(factor=1.25), remat=Inputs()), Mesh(data=2, expert=2).build())
    forward = by_formula([replace(WORK, kind="forward")]).routed
    assert by_formula([replace(WORK, execution=execution)]).empty == pytest.approx(0.25 * (3 + 2 / 3) * forward)


def test_a_teacher_elsewhere_leaves_its_head():
    here, away = (by_formula([replace(WORK, kind=kind, heads=heads)]) for kind, heads in (("forward", 0), ("head", 1)))
    assert here.matrices + away.matrices == pytest.approx(by_formula([replace(WORK, kind="forward")]).matrices)
    assert away.attention == 0.0


def test_a_teacher_of_two_is_multiplied_with_its_head_twice():
    one, two = (by_formula([replace(WORK, kind="forward", heads=heads)]) for heads in (1, 2))
    assert two.matrices - one.matrices == 2.0 * cost.Parameters.of(SCOUT_NANO).head * TOKENS
