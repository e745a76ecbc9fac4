"""Build the fleet of a scenario, run it, collect what happened."""

import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import repeat
from math import inf
from typing import NamedTuple

from simpy import Environment, Event

from simfleet.facility.caps import Caps
from simfleet.metering import Bill, Metering
from simfleet.pool import Pool
from simfleet.records import Account, PoolLedger, Records, Status, request_table, timeline_table
from simfleet.result import Result
from simfleet.run import Run
from simfleet.scenario import Scenario
from simfleet.serving.batching import BLOCKS, SEATS, Limits, Scheduler
from simfleet.serving.engine import Static, sequence_blocks
from simfleet.serving.fleet import Fleet, Lane
from simfleet.serving.kv import BlockPool
from simfleet.serving.meter import Meter
from simfleet.serving.replica import Replica
from simfleet.streams import Streams
from simfleet.terminal import counted
from simfleet.timeline import Progress, Timeline
from simfleet.workload.arrivals import ClosedLoop
from simfleet.workload.streams import Stream

RETRY_S = 1.0
"""A user of a closed loop whose request was turned away asks again after this long, or after the think time if longer."""


def simulate(scenario: Scenario, seed: int = 0, requests: bool = True, progress: Progress | None = None) -> Result:
    """Run `scenario` once and return what came out.

    `requests` keeps a full row per request (41 bytes each without, 67 with). `progress` is called with the simulated time [s],
    a few hundred times. The same scenario and seed give the same result, bit for bit. Raises RuntimeError when the books do not
    balance at the end: every request that arrived has ended or is in flight.
    """
    env = Environment()
    records = Records(request_table(detail=requests), timeline_table())
    streams = Streams(seed)
    fleet = build(env, scenario, streams, records, requests)
    env.process(_power_caps(fleet, scenario))
    start(fleet, scenario, streams)
    metering = Metering(fleet, scenario)
    timeline = Timeline(fleet, metering, records, scenario.horizon, progress)
    for process in (timeline.sample(), metering.watch()):
        env.process(process)
    with _uncollected():
        env.run(until=_end(env, fleet, scenario))
    timeline.close()
    metering.close(env.now)
    fleet.check()
    records.duration_s = env.now
    records.pools = [
        _ledger(
            scenario,
            name,
            replicas,
            [account for account in records.accounts if account.pool == replicas[0].pool],
            bill,
            env.now,
        )
        for name, replicas, bill in zip(scenario.pools, fleet.pools, metering.bills, strict=True)
    ]
    return Result(Run(scenario=scenario, seed=seed, records=records, version=version("simfleet")))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without cyclic garbage collection, which would walk all live requests again and again: the event core leaves no cycles."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


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
        fleet.pools.append(_replicas(fleet, pool, index, scenario.warmup))
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


def _replicas(fleet: Fleet, pool: Pool, index: int, warmup_s: float) -> list[Replica]:
    """The replicas of pool number `index`: equal engines that share one meter."""
    engine, cost, blocks = pool.engine, pool.step_cost(), pool.kv_blocks()
    state = sequence_blocks(pool.network, engine, pool.parallel, pool.precision)
    limits = Limits(engine.token_budget, engine.max_sequences, engine.queue_limit, isinstance(engine, Static))
    meter = Meter(cost, blocks, fleet.records.itl, warmup_s, pool.resting_states())
    replicas = []
    for number in range(pool.replicas):
        scheduler = Scheduler(BlockPool(blocks, engine.block_size, state), limits, cost.limit)
        replica = Replica(fleet.env, scheduler, meter, fleet.ended)
        replica.pool, replica.number = index, number
        replicas.append(replica)
    return replicas


