"""The part of a report that is about questions: what each stage's learners answer, as tables, and samples of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from distill.standing import Cell, Standing, cells_of, standings, titles
from distill.statistics import Estimate
from distill.tables import align, named, signed

FIGURES = {
    "exam": (
        "After each stage",
        "The share of held-out questions that are answered: filled dots, by sampled answers, with 95 % intervals; "
        "ticks, by the likeliest answer; open dots, by the best of k.",
    ),
    "glance": ("Held out", "The share of a few held-out questions that are answered, with every checkpoint."),
    "curriculum": (
        "Curriculum",
        "The share of drawn answers that are right, by task and level, over the updates of reinforcement learning, "
        "each a mean over a tenth of them; below, the share of each in the groups that were asked.",
    ),
    "policy": (
        "Policy",
        "Entropy and length of what is drawn, and the share of groups that are all right, or all wrong: these have no "
        "advantage, and teach nothing.",
    ),
    "lag": ("Lag", "How many updates old the policy was that drew a group, when it was learned from."),
    "pace": (
        "Pace",
        "The share of time that the learner waits for groups and the sampler for something to draw, tokens per second "
        "of each, and how many groups wait for the learner or are being drawn.",
    ),
    "preference": (
        "Preferences",
        "By how much more than its reference the learner prefers the chosen answer; the log-probability of both above "
        "the reference's, where a falling chosen one is a warning; and how often the chosen one is ahead.",
    ),
}
"""title and caption of each figure of post-training"""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the stage table: a mark, and how it is shown."""

    title: str
    unit: str
    mark: str
    show: Callable[[float], str]

    def parts(self, marks: Mapping[str, Estimate]) -> tuple[str, str]:
        """The mean, and its interval; a dash and nothing where they are not known."""
        found = marks.get(self.mark)
        if found is None:
            return "–", ""
        interval = "" if found.interval is None else f"[{', '.join(map(self.show, found.interval))}]"
        return signed(self.show(found.mean)), signed(interval)


def text_tables(results: Mapping[str, Any]) -> str:
    """The stage table and the paired differences as plain text; nothing if nobody was examined."""
    found, parts = standings(results["models"]), []
    if found:
        columns = _columns(found, _cells(results))
        head = [["exam", "stage", *(f"{one.title}, {one.unit}" for one in columns)]]
        body = [[one.name, one.stage, *(" ".join(c.parts(one.overall)).rstrip() for c in columns)] for one in found]
        parts += [f"{align(head + body, words=2)}\n{_note(results, found)}"]
    if _contrasts(results):
        head = [["pass@1, paired by seed", "points", "95 % interval", "above zero"]]
        parts += [align(head + _contrasts(results), words=1)]
    return "\n\n".join(parts)


def stage_section(results: Mapping[str, Any], hue: Mapping[str, str]) -> str:
    """The stage table, the paired differences and every cell, as HTML; nothing if nobody was examined."""
    found = standings(results["models"])
    if not found:
        return ""
    cells = _cells(results)
    columns = _columns(found, cells)
    body = "".join(
        f'<tr>{named(one.name, hue, one.name)}<td class="word">{escape(one.stage)}</td>'
        f"{_marks(columns, one.overall)}</tr>"
        for one in found
    )
    return f"""<h2>Questions answered</h2>
<p>Held-out questions after each stage: the plain mean over cells, a task at a level each.
pass@1: the share of sampled answers that are right; greedy: of the likeliest ones; entropy: of a token, by what was
drawn. {escape(_note(results, found))}</p>
<div class="wide"><table><thead><tr><th>learner</th><th class="word">stage</th>{_head(columns)}</tr></thead>
<tbody>{body}</tbody></table></div>
{_cell_table(found, cells, columns)}
{_contrast_table(results)}
"""


def sample_section(results: Mapping[str, Any]) -> str:
    """What learners of the first seed answered to the same questions after each stage, side by side; or nothing."""
    rows = [row for row in results["models"] if row.get("samples") and row["seed"] == results["seeds"][0]]
    if not rows:
        return ""
    heads = "".join(f'<th class="word">{escape(who)}</th>' for who in titles([(r["stage"], r["name"]) for r in rows]))
    said = [{one["prompt"]: one["said"] for one in row["samples"]} for row in rows]
    right = {one["prompt"]: one["right"] for row in rows for one in row["samples"]}
    body = "".join(
        f'<tr><td class="text">{escape(prompt)}</td><td class="text">{escape(answer)}</td>'
        f"{''.join(_said(answers.get(prompt), answer) for answers in said)}</tr>"
        for prompt, answer in right.items()
    )
    return f"""<h2>Before and after</h2>
<p>Answers to the same questions after each stage. Struck out: not the right one, character by character.</p>
<div class="wide"><table><thead><tr><th>question</th><th class="word">right</th>{heads}</tr></thead>
<tbody>{body}</tbody></table></div>
"""


