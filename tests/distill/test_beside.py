"""A teacher that learns beside its students, learners that start alike, batches that are changed, figures by domain."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.checkpoint import Checkpoints
from distill.data.batch import Batch
from distill.data.loader import Loader
from distill.data.manifest import SPLITS, Count, Manifest
from distill.evaluate import evaluate
from distill.launch import run_experiment
from distill.mesh import Mesh
from distill.run import load_run
from distill.state import Weights, create, parts, whole
from distill.step import Step
from distill.teacher import LiveTeacher, Silent
from distill.trained import load_weights
from losses import Balance, Distill, Domain, Evidence, NoGate
from models.execution import Execution
from tests.distill.small import MOE, WIDE, assert_close, batch, experiment, learner, stage, states, take

TEACHER, STUDENT = learner("teacher", model=WIDE), learner("student", loss=Distill(gate=NoGate(), chunk=5))
BYTES = replace(MOE, vocab=272)


def test_the_teacher_learns_as_if_alone_and_teaches_as_it_was_before_the_step():
    start = states(TEACHER, STUDENT)
    step = jax.jit(Step((TEACHER, STUDENT), 10, Execution(), (), "teacher"))
    (taught, told), metrics = step(start, Silent(), batch())
    (alone,), _ = take([TEACHER], start[:1])
    assert_close(taught.weights, alone.weights)
    (wanted,), figures = take([STUDENT], start[1:], LiveTeacher(start[0].weights))
    assert_close(told.weights, wanted.weights)
    np.testing.assert_allclose(metrics["student/soft"].mean(), figures["student/soft"], rtol=1e-5)
    assert "teacher/soft" not in metrics


def test_a_teacher_beside_others_speaks_by_the_mean_of_its_weights_over_the_recent_steps():
    step = jax.jit(Step((TEACHER, STUDENT), 10, Execution(), (), "teacher", average=3.0))
    now = tuple(create(one, 10, Mesh().build(), 0, averaged=one is TEACHER) for one in (TEACHER, STUDENT))
    seen = []
    for _ in range(3):
        now, _ = step(now, Silent(), batch())
        seen.append(now[0].weights.model)
    # eta = 3: the last of i steps weighs 4 / (i + 3), so after three steps they weigh 1/15, 4/15 and 10/15
    wanted = jax.tree.map(lambda a, b, c: (a + 4.0 * b + 10.0 * c) / 15.0, *seen)
    assert_close(now[0].average, wanted)
    (told,), _ = take([STUDENT], now[1:], LiveTeacher(Weights(now[0].average, None)))
    assert_close(step(now, Silent(), batch())[0][1].weights, told.weights)
    assert now[1].average is None


@pytest.mark.parametrize("gate", [Evidence(), Evidence(scope=Domain(count=2)), Balance()], ids=str)
def test_what_a_gate_remembers_comes_back_from_a_checkpoint(gate, tmp_path):
    one = learner(loss=Distill(gate=gate, chunk=5))
    start, (knows,) = states(one), states(TEACHER)
    voice = LiveTeacher(knows.weights)
    now, _ = take([one], start, voice, [batch(0), batch(1)])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(now[0].memory))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, {"student": parts(now[0])})
        checkpoints.wait()
        found = whole(checkpoints.restore({"student": parts(start[0])}).trees["student"])
    jax.tree.map(np.testing.assert_array_equal, found.memory, now[0].memory)
    onwards, again = (take([one], held, voice, [batch(2)])[0][0] for held in (now, (found,)))
    jax.tree.map(np.testing.assert_array_equal, parts(onwards), parts(again))


def test_only_a_teacher_that_learns_keeps_a_mean_of_its_weights():
    beside = stage(TEACHER, STUDENT, teacher="teacher")
    assert [beside.averages(one) for one in beside.learners] == [True, False]
    assert not any(replace(beside, average=None).averages(one) for one in beside.learners)
    with pytest.raises(ValueError, match="average is -1.0; it must be 0"):
        experiment(stages=(replace(beside, average=-1.0),))


def test_a_teacher_beside_nobody_is_refused():
    with pytest.raises(ValueError, match="needs others to teach, and no store"):
        experiment(stages=(stage(TEACHER, teacher="teacher"),))
    with pytest.raises(ValueError, match="needs others to teach, and no store"):
        experiment(stages=(stage(TEACHER, STUDENT, teacher="teacher", store="somewhere"),))


def test_twins_of_a_name_start_equal_and_others_do_not():
    one, two, other = (learner(name, twin=twin) for name, twin in (("a", "x"), ("b", "x"), ("c", None)))
    first, second, third = states(one, two, other)
    assert_close(first.weights, second.weights, 0.0)
    assert not np.array_equal(first.weights.model.embed[...], third.weights.model.embed[...])


@dataclass(frozen=True)
class Two:
    """Documents of digits and of letters, in turn."""

    def documents(self, split):
        random = np.random.default_rng(split == "train")
        kinds = ("digits", b"0123456789"), ("letters", b"abcdefghij")
        return [
            {"text": bytes(random.choice(list(letters), 60).astype(np.uint8)), "domain": name}
            for _ in range(40)
            for name, letters in kinds
        ]

    def manifest(self):
        splits = {split: {"digits": Count(40), "letters": Count(40)} for split in SPLITS}
        return Manifest(name="two", hash="0" * 12, sha256="0" * 64, basis="none", splits=splits)


@pytest.fixture
def text():
    return Two()


@dataclass(frozen=True)
class Blank:
    """Every label becomes a blank."""

    def __call__(self, batch: Batch) -> Batch:
        return replace(batch, labels=np.full_like(batch.labels, 32))


def test_training_batches_are_changed_and_held_out_ones_are_not(text):
    loader, plain = (Loader(rows=2, length=8, change=change) for change in (Blank(), None))
    one, other = next(loader.batches(text)), next(plain.batches(text))
    assert (one.labels == 32).all() and not (other.labels == 32).all()
    np.testing.assert_array_equal(one.tokens, other.tokens)
    for a, b in zip(loader.held_out_batches(text, 2), plain.held_out_batches(text, 2), strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)


def test_tokens_know_their_domain(text):
    names = text.manifest().domains
    assert len(names) == 2
    found = next(Loader(rows=8, length=16, domains=names).batches(text))
    digit = (found.tokens >= 48) & (found.tokens <= 57)
    letter = (found.tokens >= 97) & (found.tokens <= 106)
    assert set(found.domains[digit]) == {names.index("digits")} and set(found.domains[letter]) == {
        names.index("letters")
    }


def test_held_out_figures_by_domain_make_up_the_whole(text):
    names = text.manifest().domains
    (weights,) = (state.weights for state in states(learner(model=BYTES)))
    batches = [jax.tree.map(jnp.asarray, x) for x in Loader(rows=8, length=16, domains=names).held_out_batches(text, 2)]
    score = evaluate({"one": weights}, Silent(), batches, Execution(), names)["one"]
    counts = [sum(int((x.mask & (x.domains == i)).sum()) for x in batches) for i in range(2)]
    mean = sum(n * score.domains[name] for n, name in zip(counts, names, strict=True)) / sum(counts)
    np.testing.assert_allclose(mean, score.cross_entropy, rtol=1e-5)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counted:
    """A live teacher that counts its passes."""

    teacher: LiveTeacher
    passes: list[int] = field(metadata={"static": True})

    def __hash__(self):
        return id(self)

    def signal(self, batch):
        """What the teacher says."""
        jax.debug.callback(lambda: self.passes.append(1))
        return self.teacher.signal(batch)


def test_models_are_scored_together_as_they_are_alone_and_their_teacher_is_asked_once_a_batch():
    one, two, knows = (state.weights for state in states(learner("one"), learner("two"), TEACHER))
    batches, voice = [jax.tree.map(lambda x: x[0], batch(seed)) for seed in range(3)], LiveTeacher(knows)
    passes: list[int] = []
    found = evaluate({"one": one, "two": two}, Counted(voice, passes), batches, Execution())
    jax.effects_barrier()
    assert len(passes) == 3
    assert found == {
        name: evaluate({name: weights}, voice, batches, Execution())[name]
        for name, weights in (("one", one), ("two", two))
    }
    assert found["one"].cross_entropy != found["two"].cross_entropy


def test_a_run_with_a_teacher_beside_its_student_is_logged_by_domain_and_ends(text, tmp_path):
    two = learner("teacher", model=replace(WIDE, vocab=272)), learner("student", model=BYTES)
    one = experiment(stages=(stage(*two, name="both", teacher="teacher", steps=4, rows=4, log_every=1),), corpus=text)
    results = run_experiment(one, tmp_path / "run", quiet=True)
    figures = {row["name"]: row for row in results["models"]}
    assert figures["student"]["kl"] is not None and figures["teacher"]["kl"] is None
    assert set(figures["student"]["domains"]) == {"digits", "letters"}
    lines = [line for line in load_run(tmp_path / "run").metrics() if line["kind"] == "train"]
    assert {"student/alpha_digits", "student/alpha_letters", "teacher/hard_digits"} <= set(lines[0])
    assert load_weights(tmp_path / "run", "both", "teacher").model.config == two[0].model
