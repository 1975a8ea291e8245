"""An exam: a model answers the questions of a pool, several times each, and exact answers are counted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from distill.state import Weights
from distill.tasks.item import Item
from distill.tasks.score import Strict
from models.execution import Execution
from models.request import Completion, Request
from models.sampler import Sampler
from models.sampling import Sampling
from models.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False, kw_only=True)
class Marks:
    """What became of each question, in the order of the items."""

    items: tuple[Item, ...]
    attempts: Int[np.ndarray, "n"]
    successes: Int[np.ndarray, "n"]
    greedy: Int[np.ndarray, "n"]
    """1 where the likeliest answer is right"""
    tokens: Float[np.ndarray, "n"]
    """of an answer, on average, its stop token included"""
    surprise: Float[np.ndarray, "n"]
    """-log p of an answer's tokens, nats a token: in expectation the entropy of what the model says"""
    said: tuple[str, ...]
    """the likeliest answer"""

    def where(self, task: str | None = None, level: int | None = None) -> "Marks":
        """Those of a task, a level, or both."""
        kept = [
            i
            for i, item in enumerate(self.items)
            if (task is None or item.task == task) and (level is None or item.level == level)
        ]
        columns = {name: vars(self)[name][kept] for name in ("attempts", "successes", "greedy", "tokens", "surprise")}
        told = {name: tuple(vars(self)[name][i] for i in kept) for name in ("items", "said")}
        return replace(self, **told, **columns)

    def cells(self) -> dict[str, "Marks"]:
        """Apart by task and level, as `reverse/1`."""
        names = sorted({(item.task, item.level) for item in self.items})
        return {f"{task}/{level}": self.where(task, level) for task, level in names}


@dataclass(frozen=True, kw_only=True)
class Exam:
    """How questions are asked."""

    attempts: int = 16
    tokens: int = 12
    """of an answer, at most; one that has not ended by then is wrong"""
    temperature: float = 1.0
    slots: int = 64
    seed: int = 0
    scorer: Strict = Strict()

    def __call__(
        self, weights: Weights, items: Iterable[Item], tokenizer: Tokenizer, execution: Execution | None = None
    ) -> Marks:
        """The marks of a model.

        Raises:
          ValueError: a question and its answer do not fit the model.
        """
        items = tuple(items)
        prompts = [np.asarray(tokenizer.document(item.text)[:-1], np.int32) for item in items]
        sampler = Sampler(
            slots=self.slots,
            capacity=max(len(prompt) for prompt in prompts) + self.tokens,
            piece=16,
            stride=self.tokens,
            sampling=Sampling(temperature=self.temperature),
            stop=(tokenizer.end,),
            seed=self.seed,
            execution=execution or Execution(),
        )
        right, size, surprise = (np.zeros(len(items)) for _ in range(3))
        for one in sampler(weights.model, self._requests(prompts, self.attempts), weights.bias):
            right[one.prompt] += self._right(items[one.prompt], one, tokenizer)
            size[one.prompt] += len(one.tokens)
            surprise[one.prompt] -= one.logprobs.sum()
        likeliest = replace(sampler, sampling=Sampling(temperature=0.0))
        greedy, said = np.zeros(len(items), int), [""] * len(items)
        for one in likeliest(weights.model, self._requests(prompts, 1), weights.bias):
            greedy[one.prompt] = self._right(items[one.prompt], one, tokenizer)
            said[one.prompt] = tokenizer.decode(one.tokens[:-1] if one.stopped else one.tokens)
        return Marks(
            items=items,
            attempts=np.full(len(items), self.attempts),
            successes=right.astype(int),
            greedy=greedy,
            tokens=size / self.attempts,
            surprise=surprise / size,
            said=tuple(said),
        )

    def _requests(self, prompts: Sequence[Int[np.ndarray, "_"]], attempts: int) -> list[Request]:
        return [
            Request(prompt=number, sample=sample, tokens=prompt, limit=self.tokens)
            for number, prompt in enumerate(prompts)
            for sample in range(attempts)
        ]

    def _right(self, item: Item, one: Completion, tokenizer: Tokenizer) -> bool:
        return one.stopped and self.scorer.judge(item.question, tokenizer.decode(one.tokens[:-1])).right
