"""Decoding: tokens a second against transformers' `generate`, refill against static batches, and long contexts.

    python -m benchmarks.decode                  all of it, 7 rounds: 15 minutes on a quiet machine
    python -m benchmarks.decode --only refill    without the peers' environment

Each side of the first part is a process of its own that is idle while another runs, as in step.py; the other parts
alternate in one process.
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.sides import Bar, Side
from benchmarks.sizes import DECODED
from benchmarks.step import ROOT, Row, compare, describe, surroundings
from benchmarks.timing import alternate
from benchmarks.worker import Worker
from models.cache import Cache, extend
from models.config import SCOUT_PICO, Config
from models.execution import Execution
from models.llama4 import Llama4
from models.moe import steady
from models.request import Request
from models.sampler import Sampler

PARTS = ("generate", "refill", "context")
BARS = {"pico": 2.0, "dense": 1.3, "mixture": 1.3}


def compare_with_generate(said: argparse.Namespace) -> list[dict]:
    """Prints seconds, tokens a second and shares of the two ceilings of every side, then the ratios."""
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as logs:
        for size in DECODED:
            ours = Side(f"herd {size}", "benchmarks.herd_decode")
            theirs = Side(f"transformers {size}", "benchmarks.peers.torch_decode", peer=True)
            bars.append(Bar(ours.name, theirs.name, BARS[size]))
            rows += [_start(side, size, said, Path(logs)) for side in (ours, theirs)]
        ceiling = Side("ceiling", "benchmarks.ceiling")
        rows.append(_start(ceiling, None, said, Path(logs)))
        bandwidth = measure_bandwidth()
        for number in range(said.rounds):
            machine.wait_until_quiet(said.quiet)
            for row in rows if number % 2 == 0 else rows[::-1]:
                row.ask(said.tries)
        for row in rows:
            row.worker.stop()
    tokens, fastest = said.batch * said.new, rows[-1].rate
    print(f"\nceilings: {fastest / 1e9:.0f} GFLOP/s of products, {bandwidth / 1e9:.0f} GB/s of reading")
    for row in rows[:-1]:
        about = row.worker.about
        line = f"{row.side.name:22} {row.seconds:8.3f} s  {tokens / row.seconds:8.0f} tokens/s  "
        line += f"{row.rate / fastest:5.0%} of the products"
        if "bytes" in about:
            line += f", {about['bytes'] / row.seconds / bandwidth:5.0%} of the reading"
        print(f"{line}  disturbed {row.quiet.count(False)}/{len(row.took)}")
    judged = compare(rows, tuple(bars))
    print("", *map(describe, judged), sep="\n")
    return judged


def _start(side: Side, size: str | None, said: argparse.Namespace, logs: Path) -> Row:
    python = said.peers if side.peer else Path(sys.executable)
    shape = [f"--{name}={getattr(said, name)}" for name in ("batch", "prompt", "new", "threads")]
    arguments = ["--batch=1"] if size is None else [f"--size={size}", *shape]
    worker = Worker(python, side.module, arguments, surroundings(said.threads), logs / f"{side.name}.log")
    first = [worker.step() for _ in range(said.warmup)]
    print(f"{side.name:22} first {first[0].seconds:.2f} s", flush=True)
    return Row(side, worker, [], [])


def measure_bandwidth(size: int = 2**28, rounds: int = 5) -> float:
    """Bytes a second that all cores read together, the best of some rounds: a sum over 256 MiB."""
    x = jnp.ones(size // 4)
    total = jax.jit(jnp.sum)
    total(x).block_until_ready()
    best = min(_seconds(lambda: total(x)) for _ in range(rounds))
    return size / best


def _seconds(call: Callable[[], jax.Array]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def compare_refill(said: argparse.Namespace) -> dict:
    """Completions of log-normal lengths: slots that refill, against batches that wait for their longest.

    The more completions, the less it matters that the last ones leave slots empty: 512 are 16 for each slot.
    """
    rng = np.random.default_rng(0)
    limits = np.clip(rng.lognormal(3.5, 1.0, said.requests).astype(int), 1, 448)
    requests = [
        Request(prompt=n, sample=0, tokens=rng.integers(0, SCOUT_PICO.vocab, 32), limit=int(limit))
        for n, limit in enumerate(limits)
    ]
    model = jax.jit(lambda: Llama4(SCOUT_PICO, jax.random.key(0)))()
    sampler = Sampler(slots=said.batch, capacity=480)

    def refilled() -> None:
        assert sum(len(each.tokens) for each in sampler(model, requests)) == limits.sum()

    def static() -> None:
        for start in range(0, len(requests), sampler.slots):
            for _ in sampler(model, requests[start : start + sampler.slots]):
                pass

    table = alternate({"refilled": refilled, "static": static}, said.rounds, patience=said.quiet)
    print(f"\n{said.requests} completions of {limits.mean():.0f} tokens on average, {limits.max()} at most")
    print(table.show("refilled"))
    ratio = table.ratio("static", "refilled")
    print(f"refill {limits.sum() / table.median('refilled'):.0f} tokens/s, {ratio:.2f}x static batches; at least 2x")
    return {"refill": ratio, "quartiles": table.spread("static", "refilled"), "quiet": table.quiet}


def compare_contexts(said: argparse.Namespace) -> dict:
    """Time per token at growing context: with chunked layers alone, and with every fourth over the whole document."""
    out = {}
    for name, pattern in (("chunked", SCOUT_PICO.pattern[:1]), ("every fourth NoPE", SCOUT_PICO.pattern)):
        steps = {str(n): _decode_at(replace(SCOUT_PICO, pattern=pattern), n) for n in said.contexts}
        table = alternate(steps, said.rounds, patience=said.quiet)
        print(f"\n{name} layers: 32 tokens of 4 rows after a context of so many tokens")
        print(table.show(str(said.contexts[0])))
        out[name] = {n: table.median(n) / 32 for n in steps}
    return out


def _decode_at(config: Config, context: int) -> Callable[[], jax.Array]:
    """Thirty-two greedy tokens in each of four rows that end at `context`; what was read before is zeros."""
    config = replace(config, chunk=256, max_positions=context)
    model = jax.jit(lambda: Llama4(config, jax.random.key(0)))()
    execution = Execution(dispatch=steady(jax.default_backend()))

    @partial(jax.jit, donate_argnums=1)
    def run(model: Llama4, cache: Cache) -> tuple[Cache, jax.Array]:
        def step(carry: tuple[Cache, jax.Array], _: None) -> tuple[tuple[Cache, jax.Array], None]:
            cache, tokens = carry
            layout = cache.place(jnp.ones(4, jnp.int32), 1)
            hidden, cache, *_ = extend(model, model.read(tokens, layout, execution), layout, cache, execution=execution)
            return (cache, jnp.argmax(model.logits(hidden), axis=-1).astype(jnp.int32)), None

        start = replace(cache, lengths=jnp.full(4, context - 32, jnp.int32)), jnp.zeros((4, 1), jnp.int32)
        return jax.lax.scan(step, start, length=32)[0]

    cache = Cache.create(config, 4, context)

    def call() -> jax.Array:
        nonlocal cache
        cache, tokens = run(model, cache)
        return tokens

    return call


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Decoding against transformers, and against itself.")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2, help="generations of each side that are not counted")
    parser.add_argument("--tries", type=int, default=3, help="how often a disturbed one is asked for")
    parser.add_argument("--quiet", type=float, default=30.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--contexts", type=int, nargs="*", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-bench/bin/python", help="the peers' Python")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results.jsonl")
    said = parser.parse_args()
    if "generate" in said.only and not said.peers.exists():
        parser.error(f"there is no Python at {said.peers}; `make bench` creates it, or name one with --peers")
    return said


def main() -> None:
    """Runs the parts asked for, and appends what came out."""
    said = parse()
    machine.keep(said.threads)
    parts = {"generate": compare_with_generate, "refill": compare_refill, "context": compare_contexts}
    record = {
        "benchmark": "decode",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine.describe(),
        "shape": {name: getattr(said, name) for name in ("batch", "prompt", "new", "threads")},
        **{name: parts[name](said) for name in said.only},
    }
    with said.out.open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
