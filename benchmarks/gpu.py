"""One card, one call of under ten minutes: how near do step, kernels, loss and decoding come to what it can do?

    python -m benchmarks.gpu                      # H100, H200 or alike, 75 GB; appends to benchmarks/results.jsonl
    python -m benchmarks.gpu --only step experts --seconds 200
    python -m benchmarks.gpu --tiny               # anywhere, in seconds: that it runs; its figures mean nothing

The mini family in bfloat16, one document a row. Everything is held against what this card does in this call: large
products in bfloat16 and a copy. FLOPs and bytes are what the work needs (`models.cost`; each kernel's in
`gpu_kernels.py`), not what is done: so utilisation of a step is its MFU. Parts come in order of worth, none is begun
when time is short; what fails costs nothing but itself, and is named.

  step       the distillation step with its teacher in it, its halves apart: overlap; dense, 16 and 128 experts
  parts      of the student's step: attention, experts, head and loss, optimizer, each apart; the rest is the difference
  torch      the same step in PyTorch (transformers, SDPA, torch.compile), in a process of its own, if torch is here
  attention, experts, loss, decode, teacher (in fewer bits), narrow (products in 8 bits)
"""

import os
import sys

if "jax" not in sys.modules:
    # Or jax would take three quarters of the memory, and leave PyTorch's process none.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import argparse  # noqa: E402
import datetime  # noqa: E402
import functools  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402

from benchmarks import gpu_kernels as kernels  # noqa: E402
from benchmarks import gpu_step, gpu_torch  # noqa: E402
from benchmarks.gpu_step import Setting, dense  # noqa: E402
from benchmarks.gpu_table import Ceilings, Refused, Row  # noqa: E402
from models.config import BEHEMOTH_MINI, MAVERICK_MINI, SCOUT_MINI, tiny  # noqa: E402
from models.execution import Execution  # noqa: E402

