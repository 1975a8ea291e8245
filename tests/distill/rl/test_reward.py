"""Rewards in processes of their own: whatever one does, there is a grade or a reason, in time, and nobody is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.rl.examiner import GRADER, Failed
from distill.rl.reward import Reward, Rewards, Rubric

ROOT = Path(__file__).resolve().parents[3]
MINE = '''
import os, random, subprocess, sys, time

class Exact:
    """1 where the answer is the question's, and else `wrong`."""
    def __init__(self, wrong=0.0):
        self.wrong = wrong
    def __call__(self, question, answer):
        return 1.0 if answer == question["answer"] else self.wrong

class Evil:
    """Does what the answer says."""
    def __call__(self, question, answer):
        if answer == "raise":
            raise ValueError("no " + "x" * 10_000)
        if answer == "hang":
            while True:
                pass
        if answer == "deaf":
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        if answer == "print":
            print('{"id": 1, "reward": 0.25}', flush=True)
            os.write(1, b"raw\\n")
            subprocess.run(["echo", "loud"])
            assert sys.stdin.read() == ""
        if answer == "exit":
            os._exit(3)
        if answer == "crash":
            os.abort()
        if answer == "sys.exit":
            sys.exit(4)
        if answer == "fork":
            if os.fork() == 0:
                time.sleep(1000)
        if answer == "fork and answer":
            os.fork()
        if answer == "sleeper":
            return float(subprocess.Popen(["sleep", "1000"]).pid)
        if answer == "sleeper and hang":
            child = subprocess.Popen(["sleep", "1000"])
            with open(question["pids"], "w") as file:
                file.write(f"{os.getpid()} {child.pid}")
            time.sleep(1000)
        if answer == "pipe":
            for number in range(3, 20):
                try:
                    os.write(number, b"0.5\\n")
                except OSError:
                    pass
        values = {"nan": float("nan"), "inf": float("-inf"), "text": "1.0", "none": None, "two": 2.0, "true": True}
        return values.get(answer, 0.5)

class Modules:
    def __call__(self, question, answer):
        return float(answer in sys.modules)

class Numpy:
    def __call__(self, question, answer):
        import numpy
        return numpy.float32(0.5)

class NotCallable:
    pass

class Slow:
    def __call__(self, question, answer):
        time.sleep(0.3)
        return 1.0
