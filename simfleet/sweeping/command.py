"""`simfleet sweep`: a grid of scenarios as one table."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import click

from simfleet.sweeping.points import default_folder, written_axes
from simfleet.sweeping.sweep import Progress, sweep
from simfleet.sweeping.table import Sweep
from simfleet.terminal import (
    SIMULATION_ERROR,
    bad_input,
    overrides_option,
    pairs,
    paths_option,
    stop,
    variant_option,
)

INTERRUPTED = 130
SUFFIXES = (".csv", ".parquet")


@click.command("sweep")
@click.argument("scenario")
@click.option(
    "--over", "texts", multiple=True, required=True, metavar="PATH=V1,V2,...", help="An axis of the grid; repeatable."
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Seeds 0, 1, ... at every point; intervals from two on.",
)
@overrides_option
@variant_option
@paths_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Table to write, .csv or .parquet.")
@click.option("--executor", default="local", show_default=True, help="`local` processes, or dask://host:port.")
@click.option("--workers", type=click.IntRange(min=1), help="Local processes; left out: one per processor.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of finished runs.  [default: SIMFLEET_CACHE, else ~/.cache/simfleet]",
)
@click.option("--no-cache", is_flag=True, help="Keep nothing: a sweep that is stopped begins again.")
@click.option("--format", "form", type=click.Choice(["text", "json", "csv"]), default="text", show_default=True)
def command(
    scenario: str, texts: tuple[str, ...], seeds: int, overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...],
    out: Path | None, executor: str, workers: int | None, cache: Path | None, no_cache: bool, form: str,
) -> None:  # fmt: skip
    """Simulate SCENARIO at every point of a grid, under every seed: one table with confidence intervals.

    Stopped at any moment, the same command goes on from there. A point that fails is a row with its error.
    """
    if out is not None and out.suffix not in SUFFIXES:
        raise click.UsageError(f"--out expects a file that ends in {' or '.join(SUFFIXES)}, got `{out}`")
    folder = cache or default_folder()
    try:
        with bad_input(), _bar() as progress:
            if out is not None and not out.parent.is_dir():
                raise NotADirectoryError(f"no such folder: `{out.parent}`")
            if out is not None and out.suffix == ".parquet":
                import_module("pyarrow")  # before all the work
            found = sweep(
                scenario, written_axes(texts), seeds, overrides=pairs(overrides), variant=variant, paths=paths,
                executor=executor, workers=workers, cache=False if no_cache else folder, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        kept = (
            "nothing was kept"
            if no_cache
            else f"finished runs are kept in {folder}: the same command goes on from there"
        )
        stop(f"interrupted; {kept}", INTERRUPTED)
    except RuntimeError as error:
        stop(f"simulation error: {error}", SIMULATION_ERROR)
    _show(found, out, form)


def _show(found: Sweep, out: Path | None, form: str) -> None:
    with bad_input():
        if out is not None:
            found.save(out)
    if form == "csv":
        click.echo(found.table.to_csv(index=False, lineterminator="\n"), nl=False)
    else:
        click.echo(found.json() if form == "json" else found.text(), nl=form == "text")
    if len(found.failures) == len(found.points):
        stop("no point has numbers", SIMULATION_ERROR)


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None] | None]:
    """Runs done, kept from before and failed, and the time left, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    text = TextColumn("{task.description}")
    begun = time.monotonic()
    with Bar(BarColumn(), text, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("begins", total=None)

        def progress(now: Progress) -> None:
            bar.update(task, total=now.total, completed=now.done, description=words(now, time.monotonic() - begun))

        yield progress


def words(now: Progress, elapsed_s: float) -> str:
    """What a bar says. The time left supposes that none of the runs to come was kept."""
    parts = [f"{now.done:,} of {now.total:,} runs"]
    parts += [f"{now.kept:,} kept from before"] if now.kept else []
    parts += [f"{now.failed:,} failed"] if now.failed else []
    computed = now.done - now.kept
    if computed and now.done < now.total:
        left_s = round((now.total - now.done) * elapsed_s / computed)
        parts.append(f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left")
    return ", ".join(parts)
