"""A run folder in a bucket: what is promised there, and what is refused."""

import os
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from distill import lock
from distill.launch import run_experiment
from distill.metrics import FILES, Metrics, read
from distill.opening import open_run
from distill.place import Growing, move, near, new_folder, place, remove, there, write_json
from distill.rl.stage import Reinforcement
from distill.run import load_run
from models.tokenizer import Bytes
from tests.distill.bucket import bucket
from tests.distill.small import MOE, experiment, learner, stage


@dataclass(frozen=True)
class Asked:
    """An experiment as a folder knows it."""

    steps: int = 10


@pytest.fixture
def store():
    """An empty bucket."""
    with bucket() as objects:
        yield objects


@pytest.fixture
def quick(monkeypatch):
    """Leases that are renewed and die within tenths of a second."""
    told = []

    def leased(path):
        return LEASED(path, beat=0.05, dead=0.4, lost=told.append)

    LEASED = lock._leased
    monkeypatch.setattr(lock, "_leased", leased)
    return told


def test_a_name_is_of_this_machine_or_of_a_bucket(store):
    assert place("runs/herd") == Path("runs/herd") and isinstance(place("runs/herd"), Path)
    assert str(place("gs://b/run") / "config.json") == "gs://b/run/config.json"
    assert str(place(Path("gs://b/run"))) == "gs://b/run", "pathlib has made one slash of two"
    for name in ("s3://b/run", "gs://", "gcs://b/run"):
        with pytest.raises(ValueError, match=f"{name} is neither a folder of this machine nor gs://BUCKET/FOLDER"):
            place(name)


def test_a_bucket_that_nothing_here_reads_is_refused_at_the_door(monkeypatch):
    def missing(name):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(ValueError, match=r"gcsfs.*is not.*pip install 'herd-distill\[gcs\]'.*of this machine"):
        load_run("gs://b/run")


def test_json_in_a_bucket_is_put_once_under_its_own_name(store):
    write_json(place("gs://b/run/a.json"), {"a": 1})
    assert store.puts == ["/b/run/a.json"] and place("gs://b/run/a.json").read_text() == '{\n  "a": 1\n}\n'


def test_a_growing_file_in_a_bucket_is_whole_at_every_flush_and_unseen_between(store):
    path = place("gs://b/run/lines")
    lines = Growing(path)
    lines.append(b"one\n")
    assert not path.exists()
    lines.flush()
    lines.flush()
    assert path.read_bytes() == b"one\n" and len(store.puts) == 1, "what has not changed is not put again"
    lines.append(b"two\n")
    lines.cut(2)
    lines.append(b"!\n")
    assert path.read_bytes() == b"one\n" and lines.read() == b"on!\n"
    lines.close()
    again = Growing(path)
    assert again.read() == b"on!\n"
    again.close()


def test_metrics_in_a_bucket_go_on_from_the_last_flush_as_they_do_here(store, tmp_path):
    found = []
    for folder in (tmp_path, place("gs://b/run")):
        first = Metrics(folder)
        for step in (1, 2):
            first.write("teach", step, loss=1 / step)
            first.time("teach", step, seconds=0.5)
        first.flush()  # a checkpoint of step 2 follows; then the process is killed
        first.write("teach", 3, loss=9.0)
        with Metrics(folder) as second:
            second.cut("teach", 2, ["teach"])
            second.write("teach", 3, loss=1 / 3)
        found.append([(folder / name).read_bytes() for name in FILES])
    assert found[0] == found[1] and read(place("gs://b/run/metrics.jsonl"))[-1]["loss"] == 1 / 3


def test_a_folder_is_in_a_bucket_when_its_last_file_is(store):
    path = place("gs://b/run/tokenizer")
    with pytest.raises(OSError, match="no more"), new_folder(path) as made:
        (made / "tokenizer.json").write_text("{")
        raise OSError("no more")
    assert not there(path) and not path.exists()
    (path / "left").write_text("by one that was killed")
    with new_folder(path) as made:
        (made / "in").mkdir()
        (made / "in" / "b").write_text("2")
        (made / "a").write_text("1")
    assert store.puts[-1] == "/b/run/tokenizer/.whole" and there(path) and not (path / "left").exists()
    with near(path) as files:
        assert (files / "a").read_text() == "1"
    with pytest.raises(ValueError, match="is there already"), new_folder(path):
        pass
    move(path, path.with_name("aside"))
    assert not path.exists() and (path.with_name("aside") / "in" / "b").read_text() == "2"
    remove(path.with_name("aside"))
    assert not store.store


