"""The cheapest fleet that keeps every target: candidates screened, the likely ones simulated, ranked by dollars."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from math import ceil, inf, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from simfleet.document import Document, SpecError
from simfleet.library import Library
from simfleet.planning import frontier
from simfleet.planning.frontier import Json, Moved, Point
from simfleet.planning.screen import (
    Candidate,
    Demand,
    candidates,
    classes_of,
    demand,
    grid_of,
    pool_name,
    settings,
    wrong,
)
from simfleet.records import Status
from simfleet.report.metrics import targets_met
from simfleet.result import Result
from simfleet.scenario import Scenario, load
from simfleet.sensitivity.edits import edited, faster
from simfleet.simulation import simulate
from simfleet.terminal import SIMULATION_ERROR, bad_input, overrides_option, pairs, paths_option, stop, variant_option

GROWTH = 1.3
"""The traffic of the growth line."""
AT_MOST = 6
"""Devices that are simulated where none are named, besides the scenario's own."""
FURTHEST = 4
"""Most replicas that are tried, in guesses."""
BATCHES, Z = 20, 1.96
"""Parts of a run whose scatter says how far attainment is by chance; intervals are of 95 %."""
BROKEN = ("overloaded", "nothing served")
"""Regimes in which a fleet keeps nothing, whatever its share of good requests was so far."""

# -- one number of replicas -----------------------------------------------------------------------------------------------


class Share(NamedTuple):
    """Requests of a class that met every target / all that are judged, its 95 % interval, and the wanted share [1]."""

    value: float
    low: float
    high: float
    target: float

    @property
    def margin(self) -> float:
        """How far above the target, as a share of what may be missed."""
        return (self.value - self.target) / max(1 - self.target, 1e-9)


def share(parts: Sequence[NDArray[np.bool_]], target: float) -> Share:
    """The share over all `parts` (one per seed, in order of arrival) with Wilson's interval for as many requests as are independent.

    Requests in one queue miss together: n is divided by how much further the means of BATCHES parts of each run scatter than those of
    independent requests would, and by no less than 1.
    """
    n, met = sum(map(len, parts)), sum(int(part.sum()) for part in parts)
    if not n:
        return Share(0.0, 0.0, 1.0, target)
    p = met / n
    means = [(len(chunk), chunk.mean()) for part in parts for chunk in np.array_split(part, BATCHES) if len(chunk)]
    scatter = sum(size * (mean - p) ** 2 for size, mean in means) / max(len(means) - 1, 1)
    independent = n / max(scatter / (p * (1 - p)), 1.0) if 0 < met < n else n
    return Share(p, *wilson(p, independent), target)


def wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share p of n independent trials."""
    middle, half, whole = p + Z * Z / (2 * n), Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)), 1 + Z * Z / n
    return max((middle - half) / whole, 0.0), min((middle + half) / whole, 1.0)


@dataclass(frozen=True)
class Tried:
    """One number of replicas, simulated under every seed: shares by class, and the reports; `why` where it could not be built."""

    replicas: int
    shares: dict[str, Share] = field(default_factory=dict)
    reports: tuple[Json, ...] = ()
    why: str = ""

    @property
    def kept(self) -> bool:
        """Whether every class reached its target, and no run fell behind for good."""
        sound = all(report["regime"] not in BROKEN for report in self.reports)
        return bool(self.reports) and sound and all(part.value >= part.target for part in self.shares.values())

    @property
    def worst(self) -> str:
        """The class nearest to its target, or furthest below."""
        return min(self.shares, key=lambda name: self.shares[name].margin)

    def mean(self, of: Callable[[Json], float | None]) -> float | None:
        """The mean of a number over the reports, None where one has none."""
        values = [of(report) for report in self.reports]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None


@dataclass(frozen=True)
class Task:
    """Where to search: a scenario and its pool, classes to keep, the first guess, the most replicas, and a factor on all traffic."""

    scenario: Scenario
    pool: str
    seeds: tuple[int, ...]
    classes: tuple[str, ...]
    guess: int
    most: int
    traffic: float = 1.0


def attempt(task: Task, replicas: int) -> Tried:
    """Simulate a number of replicas under every seed, over the whole scenario and with its own routing."""
    try:
        scenario = task.scenario.replace(f"pools.{task.pool}.replicas", replicas)
    except SpecError as error:
        return Tried(replicas, why=error.problems[0].message)
    edits = [(i, faster(stream, task.traffic)) for i, stream in enumerate(scenario.workload.streams)]
    if task.traffic != 1.0:
        scenario = edited(scenario, [(("workload", "streams", i, *e[0]), e[1]) for i, e in edits if e is not None])
    results = [simulate(scenario, seed, requests=False) for seed in task.seeds]
    goals = {name: scenario.workload.classes[name].target for name in task.classes}
    shares = {name: share([_met(result, name) for result in results], target) for name, target in goals.items()}
    return Tried(replicas, shares, tuple(result.summary for result in results))


def _met(result: Result, name: str) -> NDArray[np.bool_]:
    """For the judged requests of a class, in order of arrival, whether each met its targets."""
    run = result.run
    judged = run.measured & run.in_class(name) & (run.requests["status"] != Status.IN_FLIGHT)
    met: NDArray[np.bool_] = targets_met(run)["all"][judged]
    return met


# -- the fewest replicas --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """The fewest replicas that keep the targets, None where no number up to the most does; and all that were tried."""

    fewest: int | None
    tried: dict[int, Tried]

    @property
    def best(self) -> Tried | None:
        return None if self.fewest is None else self.tried[self.fewest]

    def why(self, limit: float) -> str:
        """Why there is no answer, by the most replicas that were tried; `limit` is the cheapest fleet's cost, if that stopped it [$/h]."""
        unbuilt = [part for part in self.tried.values() if part.why]
        last = max((part for part in self.tried.values() if part.reports), key=lambda part: part.replicas, default=None)
        if unbuilt:
            return f"power cap: {unbuilt[-1].replicas} replicas: {unbuilt[-1].why}"
        if last is None:
            return "not tried"
        part, word = last.shares[last.worst], "replica" if last.replicas == 1 else "replicas"
        if limit < inf:
            return f"dearer than ${limit:.3g}/h, which buys {last.replicas} {word}: {part.value:.2%} of `{last.worst}`"
        return f"SLO missed: {part.value:.2%} of `{last.worst}` with {last.replicas} {word}"


def settle(task: Task, tried: dict[int, Tried]) -> Settled:
    """Search from the guess in steps that double, then by halves, until n keeps the targets and n - 1, simulated too, does not.

    tried -- what is known already

    Under common random numbers attainment rises with replicas but for chance. Where it does not, this finds one of the numbers that keep
    the targets while the next lower one does not; fewer still are not looked for.
    """
    tried = dict(tried)

    def keeps(replicas: int) -> bool:
        if replicas not in tried:
            tried[replicas] = attempt(task, replicas)
        return tried[replicas].kept

    missed, kept, most, step = 0, 0, task.most, 1
    here = min(max(task.guess, 1), most)
    while not kept and missed < most:
        if keeps(here):
            kept = here
        elif tried[here].why:  # a power limit leaves too little for so many
            most = here - 1
            here = (missed + most + 1) // 2
        else:
            missed = here
            here, step = min(here + step, most), 2 * step
    step = 1
    while kept - missed > 1:
        here = (kept + missed) // 2 if missed else max(kept - step, 1)
        kept, missed = (here, missed) if keeps(here) else (kept, here)
        step *= 2
    return Settled(kept or None, tried)


