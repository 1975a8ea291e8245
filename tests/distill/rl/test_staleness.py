"""The bound on staleness: small cases by hand, ten thousand schedules by simulation."""

import json
import math
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from distill.rl.order import EarliestDeadline, FirstInFirstOut, Limits
from distill.rl.staleness import Controller
from tests.distill.rl.simulation import ReadyFirst, World, schedule

ROOT = Path(__file__).resolve().parents[3]
FIFO, EDF = FirstInFirstOut(), EarliestDeadline()


def controller(order=EDF, batch=2, lag=2, depth=1, factor=4):
    limits = Limits(batch=batch, max_policy_lag=lag, pipeline_depth=depth, max_refill_factor=factor)
    return Controller(limits, order)


def admit(one, count, published):
    first = one.line.admitted
    return {uid: one.admit(uid, published) for uid in range(first, first + count)}


def test_ten_thousand_schedules_hold_the_bound_and_lose_nothing():
    # In a process of its own: the tests check the types of every call, which takes a hundred times as long as the call.
    command = [sys.executable, "-m", "tests.distill.rl.simulation", "10000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert (seen["schedules"], seen["lost"], seen["uneven"], seen["missing"]) == (10_000, 0, 0, 0)
    # And it met all that it is about.
    assert all(seen[what] > 1000 for what in ("consumed", "filtered", "poisoned", "expired", "crashes", "lagged")), seen
    assert seen["short"] > seen["skipped"] > 100, seen


def latency_patterns(seed):
    yield lambda random: 0.0
    yield lambda random: math.exp(2.0 * random.gauss(0.0, 1.0))
    yield lambda random: 5.0 if random.random() < 0.1 else 0.01


def test_in_order_of_admission_versions_and_batches_do_not_depend_on_the_timing():
    for seed in range(25):
        runs = []
        for number, latency in enumerate(latency_patterns(seed)):
            world = schedule(seed)
            world.order, world.latency, world.random, world.jump = FIFO, latency, Random(1000 * seed + number), 0.0
            world.workers, world.learning, world.publishing = 1 + 3 * number, number, (0.0, 0.0, 4.0)[number]
            runs.append(world.run())
        consumed = [[(at, [(uid, run.versions[uid]) for uid in batch]) for at, batch in run.batches] for run in runs]
        assert consumed[0] == consumed[1] == consumed[2], f"seed {seed}"
        common = set.intersection(*(set(run.versions) for run in runs))
        assert all(len({run.versions[uid] for run in runs}) == 1 for uid in common), f"seed {seed}"
        assert all(sum(run.controller.lags[run.limits.pipeline_depth + 1 :]) == 0 for run in runs)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_in_order_of_admission_with_nothing_dropped_it_is_the_fixed_lag_schedule(depth):
    limits = Limits(batch=4, max_policy_lag=3, pipeline_depth=depth)
    world = World(Random(0), limits, FIFO, latency=lambda random: random.expovariate(1.0), updates=10).run()
    assert world.versions == {uid: max(0, uid // 4 - depth) for uid in world.versions}
    assert world.batches == [(step, list(range(4 * step, 4 * step + 4))) for step in range(10)]


def test_without_lag_both_orders_draw_learn_and_publish_in_turn():
    for seed in range(25):
        batches = []
        for order in (FIFO, EDF):
            world = schedule(seed)
            world.limits = Limits(batch=3, max_policy_lag=0, pipeline_depth=0, max_refill_factor=2)
            world.order, world.jump = order, 0.0
            batches.append(world.run().batches)
            assert world.controller.lags == [world.controller.ends["consumed"]]
        assert batches[0] == batches[1], f"seed {seed}"


def test_a_dropped_group_in_order_of_admission_makes_room_when_those_before_it_have_ended():
    # B = 2, D = 1: groups 0 to 3 are of version 0. Group 1 is dropped while 0 is out: no room yet.
    one = controller(FIFO)
    assert admit(one, 4, published=0) == {0: 0, 1: 0, 2: 0, 3: 0}
    one.filtered(1)
    assert one.may_admit(0) == 0
    one.completed(0)
    assert one.may_admit(0) == 1
    # The batch of step 0 is 0 and 2; group 4 fills up for group 1 and is of version 0, however late it is admitted.
    one.completed(2)
    assert one.take(0) == [0, 2]
    assert one.may_admit(0) == 1 and one.may_admit(1) == 3
    assert admit(one, 3, published=1) == {4: 0, 5: 1, 6: 1}
    assert one.oldest == 0


def test_a_dropped_group_by_deadline_makes_room_at_once():
    one = controller(EDF)
    admit(one, 4, published=0)
    assert one.may_admit(0) == 0
    one.filtered(1)
    one.poisoned(3)
    assert one.may_admit(0) == 2


def test_the_earliest_deadline_is_waited_for_and_others_go_ahead_of_it_until_then():
    # B = 2, K = 2, D = 1: group 0 is slow. It is of version 0, so step 2 is its last.
    one = controller(EDF)
    admit(one, 4, published=0)
    for uid in (1, 2, 3):
        one.completed(uid)
    assert one.take(0) == [1, 2]
    admit(one, 2, published=1)
    one.completed(5)
    assert one.take(1) == [3, 5]
    admit(one, 2, published=2)
    one.completed(6), one.completed(7)
    assert one.take(2) is None, "two are ready, but group 0 would be of lag 3 in the next step"
    one.completed(0)
    assert one.take(2) == [0, 6]
    assert one.lags == [4, 1, 1]


def test_by_deadline_what_a_step_took_makes_room_when_its_weights_are_published():
    one = controller(EDF)
    admit(one, 4, published=0)
    one.completed(0), one.completed(1)
    one.take(0)
    assert one.may_admit(0) == 0 and one.may_admit(1) == 2
    one.filtered(2)
    assert one.may_admit(0) == 1 and one.may_admit(1) == 3


def test_without_lag_nothing_is_drawn_until_the_step_is_published():
    one = controller(EDF, lag=0, depth=0)
    admit(one, 2, published=0)
    one.completed(0), one.completed(1)
    assert one.take(0) == [0, 1]
    assert one.may_admit(0) == 0 and one.may_admit(1) == 2


@pytest.mark.parametrize("order", [FIFO, EDF])
def test_a_batch_is_refilled_up_to_a_number_of_groups_and_then_goes_short_or_is_skipped(order):
    # B = 2 and a factor of 2: of the first 4 groups one is kept, of the next 4 none.
    one = controller(order, depth=0, factor=2)
    for step, kept in ((0, [2]), (1, [])):
        for uid in range(4 * step, 4 * step + 4):
            assert one.take(step) is None
            assert one.admit(uid, published=step) == step
            one.completed(uid) if uid in kept else one.filtered(uid)
        assert one.may_admit(step) == 0
        assert one.take(step) == kept
    assert (one.short, one.skipped) == (2, 1)
    one.check()


def test_a_jump_of_the_version_expires_what_cannot_be_in_time_the_newest_first():
    # B = 2, K = 2: four groups of version 0 at version 2, the last that may consume them; it takes two.
    one = controller(EDF)
    admit(one, 4, published=0)
    one.completed(3)
    assert one.expire(2) == [2, 3]
    assert one.aborted == {2} and not one.completed(2) and one.aborted == set()
    assert one.completed(0) and one.completed(1) and one.take(2) == [0, 1]
    assert one.ends == {"consumed": 2, "filtered": 0, "expired": 2, "poisoned": 0}
    one.check()


def test_after_a_restart_groups_that_were_on_their_way_are_of_the_version_that_drew_them():
    for order in (EDF, FIFO):
        one = controller(order)
        admit(one, 4, published=0)
        one.completed(0), one.completed(1)
        one.take(0)
        again = Controller.restore(one.state(), one.limits, order)
        assert again.out == one.out == [(2, 0), (3, 0)] and again.oldest == 0


def test_an_account_that_does_not_balance_is_an_error_with_its_numbers():
    one = controller()
    admit(one, 3, published=0)
    one.filtered(0)
    del one.line.groups[1]
    message = "3 groups were admitted, which is not 0 consumed . 1 filtered . 0 expired . 0 poisoned . 1 in flight"
    with pytest.raises(RuntimeError, match=message):
        one.check()


@pytest.mark.parametrize(("sizes", "message"), [
    ({"batch": 0}, "a step has at least 1 group"),
    ({"batch": 1, "max_refill_factor": 0}, "a step has at least 1 group"),
    ({"batch": 1, "max_policy_lag": -1, "pipeline_depth": 0}, "no group comes from the future"),
    ({"batch": 1, "max_policy_lag": 1, "pipeline_depth": 2}, "pipeline_depth 2 must lie within 0 and max_policy_lag 1"),
    ({"batch": 1, "max_policy_lag": 0}, "lower pipeline_depth or raise max_policy_lag"),
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Limits(**sizes)


def test_what_a_caller_does_wrong_is_refused():
    one = controller()
    with pytest.raises(ValueError, match="the actor has version 1 and the learner has made 0 to 0"):
        one.may_admit(1)
    admit(one, 3, published=0)
    with pytest.raises(ValueError, match="group 2 was admitted and has not come to an end"):
        one.admit(2, published=0)
    one.admit(3, published=0)
    with pytest.raises(ValueError, match="group 4 has no room at version 0: step 0 is due and 4 groups are live"):
        one.admit(4, published=0)
    one.completed(0)
    with pytest.raises(ValueError, match="group 0 is ready, it must be out; every group comes to one end"):
        one.filtered(0)
    with pytest.raises(ValueError, match="group 9 is not in the line, it must be out; every group comes to one end"):
        one.completed(9)
    with pytest.raises(ValueError, match=r"step 0 is due, not a batch for version 1; call expire\(1\)"):
        one.take(1)
    one.completed(1)
    one.take(0)
    with pytest.raises(ValueError, match="the learner is at version 0, and step 1 is due by EarliestDeadline"):
        one.expire(0)
    with pytest.raises(ValueError, match="the learner is at version 2, and step 0 is due by FirstInFirstOut"):
        controller(FIFO).expire(2)


def test_a_state_of_other_limits_or_another_order_is_refused():
    state = controller().state()
    with pytest.raises(ValueError, match="state has limits .*'batch': 2.*, the run has .*'batch': 3.*; go on with"):
        Controller.restore(state, Limits(batch=3), EDF)
    with pytest.raises(ValueError, match="state has order 'EarliestDeadline', the run has 'FirstInFirstOut'"):
        Controller.restore(state, Limits(batch=2), FIFO)


@pytest.mark.parametrize(("change", "message"), [
    ({"admitted": 5}, "5 groups were admitted, which is not 2 consumed"),
    ({"admitted": 3}, "not each there once"),
    ({"groups": [[2, 2, 0, "out"], [2, 3, 0, "out"]]}, "not each there once"),
    ({"groups": [[2, 3, 0, "out"], [3, 2, 0, "out"]]}, "not each there once"),
    ({"groups": [[2, 2, 0, "out"], [3, 3, 2, "out"]]}, r"versions \[0, 2\] do not suit step 1"),
    ({"step": 3}, "do not suit step 3"),
    ({"lags": [2, 0]}, "lags .* are not those of 2 groups"),
    ({"lags": [1, 0, 0]}, "lags .* are not those of 2 groups"),
    ({"groups": [[2, 2, 0, "lost"], [3, 3, 0, "out"]]}, "'lost' is not a valid Standing"),
    ({"stamps": None}, "TypeError"),
])  # fmt: skip
def test_a_damaged_state_is_refused(change, message):
    one = controller()
    admit(one, 4, published=0)
    one.completed(0), one.completed(1)
    one.take(0)
    state = json.loads(json.dumps(one.state()))
    Controller.restore(state, one.limits, EDF)
    with pytest.raises(ValueError, match=f"the controller's state is damaged.*{message}.*take an older checkpoint"):
        Controller.restore({**state, **change}, one.limits, EDF)


def histogram(order, lag, depth):
    """Groups at each lag, and seconds, of 30 steps of 16 groups: lognormal latency, sigma 1.1, at most 2.5 seconds."""
    limits = Limits(batch=16, max_policy_lag=lag, pipeline_depth=depth)

    def latency(random):
        return min(2.5, math.exp(random.gauss(-2.2, 1.1)))

    world = World(Random(0), limits, order, latency, learning=0.05, publishing=0.0, workers=1000, updates=30).run()
    return world.controller.lags, world.time


def test_by_deadline_groups_are_a_third_as_old_as_in_order_and_as_fast():
    # In simulation, seed 0: in turn 30 s; in order 11.9 s, 432 of 480 at lag 3; by deadline 10.4 s, 125, 280, 43, 32.
    (deadline, seconds), (in_order, _), (_, in_turn) = (
        histogram(EDF, 3, 1),
        histogram(FIFO, 3, 3),
        histogram(FIFO, 0, 0),
    )
    assert in_order == [16, 16, 16, 432]
    assert sum(deadline) == 480 and sum(lag * count for lag, count in enumerate(deadline)) / 480 < 1.0
    assert seconds < 0.5 * in_turn


def test_who_is_ready_first_is_within_no_bound():
    lags, _ = histogram(ReadyFirst(3), 1000, 3)
    assert sum(lags[4:]) > 0 and max(lag for lag, count in enumerate(lags) if count) > 10
