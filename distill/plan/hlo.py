"""HLO: a compiled program as XLA writes it, read into instructions, each with how often it runs."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+|c\d+|f8\w+)\[([\d,]*)\]")
CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
NAME = re.compile(r"%([\w.\-]+)")
END = re.compile(r'\}(, execution_thread="\w+")?$')
TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')
AGAIN = ("-done", "-update")
"""ends of the names of what names again what its start runs"""


@dataclass(frozen=True)
class Shape:
    """An array's element type and sizes."""

    dtype: str
    sizes: tuple[int, ...]

    @property
    def bytes(self) -> float:
        """That it takes, padding aside."""
        return math.prod(self.sizes) * BITS.get(self.dtype, 8) / 8  # f8 of every kind are 8


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]
    """of what it gives: of all parts of a tuple"""
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    """the rest of its line"""
    root: bool
    literal: str = ""
    """what a constant or parameter has between its brackets"""

    def attribute(self, name: str) -> str | None:
        """What stands behind `name=`, to the next comma outside of brackets; None where there is none."""
        found = re.search(rf"\b{name}=", self.attributes)
        return None if found is None else _until_comma(self.attributes, found.end())

    @property
    def source(self) -> str:
        """Where in the model it comes from, as JAX names it."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return "" if found is None else found.group(1)

    def called(self) -> Iterator[tuple[str, str]]:
        """Computations that it runs, each with what it is to it."""
        yield from CALLED.findall(self.attributes.split("backend_config=")[0])
        for names in BRANCHES.findall(self.attributes):
            yield from (("branch", name.strip().lstrip("%")) for name in names.split(","))


@dataclass(frozen=True)
class Computation:
    """Instructions that run together."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @cached_property
    def root(self) -> Instruction:
        """What it gives."""
        return next(one for one in self.instructions.values() if one.root)

    def bytes(self, names: tuple[str, ...]) -> float:
        """Of what these instructions give, together."""
        return sum(shape.bytes for name in names for shape in self.instructions[name].shapes)


