"""A run folder is made, or opened to go on: held by one run, of the experiment that it was made for."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from typing import Any

from distill.agreement import by_first
from distill.environment import changed, environment
from distill.lock import alone
from distill.place import Place, absolute, write_json
from distill.resolved import differences, grown, to_json
from distill.run import SCHEMA, Run


@contextmanager
def open_run(path: str | PurePath, experiment: Any) -> Iterator[Run]:
    """Creates the run folder `path`, or opens it to go on; held alone by this run until the block ends.

    Of several processes the first writes and holds it.

    Args:
        path: the folder.
        experiment: a frozen dataclass, the resolved experiment; it must be the one the folder was made for.

    Raises:
        ValueError: the folder is of another experiment (the fields that differ are listed), is not a run folder, or
            another process is at work in it.
    """
    run = Run(absolute(path))
    config = {"schema": SCHEMA, **to_json(experiment)}

    def begin() -> None:
        _check_folder(run.path)
        run.path.mkdir(parents=True, exist_ok=True)
        held.enter_context(alone(run.path))
        now = environment()
        if (run.path / "config.json").exists():
            _settle(run, config, experiment)
            _note_environment(run, now)
        else:  # config.json last: a folder that has it is complete
            write_json(run.path / "environment.json", [now])
            write_json(run.path / "config.json", config)

    with ExitStack() as held:
        by_first(begin)
        yield run


def _check_folder(path: Place) -> None:
    """A folder with files but without config.json is not one of ours: keep out of it."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a run needs a folder: name another with --run")
    if not path.exists() or (path / "config.json").exists():
        return
    others = sorted(one.name for one in path.iterdir() if one.name != "environment.json" and one.name[0] != ".")
    if others:
        raise ValueError(
            f"{path} is not empty and not a run folder (it holds {', '.join(others[:5])} and no config.json); name "
            "another with --run"
        )


def _settle(run: Run, config: dict[str, Any], experiment: Any) -> None:
    """The folder's experiment is this one; where nothing was trained yet, it becomes this one."""
    every = differences(grown(run.config, experiment), config)
    found = [each for each in every if not each.path.startswith("mesh.")]
    if found and run.begun:
        lines = "".join(f"\n  {difference}" for difference in found)
        raise ValueError(
            f"{run.path} is a run of another experiment; these fields differ, old -> new:{lines}\nUse another --run "
            f"folder, or delete {run.path} to start over"
        )
    if every and run.begun:  # a run may go on on other devices: checkpoints and the place in the data know of none
        warnings.warn(
            f"{run.path} goes on on another mesh ({'; '.join(map(str, every))}): numbers may differ in their last "
            "digits",
            RuntimeWarning,
            stacklevel=5,
        )
    if every:
        write_json(run.path / "config.json", config)


def _note_environment(run: Run, now: dict[str, Any]) -> None:
    known = run.environment if (run.path / "environment.json").exists() else []
    if any(not changed(one, now) for one in known):
        return
    if known:
        lines = "; ".join(str(difference) for difference in changed(known[-1], now))
        warnings.warn(
            f"{run.path} goes on in another environment ({lines}): numbers may differ", RuntimeWarning, stacklevel=4
        )
    write_json(run.path / "environment.json", [*known, now])
