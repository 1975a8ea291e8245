from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import (
    WSLD,
    Balance,
    Batch,
    Belief,
    Dense,
    Domain,
    Evidence,
    Gap,
    Gate,
    LogScore,
    Look,
    Motion,
    NoGate,
    Place,
    Segment,
    Sequence,
    Shrunk,
    TeacherConfidence,
    TeacherGold,
    Token,
    Window,
)  # fmt: skip
from tests.losses.worked import assert_close


def belief(brier):
    """A belief of the given Brier scores: all on the label costs nothing but its square."""
    brier = jnp.asarray(brier, jnp.float32)
    zeros = jnp.zeros_like(brier)
    return Belief(gold=zeros, square=2.0 - brier, entropy=zeros, top=zeros.astype(jnp.int32))


def weigh(gate, advantage, mask=None, segments=None):
    advantage = jnp.asarray(advantage, jnp.float32)
    mask = jnp.ones(advantage.shape, bool) if mask is None else jnp.asarray(mask)
    segments = jnp.ones(advantage.shape, jnp.int32) if segments is None else jnp.asarray(segments)
    place = Place(mask, segments, jnp.zeros_like(segments), gate.init())
    return np.asarray(gate(Look(belief(advantage), belief(0 * advantage), 0 * advantage), place))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_equals_keep_most_of_the_teachers_weight():
    np.testing.assert_allclose(weigh(Evidence(), [[0.0] * 5]), sigmoid(1.0), rtol=1e-6)


def test_a_better_teacher_opens_the_gate_and_a_worse_one_closes_it():
    np.testing.assert_allclose(weigh(Evidence(), [[0.15] * 5]), sigmoid(6.0), rtol=1e-5)
    np.testing.assert_allclose(weigh(Evidence(), [[-0.21] * 5]), sigmoid(-6.0), rtol=1e-4)


def test_a_margin_demands_that_the_teacher_is_clearly_ahead():
    np.testing.assert_allclose(weigh(Evidence(margin=0.06), [[0.0] * 5]), sigmoid(-2.0), rtol=1e-5)


def test_the_mean_is_over_the_window_to_either_side():
    gate = Evidence(kappa=1.0, margin=0.0, scope=Window(size=1))
    want = [np.mean(x) for x in ([0.0, 1.0], [0.0, 1.0, 0.5], [1.0, 0.5, -1.0], [0.5, -1.0])]
    np.testing.assert_allclose(weigh(gate, [[0.0, 1.0, 0.5, -1.0]]), [sigmoid(np.array(want))], rtol=1e-6)


def test_only_labels_that_count_are_averaged():
    gate = Evidence(kappa=1.0, margin=0.0, scope=Window(size=1))
    weights = weigh(gate, [[0.4, 9.0, 0.2]], mask=[[True, False, True]])
    np.testing.assert_allclose(weights, [sigmoid(np.array([0.4, 0.3, 0.2]))], rtol=1e-6)


def test_the_window_does_not_cross_into_the_next_document():
    segments = [[1, 1, 2, 2]]
    before = weigh(Evidence(), [[0.1, 0.1, 0.0, 0.0]], segments=segments)
    after = weigh(Evidence(), [[0.1, 0.1, -0.5, -0.5]], segments=segments)
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert (after[:, 2:] < 0.01).all()


def test_a_window_without_a_label_is_finite():
    assert np.isfinite(weigh(Evidence(), [[0.0, 0.0]], mask=[[False, False]])).all()


def test_the_weight_stays_between_zero_and_one(key):
    weights = weigh(Evidence(kappa=1e-3), jax.random.normal(key, (4, 50)))
    assert (weights >= 0.0).all() and (weights <= 1.0).all()


def test_no_gradient_flows_through_the_gate():
    def total(square):
        student = Belief(gold=-square, square=square, entropy=square, top=jnp.zeros((1, 3), jnp.int32))
        ones = jnp.ones((1, 3), jnp.int32)
        return Evidence()(
            Look(belief([[0.1] * 3]), student, square), Place(ones > 0, ones, ones, Evidence().init())
        ).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.full((1, 3), 0.5)), 0.0)