class Search:
    """Settles candidates, several at once with an executor. What it does depends on its arguments alone, never on who ends first."""

    def __init__(
        self, pool: str, seeds: tuple[int, ...], classes: tuple[str, ...], executor: Executor | None, progress: Callable[[str], None]
    ) -> None:  # fmt: skip
        self.settled: dict[int, Settled] = {}  # by the candidate's place in its list
        self.limits: dict[int, float] = {}  # of those that were searched only as far as they were cheaper
        self.simulations = 0
        self._pool, self.seeds, self._classes, self._progress = pool, seeds, classes, progress
        self._map: Callable[..., Iterable[Any]] = executor.map if executor is not None else map

    def task(self, candidate: Candidate, most: int | None = None, traffic: float = 1.0) -> Task:
        """The search of a candidate."""
        assert candidate.scenario is not None  # those that are ruled out are not searched
        guess = ceil(candidate.guess * traffic)
        most = FURTHEST * guess if most is None else min(most, FURTHEST * guess)
        return Task(candidate.scenario, self._pool, self.seeds, self._classes, guess, most, traffic)

    def run(self, tasks: Sequence[Task], pairs: bool = True) -> list[Settled]:
        """Settle tasks side by side; with `pairs` the guess and one fewer at once, which mostly decide."""
        known: list[dict[int, Tried]] = [{} for _ in tasks]
        firsts = [
            (i, n) for i, task in enumerate(tasks) for n in (task.guess, task.guess - 1) if 0 < n <= task.most and pairs
        ]
        done = self._map(attempt, [tasks[i] for i, _ in firsts], [n for _, n in firsts])
        for (i, n), tried in zip(firsts, done, strict=True):
            known[i][n] = tried
            self._progress(_line(tasks[i], tried))
        found = list(self._map(settle, tasks, known))
        self.simulations += len(self.seeds) * sum(bool(part.reports) for each in found for part in each.tried.values())
        return found

    def search(self, found: Sequence[Candidate], own: str | None) -> None:
        """The likeliest candidate of every device; then those that may be cheaper than it, or than the cheapest of all.

        own -- the scenario's device, of whose rivals AT_MOST are searched; None: all are
        """
        open_ = {i: each for i, each in enumerate(found) if each.scenario is not None}
        leads: dict[str, int] = {}
        for i in sorted(open_, key=lambda i: (open_[i].guess * open_[i].usd_per_hour, i)):
            leads.setdefault(open_[i].device, i)
        chosen = [
            i for place, (device, i) in enumerate(leads.items()) if own is None or place < AT_MOST or device == own
        ]
        self.settled = dict(zip(chosen, self.run([self.task(open_[i]) for i in chosen]), strict=True))
        cost = {open_[i].device: self._usd(open_[i], each) for i, each in self.settled.items()}
        lowest = min(cost.values(), default=inf)
        rivals: dict[int, Task] = {}
        for i, each in open_.items():
            theirs = cost.get(each.device, lowest)
            limit = theirs if each.guess * each.usd_per_hour < theirs else lowest
            most = FURTHEST * each.guess if limit == inf else ceil(limit / each.usd_per_hour) - 1
            if i not in self.settled and each.least <= most:
                rivals[i], self.limits[i] = self.task(each, most), limit
        self.settled |= dict(zip(rivals, self.run([*rivals.values()], pairs=False), strict=True))

    def _usd(self, candidate: Candidate, settled: Settled) -> float:
        return (
            inf
            if settled.best is None
            else usd_per_hour(settled.best, self._pool) or settled.best.replicas * candidate.usd_per_hour
        )


def _line(task: Task, tried: Tried) -> str:
    pool = task.scenario.pools[task.pool]
    outcome = tried.why or f"{tried.shares[tried.worst].value:.2%} of `{tried.worst}`"
    return f"{tried.replicas} x {pool.parallel.devices} {pool.profile.name}: {outcome}"


def usd_per_hour(tried: Tried, pool: str) -> float | None:
    """What a pool costs in an hour, metered electricity with it [$/h]."""
    return tried.mean(lambda report: pool_of(report, pool)["cost"]["usd_total"] / report["duration_s"] * 3600)


def pool_of(report: Json, name: str) -> Json:
    """The part of a report that is about a pool."""
    found: Json = next(pool for pool in report["pools"] if pool["name"] == name)
    return found


