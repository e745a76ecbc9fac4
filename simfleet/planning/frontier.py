"""What a plan shows: the frontier of speed and cost and what moves the cost, both from step times alone; text, HTML and pictures."""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from pathlib import Path
from shlex import quote
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from simfleet.document import flow
from simfleet.planning.screen import Candidate, Changes, Demand, Steps, demand, load
from simfleet.report.plots import COLOURS
from simfleet.report.summary import Table, number, seconds
from simfleet.scenario import Scenario
from simfleet.sensitivity.edits import Edit, edited
from simfleet.sensitivity.inputs import inputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Json = dict[str, Any]
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


# -- the screen -----------------------------------------------------------------------------------------------------------


TARGETS = ("ttft", "tpot", "e2e")
MARKS = {"within": "", "OUTSIDE what": " +", "OUTSIDE:": " *"}
LEGEND = "+ beyond the runs that were compared, * device and engine never compared with measurements, ~ watts estimated"
SHORT = {"memory bandwidth": "bandwidth", "kernel launches": "launches"}


def verdict(plan: Json) -> str:
    """The answer in a line."""
    if not plan["fleets"]:
        return f"{plan['scenario']}: no fleet that was tried keeps the targets"
    best = plan["fleets"][0]
    return (
        f"{plan['scenario']}: {best['devices']} x {best['device']} ({_layout(plan, best)}), ${number(best['usd_per_hour'])}/h, "
        f"{best['devices_n_plus_1']} with a spare replica"
    )


def _layout(plan: Json, fleet: Json) -> str:
    """Replicas and devices of each, and whatever else was varied."""
    each = fleet["devices"] // fleet["replicas"]
    return ", ".join([f"{fleet['replicas']} x TP{each}", *_varied(plan, fleet["varied"])])


def _varied(plan: Json, changes: Json) -> list[str]:
    """What else than device, devices per replica and replicas was varied, values alone."""
    here = f"pools.{plan['pool']}."
    fixed = (f"{here}device", f"{here}tensor_parallel", f"{here}replicas")
    return [f"{path.removeprefix(here).split('.')[-1]} {value}" for path, value in changes.items() if path not in fixed]


def headline(plan: Json) -> list[str]:
    """What was asked, and what was tried."""
    asked, goals = plan["demand"], []
    for name, goal in plan["goals"].items():
        limits = ", ".join(f"{key.upper()} {seconds(goal[key])}" for key in TARGETS if goal[key] is not None)
        goals.append(f"{name}: {goal['target'] * 100:g} % of {limits or 'answers complete'}")
    load = (
        [f"{number(asked['rate_per_s'])} requests/s ({number(asked['peak_per_s'])} in the busiest minute)"]
        if asked["rate_per_s"]
        else []
    )
    load += [f"{asked['users']:,} users"] if asked["users"] else []
    lengths = f"{number(asked['input_tokens'])} tokens in, {number(asked['output_tokens'])} out on average"
    seeds = f"seed{'s' if len(plan['seeds']) > 1 else ''} {', '.join(map(str, plan['seeds']))}"
    tried = f"{plan['candidates']} candidates, {plan['searched']} searched with {plan['simulations']} simulations of the whole scenario, {seeds}"
    return [verdict(plan), f"keeps {'; '.join(goals)}", f"{plan['model']}, {'; '.join(load)}, {lengths}", tried]


