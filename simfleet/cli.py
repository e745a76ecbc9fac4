"""The command line: text for people, JSON for programs, exit codes for scripts."""

import json
from importlib import import_module
from pathlib import Path
from textwrap import wrap
from typing import Literal

import click

from simfleet.document import SpecError
from simfleet.hardware.profile import Profile, facts
from simfleet.library import Library
from simfleet.page.sources import numbers
from simfleet.result import Result
from simfleet.scenario import Scenario, check_variants, load
from simfleet.simulation import simulate
from simfleet.spec import Spec, json_schema
from simfleet.terminal import (
    BAD_INPUT,
    SIMULATION_ERROR,
    bad_input,
    counted,
    overrides_option,
    pairs,
    paths_option,
    simulated_progress,
    stop,
    variant_option,
)
from simfleet.units import written
from simfleet.workload import describe

SHOWN = ("bf16", "fp8", "int8", "fp4")


ELSEWHERE: dict[str, str] = {
    "check": "simfleet.gate.commands:check",
    "compare": "simfleet.gate.commands:compare",
    "explain": "simfleet.sensitivity.command:command",
    "plan": "simfleet.planning.command:command",
    "sweep": "simfleet.sweeping.command:command",
}
"""Commands of other rooms, `module:name`, which are imported when they are asked for."""


