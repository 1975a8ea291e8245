"""Rewards for tests: what a model that has hardly begun gets right half of the time."""


class Even:
    """1 for an answer with an even number of characters."""

    def __call__(self, question, answer):
        return float(len(answer) % 2 == 0)


class Broken:
    """Nobody's."""

    def __call__(self, question, answer):
        raise ZeroDivisionError("the reward is broken")
