"""What a reference thinks of pairs: asked once, kept, and never taken from a file that is not whole or of others."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from distill import Mesh
from distill.preference.pairs import Mining
from distill.preference.reference import Kept, ask
from distill.state import create
from losses import token_logps
from models.execution import Execution
from tests.distill.preference.preferred import LEARNER
from tests.distill.preference.test_pairs import group

PAIRS = Mining()(
    [group(uid, [[70, 71, 1]], [[80, 81 + uid, 1]], prompt=(60 + uid,)) for uid in range(3)], length=8, most=9, seed=0
)
LOGPS = np.array([[-0.1, -0.2], [-1 / 3, -4.0], [-5.0, -1e-3]], np.float32)


class Reference:
    """Something that counts how often it is asked."""

    asked = 0

    def __call__(self):
        self.asked += 1
        return LOGPS


def test_it_is_asked_once_and_the_file_says_the_same_to_the_last_bit(tmp_path):
    reference, kept = Reference(), Kept(tmp_path / "reference")
    for _ in range(3):
        np.testing.assert_array_equal(kept("abc", PAIRS, reference), LOGPS)
    assert reference.asked == 1


def test_another_reference_or_other_pairs_are_asked_about_anew(tmp_path):
    reference, kept = Reference(), Kept(tmp_path)
    kept("abc", PAIRS, reference)
    kept("abd", PAIRS, reference)
    kept("abc", replace(PAIRS, starts=PAIRS.starts + 1), reference)
    assert reference.asked == 3 and len(list(tmp_path.glob("*.json"))) == 3


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def change(path):
    path.write_text(path.read_text().replace("-4.0", "-4.5"))


def another(path):
    """That of another reference, under this one's name."""
    Kept(path.parent)("other", PAIRS, Reference())
    Kept(path.parent).path("other", PAIRS).rename(path)


def shorten(path):
    """Whole, and of fewer answers."""
    from distill.curriculum.record import write_record
    from distill.preference.reference import KIND

    content = json.loads(path.read_text())["content"]
    write_record(path, KIND, content | {"logps": content["logps"][:4]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is no reference's log-probabilities to go by"),
        (change, "its checksum does not match"),
        (another, "it is of the reference other and 6 answers, pairs .*; these are of abc and 6 answers"),
        (shorten, "it is of the reference abc and 4 answers"),
    ],
)
def test_a_file_that_is_damaged_or_of_others_is_not_believed_and_replaced(tmp_path, damage, message):
    reference, kept = Reference(), Kept(tmp_path)
    kept("abc", PAIRS, reference)
    damage(kept.path("abc", PAIRS))
    with pytest.warns(RuntimeWarning, match=f"{message}.*; the reference is asked anew"):
        np.testing.assert_array_equal(kept("abc", PAIRS, reference), LOGPS)
    kept("abc", PAIRS, reference)
    assert reference.asked == 2


def test_a_reference_that_is_not_finite_is_refused_and_nothing_is_kept(tmp_path):
    bad = np.where(LOGPS == -4.0, np.nan, LOGPS)
    with pytest.raises(ValueError, match=r"the reference abc gives 1 of 3 pairs no finite log-probability, the first"):
        Kept(tmp_path)("abc", PAIRS, lambda: bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [2, 4], ids=["a pair at a time", "two, the last turn filled up"])
def test_a_model_is_asked_about_every_answer(rows):
    mesh = Mesh().build()
    weights = create(LEARNER, 1, mesh, seed=0).weights
    batch = jax.device_put(PAIRS.batch(np.arange(3), None, pad=0))
    hidden, _ = weights.model(batch.tokens, batch.layout(), weights.bias, Execution())
    logp, _ = token_logps(hidden, weights.model.head[...], batch.labels, batch.mask)
    found = ask(weights, PAIRS, rows, 0, mesh, Execution())
    np.testing.assert_allclose(found.ravel(), logp.sum(axis=1), rtol=1e-5)
    assert found.shape == (3, 2)