'''


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "my_rewards.py").write_text(MINE)
    return lambda name, **other: Rubric(name=name.lower(), where=f"{tmp_path}/my_rewards.py:{name}", **other)


@pytest.fixture
def evil(mine):
    with Rewards([mine("Evil", unit=False)], workers=1, timeout=2.0) as rewards:
        yield lambda answer, **question: rewards.grade("evil", question, answer).result()


def dead(pid, seconds=5.0):
    """Whether a process is gone, or waits for nothing but whoever reaps orphans here."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def pids_in(path, parent):
    """The two numbers in a file that a child of the parent's writes."""
    until = time.monotonic() + 60
    while not path.exists() or not path.read_text().count(" "):
        assert time.monotonic() < until and parent.poll() is None
        time.sleep(0.02)
    return [int(pid) for pid in path.read_text().split()]


def children():
    """Of this process, whichever of its threads began them."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_answers_are_graded_in_order_by_name_and_parameters(mine):
    rubrics = [mine("Exact"), Rubric(name="kind", where=mine("Exact").where, parameters={"wrong": 0.25})]
    with Rewards(rubrics) as rewards:
        requests = [(name, {"answer": "ä\ud800"}, answer) for name in ("exact", "kind") for answer in ("ä\ud800", "b")]
        assert rewards.grade_all(requests * 3) == [1.0, 0.0, 1.0, 0.25] * 3
        assert rewards.tallies["kind"].calls == 6


@pytest.mark.parametrize(("does", "reason"), [
    ("raise", "raised ValueError: no xxx"),
    ("hang", "gave no answer in 2 seconds"),
    ("deaf", "gave no answer in 2 seconds"),
    ("exit", "died with exit code 3"),
    ("crash", f"died of signal {signal.SIGABRT.value}"),
    ("sys.exit", "raised SystemExit: 4"),
    ("nan", "returned nan"),
    ("inf", "returned -inf"),
    ("text", "returned '1.0', which is a str, not a number"),
    ("none", "returned None, which is a NoneType, not a number"),
    ("pipe", "wrote into the pipe of the answers"),
])  # fmt: skip
def test_a_reward_that_fails_is_no_reward_and_the_next_answer_has_one(evil, does, reason):
    for _ in range(2):
        failed = evil(does)
        assert isinstance(failed, Failed) and failed.reason.startswith(reason) and len(failed.reason) <= 500
        assert evil("fine") == 0.5


@pytest.mark.parametrize("does", ["print", "fork", "fork and answer"])
def test_what_a_reward_prints_or_forks_does_not_disturb_its_grades(evil, does, capfd):
    for _ in range(5):
        assert evil(does) == 0.5
        assert evil("two") == 2.0
    assert capfd.readouterr().out == ""


def test_true_and_a_number_of_numpy_are_numbers(evil, mine):
    assert evil("true") == 1.0
    with Rewards([mine("Numpy")]) as rewards:
        assert rewards.grade("numpy", {}, "").result() == 0.5


def test_a_reward_out_of_bounds_is_none_if_it_is_to_lie_within_them(mine):
    with Rewards([mine("Evil")]) as rewards:
        expected = Failed("returned 2.0, which does not lie within 0 and 1; set unit=False if it may")
        assert rewards.grade_all([("evil", {}, "two"), ("evil", {}, "true")]) == [expected, 1.0]


def test_answers_larger_than_a_pipe_pass(mine):
    with Rewards([mine("Exact")]) as rewards:
        large = "x" * 3_000_000
        assert rewards.grade_all([("exact", {"answer": large}, large)] * 4) == [1.0] * 4


def test_what_a_process_started_ends_with_it(evil, tmp_path):
    sleeper = int(evil("sleeper"))
    assert not dead(sleeper, 0.2)
    assert isinstance(evil("hang"), Failed)
    assert dead(sleeper)


def test_nobody_is_left_when_the_pool_is_closed(mine):
    before = children()
    with Rewards([mine("Evil", unit=False)], workers=3, timeout=60.0) as rewards:
        sleeper = int(rewards.grade("evil", {}, "sleeper").result())
        futures = [rewards.grade("evil", {}, "hang") for _ in range(6)]
        while sum(future.running() for future in futures) < 3:
            time.sleep(0.01)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10, "it does not wait for the timeout"
    ended = [future.result() for future in futures if not future.cancelled()]
    assert len(ended) >= 3 and all(isinstance(one, Failed) for one in ended)
    assert ended[0] == Failed("died of signal 9")
    assert children() <= before and dead(sleeper)


def test_nobody_is_left_when_the_parent_is_killed(mine, tmp_path):
    code = f"""
from distill.rl.reward import Rewards, Rubric
rewards = Rewards([Rubric(name="evil", where={mine("Evil").where!r})], timeout=1000.0)
rewards.grade("evil", {{"pids": {str(tmp_path / "pids")!r}}}, "sleeper and hang").result()
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
        pids = pids_in(tmp_path / "pids", parent)
        parent.kill()
    assert all(dead(pid) for pid in pids)


def workers(what):
    """Children of this process that grade (or, with "--ward", watch)."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children()}
    return [pid for pid, words in commands.items() if GRADER.encode() in words and what.encode() in words]


def test_an_answer_whose_process_was_killed_is_graded_again(mine):
    with Rewards([mine("Slow")], workers=1) as rewards:
        for _ in range(2):
            asked = rewards.grade("slow", {}, "")
            time.sleep(0.1)
            (worker,) = workers(mine("Slow").where)
            os.kill(worker, signal.SIGKILL)
            assert asked.result(timeout=20) == 1.0
        os.kill(workers(mine("Slow").where)[0], signal.SIGKILL)  # at rest: noticed when it is asked
        assert rewards.grade("slow", {}, "").result(timeout=20) == 1.0
        assert rewards.faults == {"graders_died": 3}


def test_an_answer_that_kills_its_process_every_time_is_given_up_and_the_next_is_graded(mine):
    with Rewards([mine("Evil")], workers=1) as rewards:
        assert rewards.grade_all([("evil", {}, "crash"), ("evil", {}, "fine")]) == [Failed("died of signal 6"), 0.5]
        assert rewards.faults == {"answers_failed": 1, "graders_died": 3}
        assert (rewards.tallies["evil"].calls, rewards.tallies["evil"].failed) == (2, 1)


def test_a_ward_that_was_killed_is_replaced_and_watches_over_all(mine, tmp_path):
    code = f"""
import os, signal
from distill.rl.reward import Rewards, Rubric
rewards = Rewards([Rubric(name="evil", where={mine("Evil").where!r})], workers=2, timeout=1000.0)
first = rewards.grade("evil", {{"pids": {str(tmp_path / "first")!r}}}, "sleeper and hang")
os.kill(rewards._ward._process.pid, signal.SIGKILL)
rewards._ward._process.wait()
rewards.grade("evil", {{"pids": {str(tmp_path / "second")!r}}}, "sleeper and hang").result()
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
        pids = [pid for name in ("first", "second") for pid in pids_in(tmp_path / name, parent)]
        parent.kill()
    assert all(dead(pid) for pid in pids)


def test_workers_grade_at_the_same_time(mine):
    with Rewards([mine("Slow")], workers=8, timeout=30.0) as rewards:
        assert rewards.grade_all([("slow", {}, "")] * 8) == [1.0] * 8  # the processes are there
        begun = time.monotonic()
        assert rewards.grade_all([("slow", {}, "")] * 16) == [1.0] * 16
        assert time.monotonic() - begun < 16 * 0.3 / 2


def test_of_calls_of_which_some_raise_and_some_hang_the_others_are_graded(mine):
    # 300 calls, every 20th raises and every 50th hangs, as both are within a fifth of the calls the run goes on.
    answers = ["hang" if call % 50 == 7 else "raise" if call % 20 == 3 else "fine" for call in range(300)]
    before = children()
    with Rewards([mine("Evil")], workers=4, timeout=2.0) as rewards:
        grades = rewards.grade_all([("evil", {}, answer) for answer in answers])
        assert [isinstance(grade, Failed) for grade in grades] == [answer != "fine" for answer in answers]
        assert {grade for grade in grades if not isinstance(grade, Failed)} == {0.5}
        assert (rewards.tallies["evil"].calls, rewards.tallies["evil"].failed) == (300, 21)
    assert children() <= before


def test_a_reward_that_fails_more_than_a_fifth_of_its_calls_stops_the_run(mine):
    with Rewards([mine("Exact"), mine("Evil")], workers=1) as rewards:
        for answer in ["fine"] * 40 + ["raise"] * 9:
            rewards.grade("evil", {}, answer).result()
        rewards.check()  # 9 of 49
        rewards.grade("evil", {}, "raise").result()
        rewards.check()  # 10 of 50 is a fifth, not more
        message = (
            r"reward 'evil' failed 11 of 51 calls; the last time it returned nan; mend .*:Evil, or give it more th"
        )
        with pytest.raises(RuntimeError, match=message):
            rewards.grade_all([("evil", {}, "nan"), ("exact", {"answer": ""}, "")])


def test_a_process_that_grades_imports_no_jax_and_nothing_of_the_project(mine):
    with Rewards([mine("Modules")]) as rewards:
        assert rewards.grade_all([("modules", {}, name) for name in ("jax", "numpy", "distill", "sys")]) == [0, 0, 0, 1]


def test_a_module_is_found_where_the_run_finds_it(mine, tmp_path, monkeypatch):
    mine("Exact")
    monkeypatch.syspath_prepend(tmp_path)
    with Rewards([Rubric(name="exact", where="my_rewards:Exact")]) as rewards:
        assert rewards.grade("exact", {"answer": "a"}, "a").result() == 1.0


def test_the_grader_speaks_lines_of_json_to_whoever_starts_it(mine):
    requests = "".join(
        json.dumps({"id": n, "question": {"answer": "a"}, "answer": a}) + "\n" for n, a in ((5, "a"), (6, "b"))
    )
    command = [sys.executable, GRADER, mine("Exact").where, '{"wrong": 0.5}']
    done = subprocess.run(command, input=requests, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said == [{"id": None}, {"id": 5, "reward": 1.0}, {"id": 6, "reward": 0.5}]


@pytest.mark.parametrize(("change", "message"), [
    ({"where": "nowhere"}, "reward 'exact', nowhere, could not start: raised ValueError: 'nowhere' must be module:"),
    ({"where": "no_such_module:Name"}, "could not start: raised ModuleNotFoundError: No module named 'no_such_module'"),
    ({"where": "no_such_file.py:Name"}, "could not start: raised ValueError: .*/no_such_file.py is not a file"),
    ({"where": "json:Nothing"}, "could not start: raised ValueError: json has no Nothing"),
    ({"parameters": {"right": 1}}, "could not start: raised TypeError: .* unexpected keyword argument 'right'"),
])  # fmt: skip
def test_a_reward_that_cannot_be_loaded_is_refused_at_once(mine, change, message):
    before = children()
    rubric = Rubric(**{"name": "exact", "where": mine("Exact").where, **change})
    with pytest.raises(ValueError, match=message):
        Rewards([rubric])
    assert children() <= before


def test_what_is_not_a_reward_is_refused(mine):
    with pytest.raises(ValueError, match="NotCallable with {} is not a reward: it cannot be called"):
        Rewards([mine("NotCallable")])


def test_what_a_caller_does_wrong_is_refused(mine):
    with pytest.raises(ValueError, match="rewards are named .'exact', 'exact'.; failures are counted by name"):
        Rewards([mine("Exact"), mine("Exact")])
    for other in ({"workers": 0}, {"timeout": 0.0}, {"patience": float("nan")}):
        with pytest.raises(ValueError, match="must be above 0"):
            Rewards([mine("Exact")], **other)
    message = r"there is no reward 'math'; there are \['exact'\]"
    with Rewards([mine("Exact")]) as rewards, pytest.raises(ValueError, match=message):
        rewards.grade("math", {}, "")
    with pytest.raises(ValueError, match="the rewards are closed; grade inside their with block"):
        rewards.grade("exact", {}, "")


def test_a_reward_is_whatever_grades():
    class Mine:
        def __call__(self, question, answer):
            return 0.0

    assert isinstance(Mine(), Reward)
