"""One run of several kinds of stage: learn, select what is hard, learn that, be rewarded."""

import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from distill import Experiment, Preference, Stage, Trained, selecting
from distill.ceiling import Ceiling
from distill.curriculum.filter import DropEasiest, RandomShare
from distill.curriculum.selection import Selection
from distill.curriculum.table import Table
from distill.launch import contrast, run_experiment
from distill.metrics import Metrics
from distill.options import parse
from distill.reading import stage_batches
from distill.rl.stage import Reinforcement
from distill.room import Room
from distill.run import Run
from distill.state import Weights
from distill.tasks.exam import Exam
from distill.tasks.examination import Examination
from distill.tasks.source import Questions
from tests.distill.rl.begun import ASKED, LEARNER, STAGE

BASE = Stage(name="base", learners=(replace(LEARNER, name="base"),), steps=30, rows=32, length=16, save_every=30)
TUNE = Stage(
    name="tune", learners=(replace(LEARNER, name="tuned", start="base"),), steps=4, rows=8, length=16,
    corpus=Questions(ASKED), selection=Selection(by="base", rule=DropEasiest(share=0.75), attempts=2, tokens=8),
)  # fmt: skip
REWARD = replace(STAGE, learner=replace(STAGE.learner, name="rewarded", start="tuned"), steps=3)
PREFER = Preference(
    name="prefer", learner=replace(LEARNER, name="preferred", start="rewarded"), journal="rl", steps=2, rows=4,
    length=16,
)  # fmt: skip
OTHER = Trained(name="other", run="runs/other", stage="base", learner="base")
EXAMINATION = Examination(questions=Questions(ASKED), exam=Exam(attempts=2, tokens=8, slots=16), k=2, few=2)


