"""The command line: text for people, JSON for programs, exit codes for scripts."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from simfleet.document import SpecError
from simfleet.hardware.profile import Profile, facts
from simfleet.library import Library
from simfleet.result import Result
from simfleet.scenario import Scenario, json_schema, load
from simfleet.simulation import simulate
from simfleet.workload import describe

BAD_INPUT, SIMULATION_ERROR = 2, 4
SHOWN = ("bf16", "fp8", "int8", "fp4")


def _stop(message: object, code: int) -> NoReturn:
    click.echo(message, err=True)
    raise SystemExit(code)


@contextmanager
def _bad_input() -> Iterator[None]:
    """One clear message and exit code 2 for whatever the user got wrong."""
    try:
        yield
    except SpecError as error:
        _stop(error, BAD_INPUT)
    except (LookupError, OSError) as error:
        _stop(f"error: {error.args[0] if isinstance(error, LookupError) else error}", BAD_INPUT)
    except ValueError as error:
        _stop(f"error: {error}", BAD_INPUT)
    except ImportError as error:
        _stop(f"error: {error}; `pip install simfleet[parquet]` brings it", BAD_INPUT)


_paths = click.option(
    "--path",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of own profiles and models; repeatable.",
)
_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override, such as pools.chat.replicas=8."
)
_variant = click.option("--variant", help="One of the scenario's variants.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="simfleet")
def cli() -> None:
    """Simulate a fleet of inference servers: latency, dollars and joules per token."""


@cli.command()
@click.argument("scenario")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same scenario and seed, same bytes."
)
@_overrides
@_variant
@_paths
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for report.json, report.md, timeline.csv, plots.",
)
@click.option("--format", "form", type=click.Choice(["text", "json", "md"]), default="text", show_default=True)
@click.option(
    "--requests",
    type=click.Choice(["csv", "parquet"]),
    is_flag=False,
    flag_value="csv",
    help="With --out: a row per request.",
)
def run(
    scenario: str, seed: int, overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...],
    out: Path | None, form: str, requests: str | None,
) -> None:  # fmt: skip
    """Run SCENARIO, a file or a shipped name, and print the report."""
    if requests and out is None:
        raise click.UsageError("--requests needs --out DIR to write to")
    with _bad_input():
        spec = load(scenario, overrides=_pairs(overrides), variant=variant, paths=paths)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
    result = _simulate(spec, seed, detail=requests is not None)
    if out is not None:
        with _bad_input():
            result.save(out, requests=requests)
    click.echo({"text": result.text, "json": result.json, "md": result.markdown}[form]().rstrip("\n"))


def _pairs(overrides: tuple[str, ...]) -> list[tuple[str, str]]:
    for text in overrides:
        if "=" not in text:
            raise click.UsageError(f"--set expects PATH=VALUE such as pools.chat.replicas=8, got `{text}`")
    return [(text.partition("=")[0], text.partition("=")[2]) for text in overrides]


def _simulate(scenario: Scenario, seed: int, detail: bool) -> Result:
    try:
        with _progress(scenario.horizon) as progress:
            return simulate(scenario, seed=seed, requests=detail, progress=progress)
    except Exception as error:  # scripts tell a broken run from bad input by its exit code
        _stop(f"simulation error: {type(error).__name__}: {error}", SIMULATION_ERROR)


@contextmanager
def _progress(horizon_s: float | None) -> Iterator[Any]:
    """A bar in simulated time, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    text = TextColumn("simulated {task.completed:,.0f} s")
    with Progress(text, BarColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("run", total=horizon_s)
        yield lambda now: bar.update(task, completed=now)


@cli.command()
@click.argument("scenarios", nargs=-1, required=True)
@_overrides
@_variant
@_paths
def validate(
    scenarios: tuple[str, ...], overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...]
) -> None:
    """Check every SCENARIO; print every error with file:line:column. Nothing is run."""
    failed = False
    for scenario in scenarios:
        try:
            spec = load(scenario, overrides=_pairs(overrides), variant=variant, paths=paths)
            click.echo(f"{scenario}: ok ({len(spec.pools)} pools, {len(spec.workload.streams)} streams)")
        except (SpecError, LookupError) as error:
            click.echo(error.args[0] if isinstance(error, LookupError) else error, err=True)
            failed = True
    if failed:
        raise SystemExit(BAD_INPUT)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of scenario files, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))


@cli.command()
@click.argument("name", required=False)
@_paths
def profiles(name: str | None, paths: tuple[Path, ...]) -> None:
    """List the hardware profiles, or explain one with the source of every number."""
    with _bad_input():
        library = Library(paths)
        if name is None:
            click.echo("\n".join(_profile_line(library, name) for name in library.names("hardware_profiles")))
        else:
            click.echo(_explain(library.profile(name)))


def _profile_line(library: Library, name: str) -> str:
    profile = library.profile(name)
    memory, power = profile.memory, profile.power
    tflops = ", ".join(
        f"{precision} {fact.value / 1e12:,.0f}" for precision, fact in profile.flops.items() if precision in SHOWN
    )
    price = f"${profile.rent[0].price:.2f}/h" if profile.rent else "no offer"
    return (
        f"{name:24} {memory.capacity.value / 1e9:7,.1f} GB {memory.kind:14.14} {memory.bandwidth.value / 1e12:6.2f} TB/s  "
        f"{power.tdp.value:6,.0f} W  {price:>9}  TFLOP/s {tflops}"
    )


