"""Completions of a stage's prompts: whose they are, what of them counts, and that a run goes on with the same ones."""

from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from distill import FromTeacher, OnPolicy, load_weights
from distill.data.loader import Loader
from distill.data.manifest import Count, Manifest
from distill.hold import Bfloat16
from distill.launch import run_experiment
from distill.loop import Interrupted
from distill.mesh import Mesh
from distill.scribe import Scribe, find_scribe, prompt_of
from distill.state import create
from distill.step import Step
from distill.teacher import LiveTeacher, Silent
from losses import Constant, Distill, NoGate, PutRight, ReverseKL, SampledReverseKL
from models.config import Layer
from models.execution import Execution
from models.request import Completion, Request
from models.tokenizer import Bytes
from tests.distill.small import MOE, assert_close, experiment, interrupt, learner, stage

END, PAD = Bytes().end, Bytes().pad
SMALL = replace(MOE, vocab=272, layers=1, pattern=(Layer(rope=True, moe=False),))
SOFT = Distill(soft=ReverseKL(), gate=NoGate())


@dataclass(frozen=True)
class Mirror:
    """A corpus of questions: 2 to 4 digits, and the same backwards."""

    plain: bool = False
    """without answers"""

    def documents(self, split):
        """Twenty of them."""
        found = [str(7 * n + 11) for n in range(20)]
        answers = ({} if self.plain else {"answer": word[::-1].encode()} for word in found)
        return [
            {"text": f"{word}=".encode(), "domain": "text", **more} for word, more in zip(found, answers, strict=True)
        ]

    def manifest(self):
        """Counts."""
        splits = {split: {"text": Count(20)} for split in ("train", "held_out")}
        return Manifest(name="mirror", hash="mirror", sha256="mirror", basis="nothing", splits=splits)


HALF = OnPolicy(fraction=0.5)


def scribe(rollout=HALF, rows=8, length=12, seed=0):
    return Scribe(rollout=rollout, rows=rows, length=length, stop=END, pad=PAD, execution=Execution(), seed=seed)


@pytest.fixture(scope="module")
def batch():
    return next(Loader(rows=8, length=12).batches(Mirror()))


@pytest.fixture(scope="module")
def state():
    return create(learner(model=SMALL), 4, Mesh().build(), 0)


@pytest.fixture(scope="module")
def voice():
    return LiveTeacher(create(learner("teacher", model=SMALL), 1, Mesh().build(), 7).weights)


def same(one, other):
    return np.array_equal(one.tokens, other.tokens) and np.array_equal(one.mask, other.mask)


def test_a_question_is_a_row_of_which_the_answer_counts(batch):
    for row in range(8):
        question, answer = Bytes().decode(prompt_of(batch, row)).removeprefix("<|begin_of_text|>").split("=")
        assert answer == "" and Bytes().decode(batch.labels[row][batch.mask[row]]) == question[::-1] + "<|end_of_text|>"


def test_a_question_knows_its_domain():
    found = next(Loader(rows=4, length=12, domains=("other", "text")).batches(Mirror()))
    assert found.domains is not None and np.all(found.domains[found.segments > 0] == 1)


def test_what_counts_is_what_was_generated_however_long_the_answer_was(batch):
    one = scribe()
    requests = [Request(prompt=row, sample=1, tokens=prompt_of(batch, row), limit=4) for row in range(2)]
    words = [np.array([70, 71, 72, 73]), np.array([END])]
    found = [
        Completion(prompt=row, sample=1, tokens=tokens, logprobs=np.zeros(len(tokens)), stopped=bool(tokens[-1] == END))
        for row, tokens in enumerate(words)
    ]
    new = one.written(batch, requests, found)
    assert [int(new.mask[row].sum()) for row in range(2)] == [4, 1]
    assert [new.labels[row][new.mask[row]].tolist() for row in range(2)] == [word.tolist() for word in words]
    first = len(requests[0].tokens)
    assert new.tokens[0].tolist() == [*requests[0].tokens, 70, 71, 72, 73, *[PAD] * (8 - first)]
    assert new.segments[0].tolist() == [1] * (first + 4) + [0] * (8 - first)
    assert same(new, replace(new, tokens=np.concatenate((new.tokens[:2], batch.tokens[2:]))))


