"""Measuring difficulty: of a learner at a step of its run, and of a checkpoint, from the command line too."""

import shutil

import numpy as np
import pytest

from distill import Given
from distill.curriculum import __main__ as command
from distill.curriculum.measure import measure, measure_given
from distill.curriculum.table import Table
from distill.export import export
from distill.tasks.exam import Exam
from distill.trained import identity
from models.tokenizer import Bytes
from tests.distill.rl.begun import ASKED

EXAM = Exam(attempts=4, tokens=8, slots=16)
POOL = ASKED().select(split="held_out")


@pytest.fixture(scope="module")
def checkpoint(begun, tmp_path_factory):
    """The model that has begun, as a folder in the Hugging Face layout."""
    folder = tmp_path_factory.mktemp("given") / "checkpoint"
    export(begun, folder)
    return folder


def test_a_checkpoint_solves_what_the_learner_solved_that_it_was_exported_from(begun, checkpoint):
    given = Given(name="old", folder=str(checkpoint))
    table, _ = measure_given(given, POOL, EXAM)
    same, _ = measure(begun, "begin", "student", POOL, EXAM)
    assert table.ids == same.ids and table.pool == same.pool and table.model == given.fingerprint
    np.testing.assert_array_equal(table.successes, same.successes)


def test_a_learner_is_measured_at_a_step_that_its_run_has_kept(begun):
    early, _ = measure(begun, "begin", "student", POOL, EXAM, step=30)
    late, _ = measure(begun, "begin", "student", POOL, EXAM)
    assert early.model == identity(begun, "begin", "student", 30) != late.model
    assert late.model == identity(begun, "begin", "student", 60)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint of step 7 in .* \(found steps \[30, 60\]\)"):
        measure(begun, "begin", "student", POOL, EXAM, step=7)


def test_a_checkpoint_without_a_tokenizer_is_measured_with_the_one_that_is_named_if_it_fits(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    bare = Given(name="bare", folder=str(tmp_path / "bare"))
    with pytest.raises(ValueError, match="bare has no tokenizer: neither tokenizer.model nor tokenizer.json"):
        measure_given(bare, POOL, EXAM)
    assert len(measure_given(bare, POOL, EXAM, Bytes())[0].ids) == len(POOL)


def test_what_does_not_fit_a_checkpoint_is_refused_before_it_is_read(checkpoint, monkeypatch):
    given = Given(name="old", folder=str(checkpoint))
    with pytest.raises(ValueError, match="there are no questions to ask"):
        measure_given(given, POOL.select(levels=(7,)), EXAM)
    monkeypatch.setattr(Bytes, "vocab", property(lambda _: 300))
    with pytest.raises(
        ValueError, match=r"has a vocabulary of 2\d\d, the tokenizer of 300; set --tokenizer to the one"
    ):
        measure_given(given, POOL, EXAM)


def asked(*arguments):
    """The command line, of few questions."""
    few = ("--tasks", "reverse", "--levels", "0", "--questions", "4", "--attempts", "2", "--tokens", "4")
    command.main(["measure", *map(str, arguments), *few])


@pytest.fixture(autouse=True)
def unsettled(monkeypatch):
    """What commands ask of their process is not for one that tests run in."""
    monkeypatch.setattr(command, "settle", lambda: None)


def test_the_command_line_measures_a_run_or_a_checkpoint(begun, checkpoint, tmp_path, capsys):
    asked(begun, tmp_path / "run.json", "--step", 30)
    asked(checkpoint, tmp_path / "checkpoint.json")
    tables = [Table.load(tmp_path / name) for name in ("run.json", "checkpoint.json")]
    assert tables[0].ids == tables[1].ids and len(tables[0].ids) == 4
    assert tables[0].model == identity(begun, "begin", "student", 30)
    assert tables[1].model == Given(name="old", folder=str(checkpoint)).fingerprint
    assert capsys.readouterr().out.count("reverse/0") == 2


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("nowhere", (), r"nowhere is neither a run nor a checkpoint: it has no config\.json"),
        ("checkpoint", ("--step", "3"), r"checkpoint is no run, and what it holds has no --step 3; leave it out"),
        ("run", ("--tokenizer", "bytes"), r"is a run, which has a tokenizer; leave out --tokenizer bytes"),
        ("run", ("--stage", "sft"), r"there is no stage of .* called 'sft'; there are \['begin'\]"),
        ("run", ("--step", "7"), r"there is no checkpoint of step 7 in"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(begun, checkpoint, tmp_path, model, arguments, message):
    folder = {"run": begun, "checkpoint": checkpoint, "nowhere": tmp_path / "nowhere"}[model]
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        asked(folder, tmp_path / "table.json", *arguments)
