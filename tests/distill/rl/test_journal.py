"""The journal: what is written is read, what is half-written is cut off, what is damaged is named."""

import json
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from distill.rl.journal import Audit, Journal, audit
from distill.rl.record import FRAME, MAGIC, Damaged, Event, Record, decode, encode

ROOT = Path(__file__).resolve().parents[3]
RECORDS = [
    Record(Event.ADMITTED, (7,), 0, {"seed": 3}),
    Record(Event.COMPLETED, (7,), 0, {"reason": "stop"}, {"tokens": np.arange(6, dtype=np.int32).reshape(2, 3)}),
    Record(Event.CONSUMED, (7, 8), 1),
    Record(Event.POISONED, (9,), 1, {"why": "ä\n"}, {"experts": np.zeros((0, 2), np.int8)}),
]


def write(folder, records, **other):
    with Journal(folder, **other) as journal:
        return [journal.append(record) for record in records]


def contents(folder, offset=0):
    with Journal(folder) as journal:
        return [record for _, record in journal.read(offset)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.event, one.uids, one.version, one.facts) == (other.event, other.uids, other.version, other.facts)
        assert list(one.arrays) == list(other.arrays)
        for name, array in other.arrays.items():
            assert one.arrays[name].dtype == array.dtype and one.arrays[name].shape == array.shape
            assert one.arrays[name].tobytes() == array.tobytes()


def framed(body):
    start = struct.pack("<4sII", MAGIC, len(body), zlib.crc32(body))
    return start + struct.pack("<I", zlib.crc32(start)) + body


def body(header, rest=b""):
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + rest


def only(folder):
    return folder / f"{0:020d}.journal"


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    arrays = {
        "logp": np.array([[-0.5, np.nan], [-np.inf, -0.0]], np.float32),
        "half": np.float16([1.5]),
        "step": np.array(3, np.int64),
        "kept": np.array([True, False]),
        "strided": np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::2],
    }
    records = [*RECORDS, Record(Event.COMPLETED, (1,), 2, {}, arrays)]
    write(tmp_path, records)
    assert_same(contents(tmp_path), records)


def test_a_big_endian_array_has_the_same_numbers_when_it_is_read(tmp_path):
    write(tmp_path, [Record(Event.COMPLETED, (1,), 0, {}, {"tokens": np.array([1, 258], ">i4")})])
    (record,) = contents(tmp_path)
    assert record.arrays["tokens"].tolist() == [1, 258] and record.arrays["tokens"].dtype == np.dtype("<i4")


def test_the_format_is_as_it_is_described(tmp_path):
    write(tmp_path, [Record(Event.ADMITTED, (7,), 2, {}, {"a": np.array([1, 2], np.uint8)})])
    header = {"event": "admitted", "uids": [7], "version": 2, "facts": {}, "arrays": [["a", "|u1", [2]]]}
    assert only(tmp_path).read_bytes() == framed(body(header, b"\x01\x02"))


def test_cut_at_every_byte_a_journal_has_the_whole_records_before_the_cut_and_goes_on(tmp_path):
    ends = [0, *write(tmp_path / "whole", RECORDS)]
    data = only(tmp_path / "whole").read_bytes()
    assert len(data) == ends[-1]
    (tmp_path / "cut").mkdir()
    for length in range(len(data) + 1):
        only(tmp_path / "cut").write_bytes(data[:length])
        whole = sum(end <= length for end in ends) - 1
        with Journal(tmp_path / "cut") as journal:
            assert journal.end == ends[whole]
            assert_same([record for _, record in journal.read()], RECORDS[:whole])
            journal.append(RECORDS[0])
            assert_same([record for _, record in journal.read()], [*RECORDS[:whole], RECORDS[0]])


def test_any_byte_changed_is_refused_at_its_record_or_cut_off_with_the_last_and_never_read(tmp_path):
    ends = write(tmp_path / "whole", RECORDS[:3])
    starts, data = [0, *ends[:-1]], only(tmp_path / "whole").read_bytes()
    (tmp_path / "changed").mkdir()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        only(tmp_path / "changed").write_bytes(changed)
        start = max(start for start in starts if start <= at)
        if at < starts[-1] + FRAME.size:
            with pytest.raises(Damaged, match=rf"is damaged at offset {start}: .*Journal\(folder, cut={start}\)"):
                Journal(tmp_path / "changed")
        else:
            assert_same(contents(tmp_path / "changed"), RECORDS[:2])
            assert only(tmp_path / "changed").read_bytes() == data[: starts[-1]]


def test_zeros_at_the_end_were_never_written(tmp_path):
    ends = write(tmp_path, RECORDS)
    with open(only(tmp_path), "ab") as file:
        file.write(bytes(100_000))
    with Journal(tmp_path) as journal:
        assert journal.end == ends[-1]


