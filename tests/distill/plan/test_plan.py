"""A whole plan. The compiler is that of these tests' eight virtual devices, the rates are those of a host of H100s."""

import io
import json

import jax
import pytest
from rich.console import Console

from distill import Experiment, Mesh
from distill.plan import figure
from distill.plan.plan import plan
from distill.plan.rates import Rates
from distill.plan.report import show
from distill.plan.topology import Topology
from tests.distill.small import WIDE, learner, stage

TOKENS = 1e6
GIVEN = {
    "a: head", "a: parameters", "a: optimizer", "a: rest", "teacher's head", "hidden states of the teacher", "batch",
}  # fmt: skip


@pytest.fixture(scope="module")
def told():
    """Of a student on four devices, and its teacher on two."""
    apart = stage(learner("a"), teacher="behemoth", teacher_on=Mesh(fsdp=2, first=4))
    one = Experiment(
        name="planned", stages=(stage(learner("behemoth", model=WIDE), name="teach"), apart), mesh=Mesh(data=2, fsdp=2)
    )
    found = plan(one, None, Topology.parse("h100:1x8"), Rates(), TOKENS, jax.devices())
    return json.loads(json.dumps(found, default=float))  # it is all plain values


def rows(program) -> dict[str, float]:
    return {row["what"]: row["bytes"] for row in program["memory"]}


def test_arguments_by_shapes_are_those_of_the_compiler(told):
    asked, learned = told["programs"]
    given = {name: size for name, size in rows(learned).items() if name in GIVEN}
    assert sum(given.values()) == learned["compiled_memory"]["arguments"] and set(given) == GIVEN


def test_a_head_that_is_not_asked_for_is_there_all_the_same(told):
    asked, _ = told["programs"]
    unread = 40 * 64 * 4 / 2 + 2 * 8 * 16 * 4 / 2  # head; labels and mask
    more = asked["fit"]["bytes"] - asked["compiled_memory"]["peak"]
    assert 40 * 64 * 4 / 2 <= more <= 1.1 * unread


def test_a_student_has_moments_twice_as_large_as_its_parameters_and_a_teacher_none(told):
    asked, learned = told["programs"]
    weights = rows(learned)["a: parameters"] + rows(learned)["a: head"]
    assert rows(learned)["a: optimizer"] == pytest.approx(2 * weights, rel=0.01)
    assert rows(learned)["a: gradients"] == weights
    assert not any("optimizer" in name for name in rows(asked))


def test_products_are_counted_beside_the_formula(told):
    for program in told["programs"]:
        assert program["comparison"]["counted"] > 0
        assert program["comparison"]["own"] == pytest.approx(
            1.0, abs=0.5
        )  # of models as small as these little is products


def test_a_step_is_as_long_as_its_slowest_role(told):
    for name in ("none", "part", "all"):
        assert told["total"][name]["seconds"] == max(one["step"]["hidden"][name]["seconds"] for one in told["programs"])
        assert 0 < told["total"][name]["mfu"] < 1


def test_a_budget_is_chips_and_hours(told):
    budget = told["budget"]
    assert (budget["chips"], budget["tokens_a_step"], budget["steps"]) == (6, 128, TOKENS / 128)
    assert budget["hours"]["none"] == pytest.approx(told["total"]["none"]["seconds"] * TOKENS / 128 / 3600)


def test_roles_are_weighed_against_each_other(told):
    teacher, learners = told["balance"]["teacher"], told["balance"]["learners"]
    ratio = teacher["seconds"]["part"] / learners["seconds"]["part"]
    assert (teacher["devices"], learners["devices"]) == (2, 4)
    assert teacher["over_learners"]["part"] == ratio and teacher["even_devices"] == pytest.approx(2 * ratio)


def test_hidden_states_are_what_is_handed_over(told):
    assert told["payload"]["bytes"] == 8 * 16 * WIDE.width * 4
    assert told["payload"]["seconds"] == pytest.approx(told["payload"]["bytes"] / 4 / 40e9)  # network, 0.8 of 50e9


def test_the_report_says_all_of_it(told):
    out = io.StringIO()
    show(told, Console(file=out, width=120))
    text = out.getvalue()
    for part in (
        "a: optimizer", "hidden states of the teacher", "fits", "--rates.matmul", "--rates.overlap", "part", "Balance",
        "1e+06 tokens are 7,812 steps of 128", "by formula", "hidden states handed over in a step",
    ):  # fmt: skip
        assert part in text, part


def test_a_figure_is_drawn_of_several(told):
    left, right = figure.draw([told, told]).axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        "planned, h100:1x8\nbehemoth is asked", "planned, h100:1x8\na learns",
    ] * 2  # fmt: skip
    assert [text.get_position()[1] for text in right.texts] == pytest.approx([0.3, 2.3])  # amid a plan's programs


def test_a_bar_ends_at_the_peak_and_begins_with_what_is_kept(told):
    for program in told["programs"]:
        parts = figure.grouped(program)
        assert sum(parts.values()) == pytest.approx(program["fit"]["bytes"]) and min(parts.values()) >= 0
    given, parts = rows(told["programs"][1]), figure.grouped(told["programs"][1])
    assert parts["weights"] == given["a: parameters"] + given["a: head"] and parts["moments"] == given["a: optimizer"]
    assert parts["teacher"] == given["teacher's head"] + given["hidden states of the teacher"]


def test_the_figure_of_a_bar_that_all_but_fills_a_chip_stands_behind_the_line(told):
    (program,) = told["programs"][:1]
    full = {**told, "programs": [{**program, "fit": {**program["fit"], "available": program["fit"]["bytes"] / 0.95}}]}
    for one, behind in ((full, 1 / 0.95), ({**told, "programs": [program]}, 1.0)):
        panel = figure.draw([one]).axes[0]
        assert panel.texts[0].get_position()[0] == pytest.approx(behind * program["fit"]["bytes"] / 1e9)


def test_a_figure_of_nothing_is_refused():
    with pytest.raises(ValueError, match="there is no plan to draw"):
        figure.draw([])
    with pytest.raises(ValueError, match="name a file for the figure"):
        figure.main(["out.png"])
