"""What of a run is drawn on its page: times of requests, pools over time, waterfalls of joules and dollars, and pairs of two runs."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simfleet.page.charts import Chart, Mark, Series, Shape, tidy_seconds
from simfleet.report.plots import whole_intervals
from simfleet.report.summary import number
from simfleet.run import Run

Json = dict[str, Any]
Row = tuple[str, float | None, float | None]
Show = Callable[[float | None], str]
LEFT, RIGHT, ROW = 156, 404, 26
"""Where bars begin and the longest ends, and the height of a row; labels stand left of it, values right."""
STEPS = {
    "accelerator_active": "accelerators at work",
    "accelerator": "+ idle",
    "node": "+ servers",
    "facility": "+ cooling, losses",
}
SPENT = {"prompts": "on prompts", "answers": "on answers", "idle": "on idle devices"}
POINTS = 240
"""Most points of a curve of requests: as many as its width has pixels to show."""
LATENCIES = {
    "ttft_s": "Time to first token",
    "tpot_s": "Time per token",
    "e2e_s": "Whole answer",
    "queue_wait_s": "Queue wait",
}
CLOCKS = ((600.0, 1.0, "s"), (4 * 3600.0, 60.0, "min"), (4 * 86_400.0, 3600.0, "h"), (float("inf"), 86_400.0, "d"))
"""Up to so many seconds, a time axis counts in this unit."""


# -- curves --------------------------------------------------------------------------------------------------------------


def latency(run: Run) -> list[Chart]:
    """Shares of the answered requests served within a time, per class, with the targets."""
    return [_distribution(run, column, title) for column, title in LATENCIES.items()]


def _distribution(run: Run, column: str, title: str) -> Chart:
    values = run.tpot_s if column == "tpot_s" else run.requests[column]
    series, marks = [], []
    for colour, name in enumerate(run.classes):
        mine = np.sort(values[run.in_class(name) & run.measured & np.isfinite(values)])
        at = np.unique(np.linspace(0, len(mine) - 1, POINTS).round().astype(int))[: len(mine)]
        series.append(Series(name, mine[at], (at + 1) / max(len(mine), 1), colour))
        limit_s = getattr(run.scenario.workload.classes.get(name), column.removesuffix("_s"), None)
        if limit_s is not None:
            marks.append(Mark(limit_s, f"{name}: target {tidy_seconds(limit_s)}", colour))
    x_name, y_name = f"within this time ({column})", "share of answered requests"
    return Chart(title, x_name, y_name, series, "after", x_log=True, share=True, top=1.0, marks=marks)


def load(run: Run) -> list[Chart]:
    """KV memory, queue, running requests and tokens per pool over time."""
    return [
        _over_time(run, "kv_occupancy", "KV memory held", "share of KV blocks", share=True),
        _over_time(run, "waiting", "Requests waiting", "requests", whole=True),
        _over_time(run, "running", "Requests running", "requests", whole=True),
        _over_time(run, "output_tok_s", "Output tokens", "output tokens per second", "tok/s", rate=True, sums=True),
    ]


def power(run: Run) -> list[Chart]:
    """Watts of the accelerators and at the meter, per pool over time."""
    return [
        _over_time(run, "accelerator_w", "Accelerators", "power [W]", "W", rate=True, sums=True),
        _over_time(run, "facility_w", "At the meter", "power [W]", "W", rate=True, sums=True),
    ]


def _over_time(
    run: Run, column: str, title: str, y_name: str, y_unit: str = "",
    *, share: bool = False, whole: bool = False, rate: bool = False, sums: bool = False,
) -> Chart:  # fmt: skip
    """One column of the timeline, a curve per pool; `rate` for means over whole intervals, `sums` for a curve of all pools."""
    rows = whole_intervals(run) if rate else run.records.timeline.array()
    factor, unit = _clock(rows["time_s"])
    series = [
        Series(name, rows["time_s"][mine] / factor, rows[column][mine].astype(float), number)
        for number, name in enumerate(run.pools)
        if (mine := rows["pool"] == number).any()
    ]
    series += [_sum(series)] if sums and len(series) > 1 else []
    shape: Shape = "before" if rate else "line"
    return Chart(title, f"simulated time [{unit}]", y_name, series, shape, share=share, whole=whole, y_unit=y_unit)


def _clock(times_s: NDArray[np.float64]) -> tuple[float, str]:
    """Seconds of the unit that a time axis counts in, and its name."""
    end_s = float(times_s.max(initial=0.0))
    return next((factor, unit) for most_s, factor, unit in CLOCKS if end_s <= most_s)


def _sum(series: Iterable[Series]) -> Series:
    """All pools together; their samples are of the same instants."""
    series = list(series)
    return Series("all", series[0].x, np.sum([one.y for one in series], axis=0), -1)


# -- bars ----------------------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """One bar. `colour` as in charts; y and the rest are positions."""

    label: str
    text: str
    x: float
    width: float
    y: float
    colour: int


class Bars(NamedTuple):
    """A heading, its bars, and the height they take. `keys` are names of colours."""

    title: str
    unit: str
    bars: list[Bar]
    height: float
    keys: Sequence[tuple[str, int]] = ()


class Part(NamedTuple):
    """A stretch from `start` to `end` with a colour, before it is drawn to scale."""

    label: str
    start: float
    end: float
    colour: int
    text: str


def cost(report: Json) -> Bars:
    """What was paid, line by line, rising to the whole, and what it was spent on, falling to nothing [$]."""
    money = report["cost"]
    rising = list(_stack(((name.replace("_", " "), usd) for name, usd in money["lines_usd"].items()), 0.0, 1.0, 0))
    spent = ((words, money["spent_usd"][name]) for name, words in SPENT.items())
    whole = Part("total", 0.0, money["usd_total"], -1, number(money["usd_total"]))
    parts = [*rising, whole, *_stack(spent, money["usd_total"], -1.0, 1)]
    return _bars("What was paid, and what for", "$", parts, [("paid", 0), ("spent", 1)])


def energy(report: Json) -> Bars:
    """Joules per output token, from the chip at work out to the meter [J]."""
    per_token = report["energy"]["joules_per_output_token"]
    levels = [per_token[name] or 0.0 for name in STEPS]
    steps = zip(STEPS.values(), [levels[0], *(b - a for a, b in pairwise(levels))], strict=True)
    whole = Part("at the meter", 0.0, levels[-1], -1, number(per_token["facility"]))
    return _bars("Energy per output token, boundary by boundary", "J", [*_stack(steps, 0.0, 1.0, 0), whole])


def pairs(title: str, unit: str, rows: Iterable[Row], names: Sequence[str], show: Show = number) -> Bars:
    """Two bars for each row, one of each run."""
    parts = []
    for label, one, other in rows:
        for name, value, colour in ((label, one, 0), ("", other, 1)):
            parts.append(Part(name, 0.0, value or 0.0, colour, show(value)))
    return _bars(title, unit, parts, [(names[0], 0), (names[1], 1)])


def _stack(lines: Iterable[tuple[str, float]], start: float, sign: float, colour: int) -> Iterable[Part]:
    for label, amount in lines:
        yield Part(label, start, start + sign * amount, colour, number(amount))
        start += sign * amount


def _bars(title: str, unit: str, parts: list[Part], keys: Sequence[tuple[str, int]] = ()) -> Bars:
    most = max((max(part.start, part.end) for part in parts), default=0.0) or 1.0

    def at(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * max(value, 0.0) / most, 1)

    bars = []
    for row, part in enumerate(parts):
        low, high = at(min(part.start, part.end)), at(max(part.start, part.end))
        bars.append(
            Bar(
                part.label,
                part.text,
                low,
                round(max(high - low, 1.0 if part.start != part.end else 0.0), 1),
                row * ROW + 4.0,
                part.colour,
            )
        )
    return Bars(title, unit, bars, len(parts) * ROW + 8.0, keys)
