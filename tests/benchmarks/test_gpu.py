"""The benchmark of a card: that it runs anywhere, and what its figures mean."""

import json
from dataclasses import replace

import jax.numpy as jnp
import pytest

from benchmarks import gpu, gpu_step, gpu_torch
from benchmarks.gpu_kernels import DISPATCHES, Routed, Seen
from benchmarks.gpu_table import Ceilings, Contest, Refused, Row, chain, chained
from distill.mesh import Mesh
from distill.plan.lessons import update_bytes
from distill.state import abstract
from models.config import BEHEMOTH_MINI, SCOUT_MINI
from models.cost import active

CARD = Ceilings(flops=800e12, bandwidth=4e12)
ROW = Row(part="step", name="one", seconds=0.5, flops=160e12, bytes=0.4e12, tokens=1000.0, bar=0.45)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu") / "results.jsonl"
    gpu.main(["--tiny", "--only", "experts", "torch", "--out", str(out)])
    return json.loads(out.read_text())


def test_every_row_of_the_table_follows_from_its_seconds_and_the_ceilings_of_the_call(record):
    card = record["ceilings"]
    rows = [row for row in record["rows"] if "seconds" in row]
    # XLA:CPU may refuse a batched product of bfloat16 into float32: then Capacity is named with the reason.
    told = {row["name"]: "seconds" in row for row in record["rows"] if row["part"] == "experts"}
    assert set(told) == {f"{way}, tiny" for way in DISPATCHES}
    assert all(measured for name, measured in told.items() if "Capacity" not in name)
    for row in rows:
        assert row["utilisation"] == pytest.approx(row["flops"] / row["seconds"] / card["flops"])
        assert row["tokens_per_second"] == pytest.approx(32 / row["seconds"])
        bound = max(row["flops"] / card["flops"], row["bytes"] / card["bandwidth"])
        assert row["reached"] == pytest.approx(bound / row["seconds"])


def test_a_peer_that_is_not_installed_is_named_and_costs_nothing_else(record):
    told = [row for row in record["rows"] if row["part"] == "torch"]
    assert [row["name"] for row in told] == ["dense", "mixture"]
    assert all("torch" in row["why"] and row["why"].endswith("not installed") for row in told)


def test_utilisation_is_flops_over_seconds_over_the_ceiling_and_is_held_to_its_bar():
    assert ROW.utilisation(CARD) == pytest.approx(0.4) and ROW.told(CARD)["met"] is False
    assert replace(ROW, seconds=0.4).told(CARD)["met"] is True and replace(ROW, bar=0.0).told(CARD)["met"] is None
    assert "bar 45%: MISSED" in ROW.show(CARD) and "2,000 tokens/s" in ROW.show(CARD)


def test_a_row_is_bound_by_the_longer_of_flops_and_bytes():
    assert ROW.bound(CARD) == pytest.approx(0.2) and ROW.reached(CARD) == pytest.approx(0.4)
    assert replace(ROW, bytes=1.2e12).bound(CARD) == pytest.approx(0.3)


def test_a_side_that_fails_is_named_and_the_others_are_measured():
    def broken():
        raise NotImplementedError("no such kernel\nhere")

    found = Contest(part="p", rounds=2).rows(
        [({"name": "a", "flops": 1.0}, broken), ({"name": "b"}, lambda: lambda: 1)]
    )
    assert [type(row) for row in found] == [Row, Refused] and found[0].name == "b"
    assert isinstance(found[1], Refused) and found[1].why == "NotImplementedError: no such kernel"


def test_the_dense_equivalent_multiplies_as_much_as_a_token_of_the_mixture_meets():
    routers = SCOUT_MINI.layers * SCOUT_MINI.width * SCOUT_MINI.experts
    assert active(gpu_step.dense(SCOUT_MINI)) == active(SCOUT_MINI) - routers


def test_a_step_needs_six_flops_a_weight_of_the_student_and_two_of_the_teacher():
    one = gpu.full().settings["dense"]
    tokens, students, teachers = one.tokens, active(one.student), active(one.teacher)
    matrices = 6 * (students - 32768 * 512) + 2 * (teachers - 32768 * 1024)  # all but the table that is looked up in
    assert tokens == 32768 and matrices * tokens < one.heard + one.learned < 1.4 * matrices * tokens


def test_the_halves_of_a_step_are_the_whole_and_the_teachers_head_is_in_the_students():
    one = gpu.full().settings["mixture"]
    assert one.spoken == 2 * 32768 * 1024 * 32768  # tokens, the teacher's width, vocabulary
    bodies = replace(one, teacher=replace(one.teacher, vocab=1), student=replace(one.student, vocab=1))
    assert one.heard - one.spoken == pytest.approx(bodies.heard, rel=1e-5)


def test_an_update_moves_what_a_plan_says_that_it_moves():
    one = gpu.small().settings["mixture"]
    state = abstract(one.learner, 10, Mesh().build())
    assert one.updated == pytest.approx(update_bytes(state), rel=1e-3)


def test_the_ceiling_counts_the_products_of_its_chain():
    w = jnp.ones((64, 64))
    counted = chain.lower(w, w).compile().cost_analysis()["flops"]
    assert chained(64) == pytest.approx(counted, rel=1e-3)


def test_overlap_is_of_the_step_and_the_teacher_one_after_the_other():
    seconds = {"teacher in it": 3.0, "teacher's states there": 2.0, "teacher alone": 1.5}
    rows = [Row(part="step", name=f"one, {name}", seconds=each) for name, each in seconds.items()]
    told = gpu_step.overlap("one", rows)
    assert (
        isinstance(told, Row) and told.note.startswith("0.857 of step and teacher") and "1.50 of the step" in told.note
    )
    assert isinstance(gpu_step.overlap("one", rows[:2]), Refused)


def test_a_peer_that_takes_twice_as_long_is_half_as_fast():
    assert gpu_torch.faster([1.0, 2.0, 1.0], [2.0, 4.0, 9.0]) == 2.0


def test_causal_attention_needs_half_of_all_pairs_six_times_and_experts_nine_products():
    assert Seen(1, 1024, 2, 1, 64).flops == 3 * 4 * 2 * 64 * 1024 * 1025 / 2
    assert Seen(1, 1024, 2, 1, 64, documents=4).flops == 3 * 4 * 2 * 64 * 1024 * 257 / 2
    assert Routed(10, 20, 30, 4).flops == 9 * 2 * 10 * 20 * 30


def test_what_limits_a_step_adds_up_to_it():
    step = Row(part="step", name="mixture, teacher's states there", seconds=1.0)
    parts = [Row(part="parts", name=f"mixture, {name}", seconds=s) for name, s in (("loss", 0.2), ("experts", 0.5))]
    other = Row(part="parts", name="dense, loss", seconds=9.0)
    (told,) = gpu.limits([step, *parts, other, Refused("parts", "mixture, optimizer", "no memory")])
    assert told == "mixture: of the student's step experts 50%, all else 30%, loss 20%"


def test_what_there_is_no_time_for_is_named(tmp_path, capsys):
    gpu.main(["--tiny", "--only", "narrow", "--seconds", "0", "--out", str(tmp_path / "out")])
    assert "not measured" in capsys.readouterr().out


def test_a_peer_hears_of_every_layer_where_it_has_experts_and_positions():
    told = gpu_torch.sizes(BEHEMOTH_MINI)
    assert told["moe"] == 1 and told["rope"] == [1, 1, 1, 0] * 5 and told["tempering"] == [1024, 0.1]
    assert gpu_torch.sizes(gpu_step.dense(BEHEMOTH_MINI))["moe"] == 0
