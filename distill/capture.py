"""What a teacher says of the rows of a stage goes to a store, batch by batch, and is held against it there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from distill import mesh as meshes
from distill.agreement import gather
from distill.cluster import settled, several
from distill.data.batch import Batch
from distill.experiment import Experiment
from distill.manifest import with_tuples
from distill.mesh import executed
from distill.progress import Progress
from distill.reading import collected, describe_order, portion, spread, stage_loader
from distill.rows import Rows
from distill.several import check_devices
from distill.stage import Stage
from distill.state import Weights
from distill.stored import About, Shard, Store
from distill.targets import Form
from distill.teacher import LiveTeacher
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
            ValueError: the folder is another store or none, another process writes this part, or the mesh leaves
                devices of several processes out.
        """
        check_devices(self.experiment.mesh)
        with store.writing(self.about(processes), process):
            self._go_on(store, process, processes, quiet)

    def _go_on(self, store: Store, process: int, processes: int, quiet: bool) -> None:
        whole, share = {shard.number: shard for shard in store.shards(process)}, self.stage.rows // processes
        if several():
            whole = _shared(whole)
        rows = range(process * share, (process + 1) * share)
        loader = stage_loader(self.experiment, self.stage)
        batches = portion(self.stage, loader, self.experiment.corpus_of(self.stage), rows)
        done, ask = sum(shard.batches for shard in whole.values()), self.asker()
        ahead = 0 if several() else rows.start  # several ask about whole batches
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
                    said = ask(batch, number * self.stage.rows + ahead)
                    records += [self.form.pack(row) for row in self.form.rows(batch, said)]
                    done += 1
                    bar.update(done, tokens=share * self.stage.length)
                store.write(process, shard, records, last - first, batches.get_state())

    def asker(self) -> Callable[[Batch, int], TopK | Sampled]:
        """What the teacher says of a host batch: a function of the batch and of the number of its first row."""
        teacher, mesh = self._teacher(), self.experiment.mesh.build()
        said = jax.jit(partial(_ask, form=self.form, seed=self.experiment.seed), out_shardings=meshes.rows(mesh))
        return lambda batch, first: collected(settled(said(teacher, spread(batch, mesh), np.int32(first))), mesh)

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
            worst = max(worst, float(_compare(teacher, spread(stored, mesh), form=self.form)))
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


def _shared(whole: dict[int, Shard]) -> dict[int, Shard]:
    """Those before the first that a process lacks: as all ask together, all capture that one and the later ones anew.

    Every process asks the others once, whatever it has: they may have been killed a shard apart.
    """
    leading = next(number for number in range(len(whole) + 1) if number not in whole)
    every = min(gather(leading))
    return {number: shard for number, shard in whole.items() if number < every}


def _ask(teacher: LiveTeacher, batch: Batch, first: Array, form: Form, seed: int) -> TopK | Sampled:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), first + jnp.arange(batch.tokens.shape[0]))
    return form.coarsen(teacher.signal(batch), batch, keys)


@partial(jax.jit, static_argnames=("form",))
def _compare(teacher: LiveTeacher, batch: Batch, form: Form) -> Array:
    return form.distance(teacher.signal(batch), batch)
