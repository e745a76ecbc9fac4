"""`simfleet explain`: which assumption moves an answer most."""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

from simfleet.scenario import load
from simfleet.sensitivity.answers import explain, simulations
from simfleet.terminal import (
    SIMULATION_ERROR,
    bad_input,
    counted,
    overrides_option,
    pairs,
    paths_option,
    stop,
    variant_option,
)


@click.command("explain")
@click.argument("scenario")
@click.argument("answer", metavar="energy|cost")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same in every simulation.")
@overrides_option
@variant_option
@paths_option
@click.option("--top", type=click.IntRange(min=1), help="Rows to print; left out: 15 of the text, all of the JSON.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; left out, as many as there are processors.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    scenario: str, answer: str, seed: int, overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...],
    top: int | None, workers: int | None, form: str,
) -> None:  # fmt: skip
    """Which assumption moves joules per output token (energy) or dollars per million tokens (cost) of SCENARIO most.

    Every input is moved down and up, as far as its source is uncertain, all else and the random numbers the same.
    """
    with bad_input():
        spec = load(scenario, overrides=pairs(overrides), variant=variant, paths=paths)
        number = simulations(spec, answer)
    workers = min(workers or os.cpu_count() or 1, number)
    try:
        bar = click.progressbar(length=number, label=counted(number, "simulation"), file=sys.stderr)
        with ProcessPoolExecutor(workers) as executor, bar:
            found = explain(spec, answer, seed, executor, progress=lambda: bar.update(1))
    except Exception as error:  # scripts tell a broken run from bad input by its exit code
        stop(f"simulation error: {type(error).__name__}: {error}", SIMULATION_ERROR)
    shown = {} if top is None else {"top": top}
    click.echo(json.dumps(found.as_json(**shown), indent=2) if form == "json" else found.text(**shown))
