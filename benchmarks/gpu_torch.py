"""Our step against the same step in PyTorch on the same card, each in a process of its own, asked in turn."""

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu_step import Setting, repeated
from benchmarks.gpu_table import Refused, Row
from benchmarks.worker import Took, Worker
from models.config import Config

SIZES = ("vocab", "width", "layers", "heads", "kv_heads", "head_dim", "expert_width", "dense_width", "experts", "top_k",
         "chunk", "rope_theta", "eps", "qk_norm")  # fmt: skip


def sizes(config: Config) -> dict[str, object]:
    """What the peer has to know of a model; `moe` and `nope`: every how many-th layer is."""
    every = [i for i, layer in enumerate(config.pattern, 1) if layer.moe]
    return {name: vars(config)[name] for name in SIZES} | {
        "moe": every[0] if every else 0,
        "rope": [int(layer.rope) for layer in config.pattern] * config.periods,
        "tempering": None if config.tempering is None else [config.tempering.floor, config.tempering.scale],
    }


def against(setting: Setting, rounds: int) -> list[Row | Refused]:
    """Seconds of both, eager and compiled, in turn; tokens and FLOPs are those that either counts."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        return [Refused("torch", setting.name, f"{' and '.join(missing)} not installed")]
    work = {"teacher": sizes(setting.teacher), "student": sizes(setting.student)}
    work |= {"rows": setting.rows, "length": setting.length, "device": jax.default_backend()}
    ours = repeated(setting, setting.voice(), setting.batch())
    found: list[Row | Refused] = []
    about = {"part": "torch", "flops": setting.heard + setting.learned, "tokens": float(setting.tokens)}
    for name, more in (("eager", []), ("torch.compile", ["--compile"])):
        with tempfile.TemporaryDirectory() as folder:
            try:
                theirs = _start(json.dumps(work), more, Path(folder))
                table = _in_turn(theirs, ours, rounds)
            except RuntimeError as error:
                found.append(Refused("torch", f"{setting.name}, {name}", str(error).splitlines()[-1][:200]))
                continue
        told = f"ours is {faster(table['ours'], table['theirs']):.2f}x as fast; loss {table['loss']:.3f}"
        found.append(
            Row(name=f"{setting.name}, {name}", seconds=statistics.median(table["theirs"]), note=told, **about)
        )
        found.append(Row(name=f"{setting.name}, ours beside", seconds=statistics.median(table["ours"]), **about))
    return found


def faster(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast ours is: the median over rounds, whose two sides ran one after the other."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def _start(work: str, more: list[str], folder: Path) -> Worker:
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "TOKENIZERS_PARALLELISM": "false"}
    return Worker(
        Path(sys.executable),
        "benchmarks.peers.torch_mini",
        [work, *more],
        {**os.environ, **environment},
        folder / "log",
    )


def _in_turn(theirs: Worker, ours: Callable[[], Any], rounds: int) -> dict[str, Any]:
    took: list[Took] = []
    own: list[float] = []
    try:
        for _ in range(2):  # the first compiles
            theirs.step()
            jax.block_until_ready(ours())
        for _ in range(rounds):
            took.append(theirs.step())
            start = time.perf_counter()
            jax.block_until_ready(ours())
            own.append(time.perf_counter() - start)
    finally:
        theirs.stop()
    return {"theirs": [one.seconds for one in took], "ours": own, "loss": took[-1].loss}
