"""The cheapest fleet that keeps every target: candidates screened, the likely ones simulated, ranked by dollars."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from simfleet.gate.judge import Row
from simfleet.gate.metrics import groups_of
from simfleet.gate.targets import expressions
from simfleet.library import Library
from simfleet.planning import frontier, screen
from simfleet.planning.candidates import Candidate, candidates, classes_of, grid_of, pool_name, settings, wrong
from simfleet.planning.demand import Demand, beyond, demand
from simfleet.planning.frontier import Moved, Point
from simfleet.planning.search import Json, Search, Settled, Tried, missed, pool_of, usd_per_hour
from simfleet.scenario import Scenario
from simfleet.sensitivity.edits import faster

GROWTH = 1.3
"""The traffic of the growth line."""


@dataclass(frozen=True)
class Fleet:
    """A fleet that keeps the targets, as simulated.

    varied    -- dotted path -> value, of what was combined
    changes   -- dotted path -> value, replicas too: laid over the scenario they make it this fleet's
    paid      -- "rent" or "own"
    one_fewer -- the same with one replica fewer; None where that leaves no pool of the model
    without   -- the other pools alone; None where none of them serves the model
    """

    pool: str
    device: str
    varied: dict[str, Any]
    changes: dict[str, Any]
    chips: int
    spare_chips: int
    paid: str
    tried: Tried
    one_fewer: Tried | None
    without: Tried | None

    @property
    def usd_per_hour(self) -> float:
        """Of the planned pool, metered electricity with it [$/h]."""
        return usd_per_hour(self.tried, self.pool) or 0.0

    @property
    def unjudged(self) -> list[Row]:
        """The scenario's targets that these runs cannot answer, warnings left out."""
        rows = [*self.tried.targets, *self.tried.budgets]
        return [row for row in rows if row.state == "cannot judge" and row.level == "error"]

    @property
    def _binds(self) -> str | None:
        """What one replica fewer misses: the target within a class's that it reaches least, or else a target of the scenario; None where
        nothing smaller was simulated, or the other pools do without the last replica."""
        fewer = self._fewer
        if fewer is None or fewer.served:
            return None
        reached = all(part.value >= part.target for part in fewer.shares.values())
        short = missed(fewer.targets) if reached else []
        binds: str | None = short[0].name if short else _class(fewer.reports[0], fewer.worst)["attainment"]["binds"]
        return binds

    @property
    def _fewer(self) -> Tried | None:
        return self.one_fewer if self.one_fewer is not None and self.one_fewer.reports else None

    def as_json(self) -> Json:
        """Plain data; means over seeds, peaks the highest."""
        tried, name = self.tried, self.tried.worst
        pools = [pool_of(report, self.pool) for report in tried.reports]
        fewer = self._fewer

        def p95(key: str) -> float | None:
            return tried.mean(lambda report: _class(report, name)["latency"][key]["p95"])

        def of(*path: str) -> float | None:
            return tried.mean(lambda report: _at(pool_of(report, self.pool), path))

        return {
            "device": self.device, "varied": self.varied, "changes": self.changes, "replicas": tried.replicas, "devices": self.chips, "devices_n_plus_1": self.spare_chips,
            "attainment": _attained(tried), "worst_class": name, "p95": {key: p95(key) for key in ("ttft_s", "tpot_s", "e2e_s")},
            "usd_per_hour": self.usd_per_hour, "paid": self.paid, "usd_per_mtok_total": of("cost", "usd_per_mtok_total"),
            "usd_per_mtok_output": of("cost", "usd_per_mtok_output"),
            "joules_per_output_token": of("energy", "joules_per_output_token", "facility"),
            "joules_estimated": any(pool["energy"]["facility_range_j"] is not None for pool in pools),
            "peak_facility_w": max((pool["energy"]["peak_facility_w"] or 0.0 for pool in pools), default=0.0),
            "binds": {"target": self._binds, "device": pools[0]["binds"]},
            "regime": tried.reports[0]["regime"],
            "validity": [line for line in tried.reports[0]["validity"] if line.startswith(f"{self.pool}: ")],
            "estimates": len(tried.reports[0]["assumptions"]),
            "one_fewer": None if fewer is None else _attained(fewer),
            "one_fewer_misses": [] if fewer is None else _misses(fewer),
            "without_pool": None if self.without is None else {"attainment": _attained(self.without), "misses": _misses(self.without), "kept": self.without.kept},
            "targets": [_row(row) for row in (*tried.targets, *tried.budgets)],
        }  # fmt: skip


def _attained(tried: Tried) -> Json:
    return {key: part._asdict() for key, part in tried.shares.items()}


def _misses(tried: Tried) -> list[Json]:
    return [_row(row) for row in missed((*tried.targets, *tried.budgets))]


def _row(row: Row) -> Json:
    return {key: getattr(row, key) for key in ("name", "wanted", "level", "state", "got", "note")}


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
        return screen.text(self.as_json(), show_frontier, asked or self.scenario)

    def plot(self, axes: Any = None) -> Any:
        """The frontier, into two axes or those of a new figure; returns them."""
        return frontier.plot(self.frontier, self.facts["tpot_s"], axes)

    def save(self, folder: Path | str) -> None:
        """frontier.png and frontier.svg. Raises OSError where the folder cannot be written."""
        frontier.save(self.frontier, Path(folder), self.facts["tpot_s"])

    def __repr__(self) -> str:
        return f"<Plan {screen.verdict(self.as_json())}>"

    def _repr_html_(self) -> str:
        return screen.html(self.as_json())


