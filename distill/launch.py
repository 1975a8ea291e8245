"""From a command line to finished runs: parse, train every stage of every seed, evaluate, report."""

import logging
import runpy
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from distill import ceiling
from distill.apart import voice_of
from distill.evaluate import Score, evaluate
from distill.experiment import Experiment
from distill.loop import Interrupted, check_room, run_stage, stopping
from distill.metrics import Metrics
from distill.process import settle
from distill.reading import on_mesh, stage_loader
from distill.room import Room
from distill.run import open_run, write_json
from distill.stage import Stage
from distill.statistics import paired
from models import cost


@dataclass(frozen=True)
class Options:
    """An experiment as the command line left it, and how to launch it."""

    experiment: Experiment
    seeds: int
    folder: Path
    quiet: bool

    def seeded(self) -> list[tuple[Path, Experiment]]:
        """A run folder and an experiment per seed."""
        first = self.experiment.seed
        return [
            (
                self.folder if n == 0 else self.folder.with_name(f"{self.folder.name}-seed{first + n}"),
                replace(self.experiment, seed=first + n),
            )
            for n in range(self.seeds)
        ]


def load(path: Path) -> Experiment:
    """EXPERIMENT of an experiment file; runs the file, as `python file` would, but for its main part.

    Raises:
      ValueError: there is no such file, or it defines no EXPERIMENT.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; name an experiment, such as experiments/herd.py")
    found = runpy.run_path(str(path)).get("EXPERIMENT")
    if not isinstance(found, Experiment):
        raise ValueError(f"{path} defines no EXPERIMENT, or it is not a distill.Experiment; give it one")
    return found


def parse(experiment: Experiment, arguments: Sequence[str]) -> Options:
    """Options from the command line; the experiment's own values are the defaults.

    Raises:
      SystemExit: `--help`, or an unknown option or bad value, after a message with the nearest options that exist.
    """
    import tyro

    default = experiment.tiny() if "--tiny" in arguments else experiment

    def options(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = default,
        *,
        tiny: bool = False,
        seeds: int = 1,
        run: Path | None = None,
        quiet: bool = False,
    ) -> Options:
        """Run this experiment. Every field is an option, by its dotted path.

        Args:
            experiment: the experiment.
            tiny: shrink it to about a minute on a laptop; other options apply on top.
            seeds: how many runs, with consecutive seeds, each in a folder of its own.
            run: the run folder (default: runs/ and the experiment's name); the same command goes on where it was.
            quiet: no progress bars.
        """
        if seeds < 1:
            raise ValueError(f"--seeds is {seeds}; it must be at least 1")
        return Options(experiment, seeds, run or Path("runs") / experiment.name, quiet)

    config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff)
    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(_own_class)
    with registry:
        return tyro.cli(options, args=list(arguments), config=config)


def _own_class(info: Any) -> Any:
    """How tyro sees a Protocol beside shipped classes: as what the experiment's file chose, which it cannot change."""
    import tyro

    if not getattr(info.type, "_is_protocol", False):
        return None
    if isinstance(info.default, info.type):
        return tyro.constructors.StructConstructorSpec(instantiate=lambda: info.default, fields=())

    def refuse() -> None:
        raise ValueError(f"a {info.type.__name__} of your own enters in the experiment's file, not here")

    return tyro.constructors.StructConstructorSpec(instantiate=refuse, fields=())


def launch(experiment: Experiment, arguments: Sequence[str] | None = None) -> None:
    """The main function of an experiment file. Exit code 1: a clear error; 130: interrupted, and saved."""
    from distill.report import print_table, write_report

    try:
        options = parse(experiment, sys.argv[1:] if arguments is None else arguments)
        settle()
        # Orbax warns each time weights are only read, which is what is meant.
        logging.getLogger("absl").addFilter(lambda line: "directory is read only" not in line.getMessage())
        results = [run_experiment(each, folder, quiet=options.quiet) for folder, each in options.seeded()]
        merged = merge(results, options.experiment)
        write_json(options.folder / "results.json", merged)
        page = write_report(options.folder)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    print_table(merged)
    print(f"\nreport: {page}")


def run_experiment(experiment: Experiment, folder: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Train all stages in `folder`, or go on with them, then evaluate; what it returns is also in results.json."""
    check_vocabulary(experiment)
    with open_run(folder, experiment) as run, Metrics(run.path) as metrics, stopping() as stop:
        manifest = experiment.corpus.manifest()
        run.write_manifest(asdict(manifest))
        run.write_tokenizer(experiment.tokenizer)
        run.write_given({one.name: one.fingerprint for one in experiment.given})
        check_room(experiment, run)
        limit = ceiling.measure(experiment.execution.dtype, experiment.mesh.size)
        room = Room(experiment, run, metrics, limit, stop, quiet)
        for stage in experiment.stages:
            run_stage(room, stage)
        rows = []
        for stage in experiment.stages:
            if stop.is_set():
                raise Interrupted(f"stopped before the evaluation of stage {stage.name}")
            rows += score(room, stage)
        now = datetime.now(UTC).date().isoformat()
        alone = {"corpus": manifest.hash, "date": now, "seeds": [experiment.seed], "models": rows, "paired": []}
        results = merge([alone], experiment)
        run.write_results(results)
        if stop.is_set():
            raise Interrupted(f"stopped after the last step of {run.path}; its results are written")
    return results


def score(room: Room, stage: Stage) -> list[dict[str, Any]]:
    """A row of results per learner of a finished stage: held-out figures, sizes, tokens, seconds."""
    experiment = room.experiment
    loader = stage_loader(experiment, stage)
    batches = on_mesh(loader.held_out_batches(experiment.corpus, experiment.held_out), experiment.mesh.build())
    seconds = sum(line["seconds"] for line in room.run.timings() if line["stage"] == stage.name)
    lessons = {learner.name: experiment.lesson_of(learner.name) for learner in stage.learners}
    found: dict[str, Score] = {}
    for lesson in {each.name if each else None: each for each in lessons.values()}.values():
        voice = voice_of(room, lesson)
        heard = (voice.hear(batch) for batch in batches)
        models = {name: room.weights(stage, name) for name, its in lessons.items() if its == lesson}
        found |= evaluate(models, voice.teacher, heard, experiment.execution, loader.domains)
    rows = []
    for learner in stage.learners:
        row = {"seed": experiment.seed, "stage": stage.name, "name": learner.name}
        row |= {field: value for field, value in asdict(found[learner.name]).items() if field != "load"}
        size = {"parameters": cost.total(learner.model), "active": cost.active(learner.model)}
        rows.append(row | size | {"tokens": stage.tokens, "seconds": seconds, "expert_load": found[learner.name].load})
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
    }


def compare(rows: Sequence[dict[str, Any]], first: str, second: str) -> list[dict[str, Any]]:
    """Paired differences of held-out cross-entropy between learners of one name in two stages, first minus second."""

    def values(stage: str, name: str) -> list[float]:
        return [row["cross_entropy"] for row in rows if row["stage"] == stage and row["name"] == name]

    names = dict.fromkeys(row["name"] for row in rows if row["stage"] == first)
    found = {name: paired(values(first, name), values(second, name)) for name in names if values(second, name)}
    return [
        {
            "name": name,
            "first": first,
            "second": second,
            "difference": each.mean,
            "interval": each.interval,
            "wins": each.wins,
            "n": each.n,
        }
        for name, each in found.items()
    ]


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
