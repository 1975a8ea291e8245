"""The past of a stage: read beside who writes it, half-written ends and all, and refused where it cannot have been."""

from dataclasses import replace

import numpy as np
import pytest

from distill.checkpoint import Checkpoints
from distill.curriculum.table import Table
from distill.curriculum.tracker import Tracker
from distill.rl.journal import Audit, Journal, folder_of, read_records
from distill.rl.past import fates
from distill.rl.record import Damaged, Event, Record
from distill.run import Run
from tests.distill.rl.test_history import STORY, admitted, consumed, drawn, write


def told(folder):
    """What became of each group: its number, its end and the version of the learner then."""
    return [(one.group.uid, one.event.value, one.at) for one in fates(folder)]


def only(folder):
    (path,) = folder.glob("*.journal")
    return path


def test_groups_come_with_their_ends_and_those_without_one_last(tmp_path):
    late = [admitted(uid, 2) for uid in (5, 6)] + [drawn(6, 2).record(), drawn(5, 2).record()]
    folder = write(tmp_path, [*STORY, *late, Record(Event.EXPIRED, (5,), 4)])
    assert told(folder) == [
        (1, "filtered", None),
        (0, "consumed", 0),
        (2, "consumed", 0),
        (4, "consumed", 1),
        (5, "expired", 4),
        (6, "completed", None),
    ]
    one = next(fates(folder)).group
    assert (one.item, one.version, one.rewards.tolist(), one.outcomes.tolist()) == ("a/0/1", 0, [1, 0], [True, False])
    assert one.lengths.tolist() == [3, 3] and one.completion(1).tolist() == [1, 1, 1]


def test_a_journal_that_is_being_written_is_read_as_far_as_it_is_and_nothing_in_it_changes(tmp_path):
    with Journal(tmp_path) as journal:
        for record in STORY[:9]:
            journal.append(record)
        reader = fates(tmp_path)
        first = next(reader)
        for record in STORY[9:]:  # what comes after it began to read is not of its time
            journal.append(record)
        assert [first.group.uid, *(one.group.uid for one in reader)] == [1, 0, 2]
        assert len(told(tmp_path)) == 4


def test_what_is_half_written_at_the_end_is_left_out_and_stays_there(tmp_path):
    path = only(write(tmp_path, STORY[:9]))
    whole, records = path.read_bytes(), len(list(read_records(tmp_path)))
    for torn in (whole[:-1], whole + b"HRJ1", whole + bytes(1000)):
        path.write_bytes(torn)
        assert len(list(read_records(tmp_path))) == records - (torn == whole[:-1])
        assert path.read_bytes() == torn
    assert {one.name for one in tmp_path.iterdir()} == {path.name, ".lock"}


@pytest.mark.parametrize("segment", [1, 1 << 20])
def test_a_byte_that_was_changed_is_refused_with_its_offset(tmp_path, segment):
    with Journal(tmp_path, segment=segment) as journal:
        ends = [journal.append(record) for record in STORY]
    path = sorted(tmp_path.glob("*.journal"))[0 if segment > 1 else 2]
    data = bytearray(path.read_bytes())
    data[(ends[2] if segment > 1 else ends[2] - ends[1]) - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=f"is damaged at offset {ends[1]}: it is not what was written"):
        list(fates(tmp_path))


def test_a_run_that_goes_back_to_a_checkpoint_meanwhile_is_to_be_read_again(tmp_path):
    with Journal(tmp_path, segment=1) as journal:
        ends = [journal.append(record) for record in STORY]
        reader = read_records(tmp_path)
        next(reader)
        journal.truncate(ends[2])
        with pytest.raises(ValueError, match="went back to a checkpoint while it was read, .*; read it once more"):
            list(reader)


def test_a_group_that_ends_and_was_not_drawn_or_ends_twice_is_refused(tmp_path):
    lost, twice = [admitted(0, 0), consumed((0,), 0)], [drawn(0, 0).record(), consumed((0,), 0), consumed((0,), 1)]
    for name, records, version in (("lost", lost, 0), ("twice", twice, 1)):
        with pytest.raises(ValueError, match=f"does not hold together: group 0 was consumed at version {version}"):
            list(fates(write(tmp_path / name, records)))


def test_where_there_is_no_journal_none_is_made(tmp_path):
    with pytest.raises(ValueError, match="there is no journal at .*rl; run the stage of reinforcement learning first"):
        list(Run(tmp_path).rollouts("rl"))
    assert not list(tmp_path.iterdir())


IDS = ("a/0/0", "a/0/1", "b/0/0")
KNOWN = Table(ids=IDS[::-1], attempts=np.full(3, 4), successes=np.array([4, 0, 1]), model="m", pool="p",
              seeds=(0,), temperature=1.0)  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    """A run of a journal and two checkpoints, of what was known of three prompts, and what was measured before."""
    first = replace(Tracker.begin(IDS, KNOWN), kinds=np.array([0, 0, 1]))
    second = first.observe(np.array([1]), np.array([2]), np.array([8]), 3)
    controller = {"groups": [[3, 3, 1, "out"]]}
    with Journal(folder_of(tmp_path, "rl")) as journal, Checkpoints(tmp_path / "checkpoints" / "rl") as checkpoints:
        journal.append(Record(Event.BEGUN, (), 0, {"ids": list(IDS), "kinds": [0, 0, 1]}))
        for step, known in ((1, first), (2, second)):
            journal.append(admitted(step + 1, 0))
            books = {"tracker": known.state(), "journal": journal.end, "controller": controller}
            checkpoints.save(step, {}, meta={"books": books})
        journal.append(admitted(4, 1))
    (tmp_path / "difficulty").mkdir()
    KNOWN.save(tmp_path / "difficulty" / "rl.json")
    return Run(tmp_path), first, second


def test_what_was_known_of_each_prompt_is_read_at_any_checkpoint(saved):
    run, first, second = saved
    for step, wanted in ((None, second), (2, second), (1, first)):
        found = run.tracker("rl", step)
        assert found.ids == IDS and found.prior == KNOWN.prior and found.state() == wanted.state()
    np.testing.assert_array_equal(run.tracker("rl").belief().mean(), second.belief().mean())
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint of step 9 in .* \(found steps \[1, 2\]\)"):
        run.tracker("rl", 9)


def test_the_books_are_audited_as_far_as_the_last_checkpoint_knows_them(saved):
    run, _, _ = saved
    ends = dict.fromkeys(("completed", "consumed", "filtered", "expired", "poisoned"), 0)
    assert run.audit("rl") == Audit({"admitted": 2, **ends}, lost=(2,), doubled=())


def test_a_journal_that_is_shorter_than_its_checkpoint_knows_is_another_one(saved):
    run, _, _ = saved
    path = only(folder_of(run.path, "rl"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"ends at \d+, and its checkpoint knows it to \d+; bring back the journal"):
        run.audit("rl")


def test_stages_without_books_or_with_nameless_prompts_are_refused(saved):
    run, _, _ = saved
    with Checkpoints(run.checkpoints("sft")) as checkpoints:
        checkpoints.save(1, {}, meta={})
    with pytest.raises(ValueError, match=r"stage 'sft' of .* is not one of reinforcement learning: it keeps no books"):
        run.tracker("sft")
    with Journal(folder_of(run.path, "rl")) as journal:
        journal.truncate(0)
        journal.append(Record(Event.BEGUN, (), 0, {}))
    with pytest.raises(ValueError, match=r"the journal of stage 'rl' of .* does not name its prompts, as an older"):
        run.tracker("rl")
