import math
import sys
from dataclasses import replace
from importlib import metadata

import pytest

from distill.tasks.catalogue import CAPABILITIES, REFUSED, UNSCORED
from distill.tasks.compact import COMPACT
from distill.tasks.gym import Gym, main
from distill.tasks.lines import SHIPPED, load, save
from distill.tasks.score import Verdict


@pytest.fixture(scope="module")
def installed():
    """reasoning-gym, which is an extra: without it, the tests that ask for it are skipped."""
    return pytest.importorskip("reasoning_gym")


@pytest.fixture
def missing(monkeypatch):
    """A machine without reasoning-gym."""
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)


# Without reasoning-gym


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("graph_color", "it gives no answer to compare with"),
        ("countdown", "other answers than the one it gives are as right"),
        ("knights_knaves", "its answer can be written in other ways that are as right"),
        ("syllogism", "so few answers are possible that guessing is right"),
        ("game_of_life_halting", "its scorer takes any text for the right one, and its answers are yes or no"),
        ("composite", "it is made of the others"),
    ],
)
def test_a_data_set_that_cannot_be_trained_on_is_refused_with_the_reason(task, why):
    with pytest.raises(ValueError, match=rf"gym: {task} is refused: {why}; take another data set"):
        Gym(task=task)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "new"}, r"gym: what new takes is not known; set capability, or choose a known data set"),
        ({"task": "aiw", "compact": True}, r"gym: aiw has no short form; set compact to False, or take chain_sum"),
        ({"task": "aiw", "size": 0}, r"gym: size is 0; it must be at least 1"),
        ({"task": "aiw", "longest": 0}, r"gym: longest is 0; it must be at least 1"),
        ({"task": "aiw", "level": -1}, r"gym: level is -1; it must be at least 0"),
        ({"task": "aiw", "seed": -1}, r"gym: seed is -1; it must be at least 0"),
    ],
)
def test_what_cannot_be_asked_of_it_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Gym(**fields)


def test_without_it_there_is_what_is_shipped(missing):
    with pytest.raises(ValueError, match=r"not installed; pip install 'herd-distill\[gym\]' \(it needs a C compiler\)"):
        Gym(task="chain_sum")()
    assert len(load(SHIPPED)) == 2160


def test_a_name_has_one_place():
    assert (
        not set(CAPABILITIES) & set(REFUSED)
        and set(UNSCORED) <= set(CAPABILITIES)
        and set(COMPACT) <= set(CAPABILITIES)
    )


@pytest.mark.parametrize("arguments", [[], ["read"], ["write", "a", "b"]])
def test_the_command_says_what_it_can(arguments):
    with pytest.raises(SystemExit, match=r"usage: python -m distill.tasks.gym write \[FILE\]"):
        main(arguments)


# With it


def test_all_its_data_sets_are_known(installed):
    assert set(CAPABILITIES) | set(REFUSED) == set(installed.factory.DATASETS)


def test_what_is_shipped_can_be_made_again(installed, tmp_path, capsys):
    if metadata.version("reasoning-gym") != load(SHIPPED).version:
        pytest.skip("another version makes other questions")
    main(["write", str(tmp_path / "gym.jsonl")])
    assert (tmp_path / "gym.jsonl").read_bytes() == SHIPPED.read_bytes()
    assert capsys.readouterr().out == f"2160 items in {tmp_path / 'gym.jsonl'}\n"


@pytest.fixture(scope="module")
def sums(installed) -> Gym:
    """Sums of two and three numbers."""
    return Gym(task="chain_sum", level=1, size=20)


def test_its_questions_are_items(sums):
    pool = sums()
    assert len(pool) == 20 and (pool.generator, pool.licence) == ("reasoning-gym", "Apache-2.0")
    assert {(one.task, one.capability, one.level) for one in pool} == {("chain_sum", "arithmetic", 1)}
    assert "arithmetic problem" in pool[0].prompt and pool[0].id.startswith("chain_sum/1/0.")


def test_the_same_fields_give_the_same_questions(sums):
    assert replace(sums)() == sums()
    others = {one.prompt for one in replace(sums, seed=1)()} | {one.prompt for one in replace(sums, level=2)()}
    assert len(others & {one.prompt for one in sums()}) < 3


def test_levels_are_those_of_the_curriculum_and_do_not_overlap(installed):
    terms = [
        {one.prompt.count("+") + one.prompt.count(" - ") + 1 for one in Gym(task="chain_sum", level=n)()}
        for n in (0, 1, 2)
    ]
    assert terms == [{2}, {3}, {4}]


def test_a_long_question_is_left_out(installed):
    lengths = [len(one.prompt) for one in Gym(task="simple_equations", size=50, longest=40)()]
    assert max(lengths) <= 40 < max(len(one.prompt) for one in Gym(task="simple_equations", size=50)())


