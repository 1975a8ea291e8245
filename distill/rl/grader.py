"""A process that grades: python distill/rl/grader.py module:Name '{"parameter": 1}'; module may be a path, my.py:Name.

It reads requests, {"id", "question", "answer"}, a line each, and answers {"id", "reward"} or {"id", "failed"}; first of
all {"id": null}, when it is ready. Nothing of the project is imported, and not jax, so that it starts at once. What the
reward prints goes to stderr: the pipes of the protocol lie where a print does not reach. At the end of its requests,
and so when whoever started it is gone, it ends.

With --ward in place of a reward it watches over the others: it reads +123 and -123 for a group of processes that began
and ended, and at the end of its requests kills those that are left, whatever they are at and whatever they started.
"""

import contextlib
import importlib
import importlib.util
import json
import math
import numbers
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

LONGEST = 500
"""characters of a reason"""


def load(where: str, parameters: Mapping[str, Any]) -> Callable[[Mapping[str, Any], str], float]:
    """The reward of class `Name` in `module:Name` or `path/to/file.py:Name`.

    Raises:
        ValueError: `where` has another form, or what it names cannot be called.
    """
    module, _, name = where.rpartition(":")
    if not module or not name:
        raise ValueError(f"{where!r} must be module:Name or path/to/file.py:Name")
    if module.endswith(".py"):
        path = Path(module).absolute()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ValueError(f"{path} is not a file of Python")
        sys.path.insert(0, str(path.parent))
        found = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    else:
        found = importlib.import_module(module)
    if name not in vars(found):
        raise ValueError(f"{module} has no {name}")
    made: Any = vars(found)[name]
    reward: Any = made(**parameters)
    if not isinstance(reward, Callable):
        raise ValueError(f"{where} with {dict(parameters)} is not a reward: it cannot be called")
    return reward


def grade(reward: Callable[[Mapping[str, Any], str], float], request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request: a finite reward, or why there is none."""
    try:
        value = reward(request["question"], request["answer"])
        if not isinstance(value, numbers.Real):
            return {"failed": f"returned {value!r}, which is a {type(value).__name__}, not a number"[:LONGEST]}
        value = float(value)
    except BaseException as error:  # sys.exit() too is a way to fail
        return {"failed": describe(error)}
    return {"reward": value} if math.isfinite(value) else {"failed": f"returned {value}"}


def describe(error: BaseException) -> str:
    """What was raised, in a line, even if it cannot say so itself."""
    try:
        return f"raised {type(error).__name__}: {error}"[:LONGEST]
    except BaseException:
        return f"raised {type(error).__name__}"


def serve(where: str, parameters: str, requests: BinaryIO, answers: int) -> None:
    """Answers requests until there are no more."""
    own = os.getpid()

    def say(identity: int | None, answer: Mapping[str, Any]) -> None:
        if os.getpid() != own:  # a copy of this process, left behind by a reward that forked
            os._exit(1)
        line = memoryview(json.dumps({"id": identity, **answer}).encode() + b"\n")
        while line:
            line = line[os.write(answers, line) :]

    try:
        reward = load(where, json.loads(parameters))
    except BaseException as error:
        return say(None, {"failed": describe(error)})
    say(None, {})
    for line in requests:
        request = json.loads(line)
        say(request["id"], grade(reward, request))


def ward(requests: BinaryIO) -> None:
    """Kills the groups of processes that are left when the requests end."""
    groups: set[int] = set()
    for line in requests:
        group = int(line[1:])
        groups = groups | {group} if line.startswith(b"+") else groups - {group}
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Serves on stdin and stdout, which are put out of the reward's reach first."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    if arguments == ["--ward"]:
        return ward(requests)
    where, parameters, *folders = arguments
    sys.path[:] = [*folders, *(folder for folder in sys.path if folder not in folders)]
    serve(where, parameters, requests, answers)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main(sys.argv[1:])
    os._exit(0)  # threads of a reward do not hold it
