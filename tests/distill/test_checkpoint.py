"""Checkpoints: whole or not at all, checked when read back."""

import gc
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from distill.checkpoint import Checkpoints
from distill.retention import Retention

ROOT = Path(__file__).resolve().parents[2]


class Layer(nnx.Module):
    def __init__(self, key, width):
        self.w = nnx.Param(jax.random.normal(key, (3, width)), axes=("d", "f"))


class Model(nnx.Module):
    def __init__(self, key, width=4):
        self.embed = nnx.Param(jnp.ones((5, 3), jnp.bfloat16), axes=("v", "d"))
        self.periods = jax.vmap(lambda one: Layer(one, width))(jax.random.split(key, 2))
        self.tail = nnx.List([Layer(key, width)])


def state(seed, width=4):
    model = Model(jax.random.key(seed), width)
    rest = {"opt": optax.adamw(1e-3).init(model), "step": jnp.int32(seed), "bias": None}
    return {"scout": {"model": model, "rest": rest}}


def shapes(width=4):
    return jax.eval_shape(lambda: state(0, width))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def saved(folder, *steps, **options):
    with Checkpoints(folder, Retention(last=9), **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), meta={"seen": step})


def test_restoring_gives_back_the_saved_trees_and_meta(tmp_path):
    saved(tmp_path, 3)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(shapes())
    assert restored.step == 3 and restored.meta == {"seen": 3}
    assert same(restored.trees, state(3))


def test_an_error_of_the_run_waits_for_the_save_under_way(tmp_path):
    with pytest.raises(KeyError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state(3))
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_the_layout_on_disk_is_one_item_per_learner_and_part_by_name(tmp_path):
    saved(tmp_path, 3)
    assert {"scout.model", "scout.rest", "manifest"} <= {path.name for path in (tmp_path / "3").iterdir()}
    text = (tmp_path / "3" / "scout.model" / "_METADATA").read_text()
    assert "('periods', 'w')" in text and "('tail', '0', 'w')" in text


def test_the_newest_is_restored(tmp_path):
    saved(tmp_path, 1, 2, 10)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2, 10]
        assert checkpoints.restore(shapes()).step == 10
        assert same(checkpoints.restore(shapes(), step=2).trees, state(2))


def test_the_parameters_of_one_learner_are_read_without_its_optimizer(tmp_path):
    saved(tmp_path, 3)
    shutil.rmtree(tmp_path / "3" / "scout.rest")
    with Checkpoints(tmp_path, writable=False) as checkpoints:
        model = checkpoints.restore({"scout": {"model": shapes()["scout"]["model"]}}).trees["scout"]["model"]
    assert same(model, state(3)["scout"]["model"])


def test_arrays_may_be_donated_while_the_save_is_under_way(tmp_path):
    big = {"scout": {"model": {"w": jnp.arange(3_000_000.0)}}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, big)
        big = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)(big)
        jax.block_until_ready(big)
        restored = checkpoints.wait() or checkpoints.restore(big)
    assert np.array_equal(restored.trees["scout"]["model"]["w"], np.arange(3_000_000, dtype=np.float32))


def test_a_data_iterator_goes_on_where_it_stood(tmp_path):
    import grain

    def fresh():
        return iter(grain.MapDataset.range(40).shuffle(seed=1).batch(4).to_iter_dataset())

    data = fresh()
    next(data)
    next(data)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state(2), data=data)
        expected = [next(data).tolist() for _ in range(3)]
        checkpoints.wait()
        again = fresh()
        checkpoints.restore(shapes(), data=again)
    assert [next(again).tolist() for _ in range(3)] == expected


def test_a_changed_place_in_the_data_is_seen(tmp_path):
    import grain

    def fresh():
        return iter(grain.MapDataset.range(40).to_iter_dataset())

    data = fresh()
    next(data)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), data=data)
        checkpoints.wait()
        place = tmp_path / "1" / "data" / "process_0-of-1.json"
        place.write_text(place.read_text().replace("1", "2"))
        with pytest.raises(ValueError, match="the place in the data was changed"):
            checkpoints.restore(shapes(), data=fresh())


def test_a_checkpoint_without_the_place_in_the_data_cannot_set_an_iterator(tmp_path):
    saved(tmp_path, 1)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="does not hold the place in the data; restore without it"),
    ):
        checkpoints.restore(shapes(), data=object())


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    "damage", [flip, *(pytest.param(one, marks=pytest.mark.slow) for one in (truncate, os.remove))]
)
def test_damage_to_any_file_is_either_seen_or_harmless(tmp_path, damage):
    saved(tmp_path / "whole", 1, 2)
    files = [file for file in sorted((tmp_path / "whole" / "2").rglob("*")) if file.is_file() and file.stat().st_size]
    steps = []
    for file in files:
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "whole", copy)
        damage(copy / file.relative_to(tmp_path / "whole"))
        with warnings.catch_warnings(record=True) as caught, Checkpoints(copy) as checkpoints:
            warnings.simplefilter("always")
            restored = checkpoints.restore(shapes())
        assert same(restored.trees, state(restored.step)) and restored.meta == {"seen": restored.step}
        told = [str(one.message) for one in caught if "is damaged" in str(one.message)]
        assert len(told) == (restored.step == 1) and all(str(copy / "2") in message for message in told)
        steps.append(restored.step)
        shutil.rmtree(copy)
        gc.collect()  # what orbax left behind complains here, not in another test
    assert steps.count(1) >= 5  # the arrays, their metadata and the manifest


