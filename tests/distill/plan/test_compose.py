from dataclasses import replace

import jax
import pytest

from distill import Mesh
from distill.plan.compose import Step, total
from distill.plan.programs import Program

STEP = Step(
    matrices=4.0, grouped=0.0, attention=1.0, memory=1.0, links=3.0, by_axes={"fsdp": 3.0}, needed=4.5e15, peak=1e15
)


def test_without_overlap_everything_takes_its_turn():
    assert STEP.seconds(0.0) == 9.0
    assert STEP.mfu(0.0) == 0.5


def test_what_is_hidden_takes_no_time():
    assert STEP.seconds(0.5) == 7.5
    assert STEP.seconds(1.0) == 6.0


def test_no_more_is_hidden_than_there_is_to_hide_behind():
    assert replace(STEP, links=10.0).seconds(1.0) == 10.0


def program(first: int = 0, turns: float = 1.0) -> Program:
    """One on two devices."""
    mesh = Mesh(fsdp=2, first=first).build()
    return Program(name="one", mesh=mesh, lower=lambda: jax.jit(abs).lower(1.0), held={}, work=(), turns=turns)


def test_programs_of_the_same_devices_run_one_after_the_other():
    found = total([(program(), STEP), (program(turns=2.0), STEP)], 0.0)
    assert found["seconds"] == 27.0
    assert found["mfu"] == pytest.approx(0.5)


def test_programs_of_other_devices_run_side_by_side():
    found = total([(program(), STEP), (program(first=2), replace(STEP, matrices=13.0))], 0.0)
    assert found["seconds"] == 18.0
    assert found["mfu"] == pytest.approx(9.0e15 / (18.0 * 2e15))
