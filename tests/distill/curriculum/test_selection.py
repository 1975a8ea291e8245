"""Selections: what is refused before anybody is asked."""

import pytest

from distill.curriculum.filter import DropEasiest
from distill.curriculum.selection import Selection, check_selection


@pytest.mark.parametrize("name", ["attempts", "tokens"])
def test_there_is_at_least_one_attempt_of_one_token(name):
    assert vars(Selection(by="base", **{name: 1}))[name] == 1
    with pytest.raises(ValueError, match=f"Selection: {name} is 0; it must be at least 1"):
        Selection(by="base", **{name: 0})


def test_the_easier_half_is_left_out_where_nothing_else_is_said():
    assert Selection(by="base").rule == DropEasiest(share=0.5)


def test_who_selects_must_be_there_before_the_stage():
    check_selection("tuned", None, ())
    check_selection("tuned", Selection(by="base"), ("base",))
    with pytest.raises(ValueError, match="stage 'tuned': its questions are selected by 'base', which is not given and"):
        check_selection("tuned", Selection(by="base"), ("other",))
