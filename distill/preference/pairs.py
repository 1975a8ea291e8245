"""Pairs: a right and a wrong answer to one prompt, mined from what reinforcement learning drew."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from distill.data.batch import Batch
from distill.rl.past import fates
from distill.rl.record import Event
from distill.rl.rollouts import Rollouts
from losses import Anchor

Answer = tuple[int, ...]
"""tokens, the stop token with them"""

REASONS = ("masked", "unfinished", "again", "one_sided", "apart", "too_long", "known", "enough", "surplus")
"""why answers (the first three), groups (the fourth) and pairs (the others) were left out; see `Mining`"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Pairs of answers, those of the newest version first; n of them, in rows of s tokens.

    Of a pair, side 0 is chosen and side 1 rejected. Rows are filled up with zeros.
    """

    items: tuple[str, ...]
    """id of each prompt's item"""
    versions: Int[np.ndarray, "n"]
    """of the policy that drew both answers"""
    tokens: Int[np.ndarray, "n 2 s"]
    """the prompt, and an answer behind it"""
    starts: Int[np.ndarray, "n"]
    """place of the answers' first token"""
    ends: Int[np.ndarray, "n 2"]
    """place behind the answers' last token"""
    dropped: Mapping[str, int]
    """what was left out, by reason"""

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that change with what is read of the pairs, or with their order."""
        whole = hashlib.sha256(repr(self.tokens.shape).encode())
        for array in (self.tokens, self.starts, self.ends):
            whole.update(np.ascontiguousarray(array, "<i4").tobytes())
        return whole.hexdigest()[:12]

    def batch(self, which: Int[np.ndarray, "k"], anchors: Float[np.ndarray, "n 2"] | None, pad: int) -> Batch:
        """Some of the pairs as 2k rows, chosen and rejected in turn.

        Args:
          which: their numbers.
          anchors: what the reference thinks of all pairs; None: it has not been asked.
          pad: the token where there is no text.
        """
        starts = np.repeat(self.starts[which], 2)
        batch = Batch.of_answers(np.concatenate(self.tokens[which]), starts, np.concatenate(self.ends[which]), pad)
        # On the host until the step; jax takes numpy's arrays.
        targets = None if anchors is None else Anchor(np.concatenate(anchors[which]))  # pyright: ignore[reportArgumentType]
        return replace(batch, targets=targets)


@dataclass(frozen=True)
class _Asked:
    """A group that has answers of both kinds, each once."""

    uid: int
    version: int
    item: str
    prompt: Answer
    right: list[Answer]
    wrong: list[Answer]


@dataclass(frozen=True, kw_only=True)
class Mining:
    """Which right answers are held against which wrong ones.

    Both are of one group: of one prompt, drawn by one version. Answers that nobody could judge (masked) have no part in
    it, and equal ones count once (again). Groups without answers of both kinds (one_sided) have no pairs. Of the pairs
    those go whose lengths lie apart, whose rows would be too_long, which another version drew too (known), beyond what
    a prompt may have (enough), and beyond what is asked for (surplus). The newest version comes first.
    """

    band: float = 0.3
    """a rejected answer has as many tokens as the chosen one, give or take this share of them: what is learned is not
    to be the length"""
    each: int = 2
    """pairs of a prompt, at most"""
    unfinished: bool = False
    """whether answers that had not ended when they were cut off are wrong ones, or none: what there is of them may be
    right, and how they end is not known"""

    def __post_init__(self) -> None:
        if not 0.0 <= self.band < 1.0:
            raise ValueError(f"Mining(band={self.band}) must be from 0 (lengths are equal) to below 1; 0.3 is 30 %")
        if self.each < 1:
            raise ValueError(f"Mining(each={self.each}) must be at least 1 pair of a prompt")

    def __call__(self, groups: Iterable[Rollouts], length: int, most: int, seed: int) -> Pairs:
        """Pairs of groups; which of a group's they are follows from the seed and the group, whatever the order.

        Args:
          groups: that were drawn and judged.
          length: of a row; a prompt and its answer are one token longer, at most.
          most: pairs that are asked for.
          seed: of the choice.
        """
        dropped: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        asked = [one for one in (self._asked(group, dropped) for group in groups) if one is not None]
        kept: list[tuple[_Asked, Answer, Answer]] = []
        known: set[tuple[Answer, Answer, Answer]] = set()
        each: Counter[Answer] = Counter()
        for one in sorted(asked, key=lambda one: (-one.version, one.uid)):
            pairs = [(chosen, rejected) for chosen in one.right for rejected in one.wrong]
            for index in np.random.default_rng([seed, one.uid]).permutation(len(pairs)):
                chosen, rejected = pairs[index]
                pair = (one.prompt, chosen, rejected)
                hindrances = {
                    "apart": abs(len(rejected) - len(chosen)) > self.band * len(chosen),
                    "too_long": len(one.prompt) + max(len(chosen), len(rejected)) > length + 1,
                    "known": pair in known,
                    "enough": each[one.prompt] == self.each,
                    "surplus": len(kept) == most,
                }
                reason = next((name for name, holds in hindrances.items() if holds), None)
                if reason is not None:
                    dropped[reason] += 1
                    continue
                known.add(pair)
                each[one.prompt] += 1
                kept.append((one, chosen, rejected))
        return _laid(kept, length, dropped)

    def _asked(self, group: Rollouts, dropped: Counter[str]) -> _Asked | None:
        """What a group has to offer; notes what it leaves out."""
        kinds: tuple[dict[Answer, None], dict[Answer, None]] = {}, {}
        for sample in range(len(group.lengths)):
            answer = tuple(group.completion(sample).tolist())
            kind = kinds[0 if group.outcomes[sample] else 1]
            if not group.valid[sample]:
                dropped["masked"] += 1
            elif not group.stopped[sample] and not self.unfinished:
                dropped["unfinished"] += 1
            elif answer in kind:
                dropped["again"] += 1
            else:
                kind[answer] = None
        right, wrong = (list(kind) for kind in kinds)
        if not right or not wrong:
            dropped["one_sided"] += 1
            return None
        return _Asked(group.uid, group.version, group.item, tuple(group.prompt.tolist()), right, wrong)


def learned_from(folder: Path) -> Iterator[Rollouts]:
    """The groups that a stage of reinforcement learning has learned from, of its journal.

    What it drew ahead, and did not come to use, depends on the machine's timing; it is left out.

    Raises:
      ValueError: there is no journal, or it is damaged.
    """
    return (one.group for one in fates(folder) if one.event is Event.CONSUMED)


def _laid(kept: list[tuple[_Asked, Answer, Answer]], length: int, dropped: Mapping[str, int]) -> Pairs:
    """Pairs as arrays."""
    tokens = np.zeros((len(kept), 2, length + 1), np.int32)
    ends = np.zeros((len(kept), 2), np.int32)
    for row, (one, *answers) in enumerate(kept):
        for side, answer in enumerate(answers):
            whole = (*one.prompt, *answer)
            tokens[row, side, : len(whole)], ends[row, side] = whole, len(whole)
    return Pairs(
        items=tuple(one.item for one, _, _ in kept),
        versions=np.array([one.version for one, _, _ in kept], np.int32),
        tokens=tokens,
        starts=np.array([len(one.prompt) for one, _, _ in kept], np.int32),
        ends=ends,
        dropped=dict(dropped),
    )
