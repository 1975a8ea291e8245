"""Many runs from one file: a list of experiments, each trial a process in a run folder of its own.

    python -m distill.sweep experiments/dynamic_weighting.py                    # as many at a time as there are cores
    python -m distill.sweep experiments/dynamic_weighting.py --seeds 5 --only evidence hard

The file defines `sweep(folder, tiny)`, which yields experiments of different names, and may define
`prepare(folder, tiny)`, which yields those that must be finished before (teachers that trials share as `Trained`).
Trials that are finished are not run again; those that were killed go on where they were; those that failed are tried
again, alone, by the same command. At the end: trials.jsonl, a table with paired differences, a figure, sweep.html.

    python -m distill.sweep experiments/divergences.py --on slurm --slurm.gpus 1 --slurm.minutes 30
"""

import runpy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distill.experiment import Experiment
from distill.launch import run_experiment
from distill.loop import Interrupted
from distill.process import settle
from distill.progress import clock
from distill.slurm import Job, Slurm, submit, wait
from distill.trials import Trial, collect, write_page
from distill.workers import Workers, follow

PAUSE = 1.0
"""seconds between looks at the trials"""
SETTLES = 30.0
"""seconds that a shared file system may take to show what another machine wrote"""
PLAIN = Slurm()


@dataclass(frozen=True)
class Sweep:
    """The trials of a file."""

    file: Path
    folder: Path
    seeds: int = 1
    tiny: bool = False

    def trials(self, kind: str) -> list[Trial]:
        """The trials of `sweep` or `prepare`, seed by seed, so that a comparison of few seeds is there early.

        Raises:
            ValueError: the file has no `sweep`, or two experiments share a name.
        """
        known = runpy.run_path(str(self.file))
        if kind == "sweep" and kind not in known:
            names = sorted(name for name in known if not name.startswith("_"))
            raise ValueError(f"{self.file} defines no sweep(folder, tiny); it has {names}")
        if kind not in known:
            return []
        found = []
        for seed in range(self.seeds):
            made = [replace(one, seed=one.seed + seed) for one in known[kind](self.folder / f"seed{seed}", self.tiny)]
            names = [one.name for one in made]
            if len(set(names)) < len(names):
                raise ValueError(f"{self.file}: {kind}() yields {names}; each experiment needs its own name")
            found += [Trial(one, self.folder / f"seed{seed}" / one.name, seed) for one in made]
        return found

    def name(self, trial: Trial) -> str:
        """Its folder within the sweep's: no other has it."""
        return str(trial.folder.relative_to(self.folder))

    def command(self, kind: str, trial: Trial) -> list[str]:
        """The process of a trial."""
        asked = [str(self.file), "--run", str(self.folder), "--seeds", str(self.seeds)]
        asked += ["--kind", kind, "--trial", self.name(trial)]
        return [sys.executable, "-m", "distill.sweep", *asked, *(["--tiny"] if self.tiny else [])]


def attempt(make: Callable[[], Trial]) -> int:
    """One trial, in this process. 0: finished, 1: failed, 130: interrupted and saved."""
    follow()
    try:
        trial = make()
        settle()
        run_experiment(trial.experiment, trial.folder, quiet=True)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    return 0


def run_here(sweep: Sweep, kind: str, trials: Sequence[Trial], workers: int | None, say: Callable[[str], None]) -> None:
    """Runs what is not finished in processes on this machine, `workers` at a time."""
    with Workers[Trial](sweep.folder, workers) as at_work:
        waiting, start = [one for one in trials if not one.finished], time.monotonic()
        before, failed = len(trials) - len(waiting), 0
        while waiting or at_work.running:
            while waiting and at_work.free:
                trial = waiting.pop(0)
                at_work.start(trial, sweep.command(kind, trial), trial.log)
            time.sleep(PAUSE)
            for trial, code in at_work.ended():
                failed += bool(code)
                if code:
                    say(f"{trial.title} failed: {trial.last_words()}")
                elif kind == "sweep":
                    collect(sweep.trials(kind), sweep.folder)
            done = sum(one.finished for one in trials)
            rate = (time.monotonic() - start) / max(done - before, 1)
            left = clock(rate * (len(waiting) + 0.5 * len(at_work.running))) if done > before else "?"
            names = ", ".join(f"{trial.title} {trial.place()}" for trial in at_work.running)
            say(f"{done} of {len(trials)} {kind} trials done, {failed} failed, {left} left; now {names or 'none'}")


