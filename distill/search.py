"""Settings searched for, not listed: Optuna proposes, each trial is a process in its own run folder (extra: `search`).

    python -m distill.search mine.py --trials 30

The file defines `suggest(trial, folder, tiny)`: it asks Optuna's trial for values and returns the experiment they make.

    def suggest(trial, folder, tiny):
        rate = trial.suggest_float("rate", 1e-3, 3e-2, log=True)
        return replace(BASE, stages=(replace(LEARN, learners=(student(rate),)),))

Held-out cross-entropy is what is made small: of the learner `--learner` (the last of the last stage, if not named).
`prepare` is as in distill.sweep. A trial that was killed goes on where it was, by the same command; Optuna is told of
one that failed, or whose values made no experiment. What Optuna knows is in search.jsonl; at the end: trials.jsonl, the
table, the best values. Settings found so are chosen on the held-out text they are scored on: report them on another.
"""

import json
import runpy
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.run import load_run
from distill.sweep import PAUSE, Sweep, attempt, run_here, sayer
from distill.trials import Trial, collect, write_page
from distill.workers import Workers

STOPPED = 130
"""exit code of a trial that was told to stop, and saved"""


@dataclass(frozen=True)
class Search:
    """The trials of a file.

    Attributes:
      file: defines `suggest(trial, folder, tiny)`.
      folder: of all its runs.
      learner: whose cross-entropy is made small; the last one's, if None.
      tiny: whether its experiments are shrunk.
    """

    file: Path
    folder: Path
    learner: str | None = None
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

    def score(self, trial: Trial) -> float:
        """Held-out cross-entropy of the learner in its last stage."""
        rows = load_run(trial.folder).results["models"]
        return [row for row in rows if self.learner in (None, row["name"])][-1]["cross_entropy"]

    def check(self, trial: Trial) -> None:
        """Refuses a learner that is not there.

        Raises:
            ValueError: as it says.
        """
        names = [one.name for stage in trial.experiment.stages for one in stage.learners]
        if self.learner is not None and self.learner not in names:
            raise ValueError(f"--learner {self.learner!r} is not among the learners {sorted(set(names))}")


def study_of(folder: Path, name: str) -> Any:
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
    # absolute: its lock is a link to the journal, and one that a kill left behind must still lead there
    journal = JournalFileBackend(str((folder / "search.jsonl").absolute()))
    return optuna.create_study(storage=optuna.storages.JournalStorage(journal), study_name=name, load_if_exists=True)


def sampler_of(study: Any, seed: int) -> Any:
    """One that does not propose again what an earlier one proposed."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed + len(study.trials), constant_liar=True)


def look_for(search: Search, study: Any, trials: int, seed: int, workers: int | None) -> None:
    """Runs trials until there are so many; those that a killed search left behind come first."""
    from optuna.trial import TrialState

    say = sayer()
    with Workers[Trial](search.folder, workers) as at_work:
        study.sampler = sampler_of(study, seed)
        left = study.get_trials(states=(TrialState.RUNNING,))
        while left or at_work.running or len(study.trials) < trials:
            while at_work.free and (left or len(study.trials) < trials):
                asked = left.pop(0) if left else study.ask()
                begin(search, study, asked, at_work, say)
            time.sleep(PAUSE)
            for trial, code in at_work.ended():
                number = int(trial.experiment.name.rpartition("-")[2])
                if trial.finished:
                    study.tell(number, search.score(trial))
                elif code < 0 or code == STOPPED:
                    say(f"{trial.experiment.name} was stopped; the same command goes on with it")
                else:
                    study.tell(number, state=TrialState.FAIL)
                    say(f"{trial.experiment.name} failed: {trial.last_words()}")
            done = study.get_trials(states=(TrialState.COMPLETE,))
            best = f"best {study.best_value:.4f} (trial {study.best_trial.number})" if done else "none yet"
            now = ", ".join(f"{trial.experiment.name} {trial.place()}" for trial in at_work.running)
            say(f"{len(done)} of {trials} trials done, {best}; now {now or 'none'}")


def begin(search: Search, study: Any, asked: Any, at_work: Workers[Trial], say: Callable[[str], None]) -> None:
    """Starts a trial that Optuna proposes, or proposed before; tells it of values that make no experiment."""
    from optuna.trial import FrozenTrial, TrialState

    values = asked.params if isinstance(asked, FrozenTrial) else asked
    try:
        trial = search.trial(asked.number, values)
    except ValueError as error:
        study.tell(asked.number, state=TrialState.FAIL)
        say(f"trial-{asked.number:04d} failed: {error}")
        return
    search.check(trial)
    at_work.start(trial, search.command(asked.number, asked.params), trial.log)


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
        run: the folder of the search (default: runs/, the file's name and -search).
        trials: how many in all, those of earlier calls included.
        learner: whose cross-entropy counts; the last of the last stage, if not given.
        tiny: each experiment shrunk to about a minute.
        seed: of what is proposed; with more than one worker, the order in which trials end matters too.
        workers: trials at a time; as many as there are cores, if not given.
        number: run this trial in this process (used between processes).
        values: of that trial (used between processes).
    """
    folder = run or Path("runs") / (file.stem + "-search" + ("-tiny" if tiny else ""))
    search = Search(file, folder, learner, tiny)
    if number is not None:
        return attempt(lambda: search.trial(number, json.loads(values)))
    study = study_of(folder, file.stem)
    before = Sweep(file, folder, tiny=tiny)
    prepared = before.trials("prepare")
    run_here(before, "prepare", prepared, workers, sayer())
    if failed := [one for one in prepared if not one.finished]:
        raise ValueError("; ".join(f"{one.title} failed: {one.last_words()} ({one.log})" for one in failed))
    look_for(search, study, trials, seed, workers)
    from optuna.trial import TrialState

    made = []
    for one in study.get_trials(states=(TrialState.COMPLETE,)):
        with suppress(ValueError):  # the file asks for more by now: Optuna keeps the score, the page leaves it out
            made.append(search.trial(one.number, one.params))
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
