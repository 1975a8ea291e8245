"""Llama 4 checkpoints on the command line: `python -m models.huggingface inspect|import|export PATH`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from models.huggingface.config_out import Ids
from models.huggingface.files import read_json
from models.huggingface.summary import GENERATION, SIGHT, TEXT, companions, summarize
from models.huggingface.weights_in import Progress, load
from models.huggingface.weights_out import save

Dtype = Literal["float32", "bfloat16", "float16"]


def inspect(path: Path) -> None:
    """Print what a checkpoint is; its headers are checked, its weights are not read.

    Args:
        path: its folder.
    """
    print(summarize(path))


def import_(
    path: Path, to: Path, dtype: Dtype | None = None, text_only: bool = False, shard_gigabytes: float = 5.0
) -> None:
    """Check every weight of a checkpoint from anywhere, and write it as one that a run can start from or learn from.

    Args:
        path: its folder.
        to: the folder to write; it must not exist.
        dtype: of the weights written; what they are, if not given.
        text_only: leave out the vision tower.
        shard_gigabytes: the most that one file holds.
    """
    beside, ids = companions(path, TEXT if text_only else (*TEXT, *SIGHT)), Ids.read(path)
    generation = [read_json(each) for each in companions(path, [GENERATION])]
    with _bar("reading") as progress:
        model = load(path, dtype, text_only=text_only, progress=progress)
    with _bar("writing") as progress:
        save(
            to, model, ids=ids, copied=beside, generation=next(iter(generation), None),
            shard_bytes=1e9 * shard_gigabytes, progress=progress,
        )  # fmt: skip
    print(summarize(to))


def export(
    path: Path, to: Path, stage: str | None = None, learner: str | None = None, dtype: Dtype | None = None
) -> None:
    """Write a learner of a run as a checkpoint that transformers and vLLM read.

    Args:
        path: the run folder.
        to: the folder to write; it must not exist.
        stage: the stage that trained it; the last one, if not given.
        learner: its name; may be left out where the stage has one only.
        dtype: of the weights written; float32, as they are trained, if not given.
    """
    chosen = {"--stage": stage, "--learner": learner, "--dtype": dtype}
    options = [word for name, value in chosen.items() if value is not None for word in (name, value)]
    # Runs are distill's, which this room knows nothing of: a process of its own, as if it had been asked itself.
    done = subprocess.run([sys.executable, "-m", "distill.export", str(path), str(to), *options], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(summarize(to))


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    """A bar of bytes on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    import tyro

    commands = {"inspect": inspect, "import": import_, "export": export}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, config=(tyro.conf.PositionalRequiredArgs,))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
