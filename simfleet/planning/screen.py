"""Before anything is simulated: the fleets worth a simulation, what rules the others out, and how many replicas to begin with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice, product
from math import ceil, inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simfleet.document import Location, Problem, SpecError, did_you_mean
from simfleet.hardware.step import StepCost, attended, attended_limited, keys_limited
from simfleet.library import Library
from simfleet.pool import Pool
from simfleet.scenario import Scenario
from simfleet.serving.engine import Static, sequence_blocks
from simfleet.streams import Streams
from simfleet.workload.arrivals import ClosedLoop
from simfleet.workload.streams import ServiceClass, Stream

Value = Any
Changes = tuple[tuple[str, Value], ...]
"""What a candidate changes in the scenario, replicas aside: dotted path -> value, in the order of the table's columns."""

TENSOR_PARALLEL = (1, 2, 4, 8, 16)
"""Devices per replica that are tried unless told otherwise."""
OF_ITS_DEVICE = ("num_kv_blocks", "power_cap", "sleep", "price", "device", "server", "network", "provisioned")
"""Numbers of a pool that were given for its own device, and mean nothing on another."""
SHORT = {"engine": "preset", "precision": "weights"}
"""Keys of a pool that may be one word -> the key inside that the word stands for."""
WINDOW_S = 60.0
"""The busiest span of arrivals that a first guess must carry [s]."""
ROOM, SLACK, NEAR = 0.85, 0.8, 1.15
"""Of a step's limit, what the first guess uses; what the lower bound is trusted for; how far a mean step may pass its limit there."""
SAMPLE, LOOP = 128, 1000
"""Requests of a stream that are timed alone, and of a closed loop whose lengths are looked at."""


# -- what is asked --------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """Requests of one stream: times [s] (empty for a closed loop), lengths [tokens], and users of a closed loop."""

    stream: Stream
    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    users: int


@dataclass(frozen=True)
class Demand:
    """All that the planned pool's model is asked. Rates in requests per second; tokens and thoughts are means.

    `context` is the mean length of a sequence over the steps of its answer, long answers counting for more; `elsewhere` the rate that
    other pools of the same model can carry at most.
    """

    asked: tuple[Asked, ...]
    rate: float
    peak: float
    users: int
    think_s: float
    prompt: float
    answer: float
    context: float
    elsewhere: float = 0.0


def demand(scenario: Scenario, pool: str, seed: int) -> Demand:
    """What the streams of a pool's model ask for under a seed."""
    model = scenario.pools[pool].network.name
    asked = _demand(scenario, model, seed)
    others = [other for name, other in scenario.pools.items() if name != pool and other.network.name == model]
    carried = (other.replicas * _at_most(other, asked, scenario.workload.classes) for other in others)
    return replace(asked, elsewhere=sum(carried))


def _demand(scenario: Scenario, model: str, seed: int) -> Demand:
    asked = tuple(_asked(s, seed, scenario.horizon) for s in scenario.workload.streams if s.model.name == model)
    times = np.sort(np.concatenate([part.arrival_s for part in asked]))
    inputs, outputs = (
        np.concatenate([getattr(part, name) for part in asked]).astype(float)
        for name in ("input_tokens", "output_tokens")
    )
    users = sum(part.users for part in asked)
    span_s = scenario.horizon or (float(times[-1]) if len(times) else 0.0)
    window_s = min(WINDOW_S, span_s) or WINDOW_S  # a burst has no span
    most = np.searchsorted(times, times + window_s) - np.arange(len(times))
    return Demand(
        asked=asked,
        rate=len(times) / span_s if span_s else 0.0,
        peak=float(most.max()) / window_s if len(times) else 0.0,
        users=users,
        think_s=sum(
            part.users * part.stream.arrival.think.mean for part in asked if isinstance(part.stream.arrival, ClosedLoop)
        )
        / max(users, 1),
        prompt=float(inputs.mean()) if len(inputs) else 1.0,
        answer=float(outputs.mean()) if len(outputs) else 1.0,
        context=float((outputs * (inputs + outputs / 2)).sum() / outputs.sum()) if len(outputs) else 1.0,
    )