def _lane(scenario: Scenario, fleet: Fleet, number: int) -> Lane:
    """The way of stream `number`: to every pool that serves its model."""
    stream = scenario.workload.streams[number]
    pools = {i: pool for i, pool in enumerate(scenario.pools.values()) if pool.network.name == stream.model.name}
    accounts = {i: Account(i, number) for i in pools}
    fleet.records.accounts.extend(accounts.values())
    sites = {i: scenario.sites[pool.site] for i, pool in pools.items()}
    prefix = stream.tokens.shared_prefix if stream.tokens is not None else 0
    return Lane(
        router=fleet.pools[next(iter(pools))][0].router,
        accounts=accounts,
        latency_s={i: site.network_latency[stream.region] if stream.region else 0.0 for i, site in sites.items()},
        front_end_s={i: pool.engine.front_end for i, pool in pools.items()},
        timeout_s=inf if stream.timeout is None else stream.timeout,
        max_context=stream.model.max_context,
        cached_tokens={i: prefix // pool.engine.block_size * pool.engine.block_size for i, pool in pools.items()}
        if prefix
        else {},
    )


def start(fleet: Fleet, scenario: Scenario, streams: Streams) -> None:
    """Begin the processes that send requests."""
    end_s = inf if scenario.horizon is None else scenario.horizon
    for lane, stream in zip(fleet.lanes, scenario.workload.streams, strict=True):
        if isinstance(stream.arrival, ClosedLoop):
            _seat_users(fleet, lane, stream, stream.arrival, streams, end_s)
        else:
            fleet.open_source()
            fleet.env.process(_arrivals(fleet, lane, stream, streams, end_s))


def _seat_users(
    fleet: Fleet, lane: Lane, stream: Stream, loop: ClosedLoop, streams: Streams, end_s: float
) -> None:  # fmt: skip
    """One process for each user of a closed loop."""
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
    asks = start_s < user.end_s and next(user.quota, None) is not None
    if asks and start_s:
        yield env.timeout(start_s)
    while asks:
        input_tokens, output_tokens = next(user.lengths)
        done = env.event()
        request = fleet.submit(lane, input_tokens, output_tokens, done)
        yield done
        turned_away = request.status in (Status.REJECTED, Status.FAILED)
        pause_s = max(request.return_s + next(user.thinks), RETRY_S if turned_away else 0.0)
        asks = env.now + pause_s < user.end_s and next(user.quota, None) is not None
        if asks:
            yield env.timeout(pause_s)
    fleet.close_source()


def _power_caps(fleet: Fleet, scenario: Scenario) -> Generator[Event, None, None]:
    """What devices may draw: a process that begins at once and goes on at every change."""
    caps, now = Caps(scenario.pools, scenario.sites), 0.0
    while now < inf:
        for (name, pool), replicas in zip(scenario.pools.items(), fleet.pools, strict=True):
            watts = caps.device_w(name, now) * pool.parallel.devices
            for replica in replicas:
                if replica.cap_w != watts:
                    replica.cap(watts)
        now = caps.next_change(now)
        if now < inf:
            yield fleet.env.timeout(max(now - fleet.env.now, 0.0))


def _ledger(
    scenario: Scenario, name: str, replicas: list[Replica], accounts: list[Account], bill: Bill, duration_s: float
) -> PoolLedger:
    """What one pool did and drew, at all four boundaries."""
    pool = scenario.pools[name]
    meter, schedulers = replicas[0].meter, [replica.scheduler for replica in replicas]
    total = schedulers[0].kv.total
    busy_s = (
        duration_s * len(replicas) - meter.rest_s if meter.active_j else 0.0
    )  # without work: not what rounding leaves
    return PoolLedger(
        name=name,
        replicas=pool.replicas,
        devices=pool.devices,
        duration_s=duration_s,
        busy_device_s=busy_s * pool.parallel.devices,
        active_j=meter.active_j,
        accelerator_j=meter.active_j + meter.idle_j,
        node_j=bill.node_j,
        facility_j=bill.facility_j,
        grams_co2e=bill.grams_co2e,
        litres_water=bill.litres_water,
        electricity_usd=bill.electricity_usd,
        demand_usd=bill.demand_usd,
        off_s=meter.off_s,
        kv_blocks=total,
        kv_mean=meter.block_s / (total * len(replicas) * duration_s) if duration_s else 0.0,
        kv_peak=meter.blocks_peak / total,
        waiting_peak=max(scheduler.waiting_peak for scheduler in schedulers),
        preemptions=sum(scheduler.preemptions for scheduler in schedulers),
        iterations=meter.iterations,
        output_tokens=meter.output_tokens,
        kv_stalls=sum(scheduler.stalls[BLOCKS] for scheduler in schedulers),
        seat_stalls=sum(scheduler.stalls[SEATS] for scheduler in schedulers),
        binds=_binds(meter, schedulers, accounts),
    )


def _binds(meter: Meter, schedulers: list[Scheduler], accounts: list[Account]) -> str:
    """What holds a pool back: blocks or seats, where requests waited for them in over 5 % of the steps; and what its steps wait for.

    The latter is that of the mean decode step and of the mean prompt, weighed by the device-seconds of answers and of prompts.
    """
    decode_s, prefill_s = (
        sum(getattr(account, f"{kind}_device_s") for account in accounts) for kind in ("decode", "prefill")
    )
    if not meter.iterations or not decode_s + prefill_s:
        return "nothing: no work"
    waits: dict[str, float] = {}
    rows, prompt = (
        max(round(meter.mean_rows), 1),
        sum(account.input_tokens for account in accounts) // max(meter.prompts, 1),
    )
    steps = (
        (decode_s, meter.cost.binding(rows, round(meter.mean_context))),
        (prefill_s, meter.cost.binding(0, 0, max(prompt, 1))),
    )
    for device_s, parts in steps:
        for resource, seconds in parts.items():
            waits[resource] = waits.get(resource, 0.0) + seconds / sum(parts.values()) * device_s / (
                decode_s + prefill_s
            )
    resource = max(waits, key=lambda name: waits[name])
    step = f"{resource}, {waits[resource]:.0%} of busy time at {counted(round(max(meter.mean_rows, 1)), 'sequence')} a step"
    short_of = {
        name: sum(s.stalls[kind] for s in schedulers)
        for name, kind in (("KV memory", BLOCKS), ("max_sequences", SEATS))
    }
    scarce = max(short_of, key=lambda name: short_of[name])
    return f"{scarce}, then {step}" if short_of[scarce] > 0.05 * meter.iterations else step
