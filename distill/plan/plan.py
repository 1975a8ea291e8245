"""A plan: every program of a stage compiled for a topology, and what that says."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distill.experiment import Experiment
from distill.plan import collectives, lessons, memory, products, rehearsals
from distill.plan.compiled import Compiled, compile_program
from distill.plan.compose import Step, compose, total
from distill.plan.flops import Comparison, Flops, by_formula, compare
from distill.plan.lessons import HEARD
from distill.plan.programs import Program, bytes_of
from distill.plan.rates import Rates
from distill.plan.topology import Topology
from distill.rl.stage import Reinforcement
from distill.stage import Stage, Staged


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One program and what became of it."""

    program: Program
    compiled: Compiled
    beside: float
    """bytes of a device that other programs keep"""
    flops: Flops
    comparison: Comparison | None
    products: products.Products | None
    collectives: list[collectives.Collective]
    step: Step | None

    @staticmethod
    def of(program: Program, beside: float, topology: Topology, rates: Rates, keep: Path | None) -> "Planned":
        """Compiles it."""
        compiled = compile_program(program, keep)
        blank = Planned(
            program=program,
            compiled=compiled,
            beside=beside,
            flops=by_formula(program.work),
            comparison=None,
            products=None,
            collectives=[],
            step=None,
        )
        if compiled.module is None:
            return blank
        found = products.read(compiled.module)
        said = collectives.read(compiled.module, dict(program.mesh.shape))
        comparison = compare(program, compiled, found)
        step = compose(program, topology, rates, found, comparison, said)
        return replace(blank, comparison=comparison, products=found, collectives=said, step=step)

    def said(self, topology: Topology, rates: Rates) -> dict[str, Any]:
        """Everything of it, in plain values."""
        program, compiled = self.program, self.compiled
        found: dict[str, Any] = {
            "name": program.name,
            "role": program.role,
            "mesh": {name: size for name, size in program.mesh.shape.items()},
            "devices": program.mesh.size * program.copies,
            "turns": program.turns,
            "notes": list(program.notes),
            "fit": memory.fit(program, compiled, topology, self.beside),
            "memory": memory.rows(program, compiled, self.beside),
            "compile": {**compiled.seconds, "resident_bytes": compiled.resident},
            "flops": {**asdict(self.flops), "needed": self.flops.needed},
        }
        if compiled.module is None or self.comparison is None or self.products is None or self.step is None:
            return found
        step = self.step
        return found | {
            "compiled_memory": asdict(compiled.memory) if compiled.memory else None,
            "comparison": {**asdict(self.comparison), "ratio": self.comparison.ratio},
            "products": asdict(self.products),
            "collectives": collectives.table(self.collectives),
            "loops_of_unknown_length": list(compiled.module.unknown),
            "step": {
                **{name: vars(step)[name] for name in ("matrices", "grouped", "attention", "memory", "links")},
                "links_by_axes": step.by_axes,
                "hidden": {
                    name: {"seconds": step.seconds(share), "mfu": step.mfu(share)}
                    for name, share in rates.hidden.items()
                },
            },
        }


def find_stage(experiment: Experiment, name: str | None) -> Staged:
    """The stage of this name; None: the last one.

    Raises:
      ValueError: there is none.
    """
    names = [one.name for one in experiment.stages]
    if name is not None and name not in names:
        raise ValueError(f"--stage {name!r} is not one of this experiment's, which are {', '.join(names)}")
    return experiment.stages[-1 if name is None else names.index(name)]


def programs(experiment: Experiment, stage: Staged, devices: Sequence[Any]) -> tuple[Program, ...]:
    """What a stage runs over and over, on devices that there would be.

    Raises:
      ValueError: its meshes do not fit the devices, or it is of a kind that is not planned.
    """
    match stage:
        case Stage():
            return lessons.programs(experiment, stage, devices)
        case Reinforcement():
            return rehearsals.programs(experiment, stage, devices)
        case _:
            raise ValueError(
                f"stage {stage.name!r} is a {type(stage).__name__}, which is not planned; set --stage to another"
            )


