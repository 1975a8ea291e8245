"""Actors on devices of their own: the numbers of one device, and what cannot be placed is refused."""

import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from distill.loop import Interrupted
from distill.mesh import Mesh, resting
from distill.rl.actors import Team, Threads
from distill.rl.loop import run_reinforcement
from distill.rl.part import Part
from distill.rl.publisher import Publisher
from distill.rl.ray_actors import RayActors
from distill.state import Weights
from models.capacity import Capacity
from models.execution import Execution
from models.llama4 import Llama4
from models.sampler import Sampler
from tests.distill.rl.begun import MODEL, STAGE, AtLook, finish, opened


@pytest.fixture(scope="module")
def alone(begun, tmp_path_factory):
    """All of it on one device."""
    return finish(begun, tmp_path_factory.mktemp("alone"))


def test_actors_apart_draw_what_one_beside_the_learner_draws_and_a_run_that_was_cut_goes_on(begun, alone, tmp_path):
    apart = replace(STAGE, actor_on=Mesh(data=2, first=1))
    with opened(begun, tmp_path, apart) as room, pytest.raises(Interrupted, match="after update 3 of 5"):
        run_reinforcement(dataclasses.replace(room, stop=AtLook(3)), apart)
    weights, lines = finish(begun, tmp_path, apart)
    for mine, its in zip(weights, alone[0], strict=True):
        np.testing.assert_array_equal(mine, its)
    assert lines == alone[1]


def test_a_learner_on_two_devices_with_an_actor_cut_over_four_others_ends_where_one_device_does(begun, alone, tmp_path):
    apart = replace(STAGE, actor_on=Mesh(expert=2, tensor=2, first=2))
    weights, lines = finish(begun, tmp_path, apart, Mesh(data=2))
    for mine, its in zip(weights, alone[0], strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5)
    assert [line["reward"] for line in lines] == [line["reward"] for line in alone[1]]


def weights() -> Weights:
    return Weights(Llama4(MODEL, jax.random.key(0)), None)


def test_what_is_published_is_a_copy_on_every_mesh_and_outlives_the_weights_that_it_is_of():
    here, there = Mesh().build(), Mesh(first=3).build()
    publisher, own = Publisher(here, there), weights()
    wanted = jax.device_get(own)
    publisher.publish(4, own)
    jax.jit(lambda x: jax.tree.map(jnp.negative, x), donate_argnums=0)(own)
    for number, mesh in enumerate((here, there)):
        found = publisher.at(number).get(4)
        assert {leaf.sharding.device_set == set(mesh.devices.flat) for leaf in jax.tree.leaves(found)} == {True}
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), wanted)
    assert publisher.versions.keys() == {4}


def test_weights_are_published_in_the_dtype_that_the_learner_computes_in():
    publisher = Publisher(Mesh(first=1).build(), dtype="bfloat16")
    publisher.publish(0, weights())
    model = publisher.get(0).model
    assert model.embed[...].dtype == jnp.bfloat16
    assert model.periods.blocks[0].attention_norm.scale[...].dtype == jnp.float32


def test_what_is_published_to_devices_of_others_is_at_rest_there():
    mesh = Mesh(fsdp=2, tensor=2, first=1).build()
    publisher = Publisher(mesh)
    publisher.publish(0, weights())
    model = publisher.get(0).model
    assert model.head[...].sharding.spec == PartitionSpec(None, "tensor")
    assert model.periods.blocks[0].attention.q[...].sharding.spec == PartitionSpec(None, None, "tensor", None)


def test_whoever_draws_apart_on_several_devices_drops_no_token_and_has_weights_at_rest():
    asked = part(sampler=Sampler(execution=Execution(dispatch=Capacity())))
    mesh = Mesh(expert=2, first=1).build()
    several = asked.apart(mesh).execution
    assert several.dispatch is None and several.placement == resting(mesh) and several.unroll == MODEL.periods
    assert asked.apart(Mesh(first=1).build()) is asked.sampler


def part(**changes) -> Part:
    given = {
        "model": MODEL,
        "biased": False,
        "sampler": Sampler(slots=8),
        "samples": 4,
        "groups": 8,
        "limit": 4,
        "home": Mesh(),
        "own": Mesh(data=2, first=1),
    }
    return Part(**(given | changes))


def test_an_actor_takes_what_fills_its_slots_and_no_more_than_its_part_of_a_batch():
    assert [part().share(actors) for actors in (1, 2, 8, 16)] == [2, 2, 1, 1]
    assert part(sampler=Sampler(slots=64)).share(2) == 4


def test_actors_that_share_an_inbox_all_end_when_they_are_told_to():
    team = Team(part())
    team.start()
    assert [actor.alive for actor in team._actors] == [True, True]
    team.stop()
    assert [actor.alive for actor in team._actors] == [False, False]
    assert team.drawn == 0 and team.waited > 0.0


@pytest.mark.parametrize(
    ("mesh", "own", "message"),
    [
        (Mesh(data=2), Mesh(first=1), r"stage 'rl': the actor's mesh and the learner's overlap: .*actor-on.first 2"),
        (Mesh(data=3), None, r"16 rows a batch do not divide over Mesh\(data=3, fsdp=1\)"),
        (Mesh(tensor=5), None, "key/value heads, which .* over tensor=5"),
    ],
)
def test_meshes_that_cannot_be_are_refused_before_anything_is_drawn(mesh, own, message):
    with pytest.raises(ValueError, match=message):
        replace(STAGE, actor_on=own).check({}, mesh)


def test_actors_that_need_more_devices_than_there_are_say_so():
    with pytest.raises(ValueError, match=r"from device 8 on needs 9 devices, found 8"):
        Team(part(own=Mesh(data=2, first=7)))


def test_actors_apart_in_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="actors live apart within one process, and there are 2; leave actor_on out"):
        Team(part())


def test_the_tiny_form_has_one_device_and_one_process():
    tiny = replace(STAGE, actor_on=Mesh(first=1)).tiny({"student": MODEL})
    assert (tiny.actor_on, tiny.actors) == (None, Threads())
    assert replace(STAGE, actors=RayActors()).tiny({"student": MODEL}).actors == Threads()