def _asked(stream: Stream, seed: int, horizon_s: float | None) -> Asked:
    streams, limit_s = Streams(seed), inf if horizon_s is None else horizon_s
    if isinstance(stream.arrival, ClosedLoop):
        lengths = np.array(list(islice(stream.lengths(streams), stream.count or LOOP)), dtype=np.int64).reshape(-1, 2)
        return Asked(stream, np.zeros(0), lengths[:, 0], lengths[:, 1], stream.arrival.users)
    row = np.dtype([("s", np.float64), ("input", np.int64), ("output", np.int64)])
    table = np.fromiter(stream.requests(streams, limit_s), dtype=row)
    return Asked(stream, table["s"], table["input"], table["output"], 0)


# -- steady state ---------------------------------------------------------------------------------------------------------


class Steady(NamedTuple):
    """A replica that always decodes `rows` sequences while new prompts come in as fast as answers go out."""

    rows: int
    step_s: float
    requests_per_s: float


class Steps:
    """Steady states of one replica under a demand, from the mean lengths:

        rate(b) = 1 / (answer * decode(b) / b + prefill),   step(b) = b / (rate(b) * answer)

    decode(b) is a step of b sequences at their mean context [s], prefill what the mean prompt adds to such a step [s]. No queue,
    no chance: simulations decide, this says where to begin.
    """

    def __init__(self, pool: Pool, asked: Demand) -> None:
        self._cost, self._asked = pool.step_cost(), asked
        self._limit = self._cost.limit or 1 << 40
        cached = min(_cached(pool, part.stream) for part in asked.asked)
        self._prompt, self._prefix = max(round(asked.prompt), 1), min(cached, max(round(asked.prompt) - 1, 0))
        self.most_rows = _most_rows(pool, asked)

    def at(self, rows: int) -> Steady:
        """The steady state of `rows` sequences."""
        context, new = self._asked.context, self._prompt - self._prefix
        seen = min(context, self._limit)
        t0, t_ctx, t_lim, *_ = self._cost.decode(rows)
        decode_s = t0 + rows * (t_ctx * context + t_lim * seen)
        both_s = _chunk_s(self._cost, self._prefix, new, True, rows, round(rows * context), round(rows * seen))
        rate = 1 / (self._asked.answer * decode_s / rows + max(both_s - decode_s, 0.0))
        return Steady(rows, rows / (rate * self._asked.answer), rate)

    def within(self, step_s: float) -> Steady:
        """The busiest state whose steps take at most so long [s]; one sequence if none does."""
        low, high = 1, self.most_rows
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.at(middle).step_s <= step_s else (low, middle - 1)
        return self.at(low)


def _chunk_s(
    cost: StepCost, prefix: int, new: int, last: bool, rows: int = 0, context: int = 0, limited: int = 0
) -> float:
    """Seconds of a step with `new` tokens of one prompt, after `prefix` ones in KV memory, and `rows` decodes."""
    end, limit = prefix + new, cost.limit or 1 << 40
    seen = keys_limited(prefix, new, limit)
    pairs, pairs_limited = attended(prefix, new), attended_limited(prefix, new, limit)
    return cost.mixed(new + rows, rows + last, rows, context, limited, pairs, end, end, pairs_limited, seen, seen)[0]


def alone_s(cost: StepCost, pool: Pool, prompt: int, answer: int, cached: int = 0) -> tuple[float, float]:
    """Seconds from the start to the first token, and from there to the last, of a request alone on a replica without power cap."""
    budget = prompt if isinstance(pool.engine, Static) else pool.engine.token_budget
    starts = range(min(cached, prompt - 1), prompt, budget)
    first_s = sum(_chunk_s(cost, at, min(budget, prompt - at), at + budget >= prompt) for at in starts)
    steps, (t0, t_ctx, t_lim, *_) = answer - 1, cost.decode(1)
    context = attended(prompt, steps)
    limited = context if cost.limit is None else attended_limited(prompt, steps, cost.limit)
    return first_s, t0 * steps + t_ctx * context + t_lim * limited