def _said(text: str | None, right: str) -> str:
    if text is None:
        return "<td></td>"
    return f'<td class="text{"" if text.strip() == right.strip() else " wrong"}">{escape(text)}</td>'


def _cells(results: Mapping[str, Any]) -> list[Cell]:
    return cells_of([row["exam"] for row in results["models"] if row.get("exam")])


def _columns(found: Sequence[Standing], cells: Sequence[Cell]) -> list[Column]:
    """Those that somebody has a mark for."""
    tried = {cell.k for cell in cells}
    best = f"pass@{tried.pop() or 'k'}" if len(tried) == 1 else "pass@k"
    every = (
        Column(title="pass@1", unit="%", mark="pass@1", show=_percent),
        Column(title=best, unit="%", mark="pass@k", show=_percent),
        Column(title="greedy", unit="%", mark="greedy", show=_percent),
        Column(title="answer", unit="tokens", mark="tokens", show="{:.2f}".format),
        Column(title="entropy", unit="nats", mark="surprise", show="{:.3f}".format),
    )  # fmt: skip
    return [column for column in every if any(column.mark in one.overall for one in found)]


def _note(results: Mapping[str, Any], found: Sequence[Standing]) -> str:
    """What the intervals are of."""
    numbers = [cell.questions for cell in _cells(results)]
    asked = f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
    seeds = sorted({one.seeds for one in found})
    asked = f"{asked} questions a cell, {len(numbers)} cells."
    if seeds == [1]:
        return (
            f"{asked} One seed: 95 % intervals in brackets are over the questions (Wilson's in each cell,\n"
            "put together), and do not say what another seed would give."
        )
    spread = "95 % intervals in brackets: Student's t over"
    if seeds[0] == 1:
        return f"{asked} {spread} seeds; where a learner has one seed, over its questions (Wilson's in each cell)."
    return f"{asked} {spread} {'–'.join(dict.fromkeys(map(str, (seeds[0], seeds[-1]))))} seeds."


def _head(columns: Sequence[Column]) -> str:
    return "".join(f"<th>{column.title}<br>{column.unit}</th>" for column in columns)


def _marks(columns: Sequence[Column], marks: Mapping[str, Estimate]) -> str:
    return "".join(f"<td>{_cell(*column.parts(marks))}</td>" for column in columns)


def _cell(mean: str, interval: str) -> str:
    return escape(mean) + (f' <span class="spread">{escape(interval)}</span>' if interval else "")


def _cell_table(found: Sequence[Standing], cells: Sequence[Cell], columns: Sequence[Column]) -> str:
    """Every cell after every stage, folded away."""
    body, who = [], titles([(one.stage, one.name) for one in found])
    for cell in cells:
        title = f"{cell.capability}: {cell.name}" if cell.capability else cell.name
        start = f'<tr class="first"><th>{escape(title)}</th><td>{cell.questions}</td>'
        for learner, one in zip(who, found, strict=True):
            if one.cells.get(cell.name):
                body.append(
                    f'{start}<td class="word">{escape(learner)}</td>{_marks(columns, one.cells[cell.name])}</tr>'
                )
                start = "<tr><th></th><td></td>"
    return f"""<details class="cells"><summary>By capability, task and level</summary>
<div class="wide"><table>
<thead><tr><th>cell</th><th>questions</th><th class="word">stage</th>{_head(columns)}</tr></thead>
<tbody>{"".join(body)}</tbody></table></div></details>"""


def _contrasts(results: Mapping[str, Any]) -> list[list[str]]:
    """The paired differences of mean pass@1, in words."""
    rows = results.get("contrasts", [])
    return [
        [
            f"{row['first']} − {row['second']}",
            signed(f"{100 * row['difference']:+.1f}"),
            signed("[{:+.1f}, {:+.1f}]".format(*(100 * end for end in row["interval"])))
            if row["interval"]
            else "one seed: none",
            f"{row['wins']} of {row['n']}",
        ]
        for row in rows
    ]


def _contrast_table(results: Mapping[str, Any]) -> str:
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in _contrasts(results)
    )
    return (
        f"""<h2>Questions answered, paired by seed</h2>
<p>Mean pass@1 of the first minus that of the second, in percentage points, seed by seed. Above zero, the first is
better; above zero: in how many seeds it is.</p>
<div class="wide"><table class="narrow">
<thead><tr><th>first − second</th><th>difference<br>points</th><th>95 % interval</th><th>above zero</th></tr></thead>
<tbody>{body}</tbody></table></div>"""
        if body
        else ""
    )
