"""A figure of several plans: what a device holds, and the composed utilisation, from one topology to the next.

python -m distill.plan.figure docs/pods.png plans/*.json
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GROUPS = ("parameters", "optimizer", "teacher", "gradients", "head", "activations", "rest")
"""parts of a bar, from the foot"""


def draw(plans: Sequence[Mapping[str, Any]]) -> Any:
    """A matplotlib figure: for each program of each plan a bar of its bytes, beside it the plan's utilisation.

    Raises:
      ValueError: there is no plan.
    """
    if not plans:
        raise ValueError("there is no plan to draw; name files that `python -m distill.plan --json` wrote")
    import matplotlib
    from matplotlib.figure import Figure

    from distill.figures import HUES, INK, MUTED, STYLE

    bars = [(plan, program) for plan in plans for program in plan["programs"]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.6 + 0.42 * (len(bars) + len(plans))), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for place, (_, program) in enumerate(bars):
            start = 0.0
            for hue, group in enumerate(GROUPS):
                size = grouped(program).get(group, 0.0) / 1e9
                label = group if place == 0 else None
                left.barh(place, size, left=start, color=HUES[hue % len(HUES)], height=0.6, label=label)
                start += size
            available = program["fit"]["available"] / 1e9
            left.plot([available] * 2, [place - 0.4, place + 0.4], color=INK, linewidth=1.5)
            if not program["fit"]["fits"]:
                left.text(available, place, " does not fit", va="center", color=MUTED, fontsize=8)
        left.set_yticks(
            range(len(bars)), [f"{program['name']}\n{plan['topology']}" for plan, program in bars], fontsize=7
        )
        left.set(title="GB of a device; the line is what there is", xlabel="GB")
        left.legend(loc="lower right", fontsize=7)
        left.invert_yaxis()
        whole = [plan for plan in plans if "total" in plan]
        for place, plan in enumerate(whole):
            shares = [100 * plan["total"][hidden]["mfu"] for hidden in ("none", "part", "all")]
            right.plot([shares[0], shares[-1]], [place] * 2, color=MUTED, linewidth=2)
            right.plot(shares[1], place, "o", color=HUES[1])
        right.set_yticks(range(len(whole)), [f"{plan['experiment']}\n{plan['topology']}" for plan in whole], fontsize=7)
        right.set(
            title="composed MFU: communication hidden\nfrom none to all, the dot is the part assumed",
            xlabel="%",
            xlim=(0, 100),
        )
        right.invert_yaxis()
    return figure


def grouped(program: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of a program by group."""
    sums: dict[str, float] = {}
    for row in program["memory"]:
        group = next((group for group in GROUPS if group in row["what"]), "rest")
        sums[group] = sums.get(group, 0.0) + max(row["bytes"], 0.0)
    return sums


def main(arguments: Sequence[str]) -> None:
    """Draws the plans of these files into the first.

    Raises:
      ValueError: nothing is named.
    """
    if len(arguments) < 2:
        raise ValueError("name a file for the figure, and one or more that `python -m distill.plan --json` wrote")
    target, *files = map(Path, arguments)
    figure = draw([json.loads(path.read_text()) for path in files])
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    print(target)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
