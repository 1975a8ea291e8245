"""Short forms of some data sets of reasoning-gym, for models that read a few dozen bytes and no English.

    C12-7=          5           chain_sum            W unshade=      edahsnu     spell_backward
    P12*7=          84          products             N83,9,25<=      9,25,83     number_sorting
    L4,6=           12          lcm                  M21/58=         2185        spiral_matrix, from outside
    F12=            2*2*3       prime_factorization  U12.4...=       1234...     mini_sudoku, row by row
    B3:212>2=       10111       base_conversion      ABb=            B           ab: A#, #A, B#, #B as A, a, B, b
    E5*b+6=26;b=    4           simple_equations     S24/57=         8/19        fraction_simplification

A form is made from the metadata of an entry. Levels are settings of the generators: those of the curricula grow too
fast here (number_sorting goes from 10 numbers to 100). number_sequence has no short form: the longer sequences of a
level would show the answers of another, and they can be continued in more ways than one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]
"""an item of reasoning-gym: `question`, `answer`, `metadata`"""


@dataclass(frozen=True)
class Compact:
    """The short form of a data set."""

    levels: tuple[Mapping[str, Any], ...]
    """settings of the generator, by level"""
    prompt: Callable[[Entry], str]
    answer: Callable[[Entry], str]


def _given(entry: Entry) -> str:
    return entry["answer"]


def _chain_sum(entry: Entry) -> str:
    return f"C{_tight(entry['metadata']['expression'])}="


def _products(entry: Entry) -> str:
    return f"P{_tight(entry['metadata']['expression'])}="


def _lcm(entry: Entry) -> str:
    return f"L{_listed(entry['metadata']['numbers'])}="


def _prime_factorization(entry: Entry) -> str:
    return f"F{entry['metadata']['number']}="


def _factors(entry: Entry) -> str:
    return "*".join(map(str, entry["metadata"]["factors"]))


def _base_conversion(entry: Entry) -> str:
    data = entry["metadata"]
    return f"B{data['source_base']}:{data['source_repr']}>{data['target_base']}="


def _simple_equations(entry: Entry) -> str:
    return f"E{_tight(entry['metadata']['equation'])};{entry['metadata']['variable']}="


def _fraction_simplification(entry: Entry) -> str:
    return f"S{entry['metadata']['numerator']}/{entry['metadata']['denominator']}="


def _number_sorting(entry: Entry) -> str:
    sign = "<" if entry["metadata"]["direction"] == "ascending" else ">"
    return f"N{_whole(entry['metadata']['original_numbers'])}{sign}="


def _sorted(entry: Entry) -> str:
    return _whole(entry["metadata"]["sorted_numbers"])


def _spell_backward(entry: Entry) -> str:
    return f"W{entry['metadata']['word']}="


def _spiral_matrix(entry: Entry) -> str:
    return f"M{'/'.join(_cells([row]) for row in entry['metadata']['matrix'])}="


def _spiral(entry: Entry) -> str:
    return _cells([entry["metadata"]["solution"]])


def _mini_sudoku(entry: Entry) -> str:
    return f"U{_cells(entry['metadata']['puzzle']).replace('0', '.')}="


def _solution(entry: Entry) -> str:
    return _cells(entry["metadata"]["solution"])


def _ab(entry: Entry) -> str:
    """The program is said by the question alone, on a line of its own near the end."""
    lines = [line for line in entry["question"].splitlines() if line.strip()]
    return f"A{_letters(lines[-2])}="


def _state(entry: Entry) -> str:
    return _letters(entry["answer"])


def _letters(program: str) -> str:
    names = {"A#": "A", "#A": "a", "B#": "B", "#B": "b"}
    return "".join(names[token] for token in program.split())


def _tight(text: str) -> str:
    return text.replace(" ", "")


def _listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


def _whole(numbers: list[str]) -> str:
    """ "9.0" as 9: they are drawn without decimals, and written with one."""
    return ",".join(one.removesuffix(".0") for one in numbers)


def _cells(board: list[list[int]]) -> str:
    return "".join(str(cell) for row in board for cell in row)


def _spans(**ends: tuple[tuple[int, int], ...]) -> tuple[dict[str, Any], ...]:
    """Settings min_x and max_x by level, from the least and most of x by level."""
    levels = zip(*ends.values(), strict=True)
    return tuple(
        {f"min_{name}": least for name, (least, _) in zip(ends, level, strict=True)}
        | {f"max_{name}": most for name, (_, most) in zip(ends, level, strict=True)}
        for level in levels
    )


_TWO = ((2, 2),) * 3

COMPACT: dict[str, Compact] = {
    "chain_sum": Compact(_spans(terms=((2, 2), (2, 2), (3, 3)), digits=((1, 1), (2, 2), (2, 2))), _chain_sum, _given),
    "products": Compact(_spans(terms=((2, 2), (3, 3), (2, 2)), digits=((1, 1), (1, 1), (2, 2))), _products, _given),
    "lcm": Compact(_spans(numbers=_TWO, value=((2, 15), (16, 40), (41, 99))), _lcm, _given),
    "prime_factorization": Compact(_spans(value=((2, 99), (100, 299), (300, 999))), _prime_factorization, _factors),
    "base_conversion": Compact(
        _spans(base=((2, 3), (2, 4), (2, 9)), value=((1, 63), (64, 255), (256, 2047))), _base_conversion, _given
    ),
    "simple_equations": Compact(_spans(terms=_TWO, value=((1, 9), (10, 30), (31, 99))), _simple_equations, _given),
    "fraction_simplification": Compact(
        tuple(
            one | {"styles": ("plain",)}
            for one in _spans(value=((1, 12), (13, 30), (31, 99)), factor=((2, 5), (2, 6), (3, 9)))
        ),
        _fraction_simplification, _given,
    ),
    "number_sorting": Compact(
        _spans(numbers=((3, 3), (4, 5), (6, 7)), decimals=((0, 0),) * 3, value=((0, 9), (0, 99), (-99, 99))),
        _number_sorting, _sorted,
    ),
    "spell_backward": Compact(_spans(word_len=((3, 4), (5, 6), (7, 9))), _spell_backward, _given),
    "spiral_matrix": Compact(_spans(n=((2, 2), (3, 3), (4, 4))), _spiral_matrix, _spiral),
    "mini_sudoku": Compact(_spans(empty=((2, 3), (5, 6), (8, 9))), _mini_sudoku, _solution),
    "ab": Compact(tuple({"length": length} for length in (4, 6, 9)), _ab, _state),
}  # fmt: skip
"""by data set; what cannot be learned this way, or needs its question, has no short form"""