def test_right_is_equal_and_raw_is_its_own_mark(installed):
    words = Gym(task="spell_backward", size=5)
    one = words()[0]
    assert words.judge(one, one.answer) == Verdict(True, 1.0)
    assert words.judge(one, one.answer.swapcase()) == Verdict(False, 1.0)
    assert words.judge(one, "12345") == Verdict(False, 0.0)


def test_its_mark_for_an_answer_among_others_is_no_reward(installed):
    bases = Gym(task="base_conversion", size=5)
    one = bases()[0]
    verdict = bases.judge(one, f"{one.answer} or not")
    assert not verdict.right and verdict.raw == len(one.answer) / len(f"{one.answer} or not")


@pytest.mark.parametrize(
    "task", sorted(set(CAPABILITIES) - {"zebra_puzzles", "futoshiki", "sudoku", "codeio", "arc_agi"})
)
def test_no_answer_makes_it_fail(installed, task):
    one = Gym(task=task, size=1)
    item = one()[0]
    assert one.judge(item, item.answer).right
    for answer in (None, "", "garbage", "[1, 2", "-", "9" * 3000, "9" * 10_000, b"1", 3, "\ud800", "1e9999999"):
        verdict = one.judge(item, answer)
        assert not verdict.right and (math.isnan(verdict.raw) or 0 <= verdict.raw <= 1)


def test_a_scorer_that_fails_says_nothing(installed):
    factors = Gym(task="prime_factorization", size=3)
    one = factors()[0]
    assert math.isnan(factors.judge(one, "garbage").raw) and factors.judge(one, one.answer).raw == 1.0


@pytest.mark.parametrize("task", ["spiral_matrix", "binary_matrix", "string_insertion"])
def test_no_answer_is_executed(installed, task, tmp_path):
    evil, one = f"__import__('pathlib').Path({str(tmp_path / 'x')!r}).touch()", Gym(task=task, size=1)
    item = one()[0]
    assert math.isnan(one.judge(item, evil).raw) and not (tmp_path / "x").exists()
    # Its own scorer would.
    one._data.score_answer(evil, one._data[item.metadata["index"]])
    assert (tmp_path / "x").exists()


def test_a_scorer_that_nobody_has_read_is_not_called(installed, monkeypatch):
    monkeypatch.delitem(CAPABILITIES, "spell_backward")
    words = Gym(task="spell_backward", size=1, capability="strings")
    one = words()[0]
    verdict = words.judge(one, one.answer)
    assert verdict.right and math.isnan(verdict.raw)


def test_no_answer_takes_minutes(installed):
    coins = Gym(task="coin_flip", size=1)
    verdict = coins.judge(coins()[0], "1e9999999999")
    assert not verdict.right and math.isnan(verdict.raw)


def test_a_short_form_is_right_by_equality_alone(installed):
    short = Gym(task="number_sorting", size=3, compact=True)
    one = short()[0]
    verdict = short.judge(one, one.answer)
    assert verdict.right and math.isnan(verdict.raw)


def test_it_judges_its_own_questions_alone(sums, installed):
    one = sums()[0]
    for other in (replace(one, level=0), replace(one, system="upper"), replace(one, metadata={})):
        with pytest.raises(ValueError, match=r"is no plain question of chain_sum at level 1"):
            sums.judge(other, "1")


def test_a_pool_of_it_survives_a_file(sums, tmp_path):
    save(sums(), tmp_path / "a.jsonl")
    found = load(tmp_path / "a.jsonl")
    assert found == sums() and sums.judge(found[3], found[3].answer) == Verdict(True, 1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "chain_sum", "level": 20}, r"gym: chain_sum has the levels 0 to 10; level is 20"),
        ({"task": "gsm_symbolic", "level": 1}, r"gym: gsm_symbolic has the levels 0 to 0; level is 1"),
        ({"task": "lcm", "level": 3, "compact": True}, r"gym: lcm has the levels 0 to 2; level is 3"),
        ({"task": "caesar_cipher", "level": 2}, r"cannot make caesar_cipher at level 2: AssertionError: rotation"),
        ({"task": "letter_jumble", "level": 2}, r"cannot make letter_jumble at level 2: ValueError: .*; take another"),
        (
            {"task": "products", "size": 500},
            r"products level 0 has \d+ different questions of at most 65536 .*set size",
        ),
        ({"task": "new", "capability": "x"}, r"gym: reasoning-gym has no data set 'new'; take one of complex_arith"),
    ],
)
def test_what_it_cannot_make_is_said(installed, fields, message):
    with pytest.raises(ValueError, match=message):
        Gym(**fields)()
