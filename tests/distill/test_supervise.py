"""A supervisor starts processes, and starts them again: with small scripts, without JAX in them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from distill.supervise import Supervision, Supervisor, main

QUICK = {"pause": 0.0, "grace": 0.3, "notice": 5.0}


def run(code, *arguments, **asked):
    return Supervisor([sys.executable, "-c", code, *map(str, arguments)], Supervision(**(QUICK | asked))).run()


def test_a_command_that_finishes_is_run_once(tmp_path):
    assert run("import sys; open(sys.argv[1], 'a').write('x')", tmp_path / "runs") == 0
    assert (tmp_path / "runs").read_text() == "x"


def test_each_process_is_told_of_the_others(tmp_path):
    known = "[os.environ['HERD_' + name] for name in ('COORDINATOR', 'PROCESSES', 'HEARTBEAT')]"
    code = f"import os, sys; open(sys.argv[1] + os.environ['HERD_PROCESS'], 'w').write(str({known}))"
    assert run(code, tmp_path / "p", processes=2, heartbeat=7) == 0
    one, other = ((tmp_path / f"p{number}").read_text() for number in range(2))
    assert one == other and "'2', '7'" in one and "localhost:" in one


FALLS = """
import os, signal, sys
from pathlib import Path
runs = Path(sys.argv[1]); count = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (count + 1))
if sys.argv[2] == "gains": Path(os.environ["HERD_PROGRESS"]).write_text(f"teach {count}")
if count < int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_starts_again(tmp_path, capfd):
    assert run(FALLS, tmp_path / "runs", "", 2) == 0
    assert (tmp_path / "runs").read_text() == "xxx"
    assert "process 0 of 1 ended with SIGKILL after 0 s; all start again" in capfd.readouterr().err


def test_without_a_new_checkpoint_it_gives_up_after_so_many_restarts(tmp_path, capfd):
    assert run(FALLS, tmp_path / "runs", "", 9, restarts=2) == 128 + signal.SIGKILL
    assert (tmp_path / "runs").read_text() == "xxx"
    assert "3 times without a new checkpoint: giving up" in capfd.readouterr().err


def test_new_checkpoints_count_restarts_anew(tmp_path):
    assert run(FALLS, tmp_path / "runs", "gains", 5, restarts=0) == 0
    assert (tmp_path / "runs").read_text() == "x" * 6


def test_it_waits_twice_as_long_each_time_that_nothing_was_gained_and_at_most_a_minute():
    asked = Supervision(pause=2.0)
    assert [asked.wait(idle) for idle in (0, 1, 2, 3, 6, 5000)] == [2.0, 2.0, 4.0, 8.0, 60.0, 60.0]


def test_a_command_line_that_is_refused_is_not_tried_again(tmp_path, capfd):
    assert run("import sys; open(sys.argv[1], 'a').write('x'); sys.exit(2)", tmp_path / "runs") == 2
    assert (tmp_path / "runs").read_text() == "x" and "refused: giving up" in capfd.readouterr().err


def test_a_command_that_is_not_there_is_not_tried_again(capfd):
    assert Supervisor(["/no/such/command"], Supervision(**QUICK)).run() == 2
    said = capfd.readouterr().err
    assert "/no/such/command: No such file or directory" in said and "refused: giving up" in said


def test_processes_that_saved_as_told_are_not_started_again(tmp_path):
    assert run("import sys; open(sys.argv[1], 'a').write('x'); sys.exit(75)", tmp_path / "runs", processes=2) == 75
    assert (tmp_path / "runs").read_text() == "xx"


LINGERS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ["HERD_PROCESS"] == "0": sys.exit(75)
time.sleep(60)
"""


def test_who_has_not_saved_when_the_others_have_is_killed_after_the_notice():
    began = time.monotonic()
    assert run(LINGERS, processes=2, notice=0.5, restarts=0) == 128 + signal.SIGKILL
    assert time.monotonic() - began < 30


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: open(sys.argv[1], "a").write("t"))
open(sys.argv[1], "a").write("x")
end = time.monotonic() + 60
while time.monotonic() < end and os.environ["HERD_PROCESS"] == "0": time.sleep(0.05)
while len(open(sys.argv[1]).read()) < 2: time.sleep(0.05)
print("last words"); sys.exit(5)
"""


def test_those_left_of_a_failure_are_asked_to_end_and_then_killed(tmp_path, capfd):
    began = time.monotonic()
    assert run(STUBBORN, tmp_path / "said", processes=2, restarts=0) == 5
    assert time.monotonic() - began < 30 and "t" in (tmp_path / "said").read_text()
    assert "[1] last words" in capfd.readouterr().err


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], "a").write("saved"), sys.exit(75)))
open(sys.argv[1], "a").write("x")
time.sleep(60)
"""


def test_a_notice_to_the_supervisor_is_passed_on_and_ends_it(tmp_path):
    def notice():
        while not (tmp_path / "said").exists() or len((tmp_path / "said").read_text()) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=notice).start()
    assert run(SAVES, tmp_path / "said", processes=2) == 75
    assert (tmp_path / "said").read_text().count("saved") == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"processes": 0}, "--processes is 0; it must be at least 1"),
        ({"restarts": -1}, "--restarts is -1; it must be at least 0"),
        ({"grace": float("nan")}, "--grace is nan; it must be at least 0"),
        ({"heartbeat": 0}, "--heartbeat is 0; it must be at least 1 second"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        Supervision(**asked)


def test_a_supervisor_without_a_command_is_refused(capsys):
    assert main(["--processes", "2"]) == 2
    assert "there is no command; put it behind --" in capsys.readouterr().err


def test_processes_stop_when_their_supervisor_is_killed(tmp_path):
    command = [sys.executable, "-m", "distill.supervise", "--", sys.executable, "-c", SAVES, str(tmp_path / "said")]
    with subprocess.Popen(command, cwd=os.getcwd()) as supervisor:
        end = time.monotonic() + 60
        while not (tmp_path / "said").exists() and time.monotonic() < end:
            time.sleep(0.05)
        supervisor.kill()
    while (tmp_path / "said").read_text() != "xsaved" and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "said").read_text() == "xsaved"
