"""Weights on their way to other processes: whole or not there, by every way; what cannot be says so."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from distill.items import named_leaves
from distill.mesh import Mesh
from distill.rl import publishing, pulled, ray_cluster
from distill.rl.on_disk import OnDisk
from distill.rl.publishing import Across, Form
from distill.rl.pulled import Pulled, PullSource
from distill.rl.ray_actors import RayActors
from distill.rl.ray_worker import Shelf
from distill.state import Weights
from models.llama4 import Llama4
from tests.distill.rl.begun import MODEL, STAGE

FORM = Form(model=MODEL, biased=False, dtype="float32", mesh=Mesh(first=2))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights(Llama4(MODEL, jax.random.key(0)), None)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


@pytest.mark.parametrize("way", [OnDisk(), Pulled()], ids=["on disk", "pulled"])
def test_a_version_arrives_bit_for_bit_on_the_mesh_of_who_asks(way, weights, tmp_path):
    across = Across(Mesh().build(), "float32", way.begin(FORM, tmp_path))
    across.publish(3, weights)
    found = across.source(3).get(3, 60.0)
    assert_same(found, weights)
    assert {leaf.sharding.device_set == {jax.devices()[2]} for leaf in jax.tree.leaves(found)} == {True}
    assert_same(across.get(3), weights)


def test_weights_go_to_a_folder_in_the_dtype_that_they_are_published_in(weights, tmp_path):
    form = replace(FORM, dtype="bfloat16")
    across = Across(Mesh().build(), "bfloat16", OnDisk().begin(form, tmp_path))
    across.publish(0, weights)
    assert across.source(0).get(0, 1.0).model.embed[...].dtype == jnp.bfloat16


def test_a_version_that_is_not_sent_in_time_says_which_and_by_what_way(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "PATIENCE", 0.1)
    stuck, carrier = threading.Event(), OnDisk().begin(FORM, tmp_path)
    monkeypatch.setattr(carrier, "send", lambda version, named: stuck.wait())
    message = "version 3 was not sent to other processes within 0.1 seconds, by DiskCarrier; look at the way there"
    with pytest.raises(TimeoutError, match=message):
        Across(Mesh().build(), "float32", carrier).publish(3, weights)
    stuck.set()


def test_who_asks_before_a_version_is_there_waits_and_never_sees_half_of_it(weights, tmp_path, monkeypatch):
    carrier = OnDisk().begin(FORM, tmp_path)
    with pytest.raises(TimeoutError, match=r"version 1 was not in .* within 0.2 s; there are \[\]"):
        carrier.source(1).get(1, 0.2)

    class Slow(ocp.StandardCheckpointer):
        """Takes its time between writing and renaming."""

        def save(self, path, *rest, **more):
            half = path.with_name(f"{path.name}.orbax-checkpoint-tmp")
            half.mkdir(parents=True)
            time.sleep(0.3)
            half.rmdir()
            super().save(path, *rest, **more)

    monkeypatch.setattr(ocp, "StandardCheckpointer", Slow)
    writing = threading.Thread(target=carrier.send, args=(1, named_leaves(weights)))
    writing.start()
    assert_same(carrier.source(1).get(1, 60.0), weights)
    writing.join()


def test_versions_that_nobody_draws_with_go_and_so_does_what_an_earlier_life_left(weights, tmp_path):
    across = Across(Mesh().build(), "float32", OnDisk().begin(FORM, tmp_path))
    for version in (8, 9, 10):
        across.publish(version, weights)
    across.forget(9)
    (folder,) = (tmp_path / "published").iterdir()
    assert {path.name for path in folder.iterdir()} == {"9", "10"} and across.versions.keys() == {9, 10}
    OnDisk().begin(FORM, tmp_path)
    assert not folder.exists()


def test_another_process_reads_a_version(weights, tmp_path):
    across = Across(Mesh().build(), "float32", OnDisk(folder=str(tmp_path)).begin(FORM, tmp_path / "unused"))
    across.publish(5, weights)
    code = f"""
from pathlib import Path
import jax, numpy as np
from distill.mesh import Mesh
from distill.rl.on_disk import DiskSource
from distill.rl.publishing import Form
from tests.distill.rl.begun import MODEL
form = Form(model=MODEL, biased=False, dtype="float32", mesh=Mesh())
found = DiskSource(form, Path({str(across.source(5).folder)!r})).get(5, 5.0)
print(sum(np.abs(leaf).astype(np.float64).sum() for leaf in jax.device_get(jax.tree.leaves(found))))
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    own = sum(np.abs(leaf).astype(np.float64).sum() for leaf in jax.device_get(jax.tree.leaves(weights)))
    assert float(said) == own


def test_arrays_of_another_model_are_refused(weights):
    named = dict(named_leaves(weights))
    named.pop("model.embed")
    with pytest.raises(ValueError, match=r"arrays that came are not the \d+ of this model; .* the same version"):
        FORM.joined(named)


def test_a_version_that_does_not_come_is_not_waited_for_for_ever(monkeypatch):
    class Silent:
        """Whoever promised it is gone."""

        def pull(self, promise, asked):
            time.sleep(0.3)

    monkeypatch.setattr(pulled, "_connection", lambda address: Silent())
    with pytest.raises(TimeoutError, match=r"version 2 did not come from 10.0.0.1:1 within 0.1 seconds"):
        PullSource(FORM, "10.0.0.1:1", 7).get(2, 0.1)


class Given:
    """A source that counts how often it is asked."""

    asked = 0

    def get(self, version, patience=None):
        self.asked += 1
        return Weights(None, None)


def test_a_worker_gets_a_version_once_and_says_which_it_lacks():
    shelf, source = Shelf(), Given()
    assert shelf.missing([4, 5]) == {4, 5}
    shelf.add({4: source}, 4)
    assert shelf.get(4) is shelf.get(4) and source.asked == 1
    shelf.add({5: source}, 5)
    assert shelf.missing([4, 5]) == {4}


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"actors on several hosts need Ray: pip install 'herd-distill\[ray\]'"):
        ray_cluster.ray_module()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: RayActors(workers=0), "workers and deaths must be at least 1"),
        (
            lambda: replace(STAGE, actors=RayActors(), actor_on=Mesh(first=1)).check({}, Mesh()),
            "stage 'rl': actor_on=Mesh.* is of the learner's process, and Ray's workers have others; use actors.mesh",
        ),
    ],
)
def test_workers_that_cannot_be_are_refused(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()
