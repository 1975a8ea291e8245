import json
import os
from dataclasses import replace

import pytest

from distill.tasks import lines
from distill.tasks.item import Item, Pool
from distill.tasks.lines import File, load, save

HEADER = {"schema": 1}
FIELDS = {"id": "a", "capability": "strings", "task": "reverse", "level": 0, "prompt": "Rab=", "answer": "ba"}


def pool(count=3):
    items = (
        Item(**(FIELDS | {"id": f"é{i}".encode("ascii", "replace").decode(), "prompt": f"é{i}\n"}))
        for i in range(count)
    )
    return Pool(tuple(items), "ours", "7", "MIT")


def write(path, *values):
    path.write_bytes(b"".join(v if isinstance(v, bytes) else json.dumps(v).encode() + b"\n" for v in values))
    return path


def test_a_pool_comes_back_as_it_was(tmp_path):
    whole = replace(pool(), items=(*pool(), Item(**FIELDS, system="upper", prefix="^", metadata={"n": [1, 2.5, None]})))
    save(whole, tmp_path / "a.jsonl")
    found = load(tmp_path / "a.jsonl")
    assert found == whole and found.fingerprint == whole.fingerprint
    assert File(str(tmp_path / "a.jsonl"))() == whole


def test_the_header_says_what_made_it(tmp_path):
    save(pool(), tmp_path / "a.jsonl")
    header = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    about = {"generator": "ours", "version": "7", "licence": "MIT"}
    assert header == {"schema": 1, **about, "items": 3, "sha256": pool().fingerprint}


def test_a_header_needs_its_schema_alone(tmp_path):
    found = load(write(tmp_path / "a.jsonl", HEADER, FIELDS))
    assert [one.prompt for one in found] == ["Rab="] and found.generator == ""


def test_a_pool_that_cannot_be_written_leaves_the_old_one(tmp_path):
    save(pool(), tmp_path / "a.jsonl")
    bad = Pool((Item(**FIELDS, metadata={"x": object()}),))
    with pytest.raises(ValueError, match=r"item a cannot be written as JSON: .*; keep its metadata to JSON's types"):
        save(bad, tmp_path / "a.jsonl")
    assert load(tmp_path / "a.jsonl") == pool() and os.listdir(tmp_path) == ["a.jsonl"]


def test_a_file_is_never_half_of_two(tmp_path):
    save(pool(3), tmp_path / "a.jsonl")
    with open(tmp_path / "a.jsonl", "rb") as old:
        before = (tmp_path / "a.jsonl").read_bytes()
        save(pool(5), tmp_path / "a.jsonl")
        assert old.read() == before  # the name went to another file; the old one was not written into
    assert load(tmp_path / "a.jsonl") == pool(5)


def test_what_would_not_be_read_is_not_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"item a takes \d+ bytes, a line has at most 1048576; shorten"):
        save(Pool((Item(**FIELDS, metadata={"x": "y" * lines.LINE}),)), tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"cannot be written as JSON: .*; keep its metadata"):
        save(Pool((Item(**FIELDS, metadata={"x": float("nan")}),)), tmp_path / "a.jsonl")
    monkeypatch.setattr(lines, "ITEMS", 2)
    with pytest.raises(ValueError, match=r"the pool has 3 items, a file holds at most 2; write several"):
        save(pool(), tmp_path / "a.jsonl")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"line 1 of .*a\.jsonl, the header, has no field 'schema'"),
        ([FIELDS], r"line 1 of .*, the header, has no field 'schema'; it must have schema"),
        ([{"schema": 2}], r"has schema 2, this version reads 1; write it anew"),
        ([{"schema": True}], r"the header,: field 'schema' is a bool; it must be a int"),
        ([{"schema": 1, "items": 2}, FIELDS], r"the header says items 2, found 1; the file was changed"),
        ([{"schema": 1, "sha256": "0"}, FIELDS], r"the header says sha256 0, found [0-9a-f]{64}; the file was changed"),
        ([HEADER, b"{\n"], r"line 2 of .*a\.jsonl is not JSON: "),
        ([HEADER, FIELDS, b"\xff\n"], r"line 3 of .* is not JSON: 'utf-8' codec"),
        ([HEADER, b"\n"], r"line 2 of .* is not JSON: "),
        ([HEADER, b'{"level": NaN}\n'], r"line 2 of .* is not JSON: NaN is no number of JSON"),
        ([HEADER, b"[" * 100_000 + b"\n"], r"line 2 of .* is not JSON: maximum recursion"),
        ([HEADER, b'{"level": ' + b"9" * 5000 + b"}\n"], r"line 2 of .* is not JSON: Exceeds the limit"),
        ([HEADER, [1]], r"line 2 of .* is a list; it must be an object"),
        ([HEADER, FIELDS | {"answer": None}], r"line 2 of .*: field 'answer' is a NoneType; it must be a str"),
        ([HEADER, FIELDS | {"level": 1.0}], r"field 'level' is a float; it must be a int"),
        ([HEADER, FIELDS | {"level": True}], r"field 'level' is a bool; it must be a int"),
        ([HEADER, FIELDS | {"metadata": []}], r"field 'metadata' is a list; it must be a dict"),
        ([HEADER, {k: v for k, v in FIELDS.items() if k != "task"}], r"line 2 of .* has no field 'task'; it must have"),
        ([HEADER, FIELDS | {"extra": 1}], r"line 2 of .* has an unknown field 'extra'; known are id, capability"),
        ([HEADER, FIELDS | {"level": -3}], r"line 2 of .*: item a: level is -3"),
        ([HEADER, FIELDS | {"prompt": "\ud800"}], r"line 2 of .*: item a: prompt holds a lone surrogate"),
        ([HEADER, FIELDS, FIELDS | {"id": "b"}], r"a\.jsonl: items 'a' and 'b' ask the same, 'Rab='; leave one out"),
        ([HEADER, b" " * (lines.LINE + 1)], r"line 2 of .* is longer than 1048576 bytes; shorten it"),
    ],
)
def test_a_line_that_cannot_be_one_is_named(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "a.jsonl", *values))


def test_a_file_of_too_many_items_is_refused_before_it_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "ITEMS", 2)
    many = [FIELDS | {"id": str(i), "prompt": str(i)} for i in range(3)]
    assert len(load(write(tmp_path / "a.jsonl", HEADER, *many[:2]))) == 2
    with pytest.raises(ValueError, match=r"has more than 2 items; cut it into several"):
        load(write(tmp_path / "a.jsonl", HEADER, *many))


def test_a_file_must_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"gone is not a file; name one of JSON lines"):
        load(tmp_path / "gone")
