"""Stages of preference: what they are, the order of their pairs, and what is refused at the door."""

from dataclasses import replace

import numpy as np
import pytest

from distill import Mesh, Stage
from distill.preference.stage import check_journal, order
from distill.stage import Staged
from losses import DPO, Hidden, Preferred
from tests.distill.preference.preferred import DREW, LEARNER, MODEL, STAGE

EARLIER = {"begun": LEARNER}


def test_its_learner_minimises_its_preference():
    stage = replace(STAGE, preference=DPO(beta=2.0))
    (learner,) = stage.learners
    assert learner.loss == Preferred(preference=DPO(beta=2.0)) and learner.name == "student"
    assert (stage.pairs, stage.seen, stage.teacher, stage.averages(learner)) == (4, 6 * 8 * 16, None, False)
    assert isinstance(stage, Staged)


def test_every_pair_is_learned_from_once_before_any_is_again():
    drawn = np.concatenate([order(3, number, 4, 10) for number in range(1, 6)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()


def test_an_update_may_take_the_pairs_of_several_epochs():
    assert np.bincount(order(0, 1, 7, 2)).tolist() in ([4, 3], [3, 4])


def test_the_order_follows_from_seed_and_number():
    np.testing.assert_array_equal(order(3, 2, 4, 100), order(3, 2, 4, 100))
    assert order(3, 2, 4, 100).tolist() != order(4, 2, 4, 100).tolist()


def test_it_takes_as_many_updates_as_there_are_pairs_for():
    assert [replace(STAGE, epochs=n).updates(10) for n in (1, 2, 9)] == [2, 5, 6]
    assert STAGE.updates(3) == 0


def test_chosen_answers_have_fallen_when_their_mean_lies_below_the_bound():
    stage = replace(STAGE, fall=0.1)
    assert not stage.fallen([]) and not stage.fallen([-0.3, 0.2]) and stage.fallen([-0.3, 0.0])
    assert not replace(STAGE, fall=float("inf")).fallen([-1e9])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "stage 'dpo': steps is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"rows": 7}, "7 rows are not whole pairs in each of accumulate=1 micro-batches; use a multiple of 2"),
        ({"accumulate": 3}, "8 rows are not whole pairs in each of accumulate=3 micro-batches; use a multiple of 6"),
        ({"fall": 0.0}, "fall is 0.0; it must be above 0 nats a token"),
        ({"learner": LEARNER}, "'student' has start=None and keep=None; name a model or an earlier learner"),
        ({"learner": replace(LEARNER, start="begun", keep=(0,))}, r"start='begun' and keep=\(0,\)"),
        (
            {"learner": replace(LEARNER, start="begun", features=Hidden())},
            "no teacher whose layers 'student' could be compared with; leave out its features and routing",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(STAGE, **changes)


def test_a_stage_that_fits_is_let_in():
    STAGE.check(EARLIER, Mesh())
    check_journal(STAGE, (DREW,))


@pytest.mark.parametrize(
    ("changes", "earlier", "mesh", "message"),
    [
        (
            {}, {"begun": replace(LEARNER, model=replace(MODEL, layers=2))}, Mesh(),
            "'student' is of another architecture than 'begun', its start and reference; give it the model of 'begun'",
        ),
        ({}, EARLIER, Mesh(data=3), "8 rows a batch do not divide over"),
        ({}, EARLIER, Mesh(tensor=5), "key/value heads, which .* over tensor=5"),
        ({"length": 10**6}, EARLIER, Mesh(), "rows of 1000000 tokens are longer than the"),
    ],
)  # fmt: skip
def test_what_does_not_fit_its_start_or_the_devices_is_refused(changes, earlier, mesh, message):
    with pytest.raises(ValueError, match=message):
        replace(STAGE, **changes).check(earlier, mesh)


def test_a_journal_that_nobody_writes_before_is_refused():
    lesson = Stage(name="lesson", learners=(LEARNER,), steps=1)
    with pytest.raises(
        ValueError, match=r"journal 'rl' is not an earlier stage of reinforcement .*; there are \['x'\]"
    ):
        check_journal(STAGE, (lesson, replace(DREW, name="x")))


def test_its_tiny_form_is_small_and_has_the_model_of_its_name():
    small = replace(MODEL, layers=2)
    tiny = replace(STAGE, steps=500, rows=64, accumulate=2).tiny({"student": small})
    assert (tiny.steps, tiny.rows, tiny.accumulate, tiny.learner.model) == (4, 4, 1, small)
