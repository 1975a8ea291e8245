"""Tables of attempts: what they say, and which files are believed."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from distill.curriculum.estimate import Prior
from distill.curriculum.measured import Measured
from distill.curriculum.pool import Pool
from distill.curriculum.table import Table

POOL = Pool(ids=("a", "b", "c"), capabilities=("sum",) * 3, levels=np.array([0, 1, 2]))


def table(successes=(8, 4, 0), attempts=(8, 8, 8), **fields):
    plain = {"ids": POOL.ids, "model": "m1", "pool": POOL.fingerprint, "seeds": (3,), "temperature": 1.0}
    return Table(**{**plain, **fields}, attempts=np.array(attempts, int), successes=np.array(successes, int))


def same(one, two):
    columns = [(one.attempts, two.attempts), (one.successes, two.successes)]
    plain = [(t.ids, t.model, t.pool, t.seeds, t.temperature, t.prior) for t in (one, two)]
    return plain[0] == plain[1] and all(np.array_equal(x, y) for x, y in columns)


def tampered(path, **changes):
    """The file, whole by its own account, with other content."""
    record = json.loads(path.read_text())
    record["content"] |= changes
    record["checksum"] = hashlib.sha256(json.dumps(record["content"], sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def path(tmp_path):
    table().save(tmp_path / "difficulty.json")
    return tmp_path / "difficulty.json"


def test_a_table_is_a_measurement():
    assert isinstance(table(), Measured)


def test_difficulty_is_how_often_a_prompt_is_expected_to_fail():
    assert table().difficulty() == pytest.approx([1 / 10, 5 / 10, 9 / 10])
    assert table(prior=Prior(3.0, 1.0)).difficulty() == pytest.approx([1 / 12, 5 / 12, 9 / 12])


def test_evidence_is_what_was_counted():
    successes, failures = table().evidence()
    assert successes.tolist() == [8, 4, 0] and failures.tolist() == [0, 4, 8]


def test_pass_at_k_by_prompt():
    assert table().pass_at(2) == pytest.approx([1, 1 - 4 * 3 / (8 * 7), 0])


def test_solved_and_unsolved_take_enough_attempts():
    few = table((8, 4, 0, 2, 0), (8, 8, 8, 2, 0), ids=("a", "b", "c", "d", "e"))
    assert few.solved(8).tolist() == [True, False, False, False, False]
    assert few.unsolved(8).tolist() == [False, False, True, False, False]
    assert few.solved(2).tolist() == [True, False, False, True, False]


def test_rows_by_mask_and_by_name():
    assert same(table().where(np.array([True, False, True])), table((8, 0), (8, 8), ids=("a", "c")))
    assert same(table().over(("c", "a")), table((0, 8), (8, 8), ids=("c", "a")))
    with pytest.raises(ValueError, match="the table has no prompt 'z'; measure the pool that has it"):
        table().over(("a", "z"))


def test_it_is_read_as_it_was_written(path):
    assert same(Table.load(path), table())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=some.dictionaries(
        some.text(some.characters(exclude_categories=["C", "Z"]), min_size=1),
        some.integers(0, 2**53).flatmap(lambda n: some.tuples(some.just(n), some.integers(0, n))),
        min_size=1,
        max_size=8,
    ),
    temperature=some.floats(0, 2),
    prior=some.floats(1e-9, 1e9),
)
def test_any_table_is_read_as_it_was_written(tmp_path, rows, temperature, prior):
    n, c = zip(*rows.values(), strict=True)
    whole = table(c, n, ids=tuple(rows), temperature=temperature, prior=Prior(prior, 1.0))
    whole.save(tmp_path / "any.json")
    assert same(Table.load(tmp_path / "any.json"), whole)


def test_a_write_that_fails_leaves_the_old_table(path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        table((0, 0, 0)).save(path)
    assert same(Table.load(path), table())


def test_merging_adds_counts_by_prompt_and_keeps_both_seeds():
    other = table((1, 2, 3), (4, 4, 4), seeds=(4,)).over(("c", "b", "a"))
    assert same(table().merge(other), table((9, 6, 3), (12, 12, 12), seeds=(3, 4)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "m2"}, "two tables differ in model, m1 and m2"),
        ({"pool": "p2"}, "differ in pool"),
        ({"temperature": 0.5}, "differ in temperature, 1.0 and 0.5"),
        ({"prior": Prior(2.0, 1.0)}, "differ in prior"),
        ({"seeds": (9, 3)}, "both drawn with seed 3: the same attempts would count twice"),
    ],
)
def test_what_does_not_add_is_not_merged(change, says):
    with pytest.raises(ValueError, match=says):
        table().merge(table(**{"seeds": (4,), **change}))


def test_tables_of_other_prompts_are_not_merged():
    with pytest.raises(ValueError, match="differ in number of prompts, 3 and 2"):
        table().merge(table(seeds=(4,)).over(("a", "b")))
    with pytest.raises(ValueError, match="the table has no prompt 'c'"):
        table().merge(table(seeds=(4,), ids=("a", "b", "d")))


def test_a_table_of_another_pool_or_model_is_refused_by_name():
    table().over(("c", "b", "a")).check(POOL, "m1")
    with pytest.raises(ValueError, match="the table is of the model m1, this one is m2"):
        table().check(POOL, "m2")
    with pytest.raises(ValueError, match="the table lacks this pool's prompt 'c'"):
        table().over(("a", "b")).check(POOL, "m1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ids": ["a", "b", "b"]}, "the prompt 'b' is there 2 times"),
        ({"ids": ["a", "b"]}, "a table has 2 ids, 3 attempts and 3 successes"),
        ({"ids": ["a", "b", 3]}, "its content: ids must be words that can be printed; found 3"),
        ({"ids": "abc"}, "its content: ids must be a list; found 'abc'"),
        ({"attempts": [8, -8, 8], "successes": [8, -8, 0]}, "prompt 'b' has -8 successes in -8 attempts"),
        ({"successes": [9, 4, 0]}, "prompt 'a' has 9 successes in 8 attempts"),
        ({"successes": [8, 4.5, 0]}, "its content: successes must be numbers, whole ones within 2.53; found 4.5"),
        ({"successes": [True, 4, 0]}, "successes must be numbers, whole ones within 2.53; found True"),
        ({"attempts": [8, 8, 2**70]}, "attempts must be numbers, whole ones within 2.53"),
        ({"temperature": -1.0}, "a table's temperature is -1.0; it must be 0 or more"),
        ({"temperature": 10**400}, "temperature must be numbers, whole ones within 2.53"),
        ({"temperature": "hot"}, "temperature must be numbers"),
        ({"prior": [1.0]}, "its prior must be two numbers"),
        ({"prior": [1.0, 0.0]}, "both must be above 0"),
        ({"seeds": []}, "a table has no seeds; name those of its draws"),
        ({"model": None}, "model must be words that can be printed; found None"),
        ({"more": 1}, "its content must have the fields ids, attempts"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(path, change, says):
    with pytest.raises(ValueError, match=f"difficulty.json is no table of attempts to go by: .*{says}"):
        Table.load(tampered(path, **change))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"schema": 1', '"schema": 2', "its schema is 2, this version reads 1"),
        ('"kind": "table of attempts"', '"kind": "recipe"', "it holds a 'recipe'; name a file that holds a table"),
        ('"temperature": 1.0', '"temperature": 1.5', "its checksum does not match: it was changed"),
        ('"temperature": 1.0', '"temperature": NaN', "it holds NaN, which is no number"),
        ('"temperature": 1.0', '"temperature": 1e999', "its checksum does not match"),
        ('"schema"', '"scheme"', "it must be an object of schema, kind, checksum and content"),
        ('"prior"', "prior", "Expecting property name"),
    ],
)
def test_a_damaged_file_is_refused(path, old, new, says):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=f"difficulty.json is no table of attempts to go by: {says}"):
        Table.load(path)


def test_an_infinite_number_is_refused_though_the_checksum_fits(path):
    tampered(path, temperature=float("inf"))
    path.write_text(path.read_text().replace("Infinity", "1e999"))
    with pytest.raises(ValueError, match="temperature must be finite; found inf"):
        Table.load(path)


def test_a_file_that_was_cut_or_is_no_text_is_refused(path):
    whole = path.read_bytes()
    for bad in (whole[:-9], b"", b"\xff\xfe\x00", b"[" * 100_000, b"[1, 2]"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="difficulty.json is no table of attempts to go by"):
            Table.load(path)


def test_no_file_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ValueError, match="there is no table of attempts at .*; measure one"):
            Table.load(place)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=some.integers(0, 10**6), byte=some.integers(0, 255))
def test_any_changed_byte_is_refused_or_changes_nothing(tmp_path, place, byte):
    path = tmp_path / "bytes.json"
    table().save(path)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] = byte
    path.write_bytes(raw)
    try:
        found = Table.load(path)
    except ValueError:
        return
    assert same(found, table())


def test_a_temperature_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="a table's temperature is nan"):
        replace(table(), temperature=float("nan"))
