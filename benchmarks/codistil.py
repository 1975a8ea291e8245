"""Two students from one teacher pass against two runs with a student each: what one pass for both saves.

T is the teacher's forward pass, S1 and S2 the students' steps on hidden states that are already there; each is measured
alone, in the same rounds as the two forms. One pass for both should take (T + S1 + S2) / (2 T + S1 + S2) of the time of
two runs, or less where compiling both students together finds more to share.

    python -m benchmarks.codistil                       # the herd's sizes, and larger ones; CPU or GPU
    python -m benchmarks.codistil --only larger --rounds 15 --out codistil.jsonl
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import Table, alternate
from distill.data.batch import Batch
from distill.mesh import Mesh
from distill.stage import Learner
from distill.state import create
from distill.step import Step
from distill.teacher import LiveTeacher, StoredTeacher
from models.config import BEHEMOTH_PICO, MAVERICK_PICO, SCOUT_PICO, Config
from models.execution import Execution

STEPS = 1000
TOGETHER, FIRST, SECOND = "both from one pass", "first run", "second run"


@dataclass(frozen=True)
class Setting:
    """A teacher, two students and their batch."""

    teacher: Config
    students: tuple[Config, Config]
    rows: int
    length: int


def _wider(config: Config, times: int) -> Config:
    """A configuration with more heads, as wide as they are together, a vocabulary of 8192."""
    return replace(
        config,
        vocab=8192,
        width=times * config.width,
        heads=times * config.heads,
        expert_width=times * config.expert_width,
        dense_width=times * config.dense_width,
        chunk=128,
    )


SETTINGS = {
    "herd": Setting(BEHEMOTH_PICO, (SCOUT_PICO, MAVERICK_PICO), rows=8, length=128),
    "larger": Setting(_wider(BEHEMOTH_PICO, 4), (_wider(SCOUT_PICO, 4), _wider(MAVERICK_PICO, 4)), rows=4, length=256),
}
"""experiments/herd.py, and four times the width over a trained vocabulary"""


def batch_of(setting: Setting) -> Batch:
    """Random tokens [1 b t] of whole documents."""
    shape = 1, setting.rows, setting.length
    tokens = jax.random.randint(jax.random.key(0), shape, 0, setting.teacher.vocab)
    ones, places = jnp.ones(shape, jnp.int32), jnp.broadcast_to(jnp.arange(setting.length), shape)
    return Batch(tokens=tokens, labels=jnp.roll(tokens, -1, axis=-1), mask=ones > 0, segments=ones, positions=places)


def contestants(setting: Setting, execution: Execution) -> dict[str, Callable[[], Any]]:
    """Both forms and their parts, as functions of no arguments; every one keeps states of its own."""
    mesh, batch = Mesh().build(), batch_of(setting)
    one, other = (Learner(name=f"student{i}", model=model) for i, model in enumerate(setting.students, 1))
    weights = create(Learner(name="teacher", model=setting.teacher), STEPS, mesh, 0).weights
    teacher = LiveTeacher(weights, execution)
    ask = jax.jit(lambda teacher, batch: teacher.signal(jax.tree.map(lambda x: x[0], batch)))
    heard = replace(batch, targets=jax.tree.map(lambda x: x[None], ask(teacher, batch)))

    def repeat(learners: tuple[Learner, ...], voice: Any, rows: Batch) -> Callable[[], Any]:
        step = jax.jit(Step(learners, STEPS, execution), donate_argnums=0)
        states = tuple(create(each, STEPS, mesh, 0) for each in learners)

        def call() -> Any:
            nonlocal states
            states, metrics = step(states, voice, rows)
            return states, metrics

        return call

    return {
        TOGETHER: repeat((one, other), teacher, batch),
        FIRST: repeat((one,), teacher, batch),
        SECOND: repeat((other,), teacher, batch),
        "T": functools.partial(ask, teacher, batch),
        "S1": repeat((one,), StoredTeacher(), heard),
        "S2": repeat((other,), StoredTeacher(), heard),
    }


def shares(seconds: dict[str, float]) -> tuple[float, float]:
    """Time of one pass for both over that of two runs: measured, and ideal by T, S1 and S2."""
    t, students = seconds["T"], seconds["S1"] + seconds["S2"]
    return seconds[TOGETHER] / (seconds[FIRST] + seconds[SECOND]), (t + students) / (2 * t + students)


def median(table: Table) -> tuple[float, float]:
    """Both shares, each the median over rounds."""
    rounds = [dict(zip(table.seconds, row, strict=True)) for row in zip(*table.seconds.values(), strict=True)]
    found = sorted(shares(each)[0] for each in rounds), sorted(shares(each)[1] for each in rounds)
    measured, ideal = (values[len(values) // 2] for values in found)
    return measured, ideal


def main() -> None:
    """The table, and a line a setting in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SETTINGS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    asked = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {asked.dtype}", flush=True)
    for name in [asked.only] if asked.only else SETTINGS:
        begun = time.perf_counter()
        table = alternate(contestants(SETTINGS[name], Execution(dtype=asked.dtype)), asked.rounds, patience=2.0)
        measured, ideal = median(table)
        effort = shares({each: sorted(work)[len(work) // 2] for each, work in table.work.items()})
        print(f"\n{name}\n{table.show(TOGETHER)}")
        print(f"{name}: {measured:.3f} of the time of two runs; ideal {ideal:.3f}; {measured / ideal:.3f} of the ideal")
        print(
            f"by CPU time {effort[0]:.3f}, ideal {effort[1]:.3f}; {time.perf_counter() - begun:.0f} s in all",
            flush=True,
        )
        if asked.out is not None:
            row = {"setting": name, "dtype": asked.dtype, "platform": jax.devices()[0].device_kind}
            row |= asdict(table) | {"measured": measured, "ideal": ideal}
            with open(asked.out, "a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
