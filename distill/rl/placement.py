"""How many devices learn and how many draw: from measured speeds, so that the slowest role is as fast as it can be.

    python -m distill.rl.placement runs/one --devices 8
    python -m distill.rl.placement runs/two --devices 8 --measured runs/one   # was it as predicted?

The roles work at the same time, so an update takes as long as the slowest of them. Where it took longer than that, they
waited for something else: rewards, each other where little may be under way, or the cores that devices share.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from distill.run import Run, load_run

WARM = 2
"""lines of timings after a start that do not count: programs are compiled in them"""


@dataclass(frozen=True, kw_only=True)
class Role:
    """What somebody does for an update, and how fast one device does it."""

    name: str
    tokens: float
    """that it handles for an update"""
    speed: float
    """tokens/s of one device"""
    counts: tuple[int, ...] | None = None
    """numbers of devices that it can use; None: any"""

    def __post_init__(self) -> None:
        if not self.tokens > 0 or not self.speed > 0:
            raise ValueError(
                f"{self.name}: {self.tokens} tokens an update at {self.speed} tokens/s; both must be above 0: take the "
                "speeds of a run in which it worked"
            )


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What more devices bring: n of them do the work of 1 + efficiency (n - 1). An assumption, and printed as such."""

    efficiency: float = 1.0
    """share of its own speed that every device after the first adds; 1 is linear"""

    def __post_init__(self) -> None:
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency is {self.efficiency}; it must be above 0 and at most 1 (1: linear)")

    def seconds(self, role: Role, devices: int) -> float:
        """That a role needs for an update."""
        return role.tokens / (role.speed * (1 + self.efficiency * (devices - 1)))


