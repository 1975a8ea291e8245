"""Search: the nearest mesh that fits, from refusals, which take seconds, to one compile that is finished."""

import argparse
import itertools
import json
import math
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from distill.experiment import Experiment
from distill.mesh import Mesh
from distill.plan.plan import find_stage, programs
from distill.plan.programs import Program, bytes_of, whole_bytes
from distill.plan.topology import Topology

TRIES = 12
"""meshes that are compiled, at most"""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a mesh."""

    mesh: dict[str, int]
    outcome: str
    """fits, or why it does not"""
    bytes: float = 0.0
    """that a device needs; 0 where that is not known"""
    whole: float = 0.0
    """of arguments and gradients on all devices together, nothing twice: no mesh can do with less"""
    seconds: float = 0.0
    plan: dict[str, Any] | None = None
    """of a mesh that fits"""

    @staticmethod
    def of(mesh: Mesh, outcome: str, start: float, **known: Any) -> "Tried":
        """Began at `start`, is known now."""
        return Tried(mesh=sizes(mesh), outcome=outcome, seconds=time.monotonic() - start, **known)


@dataclass(frozen=True)
class Search:
    """The meshes of an experiment, its own first and then the likest, until one fits.

    command: arguments of `python -m distill.plan`, by which each is compiled in a process of its own.
    limit: seconds of processor that a compile may take.
    """

    command: Sequence[str]
    experiment: Experiment
    stage: str | None
    topology: Topology
    limit: float
    devices: Sequence[Any] | None = None
    """those of the topology if not given"""

    def __call__(self) -> dict[str, Any]:
        """The plan of the mesh that fits, where there is one, and under "search" what was tried.

        It tells as it goes on. Whoever interrupts it has what was known until then.
        """
        tried: list[Tried] = []
        _tell(f"At most {TRIES} compiles of {self.limit:.0f} s of processor; Ctrl-C ends it and keeps what is known\n")
        try:
            for one in self._attempts():
                size = f", {one.bytes / 1e9:.1f} GB a device" if one.bytes > 0 else ""
                _tell(f"{one.outcome}{size} ({one.seconds:.0f} s)\n")
                tried.append(one)
            end = self._end(tried)
        except KeyboardInterrupt:
            end = f"interrupted; none of the meshes that were tried until then fits ({len(tried)})"
            _tell("\n")
        known = [{name: value for name, value in vars(one).items() if name != "plan"} for one in tried]
        stage = find_stage(self.experiment, self.stage).name
        blank = {
            "experiment": self.experiment.name, "stage": stage, "topology": str(self.topology),
            "chips": self.topology.chips, "fits": False, "programs": [],
        }  # fmt: skip
        plan = tried[-1].plan if tried else None
        return {**(plan or blank), "search": {"end": end, "tried": known}}

    def _attempts(self) -> Iterator[Tried]:
        asked, compiles, least = self.experiment.mesh, 0, 0.0
        for mesh in itertools.chain((asked,), likest(asked, self.topology.chips * self.topology.chip.devices)):
            if least > mesh.size * self.topology.memory:  # however it is cut
                continue
            _tell(f"{' x '.join(f'{name} {size}' for name, size in sizes(mesh).items() if size > 1) or 'one device'}: ")
            one = self._by_arguments(mesh)
            least = one.whole or least
            if not one.outcome:
                compiles += 1
                _tell(f"compile {compiles} of at most {TRIES} ... ")
                one = self._by_compiling(mesh, one.whole)
            yield one
            if one.plan is not None or compiles == TRIES:
                return

    def _by_arguments(self, mesh: Mesh) -> Tried:
        """Without a compiler; no outcome where that has to be asked."""
        start = time.monotonic()
        try:
            changed = replace(self.experiment, mesh=mesh)
            devices = self.topology.devices() if self.devices is None else self.devices
            found = programs(changed, find_stage(changed, self.stage), devices)
        except ValueError as error:
            return Tried.of(mesh, f"refused: {error}", start)
        whole = max(_whole(one) for one in found if one.role == "learners")
        needed = max(bytes_of(one.held) + sum(one.gradients.values()) for one in found)
        outcome = "" if needed <= self.topology.memory else "too large by its arguments and gradients alone"
        return Tried.of(mesh, outcome, start, bytes=needed, whole=whole)

    def _by_compiling(self, mesh: Mesh, whole: float) -> Tried:
        """In a process of its own, which ends when it has had its time."""
        start, seconds = time.monotonic(), int(self.limit)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "plan.json"
            done = subprocess.run(
                [sys.executable, "-m", "distill.plan", *with_mesh(self.command, mesh), "--json", str(out)],
                capture_output=True,
                text=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
            )
            told = json.loads(out.read_text()) if out.exists() else None
        if told is None:
            why = (done.stderr.strip().splitlines() or ["it did not say why"])[-1]
            outcome = f"not finished in {seconds} s of processor" if done.returncode < 0 else f"failed: {why}"
            return Tried.of(mesh, outcome, start, whole=whole)
        fit = max((one["fit"] for one in told["programs"]), key=lambda fit: fit["bytes"])
        if told["fits"]:
            return Tried.of(mesh, f"fits, {fit['by']}", start, bytes=fit["bytes"], whole=whole, plan=told)
        return Tried.of(mesh, f"does not fit, {fit['by']}", start, bytes=fit["bytes"], whole=whole)

    def _end(self, tried: Sequence[Tried]) -> str:
        """What it came to, and what to do."""
        last = tried[-1]
        if last.plan is not None:
            mesh = replace(self.experiment.mesh, **last.mesh)
            return f"fits: python -m distill.plan {shlex.join(with_mesh(self.command, mesh))}"
        whole = max(one.whole for one in tried)
        return (
            f"nothing that was tried fits {self.topology}; arguments and gradients alone are {whole / 1e9:,.0f} GB "
            f"together, for which {math.ceil(whole / self.topology.memory)} devices have the memory"
        )


def likest(mesh: Mesh, devices: int) -> Iterator[Mesh]:
    """Other meshes of at most so many devices: of as many as this one first, of twice as many then, and so on.

    One that is larger than that is halved before. Among those of one size that are first of which least is multiplied
    by two, or divided; and then those of fewer copies, of more parts of weights, and so on down the axes.
    """
    asked = list(sizes(mesh).values())
    size = math.prod(asked)
    while size > devices:
        size //= 2
    while size <= devices:
        found = []
        for one in _factors(size, len(asked)):
            far = sum(abs(math.log2(length / other)) for length, other in zip(one, asked, strict=True))
            if far:
                found.append((far, one[0], [-length for length in one[1:]], one))
        for *_, one in sorted(found):
            yield replace(mesh, **dict(zip(sizes(mesh), one, strict=True)))
        size *= 2


def sizes(mesh: Mesh) -> dict[str, int]:
    """Of a mesh's axes, by name; the number of its first device is none."""
    return {one.name: vars(mesh)[one.name] for one in fields(mesh) if one.name != "first"}


def with_mesh(command: Sequence[str], mesh: Mesh) -> list[str]:
    """Arguments of the command that plan this mesh, and search no more."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--search", action="store_true")
    for name in ("json", "limit", *(f"mesh.{name}" for name in sizes(mesh))):
        parser.add_argument(f"--{name}")
    _, rest = parser.parse_known_args(command)
    return [*rest, *(word for name, size in sizes(mesh).items() for word in (f"--mesh.{name}", str(size)))]


def _factors(size: int, count: int) -> Iterator[tuple[int, ...]]:
    if count == 1:
        yield (size,)
        return
    for one in (n for n in range(1, size + 1) if size % n == 0):
        yield from itertools.chain((one, *rest) for rest in _factors(size // one, count - 1))


def _whole(program: Program) -> float:
    """Bytes of arguments and gradients on all devices together, nothing twice."""
    weights = [tree for name, tree in program.held.items() if name.endswith((": parameters", ": head"))]
    gradients = sum(program.gradients.values()) / max(bytes_of(weights), 1.0) * whole_bytes(weights)
    return whole_bytes(program.held) + gradients


def _tell(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