def test_the_loss_is_divided_by_what_was_generated(batch, state, voice):
    one = learner(model=SMALL, loss=SOFT)
    new, facts = scribe(replace(HALF, tokens=2))(batch, (state,), voice, 1)
    _, metrics = jax.jit(Step((one,), 4, Execution()))((state,), voice, jax.tree.map(lambda x: x[None], new))
    drawn = 4 * facts["rollout/tokens"]
    assert float(metrics["student/loss"].count) == drawn + batch.mask[4:].sum() != batch.mask.sum()
    assert drawn <= 8


def test_a_completion_follows_from_weights_step_and_seed_alone(batch, state, voice):
    first, facts = scribe()(batch, (state,), voice, 3)
    assert same(first, scribe()(batch, (state,), voice, 3)[0])
    assert 0.0 <= facts["rollout/stopped"] <= 1.0 <= facts["rollout/tokens"] <= 12
    assert not same(first, scribe()(batch, (state,), voice, 4)[0])
    assert not same(first, scribe(seed=1)(batch, (state,), voice, 3)[0])


def test_at_temperature_zero_chance_has_no_part(batch, state, voice):
    cold = scribe(replace(HALF, temperature=0.0))
    assert same(cold(batch, (state,), voice, 1)[0], cold(batch, (state,), voice, 2)[0])


def test_the_student_writes_its_own_rows_and_the_teacher_its(batch, state, voice):
    cold = {"temperature": 0.0, "fraction": 0.5}
    own, _ = scribe(OnPolicy(**cold))(batch, (state,), voice, 1)
    taught, _ = scribe(FromTeacher(**cold))(batch, (state,), voice, 1)
    swapped, _ = scribe(OnPolicy(**cold))(batch, (replace(state, weights=voice.weights),), voice, 1)
    assert not same(own, taught) and same(taught, swapped)


@pytest.mark.parametrize(("fraction", "counts"), [(0.0, [0] * 4), (0.3, [1, 1, 2, 1]), (0.5, [2] * 4), (1.0, [4] * 4)])
def test_the_share_of_rows_is_kept_over_the_steps(fraction, counts):
    one = scribe(OnPolicy(fraction=fraction), rows=4)
    assert [one.chosen(number) for number in range(1, 5)] == counts


def test_rows_that_nobody_completes_stay_as_they_are(batch, state, voice):
    new, _ = scribe()(batch, (state,), voice, 1)
    assert np.array_equal(new.tokens[4:], batch.tokens[4:]) and np.array_equal(new.labels[4:], batch.labels[4:])
    assert not np.array_equal(new.labels[:4], batch.labels[:4])
    assert scribe(OnPolicy(fraction=0.0))(batch, (state,), voice, 1) == (batch, {})


def taught(*learners, **changes):
    """An experiment whose second stage has completions."""
    teach = stage(learner("teacher", model=SMALL), name="teach", steps=2, length=12, rows=4)
    settings = {"name": "own", "teacher": "teacher", "rollout": OnPolicy(), "length": 12, "rows": 4, "steps": 4}
    settings |= {"save_every": 2, "log_every": 1, "stream": 1} | changes
    return experiment(
        stages=(teach, stage(*learners or (learner(model=SMALL, loss=SOFT),), **settings)), corpus=Mirror()
    )


