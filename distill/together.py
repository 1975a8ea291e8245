"""Learners that differ in a number alone, computed as one with one more axis: one program instead of many."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from distill.stage import Learner

SHARED = ("model", "router", "optimizer", "loss")
"""what learners must have in common"""


def alike(learners: Sequence[Learner], beside: str | None) -> list[list[int]]:
    """Places of the learners by groups that differ in names and numbers alone, in the order of their first.

    Whoever teaches `beside` the others is alone: more is kept of it.
    """
    groups: list[list[int]] = []
    for place, one in enumerate(learners):
        for group in groups:
            other = learners[group[0]]
            if beside not in (one.name, other.name) and all(vars(one)[x] == vars(other)[x] for x in SHARED):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Trees of one form as one tree, with an axis before all others."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: PyTree, count: int) -> list[PyTree]:
    """The trees again."""
    leaves, form = jax.tree.flatten(tree)
    return [jax.tree.unflatten(form, [leaf[place] for leaf in leaves]) for place in range(count)]
