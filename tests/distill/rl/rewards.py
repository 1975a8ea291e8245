"""Rewards for tests: what a model that has hardly begun gets right half of the time. They import no jax."""

import hashlib
import json
import os
import signal
import time


class Even:
    """1 for an answer with an even number of characters, after a number of seconds."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __call__(self, question, answer):
        time.sleep(self.seconds)
        return float(len(answer) % 2 == 0)


class Broken:
    """Nobody's."""

    def __call__(self, question, answer):
        raise ZeroDivisionError("the reward is broken")


class Faulty:
    """As `Even`, but at a share of questions and answers, always the same, it raises, hangs or kills its process.

    It writes down every time that it does, a line in the file `log`.
    """

    def __init__(self, log, raises=0.0, hangs=0.0, dies=0.0):
        self.log, self.raises, self.hangs, self.dies = log, raises, hangs, dies

    def __call__(self, question, answer):
        asked = json.dumps([question, answer], sort_keys=True).encode()
        chance = int.from_bytes(hashlib.sha256(asked).digest()[:4], "little") / 2**32
        if chance < self.raises:
            self.note("raise")
            raise ZeroDivisionError("the reward raises")
        if chance < self.raises + self.hangs:
            self.note("hang")
            time.sleep(1000)
        if chance < self.raises + self.hangs + self.dies:
            self.note("die")
            os.kill(os.getpid(), signal.SIGKILL)
        return float(len(answer) % 2 == 0)

    def note(self, what):
        with open(self.log, "a") as file:
            file.write(what + "\n")
