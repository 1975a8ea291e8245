"""The past of a stage of reinforcement learning: its groups and what was known of its prompts, out of the run's folder.

Nothing is opened to be written, so the run may be over, stopped or under way: `load_run("runs/course").rollouts("rl")`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.checkpoint import Checkpoints
from distill.curriculum.table import Table
from distill.curriculum.tracker import Tracker
from distill.rl.journal import ENDS, Audit, audit, folder_of, read_records
from distill.rl.record import Event
from distill.rl.rollouts import Rollouts
from distill.run import Run


@dataclass(frozen=True, eq=False, kw_only=True)
class Fate:
    """A group that was drawn and judged, and what became of it."""

    group: Rollouts
    event: Event
    """CONSUMED: learned from; FILTERED: it had nothing to teach; EXPIRED: too old; COMPLETED: none of these yet"""
    at: int | None
    """version of the learner that learned from it, or that it was too old for; None: neither"""


def read_rollouts(run: Run, stage: str) -> Iterator[Fate]:
    """The groups of a stage in the order in which they came to their ends, and then those that have not yet.

    Groups that could not be drawn have no answers, and are not among them. Memory holds those without an end.

    Raises:
      ValueError: the stage has no journal, or it is damaged, or does not hold together.
    """
    return fates(folder_of(run.disk, stage))


def fates(folder: Path) -> Iterator[Fate]:
    """The groups of the journal in a folder; see `read_rollouts`."""
    waiting: dict[int, Rollouts] = {}
    for record in read_records(folder):
        if record.event is Event.COMPLETED:
            group = Rollouts.from_record(record)
            waiting[group.uid] = group
        if record.event not in ENDS:
            continue
        for uid in record.uids:
            group = waiting.pop(uid, None)
            if group is not None:
                at = None if record.event is Event.FILTERED else record.version
                yield Fate(group=group, event=record.event, at=at)
            elif record.event in (Event.CONSUMED, Event.FILTERED):
                raise ValueError(
                    f"the journal {folder} does not hold together: group {uid} was {record.event.value} at version "
                    f"{record.version}, and was not drawn, or came to an end before; it was changed, bring back a copy"
                )
    yield from (Fate(group=group, event=Event.COMPLETED, at=None) for group in waiting.values())


def read_tracker(run: Run, stage: str, step: int | None = None) -> Tracker:
    """What a stage knew of each of its prompts (`Tracker.belief`, `Tracker.ids`) at a checkpoint.

    Args:
      run: its run.
      stage: its name.
      step: of the checkpoint, one of those that the run has kept; None: the newest.

    Raises:
      FileNotFoundError: there is no checkpoint of the stage, or none of that step.
      ValueError: the stage is not of reinforcement learning, or its journal does not say what its prompts are.
    """
    books = _books(run, stage, step)
    first = next(read_records(folder_of(run.disk, stage)), None)
    if first is None or first.event is not Event.BEGUN or not {"ids", "kinds"} <= {*first.facts}:
        raise ValueError(
            f"the journal of stage {stage!r} of {run.path} does not name its prompts, as an older version began it; "
            'make the tracker yourself: Tracker.blank(ids).restore(checkpoint.meta["books"]["tracker"])'
        )
    ids, kinds = tuple(first.facts["ids"]), first.facts["kinds"]
    measured = run.disk / "difficulty" / f"{stage}.json"
    begun = Tracker.begin(ids, Table.load(measured)) if measured.exists() else Tracker.blank(ids)
    return replace(begun, kinds=None if kinds is None else np.array(kinds)).restore(books["tracker"])


def audit_books(run: Run, stage: str) -> Audit:
    """The journal of a stage, as far as its last checkpoint knows it, against the groups that this has under way.

    Raises:
      FileNotFoundError: there is no checkpoint of the stage.
      ValueError: the stage is not of reinforcement learning, or its journal is damaged, or another one.
    """
    books = _books(run, stage)
    live = [uid for uid, *_ in books["controller"]["groups"]]
    return audit(read_records(folder_of(run.disk, stage), end=books["journal"]), live)


def _books(run: Run, stage: str, step: int | None = None) -> dict[str, Any]:
    """What a checkpoint keeps of `Books`."""
    with Checkpoints(run.checkpoints(stage), writable=False) as checkpoints:
        meta = checkpoints.restore({}, step=step).meta
    if "books" not in meta:
        raise ValueError(f"stage {stage!r} of {run.path} is not one of reinforcement learning: it keeps no books")
    return meta["books"]
