"""Progress on a terminal, in a log file, and not at all."""

import io
import subprocess
import sys

from distill.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_file_gets_plain_lines_with_loss_speed_and_time_left():
    stream = io.StringIO()
    with Progress(10, "teach", initial=4, stream=stream, every=0.0) as bar:
        bar.update(5, loss=2.5, tokens=100)
    first = stream.getvalue().splitlines()[0]
    assert first.startswith("teach: 5/10 loss 2.5000, ") and "tokens/s" in first and first.endswith(" left")


def test_lines_are_seconds_apart_but_the_last_is_always_there():
    stream = io.StringIO()
    with Progress(10, "teach", stream=stream, every=1000.0) as bar:
        for step in range(1, 11):
            bar.update(step)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 and lines[0].startswith("teach: 10/10")


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress(10, "teach", stream=stream) as bar:
        bar.update(10, loss=2.5)
    assert "teach" in stream.getvalue() and "10/10" in stream.getvalue() and "loss 2.5" in stream.getvalue()


def test_quiet_prints_nothing():
    for stream in (io.StringIO(), Terminal()):
        with Progress(10, "teach", quiet=True, stream=stream, every=0.0) as bar:
            bar.update(10, loss=1.0, tokens=5)
        assert stream.getvalue() == ""


def test_steps_done_before_do_not_count_towards_the_speed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("distill.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(100, "teach", initial=80, stream=stream, every=0.0) as bar:
        now[0] = 10.0
        bar.update(90, tokens=500)  # 10 steps in 10 s, 10 to go
    assert stream.getvalue().splitlines()[0] == "teach: 90/100 50 tokens/s, 0:10 left"


def test_an_error_inside_is_not_swallowed_and_the_bar_is_put_away():
    stream = Terminal()
    try:
        with Progress(10, "teach", stream=stream) as bar:
            bar.update(1)
            raise KeyError("x")
    except KeyError:
        assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_clock_reads_like_one():
    assert (clock(5.0), clock(65.0), clock(3661.0), clock(-1.0)) == ("0:05", "1:05", "1:01:01", "0:00")


def test_rich_is_not_imported_before_a_bar_is_drawn():
    code = (
        "import importlib.util, sys; s = importlib.util.spec_from_file_location('p', 'distill/progress.py');"
        "m = importlib.util.module_from_spec(s); s.loader.exec_module(m); assert 'rich' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
