"""What a learner starts from: a given model, or a learner of an earlier stage, of which it inherits what fits."""

from distill.given import Given, Trained
from distill.stage import Learner
from models.heritage import heritage


def check_start(
    learner: Learner, given: tuple[Given | Trained, ...], earlier: dict[str, Learner | Given | Trained]
) -> None:
    """Refuses a start that is not there before the learner's stage, or that it cannot be made of.

    `earlier` has the given models and the learners of earlier stages.
    """
    if learner.name in [one.name for one in given]:
        raise ValueError(f"a learner and a given model are both called {learner.name!r}; give one another name")
    if learner.start is None:
        if learner.keep is not None:
            raise ValueError(
                f"learner {learner.name!r} keeps layers {learner.keep} of nothing; name what it starts from"
            )
        return
    if learner.start not in earlier:
        raise ValueError(
            f"learner {learner.name!r} starts from {learner.start!r}, which is not given and no learner of an earlier "
            f"stage; there are {sorted(earlier)}"
        )
    try:
        heritage(earlier[learner.start].model, learner.model, learner.keep)
    except ValueError as error:
        raise ValueError(f"learner {learner.name!r} cannot start from {learner.start!r}: {error}") from error
