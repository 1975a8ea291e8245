"""The ablation read: who is ahead of whom, in every condition, with intervals.

    python -m experiments.weighting_results                              # of results/dynamic_weighting.csv
    python -m experiments.weighting_results --run runs/dynamic_weighting # takes up what that sweep has finished, first

Differences are paired by seed; intervals are Student's t, 95 %, of each pair alone (not corrected for their number).
"""

import argparse
import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from distill.statistics import Paired, paired
from distill.trials import mark_difference
from experiments.dynamic_weighting import CONDITIONS

HERE = Path(__file__).parent
TABLE, FIGURE = HERE / "results" / "dynamic_weighting.csv", HERE.parent / "docs" / "weighting.png"
FIELDS: tuple[str, ...] = ("trial", "method", "seed", "cross_entropy", "accuracy", "setup")
"""setup: a hash of the trial's configuration and corpus; rows of one trial must share it"""
DEFAULT, FLOOR = "evidence", "hard"
NOT_METHODS = ("teacher", "oracle")
"""what no rule can be asked to beat"""
EDGE = 0.15
"""nats, to either side: a method further away is drawn at the edge"""


@dataclass(frozen=True)
class Results:
    """Held-out cross-entropy by trial (condition and kind of student), method and seed; what diverged is not there."""

    values: dict[str, dict[str, dict[int, float]]]

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> "Results":
        """From rows of the table.

        Raises:
            ValueError: there are none, or a trial's were made by different configurations.
        """
        if not (rows := list(rows)):
            raise ValueError(f"{TABLE} has no rows; run the sweep, then take it up with --run")
        setups: dict[str, set[str]] = {}
        for row in rows:
            setups.setdefault(row["trial"], set()).add(row["setup"])
        if mixed := sorted(trial for trial, found in setups.items() if len(found) > 1):
            raise ValueError(f"rows of {mixed} come from different configurations or corpora; delete the old ones")
        values: dict[str, dict[str, dict[int, float]]] = {}
        for row in sorted(rows, key=lambda row: _place(row["trial"])):
            if math.isfinite(loss := float(row["cross_entropy"])):
                values.setdefault(row["trial"], {}).setdefault(row["method"], {})[int(row["seed"])] = loss
        return cls(values)

    def full(self) -> list[str]:
        """The trials of all methods; others ask something beside them, of a few."""
        most = max(len(found) for found in self.values.values())
        return [trial for trial, found in self.values.items() if 2 * len(found) > most]

    def difference(self, trial: str, one: str, other: str) -> Paired:
        """One method minus another, over the seeds that both have."""
        a, b = self.values[trial][one], self.values[trial][other]
        seeds = sorted(a.keys() & b.keys())
        return paired([a[seed] for seed in seeds], [b[seed] for seed in seeds])

    def means(self, trial: str) -> dict[str, float]:
        """The mean difference of every rule from hard labels."""
        names = [name for name in self.values[trial] if name not in NOT_METHODS]
        return {name: self.difference(trial, name, FLOOR).mean for name in names}

    def best(self, trial: str, family: bool) -> str:
        """The rule that is most ahead of hard labels, forms of the default among them with `family`; not the default.

        Chosen on the seeds that are reported, which favours it.
        """
        means = self.means(trial)
        rivals = [name for name in means if name != DEFAULT and (family or not name.startswith(DEFAULT))]
        return min(rivals, key=lambda name: means[name])


def _place(trial: str) -> tuple[bool, bool, int]:
    """In the order of the experiment: Scout before Maverick, what all methods do before what is asked beside it."""
    condition, _, kind = trial.rpartition("-")
    condition, forms, _ = condition.partition("-forms")
    return kind != "scout", bool(forms), list(CONDITIONS).index(condition)


def take_up(run: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and what the finished trials of a sweep say; where both know a trial's seed, the sweep does."""
    found = []
    for row in map(json.loads, (run / "trials.jsonl").read_text().splitlines()):
        folder = run / f"seed{row['seed']}" / row["trial"]
        found.append({**{key: row[key] for key in FIELDS if key in row}, "method": row["name"], "setup": setup(folder)})
    new = {(row["trial"], int(row["seed"])) for row in found}
    kept = [row for row in rows if (row["trial"], int(row["seed"])) not in new]
    return sorted([*kept, *found], key=lambda row: (row["trial"], row["method"], int(row["seed"])))


def setup(folder: Path) -> str:
    """A hash of what a run was, but for its seed, where its teachers lie, and what is off or empty.

    So it stays what it is when a later version can do more, which is off unless asked for.
    """
    config = json.loads((folder / "config.json").read_text())
    corpus = json.loads((folder / "results.json").read_text())["corpus"]
    known = [_said({key: value for key, value in config.items() if key not in ("seed", "given")}), corpus]
    return sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _said(one) for key, one in value.items() if one not in (None, [], {})}
    return [_said(one) for one in value] if isinstance(value, list) else value


