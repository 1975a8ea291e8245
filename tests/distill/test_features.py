"""A learner that is compared with its teacher's layers: same pass, own map, and nothing new for those that are not."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import Mesh, load_weights
from distill.checkpoint import Checkpoints
from distill.data.source import Folder
from distill.experiment import Experiment
from distill.features import compare
from distill.launch import run_experiment
from distill.state import abstract, create, moving, parts
from distill.step import Step
from distill.teacher import Silent, StoredTeacher, listen
from losses import Angle, Constant, Hidden, RouterHealth, RouterMatch
from models.config import Layer
from models.execution import Execution
from models.llama4 import Llama4
from tests.distill.small import (
    MOE,
    QUIET,
    WIDE,
    assert_close,
    batch,
    experiment,
    learner,
    stage,
    take,
    teacher,
)

SAME = replace(WIDE, experts=4)
"""a wider teacher of as many experts"""
TAUGHT = learner("student", features=Hidden(weight=Constant(2.0)), router=QUIET)
MATCHED = replace(
    TAUGHT, name="twin", twin="student", features=None, routing=RouterMatch(weight=Constant(2.0)), router=RouterHealth()
)


def born(one, inside=SAME, mesh=None):
    return (create(one, 10, (mesh or Mesh()).build(), 0, inside=inside),)


def part():
    """A micro-batch on the device."""
    return jax.tree.map(lambda x: jnp.asarray(x[0]), batch())


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"{number} " + "the quick brown fox jumps over the lazy dog " * 5)
    return Folder(str(folder))


@pytest.fixture(scope="module")
def voice():
    return teacher(config=SAME)


@pytest.fixture(scope="module")
def step():
    """A step of a learner whose states are compared, and of its twin whose routers are."""
    return jax.jit(Step((TAUGHT, MATCHED), 10, Execution()))


def begin():
    return (*born(TAUGHT), *born(MATCHED))


def test_the_map_learns_beside_the_student_which_learns_something_else_by_it(voice, step):
    before = begin()
    (after, twin), metrics = step(before, voice, batch())
    assert after.projection[...].shape == (2, MOE.width, SAME.width) and twin.projection is None
    assert np.abs(after.projection[...] - before[0].projection[...]).max() > 1e-3
    assert not np.allclose(twin.weights.model.embed[...], after.weights.model.embed[...], atol=1e-4)
    assert 0.5 < float(metrics["student/features"].mean()) < 4.0
    assert "twin/features" not in metrics and "student/routing" not in metrics


def test_the_teacher_is_asked_once_for_its_word_and_its_inside(voice, monkeypatch):
    asked, run = [], Llama4._run

    def counted(self, *rest, **kept):
        asked.append(self.config.width)
        return run(self, *rest, **kept)

    monkeypatch.setattr(Llama4, "_run", counted)
    one = Step((TAUGHT, MATCHED), 10, Execution())
    jax.eval_shape(lambda *arguments: one(*arguments), begin(), voice, batch())  # a function of its own is traced anew
    assert asked.count(SAME.width) == 1 and asked.count(MOE.width) == 2


def test_a_teacher_that_opens_says_what_it_says(voice):
    said, (signal, inside) = jax.jit(lambda voice: (voice.signal(part()), voice.open(part())))(voice)
    assert_close(signal, said)
    assert inside.stream.shape == (3, 8, 16, SAME.width) and inside.routers.shape == (1, 8, 16, 4)


def test_a_few_steps_bring_layers_and_routers_nearer(voice, step):
    now, found = begin(), []
    for _ in range(8):
        now, metrics = step(now, voice, batch())
        found.append([float(metrics[name].mean()) for name in ("student/features", "twin/routing")])
    assert (np.array(found[-1]) < 0.7 * np.array(found[0])).all()


def test_a_twin_without_the_term_starts_from_the_same_weights():
    assert_close(born(TAUGHT)[0].weights, born(replace(TAUGHT, features=None))[0].weights, tolerance=0)


def test_another_teacher_gives_another_gradient_and_none_enters_it(voice):
    @jax.jit
    def slopes(voice):
        """Of the student and its map, and of the likeness in the teacher."""
        _, inside = listen(voice, part(), True)
        slope = Step((TAUGHT,), 10, Execution()).slope(TAUGHT, state, None, part(), inside)
        return slope.gradient, jax.grad(lambda weights: total(replace(voice, weights=weights)))(voice.weights)

    def total(voice):
        inside = listen(voice, part(), True)[1]
        return compare(TAUGHT.features, None, inside, inside, None, part().mask, 0.0)[0]

    (state,) = born(TAUGHT)
    other = replace(voice, weights=jax.tree.map(jnp.negative, voice.weights))
    (one, entering), (two, _) = slopes(voice), slopes(other)
    assert not np.allclose(one[1][...], two[1][...], atol=1e-2)
    scales = [model.periods.blocks[0].attention_norm.scale[...] for model, _ in (one, two)]
    assert not np.allclose(*scales, atol=1e-4)
    assert all((np.asarray(leaf) == 0.0).all() for leaf in jax.tree.leaves(entering))


def test_accumulation_does_not_change_the_update(voice, step):
    whole, _ = step(begin(), voice, batch(parts=1))
    cut, _ = take([TAUGHT], born(TAUGHT), voice, [batch(parts=2)])
    assert_close(whole[0].weights, cut[0].weights)
    assert_close(whole[0].projection, cut[0].projection)


def test_a_mesh_of_eight_devices_equals_one(voice, step):
    mesh = Mesh(data=2, fsdp=4)
    one, _ = step(begin(), voice, batch())
    many, _ = take([TAUGHT], born(TAUGHT, mesh=mesh), teacher(mesh=mesh, config=SAME), mesh=mesh)
    assert_close(jax.device_get(one[0].projection), jax.device_get(many[0].projection))
    assert len({str(shard.index) for shard in many[0].projection[...].addressable_shards}) == 4


def test_without_a_term_nothing_is_kept_and_moments_have_the_names_they_had():
    plain = abstract(learner(), 10, Mesh().build(), inside=WIDE)
    assert plain.projection is None and moving(plain) is plain.weights.model
    kept = parts(abstract(TAUGHT, 10, Mesh().build(), inside=WIDE))
    assert "projection" in kept["rest"] and "projection" not in vars(kept["weights"])


@pytest.mark.parametrize("voice", [Silent(), StoredTeacher()], ids=str)
def test_who_is_not_there_hands_over_no_hidden_states(voice):
    with pytest.raises(ValueError, match=f"a {type(voice).__name__} hands over no hidden states"):
        listen(voice, batch(), True)


def refuse(one, message, **changes):
    with pytest.raises(ValueError, match=message):
        stages = experiment().stages
        taught = replace(stages[1], learners=(one,), **changes)
        experiment(stages=(stages[0], taught))


@pytest.mark.parametrize("one", [TAUGHT, MATCHED], ids=["features", "routing"])
def test_a_comparison_needs_a_live_teacher(one):
    refuse(one, "features and routing compare its layers with those of a live teacher", teacher=None)
    refuse(one, "a store holds no hidden states", store="targets")
    refuse(one, "a mesh of its own hands over the last alone", teacher_on=Mesh(first=1))


def test_the_teacher_of_a_stage_is_not_compared_with_itself():
    with pytest.raises(ValueError, match="a live teacher that is not itself"):
        experiment(stages=(stage(replace(TAUGHT, name="one"), learner("two"), teacher="one"),))


def test_layers_that_are_not_there_and_widths_that_differ_are_refused():
    refuse(
        replace(TAUGHT, features=Hidden(pairs=((1, 3),))), "learner 'student': .* a student with 2 and a teacher with 2"
    )
    refuse(replace(TAUGHT, features=Hidden(project=False)), "its width is 32 and its teacher's 40; set project=True")


def test_other_experts_are_refused_with_the_reason():
    refuse(MATCHED, "learner 'twin': RouterMatch needs the same MoE layers and experts")
    dense = replace(WIDE, pattern=(Layer(rope=True, moe=False),))
    refuse(replace(MATCHED, model=dense), "the student has 0 layers of 6, the teacher 1 of 6")


def test_the_tiny_form_matches_all_layers():
    one = replace(TAUGHT, features=Hidden(pairs=((2, 2),)))
    stages = experiment().stages
    tiny = experiment(stages=(stages[0], replace(stages[1], learners=(one,)))).tiny()
    assert isinstance(tiny, Experiment) and tiny.stages[1].learners[0].features == Hidden()


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_numbers_and_its_weights_hold_no_map(text, tmp_path):
    one = replace(TAUGHT, model=replace(MOE, vocab=272), features=Hidden(distance=Angle()))
    voice = learner("teacher", model=replace(WIDE, vocab=272))
    kept = {"steps": 2, "save_every": 1, "log_every": 1}
    stages = stage(voice, name="teach", **kept), stage(one, name="distil", teacher="teacher", **kept)
    small, whole, again = experiment(stages=stages, corpus=text), tmp_path / "whole", tmp_path / "again"
    run_experiment(small, whole, quiet=True)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "distil" / "2")
    run_experiment(small, again, quiet=True)
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert b"student/features" in (whole / "metrics.jsonl").read_bytes()
    shapes, found = parts(abstract(one, 2, Mesh().build(), inside=voice.model))["rest"], []
    for path in (whole, again):
        with Checkpoints(path / "checkpoints" / "distil", writable=False) as checkpoints:
            found.append(checkpoints.restore({"student": {"rest": shapes}}).trees["student"]["rest"])
    assert_close(*found, tolerance=0)
    exported = load_weights(again, "distil", "student")
    assert jax.tree.structure(exported) == jax.tree.structure(born(replace(one, features=None))[0].weights)
