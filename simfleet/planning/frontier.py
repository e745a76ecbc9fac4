"""What step times alone say beyond the plan: the frontier of speed and cost, its pictures, and what moves the cost."""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simfleet.planning.candidates import Candidate, Changes
from simfleet.planning.demand import Demand, Steps, demand, load
from simfleet.report.plots import COLOURS
from simfleet.scenario import Scenario
from simfleet.sensitivity.edits import Edit, edited
from simfleet.sensitivity.inputs import inputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vP*X<>"
CACHED = 0.2
"""Share of the mean prompt that is tried as a shared prefix where a scenario has none."""
LEAST_SWING = 0.001


# -- frontier -------------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A replica that decodes `rows` sequences all the time: output tokens per second for each user and of each device, and dollars per
    million tokens, input and output together. `fast`, `cheap`: no other point is better in speed for the user and, at once, in output
    per device, or in dollars.
    """

    device: str
    changes: Changes
    rows: int
    tok_s_per_user: float
    tok_s_per_device: float
    usd_per_mtok: float
    fast: bool = False
    cheap: bool = False


def curves(candidates: Iterable[Candidate], pool: str, asked: Demand) -> list[Point]:
    """Points of every candidate at batches that double, those on a frontier marked."""
    points = [point for candidate in candidates if candidate.scenario for point in _curve(candidate, pool, asked)]
    fast = _best([(point.tok_s_per_user, point.tok_s_per_device) for point in points])
    cheap = _best([(point.tok_s_per_user, -point.usd_per_mtok) for point in points])
    return [point._replace(fast=i in fast, cheap=i in cheap) for i, point in enumerate(points)]


def _curve(candidate: Candidate, pool: str, asked: Demand) -> Iterator[Point]:
    assert candidate.scenario is not None  # `curves` leaves the others out
    mine = candidate.scenario.pools[pool]
    steps, devices, rows = Steps(mine, asked), mine.parallel.devices, 1
    while True:
        steady = steps.at(rows)
        tok_s = steady.requests_per_s * asked.answer
        usd = candidate.usd_per_hour / 3600 / (steady.requests_per_s * (asked.prompt + asked.answer)) * 1e6
        yield Point(candidate.device, candidate.changes, rows, 1 / steady.step_s, tok_s / devices, usd)
        if rows == steps.most_rows:
            return
        rows = min(2 * rows, steps.most_rows)


def _best(points: Sequence[tuple[float, float]]) -> set[int]:
    """Which points no other one beats in both numbers, larger being better."""
    found, top = set(), float("-inf")
    for i in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        if points[i][1] > top:
            found.add(i)
            top = points[i][1]
    return found


def plot(
    points: Iterable[Point], tpot_s: float | None = None, axes: "Sequence[Axes] | None" = None
) -> "Sequence[Axes]":
    """Output per device (left) and dollars per million tokens (right) against speed for each user: a point per fleet and batch on the
    frontier, and the line that it lies on. Returns the two axes.

    tpot_s -- the target of time per token, drawn as a dashed line [s]; axes -- two to draw into
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy: only who plots waits for it

    if axes is None:
        axes = list(Figure(figsize=(9.6, 4.4), layout="constrained").subplots(1, 2))
    labels = {"tok_s_per_device": "output tok/s per device", "usd_per_mtok": "$ per million tokens, in and out"}
    for ax, (column, label), mark in zip(axes, labels.items(), ("fast", "cheap"), strict=True):
        _draw(ax, list(points), column, mark)
        if tpot_s is not None:
            ax.axvline(1 / tpot_s, color="black", linestyle="--", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="output tok/s for each user", ylabel=label)
        ax.legend(frameon=False, fontsize=7)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    return axes


