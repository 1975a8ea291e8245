"""Learners that start from a learner of an earlier stage, or from a given model of another shape."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from distill import Given, Mesh
from distill.data.source import Folder
from distill.launch import run_experiment
from distill.options import parse
from distill.state import abstract, adopt, create, seed_key
from distill.tiny import tiny_models
from models import huggingface
from models.heritage import heritage
from models.inherit import inherit
from models.llama4 import Llama4
from tests.distill.small import MOE, experiment, learner, stage

DEEP = replace(MOE, vocab=272, layers=4)
TEACHER, HALF = learner("teacher", model=DEEP), learner("half", model=replace(DEEP, layers=2), start="teacher")
MANY = learner("many", model=replace(DEEP, experts=8), start="teacher")


def starts(*learners, **changes):
    """A teacher, and learners that start from it and hear it."""
    short = {"steps": 2, "save_every": 1, "log_every": 1}
    stages = (
        stage(TEACHER, name="teach", **short),
        stage(*learners, name="distil", teacher="teacher", stream=1, **short),
    )
    return experiment(**({"stages": stages} | changes))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"{number} " + "one two three four " * 15)
    return Folder(str(folder))


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    """A run of a student of half the layers and one that is its teacher again."""
    path = tmp_path_factory.mktemp("runs") / "run"
    one = starts(HALF, learner("same", model=DEEP, start="teacher"), corpus=text)
    run_experiment(one, path, quiet=True)
    return path, one


def test_a_learner_that_starts_from_its_teacher_of_the_same_run_agrees_with_it_at_first(run):
    path, _ = run
    first = (path / "metrics.jsonl").read_text().splitlines()
    line = next(one for one in map(json.loads, first) if one["stage"] == "distil")
    assert line["same/soft"] < 1e-6 and line["same/agreement"] == 1 and line["half/soft"] > 1e-6


def test_a_run_goes_on_and_a_teacher_trained_again_is_started_from_again_to_the_same_numbers(run, tmp_path):
    path, one = run
    wanted = (path / "metrics.jsonl").read_bytes()
    for lost in ("distil/2", "teach/2"):
        again = tmp_path / lost.replace("/", "-")
        shutil.copytree(path, again)
        shutil.rmtree(again / "checkpoints" / lost)
        if lost == "teach/2":
            with pytest.warns(RuntimeWarning, match="goes back to step 1, so stage 'distil' is trained again"):
                run_experiment(one, again, quiet=True)
        else:
            run_experiment(one, again, quiet=True)
        assert (again / "metrics.jsonl").read_bytes() == wanted


def test_an_heir_is_born_sharded_with_the_moments_of_none():
    mesh = Mesh(fsdp=2).build()
    teacher = create(TEACHER, 2, mesh, 0).weights.model
    merged = replace(MANY, model=replace(DEEP, layers=2, experts=2), keep=(0, 1))
    state = adopt(merged, 2, mesh, 0, teacher)
    wanted = jax.tree.leaves(abstract(merged, 2, mesh))
    assert all(
        x.sharding.is_equivalent_to(y.sharding, x.ndim) for x, y in zip(jax.tree.leaves(state), wanted, strict=True)
    )
    assert len(state.weights.model.head[...].sharding.device_set) == 2
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt))
    alone = jax.device_put(teacher, jax.devices()[0])
    wanted = jax.jit(inherit, static_argnums=(1, 3))(alone, merged.model, seed_key(0, "many"), (0, 1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.weights.model, wanted)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            replace(HALF, start="nobody"),
            r"'half' starts from 'nobody', which is not given and no learner of an earlier",
        ),
        (replace(HALF, start="half"), r"no learner of an earlier stage; there are \['teacher'\]"),
        (replace(HALF, start=None, keep=(0, 1)), r"'half' keeps layers \(0, 1\) of nothing; name what it starts from"),
        (replace(HALF, keep=(0, 2)), "'half' cannot start from 'teacher': keep is .* layer 2 is rotary where its own"),
        (learner("wide", model=replace(DEEP, width=64), start="teacher"), r"'wide' cannot .* width \(64, not 32\)"),
    ],
)
def test_a_start_that_cannot_be_is_refused(student, message):
    with pytest.raises(ValueError, match=message):
        starts(student)


def test_tiny_keeps_layers_and_experts_of_who_starts_and_of_what_is_started_from():
    big = replace(DEEP, width=640, experts=16)
    first = stage(replace(TEACHER, model=big), name="teach")
    half, many = replace(HALF, model=replace(big, layers=2)), replace(MANY, model=replace(big, experts=32))
    one = experiment(stages=(first, stage(half, many, learner("other", model=big))))
    found = tiny_models(one.stages, ())
    assert [(found[name].layers, found[name].experts, found[name].width) for name in found] == [
        (4, 16, 32), (2, 16, 32), (4, 32, 32), (2, 4, 32),
    ]  # fmt: skip
    small = one.tiny()
    assert [each.model for each in small.stages[1].learners] == list(found.values())[1:]
    assert heritage(found["teacher"], found["half"]) == (0, 3)


def test_tiny_leaves_whoever_comes_from_given_weights_by_whatever_way_its_size(tmp_path):
    huggingface.save(tmp_path / "old", jax.jit(lambda key: Llama4(DEEP, key))(jax.random.key(3)))
    given = Given(name="old", folder=str(tmp_path / "old"))
    one = starts(HALF, given=(given,))
    one = replace(one, stages=(replace(one.stages[0], learners=(replace(TEACHER, start="old"),)), one.stages[1]))
    assert tiny_models(one.stages, one.given) == {"teacher": DEEP, "half": HALF.model}


def test_the_command_line_names_the_layers_that_are_kept():
    found = parse(starts(HALF), ["--stages.1.learners.0.keep", "2", "3"]).experiment
    assert found.stages[1].learners[0].keep == (2, 3)