# -- the answer -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """A fleet that keeps the targets, as simulated.

    varied    -- dotted path -> value, of what was combined
    changes   -- dotted path -> value, replicas too: laid over the scenario they make it this fleet's
    one_fewer -- the same with one replica fewer; None where that leaves none
    """

    pool: str
    device: str
    varied: dict[str, Any]
    changes: dict[str, Any]
    chips: int
    spare_chips: int
    tried: Tried
    one_fewer: Tried | None

    @property
    def usd_per_hour(self) -> float:
        """Of the planned pool, metered electricity with it [$/h]."""
        return usd_per_hour(self.tried, self.pool) or 0.0

    def as_json(self) -> Json:
        """Plain data; means over seeds, peaks the highest."""
        tried, name = self.tried, self.tried.worst
        pools = [pool_of(report, self.pool) for report in tried.reports]
        fewer = self.one_fewer if self.one_fewer is not None and self.one_fewer.reports else None
        short = (fewer or tried).reports[0]
        of_class = {group["name"]: group for group in short["classes"]}[(fewer or tried).worst]

        def p95(key: str) -> float | None:
            return tried.mean(lambda report: _class(report, name)["latency"][key]["p95"])

        def of(*path: str) -> float | None:
            return tried.mean(lambda report: _at(pool_of(report, self.pool), path))

        return {
            "device": self.device, "varied": self.varied, "changes": self.changes, "replicas": tried.replicas, "devices": self.chips, "devices_n_plus_1": self.spare_chips,
            "attainment": {key: part._asdict() for key, part in tried.shares.items()}, "worst_class": name, "p95": {key: p95(key) for key in ("ttft_s", "tpot_s", "e2e_s")},
            "usd_per_hour": self.usd_per_hour, "usd_per_mtok_total": of("cost", "usd_per_mtok_total"),
            "usd_per_mtok_output": of("cost", "usd_per_mtok_output"),
            "joules_per_output_token": of("energy", "joules_per_output_token", "facility"),
            "joules_estimated": any(pool["energy"]["facility_range_j"] is not None for pool in pools),
            "peak_facility_w": max((pool["energy"]["peak_facility_w"] or 0.0 for pool in pools), default=0.0),
            "binds": {"target": of_class["attainment"]["binds"], "device": pools[0]["binds"]},
            "regime": tried.reports[0]["regime"],
            "validity": [line for line in tried.reports[0]["validity"] if line.startswith(f"{self.pool}: ")],
            "estimates": len(tried.reports[0]["assumptions"]),
            "one_fewer": None if fewer is None else {key: part._asdict() for key, part in fewer.shares.items()},
        }  # fmt: skip


def _class(report: Json, name: str) -> Json:
    found: Json = next(group for group in report["classes"] if group["name"] == name)
    return found


def _at(data: Any, path: Iterable[str]) -> Any:
    for key in path:
        data = data[key]
    return data


class Left(NamedTuple):
    """A device that has no fleet in the table, and why; `least_usd_per_hour` where it looked too expensive to be simulated."""

    device: str
    why: str
    least_usd_per_hour: float | None = None


@dataclass(frozen=True)
class Plan:
    """Fleets that keep every target, the cheapest first; what was left out and why; and what the answer hangs on.

    growth -- devices of the cheapest with GROWTH times the traffic; None where it is not known or not kept
    """

    scenario: str
    pool: str
    facts: Json
    fleets: tuple[Fleet, ...]
    left: tuple[Left, ...]
    growth: int | None
    sensitivity: tuple[Moved, ...]
    frontier: tuple[Point, ...]

    @property
    def best(self) -> Fleet | None:
        """The cheapest; None where no fleet keeps the targets."""
        return self.fleets[0] if self.fleets else None

    def as_json(self) -> Json:
        """Plain data: all that the text shows, and the whole frontier."""
        return {
            "scenario": self.scenario, "pool": self.pool, **self.facts,
            "fleets": [fleet.as_json() for fleet in self.fleets], "left_out": [left._asdict() for left in self.left],
            "growth": {"factor": GROWTH, "devices": self.growth},
            "sensitivity": [row._asdict() for row in self.sensitivity],
            "frontier": [point._asdict() | {"changes": dict(point.changes)} for point in self.frontier],
        }  # fmt: skip

    def text(self, show_frontier: bool = False, asked: str | None = None) -> str:
        """One screen of plain text, with `show_frontier` its table below; `asked` is how the command line calls the scenario."""
        return frontier.text(self.as_json(), show_frontier, asked or self.scenario)

    def plot(self, axes: Any = None) -> Any:
        """The frontier, into two axes or those of a new figure; returns them."""
        return frontier.plot(self.frontier, self.facts["tpot_s"], axes)

    def save(self, folder: Path | str) -> None:
        """frontier.png and frontier.svg. Raises OSError where the folder cannot be written."""
        frontier.save(self.frontier, Path(folder), self.facts["tpot_s"])

    def __repr__(self) -> str:
        return f"<Plan {frontier.verdict(self.as_json())}>"

    def _repr_html_(self) -> str:
        return frontier.html(self.as_json())


def plan(
    scenario: Scenario, over: Mapping[str, Iterable[Any]] | None = None, pool: str | None = None, device: Iterable[str] = (),
    price: Mapping[str, float] | None = None, seeds: Sequence[int] = (0,), executor: Executor | None = None,
    progress: Callable[[str], None] | None = None, library: Library | None = None,
) -> Plan:  # fmt: skip
    """The cheapest fleet for one pool of `scenario` that keeps the targets of all classes that its model serves.

    over     -- dotted path -> values to combine, such as {"pools.chat.precision": ["bf16", "fp8"]}, beside 1, 2, 4, 8, 16 devices a replica
    pool     -- whose replicas are looked for; may be left out where there is one
    device   -- names; left out: all with a price, of which the AT_MOST that look cheapest and the scenario's own are simulated
    price    -- device -> dollars per hour to rent one, in place of the profile's offer
    seeds    -- each number of replicas is simulated under all of them, and judged on all their requests together
    executor -- where to simulate, such as a ProcessPoolExecutor; None: here, one by one. The answer is the same
    progress -- called with a line of text now and then

    Raises SpecError for an unknown pool or path and where no class has targets, LookupError for an unknown device.
    """
    library, name = library or Library(), pool_name(scenario, pool)
    mine, classes = scenario.pools[name], classes_of(scenario, name)
    grid, named = grid_of(scenario, name, over or {}, device, price or {}, library)
    asked = demand(scenario, name, seeds[0])
    if not asked.users and not asked.peak:
        raise wrong(scenario, ("workload",), f"expected requests for `{mine.network.name}`, got none")
    found = candidates(scenario, name, asked, grid, price or {})
    search = Search(name, tuple(seeds), classes, executor, progress or (lambda line: None))
    search.search(found, None if named else mine.profile.name)
    ranked = _ranked(scenario, found, search.settled, name)
    growth, moved = _beyond(search, found[ranked[0][0]], ranked[0][1], asked) if ranked else (None, [])
    goals = {key: scenario.workload.classes[key].model_dump() for key in classes}
    facts = {
        "model": mine.network.name, "goals": goals, "tpot_s": min((g["tpot"] for g in goals.values() if g["tpot"]), default=None),
        "seeds": list(seeds), "horizon_s": scenario.horizon, "routing": scenario.routing.kind, "precision": mine.precision._asdict(),
        "demand": {"rate_per_s": asked.rate, "peak_per_s": asked.peak, "users": asked.users, "input_tokens": asked.prompt, "output_tokens": asked.answer},
        "over": {path: list(values) for path, values in grid.items()},
        "candidates": len(found), "searched": len(search.settled), "simulations": search.simulations,
    }  # fmt: skip
    left = _left(found, search, {fleet.device for _, fleet in ranked})
    points = frontier.curves(found, name, asked)
    return Plan(
        scenario.name,
        name,
        facts,
        tuple(fleet for _, fleet in ranked),
        tuple(left),
        growth,
        tuple(moved),
        tuple(points),
    )


def _ranked(
    base: Scenario, found: Sequence[Candidate], settled: Mapping[int, Settled], pool: str
) -> list[tuple[int, Fleet]]:
    """The cheapest fleet of each device with its candidate's place, the cheapest device first; among equals the one with fewer chips."""
    fleets = []
    for i, each in settled.items():
        tried, scenario = each.best, found[i].scenario
        if tried is not None and scenario is not None:
            size = scenario.pools[pool].parallel.devices
            chips = tried.replicas * size
            changes = settings(base, found[i], pool, tried.replicas)
            fleet = Fleet(
                pool,
                found[i].device,
                dict(found[i].changes),
                changes,
                chips,
                chips + size,
                tried,
                each.tried.get(tried.replicas - 1),
            )
            fleets.append((i, fleet))
    fleets.sort(key=lambda item: (round(item[1].usd_per_hour, 6), item[1].chips, item[0]))
    first: dict[str, tuple[int, Fleet]] = {}
    for item in fleets:
        first.setdefault(item[1].device, item)
    return list(first.values())


