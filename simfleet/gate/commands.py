"""`simfleet check` and `simfleet compare`, for people and for CI jobs."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import click

from simfleet.gate import compare as held
from simfleet.gate import outputs
from simfleet.gate.judge import Suite, broken, checked, refused, reports_of
from simfleet.gate.metrics import Json
from simfleet.gate.targets import FEWEST_SEEDS, SEEDS, Gate, read_gate
from simfleet.page.compare import compare_page
from simfleet.scenario import Scenario, load
from simfleet.terminal import (
    BAD_INPUT,
    MISTAKES,
    bad_input,
    mistake,
    overrides_option,
    pairs,
    paths_option,
    stop,
    variant_option,
)

Decorated = Callable[..., Any]
Side = list[Json] | Scenario
"""Reports that are there, or a scenario to run."""
form_option = click.option(
    "--format", "form", type=click.Choice(["text", "json", "md"]), default="text", show_default=True
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="one per core", help="Processes."
)


def file_options(command: Decorated) -> Decorated:
    """What both commands write besides their answer."""
    options = (
        click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="JUnit XML to write."),
        click.option(
            "--summary", type=click.Path(path_type=Path, dir_okay=False), help="Markdown to write, below 64 kB."
        ),
        click.option("--annotate", is_flag=True, help="Print GitHub annotations for what is not kept."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Files:
    """What is written besides the answer."""

    junit: Path | None
    summary: Path | None
    annotate: bool

    def write(self, suites: Sequence[Suite], whole: bool = True) -> None:
        """JUnit and Markdown. Raises OSError."""
        if self.junit is not None:
            _write(self.junit, outputs.junit(suites))
        if self.summary is not None:
            _write(self.summary, outputs.markdown(suites, whole=whole))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


@click.command()
@click.argument("scenarios", nargs=-1, required=True)
@click.option(
    "--seeds", type=click.IntRange(FEWEST_SEEDS, 1000), help="Repetitions, from seed 0. [default: the SLA file's, or 4]"
)
@overrides_option
@variant_option
@paths_option
@workers_option
@file_options
@form_option
def check(
    scenarios: tuple[str, ...], seeds: int | None, overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...],
    workers: int, junit: Path | None, summary: Path | None, annotate: bool, form: str,
) -> None:  # fmt: skip
    """Hold SCENARIOS (files, shipped names, or SLA files) to their targets.

    Exit codes: 0 kept, 1 missed, 2 bad input, 3 cannot judge, 4 simulation error.
    """
    files = Files(junit, summary, annotate)
    gates = _gates(scenarios, pairs(overrides), variant, paths, files, form)
    numbers = [gate.seeds if seeds is None else seeds for gate in gates]
    with repetitions(sum(numbers)) as done:
        suites = [checked(gate, number, workers, done) for gate, number in zip(gates, numbers, strict=True)]
    answer(suites, files, form)


def _gates(
    scenarios: Sequence[str], overrides: Sequence[tuple[str, Any]], variant: str | None, paths: Sequence[Path], files: Files, form: str
) -> list[Gate]:  # fmt: skip
    """All that is to be checked; where some of it is bad input, what is wrong with all of it."""
    gates: list[Gate] = []
    wrong: dict[str, Exception] = {}
    for name in scenarios:
        try:
            gates.append(read_gate(name, overrides, variant, paths))
        except MISTAKES as error:
            wrong[name] = error
    if wrong:
        refuse(wrong, files, form)
    return gates


def answer(suites: Sequence[Suite], files: Files, form: str, code: int | None = None, whole: bool = True) -> NoReturn:
    """Write the files, print the answer, exit with its code, or with `code`."""
    with bad_input():
        files.write(suites, whole)
    if form == "json":
        click.echo(outputs.as_json(suites))
    else:
        click.echo((outputs.text if form == "text" else outputs.markdown)(suites, whole=whole).rstrip("\n"))
    if files.annotate:
        click.echo(outputs.annotations(suites), nl=False, err=form == "json")
    raise SystemExit(outputs.exit_code(suites) if code is None else code)


def refuse(wrong: Mapping[str, Exception], files: Files, form: str) -> NoReturn:
    """Write what is wrong with the input into the files too, so that a CI page shows it; exit code 2."""
    suites = [refused(name, error) for name, error in wrong.items()]
    with bad_input():
        files.write(suites)
    if files.annotate:
        click.echo(outputs.annotations(suites), nl=False, err=form == "json")
    stop("\n".join(map(mistake, wrong.values())), BAD_INPUT)


@contextmanager
def repetitions(total: int) -> Iterator[Callable[[], None] | None]:
    """A bar of repetitions done, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("repetitions", total=total)
        yield lambda: bar.advance(task)


