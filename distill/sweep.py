"""Many runs from one file: a list of experiments, each trial a process in a run folder of its own.

    python -m distill.sweep experiments/dynamic_weighting.py                    # as many at a time as there are cores
    python -m distill.sweep experiments/dynamic_weighting.py --seeds 5 --only evidence hard

The file defines `sweep(folder, tiny)`, which yields experiments of different names, and may define
`prepare(folder, tiny)`, which yields those that must be finished before (teachers that trials share as `Trained`).
Trials that are finished are not run again; those that were killed go on where they were; those that failed are tried
again, alone, by the same command. At the end: trials.jsonl, a table with paired differences, a figure, sweep.html.
"""

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill.experiment import Experiment
from distill.launch import keep_compiled, run_experiment
from distill.loop import Interrupted
from distill.progress import clock
from distill.trials import Trial, collect, write_page

PDEATHSIG = 1
"""of prctl: the signal that a process gets when its parent dies"""
PAUSE = 1.0
"""seconds between looks at the trials"""


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
        if "sweep" not in known:
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

    def command(self, kind: str, trial: Trial) -> list[str]:
        """The process of a trial."""
        asked = [str(self.file), "--run", str(self.folder), "--seeds", str(self.seeds)]
        asked += ["--kind", kind, "--trial", str(trial.folder.relative_to(self.folder))]
        return [sys.executable, "-m", "distill.sweep", *asked, *(["--tiny"] if self.tiny else [])]


def run_trial(sweep: Sweep, kind: str, name: str) -> int:
    """One trial, in this process. 0: finished, 1: failed, 130: interrupted and saved."""
    trial = next(one for one in sweep.trials(kind) if str(one.folder.relative_to(sweep.folder)) == name)
    try:
        keep_compiled()
        run_experiment(trial.experiment, trial.folder, quiet=True)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    return 0


def run_here(sweep: Sweep, kind: str, trials: Sequence[Trial], workers: int, say: Callable[[str], None]) -> list[Trial]:
    """Runs what is not finished, `workers` at a time, each on cores of its own; returns those that failed."""
    waiting, running, failed = [one for one in trials if not one.finished], {}, []
    cores = sorted(os.sched_getaffinity(0))
    free, start, before = list(range(workers)), time.monotonic(), sum(one.finished for one in trials)
    try:
        while waiting or running:
            while waiting and free:
                trial, slot = waiting.pop(0), free.pop(0)
                running[slot] = (trial, _spawn(sweep.command(kind, trial), trial, cores[slot::workers]))
            time.sleep(PAUSE)
            for slot, (trial, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                free.append(slot)
                if process.returncode:
                    failed.append(trial)
                    say(f"{trial.title} failed: {trial.last_words()}")
            done = sum(one.finished for one in trials)
            rate = (time.monotonic() - start) / max(done - before, 1)
            left = clock(rate * (len(waiting) + 0.5 * len(running))) if done > before else "?"
            names = ", ".join(f"{trial.title} {trial.place()}" for trial, _ in running.values())
            say(f"{done} of {len(trials)} {kind} trials done, {len(failed)} failed, {left} left; now {names or 'none'}")
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    return failed


def _spawn(command: list[str], trial: Trial, cores: list[int]) -> subprocess.Popen:
    def settle() -> None:
        """On its cores; told to save and stop when this process is gone, however it went (Linux)."""
        os.sched_setaffinity(0, cores)
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGTERM)

    trial.folder.parent.mkdir(parents=True, exist_ok=True)
    with open(trial.log, "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=settle, start_new_session=True)


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
    kind: str = "sweep",
    trial: str | None = None,
) -> int:
    """Runs the trials of a file, and says what came out.

    Args:
        file: defines `sweep(folder, tiny)`.
        run: the folder of the sweep (default: runs/ and the file's name).
        seeds: how many of each.
        tiny: each experiment shrunk to about a minute.
        workers: trials at a time; as many as there are cores, if not given.
        only: parts of names; the others are left out.
        against: the trial, or the learner of every trial, that others are paired with; the first trial, if not given.
        kind: of the one trial to run (used between processes).
        trial: run this one in this process (used between processes).
    """
    folder = run or Path("runs") / (file.stem + ("-tiny" if tiny else ""))
    sweep = Sweep(file, folder, seeds, tiny)
    if trial is not None:
        return run_trial(sweep, kind, trial)
    say, failed = sayer(), []
    for each in ("prepare", "sweep"):
        trials = [one for one in sweep.trials(each) if each == "prepare" or _chosen(one.experiment.name, only)]
        failed = run_here(sweep, each, trials, workers or len(os.sched_getaffinity(0)), say)
        if failed:
            names = ", ".join(f"{one.title} ({one.log})" for one in failed)
            print(f"\n{len(failed)} trials failed: {names}; the same command runs them again", file=sys.stderr)
            if each == "prepare":
                return 1
    rows = collect([one for one in sweep.trials("sweep") if _chosen(one.experiment.name, only)], folder)
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
