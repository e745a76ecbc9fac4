"""What a scenario asks of a pool, and what step times alone say of a replica under that: where a search for replicas begins."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil, inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simfleet.hardware.step import StepCost, attended, attended_limited, keys_limited
from simfleet.pool import Pool
from simfleet.scenario import Scenario
from simfleet.serving.engine import Static, sequence_blocks
from simfleet.streams import Streams
from simfleet.workload.arrivals import ClosedLoop, Open
from simfleet.workload.streams import ServiceClass, Stream

WINDOW_S = 60.0
"""The busiest span of arrivals that a first guess must carry [s]."""
ROOM, SLACK, NEAR = 0.85, 0.8, 1.15
"""Of a step's limit, what the first guess uses; what the lower bound is trusted for; how far a mean step may pass its limit there."""
LOOP = 1000
"""Requests of a closed loop whose lengths are looked at."""
WELL_BELOW, MINUTES = 0.8, 20_000
"""Of the highest rate, what a planned horizon reaches without a word; the most spans that a period is looked at in."""


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


# -- beyond the horizon ---------------------------------------------------------------------------------------------------


class Beyond(NamedTuple):
    """Requests per second in the busiest minute of the horizon and of the streams' whole period, and when the latter begins [s]."""

    planned_per_s: float
    peak_per_s: float
    peak_at_s: float


def beyond(scenario: Scenario, pool: str, seed: int) -> Beyond | None:
    """Whether the streams of a pool's model come to far more after the horizon, as their envelopes and traces have it; None if not.

    Rates are the envelopes', without bursts and chance; traces are counted. Streams that end by a `count`, users and bursts are left out.
    """
    model, end_s = scenario.pools[pool].network.name, scenario.horizon
    streams = [each for each in scenario.workload.streams if each.model.name == model and each.count is None]
    recorded = {each.name: _recorded(each, seed) for each in streams}
    span_s = max((_span_s(each, recorded[each.name]) for each in streams), default=0.0)
    if end_s is None or span_s <= end_s:
        return None
    window_s = max(min(WINDOW_S, end_s), span_s / MINUTES)
    windows = ceil(span_s / window_s)
    edges_s = np.linspace(0.0, windows * window_s, windows + 1)
    rates = sum((_rates(each, recorded[each.name], edges_s) for each in streams), np.zeros(windows))
    planned, top = float(rates[: max(int(end_s / window_s), 1)].max()), int(rates.argmax())
    return Beyond(planned, float(rates[top]), float(edges_s[top])) if planned < WELL_BELOW * rates[top] else None


def _recorded(stream: Stream, seed: int) -> NDArray[np.float64]:
    """Times of all requests of a stream's trace; none without one [s]."""
    if stream.trace is None:
        return np.zeros(0)
    return np.array([time_s for time_s, *_ in stream.trace.requests(Streams(seed), stream.name, inf)])


def _span_s(stream: Stream, recorded: NDArray[np.float64]) -> float:
    """How long a stream goes on without repeating itself [s]."""
    if not isinstance(stream.arrival, Open):
        return float(recorded.max(initial=0.0))
    signals = [envelope.signal() for envelope in stream.arrival.envelope]
    return max((signal.period_s or float(signal.times_s[-1]) for signal in signals), default=0.0)


def _rates(stream: Stream, recorded: NDArray[np.float64], edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean requests per second of a stream between every two edges."""
    widths_s = np.diff(edges_s)
    if not isinstance(stream.arrival, Open):
        return np.histogram(recorded, edges_s)[0] / widths_s
    rates = np.clip((stream.arrival.end_s - edges_s[:-1]) / widths_s, 0.0, 1.0)
    rates *= 1.0 if stream.arrival.rate is None else stream.arrival.rate
    for envelope in stream.arrival.envelope:
        signal = envelope.signal()
        rates *= np.diff([signal.integral(0.0, float(edge_s)) for edge_s in edges_s]) / widths_s
    return rates


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
        cached = min(cached_tokens(pool, part.stream) for part in asked.asked)
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


def cached_tokens(pool: Pool, stream: Stream) -> int:
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