def _explain(profile: Profile) -> str:
    """Every number of a profile with its grade and source."""
    lines = [
        f"{profile.name}: {profile.description} ({profile.vendor}, {profile.kind})",
        f"memory: {profile.memory.kind}",
    ]
    if profile.memory.note:
        lines.append(f"  {profile.memory.note}")
    for path, fact in facts(profile):
        note = f" - {fact.note}" if fact.note else ""
        lines.append(f"  {path:42} {_si(fact.value):>24}  {fact.grade:10} {fact.source}{note}")
    lines += [
        f"  rent {offer.price:8.2f} $/h  {offer.provider}, {offer.kind}, {offer.date} ({offer.source})"
        for offer in profile.rent
    ]
    return "\n".join([*lines, "sources:", *(f"  {key}: {text}" for key, text in profile.sources.items())])


def _si(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@cli.command()
@_paths
def scenarios(paths: tuple[Path, ...]) -> None:
    """List the scenarios that can be run by name."""
    with _bad_input():
        library = Library(paths)
        for name in library.names("scenarios"):
            click.echo(f"{name:22} {library.document('scenarios', name).data.get('description', '')}")


@cli.group()
def workload() -> None:
    """Look at requests without serving them."""


@workload.command("describe")
@click.argument("scenario")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@_overrides
@_variant
@_paths
def describe_workload(
    scenario: str, seed: int, form: str, overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...]
) -> None:
    """Rate, dispersion and lengths of every stream of SCENARIO, or of a trace: `--set workload.streams.chat.trace=...`."""
    with _bad_input():
        spec = load(scenario, overrides=_pairs(overrides), variant=variant, paths=paths)
        described = describe.streams(spec.workload, seed, spec.horizon)
    click.echo(json.dumps(described, indent=2) if form == "json" else describe.text(described))


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--profile", "name", help="The device to fit, or whose rows to fit an engine to; left out: all.")
@click.option("--engine", help="Fit this engine's constants to serving runs instead.")
@click.option(
    "--fit",
    "what",
    type=click.Choice(["engine", "devices", "both"]),
    default="engine",
    help="With --engine: whose constants.",
)
@click.option("--model", "models", multiple=True, help="With --engine: rows of this model only; repeatable.")
@click.option("--leave-out", help="With --engine: fit afresh without this model, then score its rows.")
@click.option("--out", type=click.Path(path_type=Path), help="Profile to write; without --profile: a folder.")
@_paths
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def calibrate(
    files: tuple[Path, ...], name: str | None, engine: str | None, what: Literal["engine", "devices", "both"], models: tuple[str, ...],
    leave_out: str | None, out: Path | None, paths: tuple[Path, ...], form: str,
) -> None:  # fmt: skip
    """Fit hardware profiles to FILES of measured operators, or an engine to FILES of measured serving runs (CSV)."""
    from simfleet.evidence import calibrate as calibration  # noqa: PLC0415
    from simfleet.evidence import writing  # noqa: PLC0415

    library = Library(paths)
    with _bad_input():
        if engine is not None:
            _tune(files, engine, library, what, models, name, leave_out, out)
            return
        found = calibration.calibrate(files, library, name)
        if out is not None:
            writing.save(found, library, out, single=name is not None)
    click.echo(json.dumps(found.as_json(), indent=2) if form == "json" else found.text())


def _tune(
    files: tuple[Path, ...], engine: str, library: Library, what: Literal["engine", "devices", "both"], models: tuple[str, ...],
    device: str | None, leave_out: str | None, out: Path | None,
) -> None:  # fmt: skip
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    from simfleet.evidence import tune  # noqa: PLC0415
    from simfleet.evidence.rows import Row  # noqa: PLC0415

    wanted = {library.path("models", model).stem for model in models}
    devices = {library.path("hardware_profiles", device).stem} if device is not None else set()
    without = library.path("models", leave_out).stem if leave_out is not None else None

    def keep(row: Row) -> bool:
        return (not wanted or row.model in wanted) and (not devices or row.device in devices) and row.model != without

    with ProcessPoolExecutor() as executor:
        tuned = tune.tune(files, engine, library, executor, keep, what=what, fresh=without is not None)
        scored = tune.score(tuned, files, library, executor, without) if without is not None else []
    if out is not None:
        tune.save(tuned, library, out)
    click.echo("\n".join([tuned.text(), *scored]))


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_overrides
@_paths
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--plot", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder for simulated against measured."
)
@click.option("--series", type=click.Path(path_type=Path), help="With --plot: measured levels over time (CSV).")
def accuracy(
    files: tuple[Path, ...],
    overrides: tuple[str, ...],
    paths: tuple[Path, ...],
    workers: int,
    form: str,
    folder: Path | None,
    series: Path | None,
) -> None:
    """Simulate every row of FILES of measured serving runs (CSV), and print how far off the simulator is."""
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    from simfleet.evidence import pictures  # noqa: PLC0415
    from simfleet.evidence.accuracy import accuracy as compare  # noqa: PLC0415

    with _bad_input(), ProcessPoolExecutor(workers) as executor, _progress(None) as progress:
        done = None if progress is None else lambda rows, _: progress(rows)
        found = compare(files, Library(paths), _pairs(overrides), executor, done)
    with _bad_input():
        if folder is not None:
            measured = pictures.read_series(series, Library(paths)) if series is not None else {}
            pictures.save(found.compared, folder, measured)
    click.echo(json.dumps(found.as_json(), indent=2) if form == "json" else found.text())


def main() -> None:
    """The `simfleet` command."""
    cli()