def balance(roles: Sequence[Role], devices: int, scaling: Scaling | None = None) -> dict[str, int]:
    """Devices of each role, so that the slowest takes the least time, with as few devices as that needs; exact.

    The least time is one of those that some role needs with some number of devices: of these it is the first for which
    the fewest devices with which every role keeps within it are no more than there are.

    Raises:
      ValueError: there are too few devices for the roles.
    """
    scaling = scaling or Scaling()
    allowed = {role.name: [n for n in role.counts or range(1, devices + 1) if n <= devices] for role in roles}
    times = {role.name: {n: scaling.seconds(role, n) for n in allowed[role.name]} for role in roles}
    for bound in sorted({seconds for each in times.values() for seconds in each.values()}):
        fewest = {name: min((n for n in each if each[n] <= bound), default=devices + 1) for name, each in times.items()}
        if sum(fewest.values()) <= devices:
            return fewest
    least = {role.name: min(role.counts or (1,)) for role in roles}
    raise ValueError(f"{devices} devices are too few for {least}; they need {sum(least.values())}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the timings of a run say of a stage of reinforcement learning."""

    roles: tuple[Role, ...]
    counts: dict[str, int]
    """devices that each role had"""
    shared: bool
    """whether these are the same devices"""
    seconds: float
    """of an update, on average"""
    updates: int
    """that were timed"""


def measure(run: Run, stage: str | None = None) -> Measured:
    """The speeds of a run's roles, and the time that its updates took: the first lines after each start do not count.

    Args:
      run: finished or not.
      stage: its name; None: the only stage of reinforcement learning that it has.

    Raises:
      ValueError: there is no such stage, or too little of it.
    """
    found, mesh = _stage(run.config["stages"], stage), run.config["mesh"]
    spans = list(_spans([line for line in run.timings() if line["stage"] == found["name"]]))
    if not spans:
        raise ValueError(
            f"{run.path} has no {WARM + 1} lines of timings of stage {found['name']!r} after a start; let it run on"
        )
    total = {name: sum(span[name] for span in spans) for name in spans[0]}
    learner, (actors, cut) = mesh["data"] * mesh["fsdp"], _crew(found, mesh)
    rows, updates = found["groups"] * found["samples"] // found["updates"] // found["accumulate"], total["updates"]
    divisors = tuple(n for n in range(1, rows + 1) if rows % n == 0)
    speed = total["learned"] / total["learning"] / learner
    own = total["drawn"] / max(total["drawing"], 1e-9) / actors / cut
    return Measured(
        roles=(
            Role(name="learner", tokens=total["learned"] / updates, speed=speed, counts=divisors),
            Role(
                name="actor", tokens=total["drawn"] / updates, speed=own,
                counts=tuple(cut * n for n in range(1, found["groups"] + 1)),
            ),
        ),
        counts={"learner": learner, "actor": actors * cut},
        shared=found["actor_on"] is None and "workers" not in found["actors"],
        seconds=total["seconds"] / updates,
        updates=int(updates),
    )  # fmt: skip


def table(measured: Measured, run: Measured, devices: int, scaling: Scaling) -> list[str]:
    """Lines to print: the placement of a run, predicted from measured speeds and achieved, and the balanced one."""
    best = balance(measured.roles, devices, scaling)
    lines = [
        f"assumed: n devices do the work of 1 + {scaling.efficiency:g} (n - 1); speeds of {measured.updates} updates",
        f"{'role':10}{'tokens':>10}{'tokens/s each':>15}{'now':>6}{'seconds':>10}{'balanced':>10}{'seconds':>10}",
    ]
    for role in measured.roles:
        now, then = run.counts[role.name], best[role.name]
        lines.append(
            f"{role.name:10}{role.tokens:10.0f}{role.speed:15.0f}{now:6}{scaling.seconds(role, now):10.3f}"
            f"{then:10}{scaling.seconds(role, then):10.3f}"
        )
    now = max(scaling.seconds(role, run.counts[role.name]) for role in measured.roles)
    then = max(scaling.seconds(role, best[role.name]) for role in measured.roles)
    over = devices - sum(best.values())
    return [
        *lines,
        f"an update: predicted {now:.3f} s, achieved {run.seconds:.3f} s ({run.seconds / now:.2f} times) over "
        f"{run.updates} updates; balanced over {devices} devices predicted {then:.3f} s, {over} left over",
        *(
            ["learner and actor share devices: each was measured while the other may have held it up"]
            if run.shared
            else []
        ),
    ]


def _stage(stages: Sequence[Mapping[str, Any]], name: str | None) -> Mapping[str, Any]:
    kind = [stage for stage in stages if stage["class"] == "Reinforcement"]
    found = [stage for stage in kind if name in (None, stage["name"])]
    if len(found) != 1:
        names = [stage["name"] for stage in kind]
        raise ValueError(f"stages of reinforcement learning are {names}, asked for {name}; set --stage to one of them")
    return found[0]


def _crew(stage: Mapping[str, Any], home: Mapping[str, Any]) -> tuple[int, int]:
    """How many draw, each by itself, and on how many devices each does."""
    away, own = stage["actors"], stage["actor_on"]
    if "workers" in away:
        return away["workers"], away["mesh"]["data"] * away["mesh"]["fsdp"]
    return (1, home["data"] * home["fsdp"]) if own is None else (own["data"], own["fsdp"])


def _spans(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """What was done from one line to the next. The count of tokens begins anew with every start, as programs do."""
    spans, warm, before = [], 0, {"step": 0, "drawn": 0.0}
    for line in lines:
        warm = 1 if line["drawn"] < before["drawn"] else warm + 1
        if warm > WARM:
            seconds = line["seconds"]
            spans.append(
                {
                    "seconds": seconds,
                    "updates": line["step"] - before["step"],
                    "learned": seconds * line["learner_tokens_per_second"],
                    "learning": seconds * (1 - line["learner_idle"]),
                    "drawn": seconds * line["actor_tokens_per_second"],
                    "drawing": seconds * (1 - line["actor_idle"]),
                }
            )
        before = line
    return spans


def main() -> None:
    """The command."""
    import tyro

    def command(
        run: Annotated[Path, tyro.conf.Positional],
        *,
        devices: int,
        stage: str | None = None,
        efficiency: float = 1.0,
        measured: Path | None = None,
    ) -> None:
        """Prints how a run was placed, how fast that should have been and was, and how to place it better.

        Args:
            run: its folder.
            devices: that there are.
            stage: of reinforcement learning; may be left out if there is one.
            efficiency: share of its own speed that every device after the first adds.
            measured: the run whose speeds to go by, if not the same.
        """
        achieved = measure(load_run(run), stage)
        speeds = achieved if measured is None else measure(load_run(measured), stage)
        print("\n".join(table(speeds, achieved, devices, Scaling(efficiency=efficiency))))

    try:
        tyro.cli(command)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
