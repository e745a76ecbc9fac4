"""Pictures of a run. Each takes `ax=None` and returns the axes; numbers come from metrics, never from here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simfleet.report.metrics import waterfall
from simfleet.report.shares import caused
from simfleet.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""


def _axes(ax: "Axes | None", title: str) -> "Axes":
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy: only who plots waits for it

    axes = ax if ax is not None else Figure(figsize=(7.2, 4.2), layout="constrained").add_subplot()
    axes.set_title(title, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def latency(run: Run, ax: "Axes | None" = None) -> "Axes":
    """Time to first token: the share of requests served within it, per class, with the targets as dashed lines."""
    axes = _axes(ax, "Time to first token")
    for colour, name in zip(COLOURS, run.classes, strict=False):
        values = np.sort(run.requests["ttft_s"][run.in_class(name) & run.measured])
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        axes.step(values, np.arange(1, len(values) + 1) / len(values), where="post", color=colour, label=name)
        spec = run.scenario.workload.classes.get(name)
        if spec is not None and spec.ttft is not None:
            axes.axvline(spec.ttft, color=colour, linestyle="--", linewidth=1)
            axes.annotate(
                f"target {spec.ttft:g} s",
                (spec.ttft, 0.02),
                rotation=90,
                ha="right",
                va="bottom",
                color=colour,
                fontsize=8,
            )
    axes.set(xscale="log", xlabel="seconds", ylabel="share of answered requests", ylim=(0, 1.02))
    axes.legend(frameon=False, loc="upper left")
    return axes


def _timeline(run: Run, axes: "Axes", column: str, ylabel: str) -> None:
    rows = run.records.timeline.array()
    for number, name in enumerate(run.pools):
        chosen = rows[rows["pool"] == number]
        axes.step(chosen["time_s"], chosen[column], where="pre", color=COLOURS[number % len(COLOURS)], label=name)
    axes.set(xlabel="simulated seconds", ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def kv(run: Run, ax: "Axes | None" = None) -> "Axes":
    """KV memory held per pool (full lines, left) and requests waiting (dotted, right)."""
    axes = _axes(ax, "KV memory and queue")
    _timeline(run, axes, "kv_occupancy", "share of KV blocks held")
    rows = run.records.timeline.array()
    right = axes.twinx()
    for number in range(len(run.pools)):
        chosen = rows[rows["pool"] == number]
        right.step(
            chosen["time_s"], chosen["waiting"], where="pre", color=COLOURS[number % len(COLOURS)], linestyle=":"
        )
    right.set_ylabel("requests waiting (dotted)")
    right.set_ylim(bottom=0)
    return axes


def power(run: Run, ax: "Axes | None" = None) -> "Axes":
    """Watts of the accelerators of each pool, means over the intervals of the timeline."""
    axes = _axes(ax, "Accelerator power")
    _timeline(run, axes, "accelerator_w", "watts")
    return axes


def cost(run: Run, ax: "Axes | None" = None) -> "Axes":
    """What the dollars were spent on, line by line, and what they bought: prompts, answers, idle devices."""
    axes = _axes(ax, "Cost")
    lines = {name: usd for name, usd in waterfall(run).items() if name != "of_which_idle"}
    prompts, answers = (share.usd for share in caused(run, run.records.accounts))
    start = 0.0
    for name, usd in lines.items():
        axes.bar(name, usd, bottom=start, color=COLOURS[0])
        start += usd
    bought = {"prompts": prompts, "answers": answers, "not attributed": start - prompts - answers}
    for name, usd in bought.items():
        start -= usd
        axes.bar(name, usd, bottom=start, color=COLOURS[1])
    axes.set(ylabel="dollars")
    axes.tick_params(axis="x", rotation=20)
    return axes


ALL: dict[str, Any] = {"latency": latency, "kv": kv, "power": power, "cost": cost}


def save(run: Run, folder: Path) -> None:
    """Every plot as PNG and SVG; the same run draws the same bytes."""
    import matplotlib as mpl  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "simfleet"}):
        for name, draw in ALL.items():
            figure = draw(run).figure
            figure.savefig(folder / f"{name}.png", dpi=144, metadata={"Software": None})
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
