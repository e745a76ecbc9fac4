"""Predicted against measured, as pictures."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simfleet.evidence.accuracy import Comparison, replay
from simfleet.library import Library
from simfleet.report.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = NDArray[np.float64]
"""Measured levels: rows of time [s], running, waiting, share of KV memory in use."""

NAMES = {
    "ttft_mean_s": "time to first token [s]",
    "tpot_mean_s": "time per token [s]",
    "e2e_mean_s": "whole answer [s]",
}
SCORED = {
    **NAMES, "output_tok_per_s": "output tokens per second", "total_tok_per_s": "tokens per second",
    "joules_per_token": "joules per output token", "power_imposed": "watts of a device [W], pace imposed",
    "power_predicted": "watts of a device [W], pace predicted",
}  # fmt: skip


MARKERS = (".", "^", "s", "D")
"""Of the first groups, of the next as many as there are colours, and so on."""


def scatter(comparisons: list[Comparison], metric: str, ax: "Axes | None" = None) -> "Axes":
    """Simulated over measured of every row that has `metric`, a colour and marker for each device and engine or task, with lines at +-10 %."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    axes = ax if ax is not None else plt.subplots(figsize=(4.5, 4.5), layout="constrained")[1]
    groups: dict[str, list[tuple[float, float]]] = {}
    for row, simulated in comparisons:
        if metric in row.measured and metric in simulated:
            groups.setdefault(f"{row.device}, {row.tags.get('task', row.engine)}", []).append(
                (row.measured[metric], simulated[metric])
            )
    for number, (name, points) in enumerate(sorted(groups.items())):
        measured, predicted = np.array(points).T
        axes.plot(
            measured,
            predicted,
            MARKERS[number // len(COLOURS) % len(MARKERS)],
            markersize=4 if number < len(COLOURS) else 3,
            color=COLOURS[number % len(COLOURS)],
            markerfacecolor="none" if number >= len(COLOURS) else None,
            markeredgewidth=0.6,
            label=f"{name} ({len(points)})",
        )
    ends = [end for points in groups.values() for pair in points for end in pair]
    line = np.array([min(ends), max(ends)])
    axes.plot(line, line, color="0.4", linewidth=0.8)
    for factor in (0.9, 1.1):
        axes.plot(line, factor * line, color="0.7", linewidth=0.6, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel=f"measured {SCORED.get(metric, metric)}", ylabel="simulated")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}" if max(ends) < 20 * min(ends) else "")
        axis.set_tick_params(which="both", labelsize=7)
    axes.legend(frameon=False, fontsize=6)
    return axes


def save(comparisons: list[Comparison], folder: Path, series: Mapping[str, Series] | None = None) -> list[Path]:
    """A picture for every metric that was measured, and one for every replay of exact requests, beside the measured `series` of its device;
    returns the files."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for metric in SCORED:
        if any(metric in comparison.row.measured for comparison in comparisons):
            figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
            scatter(comparisons, metric, axes)
            written.append(folder / f"{metric}.svg")
            figure.savefig(written[-1], metadata={"Date": None})
            plt.close("all")
    for number, comparison in enumerate(c for c in comparisons if c.row.requests):
        figure = distributions(comparison, (series or {}).get(comparison.row.device))
        written.append(folder / f"replay-{number}-{comparison.row.device}.svg")
        figure.savefig(written[-1], metadata={"Date": None})
        plt.close("all")
    return written


def distributions(comparison: Comparison, series: Series | None = None) -> "Figure":
    """Of a replay: shares of requests by TTFT and by E2E, and over time sequences running and waiting and the share of KV memory in use,
    simulated and measured; `series` are the measured levels."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    row, result = comparison.row, replay(comparison.row)
    figure, ((first, whole), (levels, memory)) = plt.subplots(2, 2, figsize=(8, 5.5), layout="constrained")
    requests, measured = result.run.requests, np.array(row.latencies)
    for axes, name, column, title in (
        (first, "ttft_s", 0, "time to first token [s]"),
        (whole, "e2e_s", 1, "whole answer [s]"),
    ):
        for values, label, colour in (
            (measured[:, column], "measured", COLOURS[0]),
            (requests[name], "simulated", COLOURS[1]),
        ):
            ordered = np.sort(values[~np.isnan(values)])
            axes.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=colour, label=label)
        axes.set(xlabel=title, ylabel="share of requests")
    timeline = result.run.records.timeline.array()
    for axes, name, style, column in (
        (levels, "running", "-", 1),
        (levels, "waiting", "--", 2),
        (memory, "kv_occupancy", "-", 3),
    ):
        axes.plot(timeline["time_s"], timeline[name], style, color=COLOURS[1], label=f"{name}, simulated")
        if series is not None and series[:, column].any():
            axes.plot(series[:, 0], series[:, column], style, color=COLOURS[0], label=f"{name}, measured")
    levels.set(xlabel="time [s]", ylabel="sequences")
    memory.set(xlabel="time [s]", ylabel="share of KV memory", ylim=(0, 1.05))
    for axes in (first, levels):
        axes.legend(frameon=False, fontsize=7)
    figure.suptitle(f"{row.model} on {row.device}, {row.engine}, {len(row.requests)} requests", fontsize=9)
    return figure


def read_series(path: Path, library: Library) -> dict[str, Series]:
    """Device -> measured levels of a CSV file with columns hardware, t, running, waiting, kv_cache_pct. Raises ValueError."""
    found: dict[str, list[list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = [
            name
            for name in ("hardware", "t", "running", "waiting", "kv_cache_pct")
            if name not in (reader.fieldnames or ())
        ]
        if missing:
            raise ValueError(
                f"{path}:1: missing columns {', '.join(missing)}; the file has: {', '.join(reader.fieldnames or ())}"
            )
        for cells in reader:
            levels = [float(cells[name]) for name in ("t", "running", "waiting", "kv_cache_pct")]
            found.setdefault(library.path("hardware_profiles", cells["hardware"]).stem, []).append(
                [*levels[:3], levels[3] / 100]
            )
    return {device: np.array(rows) for device, rows in found.items()}
