"""A teacher's forward passes, paid once: its targets on a stage's rows go to disk, and students train from there.

    python -m distill.store capture experiments/herd.py runs/herd targets --stage distil --count 12
    python -m distill.store capture experiments/herd.py runs/herd targets --kind sampled --known 8 --count 8
    python -m distill.store inspect targets
    python -m distill.store verify experiments/herd.py runs/herd targets --stage distil

The stage then learns from it with `--stages.1.store targets`. A capture that was killed goes on where it was; what is
there is whole. Options of the experiment follow `--`, as in `-- --tiny`.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from distill.data.batch import Batch
from distill.experiment import Experiment
from distill.hold import AsItIs
from distill.manifest import with_tuples
from distill.mesh import executed
from distill.progress import Progress
from distill.reading import describe_order, put, stage_loader
from distill.rows import Rows
from distill.stage import Stage
from distill.state import Weights
from distill.stored import About, Store
from distill.targets import Form
from distill.teacher import LiveTeacher
from distill.trained import identity, load_weights
from losses import Sampled, TopK

ALIKE = 0.01  # of the draws another machine's rounding may move to a neighbouring token


@dataclass(frozen=True)
class Capture:
    """A stage of an experiment and the teacher it hears, as a trained run left it."""

    experiment: Experiment
    stage: Stage
    teacher: str
    """fingerprint of the teacher's weights and configuration: `Room.identity`, `distill.trained.identity`"""
    weights: Weights
    form: Form
    shard: int = 50
    """batches of a shard: what a killed capture may lose"""

    def about(self, processes: int = 1) -> About:
        """What its store says of itself."""
        return About(
            teacher=self.teacher,
            computed=self.experiment.execution.dtype,
            tokenizer=self.experiment.tokenizer.fingerprint,
            data=self.experiment.corpus_of(self.stage).manifest().sha256,
            documents=self.stage.documents,
            packed=self.stage.packed,
            order=describe_order(self.experiment, self.stage),
            change=repr(self.stage.change),
            form=self.form, rows=self.stage.rows, batches=self.stage.steps, processes=processes, shard=self.shard,
        )  # fmt: skip

    def run(self, store: Store, process: int = 0, processes: int = 1, quiet: bool = False) -> None:
        """Writes what is missing of this process's rows.

        Raises:
            ValueError: the folder is another store or none, or another process writes this part.
        """
        with store.writing(self.about(processes), process):
            self._go_on(store, process, processes, quiet)

    def _go_on(self, store: Store, process: int, processes: int, quiet: bool) -> None:
        whole, share = {shard.number: shard for shard in store.shards(process)}, self.stage.rows // processes
        loader = stage_loader(self.experiment, self.stage)
        batches = loader.batches(self.experiment.corpus_of(self.stage), process, processes)
        done, ask = sum(shard.batches for shard in whole.values()), self.asker()
        with Progress(self.stage.steps, "capture", done, quiet=quiet) as bar:
            for first in range(0, self.stage.steps, self.shard):
                shard, last = first // self.shard, min(first + self.shard, self.stage.steps)
                if shard in whole:
                    continue
                if shard - 1 in whole:
                    batches.set_state(with_tuples(whole[shard - 1].state))
                records: list[bytes] = []
                for number in range(first, last):
                    batch = next(batches)
                    said = ask(batch, number * self.stage.rows + process * share)
                    records += [self.form.pack(row) for row in self.form.rows(batch, said)]
                    done += 1
                    bar.update(done, tokens=share * self.stage.length)
                store.write(process, shard, records, last - first, batches.get_state())

    def asker(self) -> Callable[[Batch, int], TopK | Sampled]:
        """What the teacher says of a host batch: a function of the batch and of the number of its first row."""
        teacher, mesh = self._teacher(), self.experiment.mesh.build()
        return lambda batch, first: _ask(
            teacher, put(batch, 1, mesh), jnp.int32(first), form=self.form, seed=self.experiment.seed
        )

    def _teacher(self) -> LiveTeacher:
        return LiveTeacher(self.weights, executed(self.experiment.execution, self.experiment.mesh.build()))

    def verify(self, store: Store, count: int = 4) -> float:
        """Holds every shard against its checksum, and some batches against the teacher, asked anew.

        Returns the largest difference of a probability (`Form.distance`).

        Raises:
            ValueError: the store is another's, is damaged, or holds what this teacher does not say.
        """
        rows, ask, mesh = Rows(store), self.asker(), self.experiment.mesh.build()
        store.about.check(**vars(self.about(store.about.processes)))
        rows.check()
        teacher, worst = self._teacher(), 0.0
        for number in np.linspace(0, self.stage.steps - 1, count).astype(int):
            first = int(number) * store.about.rows
            stored = self.form.batch([rows[first + row] for row in range(store.about.rows)])
            worst = max(worst, float(_compare(teacher, put(stored, 1, mesh), form=self.form)))
            if self.form.kind == "sampled":
                said: Any = stored.targets
                drawn, kept = ask(replace(stored, targets=None), first).ids, said.ids
                drawn, kept = (np.sort(np.asarray(ids)[..., self.form.known :], axis=-1) for ids in (drawn, kept))
                other = float(np.mean(drawn != kept))
                if other > ALIKE:
                    raise ValueError(f"{other:.1%} of the draws are not those of this seed; at most {ALIKE:.0%} may be")
        allowed = 2e-3 if self.form.dtype == "float16" else 1e-4
        if worst > allowed:
            raise ValueError(f"a stored probability is {worst:.2g} from what the teacher says; at most {allowed:g} is")
        return worst


@partial(jax.jit, static_argnames=("form", "seed"))
def _ask(teacher: LiveTeacher, batch: Batch, first: Array, form: Form, seed: int) -> TopK | Sampled:
    whole = jax.tree.map(lambda x: x[0], batch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), first + jnp.arange(whole.tokens.shape[0]))
    return form.coarsen(teacher.signal(whole), whole, keys)


@partial(jax.jit, static_argnames=("form",))
def _compare(teacher: LiveTeacher, batch: Batch, form: Form) -> Array:
    whole = jax.tree.map(lambda x: x[0], batch)
    return form.distance(teacher.signal(whole), whole)


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
        processes: that share the work. Whoever reads it may be another number.
        options: the experiment's own.
    """
    form = {"kind": kind, "count": count, "known": known, "dtype": dtype}
    asked = open_capture(file, run, options, stage, form, shard)
    asked.run(Store(to), process, processes)
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
