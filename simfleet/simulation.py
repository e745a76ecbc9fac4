"""Build the fleet of a scenario, run it, collect what happened."""

from collections.abc import Callable, Generator, Iterator
from importlib.metadata import version
from itertools import pairwise, repeat
from math import inf
from typing import NamedTuple

from simpy import Environment, Event

from simfleet.facility.site import node_j, rated_w, servers_of
from simfleet.records import Account, PoolLedger, Records, Status, request_table, timeline_table
from simfleet.result import Result
from simfleet.run import Run
from simfleet.scenario import Pool, Scenario
from simfleet.serving.batching import Limits, Scheduler
from simfleet.serving.engine import Static, sequence_blocks
from simfleet.serving.fleet import Fleet, Lane
from simfleet.serving.kv import BlockPool
from simfleet.serving.meter import Meter
from simfleet.serving.replica import Replica
from simfleet.streams import Streams
from simfleet.workload.arrivals import ClosedLoop
from simfleet.workload.streams import Stream

SAMPLES = 240
"""Points of the timeline: between this many and twice as many, whatever the length of the run."""

RETRY_S = 1.0
"""A user of a closed loop whose request was turned away asks again after this long, or after the think time if longer."""

Progress = Callable[[float], None]


def simulate(scenario: Scenario, seed: int = 0, requests: bool = True, progress: Progress | None = None) -> Result:
    """Run `scenario` once and return what came out.

    `requests` keeps a full row per request (41 bytes each without, 69 with). `progress` is called with the simulated time [s],
    a few hundred times. The same scenario and seed give the same result, bit for bit. Raises RuntimeError when the books do not
    balance at the end: every request that arrived has ended or is in flight.
    """
    env = Environment()
    records = Records(request_table(detail=requests), timeline_table())
    fleet = build(env, scenario, Streams(seed), records, requests)
    start(fleet, scenario, Streams(seed))
    timeline = Timeline(fleet, records, scenario.horizon, progress)
    env.process(timeline.sample())
    env.run(until=_end(env, fleet, scenario))
    timeline.close()
    fleet.check()
    records.duration_s = env.now
    records.pools = [
        _ledger(scenario, name, replicas, env.now) for name, replicas in zip(scenario.pools, fleet.pools, strict=True)
    ]
    return Result(Run(scenario=scenario, seed=seed, records=records, version=version("simfleet")))


def _end(env: Environment, fleet: Fleet, scenario: Scenario) -> Event:
    """When the run is over: at the horizon, and with `drain` not before all have their answers."""
    if scenario.horizon is None:
        return fleet.drained
    horizon = env.timeout(scenario.horizon)
    return horizon & fleet.drained if scenario.drain else horizon


def build(env: Environment, scenario: Scenario, streams: Streams, records: Records, detail: bool) -> Fleet:
    """The fleet of `scenario`: replicas of every pool, a router per model, a lane per stream."""
    fleet = Fleet(env, records, detail)
    for index, pool in enumerate(scenario.pools.values()):
        meter = Meter(pool.step_cost(), pool.kv_blocks(), records.itl, scenario.warmup)
        fleet.pools.append([_replica(fleet, pool, meter, index, number) for number in range(pool.replicas)])
    for model in dict.fromkeys(stream.model.name for stream in scenario.workload.streams):
        serving = [
            r
            for pool, group in zip(scenario.pools.values(), fleet.pools, strict=True)
            if pool.network.name == model
            for r in group
        ]
        router = scenario.routing.router(serving, streams("routing", model))
        for replica in serving:
            replica.router = router
    fleet.lanes = [_lane(scenario, fleet, number) for number in range(len(scenario.workload.streams))]
    return fleet


def _replica(fleet: Fleet, pool: Pool, meter: Meter, index: int, number: int) -> Replica:
    engine, shape = pool.engine, (pool.tensor_parallel, pool.precision)
    kv = BlockPool(pool.kv_blocks(), engine.block_size, sequence_blocks(pool.network, engine, *shape))
    limits = Limits(engine.token_budget, engine.max_sequences, engine.queue_limit, isinstance(engine, Static))
    replica = Replica(fleet.env, Scheduler(kv, limits, meter.cost.limit), meter, fleet.ended)
    replica.pool, replica.number = index, number
    return replica


