"""The order in which a stage reads, by its pacing: every document is measured once, and a table says how hard it is."""

from itertools import islice

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from distill import mesh as meshes
from distill.curriculum.pacing import Pacing, schedule
from distill.curriculum.pool import Pool
from distill.curriculum.reducible import Reducible
from distill.data.batch import Batch
from distill.data.loader import Loader
from distill.data.manifest import Documents, fingerprint
from distill.data.question import uncut
from distill.data.source import Source
from distill.hold import AsItIs
from distill.likelihood import label_logps
from distill.room import Room
from distill.stage import Stage
from distill.state import Weights
from models.execution import Execution


def ordered(room: Room, stage: Stage, loader: Loader, source: Source, pacing: Pacing) -> Int[np.ndarray, "n"]:
    """Places of the loader's training documents in the order in which the stage reads them: the same every time.

    Raises:
      ValueError: the pacing leaves no document, or a table that is there is of something else.
    """
    documents = loader.training(source)
    table = reducible(room, stage, loader, documents, source, pacing)
    # A question is a row, whatever its length; text fills rows, and its first token is no label.
    sizes = np.full(len(documents), float(loader.length)) if uncut(documents[0]) else table.tokens + 1.0
    return arrange(table, sizes, stage, loader.seed, pacing)


def arrange(
    table: Reducible, sizes: Float[np.ndarray, "n"], stage: Stage, seed: int, pacing: Pacing
) -> Int[np.ndarray, "m"]:
    """The order of measured documents of these sizes, in tokens, for a stage.

    Raises:
      ValueError: the pacing leaves no document.
    """
    stays = np.ones(len(table.ids), bool) if pacing.keep is None else pacing.keep(table)
    if not stays.any():
        raise ValueError(f"stage {stage.name!r}: {pacing.keep} leaves none of {len(stays)} documents")
    # What is read ahead: rows to be shuffled, a batch, and of every row the token that is a label only.
    reserve = (pacing.window + 2 * stage.rows) * (stage.length + 1) + stage.steps * stage.rows
    order = schedule(pacing.sampler, table.where(stays), sizes[stays], stage.seen, reserve, seed)
    return np.flatnonzero(stays)[order]


def reducible(
    room: Room, stage: Stage, loader: Loader, documents: Documents, source: Source, pacing: Pacing
) -> Reducible:
    """The loss of who is measured less the teacher's on each document: read, or measured and kept.

    Raises:
      ValueError: the table that is there is damaged, or of other documents, another model or another teacher.
    """
    path, teacher = room.run.path / "difficulty" / f"{stage.name}.json", str(stage.teacher)
    asked = [source.manifest().sha256, loader.seed, loader.documents, loader.length, stage.teacher_as]
    ids = tuple(str(place) for place in range(len(documents)))
    pool = Pool(
        ids=ids,
        capabilities=("text",) * len(ids),
        levels=np.zeros(len(ids), np.int64),
        content=fingerprint(map(str, asked)),
    )
    who = room.identity(pacing.by), room.identity(teacher)
    if path.exists():
        table = Reducible.load(path)
        table.check(pool, *who)
        return table
    for other in room.experiment.lessons:  # of one stream they read the same documents, by whatever rule
        found = path.with_name(f"{other.name}.json")
        if other.pacing is not None and found.exists():
            table = Reducible.load(found)
            if (table.pool, table.model, table.teacher) == (pool.fingerprint, *who):
                table.save(path)
                return table
    room.say(f"{stage.name}: {pacing.by} and {teacher} read {len(ids)} documents")
    experiment = room.experiment
    holds = (pacing.by, AsItIs()), (teacher, stage.teacher_as)
    models = tuple(
        (room.teacher_weights(name, hold, experiment.mesh), hold.execution(experiment.execution))
        for name, hold in holds
    )
    losses, labels = measure(models, loader, documents, experiment.mesh.build())
    means = losses / labels
    table = Reducible(
        ids=ids, losses=means[0] - means[1], tokens=labels, model=who[0], teacher=who[1], pool=pool.fingerprint
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    table.save(path)
    return table


def measure(
    models: tuple[tuple[Weights, Execution], ...], loader: Loader, documents: Documents, mesh: jax.sharding.Mesh
) -> tuple[Float[np.ndarray, "m n"], Int[np.ndarray, "n"]]:
    """The cross-entropy of m models on each document, summed, nats; and its labels."""
    sums, labels = np.zeros((len(models), len(documents))), np.zeros(len(documents), np.int64)
    rows = ((place, row) for place in range(len(documents)) for row in loader.pieces(documents[place]))
    while some := list(islice(rows, loader.rows)):
        batch = loader.filled([row for _, row in some])
        places = [place for place, _ in some]
        np.add.at(labels, places, batch.mask.sum(-1)[: len(some)])
        placed = jax.device_put(batch, meshes.rows(mesh))
        for total, (weights, execution) in zip(sums, models, strict=True):
            np.add.at(total, places, np.asarray(_losses(weights, placed, execution), np.float64)[: len(some)])
    return sums, labels


@jax.jit(static_argnames="execution")
def _losses(weights: Weights, batch: Batch, execution: Execution) -> Float[Array, "b"]:
    """Cross-entropy of each row, summed."""
    return -label_logps(weights, batch, execution).sum(-1)
