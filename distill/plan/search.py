"""Search: the nearest mesh that fits, from refusals, which take seconds, to one compile that is finished."""

import dataclasses
import itertools
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.experiment import Experiment
from distill.mesh import Mesh
from distill.plan.plan import find_stage, programs
from distill.plan.programs import bytes_of, whole_bytes
from distill.plan.topology import Topology

TRIES = 12
"""meshes that are compiled, at most"""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a mesh."""

    mesh: dict[str, int]
    outcome: str
    """fits, does not fit, too large by its arguments alone, or not finished"""
    bytes: float
    """that a device needs; 0 where that is not known"""
    seconds: float


def nearest(
    file: Path, experiment: Experiment, stage: str | None, topology: Topology, rest: Sequence[str], limit: float
) -> dict[str, Any]:
    """Compiles one mesh after the other, the likest to the experiment's own first, until one fits.

    Args:
      file, stage, rest: as on the command line; rest are options of the experiment.
      experiment: what they make.
      topology: its devices are as many as a mesh may have.
      limit: seconds of processor that a compile may take.
    """
    tried: list[Tried] = []
    compiled, least = 0, _least(experiment, stage, topology)
    for mesh in likest(experiment.mesh, topology.chips * topology.chip.devices):
        if compiled == TRIES:
            break
        if least / mesh.size > topology.memory:  # however it is cut
            continue
        one = _by_arguments(experiment, stage, mesh, topology)
        if one is None:
            continue
        if one.outcome == "":
            one = _compiled(file, stage, topology, rest, mesh, limit)
            compiled += 1
        tried.append(one)
        print(f"{_said(one.mesh)}: {one.outcome}, {one.bytes / 1e9:.1f} GB, {one.seconds:.0f} s", file=sys.stderr)
        if one.outcome == "fits":
            break
    found = next((one for one in tried if one.outcome == "fits"), None)
    if found is None:
        told = (
            f"none of {len(tried)} meshes that were tried fits; arguments and gradients alone are "
            f"{least / 1e9:,.0f} GB, for which {math.ceil(least / topology.memory)} devices have the memory"
        )
    else:
        told = f"nearest: {_said(found.mesh)}"
    return {"told": told, "mesh": found and found.mesh, "tried": [dataclasses.asdict(one) for one in tried]}


def likest(mesh: Mesh, devices: int) -> Iterator[Mesh]:
    """Other meshes of at most so many devices: of as many as this one first, of twice as many then, and so on.

    Among those of one size that are first of which least is multiplied by two, or divided.
    """
    names = axes(mesh)
    asked = [vars(mesh)[name] for name in names]
    size = math.prod(asked)
    while size <= devices:
        found = []
        for sizes in _factors(size, len(names)):
            far = sum(abs(math.log2(one / other)) for one, other in zip(sizes, asked, strict=True))
            if far:
                found.append((far, sizes))
        for _, sizes in sorted(found):
            yield dataclasses.replace(mesh, **dict(zip(names, sizes, strict=True)))
        size *= 2


def axes(mesh: Mesh) -> list[str]:
    """Names of a mesh's axes; the number of its first device is none."""
    return [
        one.name for one in dataclasses.fields(mesh) if one.name != "first" and isinstance(vars(mesh)[one.name], int)
    ]


def _factors(size: int, count: int) -> Iterator[tuple[int, ...]]:
    if count == 1:
        yield (size,)
        return
    for one in (n for n in range(1, size + 1) if size % n == 0):
        yield from itertools.chain((one, *rest) for rest in _factors(size // one, count - 1))


def _least(experiment: Experiment, stage: str | None, topology: Topology) -> float:
    """Bytes of arguments and gradients of the learners' program, on all devices together."""
    found = programs(experiment, find_stage(experiment, stage), topology.devices())
    return max(_needed(one.held, whole_bytes) for one in found if one.role == "learners")


def _needed(held: dict[str, Any], size: Callable[[Any], float]) -> float:
    return sum(size(tree) * (2 if name.endswith((": parameters", ": head")) else 1) for name, tree in held.items())


def _by_arguments(experiment: Experiment, stage: str | None, mesh: Mesh, topology: Topology) -> Tried | None:
    """Without a compiler: None for a mesh that the experiment refuses, an outcome where arguments are too large."""
    start = time.monotonic()
    try:
        changed = dataclasses.replace(experiment, mesh=mesh)
        found = programs(changed, find_stage(changed, stage), topology.devices())
    except ValueError:
        return None
    needed = max(_needed(one.held, bytes_of) for one in found)
    outcome = "" if needed <= topology.memory else "too large by its arguments and gradients alone"
    return Tried(mesh=_sizes(mesh), outcome=outcome, bytes=needed, seconds=time.monotonic() - start)


def _compiled(
    file: Path, stage: str | None, topology: Topology, rest: Sequence[str], mesh: Mesh, limit: float
) -> Tried:
    """In a process of its own, which ends when it has had its time."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "distill.plan", str(file), "--topology", str(topology), "--json", str(out)]
        command += [] if stage is None else ["--stage", stage]
        command += [*rest, *(word for name, size in _sizes(mesh).items() for word in (f"--mesh.{name}", str(size)))]
        seconds = int(limit)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
        )
        if not out.exists():
            if done.returncode > 0:
                raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
            return Tried(mesh=_sizes(mesh), outcome="not finished", bytes=0.0, seconds=time.monotonic() - start)
        told = json.loads(out.read_text())
    needed = max(one["fit"]["bytes"] for one in told["programs"])
    outcome = "fits" if told["fits"] else "does not fit"
    return Tried(mesh=_sizes(mesh), outcome=outcome, bytes=needed, seconds=time.monotonic() - start)


def _sizes(mesh: Mesh) -> dict[str, int]:
    return {name: vars(mesh)[name] for name in axes(mesh)}


def _said(sizes: dict[str, int]) -> str:
    return " ".join(f"--mesh.{name} {size}" for name, size in sizes.items())
