"""Pairs out of groups that one can read."""

from dataclasses import replace

import numpy as np
import pytest

from distill.preference.pairs import Mining, learned_from
from distill.rl.journal import Journal
from distill.rl.record import Event, Record
from distill.rl.rollouts import Rollouts
from losses import Anchor
from models.request import Completion

END = 1
PROMPT = (50, 51)


def group(uid, right=(), wrong=(), masked=(), cut=(), version=0, prompt=PROMPT):
    """Answers to a prompt, each a list of tokens: right, wrong, that nobody judged, and wrong ones without an end."""
    answers = [*right, *wrong, *masked, *cut]
    drawn = [
        Completion(prompt=0, sample=i, tokens=np.array(one), logprobs=np.zeros(len(one), np.float32),
                   stopped=i < len(answers) - len(cut))
        for i, one in enumerate(answers)
    ]  # fmt: skip
    found = Rollouts.of(uid, f"item {prompt[0]}", version, np.array(prompt), drawn)
    rewards = [1.0] * len(right) + [0.0] * len(wrong) + [np.nan] * len(masked) + [0.0] * len(cut)
    return replace(found, rewards=np.array(rewards, np.float32), outcomes=np.array(rewards) == 1.0)


def answers(pairs):
    """The tokens of both answers of every pair."""
    return [
        tuple(row[start:end].tolist() for row, end in zip(rows, ends, strict=True))
        for rows, start, ends in zip(pairs.tokens, pairs.starts, pairs.ends, strict=True)
    ]


def mine(*groups, length=16, most=99, seed=0, **changes):
    """Pairs of groups."""
    return Mining(**changes)(groups, length, most, seed)


def test_a_right_answer_is_held_against_a_wrong_one_of_its_group():
    pairs = mine(group(4, right=[[7, 8, END]], wrong=[[8, 7, END]], version=3), group(5, right=[[2, 3, END]]))
    assert answers(pairs) == [([7, 8, END], [8, 7, END])]
    assert pairs.tokens[0, 1, :6].tolist() == [50, 51, 8, 7, END, 0] and pairs.tokens.shape == (1, 2, 17)
    assert pairs.items == ("item 50",) and pairs.versions.tolist() == [3]
    assert pairs.dropped["one_sided"] == 1


def test_groups_are_not_mixed():
    assert len(mine(group(0, right=[[7, END]]), group(1, wrong=[[8, END]]))) == 0


def test_lengths_that_lie_apart_are_left_out():
    def long(n, token=9):
        return [token] * (n - 1) + [END]

    pairs = mine(group(0, right=[long(10, 8)], wrong=[long(n) for n in (6, 7, 13, 14)]))
    assert sorted(len(rejected) for _, rejected in answers(pairs)) == [7, 13]  # within 3 of 10
    assert pairs.dropped["apart"] == 2
    assert len(mine(group(0, right=[[7, END]], wrong=[[8, END], [8, 8, END]]), band=0.0)) == 1


def test_answers_that_nobody_judged_are_never_used():
    pairs = mine(group(0, right=[[7, END]], wrong=[[8, END]], masked=[[9, END], [7, END]]), each=9)
    assert answers(pairs) == [([7, END], [8, END])] and pairs.dropped["masked"] == 2


def test_answers_that_were_cut_off_are_wrong_ones_only_if_asked_for():
    one = group(0, right=[[7, 7, END]], cut=[[7, 7, 7]])
    assert len(mine(one)) == 0 and mine(one).dropped["unfinished"] == 1
    assert answers(mine(one, unfinished=True)) == [([7, 7, END], [7, 7, 7])]


def test_equal_answers_count_once_and_so_do_equal_pairs_of_two_versions():
    one = group(0, right=[[7, END]] * 3, wrong=[[8, END]] * 2)
    pairs = mine(one, replace(one, uid=1, version=1), each=9)
    assert len(pairs) == 1 and pairs.versions.tolist() == [1]
    assert (pairs.dropped["again"], pairs.dropped["known"]) == (6, 1)