def _cached(pool: Pool, stream: Stream) -> int:
    size = pool.engine.block_size
    return stream.tokens.shared_prefix // size * size if stream.tokens is not None else 0


def _most_rows(pool: Pool, asked: Demand) -> int:
    """Sequences that seats and KV memory hold, at their mean length."""
    per_sequence = sequence_blocks(pool.network, pool.engine, pool.parallel, pool.precision)
    blocks = asked.context / pool.engine.block_size + per_sequence
    return max(1, min(pool.engine.max_sequences, int(pool.kv_blocks() / blocks)))


def load(pool: Pool, asked: Demand, classes: Mapping[str, ServiceClass]) -> float:
    """Replicas, not in whole ones, that carry the busiest minute, or all users, with some room below the targets."""
    steady = Steps(pool, asked).within(ROOM * _step_limit(asked, classes)[0])
    rate = max(asked.peak - ROOM * asked.elsewhere, asked.peak / 100)
    stay_s = steady.step_s * asked.answer
    return asked.users * stay_s / (stay_s + asked.think_s) / steady.rows + rate / steady.requests_per_s


def least(pool: Pool, asked: Demand, classes: Mapping[str, ServiceClass]) -> int:
    """Replicas without which the mean load cannot be carried; 1 where there are users, whose load follows the fleet's speed."""
    if asked.users:
        return 1
    return max(1, ceil(SLACK * (asked.rate - asked.elsewhere) / _at_most(pool, asked, classes)))


def _at_most(pool: Pool, asked: Demand, classes: Mapping[str, ServiceClass]) -> float:
    """Requests per second of a replica as busy as the target of time per token allows."""
    return Steps(pool, asked).within(NEAR * _step_limit(asked, classes)[1]).requests_per_s


def _step_limit(asked: Demand, classes: Mapping[str, ServiceClass]) -> tuple[float, float]:
    """The longest mean step that all targets leave, and that targets of time per token alone do, where all streams have one [s]."""
    goals = [classes[part.stream.service_class] if part.stream.service_class else None for part in asked.asked]
    tpots = [goal.tpot if goal is not None and goal.tpot is not None else inf for goal in goals]
    wholes = [
        goal.e2e / max(float(np.quantile(part.output_tokens, goal.target)), 1.0)
        for goal, part in zip(goals, asked.asked, strict=True)
        if goal is not None and goal.e2e is not None and len(part.output_tokens)
    ]
    return min([*tpots, *wholes]), max(tpots)


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
    cached = _cached(pool, part.stream)
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
    why = ruled_out(built, mine, asked)
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


def pool_name(scenario: Scenario, pool: str | None) -> str:
    if pool is None and len(scenario.pools) > 1:
        raise wrong(scenario, ("pools",), f"expected --pool NAME, as there are several: {', '.join(scenario.pools)}")
    if pool is not None and pool not in scenario.pools:
        raise wrong(scenario, ("pools",), f"unknown pool `{pool}`{did_you_mean(pool, scenario.pools)}")
    return pool or next(iter(scenario.pools))


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
    """Dotted path -> values to combine, the device's first; and whether devices were named. Those `priced` need no offer."""
    here, mine = f"pools.{pool}.", scenario.pools[pool]
    given = {path: tuple(values) for path, values in over.items()}
    if f"{here}replicas" in given:
        raise wrong(
            scenario, ("pools", pool), "expected another path than `replicas` to plan over: they are what is looked for"
        )
    names = [library.path("hardware_profiles", str(name)).stem for name in [*named, *given.pop(f"{here}device", ())]]
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
            wrong = [
                problem
                for problem in error.problems
                if problem.message.startswith(("unknown", "no ", "expected one of"))
            ]
            if wrong:
                raise SpecError(wrong) from None