def _beyond(search: Search, winner: Candidate, fleet: Fleet, asked: Demand) -> tuple[int | None, list[Moved]]:
    """Devices of the winner with GROWTH times the traffic, and what moves its cost."""
    assert winner.scenario is not None  # it was simulated
    scenario, size = winner.scenario, fleet.spare_chips - fleet.chips
    growth = None
    if all(faster(stream, GROWTH) is not None for stream in scenario.workload.streams):
        task = search.task(winner, traffic=GROWTH)
        fewest = search.run([task])[0].fewest
        growth = None if fewest is None else fewest * size
    running = scenario.replace(f"pools.{fleet.pool}.replicas", fleet.tried.replicas)
    return growth, frontier.tornado(running, fleet.pool, asked, search.seeds[0])


def _left(found: Sequence[Candidate], search: Search, ranked: set[str]) -> list[Left]:
    """Devices without a fleet: missed the targets, or too expensive by a bound, or ruled out by what came nearest."""
    left = []
    for device in dict.fromkeys(each.device for each in found if each.device not in ranked):
        mine = {i: each for i, each in enumerate(found) if each.device == device}
        tried = [search.settled[i].why(search.limits.get(i, inf)) for i in mine if i in search.settled]
        built = [each.least * each.usd_per_hour for each in mine.values() if each.scenario is not None]
        if tried:
            left.append(Left(device, tried[-1]))
        elif built:
            left.append(Left(device, "not simulated", min(built)))
        else:
            near = max(
                mine.values(), key=lambda each: (each.usd_per_hour > 0, "does not fit" in each.why, -len(each.changes))
            )
            left.append(Left(device, near.why))
    return left


