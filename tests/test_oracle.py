"""The engine against the naive oracle: every request's times, tokens and fate, and the replica's energy, to 1e-9."""

from copy import deepcopy
from dataclasses import dataclass
from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy import Environment

from simfleet.hardware.power import REST_S
from simfleet.hardware.step import HostConstants, Parallel, Precisions, StepCost, step_cost
from simfleet.library import Library
from simfleet.records import Account, Sketch, Status
from simfleet.serving.batching import Limits, Request, Scheduler
from simfleet.serving.kv import BlockPool
from simfleet.serving.meter import Meter
from simfleet.serving.replica import Replica
from tests.oracle import Ask, Oracle

EXACT = 1e-9


@dataclass
class Case:
    """One random replica and its load."""

    asks: list[Ask]
    total: int
    per_sequence: int
    limits: Limits
    caps: tuple[tuple[float, float], ...] = ()  # (from [s] on, watts)


def serve(case: Case, cost: StepCost, until: float = inf) -> tuple[list[Request], Replica]:
    """The same load through the real replica, closed when all have left, or at `until`."""
    env, gaps = Environment(), Sketch()
    ended_s: dict[Request, float] = {}

    def ended(request: Request, status: Status) -> None:
        request.status = status
        ended_s[request] = env.now

    replica = Replica(
        env,
        Scheduler(BlockPool(case.total, 16, case.per_sequence), case.limits, cost.limit),
        Meter(cost, case.total, gaps),
        ended,
    )
    requests: list[Request] = []

    def arrivals():
        for ask in case.asks:
            if ask.arrival_s > env.now:
                yield env.timeout(ask.arrival_s - env.now)
            request = Request(env.now, ask.input_tokens, ask.output_tokens, Account(0, 0), replica)
            request.deadline_s = ask.deadline_s
            request.computed = request.cached = ask.cached
            requests.append(request)
            replica.submit(request)
            replica.scheduler.check()

    def caps():
        for since_s, watts in case.caps:
            yield env.timeout(since_s - env.now)
            replica.cap(watts)

    env.process(caps())
    env.process(arrivals())
    while env.peek() < min(until, inf):
        env.step()
        replica.scheduler.check()
    if until < inf:
        env.run(until=until)
    replica.close()
    for request in requests:
        request.last_s = ended_s[request]  # reused: when it ended
    return requests, replica


