"""Steps of a stage are traced into the run folder, by the first process alone."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from distill.launch import parse
from distill.place import place
from distill.profile import Profile, traced
from tests.distill.bucket import bucket
from tests.distill.small import experiment


def work(trace, steps=6):
    """Steps that compute something, of a name that a trace shows."""

    @jax.jit
    def one_step(x):
        return jnp.tanh(x @ x)

    x = jnp.ones((64, 64))
    for step in range(1, steps + 1):
        trace(step, x)
        x = one_step(x)


def steps(folder: Path) -> list[str]:
    """Numbers of the steps in the one trace in a folder, as Perfetto reads it."""
    (file,) = folder.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert any("one_step" in event.get("name", "") for event in events), "what they compute"
    return [event["args"]["step_num"] for event in events if event.get("name") == "step"]


def test_the_steps_that_were_asked_for_are_traced_for_tensorboard_and_perfetto(tmp_path):
    with traced(Profile(3, 4), tmp_path / "teach") as trace:
        work(trace)
        assert not trace.running, "it ends before the stage does"
    assert list((tmp_path / "teach" / "plugins" / "profile").glob("*/*.xplane.pb")), "what TensorBoard reads"
    assert steps(tmp_path / "teach") == ["3", "4"]


def test_a_trace_reaches_a_bucket_and_a_stage_that_ends_early_has_what_there_is(tmp_path):
    with bucket() as store:
        with traced(Profile(2, 9), place("gs://b/run/profiles/teach")) as trace:
            work(trace, steps=2)
        kinds = {name.partition(".")[2] for name in (Path(one).name for one in store.puts)}
        assert {"json.gz"} <= kinds and all(name.startswith("/b/run/profiles/teach/plugins") for name in store.puts)


def test_without_a_profile_and_in_other_processes_nothing_is_written(tmp_path, monkeypatch):
    with traced(None, tmp_path / "a") as trace:
        work(trace)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with traced(Profile(1, 2), tmp_path / "b") as trace:
        work(trace)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["10", "10-13", "a:b", ":13", "10:13:1", "-1:3"])
def test_a_profile_that_names_no_steps_is_refused(text):
    with pytest.raises(ValueError, match=f"--profile {text}: it must be the first and the last step.*such as 10:13"):
        Profile.parse(text, experiment().stages)


def test_steps_that_no_stage_has_are_refused_on_the_command_line():
    one = experiment()
    assert parse(one, ["--profile", "3:5"]).profile == Profile(3, 5) and parse(one, []).profile is None
    with pytest.raises(ValueError, match="--profile 11:12: the longest stage has 10 steps"):
        parse(replace(one), ["--profile", "11:12"])
    for text in ("0:3", "5:4"):
        with pytest.raises(ValueError, match=f"--profile {text}: steps are counted from 1"):
            parse(one, ["--profile", text])