def fleet_table(plan: Json) -> Table:
    """The ranking."""
    targets = [key for key in TARGETS if any(goal[key] is not None for goal in plan["goals"].values())]
    many = len(plan["goals"]) > 1
    columns = [
        "",
        "device",
        "fleet",
        "chips",
        "N+1",
        "attained",
        "(95 %)",
        *(["of"] if many else []),
        *(f"{key.upper()} p95" for key in targets),
    ]
    unit, watts_of = ("MW", 1e6) if any(fleet["peak_facility_w"] >= 1e5 for fleet in plan["fleets"]) else ("kW", 1e3)
    columns += ["$/h", "$/Mtok", "J/tok out", f"{unit} peak", "binds"]
    rows = []
    for place, fleet in enumerate(plan["fleets"], start=1):
        part = fleet["attainment"][fleet["worst_class"]]
        watts = f"{'~' if fleet['joules_estimated'] else ''}{number(fleet['joules_per_output_token'])}"
        rows.append(
            [str(place), fleet["device"] + _mark(fleet), _layout(plan, fleet), f"{fleet['devices']:,}", f"{fleet['devices_n_plus_1']:,}",
             _share(part["value"]), f"{part['low'] * 100:.1f}..{part['high'] * 100:.1f}", *([fleet["worst_class"]] if many else []),
             *(seconds(fleet["p95"][f"{key}_s"]) for key in targets), number(fleet["usd_per_hour"]), number(fleet["usd_per_mtok_total"]),
             watts, number(fleet["peak_facility_w"] / watts_of), _binds(fleet)]
        )  # fmt: skip
    close = [row[1] for row, fleet in zip(rows, plan["fleets"], strict=True) if _is_close(fleet)]
    notes = [
        LEGEND,
        "binds: the target that one replica fewer misses, and what the steps wait for; $/Mtok of input and output together",
    ]
    notes += [f"by chance? the interval reaches below the target: {', '.join(close)}"] if close else []
    return Table("Fleets that keep every target, one per device, the cheapest first", columns, rows, notes)


def _share(value: float) -> str:
    """A share of one, with the digits that tell 99.9 % from 99.99 %."""
    return f"{value * 100:.2f} %"


def _mark(fleet: Json) -> str:
    line = fleet["validity"][0].partition(": ")[2] if fleet["validity"] else ""
    return next((mark for start, mark in MARKS.items() if line.startswith(start)), "")


def _binds(fleet: Json) -> str:
    target, device = fleet["binds"]["target"], fleet["binds"]["device"].split(",")[0]
    return ", ".join(
        [*([target.upper() if target in TARGETS else target] if target else []), SHORT.get(device, device)]
    )


def _is_close(fleet: Json) -> bool:
    return any(part["low"] < part["target"] for part in fleet["attainment"].values())


def lines(plan: Json) -> list[str]:
    """Failure, growth, what the answer hangs on, and how far to trust it."""
    if not plan["fleets"]:
        return []
    best, growth = plan["fleets"][0], plan["growth"]
    each = best["devices"] // best["replicas"]
    found = [_failure(best, each)]
    if growth["devices"] is None:
        found.append(f"{growth['factor'] * 100 - 100:.0f} % more traffic: not known, or not kept")
    else:
        more = growth["devices"] - best["devices"]
        found.append(f"{growth['factor'] * 100 - 100:.0f} % more traffic: {_chips(growth['devices'])}, {more:,} more")
    estimates = f"{best['estimates']} numbers behind it are estimates (`simfleet run` with --out lists them)"
    valid = "; ".join(line.partition(": ")[2] for line in best["validity"])
    return [*found, f"Validity: {best['regime']}; {valid}; {estimates}"]


def _failure(best: Json, each: int) -> str:
    spare = f"{best['devices_n_plus_1']:,} chips lose one and keep the targets"
    if best["one_fewer"] is None:
        return f"Lose the only replica: the pool serves nothing; {spare}"
    kept = ", ".join(f"{_share(part['value'])} of {name}" for name, part in best["one_fewer"].items())
    return f"Lose one replica of {best['replicas']} ({_chips(each)}): {kept} while it is gone; {spare}"


def _chips(number_of: int) -> str:
    return "1 chip" if number_of == 1 else f"{number_of:,} chips"


def tornado_table(plan: Json) -> Table:
    """What moves the cost of the cheapest fleet."""
    rows = []
    for row in plan["sensitivity"][:6]:
        span = f"{row['low']:.2f} .. {row['high']:.2f} x" if row["low"] else f"none .. {row['high']:.0%} of the prompt"
        rows.append(
            [
                row["name"],
                row["origin"],
                span,
                f"{row['chips_low']:,} .. {row['chips_high']:,}",
                f"{row['cost_low']:+.1%} .. {row['cost_high']:+.1%}",
            ]
        )
    note = "from step times alone, $/h in parts of replicas; how far each is moved: docs/sensitivity.md"
    return Table("What moves the cost of the cheapest", ("input", "from", "moved", "chips", "$/h"), rows, [note])


