"""What several processes cannot do yet: refused before anything is written, not half done."""

import jax

from distill.cluster import several
from distill.experiment import Experiment
from distill.mesh import Mesh
from distill.stage import Stage, Staged


def check_several(experiment: Experiment) -> None:
    """Refuses of an experiment that several processes run what they cannot do together.

    Raises:
      ValueError: all of it, by stage, or a mesh that leaves some of their devices out.
    """
    if not several():
        return
    check_devices(experiment.mesh)
    found = [f"stage {stage.name!r}: {what}" for stage in experiment.stages for what in hindrances(stage)]
    found += ["examination: questions are asked by one process"] * (experiment.examination is not None)
    if found:
        raise ValueError(
            f"{jax.process_count()} processes cannot run this together: {'; '.join(found)}. Leave that out, or run it "
            "in one process"
        )


def check_devices(mesh: Mesh) -> None:
    """Refuses a mesh that leaves devices of several processes out, or needs more of them.

    Raises:
      ValueError: it does.
    """
    there = jax.device_count()
    if several() and mesh.size != there:
        raise ValueError(
            f"{mesh} takes {mesh.size} of the {there} devices of {jax.process_count()} processes, and each must have a "
            f"part of it; set --mesh.data so that the axes multiply to {there}"
        )


def hindrances(stage: Staged) -> list[str]:
    """What of a stage needs one process, each with the reason."""
    if not isinstance(stage, Stage):
        return [f"{type(stage).__name__} draws, judges and keeps its books in one process"]
    asked = {
        f"rollout={stage.rollout} writes answers in one process": stage.rollout,
        "teacher_on has devices of one process": stage.teacher_on,
        "selection has one process ask": stage.selection,
        "pacing has one process measure": stage.pacing,
    }
    return [reason for reason, there in asked.items() if there is not None]
