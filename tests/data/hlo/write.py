"""Writes the excerpts of this folder anew: what compilers make of small programs of which everything is known.

    PYTHONPATH=. python tests/data/hlo/write.py      # on a machine with libtpu

`layers` is the gradient of six products in a scan, weights [d, d] cut over fsdp and rows over data and fsdp;
`messages` sends rows around a ring three times and exchanges them between experts, in a loop of five.
What only a machine reads is taken out, so that the files are short.
"""

import os
import re
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from distill.plan.topology import Topology, prepare

LAYERS, WIDTH, ROWS, TURNS, HOPS = 6, 1024, 4096, 5, 3
HERE = Path(__file__).parent


def layers(mesh):
    """The gradient of six products in a scan."""
    place, rows = PartitionSpec(None, "fsdp"), PartitionSpec(("data", "fsdp"))

    def product(x, weight):
        return jnp.einsum("nd,df->nf", x, jax.lax.all_gather(weight, "fsdp", axis=1, tiled=True))

    on_mesh = jax.shard_map(product, mesh=mesh, in_specs=(rows, place), out_specs=rows)

    def loss(weights, x):
        last, _ = jax.lax.scan(lambda x, weight: (jnp.tanh(on_mesh(x, weight)), None), x, weights)
        return jnp.sum(last.astype(jnp.float32))

    cut = NamedSharding(mesh, PartitionSpec(None, None, "fsdp"))
    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.bfloat16, sharding=cut)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16, sharding=NamedSharding(mesh, rows))
    return jax.jit(jax.grad(loss), out_shardings=cut).lower(weights, x)


def gathered(mesh):
    """The same gradient, of two products a layer, where the partitioner gathers weights and scatters gradients."""
    kept, read = (NamedSharding(mesh, spec) for spec in (PartitionSpec("fsdp"), PartitionSpec()))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    @jax.custom_vjp
    def gather(weight):
        return jax.lax.with_sharding_constraint(weight, read)

    gather.defvjp(
        lambda weight: (gather(weight), None), lambda _, slope: (jax.lax.with_sharding_constraint(slope, kept),)
    )

    def layer(x, weights):
        for weight in weights:
            x = jnp.tanh(jnp.einsum("nd,df->nf", x, gather(weight)))
        return jax.lax.with_sharding_constraint(x, rows), None

    def loss(weights, x):
        return jnp.sum(jax.lax.scan(layer, x, weights)[0].astype(jnp.float32))

    cut = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    weight = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.bfloat16, sharding=cut)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16, sharding=rows)
    return jax.jit(jax.grad(loss), out_shardings=cut).lower((weight, weight), x)


def messages(mesh):
    """Rows around a ring, and an exchange, in a loop."""
    rows = PartitionSpec(("data", "fsdp"))

    def turn(_, x):
        size = mesh.shape["fsdp"]
        for _ in range(HOPS):
            x = jnp.sin(jax.lax.ppermute(x, "fsdp", [(n, (n + 1) % size) for n in range(size)]))
        return jnp.cos(jax.lax.all_to_all(x, "data", 0, 0, tiled=True))

    call = jax.shard_map(lambda x: jax.lax.fori_loop(0, TURNS, turn, x), mesh=mesh, in_specs=rows, out_specs=rows)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, rows))
    return jax.jit(call).lower(x)


def short(text):
    """Without layouts' tiles, places in files, and what the back end notes for itself but numbers of turns."""
    lines = []
    for line in text.split("FileNames")[0].splitlines() + text.split("StackFrames")[-1].splitlines():
        if re.match(r"\d+ \{", line):
            continue
        turns = re.search(r'"known_trip_count":\{"n":"\d+"\}', line)
        line = re.sub(r", backend_config=.*", f", backend_config={{{turns.group()}}}" if turns else "", line)
        line = re.sub(r" stack_frame_id=\d+|, entry_computation_layout=.*|:[TS]\([^}]*(?=\})", "", line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def main():
    """Four files."""
    prepare()
    topology = Topology.parse("v5e:4x4").devices()
    meshes = {
        "tpu": Mesh(np.array(topology).reshape(4, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2),
        "cpu": Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2),
    }
    for name, mesh in meshes.items():
        for program in (layers, gathered, messages):
            compiled = program(mesh).compile()
            path = HERE / f"{name}_{program.__name__}.txt"
            path.write_text(short(compiled.as_text()))
            print(path.name, path.stat().st_size, compiled.cost_analysis().get("flops"), file=sys.stderr)


if __name__ == "__main__":
    main()
