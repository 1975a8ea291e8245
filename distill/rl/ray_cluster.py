"""A cluster of Ray's (extra: `ray`): one of this machine's own, or one that runs already."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def ray_module() -> Any:
    """Ray.

    Raises:
      ValueError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # and a call after the end does not start another cluster
    os.environ.setdefault("RAY_worker_niceness", "0")  # of 15, as Ray has it, workers beside a learner hardly ever run
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ValueError("actors on several hosts need Ray: pip install 'herd-distill[ray]'") from error


@contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[Any]:
    """Ray, connected: to a cluster, or to one that is started on this machine and ends with the block.

    A connection that this process has already is used, and stays.

    Args:
      address: of a cluster, or "auto" for the one that this machine is part of; None: one of its own.
      cpus: that one of its own has to share out.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    own = {"num_cpus": cpus, "include_dashboard": False} if address is None else {"address": address}
    # Workers say through their results what is wrong, and not by printing here.
    ray.init(**own, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        ray.shutdown()
