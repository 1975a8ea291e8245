"""A figure of several plans: what a device holds, and the composed utilisation, from one topology to the next.

python -m distill.plan.figure docs/plans.png experiments/results/plans/*.json
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill.figures import HUES, INK, LINE, MUTED, STYLE

Plan = Mapping[str, Any]

GROUPS = {
    "gradients": ("gradients",),
    "logits, heads": ("head and loss",),
    "weights": ("parameters", ": head", "weights"),
    "moments": ("optimizer",),
    "teacher": ("teacher",),
    "caches, other programs'": ("slots", "cache", "kept by other programs"),
}
"""parts of a bar, and the words in a row of the memory table by which it is known"""
STACK = ("weights", "moments", "teacher", "caches, other programs'", "gradients", "logits, heads")
"""from the foot of a bar: first what is kept"""
REST = "activations and all else"
"""what is left up to the compiler's peak, or up to what it asked for when it refused"""


def draw(plans: Sequence[Plan]) -> Figure:
    """A matplotlib figure: for each program of each plan a bar of its bytes, beside it the plan's utilisation.

    Raises:
      ValueError: there is no plan.
    """
    if not plans:
        raise ValueError("there is no plan to draw; name files that `python -m distill.plan --json` wrote")
    bars = sum(len(plan["programs"]) for plan in plans)
    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.5 + 0.46 * bars), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(5, 3), sharey=True)
        draw_memory(left, plans)
        draw_utilisation(right, plans)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(STACK) + 1)
    return figure


def draw_memory(panel: Axes, plans: Sequence[Plan]) -> None:
    """A bar for each program, from its parts, up to the compiler's peak; and a line at what a chip has."""
    bars = [(plan, program) for plan in plans for program in plan["programs"]]
    for place, (_, program) in enumerate(bars):
        parts, start, fit = grouped(program), 0.0, program["fit"]
        for group, color in zip((*STACK, REST), (*HUES, LINE), strict=True):
            panel.barh(place, parts[group] / 1e9, left=start / 1e9, color=color, height=0.62)
            start += parts[group]
        available = fit["available"] / 1e9
        panel.plot([available] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=2, solid_capstyle="butt")
        told = f"  {start / 1e9:.0f}" + ("" if fit["fits"] else ": does not fit")
        near = 0.9 * available < start / 1e9 < available  # the figure would lie on the line
        panel.text(available if near else start / 1e9, place, told, va="center", color=MUTED, fontsize=8)
    for group, color in zip((*STACK, REST), (*HUES, LINE), strict=True):
        if any(grouped(program)[group] for _, program in bars):
            panel.barh(0, 0, color=color, label=group)
    widest = max(max(program["fit"]["bytes"], program["fit"]["available"]) for _, program in bars) / 1e9
    panel.set(
        title="memory of a device, GB; the line is what there is", xlabel="GB at the compiler's peak",
        xlim=(0, 1.32 * widest), ylim=(len(bars) - 0.4, -0.6),
    )  # fmt: skip
    panel.set_yticks(range(len(bars)), [_label(plan, program) for plan, program in bars], fontsize=8)
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x", visible=True)


def draw_utilisation(panel: Axes, plans: Sequence[Plan]) -> None:
    """A range for each plan, in the midst of its programs' rows: communication hidden from none to all of it."""
    first = 0
    for plan in plans:
        place = first + (len(plan["programs"]) - 1) / 2
        first += len(plan["programs"])
        if "total" not in plan:
            panel.text(2, place, "none: it does not fit", va="center", color=MUTED, fontsize=8)
            continue
        none, part, full = (100 * plan["total"][hidden]["mfu"] for hidden in ("none", "part", "all"))
        panel.plot([none, full], [place] * 2, color=HUES[0], linewidth=3)
        panel.plot(part, place, "o", color=HUES[1], markersize=6)
        panel.text(part, place - 0.2, f"{part:.0f}", ha="center", va="bottom", color=INK, fontsize=8)
    panel.set(title="composed MFU, %", xlim=(0, 100), xlabel="communication hidden: none, part (dot), all")
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x", visible=True)


def grouped(program: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of a program by group, that sum to its peak.

    Temporaries are not all there at the same time, so that parts may sum to more than the peak, which the compiler
    knows. What is known by shapes comes first, the rest is what is left.
    """
    sums: dict[str, float] = dict.fromkeys(STACK, 0.0)
    for row in program["memory"]:
        group = next((group for group, words in GROUPS.items() if any(word in row["what"] for word in words)), None)
        if group is not None:
            sums[group] += max(row["bytes"], 0.0)
    left = program["fit"]["bytes"]
    for group in STACK:
        sums[group] = min(sums[group], left)
        left -= sums[group]
    return {**sums, REST: left}


def _label(plan: Plan, program: Mapping[str, Any]) -> str:
    return f"{plan['experiment']}, {plan['topology']}\n{program['name'].rpartition(': ')[2]}"


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
