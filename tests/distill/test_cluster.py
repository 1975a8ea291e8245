"""How processes find each other; two real ones, and what several cannot do yet."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from distill import Mesh
from distill.checkpoint import Checkpoints
from distill.cluster import Shared, Told, join, mark, stopping, surrounded, told
from distill.data.loader import Loader
from distill.data.portion import Portion
from distill.rollout import OnPolicy
from distill.several import check_several
from distill.supervise import free_port
from tests.distill.small import experiment, stage
from tests.distill.test_data_loader import MANY

ROOT = Path(__file__).resolve().parents[2]
WHOLE = {"HERD_COORDINATOR": "node1:8476", "HERD_PROCESSES": "4", "HERD_PROCESS": "3"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def test_a_process_that_is_told_nothing_is_alone():
    assert told({}) is None and told({"HERD_COORDINATOR": ""}) is None and not surrounded({})


def test_a_process_is_told_of_the_others_by_three_settings():
    assert told(WHOLE) == Told("node1:8476", 4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"HERD_PROCESS": ""}, r"are set and \['HERD_PROCESS'\] are not; set all of"),
        ({"HERD_PROCESS": "4"}, "HERD_PROCESS is 4 of 4; it must be 0 to 3"),
        ({"HERD_PROCESS": "-1"}, "HERD_PROCESS is '-1'; it must be a whole number of at least 0"),
        ({"HERD_PROCESSES": "0"}, "HERD_PROCESSES is '0'; it must be a whole number of at least 1"),
        ({"HERD_COORDINATOR": "node1"}, "HERD_COORDINATOR is 'node1'; it must be host:port"),
        ({"HERD_HEARTBEAT": "0"}, "HERD_HEARTBEAT is '0'; it must be a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        join(WHOLE | change)


def test_a_way_of_joining_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"HERD_CLUSTER is 'on'; it must be auto .*, off \(alone\), or unset"):
        join({"HERD_CLUSTER": "on"})


@pytest.mark.parametrize(
    ("environment", "there"),
    [
        (SLURM | {"SLURM_NTASKS": "16"}, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        (SLURM, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, False),  # on the node of the batch script, outside srun
        (SLURM | {"SLURM_NTASKS": "16", "HERD_CLUSTER": "off"}, False),
        ({"HERD_CLUSTER": "auto"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": ""}, True),  # empty is as unset
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a:1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, False),  # a pod is planned, not used
    ],
)
def test_others_are_seen_in_slurm_and_on_tpu_slices(environment, there):
    assert surrounded(environment) == there


def test_joining_after_a_device_was_used_is_refused():
    jax.devices()
    with pytest.raises(ValueError, match="a device was used before the processes joined"):
        join(WHOLE)


def test_who_looks_for_others_where_there_are_none_is_told_what_to_set():
    code = "from distill.cluster import join; join()"
    known = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "HERD_CLUSTER": "auto"}
    said = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, timeout=100).stderr
    assert "ValueError: JAX cannot find the other processes here" in said and "set HERD_CLUSTER=off to be alone" in said


def test_a_supervisor_is_told_of_checkpoints(tmp_path):
    mark("teach", 3, {})
    mark("teach", 5, {"HERD_PROGRESS": str(tmp_path / "progress")})
    assert (tmp_path / "progress").read_text() == "teach 5"


def test_a_notice_to_several_is_asked_for_in_step_and_stays(monkeypatch):
    asked = []
    monkeypatch.setattr(Shared, "_asked", 0)
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.reached_preemption_sync_point", lambda step: asked.append(step) or step == 3
    )
    notice = Shared()
    assert [notice.is_set() for _ in range(5)] == [False, False, True, True, True] and asked == [1, 2, 3]


def test_a_notice_between_two_runs_of_a_process_is_heard_at_the_first_question_of_the_second(monkeypatch):
    point = []  # JAX agrees on the question after the last, and says yes to that one alone
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.reached_preemption_sync_point", lambda step: [step] == point[-1:]
    )
    monkeypatch.setattr(Shared, "_asked", 0)
    one = Shared()
    assert not any(one.is_set() for _ in range(3))
    point.append(4)
    assert Shared().is_set()


def test_ctrl_c_in_one_of_several_becomes_the_notice_to_all(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    heard = []
    old = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))  # where JAX would listen
    try:
        with stopping():
            os.kill(os.getpid(), signal.SIGINT)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, old)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": Mesh()}, r"takes 1 of the 8 devices of 2 processes.*set --mesh.data so that the axes multiply to 8"),
        ({"stages": (stage(rollout=OnPolicy(), teacher=None),)}, "stage 'learn': rollout="),
    ],
)
def test_what_several_processes_cannot_do_is_refused(monkeypatch, changes, message):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    made = experiment(mesh=Mesh(data=8))
    for name, value in changes.items():
        object.__setattr__(made, name, value)  # past the door, which has its own tests
    with pytest.raises(ValueError, match=message):
        check_several(made)


TWO = """
import os, sys, jax, jax.numpy as jnp, numpy as np
from distill import Mesh
from distill import mesh as meshes
from distill.agreement import Elsewhere, by_first
from distill.checkpoint import Checkpoints
from distill.cluster import first, join, several
from distill.data.loader import Loader
from distill.data.portion import Portion
from distill.reading import brought, collected, held_rows, put, spread
from tests.distill.test_data_loader import MANY

