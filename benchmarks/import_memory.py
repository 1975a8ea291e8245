"""What the host holds while a checkpoint is read, and written, beside the arrays it becomes.

    python -m benchmarks.import_memory          # 2 GB in 16 shards; a few minutes

Writes a synthetic checkpoint (the mini Behemoth with 12 layers, in bfloat16), then reads it in processes of their own,
as it is, into float32 and cut over 8 devices, and writes it again. Each does so with a tiny checkpoint first, so that
what is counted is neither the interpreter nor the compiler. Peak memory is the kernel's (VmHWM). Fails where the peak
is above the finished arrays by more than the largest tensor, as it is kept, and 96 MiB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from distill import mesh as meshes
from distill.mesh import Mesh
from models import huggingface
from models.config import BEHEMOTH_MINI, Config, tiny
from models.huggingface.names import places
from models.llama4 import Llama4

CASES = {"as it is": (None, 1), "into float32": ("float32", 1), "over 8 devices": (None, 8)}
SLACK = 96 * 2**20
SHARD = 1.76e8
"""bytes; 12 layers then fill 16 shards"""


def write(folder: Path, config: Config) -> None:
    """A checkpoint of ones in bfloat16."""
    shapes = jax.eval_shape(lambda: Llama4(config, jax.random.key(0)))
    huggingface.save(folder, jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.bfloat16), shapes), shard_bytes=SHARD)


def memory(name: str) -> int:
    """A figure of /proc/self/status in bytes: VmRSS, or VmHWM, the highest that it was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def measure(folder: Path, dtype: str | None, devices: int) -> dict[str, int]:
    """Peaks above the start of one reading and writing, and the arrays' bytes; for a process of its own."""
    shardings = partial(meshes.shardings, Mesh(fsdp=devices).build())
    tiny_one = huggingface.load(folder.with_name("tiny"), dtype, shardings)
    huggingface.save(folder.with_name(f"tiny-{os.getpid()}"), tiny_one)
    before = memory("VmRSS")
    model = huggingface.load(folder, dtype, shardings)
    read = memory("VmHWM") - before
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    huggingface.save(folder.with_name(f"again-{os.getpid()}"), model)
    written = memory("VmHWM") - before
    leaves = jax.tree.leaves(model)
    width = max(leaf.dtype.itemsize for leaf in leaves)
    largest = max(width * _count(place.shape) for place in places(model.config).values())
    arrays = sum(leaf.nbytes for leaf in leaves)
    return {"read": read, "written": written, "arrays": arrays, "largest": largest}


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def main() -> None:
    """Writes, reads, prints, and fails above the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        folder, dtype, devices = options.measure
        print(json.dumps(measure(Path(folder), None if dtype == "None" else dtype, int(devices))))
        return
    failed = False
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "large"
        config = replace(BEHEMOTH_MINI, layers=options.layers)
        write(folder, config)
        write(folder.with_name("tiny"), tiny(config))
        files = list(folder.glob("*.safetensors"))
        print(f"{sum(file.stat().st_size for file in files) / 1e9:.2f} GB in {len(files)} shards; MiB:")
        print(f"{'':16}{'arrays':>10}{'largest':>10}{'read':>10}{'written':>10}{'above arrays':>14}{'bound':>10}")
        for name, (dtype, devices) in CASES.items():
            flags = f"--xla_force_host_platform_device_count={devices}"
            case = ["--measure", str(folder), str(dtype), str(devices)]
            command = [sys.executable, "-m", "benchmarks.import_memory", *case]
            environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            seen = json.loads(done.stdout.splitlines()[-1])
            above = max(seen["read"], seen["written"]) - seen["arrays"]
            bound = seen["largest"] + SLACK
            row = [seen["arrays"], seen["largest"], seen["read"], seen["written"]]
            print(f"{name:16}{''.join(f'{n / 2**20:10.0f}' for n in row)}{above / 2**20:14.0f}{bound / 2**20:10.0f}")
            failed |= above > bound
    if failed:
        sys.exit("the peak is above the bound")


if __name__ == "__main__":
    main()
