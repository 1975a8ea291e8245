"""Trials run each in a process and a folder of its own, are not run twice, and are compared seed by seed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distill import sweep, trials
from distill.trials import summarise, table

ROOT = Path(__file__).parents[2]
FILE = """
from dataclasses import replace
from pathlib import Path

from distill import Experiment, Learner, Stage, Trained
from distill.data.source import Folder
from models.config import SCOUT_PICO, tiny

MODEL = replace(tiny(SCOUT_PICO), layers=4)
ONE = Stage(name="learn", learners=(Learner(name="student", model=MODEL),), steps=4, rows=4, length=16)
BASE = Experiment(name="teacher", stages=(ONE,), corpus=Folder("{text}"), held_out=1, glance=1)


def prepare(folder, tiny):
    yield BASE


def sweep(folder, tiny):
    yield replace(BASE, name="alone", stages=(ONE,))
    given = (Trained(name="old", run=str(folder / "teacher"), stage="learn", learner="student"),)
    yield replace(BASE, name="taught", given=given, stages=(replace(ONE, teacher="old"),))
    yield replace(BASE, name="late", corpus=Folder("{late}"))
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for i in range(40):
        (folder / f"{i}.txt").write_text(" ".join(str(n) for n in random.integers(0, 9, 60)))
    return folder


@pytest.fixture(scope="module")
def swept(text, tmp_path_factory):
    """A sweep of which one trial fails: its file, its folder and what it printed."""
    base = tmp_path_factory.mktemp("sweep")
    file = base / "mine.py"
    file.write_text(FILE.format(text=text, late=base / "late"))
    done = run(file, base / "run")
    return file, base / "run", done


def run(file, folder, *arguments):
    command = [sys.executable, "-m", "distill.sweep", str(file), "--run", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_trial_that_fails_is_named_and_the_others_are_done(swept):
    _, folder, done = swept
    assert done.returncode == 1
    assert "1 trials failed: late (seed 0)" in done.stderr and f"{folder.parent / 'late'}" in done.stderr
    assert "the same command runs them again" in done.stderr
    assert {path.parent.name for path in (folder / "seed0").glob("*/results.json")} == {"teacher", "alone", "taught"}


def test_the_table_pairs_trials_and_the_page_is_there(swept):
    _, folder, done = swept
    assert "taught: learn student" in done.stdout and "alone: learn student" in done.stdout
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert {row["trial"] for row in rows} == {"alone", "taught"} and all(row["cross_entropy"] > 0 for row in rows)
    assert (folder / "figures" / "sweep.png").stat().st_size > 1000
    assert "taught: learn student" in (folder / "sweep.html").read_text()


def test_a_learner_of_another_run_teaches(swept):
    _, folder, _ = swept
    results = json.loads((folder / "seed0" / "taught" / "results.json").read_text())
    assert results["models"][0]["kl"] is not None
    assert set(json.loads((folder / "seed0" / "taught" / "given.json").read_text())) == {"old"}


def test_the_same_command_runs_only_what_failed(swept, text):
    file, folder, _ = swept
    before = {path: path.stat().st_mtime_ns for path in (folder / "seed0").glob("[at]*/metrics.jsonl")}
    shutil.copytree(text, folder.parent / "late")
    done = run(file, folder)
    assert done.returncode == 0, done.stderr
    assert "late: learn student" in done.stdout
    done = run(file, folder, "--only", "alone")
    assert "alone: learn student" in done.stdout and "taught" not in done.stdout
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert {row["trial"] for row in rows} == {"alone", "taught", "late"}, "a part that is shown is no part that is kept"
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_a_sweep_that_is_killed_goes_on(text, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(text=text, late=text))
    command = [sys.executable, "-m", "distill.sweep", str(file), "--run", str(tmp_path / "run"), "--only", "alone"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "run" / "seed0" / "teacher" / "results.json").exists():
        assert process.poll() is None
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = run(file, tmp_path / "run", "--only", "alone")
    assert done.returncode == 0, done.stderr
    assert "alone: learn student" in done.stdout


@pytest.mark.slow
def test_trials_run_as_jobs_and_a_second_call_asks_for_none_twice(text, tmp_path):
    """Submitit's stand-in for a cluster: the same jobs as processes on this machine."""
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(text=text, late=tmp_path / "late"))
    asked = ("--on", "slurm", "--slurm.cluster", "local", "--slurm.minutes", "5")
    done = run(file, tmp_path / "run", *asked)
    assert done.returncode == 1 and "1 trials failed: late (seed 0)" in done.stderr, done.stderr
    assert f"{tmp_path / 'late'} does not exist" in done.stderr
    assert {path.parent.name for path in (tmp_path / "run").glob("seed0/*/results.json")} == {
        "teacher",
        "alone",
        "taught",
    }
    first = json.loads((tmp_path / "run" / "jobs.json").read_text())
    done = run(file, tmp_path / "run", *asked)
    assert done.returncode == 1 and "alone: learn student" in done.stdout, done.stderr
    again = json.loads((tmp_path / "run" / "jobs.json").read_text())
    changed = {name for name, job in again["jobs"].items() if first["jobs"].get(name) != job}
    assert changed == {"seed0/late"}, "only what failed is asked for again"


def test_a_file_without_a_sweep_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("EXPERIMENT = 1\n")
    with pytest.raises(ValueError, match=r"defines no sweep\(folder, tiny\); it has \['EXPERIMENT'\]"):
        sweep.Sweep(tmp_path / "mine.py", tmp_path).trials("sweep")


def rows(trial, *values):
    return [
        {"trial": trial, "stage": "learn", "name": "student", "seed": seed, "cross_entropy": value, "accuracy": 0.5}
        for seed, value in enumerate(values)
    ]


def test_lines_are_paired_on_the_seeds_that_both_have():
    lines = summarise([*rows("base", 2.0, 3.0, 4.0), *rows("ours", 1.5, 2.75)], None)
    ours = next(line for line in lines if line.title.startswith("ours"))
    assert ours.difference is not None
    assert (ours.difference.mean, ours.difference.n, ours.difference.wins) == (-0.375, 2, 2)
    assert lines[0] is ours and next(line for line in lines if line.title.startswith("base")).difference is None
    assert "-0.375" in table(lines)


def test_an_unknown_trial_to_compare_with_is_refused():
    with pytest.raises(ValueError, match="is not among the finished trials"):
        summarise(rows("base", 2.0), "other")


def test_lines_can_be_drawn_with_and_without_intervals():
    for found in (rows("base", 2.0), [*rows("base", 2.0, 3.0), *rows("ours", 1.5, 2.75)]):
        assert trials.draw(summarise(found, None)).axes


def test_an_outlier_is_drawn_at_the_edge_and_stretches_nothing():
    far = [*rows("base", 2.0, 3.0), *rows("near", 2.1, 3.1), *rows("close", 1.9, 2.9), *rows("far", 9.0, 10.5)]
    (panel,) = trials.draw(summarise(far, None)).axes
    reach = [abs(x) for line in panel.get_lines() for x in line.get_xdata()]
    assert max(reach) < 1.0 and any(line.get_marker() == ">" for line in panel.get_lines())


def test_learners_of_a_trial_can_be_paired_with_one_of_them():
    both = [
        row | {"name": name}
        for name in ("hard", "soft")
        for row in rows("one", *((3.0, 4.0) if name == "hard" else (2.0, 3.5)))
    ]
    lines = {line.title: line for line in summarise(both, "hard")}
    assert lines["one: learn hard"].difference is None
    found = lines["one: learn soft"].difference
    assert found is not None and (found.mean, found.wins) == (-0.75, 2)
