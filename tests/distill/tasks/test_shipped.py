import math
import re
from collections import Counter

import pytest

from distill.tasks.compact import COMPACT
from distill.tasks.item import Pool
from distill.tasks.lines import SHIPPED, File
from distill.tasks.score import Strict


@pytest.fixture(scope="module")
def pool() -> Pool:
    """What is shipped."""
    return File()()


def bodies(pool, task):
    return [(one.prompt[1:-1], one.answer) for one in pool.select(tasks=(task,))]


def total(text, unknown="", value=0):
    """Of products of whole numbers and an unknown: 98-77*e."""
    terms = re.findall(r"[+-]?[^+-]+", text)
    parts = [(-1 if term[0] == "-" else 1, term.lstrip("+-").split("*")) for term in terms]
    return sum(sign * math.prod(value if one == unknown else int(one) for one in factors) for sign, factors in parts)


def test_it_holds_60_items_of_three_levels_of_twelve_data_sets(pool):
    counts = Counter((one.task, one.level) for one in pool)
    assert counts == {(task, level): 60 for task in COMPACT for level in range(3)} and len(COMPACT) == 12
    assert (pool.generator, pool.licence) == ("reasoning-gym", "Apache-2.0") and pool.version >= "0.1.25"


def test_it_is_small_and_its_prompts_are_short(pool):
    assert SHIPPED.stat().st_size < 300_000 and max(len(one.prompt) for one in pool) <= 40


def test_right_answers_are_right_and_wrong_ones_are_not(pool):
    strict = Strict()
    assert all(strict(one.question, one.answer) == 1.0 for one in pool)
    for change in (
        lambda a: a + "0",
        lambda a: a[1:],
        lambda a: f"the answer is {a}",
        lambda a: f"{a} {a}",
        lambda _: None,
    ):
        assert not any(strict(one.question, change(one.answer)) for one in pool)


def test_sums_and_products(pool):
    for task in ("chain_sum", "products"):
        assert all(str(total(body)) == answer for body, answer in bodies(pool, task))


def test_equations(pool):
    for body, answer in bodies(pool, "simple_equations"):
        equation, unknown = body.split(";")
        left, right = equation.split("=")
        assert total(left, unknown, int(answer)) == int(right) and unknown in left


def test_least_common_multiples(pool):
    assert all(str(math.lcm(*map(int, body.split(",")))) == answer for body, answer in bodies(pool, "lcm"))


def test_prime_factors(pool):
    for body, answer in bodies(pool, "prime_factorization"):
        factors = [int(one) for one in answer.split("*")]
        assert math.prod(factors) == int(body) and factors == sorted(factors)
        assert all(factor > 1 and all(factor % n for n in range(2, factor)) for factor in factors)


def test_fractions(pool):
    for body, answer in bodies(pool, "fraction_simplification"):
        (above, below), (over, under) = ([int(one) for one in text.split("/")] for text in (body, answer))
        assert above * under == over * below and math.gcd(over, under) == 1 < math.gcd(above, below)


def test_bases(pool):
    for body, answer in bodies(pool, "base_conversion"):
        source, number, target = re.split("[:>]", body)
        assert int(number, int(source)) == int(answer, int(target)) and answer[0] != "0"


def test_numbers_in_order(pool):
    for body, answer in bodies(pool, "number_sorting"):
        numbers = [int(one) for one in body[:-1].split(",")]
        assert sorted(numbers, reverse=body[-1] == ">") == [int(one) for one in answer.split(",")]


def test_words_backwards(pool):
    assert all(body[::-1] == answer for body, answer in bodies(pool, "spell_backward"))


def test_spirals(pool):
    for body, answer in bodies(pool, "spiral_matrix"):
        rows, found = body.split("/"), ""
        while rows:  # the first row, then what is left, turned
            found += rows[0]
            rows = ["".join(row[i] for row in rows[1:]) for i in reversed(range(len(rows[0])))] if rows[1:] else []
        assert found == answer


def test_rewriting(pool):
    for body, answer in bodies(pool, "ab"):
        while (
            found := re.sub("Aa|Bb|Ab|Ba", lambda m: {"Aa": "", "Bb": "", "Ab": "bA", "Ba": "aB"}[m[0]], body)
        ) != body:
            body = found
        assert body == answer


def solutions(board):
    """Every way to fill a board of 4 x 4."""
    hole = board.find(".")
    if hole < 0:
        return [board]
    row, column = divmod(hole, 4)
    seen = {
        board[i]
        for i in range(16)
        if i // 4 == row or i % 4 == column or (i // 8, i % 4 // 2) == (row // 2, column // 2)
    }
    return [
        each for digit in "1234" if digit not in seen for each in solutions(board[:hole] + digit + board[hole + 1 :])
    ]


def test_boards_have_one_solution(pool):
    assert all(solutions(body) == [answer] for body, answer in bodies(pool, "mini_sudoku"))


def test_levels_do_not_show_each_others_answers(pool):
    boards = [
        {answer for one in pool.select(tasks=("mini_sudoku",), levels=(n,)) for answer in [one.answer]}
        for n in range(3)
    ]
    assert boards[0] != boards[1] != boards[2]
