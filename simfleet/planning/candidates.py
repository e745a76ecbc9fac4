"""Before anything is simulated: the fleets worth a simulation, and what rules the others out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np

from simfleet.document import Document, Location, Problem, SpecError, did_you_mean
from simfleet.hardware.step import StepCost
from simfleet.library import Library
from simfleet.planning.demand import Asked, Demand, alone_s, cached_tokens, least, load
from simfleet.pool import Pool
from simfleet.scenario import Scenario
from simfleet.serving.engine import sequence_blocks
from simfleet.workload.streams import ServiceClass

Value = Any
Changes = tuple[tuple[str, Value], ...]
"""What a candidate changes in the scenario, replicas aside: dotted path -> value, in the order of the table's columns."""

TENSOR_PARALLEL = (1, 2, 4, 8, 16)
"""Devices per replica that are tried unless told otherwise."""
OF_ITS_DEVICE = ("num_kv_blocks", "power_cap", "sleep", "price", "device", "server", "network", "provisioned")
"""Numbers of a pool that were given for its own device, and mean nothing on another."""
SHORT = {"engine": "preset", "precision": "weights"}
SAMPLE = 128
"""Requests of a stream that are timed alone."""


# -- what rules a fleet out -----------------------------------------------------------------------------------------------


def ruled_out(scenario: Scenario, pool: Pool, asked: Demand) -> str:
    """Why no number of replicas keeps the targets: requests that no replica can hold, or that are late even alone; "" if neither."""
    cost, site = pool.step_cost(), scenario.sites[pool.site]
    state = sequence_blocks(pool.network, pool.engine, pool.parallel, pool.precision)
    room = (pool.kv_blocks() - state) * pool.engine.block_size
    for part in asked.asked:
        stream, goal = part.stream, scenario.workload.classes.get(part.stream.service_class or "")
        if goal is None or not len(part.input_tokens):
            continue
        too_long = float((part.input_tokens + part.output_tokens > room).mean())
        if too_long > 1 - goal.target:
            return f"KV capacity: {too_long:.1%} of `{stream.name}` need more than the {room:,} tokens of a replica"
        away_s = pool.engine.front_end + (2 * site.network_latency[stream.region] if stream.region else 0.0)
        late = _late(cost, pool, part, goal, away_s)
        if late:
            return f"SLO out of reach: {late} of `{stream.name}` even alone on a replica"
    return ""


def _late(cost: StepCost, pool: Pool, part: Asked, goal: ServiceClass, away_s: float) -> str:
    """Which target an empty replica misses too often, of a sample that stands for all lengths; by 5 % and by 2 % of them, to be sure."""
    order = np.lexsort((part.output_tokens, part.input_tokens))
    chosen = order[np.linspace(0, len(order) - 1, min(len(order), SAMPLE)).astype(int)]
    cached = cached_tokens(pool, part.stream)
    pairs = zip(part.input_tokens[chosen].tolist(), part.output_tokens[chosen].tolist(), strict=True)
    times = np.array([(*alone_s(cost, pool, prompt, answer, cached), answer) for prompt, answer in pairs])
    first_s, whole_s = times[:, 0] + away_s, times[:, 0] + times[:, 1] + away_s
    felt = {"ttft": first_s, "tpot": times[:, 1] / np.maximum(times[:, 2] - 1, 1), "e2e": whole_s}
    for name, values in felt.items():
        limit_s = getattr(goal, name)
        if limit_s is None:
            continue
        kept = float((values <= 1.05 * limit_s).mean())
        if kept < goal.target - 0.02:
            return f"{name.upper()} {limit_s:g} s kept by {kept:.1%}"
    return ""


