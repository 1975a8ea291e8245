"""What do grouped products of experts become on TPUs that are not there, at Scout's sizes, and in how much memory?

    python proofs/grouped_tpu.py [--topology v5p:2x2x2] [--only Megablox]

Needs the extra `tpu` (libtpu compiles without a chip); without it, it says so and is done. Forward and backward of one
layer's routed experts in bfloat16, 16 of 5120 x 8192, 8192 tokens a device: all experts on one device, then two on each
of eight, to which tokens travel (`models.exchange`). Weights lie as a state on a TPU keeps them. FLOPs are needed ones
(three products forward, six backward) and the compiler's own count, kernels included as they declare themselves: so a
grouped product that is expanded to all experts shows. A kernel declares all rows that there is room for, on eight
devices eight times those of one, and visits those that came (`tests/models/test_exchange.py`). Exits with an error
where what `suited` takes for TPUs does not compile, or is expanded beyond the rows that there is room for.
"""

import argparse
import importlib.util
import os
import re
import time
from collections import Counter
from typing import Any

os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5p-8",
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.experimental.layout import Format, Layout  # noqa: E402

from distill import mesh as meshes  # noqa: E402
from distill.mesh import Mesh  # noqa: E402
from models.dispatch import Dispatch  # noqa: E402
from models.exchange import Exchange  # noqa: E402
from models.moe import Capacity, Megablox, Ragged, suited  # noqa: E402

EXPERTS, D, F, TOKENS = 16, 5120, 8192, 8192
NEEDED = 3 * 3 * 2 * TOKENS * D * F
"""FLOPs a device, forward and backward, top-1"""
WAYS: dict[str, Dispatch] = {"Ragged": Ragged(), "Megablox": Megablox(), "Capacity": Capacity(factor=1.25)}


def compiled(dispatch: Dispatch, mesh: jax.sharding.Mesh) -> tuple[float, Any]:
    """Seconds to compile value and gradient, and the program."""
    place = meshes.placement(mesh)
    given = []
    for shape, letters, dtype in (
        ((mesh.size, TOKENS, D), ("b", "t", "d"), jnp.bfloat16),
        ((mesh.size, TOKENS, 1), ("b", "t", "r"), jnp.float32),
        ((EXPERTS, D, 2, F), ("e", "d", "2", "f"), jnp.bfloat16),
        ((EXPERTS, F, D), ("e", "f", "d"), jnp.bfloat16),
    ):
        where = place.sharding(letters[:2] if letters[0] == "b" else letters[:1], shape[:2])
        where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(where.spec[0]))
        kept = Format(Layout((0, 2, 1, 3)), where) if "2" in letters else where
        given.append(jax.ShapeDtypeStruct(shape, dtype, sharding=kept))
    ids = jax.ShapeDtypeStruct(given[1].shape, jnp.int32, sharding=given[1].sharding)
    own = Exchange(place, dispatch) if mesh.size > 1 else dispatch

    def layer(x: jax.Array, scores: jax.Array, gate_up: jax.Array, down: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.sum(own(x, ids, scores, gate_up, down).astype(jnp.float32) ** 2)

    call = jax.jit(jax.grad(layer, argnums=(0, 1, 2, 3)), out_shardings=tuple(one.format for one in given))
    start = time.perf_counter()
    made = call.lower(*given, ids).compile()
    return time.perf_counter() - start, made


def told(text: str) -> Counter[str]:
    """What the program consists of: kernels by name, products, what is sent."""
    called = re.findall(r'%([a-z_-]+)[.\d]* = .*custom_call_target="tpu_custom_call"', text)
    products = re.findall(r" (dot|convolution)\(", text)
    sent = re.findall(r" (ragged-all-to-all|all-to-all|all-gather|all-reduce)(?:-start)?\(", text)
    return Counter([f"{name} kernel" for name in called] + products + sent)


def main() -> None:
    """Prints the table, a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", nargs="*", default=["v5e:2x2", "v5p:2x2x2"])
    parser.add_argument("--only", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--keep", help="a folder for the compiled texts")
    asked = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        print("Not checked: libtpu is not installed (extra tpu)")
        return
    for topology in asked.topology:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        for spread in (Mesh(), Mesh(expert=8)):
            if spread.size > len(devices):
                continue
            name, mesh = f"{spread.size} device" + "s" * (spread.size > 1), spread
            print(f"\n{topology}, {name}: {TOKENS} tokens a device, {EXPERTS} experts of {D} x {F}")
            print(f"{'':10}{'compiled':>10}{'temporaries':>14}{'counted FLOPs':>16}  consists of")
            for way in asked.only:
                try:
                    seconds, made = compiled(WAYS[way], mesh.build(devices))
                except jax.errors.JaxRuntimeError as error:
                    print(f"{way:10} refused: {str(error).splitlines()[0][:160]}", flush=True)
                    assert type(suited("tpu")) is not type(WAYS[way]), f"{way} is what TPUs are given"
                    continue
                text, room = made.as_text(), made.memory_analysis().temp_size_in_bytes
                share = made.cost_analysis().get("flops", 0.0) / NEEDED
                rooms = spread.size  # a device has room for the tokens of all
                if asked.keep:
                    with open(f"{asked.keep}/{topology}-{name}-{way}.txt".replace(" ", "-"), "w") as file:
                        file.write(text)
                parts = ", ".join(f"{count} {kind}" for kind, count in sorted(told(text).items()))
                print(f"{way:10}{seconds:8.1f} s{room / 2**20:10.0f} MiB{share:13.2f} x  {parts}", flush=True)
                assert type(suited("tpu")) is not type(WAYS[way]) or share < 2 * rooms, f"{way} is expanded"


if __name__ == "__main__":
    main()