def _lane(scenario: Scenario, fleet: Fleet, number: int) -> Lane:
    """The way of stream `number`: to every pool that serves its model."""
    stream = scenario.workload.streams[number]
    pools = {i: pool for i, pool in enumerate(scenario.pools.values()) if pool.network.name == stream.model.name}
    accounts = {i: Account(i, number) for i in pools}
    fleet.records.accounts.extend(accounts.values())
    sites = {i: scenario.sites[pool.site] for i, pool in pools.items()}
    return Lane(
        router=fleet.pools[next(iter(pools))][0].router,
        accounts=accounts,
        latency_s={i: site.network_latency[stream.region] if stream.region else 0.0 for i, site in sites.items()},
        front_end_s={i: pool.engine.front_end for i, pool in pools.items()},
        timeout_s=inf if stream.timeout is None else stream.timeout,
    )


def start(fleet: Fleet, scenario: Scenario, streams: Streams) -> None:
    """Begin the processes that send requests."""
    end_s = inf if scenario.horizon is None else scenario.horizon
    for lane, stream in zip(fleet.lanes, scenario.workload.streams, strict=True):
        if isinstance(stream.arrival, ClosedLoop):
            _seat_users(fleet, lane, stream, streams, end_s)
        else:
            fleet.open_source()
            fleet.env.process(_arrivals(fleet, lane, stream, streams, end_s))


def _seat_users(fleet: Fleet, lane: Lane, stream: Stream, streams: Streams, end_s: float) -> None:
    """One process for each user of a closed loop."""
    loop = stream.arrival
    if not isinstance(loop, ClosedLoop):
        return
    quota = iter(range(stream.count)) if stream.count is not None else repeat(0)
    user = User(stream.lengths(streams), loop.think_times(streams("think", stream.name)), quota, end_s)
    for number in range(loop.users):
        fleet.open_source()
        fleet.env.process(_user(fleet, lane, user, loop.ramp * number / loop.users))


def _arrivals(fleet: Fleet, lane: Lane, stream: Stream, streams: Streams, end_s: float) -> Generator[Event, None, None]:
    """Requests that come whatever the fleet does."""
    env, submit = fleet.env, fleet.submit
    for arrival_s, input_tokens, output_tokens in stream.requests(streams, end_s):
        if arrival_s > env.now:
            yield env.timeout(arrival_s - env.now)
        submit(lane, input_tokens, output_tokens)
    fleet.close_source()


class User(NamedTuple):
    """What the users of one closed loop share: lengths and thoughts to draw from, requests left to send, and when to stop."""

    lengths: Iterator[tuple[int, int]]
    thinks: Iterator[float]
    quota: Iterator[int]
    end_s: float


def _user(fleet: Fleet, lane: Lane, user: User, start_s: float) -> Generator[Event, None, None]:
    """One user of a closed loop: ask, wait for the whole answer, think, ask again."""
    env = fleet.env
    if start_s:
        yield env.timeout(start_s)
    while env.now < user.end_s and next(user.quota, None) is not None:
        input_tokens, output_tokens = next(user.lengths)
        done = env.event()
        request = fleet.submit(lane, input_tokens, output_tokens, done)
        yield done
        turned_away = request.status in (Status.REJECTED, Status.FAILED)
        yield env.timeout(max(request.return_s + next(user.thinks), RETRY_S if turned_away else 0.0))
    fleet.close_source()