def test_damage_is_passed_by_cutting_there(tmp_path):
    ends = write(tmp_path, RECORDS)
    data = bytearray(only(tmp_path).read_bytes())
    data[ends[1] - 1] ^= 1
    only(tmp_path).write_bytes(data)
    with Journal(tmp_path, cut=ends[0]) as journal:
        assert_same([record for _, record in journal.read()], RECORDS[:1])


def test_an_old_file_that_is_damaged_is_refused_when_it_is_read(tmp_path):
    ends = write(tmp_path, RECORDS, segment=1)
    data = bytearray(only(tmp_path).read_bytes())
    data[-1] ^= 1
    only(tmp_path).write_bytes(data)
    with Journal(tmp_path) as journal:
        with pytest.raises(Damaged, match="is damaged at offset 0: it is not what was written"):
            list(journal.read())
        assert_same([record for _, record in journal.read(ends[0])], RECORDS[1:])


def test_it_goes_on_in_a_new_file_and_offsets_stay_what_they_are(tmp_path):
    many = RECORDS * 20
    ends = write(tmp_path / "many", many, segment=500)
    assert ends == write(tmp_path / "one", many)
    files = sorted((tmp_path / "many").glob("*.journal"))
    assert len(files) > 10 and all(path.stat().st_size <= 500 for path in files)
    for skip in range(len(many)):
        assert_same(contents(tmp_path / "many", ends[skip]), many[skip + 1 :])


@pytest.mark.parametrize("segment", [1, 300, 1 << 20])
def test_truncated_at_any_record_it_is_the_journal_of_then(tmp_path, segment):
    ends = [0, *write(tmp_path, RECORDS * 2, segment=segment)]
    for kept in reversed(range(len(ends))):
        with Journal(tmp_path, segment=segment) as journal:
            journal.truncate(ends[kept])
            assert journal.end == ends[kept]
        assert_same(contents(tmp_path), (RECORDS * 2)[:kept])
    assert write(tmp_path, RECORDS, segment=segment) == ends[1:5]


def test_a_missing_file_is_named_by_its_offset(tmp_path):
    ends = write(tmp_path, RECORDS, segment=1)
    (tmp_path / f"{ends[0]:020d}.journal").unlink()
    with pytest.raises(Damaged, match=f"is damaged at offset {ends[0]}: a file ends at {ends[0]} and the next begins"):
        Journal(tmp_path)


def test_offsets_that_are_none_are_refused(tmp_path):
    ends = write(tmp_path, RECORDS)
    with Journal(tmp_path) as journal:
        with pytest.raises(ValueError, match=f"no record of .* ends at offset {ends[0] + 1}; take one that append"):
            journal.truncate(ends[0] + 1)
        with pytest.raises(ValueError, match=f"has no offset {ends[-1] + 1}; take the checkpoint that belongs"):
            journal.truncate(ends[-1] + 1)
        with pytest.raises(ValueError, match=f"offset {ends[-1] + 1} does not lie in .*, which ends at {ends[-1]}"):
            list(journal.read(ends[-1] + 1))
        with pytest.raises(Damaged, match=f"is damaged at offset {ends[0] + 1}: no record begins here"):
            list(journal.read(ends[0] + 1))
        journal.append(RECORDS[0])
    with pytest.raises(ValueError, match="is closed; open it again"):
        journal.append(RECORDS[0])


