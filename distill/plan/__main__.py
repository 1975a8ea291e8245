"""The command: `python -m distill.plan EXPERIMENT --topology v5p:8x8x8`."""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from distill.mesh import AXES
from distill.options import load, parse
from distill.plan.rates import Rates
from distill.plan.topology import Topology, prepare

WHAT = "Compiles an experiment's steps for machines that are not there."


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m distill.plan", allow_abbrev=False, description=WHAT,
        epilog="Every field of the experiment is an option too, as where it is run: --mesh.fsdp 64.",
    )  # fmt: skip
    parser.add_argument("experiment", type=Path, help="a file that defines EXPERIMENT")
    parser.add_argument(
        "--topology", required=True, help="chips and their layout: v5p:8x8x8, or h100:4x8 (hosts x chips)"
    )
    parser.add_argument("--stage", help="name of the stage; the last one if not given")
    parser.add_argument("--tokens", type=float, help="budget of tokens; those of the stage's steps if not given")
    parser.add_argument("--json", type=Path, help="write everything into this file")
    parser.add_argument("--keep", type=Path, help="write the texts of the compiled programs into this folder")
    parser.add_argument(
        "--search", action="store_true", help="where it does not fit, look for the nearest mesh that does: minutes"
    )
    parser.add_argument("--limit", type=float, default=360.0, help="seconds of processor for each compile of a search")
    for one in fields(Rates):
        if one.name != "slow":
            kind = int if one.name == "axes" else float
            parser.add_argument(f"--rates.{one.name}", type=kind, default=one.default, help=f"default {one.default}")
    parser.add_argument(
        "--rates.slow", nargs="*", default=[], metavar="AXIS=BYTES", help="bytes a second along a mesh axis"
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """Plans a stage, prints the plan and keeps it."""
    given, rest = _arguments().parse_known_args(arguments)
    rates, topology = _rates(vars(given)), Topology.parse(given.topology)
    if given.tokens is not None and not 0.0 < given.tokens < math.inf:
        raise ValueError(f"--tokens {given.tokens:g}: a budget is a number of tokens above 0")
    if given.limit < 1.0:
        raise ValueError(f"--limit {given.limit:g}: a compile needs at least 1 s of processor")
    if given.json is not None:  # a compile takes minutes: it is not to be lost for want of a place
        given.json.parent.mkdir(parents=True, exist_ok=True)
        if given.json.is_dir():
            raise ValueError(f"--json {given.json} is a folder; name a file")
    prepare()
    experiment = parse(load(given.experiment), rest).experiment
    from rich.console import Console

    from distill.plan.plan import plan
    from distill.plan.report import show

    if given.search:
        from distill.plan.search import Search

        told = Search(arguments, experiment, given.stage, topology, given.limit)()
    else:
        told = plan(experiment, given.stage, topology, rates, given.tokens, keep=given.keep)
    show(told, Console(width=120))
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=1, default=float) + "\n")


def _rates(values: Mapping[str, Any]) -> Rates:
    """As the command line sets them."""
    slow = []
    for pair in values["rates.slow"]:
        name, _, rate = pair.partition("=")
        if name not in AXES or not re.fullmatch(r"\d*\.?\d+(e[+-]?\d+)?", rate):
            raise ValueError(f"--rates.slow {pair}: write AXIS=BYTES, data=1e9; axes are {', '.join(AXES)}")
        slow.append((name, float(rate)))
    plain = {one.name: values[f"rates.{one.name}"] for one in fields(Rates) if one.name != "slow"}
    return Rates(**plain, slow=tuple(slow))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