class Timeline:
    """Samples of every pool at even intervals; when there are too many, every other one goes and the interval doubles."""

    def __init__(self, fleet: Fleet, records: Records, horizon_s: float | None, progress: Progress | None) -> None:
        self._fleet = fleet
        self._table = records.timeline
        self._interval_s = horizon_s / SAMPLES if horizon_s else 0.25
        self._progress = progress
        self._samples: list[tuple[float, list[list[float]]]] = []

    def sample(self) -> Generator[Event, None, None]:
        """A process that never ends by itself."""
        while True:
            self._take()
            if len(self._samples) > 2 * SAMPLES:
                self._samples = self._samples[::2]
                self._interval_s *= 2
            yield self._fleet.env.timeout(self._interval_s)

    def _take(self) -> None:
        now = self._fleet.env.now
        sums = [self._totals(pool) for pool in self._fleet.pools]
        self._samples.append((now, sums))
        if self._progress is not None:
            self._progress(now)

    @staticmethod
    def _totals(pool: list[Replica]) -> list[float]:
        """Running, waiting, blocks held, tokens and joules since the start, of all replicas of a pool."""
        levels = [sum(column) for column in zip(*(replica.snapshot() for replica in pool), strict=True)]
        meter = pool[0].meter
        return [*levels[:3], levels[3] + meter.output_tokens, levels[4] + meter.active_j + meter.idle_j]

    def close(self) -> None:
        """Close the fleet, and write the rows: levels at each instant, watts and tokens per second over the interval before it."""
        self._take()
        now, levels = self._samples.pop()
        self._fleet.close()
        self._take()  # totals with everything booked, of which the levels are gone
        self._samples[-1] = (now, [old[:3] + new[3:] for old, new in zip(levels, self._samples[-1][1], strict=True)])
        for (before_s, before), (now, sums) in pairwise(self._samples):
            seconds = now - before_s
            for pool, (old, new) in enumerate(zip(before, sums, strict=True)):
                blocks = sum(replica.scheduler.kv.total for replica in self._fleet.pools[pool])
                rates = [(new[i] - old[i]) / seconds if seconds else 0.0 for i in (4, 3)]
                self._table.append((now, pool, int(new[0]), int(new[1]), new[2] / blocks, *rates))


def _ledger(scenario: Scenario, name: str, replicas: list[Replica], duration_s: float) -> PoolLedger:
    """What one pool did and drew, at all four boundaries."""
    pool = scenario.pools[name]
    site = scenario.sites[pool.site]
    meter, schedulers = replicas[0].meter, [replica.scheduler for replica in replicas]
    devices = pool.devices
    accelerator_j = meter.active_j + meter.idle_j
    at_node_j = node_j(pool.profile.server, accelerator_j, servers_of(pool.profile.server, devices), duration_s)
    facility_j = site.facility_j(at_node_j, rated_w(pool.profile, devices), duration_s)
    total = schedulers[0].kv.total
    return PoolLedger(
        name=name,
        replicas=pool.replicas,
        devices=devices,
        duration_s=duration_s,
        busy_device_s=(duration_s * len(replicas) - meter.rest_s) * pool.tensor_parallel,
        active_j=meter.active_j,
        accelerator_j=accelerator_j,
        node_j=at_node_j,
        facility_j=facility_j,
        grams_co2e=site.grams_co2e(facility_j),
        litres_water=site.litres(at_node_j),
        electricity_usd=site.electricity_usd(facility_j),
        kv_blocks=total,
        kv_mean=meter.block_s / (total * len(replicas) * duration_s) if duration_s else 0.0,
        kv_peak=meter.blocks_peak / total,
        waiting_peak=max(scheduler.waiting_peak for scheduler in schedulers),
        preemptions=sum(scheduler.preemptions for scheduler in schedulers),
        iterations=meter.iterations,
        output_tokens=meter.output_tokens,
        kv_stalls=sum(scheduler.kv_stalls for scheduler in schedulers),
        seat_stalls=sum(scheduler.seat_stalls for scheduler in schedulers),
        binds=_binds(pool, meter, schedulers),
    )


def _binds(pool: Pool, meter: Meter, schedulers: list[Scheduler]) -> str:
    """What holds the pool back: seats or KV blocks where requests waited for them, else what its mean decode step waits for."""
    if not meter.iterations:
        return "nothing: no work"
    short_of = {
        "KV memory": sum(scheduler.kv_stalls + scheduler.preemptions for scheduler in schedulers),
        "max_sequences": sum(scheduler.seat_stalls for scheduler in schedulers),
    }
    waits = pool.step_cost().binding(max(round(meter.mean_rows), 1), round(meter.mean_context))
    resource = max(waits, key=lambda name: waits[name])
    step = (
        f"{resource}, {waits[resource] / sum(waits.values()):.0%} of a step of {max(meter.mean_rows, 1):.0f} sequences"
    )
    scarce = max(short_of, key=lambda name: short_of[name])
    return f"{scarce}, then {step}" if short_of[scarce] > 0.05 * meter.iterations else step
