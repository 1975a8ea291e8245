"""Jobs are asked for once, found again whatever was written down, and waited for through moments without an answer.

The commands of Slurm are stood in for by scripts that say what Slurm says: the tests need no cluster. A real one was
tried by hand.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from distill import slurm
from distill.slurm import Job, Slurm, queued, submit, title, wait

SBATCH = """#!/bin/sh
echo x >> {folder}/asked
echo "Submitted batch job $(wc -l < {folder}/asked)"
"""
SQUEUE = """#!/bin/sh
[ -e {folder}/silent ] && rm {folder}/silent && echo "Unable to contact slurm controller" >&2 && exit 1
cat {folder}/queue
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder whose `queue` squeue prints, and whose `asked` has a line for every sbatch."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "srun": "#!/bin/sh\n"}.items():
        (commands / name).write_text(text.format(folder=tmp_path))
        (commands / name).chmod(0o755)
    (tmp_path / "queue").write_text("")
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def jobs(folder, *names):
    return {name: Job(["true"], folder / f"{name}.log") for name in names}


def asked(cluster):
    return (cluster / "asked").read_text().count("x") if (cluster / "asked").exists() else 0


def test_what_is_in_the_queue_is_not_asked_for_again(cluster, tmp_path):
    run = tmp_path / "run"
    first = submit(jobs(tmp_path, "a", "b"), run, Slurm())
    assert {name: job.job_id for name, job in first.items()} == {"a": "1_0", "b": "1_1"} and asked(cluster) == 1
    (cluster / "queue").write_text(f"1_1 {title(run)}\n9 other\n")
    second = submit(jobs(tmp_path, "a", "b"), run, Slurm())
    assert {name: job.job_id for name, job in second.items()} == {"b": "1_1", "a": "2"} and asked(cluster) == 2


def test_jobs_whose_asker_did_not_live_to_write_them_down_are_found(cluster, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / slurm.JOBS).write_text(json.dumps({"jobs": {"old": "3"}, "asked": ["a", "b"]}))
    (cluster / "queue").write_text(f"3 {title(run)}\n7_0 {title(run)}\n7_1 {title(run)}\n8_0 {title(tmp_path)}\n")
    found = submit(jobs(tmp_path, "a", "b"), run, Slurm())
    assert {name: job.job_id for name, job in found.items()} == {"a": "7_0", "b": "7_1"} and asked(cluster) == 0


def test_a_moment_without_an_answer_is_waited_through_and_refused_at_the_door(cluster, tmp_path):
    run, looks = tmp_path / "run", []
    found = submit(jobs(tmp_path, "a", "b"), run, Slurm())
    (cluster / "queue").write_text(f"1_0 {title(run)}\n")
    (cluster / "silent").touch()

    def look(left):
        looks.append(sorted(left))
        if len(looks) == 3:
            (cluster / "queue").write_text("")

    wait(found, Slurm(), look, pause=0.01)
    assert looks == [["a", "b"], ["a", "b"], ["a"]]
    (cluster / "silent").touch()
    with pytest.raises(ValueError, match="squeue does not answer .*Unable to contact slurm controller"):
        queued()


def test_a_refusal_of_slurm_is_said(cluster, tmp_path):
    (Path(shutil.which("sbatch") or "")).write_text("#!/bin/sh\necho 'invalid partition specified: gpu' >&2; exit 1\n")
    with pytest.raises(ValueError, match=r"Slurm did not take the jobs: .*invalid partition specified: gpu"):
        submit(jobs(tmp_path, "a", "b"), tmp_path / "run", Slurm(partition="gpu"))


def test_a_job_whose_time_is_up_lets_its_process_save_and_is_queued_again(tmp_path):
    """The handler of submitit's signal calls checkpoint while __call__ waits for the process."""
    saver = "import signal, sys, time; signal.signal(15, lambda *_: (print('saved'), sys.exit(130))); time.sleep(60)"
    job, again = Job([sys.executable, "-u", "-c", saver], tmp_path / "log"), []
    before = signal.signal(signal.SIGUSR2, lambda *_: again.append(job.checkpoint()))
    threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGUSR2)).start()
    start = time.monotonic()
    job()
    signal.signal(signal.SIGUSR2, before)
    assert time.monotonic() - start < 30 and (tmp_path / "log").read_text() == "saved\n"
    assert again[0].function.command == job.command


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a Slurm here")
def test_a_machine_without_slurm_is_named(tmp_path):
    with pytest.raises(ValueError, match="no Slurm here .*leave out --on"):
        Slurm().executor(tmp_path)


def test_jobs_that_could_not_save_are_refused():
    with pytest.raises(ValueError, match="minutes is 1; it must be at least 3"):
        Slurm(minutes=1)
