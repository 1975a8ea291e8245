"""The command line of an experiment file: every field of the experiment is an option, by its dotted path."""

import runpy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from distill.experiment import Experiment
from distill.place import Place, place
from distill.profile import Profile
from distill.stage import Staged
from models.placement import Placement


@dataclass(frozen=True)
class Options:
    """An experiment as the command line left it, and how to launch it."""

    experiment: Experiment
    seeds: int
    folder: Place
    quiet: bool
    profile: Profile | None = None

    def seeded(self) -> list[tuple[Place, Experiment]]:
        """A run folder and an experiment per seed."""
        first = self.experiment.seed
        return [
            (
                self.folder if n == 0 else self.folder.with_name(f"{self.folder.name}-seed{first + n}"),
                replace(self.experiment, seed=first + n),
            )
            for n in range(self.seeds)
        ]


def load(path: Path) -> Experiment:
    """EXPERIMENT of an experiment file; runs the file, as `python file` would, but for its main part.

    Raises:
      ValueError: there is no such file, or it defines no EXPERIMENT.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; name an experiment, such as experiments/herd.py")
    found = runpy.run_path(str(path)).get("EXPERIMENT")
    if not isinstance(found, Experiment):
        raise ValueError(f"{path} defines no EXPERIMENT, or it is not a distill.Experiment; give it one")
    return found


def parse(experiment: Experiment, arguments: Sequence[str]) -> Options:
    """Options from the command line; the experiment's own values are the defaults.

    Raises:
      SystemExit: `--help`, or an unknown option or bad value, after a message with the nearest options that exist.
    """
    import tyro

    default = experiment.tiny() if "--tiny" in arguments else experiment

    def options(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = default,
        *,
        tiny: bool = False,
        seeds: int = 1,
        run: str | None = None,
        quiet: bool = False,
        profile: str | None = None,
    ) -> Options:
        """Run this experiment. Every field is an option, by its dotted path.

        Args:
            experiment: the experiment.
            tiny: shrink it to about a minute on a laptop; other options apply on top.
            seeds: how many runs, with consecutive seeds, each in a folder of its own.
            run: the run folder, here or gs://BUCKET/FOLDER (default: runs/ and the experiment's name); the same command
                goes on where it was.
            quiet: no progress bars.
            profile: optimizer steps of each stage to write traces of into the run folder's profiles/, such as 10:13.
        """
        if seeds < 1:
            raise ValueError(f"--seeds is {seeds}; it must be at least 1")
        steps = None if profile is None else Profile.parse(profile, experiment.stages)
        return Options(experiment, seeds, place(run or Path("runs") / experiment.name), quiet, steps)

    config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff)
    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(_own_class)
    registry.struct_rule(_stages)
    with registry:
        return tyro.cli(options, args=list(arguments), config=config)


def _own_class(info: Any) -> Any:
    """How tyro sees a Protocol beside shipped classes: as what the experiment's file chose, which it cannot change.

    A placement it cannot change either: the mesh's options do.
    """
    import tyro

    if info.type is not Placement and not getattr(info.type, "_is_protocol", False):
        return None
    if isinstance(info.default, info.type):
        return tyro.constructors.StructConstructorSpec(instantiate=lambda: info.default, fields=())

    def refuse() -> None:
        raise ValueError(f"a {info.type.__name__} of your own enters in the experiment's file, not here")

    return tyro.constructors.StructConstructorSpec(instantiate=refuse, fields=())


def _stages(info: Any) -> Any:
    """How tyro sees stages: each of its own kind, which the command line cannot change."""
    import tyro

    default = info.default
    if not (isinstance(default, tuple) and default and all(isinstance(one, Staged) for one in default)):
        return None
    fields = (
        tyro.constructors.StructFieldSpec(name=str(number), type=type(one), default=one, helptext="")
        for number, one in enumerate(default)
    )
    return tyro.constructors.StructConstructorSpec(instantiate=tuple, fields=tuple(fields))
