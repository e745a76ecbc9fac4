"""The fleet: a request comes in here, finds a replica, and leaves a row when it ends."""

from collections.abc import Sequence
from math import inf, nan
from typing import NamedTuple

from simpy import Environment, Event, Timeout

from simfleet.records import Account, Records, Status
from simfleet.serving.batching import Request
from simfleet.serving.replica import Replica, Snapshot
from simfleet.serving.routing import Router


class Lane(NamedTuple):
    """The way of one stream's requests: who chooses, what each pool's account is, and how far away each pool is."""

    router: Router
    accounts: dict[int, Account]  # by pool
    latency_s: dict[int, float]  # one way, by pool
    front_end_s: dict[int, float]  # by pool
    timeout_s: float
    max_context: int
    cached_tokens: dict[int, int]  # of every prompt, by pool; empty where none


def totals(pool: Sequence[Replica]) -> Snapshot:
    """All replicas of a pool together now; tokens, joules and seconds off since the start."""
    running, waiting, blocks, tokens, joules, off_s = (
        sum(column) for column in zip(*(replica.snapshot() for replica in pool), strict=True)
    )
    meter = pool[0].meter
    booked_j = meter.active_j + meter.idle_j
    return Snapshot(running, waiting, blocks, tokens + meter.output_tokens, joules + booked_j, off_s + meter.off_s)


class Fleet:
    """Replicas of all pools, one lane per stream, and the books of who has arrived and ended.

    `drained` succeeds when every source has closed and no request is outstanding.
    """

    def __init__(self, env: Environment, records: Records, detail: bool) -> None:
        self.env = env
        self.records = records
        self.pools: list[list[Replica]] = []
        self.lanes: list[Lane] = []
        self.drained = env.event()
        self._detail = detail
        self._transit: dict[Request, None] = {}
        self._submitted = 0
        self._outstanding = 0
        self._sources = 0

    def open_source(self) -> None:
        self._sources += 1

    def close_source(self) -> None:
        """No more requests from one source."""
        self._sources -= 1
        self._look_drained()

    def _look_drained(self) -> None:
        if not self._outstanding and not self._sources and not self.drained.triggered:
            self.drained.succeed()

    def submit(self, lane: Lane, input_tokens: int, output_tokens: int, done: Event | None = None) -> Request:
        """A user's request reaches the fleet now; `done`, if given, succeeds when its replica is through with it."""
        replica = lane.router.take()
        pool = replica.pool
        request = Request(self.env.now, input_tokens, output_tokens, lane.accounts[pool], replica)
        if done is not None:
            request.done = done
        latency_s = lane.latency_s[pool]
        request.return_s = latency_s + lane.front_end_s[pool]
        if lane.cached_tokens:
            size = replica.scheduler.kv.size
            request.computed = request.cached = min(lane.cached_tokens[pool], (input_tokens - 1) // size * size)
        if input_tokens + output_tokens > lane.max_context:
            request.account.too_long += 1
        if lane.timeout_s < inf:
            request.deadline_s = request.arrival_s + lane.timeout_s - request.return_s
        self._submitted += 1
        self._outstanding += 1
        if latency_s:
            self._transit[request] = None
            Timeout(self.env, latency_s).callbacks = [lambda _: self._arrive(request)]
        else:
            replica.submit(request)
        return request

    def _arrive(self, request: Request) -> None:
        del self._transit[request]
        request.replica.submit(request)

    def ended(self, request: Request, status: Status) -> None:
        """The one place where requests end: counted, written down, and told to whoever waits."""
        request.status = status
        account, replica = request.account, request.replica
        account.ended[status] += 1
        account.output_tokens += request.generated
        length = request.input_tokens + request.generated
        if length > account.longest:
            account.longest = length
        replica.router.release(replica)
        self._write(request, status)
        if request.done is not None:
            request.done.succeed()
        self._outstanding -= 1
        if not self._outstanding:
            self._look_drained()

    def _write(self, request: Request, status: Status) -> None:
        arrival_s, return_s, account = request.arrival_s, request.return_s, request.account
        row: tuple[float, ...] = (
            account.stream,
            account.pool,
            status,
            request.generated,
            arrival_s,
            request.started_s - arrival_s,
            request.first_s + return_s - arrival_s if request.first_s <= request.deadline_s else nan,
            self.env.now + return_s - arrival_s if status is Status.COMPLETED else nan,
        )
        if self._detail:
            row += (
                request.replica.number,
                request.input_tokens,
                request.preemptions,
                request.device_s,
                request.energy_j,
            )
        self.records.requests.append(row)

    def close(self) -> None:
        """The simulation ends now: what is left is in flight."""
        for request in self._transit:
            self.ended(request, Status.IN_FLIGHT)
        for replica in self.replicas:
            replica.close()

    @property
    def replicas(self) -> Sequence[Replica]:
        return [replica for pool in self.pools for replica in pool]

    def check(self) -> None:
        """Raise RuntimeError unless every request that came has ended and every block is free again."""
        ended = sum(account.arrived for account in self.records.accounts)
        if ended != self._submitted or self._outstanding:
            raise RuntimeError(f"requests: {self._submitted} arrived, {ended} ended, {self._outstanding} outstanding")
        for replica in self.replicas:
            replica.scheduler.check()