join()
assert several() and first() == (os.environ["HERD_PROCESS"] == "0")
try:
    by_first(lambda: 1 / 0)
    raise SystemExit("it failed, and nobody heard of it")
except (ZeroDivisionError, Elsewhere) as error:
    assert isinstance(error, Elsewhere) != first() and "division by zero" in str(error), error
mesh = Mesh(data=2).build()
rows = held_rows(mesh, 4)
assert rows == ([0, 1] if first() else [2, 3]), rows
loader = Loader(rows=4, length=16, window=8)
mine = Portion(lambda reader: loader.batches(MANY, reader, 2), 2, rows, 4)
assert len(mine._readers) == 1  # the other half is the other's
sums = []
for _ in range(3):
    batch = put(next(mine), 1, mesh)
    assert batch.tokens.shape == (1, 4, 16)
    assert brought(jax.jit(lambda x: x[0], out_shardings=meshes.rows(mesh))(batch.tokens)).shape == (2, 16)
    sums.append(jax.jit(lambda x: jnp.sum(x, -1))(batch.tokens))
around = jax.sharding.Mesh(mesh.devices[::-1], mesh.axis_names)  # as on a torus: not in the order of processes
own = np.arange(12).reshape(4, 3)[rows]
over = spread(own, around)
assert held_rows(around, 4) != rows and (brought(over) == own + (6 if first() else -6)).all(), brought(over)
assert (collected(over, around) == own).all()
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
total = jax.jit(jnp.stack, out_shardings=everywhere)(sums)
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(3, {"a": {"weights": {"sums": total}}}, data=mine)
"""


@pytest.mark.timeout(120)
def test_what_two_processes_saved_one_goes_on_from_with_its_place_in_the_data(tmp_path):
    known = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "HERD_HEARTBEAT": "20"}
    known |= {"HERD_COORDINATOR": f"localhost:{free_port()}", "HERD_PROCESSES": "2", "XLA_FLAGS": ""}
    run = [sys.executable, "-c", TWO, str(tmp_path)]
    both = [
        subprocess.Popen(run, env=known | {"HERD_PROCESS": str(n)}, stderr=subprocess.PIPE, text=True) for n in range(2)
    ]
    said = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    loader = Loader(rows=4, length=16, window=8)
    one, other = (Portion(lambda reader: loader.batches(MANY, reader, 2), 2, range(4), 4) for _ in range(2))
    batches = [next(one).tokens for _ in range(5)]
    with Checkpoints(tmp_path) as checkpoints:
        shapes = {"a": {"weights": {"sums": jax.ShapeDtypeStruct((3, 1, 4), np.int32)}}}
        found = checkpoints.restore(shapes, data=other)
    np.testing.assert_array_equal(found.trees["a"]["weights"]["sums"][:, 0], [b.sum(-1) for b in batches[:3]])
    for batch in batches[3:]:
        np.testing.assert_array_equal(next(other).tokens, batch)
