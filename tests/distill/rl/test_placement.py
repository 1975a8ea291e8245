"""Placement: device counts from measured speeds, by hand."""

import itertools
import json
import random
import sys
from dataclasses import replace

import pytest

from distill.mesh import Mesh
from distill.metrics import Metrics
from distill.resolved import to_json
from distill.rl import placement
from distill.rl.placement import Role, Scaling, balance, measure, table
from distill.rl.ray_actors import RayActors
from distill.run import Run
from tests.distill.rl.begun import STAGE

LEARNER, ACTOR = Role(name="learner", tokens=1000.0, speed=100.0), Role(name="actor", tokens=3000.0, speed=100.0)


def test_who_has_three_times_the_work_gets_three_times_the_devices():
    assert balance([LEARNER, ACTOR], 8) == {"learner": 2, "actor": 6}


def test_a_count_that_a_role_cannot_use_is_not_given_and_what_would_not_help_is_left():
    paired = replace(LEARNER, counts=(1, 2, 4, 8))
    # Two learn in 5 s; the actor's sixth device would bring it from 6 s to 5 s, and there is none.
    assert balance([paired, ACTOR], 7) == {"learner": 2, "actor": 5}
    # Two learners would need 5 s whatever the actor has; four need 2.5 s, and nine draw in 30 / 9.
    assert balance([paired, ACTOR], 13) == {"learner": 4, "actor": 9}


def test_a_third_role_takes_part():
    teacher = Role(name="teacher", tokens=2000.0, speed=200.0)
    assert balance([LEARNER, ACTOR, teacher], 10) == {"learner": 2, "actor": 6, "teacher": 2}


def test_devices_that_add_half_their_speed_are_worth_half_as_much():
    half = Scaling(efficiency=0.5)
    assert half.seconds(ACTOR, 3) == 3000 / (100 * 2)
    assert balance([LEARNER, ACTOR], 8, half) == {"learner": 2, "actor": 6}  # 6.7 s and 8.6 s; one less is 10 s


def test_no_placement_is_better_than_the_balanced_one():
    chance = random.Random(0)
    for _ in range(100):
        roles = [
            Role(name=name, tokens=float(chance.randint(1, 99)), speed=float(chance.randint(1, 9)),
                 counts=chance.choice([None, (1, 2, 4, 8)]))
            for name in ("learner", "actor", "teacher")
        ]  # fmt: skip
        devices = chance.randint(3, 12)
        scaling = Scaling(efficiency=chance.choice([0.3, 1.0]))
        found = balance(roles, devices, scaling)
        choices = [[n for n in role.counts or range(1, devices + 1) if n <= devices] for role in roles]
        best = min(
            max(scaling.seconds(role, n) for role, n in zip(roles, each, strict=True))
            for each in itertools.product(*choices)
            if sum(each) <= devices
        )
        assert max(scaling.seconds(role, found[role.name]) for role in roles) == best
        assert sum(found.values()) <= devices


def made(folder, drawn, **changes):
    """A run whose updates take 2 s, of which the learner waits 1.5; 32 tokens are drawn in 0.4 s, 24 learned from."""
    config = {"schema": 1, "mesh": to_json(Mesh()), "stages": [to_json(replace(STAGE, **changes))]}
    (folder / "config.json").write_text(json.dumps(config))
    with Metrics(folder) as metrics:
        metrics.time("begin", 1, seconds=9.0)
        for step, count in enumerate(drawn, start=1):
            seconds = 52.0 if step == 1 else 2.0  # programs are compiled
            metrics.time(
                "rl", step, seconds=seconds, learner_idle=1.5 / seconds, actor_idle=1.6 / seconds, drawn=float(count),
                learner_tokens_per_second=24 / seconds, actor_tokens_per_second=32 / seconds,
            )  # fmt: skip
    return Run(folder)


def test_speeds_are_those_of_a_run_once_it_is_warm(tmp_path):
    found = measure(made(tmp_path, [32, 64, 96, 128], actor_on=Mesh(data=2, first=1)))
    learner, actor = found.roles
    assert (learner.tokens, learner.speed) == pytest.approx((24, 48))
    assert (actor.tokens, actor.speed) == pytest.approx((32, 40))  # 80 tokens/s of two
    assert (found.counts, found.seconds, found.updates) == ({"learner": 1, "actor": 2}, 2.0, 2)
    assert learner.counts == (1, 2, 4, 8, 16) and not found.shared


def test_a_learner_has_as_many_devices_as_divide_the_rows_of_a_micro_batch(tmp_path):
    found = measure(made(tmp_path, [32, 64, 96], updates=2, max_policy_lag=3, accumulate=2))
    assert found.roles[0].counts == (1, 2, 4)


def test_the_count_of_tokens_begins_anew_with_every_start_and_so_does_the_warming_up(tmp_path):
    found = measure(made(tmp_path, [32, 64, 96, 32, 64, 96]))
    assert found.roles[1].tokens == pytest.approx(32) and found.updates == 2 and found.shared


def test_workers_of_ray_have_devices_of_their_own(tmp_path):
    found = measure(made(tmp_path, [32, 64, 96], actors=RayActors(workers=3, mesh=Mesh(fsdp=2))))
    assert found.counts == {"learner": 1, "actor": 6} and found.roles[1].counts == (2, 4, 6, 8) and not found.shared
    assert found.roles[1].speed == pytest.approx(80 / 6)


def test_the_table_says_what_was_predicted_and_what_was_achieved(tmp_path):
    run = made(tmp_path, [32, 64, 96, 128], actor_on=Mesh(first=1))
    said = "\n".join(table(measure(run), measure(run), 3, Scaling()))
    assert "predicted 0.500 s, achieved 2.000 s (4.00 times) over 2 updates" in said
    assert "balanced over 3 devices predicted 0.400 s, 0 left over" in said
    assert "assumed: n devices do the work of 1 + 1 (n - 1)" in said


def test_the_command_prints_it(tmp_path, monkeypatch, capsys):
    made(tmp_path, [32, 64, 96])
    monkeypatch.setattr(sys, "argv", ["placement", str(tmp_path), "--devices", "2", "--efficiency", "0.9"])
    placement.main()
    assert "1 + 0.9 (n - 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda run: balance([LEARNER, ACTOR], 1), r"1 devices are too few for .*they need 2"),
        (lambda run: Role(name="actor", tokens=0.0, speed=1.0), "actor: 0.0 tokens an update at 1.0 tokens/s"),
        (lambda run: Scaling(efficiency=0.0), "efficiency is 0.0; it must be above 0 and at most 1"),
        (lambda run: measure(run, "dpo"), r"reinforcement learning are \['rl'\], asked for dpo; set --stage"),
        (lambda run: measure(run), "no 3 lines of timings of stage 'rl' after a start"),
    ],
)
def test_what_cannot_be_placed_or_measured_says_why(refused, message, tmp_path):
    run = made(tmp_path, [32, 64])
    with pytest.raises(ValueError, match=message):
        refused(run)
