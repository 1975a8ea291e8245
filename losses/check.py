"""Does a loss, a gate or a divergence keep the promises that a distillation loss must keep?

    python -m losses.check my_file.py:MyLoss

Prints each promise, whether it is kept, and by how much it is not, or that it has no meaning there and was not asked;
the exit code is 1 where one is broken. What is named is a class, made without arguments, or a value. It is known by
what it is called with:

    gate(look, place)                                          as losses.Gate
    divergence(signal, logits, temperature)                    as losses.Divergence
    loss(hidden, head, signal, labels, place, progress)        as losses.Distill, or, where it is `on_policy`, as
                                                               losses.SampledReverseKL; a learner's inherits losses.Loss
    function(student_logits, teacher_logits, labels, mask)     a plain function that returns a mean;
                                                               labels[:, t] follows position t
"""

import inspect
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from losses import invariants, properties
from losses.distill import Distill
from losses.gate import NoGate
from losses.invariants import TOLERANCE
from losses.schedule import Constant

FIXED = {
    "next-token shift": invariants.next_token,
    "padding": invariants.padding,
    "packing": invariants.packing,
    "accumulation and split": invariants.split,
    "labels that do not count": invariants.masked_labels,
    "padded vocabulary": invariants.padded_vocabulary,
    "the teacher matters": invariants.teacher_matters,
    "bounded near the teacher": invariants.balanced,
    "logits in bfloat16": invariants.narrow,
}
WHOLE = FIXED | {"gradient is the slope": invariants.finite_differences}
# Of a student's own draws it makes no sense to ask which are the next tokens.
ON_POLICY = {name: promise for name, promise in FIXED.items() if name != "next-token shift"}
ON_POLICY |= {"reverse KL in expectation": invariants.unbiased}
DIVERGENCE = {
    "zero where they agree": properties.zero_at_match,
    "positive where they do not": properties.positive,
    "temperature squared": properties.temperature,
    "ends and direction": properties.direction,
    "top-k of all is all": properties.coarse,
    "leaked mass has gradient": properties.leak,
    "float32 sums": properties.small_values,
    "excluded tokens": properties.excluded,
}
FIELDS = {"pieces": properties.pieces, "temperature squared": properties.heat}
GATE = {
    "bounded, finite, float32": properties.bounded,
    "documents kept apart": properties.documents,
    "chunks": properties.reaches,
}


def check(subject: Any) -> dict[str, float | None]:
    """By how much each promise is broken; within `TOLERANCE` it is kept, and None was not asked.

    Whatever raises is broken without bound.

    Raises:
      ValueError: it is not called like any of the four kinds.
    """
    count = _parameters(subject)
    if count == 2:  # a gate is held fixed, and with it a part of the loss
        return _ask(GATE, subject) | _ask(FIXED, invariants.of_loss(Distill(gate=subject, chunk=None)))
    if count == 3:
        plain = Distill(soft=subject, gate=NoGate(), alpha=Constant(0.5), chunk=None)
        detached = getattr(subject, "detached", False)
        return _ask(DIVERGENCE, subject) | _ask(FIXED if detached else WHOLE, invariants.of_loss(plain))
    if count == 6 and getattr(subject, "on_policy", False):
        return _ask(FIELDS, subject) | _ask(ON_POLICY, invariants.of_loss(subject))
    if count == 6:
        detached = getattr(subject, "detached", False)
        return _ask(FIELDS, subject) | _ask(FIXED if detached else WHOLE, invariants.of_loss(subject))
    if count == 4:
        return _ask(WHOLE, invariants.of_function(subject))
    raise ValueError(
        f"{subject} takes {count} arguments; a gate takes 2, a divergence 3, a plain function 4, a loss 6: "
        "see `python -m losses.check --help`"
    )


def broken(found: dict[str, float | None]) -> list[str]:
    """The promises that are not kept."""
    return [name for name, size in found.items() if size is not None and not size <= TOLERANCE]


def _ask(promises: Mapping[str, Callable[[Any], float | None]], subject: Any) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, promise in promises.items():
        try:
            size = promise(subject)
            found[name] = None if size is None else float(size)
        except Exception as error:  # whatever a stranger's loss raises is a finding
            print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", file=sys.stderr)
            found[name] = float("inf")
    return found


def _parameters(subject: Any) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(subject).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def load(where: str) -> Any:
    """What `file.py:Name` names, made if it is a class.

    Raises:
      ValueError: there is no such file or name.
    """
    file, _, name = where.rpartition(":")
    if not name or not Path(file).is_file():
        raise ValueError(f"{where} is not a file and a name in it, as in my_file.py:MyLoss")
    known = runpy.run_path(file)
    if name not in known:
        raise ValueError(f"{file} defines no {name}; it has {sorted(n for n in known if not n.startswith('_'))}")
    return known[name]() if inspect.isclass(known[name]) else known[name]


def main(arguments: Sequence[str]) -> int:
    """Prints the table; 1 where a promise is broken, 2 where nothing could be asked."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        found = check(load(arguments[0]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bad = broken(found)
    for name, size in found.items():
        verdict, much = ("BROKEN" if name in bad else "kept", f"{size:.2g}") if size is not None else ("-", "not asked")
        print(f"{verdict:8}{name:28}{much:>10}")
    asked = sum(size is not None for size in found.values())
    print(f"{len(bad)} of {asked} promises broken" if bad else f"all {asked} promises kept that were asked")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