def plan(
    scenario: Scenario, over: Mapping[str, Iterable[Any]] | None = None, pool: str | None = None, device: Iterable[str] = (),
    price: Mapping[str, float] | None = None, seeds: Sequence[int] = (0,), executor: Executor | None = None,
    progress: Callable[[str], None] | None = None, library: Library | None = None,
) -> Plan:  # fmt: skip
    """The cheapest fleet for one pool of `scenario` that keeps the service levels of all classes that its model serves, and the
    scenario's own `targets`, warnings left out.

    over     -- dotted path -> values to combine, such as {"pools.chat.precision": ["bf16", "fp8"]}, beside 1, 2, 4, 8, 16 devices a replica
    pool     -- whose replicas are looked for; may be left out where there is one
    device   -- names; left out: all with a price, of which the AT_MOST that look cheapest and the scenario's own are simulated
    price    -- device -> dollars per hour to rent one, in place of the profile's offer
    seeds    -- each number of replicas is simulated under all of them, and judged on all their requests together
    executor -- where to simulate, such as a ProcessPoolExecutor; None: here, one by one. The answer is the same
    progress -- called with a line of text now and then

    Raises SpecError for an unknown pool or path, where no class has targets, and for targets that are none; LookupError for an unknown
    device, and for a price of one that is not among those named.
    """
    library, name = library or Library(), pool_name(scenario.document, pool)
    prices = {library.path("hardware_profiles", each).stem: usd for each, usd in (price or {}).items()}
    mine, classes = scenario.pools[name], classes_of(scenario, name)
    targets = expressions(scenario.document, scenario.targets, groups_of(scenario))
    grid, named = grid_of(scenario, name, over or {}, device, prices, library)
    asked = demand(scenario, name, seeds[0])
    if not asked.users and not asked.peak:
        raise wrong(scenario, ("workload",), f"expected requests for `{mine.network.name}`, got none")
    found = candidates(scenario, name, asked, grid, prices)
    search = Search(name, tuple(seeds), classes, targets, executor, progress or (lambda line: None))
    search.search(found, None if named else mine.profile.name)
    ranked = _ranked(scenario, found, search)
    growth, moved = _beyond(search, found[ranked[0][0]], ranked[0][1], asked) if ranked else (None, [])
    later = beyond(scenario, name, seeds[0])
    goals = {key: scenario.workload.classes[key].model_dump() for key in classes}
    facts = {
        "model": mine.network.name, "goals": goals, "targets": [str(target) for target in targets if target.level == "error"], "tpot_s": min((g["tpot"] for g in goals.values() if g["tpot"]), default=None),
        "seeds": list(seeds), "horizon_s": scenario.horizon, "routing": scenario.routing.kind, "precision": mine.precision._asdict(),
        "demand": {"rate_per_s": asked.rate, "peak_per_s": asked.peak, "users": asked.users, "input_tokens": asked.prompt, "output_tokens": asked.answer, "beyond": None if later is None else later._asdict()},
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


def _ranked(base: Scenario, found: Sequence[Candidate], search: Search) -> list[tuple[int, Fleet]]:
    """The cheapest fleet of each device with its candidate's place, the cheapest device first; among equals the one with fewer chips."""
    fleets = []
    for i, each in search.settled.items():
        if each.best is not None:
            fleets.append((i, _fleet(base, found[i], search.pool, each, each.best)))
    fleets.sort(key=lambda item: (round(item[1].usd_per_hour, 6), item[1].chips, item[0]))
    first: dict[str, tuple[int, Fleet]] = {}
    for item in fleets:
        first.setdefault(item[1].device, item)
    others = search.without([found[i] for i, _ in first.values()])
    return [(i, _beside(fleet, without)) for (i, fleet), without in zip(first.values(), others, strict=True)]


def _fleet(base: Scenario, candidate: Candidate, pool: str, settled: Settled, tried: Tried) -> Fleet:
    assert candidate.scenario is not None  # it was simulated
    mine, n = candidate.scenario.pools[pool], tried.replicas
    size, changes = mine.parallel.devices, settings(base, candidate, pool, n)
    return Fleet(
        pool, candidate.device, dict(candidate.changes), changes, n * size, (n + 1) * size, mine.cost.kind,
        tried, settled.tried.get(n - 1), None,
    )  # fmt: skip


def _beside(fleet: Fleet, without: Tried | None) -> Fleet:
    """The fleet with what the other pools do alone, which is what they do too when a single replica is lost."""
    return replace(fleet, without=without, one_fewer=without if fleet.tried.replicas == 1 else fleet.one_fewer)


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
        tried = [
            search.settled[i].why(search.limits.get(i, inf), each.scenario.pools[search.pool].parallel.devices)
            for i, each in mine.items()
            if i in search.settled and each.scenario is not None
        ]
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