def test_an_array_that_came_back_changed_is_named(tmp_path):
    saved(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "2" / "scout.model")
    shutil.copytree(tmp_path / "1" / "scout.model", tmp_path / "2" / "scout.model")
    message = r"2 is damaged \(ValueError: the values of scout.model 'periods.w' were changed.*going back to step 1"
    with Checkpoints(tmp_path) as checkpoints, pytest.warns(RuntimeWarning, match=message):
        assert checkpoints.restore(shapes()).step == 1


def test_after_falling_back_the_lost_steps_can_be_saved_again(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "2" / "manifest" / "metadata").write_text("{")
    with Checkpoints(tmp_path, Retention(last=9)) as checkpoints:
        with pytest.warns(RuntimeWarning, match="it is now 2.damaged"):
            checkpoints.restore(shapes())
        checkpoints.save(2, state(2))
        checkpoints.wait()
        assert checkpoints.restore(shapes()).step == 2
        assert (tmp_path / "2.damaged").is_dir()


def test_a_reader_changes_nothing(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "2" / "manifest" / "metadata").write_text("{")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path, writable=False) as checkpoints, pytest.warns(RuntimeWarning, match="2 is damaged"):
        assert checkpoints.restore(shapes()).step == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_empty_and_temporary_folders_are_not_taken_for_checkpoints(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "9").mkdir()
    shutil.copytree(tmp_path / "1", tmp_path / "8.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints, pytest.warns(RuntimeWarning, match="9 is damaged"):
        assert checkpoints.restore(shapes()).step == 1
    assert not (tmp_path / "8.orbax-checkpoint-tmp").exists()


def test_none_whole_says_what_to_do(tmp_path):
    saved(tmp_path, 1)
    shutil.rmtree(tmp_path / "1" / "scout.model")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="no whole checkpoint.*or delete .* to train"),
    ):
        checkpoints.restore(shapes())
    assert (tmp_path / "1").is_dir()


def test_none_at_all_says_what_to_do(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            FileNotFoundError, match=r"there is no checkpoint in .*found steps \[\]\); train this stage"
        ):
            checkpoints.restore(shapes())
        with pytest.raises(FileNotFoundError, match="there is no checkpoint of step 7"):
            checkpoints.restore(shapes(), step=7)
    with pytest.raises(FileNotFoundError, match="there is no folder of checkpoints"):
        Checkpoints(tmp_path / "nowhere", writable=False)


def test_another_architecture_is_refused_at_the_first_array_that_differs(tmp_path):
    saved(tmp_path, 1)
    message = r"scout.model differs first at 'periods.w', expected float32\[2,3,8\], found float32\[2,3,4\]; use the"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(shapes(width=8))


def test_an_array_too_many_or_too_few_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"scout": {"model": {"a": jnp.ones(2), "b": jnp.ones(2)}}})
        checkpoints.wait()
        with pytest.raises(ValueError, match=r"'b', expected nothing, found float32\[2\]"):
            checkpoints.restore({"scout": {"model": {"a": jnp.ones(2)}}})
        with pytest.raises(ValueError, match=r"'c', expected int32\[\], found nothing"):
            checkpoints.restore({"scout": {"model": {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.int32(0)}}})


def test_a_learner_that_is_not_there_is_refused(tmp_path):
    saved(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=r"'scout.rest'\], not 'maverick.model'"):
        checkpoints.restore({"maverick": {"model": shapes()["scout"]["model"]}})


def test_a_step_is_saved_once(tmp_path):
    saved(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="there is a checkpoint of step 1"):
        checkpoints.save(1, state(1))


def test_the_last_the_best_and_every_nth_stay(tmp_path):
    scores = {2: 5.0, 3: 1.0, 4: 7.0, 5: None, 6: float("nan"), 7: 2.0, 8: 3.0}
    tree = {"scout": {"model": {"w": jnp.ones(2)}}}
    with Checkpoints(tmp_path, Retention(last=2, best=1, every=4)) as checkpoints:
        for step in (2, 3, 4, 5):
            checkpoints.save(step, tree, score=scores[step])
    with Checkpoints(tmp_path, Retention(last=2, best=1, every=4)) as checkpoints:  # scores survive a restart
        assert checkpoints.best() == 3
        for step in (6, 7, 8):
            checkpoints.save(step, tree, score=scores[step])
        checkpoints.wait()
        assert checkpoints.steps() == [3, 4, 7, 8] and checkpoints.best() == 3
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["3", "4", "7", "8"]


