"""Collectives: what devices say to each other in a program: how much, along which mesh axes, how often."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from distill.plan.hlo import Computation, Instruction, Module

KINDS = (
    "all-gather", "reduce-scatter", "all-reduce", "ragged-all-to-all", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
LIST = re.compile(r"\{([\d,]+)\}")
IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"'([\w.\-]+)'(?::\((\d+)\)(\d+))?")


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One kind of message in one place of a program."""

    kind: str
    axes: tuple[str, ...]
    """mesh axes that its groups run along"""
    size: int
    """devices of a group"""
    bytes: float
    """of the whole: what a device has of an all-gather when it is over, of all others when it begins"""
    times: float
    """that it runs in a step"""
    groups: np.ndarray
    """[groups, devices of a group] numbers of devices in the mesh's order; of a permutation, from and to"""
    source: str
    """where in the model it comes from"""
    ring: bool = False
    """whether the compiler wrote it as one ring whatever the shape of its group"""

    @property
    def total(self) -> float:
        """Bytes of a step."""
        return self.bytes * self.times


def read(module: Module, mesh_axes: dict[str, int]) -> list[Collective]:
    """All collectives of a program.

    Args:
      module: the program.
      mesh_axes: names and sizes of the mesh's axes, in order.
    """
    callers = _callers(module)
    found = []
    for computation in module.computations.values():
        times = module.runs[computation.name]
        for one in computation.instructions.values():
            kind = _kind(one, computation, callers)
            if kind is None or not times or _goes_on(one, computation):
                continue
            groups = _groups(one, math.prod(mesh_axes.values()))
            size = groups.shape[1]
            if size < 2 or kind == "collective-permute" and (groups[:, 0] == groups[:, 1]).all():
                continue
            held = computation.bytes(one.operands[:1] if kind.startswith("ragged") else one.operands)
            found.append(
                Collective(
                    kind=kind, axes=along(groups, mesh_axes), size=size, times=times, groups=groups,
                    bytes=held * size if kind == "all-gather" else held, source=one.source,
                    ring="1D" in computation.name or "1D" in one.name,
                )
            )  # fmt: skip
    return found


def table(collectives: Iterable[Collective]) -> list[dict[str, object]]:
    """Bytes and times of a step by kind and axes, the most bytes first."""
    sums: dict[tuple[str, tuple[str, ...], int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in collectives:
        sums[one.kind, one.axes, one.size][0] += one.total
        sums[one.kind, one.axes, one.size][1] += one.times
    rows = [
        {"kind": kind, "axes": list(axes), "devices": size, "bytes": total, "times": times}
        for (kind, axes, size), (total, times) in sums.items()
    ]
    return sorted(rows, key=lambda row: -float(row["bytes"]))  # pyright: ignore


def along(groups: np.ndarray, mesh_axes: dict[str, int]) -> tuple[str, ...]:
    """The mesh axes along which members of a group differ."""
    at = np.stack(np.unravel_index(groups, tuple(mesh_axes.values())), axis=-1)  # [groups, members, axes]
    differ = (at != at[:, :1]).any(axis=(0, 1))
    return tuple(name for name, other in zip(mesh_axes, differ, strict=True) if other)


def _kind(one: Instruction, where: Computation, callers: dict[str, list[Instruction]]) -> str | None:
    kind = next((kind for kind in KINDS if one.opcode in (kind, f"{kind}-start")), None)
    if kind == "all-reduce" and _scattered(where, callers):
        return "reduce-scatter"
    return kind


def _scattered(where: Computation, callers: dict[str, list[Instruction]]) -> bool:
    """Whether an all-reduce is fused with a slice of its result: TPUs' reduce-scatter, which sends half as much."""
    fused = any(caller.opcode == "fusion" and "kind=kCustom" in caller.attributes for caller in callers[where.name])
    return fused and (where.root.opcode == "dynamic-slice" or "reduce-scatter" in where.name)


def _goes_on(one: Instruction, where: Computation) -> bool:
    """Whether it is named again by what runs beside it or ends it, and was counted where it began."""
    chained = "chain_id=" in one.attributes or any(
        "AsyncCollective" in other.attributes for other in where.instructions.values() if other.opcode == "custom-call"
    )
    begins = any(
        'custom_call_target="AsyncCollectiveStart"' in other.attributes
        for other in where.instructions.values()
        if one.name in other.operands
    )
    return chained and not begins


def _callers(module: Module) -> dict[str, list[Instruction]]:
    callers: dict[str, list[Instruction]] = defaultdict(list)
    for computation in module.computations.values():
        for one in computation.instructions.values():
            for _, name in one.called():
                callers[name].append(one)
    return callers


def _groups(one: Instruction, devices: int) -> np.ndarray:
    """Numbers of devices [groups, members]; pairs for a permutation."""
    if one.opcode.startswith("collective-permute"):
        return _listed(one.attribute("source_target_pairs") or "")
    text = one.attribute("replica_groups") or "{}"
    if text.startswith("mesh["):
        return _by_axes(text + one.attributes.split(text, 1)[1])
    iota = IOTA.match(text)
    if iota:
        return _iota(iota).reshape(_numbers(iota.group(1)))
    return _listed(text) if LIST.search(text) else np.arange(devices)[None]


def _by_axes(text: str) -> np.ndarray:
    """`mesh['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'b'}`: groups along named axes, or along a part of one."""
    declared = {name: int(size) for name, size in re.findall(r"'([\w.\-]+)'=(\d+)", text[: text.index("]")])}
    rest = text[text.index("]") + 1 :]
    order = np.arange(math.prod(declared.values()))
    moved = re.match(r"\s*,?\s*device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", rest)
    if moved:
        order = _moved(order, _numbers(moved.group(1)), moved.group(2))
    inside = re.search(r"\{([^}]*)\}", rest)
    sizes: list[int] = []
    chosen: list[int] = []
    parts = {name: (before, size) for name, before, size in NAMED.findall(inside.group(1) if inside else "")}
    for name, whole in declared.items():
        before, size = parts.get(name, (None, None))
        if size:  # a part of an axis: those of `size` that lie behind `before` others
            cut = (int(before or 1), int(size), whole // int(before or 1) // int(size))
            chosen.append(len(sizes) + 1)
            sizes += cut
        else:
            chosen += [len(sizes)] if name in parts else []
            sizes.append(whole)
    grid = np.moveaxis(order.reshape(sizes), chosen, range(-len(chosen), 0))  # numpy: devices are no array program
    return grid.reshape(-1, math.prod(sizes[place] for place in chosen))


def _iota(found: "re.Match[str]") -> np.ndarray:
    sizes = _numbers(found.group(2))
    return _moved(np.arange(math.prod(sizes)), sizes, found.group(3))


def _moved(order: np.ndarray, sizes: Sequence[int], places: str | None) -> np.ndarray:
    grid = order.reshape(sizes)
    return (grid if places is None else grid.transpose(_numbers(places))).flatten()


def _listed(text: str) -> np.ndarray:
    return np.array([_numbers(part) for part in LIST.findall(text)])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