def run_on(sweep: Sweep, kind: str, trials: Sequence[Trial], slurm: Slurm, say: Callable[[str], None]) -> None:
    """Runs what is not finished as jobs of a cluster."""
    waiting = [one for one in trials if not one.finished]
    asked = {sweep.name(one): Job(sweep.command(kind, one), one.log) for one in waiting}
    jobs = submit(asked, sweep.folder, slurm)

    def look(left: dict[str, Any]) -> None:
        done = sum(one.finished for one in trials)
        arrays = ", ".join(sorted({job.job_id.split("_")[0] for job in left.values()}))
        say(f"{done} of {len(trials)} {kind} trials done, {len(left)} jobs queued or at work ({arrays})")

    wait(jobs, slurm, look)
    deadline = time.monotonic() + (0.0 if slurm.cluster == "local" else SETTLES)
    while not all(one.seen() for one in waiting) and time.monotonic() < deadline:
        time.sleep(PAUSE)


def sayer() -> Callable[[str], None]:
    """One line that is written over on a terminal; in a file, a line where something new is said."""
    last = [""]

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif text.split(",")[0] != last[0]:
            print(text, file=sys.stderr, flush=True)
        last[0] = text.split(",")[0]

    return say


def main(
    file: Path,
    run: Path | None = None,
    seeds: int = 1,
    tiny: bool = False,
    workers: int | None = None,
    only: tuple[str, ...] = (),
    against: str | None = None,
    on: Literal["here", "slurm"] = "here",
    slurm: Slurm = PLAIN,
    kind: str = "sweep",
    trial: str | None = None,
) -> int:
    """Runs the trials of a file, and says what came out.

    Args:
        file: defines `sweep(folder, tiny)`.
        run: the folder of the sweep (default: runs/ and the file's name).
        seeds: how many of each.
        tiny: each experiment shrunk to about a minute.
        workers: trials at a time on this machine; as many as there are cores, if not given.
        only: parts of names; the others are left out.
        against: the trial, or the learner of every trial, that others are paired with; the first trial, if not given.
        on: this machine, or a cluster.
        slurm: what each job asks for there.
        kind: of the one trial to run (used between processes).
        trial: run this one in this process (used between processes).
    """
    folder = run or Path("runs") / (file.stem + ("-tiny" if tiny else ""))
    sweep = Sweep(file, folder, seeds, tiny)
    if trial is not None:
        return attempt(lambda: next(one for one in sweep.trials(kind) if sweep.name(one) == trial))
    say, failed = sayer(), []
    for each in ("prepare", "sweep"):
        trials = [one for one in sweep.trials(each) if each == "prepare" or _chosen(one.experiment.name, only)]
        if on == "here":
            run_here(sweep, each, trials, workers, say)
        else:
            run_on(sweep, each, trials, slurm, say)
        failed = [one for one in trials if not one.finished]
        if failed:
            names = ", ".join(f"{one.title} ({one.log}: {one.last_words()})" for one in failed)
            print(f"\n{len(failed)} trials failed: {names}; the same command runs them again", file=sys.stderr)
            if each == "prepare":
                return 1
    rows = [row for row in collect(sweep.trials("sweep"), folder) if _chosen(row["trial"], only)]
    print("\n" + write_page(rows, folder, against))
    return int(bool(failed))


def _chosen(name: str, only: Sequence[str]) -> bool:
    return not only or any(part in name for part in only)


def shrunk(experiments: Iterator[Experiment], tiny: bool) -> Iterator[Experiment]:
    """The experiments, or their tiny forms under the same names: for `sweep(folder, tiny)` to end with."""
    for one in experiments:
        yield replace(one.tiny(), name=one.name) if tiny else one


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
