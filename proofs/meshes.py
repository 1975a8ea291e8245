"""Every mesh axis, and pairs of them, beside one device: how far apart are loss, gradient and updated weights?

    python proofs/meshes.py                             # part of make proofs; 8 virtual devices

A row is a micro-batch of a small student that is taught by a teacher: mixture of experts, chunks that cross the slices
of a row, pieces of the loss that do not divide it, a gate that sees its neighbours. The last rows compare layers and
routers too, see images, or learn from rewards. Distances are shares of the largest number of each array; exit code 1
if one is above 1e-5.
"""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[1]))

from dataclasses import replace  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from distill import Mesh  # noqa: E402
from tests.distill.meshed import COMPARED, DRAWING, LOOKING, ONE, TEACHER, alone, made  # noqa: E402

CLOSE = 1e-5
CASES = {
    "distilled": (ONE, TEACHER, (
        Mesh(data=8), Mesh(fsdp=8), Mesh(expert=4), Mesh(context=8), Mesh(tensor=2),
        Mesh(data=2, fsdp=4), Mesh(data=4, expert=2), Mesh(data=2, context=4), Mesh(data=4, tensor=2),
        Mesh(fsdp=2, expert=4), Mesh(fsdp=2, context=4), Mesh(fsdp=4, tensor=2),
        Mesh(expert=2, context=4), Mesh(expert=4, tensor=2), Mesh(context=4, tensor=2),
        Mesh(expert=2, context=2, tensor=2),
    )),
    "layers and routers compared": (COMPARED, replace(TEACHER, experts=4), (Mesh(fsdp=2, expert=2, context=2),)),
    "with images": (LOOKING, LOOKING.model, (Mesh(fsdp=4, tensor=2), Mesh(fsdp=2, context=2, tensor=2))),
    "policy gradient": (DRAWING, TEACHER, (Mesh(fsdp=2, expert=4), Mesh(fsdp=2, context=2, tensor=2))),
}  # fmt: skip


def apart(ours, theirs) -> float:
    """The largest difference in any array, as a share of its largest number."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), np.finfo(np.float32).tiny)) for a, b in pairs)


def main() -> None:
    """Prints the table."""
    print("| student | mesh | loss and metrics | gradient | weights after an update |\n|---|---|---|---|---|")
    worst = 0.0
    for name, (one, teacher, meshes) in CASES.items():
        wanted = alone(one, teacher)
        for mesh in meshes:
            far = [apart(ours, theirs) for ours, theirs in zip(made(one, mesh, teacher), wanted, strict=True)]
            axes = ", ".join(f"{axis} {size}" for axis, size in vars(mesh).items() if axis != "first" and size > 1)
            print(f"| {name} | {axes} | " + " | ".join(f"{value:.1e}" for value in far) + " |", flush=True)
            worst = max(worst, *far)
    print(f"worst: {worst:.1e}, bar {CLOSE:g}")
    sys.exit(worst > CLOSE)


if __name__ == "__main__":
    main()
