"""Full sizes: what the plans of this folder share. Nothing here fits a machine at hand; `distill.plan` compiles it."""

from dataclasses import replace

from distill import Experiment, Learner, Mesh, Reinforcement, Stage
from losses import Distill
from models.config import SCOUT, Config
from models.execution import Execution
from models.moe import Capacity
from models.remat import Inputs

POD = Execution(dtype="bfloat16", remat=Inputs(), dispatch=Capacity(factor=1.25))
"""every layer computed again for its gradient; places for a quarter more tokens an expert than an even load needs"""
LENGTH = 8192
"""tokens of a row; one row a chip"""
LONG = replace(SCOUT, max_positions=10 * 2**20)
"""Scout as it is tuned for long documents"""


def student(name: str, model: Config, chunk: int = 512, **changes) -> Learner:
    """A learner of full size, whose logits exist for `chunk` positions at a time."""
    return Learner(name=name, model=model, loss=Distill(chunk=chunk), **changes)


def teaching(name: str, model: Config, mesh: Mesh) -> Stage:
    """The stage in which a teacher learned; nobody plans it here."""
    return Stage(name=f"teach_{name}", learners=(student(name, model),), steps=1000, rows=mesh.size, length=LENGTH)


def experiment(name: str, *stages: Stage | Reinforcement, mesh: Mesh, **changes) -> Experiment:
    """Stages on a pod."""
    return Experiment(name=name, stages=stages, mesh=mesh, **{"execution": POD, **changes})
