"""Memory: whose a device's bytes are."""

from collections.abc import Sequence

from distill.plan.compiled import Compiled
from distill.plan.programs import Program, bytes_of
from distill.plan.topology import Topology

PASSING = ("batch", "requests", "slots that may end")
"""what is not kept from one run of a program to the next"""


def rows(program: Program, compiled: Compiled, beside: float) -> list[dict[str, object]]:
    """Bytes of one device, by what they are, and how that is known.

    Arguments are exact: shapes, dtypes and shardings. The compiler says how much all temporaries take together; of
    these gradients and the loss are by their shapes, the rest is what is left.

    Args:
      program, compiled: whose.
      beside: what other programs of the same devices keep there.
    """
    found = [
        {"what": name, "bytes": bytes_of(tree), "known": "shapes and shardings"} for name, tree in program.held.items()
    ]
    found += [{"what": "kept by other programs", "bytes": beside, "known": "shapes and shardings"}] if beside else []
    memory = compiled.memory
    if memory is None:
        return found
    padding = max(memory.arguments - _held(program), 0.0)
    found.append({"what": "padding of arguments", "bytes": padding, "known": "compiler, less the above"})
    inside = [(f"{name}: gradients", size, "shapes and shardings") for name, size in program.gradients.items()]
    inside += [("head and loss", program.loss, "shapes")] if program.loss else []
    if sum(size for _, size, _ in inside) > memory.temporaries:  # not at the same time
        inside = inside[: len(program.gradients)] if sum(program.gradients.values()) <= memory.temporaries else []
    found += [{"what": name, "bytes": size, "known": f"{known}; temporary"} for name, size, known in inside]
    rest = memory.temporaries - sum(size for _, size, _ in inside)
    found.append({"what": "activations and other temporaries", "bytes": rest, "known": "compiler, less the above"})
    fresh = memory.outputs - memory.aliased
    found.append({"what": "outputs beside the arguments", "bytes": fresh, "known": "compiler"})
    found.append({"what": "code", "bytes": memory.code, "known": "compiler"})
    return found


def beside(program: Program, programs: Sequence[Program]) -> float:
    """Bytes that a device keeps beside what a program is given, for it or for others; batches come and go."""
    where = {device.id for device in program.mesh.devices.flat}
    kept: dict[str, float] = {}
    for other in programs:
        if where & {device.id for device in other.mesh.devices.flat}:
            kept |= {name: bytes_of(tree) for name, tree in {**other.kept, **other.held}.items() if name not in PASSING}
    return float(sum(size for name, size in kept.items() if name not in program.held))


def fit(program: Program, compiled: Compiled, topology: Topology, beside: float) -> dict[str, object]:
    """Whether it fits, by how much, and who says so."""
    if compiled.refusal is not None:
        needed, available = compiled.refusal.needed, compiled.refusal.available
        return {"fits": False, "bytes": needed, "available": available, "by": "refused by the compiler"}
    assert compiled.memory is not None
    unread = max(_held(program) - compiled.memory.arguments, 0.0)  # is there, though the program does not ask for it
    needed, available = compiled.memory.peak + unread + beside, topology.memory
    return {"fits": needed <= available, "bytes": needed, "available": available, "by": "peak of a finished compile"}


def _held(program: Program) -> float:
    return float(sum(bytes_of(tree) for tree in program.held.values()))