ROOT = Path(__file__).parent.parent
Rows = list[Row | Refused]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is."""

    settings: dict[str, Setting]
    rounds: int
    side: int
    copied: int
    peer_rows: int
    attention: dict[str, kernels.Seen]
    experts: dict[str, kernels.Routed]
    loss: tuple[tuple[int, ...], int, int, tuple[int, ...]]
    decode: tuple[tuple[int, ...], int, int]


def full() -> Size:
    """For a card of 75 GB or more."""
    one = Setting(
        name="mixture", teacher=BEHEMOTH_MINI, student=SCOUT_MINI, rows=8, length=4096, chunk=256,
        execution=Execution(dtype="bfloat16"),
    )  # fmt: skip
    return Size(
        settings={
            "dense": replace(one, name="dense", teacher=dense(BEHEMOTH_MINI), student=dense(SCOUT_MINI)),
            "mixture": one,
            "many experts": replace(one, name="many experts", student=MAVERICK_MINI),
        },
        rounds=7, side=8192, copied=2**31, peer_rows=2,
        attention={
            "mini": kernels.Seen(8, 4096, 8, 2, 64), "mini, packed": kernels.Seen(8, 4096, 8, 2, 64, documents=4),
            "Scout": kernels.Seen(1, 8192, 40, 8, 128), "Scout, packed": kernels.Seen(1, 8192, 40, 8, 128, documents=4),
        },
        experts={
            "mini": kernels.Routed(32768, 512, 832, 16), "mini, 128": kernels.Routed(32768, 512, 832, 128),
            "Scout": kernels.Routed(8192, 5120, 8192, 16),
        },
        loss=((512, 5120), 4096, 202_048, (1024, 256)),
        decode=((1, 32, 128), 128, 256),
    )  # fmt: skip


def small() -> Size:
    """The same parts at sizes that take seconds on a CPU."""
    own = full()
    settings = {
        name: replace(each, teacher=tiny(each.teacher), student=tiny(each.student), rows=2, length=32, chunk=8)
        for name, each in own.settings.items()
    }
    for name, each in settings.items():
        models = {role: vars(each)[role] for role in ("teacher", "student")}
        ends = {
            role: replace(model, vocab=64, layers=2, pattern=(model.pattern[0], model.pattern[-1]))
            for role, model in models.items()
        }
        settings[name] = replace(each, **ends)
    return Size(
        settings=settings, rounds=2, side=64, copied=2**16, peer_rows=1,
        attention={"tiny": kernels.Seen(1, 32, 4, 2, 8)}, experts={"tiny": kernels.Routed(32, 16, 16, 4)},
        loss=((16,), 32, 64, (16,)), decode=((2,), 4, 4),
    )  # fmt: skip


def parts_of(size: Size) -> dict[str, Callable[[], Rows]]:
    """What there is to measure, in order of worth; names with a setting are asked for by the part before it."""
    first, mixture = size.settings["dense"], size.settings["mixture"]
    parts: dict[str, Callable[[], Rows]] = {}
    for setting in (mixture, first):
        parts[f"step {setting.name}"] = functools.partial(gpu_step.steps, setting, size.rounds)
        parts[f"parts {setting.name}"] = functools.partial(gpu_step.parts, setting, size.rounds)
    for setting in (first, mixture):
        fewer = replace(setting, rows=size.peer_rows)
        parts[f"torch {setting.name}"] = functools.partial(gpu_torch.against, fewer, size.rounds)
    parts["experts"] = functools.partial(kernels.experts, size.experts, size.rounds)
    parts["attention"] = functools.partial(kernels.attention, size.attention, size.rounds)
    parts["loss"] = functools.partial(kernels.loss, *size.loss, size.rounds)
    parts["decode"] = functools.partial(kernels.decoding, mixture.student, *size.decode, size.rounds)
    parts["teacher"] = functools.partial(gpu_step.shrunk_teachers, first, size.rounds)
    parts["narrow"] = functools.partial(kernels.narrow_products, size.side, size.rounds)
    parts["step many experts"] = functools.partial(gpu_step.steps, size.settings["many experts"], size.rounds)
    return parts


def limits(rows: Rows) -> list[str]:
    """What of each student's step takes how much of it, the most first, and what no part explains."""
    told = []
    measured = [row for row in rows if isinstance(row, Row)]
    for whole in measured:
        if whole.part == "step" and whole.name.endswith("teacher's states there"):
            name = whole.name.split(",")[0]
            own = [row for row in measured if row.part == "parts" and row.name.startswith(f"{name}, ")]
            shares = {row.name.split(", ", 1)[1]: row.seconds / whole.seconds for row in own}
            shares["all else"] = 1 - sum(shares.values())
            parts = [f"{part} {share:.0%}" for part, share in sorted(shares.items(), key=lambda one: -one[1])]
            told.append(f"{name}: of the student's step {', '.join(parts)}")
    return told


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({name.split()[0] for name in parts_of(small())})
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds on a CPU")
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=480.0, help="begin no part after so many")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results.jsonl")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a line for each, and appends all of it to a file."""
    asked, begun = parse(arguments), time.monotonic()
    size = small() if asked.tiny else full()
    device = jax.devices()[0]
    ceilings = Ceilings.measure(size.side, size.copied, size.rounds)
    print(f"{datetime.date.today()} {device.device_kind}, jax {jax.__version__}", flush=True)
    print(f"products in bfloat16 {ceilings.flops / 1e12:.1f} TFLOP/s, a copy {ceilings.bandwidth / 1e9:.0f} GB/s")
    rows: Rows = []
    for name, measure in parts_of(size).items():
        if name.split()[0] not in asked.only:
            continue
        spent = time.monotonic() - begun
        if spent > asked.seconds:
            found: Rows = [Refused(name.split()[0], name, f"{spent:.0f} of {asked.seconds:.0f} s were over")]
        else:
            found = attempt(name, measure)
        rows += found
        print(
            *(row.show(ceilings) for row in found), f"  {time.monotonic() - begun - spent:.0f} s", sep="\n", flush=True
        )
        jax.clear_caches()
    told = limits(rows)
    print(*told, sep="\n")
    record: dict[str, Any] = {"benchmark": "gpu", "date": str(datetime.date.today()), "device": device.device_kind}
    record |= {"jax": jax.__version__, "tiny": asked.tiny, "ceilings": vars(ceilings), "limits": told}
    record["rows"] = [row.told(ceilings) for row in rows]
    with asked.out.open("a") as file:
        file.write(json.dumps(record) + "\n")


def attempt(name: str, measure: Callable[[], Rows]) -> Rows:
    """A part, or why there is none: what comes after it is measured all the same."""
    try:
        return measure()
    except Exception as error:  # noqa: BLE001 — memory, most likely
        return [Refused(name.split()[0], name, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")]


if __name__ == "__main__":
    main()
