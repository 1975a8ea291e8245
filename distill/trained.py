"""Reading what was trained: the weights of a learner, from its run folder alone."""

from pathlib import PurePath
from typing import Any

from distill.checkpoint import Checkpoints
from distill.fingerprint import identify
from distill.mesh import Mesh
from distill.place import Place
from distill.run import Run, load_run
from distill.state import Weights, abstract_weights
from models.config import Config, Layer, RopeScaling, Tempering, Vision

_CLASSES = {one.__name__: one for one in (Config, Layer, RopeScaling, Tempering, Vision)}


def load_weights(
    path: str | PurePath, stage: str, learner: str, mesh: Mesh | None = None, step: int | None = None
) -> Weights:
    """The weights of a learner, without its optimizer: `load_weights("runs/herd", "distil", "scout").model`.

    Args:
      path: a run folder, finished or not.
      stage: the stage that trained it.
      learner: its name.
      mesh: where to put the weights; one device if not given.
      step: of the checkpoint to read, one of those that the run has kept; the newest if not given.

    Raises:
      ValueError: the run has no such stage or learner, or none of its checkpoints is whole.
      FileNotFoundError: the stage has not saved anything yet, or nothing of that step.
    """
    return read_weights(load_run(path), stage, learner, mesh or Mesh(), step)


def is_run(path: Place) -> bool:
    """Whether a folder is a run's, and not that of a checkpoint in the Hugging Face layout.

    Raises:
      ValueError: it is neither.
    """
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is neither a run nor a checkpoint: it has no config.json")
    return (path / "manifest.json").is_file() or (path / "environment.json").is_file()


def describe(path: str | PurePath, stage: str, learner: str) -> Config:
    """What a learner of a run is; nothing of its weights is read.

    Raises:
      ValueError: there is no such run, stage or learner.
    """
    return model_config(_learner(load_run(path), stage, learner)["model"])


def learners(config: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The learners in a run's configuration, by stage."""
    return {
        stage["name"]: stage["learners"] if "learners" in stage else [stage["learner"]] for stage in config["stages"]
    }


def read_weights(run: Run, stage: str, learner: str, mesh: Mesh, step: int | None = None) -> Weights:
    """The weights of a learner at a step, or the newest, sharded over a mesh."""
    one = _learner(run, stage, learner)
    shapes = abstract_weights(model_config(one["model"]), one["router"]["bias_rate"] > 0, mesh.build())
    with Checkpoints(run.checkpoints(stage), writable=False) as checkpoints:
        return checkpoints.restore({learner: {"weights": shapes}}, step=step).trees[learner]["weights"]


def identity(path: str | PurePath, stage: str, learner: str, step: int | None = None) -> str:
    """`distill.fingerprint.identify` of a learner at a step, or the newest; nothing of its weights is read."""
    run = load_run(path)
    with Checkpoints(run.checkpoints(stage), writable=False) as checkpoints:
        return identify(describe(path, stage, learner), checkpoints.fingerprints(f"{learner}.weights", step))


def last(run: Run, stage: str | None = None, learner: str | None = None) -> tuple[str, str]:
    """A stage and a learner of a run; the last stage where none is named, and its learner where it has one alone.

    Raises:
      ValueError: it has several, and none is named.
    """
    taught = learners(run.config)
    chosen = [*taught][-1] if stage is None else stage
    names = [one["name"] for one in taught.get(chosen, [])]
    if learner is None and len(names) > 1:
        raise ValueError(f"stage {chosen!r} of {run.path} has learners {names}; say which with --learner")
    return chosen, next(iter(names), "") if learner is None else learner


def model_config(found: dict[str, Any]) -> Config:
    """The model's Config out of config.json.

    Raises:
      ValueError: a class or field that this version does not know.
    """
    try:
        config = _rebuild(found)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"config.json describes a model that this version does not know ({error}); use the version that wrote it"
        ) from error
    assert isinstance(config, Config)
    return config


def _rebuild(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_rebuild(one) for one in value)
    if not isinstance(value, dict):
        return value
    return _CLASSES[value["class"]](**{name: _rebuild(one) for name, one in value.items() if name != "class"})


def _learner(run: Run, stage: str, learner: str) -> dict[str, Any]:
    """The configuration of a learner."""
    stages = learners(run.config)
    if stage not in stages:
        raise ValueError(f"there is no stage of {run.path} called {stage!r}; there are {[*stages]}")
    found = {one["name"]: one for one in stages[stage]}
    if learner not in found:
        raise ValueError(f"there is no learner of stage {stage!r} called {learner!r}; there are {[*found]}")
    return found[learner]