def test_a_run_in_a_bucket_is_opened_again_for_the_same_experiment_alone(store, quick):
    with open_run("gs://b/run", Asked()) as run:
        first = [name for name in store.puts if not name.endswith(".lease")]
        assert first == ["/b/run/environment.json", "/b/run/config.json"]
        run.write_tokenizer(Bytes())
        run.write_tokenizer(Bytes())
        assert isinstance(run.tokenizer, Bytes) and not run.begun
        write_json(run.path / "checkpoints" / "teach" / "10" / "some", {})
        assert run.begun
    with open_run("gs://b/run", Asked()) as run:
        pass
    assert load_run("gs://b/run").config["steps"] == 10 and load_run("gs://b/run").metrics() == []
    with pytest.raises(ValueError, match="gs://b/run is a run of another experiment"), open_run("gs://b/run", Asked(7)):
        pass
    with pytest.raises(ValueError, match=r"gs://b/other is not a run folder.*the runs beside it are \['run'\]"):
        load_run("gs://b/other")
    with pytest.raises(ValueError, match="is in a bucket, which keeps no journal"):
        _ = run.disk


def test_two_at_once_in_a_bucket_are_refused_and_one_after_the_other_is_not(store, quick):
    path = place("gs://b/run")
    with lock.alone(path):
        with (
            pytest.raises(ValueError, match=r"b/run is in use by process \d+ on .*; wait"),
            lock.alone(path),
        ):
            pass
        time.sleep(0.15)
    assert not (path / ".lease").exists() and not quick
    start = time.monotonic()
    with lock.alone(path):
        assert time.monotonic() - start < 0.3, "one that was given back is not waited for"


def test_of_two_that_start_at_the_same_moment_one_goes_on(store, quick):
    path, found = place("gs://b/run"), []
    gate = threading.Barrier(2)

    def start():
        gate.wait()
        try:
            with lock.alone(path):
                found.append("went on")
                time.sleep(0.5)
        except ValueError as error:
            found.append(str(error))

    both = [threading.Thread(target=start) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(one[:7] for one in found) == ["gs://b/", "went on"]


def test_the_lease_of_a_killed_process_is_taken_over_and_the_one_that_stood_still_is_told(store, quick):
    path = place("gs://b/run")
    (path / ".lease").write_text("process 1 on far\n7")
    with lock.alone(path):
        assert "on far" not in (path / ".lease").read_text()
        (path / ".lease").write_text("process 2 on far\n0")  # it was thought dead in its turn
        time.sleep(0.2)
        assert quick == [path]
    assert (path / ".lease").exists(), "what another holds is not taken away"


def test_the_lease_of_a_process_of_this_machine_that_was_killed_is_not_waited_for(store, quick):
    path = place("gs://b/run")
    with lock.alone(path):
        lease = (path / ".lease").read_text()
    with subprocess.Popen(["true"]) as process:
        process.wait()
    (path / ".lease").write_text(lease.replace(f"process {os.getpid()} ", f"process {process.pid} "))
    start = time.monotonic()
    with lock.alone(path):
        assert time.monotonic() - start < 0.3


def test_stages_that_need_a_disk_are_refused_a_bucket_before_anything_is_written(store):
    student = learner("a", model=replace(MOE, vocab=272))
    drawn = Reinforcement(name="rl", learner=replace(student, name="b"), steps=1)
    with pytest.raises(ValueError, match=r"gs://b/run is in a bucket.*'rl': 'a journal of what was drawn'.*--run"):
        run_experiment(experiment(stages=(stage(student), drawn)), "gs://b/run")
    assert not store.puts
