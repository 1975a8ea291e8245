import io

import pytest

from distill.rl.view import View
from tests.distill.examined import pace, update


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(*lines, stream=None, **options) -> str:
    """What is printed of updates."""
    stream = io.StringIO() if stream is None else stream
    with View(10, "rl", stream=stream, every=0.0, **options) as view:
        for line in lines:
            view.update(line["step"], line, pace(line["step"]))
    return stream.getvalue()


def test_a_log_file_gets_plain_lines():
    first = drawn(update(1), update(2)).splitlines()[0]
    assert first == (
        "rl: 1/10 reward 0.500, lag 0.75 (25% 75% at 0 to 1), queue 3 ready, 5 under way, sampler 2,600 tokens/s, "
        "50% idle, learner 900 tokens/s, 25% idle, answers 5.0 tokens, 25% all right, 0% all wrong, entropy 0.500, "
        "faults 2 answers failed, time 0:00 left"
    )


def test_lines_are_seconds_apart_but_the_last_is_always_there():
    stream = io.StringIO()
    with View(10, "rl", stream=stream, every=1000.0) as view:
        for step in range(1, 11):
            view.update(step, update(step), pace(step))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["10/10"]


def test_a_terminal_gets_a_table_by_task_and_level(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    last = drawn(update(1), update(2), stream=Terminal()).rpartition("2/10")[2]
    assert "level 0" in last and "level 1" in last
    (row,) = [line for line in last.splitlines() if line.strip().startswith("sort")]
    assert row.split() == ["sort", "1.00", "→", "██", "0.25", "→", "▃▃"]


def test_quiet_prints_nothing():
    assert drawn(update(1), quiet=True) == drawn(update(1), stream=Terminal(), quiet=True) == ""


def test_what_the_lines_lack_is_not_shown():
    stream = io.StringIO()
    with View(10, "rl", stream=stream) as view:
        view.update(5, {"reward": 0.5, "lag": float("nan"), "stage": "rl"}, {})
    assert stream.getvalue() == "rl: 5/10 reward 0.500, time 0:00 left\n"


def test_without_a_fault_it_says_none():
    stream = io.StringIO()
    with View(10, "rl", stream=stream) as view:
        view.update(5, {}, {"faults/answers_failed": 0})
    assert "faults none" in stream.getvalue()


@pytest.mark.parametrize(("before", "after", "arrow"), [(0.2, 0.4, "↗"), (0.4, 0.2, "↘"), (0.4, 0.41, "→")])
def test_a_trend_compares_the_last_updates_with_those_before(monkeypatch, before, after, arrow):
    monkeypatch.setenv("COLUMNS", "100")
    lines = [{"step": step, "reward/sort/0": before if step < 9 else after} for step in range(1, 17)]
    assert f"{after:.2f} {arrow}" in drawn(*lines, stream=Terminal()).rpartition("16/10")[2]


def test_lags_are_counted_from_the_start():
    line = drawn(update(1), update(2, **{"lag/0": 3.0, "lag/1": 1.0})).splitlines()[-1]
    assert "(50% 50% at 0 to 1)" in line


def test_updates_done_before_do_not_count_towards_the_speed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("distill.rl.view.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with View(100, "rl", 80, stream=stream) as view:
        now[0] = 10.0
        view.update(90, {}, {})
    assert stream.getvalue() == "rl: 90/100 time 0:10 left\n" * 2


def test_words_in_brackets_are_shown_as_they_are():
    stream = Terminal()
    with View(10, "[bold]", stream=stream) as view:
        view.update(1, {}, {})
    assert "[bold]" in stream.getvalue()


def test_an_error_inside_is_not_swallowed_and_the_table_is_put_away():
    stream = Terminal()
    with pytest.raises(KeyError), View(10, "rl", stream=stream) as view:
        view.update(1, update(1), pace(1))
        raise KeyError("x")
    assert stream.getvalue().endswith("\x1b[?25h")