# -- candidates -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A fleet but for its number of replicas: `scenario` has one. `why` says what rules it out; rents and prices in $ per hour.

    least, guess -- replicas: fewest that could carry the mean load, and where the search begins
    """

    changes: Changes
    scenario: Scenario | None
    least: int = 0
    guess: int = 0
    usd_per_hour: float = 0.0
    why: str = ""

    @property
    def device(self) -> str:
        return str(self.changes[0][1])


def candidates(
    scenario: Scenario, pool: str, asked: Demand, over: Mapping[str, Iterable[Value]], prices: Mapping[str, float]
) -> list[Candidate]:
    """Every combination of `over` (dotted path -> values; that of the pool's device comes first), built and screened."""
    plain = scenario.replace("workload", scenario.workload)  # a trace is not read again for each
    return [
        _candidate(plain, pool, asked, tuple(zip(over, values, strict=True)), prices)
        for values in product(*over.values())
    ]


def devices(scenario: Scenario, pool: str, library: Library) -> list[str]:
    """Devices that the pool's kind of cost has a price for, its own first."""
    mine = scenario.pools[pool]
    unpriced = {"price" if mine.cost.kind == "rent" else "device": None}  # what was given is for its own device
    found = [mine.profile.name]
    for name in library.names("hardware_profiles"):
        profile = library.profile(name)
        try:
            mine.cost.model_copy(update=unpriced).check(profile)
        except ValueError:
            continue
        found.append(profile.name)
    return list(dict.fromkeys(found))


def _candidate(
    scenario: Scenario, pool: str, asked: Demand, changes: Changes, prices: Mapping[str, float]
) -> Candidate:
    try:
        built = _built(scenario, pool, changes, prices)
    except SpecError as error:
        return Candidate(changes, None, why=error.problems[0].message)
    mine = built.pools[pool]
    hourly = sum(mine.cost.rates(mine.profile, built.sites[mine.site]).values()) * mine.parallel.devices
    why = ruled_out(built, mine, asked) if hourly else "expected a price above $0/h: fleets are ranked by dollars"
    if why:
        return Candidate(changes, None, usd_per_hour=hourly, why=why)
    classes = built.workload.classes
    fewest = least(mine, asked, classes)
    return Candidate(changes, built, fewest, max(fewest, ceil(load(mine, asked, classes))), hourly)


def _built(scenario: Scenario, pool: str, changes: Changes, prices: Mapping[str, float]) -> Scenario:
    """The scenario with one replica of a candidate. Raises SpecError."""
    data, here = scenario.document.data["pools"][pool], f"pools.{pool}."
    inside = {path.removeprefix(here): value for path, value in changes if path.startswith(here)}
    device = inside["device"]
    data = _spelled(data)
    mine = scenario.pools[pool]
    drop: tuple[str, ...] = () if device == mine.profile.name else OF_ITS_DEVICE
    if inside != {"device": mine.profile.name, "tensor_parallel": mine.tensor_parallel}:
        drop = (*drop, "num_kv_blocks")
    fresh = {key: _without(value, drop) for key, value in data.items() if key not in drop} | {
        "device": device,
        "replicas": 1,
    }
    if device in prices:
        fresh["cost"] = {"kind": "rent", "price": f"${prices[device]}/h"}
    for path, value in inside.items():
        fresh = _spelled(_laid(fresh, path.split("."), value))
    for path, value in changes:
        if not path.startswith(here):
            scenario = scenario.replace(path, value)
    return scenario.replace(f"pools.{pool}", fresh)


def settings(scenario: Scenario, candidate: Candidate, pool: str, replicas: int) -> dict[str, Value]:
    """Dotted path -> value that turn a scenario into a candidate's: what it changes, or the whole pool where it also leaves something out."""
    assert candidate.scenario is not None  # those that are ruled out have none
    here, fresh = f"pools.{pool}.", candidate.scenario.document.data["pools"][pool]
    laid = scenario.document.data["pools"][pool]
    for path, value in candidate.changes:
        laid = _laid(laid, path.removeprefix(here).split("."), value) if path.startswith(here) else laid
    if _spelled({**laid, "replicas": 1}) == fresh:
        return dict(candidate.changes) | {f"{here}replicas": replicas}
    return {path: value for path, value in candidate.changes if not path.startswith(here)} | {
        f"pools.{pool}": {**fresh, "replicas": replicas}
    }


def _spelled(data: Mapping[str, Any]) -> dict[str, Any]:
    """A pool's data with mappings in place of single words."""
    return {
        key: {SHORT[key]: value} if key in SHORT and isinstance(value, str) else value for key, value in data.items()
    }


def _without(value: Value, keys: tuple[str, ...]) -> Value:
    return {key: inner for key, inner in value.items() if key not in keys} if isinstance(value, dict) else value


def _laid(data: dict[str, Any], path: list[str], value: Value) -> dict[str, Any]:
    """A copy with a value laid in, mappings begun where they are missing."""
    if len(path) == 1:
        return {**data, path[0]: value}
    inner = data.get(path[0])
    return {**data, path[0]: _laid(inner if isinstance(inner, dict) else {}, path[1:], value)}


# -- what was asked -------------------------------------------------------------------------------------------------------


def wrong(scenario: Scenario, location: Location, message: str) -> SpecError:
    document = scenario.document
    return SpecError([Problem(document.mark(location), document.path(location), message)])


def pool_name(document: Document, pool: str | None) -> str:
    """The pool to plan, of those that a document has. Raises SpecError for one that it has not, and for none of several."""
    names, message = list(document.data["pools"]), ""
    if pool is None and len(names) > 1:
        message = f"expected --pool NAME, as there are several: {', '.join(names)}"
    if pool is not None and pool not in names:
        message = f"unknown pool `{pool}`{did_you_mean(pool, names)}"
    if message:
        raise SpecError([Problem(document.mark(("pools",)), "pools", message)])
    return pool or names[0]


def classes_of(scenario: Scenario, pool: str) -> tuple[str, ...]:
    """Classes of the streams that the pool serves."""
    model = scenario.pools[pool].network.name
    names = dict.fromkeys(stream.service_class for stream in scenario.workload.streams if stream.model.name == model)
    found = tuple(name for name in names if name is not None)
    if not found:
        example = "classes: {chat: {ttft: 1 s, tpot: 50 ms, target: 0.99}}"
        raise wrong(
            scenario, ("workload",), f"expected a class with targets for a stream of `{model}`, such as {example}"
        )
    return found


def grid_of(
    scenario: Scenario, pool: str, over: Mapping[str, Iterable[Any]], named: Iterable[str], priced: Iterable[str],
    library: Library,
) -> tuple[dict[str, tuple[Any, ...]], bool]:  # fmt: skip
    """Dotted path -> values to combine, the device's first; and whether devices were named. Those `priced` need no offer.

    Raises SpecError for paths and values that are none, LookupError for an unknown device and one that is `priced` beside those named.
    """
    here, mine = f"pools.{pool}.", scenario.pools[pool]
    given = {path: tuple(values) for path, values in over.items()}
    if f"{here}replicas" in given:
        raise wrong(
            scenario, ("pools", pool), "expected another path than `replicas` to plan over: they are what is looked for"
        )
    names = [library.path("hardware_profiles", str(name)).stem for name in [*named, *given.pop(f"{here}device", ())]]
    idle = [name for name in priced if names and name not in names]
    if idle:
        raise LookupError(
            f"price of `{idle[0]}`: it is not among the devices looked at: {', '.join(dict.fromkeys(names))}"
        )
    grid = {
        f"{here}device": tuple(dict.fromkeys(names or [*devices(scenario, pool, library), *priced])),
        f"{here}tensor_parallel": tuple(sorted({mine.tensor_parallel, *TENSOR_PARALLEL})),
    }
    for path, values in given.items():
        if not values:
            raise wrong(scenario, (), f"expected values for `{path}`, got none")
        _known(scenario, path, values)
    return grid | given, bool(names)


def _known(scenario: Scenario, path: str, values: Iterable[Any]) -> None:
    """Raise SpecError for a path that leads nowhere and for words that are none of those expected there, not for what does not fit."""
    for value in values:
        try:
            scenario.replace(path, value)
        except SpecError as error:
            unknown = [
                problem
                for problem in error.problems
                if problem.message.startswith(("unknown", "no ", "expected one of"))
            ]
            if unknown:
                raise SpecError(unknown) from None
