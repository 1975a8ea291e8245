"""Topologies as they are written, `v5p:8x8x8` or `h100:4x8`: read, and refused where there are none such."""

import re
from math import prod

from distill.pods.chips import CUBE, GENERATIONS, Cluster, Generation, Shape, Slice


def read_topology(text: str) -> Slice | Cluster:
    """A slice of TPUs, GENERATION:AxB or AxBxC in chips; or GPUs, NAME:HOSTSxGPUS.

    Raises:
      ValueError: it is not written so, or no such slice can be booked; says which can.
    """
    found = re.fullmatch(r"([a-z]\w*):(\d+(?:x\d+)*)", text)
    if found is None:
        raise ValueError(f"--topology {text}: write v5p:8x8x8 (TPU chips along each axis) or h100:4x8 (hosts x GPUs)")
    name, shape = found[1], tuple(map(int, found[2].split("x")))
    if name in GENERATIONS:
        return _slice(text, GENERATIONS[name], shape)
    if re.fullmatch(r"(v\d|tpu)\w*", name):
        raise ValueError(f"--topology {text}: TPU generations that are known here are {', '.join(GENERATIONS)}")
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"--topology {text}: {name} is no TPU, and GPUs are hosts x GPUs of a host: {name}:4x8")
    return Cluster(name, *shape)


def _slice(text: str, generation: Generation, shape: Shape) -> Slice:
    if shape in generation.shapes:
        return Slice(generation, shape)
    turned = tuple(sorted(shape))
    if turned in generation.shapes:
        raise ValueError(f"--topology {text}: sides are written the shortest first: {_written(generation, turned)}")

    def distance(one: Shape) -> tuple[int, int]:
        apart = sum(abs(a - b) for a, b in zip(one, turned, strict=True)) if len(one) == len(turned) else 0
        return apart, abs(prod(one) - prod(shape))

    near = sorted(sorted(generation.shapes, key=distance)[:4], key=prod)
    most = max(map(prod, generation.shapes))
    sides = f"sides are multiples of 4 (from {CUBE} chips on)" if len(generation.shapes[-1]) == 3 else "it has 2 sides"
    raise ValueError(
        f"--topology {text}: there is no such slice of {generation.name}: {sides}, and it has at most {most} chips; "
        f"nearest are {', '.join(_written(generation, one) for one in near)}"
    )


def _written(generation: Generation, shape: Shape) -> str:
    return f"{generation.name}:{'x'.join(map(str, shape))}"
