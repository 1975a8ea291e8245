import numpy as np
import pytest

from distill.plan import collectives
from distill.plan.hlo import Module
from tests.distill.plan.test_hlo import excerpt

MESHES = {"tpu": {"data": 4, "fsdp": 4}, "cpu": {"data": 2, "fsdp": 4}}
WEIGHT = 1024 * 1024 * 2  # bytes in bfloat16
ROWS = 4096 * 1024 * 4  # bytes in float32, all devices together


def told(name: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Bytes and times by kind and axes."""
    found = collectives.read(excerpt(name), MESHES[name[:3]])
    return {(row["kind"], " ".join(row["axes"])): (row["bytes"], row["times"]) for row in collectives.table(found)}


def test_a_weight_is_gathered_and_its_gradient_scattered_once_a_layer():
    assert told("tpu_layers") == {
        ("all-gather", "fsdp"): (6 * WEIGHT, 6),
        ("reduce-scatter", "fsdp"): (6 * WEIGHT, 6),
        ("all-reduce", "data"): (6 * WEIGHT / 4, 6),
    }


def test_on_a_cpu_all_of_it_is_in_float32():
    assert told("cpu_layers") == {
        ("all-gather", "fsdp"): (12 * WEIGHT, 6),
        ("reduce-scatter", "fsdp"): (12 * WEIGHT, 6),
        ("all-reduce", "data"): (12 * WEIGHT, 6),
    }


def test_a_gather_that_products_run_beside_is_named_three_times_and_counts_once():
    lines = [one for where in excerpt("tpu_gathered").computations.values() for one in where.instructions.values()]
    assert len([one for one in lines if one.opcode == "all-gather"]) == 4
    assert told("tpu_gathered")["all-gather", "fsdp"] == (12 * WEIGHT, 12)


def test_an_all_reduce_that_is_fused_with_a_slice_of_it_is_a_reduce_scatter():
    found = told("tpu_gathered")
    assert found["reduce-scatter", "fsdp"] == (12 * WEIGHT, 12)
    assert found["all-reduce", "data"] == (12 * WEIGHT / 4, 6)
    assert told("cpu_gathered")["all-reduce", "fsdp"] == (24 * WEIGHT, 6)  # where it is not fused, it is none


@pytest.mark.parametrize(("name", "devices"), [("tpu_messages", 16), ("cpu_messages", 8)])
def test_messages_in_a_loop_count_as_often_as_they_are_sent(name, devices):
    part = ROWS / devices
    assert told(name) == {("collective-permute", "fsdp"): (15 * part, 15), ("all-to-all", "data"): (5 * part, 5)}


LINE = "ENTRY %main (x: f32[8]) -> f32[16] {\n  %x = f32[8]{0} parameter(0)\n  ROOT %y = f32[16]{0} OP\n}\n"


def groups(text: str, mesh: dict[str, int]) -> collectives.Collective:
    op = f"all-gather(%x), channel_id=1, replica_groups={text}, dimensions={{0}}, use_global_device_ids=true"
    (one,) = collectives.read(Module.parse(LINE.replace("OP", op)), mesh)
    return one


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("b",)),
        ("[4,2]<=[8]", ("b",)),
        ("[2,4]<=[4,2]T(1,0)", ("a",)),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", ("a",)),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_2'}", ("a",)),
        ("mesh['axis_0'=8] {'axis_0':(4)2}", ("b",)),
        ("mesh['axis_0'=8] {'axis_0':(1)4}", ("a",)),
        ("mesh['axis_0'=8] {'axis_0'}", ("a", "b")),
        ("{}", ("a", "b")),
    ],
)
def test_however_groups_are_written_they_run_along_the_same_axes(text, axes):
    one = groups(text, {"a": 4, "b": 2})
    assert one.axes == axes
    assert sorted(one.groups.flatten()) == list(range(8))
    assert one.size == np.prod([{"a": 4, "b": 2}[axis] for axis in axes])
    assert one.bytes == 32 * one.size


def test_a_group_of_one_says_nothing():
    op = "all-gather(%x), channel_id=1, replica_groups={{0},{1}}, dimensions={0}, use_global_device_ids=true"
    assert collectives.read(Module.parse(LINE.replace("OP", op)), {"a": 2}) == []


def test_what_is_started_and_ended_counts_where_it_starts():
    text = """
ENTRY %main (x: f32[8]) -> f32[16] {
  %x = f32[8]{0} parameter(0)
  %start = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), channel_id=1, replica_groups=[1,2]<=[2], dimensions={0}
  ROOT %done = f32[16]{0} all-gather-done(%start)
}
"""
    (one,) = collectives.read(Module.parse(text), {"a": 2})
    assert (one.kind, one.bytes, one.times) == ("all-gather", 64.0, 1.0)
