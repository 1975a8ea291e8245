"""From a command line to finished runs: train every stage of every seed, evaluate, report."""

import logging
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

from distill import ceiling
from distill.agreement import by_first
from distill.apart import voice_of
from distill.cluster import NOTICED, USAGE, first, join, several, stopping
from distill.evaluate import Score, evaluate
from distill.experiment import Experiment
from distill.loop import Interrupted, check_room
from distill.metrics import Metrics
from distill.opening import open_run
from distill.options import parse
from distill.place import Place, place
from distill.process import settle
from distill.profile import Profile
from distill.reading import on_mesh, stage_loader
from distill.room import Room
from distill.run import Run, write_json
from distill.several import check_several
from distill.stage import Staged, check_disk
from distill.statistics import paired
from models import cost


def launch(experiment: Experiment, arguments: Sequence[str] | None = None) -> None:
    """The main function of an experiment file, in each of the processes that run it (`distill.cluster`).

    Exit code 1: a clear error; 2: the command line is refused, and would be again; 130: interrupted, and saved; 75: so
    were several processes, as one was told to stop.
    """
    from distill.report import print_table

    try:
        options = parse(experiment, sys.argv[1:] if arguments is None else arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    try:
        join()
        settle()
        if not first():  # process 0 speaks for all
            warnings.simplefilter("ignore")
        # Orbax warns each time weights are only read, which is what is meant.
        logging.getLogger("absl").addFilter(lambda line: "directory is read only" not in line.getMessage())
        results = [
            run_experiment(each, folder, quiet=options.quiet, profile=options.profile)
            for folder, each in options.seeded()
        ]
        merged = merge(results, options.experiment)
        page = by_first(partial(_report, options.folder, merged))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:
        if first():
            print(f"{stop}; the same command goes on from there", file=sys.stderr)
        sys.exit(NOTICED if several() else 130)
    if first():
        print_table(merged)
        print(f"\nreport: {page}")


def _report(folder: Place, merged: dict[str, Any]) -> Place:
    from distill.report import write_report

    write_json(folder / "results.json", merged)
    return write_report(folder)


def run_experiment(
    experiment: Experiment, folder: Place | str, *, quiet: bool = False, profile: Profile | None = None
) -> dict[str, Any]:
    """Train all stages in `folder`, or go on with them, then evaluate; what it returns is also in results.json."""
    experiment.mesh.build()  # refuses what needs more devices before anything is written
    check_vocabulary(experiment)
    check_disk(experiment.stages, place(folder))
    check_several(experiment)
    with (
        open_run(folder, experiment) as run,
        Metrics(run.path, writes=first()) as metrics,
        stopping() as stop,
    ):
        by_first(partial(_note, run, experiment))
        manifest = experiment.corpus.manifest()  # built by now, where processes share a disk
        by_first(partial(check_room, experiment, run))
        limit = ceiling.measure(experiment.execution.dtype, experiment.mesh.size)
        room = Room(experiment, run, metrics, limit, stop, quiet or not first(), profile if first() else None)
        for stage in experiment.stages:
            stage.run(room)
        rows = []
        for stage in experiment.stages:
            if stop.is_set():
                raise Interrupted(f"stopped before the evaluation of stage {stage.name}")
            rows += score(room, stage)
        now = datetime.now(UTC).date().isoformat()
        alone = {"corpus": manifest.hash, "date": now, "seeds": [experiment.seed], "models": rows, "paired": []}
        results = merge([alone], experiment)
        by_first(partial(run.write_results, results))
        if stop.is_set():
            raise Interrupted(f"stopped after the last step of {run.path}; its results are written")
    return results


def _note(run: Run, experiment: Experiment) -> None:
    """What the run is made of, in its folder."""
    own = {stage.name: asdict(stage.corpus.manifest()) for stage in experiment.stages if stage.corpus is not None}
    run.write_manifest(asdict(experiment.corpus.manifest()), own)
    run.write_tokenizer(experiment.tokenizer)
    run.write_given({one.name: one.fingerprint for one in experiment.given})


def score(room: Room, stage: Staged) -> list[dict[str, Any]]:
    """A row of results per learner of a finished stage: held-out figures, sizes, tokens, seconds."""
    experiment = room.experiment
    loader = stage_loader(experiment, stage)
    corpus = experiment.corpus_of(stage)
    batches = on_mesh(loader.held_out_batches(corpus, experiment.held_out), experiment.mesh.build())
    seconds = sum(line["seconds"] for line in room.run.timings() if line["stage"] == stage.name)
    lessons = {learner.name: experiment.lesson_of(learner.name) for learner in stage.learners}
    weights = {name: room.weights(stage, name) for name in lessons}
    found: dict[str, Score] = {}
    for lesson in {each.name if each else None: each for each in lessons.values()}.values():
        voice = voice_of(room, lesson)
        heard = (voice.hear(batch) for batch in batches)
        models = {name: weights[name] for name, its in lessons.items() if its == lesson}
        found |= evaluate(models, voice.teacher, heard, room.execution, loader.domains)
    rows = []
    for learner in stage.learners:
        row = {"seed": experiment.seed, "stage": stage.name, "name": learner.name}
        row |= {field: value for field, value in asdict(found[learner.name]).items() if field != "load"}
        size = {"parameters": cost.total(learner.model), "active": cost.active(learner.model)}
        row |= size | {"tokens": stage.seen, "seconds": seconds, "expert_load": found[learner.name].load}
        rows.append(row | room.examine(learner.name, weights[learner.name]))
    return rows


def merge(results: Sequence[dict[str, Any]], experiment: Experiment) -> dict[str, Any]:
    """The results of several seeds as one, with paired differences between the stages to compare."""
    corpora = {each["corpus"] for each in results}
    if len(corpora) > 1:
        raise ValueError(
            f"the seeds ran on different corpora {sorted(corpora)}: their figures cannot be paired; run them again"
        )
    rows = [row for each in results for row in each["models"]]
    return {
        "corpus": results[0]["corpus"],
        "date": results[-1]["date"],
        "seeds": [seed for each in results for seed in each["seeds"]],
        "models": rows,
        "paired": [] if experiment.compare is None else compare(rows, *experiment.compare),
        "contrasts": [contrast(rows, *names) for names in experiment.contrasts],
    }


def compare(rows: Sequence[dict[str, Any]], first: str, second: str) -> list[dict[str, Any]]:
    """Paired differences of held-out cross-entropy between learners of one name in two stages, first minus second."""

    def values(stage: str, name: str) -> list[float]:
        return [row["cross_entropy"] for row in rows if row["stage"] == stage and row["name"] == name]

    names = dict.fromkeys(row["name"] for row in rows if row["stage"] == first)
    found = {name: (values(first, name), values(second, name)) for name in names}
    return [{"name": name, **_difference(first, second, ours, its)} for name, (ours, its) in found.items() if its]


def contrast(rows: Sequence[dict[str, Any]], first: str, second: str) -> dict[str, Any]:
    """Paired difference of the mean share of right answers over cells between two learners, first minus second.

    Who learns in several stages is as the last one leaves it; `wins` are the seeds in which the first has more.
    """

    def values(name: str) -> list[float]:
        found = {row["seed"]: row["exam"] for row in rows if row["name"] == name}
        return [statistics.fmean(cell["pass@1"] for cell in exam.values()) for exam in found.values()]

    ours, theirs = values(first), values(second)
    return _difference(first, second, ours, theirs) | {"wins": paired(theirs, ours).wins}  # more is better here


def _difference(first: str, second: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    each = paired(ours, theirs)
    facts = {"difference": each.mean, "interval": each.interval, "wins": each.wins, "n": each.n}
    return {"first": first, "second": second, **facts}


def check_vocabulary(experiment: Experiment) -> None:
    """Refuse models whose vocabulary is not the tokenizer's, and given ones that come with another tokenizer."""
    for given in experiment.given:
        given.check_tokenizer(experiment.tokenizer)
    for stage in experiment.stages:
        tokens = experiment.tokenizer.vocab
        for learner in stage.learners:
            if learner.model.vocab != tokens:
                raise ValueError(
                    f"stage {stage.name!r}: {learner.name!r} has a vocabulary of {learner.model.vocab}, the tokenizer "
                    f"of {tokens}; set --stages.N.learners.M.model.vocab {tokens}"
                )
