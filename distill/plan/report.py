"""Report: a plan as tables on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

GB = 1e9


def show(told: Mapping[str, Any], console: Console) -> None:
    """Prints everything of a plan; of a search that found none, how it ended."""
    if told["programs"]:
        _plan(told, console)
        console.print(f"[bold]{_verdict(told)}[/]")
    if "search" in told:  # in one line, to be copied
        console.print(told["search"]["end"], soft_wrap=True, markup=False, highlight=False)


def _plan(told: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"\n[bold]{told['experiment']}, stage {told['stage']}[/] on {told['topology']}: "
        f"{told['used_devices']} devices used, {told['chips']} chips there"
    )
    for program in told["programs"]:
        _program(program, console)
    console.print(_table("Assumed rates", ("rate", "set to", "is"), _rates(told["rates"])))
    if "total" in told:
        console.print(_table("A step, composed", ("communication hidden", "s a step", "MFU"), _totals(told["total"])))
        if "budget" in told:
            _budget(told["budget"], console)
        if told.get("balance"):
            _balance(told["balance"], console)
        if told.get("payload"):
            payload = told["payload"]
            console.print(
                f"hidden states handed over in a step: {payload['bytes'] / GB:.2f} GB, "
                f"{payload['bytes_a_device'] / GB:.3f} GB a device, {1e3 * payload['seconds']:.1f} ms over one link"
            )


def _budget(budget: Mapping[str, Any], console: Console) -> None:
    hours = ", ".join(f"{value:,.1f} h ({name} hidden)" for name, value in budget["hours"].items())
    console.print(
        f"{budget['tokens']:.4g} tokens are {budget['steps']:,.0f} steps of {budget['tokens_a_step']:,.0f}: on "
        f"{budget['chips']:,.0f} chips {hours}; "
        f"{budget['chips'] * budget['hours']['part']:,.0f} chip hours with a part hidden"
    )


def _program(one: Mapping[str, Any], console: Console) -> None:
    mesh = " x ".join(f"{name} {size}" for name, size in one["mesh"].items() if size > 1) or "one device"
    console.print(f"\n[bold]{one['name']}[/] ({mesh})")
    for note in one["notes"]:
        console.print(f"note: {note}")
    least = 1e-3 * sum(abs(row["bytes"]) for row in one["memory"])
    rows = [
        (row["what"], f"{row['bytes'] / GB:.2f}", row["known"]) for row in one["memory"] if abs(row["bytes"]) > least
    ]
    console.print(_table("Bytes of a device", ("what", "GB", "known by"), rows))
    fit, compiled = one["fit"], one["compile"]
    spare = (fit["available"] - fit["bytes"]) / GB
    console.print(
        f"{'fits' if fit['fits'] else 'does not fit'}: {fit['bytes'] / GB:.2f} of {fit['available'] / GB:.2f} GB, "
        f"{abs(spare):.2f} GB {'to spare' if spare >= 0 else 'too much'} ({fit['by']}; traced in "
        f"{compiled['trace']:.0f} s, compiled in {compiled['compile']:.0f} s, {compiled['cpu']:.0f} s of processor, "
        f"{compiled['resident_bytes'] / GB:.1f} GB of this machine)"
    )
    if "step" not in one:
        return
    _flops(one, console)
    rows = [
        (row["kind"], " ".join(row["axes"]), f"{row['devices']}", f"{row['times']:,.0f}", f"{row['bytes'] / GB:.3f}")
        for row in one["collectives"]
        if row["bytes"] >= 1e6
    ]
    console.print(_table("Collectives of a step", ("kind", "mesh axes", "devices", "times", "GB a device"), rows))
    if one["loops_of_unknown_length"]:
        console.print(f"loops of unknown length, counted as one turn: {len(one['loops_of_unknown_length'])}")
    step = one["step"]
    parts = ("matrices", "grouped", "attention", "memory", "links")
    cells = [(name, f"{1e3 * step[name]:,.1f}") for name in parts if step[name]]
    cells += [(f"  along {axes}", f"{1e3 * value:,.1f}") for axes, value in step["links_by_axes"].items()]
    console.print(_table("Milliseconds of a step", ("what", "ms"), cells))


def _flops(one: Mapping[str, Any], console: Console) -> None:
    flops, comparison, products = one["flops"], one["comparison"], one["products"]
    console.print(
        f"model FLOPs of a step: {flops['needed']:.4e}, of these attention {flops['attention']:.3e}; done again for "
        f"the gradient: {flops['again']:.3e} and attention {flops['attention_again']:.3e}"
    )
    if comparison["ratio"] is None:
        console.print(
            "no products are seen in the compiled program: they are calls of a library, or sums for a single row"
        )
        return
    own = "" if comparison["own"] is None else f"; its own count of loops once is {comparison['own']:.3f} of ours"
    console.print(
        f"products with weights: compiled {comparison['counted']:.4e}, by formula {comparison['expected']:.4e}: "
        f"{comparison['ratio']:.3f}{own}"
    )
    if products["kernels"]:
        told = ", ".join(f"{name} ({times:,.0f} times)" for name, times in products["kernels"].items())
        console.print(f"kernels that the compiler counts as nothing, by formula here: {told}")


def _rates(rates: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [(f"--rates.{row['rate']}", f"{row['value']:g}", f"{row['absolute']:.4g} {row['unit']}") for row in rates]


def _totals(totals: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    return [(name, f"{one['seconds']:.3f}", f"{100 * one['mfu']:.1f} %") for name, one in totals.items()]


def _balance(balance: Mapping[str, Any], console: Console) -> None:
    rows = [
        (
            role, f"{one['devices']}", f"{one['seconds']['part']:.3f}",
            f"{one['over_learners']['part']:.2f}" if "over_learners" in one else "1",
            f"{one['even_devices']:.0f}" if "even_devices" in one else f"{one['devices']}",
        )
        for role, one in balance.items()
    ]  # fmt: skip
    heads = ("role", "devices", "s a step, a part hidden", "of the learners'", "devices to be even")
    console.print(_table("Balance", heads, rows))


def _verdict(told: Mapping[str, Any]) -> str:
    if told["fits"]:
        return f"fits on {told['topology']}: every program's compile is finished"
    return f"does not fit on {told['topology']}"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table
