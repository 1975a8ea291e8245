from dataclasses import replace

import jax
import numpy as np
import pytest

from distill import Mesh
from distill.plan import memory
from distill.plan.collectives import Collective
from distill.plan.compiled import Compiled, Memory
from distill.plan.compose import Step, compose, total
from distill.plan.flops import Comparison, Flops, by_formula
from distill.plan.plan import Planned, _used
from distill.plan.products import Products
from distill.plan.programs import Program, Work
from distill.plan.rates import Rates
from distill.plan.topology import Topology
from models.config import SCOUT_NANO
from models.execution import Execution

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


def test_copies_do_as_much_again_on_as_many_devices():
    found = total([(replace(program(), copies=3), STEP)], 0.0)
    assert found["seconds"] == 9.0 and found["mfu"] == pytest.approx(0.5)
    both = total([(replace(program(), copies=3), STEP), (program(first=2), STEP)], 0.0)
    assert both["mfu"] == pytest.approx(0.5)


HOST = Topology.parse("h100:1x8")  # 989e12 FLOP/s, 3.35e12 and 450e9 bytes/s
NONE = Products(matrices=0.0, attention=0.0, grouped=0.0, once=0.0, kernels={}, labels={})


def test_all_seconds_of_a_step_follow_from_what_is_done_and_the_rates():
    work = Work(model=SCOUT_NANO, kind="train", tokens=64, context=64, execution=Execution())
    one = replace(program(), work=(work,), touched=6.7e9)
    said = Collective(
        kind="all-gather", axes=("fsdp",), size=2, bytes=450e6, times=3.0, groups=np.array([[0, 1]]), source=""
    )
    rates = Rates(matmul=0.5, grouped=0.25, attention=0.4, memory=0.8)
    done = Comparison(counted=3e12, grouped=1e12, expected=2e12, own=None)
    step, needed = compose(one, HOST, rates, NONE, done, [said, said]), by_formula([work])
    assert step.matrices == pytest.approx(2e12 / 2 / (0.5 * 989e12))
    assert step.grouped == pytest.approx(1e12 / 2 / (0.25 * 989e12))
    assert step.attention == pytest.approx(needed.attention / 2 / (0.4 * 989e12))
    assert step.memory == pytest.approx(6.7e9 / (0.8 * 3.35e12))
    assert step.links == step.by_axes["fsdp"] == pytest.approx(2 * 3 * 450e6 / 2 / 450e9)
    assert (step.needed, step.peak) == (needed.needed, 2 * 989e12)
    masked = replace(NONE, attention=needed.attention)  # of one device: the compiler sees twice what is needed
    assert compose(one, HOST, rates, masked, done, []).attention == pytest.approx(2 * step.attention)
    uncounted = replace(done, counted=None, grouped=0.0)
    assert compose(one, HOST, rates, NONE, uncounted, []).matrices == pytest.approx(step.matrices)


def compiled(peak: int) -> Compiled:
    held = Memory(arguments=0, outputs=0, aliased=0, temporaries=0, peak=peak, code=0, host=0)
    return Compiled(refusal=None, memory=held, module=None, flops=None, seconds={}, resident=0.0)


def test_what_others_keep_is_memory_that_a_program_does_not_have():
    assert memory.fit(program(), compiled(int(70e9)), HOST, 0.0)["fits"]
    fit = memory.fit(program(), compiled(int(70e9)), HOST, 10e9)
    assert not fit["fits"] and fit["bytes"] == 80e9


def test_devices_of_copies_are_used_and_those_of_one_mesh_once():
    def planned(one: Program) -> Planned:
        return Planned(
            program=one, compiled=compiled(0), beside=0.0, flops=Flops(), comparison=None, products=None,
            collectives=[], step=None,
        )  # fmt: skip

    drawn = replace(program(first=4), copies=2)
    assert _used([planned(program()), planned(program()), planned(drawn)]) == 2 + 2 * 2