# -- the command ----------------------------------------------------------------------------------------------------------


@click.command("plan")
@click.argument("scenario")
@click.option(
    "--over",
    multiple=True,
    metavar="PATH=V1,V2",
    help="Values to combine, such as pools.chat.precision=bf16,fp8; repeatable.",
)
@click.option("--pool", help="Whose replicas are looked for; may be left out where there is one.")
@click.option("--device", help="Names with commas between; left out: the likeliest of all that have a price.")
@click.option("--price", multiple=True, metavar="DEVICE=USD", help="Your rent of a device per hour; repeatable.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Simulations of each fleet: seeds 0, 1, ...",
)
@overrides_option
@variant_option
@paths_option
@click.option(
    "--frontier",
    "show",
    is_flag=True,
    help="Print the table of speed for each user against speed per device and dollars.",
)
@click.option(
    "--plot", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder for frontier.png and .svg."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes; left out, as many as there are processors.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    scenario: str, over: tuple[str, ...], pool: str | None, device: str | None, price: tuple[str, ...], seeds: int,
    overrides: tuple[str, ...], variant: str | None, paths: tuple[Path, ...], show: bool, folder: Path | None, workers: int | None, form: str,
) -> None:  # fmt: skip
    """The cheapest fleet that keeps the targets of SCENARIO's classes: device, devices per replica, replicas, each one simulated."""
    with bad_input():
        spec, library = load(scenario, overrides=pairs(overrides), variant=variant, paths=paths), Library(paths)
        grid, prices = {path: _values(path, text) for path, text in pairs(over)}, _prices(price, library)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    names = device.split(",") if device else []
    given = [("--set", each) for each in overrides] + [("--path", str(each)) for each in paths]
    asked = shlex.join(
        [scenario, *(["--variant", variant] if variant else []), *(word for pair in given for word in pair)]
    )
    try:
        with ProcessPoolExecutor(workers or os.cpu_count()) as executor:
            found = plan(spec, grid, pool, names, prices, range(seeds), executor, _progress(), library)
    except (SpecError, LookupError) as error:
        with bad_input():
            raise error
    except Exception as error:  # scripts tell a broken run from bad input by its exit code
        stop(f"simulation error: {type(error).__name__}: {error}", SIMULATION_ERROR)
    if folder is not None:
        with bad_input():
            found.save(folder)
    click.echo(json.dumps(found.as_json(), indent=2) if form == "json" else found.text(show, asked))
    raise SystemExit(0 if found.best is not None else 1)


def _values(path: str, text: str) -> list[Any]:
    """`4,8,16` as a YAML list."""
    values: list[Any] = Document.from_text(f"values: [{text}]", "--over").data["values"]
    return values


def _prices(given: Iterable[str], library: Library) -> dict[str, float]:
    found = {}
    for name, text in pairs(tuple(given)):
        try:
            found[library.path("hardware_profiles", name).stem] = float(text.removeprefix("$").removesuffix("/h"))
        except ValueError:
            raise ValueError(f"--price {name}: expected dollars per hour such as 2.50, got `{text}`") from None
    return found


def _progress() -> Callable[[str], None] | None:
    """Lines on a terminal only."""
    return (lambda line: click.echo(line, err=True)) if sys.stderr.isatty() else None
