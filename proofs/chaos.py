"""Everything that can go wrong in a run of reinforcement learning does, and it ends with the bits it was to end with.

    make proofs            # or: python proofs/chaos.py

A reward that raises at 5 % of its answers, hangs at 2 % and kills its process at 1 % (always at the same ones, and some
come often, so that of the calls it is more); sampling that raises in 5 % of the groups and gives NaN for a
log-probability in 5 %, one group that never has any, a sampler that ends its thread; a publication that hangs, one that
raises and one whose copy has NaN; an update that is not finite. What depends on the answer alone (the reward, the group
that is given up, the update) is also in the run that it is compared with; all else must leave no trace but its count.
Counts are compared with what was done. Then what must stop a run: each with its message. Two minutes, most of it spent
on waiting for what hangs; one core is enough.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests, which are not installed

from distill.process import settle
from distill.rl import publisher as publication
from distill.rl.journal import folder_of, read_records
from distill.rl.learning import Learning
from distill.rl.publisher import Publisher
from distill.rl.record import Event
from distill.rl.reward import DEATHS
from distill.rl.stage import Reinforcement
from distill.run import Run
from distill.state import State
from models.sampler import Sampler
from tests.distill.rl.begun import EVEN, STAGE, Spoilt, begin, books, finish

HOPELESS, FALLS = 13, 21
"""uids of the group that never has a log-probability, and of the one at which the actor falls once"""
HUNG, CUT, DAMAGED, SPOILT = 3, 6, 9, 12
"""publications that hang, raise and are damaged, by number; and the update that is not finite"""


def asked(root: Path, name: str, **shares: float) -> Reinforcement:
    """The stage, with a reward that fails at these shares of its answers and writes down when."""
    parameters = {"log": str(root / f"{name}.log"), **shares}
    return replace(
        STAGE,
        steps=24,
        patience=4.0,
        reward=replace(EVEN, name="faulty", where=EVEN.where.replace("Even", "Faulty"), parameters=parameters),
        policy=replace(STAGE.gradient, advantage=Spoilt((SPOILT,))),
    )


class Chaos:
    """What is done to sampling and publication, each once: the second try goes well.

    `done` counts it; `counted` is what the run itself has counted, up to its very end.
    """

    def __init__(self, share: float) -> None:
        self.share, self.done, self.copies = share, Counter[str](), 0
        self.begun = set[tuple[str, int]]()
        self.free = threading.Event()
        self.draw, self.copy, self.learn = Sampler.__call__, Publisher.copy, Learning.run
        self.counted = Counter[str]()

    def struck(self, what: str, uid: int, share: float) -> bool:
        """Whether something befalls a group, for the first time."""
        if random.Random(f"{what} {uid}").random() >= share or (what, uid) in self.begun:
            return False
        self.begun.add((what, uid))
        return True

    def drawing(self, sampler: Sampler, model: object, requests: object, bias: object) -> Iterator[object]:
        """Completions, of which some come as NaN, until it raises or ends its thread."""
        there, spoilt = Counter[int](), set[int]()
        for one in self.draw(sampler, model, requests, bias):  # pyright: ignore
            uid = one.prompt
            if uid == FALLS and self.struck("falls", uid, 1.0):
                self.done["actor fell"] += 1
                raise SystemExit("the actor's thread ends")
            if self.struck("raises", uid, self.share):
                self.done["draw raised"] += 1
                raise OSError("a draw fails")
            if uid == HOPELESS or self.struck("nan", uid, self.share):
                spoilt.add(uid)
                one = replace(one, logprobs=np.full_like(one.logprobs, np.nan))
            there[uid] += 1
            if there[uid] == STAGE.samples and uid in spoilt:
                self.done["group with NaN"] += 1
            yield one

    def learning(self, learning: Learning, state: State, start: int) -> State:
        """The updates; whoever counts them is remembered."""
        self.counted = learning.books.faults
        return self.learn(learning, state, start)

    def copying(self, publisher: Publisher, weights: object) -> object:
        """A copy; some hang, raise or are damaged."""
        self.copies += 1
        if self.copies == HUNG:
            self.done["publication hung"] += 1
            self.free.wait()
        if self.copies == CUT:
            self.done["publication raised"] += 1
            raise OSError("the way to the actor is cut")
        copied = self.copy(publisher, weights)  # pyright: ignore
        if self.copies == DAMAGED:
            self.done["publication damaged"] += 1
            copied = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), copied)
        return copied


@contextmanager
def chaos(share: float, publications: bool) -> Iterator[Chaos]:
    """Sampling (and publication) as something is done to them."""
    made = Chaos(share)
    Sampler.__call__ = lambda *asked: made.drawing(*asked)  # pyright: ignore
    Learning.run = lambda *asked: made.learning(*asked)  # pyright: ignore
    if publications:
        Publisher.copy = lambda *asked: made.copying(*asked)  # pyright: ignore
    try:
        yield made
    finally:
        made.free.set()
        Sampler.__call__, Publisher.copy, Learning.run = made.draw, made.copy, made.learn


def stops(begun: Path, folder: Path, stage: Reinforcement, error: type[Exception], said: str) -> None:
    """A run that must end by itself with a message."""
    began = time.monotonic()
    try:
        finish(begun, folder, stage)
    except error as caught:
        if said not in str(caught):
            raise
        print(f"{error.__name__} after {time.monotonic() - began:.1f} s: {str(caught)[:240]}", flush=True)
        return
    raise SystemExit(f"{folder.name}: it went on to its end; {said!r} should have stopped it")


def compare(root: Path, stage: Reinforcement, made: Chaos) -> list[tuple[str, int, int]]:
    """What was done and what was counted, by name."""
    run, log = Run(root / "chaos"), Counter(Path(stage.reward.parameters["log"]).read_text().split())
    events = list(read_records(folder_of(root / "chaos", stage.name)))
    poisoned = [one for one in events if one.event is Event.POISONED]
    if [one.uids for one in poisoned] != [(HOPELESS,)]:
        raise SystemExit(f"the journal gives up {poisoned}")
    graded = sum(int(one.arrays["stopped"].sum()) for one in events if one.event is Event.COMPLETED)
    deadly = log["die"] // DEATHS
    print(
        f"  of {graded} answers {log['raise']} raised ({log['raise'] / graded:.1%}), {log['hang']} hung "
        f"({log['hang'] / graded:.1%}), {deadly} killed their process, each of {DEATHS} times"
    )
    skipped = [line["step"] for line in run.metrics() if line["student/skipped"]]
    publications = sum(made.done[f"publication {what}"] for what in ("hung", "raised", "damaged"))
    return [
        ("answers without a grade", log["raise"] + log["hang"] + deadly, made.counted["answers_failed"]),
        ("processes that a reward killed", log["die"], made.counted["graders_died"]),
        ("draws that raised", made.done["draw raised"], made.counted["draws_failed"]),
        ("groups with NaN for a log-probability", made.done["group with NaN"], made.counted["groups_unsound"]),
        ("groups given up", 1, len(poisoned)),
        ("falls of the actor", made.done["actor fell"], made.counted["actor_restarted"]),
        ("publications that hung, raised, were damaged", publications, made.counted["publications_failed"]),
        ("updates that were not finite", 1, len(skipped)),
    ]


def main() -> None:
    """The same run with and without what leaves no trace; then what stops a run."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    settle()
    publication.PATIENCE = 5.0
    shares = {"raises": 0.05, "hangs": 0.02, "dies": 0.01}
    with tempfile.TemporaryDirectory() as where:
        root, began = Path(where), time.monotonic()
        begun = begin(root / "begun")
        with chaos(0.0, publications=False):
            stage = asked(root, "calm", **shares)
            wanted, lines = finish(begun, root / "calm", stage)
        print(f"with nothing but a faulty reward and a hopeless group: {time.monotonic() - began:.0f} s", flush=True)
        with chaos(0.05, publications=True) as made:
            stage = asked(root, "chaos", **shares)
            found, same = finish(begun, root / "chaos", stage)
        print(f"with everything: {time.monotonic() - began:.0f} s", flush=True)
        audit = books(root / "chaos", stage)
        rows, times = compare(root, stage, made), Run(root / "chaos").timings()
        waits = [line["learner_idle"] * line["seconds"] for line in times]
        for name, done, counted in rows:
            print(f"  {name:45} done {done:3}, counted {counted:3}")
        finite = all(bool(np.isfinite(leaf).all()) for leaf in found)
        equal = all((one == other).all() for one, other in zip(wanted, found, strict=True)) and repr(lines) == repr(
            same
        )
        print(
            f"  parameters finite {finite}, weights and metrics as without {equal}; groups {audit.counts}, lost "
            f"{audit.lost}, doubled {audit.doubled}; the learner waited at most {max(waits):.1f} s"
        )
        if not (finite and equal) or audit.lost or audit.doubled or any(done != counted for _, done, counted in rows):
            raise SystemExit("not the same")
        stage = asked(root, "often", raises=0.4)
        stops(begun, root / "often", stage, RuntimeError, "reward 'faulty' failed ")
        with chaos(1.1, publications=False):
            Sampler.__call__ = _raising  # pyright: ignore
            stops(
                begun, root / "never", asked(root, "never"), RuntimeError, "groups could not be drawn, in 3 tries each"
            )
        publication.PATIENCE = 1.0
        with chaos(0.0, publications=False) as made:
            Publisher.copy = lambda *_: made.free.wait()  # pyright: ignore
            stops(
                begun, root / "stuck", asked(root, "stuck"), RuntimeError, "version 0 could not be published in 3 tries"
            )
        stage = replace(stage, reward=EVEN, policy=replace(STAGE.gradient, advantage=Spoilt((4, 5, 6))))
        stops(begun, root / "spoilt", stage, FloatingPointError, "the last 3 updates of 'student' were not finite")
        print(f"in all {time.monotonic() - began:.0f} s")


def _raising(*_: object) -> Iterator[object]:
    raise OSError("no draw succeeds")
    yield


if __name__ == "__main__":
    main()
