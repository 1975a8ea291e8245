"""Values are proposed, tried in processes of their own, and what a killed search left behind goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distill import search, sweep
from distill.trials import Trial
from distill.workers import Workers

ROOT = Path(__file__).parents[2]
FILE = """
from distill import AdamW, Experiment, Learner, Stage, WarmupCosine
from distill.data.source import Folder
from models.config import SCOUT_PICO, tiny


def suggest(trial, folder, tiny_form):
    rate = trial.suggest_float("rate", 1e-8, 1e-1, log=True)
    wide = trial.suggest_categorical("steps", [30, 300])
    if rate > 0.09:
        raise ValueError("too fast")
    one = Learner(name="student", model=tiny(SCOUT_PICO), optimizer=AdamW(rate=WarmupCosine(peak=rate)))
    stage = Stage(name="learn", learners=(one,), steps=wide, rows=4, length=16, save_every=10)
    return Experiment(name="any", stages=(stage,), corpus=Folder("{text}"), held_out=1, glance=1)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    (folder / "text").mkdir()
    random = np.random.default_rng(0)
    for i in range(40):
        (folder / "text" / f"{i}.txt").write_text(" ".join(str(n) for n in random.integers(0, 9, 60)))
    (folder / "mine.py").write_text(FILE.replace("{text}", str(folder / "text")))
    return folder / "mine.py"


def command(file, folder, trials):
    asked = [str(file), "--run", str(folder), "--trials", str(trials), "--workers", "2"]
    return [sys.executable, "-m", "distill.search", *asked]


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_names_the_best(file, tmp_path):
    first = subprocess.Popen(command(file, tmp_path, 3), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("trial-*/metrics.jsonl")):
        assert first.poll() is None
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    begun = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("trial-*/config.json")}
    done = subprocess.run(command(file, tmp_path, 3), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [row["trial"] for row in rows] == ["trial-0000", "trial-0001", "trial-0002"]
    for name, config in begun.items():
        assert json.loads((tmp_path / name / "config.json").read_text()) == config
    best = min(rows, key=lambda row: row["cross_entropy"])
    assert f"best: trial {int(best['trial'][-4:])}, {best['cross_entropy']:.4f}" in done.stdout


def test_the_values_of_a_trial_make_its_experiment(file, tmp_path):
    one = search.Search(file, tmp_path).trial(7, {"rate": 0.01, "steps": 30})
    assert one.experiment.name == "trial-0007" and one.folder == tmp_path / "trial-0007"
    assert one.experiment.stages[0].learners[0].optimizer.rate.peak == 0.01


def test_a_new_sampler_does_not_repeat_itself(tmp_path):
    def proposed(folder):
        study = search.study_of(folder, "mine")
        study.sampler = search.sampler_of(study, 0)
        return study.ask().suggest_float("rate", 0.0, 1.0)

    first, second, again = proposed(tmp_path), proposed(tmp_path), proposed(tmp_path / "other")
    assert first != second and again == first


def test_values_that_make_no_experiment_are_told_and_the_search_goes_on(file, tmp_path):
    study, workers = search.study_of(tmp_path, "mine"), Workers[Trial](tmp_path, 1)
    study.enqueue_trial({"rate": 0.095, "steps": 30})
    search.begin(search.Search(file, tmp_path), study, study.ask(), workers, print)
    broken = study.ask()  # a kill before its values were all proposed
    search.begin(search.Search(file, tmp_path), study, study.get_trials()[broken.number], workers, print)
    assert [one.state.name for one in study.trials] == ["FAIL", "FAIL"]


def test_a_learner_that_is_not_there_is_refused_before_anything_is_trained(file, tmp_path):
    named = search.Search(file, tmp_path, learner="studnet")
    with pytest.raises(ValueError, match=r"'studnet' is not among the learners \['student'\]"):
        named.check(named.trial(0, {"rate": 0.01, "steps": 30}))


def test_a_trial_that_fails_says_why(file, tmp_path, capsys):
    assert sweep.attempt(lambda: search.Search(file, tmp_path).trial(0, {"rate": 0.095, "steps": 30})) == 1
    assert "error: too fast" in capsys.readouterr().err


def test_a_file_without_suggest_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("EXPERIMENT = 1\n")
    with pytest.raises(ValueError, match=r"defines no suggest\(trial, folder, tiny\); it has \['EXPERIMENT'\]"):
        search.Search(tmp_path / "mine.py", tmp_path).trial(0, {})
