import pytest

from distill.tasks.score import Strict, Verdict

QUESTION = {"id": "a", "answer": "12"}


@pytest.mark.parametrize("answer", ["12", " 12", "12\n", "\t12 \r\n"])
def test_white_space_at_the_ends_does_not_count(answer):
    assert Strict()(QUESTION, answer) == 1.0


@pytest.mark.parametrize(
    "answer",
    ["", " ", None, 12, 12.0, b"12", ["12"], True, "1 2", "12.", "012", "+12", "12 12",
     "the answer is 12", "12\x00", "\xa012", "１２", "9" * 1_000_000, "12" + " " * 1_000_000 + "x", "\ud800"],
)  # fmt: skip
def test_all_else_is_wrong_and_nothing_fails(answer):
    assert Strict()(QUESTION, answer) == 0.0


def test_case_counts_and_so_does_white_space_within():
    assert Strict()({"answer": "a b"}, "A b") == Strict()({"answer": "a b"}, "a  b") == 0.0


def test_a_list_of_all_answers_earns_nothing():
    assert sum(Strict()({"answer": str(n)}, " ".join(map(str, range(100)))) for n in range(100)) == 0.0


def test_what_is_stripped_is_said():
    assert Strict(strip="")(QUESTION, "12 ") == 0.0 and Strict(strip="")(QUESTION, "12") == 1.0
    assert Strict(strip=" .")(QUESTION, "12. ") == 1.0


def test_a_verdict_is_the_mark_and_whether_it_is_right():
    assert Strict().judge(QUESTION, "12") == Verdict(True, 1.0)
    assert Strict().judge(QUESTION, "13") == Verdict(False, 0.0)


@pytest.mark.parametrize("question", [{}, {"answer": None}, {"answer": ""}, {"answer": " "}, {"answer": 12}])
def test_a_question_without_an_answer_does_not_reward_silence(question):
    with pytest.raises(ValueError, match=r"question 'b' has no answer to compare with; it must have text at 'answer'"):
        Strict()({"id": "b"} | question, "")
