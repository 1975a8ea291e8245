"""A token of one document of 10M tokens by full-size Scout: which slice holds weights and cache, and how fast is it?

python -m experiments.pods.decode_10m v5p:2x2x4 --expert 2
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.plan.rates import Rates
from distill.plan.topology import Topology, prepare

TOKENS = 10 * 2**20


def main() -> None:
    """Compiles one step of decoding and prints the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topology", nargs="?", default="v5p:2x2x4")
    parser.add_argument("--expert", type=int, default=2, help="devices over which experts, and columns, are spread")
    parser.add_argument("--tensor", type=int, default=8, help="devices over which heads are")
    parser.add_argument("--json", type=Path, help="write everything into this file")
    given = parser.parse_args()
    topology = Topology.parse(given.topology)
    prepare()
    from rich.console import Console

    from distill.mesh import Mesh
    from distill.plan.plan import tell
    from distill.plan.report import show

    program = decoding(Mesh(expert=given.expert, tensor=given.tensor).build(topology.devices()))
    told = tell("decode_10m", "one token", [program], topology, Rates())
    show(told, Console())
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=1, default=float) + "\n")


def decoding(mesh: Any) -> Any:
    """One token of one row, with all weights where they are: none is gathered."""
    import jax
    import jax.numpy as jnp

    from distill import mesh as meshes
    from distill.plan.programs import Program, Work, bytes_of, placed
    from experiments.pods.sizes import LONG
    from models.cache import Cache, extend
    from models.execution import Execution
    from models.llama4 import Llama4
    from models.moe import Each

    place = meshes.resting(mesh)
    execution = Execution(dtype="bfloat16", placement=place, dispatch=Each())
    model = jax.eval_shape(lambda: Llama4(LONG, jax.random.key(0)))
    model = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16 if x.ndim > 2 else x.dtype), model)
    model = placed(model, mesh, place)
    cache = jax.eval_shape(lambda: Cache.create(LONG, 1, TOKENS, "bfloat16"))
    letters = {5: ("p", "b", "k", "s", "c"), 1: ("b",)}
    lay = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place.sharding(letters[x.ndim], x.shape))  # noqa: E731
    cache, token = jax.tree.map(lay, cache), lay(jax.ShapeDtypeStruct((1,), jnp.int32))

    def step(model: Llama4, cache: Cache, token: jax.Array) -> tuple[Cache, jax.Array]:
        layout = cache.place(jnp.ones(1, jnp.int32), 1)
        hidden, cache, *_ = extend(model, model.read(token[:, None], layout, execution), layout, cache, None, execution)
        return cache, jnp.argmax(model.logits(hidden)[:, 0], axis=-1).astype(jnp.int32)

    cut = jax.tree.map(lambda x: x.sharding, (cache, token))
    return Program(
        name="a token is drawn", mesh=mesh, role="sampler",
        lower=lambda: jax.jit(step, donate_argnums=1, out_shardings=cut).lower(model, cache, token),
        held={"weights": model, "cache": cache, "token": token},
        work=(Work(model=replace(LONG), kind="forward", tokens=1, context=TOKENS, execution=execution),),
        touched=bytes_of(model) + bytes_of(cache),
        notes=("of the experts all are counted as read, and a token reads one of sixteen a layer",),
    )  # fmt: skip


if __name__ == "__main__":
    main()