def test_no_gate_is_one_everywhere():
    np.testing.assert_array_equal(weigh(NoGate(), [[0.5, -0.5]]), 1.0)


GATES = [
    NoGate(), TeacherGold(), TeacherGold(power=2.0), TeacherConfidence(vocab=9), WSLD(), Gap(), Balance(),
    Evidence(), Evidence(scope=Window()), Evidence(scope=Token()), Evidence(scope=Segment()),
    Evidence(scope=Sequence()), Evidence(scope=Batch()), Evidence(scope=Domain()),
    Evidence(score=LogScore(), kappa=0.2),
]  # fmt: skip


def look_at(key, b=2, t=9, v=9):
    """What there is to see of random distributions, and the distributions."""
    keys = jax.random.split(key, 4)
    teacher, student = 3.0 * jax.random.normal(keys[0], (2, b, t, v))
    labels = jax.random.randint(keys[1], (b, t), 0, v)
    p, q = jax.nn.softmax(teacher), jax.nn.softmax(student)
    look = Look(Dense(teacher).belief(labels), Dense(student).belief(labels), jnp.sum(p * q, axis=-1))
    segments = jnp.where(jnp.arange(t) < 5, 1, 2) + jnp.zeros((b, 1), jnp.int32)
    place = Place(jax.random.uniform(keys[2], (b, t)) < 0.8, segments, jax.random.randint(keys[3], (b, t), 0, 2))
    return look, place, np.asarray(p, np.float64), np.asarray(q, np.float64), np.asarray(labels)


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_a_gate_is_bounded_in_float32_and_without_gradient_before_and_after_it_has_seen_something(gate, key):
    look, place, *_ = look_at(key)
    memory = gate.init()
    for _ in range(2):
        here = replace(place, memory=memory)
        weight = gate(look, here)
        assert isinstance(gate, Gate) and weight.dtype == jnp.float32 and weight.shape == (2, 9)
        assert (weight >= 0.0).all() and (weight <= 1.0).all()
        seen = lambda x: replace(look, student=replace(look.student, gold=x))  # noqa: E731
        slope = jax.grad(lambda x, here=here, seen=seen: gate(seen(x), here).sum())(look.student.gold)
        np.testing.assert_array_equal(slope, 0.0)
        memory = gate.update(memory, gate.observe(look, here))
        assert jax.tree.structure(memory) == jax.tree.structure(gate.init())


def test_more_domains_than_a_gate_remembers_are_refused(key):
    look, place, *_ = look_at(key)
    gate = Evidence(scope=Domain(count=2))
    here = replace(place, memory=gate.init(), names=("a", "b", "c"))
    with pytest.raises(ValueError, match="remembers 2 domains, and there are 3: a, b, c; set count to 3"):
        gate(look, here)
    assert gate(look, replace(here, names=("a", "b"))).shape == (2, 9)


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_a_gate_is_finite_at_the_ends_of_belief(gate):
    """Teacher or student certain, of the label or of another."""
    gold = jnp.array([[0.0, -1e30, 0.0, -1e30]])
    zeros = jnp.zeros((1, 4))
    one = Belief(gold=gold, square=jnp.ones((1, 4)), entropy=zeros, top=zeros.astype(jnp.int32))
    two = replace(one, gold=gold[:, ::-1])
    ones = jnp.ones((1, 4), jnp.int32)
    place = Place(ones > 0, ones, 0 * ones, gate.init())
    weight = gate(Look(one, two, zeros), place)
    assert jnp.isfinite(weight).all()
    seen = gate.update(gate.init(), gate.observe(Look(one, two, zeros), place))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(seen))


def test_the_published_gates_are_their_formulas(key):
    look, place, p, q, labels = look_at(key)
    gold_p, gold_q = (np.take_along_axis(x, labels[..., None], -1)[..., 0] for x in (p, q))
    entropy = -(p * np.log(p)).sum(-1)
    for gate, want in (
        (TeacherGold(power=2.0), gold_p**2),
        (TeacherConfidence(vocab=9, power=0.5), np.sqrt(1 - entropy / np.log(9))),
        (WSLD(), 1 - np.exp(-np.log(gold_q) / np.log(gold_p))),
        (Gap(scale=2.0, offset=0.5), sigmoid(0.5 + np.clip(np.log(gold_p / gold_q), -5, 5) / 2.0)),
    ):
        np.testing.assert_allclose(gate(look, place), want, rtol=1e-4, atol=1e-6)


