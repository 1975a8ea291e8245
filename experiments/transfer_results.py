"""The transfer read: at which rate each size was best, and what the rate of the tuned size costs there.

python -m experiments.transfer_results                       # of results/transfer.csv: tables and docs/transfer.png
python -m experiments.transfer_results --run runs/transfer   # takes up what that sweep has finished, first
"""

import csv
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from distill.statistics import paired
from experiments import coordinates
from experiments.transfer import TUNED

HERE = Path(__file__).parent
TABLE, FIGURE = HERE / "results" / "transfer.csv", HERE.parent / "docs" / "transfer.png"
FIELDS: tuple[str, ...] = ("kind", "arm", "loss", "size", "rate", "seed", "cross_entropy")
BASE = f"{TUNED.width}x{TUNED.layers}"
"""the size at which both arms are one"""
Curve = dict[float, tuple[float, ...]]
"""held-out cross-entropies by peak rate, one a seed; a rate at which one of them diverged is not there"""


@dataclass(frozen=True)
class Results:
    """A curve for every size, by kind (width or depth), arm and loss."""

    curves: Mapping[tuple[str, str, str], Mapping[str, Curve]]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, str]]) -> "Results":
        """From rows of the table; the tuned size stands in every comparison.

        Raises:
            ValueError: there are none.
        """
        rows, found = list(rows), dict[tuple[str, str, str], dict[str, dict[float, dict[int, float]]]]()
        every = {(row["kind"], row["arm"]) for row in rows}
        for row in rows:
            for kind, arm in every if row["size"] == BASE else [(row["kind"], row["arm"])]:
                curve = found.setdefault((kind, arm, row["loss"]), {}).setdefault(row["size"], {})
                curve.setdefault(float(row["rate"]), {})[int(row["seed"])] = float(row["cross_entropy"])
        if not found:
            raise ValueError("the table has no rows; run the sweep, then take it up with --run")
        curves = {
            key: {size: _whole(curve) for size, curve in sorted(sizes.items(), key=_order)}
            for key, sizes in found.items()
            if len(sizes) > 1
        }
        return cls(curves)


def _whole(curve: Mapping[float, Mapping[int, float]]) -> Curve:
    seeds = set().union(*curve.values())
    found = {rate: tuple(values[seed] for seed in sorted(values)) for rate, values in sorted(curve.items())}
    return {
        rate: values for rate, values in found.items() if len(values) == len(seeds) and all(map(math.isfinite, values))
    }


def means(curve: Curve) -> dict[float, float]:
    """The mean over seeds, by rate."""
    return {rate: statistics.fmean(values) for rate, values in curve.items()}


def _order(size: tuple[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in size[0].split("x"))


def best(curve: Mapping[float, float]) -> float:
    """The rate between those tried that a parabola through the best and its neighbours, in log rate, puts lowest.

    At the edge of what was tried, the edge.
    """
    rates = list(curve)
    at = min(range(len(rates)), key=lambda place: curve[rates[place]])
    if at in (0, len(rates) - 1):
        return rates[at]
    (x0, x1, x2), (y0, y1, y2) = ([f(rates[at + step]) for step in (-1, 0, 1)] for f in (math.log, curve.__getitem__))
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    return math.exp(x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right))


def take_up(folder: Path) -> list[dict[str, str]]:
    """The rows of a sweep: one for every stage of every trial."""
    rows = []
    for line in (folder / "trials.jsonl").read_text().splitlines():
        row = json.loads(line)
        (kind, arm, size), (loss, rate) = row["trial"].split("-"), row["stage"].split("-")
        values = (kind, arm, loss, size, float(rate) / 1e3, row["seed"], round(row["cross_entropy"], 4))
        rows.append({field: str(value) for field, value in zip(FIELDS, values, strict=True)})
    return sorted(rows, key=lambda row: [row[field] for field in FIELDS])