def compare(case: Case, cost: StepCost) -> Oracle:
    limits = case.limits
    oracle = Oracle(
        cost,
        case.total,
        16,
        case.per_sequence,
        limits.token_budget,
        limits.max_sequences,
        limits.queue_limit,
        limits.static,
        list(case.caps),
    )
    oracle.run(case.asks)
    requests, replica = serve(case, cost)
    for ask, request in zip(case.asks, requests, strict=True):
        assert request.status.name.lower() == ask.status
        assert request.generated == ask.generated
        assert request.preemptions == ask.preemptions
        assert request.started_s == pytest.approx(ask.started_s, rel=EXACT, abs=EXACT, nan_ok=True)
        assert request.first_s == pytest.approx(ask.first_s, rel=EXACT, abs=EXACT, nan_ok=True)
        if not isnan(ask.end_s):
            assert request.last_s == pytest.approx(ask.end_s, rel=EXACT)
    meter = replica.meter
    meter.settle()
    gaps = meter._gaps
    oracle.idle[-1] += replica.env.now - oracle.now
    busy_s = replica.env.now - meter.rest_s
    assert busy_s == pytest.approx(oracle.busy_s, rel=EXACT)
    assert meter.active_j == pytest.approx(oracle.joules, rel=EXACT)
    assert meter.iterations == oracle.iterations
    assert meter.output_tokens == sum(ask.generated for ask in case.asks)
    assert gaps.count == len(oracle.gaps)
    assert gaps.total == pytest.approx(sum(oracle.gaps), rel=EXACT)
    rest = sum(cost.gap_w * min(s, REST_S) + cost.idle_w * max(s - REST_S, 0) for s in oracle.idle)
    assert meter.idle_j == pytest.approx(rest, rel=EXACT, abs=EXACT)
    scheduler, accounts = replica.scheduler, [request.account for request in requests]
    assert sum(account.prefill_j for account in accounts) == pytest.approx(oracle.prefill_j, rel=EXACT, abs=EXACT)
    prefill_s = sum(account.prefill_device_s for account in accounts) / cost.devices
    assert prefill_s == pytest.approx(oracle.prefill_s, rel=EXACT, abs=EXACT)
    assert sum(account.recomputed_tokens for account in accounts) == oracle.recomputed
    assert scheduler.preemptions == sum(ask.preemptions for ask in case.asks)
    assert scheduler.waiting_peak == oracle.waiting_peak
    assert meter.blocks_peak == oracle.blocks_peak
    charged = sum(r.account.prefill_j + r.account.decode_j for r in requests)
    assert charged == pytest.approx(meter.active_j, rel=EXACT)
    charged_s = sum(r.account.prefill_device_s + r.account.decode_device_s for r in requests)
    assert charged_s == pytest.approx(busy_s * cost.devices, rel=EXACT)
    return oracle


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """From an idle replica to one that thrashes: gaps of 0 to seconds, prompts over several budgets, few blocks, timeouts."""
    count = draw(st.integers(1, 25))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scale = draw(st.sampled_from([0.0, 0.003, 0.05, 0.5, 3.0]))
    longest = draw(st.sampled_from([5, 60, 400]))
    low = draw(st.sampled_from([0.5, -0.5]))  # below 0: the client has gone before its request arrives
    timeout = draw(st.sampled_from([inf, inf, 0.08, 1.0]))
    prefix = draw(st.sampled_from([0, 0, 16, 48, 10**6]))  # tokens that prompts share, held by the prefix cache
    asks, now = [], 0.0
    for gap in rng.exponential(scale, count) if scale else [0.0] * count:
        now += float(gap)
        asked, answered = (int(rng.integers(1, longest + 1)) for _ in range(2))
        cached = min(prefix, (asked - 1) // 16 * 16)  # at least one token is computed
        asks.append(Ask(now, asked, answered, now + timeout * rng.uniform(low, 1.5), cached))
    seats = draw(st.integers(1, 12))
    limits = Limits(
        token_budget=draw(st.integers(seats, 200)),
        max_sequences=seats,
        queue_limit=draw(st.sampled_from([None, None, 1, 4])),
        static=draw(st.sampled_from([False, False, False, True])),
    )
    return Case(asks, draw(st.integers(3, 120)), draw(st.sampled_from([0, 0, 1])), limits)


GRAPHS = HostConstants(0.59e-3, 10e-6, 0.77)
EAGER = GRAPHS._replace(graph_tokens=40, eager_layer_s=400e-6, eager_collective_s=30e-6)


def cost_of(
    model: str,
    device: str,
    power_limit_w: float | None = None,
    parallel: Parallel | int = 1,
    host: HostConstants = GRAPHS,
) -> StepCost:
    """A real step cost, on request with a power limit low enough to bind in some steps and not in others."""
    library = Library()
    precision = Precisions("bf16", "bf16", "bf16")
    cost = step_cost(library.model(model), library.profile(device), host, parallel, precision)
    cost.limit_w = power_limit_w or cost.limit_w
    return cost


COSTS = {
    "dense": cost_of("llama-3.1-8b", "nvidia-h100-sxm"),
    "windowed": cost_of("gpt-oss-20b", "nvidia-h100-sxm"),
    "power limit binds now and then": cost_of("qwen3-8b", "nvidia-a100-sxm-80gb", power_limit_w=345.0),
    "stages": cost_of("llama-3.1-8b", "nvidia-h100-sxm", parallel=Parallel(2, pipeline=4)),
    "groups of attention": cost_of("qwen3-30b-a3b", "nvidia-h100-sxm", parallel=Parallel(2, expert=8, attention_dp=4)),
    "all at once, windowed": cost_of("gpt-oss-20b", "nvidia-h200-sxm", parallel=Parallel(2, 2, 2, 2), host=EAGER),
    "eager": cost_of("llama-3.1-8b", "nvidia-h100-sxm", parallel=2, host=EAGER),
}


@pytest.mark.parametrize("name", COSTS)
@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_engine_is_the_oracle(name: str, case: Case) -> None:
    """Hundreds of random replicas: idle, busy, thrashing; with queues, timeouts, static batches, shared prefixes, windows, power
    limits, devices that share the model in every way, and steps too large for a graph."""
    compare(case, COSTS[name])


@pytest.mark.parametrize("name", ["dense", "windowed", "power limit binds now and then", "stages", "eager"])
@settings(max_examples=150, deadline=None)
@given(case=cases(), shares=st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.3, 1.0)), min_size=1, max_size=5))
def test_engine_is_the_oracle_while_power_caps_change(name: str, case: Case, shares: list[tuple[float, float]]) -> None:
    """Caps come and go in the middle of runs of steps, some above what is drawn, some far below."""
    cost = COSTS[name]
    end_s = compare(deepcopy(case), cost).now
    times = sorted({share * end_s for share, _ in shares})
    case.caps = tuple((since_s, watts * cost.limit_w) for since_s, (_, watts) in zip(times, shares, strict=False))
    compare(case, cost)


