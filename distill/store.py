"""A teacher's forward passes, paid once: its targets on a stage's rows go to disk, and students train from there.

    python -m distill.store capture experiments/herd.py runs/herd targets --stage distil --count 12
    python -m distill.store inspect targets
    python -m distill.store verify experiments/herd.py runs/herd targets --stage distil

The stage then learns from it with `--stages.1.store targets`. A capture that was killed goes on where it was; what is
there is whole. Options of the experiment follow `--`, as in `-- --tiny`.
"""

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from distill.data.batch import Batch
from distill.data.loader import Loader
from distill.experiment import Experiment
from distill.manifest import with_tuples
from distill.progress import Progress
from distill.reading import put, stage_loader
from distill.stage import Stage
from distill.state import Weights
from distill.stored import About, Rows, Store, identify
from distill.targets import Form
from distill.teacher import LiveTeacher
from distill.trained import load_weights
from losses import Sampled, TopK


@dataclass(frozen=True)
class Capture:
    """A stage of an experiment and the teacher it hears, as a trained run left it."""

    experiment: Experiment
    stage: Stage
    weights: Weights
    form: Form
    shard: int = 50
    """batches of a shard: what a killed capture may lose"""

    def about(self, processes: int = 1) -> About:
        """What its store says of itself."""
        return About(
            teacher=identify(self.weights),
            tokenizer=self.experiment.tokenizer.fingerprint,
            data=self.experiment.corpus.manifest().sha256,
            order=describe_order(self.experiment, self.stage),
            form=self.form,
            rows=self.stage.rows,
            batches=self.stage.steps,
            processes=processes,
            shard=self.shard,
        )

    def run(self, store: Store, process: int = 0, processes: int = 1, quiet: bool = False) -> None:
        """Writes what is missing of this process's rows."""
        store.begin(self.about(processes))
        done = store.shards(process)
        batches = self._loader().batches(self.experiment.corpus, process, processes)
        if done:
            batches.set_state(with_tuples(done[-1].state))
        start, ask = sum(shard.batches for shard in done), self.asker()
        share = self.stage.rows // processes
        records: list[bytes] = []
        with Progress(self.stage.steps, "capture", start, quiet=quiet) as bar:
            for number in range(start, self.stage.steps):
                batch = next(batches)
                records += [
                    self.form.pack(row)
                    for row in self.form.rows(batch, ask(batch, number * self.stage.rows + process * share))
                ]
                bar.update(number + 1, tokens=self.stage.rows * self.stage.length)
                if (number + 1) % self.shard == 0 or number + 1 == self.stage.steps:
                    size = number + 1 - number // self.shard * self.shard
                    store.write(process, number // self.shard, records, size, batches.get_state())
                    records = []

    def asker(self) -> Callable:
        """What the teacher says of a host batch: a function of the batch and of the number of its first row."""
        teacher = LiveTeacher(self.weights, self.experiment.execution)
        mesh = self.experiment.mesh.build()

        @jax.jit
        def ask(teacher: LiveTeacher, batch: Batch, first: Array) -> TopK | Sampled:
            whole = jax.tree.map(lambda x: x[0], batch)
            rows = first + jnp.arange(whole.tokens.shape[0])
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.experiment.seed), rows)
            return self.form.coarsen(teacher.signal(whole), whole, keys)

        return lambda batch, first: ask(teacher, put(batch, 1, mesh), jnp.int32(first))

    def verify(self, store: Store, count: int = 4) -> float:
        """Largest difference of a stored log-probability from one made anew, over some batches; probabilities.

        Raises:
            ValueError: the store is another's, or what it holds is not what this teacher says.
        """
        rows, ask = Rows(store), self.asker()
        store.about.check(**vars(self.about(store.about.processes)))
        worst = 0.0
        for number in np.linspace(0, self.stage.steps - 1, count).astype(int):
            first = int(number) * store.about.rows
            stored = self.form.batch([rows[first + row] for row in range(store.about.rows)])
            fresh = ask(replace(stored, targets=None), first)
            if self.form.kind == "top_k":
                both = (np.exp(np.asarray(x.rest)) for x in (stored.targets, fresh))
                worst = max(worst, float(np.abs(np.subtract(*both)).max()))
            both = (np.sort(np.exp(np.asarray(x.log_probs)), axis=-1) for x in (stored.targets, fresh))
            worst = max(worst, float(np.abs(np.subtract(*both)).max()))
        allowed = 2e-3 if self.form.dtype == "float16" else 1e-4
        if worst > allowed:
            raise ValueError(f"a stored probability is {worst:.2g} from what the teacher says; at most {allowed:g} is")
        return worst

    def _loader(self) -> Loader:
        return stage_loader(self.experiment, self.stage)


