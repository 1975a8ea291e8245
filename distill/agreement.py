"""What the processes of a run agree on: none goes its own way over a file that only it could not read."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

WORDS = 1000
"""bytes of what process 0 says to the others"""


def gather(value: int) -> list[int]:
    """`value` of every process, in their order."""
    if jax.process_count() == 1:
        return [value]
    return [int(one) for one in multihost_utils.process_allgather(np.uint32(value)).ravel()]


class Elsewhere(ValueError):
    """Process 0 said why it cannot go on; this one only heard of it."""


def by_first(do: Callable[[], Any]) -> Any:
    """What `do` returns in process 0, which alone does it; in the others None, once it is done.

    Raises:
      Elsewhere: it failed in process 0, which raises what it raised.
    """
    if jax.process_count() == 1:
        return do()
    result, error = None, None
    if jax.process_index() == 0:
        try:
            result = do()
        except Exception as caught:
            error = caught
    said = "" if error is None else f"{type(error).__name__}: {error}"
    heard = np.zeros(WORDS, np.uint8)
    heard[: len(said.encode()[:WORDS])] = np.frombuffer(said.encode()[:WORDS], np.uint8)
    reason = bytes(np.asarray(multihost_utils.broadcast_one_to_all(heard))).rstrip(b"\0").decode(errors="replace")
    if error is not None:
        raise error
    if reason:
        raise Elsewhere(f"process 0 cannot go on: {reason}")
    return result


def attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """What `read` returns, and why it failed, in this process or another; the reason is empty where all could read.

    Out of memory is not damage: it is raised, not returned as a reason.
    """
    result, reason = None, ""
    try:
        result = read()
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # orbax, tensorstore and json raise a dozen types over a damaged file
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        logging.debug("a file could not be read", exc_info=error)
    if any(gather(int(bool(reason)))) and not reason:
        reason = "another process could not read it"
    return result, reason
