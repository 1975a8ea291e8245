"""Memory: whose a device's bytes are."""

from distill.plan.compiled import Compiled
from distill.plan.programs import Program, bytes_of
from distill.plan.topology import Topology


def rows(program: Program, compiled: Compiled) -> list[dict[str, object]]:
    """Bytes of one device, by what they are, and how that is known.

    Arguments are exact: shapes, dtypes and shardings. The compiler says how much all temporaries take together; of
    these gradients and logits are by their shapes, the rest is what is left.
    """
    found = [
        {"what": name, "bytes": bytes_of(tree), "known": "shapes and shardings"} for name, tree in program.held.items()
    ]
    memory = compiled.memory
    if memory is None:
        return found
    learned = [name for name, _ in program.held.items() if name.endswith((": parameters", ": head"))]
    gradients: dict[str, float] = {}
    for name in learned:
        learner = name.split(": ")[0]
        gradients[learner] = gradients.get(learner, 0.0) + bytes_of(program.held[name])
    padding = memory.arguments - sum(float(str(row["bytes"])) for row in found)
    found.append({"what": "padding of arguments", "bytes": padding, "known": "compiler, less the above"})
    inside = [(f"{name}: gradients", size, "like parameters") for name, size in gradients.items()]
    inside += [("head and loss", program.loss, "shapes")] if program.loss else []
    if sum(size for _, size, _ in inside) > memory.temporaries:  # not at the same time
        inside = inside[: len(gradients)] if sum(gradients.values()) <= memory.temporaries else []
    found += [{"what": name, "bytes": size, "known": f"{known}; temporary"} for name, size, known in inside]
    rest = memory.temporaries - sum(size for _, size, _ in inside)
    found.append({"what": "activations and other temporaries", "bytes": rest, "known": "compiler, less the above"})
    fresh = memory.outputs - memory.aliased
    found.append({"what": "outputs beside the arguments", "bytes": fresh, "known": "compiler"})
    found.append({"what": "code", "bytes": memory.code, "known": "compiler"})
    return found


def fit(compiled: Compiled, topology: Topology) -> dict[str, object]:
    """Whether it fits, by how much, and who says so."""
    available = topology.memory
    if compiled.refusal is not None:
        needed = compiled.refusal.needed
        return {
            "fits": False,
            "bytes": needed,
            "available": compiled.refusal.available,
            "by": "refused by the compiler",
        }
    assert compiled.memory is not None
    peak = compiled.memory.peak
    return {"fits": peak <= available, "bytes": peak, "available": available, "by": "peak of a finished compile"}
