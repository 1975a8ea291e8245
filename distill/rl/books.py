"""The books: every group from the moment it is asked for until it is learned from, and what is known of each prompt."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from distill.curriculum.draw import Curriculum
from distill.curriculum.measure import prompts_of
from distill.curriculum.table import Table
from distill.curriculum.tracker import Tracker
from distill.rl.actor import Broken, Job
from distill.rl.journal import Journal
from distill.rl.order import Order, Standing
from distill.rl.record import Event, Record
from distill.rl.replay import Replay, find_replay
from distill.rl.rollouts import Rollouts
from distill.rl.stage import Reinforcement
from distill.rl.staleness import ENDS, Controller
from distill.tasks.item import Item, Pool
from distill.tasks.system import apply, draw
from losses.advantage import informative
from models.tokenizer import Tokenizer

FAULTS = (
    *("retried", "poisoned", "masked"),
    *("draws_failed", "groups_unsound", "actor_restarted", "publications_failed", "answers_failed", "graders_died"),
)
"""Groups that are drawn once more, and that are given up, and answers that are masked; why: draws that raised, groups
without a finite log-probability, falls of the actor, copies of weights that were made again, answers whose reward
failed, and processes that died of one and had it graded again"""
TRIED, SHARE = 50, 0.2
"""groups after which a stage of which more than this share could not be drawn stops"""


@dataclass
class Books:
    """What the learner's side knows. Told what happens, it says what to draw and what to learn from.

    No threads and no clock: in strict order of admission everything here follows from the seed and the weights. Prompts
    are drawn a batch's worth at a time, by what was known of them at the version that the first of them is drawn with.
    """

    stage: Reinforcement
    pool: Pool
    """of the training split"""
    known: Table | None
    """what was measured of its prompts; None: nothing"""
    tokenizer: Tokenizer
    journal: Journal
    seed: int
    replay: Replay | None = field(init=False)
    """what the stage follows, where it follows another"""
    controller: Controller = field(init=False)
    curriculum: Curriculum = field(init=False)
    tracker: Tracker = field(init=False)
    """what is known of each prompt, up to the last batch: a group is admitted while its version is the newest"""
    blocks: dict[int, list[int]] = field(init=False, default_factory=dict)
    """indices of the prompts of a batch's worth of groups"""
    groups: dict[int, Rollouts] = field(init=False, default_factory=dict)
    """those that were judged and are not used up"""
    kept: dict[int, Rollouts] = field(init=False, default_factory=dict)
    """those that a journal kept from before a restart, to be used if they are asked for again"""
    used: list[tuple[Item, Rollouts]] = field(init=False, default_factory=list)
    """those that the last batch used up, the ones that it passed over with them, and what each was asked"""
    faults: Counter[str] = field(init=False, default_factory=lambda: Counter(dict.fromkeys(FAULTS, 0)))
    """how often each of `FAULTS` was met, by whom ever: all count here, each what no other does"""

    def __post_init__(self) -> None:
        self.replay = find_replay(self.stage, self.journal.folder, self.terms)
        self.controller = Controller(self.stage.limits, self._order)
        prompts = prompts_of(self.pool)
        self.curriculum = Curriculum(pool=prompts, sampler=self.stage.sampler, quota=self.stage.quota, seed=self.seed)
        begun = Tracker.blank(prompts.ids) if self.known is None else Tracker.begin(prompts.ids, self.known)
        self.tracker = replace(begun, kinds=prompts.kinds if self.stage.by_kind else None)

    @property
    def terms(self) -> dict[str, Any]:
        """What a journal says it is of; only a stage of the same can follow it."""
        same = ("steps", "updates", "samples", "tokens", "temperature", "filtered", "by_kind")
        told = {name: vars(self.stage)[name] for name in same}
        return {"questions": self.pool.fingerprint, "seed": self.seed, "limits": asdict(self.stage.limits), **told}

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, under whatever system."""
        word = max((one.short for one in self.stage.systems), key=len)
        return max(len(self.tokenizer.document(word + item.text)) - 1 for item in self.pool)

    def item(self, uid: int) -> Item:
        """What a group is asked."""
        index = self.blocks[uid // self.stage.groups][uid % self.stage.groups]
        plain = self.pool[index]
        return apply(plain, draw(plain, self.stage.systems, self.seed, uid))

    def begin(self) -> None:
        """An empty journal, that says what it is of."""
        self.journal.truncate(0)
        kinds = None if self.tracker.kinds is None else self.tracker.kinds.tolist()
        prompts = {"ids": list(self.tracker.ids), "kinds": kinds}
        self.journal.append(Record(Event.BEGUN, (), 0, {**self.terms, **prompts}))

    def admit(self, published: int) -> list[Job]:
        """The groups to draw now that the actor has a version."""
        jobs = []
        for _ in range(self.controller.may_admit(published)):
            uid = self.controller.line.admitted
            version = self.controller.admit(uid, published)
            block = uid // self.stage.groups
            if block not in self.blocks:
                progress = min(version / self.stage.steps, 1.0)
                drawn = self.curriculum.draw(self.tracker, block, self.stage.groups, progress)
                self.blocks[block] = drawn.tolist()
            item = self.item(uid)
            if self.replay is not None:
                self.replay.check_asked(uid, item.id)
            self.journal.append(Record(Event.ADMITTED, (uid,), version, {"item": item.id}))
            if self.replay is not None and self.replay.gives_up(uid):
                self._give_up(uid, version, "it was given up in the run that is replayed")
            else:
                jobs.append(self._job(uid, item, version))
        return jobs

    def again(self) -> list[Job]:
        """After a restart: the groups that were being drawn, by the versions that drew them: a checkpoint has these."""
        return [self._job(uid, self.item(uid), version) for uid, version in self.controller.out]

    def retry(self, broken: Broken) -> Job | None:
        """A group that could not be drawn, to be tried once more; None: it is given up.

        Raises:
          RuntimeError: so many were given up that it cannot be an accident.
        """
        if broken.job.retries < self.stage.retries:
            self.faults["retried"] += 1
            return replace(broken.job, retries=broken.job.retries + 1)
        self._give_up(broken.job.uid, broken.job.version, broken.reason)
        ends = self.controller.ends
        if ends.total() >= TRIED and ends["poisoned"] > SHARE * ends.total():
            raise RuntimeError(
                f"stage {self.stage.name!r}: {ends['poisoned']} of {ends.total()} groups could not be drawn, in "
                f"{self.stage.retries + 1} tries each; the last one: {broken.reason[-2000:]}"
            )
        return None

    def judged(self, group: Rollouts) -> None:
        """A group is drawn and its answers have their rewards."""
        if self.replay is not None:
            group = self.replay.judged(group)
        self.faults["masked"] += int((~group.valid).sum())
        teaches = not self.stage.filtered or informative(group.outcomes[None], group.valid[None])[0]
        tell = self.controller.completed if teaches else self.controller.filtered
        if tell(group.uid):
            self.groups[group.uid] = group
            self.journal.append(group.record())
            if not teaches:
                self.journal.append(Record(Event.FILTERED, (group.uid,), group.version))

    def take(self, version: int) -> list[Rollouts] | None:
        """The groups to learn from at a version; None: wait. What they and those passed over tell is remembered."""
        expired = self.controller.expire(version)
        if expired:
            self.journal.append(Record(Event.EXPIRED, tuple(expired), version))
        before = set(self.controller.line.groups)
        batch = self.controller.take(version)
        if batch is None:
            return None
        gone = sorted(before - set(self.controller.line.groups))
        used = [self.groups.pop(uid) for uid in gone if uid in self.groups]
        found = {group.uid: group for group in used}
        passed = [uid for uid in gone if uid not in batch]
        self.journal.append(Record(Event.CONSUMED, tuple(batch), version, {"passed": passed}))
        self.tracker = self._observed(used, version)
        self.used = [(self.item(group.uid), group) for group in used]
        self._forget()
        self.controller.check()
        return [found[uid] for uid in batch]

    def accounts(self) -> dict[str, float]:
        """How many groups were admitted so far, came to each end, and are in flight.

        One that was dropped is in flight until a batch passes it over: when it was dropped depends on the timing.
        """
        line = self.controller.line
        dropped = (uid for uid, group in line.groups.items() if group.standing is Standing.DROPPED)
        early = Counter("filtered" if uid in self.groups else "poisoned" for uid in dropped)
        ends = {end: float(self.controller.ends[end] - early[end]) for end in ENDS}
        return {"admitted": float(line.admitted), **ends, "in_flight": float(len(line.groups))}

    def advantages(self, batch: list[Rollouts]) -> Float[np.ndarray, "g n"]:
        """What each answer earned beside the others of its group."""
        if not batch:
            return np.zeros((0, self.stage.samples), np.float32)
        rewards, valid = np.stack([one.rewards for one in batch]), np.stack([one.valid for one in batch])
        return np.asarray(self.stage.gradient.advantage(rewards, valid), np.float32)

    def state(self) -> dict[str, Any]:
        """All of it but the groups themselves, which are in the journal, as JSON."""
        return {
            "controller": self.controller.state(),
            "tracker": self.tracker.state(),
            "faults": dict(self.faults),
            "blocks": {str(block): indices for block, indices in self.blocks.items()},
            "journal": self.journal.sync(),
            "pool": self.pool.fingerprint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Back to what `state` was taken of; the journal forgets what came after, but for the answers in it.

        Raises:
          ValueError: it is of other prompts or another stage, or the journal does not belong to it.
        """
        if state["pool"] != self.pool.fingerprint:
            raise ValueError(
                f"the checkpoint is of the questions {state['pool'][:12]}, these are {self.pool.fingerprint[:12]}; "
                "bring back the old ones, or start the stage anew"
            )
        self.controller = Controller.restore(state["controller"], self.stage.limits, self._order)
        self.tracker = self.tracker.restore(state["tracker"])
        self.faults.update(state["faults"])
        self.blocks = {int(block): indices for block, indices in state["blocks"].items()}
        line, out = self.controller.line, {uid for uid, _ in self.controller.out}
        for _, record in self.journal.read():
            if record.event is Event.COMPLETED:
                group = Rollouts.from_record(record)
                due = group.uid in out or group.uid >= line.admitted
                if due and group.version <= line.step:  # the weights of a later one are gone, and may come otherwise
                    self.kept[group.uid] = group
                elif not due and group.uid in line.groups:
                    self.groups[group.uid] = group
        self.journal.truncate(state["journal"])

    @property
    def _order(self) -> Order:
        return self.stage.order if self.replay is None else self.replay

    def _give_up(self, uid: int, version: int, reason: str) -> None:
        if self.controller.poisoned(uid):
            self.faults["poisoned"] += 1
            self.journal.append(Record(Event.POISONED, (uid,), version, {"reason": reason[-2000:]}))

    def _observed(self, used: list[Rollouts], number: int) -> Tracker:
        known = [group for group in used if group.valid.any()]
        indices = np.array([self.blocks[g.uid // self.stage.groups][g.uid % self.stage.groups] for g in known], int)
        solved = np.array([(group.outcomes & group.valid).sum() for group in known], int)
        tried = np.array([group.valid.sum() for group in known], int)
        return self.curriculum.observe(self.tracker, indices, solved, tried, number)

    def _forget(self) -> None:
        """What nobody will ask for again."""
        first = min([*self.controller.line.groups, self.controller.line.admitted]) // self.stage.groups
        self.blocks = {block: indices for block, indices in self.blocks.items() if block >= first}

    def _job(self, uid: int, item: Item, version: int) -> Job:
        prompt = self.tokenizer.document(item.text)[:-1]
        return Job(uid, item.id, version, np.asarray(prompt, np.int32))
