"""What an experiment refuses at the door, and how it shrinks."""

from dataclasses import replace

import pytest

from distill import Mesh
from tests.distill.small import MOE, WIDE, experiment, learner, stage


def taught(**changes):
    return (
        stage(learner("teacher", model=WIDE), name="teach"),
        stage(learner(), name="distil", teacher="teacher", **changes),
    )


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "needs at least one"),
        ((stage(), stage()), "each with its own name"),
        ((stage(name="a/b"),), "the name 'a/b' becomes part of a path; use letters, digits, _ and -"),
        ((stage(name=""),), "the name '' becomes part of a path"),
        ((stage(learner("my.student")),), "the name 'my.student' becomes part of a path"),
        ((stage(steps=0),), "steps is 0; it must be at least 1"),
        ((stage(rows=8, accumulate=3),), "8 rows do not divide into accumulate=3"),
        ((stage(rows=8, accumulate=2, readers=3),), "4 rows of a micro-batch do not divide among 3 readers; set"),
        ((stage(readers=0),), "readers is 0; it must be at least 1"),
        ((stage(learner("a"), learner("a")),), "each with its own name"),
        ((stage(length=513),), "rows of 513 tokens are longer than the 512 positions of 'student'"),
        ((stage(teacher="nobody"),), "teacher 'nobody' is not a learner of this or an earlier stage"),
        ((stage(teacher="student"),), "'student' teaches while it learns, so it needs others"),
        (
            (
                stage(learner("teacher", model=replace(WIDE, vocab=65)), name="teach"),
                stage(learner(), teacher="teacher"),
            ),
            "teacher 'teacher' has a vocabulary of 65, student 'student' of 64",
        ),
        (
            (
                stage(learner("teacher", model=replace(WIDE, max_positions=8)), name="teach", length=8),
                stage(teacher="teacher"),
            ),
            "longer than the 8 positions of teacher 'teacher'",
        ),
        ((stage(name="one"), stage(learner(model=WIDE), name="two")), "another architecture in an earlier stage"),
    ],
)
def test_a_stage_that_cannot_run_is_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        experiment(stages=stages)


@pytest.mark.parametrize("name", ["held_out", "glance"])
def test_a_final_figure_needs_held_out_text(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1 batch of held-out text"):
        experiment(**{name: 0})


def test_rows_must_divide_over_the_mesh():
    with pytest.raises(ValueError, match="8 rows a batch do not divide over"):
        experiment(mesh=Mesh(data=3))


def test_comparing_with_a_stage_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="names a stage that is not among"):
        experiment(compare=("distil", "alone"))


def test_twins_are_held_against_the_teacher_of_their_name():
    both = experiment(stages=(*taught(), stage(learner(), name="alone")))
    assert both.lesson_of("student") == both.stages[1]
    assert both.lesson_of("teacher") is None
    assert both.stage_of("student").name == "distil"


def test_tiny_keeps_the_stages_and_shrinks_the_rest():
    large = experiment(stages=taught(steps=100_000, rows=512, length=512, accumulate=8), held_out=100)
    small = large.tiny()
    assert [one.name for one in small.stages] == ["teach", "distil"]
    assert small.stages[1].steps <= 12 and small.stages[1].rows <= 8 and small.stages[1].length <= 64
    assert small.name == "small-tiny"
    assert small.stages[1].learners[0].model.pattern == MOE.pattern


def test_a_loss_that_does_not_say_what_it_needs_is_refused():
    class Mine:
        def __call__(self, hidden, head, signal, labels, place, progress):
            return None

    one = learner()
    object.__setattr__(one, "loss", Mine())
    with pytest.raises(ValueError, match="must say its gate, on_policy and learns_labels, and be called"):
        experiment(stages=(stage(one),))
