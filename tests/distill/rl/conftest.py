"""What the tests of this folder share."""

import pytest

from tests.distill.rl.begun import begin


@pytest.fixture(scope="session")
def begun(tmp_path_factory):
    """The run of a model that has learned to end its answers; nothing is written into it."""
    return begin(tmp_path_factory.mktemp("begun") / "run")
