"""What a stage reads: rows of its corpus or of a store, as batches on its mesh."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Int

from distill import mesh as meshes
from distill.cluster import settled
from distill.data.batch import Batch
from distill.data.loader import Batches, Loader
from distill.data.portion import Portion
from distill.data.source import Source
from distill.experiment import Experiment
from distill.ordering import ordered
from distill.room import Room
from distill.rows import Rows, StoredBatches
from distill.selecting import selected
from distill.stage import Stage, Staged
from distill.stored import Store

Tree = TypeVar("Tree")


def stage_loader(experiment: Experiment, stage: Staged) -> Loader:
    """Stages of one stream draw the same batches; the learners of a stage, and their teacher, see alike."""
    domains = experiment.corpus_of(stage).manifest().domains
    seed = experiment.seed * 1000 + stage.stream
    return stage.loader(seed, experiment.tokenizer, domains if len(domains) > 1 else ())


def describe_order(experiment: Experiment, stage: Stage) -> str:
    """Which rows of its corpus a stage reads, in which order.

    Raises:
      ValueError: its order, or its questions, follow from what was measured in its run.
    """
    if stage.selection is not None:
        raise ValueError(
            f"stage {stage.name!r} reads what its selection leaves, by what its own run measured, and a store is "
            "captured without a run; leave selection out of the stage to capture"
        )
    if stage.pacing is not None:
        raise ValueError(
            f"stage {stage.name!r} reads in an order of its own run, by its pacing, and a store is captured without a "
            "run; leave pacing out of the stage to capture"
        )
    loader = stage_loader(experiment, stage)
    said = f"{loader.documents or 'all'} documents, seed {loader.seed}, shuffled in windows of {loader.window}"
    return said + (f", by {stage.readers} readers" if stage.readers > 1 else "")


def stage_batches(room: Room, stage: Stage) -> Batches:
    """What a stage learns from: rows of the corpus, or of a store, with what the teacher said of them.

    Raises:
      ValueError: the store is not whole, too short, or of another teacher, tokenizer or corpus.
    """
    if not stage.store:
        loader, source = stage_loader(room.experiment, stage), selected(room, stage)
        own = own_rows(room.experiment, stage)
        if stage.pacing is None:
            return portion(stage, loader, source, own)
        order = ordered(room, stage, loader, source, stage.pacing)
        return portion(stage, replace(loader, window=stage.pacing.window), source, own, order)
    experiment, rows = room.experiment, Rows(Store(Path(stage.store)))
    rows.about.check(
        tokenizer=experiment.tokenizer.fingerprint,
        data=experiment.corpus_of(stage).manifest().sha256,
        teacher=room.identity(stage.teacher or ""),
        documents=stage.documents,
        packed=stage.packed,
        change=repr(stage.change),
        temperature=1.0,
    )
    form = rows.about.form
    if form.length != stage.length or len(rows) < stage.steps * stage.rows:
        raise ValueError(
            f"stage {stage.name!r} takes {stage.steps * stage.rows} rows of {stage.length} tokens; {stage.store} has "
            f"{len(rows)} of {form.length}: capture another, or change --stages.N.steps, rows or length"
        )
    return StoredBatches(rows, stage.rows, own_rows(experiment, stage))


def portion(
    stage: Stage, loader: Loader, source: Source, rows: Sequence[int], order: Int[np.ndarray, "n"] | None = None
) -> Portion:
    """Rows of the batches that a stage reads of a corpus."""
    return Portion(
        lambda reader: loader.batches(source, reader, stage.readers, order),
        stage.readers, rows, stage.rows, stage.accumulate,
    )  # fmt: skip


def own_rows(experiment: Experiment, stage: Stage) -> list[int]:
    """Numbers of the rows of a batch that devices of this process hold, as `put` cuts it into micro-batches."""
    size = stage.rows // stage.accumulate
    own = held_rows(experiment.mesh.build(), size)
    return [part * size + row for part in range(stage.accumulate) for row in own]


def held_rows(mesh: jax.sharding.Mesh, size: int) -> list[int]:
    """Numbers of the rows, of `size` over the mesh, that devices of this process hold."""
    places = meshes.rows(mesh).addressable_devices_indices_map((size,)).values()
    return sorted({row for place in places if place is not None for row in range(size)[place[0]]})


def put(batch: Batch, accumulate: int, mesh: jax.sharding.Mesh) -> Batch:
    """Host arrays [a * b, ...] as device arrays [a, b, ...], rows over the mesh; each process brings its own rows."""
    cut = jax.tree.map(lambda x: rearrange(x, "(a b) ... -> a b ...", a=accumulate), batch)
    return jax.make_array_from_process_local_data(meshes.rows(mesh, leading=1), cut)


def on_mesh(batches: list[Batch], mesh: jax.sharding.Mesh) -> list[Batch]:
    """Whole host batches on the devices, rows over the mesh; each process takes its own rows of them."""

    def mine(x: np.ndarray) -> np.ndarray:
        return x[held_rows(mesh, len(x))]

    return [jax.make_array_from_process_local_data(meshes.rows(mesh), jax.tree.map(mine, batch)) for batch in batches]


def spread(batch: Batch, mesh: jax.sharding.Mesh) -> Batch:
    """Host arrays [b ...] of this process's share of rows, in the order of processes, as device arrays of all rows."""
    return jax.device_put(jax.make_array_from_process_local_data(meshes.shares(mesh), batch), meshes.rows(mesh))


def collected(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Arrays [b ...] with their rows over the mesh as host arrays of this process's share: `spread`, undone."""
    return brought(settled(jax.device_put(tree, meshes.shares(mesh))))


def brought(tree: Tree) -> Tree:
    """Arrays [b, ...] with their rows over a mesh as host arrays of the rows that devices of this process hold."""

    def gather(array: jax.Array) -> np.ndarray:
        parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(gather, tree)
