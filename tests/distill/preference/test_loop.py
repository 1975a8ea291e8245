"""The loop of preference, on pairs that a small model drew when it was rewarded: restarts, and when it stops."""

import dataclasses
import shutil
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from distill import AdamW, Mesh, WarmupCosine
from distill.checkpoint import Checkpoints
from distill.loop import Interrupted
from distill.preference.loop import run_preference
from distill.rl.journal import Journal
from distill.room import Room
from distill.run import Run
from distill.state import abstract, parts
from losses import DPO
from tests.distill.preference.preferred import STAGE, begin, bring, draw, finish, opened
from tests.distill.rl.begun import AtLook


def rate(stage, peak):
    """The stage with another learning rate."""
    return replace(stage, learner=replace(stage.learner, optimizer=AdamW(rate=WarmupCosine(peak=peak))))


@dataclass(frozen=True)
class Contrary:
    """Wants the rejected answers."""

    def __call__(self, margin, beta):
        return beta * margin


HARMFUL = replace(rate(STAGE, 1e-2), preference=DPO(nll=0.0, objective=Contrary()), fall=0.4)
"""Its chosen answers become less likely with every update."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The run of a model that has learned to end its answers."""
    return begin(tmp_path_factory.mktemp("begun") / "run")


@pytest.fixture(scope="module")
def drawn(begun, tmp_path_factory):
    """The run of a stage of reinforcement learning."""
    return draw(begun, tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def whole(begun, drawn, tmp_path_factory):
    """A run that nobody disturbed."""
    folder = bring(drawn, tmp_path_factory.mktemp("whole") / "run")
    return folder, *finish(begun, folder)


@pytest.fixture(scope="module")
def harmful(begun, drawn, tmp_path_factory):
    """A run that stops because it does harm."""
    folder = bring(drawn, tmp_path_factory.mktemp("harmful") / "run")
    return folder, *finish(begun, folder, HARMFUL)


def assert_same(one, other):
    for mine, its in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, its)


def saved(folder, stage=STAGE, step=None):
    """Weights, meta and step of a checkpoint."""
    learner = stage.learners[0]
    shapes = {learner.name: parts(abstract(learner, stage.steps, Mesh().build()))}
    with Checkpoints(Run(folder).checkpoints("dpo"), writable=False) as checkpoints:
        found = checkpoints.restore(shapes, step=step)
    return jax.device_get(jax.tree.leaves(found.trees[learner.name]["weights"])), found.meta, found.step


def test_it_begins_as_its_reference_and_comes_to_prefer_what_is_right(whole):
    _, _, lines = whole
    mined, *updates = lines
    assert mined["kind"] == "pairs" and mined["pairs"] == 6 * 4 and mined["updates"] == 6
    assert [line["step"] for line in updates] == [1, 2, 3, 4, 5, 6]
    first = updates[0]
    assert abs(first["student/margin"]) < 1e-5 and abs(first["student/chosen"]) < 1e-5
    assert first["student/loss"] == pytest.approx(np.log(2) + 0.1 * first["student/nll"], abs=1e-5)
    assert np.mean([line["student/margin"] for line in updates]) > 0.05  # of pairs that it had not seen yet


