"""A teacher's inside: who is compared with its layers, what is learned for that, and what is refused at the door."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from losses import Hidden, RouterMatch, Tally
from models.config import Config
from models.layers import draw
from models.trace import Trace


def compare(
    features: Hidden | None,
    routing: RouterMatch | None,
    student: Trace,
    teacher: Trace,
    projection: nnx.Param | None,
    mask: Bool[Array, "b t"],
    progress: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], dict[str, Tally]]:
    """The weighted sum over positions of what a learner is asked for beside its loss, and each part unweighted.

    Args:
      student: its pass, differentiable.
      teacher: that of its teacher over the same rows; no gradient enters it.
      projection: what `born` made.
      mask: positions whose label counts, as in the loss, which is divided by their number.
    """
    total, told = jnp.float32(0.0), {}
    if features is not None:
        maps = None if projection is None else projection[...]
        told["features"] = features(student.stream[1:], teacher.stream[1:], maps, mask)
        total += features.weight.at(progress) * told["features"].total
    if routing is not None:
        told["routing"] = routing(student.routers, teacher.routers, mask)
        total += routing.weight.at(progress) * told["routing"].total
    return total, jax.lax.stop_gradient(told)


def born(features: Hidden | None, student: Config, teacher: Config | None, key: PRNGKeyArray) -> nnx.Param | None:
    """The projection [l d D] of a newborn learner, a map for each pair of layers; None where nothing is learned."""
    if features is None or teacher is None or not features.project:
        return None
    pairs = features.matched(student.layers, teacher.layers)
    return draw(key, (len(pairs), student.width, teacher.width), student.width**-0.5, ("d", "D"))


def check_features(
    where: str, features: Hidden | None, routing: RouterMatch | None, student: Config, teacher: Config | None
) -> None:
    """Refuses what cannot be compared.

    Args:
      where: the learner and its stage, for the message.
      student, teacher: what they are; None where no teacher's layers are to be had.

    Raises:
      ValueError: there is no such teacher, a layer is not there, widths or experts differ.
    """
    if features is None and routing is None:
        return
    if teacher is None:
        raise ValueError(
            f"{where}: features and routing compare its layers with those of a live teacher that is not itself; a "
            "store holds no hidden states, a teacher on a mesh of its own hands over the last alone, and several "
            "teachers have no layers in common. Name one, without store, teacher_on and ensemble, or leave both out"
        )
    if features is not None:
        try:
            features.matched(student.layers, teacher.layers)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if not features.project and student.width != teacher.width:
            raise ValueError(
                f"{where}: its width is {student.width} and its teacher's {teacher.width}; set project=True to learn "
                "a map from one to the other"
            )
    if routing is not None:
        try:
            routing.check(_routers(student), _routers(teacher))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _routers(model: Config) -> tuple[int, int]:
    return model.periods * model.moe_per_period, model.experts
