"""A teacher on devices of its own, and how it is held: the same numbers as in the step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import mesh as meshes
from distill.apart import Far, Feed
from distill.data.source import Folder
from distill.hold import AsItIs, Bfloat16, Rounded, held
from distill.launch import run_experiment
from distill.loop import Interrupted
from distill.mesh import Mesh
from distill.step import Step
from distill.teacher import HeardTeacher, LiveTeacher
from losses import Dense, ForwardKL
from models.execution import Execution
from models.quantize import Recipe, weigh_tree
from tests.distill.small import MOE, QUIET, WIDE, assert_close, batch, experiment, interrupt, learner, stage, states
from tests.distill.small import teacher as live

HOME, AWAY = Mesh(data=2, fsdp=2), Mesh(data=4, first=4)
STUDENT = learner(router=QUIET)
ONE = jnp.float32(1.0)


def apart(own: Mesh = AWAY, home: Mesh = HOME) -> tuple[HeardTeacher, Far]:
    """The small teacher on devices of its own."""
    far = Far(live(mesh=own), own.build(), home.build())
    return HeardTeacher(far.head("float32")), far


def put(parts: int = 1, seed: int = 0):
    """A batch on the learners' mesh."""
    return jax.device_put(batch(seed, parts), meshes.rows(HOME.build(), leading=1))


def test_learners_of_a_teacher_apart_move_like_those_of_one_in_their_step():
    voice, far = apart(Mesh(data=2, fsdp=2, first=4))
    step = jax.jit(Step((STUDENT,), 10, Execution()), donate_argnums=0)
    here, there = states(STUDENT, mesh=HOME), states(STUDENT, mesh=HOME)
    for seed in range(2):
        rows = put(parts=2, seed=seed)
        here, wanted = step(here, live(mesh=HOME), rows)
        there, found = step(there, voice, far.hear(rows))
    assert_close(jax.device_get(there[0].weights), jax.device_get(here[0].weights))
    assert_close(*({name: float(tally.mean()) for name, tally in one.items()} for one in (found, wanted)))


def test_only_hidden_states_cross_and_they_and_the_head_lie_where_the_learners_are():
    voice, far = apart()
    heard = far.hear(put()).heard
    assert heard.shape == (1, 8, 16, WIDE.width)
    home = set(HOME.build().devices.flat)
    assert heard.sharding.device_set == voice.head.sharding.device_set == home
    assert not home & far._teacher.weights.model.head[...].sharding.device_set


def test_held_out_text_without_micro_batches_is_heard_too():
    _, far = apart()
    one = jax.tree.map(lambda x: x[0], put())
    np.testing.assert_allclose(far.hear(one).heard, far.hear(put()).heard[0], rtol=1e-6, atol=1e-6)


class Counted:
    """Batches whose domains are their number, from 1."""

    place = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.place += 1
        return replace(batch(rows=1), domains=np.full((1, 1), self.place))

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def number(of):
    """Which batch it is."""
    return int(of.domains[0, 0])


def test_the_batch_after_is_prepared_ahead_and_given_back_where_the_place_is_saved():
    prepared, counted = [], Counted()
    feed = Feed(counted, lambda one: prepared.append(number(one)) or one, early=True)
    assert number(next(feed)) == 1
    feed.ahead()
    assert prepared == [1, 2] and number(next(feed)) == 2
    feed.ahead()
    feed.rewind()
    assert counted.get_state() == {"place": 2} and number(next(feed)) == 3


def test_a_feed_that_has_nobody_to_ask_reads_nothing_ahead():
    counted = Counted()
    feed = Feed(counted, lambda one: one, early=False)
    next(feed)
    feed.ahead()
    assert counted.place == 1


