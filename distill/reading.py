"""What a stage reads: rows of its corpus or of a store, as batches on its mesh."""

from dataclasses import replace
from pathlib import Path

import jax
from einops import rearrange

from distill import mesh as meshes
from distill.data.batch import Batch
from distill.data.loader import Batches, Loader
from distill.experiment import Experiment
from distill.ordering import ordered
from distill.room import Room
from distill.rows import Rows, stored_batches
from distill.selecting import selected
from distill.stage import Stage, Staged
from distill.stored import Store


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
    return f"{loader.documents or 'all'} documents, seed {loader.seed}, shuffled in windows of {loader.window}"


def stage_batches(room: Room, stage: Stage) -> Batches:
    """What a stage learns from: rows of the corpus, or of a store, with what the teacher said of them.

    Raises:
      ValueError: the store is not whole, too short, or of another teacher, tokenizer or corpus.
    """
    if not stage.store:
        loader, source = stage_loader(room.experiment, stage), selected(room, stage)
        if stage.pacing is None:
            return loader.batches(source)
        order = ordered(room, stage, loader, source, stage.pacing)
        return replace(loader, window=stage.pacing.window).batches(source, order=order)
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
    return stored_batches(rows, stage.rows)


def put(batch: Batch, accumulate: int, mesh: jax.sharding.Mesh) -> Batch:
    """Host arrays [a * b, ...] as device arrays [a, b, ...], rows over the mesh."""
    cut = jax.tree.map(lambda x: rearrange(x, "(a b) ... -> a b ...", a=accumulate), batch)
    return jax.device_put(cut, meshes.rows(mesh, leading=1))


def on_mesh(batches: list[Batch], mesh: jax.sharding.Mesh) -> list[Batch]:
    """Host batches on the devices, rows over the mesh."""
    return [jax.device_put(batch, meshes.rows(mesh)) for batch in batches]
