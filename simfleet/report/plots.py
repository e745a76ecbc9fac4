"""Pictures of a run. Each takes `ax=None` and returns the axes; numbers come from metrics, never from here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from simfleet.report.cost import cost as money
from simfleet.report.cost import energy as joules
from simfleet.report.cost import waterfall
from simfleet.report.shares import whole
from simfleet.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""
TITLES = {
    "ttft_s": "Time to first token",
    "tpot_s": "Time per token",
    "e2e_s": "Whole answer",
    "queue_wait_s": "Queue wait",
}
SPENT = {"prompts": "prompts", "answers": "answers", "idle": "idle devices"}
STEPS = {
    "accelerator_active": "at work",
    "accelerator": "idle",
    "node": "servers",
    "facility": "cooling,\nlosses",
}
"""Boundary -> what it adds to the one before."""
SIZE = (5.2, 3.3)
"""Inches: text of 10 points stays readable on half a page."""
BRIEF = 0.02
"""Share of a run that is a hair's breadth of its curves."""
POINTS = 2000
"""Most points of a curve: a million requests draw as well, and as small, as a few thousand."""


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _legend(axes: "Axes", where: Literal["upper left", "lower left"]) -> None:
    """Names of the curves, if there are any."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc=where)


def _axes(ax: "Axes | None", title: str) -> "Axes":
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy: only who plots waits for it

    axes = ax if ax is not None else Figure(figsize=SIZE, layout="constrained").add_subplot()
    axes.set_title(title, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def latency(run: Run, ax: "Axes | None" = None, column: str = "ttft_s") -> "Axes":
    """Share of the answered requests served within a time, per class, with the targets as dashed lines.

    column -- `ttft_s`, `tpot_s`, `e2e_s` or `queue_wait_s`; KeyError for another
    """
    axes = _axes(ax, TITLES[column])
    values = run.tpot_s if column == "tpot_s" else run.requests[column]
    for number, name in enumerate(run.classes):
        mine = np.sort(values[run.in_class(name) & run.measured & np.isfinite(values)])
        if len(mine):
            at = np.unique(np.linspace(0, len(mine) - 1, POINTS).round().astype(int))
            axes.step(mine[at], (at + 1) / len(mine), where="post", color=_colour(number), label=name)
        _target(run, axes, name, column, _colour(number))
    axes.set(xscale="log", xlabel=f"{column} [s]", ylabel="share of answered requests", ylim=(0, 1.02))
    axes.xaxis.set_major_formatter("{x:g}")
    _legend(axes, "upper left")
    return axes


def _target(run: Run, axes: "Axes", name: str, column: str, colour: str) -> None:
    """The class's limit on a column, if it has one."""
    limit_s = getattr(run.scenario.workload.classes.get(name), column.removesuffix("_s"), None)
    if limit_s is not None:
        axes.axvline(limit_s, color=colour, linestyle="--", linewidth=1)
        place: Any = {"rotation": 90, "ha": "right", "va": "bottom", "fontsize": 8}
        axes.annotate(f"{name} target {limit_s:g} s", (limit_s, 0.02), color=colour, **place)


def kv(run: Run, ax: "Axes | None" = None) -> "Axes":
    """KV memory held per pool (full lines, left) and requests waiting (dotted, right)."""
    axes = _axes(ax, "KV memory and queue")
    right = axes.twinx()
    rows = run.records.timeline.array()
    _timeline(run, axes, rows, "kv_occupancy", "-")
    _timeline(run, right, rows, "waiting", ":")
    axes.set_ylabel("share of KV blocks held (full)")
    right.set_ylabel("requests waiting (dotted)")
    right.spines["top"].set_visible(False)
    _legend(axes, "upper left")
    return axes


def power(run: Run, ax: "Axes | None" = None) -> "Axes":
    """Watts of each pool's accelerators (full lines) and at the meter (dashed), means over the whole intervals of the timeline."""
    axes = _axes(ax, "Power: accelerators, and at the meter (dashed)")
    rows = whole_intervals(run)
    _timeline(run, axes, rows, "accelerator_w", "-")
    _timeline(run, axes, rows, "facility_w", "--", named=False)
    axes.set_ylabel("power [W]")
    _legend(axes, "lower left")
    return axes