@pytest.mark.parametrize(("make", "message"), [
    (lambda: OnPolicy(fraction=1.5), r"fraction=1.5.*: fraction must lie within 0 and 1"),
    (lambda: FromTeacher(fraction=-0.1), r"fraction=-0.1.*: fraction must lie within 0 and 1"),
    (lambda: OnPolicy(temperature=-1.0), r"temperature=-1.0.*: temperature must be 0"),
    (lambda: FromTeacher(tokens=0), r"tokens=0.*: tokens must be at least 1"),
    (lambda: taught(teacher=None), "completions need a teacher that is there and finished"),
    (lambda: taught(store="somewhere"), "completions need a teacher that is there and finished.*store='somewhere'"),
    (lambda: taught(teacher_on=Mesh()), "what it is to judge is not known ahead"),
    (lambda: taught(length=512), "who writes it has 512 positions; set --stages.N.length 511 or less"),
    (lambda: taught(learner(model=replace(SMALL, max_positions=600)), length=512, rollout=FromTeacher()),
     "who writes it has 512 positions"),
    (lambda: taught(learner("a", model=SMALL, loss=SOFT), learner("b", model=SMALL, loss=SOFT)),
     r"\['a', 'b'\] would each have to read rows of its own"),
    (lambda: taught(learner(model=SMALL)), "'student' would learn its own draws as if they were true"),
    (lambda: taught(learner(model=SMALL, loss=Distill(alpha=Constant(0.5), gate=NoGate()))), "as if they were true"),
    (lambda: taught(learner(model=SMALL, loss=replace(SOFT, lens=PutRight()))), "as if they were true"),
    (lambda: taught(learner(model=SMALL, loss=SampledReverseKL()), rollout=None), "right for its own draws .* alone"),
    (lambda: taught(learner(model=SMALL, loss=SampledReverseKL()), rollout=FromTeacher()), "set rollout=OnPolicy()"),
    (lambda: taught(learner(model=SMALL, loss=SampledReverseKL()), rollout=OnPolicy(fraction=0.5)), "own draws"),
    (lambda: taught(learner(model=SMALL, loss=SampledReverseKL()), rollout=OnPolicy(temperature=0.7)), "own draws"),
])  # fmt: skip
def test_what_cannot_be_completed_or_teaches_nothing_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_who_only_reads_needs_no_room_to_write():
    many = taught(learner(model=replace(SMALL, max_positions=12)), rollout=FromTeacher())
    assert many.stages[1].length == 12


def test_several_students_may_read_what_the_teacher_wrote():
    many = taught(learner("a", model=SMALL), learner("b", model=SMALL), rollout=FromTeacher())
    assert len(many.stages[1].learners) == 2


def test_a_corpus_without_prompts_is_refused():
    one = taught()
    with pytest.raises(ValueError, match=r"which completes prompts, and .* have \['domain', 'text'\]; bring one of"):
        find_scribe(replace(one, corpus=Mirror(plain=True)), one.stages[1])


def test_who_writes_computes_as_it_is_held():
    for rollout, dtype in ((FromTeacher(), "bfloat16"), (OnPolicy(), "float32")):
        one = taught(rollout=rollout, teacher_as=Bfloat16())
        found = find_scribe(one, one.stages[1])
        assert isinstance(found, Scribe) and found.execution.dtype == dtype


def test_a_stage_without_rollout_leaves_its_batches_alone(batch):
    assert find_scribe(taught(), taught().stages[0])(batch, (), Silent(), 1) == (batch, {})


def test_a_stage_of_own_rows_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    one = taught(rollout=HALF, rows=8)
    run_experiment(one, tmp_path / "whole", quiet=True)
    interrupt(monkeypatch, "own", 3)
    with pytest.raises(Interrupted, match="stopped in stage own after step 3 of 4"):
        run_experiment(one, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    run_experiment(one, tmp_path / "run", quiet=True)
    both = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "whole")]
    assert both[0] == both[1] and b"rollout/tokens" in both[0]
    weights = [load_weights(tmp_path / name, "own", "student") for name in ("run", "whole")]
    assert_close(*weights, tolerance=0)
