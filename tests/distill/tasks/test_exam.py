"""An exam counts exact answers, each question asked several times."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.state import Weights
from distill.tasks.exam import Exam
from distill.tasks.small import Small
from models.config import SCOUT_PICO, Layer, tiny
from models.llama4 import Llama4
from models.request import Request
from models.sampler import Sampler
from models.tokenizer import Bytes

MODEL = replace(tiny(SCOUT_PICO), pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=False)), layers=2)
EXAM, BYTES = Exam(attempts=3, tokens=6, slots=8), Bytes()
ITEMS = Small(tasks=("reverse", "sort"), levels=(0, 1), train=2, held_out=2)()


@pytest.fixture(scope="module")
def weights():
    """A model to which all tokens are alike: its head is zero."""
    model = jax.jit(lambda key: Llama4(MODEL, key))(jax.random.key(0))
    model.head = model.head.replace(jnp.zeros_like(model.head[...]))
    return Weights(model, None)


def test_what_is_counted_is_what_the_sampler_draws_with_this_seed(weights):
    marks = EXAM(weights, ITEMS, BYTES)
    prompts = [BYTES.document(item.text)[:-1] for item in ITEMS]
    capacity = max(map(len, prompts)) + 6
    sampler = Sampler(slots=8, capacity=capacity, piece=16, stride=6, stop=(BYTES.end,), seed=0)
    requests = [
        Request(prompt=i, sample=s, tokens=prompt, limit=6) for i, prompt in enumerate(prompts) for s in range(3)
    ]
    drawn = list(sampler(weights.model, requests))
    sizes = [np.mean([len(one.tokens) for one in drawn if one.prompt == i]) for i in range(len(ITEMS))]
    np.testing.assert_allclose(marks.tokens, sizes)
    np.testing.assert_allclose(marks.surprise, np.log(272), rtol=1e-5)  # all tokens are alike
    assert (marks.attempts == 3).all() and (marks.successes == 0).all() and (marks.greedy == 0).all()


def test_an_answer_that_equals_the_right_one_counts(weights):
    (item, *_) = ITEMS
    (one,) = (each for each in Sampler(slots=1, capacity=40, piece=16, stride=6, stop=(BYTES.end,))(
        weights.model, [Request(prompt=0, sample=0, tokens=BYTES.document(item.text)[:-1], limit=6)]))  # fmt: skip
    exam, text = Exam(), BYTES.decode(one.tokens)
    longer = np.append(one.logprobs, one.logprobs[:1])
    ended = replace(one, tokens=np.array([*one.tokens, BYTES.end]), logprobs=longer, stopped=True)
    assert exam._right(replace(item, answer=text), ended, BYTES)
    assert not exam._right(replace(item, answer=text), replace(ended, stopped=False), BYTES)
    assert not exam._right(replace(item, answer=f"{text}x"), ended, BYTES)


def test_cells_are_apart_by_task_and_level(weights):
    cells = EXAM(weights, ITEMS, BYTES).cells()
    assert list(cells) == ["reverse/0", "reverse/1", "sort/0", "sort/1"]
    assert all(len(one.items) == len(one.successes) == len(one.tokens) == 4 for one in cells.values())
    assert {item.level for item in cells["sort/1"].items} == {1}
