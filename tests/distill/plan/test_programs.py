"""What is planned is what runs: the programs of small experiments, on the eight virtual devices of these tests."""

import math
from dataclasses import replace

import jax
import pytest

from distill import Experiment, Mesh, Reinforcement
from distill.hold import Bfloat16
from distill.plan.lessons import heard_width, loss_bytes
from distill.plan.plan import find_stage, programs
from distill.plan.programs import Program, bytes_of
from distill.state import create
from tests.distill.small import WIDE, batch, learner, stage

TEACHER = learner("behemoth", model=WIDE)
TEACH = stage(TEACHER, name="teach")


def experiment(*stages, mesh: Mesh | None = None) -> Experiment:
    return Experiment(name="planned", stages=(TEACH, *stages), mesh=mesh or Mesh(data=2, fsdp=2))


def planned(one: Experiment, name: str | None = None) -> tuple[Program, ...]:
    return programs(one, find_stage(one, name), jax.devices())


def whole(tree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_arguments(program: Program) -> jax.stages.Lowered:
    """Traces it; what it is given is what is held, and nothing else."""
    lowered = program.lower()
    assert whole(lowered.args_info) == whole(program.held)
    return lowered


def test_learners_and_a_teacher_beside_them_are_one_program():
    (program,) = planned(experiment(stage(learner("a"), teacher="behemoth")))
    lowered = check_arguments(program)
    donated = [leaf for leaf in jax.tree.leaves(lowered.args_info) if leaf.donated]
    assert whole(donated) == sum(whole(tree) for name, tree in program.held.items() if ":" in name)
    assert {name.split(": ")[0] for name in program.held} == {"a", "teacher", "batch"}


def test_a_planned_state_is_the_state_that_is_born():
    (program,) = planned(experiment(stage(learner("a"))))
    born = create(learner("a"), 10, Mesh(data=2, fsdp=2).build(), seed=0)
    told = lambda tree: [(leaf.shape, leaf.dtype, leaf.sharding) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    assert told(program.held["a: parameters"]) == told(
        [leaf for leaf in jax.tree.leaves(born.weights) if leaf.shape != (32, 64)]
    )
    assert told(program.held["a: optimizer"]) == told(born.opt)


def test_a_planned_batch_is_of_the_form_of_a_batch():
    (program,) = planned(experiment(stage(learner("a"), accumulate=2)))
    real = batch(parts=2)
    assert jax.tree.structure(program.held["batch"]) == jax.tree.structure(real)
    assert [leaf.shape for leaf in jax.tree.leaves(program.held["batch"])] == [
        leaf.shape for leaf in jax.tree.leaves(real)
    ]


def test_a_teacher_on_devices_of_its_own_is_a_program_of_its_own():
    far = Mesh(fsdp=4, first=4)
    apart = stage(learner("a"), teacher="behemoth", teacher_on=far, teacher_as=Bfloat16())
    asked, learned = planned(experiment(apart))
    check_arguments(asked), check_arguments(learned)
    assert asked.role == "teacher" and not set(asked.mesh.devices.flat) & set(learned.mesh.devices.flat)
    assert {"teacher's head", "hidden states of the teacher"} <= set(learned.held)
    assert bytes_of(asked.held["teacher"]) < 0.55 * 4 * whole(learned.held["a: parameters"])  # in two bytes, over four


def test_what_a_store_will_hold_comes_with_the_batch(tmp_path):
    from_store = stage(learner("a"), teacher="behemoth", store=str(tmp_path / "none"))
    (program,) = planned(experiment(from_store))
    assert program.held["batch"].targets.ids.shape == (1, 8, 16, 12)
    assert program.notes == (
        f"{tmp_path / 'none'} is not there yet: planned with the 12 most probable tokens of every position",
    )
    assert [work.kind for work in program.work] == ["train"]


def test_at_its_loss_a_device_has_heads_and_a_piece_of_the_logits():
    one, mesh = learner("a"), Mesh(data=2, fsdp=2).build()
    heads, piece = one.model.vocab * one.model.width, 2 * 5 * one.model.vocab  # two of eight rows, five columns
    assert loss_bytes(one, stage(one), mesh, heard=0) == 6 * heads + 2 * 4 * piece
    wider = 2 * one.model.vocab * 3 * one.model.width
    assert loss_bytes(one, stage(one), mesh, heard=3 * one.model.width) == 6 * heads + wider + 3 * 4 * piece


def test_the_widest_teacher_is_heard_and_of_a_store_none(tmp_path):
    taught = stage(learner("a"), teacher="behemoth")
    asked = experiment(taught)
    assert heard_width(asked, taught) == WIDE.width != taught.learners[0].model.width
    assert heard_width(asked, replace(taught, store=str(tmp_path))) == heard_width(asked, TEACH) == 0


def test_bytes_of_a_device_are_its_share():
    (program,) = planned(experiment(stage(learner("a")), mesh=Mesh(fsdp=4)))
    share = bytes_of(program.held["a: parameters"]) / whole(program.held["a: parameters"])
    assert share == 0.25


RL = dict(name="rl", steps=2, groups=4, samples=2, tokens=6, length=16, slots=8)


def test_reinforcement_is_drawing_and_learning():
    one = experiment(Reinforcement(learner=learner("a", model=replace(WIDE, vocab=272)), **RL))
    read, drawn, learned = planned(one)
    assert [program.role for program in (read, drawn, learned)] == ["sampler", "sampler", "learners"]
    assert drawn.turns == 6 and set(drawn.mesh.devices.flat) == set(learned.mesh.devices.flat)
    assert learned.held["batch"].routes.shape == (1, 8, 16, 1, 1)


def test_it_may_hear_a_teacher_move_twice_and_draw_elsewhere():
    student, judge = learner("a", model=replace(WIDE, vocab=272)), learner("judge", model=replace(WIDE, vocab=272))
    stage_ = Reinforcement(
        learner=student, teacher="judge", credit=0.1, updates=2, actor_on=Mesh(data=2, fsdp=2, first=4),
        max_policy_lag=4, **RL,
    )  # fmt: skip
    one = Experiment(name="planned", stages=(stage(judge, name="teach"), stage_), mesh=Mesh(fsdp=4))
    found = planned(one)
    for program in found:
        check_arguments(program)
    assert len(found) == 5 and found[0].copies == 2 and found[-1].turns == 2
    assert found[-1].held["batch"].targets.teacher is not None and found[-1].held["batch"].targets.proximal is not None


def test_a_stage_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="--stage 'distil' is not one of this experiment's, which are teach, learn"):
        find_stage(experiment(stage()), "distil")