def test_balance_gives_both_targets_gradients_of_one_size(key):
    look, place, p, q, labels = look_at(key)
    gate = Balance(decay=0.9)
    np.testing.assert_allclose(gate(look, replace(place, memory=gate.init())), 0.5)
    memory = gate.update(gate.init(), gate.observe(look, place))
    weight = float(gate(look, replace(place, memory=memory))[0, 0])
    mask = np.asarray(place.mask)
    soft = np.sqrt(((p - q) ** 2).sum(-1)[mask].mean())
    hard = np.sqrt(((np.eye(9)[labels] - q) ** 2).sum(-1)[mask].mean())
    np.testing.assert_allclose(weight * soft, (1 - weight) * hard, rtol=1e-4)


def pooled(scope, values, place, memory=()):
    return np.asarray(scope.pool(jnp.asarray(values), place, memory)[0])


def test_scopes_pool_over_what_they_are_named_after(key):
    _, place, *_ = look_at(key)
    values = np.asarray(jax.random.normal(key, (2, 9)))
    mask, segments = np.asarray(place.mask), np.asarray(place.segments)
    np.testing.assert_allclose(pooled(Token(), values, place), values)
    np.testing.assert_allclose(pooled(Batch(), values, place), values[mask].mean(), rtol=1e-5)
    for b in range(2):
        np.testing.assert_allclose(pooled(Sequence(), values, place)[b], values[b][mask[b]].mean(), rtol=1e-5)
        for document in (1, 2):
            here = mask[b] & (segments[b] == document)
            got = pooled(Segment(shrink=2.0), values, place)[b][segments[b] == document]
            np.testing.assert_allclose(got, values[b][here].sum() / (here.sum() + 2.0), rtol=1e-5)


def test_a_scope_says_how_much_a_position_weighs_in_its_own_pool(key):
    _, place, *_ = look_at(key)
    values = jax.random.normal(key, (2, 9))
    for scope in (Token(), Window(size=2), Segment(), Sequence(), Batch(), Shrunk()):
        memory = jax.tree.map(lambda x: x + 0.5, scope.init())  # where there is one
        mean, own = scope.pool(values, place, memory)
        b, t = map(int, np.argwhere(np.asarray(place.mask))[0])
        moved = scope.pool(values.at[b, t].add(1.0), place, memory)[0]
        np.testing.assert_allclose((moved - mean)[b, t], own[b, t], rtol=1e-4)


def test_a_domain_is_judged_by_the_steps_before():
    scope = Domain(count=3, decay=0.5)
    ones = jnp.ones((1, 4), jnp.int32)
    place = Place(jnp.array([[True, True, True, False]]), ones, jnp.array([[0, 0, 1, 1]]))
    memory = scope.init()
    np.testing.assert_array_equal(pooled(scope, jnp.ones((1, 4)), place, memory), 0.0)
    for values in ([[1.0, 3.0, -1.0, 9.0]], [[4.0, 4.0, 0.0, 9.0]]):
        memory = scope.update(memory, scope.observe(jnp.array(values), place))
    # domain 0 saw 2 then 4, domain 1 saw -1 then 0: the later step weighs twice the earlier
    np.testing.assert_allclose(pooled(scope, jnp.zeros((1, 4)), place, memory), [[10 / 3, 10 / 3, -1 / 3, -1 / 3]])


def test_a_domain_that_a_step_lacks_keeps_its_average():
    scope = Domain(count=2, decay=0.5)
    ones = jnp.ones((1, 2), jnp.int32)
    both, first = (Place(ones > 0, ones, jnp.array([x])) for x in ([0, 1], [0, 0]))
    memory = scope.update(scope.init(), scope.observe(jnp.array([[1.0, 5.0]]), both))
    memory = scope.update(memory, scope.observe(jnp.array([[3.0, 3.0]]), first))
    np.testing.assert_allclose(pooled(scope, jnp.zeros((1, 2)), both, memory)[0, 1], 5.0)


