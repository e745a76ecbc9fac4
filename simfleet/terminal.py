"""What all commands share: messages and exit codes, options, a progress bar on a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from simfleet.document import SpecError

BAD_INPUT, SIMULATION_ERROR = 2, 4
MISTAKES = (SpecError, LookupError, OSError, ValueError, ImportError)
"""What is raised for whatever the user got wrong."""


def stop(message: object, code: int) -> NoReturn:
    click.echo(message, err=True)
    raise SystemExit(code)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 pool", "3 pools", "1,200 requests"; `plural` where an s does not make it."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


@contextmanager
def bad_input() -> Iterator[None]:
    """One clear message and exit code 2 for whatever the user got wrong."""
    try:
        yield
    except MISTAKES as error:
        stop(mistake(error), BAD_INPUT)


def mistake(error: Exception) -> str:
    """One of MISTAKES in words, a line for each problem."""
    if isinstance(error, SpecError):
        return str(error)
    if isinstance(error, ImportError):
        return f"error: {error}; `pip install simfleet[parquet]` brings it"
    return f"error: {error.args[0] if isinstance(error, LookupError) else error}"


paths_option = click.option(
    "--path",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of own profiles and models; repeatable.",
)
overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override, such as pools.chat.replicas=8; items of a list go by their name.",
)
variant_option = click.option("--variant", help="One of the scenario's variants.")


def pairs(overrides: tuple[str, ...]) -> list[tuple[str, str]]:
    for text in overrides:
        if "=" not in text:
            raise click.UsageError(f"--set expects PATH=VALUE such as pools.chat.replicas=8, got `{text}`")
    return [(text.partition("=")[0], text.partition("=")[2]) for text in overrides]


@contextmanager
def simulated_progress(horizon_s: float | None) -> Iterator[Any]:
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