def verdicts(results: Results) -> str:
    """A line for each trial: the default beside hard labels, the best of the others, and the oracle where one is."""
    text = (
        "| trial | seeds | default - hard | best that is no form of it | default - best | best form | default - form "
    )
    text += "| default - oracle |\n" + 8 * "|---" + "|\n"
    for trial, found in results.values.items():
        hard = results.difference(trial, DEFAULT, FLOOR)
        text += f"| {trial} | {hard.n} | {brief(hard)} |"
        for family in (False, True):
            rival = results.best(trial, family)
            text += f" {rival} | {brief(results.difference(trial, DEFAULT, rival))} |"
        text += f" {brief(results.difference(trial, DEFAULT, 'oracle')) if 'oracle' in found else ''} |\n"
    return text


def matrix(results: Results, trials: Sequence[str]) -> str:
    """Methods by trials: the mean difference from hard labels, in thousandths of a nat."""
    methods = list(dict.fromkeys(name for trial in trials for name in results.values[trial]))
    text = "| | " + " | ".join(trials) + " |\n" + "|---" * (len(trials) + 1) + "|\n"
    best = {trial: min(means, key=means.__getitem__) for trial in trials if (means := results.means(trial))}
    for name in methods:
        cells = []
        for trial in trials:
            if name not in results.values[trial]:
                cells.append("")
                continue
            mean = results.difference(trial, name, FLOOR).mean
            cells.append(f"**{1000 * mean:+.0f}**" if name == best[trial] else f"{1000 * mean:+.0f}")
        text += f"| {name} | " + " | ".join(cells) + " |\n"
    return text


def summary(results: Results) -> str:
    """A line for each rule over the trials of all of them: its mean difference from hard labels, and where it is worst.

    Worst is how far it is behind the rule that is best in a trial, in the trial where that is farthest.
    """
    means = {trial: results.means(trial) for trial in results.full()}
    rules = [name for name in next(iter(means.values())) if all(name in found for found in means.values())]
    lines = []
    for name in rules:
        behind = {trial: found[name] - min(found.values()) for trial, found in means.items()}
        worst = max(behind, key=behind.__getitem__)
        mean = sum(found[name] for found in means.values()) / len(means)
        lines.append((mean, f"| {name} | {1000 * mean:+.0f} | {1000 * behind[worst]:+.0f} ({worst}) |\n"))
    text = f"| {len(means)} trials | mean - hard | behind the best, at most |\n|---|---|---|\n"
    return text + "".join(line for _, line in sorted(lines))


def brief(difference: Paired) -> str:
    """Mean, interval and wins."""
    if difference.interval is None:
        return f"{difference.mean:+.3f}"
    low, high = difference.interval
    return f"{difference.mean:+.3f} [{low:+.3f}, {high:+.3f}] {difference.wins}/{difference.n}"


def draw(results: Results) -> Any:
    """A panel for each trial of all methods: how far each is from the default, with its interval; right is worse."""
    import matplotlib
    from matplotlib.figure import Figure

    from distill.figures import HUES, INK, STYLE

    trials = results.full()
    methods = list(dict.fromkeys(name for trial in trials for name in results.values[trial]))
    methods = [name for name in methods if name not in (DEFAULT, "teacher")]
    across = 4
    down = -(-len(trials) // across)
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(3.1 * across, (0.17 * len(methods) + 0.7) * down), layout="constrained")
        panels = list(figure.subplots(down, across, sharey=True, sharex=True, squeeze=False).flat)
        for panel in panels[len(trials) :]:
            panel.set_visible(False)
        for panel, trial in zip(panels, trials, strict=False):
            for height, name in enumerate(reversed(methods)):
                if name not in results.values[trial]:
                    continue
                found, hue = results.difference(trial, name, DEFAULT), HUES[2] if name == FLOOR else HUES[1]
                mark_difference(panel, height, found, EDGE, hue, hue)
            panel.axvline(0.0, color=INK, linewidth=0.8)
            panel.set_title(trial, fontsize=9)
            panel.set_yticks(range(len(methods)), list(reversed(methods)), fontsize=7)
            panel.set_xlim(-1.05 * EDGE, 1.05 * EDGE)
        label = f"held-out cross-entropy minus that of {DEFAULT!r} (right: worse), nats; paired, 95 %"
        figure.supxlabel(label, fontsize=9)
    return figure


def main() -> None:
    """Reads, prints, draws."""
    from distill.figures import save

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, help="folder of the sweep to take up")
    asked = parser.parse_args()
    rows = list(csv.DictReader(TABLE.open())) if TABLE.exists() else []
    if asked.run is not None:
        rows = take_up(asked.run, rows)
        TABLE.parent.mkdir(exist_ok=True)
        with TABLE.open("w", newline="") as file:
            table = csv.DictWriter(file, FIELDS)
            table.writeheader()
            table.writerows(rows)
    results = Results.of(rows)
    print(verdicts(results))
    print(summary(results))
    few = [trial for trial in results.values if trial not in results.full()]
    groups = [[trial for trial in results.full() if trial.endswith(kind)] for kind in ("scout", "maverick")]
    for group in (
        *groups,
        [trial for trial in few if "-known" in trial],
        [trial for trial in few if "-forms" in trial],
    ):
        if group:
            print(matrix(results, group))
    save(draw(results), FIGURE, dpi=100)
    print(f"figure: {FIGURE}")


if __name__ == "__main__":
    main()