def test_a_part_without_arrays_comes_back_as_it_was(tmp_path):
    tree = {"scout": {"model": {"w": jnp.ones(2)}, "rest": {"opt": (), "bias": None}}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        checkpoints.wait()
        assert same(checkpoints.restore(tree).trees, tree)


def python(code, *arguments, before=(), **options):
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | options.pop("env", {})
    return subprocess.Popen(
        [*before, sys.executable, "-c", code, *map(str, arguments)],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


MESHES = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from distill.checkpoint import Checkpoints
def on(shape, spec):
    devices = jax.devices()[: shape[0] * shape[1]]
    mesh = jax.make_mesh(shape, ("x", "y"), axis_types=(AxisType.Auto,) * 2, devices=devices)
    return NamedSharding(mesh, P(*spec))
w = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
with Checkpoints(sys.argv[1]) as checkpoints:
    tree = {"w": jax.device_put(w, on((4, 2), ("x", "y"))), "step": jnp.int32(7)}
    checkpoints.save(1, {"a": {"model": tree}})
    checkpoints.wait()
    for shape, spec in (((4, 2), ("x", "y")), ((2, 4), ("y", "x")), ((8, 1), (None, "x")), ((1, 1), ())):
        want = {"w": jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=on(shape, spec)), "step": tree["step"]}
        got = checkpoints.restore({"a": {"model": want}}).trees["a"]["model"]
        assert got["w"].sharding == want["w"].sharding and np.array_equal(got["w"], w) and int(got["step"]) == 7
print("equal")
"""


def test_a_checkpoint_comes_back_equal_on_any_mesh(tmp_path):
    process = python(MESHES, tmp_path, env={"XLA_FLAGS": "--xla_force_host_platform_device_count=8"})
    out, err = process.communicate(timeout=120)
    assert out == "equal\n", err


KILLED = """
import os, random, signal, sys, time, traceback, warnings
import jax.numpy as jnp, numpy as np
from distill.checkpoint import Checkpoints

def state(step):
    return {"a": {"model": {"w": jnp.arange(50_000.0) + step}, "rest": {"m": jnp.full((300, 300), step)}}}

def train(say):
    warnings.simplefilter("error")  # a kill leaves nothing that has a checkpoint's name and is damaged
    with Checkpoints(sys.argv[1]) as checkpoints:
        step = 0
        if checkpoints.steps():
            restored = checkpoints.restore(state(0))
            step = restored.step
            assert restored.meta == {"step": step}
            assert np.array_equal(restored.trees["a"]["model"]["w"], np.arange(50_000.0, dtype=np.float32) + step)
            assert np.array_equal(restored.trees["a"]["rest"]["m"], np.full((300, 300), step))
        os.write(say, f"{step}\\n".encode())
        while True:
            step += 1
            checkpoints.save(step, state(step), meta={"step": step})
            os.write(say, b"saving\\n")

moments, resumed = random.Random(0), []
for _ in range(7):
    hear, say = os.pipe()
    child = os.fork()  # before any device is used: the imports are paid once
    if child == 0:
        try:
            train(say)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(say)
    with os.fdopen(hear) as lines:
        resumed.append(int(lines.readline()))
        for _ in range(moments.randint(1, 4)):
            assert lines.readline() == "saving\\n"
        time.sleep(moments.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
print(*resumed)
"""


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    out, err = python(KILLED, tmp_path).communicate(timeout=250)
    resumed = [int(step) for step in out.split()]
    assert len(resumed) == 7 and resumed == sorted(resumed) and resumed[-1] > 2, out + err


FULL = """
import errno, sys, numpy as np, jax.numpy as jnp
from distill.checkpoint import Checkpoints
def state(step):
    return {"a": {"model": {"w": jnp.asarray(np.random.default_rng(step).normal(size=300_000), jnp.float32)}}}
saved = []
try:
    with Checkpoints(sys.argv[1]) as checkpoints:
        for step in range(1, 20):
            checkpoints.save(step, state(step))
            checkpoints.wait()
            saved.append(step)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print(error)
with Checkpoints(sys.argv[1]) as checkpoints:
    restored = checkpoints.restore(state(0))
    assert restored.step == saved[-1], (restored.step, saved)
    assert np.array_equal(restored.trees["a"]["model"]["w"], state(restored.step)["a"]["model"]["w"])
print("whole", saved)
"""


def test_a_full_disk_says_so_and_leaves_the_last_checkpoint_whole(tmp_path):
    small = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=3m none {tmp_path} && exec "$@"',
        "sh",
    ]
    if not shutil.which("unshare") or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("a small disk needs user namespaces or root")
    out, err = python(FULL, tmp_path, before=small).communicate(timeout=120)
    assert "the disk is full" in out and "Free some space and start the same command again" in out, err
    assert "whole [1" in out, err
