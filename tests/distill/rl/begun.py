"""A run of reinforcement learning, small: a model that has hardly begun, what it is asked, and a room for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import numpy as np

from distill import AdamW, Experiment, Learner, Stage, Trained, WarmupCosine
from distill.ceiling import Ceiling
from distill.checkpoint import Checkpoints
from distill.launch import run_experiment
from distill.mesh import Mesh
from distill.metrics import Metrics
from distill.rl.journal import Audit, audit, folder_of, read_records
from distill.rl.loop import run_reinforcement
from distill.rl.order import FirstInFirstOut
from distill.rl.record import Event
from distill.rl.reward import Rubric
from distill.rl.stage import LogNormal, Reinforcement
from distill.room import Room
from distill.run import Run
from distill.tasks.small import Small
from distill.tasks.source import Questions
from losses import Constant, Distill, NoGate
from models.config import SCOUT_PICO, Layer, tiny

ONE = Mesh()
MODEL = replace(tiny(SCOUT_PICO), pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=False)), layers=2)
ASKED = Small(tasks=("reverse", "sort"), levels=(0,), train=40, held_out=8)
EVEN = Rubric(name="even", where=f"{Path(__file__).parent / 'rewards.py'}:Even")
LEARNER = Learner(
    name="student",
    model=MODEL,
    loss=Distill(alpha=Constant(0.0), gate=NoGate()),
    optimizer=AdamW(rate=WarmupCosine(peak=1e-2)),
)
STAGE = Reinforcement(
    name="rl", learner=replace(LEARNER, start="begun", optimizer=AdamW(rate=WarmupCosine(peak=1e-3))), steps=5,
    questions=ASKED, groups=4, samples=4, tokens=8, length=16, slots=16, reward=EVEN, save_every=2,
    order=FirstInFirstOut(), max_policy_lag=1, pipeline_depth=1,
)  # fmt: skip
SLOW = LogNormal(mean=-3.5, sigma=1.5, most=0.5)


class AtLook(threading.Event):
    """Asks to stop when it is looked at for the `number`-th time."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number, self._looks = number, 0

    def is_set(self) -> bool:
        self._looks += 1
        return self._looks == self._number


@dataclass(frozen=True)
class Spoilt:
    """Centred rewards; in some updates they are not numbers."""

    updates: tuple[int, ...]
    seen: list[int] = field(default_factory=list)

    def __call__(self, rewards: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Advantages [g n]."""
        self.seen.append(len(self.seen) + 1)
        known = np.where(valid, rewards, 0.0)
        centred = known - known.sum(1, keepdims=True) / np.maximum(valid.sum(1, keepdims=True), 1)
        return np.where(valid, np.nan if self.seen[-1] in self.updates else centred, 0.0)


def begin(folder: Path) -> Path:
    """The run of a model that has learned to end its answers."""
    stage = Stage(name="begin", learners=(LEARNER,), steps=60, rows=32, length=16, save_every=30)
    made = Experiment(name="begun", stages=(stage,), corpus=Questions(ASKED), held_out=1, glance=1)
    run_experiment(made, folder, quiet=True)
    return folder


@contextmanager
def opened(begun: Path, folder: Path, stage: Reinforcement, mesh: Mesh = ONE) -> Iterator[Room]:
    """A room for a run of one stage, of a model that has begun."""
    given = Trained(name="begun", run=str(begun), stage="begin", learner="student")
    experiment = Experiment(name="rl", stages=(stage,), given=(given,), corpus=Questions(ASKED), mesh=mesh)
    folder.mkdir(parents=True, exist_ok=True)
    with Metrics(folder) as metrics:
        yield Room(experiment, Run(folder), metrics, Ceiling(1.0), threading.Event(), quiet=True)


def books(folder: Path, stage: Reinforcement) -> Audit:
    """The journal of a run that is over against its last checkpoint: what of its groups is lost, or there twice.

    Raises:
      AssertionError: groups were admitted that the checkpoint does not know, or the other way round, or twice.
    """
    with Checkpoints(folder / "checkpoints" / stage.name, writable=False) as checkpoints:
        controller = checkpoints.restore({}).meta["books"]["controller"]
    records = list(read_records(folder_of(folder, stage.name)))
    admitted = [uid for record in records if record.event is Event.ADMITTED for uid in record.uids]
    assert admitted == list(range(controller["admitted"])), f"{len(admitted)} of {controller['admitted']} groups"
    found = audit(records, live=[uid for uid, _, _, standing in controller["groups"] if standing != "dropped"])
    ends = {end: found.counts[end] for end in controller["ends"]}
    assert ends == controller["ends"], f"the journal has {ends}, the checkpoint {controller['ends']}"
    return found


def finish(
    begun: Path, folder: Path, stage: Reinforcement = STAGE, mesh: Mesh = ONE
) -> tuple[list[np.ndarray], list[dict]]:
    """The weights at the end of a run, and the lines of its metrics."""
    with opened(begun, folder, stage, mesh) as room:
        state = run_reinforcement(room, stage)
        return jax.device_get(jax.tree.leaves(state.weights)), Run(folder).metrics()