def whole_intervals(run: Run) -> NDArray[np.void]:
    """Rows of the timeline whose means over the interval before them say something, for curves of watts and tokens.

    Left out are an interval that the end of the run cut short, and the time after the last arrivals where it is below BRIEF of the run: a
    curve would end in a fall too steep to be told from the axis.
    """
    rows: NDArray[np.void] = run.records.timeline.array()
    times_s, horizon_s = np.unique(rows["time_s"]), run.scenario.horizon
    if len(times_s) > 2 and times_s[-1] - times_s[-2] < 0.99 * (times_s[-2] - times_s[-3]):
        rows = rows[rows["time_s"] < times_s[-1]]
    if horizon_s is not None and horizon_s < run.records.duration_s < horizon_s / (1 - BRIEF):
        rows = rows[rows["time_s"] <= horizon_s]
    return rows


def _timeline(run: Run, axes: "Axes", rows: NDArray[np.void], column: str, style: str, named: bool = True) -> None:
    """One column of rows of the timeline, a line per pool; `named` lines stand in the legend."""
    for number, name in enumerate(run.pools):
        mine = rows[rows["pool"] == number]
        axes.step(
            mine["time_s"], mine[column], where="pre", color=_colour(number), linestyle=style, linewidth=1,
            label=name if named else "_",
        )  # fmt: skip
    axes.set(xlabel="simulated time [s]")
    axes.set_ylim(bottom=0, auto=True)  # later lines may still raise the top


def energy(run: Run, ax: "Axes | None" = None) -> "Axes":
    """Joules per output token, from the accelerators at work out to the meter: what each boundary adds, and the whole."""
    axes = _axes(ax, "Energy per output token, out to the meter")
    used = _totals(run)[0]["joules_per_output_token"]
    levels = [used[boundary] or 0.0 for boundary in STEPS]
    heights = [*np.diff([0.0, *levels]), levels[-1]]
    bars = axes.bar(
        range(len(heights)), heights, bottom=[0.0, *levels[:-1], 0.0], color=[*[COLOURS[0]] * len(STEPS), COLOURS[-1]]
    )
    axes.bar_label(bars, [f"{height:,.3g}" for height in heights], fontsize=8)
    axes.set_xticks(range(len(heights)), [*STEPS.values(), "at the\nmeter"])
    axes.set(xlabel="what each boundary adds", ylabel="energy per output token [J]")
    axes.margins(y=0.08)
    return axes


def cost(run: Run, ax: "Axes | None" = None) -> "Axes":
    """What was paid, line by line (rising), and what it was spent on: prompts, answers, idle devices (falling)."""
    axes = _axes(ax, "Cost: what was paid, and what for")
    lines = waterfall(run, range(len(run.pools)))
    spent = _totals(run)[1]["spent_usd"]
    heights = [*lines.values(), *spent.values()]
    rising = np.cumsum([0.0, *lines.values()])
    bottoms = [*rising[:-1], *(rising[-1] - np.cumsum([*spent.values()]))]
    colours = [COLOURS[0]] * len(lines) + [COLOURS[1]] * len(spent)
    bars = axes.bar(range(len(heights)), heights, bottom=bottoms, color=colours)
    axes.bar_label(bars, [f"${usd:,.3g}" for usd in heights], fontsize=8)
    axes.set_xticks(range(len(heights)), [*lines, *(SPENT[name] for name in spent)], rotation=25)
    axes.set(xlabel="lines paid, then what they were spent on", ylabel="cost [$]")
    axes.margins(y=0.08)
    return axes


def _totals(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Energy and cost of the whole run, as the report has them."""
    used = [whole(run, number) for number in range(len(run.pools))]
    return joules(run, used, run.records.accounts), money(run, used, run.records.accounts)


ALL: dict[str, Any] = {"latency": latency, "kv": kv, "power": power, "energy": energy, "cost": cost}


def save(run: Run, folder: Path) -> None:
    """Every plot as PNG and SVG; the same run draws the same bytes, whatever the user's style."""
    import matplotlib.style  # noqa: PLC0415

    with matplotlib.style.context(["default", {"svg.hashsalt": "simfleet"}]):
        for name, draw in ALL.items():
            figure = draw(run).figure
            figure.savefig(folder / f"{name}.png", dpi=144, metadata={"Software": None})
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
