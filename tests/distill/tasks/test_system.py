from collections import Counter

import pytest

from distill.tasks.score import Strict
from distill.tasks.small import LETTERS, TASKS, item
from distill.tasks.system import BRACKETED, DOUBLED, PLAIN, REVERSED, SYSTEMS, UPPER, apply, draw

ONE = item("reverse", 1, 0, 42)


@pytest.mark.parametrize(
    ("system", "answer"), [(REVERSED, "cba"), (BRACKETED, "[abc]"), (DOUBLED, "abcabc"), (UPPER, "ABC"), (PLAIN, "abc")]
)
def test_a_system_changes_what_is_right(system, answer):
    assert system.change("abc") == answer


def test_an_item_under_a_system_has_its_word_its_answer_and_its_name():
    under = apply(ONE, BRACKETED)
    assert under.id == "reverse/1/0.00042@bracketed" and under.system == "bracketed"
    assert under.text == "[" + ONE.prompt and under.answer == f"[{ONE.answer}]"
    assert under.prompt == ONE.prompt and under.split == ONE.split


def test_a_system_matters():
    question = apply(ONE, BRACKETED).question
    assert Strict()(question, f"[{ONE.answer}]") == 1.0 and Strict()(question, ONE.answer) == 0.0


def test_plain_changes_nothing():
    assert apply(ONE, PLAIN) is ONE and PLAIN.short == PLAIN.sentence == PLAIN.name == ""


def test_a_large_model_is_told_in_a_sentence():
    assert apply(ONE, UPPER, sentence=True).text == f"Write the answer in capital letters.\n\n{ONE.prompt}"


def test_words_are_short_different_and_begin_no_prompt():
    words = [one.short for one in SYSTEMS]
    prompts = {item(task, 0, 0, 0).prompt[0] for task in TASKS}
    assert len({*words}) == len({one.sentence for one in SYSTEMS}) == len({one.name for one in SYSTEMS}) == len(SYSTEMS)
    assert all(len(word) == 1 and word not in prompts and word not in LETTERS for word in words if word)


def test_a_draw_follows_from_seed_and_group():
    one = [draw(ONE, SYSTEMS, 3, uid) for uid in range(50)]
    assert one == [draw(ONE, SYSTEMS, 3, uid) for uid in range(50)] != [draw(ONE, SYSTEMS, 4, uid) for uid in range(50)]


def test_every_system_is_drawn_as_often():
    counts = Counter(draw(ONE, SYSTEMS, 0, f"group {n}").name for n in range(5000))
    # Binomial(5000, 1/5): mean 1000, standard deviation 28.
    assert len(counts) == 5 and all(abs(count - 1000) < 115 for count in counts.values())


def test_a_system_that_would_change_nothing_is_not_drawn():
    digit = next(one for i in range(99) if len((one := item("add", 0, 0, i)).answer) == 1)
    assert {draw(digit, SYSTEMS, 0, n).name for n in range(100)} == {"", "bracketed", "doubled"}


def test_a_system_that_cannot_be_applied_is_refused():
    with pytest.raises(ValueError, match=r"is under the system 'upper'; apply another to the plain item"):
        apply(apply(ONE, UPPER), BRACKETED)
    digits = item("sort", 0, 0, 0)
    with pytest.raises(ValueError, match=r"of the systems upper none changes the answer of item sort/0/.*; add PLAIN"):
        draw(digits, (UPPER,), 0, 0)
