"""Does attention compile for TPUs that are not there, at Scout's sizes, and how much memory does it take?

    python proofs/attention_tpu.py [--topology v5e:2x2]

Needs the extra `tpu` (libtpu compiles without a chip); without it, it says so and is done. Forward and backward of one
layer's attention, 40 heads over 8 of keys, 128 channels, bfloat16, 8192 columns a device: whole rows on one, then rows
that are split over all devices of the topology (v5p:4x4x8 is 1M columns). Exits with an error where a compile fails,
where a chunk that crosses no border sends anything, or where temporaries are more than --limit MiB.
"""

import argparse
import importlib.util
import os
import re
import time
from collections import Counter
from functools import partial

os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5p-8",
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from models.across import Gather, Ring  # noqa: E402
from models.attention import attend_chunk, attend_document  # noqa: E402
from models.context import attend_chunk_split, attend_document_split  # noqa: E402
from models.flash import Splash  # noqa: E402
from models.layout import Layout  # noqa: E402

T, HEADS, KV_HEADS, CHANNELS = 8192, 40, 8, 128
SPLASH = Splash()


def layout(places: jax.Array, segments: jax.Array, aligned: bool) -> Layout:
    """As a batch gives it; aligned is one document a row."""
    return Layout(positions=places, segments=segments, tempering=places, aligned=aligned)


def whole(see, aligned: bool):
    """Attention of whole rows."""
    return lambda q, k, v, places, segments: see(q, k, v, layout(places, segments, aligned), attend=SPLASH)


def split(see, aligned: bool, mesh: Mesh):
    """Attention of rows in slices."""
    columns = PartitionSpec(None, "context")
    run = lambda q, k, v, places, segments: see(  # noqa: E731
        q, k, v, layout(places, segments, aligned), axis="context", attend=SPLASH
    )
    return jax.shard_map(run, mesh=mesh, in_specs=(columns,) * 5, out_specs=columns, check_vma=False)


def compiled(form, mesh: Mesh) -> tuple[float, int, Counter]:
    """Seconds to compile value and gradient, bytes of temporaries a device, and what is sent."""
    t = T * mesh.size
    sharding = NamedSharding(mesh, PartitionSpec(None, "context"))
    given = [
        jax.ShapeDtypeStruct((1, t, n, CHANNELS), jnp.bfloat16, sharding=sharding) for n in (HEADS, KV_HEADS, KV_HEADS)
    ]
    given += [jax.ShapeDtypeStruct((1, t), jnp.int32, sharding=sharding)] * 2

    def step(q, k, v, *where):
        return jax.value_and_grad(lambda *x: form(*x, *where).astype(jnp.float32).sum(), argnums=(0, 1, 2))(q, k, v)

    start = time.perf_counter()
    made = jax.jit(step).lower(*given).compile()
    seconds, memory = time.perf_counter() - start, made.memory_analysis()
    assert memory is not None, "the compiler did not say how much memory the program takes"
    kinds = r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    # The value itself is summed over devices: one all-reduce that is not attention's.
    return seconds, memory.temp_size_in_bytes, Counter(re.findall(kinds, made.as_text() or ""))


def main() -> None:
    """Prints the table, a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--limit", type=int, default=1536)
    asked = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        print("Not checked: libtpu is not installed (extra tpu)")
        return
    devices = topologies.get_topology_desc(platform="tpu", topology_name=asked.topology).devices
    one, every = (Mesh(np.array(devices[:n]), ("context",)) for n in (1, len(devices)))
    documents, chunks = partial(attend_document_split, across=Gather()), partial(attend_chunk_split, chunk=T)
    cases = {
        "whole rows, one document": (whole(attend_document, True), one),
        "whole rows, packed": (whole(attend_document, False), one),
        "whole rows, packed, chunks of 2048": (whole(partial(attend_chunk, chunk=2048), False), one),
        "split, NoPE, gathered": (split(documents, False, every), every),
        "split, NoPE, gathered in 8 parts": (split(partial(documents, across=Gather(parts=8)), False, every), every),
        "split, NoPE, ring": (split(partial(documents, across=Ring(block=1024)), False, every), every),
        "split, a chunk a slice, one document": (split(chunks, True, every), every),
        "split, a chunk a slice, packed": (split(chunks, False, every), every),
        "split, a chunk two slices, one document": (split(partial(chunks, chunk=2 * T), True, every), every),
    }
    print(f"{asked.topology}, {HEADS} heads over {KV_HEADS}, {CHANNELS} channels, bfloat16, {T} columns a device")
    print(f"{'':42}{'compiled':>10}{'temporaries':>14}  sent")
    for name, (form, mesh) in cases.items():
        seconds, room, sent = compiled(form, mesh)
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(sent.items())) or "nothing"
        print(f"{name:42}{seconds:8.1f} s{room / 2**20:10.0f} MiB  {said}", flush=True)
        assert room <= asked.limit * 2**20, f"more than --limit {asked.limit} MiB"
        if name == "split, a chunk a slice, one document":
            assert not set(sent) - {"all-reduce"}, "a chunk that crosses no border sends"


if __name__ == "__main__":
    main()
