"""Queueing theory through the real replica and fleet. Tolerances are standard errors of independent replications."""

from math import factorial, inf, sqrt

import numpy as np
from numpy.typing import NDArray
from simpy import Environment

from simfleet.records import Account, Records, request_table, timeline_table
from simfleet.serving.batching import Limits, Scheduler
from simfleet.serving.fleet import Fleet, Lane
from simfleet.serving.kv import BlockPool
from simfleet.serving.meter import Meter
from simfleet.serving.replica import Replica
from simfleet.serving.routing import AnyRouting, LeastLoaded, PowerOfTwo, Random, RoundRobin

STEP_S = 0.001
REPLICATIONS = 12


class ConstantStep:
    """A device whose every step takes the same time, whatever is in it."""

    limit: int | None = None
    limit_w, idle_w, gap_w, devices = 700.0, 70.0, 130.0, 1

    def __init__(self, prefill_s: float = STEP_S) -> None:
        self._prefill_s = prefill_s

    def decode(self, rows: int) -> tuple[float, float, float, float, float, float]:
        return STEP_S, 0.0, 0.0, 0.3, 0.0, 0.0

    def mixed(self, *features: float) -> tuple[float, float]:
        return self._prefill_s, 0.3


def serve(
    rate: float, outputs: NDArray[np.int64], seats: int, replicas: int, routing: AnyRouting, prefill_s: float, seed: int
):
    """Poisson arrivals of one-token prompts with the given output lengths; the table of requests, in order of arrival."""
    env, records = Environment(), Records(request_table(True), timeline_table())
    fleet, cost = Fleet(env, records, True), ConstantStep(prefill_s)
    meter = Meter(cost, 10**6, records.itl)
    group = [
        Replica(env, Scheduler(BlockPool(10**6, 16), Limits(10**6, seats), None), meter, fleet.ended)
        for _ in range(replicas)
    ]
    rng = np.random.default_rng(seed)
    router = routing.router(group, np.random.default_rng(seed + 1))
    for number, replica in enumerate(group):
        replica.router, replica.number = router, number
    fleet.pools = [group]
    lane = Lane(router, {0: Account(0, 0)}, {0: 0.0}, {0: 0.0}, inf, 10**9, {})
    records.accounts.extend(lane.accounts.values())

    def arrivals():
        fleet.open_source()
        for gap, tokens in zip(rng.exponential(1 / rate, len(outputs)).tolist(), outputs.tolist(), strict=True):
            yield env.timeout(gap)
            fleet.submit(lane, 1, tokens)
        fleet.close_source()

    env.process(arrivals())
    env.run(until=fleet.drained)
    fleet.close()
    fleet.check()
    table = records.requests.array()
    return np.sort(table, order="arrival_s"), env.now


def replicate(measure) -> tuple[float, float]:
    """Mean and standard error of a measure over independent seeds."""
    values = np.array([measure(seed) for seed in range(REPLICATIONS)])
    return float(values.mean()), float(values.std(ddof=1) / sqrt(len(values)))


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival waits in M/M/c."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / factorial(k) for k in range(servers)) + last)


def test_m_d_1() -> None:
    """One seat, one-token answers: each request is one step of D seconds, and waits rho*D / (2*(1 - rho)) on average."""
    service_s, rho = 0.05, 0.7

    def mean_wait(seed: int) -> float:
        table, _ = serve(rho / service_s, np.ones(8000, dtype=int), 1, 1, RoundRobin(), service_s, seed)
        return float(table["queue_wait_s"][500:].mean())

    mean, error = replicate(mean_wait)
    assert abs(mean - rho * service_s / (2 * (1 - rho))) < 3.5 * error


def test_m_m_c() -> None:
    """c seats, geometric lengths of 1,000 steps: exponential service but for a step, so the wait is Erlang's C/(c*mu - lambda).

    An arrival also finishes the step in progress: at most one step, which is 0.1 % of a service time.
    """
    seats, steps, rho = 3, 1000, 0.75
    rate = rho * seats / (steps * STEP_S)

    def mean_wait(seed: int) -> float:
        outputs = np.random.default_rng(seed + 100).geometric(1 / steps, 6000)
        table, _ = serve(rate, outputs, seats, 1, RoundRobin(), STEP_S, seed)
        return float(table["queue_wait_s"][500:].mean())

    mean, error = replicate(mean_wait)
    law = erlang_c(seats, rho * seats) / (seats / (steps * STEP_S) - rate)
    assert law - 3.5 * error < mean < law + STEP_S + 3.5 * error


def test_little() -> None:
    """L = lambda * W, exactly, once all have left: the area under the number in system is the sum of the times in it."""
    outputs = np.random.default_rng(5).geometric(1 / 200, 3000)
    table, end_s = serve(8.0, outputs, 4, 1, RoundRobin(), STEP_S, 7)
    moments = np.concatenate([table["arrival_s"], table["arrival_s"] + table["e2e_s"]])
    changes = np.concatenate([np.ones(len(table)), -np.ones(len(table))])
    order = np.argsort(moments, kind="stable")
    number = np.cumsum(changes[order])
    area = float(np.sum(number[:-1] * np.diff(moments[order])))
    assert np.isclose(area / end_s, len(table) / end_s * table["e2e_s"].mean(), rtol=1e-9)
    assert number.min() >= 0


def test_round_robin_thins_and_least_loaded_wins() -> None:
    """Better-informed routing waits less: random > round robin > power of two > least loaded at high load."""
    policies = [Random(kind="random"), RoundRobin(), PowerOfTwo(kind="power_of_two"), LeastLoaded(kind="least_loaded")]

    def waits(seed: int) -> list[float]:
        outputs = np.random.default_rng(seed).geometric(1 / 100, 3000)
        return [
            float(serve(34.0, outputs, 1, 4, policy, STEP_S, seed)[0]["queue_wait_s"].mean()) for policy in policies
        ]

    table = np.array([waits(seed) for seed in range(REPLICATIONS)])
    for worse, better in ((0, 1), (1, 2), (2, 3)):
        gain = table[:, worse] - table[:, better]
        assert gain.mean() > 2 * gain.std(ddof=1) / sqrt(len(gain))


def test_random_routing_splits_evenly() -> None:
    table, _ = serve(10.0, np.ones(4000, dtype=int), 1, 4, Random(kind="random"), STEP_S, 3)
    counts = np.bincount(table["replica"], minlength=4)
    assert np.all(np.abs(counts - 1000) < 4 * sqrt(4000 * 0.25 * 0.75))


def test_round_robin_is_exactly_even() -> None:
    table, _ = serve(10.0, np.ones(4000, dtype=int), 1, 4, RoundRobin(), STEP_S, 3)
    assert table["replica"].tolist() == [0, 1, 2, 3] * 1000
