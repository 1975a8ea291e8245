import zlib
from dataclasses import replace

import numpy as np
import pytest

from distill.tasks.item import LONGEST, Item, Pool


def item(number=0, **changes):
    fields = {"id": f"reverse/1/0.{number:05}", "capability": "strings", "task": "reverse", "level": 1}
    return Item(**(fields | {"prompt": f"R{number}ab=", "answer": f"ba{number}"} | changes))


def pool(count=64):
    kinds = (("strings", "reverse"), ("ordering", "sort"))
    return Pool(
        tuple(
            item(i, id=f"{kinds[i % 2][1]}/{i}", capability=kinds[i % 2][0], task=kinds[i % 2][1], level=i % 3)
            for i in range(count)
        )
    )


def test_one_prompt_in_eight_is_held_out_by_its_hash():
    found = [item(i).split for i in range(4000)]
    assert found == ["held_out" if zlib.crc32(f"R{i}ab=".encode()) % 8 == 0 else "train" for i in range(4000)]
    assert 0.11 < found.count("held_out") / 4000 < 0.14


def test_a_prompt_has_one_split_whatever_stands_around_it():
    one = item(7)
    others = [replace(one, id="x", level=0), replace(one, prefix="[", system="bracketed", answer="[ba7]")]
    assert {other.split for other in others} == {one.split}


def test_what_a_model_reads_is_the_prefix_and_the_prompt():
    assert item(3, prefix="<", system="reversed").text == "<R3ab="


def test_a_question_tells_a_scorer_all_but_the_prefix():
    question = item(metadata={"index": 4}).question
    assert question["answer"] == "ba0" and question["metadata"] == {"index": 4} and question["id"] == item().id
    assert set(question) == {"id", "capability", "task", "level", "prompt", "answer", "system", "metadata"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, r"id is ''; it must be 1 to 200 printable ASCII characters without spaces"),
        ({"id": "a b"}, r"id is 'a b'"),
        ({"capability": "a/b"}, r"capability is 'a/b'; it must be a name of lower-case letters"),
        ({"task": ""}, r"task is ''"),
        ({"system": "No"}, r"system is 'No'"),
        ({"level": -1}, r"level is -1; it must be 0 to 99, 0 the easiest"),
        ({"level": 100}, r"level is 100"),
        ({"level": True}, r"level is True"),
        ({"prompt": ""}, r"prompt is ''; it must have text in it"),
        ({"answer": " \n"}, r"answer is ' \\n'; it must have text in it"),
        ({"prompt": "a" * (LONGEST + 1)}, r"prompt has 65537 characters; it must have at most 65536"),
        ({"answer": "a\ud800"}, r"answer holds a lone surrogate, which no UTF-8 text can; replace it"),
    ],
)
def test_what_cannot_be_an_item_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        item(**changes)


# Pool


def test_a_pool_is_a_sequence_of_its_items():
    found = pool(5)
    assert len(found) == 5 and found[2].id == "reverse/2" and [one.level for one in found] == [0, 1, 2, 0, 1]


def test_the_splits_of_a_pool_are_a_partition():
    whole = pool()
    train, held = whole.select(split="train"), whole.select(split="held_out")
    assert {one.id for one in train} | {one.id for one in held} == {one.id for one in whole}
    assert len(train) + len(held) == 64 and len(held) > 0


def test_a_pool_is_selected_by_capability_task_and_level():
    whole = pool()
    assert {one.capability for one in whole.select(capabilities=("ordering",))} == {"ordering"}
    assert {one.task for one in whole.select(tasks=("sort",), levels=(2,))} == {"sort"}
    assert {one.level for one in whole.select(levels=(0, 2))} == {0, 2}
    assert len(whole.select()) == 64 and len(whole.select(levels=())) == 0


def test_a_mask_keeps_the_items_where_it_is_true():
    mask = np.arange(64) % 5 == 0
    assert [one.id for one in pool().masked(mask)] == [one.id for i, one in enumerate(pool()) if i % 5 == 0]
    assert len(pool(2).masked([False, True])) == 1


def test_ids_keep_the_order_of_the_pool():
    assert [one.id for one in pool().named(["sort/3", "reverse/2"])] == ["reverse/2", "sort/3"]


def test_parts_of_a_pool_know_where_they_come_from():
    whole = replace(pool(), generator="ours", version="3", licence="MIT")
    for part in (whole.select(levels=(1,)), whole.masked([True] * 64), whole.named([])):
        assert (part.generator, part.version, part.licence) == ("ours", "3", "MIT")


@pytest.mark.parametrize("changes", [{"answer": "x"}, {"level": 2}, {"prompt": "Rzz="}, {"id": "y"}, {"prefix": "<"}])
def test_the_fingerprint_follows_every_item(changes):
    one = Pool((item(0), item(1)))
    assert one.fingerprint == Pool((item(0), item(1))).fingerprint
    assert one.fingerprint != Pool((item(0), item(1, **changes))).fingerprint
    assert one.fingerprint != Pool((item(1), item(0))).fingerprint


def test_a_pool_gives_itself():
    one = pool(3)
    assert one() is one


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((item(0), item(1, id=item(0).id)), r"two items have the id 'reverse/1/0.00000'; ids must be unique"),
        ((item(0), item(1, prompt="R0ab=")), r"items '.*0' and '.*1' ask the same, 'R0ab='; leave one out"),
        ((item(0, prompt="<R="), item(1, prefix="<", prompt="R=")), r"ask the same, '<R='"),
    ],
)
def test_no_two_items_are_alike(items, message):
    with pytest.raises(ValueError, match=message):
        Pool(items)


def test_a_prompt_may_be_asked_under_two_systems():
    assert len(Pool((item(0), item(1, prompt="R0ab=", prefix="[")))) == 2


def test_a_mask_and_ids_must_fit():
    with pytest.raises(ValueError, match=r"the mask has 3 values, the pool 64 items; give one for each, in order"):
        pool().masked([True] * 3)
    with pytest.raises(ValueError, match=r"2 id\(s\) are not in the pool, 'x' first; ask for ids of this pool"):
        pool().named(["y", "x", "sort/3"])
