"""Settings searched for, not listed: Optuna proposes, each trial is a process in its own run folder (extra: `search`).

    python -m distill.search mine.py --trials 30

The file defines `suggest(trial, folder, tiny)`: it asks Optuna's trial for values and returns the experiment they make.

    def suggest(trial, folder, tiny):
        rate = trial.suggest_float("rate", 1e-3, 3e-2, log=True)
        return replace(BASE, stages=(replace(LEARN, learners=(student(rate),)),))

Held-out cross-entropy is what is made small: of the learner `--learner` (the last of the last stage, if not named).
`prepare` is as in distill.sweep. A trial that was killed goes on where it was; Optuna is told of one that failed.
What Optuna knows is in search.jsonl; at the end: trials.jsonl, the table, the best values. Settings found so are chosen
on the held-out text they are scored on: report them on another.
"""

import json
import runpy
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.launch import run_experiment
from distill.loop import Interrupted
from distill.process import settle
from distill.run import load_run
from distill.sweep import PAUSE, Sweep, run_here, sayer
from distill.trials import Trial, collect, write_page
from distill.workers import Workers


@dataclass(frozen=True)
class Search:
    """The trials of a file.

    Attributes:
      file: defines `suggest(trial, folder, tiny)`.
      folder: of all its runs.
      tiny: whether its experiments are shrunk.
    """

    file: Path
    folder: Path
    tiny: bool = False

    def trial(self, number: int, values: Any) -> Trial:
        """The trial of these values.

        Args:
          number: of the trial.
          values: Optuna's trial, or values by name.

        Raises:
            ValueError: the file has no `suggest`, or `suggest` asks for a value that is not given.
        """
        import optuna

        known = runpy.run_path(str(self.file))
        if "suggest" not in known:
            names = sorted(name for name in known if not name.startswith("_"))
            raise ValueError(f"{self.file} defines no suggest(trial, folder, tiny); it has {names}")
        asked = optuna.trial.FixedTrial(values, number) if isinstance(values, dict) else values
        made = known["suggest"](asked, self.folder / "seed0", self.tiny)
        name = f"trial-{number:04d}"
        return Trial(replace(made, name=name), self.folder / name, made.seed)

    def command(self, number: int, values: dict[str, Any]) -> list[str]:
        """The process of a trial."""
        asked = [str(self.file), "--run", str(self.folder), "--number", str(number), "--values", json.dumps(values)]
        return [sys.executable, "-m", "distill.search", *asked, *(["--tiny"] if self.tiny else [])]


def study_of(folder: Path, name: str, seed: int) -> Any:
    """What Optuna knows of this search: a journal of lines in its folder.

    Raises:
        ValueError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ValueError("a search needs optuna: pip install 'herd-distill[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "search.jsonl")))
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    # a sampler that begins anew must not propose again what it proposed then
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), constant_liar=True)
    return study


def score(trial: Trial, learner: str | None) -> float:
    """Held-out cross-entropy of the learner in its last stage; of the last learner, if None.

    Raises:
        ValueError: there is no such learner.
    """
    rows = load_run(trial.folder).results["models"]
    found = [row for row in rows if learner in (None, row["name"])]
    if not found:
        raise ValueError(f"--learner {learner!r} is not among the learners {sorted({row['name'] for row in rows})}")
    return found[-1]["cross_entropy"]


def look_for(search: Search, study: Any, trials: int, learner: str | None, workers: int | None) -> None:
    """Runs trials until there are so many; those that a killed search left behind come first."""
    from optuna.trial import TrialState

    say = sayer()
    with Workers[Trial](search.folder, workers) as at_work:
        left = [(one.number, one.params) for one in study.get_trials(states=(TrialState.RUNNING,))]
        while left or at_work.running or len(study.trials) < trials:
            while at_work.free and (left or len(study.trials) < trials):
                if left:
                    number, values = left.pop(0)
                    trial = search.trial(number, values)
                else:
                    asked = study.ask()
                    trial, number, values = search.trial(asked.number, asked), asked.number, asked.params
                at_work.start(trial, search.command(number, values), trial.log)
            time.sleep(PAUSE)
            for trial, code in at_work.ended():
                number = int(trial.experiment.name.rpartition("-")[2])
                if code:
                    study.tell(number, state=TrialState.FAIL)
                    say(f"{trial.experiment.name} failed: {trial.last_words()}")
                else:
                    study.tell(number, score(trial, learner))
            done = study.get_trials(states=(TrialState.COMPLETE,))
            best = f"best {study.best_value:.4f} (trial {study.best_trial.number})" if done else "none yet"
            now = ", ".join(f"{trial.experiment.name} {trial.place()}" for trial in at_work.running)
            say(f"{len(done)} of {trials} trials done, {best}; now {now or 'none'}")


def run_trial(search: Search, number: int, values: dict[str, Any]) -> int:
    """One trial, in this process. 0: finished, 1: failed, 130: interrupted and saved."""
    try:
        trial = search.trial(number, values)
        settle()
        run_experiment(trial.experiment, trial.folder, quiet=True)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    return 0


def main(
    file: Path,
    run: Path | None = None,
    trials: int = 20,
    learner: str | None = None,
    tiny: bool = False,
    seed: int = 0,
    workers: int | None = None,
    number: int | None = None,
    values: str = "{}",
) -> int:
    """Searches for the values under which held-out cross-entropy is least.

    Args:
        file: defines `suggest(trial, folder, tiny)`.
        run: the folder of the search (default: runs/ and the file's name).
        trials: how many in all, those of earlier calls included.
        learner: whose cross-entropy counts; the last of the last stage, if not given.
        tiny: each experiment shrunk to about a minute.
        seed: of what is proposed; with more than one worker, the order in which trials end matters too.
        workers: trials at a time; as many as there are cores, if not given.
        number: run this trial in this process (used between processes).
        values: of that trial (used between processes).
    """
    folder = run or Path("runs") / (file.stem + ("-tiny" if tiny else ""))
    search = Search(file, folder, tiny)
    if number is not None:
        return run_trial(search, number, json.loads(values))
    study = study_of(folder, file.stem, seed)
    before = Sweep(file, folder, tiny=tiny)
    prepared = before.trials("prepare")
    run_here(before, "prepare", prepared, workers, sayer())
    if failed := [one for one in prepared if not one.finished]:
        raise ValueError("; ".join(f"{one.title} failed: {one.last_words()} ({one.log})" for one in failed))
    look_for(search, study, trials, learner, workers)
    made = [search.trial(one.number, one.params) for one in study.trials if one.value is not None]
    print("\n" + write_page(collect(made, folder), folder))
    if made:
        print(f"best: trial {study.best_trial.number}, {study.best_value:.4f}: {json.dumps(study.best_params)}")
    return int(not made)


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