def describe_order(experiment: Experiment, stage: Stage) -> str:
    """Which rows of its corpus a stage reads, in which order."""
    loader = stage_loader(experiment, stage)
    return f"{loader.documents or 'all'} documents, seed {loader.seed}, shuffled in windows of {loader.window}"


def open_capture(
    file: Path, run: Path, options: tuple[str, ...], stage: str, kind: str, count: int, dtype: str
) -> Capture:
    """The capture that the command line asks for.

    Raises:
        ValueError: there is no such stage, it hears no teacher, or it has images.
    """
    from distill.launch import parse

    experiment = parse(runpy.run_path(str(file))["EXPERIMENT"], options).experiment
    chosen = next((one for one in experiment.stages if one.name == stage), None)
    if chosen is None or chosen.teacher is None:
        heard = [one.name for one in experiment.stages if one.teacher]
        raise ValueError(f"{file} has no stage {stage!r} with a teacher; there are {heard}")
    if experiment.model_of(chosen.teacher).vision is not None:
        raise ValueError(f"stage {stage!r} has images, and a store keeps text alone")
    given = experiment.given_of(chosen.teacher)
    if given is not None:
        weights = Weights(*given.teacher(experiment.mesh))
    else:
        weights = load_weights(run, experiment.stage_of(chosen.teacher).name, chosen.teacher, experiment.mesh)
    vocab = weights.model.config.vocab
    form = Form(kind=kind, count=count, dtype=dtype, vocab=vocab, length=chosen.length)  # pyright: ignore[reportArgumentType]
    return Capture(experiment, chosen, weights, form)


def capture(
    file: Path,
    run: Path,
    to: Path,
    stage: str = "distil",
    kind: Literal["top_k", "sampled"] = "top_k",
    count: int = 12,
    dtype: Literal["float16", "float32"] = "float16",
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
        dtype: of log-probabilities.
        process: which part of every batch is captured here, of `processes` parts; each needs nothing of the others.
        processes: that share the work. Whoever reads it may be another number.
        options: the experiment's own.
    """
    asked = open_capture(file, run, options, stage, kind, count, dtype)
    asked.run(Store(to), process, processes)
    inspect(to)


def inspect(store: Path) -> None:
    """Prints what a store holds and what it weighs."""
    found = Store(store)
    about, files = found.about, sorted(store.glob("*.array_record"))
    tokens = about.rows * (about.batches - found.missing()) * about.form.length
    for name, value in vars(about).items():
        print(f"{name:12} {value}")
    print(f"{'missing':12} {found.missing()} of {about.batches} batches")
    size = sum(path.stat().st_size for path in files)
    print(
        f"{'bytes':12} {size} in {len(files)} shards, {size / max(tokens, 1):.1f} a token with the rows themselves; "
        f"targets {about.form.target_bytes:.1f} a token before compression"
    )


def verify(
    file: Path, run: Path, store: Path, stage: str = "distil", batches: int = 4, options: tuple[str, ...] = ()
) -> None:
    """Recomputes some batches of a store from the teacher."""
    form = Store(store).about.form
    asked = open_capture(file, run, options, stage, form.kind, form.count, form.dtype)
    asked = replace(asked, shard=Store(store).about.shard)
    print(
        f"the largest difference of a probability is {asked.verify(Store(store), batches):.2g} over {batches} batches"
    )


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
