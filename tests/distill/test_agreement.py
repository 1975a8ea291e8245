"""What the processes of a run agree on."""

import pytest

from distill.agreement import attempt, by_first, gather


def raises(error):
    raise error


def test_what_could_be_read_has_no_reason():
    assert attempt(lambda: 3) == (3, "")


def test_what_could_not_be_read_has_its_reason_on_one_line():
    assert attempt(lambda: raises(KeyError("a\nb"))) == (None, r"KeyError: 'a\nb'")


def test_out_of_memory_is_not_taken_for_damage():
    with pytest.raises(MemoryError):
        attempt(lambda: raises(MemoryError()))


def test_one_process_agrees_with_itself():
    assert gather(7) == [7]


def test_a_file_another_process_could_not_read_is_read_by_none(monkeypatch):
    monkeypatch.setattr("distill.agreement.gather", lambda failed: [failed, 1])
    assert attempt(lambda: 3)[1] == "another process could not read it"


def test_one_process_does_what_the_first_does_and_raises_what_it_raises():
    assert by_first(lambda: 3) == 3
    with pytest.raises(KeyError):
        by_first(lambda: raises(KeyError("a")))
