"""Do memory and time of a forward pass grow linearly with context on chunked layers, and what do NoPE layers add?

    python -m benchmarks.long_context [--longest 65536] [--rounds 3]

A model of SCOUT_PICO's size with chunked layers alone, then as Scout is with one NoPE layer in four, on one row of 1k
to 64k tokens. Memory is what XLA reserves for intermediate values (`memory_analysis`), weights and hidden states aside.
The NoPE layer's scores are never in memory at once (`models/blockwise.py`); `one piece` is what they would take.
"""

import argparse
import time
from dataclasses import replace

import jax
import numpy as np

from models.config import SCOUT_PICO, Layer
from models.llama4 import Llama4

CHUNKED = replace(SCOUT_PICO, pattern=(Layer(rope=True, moe=True),))


def measure(model: Llama4, tokens: int, rounds: int) -> tuple[int, float]:
    """Bytes of intermediate values of a pass over one row, and its least seconds."""
    ids = jax.random.randint(jax.random.key(1), (1, tokens), 0, model.config.vocab)
    run = jax.jit(lambda model, ids: model(ids)[0]).lower(model, ids).compile()
    seconds = []
    for _ in range(rounds + 1):  # the first one touches the memory
        start = time.perf_counter()
        jax.block_until_ready(run(model, ids))
        seconds.append(time.perf_counter() - start)
    memory = run.memory_analysis()
    assert memory is not None, "XLA did not say how much memory the program takes"
    return memory.temp_size_in_bytes, min(seconds[1:])


def exponent(lengths: list[int], values: list[float]) -> float:
    """The power of length that values grow with over the last two doublings: 1 is linear, 2 quadratic."""
    return float(np.polyfit(np.log(lengths[-3:]), np.log(values[-3:]), 1)[0])


def main() -> None:
    """Prints the table, a line a length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shortest", type=int, default=1024)
    parser.add_argument("--longest", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if not 2 <= given.shortest <= given.longest // 4 or given.rounds < 1:
        raise SystemExit("--longest must be at least 4 times --shortest, and --rounds at least 1")
    lengths = [given.shortest]
    while 2 * lengths[-1] <= given.longest:
        lengths.append(2 * lengths[-1])
    print(f"{'tokens':>8}{'chunked only':>32}{'as Scout':>32}{'scores in one piece':>22}")
    models = {}
    for name, config in (("chunked only", CHUNKED), ("as Scout", SCOUT_PICO)):
        long = replace(config, max_positions=given.longest)
        models[name] = jax.jit(lambda key, long=long: Llama4(long, key))(jax.random.key(0))
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in models}
    for tokens in lengths:
        for name, model in models.items():
            found[name].append(measure(model, tokens, given.rounds))
        last = [rows[-1] for rows in found.values()]
        line = "".join(f"{room / 2**20:12.1f} MiB {1e6 * seconds / tokens:9.1f} us/tok" for room, seconds in last)
        print(f"{tokens:8}{line}{4 * SCOUT_PICO.heads * tokens**2 / 2**20:18.0f} MiB", flush=True)
    for name, rows in found.items():
        memory, seconds = (exponent(lengths, [row[i] for row in rows]) for i in (0, 1))
        print(f"{name}: over the last two doublings memory grows as length^{memory:.2f}, time as length^{seconds:.2f}")


if __name__ == "__main__":
    main()
