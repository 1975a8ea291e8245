"""A folder is worked in by one command at a time, and by what a killed one left behind."""

import subprocess
import sys
import time

import pytest

from distill.workers import Workers

KILLED = """
import os, sys, time
from pathlib import Path
from distill.workers import Workers
with Workers(Path(sys.argv[1]), 1) as at_work:
    at_work.start("slow", ["sh", "-c", "trap '' TERM; echo begun; sleep 4"], Path(sys.argv[1]) / "log")
    while not (Path(sys.argv[1]) / "log").read_text():
        time.sleep(0.05)
    os._exit(9)  # no more than a kill lets it do
"""


def test_a_command_waits_for_what_a_killed_one_left_behind(tmp_path, capfd):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    start = time.monotonic()
    with Workers(tmp_path, 1) as at_work:
        waited = time.monotonic() - start
        assert not at_work.running and at_work.free
    assert 2.0 < waited < 30.0 and "another command, or what it began, is at work; waiting" in capfd.readouterr().err


def test_processes_end_with_their_codes_and_share_the_places(tmp_path):
    with Workers(tmp_path, 2) as at_work:
        for code in (0, 3):
            at_work.start(code, ["sh", "-c", f"echo {code}; exit {code}"], tmp_path / f"{code}.log")
        assert not at_work.free
        ended = []
        while at_work.running:
            ended += at_work.ended()
        assert sorted(ended) == [(0, 0), (3, 3)] and at_work.free
    assert (tmp_path / "3.log").read_text() == "3\n"


def test_what_is_at_work_when_the_block_ends_is_told_to_stop(tmp_path):
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers(tmp_path, 1) as at_work:
        at_work.start("long", ["sleep", "60"], tmp_path / "log")
        raise KeyboardInterrupt
    assert time.monotonic() - start < 10.0


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        Workers(tmp_path, 0)
