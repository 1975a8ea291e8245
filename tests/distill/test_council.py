"""Several teachers of one stage: the mean of their probabilities is heard."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.ceiling import Ceiling
from distill.data.source import Folder
from distill.evaluate import evaluate
from distill.given import Trained
from distill.hold import AsItIs, Bfloat16, Rounded, held
from distill.launch import run_experiment
from distill.mesh import Mesh
from distill.reading import stage_loader
from distill.rollout import OnPolicy
from distill.state import Weights
from distill.teacher import Council, LiveTeacher
from distill.trained import load_weights
from losses import Dense, Distill, Hidden, NoGate
from models.cost import forward_flops
from models.execution import Execution
from tests.distill.small import MOE, WIDE, assert_close, batch, experiment, learner, stage, states, take, teacher

WHERE_OF = {"one": "first", "two": "second"}
"""the stage in which each teacher learned"""
STUDENT = learner(loss=Distill(gate=NoGate(), chunk=5))


def test_what_is_heard_is_the_mean_of_the_members_probabilities():
    members = teacher(1), teacher(2, config=MOE)
    rows = jax.tree.map(lambda x: jnp.asarray(x[0]), batch())
    one = jnp.float32(1.0)
    heard = jnp.exp(Council(members).signal(rows).log_probs(one))
    apart = [jnp.exp(each.signal(rows).log_probs(one)) for each in members]
    np.testing.assert_allclose(heard, (apart[0] + apart[1]) / 2, atol=1e-6)


def test_members_that_are_equal_teach_what_each_teaches():
    one = teacher(1)
    alone, figures = take([STUDENT], states(STUDENT), one)
    both, same = take([STUDENT], states(STUDENT), Council((one, one)))
    assert_close(alone[0].weights, both[0].weights)
    np.testing.assert_allclose(figures["student/soft"], same["student/soft"], rtol=1e-5)


def test_a_student_of_a_council_learns_from_the_mean_as_from_one_teacher_that_says_it():
    members = teacher(1), teacher(2, config=MOE)

    class Mean:
        def signal(self, rows):
            one = jnp.float32(1.0)
            return Dense(jnp.log(sum(jnp.exp(each.signal(rows).log_probs(one)) for each in members) / 2))

    jax.tree_util.register_pytree_node(Mean, lambda _: ((), None), lambda *_: Mean())
    (council,), _ = take([STUDENT], states(STUDENT), Council(members))
    (mean,), _ = take([STUDENT], states(STUDENT), Mean())
    (first,), _ = take([STUDENT], states(STUDENT), members[0])
    assert_close(council.weights, mean.weights)
    with pytest.raises(AssertionError):
        assert_close(council.weights, first.weights)


def hears(**changes):
    """An experiment of two teachers and a student that hears both."""
    teachers = (
        stage(learner("one", model=WIDE), name="first", steps=2, save_every=2),
        stage(learner("two", model=MOE), name="second", steps=2, save_every=2),
    )
    asked = {"learners": (STUDENT,), "name": "learn", "teacher": "one", "ensemble": ("two",), "steps": 2} | changes
    last = stage(*asked.pop("learners"), **asked)
    return experiment(stages=(*teachers, last))


def test_a_stage_hears_them_and_counts_what_they_cost():
    one = hears()
    last = one.stages[-1]
    alone = Ceiling.flops(hears(ensemble=()), stage(STUDENT, teacher="one"))
    assert Ceiling.flops(one, last) == alone + forward_flops(MOE, last.length)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two teachers and a student that hears both: the experiment, its folder, and what it says."""
    folder = tmp_path_factory.mktemp("council")
    (folder / "text").mkdir()
    for number in range(20):
        (folder / "text" / f"{number}.txt").write_text(f"{number} " + "one two three four " * 15)
    sizes = {"one": replace(WIDE, vocab=272), "two": replace(MOE, vocab=272), "student": replace(MOE, vocab=272)}
    one = hears()
    stages = tuple(
        replace(each, learners=tuple(replace(who, model=sizes[who.name]) for who in each.learners))
        for each in one.stages
    )
    made = replace(one, stages=stages, corpus=Folder(str(folder / "text")))
    return made, folder / "run", run_experiment(made, folder / "run", quiet=True)["models"]


def scores(made, run, where, voices):
    """KL of the run's student from each voice, on the run's own held-out text."""
    weights = {"student": load_weights(run, where, "student")}
    loader = stage_loader(made, made.stages[-1])
    batches = [jax.tree.map(jnp.asarray, rows) for rows in loader.held_out_batches(made.corpus, made.held_out)]
    return [evaluate(weights, voice, batches, made.execution)["student"].kl for voice in voices]


def said(rows):
    """What a run says of its student's KL."""
    return next(row["kl"] for row in rows if row["name"] == "student")


def members(run, hold):
    """The teachers of the finished run, held so."""
    execution = hold.execution(Execution())
    each = [load_weights(run, WHERE_OF[name], name) for name in WHERE_OF]
    return tuple(LiveTeacher(Weights(held(one.model, hold, Mesh().build()), one.bias), execution) for one in each)


def test_a_run_with_two_teachers_is_scored_against_their_mean(finished):
    made, run, rows = finished
    one, two = members(run, AsItIs())
    mean, *apart = scores(made, run, "learn", (Council((one, two)), one, two))
    assert abs(mean - said(rows)) < 1e-5
    assert all(abs(each - said(rows)) > 1e-3 for each in apart)


@pytest.mark.parametrize("hold", [Bfloat16(), Rounded()], ids=lambda hold: type(hold).__name__)
def test_given_models_are_heard_together_as_they_are_to_be_held(finished, tmp_path, hold):
    made, run, _ = finished
    given = tuple(Trained(name=name, run=str(run), stage=WHERE_OF[name], learner=name) for name in WHERE_OF)
    again = replace(made, stages=(replace(made.stages[-1], teacher_as=hold),), given=given)
    rows = run_experiment(again, tmp_path / "run", quiet=True)["models"]
    voices = Council(members(run, hold)), Council(members(run, AsItIs()))
    small, whole = scores(again, tmp_path / "run", "learn", voices)
    assert abs(small - said(rows)) < 5e-7 < 2e-6 < abs(whole - said(rows))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, r"ensemble=\('two',\) are frozen models .* and there is no teacher"),
        ({"teacher": "student"}, "teacher 'student' learns in this stage"),
        ({"learners": (STUDENT, learner("two"))}, r"\['two'\] learn in this stage"),
        ({"store": "words"}, "store='words' is of one teacher"),
        ({"teacher_on": Mesh(first=1)}, "teacher_on is for one teacher"),
        ({"rollout": OnPolicy()}, "rollout needs one teacher"),
        ({"length": 600}, "longer than the 512 positions of"),
        ({"ensemble": ("one",)}, r"it hears \('one', 'one'\), one of them twice"),
        ({"ensemble": ("three",)}, r"teacher 'three' is not a learner of an earlier stage, .*\['one', 'two'\]"),
    ],
)
def test_councils_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        hears(**changes)


def test_a_council_has_no_layers_to_compare_with():
    with pytest.raises(ValueError, match="several teachers have no layers in common"):
        experiment(
            stages=(
                *hears().stages[:2],
                stage(learner(features=Hidden()), teacher="one", ensemble=("two",), name="learn"),
            )
        )