def test_a_run_that_was_stopped_between_two_checkpoints_goes_on_bit_for_bit(begun, drawn, whole, tmp_path):
    folder = bring(drawn, tmp_path / "run")
    with opened(begun, folder, STAGE) as room, pytest.raises(Interrupted, match="after update 3 of 6"):
        run_preference(dataclasses.replace(room, stop=AtLook(3)), STAGE)
    again, lines = finish(begun, folder)
    assert_same(again, whole[1])
    assert lines == whole[2]
    assert (folder / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_a_run_that_is_over_is_not_trained_again_and_asks_for_nothing(begun, whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(folder / "journal")
    again, lines = finish(begun, folder)
    assert_same(again, whole[1])
    assert lines == whole[2]


def asked(folder):
    """How many answers the reference was asked about, each time that it was."""
    return [line["asked"] for line in Run(folder).timings() if "asked" in line]


def test_a_reference_is_asked_once_and_another_one_anew(begun, drawn, whole, tmp_path, monkeypatch):
    assert asked(whole[0]) == [48]
    one, other = (bring(drawn, tmp_path / name) for name in ("one", "other"))
    for folder in (one, other):
        shutil.copytree(whole[0] / "reference", folder / "reference")
    weights, lines = finish(begun, one)
    assert asked(one) == [] and lines == whole[2]
    assert_same(weights, whole[1])
    monkeypatch.setattr(Room, "identity", lambda self, name: "another")
    finish(begun, other)
    assert asked(other) == [48] and len(list((other / "reference").iterdir())) == 2


def test_lines_of_several_updates_have_the_tokens_of_all_of_them(begun, drawn, whole, tmp_path):
    def tokens(folder):
        return [line["tokens"] for line in Run(folder).timings() if "tokens" in line]

    finish(begun, bring(drawn, tmp_path), replace(STAGE, log_every=3))
    each = tokens(whole[0])
    assert tokens(tmp_path) == [each[0], sum(each[1:3]), sum(each[3:])]


def test_it_stops_where_the_chosen_answers_become_unlikely_and_goes_back(harmful):
    folder, weights, lines = harmful
    stopped = lines[-1]
    assert stopped["kind"] == "stopped" and 2 < stopped["step"] < 6 and stopped["chosen"] < -0.4
    kept, meta, step = saved(folder, HARMFUL)
    assert step == 6  # the number by which those who start from it ask for it
    assert meta["updates"] == stopped["updates"] == 2 and meta["stopped"] == stopped["step"]
    assert_same(kept, weights)
    assert_same(kept, saved(folder, HARMFUL, 2)[0])


def test_a_run_that_stopped_by_itself_is_not_trained_again(begun, harmful):
    folder, weights, lines = harmful
    again, same = finish(begun, folder, HARMFUL)
    assert_same(again, weights)
    assert same == lines


def test_whoever_interrupts_it_does_not_change_where_it_stops_or_goes_back_to(begun, drawn, harmful, tmp_path):
    folder = bring(drawn, tmp_path / "run")
    last = harmful[2][-1]["step"] - 1
    with opened(begun, folder, HARMFUL) as room, pytest.raises(Interrupted, match=f"after update {last} of 6"):
        run_preference(dataclasses.replace(room, stop=AtLook(last)), HARMFUL)
    again, lines = finish(begun, folder, HARMFUL)
    assert_same(again, harmful[1])
    assert lines == harmful[2]


def test_where_it_does_harm_before_its_first_checkpoint_what_is_kept_is_its_start(begun, drawn, tmp_path):
    stage = replace(HARMFUL, save_every=6)
    weights, lines = finish(begun, bring(drawn, tmp_path / "run"), stage)
    assert lines[-1]["kind"] == "stopped" and lines[-1]["updates"] == 0
    with opened(begun, tmp_path / "none", stage) as room:
        start = room.newborn(stage.learners[0], 6).weights
    assert_same(weights, jax.device_get(jax.tree.leaves(start)))


def test_it_ends_where_its_pairs_do_and_says_so(begun, drawn, tmp_path, capsys):
    stage, folder = replace(STAGE, steps=100, rows=40), bring(drawn, tmp_path / "run")
    with opened(begun, folder, stage) as room:
        run_preference(dataclasses.replace(room, quiet=False), stage)
    mined, *updates = Run(folder).metrics()
    assert len(updates) == mined["updates"] == mined["pairs"] // 20 < 100
    _, meta, step = saved(folder, stage)
    assert step == 100 and meta["updates"] == len(updates) and meta["stopped"] is None
    assert f"pairs, enough for {len(updates)} of 100 updates of 20 (epochs=1)" in capsys.readouterr().err


def test_with_too_few_pairs_for_an_update_it_ends_as_it_began(begun, drawn, tmp_path):
    stage, folder = replace(STAGE, rows=1000), bring(drawn, tmp_path / "run")
    weights, lines = finish(begun, folder, stage)
    kept, meta, step = saved(folder, stage)
    assert step == 6 and meta["updates"] == 0 and [line["kind"] for line in lines] == ["pairs"]
    with opened(begun, tmp_path / "none", stage) as room:
        start = room.newborn(stage.learners[0], 6).weights
    for found in (weights, kept):
        assert_same(found, jax.device_get(jax.tree.leaves(start)))
    assert asked(folder) == []


def test_three_updates_that_are_not_finite_stop_it(begun, drawn, tmp_path):
    with pytest.raises(FloatingPointError, match="stage dpo: the last 3 updates of 'student' were not finite"):
        finish(begun, bring(drawn, tmp_path / "run"), rate(STAGE, float("inf")))


def test_a_journal_that_has_changed_since_is_refused(begun, drawn, tmp_path):
    folder = bring(drawn, tmp_path / "run")
    with opened(begun, folder, STAGE) as room, pytest.raises(Interrupted):
        run_preference(dataclasses.replace(room, stop=AtLook(1)), STAGE)
    with Journal(folder / "journal" / "rl") as journal:
        ends = [end for end, record in journal.read() if record.event.value == "consumed"]
        journal.truncate(ends[-2])
    with pytest.raises(ValueError, match="stage 'dpo' was begun with pairs .* the journal of 'rl' now has"):
        finish(begun, folder)


def test_a_stage_without_a_journal_is_refused(begun, tmp_path):
    with pytest.raises(ValueError, match="there is no journal at .*journal/rl; run the stage of reinforcement"):
        finish(begun, tmp_path)
