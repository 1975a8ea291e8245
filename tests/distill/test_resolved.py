"""Configurations as JSON, and their differences."""

import enum
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from distill.resolved import differences, grown, to_json


class Kind(enum.Enum):
    BIG = 1


@dataclass(frozen=True)
class Constant:
    value: float = 1.0


@dataclass(frozen=True)
class Linear:
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Stage:
    name: str = "teach"
    alpha: Constant | Linear = field(default_factory=Constant)
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Experiment:
    stages: tuple[Stage, ...] = (Stage(), Stage("learn"))
    folder: Path = Path("a/b")
    kind: Kind = Kind.BIG
    limit: float = math.inf
    teacher: str | None = None


def test_a_resolved_experiment_is_json_with_the_class_of_every_dataclass():
    value = to_json(Experiment())
    assert value == json.loads(json.dumps(value))
    assert value["class"] == "Experiment" and value["kind"] == "BIG" and value["folder"] == "a/b"
    assert value["limit"] == "inf" and value["teacher"] is None
    assert value["stages"][1] == {
        "class": "Stage", "name": "learn", "alpha": {"class": "Constant", "value": 1.0}, "sizes": [1, 2]
    }  # fmt: skip


def test_numpy_scalars_dicts_and_functions_are_written_too():
    assert to_json({"a": np.float32(0.5), "b": to_json}) == {"a": 0.5, "b": "distill.resolved:to_json"}


def test_what_has_no_json_is_refused_with_its_path():
    with pytest.raises(ValueError, match="experiment.stages.0.name is a object, which cannot be written"):
        to_json(Experiment(stages=(Stage(name=object()),)))
    with pytest.raises(ValueError, match="experiment.a is a function"):
        to_json({"a": lambda: 0})


def test_equal_configurations_have_no_differences():
    assert differences(to_json(Experiment()), to_json(Experiment())) == []
    assert differences({"a": 1}, {"a": 1.0}) == []


def told(change):
    return [str(one) for one in differences(to_json(Experiment()), to_json(change))]


def test_a_changed_field_is_named_by_its_dotted_path():
    assert told(Experiment(stages=(Stage(alpha=Constant(0.5)), Stage("learn")))) == ["stages.0.alpha.value: 1.0 -> 0.5"]
    assert told(replace(Experiment(), teacher="b", limit=2.0)) == ["limit: 'inf' -> 2.0", "teacher: None -> 'b'"]


def test_a_switched_choice_is_named_by_its_classes():
    assert told(Experiment(stages=(Stage(alpha=Linear()), Stage("learn")))) == [
        "stages.0.alpha: 'Constant' -> 'Linear'"
    ]


def test_a_missing_element_says_so():
    assert told(Experiment(stages=(Stage(),))) == ["stages.1: 'Stage' -> (not there)"]
    assert [str(one) for one in differences({"a": 1}, {"b": True})] == ["a: 1 -> (not there)", "b: (not there) -> True"]


def test_true_is_not_one():
    assert [str(one) for one in differences({"a": True}, {"a": 1})] == ["a: True -> 1"]


def test_a_field_that_is_new_stands_at_its_default_in_what_an_earlier_version_wrote():
    now = Experiment((Stage("a"), Stage("b", Linear())))
    old = to_json(now)
    del old["stages"][0]["sizes"], old["stages"][1]["alpha"]["end"]
    assert len(differences(old, to_json(now))) == 2
    assert differences(grown(old, now), to_json(now)) == []


def test_a_new_field_that_is_used_is_a_difference():
    now = Experiment((Stage("a", sizes=(3,)),))
    old = to_json(now)
    del old["stages"][0]["sizes"]
    assert [str(one) for one in differences(grown(old, now), to_json(now))] == [
        "stages.0.sizes.0: 1 -> 3",
        "stages.0.sizes.1: 2 -> (not there)",
    ]
    old = to_json(now)
    old["stages"][0]["alpha"] = to_json(Linear())
    assert "alpha" in str(differences(grown(old, now), to_json(now))[0])