@click.command()
@click.argument("baseline")
@click.argument("new")
@click.option(
    "--tolerance",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML of tolerances. [default: 1 % for everything]",
)
@click.option("--seeds", type=click.IntRange(min=1, max=1000), help="Of scenarios. [default: the other side's, or 4]")
@click.option("--update", is_flag=True, help="Write NEW to BASELINE, a .json file, and exit with 0.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="The two side by side, as a page for a browser."
)
@click.option("--all", "whole", is_flag=True, help="List the rows that are kept, too.")
@overrides_option
@variant_option
@paths_option
@workers_option
@file_options
@form_option
def compare(
    baseline: str, new: str, tolerance: Path | None, seeds: int | None, update: bool, html: Path | None, whole: bool,
    overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...], workers: int, junit: Path | None, summary: Path | None, annotate: bool, form: str,
) -> None:  # fmt: skip
    """Hold NEW against BASELINE: each a report.json, its folder, a baseline file, or a scenario to run with the other side's seeds.

    --set and --variant change NEW. Exit codes are those of `check`.
    """
    if update and Path(baseline).suffix != ".json":
        raise click.UsageError(f"--update writes to a .json file, got `{baseline}`")
    files, name = Files(junit, summary, annotate), f"{new} against {baseline}"
    laid = pairs(overrides)
    try:
        held.read_tolerances(tolerance)
        first = update and not Path(baseline).exists()
        before: Side = [] if first else _side(baseline, (), None, paths)
        after = _side(new, laid, variant, paths)
        reports = _both(before, after, seeds, update, workers)
        suite = None if first else held.compare(*reports, tolerance, name)
        if html is not None and suite is not None:
            _write(html, _page(*reports))
        if update:
            held.save(reports[1], Path(baseline))
    except MISTAKES as error:
        refuse({name: error}, files, form)
    except SimulationError as error:
        answer([broken(name, error.cause)], files, form)
    written = f"{baseline} written: seeds {', '.join(str(report['seed']) for report in reports[1])}"
    if suite is None:
        click.echo(json.dumps({"written": baseline}) if form == "json" else written)
        return
    if update:
        suite = replace(suite, facts=(*suite.facts, written))
    answer([suite], files, form, 0 if update else None, whole)


class SimulationError(Exception):
    """A run of either side failed."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _page(before: list[Json], after: list[Json]) -> str:
    """The first seed of both sides that they share, or the first of each."""
    seeds = {report["seed"]: report for report in after}
    one = next((report for report in before if report["seed"] in seeds), before[0])
    return compare_page(one, seeds.get(one["seed"], after[0]))


def _side(text: str, overrides: Sequence[tuple[str, Any]], variant: str | None, paths: Sequence[Path]) -> Side:
    if Path(text).suffix == ".json" or Path(text).is_dir():
        if overrides or variant:
            raise click.UsageError(f"--set and --variant change a scenario, and NEW is the file `{text}`")
        return held.read_reports(Path(text))
    return load(text, overrides, variant, paths)


def _both(before: Side, after: Side, seeds: int | None, update: bool, workers: int) -> tuple[list[Json], list[Json]]:
    """The reports of both sides: scenarios are run with the seeds of the side that has reports, or with the first `seeds`."""
    asked = range(SEEDS if seeds is None else seeds)
    given = [side for side in (before, after) if isinstance(side, list) and side]
    numbers = [report["seed"] for report in given[0]] if given and not (update and seeds) else [*asked]
    sides = []
    with repetitions(len(numbers) * sum(isinstance(side, Scenario) for side in (before, after))) as done:
        for side in (before, after):
            try:
                sides.append(side if isinstance(side, list) else reports_of(side, numbers, workers, done))
            except Exception as error:
                raise SimulationError(error) from error
    return sides[0], sides[1]