def plan(
    experiment: Experiment,
    stage: str | None,
    topology: Topology,
    rates: Rates,
    tokens: float | None = None,
    devices: Sequence[Any] | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """All of a stage, in plain values: what `--json` writes and the report shows.

    Args:
      experiment: whose.
      stage: its name; None: the last one.
      topology: what is there.
      rates: what is assumed of it.
      tokens: of the learners, for which chips and hours are told; None: those of the stage's own steps.
      devices: to compile for; None: those of the topology.
      keep: a folder for the texts of the compiled programs; None: they are not kept.
    """
    chosen = find_stage(experiment, stage)
    found = programs(experiment, chosen, topology.devices() if devices is None else devices)
    told = tell(experiment.name, chosen.name, found, topology, rates, keep)
    if "total" in told:
        per_step = chosen.seen / chosen.steps
        budget = tokens or float(chosen.seen)
        chips = told["used_devices"] / topology.chip.devices
        told["budget"] = {
            "tokens": budget, "tokens_a_step": per_step, "steps": budget / per_step, "chips": chips,
            "hours": {name: one["seconds"] * budget / per_step / 3600 for name, one in told["total"].items()},
        }  # fmt: skip
    return told


def tell(
    name: str, stage: str, found: Sequence[Program], topology: Topology, rates: Rates, keep: Path | None = None
) -> dict[str, Any]:
    """Programs compiled, and what that says, in plain values."""
    planned = [Planned.of(one, memory.beside(one, found), topology, rates, keep) for one in found]
    steps = [(one.program, one.step) for one in planned if one.step is not None]
    told: dict[str, Any] = {
        "experiment": name,
        "stage": stage,
        "topology": str(topology),
        "chips": topology.chips,
        "used_devices": _used(planned),
        "fits": all(memory.fit(one.program, one.compiled, topology, one.beside)["fits"] for one in planned),
        "rates": rates.said(topology),
        "programs": [one.said(topology, rates) for one in planned],
    }
    if len(steps) == len(planned):
        told["total"] = {name: total(steps, share) for name, share in rates.hidden.items()}
        told["balance"] = _balance(planned, rates)
        told["payload"] = _payload(planned, topology, rates)
    return told


def _used(planned: Sequence[Planned]) -> int:
    """Devices of all meshes together; programs of one mesh share them."""
    copies = {frozenset(device.id for device in one.program.mesh.devices.flat): one.program.copies for one in planned}
    used = frozenset[int]().union(*copies)
    return len(used) + sum(len(mesh) * (more - 1) for mesh, more in copies.items())


def _balance(planned: Sequence[Planned], rates: Rates) -> dict[str, Any] | None:
    """Roles on devices of their own: how long each works for a step, and how many devices would be even."""
    roles: dict[str, list[Planned]] = {}
    for one in planned:
        roles.setdefault(one.program.role, []).append(one)
    meshes = {role: {d.id for d in ones[0].program.mesh.devices.flat} for role, ones in roles.items()}
    if len(roles) < 2 or any(meshes[a] & meshes[b] for a in meshes for b in meshes if a != b):
        return None
    told: dict[str, Any] = {}
    for role, ones in roles.items():
        seconds = {
            name: sum(one.program.turns * one.step.seconds(share) for one in ones if one.step is not None)
            for name, share in rates.hidden.items()
        }
        told[role] = {"devices": len(meshes[role]) * ones[0].program.copies, "seconds": seconds}
    learners = told["learners"]
    for role, one in told.items():
        if role != "learners":
            one["over_learners"] = {
                hidden: seconds / learners["seconds"][hidden] for hidden, seconds in one["seconds"].items()
            }
            one["even_devices"] = one["devices"] * one["over_learners"]["part"]
    return told


def _payload(planned: Sequence[Planned], topology: Topology, rates: Rates) -> dict[str, float] | None:
    """What a teacher elsewhere hands over in a step; None where nothing is."""
    for one in planned:
        heard = one.program.held.get(HEARD)
        if heard is not None and any(other.program.role == "teacher" for other in planned):
            size, chip = bytes_of(heard), topology.chip
            rate = chip.link * rates.link if chip.torus else chip.network * rates.network
            return {"bytes": size * one.program.mesh.size, "bytes_a_device": size, "seconds": size / rate}
    return None
