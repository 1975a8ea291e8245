"""The distillation loss over Llama 4's vocabulary of 202,048: by pieces against the whole [b t v] at once.

Memory is the compiler's own count of temporaries, so it is exact and needs no memory; time is taken where the whole
form fits. The sides:

  textbook           the divergence and the signal as one would write them down, by plain autodiff; no gate, no metrics
  pieces of N        `losses.Distill(chunk=N)` without a gate, with all it logs
  pieces of N, gate  the same with the default gate, Evidence, which pools over neighbours
  products           the matrix products alone, by pieces: what nothing that is right can do without (Projected only)

Both sides make the gradients of hidden states and head. Not counted at width 5120 is the sum of the head's gradient
itself, [d v] in float32: pieces keep one; the textbook form has one among its temporaries in bfloat16 only.

    python -m benchmarks.head_loss                    # memory of a covering set; time at 512 and 1024 tokens, 16 GB
    python -m benchmarks.head_loss --all --only memory    # of every case: hours
    python -m benchmarks.head_loss --gpu --seconds 140 --out head_loss.jsonl    # time and memory, first things first
"""

import argparse
import functools
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from benchmarks.head_cases import DIVERGENCES, SIGNALS, Case
from benchmarks.timing import alternate
from losses import Distill, Evidence, NoGate

