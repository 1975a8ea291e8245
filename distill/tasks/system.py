"""Systems: words before a prompt that change what the right answer looks like, so that they have to be read."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from distill.tasks.item import Item


@dataclass(frozen=True)
class System:
    """A word before the prompt, and what it does to the answer."""

    name: str
    """"" is plain: no word, no change"""
    short: str
    """for models that read a few bytes; no prompt of `distill.tasks.small` begins so"""
    sentence: str
    """for models that read English"""
    change: Callable[[str], str]
    """from the plain answer to the one that is right here"""


def plain(answer: str) -> str:
    """The answer as it is."""
    return answer


def backwards(answer: str) -> str:
    """The answer from its last character to its first."""
    return answer[::-1]


def bracketed(answer: str) -> str:
    """The answer in square brackets."""
    return f"[{answer}]"


def doubled(answer: str) -> str:
    """The answer twice, without a space."""
    return answer * 2


def upper(answer: str) -> str:
    """The answer in capitals."""
    return answer.upper()


PLAIN = System("", "", "", plain)
REVERSED = System("reversed", "<", "Write the answer backwards, from its last character to its first.", backwards)
BRACKETED = System("bracketed", "[", "Write the answer in square brackets, like [this].", bracketed)
DOUBLED = System("doubled", "&", "Write the answer twice, without a space in between.", doubled)
UPPER = System("upper", "^", "Write the answer in capital letters.", upper)
SYSTEMS = (PLAIN, REVERSED, BRACKETED, DOUBLED, UPPER)


def draw(item: Item, systems: Sequence[System], seed: int, uid: str | int) -> System:
    """The system of a group: it follows from (seed, uid) and what fits the item, and from nothing else.

    Among `systems` those are drawn from, each as often, that change this answer (backwards, 7 is 7), and plain.

    Raises:
      ValueError: none of them fits.
    """
    fit = [one for one in systems if one.change is plain or one.change(item.answer) != item.answer]
    if not fit:
        names = ", ".join(one.name for one in systems) or "none"
        raise ValueError(f"of the systems {names} none changes the answer of item {item.id}; add PLAIN to them")
    digest = hashlib.sha256(f"{seed} {uid}".encode()).digest()
    return fit[int.from_bytes(digest[:8], "little") % len(fit)]


def apply(item: Item, system: System, sentence: bool = False) -> Item:
    """The item under a system: its word goes before the prompt, the answer is changed, the id says so.

    The prompt stays, and with it the split. `reverse/1/0.00042` becomes `reverse/1/0.00042@bracketed`; plain changes
    nothing.

    Args:
      item: an item under no system yet.
      system: the system.
      sentence: its word is a sentence and an empty line, not a byte.

    Raises:
      ValueError: the item is under a system.
    """
    if item.system:
        raise ValueError(f"item {item.id} is under the system {item.system!r}; apply another to the plain item")
    if system.change is plain:
        return item
    prefix = f"{system.sentence}\n\n" if sentence else system.short
    answer = system.change(item.answer)
    return replace(item, id=f"{item.id}@{system.name}", system=system.name, prefix=prefix, answer=answer)
