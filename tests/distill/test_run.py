"""A run folder: written whole, opened by one, for one experiment."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from distill.metrics import Metrics
from distill.opening import open_run
from distill.run import load_run, write_json

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Experiment:
    steps: int = 10
    rate: float = 0.1


def test_a_new_folder_has_config_and_environment_before_anything_else(tmp_path):
    with open_run(tmp_path / "herd", Experiment()) as run:
        assert json.loads((run.path / "config.json").read_text()) == {
            "schema": 1, "class": "Experiment", "steps": 10, "rate": 0.1
        }  # fmt: skip
        assert len(run.environment) == 1 and "commit" in run.environment[0]


def test_the_same_experiment_opens_its_folder_again(tmp_path):
    for _ in range(2):
        with open_run(tmp_path, Experiment()) as run:
            assert run.config["steps"] == 10
    assert len(run.environment) == 1


def test_another_experiment_is_refused_with_every_field_that_differs(tmp_path):
    with open_run(tmp_path, Experiment()) as run, Metrics(run.path) as metrics:
        metrics.write("teach", 1, loss=2.0)
    message = r"another experiment; .*\n  steps: 10 -> 20\n  rate: 0.1 -> 0.2\nUse another --run folder, or delete"
    with pytest.raises(ValueError, match=message), open_run(tmp_path, Experiment(20, 0.2)):
        pass


def test_a_run_of_an_earlier_version_goes_on_where_what_is_new_is_off(tmp_path):
    with open_run(tmp_path, Experiment()) as run, Metrics(run.path) as metrics:
        metrics.write("teach", 1, loss=2.0)
    write_json(tmp_path / "config.json", {"schema": 1, "class": "Experiment", "steps": 10})
    with open_run(tmp_path, Experiment()):
        pass
    with pytest.raises(ValueError, match=r"rate: 0.1 -> 0.2"), open_run(tmp_path, Experiment(rate=0.2)):
        pass


@dataclass(frozen=True)
class Grid:
    data: int = 1


@dataclass(frozen=True)
class Meshed:
    mesh: Grid = Grid()
    steps: int = 10


def test_a_run_goes_on_on_another_mesh_and_says_so(tmp_path):
    with open_run(tmp_path, Meshed()) as run, Metrics(run.path) as metrics:
        metrics.write("teach", 1, loss=2.0)
    with pytest.warns(RuntimeWarning, match=r"goes on on another mesh \(mesh.data: 1 -> 4\)"):  # noqa: SIM117
        with open_run(tmp_path, Meshed(Grid(4))) as run:
            assert run.config["mesh"]["data"] == 4
    with pytest.raises(ValueError, match="steps: 10 -> 20"), open_run(tmp_path, Meshed(Grid(4), 20)):
        pass


def test_what_was_measured_for_another_experiment_is_not_taken_for_this_ones(tmp_path):
    with open_run(tmp_path, Experiment()) as run:
        (run.path / "difficulty").mkdir()
        write_json(run.path / "difficulty" / "tune.json", {})
    with pytest.raises(ValueError, match=r"steps: 10 -> 20"), open_run(tmp_path, Experiment(20)):
        pass


def test_a_folder_in_which_nothing_was_trained_takes_a_corrected_experiment(tmp_path):
    for experiment in (Experiment(), Experiment(20, 0.2)):
        with open_run(tmp_path, experiment) as run:
            assert run.config["steps"] == experiment.steps


def test_going_on_with_other_text_is_refused(tmp_path):
    with open_run(tmp_path, Experiment()) as run, Metrics(run.path) as metrics:
        run.write_manifest({"hash": "old"})
        run.write_manifest({"hash": "new"})
        metrics.write("teach", 1, loss=2.0)
        run.write_manifest({"hash": "new"})
        with pytest.raises(
            ValueError, match="was begun with corpus new and would go on with old .other text.*use another --run"
        ):
            run.write_manifest({"hash": "old"})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"hash": "new"}


def test_an_unknown_schema_is_refused(tmp_path):
    write_json(tmp_path / "config.json", {"schema": 99})
    with pytest.raises(ValueError, match="has schema 99, this version reads 1; use the version of the project"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match="has schema 99"), open_run(tmp_path, Experiment()):
        pass


def test_a_config_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_run(tmp_path)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(ValueError, match="not empty and not a run folder .*thesis.tex"),
        open_run(tmp_path, Experiment()),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "herd").write_text("x")
    with (
        pytest.raises(ValueError, match="herd is a file; a run needs a folder"),
        open_run(tmp_path / "herd", Experiment()),
    ):
        pass


def test_a_start_killed_before_its_config_was_written_starts_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.tmp").write_text('{"sch')
    write_json(tmp_path / "environment.json", [{}])
    with open_run(tmp_path, Experiment()) as run:
        assert run.config["steps"] == 10 and run.environment[0]["python"]


def test_another_environment_is_noted_and_warned_of(tmp_path):
    with open_run(tmp_path, Experiment()) as run:
        write_json(run.path / "environment.json", [run.environment[0] | {"python": "2.7"}])
    with (
        pytest.warns(RuntimeWarning, match="in another environment .*python: '2.7' ->"),
        open_run(tmp_path, Experiment()) as run,
    ):
        assert [one["python"] for one in run.environment][0] == "2.7" and len(run.environment) == 2


def test_two_at_once_are_refused(tmp_path):
    message = f"in use by process {os.getpid()} on .*; wait until it is done"
    with open_run(tmp_path, Experiment()), pytest.raises(ValueError, match=message), open_run(tmp_path, Experiment()):
        pass
    with open_run(tmp_path, Experiment()):
        pass


def test_the_lock_of_a_killed_process_is_gone_with_it(tmp_path):
    code = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX);"
        "os.write(f, b'process 1 on far'); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        process.stdout.readline()
        with pytest.raises(ValueError, match="in use by process 1 on far"), open_run(tmp_path, Experiment()):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open_run(tmp_path, Experiment()) as run:
        assert run.path == tmp_path


def test_a_run_is_loaded_in_one_line(tmp_path):
    with open_run(tmp_path / "herd", Experiment()) as run, Metrics(run.path) as metrics:
        metrics.write("teach", 1, loss=2.0)
        metrics.time("teach", 1, seconds=0.5)
        run.write_results({"loss": 2.0})
    run = load_run(tmp_path / "herd")
    assert run.config["rate"] == 0.1 and run.results == {"loss": 2.0}
    assert run.metrics() == [{"stage": "teach", "step": 1, "loss": 2.0}]
    assert run.timings() == [{"stage": "teach", "step": 1, "seconds": 0.5}]
    assert run.figures == tmp_path / "herd" / "figures"


def test_a_folder_without_a_run_names_the_runs_beside_it(tmp_path):
    with open_run(tmp_path / "herd", Experiment()):
        pass
    with pytest.raises(ValueError, match=r"hurd is not a run folder.*the runs beside it are \['herd'\]"):
        load_run(tmp_path / "hurd")


def test_results_that_are_not_there_yet_say_so(tmp_path):
    with (
        open_run(tmp_path, Experiment()) as run,
        pytest.raises(ValueError, match="no results.json yet: start the run again"),
    ):
        _ = run.results


def test_json_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    write_json(tmp_path / "a.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
