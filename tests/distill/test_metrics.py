"""Lines that survive a kill at any byte."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

from distill.metrics import Metrics, read

STAGES = ("teach", "learn")


def fill(folder, until=("learn", 4)):
    with Metrics(folder) as metrics:
        for stage in STAGES:
            for step in range(1, 6):
                metrics.write(stage, step, loss=1 / (3 * step), learner="scout")
                metrics.time(stage, step, seconds=0.5)
                if (stage, step) == until:
                    return


def test_lines_come_back_as_they_were_written(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.write("teach", 1, loss=0.1 + 0.2, count=3, name="scout", load=[0.25, 0.75], done=True)
    row = {
        "stage": "teach",
        "step": 1,
        "loss": 0.1 + 0.2,
        "count": 3,
        "name": "scout",
        "load": [0.25, 0.75],
        "done": True,
    }
    assert read(tmp_path / "metrics.jsonl") == [row]


def test_scalars_and_arrays_of_numpy_and_jax_are_numbers(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.write(
            "teach",
            1,
            a=np.float32(0.1),
            b=jnp.float32(0.1),
            c=np.int64(3),
            d=jnp.arange(3),
            e=np.bool_(True),
        )
    tenth = float(np.float32(0.1))
    assert read(tmp_path / "metrics.jsonl")[0] == {
        "stage": "teach", "step": 1, "a": tenth, "b": tenth, "c": 3, "d": [0, 1, 2], "e": True
    }  # fmt: skip


def test_nan_is_null_and_infinities_are_strings_on_disk_and_floats_when_read(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.write("teach", 1, a=math.nan, b=math.inf, c=-np.float32("inf"))
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "stage": "teach",
        "step": 1,
        "a": None,
        "b": "inf",
        "c": "-inf",
    }
    row = read(tmp_path / "metrics.jsonl")[0]
    assert math.isnan(row["a"]) and row["b"] == math.inf and row["c"] == -math.inf


def test_a_value_that_is_no_number_is_refused_and_nothing_written(tmp_path):
    with Metrics(tmp_path) as metrics, pytest.raises(ValueError, match="loss is a dict; a line holds numbers"):
        metrics.write("teach", 1, loss={"a": 1})
    assert read(tmp_path / "metrics.jsonl") == []


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.write("teach", 1, loss=1.0)
        assert len(read(tmp_path / "metrics.jsonl")) == 1


def test_wall_clock_lines_are_in_their_own_file(tmp_path):
    fill(tmp_path)
    assert all("seconds" not in row for row in read(tmp_path / "metrics.jsonl"))
    assert all("loss" not in row for row in read(tmp_path / "timings.jsonl"))


@pytest.mark.parametrize("stage, step, left", [("teach", 3, 3), ("learn", -1, 5), ("learn", 2, 7), ("learn", 9, 9)])
def test_cutting_takes_both_files_back_to_the_checkpoint(tmp_path, stage, step, left):
    fill(tmp_path)
    with Metrics(tmp_path) as metrics:
        assert metrics.cut(stage, step, STAGES) == 2 * (9 - left)
    for name in ("metrics.jsonl", "timings.jsonl"):
        rows = read(tmp_path / name)
        assert len(rows) == left and all(
            (STAGES.index(r["stage"]), r["step"]) <= (STAGES.index(stage), step) for r in rows
        )


def test_killed_at_any_byte_and_resumed_the_file_is_that_of_an_uninterrupted_run(tmp_path):
    fill(tmp_path / "whole")
    whole = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    kept = whole.index(b'{"stage": "teach", "step": 4')  # the checkpoint is of step 3, its lines flushed before
    for size in range(kept, len(whole) + 1):
        folder = tmp_path / "killed"
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").write_bytes(whole[:size])
        with Metrics(folder) as metrics:
            metrics.cut("teach", 3, STAGES)
            for stage in STAGES:
                for step in range(4 if stage == "teach" else 1, 6 if stage == "teach" else 5):
                    metrics.write(stage, step, loss=1 / (3 * step), learner="scout")
        assert (folder / "metrics.jsonl").read_bytes() == whole


def test_a_torn_last_line_goes_when_the_file_is_opened_again(tmp_path):
    fill(tmp_path)
    os.truncate(tmp_path / "metrics.jsonl", (tmp_path / "metrics.jsonl").stat().st_size - 5)
    assert len(read(tmp_path / "metrics.jsonl")) == 8
    with Metrics(tmp_path) as metrics:
        metrics.write("learn", 4, loss=2.0)
    assert (
        read(tmp_path / "metrics.jsonl")[-1] == {"stage": "learn", "step": 4, "loss": 2.0}
        and len(read(tmp_path / "metrics.jsonl")) == 9
    )


def test_a_last_line_of_zeros_is_left_out(tmp_path):
    fill(tmp_path)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(bytes(20) + b"\n")
    assert len(read(tmp_path / "metrics.jsonl")) == 9


def test_a_spoilt_line_in_the_middle_is_named(tmp_path):
    fill(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join([*lines[:2], "oops\n", *lines[3:]]))
    with pytest.raises(ValueError, match="metrics.jsonl:3 is not a line of metrics.*mend or remove"):
        read(tmp_path / "metrics.jsonl")
    with Metrics(tmp_path) as metrics, pytest.raises(ValueError, match="metrics.jsonl:3 is not a line"):
        metrics.cut("learn", 4, STAGES)


def test_stages_of_another_experiment_are_refused(tmp_path):
    fill(tmp_path)
    with Metrics(tmp_path) as metrics:
        with pytest.raises(ValueError, match="stage 'other' is none of the run's stages"):
            metrics.cut("other", 1, STAGES)
        with pytest.raises(ValueError, match="metrics.jsonl:6 is of stage 'learn', the run has"):
            metrics.cut("teach", 9, ("teach",))


def test_no_file_has_no_lines(tmp_path):
    assert read(tmp_path / "metrics.jsonl") == []


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    with Metrics(tmp_path / "run", writes=False) as metrics:
        metrics.write("teach", 1, loss=2.0)
        assert metrics.cut("teach", 0, ["teach"]) == 0
    assert not (tmp_path / "run").exists()