def seen_by(scope, draw, steps=40):
    """The memory after so many batches [8, 64] of one document a row, and the place."""
    ones = jnp.ones((8, 64), jnp.int32)
    place, memory = Place(ones > 0, ones, 0 * ones), scope.init()
    for step in range(steps):
        memory = scope.update(memory, scope.observe(jnp.asarray(draw(step), jnp.float32), place))
    return memory, place


def test_windows_that_differ_by_chance_alone_are_believed_to_be_equal():
    random, scope = np.random.default_rng(0), Shrunk()
    memory, place = seen_by(scope, lambda _: random.normal(0.2, 1.0, (8, 64)))
    assert all(scope.share(level) < 0.15 for level in memory)
    got = pooled(scope, random.normal(0.2, 1.0, (8, 64)), place, memory)
    np.testing.assert_allclose(got, 0.2, atol=0.06)


def test_documents_that_differ_are_believed_and_windows_within_them_are_not():
    random, scope = np.random.default_rng(0), Shrunk()
    rows = np.where(np.arange(8) % 2, 1.0, -1.0)[:, None]
    memory, place = seen_by(scope, lambda _: random.normal(rows, 1.0, (8, 64)))
    near, far = (float(scope.share(level)) for level in memory)
    assert near < 0.15 and 0.95 < far <= 1.0
    got = pooled(scope, random.normal(rows, 1.0, (8, 64)), place, memory)
    np.testing.assert_allclose(got, np.broadcast_to(rows, got.shape), atol=0.45)  # 64 labels: 0.125


def test_windows_that_differ_within_a_document_are_believed():
    random, scope = np.random.default_rng(0), Shrunk()
    halves = np.where(np.arange(64) < 32, 1.0, -1.0)[None]
    memory, place = seen_by(scope, lambda _: random.normal(halves, 1.0, (8, 64)))
    assert scope.share(memory[0]) > 0.7
    got = pooled(scope, random.normal(halves, 1.0, (8, 64)), place, memory)
    assert (np.sign(got) == halves)[:, [*range(28), *range(36, 64)]].all()


def test_the_share_of_a_window_is_its_signal_over_its_signal_and_noise():
    """Rows of mean N(0, s) and labels N(mean, 1): a whole window of 33 has variance s^2 + 1/33, of which s^2 counts."""
    random, scope, spread = np.random.default_rng(1), Shrunk(sizes=(16,)), 33**-0.5
    share = [
        float(scope.share(seen_by(scope, lambda _: random.normal(random.normal(0, spread, (8, 1)), 1, (8, 64)))[0][0]))
        for _ in range(8)
    ]
    # windows at the ends of a row are shorter: down to 17 labels
    assert 0.36 < np.mean(share) < 0.5


def test_halves_of_windows_of_any_size_share_no_label():
    """Of pure noise the two halves of a difference have nothing in common, whether sizes are odd or even."""
    for sizes in ((15, 64), (16, 63)):
        random, scope = np.random.default_rng(2), Shrunk(sizes=sizes)
        memory, _ = seen_by(scope, lambda _, random=random: random.normal(0.0, 1.0, (8, 64)), steps=60)
        for level in memory:
            common, variance = level.halves - level.mean**2, level.square - level.mean**2
            assert abs(common) < 0.15 * variance


def test_before_the_first_step_the_narrowest_window_stands_alone(key):
    _, place, *_ = look_at(key)
    values = jax.random.normal(key, (2, 9))
    assert_close(pooled(Shrunk(), values, place, Shrunk().init()), pooled(Window(), values, place))


def test_a_batch_of_windows_too_short_to_be_halved_changes_no_memory():
    scope, ones = Shrunk(), jnp.ones((1, 6), jnp.int32)
    before = scope.init()
    after = scope.update(before, scope.observe(jnp.ones((1, 6)), Place(ones > 0, ones, ones)))
    assert_close(after, before)