def test_two_writers_are_refused_and_a_dead_one_holds_nothing(tmp_path):
    code = f"""
import pathlib, time
from distill.rl.journal import Journal
journal = Journal(pathlib.Path({str(tmp_path)!r}))
print("open", flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout and process.stdout.readline() == b"open\n"
        with pytest.raises(ValueError, match=f"in use by process {process.pid} on .*; wait until it is done, st"):
            Journal(tmp_path)
        process.send_signal(signal.SIGKILL)
    Journal(tmp_path).close()


def test_that_a_batch_is_consumed_is_on_the_disk_before_the_learner_goes_on(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    with Journal(tmp_path) as journal:
        monkeypatch.setattr(os, "fsync", lambda file: (synced.append(journal.end), fsync(file)))
        for record in RECORDS:
            journal.append(record)
            assert bool(synced) == (record.event is Event.CONSUMED) or record is RECORDS[-1]
        end = journal.sync()
    assert synced[1] == end


def test_a_file_is_on_the_disk_before_the_next_is_begun(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    with Journal(tmp_path, segment=1) as journal:
        first = only(tmp_path).stat().st_ino
        monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
        end = journal.append(RECORDS[0])
        assert not synced
        journal.append(RECORDS[1])
    assert synced[:2] == [first, (tmp_path / f"{end:020d}.journal").stat().st_ino]


def test_one_that_is_closed_already_closes_no_file_of_others(tmp_path):
    journal = Journal(tmp_path)
    journal.close()
    with open(tmp_path / "other", "w") as other:  # it may have the number that the journal's had
        journal.close()
        other.write("still open")


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path):
    import resource

    with Journal(tmp_path) as journal:
        end = journal.append(RECORDS[0])
        before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (end + 10, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                journal.append(RECORDS[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        journal.append(RECORDS[2])
        assert_same([record for _, record in journal.read()], [RECORDS[0], RECORDS[2]])


@pytest.mark.parametrize(("record", "message"), [
    (Record(Event.ADMITTED, (1,), 0, {"reward": float("nan")}), "a fact is not JSON .*; pass arrays in arrays"),
    (Record(Event.ADMITTED, (1,), 0, {"x": np.zeros(1)}), "a fact is not JSON .*; pass arrays in arrays"),
    (Record(Event.ADMITTED, (1,), 0, {}, {"x": np.array(["a"])}), "array 'x' is of <U1; a journal holds booleans"),
    (Record(Event.ADMITTED, (1,), 0, {}, {"x": np.array([None])}), "array 'x' is of object; a journal holds booleans"),
    (Record(Event.ADMITTED, (1,), 0, {}, {"x": np.broadcast_to(np.int8(0), ((1 << 30) + 1,))}), "at most 1073741824;"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused(record, message):
    with pytest.raises(ValueError, match=message):
        encode(record)


HEADER = {"event": "admitted", "uids": [1], "version": 0, "facts": {}, "arrays": []}


@pytest.mark.parametrize(("data", "message"), [
    (body({**HEADER, "arrays": [["x", "<f4", [1 << 62, 1 << 62]]]}), "an array of <f4 .* in"),
    (body({**HEADER, "arrays": [["x", "<f4", [-1]]]}, b"1234"), r"an array of <f4 \[-1\]"),
    (body({**HEADER, "arrays": [["x", "|O", [1]]]}, b"12345678"), r"an array of \|O"),
    (body({**HEADER, "arrays": [["x", "|u1", [1] * 100]]}, b"1"), "does not say what it is"),
    (body({**HEADER, "arrays": [["x", "|u1", [0, 1 << 63]]]}), "does not say what it is"),
    (body(HEADER, b"more"), "4 bytes belong to no array"),
    (body({**HEADER, "event": "imagined"}), "'imagined' is not a valid Event"),
    (body([]), "does not say what it is"),
    (struct.pack("<I", 200_000) + b"[" * 200_000, "does not say what it is"),
    (struct.pack("<I", 1 << 31) + b"{}", "does not say what it is"),
    (b"", "does not say what it is"),
])  # fmt: skip
def test_a_hostile_record_is_refused_and_costs_no_memory(tmp_path, data, message):
    only(tmp_path).write_bytes(framed(data))
    tracemalloc.start()
    with pytest.raises(Damaged, match=f"is damaged at offset 0: .*{message}"):
        Journal(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_noise_is_refused(tmp_path):
    random = np.random.default_rng(0)
    for size in (16, 17, 1000):
        only(tmp_path).write_bytes(random.bytes(size))
        with pytest.raises(Damaged, match="is damaged at offset 0: no record begins here"):
            Journal(tmp_path)


def test_a_file_of_another_name_is_refused(tmp_path):
    (tmp_path / "notes.journal").touch()
    with pytest.raises(ValueError, match=r"notes.journal is not named by an offset, .*; move it away"):
        Journal(tmp_path)


def test_arrays_that_are_read_cannot_be_written():
    record = decode(encode(RECORDS[1])[FRAME.size :])
    with pytest.raises(ValueError, match="read-only"):
        record.arrays["tokens"][0] = 1


def test_an_audit_finds_who_is_lost_and_who_ended_twice():
    events = [
        *((Event.ADMITTED, (uid,)) for uid in range(8)),
        (Event.COMPLETED, (0,)), (Event.COMPLETED, (1,)), (Event.COMPLETED, (2,)), (Event.CONSUMED, (0, 1)),
        (Event.FILTERED, (3,)), (Event.EXPIRED, (4,)), (Event.POISONED, (5,)), (Event.CONSUMED, (1,)),
        (Event.ADMITTED, (0,)),
    ]  # fmt: skip
    found = audit((Record(event, uids, 0) for event, uids in events), live=[7])
    counts = {"admitted": 2, "completed": 1, "consumed": 2, "filtered": 1, "expired": 1, "poisoned": 1}
    assert found == Audit(counts, lost=(2, 6), doubled=(1,))