def _draw(ax: "Axes", points: list[Point], column: str, mark: str) -> None:
    on_it = [point for point in points if getattr(point, mark)]
    names = list(dict.fromkeys(point.device for point in on_it))
    for changes in dict.fromkeys(point.changes for point in on_it):
        line = [point for point in points if point.changes == changes]
        colour = COLOURS[names.index(line[0].device) % len(COLOURS)]
        ax.plot(
            [p.tok_s_per_user for p in line], [getattr(p, column) for p in line], linewidth=0.6, alpha=0.6, color=colour
        )
    for i, name in enumerate(names):
        mine = [point for point in on_it if point.device == name]
        xs, ys = [point.tok_s_per_user for point in mine], [getattr(point, column) for point in mine]
        ax.scatter(xs, ys, s=22, label=name, color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)])


def save(points: Sequence[Point], folder: Path, tpot_s: float | None) -> None:
    """frontier.png and frontier.svg."""
    import matplotlib.style  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(["default", {"svg.hashsalt": "simfleet"}]):
        figure: Any = plot(points, tpot_s)[0].figure
        figure.savefig(folder / "frontier.png", dpi=144, metadata={"Software": None})
        figure.savefig(folder / "frontier.svg", metadata={"Date": None, "Creator": None})


# -- what moves the cost --------------------------------------------------------------------------------------------------


class Moved(NamedTuple):
    """One input of a fleet, lower and higher: chips and cost of the fleet that is then needed, cost as a share of the plain one - 1."""

    name: str
    origin: str
    low: float
    high: float
    chips_low: int
    chips_high: int
    cost_low: float
    cost_high: float

    @property
    def swing(self) -> float:
        return max(self.cost_low, self.cost_high, 0.0) - min(self.cost_low, self.cost_high, 0.0)


def tornado(scenario: Scenario, pool: str, asked: Demand, seed: int) -> list[Moved]:
    """The cost of the fleet that keeps the targets when an input is moved as far as `simfleet explain` moves it, largest swing first.

    Not simulated: by steady states, for chips as many replicas more or fewer as the simulated answer is off theirs. Low and high are
    shares of the input's value, but for a prefix that the scenario does not have: shares of the mean prompt.
    """
    mine = scenario.pools[pool]
    plain = _cost(scenario, pool, asked)
    beside = mine.replicas - ceil(plain[0])
    rows = []
    for item in inputs(scenario, "cost")[0]:
        if item.value and (not item.pools or pool in item.pools):
            shares = item.low / item.value, item.high / item.value
            rows.append((item.name, item.origin, *shares, item.edits["down"], item.edits["up"]))
    if not any(name == "prefix hits" for name, *_ in rows):
        rows.append(("prefix hits", "none given", 0.0, CACHED, (), tuple(_prefix(scenario, asked))))
    found = []
    for name, origin, low, high, *edits in rows:
        after = [_moved(scenario, pool, asked, seed, edit) for edit in edits]
        chips = [max(ceil(needs) + beside, 1) * mine.parallel.devices for needs, _ in after]
        costs = [needs * usd / (plain[0] * plain[1]) - 1 for needs, usd in after]
        found.append(Moved(name, origin, low, high, chips[0], chips[1], costs[0], costs[1]))
    return sorted((row for row in found if row.swing > LEAST_SWING), key=lambda row: (-row.swing, row.name))


def _moved(scenario: Scenario, pool: str, asked: Demand, seed: int, edits: Sequence[Edit]) -> tuple[float, float]:
    varied = edited(scenario, edits)
    if any(path[0] == "workload" for path, _ in edits):
        asked = demand(varied, pool, seed)
    return _cost(varied, pool, asked)


def _cost(scenario: Scenario, pool: str, asked: Demand) -> tuple[float, float]:
    """Replicas needed, not in whole ones, and dollars per hour of one."""
    mine = scenario.pools[pool]
    hourly = sum(mine.cost.rates(mine.profile, scenario.sites[mine.site]).values()) * mine.parallel.devices
    return load(mine, asked, scenario.workload.classes), hourly


def _prefix(scenario: Scenario, asked: Demand) -> list[Edit]:
    streams = scenario.workload.streams
    return [
        (("workload", "streams", i, "tokens", "shared_prefix"), round(CACHED * asked.prompt))
        for i, stream in enumerate(streams)
        if stream.tokens is not None
    ]