@dataclass(frozen=True)
class Module:
    """A whole program."""

    computations: dict[str, Computation]
    entry: str

    @staticmethod
    def parse(text: str) -> "Module":
        """From `compiled.as_text()`.

        Raises:
          ValueError: it has no entry, so it is no HLO.
        """
        computations: dict[str, Computation] = {}
        entry, here = None, None
        for line in _lines(text):
            if here is None:
                head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
                if head:
                    here = computations[head.group(2)] = Computation(head.group(2))
                    entry = here.name if head.group(1) else entry
            elif END.match(line):
                here = None
            else:
                one = _instruction(line)
                if one is not None:
                    here.instructions[one.name] = one
        if entry is None:
            raise ValueError(f"this is no HLO: it has no ENTRY computation, and begins with {text[:60]!r}")
        return Module(computations, entry)

    @cached_property
    def runs(self) -> dict[str, float]:
        """How often each computation runs when the program runs once; of branches each counts as if it were taken."""
        return self._count(lambda where, one: self.trips(where, one) or 1)

    @cached_property
    def once(self) -> dict[str, float]:
        """The same where a loop's body counts once, as the compiler's own costs have it."""
        return self._count(lambda where, one: 1)

    def _count(self, trips: Callable[[Computation, Instruction], int]) -> dict[str, float]:
        times = dict.fromkeys(self.computations, 0.0)
        times[self.entry] = 1.0
        for name in reversed(self.computations):  # whoever is called is written before whoever calls
            for one in self.computations[name].instructions.values():
                turns = trips(self.computations[name], one) if one.opcode == "while" else 1
                for role, called in () if one.opcode.endswith(AGAIN) else one.called():
                    times[called] += times[name] * (turns if role in ("body", "condition") else 1)
        return times

    @property
    def unknown(self) -> tuple[str, ...]:
        """Loops whose number of turns is not in the program: they count as one turn."""
        return tuple(
            one.name
            for computation in self.computations.values()
            for one in computation.instructions.values()
            if one.opcode == "while" and self.trips(computation, one) is None
        )

    def trips(self, where: Computation, loop: Instruction) -> int | None:
        """Turns of a while loop: what the compiler notes, or what its condition compares with; None: not to be had."""
        noted = TRIPS.search(loop.attributes)
        if noted:
            return int(noted.group(1))
        called = dict(loop.called())
        found = self._compared(self.computations[called["condition"]])
        if found is None:
            return None
        place, limit = found
        start = _constant(where, where.instructions[loop.operands[0]].operands, place) or 0
        return max(-(-(limit - start) // self._stride(self.computations[called["body"]], place)), 0)

    def _stride(self, body: Computation, place: int) -> int:
        """By how much a turn advances the number at a place of the loop's tuple; 1 where that cannot be seen."""
        if body.root.opcode != "tuple":
            return 1
        one = _origin(body, body.root.operands[place])
        if one is not None and one.opcode == "fusion":
            inner = self.computations[dict(one.called())["calls"]]
            body, one = inner, _origin(inner, inner.root.name)
        if one is None or one.opcode != "add":
            return 1
        steps = [_origin(body, name) for name in one.operands]
        known = [int(step.literal) for step in steps if step is not None and step.opcode == "constant"]
        return known[0] if known and known[0] > 0 else 1

    def _compared(self, condition: Computation) -> tuple[int, int] | None:
        """Of `i < n`, the place of i in the loop's tuple, and n."""
        root, inner = condition.root, condition
        operands = root.operands
        if root.opcode == "fusion":
            inner = self.computations[dict(root.called())["calls"]]
            root = inner.root
            by_number = {one.name: int(one.literal) for one in inner.instructions.values() if one.opcode == "parameter"}
            operands = tuple(operands[by_number[name]] if name in by_number else name for name in inner.root.operands)
        if root.opcode != "compare" or root.attribute("direction") != "LT" or len(operands) != 2:
            return None
        sides = [condition.instructions.get(name) or inner.instructions[name] for name in operands]
        if sides[0].opcode != "get-tuple-element" or sides[1].opcode != "constant":
            return None
        return int(sides[0].attribute("index") or 0), int(sides[1].literal)


def _constant(where: Computation, parts: tuple[str, ...], place: int) -> int | None:
    one = _origin(where, parts[place]) if place < len(parts) else None
    return int(one.literal) if one is not None and one.opcode == "constant" and one.literal.isdigit() else None


def _origin(where: Computation, name: str) -> Instruction | None:
    """The instruction of this name, or the one that it is a copy of."""
    one = where.instructions.get(name)
    while one is not None and one.opcode in ("copy", "bitcast", "convert") and one.operands:
        one = where.instructions.get(one.operands[0])
    return one


def _lines(text: str) -> Iterator[str]:
    """Its lines, each whole: what is noted of a kernel may have line breaks of its own."""
    whole = ""
    for line in text.splitlines():
        if whole and not (END.match(line) or line.startswith(("  ", "%", "ENTRY "))):
            whole += line
            continue
        if whole:
            yield whole
        whole = line.rstrip()
    yield whole


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    start = head.end()
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in sizes.split(",") if n)) for dtype, sizes in ARRAY.findall(line[start:end])
    )
    begin = line.index("(", end)
    stop = _closing(line, begin)
    inside = line[begin + 1 : stop - 1]
    opcode = line[end:begin].strip()
    operands = () if opcode in ("constant", "parameter") else tuple(NAME.findall(inside))
    literal = inside if opcode in ("constant", "parameter") else ""
    return Instruction(head.group(2), shapes, opcode, operands, line[stop:], head.group(1) is not None, literal)


def _closing(text: str, start: int) -> int:
    """The place behind the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _until_comma(text: str, start: int) -> str:
    depth = 0
    for place in range(start, len(text)):
        letter = text[place]
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            return text[start:place]
    return text[start:]