@pytest.mark.parametrize(
    ("hold", "nats"), [(Bfloat16(), 1e-3), (Rounded(), 1e-3), (Rounded(recipe=Recipe(bits=4)), 0.2)]
)
def test_a_teacher_held_in_fewer_bits_weighs_less_and_says_nearly_the_same(hold, nats):
    one, mesh = live(), Mesh().build()
    small = LiveTeacher(replace(one.weights, model=held(one.weights.model, hold, mesh)), hold.execution(one.execution))
    assert weigh_tree(small.weights) < 0.7 * weigh_tree(one.weights)
    part = jax.tree.map(lambda x: jnp.asarray(x[0]), batch())
    whole, rough = (voice.signal(part).log_probs(ONE) for voice in (one, small))
    assert 0.0 < float(ForwardKL()(Dense(whole), rough, ONE).mean()) < nats


def test_norms_and_routers_of_a_teacher_in_bfloat16_stay_in_float32():
    model = held(live().weights.model, Bfloat16(), Mesh().build())
    block = model.periods.blocks[0]
    assert {block.attention_norm.scale[...].dtype, block.feed_forward.router[...].dtype} == {np.dtype("float32")}
    assert model.embed[...].dtype == block.attention.q[...].dtype == jnp.bfloat16


def test_a_teacher_held_as_it_is_is_not_copied():
    model = live().weights.model
    assert held(model, AsItIs(), Mesh().build()) is model


def small(folder, **changes):
    """A teacher, then a student that hears it from elsewhere."""
    plain = {"steps": 4, "save_every": 2, "log_every": 1}
    stages = (
        stage(learner("teacher", model=replace(WIDE, vocab=272)), name="teach", **(plain | {"steps": 1})),
        stage(learner(model=replace(MOE, vocab=272)), name="distil", teacher="teacher", **plain, **changes),
    )
    return experiment(corpus=Folder(str(folder)), stages=stages, mesh=Mesh(data=2))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(random.choice(["one", "two", "three"], 60)))
    return folder


@pytest.mark.slow
def test_a_run_with_a_teacher_apart_that_was_cut_a_batch_ahead_goes_on_to_the_same_bits(text, tmp_path, monkeypatch):
    far = small(text, teacher_on=Mesh(data=2, first=2), accumulate=2)
    whole = run_experiment(far, tmp_path / "whole", quiet=True)
    interrupt(monkeypatch, "distil", 1)
    with pytest.raises(Interrupted, match="after step 1 of 4"):
        run_experiment(far, tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    again = run_experiment(far, tmp_path / "cut", quiet=True)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [row["kl"] for row in again["models"]] == [row["kl"] for row in whole["models"]]


@pytest.mark.parametrize(("changes", "message"), [
    ({"teacher_on": Mesh(data=2)}, "overlap: .*takes devices 0 to 1, .* set --stages.N.teacher-on.first 2"),
    ({"teacher_on": Mesh(data=3, first=2)}, "8 rows a batch do not divide"),
    ({"teacher_on": Mesh(first=2), "store": "somewhere"}, "what 'teacher' said is read from 'somewhere'"),
    ({"teacher_as": Bfloat16(), "teacher": None}, "a frozen teacher in memory, and there is none"),
    ({"teacher_as": Rounded(), "learners": (learner("teacher"), learner())}, "'teacher' learns beside its students"),
])  # fmt: skip
def test_a_teacher_that_cannot_be_held_so_is_refused(text, changes, message):
    teach, distil = small(text).stages
    with pytest.raises(ValueError, match=message):
        replace(small(text), stages=(*([] if "learners" in changes else [teach]), replace(distil, **changes)))


def test_a_mesh_beyond_the_last_device_says_so():
    with pytest.raises(ValueError, match=r"Mesh\(data=4, fsdp=1\) from device 6 on needs 10 devices, found 8"):
        Mesh(data=4, first=6).build()
    with pytest.raises(ValueError, match="first is -1; devices are numbered from 0"):
        Mesh(first=-1)


def test_several_processes_are_refused(monkeypatch):
    teacher, mesh = live(), Mesh().build()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="lives apart within one process, and there are 2"):
        Far(teacher, mesh, mesh)


def test_the_tiny_form_has_one_device():
    one = replace(stage(learner(), teacher="teacher"), teacher_on=AWAY)
    from distill.tiny import tiny_stage

    assert tiny_stage(one, {"student": MOE}).teacher_on is None
