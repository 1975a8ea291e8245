"""What a journal tells of a stage that is over, by hand: what can have happened, and what a replay refuses."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from distill.rl.history import History, read_history
from distill.rl.journal import Journal, folder_of
from distill.rl.order import Group, Limits, Line, Standing
from distill.rl.record import Event, Record
from distill.rl.replay import Replay, find_replay
from distill.rl.rollouts import Rollouts
from tests.distill.rl.begun import STAGE

LIMITS = Limits(batch=2, max_policy_lag=1, pipeline_depth=1)
FOLDER = Path("runs/one/journal/rl")
TERMS = {"questions": "abc", "seed": 3, "limits": asdict(LIMITS)}


def drawn(uid: int, version: int, rewards: tuple[float, ...] = (1.0, 0.0)) -> Rollouts:
    """A group of two answers."""
    return Rollouts(
        uid=uid,
        item=f"a/0/{uid}",
        version=version,
        prompt=np.array([1], np.int32),
        tokens=np.full((2, 3), uid, np.int32),
        logps=np.zeros((2, 3), np.float32),
        lengths=np.array([3, 3], np.int32),
        stopped=np.ones(2, bool),
        rewards=np.array(rewards, np.float32),
        outcomes=np.array(rewards) >= 1.0,
    )


def admitted(uid: int, version: int) -> Record:
    """It is asked."""
    return Record(Event.ADMITTED, (uid,), version, {"item": f"a/0/{uid}"})


def consumed(batch: tuple[int, ...], version: int, passed: tuple[int, ...] = ()) -> Record:
    """A batch, and who was passed over."""
    return Record(Event.CONSUMED, batch, version, {"passed": list(passed)})


STORY = [
    *(admitted(uid, 0) for uid in range(4)),
    *(drawn(uid, 0).record() for uid in (2, 1, 0)),
    Record(Event.FILTERED, (1,), 0),
    consumed((0, 2), 0, passed=(1,)),
    admitted(4, 1),
    Record(Event.POISONED, (3,), 0, {"reason": "it broke"}),
    drawn(4, 1).record(),
    consumed((4,), 1, passed=(3,)),
]


def told(records: list[Record]) -> History:
    """The history of them."""
    history = History(FOLDER, LIMITS)
    for record in records:
        history.add(record)
    return history


def write(folder, records=STORY, terms=TERMS):
    """A journal of them."""
    with Journal(folder) as journal:
        journal.append(Record(Event.BEGUN, (), 0, terms))
        for record in records:
            journal.append(record)
    return folder


def test_a_history_is_who_was_drawn_by_which_version_and_used_up_at_which(tmp_path):
    history = read_history(write(tmp_path / "journal"), TERMS, LIMITS, steps=2)
    assert history.versions == [0, 0, 0, 0, 1] and history.items[4] == "a/0/4"
    assert (history.batches, history.passed) == ([[0, 2], [4]], [[1], [3]])
    assert (history.filtered, history.poisoned) == ({1}, {3})


@pytest.mark.parametrize(
    ("place", "record"),
    [
        (1, admitted(2, 0)),  # one is missing
        (9, admitted(4, 0)),  # of a version that is over
        (4, drawn(1, 1).record()),  # drawn by another version
        (7, drawn(0, 0).record()),  # drawn twice
        (8, consumed((0, 1), 0)),  # of one that was dropped
        (8, consumed((0, 3), 0, passed=(1,))),  # of one that is not there
        (8, consumed((0, 2), 0, passed=(3,))),  # passed over without being dropped
        (8, consumed((0, 2), 1, passed=(1,))),  # at another version
        (8, consumed((0, 0), 0)),
        (12, consumed((0,), 1)),  # learned from twice
        (8, Record(Event.CONSUMED, (0, 2), 0)),
        (10, Record(Event.POISONED, (2,), 0)),  # given up after it was consumed
        (7, Record(Event.BEGUN, (), 0)),
    ],
)
def test_a_journal_that_was_changed_is_refused_where_it_cannot_have_happened(place, record):
    with pytest.raises(ValueError, match=rf"does not hold together: after . batches .* comes {record.event.value}"):
        told([*STORY[:place], record])


def test_a_group_that_was_too_old_is_refused():
    late = [admitted(0, 0), admitted(1, 0), drawn(0, 0).record(), consumed((), 0), consumed((), 1), consumed((0,), 2)]
    with pytest.raises(ValueError, match=r"after 2 batches and 2 groups comes consumed \(0,\) at version 2"):
        told(late)


def test_journals_of_others_of_a_part_or_of_nothing_are_refused(tmp_path):
    folder = write(tmp_path / "journal")
    with pytest.raises(ValueError, match=r"is of seed 3, and the stage that is to follow it has 4; give it what that"):
        read_history(folder, TERMS | {"seed": 4}, LIMITS, steps=2)
    with pytest.raises(ValueError, match=r"ends after batch 2 of 3; let that run end"):
        read_history(folder, TERMS, LIMITS, steps=3)
    with pytest.raises(ValueError, match="there is no journal at .*nowhere; run the stage"):
        read_history(tmp_path / "nowhere", TERMS, LIMITS, steps=2)
    assert not (tmp_path / "nowhere").exists()
    with Journal(tmp_path / "part") as journal:
        journal.append(admitted(0, 0))
    with pytest.raises(ValueError, match="has no journal from its beginning; name a run"):
        read_history(tmp_path / "part", TERMS, LIMITS, steps=2)


def test_a_group_that_expired_is_used_up():
    gone = [*(admitted(uid, 0) for uid in range(2)), drawn(0, 0).record(), Record(Event.EXPIRED, (0,), 0)]
    assert told(gone).expired == {0: [0]}
    for again in (consumed((0,), 0), Record(Event.EXPIRED, (0,), 0)):
        with pytest.raises(ValueError, match=f"after 0 batches and 2 groups comes {again.event.value}"):
            told([*gone, again])
    line = Line(LIMITS, groups={uid: Group(uid, uid, 0) for uid in range(2)})
    assert [group.uid for group in Replay(told(gone)).late(line)] == [0]


def test_a_byte_that_was_changed_is_damage(tmp_path):
    (path,) = write(tmp_path / "journal").glob("*.journal")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged at offset"):
        read_history(path.parent, TERMS, LIMITS, steps=2)


def test_a_stage_does_not_follow_itself(tmp_path):
    stage = replace(STAGE, replay=str(tmp_path))
    with pytest.raises(ValueError, match="stage 'rl' cannot follow its own journal"):
        find_replay(stage, folder_of(tmp_path, "rl"), TERMS)
    assert find_replay(STAGE, folder_of(tmp_path, "rl"), TERMS) is None


def test_a_replay_admits_what_was_admitted_and_waits_for_what_was_consumed():
    order, line = Replay(told(STORY)), Line(LIMITS)
    assert order.places(line, 0) == [0, 0, 0, 0]
    line.admitted = 4
    assert order.places(line, 0) == [] and order.places(line, 1) == [1]
    line.groups = {uid: Group(uid, uid, 0, Standing.READY) for uid in range(4)}
    line.groups[1] = Group(1, 1, 0, Standing.OUT)
    assert order.batch(line) is None
    line.groups[1] = Group(1, 1, 0, Standing.DROPPED)
    assert [group.uid for group in order.batch(line) or []] == [0, 2, 1]
    assert not order.gives_up(0) and order.gives_up(3)


def test_a_replay_stops_where_a_group_is_asked_drawn_or_judged_otherwise():
    order, line = Replay(told(STORY)), Line(LIMITS)
    line.groups = {uid: Group(uid, uid, 0, Standing.READY) for uid in range(4)}
    with pytest.raises(ValueError, match="group 1 .* was dropped, and is ready; replay it with the weights"):
        order.batch(line)
    with pytest.raises(ValueError, match="group 2 .* was asked a/0/2, and is asked b/0/2"):
        order.check_asked(2, "b/0/2")
    with pytest.raises(ValueError, match="group 2 .* had other answers"):
        order.judged(replace(drawn(2, 0), tokens=np.full((2, 3), 9, np.int32)))
    with pytest.raises(ValueError, match=r"group 2 .* was given \[1.0, 0.0\], and is given \[0.0, 0.0\]"):
        order.judged(drawn(2, 0, (0.0, 0.0)))


def test_a_reward_that_failed_has_failed_again():
    failed = drawn(0, 0, (np.nan, 0.0))
    order = Replay(told([admitted(0, 0), failed.record()]))
    np.testing.assert_array_equal(order.judged(drawn(0, 0)).rewards, [np.nan, 0.0])
    assert order.judged(drawn(5, 0)).rewards[0] == 1.0  # it was never heard of