class Commands(click.Group):
    """The commands here and those ELSEWHERE."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, name = ELSEWHERE[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="simfleet")
def cli() -> None:
    """Simulate a fleet of inference servers: latency, dollars and joules per token."""


@cli.command()
@click.argument("scenario")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same scenario and seed, same bytes."
)
@overrides_option
@variant_option
@paths_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for report.html, report.json, report.md, timeline.csv, plots.",
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
    with bad_input():
        spec = load(scenario, overrides=pairs(overrides), variant=variant, paths=paths)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
    result = _simulate(spec, seed, detail=requests is not None)
    if out is not None:
        with bad_input():
            result.save(out, requests=requests)
    click.echo({"text": result.text, "json": result.json, "md": result.markdown}[form]().rstrip("\n"))


def _simulate(scenario: Scenario, seed: int, detail: bool) -> Result:
    try:
        with simulated_progress(scenario.horizon) as progress:
            return simulate(scenario, seed=seed, requests=detail, progress=progress)
    except Exception as error:  # scripts tell a broken run from bad input by its exit code
        stop(f"simulation error: {type(error).__name__}: {error}", SIMULATION_ERROR)


@cli.command()
@click.argument("scenarios", nargs=-1, required=True)
@overrides_option
@variant_option
@paths_option
def validate(
    scenarios: tuple[str, ...], overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...]
) -> None:
    """Check every SCENARIO with all of its variants, or with --variant one; print every error with file:line:column. Nothing is run."""
    from simfleet.gate.targets import targets_of  # noqa: PLC0415

    failed = False
    for scenario in scenarios:
        try:
            laid = pairs(overrides)
            spec = check_variants(scenario, laid, paths) if variant is None else load(scenario, laid, variant, paths)
            if spec.targets:
                targets_of(spec)
            click.echo(f"{scenario}: ok ({_parts(spec, variant)})")
        except (SpecError, LookupError) as error:
            click.echo(error.args[0] if isinstance(error, LookupError) else error, err=True)
            failed = True
    if failed:
        raise SystemExit(BAD_INPUT)


def _parts(spec: Scenario, variant: str | None) -> str:
    """What was looked at."""
    found = [counted(len(spec.pools), "pool"), counted(len(spec.workload.streams), "stream")]
    return ", ".join([*found, *([counted(len(spec.variants), "variant")] if spec.variants and variant is None else [])])


@cli.command()
@click.argument("kind", type=click.Choice(["scenario", "sla", "tolerances"]), default="scenario")
def schema(kind: str) -> None:
    """Print the JSON Schema of a KIND of file, for editors: scenario (if none is named), sla, or tolerances."""
    from simfleet.gate.compare import Tolerances  # noqa: PLC0415
    from simfleet.gate.targets import Sla  # noqa: PLC0415

    kinds: dict[str, type[Spec]] = {"scenario": Scenario, "sla": Sla, "tolerances": Tolerances}
    click.echo(json.dumps(json_schema(kinds[kind]), indent=2))


@cli.command()
@click.argument("name", required=False)
@paths_option
def profiles(name: str | None, paths: tuple[Path, ...]) -> None:
    """List the hardware profiles, or explain one with the source of every number."""
    with bad_input():
        library = Library(paths)
        if name is None:
            click.echo("\n".join(_profile_line(library, name) for name in library.names("hardware_profiles")))
        else:
            click.echo(_explain(library.profile(name)))


def _profile_line(library: Library, name: str) -> str:
    profile = library.profile(name)
    memory, power = profile.memory, profile.power
    shown = SHOWN if "bf16" in profile.flops else ("fp16", *SHOWN[1:])
    tflops = [f"{name} {profile.flops[name].value / 1e12:,.0f}" for name in shown if name in profile.flops]
    price = f"${profile.rent[0].price:.2f}/h" if profile.rent else "no offer"
    return (
        f"{name:24} {memory.capacity.value / 1e9:7,.1f} GB {memory.kind:14.14} {memory.bandwidth.value / 1e12:9,.2f} TB/s  "
        f"{power.tdp.value:6,.0f} W  {price:>9}  TFLOP/s {', '.join(tflops) or 'unknown'}"
    )


def _explain(profile: Profile) -> str:
    """Every number of a profile with its unit, grade and source."""
    lines = [
        f"{profile.name}: {profile.description} ({profile.vendor}, {profile.kind})",
        f"memory: {profile.memory.kind}",
    ]
    if profile.memory.note:
        lines.append(f"  {profile.memory.note}")
    lines.append(f"  {'number':32} {'value':>16}  {'grade':10} source - note")
    for path, fact in facts(profile):
        note = f" - {fact.note}" if fact.note else ""
        found = dict(numbers(path, fact, _exact))
        lines.append(f"  {path:32} {found.get(path, ''):>16}  {fact.grade:10} {fact.source}{note}")
        if path not in found:
            together = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in found.items() if value)
            lines += wrap(together, width=110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += [
        f"  {'rent':32} {f'{offer.price:.2f} $/h':>16}  {'offer':10} {offer.provider}, {offer.kind}, {offer.date} ({offer.source})"
        for offer in profile.rent
    ]
    return "\n".join([*lines, "sources:", *(f"  {key}: {text}" for key, text in profile.sources.items())])


def _exact(value: float, dimension: str | None) -> str:
    """A number of a profile as its file could say it: `3.35 TB/s`, `$25,000`."""
    if dimension is None or dimension == "dollars":
        return f"{'$' if dimension else ''}{value:,.6g}"
    return written(value, dimension)


@cli.command()
@paths_option
def scenarios(paths: tuple[Path, ...]) -> None:
    """List the scenarios that can be run by name."""
    with bad_input():
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
@overrides_option
@variant_option
@paths_option
def describe_workload(
    scenario: str, seed: int, form: str, overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...]
) -> None:
    """Rate, dispersion and lengths of every stream of SCENARIO, or of a trace: `--set workload.streams.chat.trace=...`."""
    with bad_input():
        spec = load(scenario, overrides=pairs(overrides), variant=variant, paths=paths)
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
@click.option("--power", is_flag=True, help="Fit the constants of the energy equation to board watts.")
@click.option("--out", type=click.Path(path_type=Path), help="Profile to write; without --profile: a folder.")
@paths_option
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def calibrate(
    files: tuple[Path, ...], name: str | None, engine: str | None, what: Literal["engine", "devices", "both"], models: tuple[str, ...],
    leave_out: str | None, power: bool, out: Path | None, paths: tuple[Path, ...], form: str,
) -> None:  # fmt: skip
    """Fit hardware profiles to FILES of measured operators, or with --power their energy to FILES of serving runs with measured watts, or
    an engine to FILES of measured serving runs (CSV)."""
    from simfleet.calibration import operators, writing  # noqa: PLC0415
    from simfleet.calibration import power as watts  # noqa: PLC0415

    if power and engine is not None:
        raise click.UsageError("--power fits devices, --engine an engine: expected one of them")
    library = Library(paths)
    with bad_input():
        if engine is not None:
            _tune(files, engine, library, what, models, name, leave_out, out)
            return
        found = watts.calibrate(files, library, name) if power else operators.calibrate(files, library, name)
        if out is not None:
            writing.save(found, library, out, single=name is not None)
    click.echo(json.dumps(found.as_json(), indent=2) if form == "json" else found.text())


def _tune(
    files: tuple[Path, ...], engine: str, library: Library, what: Literal["engine", "devices", "both"], models: tuple[str, ...],
    device: str | None, leave_out: str | None, out: Path | None,
) -> None:  # fmt: skip
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    from simfleet.calibration import tune  # noqa: PLC0415
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
@overrides_option
@paths_option
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

    with bad_input(), ProcessPoolExecutor(workers) as executor, simulated_progress(None) as progress:
        done = None if progress is None else lambda rows, _: progress(rows)
        found = compare(files, Library(paths), pairs(overrides), executor, done)
    with bad_input():
        if folder is not None:
            measured = pictures.read_series(series, Library(paths)) if series is not None else {}
            pictures.save(found.compared, folder, measured)
    click.echo(json.dumps(found.as_json(), indent=2) if form == "json" else found.text())


def main() -> None:
    """The `simfleet` command."""
    cli()
