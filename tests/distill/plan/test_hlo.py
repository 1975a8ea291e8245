from pathlib import Path

import pytest

from distill.plan.hlo import Module

EXCERPTS = Path(__file__).parents[2] / "data" / "hlo"
LOOP = """
HloModule made_by_hand

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[8]{0}) tuple(%next, %x)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(7)
  ROOT %go = pred[] compare(%i, LIMIT), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %start = s32[] constant(3)
  %t = (s32[], f32[8]{0}) tuple(%start, %x)
  %loop = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def excerpt(name: str) -> Module:
    return Module.parse((EXCERPTS / f"{name}.txt").read_text())


@pytest.mark.parametrize("platform", ["cpu", "tpu"])  # one notes how often its loops turn, the other does not
def test_a_loop_turns_as_often_as_it_was_written_to(platform):
    layers, messages = excerpt(f"{platform}_layers"), excerpt(f"{platform}_messages")
    turns = [
        [module.trips(where, one) for where in module.computations.values() for one in where.instructions.values()
         if one.opcode == "while"]
        for module in (layers, messages)
    ]  # fmt: skip
    assert turns == [[6, 6], [5]]
    assert not layers.unknown and not messages.unknown


def test_a_loop_that_starts_later_turns_less_often():
    module = Module.parse(LOOP.replace("LIMIT", "%n"))
    assert module.runs["body"] == 4.0
    assert module.once["body"] == 1.0


def test_a_loop_that_takes_two_at_a_time_turns_half_as_often():
    """As that of a product which sends its weights around while it is made."""
    module = Module.parse(LOOP.replace("LIMIT", "%n").replace("%one = s32[] constant(1)", "%one = s32[] constant(2)"))
    assert module.runs["body"] == 2.0


def test_a_loop_whose_end_only_the_run_knows_turns_once_and_is_told():
    module = Module.parse(LOOP.replace("LIMIT", "%i"))
    assert module.unknown == ("loop",) and module.runs["body"] == 1.0


def test_bytes_are_those_of_the_elements():
    where = Module.parse(LOOP.replace("LIMIT", "%n")).computations["main"]
    assert where.bytes(("x",)) == 32.0
    assert where.bytes(("t",)) == 36.0


def test_notes_of_a_kernel_may_have_lines_of_their_own():
    """As the text of a program with splash attention has them: one of the lines begins with a bracket that closes."""
    noted = (
        'custom-call(%x), custom_call_target="tpu_custom_call", kernel_metadata={\n"a":"b"\n}}, '
        'metadata={op_name="splash"}'
    )
    text = LOOP.replace("LIMIT", "%n").replace("get-tuple-element(%p), index=1", noted)
    module = Module.parse(text)
    assert module.computations["body"].instructions["x"].source == "splash"
    assert module.computations["body"].root.name == "out" and module.runs["body"] == 4.0


def test_what_another_kind_of_core_runs_is_read_too_and_once():
    """As a TPU's scatters are, on its sparse cores."""
    aside = '%aside (y: f32[8]) -> f32[8] {\n  ROOT %y = f32[8]{0} parameter(0)\n}, execution_thread="sparsecore"\n\n'
    calls = (
        "  %s = ((f32[8]{0}), f32[8]{0}) call-start(%x), to_apply=%aside\n"
        "  %d = f32[8]{0} call-done(%s), to_apply=%aside\n"
    )
    text = LOOP.replace("LIMIT", "%n").replace("ENTRY", aside + "ENTRY")
    module = Module.parse(text.replace("  %start = s32[] constant(3)\n", calls + "  %start = s32[] constant(3)\n"))
    assert module.runs["aside"] == 1.0 and module.runs["body"] == 4.0


def test_what_has_no_entry_is_refused():
    with pytest.raises(ValueError, match="this is no HLO: it has no ENTRY computation, and begins with 'module @jit"):
        Module.parse("module @jit_f {}")