def test_a_prompt_has_so_many_pairs_those_of_the_newest_version_first():
    wrong = [[8, END], [9, END], [10, END]]
    old, new = group(0, [[7, END]], wrong, version=0), group(1, [[7, END]], wrong[:1], version=5)
    other = group(2, [[7, END]], wrong, version=2, prompt=(60,))
    pairs = mine(old, new, other)
    assert pairs.versions.tolist() == [5, 2, 2, 0] and pairs.items == ("item 50", "item 60", "item 60", "item 50")
    assert pairs.dropped["enough"] + pairs.dropped["known"] == 3


def test_what_is_not_asked_for_is_the_oldest():
    groups = [group(uid, [[7, END]], [[8, END]], version=uid, prompt=(60 + uid,)) for uid in range(5)]
    pairs = mine(*groups, most=2)
    assert pairs.versions.tolist() == [4, 3] and pairs.dropped["surplus"] == 3


def test_rows_that_are_too_short_for_a_pair_leave_it_out():
    one = group(0, [[7, 7, END]], [[8, 8, END]])
    assert len(mine(one, length=4)) == 1  # 2 + 3 tokens, of which the last is not read
    assert mine(one, length=3).dropped["too_long"] == 1


def test_the_choice_follows_from_the_seed_whatever_the_order():
    groups = [group(uid, [[7, END], [6, END]], [[8 + n, END] for n in range(6)], prompt=(uid,)) for uid in range(9)]
    one, other = mine(*groups), mine(*groups[::-1])
    assert answers(one) == answers(other) and one.fingerprint == other.fingerprint
    assert answers(mine(*groups, seed=1)) != answers(one)


def test_the_fingerprint_is_of_what_is_read():
    one, other = (mine(group(0, [[7, END]], [[8, END]], prompt=prompt)) for prompt in (PROMPT, (50, 52)))
    assert one.fingerprint != other.fingerprint
    assert replace(one, items=("another",)).fingerprint == one.fingerprint


def test_rows_of_a_batch_are_chosen_and_rejected_in_turn_and_the_answers_count():
    groups = [group(uid, [[7, 7, END]], [[8, 8, 8, END]], prompt=(60 + uid,), version=-uid) for uid in range(3)]
    pairs = mine(*groups, band=0.4, length=6)
    batch = pairs.batch(np.array([2, 0]), np.array([[-1, -2], [-3, -4], [-5, -6]], np.float32), pad=99)
    assert batch.tokens.tolist() == [
        [62, 7, 7, END, 99, 99], [62, 8, 8, 8, END, 99], [60, 7, 7, END, 99, 99], [60, 8, 8, 8, END, 99],
    ]  # fmt: skip
    assert batch.labels[batch.mask].tolist() == [7, 7, END, 8, 8, 8, END] * 2
    assert isinstance(batch.targets, Anchor) and batch.targets.logp.tolist() == [-5, -6, -1, -2]
    assert pairs.batch(np.array([1]), None, pad=99).targets is None


def test_only_groups_that_were_learned_from_are_read(tmp_path):
    with Journal(tmp_path / "rl") as journal:
        for uid in range(3):
            journal.append(group(uid, [[7, END]], [[8, END]]).record())
        journal.append(Record(Event.CONSUMED, (2, 0), 0))
    assert [one.uid for one in learned_from(tmp_path / "rl")] == [2, 0]


def test_where_there_is_no_journal_none_is_begun(tmp_path):
    with pytest.raises(ValueError, match="there is no journal at .*/rl; run the stage of reinforcement learning first"):
        list(learned_from(tmp_path / "rl"))
    assert not (tmp_path / "rl").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"band": 1.0}, r"Mining\(band=1.0\) must be from 0 \(lengths are equal\) to below 1"),
        ({"each": 0}, r"Mining\(each=0\) must be at least 1 pair of a prompt"),
    ],
)
def test_a_rule_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Mining(**settings)