def tabulate(results: Results) -> str:
    """A line a size: means, the best rate, and what the best rate of the tuned size costs it, paired over seeds."""
    rates = sorted({rate for sizes in results.curves.values() for curve in sizes.values() for rate in curve})
    text = "| | size | " + " | ".join(f"{rate:g}" for rate in rates) + " | best rate | cost of the tuned rate |\n"
    text += "|---" * (len(rates) + 4) + "|\n"
    for key, sizes in sorted(results.curves.items()):
        tuned = min(means(sizes[BASE]).items(), key=itemgetter(1))[0]
        for size, curve in sizes.items():
            mean = means(curve)
            least = min(mean, key=mean.__getitem__)
            cells = [f"{mean[rate]:.3f}" if rate in mean else "" for rate in rates]
            cells[rates.index(least)] = f"**{cells[rates.index(least)]}**"
            cells += [f"{best(mean):.2g}", _cost(curve, tuned, least)]
            text += f"| {', '.join(key)} | {size} | " + " | ".join(cells) + " |\n"
    return text


def _cost(curve: Curve, tuned: float, least: float) -> str:
    if tuned not in curve:
        return "diverged"
    found = paired(curve[tuned], curve[least])
    if tuned == least or found.interval is None:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]"


def draw(results: Results, moved: Iterable[Mapping[str, str]]) -> Any:
    """Loss against rate, a line a size, a column for each comparison; the coordinate check last; arms one under one.

    Args:
        results: of the sweep.
        moved: rows of the coordinate check.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from distill.figures import STYLE

    columns = sorted({(kind, loss) for kind, _, loss in results.curves}, reverse=True)
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(3.0 * (len(columns) + 1), 6.0), layout="constrained")
        panels = figure.subplots(2, len(columns) + 1, sharex="col", sharey="col")
        checked = [row for row in moved if row["kind"] == "width"]
        for row, arm in zip(panels, coordinates.ARMS, strict=True):
            for panel, (kind, loss) in zip(row, columns, strict=False):
                _curves(panel, results.curves.get((kind, arm, loss), {}))
                panel.set_title(f"{arm}: {kind}, {loss}")
            _check(row[-1], [one for one in checked if one["arm"] == arm])
            row[-1].set_title(f"{arm}: moved in 4 steps")
        for panel in panels[1][:-1]:
            panel.set_xlabel("peak learning rate")
        panels[1][-1].set_xlabel("width")
        figure.supylabel("held-out cross-entropy, nats; right: root mean square", fontsize=9)
    return figure


def _check(panel: Any, rows: Iterable[Mapping[str, str]]) -> None:
    from distill.figures import HUES

    rows = list(rows)
    for hue, name in zip(HUES[1:], coordinates.SEEN, strict=False):
        line = {int(row["size"]): float(row["moved"]) for row in rows if row["what"] == name}
        panel.plot(list(line), list(line.values()), "o-", color=hue, label=name, markersize=4)
    widths = sorted({int(row["size"]) for row in rows})
    panel.set(xscale="log", yscale="log")
    panel.set_xticks(widths, [str(width) for width in widths])
    panel.set_yticks([0.3, 1, 3, 10], ["0.3", "1", "3", "10"])
    panel.minorticks_off()
    panel.legend()


def _curves(panel: Any, sizes: Mapping[str, Curve]) -> None:
    from distill.figures import HUES

    for hue, (size, curve) in zip(HUES[1:], sizes.items(), strict=False):
        mean = means(curve)
        least = min(mean, key=mean.__getitem__)
        panel.plot(list(mean), list(mean.values()), "o-", color=hue, label=size, markersize=4)
        panel.plot(least, mean[least], "o", color=hue, markersize=9, fillstyle="none")
        for rate, values in curve.items() if len(curve[least]) > 1 else ():
            panel.plot([rate, rate], [min(values), max(values)], "-", color=hue, linewidth=1, alpha=0.6)
    rates = sorted({rate for curve in sizes.values() for rate in curve})
    panel.set_xscale("log")
    panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
    panel.minorticks_off()
    panel.legend(title="width x layers", title_fontsize=8)


def main(run: Path | None = None, table: Path = TABLE, figure: Path = FIGURE) -> None:
    """Prints the table and draws the figure.

    Args:
        run: the folder of a sweep to take up first.
        table: where its rows are kept.
        figure: where to draw.
    """
    from distill.figures import save

    if run is not None:
        table.parent.mkdir(exist_ok=True)
        with table.open("w", newline="") as file:
            written = csv.DictWriter(file, FIELDS, lineterminator="\n")
            written.writeheader()
            written.writerows(take_up(run))
    results = Results.of(csv.DictReader(table.open()))
    print(tabulate(results))
    save(draw(results, csv.DictReader(coordinates.TABLE.open())), figure, dpi=110)
    print(f"figure: {figure}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
