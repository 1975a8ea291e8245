import re
import zlib
from collections import Counter

import numpy as np
import pytest

from distill.tasks import small
from distill.tasks.item import Pool
from distill.tasks.small import TASKS, Small, Task, item

CELLS = [(task, level) for task in TASKS for level in range(3)]


def solve(prompt):
    """Independently of how questions are made."""
    kind, body = prompt[0], prompt[1:-1]
    if kind == "R":
        return "".join(body[len(body) - 1 - i] for i in range(len(body)))
    if kind == "O":
        return "".join(digit * body.count(digit) for digit in "0123456789")
    if kind == "Z":
        return "".join(reversed(str(sum(int(term) for term in body.split("+")))))
    if kind == "K":
        return "".join(chr((ord(letter) - 97 + int(body[0])) % 26 + 97) for letter in body[1:])
    if kind == "X":
        return re.sub(body[0], "", body[1:])
    return re.sub("(.)", r"\1\1", body)


@pytest.fixture(scope="module")
def pool() -> Pool:
    """Of all tasks: the held-out questions that a run needs at least, and a few to learn from."""
    return Small(tasks=tuple(TASKS), train=60, held_out=96)()


def test_every_answer_is_right(pool):
    assert all(one.prompt[-1] == "=" and solve(one.prompt) == one.answer for one in pool)


def test_every_level_has_96_prompts_to_hold_out_and_no_prompt_twice(pool):
    counts = Counter((one.task, one.level, one.split) for one in pool)
    assert counts == {(*cell, split): n for cell in CELLS for split, n in (("train", 60), ("held_out", 96))}
    assert len({one.prompt for one in pool}) == len(pool)


def test_the_easiest_sums_are_counted_one_by_one():
    prompts = [f"Z{a}+{b}+{c}=" for a in range(10) for b in range(10) for c in range(10)]
    held = sum(zlib.crc32(prompt.encode()) % 8 == 0 for prompt in prompts)
    assert held >= 96 and len(Small(tasks=("add",), levels=(0,), train=0, held_out=held - 2)()) == held - 2


def test_texts_fit_a_row_of_a_small_model(pool):
    assert max(len(one.prompt) for one in pool) == 11 and max(len(one.answer) for one in pool) == 10


@pytest.mark.parametrize(("task", "sizes"), [
    ("reverse", [{3, 4}, {5, 6}, {7, 8, 9}]),
    ("sort", [{3, 4}, {5, 6}, {7, 8, 9}]),
    ("remove", [{3, 4}, {5, 6}, {7, 8}]),
    ("double", [{3}, {4}, {5}]),
])  # fmt: skip
def test_levels_are_lengths(pool, task, sizes):
    extra = 3 if task == "remove" else 2
    found = [{len(one.prompt) - extra for one in pool if (one.task, one.level) == (task, n)} for n in range(3)]
    assert found == sizes


def test_levels_of_sums_are_digits(pool):
    found = [
        {tuple(sorted(map(len, re.findall(r"\d+", one.prompt)))) for one in pool if (one.task, one.level) == ("add", n)}
        for n in range(3)
    ]
    assert found == [{(1, 1, 1)}, {(1, 2)}, {(2, 2)}]


def test_levels_of_ciphers_are_shifts_and_lengths(pool):
    found = [
        {(int(one.prompt[1]), len(one.answer)) for one in pool if (one.task, one.level) == ("caesar", n)}
        for n in range(3)
    ]
    assert found == [{(s, n) for s in shifts for n in sizes} for shifts, sizes in (
        ((1, 2), (2, 3)), ((1, 2), (4, 5)), ((1, 2, 3), (6, 7)))]  # fmt: skip


def test_something_is_removed_and_something_stays(pool):
    removed = [one for one in pool if one.task == "remove"]
    assert all(0 < len(one.answer) < len(one.prompt) - 3 for one in removed)


def commonest(answers):
    return {answer for answer, _ in Counter(answers).most_common(8)}


@pytest.mark.parametrize(("task", "level"), [cell for cell in CELLS if cell != ("add", 0)])
def test_eight_guesses_do_not_pass(pool, task, level):
    """What the eight commonest answers of 96 are right about, on questions they were not counted on."""
    mine = pool.select(tasks=(task,), levels=(level,))
    common = commonest(one.answer for one in mine.select(split="held_out"))
    assert np.mean([one.answer in common for one in mine.select(split="train")]) < 0.3


def test_the_easiest_sums_can_be_guessed_as_often_as_is_said():
    sums = [str(a + b + c) for a in range(10) for b in range(10) for c in range(10)]
    assert len(set(sums)) == 28 and sum(one in commonest(sums) for one in sums) == 560
    assert "right 56 times in 100" in (small.__doc__ or "")


def test_a_question_follows_from_task_level_seed_and_index():
    one = item("sort", 2, 5, 11)
    assert one == item("sort", 2, 5, 11) and one.id == "sort/2/5.00011" and one.capability == "ordering"
    others = [item("sort", 2, 6, 11), item("sort", 2, 5, 12), item("sort", 1, 5, 11)]
    assert one.answer not in [other.answer for other in others]


def test_questions_do_not_change_from_version_to_version():
    assert small.VERSION == "1"
    assert [item(task, 1, 0, 0).prompt for task in TASKS] == [
        "Ronvuuq=",
        "O174026=",
        "Z4+95=",
        "K2toco=",
        "Xcclqaxk=",
        "Dznwe=",
    ]


def test_seeds_ask_others_and_hold_out_alike():
    one, two = (Small(tasks=("reverse",), levels=(1,), seed=seed)() for seed in (0, 1))
    assert one == Small(tasks=("reverse",), levels=(1,), seed=0)() and one.fingerprint != two.fingerprint
    learned = {each.prompt for pool in (one, two) for each in pool.select(split="train")}
    asked = {each.prompt for pool in (one, two) for each in pool.select(split="held_out")}
    assert not learned & asked


def test_every_task_is_a_task():
    assert all(isinstance(task, Task) and len(task.levels) == 3 for task in TASKS.values())


def test_a_small_space_gives_what_it_has_to_learn_from():
    sums = Small(tasks=("add",), levels=(0,), train=1000, held_out=1)().select(split="train")
    assert 800 < len(sums) < 1000 - 96


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: item("rot", 0, 0, 0), r"there is no level 0 of the task 'rot'; there are reverse 0 to 2, sort 0 to 2"),
        (lambda: item("add", 3, 0, 0), r"there is no level 3 of the task 'add'"),
        (lambda: item("add", 0, -1, 0), r"seed is -1 and index 0; both must be 0 or more"),
        (
            Small(tasks=("add",), levels=(0,), train=0, held_out=150),
            r"add level 0 has \d+ prompts to hold out .*asked for 150; set held_out to at most",
        ),
        (Small(tasks=("add", "rot")), r"there is no level 0 of the task 'rot'"),
        (lambda: Small(train=-1), r"train is -1; it must be 0 or more"),
    ],
)
def test_what_is_not_there_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