def frontier_table(plan: Json) -> Table:
    """Points that no other beats, the fastest for the user first."""
    chosen = sorted((p for p in plan["frontier"] if p["fast"] or p["cheap"]), key=lambda p: -p["tok_s_per_user"])
    tensor = f"pools.{plan['pool']}.tensor_parallel"
    rows = [
        [p["device"], ", ".join([f"TP{p['changes'][tensor]}", *_varied(plan, p["changes"])]), str(p["rows"]),
         number(p["tok_s_per_user"]), number(p["tok_s_per_device"]), number(p["usd_per_mtok"]),
         " and ".join(word for word, on in (("per device", p["fast"]), ("per $", p["cheap"])) if on)]
        for p in chosen
    ]  # fmt: skip
    columns = ("device", "replica", "sequences", "tok/s per user", "tok/s per device", "$/Mtok", "best")
    note = "replicas always busy with so many sequences of mean length, from step times alone; targets and queues play no part"
    return Table("Frontier: speed for each user against output per device and dollars", columns, rows, [note])


def left_lines(plan: Json, width: int = 118) -> list[str]:
    """Devices that are not in the table, a line each; those that were too expensive in one."""
    dear = [
        f"{left['device']} (at least ${number(left['least_usd_per_hour'])}/h)"
        for left in plan["left_out"]
        if left["least_usd_per_hour"]
    ]
    others = [f"{left['device']}: {left['why']}" for left in plan["left_out"] if not left["least_usd_per_hour"]]
    found = (
        wrap(f"Not simulated, dearer by step times alone: {', '.join(dear)}", width, subsequent_indent="  ")
        if dear
        else []
    )
    return [
        *found,
        *(["No fleet:"] if others else []),
        *(f"  {shorten(line, width, placeholder='...')}" for line in others),
    ]


def text(plan: Json, show_frontier: bool, asked: str) -> str:
    """One screen of plain text, with the frontier's table below where wanted."""
    tables = [fleet_table(plan)] if plan["fleets"] else []
    blocks = ["\n".join(headline(plan)), *map(_plain, tables)]
    said = [part for line in lines(plan) for part in wrap(line, 118, subsequent_indent="  ")]
    blocks += ["\n".join(said)] if said else []
    blocks += [_plain(tornado_table(plan))] if plan["sensitivity"] else []
    blocks += ["\n".join(left_lines(plan))] if plan["left_out"] else []
    blocks += [_plain(frontier_table(plan))] if show_frontier and plan["frontier"] else []
    return "\n\n".join([*blocks, again(plan, asked)]).rstrip()


def again(plan: Json, asked: str) -> str:
    """The command that runs the cheapest fleet; `asked` is how the command line calls the scenario."""
    if not plan["fleets"]:
        return ""
    changes = plan["fleets"][0]["changes"].items()
    words = (f"{path}={flow(value) if isinstance(value, dict) else value}" for path, value in changes)
    return " ".join([f"Run it: simfleet run {asked}", *(f"--set {quote(word)}" for word in words)])


def _plain(table: Table) -> str:
    """A table as text: words to the left, numbers to the right."""
    wordy = {"device", "fleet", "binds", "input", "from", "best", "replica", "of"}
    rows = [list(table.columns), *map(list, table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    cells = [
        [c.ljust(w) if name in wordy else c.rjust(w) for c, w, name in zip(row, widths, table.columns, strict=True)]
        for row in rows
    ]
    return "\n".join(
        [table.heading, *("  " + "  ".join(row).rstrip() for row in cells), *(f"  {note}" for note in table.notes)]
    )


def html(plan: Json) -> str:
    """The same for notebooks."""
    import jinja2  # noqa: PLC0415

    tables = [fleet_table(plan)] if plan["fleets"] else []
    tables += [tornado_table(plan)] if plan["sensitivity"] else []
    template = jinja2.Environment(autoescape=True).from_string(HTML)
    return template.render(headline=headline(plan), tables=tables, lines=[*lines(plan), *left_lines(plan, 400)])


HTML = """<div><b>{{ headline[0] }}</b>{% for line in headline[1:] %}<br>{{ line }}{% endfor %}
{% for table in tables %}<h4>{{ table.heading }}</h4><table><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>{% for note in table.notes %}<p>{{ note }}</p>{% endfor %}{% endfor %}
{% for line in lines %}<p>{{ line }}</p>{% endfor %}</div>"""
