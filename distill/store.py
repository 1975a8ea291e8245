"""A teacher's forward passes, paid once: its targets on a stage's rows go to disk, and students train from there.

    python -m distill.store capture experiments/herd.py runs/herd targets --stage distil --count 12
    python -m distill.store capture experiments/herd.py runs/herd targets --kind sampled --known 8 --count 8
    python -m distill.store inspect targets
    python -m distill.store verify experiments/herd.py runs/herd targets --stage distil

The stage then learns from it with `--stages.1.store targets`. A capture that was killed goes on where it was; what is
there is whole. Options of the experiment follow `--`, as in `-- --tiny`.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from jax.experimental import multihost_utils

from distill.capture import Capture
from distill.cluster import first, join, several
from distill.hold import AsItIs
from distill.stage import Stage
from distill.state import Weights
from distill.stored import Store
from distill.targets import Form
from distill.trained import identity, load_weights


def open_capture(
    file: Path, run: Path, options: tuple[str, ...], stage: str, asked: dict[str, Any], shard: int
) -> Capture:
    """The capture that the command line asks for; `asked` are fields of its `Form`, but what the stage says.

    Raises:
        ValueError: there is no such file or stage, it hears no teacher, or what a store cannot hold or replace.
    """
    from distill.options import load, parse

    experiment = parse(load(file), options).experiment
    heard = {one.name: one for one in experiment.lessons if one.teacher}
    if not ((chosen := heard.get(stage)) and chosen.teacher):
        raise ValueError(f"{file} has no stage {stage!r} with a teacher; there are {[*heard]}")
    _check_one(chosen)
    if experiment.model_of(chosen.teacher).vision is not None:
        raise ValueError(f"stage {stage!r} has images, and a store keeps text alone")
    given = experiment.given_of(chosen.teacher)
    if given is not None:
        teacher, weights = given.fingerprint, Weights(*given.teacher(experiment.mesh))
    else:
        place = (run, experiment.stage_of(chosen.teacher).name, chosen.teacher)
        teacher, weights = identity(*place), load_weights(*place, experiment.mesh)
    asked = asked | {"vocab": weights.model.config.vocab, "length": chosen.length}
    form = Form(**asked)
    return Capture(experiment, chosen, teacher, weights, form, shard)


def _check_one(stage: Stage) -> None:
    """Refuses words that a store cannot hold, or that would be of other rows when they are read."""
    reasons = {
        f"it hears {stage.teachers}, and a store holds the words of one teacher": stage.ensemble,
        "a store has the words of the teacher as it is; leave teacher_as out": stage.teacher_as != AsItIs(),
        f"{stage.beside!r} teaches it while it learns": stage.beside,
        f"its rows are completed anew by {stage.rollout}": stage.rollout,
    }
    if found := [reason for reason, there in reasons.items() if there]:
        raise ValueError(f"the teacher of stage {stage.name!r} cannot be captured: {' and '.join(found)}")


def capture(
    file: Path,
    run: Path,
    to: Path,
    stage: str = "distil",
    kind: Literal["top_k", "sampled"] = "top_k",
    count: int = 12,
    known: int = 0,
    dtype: Literal["float16", "float32"] = "float16",
    shard: int = 50,
    process: int = 0,
    processes: int = 1,
    options: tuple[str, ...] = (),
) -> None:
    """Writes a teacher's targets on the rows of a stage, or what is missing of them.

    Args:
        file: the experiment's.
        run: the run folder that holds the teacher's weights.
        to: the store.
        stage: whose teacher, on whose rows.
        kind: the most probable tokens and the mass of the rest, or draws.
        count: tokens of a position.
        known: of the most probable tokens, kept beside draws, which stand for the others then.
        dtype: of log-probabilities.
        shard: batches of a shard: what a killed capture may lose.
        process: which part of every batch is captured here, of `processes` parts; each needs nothing of the others.
        processes: that share the work, each with a teacher of its own. Whoever reads it may be another number.
            Processes that hold one teacher together (`distill.cluster`) leave both out.
        options: the experiment's own.
    """
    join()
    form = {"kind": kind, "count": count, "known": known, "dtype": dtype}
    asked = open_capture(file, run, options, stage, form, shard)
    if several():
        if (process, processes) != (0, 1):
            raise ValueError(
                f"--process {process} --processes {processes}: the processes know their parts; leave both out"
            )
        process, processes = jax.process_index(), jax.process_count()
    asked.run(Store(to), process, processes, quiet=not first())
    if several():
        multihost_utils.sync_global_devices("all is captured")
    if first():
        inspect(to)


def inspect(store: Path) -> None:
    """Prints what a store holds and what it weighs."""
    found = Store(store)
    about = found.about
    tokens = about.rows * (about.batches - found.missing()) * about.form.length
    for name, value in vars(about).items():
        print(f"{name:12} {value}")
    print(f"{'missing':12} {found.missing()} of {about.batches} batches")
    raw = about.form.target_bytes
    each = f"{found.size / max(tokens, 1):.1f} a token with the rows themselves"
    print(f"{'bytes':12} {found.size}, {each}; targets {raw:.1f} a token before compression")


def verify(
    file: Path, run: Path, store: Path, stage: str = "distil", batches: int = 4, options: tuple[str, ...] = ()
) -> None:
    """Holds a store's shards against their checksums, and some of its batches against the teacher."""
    about = Store(store).about
    asked = open_capture(file, run, options, stage, asdict(about.form), about.shard)
    worst = asked.verify(Store(store), batches)
    print(f"every shard is whole; the largest difference of a probability is {worst:.2g} over {batches} batches")


if __name__ == "__main__":
    import tyro

    given = sys.argv[1:]
    ahead, behind = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    asks = {"capture": partial(capture, options=tuple(behind)), "verify": partial(verify, options=tuple(behind))}
    try:
        tyro.extras.subcommand_cli_from_dict(
            {**asks, "inspect": inspect}, args=ahead, config=(tyro.conf.PositionalRequiredArgs,)
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