def run_motion(scores, leads, motion):
    """The factor before every step of a teacher with these scores and leads."""
    ones = jnp.ones((1, 1))
    place = Place(ones > 0, ones.astype(jnp.int32), ones.astype(jnp.int32))
    track, factors = motion.init(), []
    for score, lead in zip(scores, leads, strict=True):
        factors.append(float(motion.factor(track)))
        track = motion.update(track, motion.observe(score * ones, lead * ones, ones, place))
    return factors


def test_the_trust_in_a_moving_teacher_is_the_rule_written_out():
    scores, leads = [0.1, 0.2, 0.35, 0.4], [0.05, 0.02, 0.04, -0.5]
    recent = overall = lead = 0.0
    want = [1.0]
    for i, (s, a) in enumerate(zip(scores, leads, strict=True)):
        recent += 4 / (i + 4) * (s - recent)
        overall += 1 / (i + 1) * (s - overall)
        lead += 4 / (i + 4) * (a - lead)
        want.append(max(lead, 0) / (max(lead, 0) + max(recent - overall, 0) + 0.003))
    np.testing.assert_allclose(run_motion([*scores, 0.0], [*leads, 0.0], Motion()), want, rtol=1e-5)


def test_a_finished_teacher_is_trusted_and_one_that_learns_is_not():
    still, moving = np.full(60, 0.4), np.linspace(0.0, 0.5, 60)
    leads = np.full(60, 0.1)
    assert run_motion(still, leads, Motion())[-1] > 0.95
    assert run_motion(moving, leads, Motion())[-1] < 0.5
    assert run_motion(moving, leads, Motion(cost=4.0))[-1] < 0.3
    assert run_motion(moving, leads, Motion(cost=0.0))[-1] == 1.0


def test_the_weight_is_discounted_by_the_teachers_motion():
    look, ones = Look(belief([[0.1] * 5]), belief([[0.0] * 5]), jnp.zeros((1, 5))), jnp.ones((1, 5), jnp.int32)
    gate = Evidence(trust=Motion(cost=4.0))
    spread, track = gate.init()
    moved = replace(track, steps=jnp.ones(()), recent=jnp.ones(()), lead=jnp.ones(()))
    place = Place(ones > 0, ones, 0 * ones, (spread, moved))
    np.testing.assert_allclose(gate(look, place), sigmoid(0.13 / 0.03) / (1 + 4 + 0.003), rtol=1e-5)


def test_observations_add_up_over_the_parts_of_a_batch(key):
    look, place, *_ = look_at(key)
    for gate in (Evidence(), Evidence(scope=Domain()), Balance()):
        here = replace(place, memory=gate.init())
        whole = gate.observe(look, here)
        parts = [
            gate.observe(jax.tree.map(lambda x, b=b: x[b : b + 1], look), replace(jax.tree.map(
                lambda x, b=b: x[b : b + 1], place), memory=gate.init()))
            for b in range(2)
        ]  # fmt: skip
        assert_close(jax.tree.map(jnp.add, *parts), whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Evidence(kappa=0.0), "must be positive"),
        (lambda: Window(size=-1), "0 or more tokens"),
        (lambda: Shrunk(sizes=(7, 64)), "each 8 tokens or more"),
        (lambda: Shrunk(sizes=(64, 16)), "from narrow to wide"),
        (lambda: Shrunk(sizes=()), "one at least"),
        (lambda: Segment(shrink=-1.0), "0 or more labels"),
        (lambda: Domain(decay=1.0), "from 0 to below 1"),
        (lambda: Domain(count=0), "at least one domain"),
        (lambda: TeacherGold(power=0.0), "must be positive"),
        (lambda: TeacherConfidence(vocab=1), "at least 2 tokens"),
        (lambda: Gap(scale=-1.0), "must be positive"),
        (lambda: Balance(decay=1.0), "from 0 to below 1"),
        (lambda: LogScore(limit=0.0), "must be positive"),
        (lambda: Motion(cost=-1.0), "a cost of 0 or more"),
    ],
)
def test_an_impossible_gate_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
