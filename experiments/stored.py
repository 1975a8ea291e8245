"""What does a student lose when it learns from a store in its teacher's place, and what does the store weigh?

One teacher; what it says of the students' batches goes to stores of several forms; students from the same initial
weights, on the same batches, without labels: from the teacher itself (live), from each store, and, beside two of
them, from the stored tokens renormalised to 1, as if there were no others. Seeds are those of students and batches.

    python -m experiments.stored --seeds 5     # the table in experiments/README.md
    python -m experiments.stored --tiny

A run that was stopped goes on where it was. Cost and result: experiments/README.md.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Array, Int

from distill import Experiment, Learner, Stage, Trained
from distill.capture import Capture
from distill.launch import run_experiment
from distill.process import settle
from distill.state import Weights
from distill.statistics import paired
from distill.stored import Store
from distill.targets import Form
from experiments.herd import BEHEMOTH, SCOUT
from experiments.top_k_bias import renormalised
from losses import Distill, Lens, NoGate, Sampled, TopK

SETTINGS: dict[str, dict[str, Any]] = {
    "top-12": {"count": 12}, "draws-50": {"count": 50, "kind": "sampled"}, "top-20": {"count": 20},
    "draws-12": {"count": 12, "kind": "sampled"}, "top-4": {"count": 4}, "top-8": {"count": 8},
    "top-12-wide": {"count": 12, "dtype": "float32"},
    "top-4-draws-16": {"count": 16, "kind": "sampled", "known": 4},
    "top-8-draws-8": {"count": 8, "kind": "sampled", "known": 8},
    "top-12-draws-12": {"count": 12, "kind": "sampled", "known": 12},
}  # fmt: skip


@dataclass(frozen=True)
class Cut(Lens):
    """The stored tokens, renormalised."""

    def __call__(self, signal: TopK, labels: Int[Array, "b t"]) -> Sampled:
        """Weights that add to 1."""
        return renormalised(signal)


PLAIN = replace(SCOUT, loss=Distill(gate=NoGate()))
CUT = replace(SCOUT, name="cut", twin="scout", loss=Distill(gate=NoGate(), lens=Cut()))
CUTS = ("top-12", "top-4")
TEACH = Experiment(name="teacher", stages=(Stage(name="teach", learners=(BEHEMOTH,), steps=800),))
LIVE = Stage(name="live", learners=(PLAIN,), teacher="behemoth", steps=150, stream=1)


def taught(folder: Path) -> Experiment:
    """The students of the stores in a folder, and of the teacher beside it."""
    given = Trained(name="behemoth", run=str(folder.parent / "teacher"), stage="teach", learner="behemoth")

    def learners(name: str) -> tuple[Learner, ...]:
        return (PLAIN, CUT) if name in CUTS else (PLAIN,)

    stages = (replace(LIVE, name=name, learners=learners(name), store=str(folder / name)) for name in SETTINGS)
    return Experiment(name="students", stages=(LIVE, *stages), given=(given,))


def sized(one: Experiment, tiny: bool) -> Experiment:
    """As it is, or tiny under the same name."""
    return replace(one.tiny(), name=one.name) if tiny else one


def run_seed(folder: Path, seed: int, tiny: bool) -> dict[str, tuple[float, float | None]]:
    """Held-out cross-entropy of each student, and the bytes a token of its store on disk."""
    students = replace(sized(taught(folder), tiny), seed=seed)
    weights, name = students.given[0].teacher(students.mesh), students.given[0].fingerprint
    sizes: dict[str, float | None] = {"live": None}
    for stage in students.lessons[1:]:
        store = Store(folder / stage.name)
        form = Form(vocab=PLAIN.model.vocab, length=stage.length, **SETTINGS[stage.name])
        Capture(students, stage, name, Weights(*weights), form).run(store, quiet=True)
        sizes[stage.name] = store.size / stage.seen
    rows = run_experiment(students, folder / "students", quiet=True)["models"]
    names = {"scout": "", "cut": ", renormalised"}
    return {row["stage"] + names[row["name"]]: (row["cross_entropy"], sizes[row["stage"]]) for row in rows}


def table(found: list[dict[str, tuple[float, float | None]]]) -> Iterator[str]:
    """A line a student: means over seeds, and the paired difference from the one that heard the teacher itself."""
    yield f"{'':22}{'bytes a token':>14}{'cross-entropy':>15}  minus live [95 %]"
    live = [seed["live"][0] for seed in found]
    for name, (_, size) in found[0].items():
        values = [seed[name][0] for seed in found]
        weight = "" if size is None else f"{size:.1f}"
        yield f"{name:22}{weight:>14}{statistics.fmean(values):15.4f}  {'' if name == 'live' else paired(values, live)}"


def main() -> None:
    """Runs the seeds, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/stored"), help="folder of teachers, stores and students")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="shrunk to a minute or two")
    said = parser.parse_args()
    settle()
    folder = said.run.with_name(f"{said.run.name}-tiny") if said.tiny else said.run
    run_experiment(sized(TEACH, said.tiny), folder / "teacher", quiet=True)
    print("\n".join(table([run_seed(folder / f"seed{seed}", seed, said.tiny) for seed in range(said.seeds)])))


if __name__ == "__main__":
    main()
