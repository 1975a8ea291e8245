"""Products: the floating-point operations of a compiled program's matrix products, each as often as it runs."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distill.plan.hlo import Computation, Instruction, Module, Shape

LABEL = re.compile(r"([\w.]+,[\w.]+->[\w.]+)/")
GROUPED = re.compile(r"ragged.dot|gmm|grouped", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Products:
    """Floating-point operations of one device in a step; a multiplication and an addition are two."""

    matrices: float
    """of products with weights"""
    attention: float
    """of scores, and of values weighed by them, where the compiler sees these products"""
    grouped: float
    """of grouped products in kernels, by the shapes that they are given, empty rows too; not in `matrices`"""
    once: float
    """of all that the compiler sees where a loop's body counts once, for comparison with its own number"""
    kernels: dict[str, float]
    """other kernels, and how often each runs: the compiler sees no products in them"""
    labels: dict[str, float]
    """by the einsum that it was in the model"""


def read(module: Module) -> Products:
    """All products of a program."""
    sums: dict[str, float] = defaultdict(float)
    labels: dict[str, float] = defaultdict(float)
    kernels: dict[str, float] = defaultdict(float)
    for computation in module.computations.values():
        runs, once = module.runs[computation.name], module.once[computation.name]
        if not runs:
            continue
        for one in computation.instructions.values():
            if one.opcode in ("dot", "convolution"):
                flops = dot(one, computation) if one.opcode == "dot" else convolution(one, computation)
                label = _label(one)
                sums["attention" if is_attention(label) else "matrices"] += runs * flops
                sums["once"] += once * flops
                labels[label] += runs * flops
            elif one.opcode == "custom-call" and "tpu_custom_call" in one.attributes:
                flops = grouped(one, computation) if GROUPED.search(one.name + one.source) else 0.0
                if flops:
                    sums["grouped"] += runs * flops
                    labels["grouped products"] += runs * flops
                elif not GROUPED.search(one.name + one.source):
                    kernels[re.sub(r"[.\d]+$", "", one.name)] += runs
    ordered: Mapping[str, float] = dict(sorted(labels.items(), key=lambda pair: -pair[1]))
    return Products(
        matrices=sums["matrices"], attention=sums["attention"], grouped=sums["grouped"],
        once=sums["once"], kernels=dict(kernels), labels=dict(ordered),
    )  # fmt: skip


def dot(one: Instruction, where: Computation) -> float:
    """Of a dot: two for each element of its result and each that is added up for it."""
    left = _shape(one.operands[0], where)
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
    places = [int(place) for place in contracted.group(1).split(",") if place] if contracted else []
    return 2.0 * math.prod(one.shapes[0].sizes) * math.prod(left.sizes[place] for place in places)


def convolution(one: Instruction, where: Computation) -> float:
    """Of a convolution, as which TPUs write products: two for each pair of numbers that are really there.

    Batches and sums over several axes become axes of space there, padded and dilated so that most pairs of places are
    of nothing; those do not count.
    """
    left, right = (_shape(name, where) for name in one.operands[:2])
    result = one.shapes[0]
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels is not None, one.attributes
    ins, kernel, outs = labels.groups()
    window = _window(one, sum(letter.isdigit() for letter in ins))
    pairs = 1.0
    for axis in range(len(window["size"])):
        pairs *= _pairs(
            left.sizes[ins.index(str(axis))], right.sizes[kernel.index(str(axis))], result.sizes[outs.index(str(axis))],
            {name: values[axis] for name, values in window.items()},
        )  # fmt: skip
    batch, features = result.sizes[outs.index("b")], result.sizes[outs.index("f")]
    groups = re.search(r"batch_group_count=(\d+)", one.attributes)
    return 2.0 * pairs * batch * features * right.sizes[kernel.index("i")] / (int(groups.group(1)) if groups else 1)


def grouped(one: Instruction, where: Computation) -> float:
    """Of a grouped product [m k] [e k n] -> [m n], or of its gradient [m k] [m n] -> [e k n]; 0 where it is neither."""
    flat = [
        shape.sizes
        for name in one.operands
        for shape in where.instructions[name].shapes
        if len(shape.sizes) == 2 and shape.dtype in ("bf16", "f32")
    ]
    result = one.shapes[0].sizes
    if len(result) == 2 and flat:
        m, n = result
        rest = math.prod(flat[0]) / m
        return 2.0 * m * n * rest
    if len(result) == 3 and len(flat) >= 2:
        k, n = result[1:]
        return 2.0 * math.prod(flat[0]) / k * k * n
    return 0.0


def is_attention(label: str) -> bool:
    """Whether an einsum is one over queries t and keys s."""
    return {"s", "t"} <= set(label)


def _label(one: Instruction) -> str:
    found = LABEL.search(one.source)
    return found.group(1) if found else one.source.rsplit("/", 2)[-1] or "unnamed"


def _shape(name: str, where: Computation) -> Shape:
    return where.instructions[name].shapes[0]


def _window(one: Instruction, axes: int) -> dict[str, list[tuple[int, ...]]]:
    text = re.search(r"window=\{([^}]*)\}", one.attributes)
    plain = {"size": 1, "stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}
    found: dict[str, list[tuple[int, ...]]] = {name: [(value, value)] * axes for name, value in plain.items()}
    for name, values in re.findall(r"(\w+)=([\d_x\-]+)", text.group(1) if text else ""):
        found[name] = [tuple(int(n) for n in value.split("_")) for value in values.split("x")]
    return found


def _pairs(size: int, width: int, results: int, window: Mapping[str, tuple[int, ...]]) -> float:
    """Pairs of a result and a place of the kernel, along one axis, at which there is a number and no padding."""
    if width == 1 and results == size:
        return float(results)
    place = (
        np.arange(results)[:, None] * window["stride"][0]
        + np.arange(width)[None] * window["rhs_dilate"][0]
        - window["pad"][0]
    )
    dilate = window["lhs_dilate"][0]
    there = (place >= 0) & (place < (size - 1) * dilate + 1) & (place % dilate == 0)
    return float(there.sum())