VOCAB = 202_048
WIDTHS, TOKENS, DTYPES = (512, 5120), (1024, 2048, 4096, 8192, 16384), ("float32", "bfloat16")
BASE = "textbook"
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measures cases and writes what it finds: a line on the screen, a line in a file."""

    chunks: tuple[int, ...]
    rounds: int = 5
    out: Path | None = None
    deadline: float = float("inf")
    """of `time.monotonic`; nothing is begun after it"""

    def sides(self, case: Case) -> dict[str, Any]:
        """The functions to compare, by name."""
        gradient = functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
        sides = {BASE: gradient(case.textbook())}
        for chunk in self.chunks:
            sides[f"pieces of {chunk}"] = gradient(case.ours(NoGate(), chunk))
        sides[f"pieces of {self.chunks[-1]}, gate"] = gradient(case.ours(Evidence(), self.chunks[-1]))
        return sides

    def compiled(self, case: Case, timed: bool) -> dict[str, Any]:
        """Executables by name, compiled side by side."""
        arguments, sides = jax.eval_shape(case.inputs), self.sides(case)
        if timed and case.signal == "Projected":
            sides["products"] = case.products()
        lowered = {name: jax.jit(call).lower(*arguments) for name, call in sides.items()}
        with ThreadPoolExecutor(len(lowered)) as pool:
            return dict(zip(lowered, pool.map(lambda one: one.compile(), lowered.values()), strict=True))

    def memory(self, case: Case) -> None:
        """Temporaries alone."""
        self._write(case, self.compiled(case, timed=False), None)

    def time(self, cases: Iterable[Case], together: int = 1) -> None:
        """Temporaries and seconds; so many cases are compiled at once, and nothing while the clock runs."""
        for group in _batched(cases, together):
            with ThreadPoolExecutor(together) as pool:
                waiting = [pool.submit(self.compiled, case, True) for case in group]
            for case, each in zip(group, waiting, strict=True):
                if time.monotonic() > self.deadline:
                    return print("out of time: what follows was not measured")
                try:
                    self._time_one(case, each.result())
                except jax.errors.JaxRuntimeError as error:  # out of memory, mostly: the others may fit
                    print(f"{_name(case)}: {str(error).splitlines()[0]}; skipped", flush=True)

    def _time_one(self, case: Case, executables: dict[str, Any]) -> None:
        needed, free = max(map(_needed, executables.values())), _free()
        if needed > free:
            print(f"{_name(case)}: needs {needed / GIB:.1f} of {free / GIB:.1f} GiB; its time is skipped", flush=True)
            return self._write(case, executables, None)
        arguments = jax.block_until_ready(jax.jit(case.inputs)())
        calls = {name: functools.partial(one, *arguments) for name, one in executables.items()}
        self._write(case, executables, alternate(calls, self.rounds, warm=1, patience=2.0))

    def _write(self, case: Case, executables: dict[str, Any], table: Any) -> None:
        base = _counted(case, BASE, executables[BASE])
        for name, one in executables.items():
            size, parts = _counted(case, name, one), one.memory_analysis()
            row = asdict(case) | {"side": name, "platform": jax.devices()[0].device_kind, "jax": jax.__version__}
            row |= {"temporaries": parts.temp_size_in_bytes, "outputs": parts.output_size_in_bytes}
            row |= {"arguments": parts.argument_size_in_bytes, "counted": size, "memory_ratio": base / max(size, 1)}
            line = f"{_name(case):58s} {name:22s} {size / MIB:8.0f} MiB  {base / max(size, 1):6.1f}x less"
            if table is not None:
                row |= {"seconds": table.seconds[name], "others": table.others, "time_ratio": table.ratio(name, BASE)}
                low, high = table.spread(name, BASE)
                line += f"  {1e3 * table.median(name):9.2f} ms  {table.ratio(name, BASE):5.2f} of its time"
                line += f" [{low:.2f}-{high:.2f}]  {case.flops / table.median(name) / 1e12:7.2f} TFLOP/s"
            print(line, flush=True)
            if self.out is not None:
                with open(self.out, "a") as file:
                    file.write(json.dumps(row) + "\n")
        if table is not None and not table.quiet:
            print(f"  others kept {table.others:.1f} cores busy: trust the ratios, not the times")


def _name(case: Case) -> str:
    return f"{case.signal} {case.divergence}, width {case.width}, {case.tokens} tokens, {case.dtype}"


def _counted(case: Case, side: str, executable: Any) -> int:
    """Bytes of temporaries; at width 5120 without a float32 sum of the head's gradient, where they hold one.

    A GPU's compiler makes a float32 sum where the gradient goes, which is no temporary; a CPU's makes it apart.
    """
    size, whole = executable.memory_analysis().temp_size_in_bytes, 4 * case.width * case.vocab
    keeps = side != BASE or case.dtype != "float32"
    return size - whole if keeps and case.width == max(WIDTHS) and size >= whole else size


def _needed(executable: Any) -> int:
    parts = executable.memory_analysis()
    return parts.temp_size_in_bytes + parts.output_size_in_bytes + parts.argument_size_in_bytes


def _free() -> float:
    """Bytes that one may still fill: of the device, or of this machine."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return 0.95 * (stats["bytes_limit"] - stats["bytes_in_use"])
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((0.9 * 1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 8.0 * GIB)


def _batched(cases: Iterable[Case], size: int) -> Iterator[list[Case]]:
    walk = iter(cases)
    while group := list(itertools.islice(walk, size)):
        yield group


def every(vocab: int) -> list[Case]:
    """All there is to ask: 370 cases."""
    grid = itertools.product(SIGNALS, DIVERGENCES, WIDTHS, TOKENS, DTYPES)
    return [case for each in grid if (case := Case(*each, vocab)).possible()]


def covering(vocab: int) -> list[Case]:
    """Every signal with every divergence at one size, every signal at every size, both dtypes at both widths."""
    chosen = [
        case
        for case in every(vocab)
        if (case.divergence == "ForwardKL" and case.tokens in (1024, 2048, 16384) and case.dtype == "float32")
        or (case.divergence == "ForwardKL" and case.tokens == 2048)
        or (case.width, case.tokens, case.dtype) == (512, 2048, "float32")
        or (case.signal, case.divergence, case.width, case.dtype) == ("Projected", "ForwardKL", 512, "float32")
    ]
    return sorted(chosen, key=lambda case: (case.divergence != "ForwardKL", case.dtype != "float32"))


def by_worth(vocab: int) -> list[Case]:
    """In the order in which a short time on a fast device is best spent."""
    plain = functools.partial(Case, "Projected", "ForwardKL", vocab=vocab)
    sizes = [(512, 2048), (5120, 2048), (512, 16384), (5120, 16384), (512, 4096), (5120, 8192), (512, 1024)]
    cases = [plain(width=w, tokens=t, dtype=dtype) for w, t in sizes[:3] for dtype in DTYPES]
    cases += [Case("Projected", each, 512, 2048, "float32", vocab) for each in DIVERGENCES]
    cases += [Case(each, "ForwardKL", 512, 2048, "float32", vocab) for each in SIGNALS]
    cases += [plain(width=w, tokens=t, dtype=dtype) for w, t in sizes[3:] for dtype in DTYPES]
    cases += [Case(each, "ForwardKL", 5120, 2048, "bfloat16", vocab) for each in SIGNALS]
    cases += [Case("Projected", each, 512, 2048, "bfloat16", vocab) for each in DIVERGENCES]
    return list(dict.fromkeys(cases))


def main() -> None:
    """The tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="memory of every case, not of a covering set")
    parser.add_argument("--gpu", action="store_true", help="time with memory, best spent first, until time is up")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so many")
    parser.add_argument("--only", choices=("memory", "time"), help="one of the two tables")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024], help="sizes to time")
    parser.add_argument("--divergence", nargs="*", default=[], choices=DIVERGENCES, help="only these")
    parser.add_argument("--signal", nargs="*", default=[], choices=SIGNALS, help="only these")
    parser.add_argument("--chunk", type=int, nargs="+", help="positions a piece; the gate is measured with the last")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of what is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=VOCAB)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    asked = parser.parse_args()
    chunks = tuple(asked.chunk or ((64, 128, 256) if asked.gpu else (Distill().chunk,)))
    bench = Bench(chunks=chunks, rounds=asked.rounds, out=asked.out, deadline=time.monotonic() + asked.seconds)

    def wanted(cases: list[Case]) -> list[Case]:
        return [
            case
            for case in cases
            if (not asked.signal or case.signal in asked.signal)
            and (not asked.divergence or case.divergence in asked.divergence)
        ]

    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, vocabulary {asked.vocab:,}", flush=True)
    if asked.gpu:
        return bench.time(wanted(by_worth(asked.vocab)), together=4)
    if asked.only != "time":
        for case in wanted(every(asked.vocab) if asked.all else covering(asked.vocab)):
            bench.memory(case)
    if asked.only != "memory":
        pairs = dict.fromkeys([*(("Projected", each) for each in DIVERGENCES), *((s, "ForwardKL") for s in SIGNALS)])
        sizes = itertools.product(asked.tokens, pairs)
        bench.time(wanted([Case(*pair, 512, tokens, asked.dtype, asked.vocab) for tokens, pair in sizes]))


if __name__ == "__main__":
    main()
