"""What the processes of a run agree on: none goes its own way over a file that only it could not read."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def gather(value: int) -> list[int]:
    """`value` of every process, in their order."""
    if jax.process_count() == 1:
        return [value]
    return [int(one) for one in multihost_utils.process_allgather(np.uint32(value)).ravel()]


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
