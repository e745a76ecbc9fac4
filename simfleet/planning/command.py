"""`simfleet plan`: the cheapest fleet that keeps its targets, on one screen."""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

from simfleet.document import SpecError
from simfleet.gate.judge import CANNOT_JUDGE, KEPT, MISSED
from simfleet.library import Library
from simfleet.planning.candidates import pool_name
from simfleet.planning.plan import plan
from simfleet.scenario import Scenario, draft, load
from simfleet.sweeping.points import written_axes
from simfleet.terminal import (
    BAD_INPUT,
    SIMULATION_ERROR,
    bad_input,
    mistake,
    overrides_option,
    pairs,
    paths_option,
    stop,
    variant_option,
)


@click.command("plan")
@click.argument("scenario")
@click.option(
    "--over",
    multiple=True,
    metavar="PATH=V1,V2",
    help="Values to combine, such as pools.chat.precision=bf16,fp8; repeatable.",
)
@click.option("--pool", help="Whose replicas are looked for; may be left out where there is one.")
@click.option("--device", help="Names with commas between; left out: the likeliest of all that have a price.")
@click.option("--price", multiple=True, metavar="DEVICE=USD", help="Your rent of a device per hour; repeatable.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Simulations of each fleet: seeds 0, 1, ...",
)
@overrides_option
@variant_option
@paths_option
@click.option(
    "--frontier",
    "show",
    is_flag=True,
    help="Print the table of speed for each user against speed per device and dollars.",
)
@click.option(
    "--plot", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder for frontier.png and .svg."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes; left out, as many as there are processors.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    scenario: str, over: tuple[str, ...], pool: str | None, device: str | None, price: tuple[str, ...], seeds: int,
    overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...], show: bool, folder: Path | None, workers: int | None, form: str,
) -> None:  # fmt: skip
    """The cheapest fleet that keeps the targets of SCENARIO and of its classes: device, devices per replica, replicas, each one simulated.

    Exit codes: 0 found, 1 no fleet keeps them, 2 bad input, 3 the cheapest has targets that its runs cannot answer, 4 simulation error.
    """
    with bad_input():
        spec, library = _loaded(scenario, pairs(overrides), variant, paths, pool), Library(paths)
        grid, prices = written_axes(over), _prices(price, library)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    names = device.split(",") if device else []
    given = [("--set", each) for each in overrides] + [("--path", str(each)) for each in paths]
    asked = shlex.join(
        [scenario, *(["--variant", variant] if variant else []), *(word for pair in given for word in pair)]
    )
    try:
        with ProcessPoolExecutor(workers or os.cpu_count()) as executor:
            found = plan(spec, grid, pool, names, prices, range(seeds), executor, _progress(), library)
    except (SpecError, LookupError) as error:
        stop(mistake(error), BAD_INPUT)
    except Exception as error:  # scripts tell a broken run from bad input by its exit code
        stop(f"simulation error: {type(error).__name__}: {error}", SIMULATION_ERROR)
    if folder is not None:
        with bad_input():
            found.save(folder)
    click.echo(json.dumps(found.as_json(), indent=2) if form == "json" else found.text(show, asked))
    raise SystemExit(MISSED if found.best is None else CANNOT_JUDGE if found.best.unjudged else KEPT)


def _loaded(
    scenario: str, overrides: list[tuple[str, str]], variant: str | None, paths: Sequence[Path], pool: str | None
) -> Scenario:
    """The scenario; with one replica of the planned pool where its own number is too many for a power limit. Raises SpecError."""
    try:
        return load(scenario, overrides, variant, paths)
    except SpecError as error:
        limits = [
            p for p in error.problems if p.path.endswith("power_limit") and p.message.startswith("expected at least")
        ]
        if len(limits) < len(error.problems):
            raise
        path = f"pools.{pool_name(draft(scenario, overrides, variant, paths)[0], pool)}.replicas"
        return load(scenario, [*(each for each in overrides if each[0] != path), (path, "1")], variant, paths)


def _prices(given: Iterable[str], library: Library) -> dict[str, float]:
    """Device -> dollars per hour. Raises ValueError, LookupError."""
    found = {}
    for each in given:
        name, _, text = each.partition("=")
        number = text.removeprefix("$").removesuffix("/h")
        if not re.fullmatch(r"\d+\.?\d*|\.\d+", number) or not float(number):
            raise ValueError(
                f"--price: expected DEVICE=USD with dollars per hour above 0, such as h200=2.50, got `{each}`"
            )
        found[library.path("hardware_profiles", name).stem] = float(number)
    return found


def _progress() -> Callable[[str], None] | None:
    """Lines on a terminal only."""
    return (lambda line: click.echo(line, err=True)) if sys.stderr.isatty() else None