@pytest.mark.parametrize(("name", "prefix"), [("dense", 0), ("dense", 32), ("all at once, windowed", 32)])
@pytest.mark.parametrize("seed", range(20))
def test_engine_is_the_oracle_under_kv_pressure(seed: int, name: str, prefix: int) -> None:
    """Answers much longer than the memory has room for: every case preempts, most of them many times."""
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(1, 80)), int(rng.integers(100, 300))) for _ in range(25)]
    asks = [
        Ask(float(t), asked, answered, cached=min(prefix, (asked - 1) // 16 * 16))
        for t, (asked, answered) in zip(np.cumsum(rng.exponential(0.2, 25)), sizes, strict=True)
    ]
    case = Case(asks, 40, 0, Limits(token_budget=64, max_sequences=16))
    oracle = compare(case, COSTS[name])
    assert sum(ask.preemptions for ask in case.asks) >= 5
    assert all(ask.status == "completed" for ask in case.asks)
    assert oracle.iterations > 300


@pytest.mark.parametrize("name", ["dense", "windowed", "eager"])
@settings(max_examples=150, deadline=None)
@given(case=cases(), share=st.floats(0.001, 0.999), at_a_boundary=st.booleans())
def test_closing_at_any_time_loses_nothing(name: str, case: Case, share: float, at_a_boundary: bool) -> None:
    """In the middle of a step or exactly at its end: everybody ends, every block is free, and what was used is charged to somebody."""
    cost = COSTS[name]
    oracle = compare(deepcopy(case), cost)
    ends = [ask.end_s for ask in case.asks if not isnan(ask.end_s)]
    until = max(share * (oracle.now or 1.0), 1e-6)
    if at_a_boundary and ends:
        until = ends[int(share * len(ends))]
    requests, replica = serve(deepcopy(case), cost, until)
    assert all(request.status is not None for request in requests)
    assert replica.scheduler.kv.free == case.total
    meter, accounts = replica.meter, [request.account for request in requests]
    busy_s = (until - meter.rest_s) * cost.devices
    assert sum(a.prefill_j + a.decode_j for a in accounts) == pytest.approx(meter.active_j, rel=EXACT, abs=EXACT)
    assert sum(a.prefill_device_s + a.decode_device_s for a in accounts) == pytest.approx(busy_s, rel=EXACT, abs=EXACT)
    assert meter.output_tokens == sum(request.generated for request in requests)
    assert meter.iterations <= oracle.iterations
