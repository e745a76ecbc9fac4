"""Curves as geometry of an inline SVG: where lines, ticks and marks stand, and the values shown under the pointer."""

from collections.abc import Callable, Iterable, Sequence
from math import ceil, floor, inf, log10
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simfleet.report.summary import seconds

Floats = NDArray[np.float64]
Shape = Literal["line", "before", "after"]
Pixels = Callable[[float], float]

LEFT, TOP, RIGHT, BOTTOM = 56, 14, 466, 222
"""The box that the curves stand in; SVG counts downwards."""
MOST_TICKS = 5


class Series(NamedTuple):
    """One curve. `colour` counts the page's colours; -1 is the ink of text, for sums."""

    name: str
    x: Floats
    y: Floats
    colour: int


class Mark(NamedTuple):
    """A limit on the x axis, in the colour of its series."""

    x: float
    label: str
    colour: int


class Chart(NamedTuple):
    """Curves over one axis, from 0 upwards.

    shape -- `line` for levels at instants, `before` for means of the interval that ends at x, `after` for shares reached at x
    x_log -- x in seconds on a logarithmic axis; else a plain number in the unit that `x_name` says
    share -- y is a share of one and shown in percent
    whole -- y counts things, with no tick between one and two
    """

    title: str
    x_name: str
    y_name: str
    series: list[Series]
    shape: Shape = "line"
    x_log: bool = False
    share: bool = False
    whole: bool = False
    y_unit: str = ""
    top: float | None = None
    marks: Sequence[Mark] = ()


class Axis(NamedTuple):
    """Values at both ends, and where the ticks are, with their labels."""

    low: float
    high: float
    ticks: list[tuple[float, str]]


class Drawing(NamedTuple):
    """What the template writes: SVG paths, and positions in its coordinates. `hover` is for the script."""

    title: str
    x_name: str
    y_name: str
    paths: list[tuple[str, int, str]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[dict[str, Any]]
    hover: dict[str, Any]


def draw(chart: Chart) -> Drawing | None:
    """The geometry of a chart; None where there is nothing to draw."""
    series = [one for one in chart.series if len(one.x)]
    if not series:
        return None
    x, y = _x_axis(chart, series), _y_axis(chart, series)
    at_x, at_y = _scale(x, chart.x_log, LEFT, RIGHT), _scale(y, False, BOTTOM, TOP)
    return Drawing(
        chart.title, chart.x_name, chart.y_name,
        [(one.name, one.colour, _path(one, chart.shape, at_x, at_y)) for one in series],
        [(at_x(value), label) for value, label in x.ticks],
        [(at_y(value), label) for value, label in y.ticks],
        [_mark(mark, row, at_x) for row, mark in enumerate(chart.marks)],
        {
            "box": [LEFT, TOP, RIGHT, BOTTOM], "x": [x.low, x.high], "y": [y.low, y.high], "log": chart.x_log,
            "shape": chart.shape, "share": chart.share, "xUnit": chart.x_name.rpartition("[")[2].rstrip("]"), "yUnit": chart.y_unit,
            "series": [[one.name, one.colour, _rounded(one.x), _rounded(one.y)] for one in series],
        },
    )  # fmt: skip


def _rounded(values: Floats) -> list[float]:
    """Four digits are enough to read."""
    return [float(f"{value:.4g}") for value in values.tolist()]


# -- axes ----------------------------------------------------------------------------------------------------------------


def _x_axis(chart: Chart, series: list[Series]) -> Axis:
    values = np.concatenate([one.x for one in series])
    high = max(float(values.max()), *(mark.x for mark in chart.marks), 0.0)
    if not chart.x_log:
        return Axis(0.0, high or 1.0, [tick for tick in even_ticks(high or 1.0) if tick[0] <= high])
    positive = values[values > 0]
    low = min(float(positive.min(initial=inf)), *(mark.x for mark in chart.marks), high or inf)
    return log_axis(low, high) if 0 < low < inf else log_axis(1e-3, 1.0)


def _y_axis(chart: Chart, series: list[Series]) -> Axis:
    most = chart.top or max(float(one.y.max()) for one in series) or 1.0
    scale, unit = (100.0, " %") if chart.share else (1.0, "")
    ticks = even_ticks(most * scale, least=1.0 if chart.whole else 0.0)
    return Axis(0.0, ticks[-1][0] / scale, [(value / scale, label + unit) for value, label in ticks])


def even_ticks(high: float, least: float = 0.0) -> list[tuple[float, str]]:
    """Round values from 0 up to the first one at or above `high`, a few of them, at least `least` apart."""
    rough = max(high / MOST_TICKS, least)
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * (1 - 1e-9))
    decimals = max(0, -floor(log10(step * (1 + 1e-9))))
    count = ceil(high / step * (1 - 1e-9))
    return [(i * step, f"{i * step:,.{decimals}f}") for i in range(count + 1)]


def log_axis(low: float, high: float) -> Axis:
    """Seconds from `low` to `high` on a logarithmic axis, with ticks at 1, 2, 5 or at powers of ten."""
    if high < 1.5 * low:
        low, high = low / 1.5, high * 1.5
    first, last = floor(log10(low)), ceil(log10(high))
    for within in ((1, 2, 5), (1, 3), (1,)):
        values = [m * 10.0**power for power in range(first, last + 1) for m in within]
        values = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(values) <= MOST_TICKS + 1:
            break
    values = values[:: ceil(len(values) / (MOST_TICKS + 1))] if values else []
    return Axis(low, high, [(value, tidy_seconds(value)) for value in values])


def tidy_seconds(value: float) -> str:
    """A round time without the zeros that say how exact a measured one is: `50 ms`, `1 s`."""
    text, _, unit = seconds(value).partition(" ")
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def _scale(axis: Axis, log: bool, start: float, end: float) -> Pixels:
    """From values to positions; what lies outside stands at the end."""
    low, high = (log10(axis.low), log10(axis.high)) if log else (axis.low, axis.high)

    def position(value: float) -> float:
        at = log10(max(value, axis.low)) if log else value
        return round(start + (end - start) * min(max((at - low) / (high - low), 0.0), 1.0), 1)

    return position


# -- curves --------------------------------------------------------------------------------------------------------------


def _path(one: Series, shape: Shape, at_x: Pixels, at_y: Pixels) -> str:
    points = [(at_x(x), at_y(y)) for x, y in zip(one.x.tolist(), one.y.tolist(), strict=True)]
    (x, y), rest = points[0], points[1:]
    start = BOTTOM if shape == "after" else y
    return f"M{x:g} {start:g}" + "".join(_steps([(x, y), *rest] if shape == "after" else rest, shape))


def _steps(points: Iterable[tuple[float, float]], shape: Shape) -> Iterable[str]:
    for x, y in points:
        yield {"line": f"L{x:g} {y:g}", "before": f"V{y:g}H{x:g}", "after": f"H{x:g}V{y:g}"}[shape]


def _mark(mark: Mark, row: int, at_x: Pixels) -> dict[str, Any]:
    x = at_x(mark.x)
    left = x > (LEFT + RIGHT) / 2
    text = {"text_x": x - 5 if left else x + 5, "anchor": "end" if left else "start"}
    return {"x": x, "y": BOTTOM - 8 - 17 * row, "label": mark.label, "colour": mark.colour, **text}