def experiment(**changes) -> Experiment:
    """Stages of every kind."""
    asked = {"name": "pipeline", "corpus": Questions(ASKED), "held_out": 1, "glance": 1}
    asked |= {"stages": (BASE, TUNE, REWARD, PREFER), "examination": EXAMINATION}
    return Experiment(**(asked | {"contrasts": (("rewarded", "tuned"),)} | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The run, and its results."""
    folder = tmp_path_factory.mktemp("runs") / "pipeline"
    return folder, run_experiment(experiment(), folder, quiet=True)


def test_every_learner_is_examined_after_its_stage(done):
    _, results = done
    assert [(row["stage"], row["name"]) for row in results["models"]] == [
        ("base", "base"),
        ("tune", "tuned"),
        ("rl", "rewarded"),
        ("prefer", "preferred"),
    ]
    for row in results["models"]:
        assert set(row["exam"]) == {"reverse/0", "sort/0"}
        for cell in row["exam"].values():
            assert cell["n"] == 8 and cell["attempts"] == 2
            assert 0 <= cell["pass@1"] <= cell["pass@k"] <= 1
        assert {"prompt", "right", "said", "cell"} == set(row["samples"][0])


def test_learners_are_compared_by_their_right_answers(done):
    _, results = done
    (found,) = results["contrasts"]
    assert (found["first"], found["second"], found["n"]) == ("rewarded", "tuned", 1)
    rows = {row["name"]: np.mean([cell["pass@1"] for cell in row["exam"].values()]) for row in results["models"]}
    assert found["difference"] == pytest.approx(rows["rewarded"] - rows["tuned"])


def test_contrasts_pair_the_seeds():
    rows = [
        {"seed": seed, "name": name, "exam": {"a/0": {"pass@1": share}, "a/1": {"pass@1": 0.0}}}
        for seed, shares in ((0, {"one": 0.4, "two": 0.2}), (1, {"one": 0.8, "two": 0.4}))
        for name, share in shares.items()
    ]
    found = contrast(rows, "one", "two")
    assert (found["difference"], found["wins"]) == (pytest.approx((0.1 + 0.2) / 2), 2)


def test_a_stage_learns_from_what_its_selection_leaves(done):
    folder, _ = done
    table = Table.load(folder / "difficulty" / "tune.json")
    assert len(table.ids) == 80 and set(table.attempts.tolist()) == {2}
    right = table.successes / table.attempts
    stays = DropEasiest(share=0.75)(table)
    assert stays.sum() == 20
    assert right[stays].max() <= right[~stays].min()


def test_what_was_measured_is_read_when_the_run_goes_on(done, monkeypatch):
    folder, results = done
    (folder / "results.json").unlink()
    monkeypatch.setattr(selecting, "table_of", None)  # nobody is asked again
    assert run_experiment(experiment(), folder, quiet=True)["models"][0]["exam"] == results["models"][0]["exam"]


def test_a_stage_whose_selection_asks_the_same_reads_what_was_measured(done, tmp_path, monkeypatch):
    folder, _ = done
    shutil.copytree(folder, tmp_path / "run")
    again = replace(TUNE, name="again", selection=replace(TUNE.selection, rule=RandomShare(share=0.75)))
    made = experiment(stages=(BASE, TUNE, again), contrasts=())
    monkeypatch.setattr(selecting, "table_of", None)  # nobody is asked again
    with Metrics(tmp_path / "run") as metrics:
        room = Room(made, Run(tmp_path / "run"), metrics, Ceiling(1.0), threading.Event(), quiet=True)
        for stage in (TUNE, again):
            asked = made.corpus_of(stage)
            left, table = selecting.chosen(room, stage, asked)
            items = selecting.selected(room, stage).items("train")
            assert [item.id for item in items] == [item.id for item in left] and len(left) == 20
            assert table.ids == Table.load(folder / "difficulty" / "tune.json").ids
        batches = stage_batches(room, TUNE)
        read = [tuple(row) for _ in range(3) for row in next(batches).tokens.tolist()]
        assert (len(read), len(set(read))) == (24, 20)  # an epoch, and four again
        other = replace(again, name="other", selection=replace(again.selection, attempts=3))
        with pytest.raises(TypeError, match="not callable"):  # it asks more
            selecting.difficulty(room, other, asked)


def test_who_is_not_to_be_asked_is_not_examined(tmp_path):
    made = experiment(examination=replace(EXAMINATION, who=("base",)), contrasts=())
    with Metrics(tmp_path) as metrics:
        room = Room(made, Run(tmp_path), metrics, Ceiling(1.0), threading.Event(), quiet=True)
        assert room.examine("tuned", Weights(None, None)) == {}
        room.glance(TUNE, 1, "tuned", Weights(None, None))
    assert Run(tmp_path).metrics() == []


def test_glances_at_the_questions_are_lines_of_the_metrics(done):
    folder, _ = done
    lines = [line for line in Run(folder).metrics() if line["kind"] == "exam"]
    assert [(line["stage"], line["step"]) for line in lines] == [
        ("base", 30),
        ("tune", 4),
        ("rl", 2),
        ("rl", 3),
        ("prefer", 2),
    ]
    assert lines[0]["exam"] == pytest.approx(np.mean([lines[0]["exam/reverse/0"], lines[0]["exam/sort/0"]]))


def test_the_manifest_has_what_every_stage_reads(done):
    folder, _ = done
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["stages"]) == {"tune", "rl"}
    other = replace(TUNE, corpus=Questions(replace(ASKED, train=30)))
    with pytest.raises(ValueError, match="another experiment"):
        run_experiment(experiment(stages=(BASE, other, REWARD)), folder, quiet=True)


def test_options_reach_every_kind_of_stage():
    found = parse(experiment(), ["--stages.2.steps", "7", "--stages.1.rows", "4"]).experiment
    assert isinstance(found.stages[2], Reinforcement)
    assert (found.stages[2].steps, found.stages[1].rows) == (7, 4)


def test_the_tiny_form_keeps_the_kinds():
    tiny = experiment().tiny()
    assert [type(stage) for stage in tiny.stages] == [Stage, Stage, Reinforcement, Preference]
    assert tiny.stages[2].learners[0].model == tiny.stages[1].learners[0].model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": (BASE, replace(TUNE, selection=Selection(by="nobody")))}, "selected by 'nobody'"),
        ({"stages": (BASE, replace(REWARD, learner=replace(REWARD.learner, start="nobody")))}, "starts from 'nobody'"),
        ({"stages": (BASE, replace(REWARD, learner=replace(REWARD.learner, start="base"), teacher="who", credit=0.1))},
         "teacher 'who' is not a learner of an earlier"),
        ({"stages": (BASE, TUNE, REWARD, replace(PREFER, journal="base"))}, "journal 'base' is not an earlier stage"),
        ({"contrasts": (("rewarded", "nobody"),)}, r"no learner \['nobody'\]"),
        ({"examination": None}, "and there is none"),
        ({"examination": replace(EXAMINATION, who=("base", "rewarded"))}, r"and \['tuned'\] are not among those that"),
        ({"examination": replace(EXAMINATION, who=("nobody",))}, r"no learner \['nobody'\]"),
        ({"contrasts": (("rewarded", "other"),), "given": (OTHER,)}, r"no learner \['other'\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_the_door(changes, message):
    with pytest.raises(ValueError, match=message):
        experiment(**({"contrasts": ()} | changes if "stages" in changes else changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Selection(by="base", attempts=0), "attempts is 0"),
        (lambda: Examination(k=99), "k=99 needs as many attempts"),
        (lambda: Examination(few=-1), "few is -1"),
    ],
)
def test_what_cannot_be_asked_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
