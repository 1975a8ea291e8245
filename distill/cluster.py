"""The processes of a run: how they find each other before a device is touched, what they share, how they stop.

A process joins others when it is told of them (the supervisor does so, see `distill.supervise`), or when it stands in a
Slurm job of several tasks or on a TPU slice of several hosts, which JAX then asks for the rest:

    HERD_COORDINATOR    host:port of process 0; together with the next two
    HERD_PROCESSES      how many there are
    HERD_PROCESS        which one this is, from 0
    HERD_CLUSTER        auto: ask JAX's own detection whatever there is; off: be alone, whatever there is
    HERD_HEARTBEAT      seconds without a sign of life after which the others take a process for dead, and stop
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
from jax.experimental import multihost_utils

COORDINATOR, PROCESSES, PROCESS = "HERD_COORDINATOR", "HERD_PROCESSES", "HERD_PROCESS"
CLUSTER, HEARTBEAT, PROGRESS = "HERD_CLUSTER", "HERD_HEARTBEAT", "HERD_PROGRESS"
SECONDS = 100
"""without a sign of life, where nothing else is asked for"""
NOTICED = 75
"""exit code (EX_TEMPFAIL) of each of several processes that saved and stopped, as one of them was told to"""
USAGE = 2
"""exit code of a command line that was refused: it would be again"""
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Told:
    """What a process was told of the others."""

    coordinator: str
    processes: int
    process: int


def told(environment: Mapping[str, str]) -> Told | None:
    """What the environment says of other processes; None where it says nothing.

    Raises:
      ValueError: it says a part of it, or what cannot be.
    """
    names = (COORDINATOR, PROCESSES, PROCESS)
    there = [name for name in names if environment.get(name)]
    if not there:
        return None
    if len(there) < len(names):
        missing = [name for name in names if name not in there]
        raise ValueError(f"{there} are set and {missing} are not; set all of {[*names]}, or none of them")
    processes, process = _number(environment, PROCESSES, 1), _number(environment, PROCESS, 0)
    if process >= processes:
        raise ValueError(f"{PROCESS} is {process} of {processes}; it must be 0 to {processes - 1}")
    host, _, port = environment[COORDINATOR].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{COORDINATOR} is {environment[COORDINATOR]!r}; it must be host:port, such as node1:8476")
    return Told(environment[COORDINATOR], processes, process)


def surrounded(environment: Mapping[str, str]) -> bool:
    """Whether this looks like one of several processes, of which JAX finds out by itself.

    Raises:
      ValueError: HERD_CLUSTER is neither auto nor off.
    """
    asked = environment.get(CLUSTER) or ""
    if asked not in ("", "auto", "off"):
        raise ValueError(f"{CLUSTER} is {asked!r}; it must be auto (JAX looks for the others), off (alone), or unset")
    if asked:
        return asked == "auto"
    if all(name in environment for name in SLURM) and _number(environment, "SLURM_NTASKS", 1, "1") > 1:
        return True
    if (environment.get("JAX_PLATFORMS") or "tpu").partition(",")[0] != "tpu":
        return False
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or environment.get("MEGASCALE_COORDINATOR_ADDRESS"):
        return True
    # A TPU machine of Google Cloud has its chips here, and its neighbours in its metadata.
    chips = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return chips and find_spec("libtpu") is not None


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of the run, if there are any; once, and before a device is touched.

    Raises:
      ValueError: settings that cannot be, or it comes too late.
    """
    given, seconds = told(environment), _number(environment, HEARTBEAT, 1, str(SECONDS))
    if jax.distributed.is_initialized() or not (given or surrounded(environment)):
        return
    options: dict[str, Any] = {"heartbeat_timeout_seconds": seconds, "shutdown_timeout_seconds": max(seconds, 10)}
    if given is not None:
        options |= {"coordinator_address": given.coordinator, "num_processes": given.processes}
        options |= {"process_id": given.process, "cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(**options)
    except RuntimeError as error:
        if "must be called before" not in str(error):
            raise
        raise ValueError(
            f"a device was used before the processes joined ({error}); make no array where the experiment is defined"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"JAX cannot find the other processes here ({error}); set {CLUSTER}=off to be alone, or tell of them by "
            f"{COORDINATOR}, {PROCESSES} and {PROCESS}"
        ) from error


def first() -> bool:
    """Whether this process speaks for all: writes and prints."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def settled(tree: Tree) -> Tree:
    """What a program over the devices of all processes returns, waited for where it must be.

    Processes of several CPU devices each deadlock in gloo when a program is dispatched while another is under way.
    """
    if several() and jax.local_device_count() > 1 and jax.default_backend() == "cpu":
        return jax.block_until_ready(tree)
    return tree


def mark(stage: str, step: int, environment: Mapping[str, str] = os.environ) -> None:
    """Tells the supervisor, if there is one, how far the checkpoints are."""
    if PROGRESS in environment:
        Path(environment[PROGRESS]).write_text(f"{stage} {step}")


@runtime_checkable
class Notice(Protocol):
    """Whether the run is to save and stop."""

    def is_set(self) -> bool:
        """Whether it was told to."""
        ...


class Shared:
    """A notice to one process that all hear at the same question: so all of them ask, in step.

    SIGTERM is the notice; JAX's own handler takes it, and agrees with the others on a question that none has asked yet.
    Questions are counted by the process, not by the run: a notice between two runs is heard at the next question.
    """

    _asked = 0

    def __init__(self) -> None:
        self._told = False

    def is_set(self) -> bool:
        """Whether one of the processes was told to stop."""
        if not self._told:
            Shared._asked += 1
            self._told = multihost_utils.reached_preemption_sync_point(Shared._asked)
        return self._told


@contextmanager
def stopping() -> Iterator[Notice]:
    """A notice that Ctrl-C or SIGTERM gives, so that a stage can save and stop; a second Ctrl-C stops at once."""
    asked = threading.Event()
    together = several()

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        if together:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX passes on to the others

    notice = Shared() if together else asked
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    heard = (signal.SIGINT,) if together else (signal.SIGINT, signal.SIGTERM)
    old = {each: signal.signal(each, ask) for each in heard}
    try:
        yield notice
    finally:
        for each, handler in old.items():
            signal.signal(each, handler)


def _number(environment: Mapping[str, str], name: str, least: int, default: str = "") -> int:
    said = environment.get(name) or default
    if not said.isdecimal() or int(said) < least:
        raise ValueError(f"{name} is {said!r}; it must be a whole number of at least {least}")
    return int(said)
