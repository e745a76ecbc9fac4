"""One replica: an engine on its devices, from one change of the batch to the next."""

from collections.abc import Callable
from math import isnan, sqrt
from typing import TYPE_CHECKING, NamedTuple

from simpy import Environment, Event, Timeout

from simfleet.hardware.power import Steps
from simfleet.hardware.step import attended, attended_limited, keys_limited
from simfleet.records import Status
from simfleet.serving.batching import NOTHING, Request, Scheduler
from simfleet.serving.meter import NOTES, Meter

if TYPE_CHECKING:
    from simfleet.serving.routing import Router


Line = tuple[float, float]
"""A quantity of a run's steps: its value in the first step, and how much each next one adds."""


class Snapshot(NamedTuple):
    """Where a replica stands at an instant; what counts up is what the meter does not know of yet, joules linear within a run."""

    running: int
    waiting: int
    blocks: int
    output_tokens: int
    joules: float
    off_s: float = 0.0


class Replica:
    """A scheduler with a clock: one wake-up, re-armed whenever the end of the present run changes.

    Between two changes of the batch all decode steps are one event: step j = 0, 1, ... of a run takes time[0] + j * time[1]
    seconds, so its end is a closed form. `submit` may cut a run short after the step in progress. A step with prompt chunks is
    a run of one.
    """

    __slots__ = (
        "_armed",
        "_cost",
        "_decodes",
        "_ended",
        "_energy",
        "_start_s",
        "_steps",
        "_time",
        "cap_w",
        "env",
        "meter",
        "number",
        "outstanding",
        "pool",
        "router",
        "scheduler",
    )

    def __init__(
        self, env: Environment, scheduler: Scheduler, meter: Meter, ended: Callable[[Request, Status], None]
    ) -> None:
        self.env = env
        self.scheduler = scheduler
        self.meter = meter
        self.router: Router
        self.pool = 0
        self.number = 0
        self.outstanding = 0  # routed here and not ended: kept by the router
        self.cap_w = meter.cost.limit_w  # of all devices together
        self._cost = meter.cost
        self._ended = ended
        self._armed: Event | None = None  # None: at rest
        self._start_s = env.now
        self._steps = 0
        self._time: Line = (0.0, 0.0)
        self._energy: Line = (0.0, 0.0)
        self._decodes = (0.0, 0.0)  # seconds and joules of a mixed step's decodes alone

    def submit(self, request: Request) -> None:
        """Take a request at this instant: it waits; or ends at once, as failed if it could never fit, timed out or rejected."""
        scheduler = self.scheduler
        queue_limit = scheduler.limits.queue_limit
        if scheduler.kv.blocks(request.input_tokens + request.output_tokens - 1) > scheduler.kv.total:
            self._ended(request, Status.FAILED)
        elif request.deadline_s <= self.env.now:
            self._ended(request, Status.TIMED_OUT)
        elif queue_limit is not None and scheduler.waiting >= queue_limit:
            self._ended(request, Status.REJECTED)
        else:
            scheduler.enqueue(request)
            if self._armed is None:
                self._rouse()
            elif self._steps > 1:
                joins = scheduler.waiting == 1 and scheduler.has_seat
                self._cut(self.env.now if joins else request.deadline_s)

    def cap(self, watts: float) -> None:
        """From the next step on all devices together may draw `watts`."""
        self.cap_w = watts
        if self._armed is not None and self._steps > 1:
            self._cut(self.env.now)

    def _rouse(self) -> None:
        """From rest: wake up, then plan once all that arrives at this instant has arrived."""
        rested_s = self.env.now - self._start_s
        self.meter.rest(rested_s)
        self._start_s = self.env.now
        self._steps = 0
        self._sleep(self.meter.resting.wake_s(rested_s))

    def _cut(self, time_s: float) -> None:
        """End the run with the step that is in progress at `time_s`, if it goes on beyond that."""
        since_s = time_s - self._start_s
        if since_s <= self._elapsed(self._steps - 1):
            self._steps = self._steps_until(since_s)
            self._sleep(max(self._start_s + self._elapsed(self._steps) - self.env.now, 0.0))

    # -- time ---------------------------------------------------------------------------------------------------------

    def _sleep(self, delay_s: float) -> None:
        """Re-arm the wake-up: an older one becomes stale."""
        self._armed = wake = Timeout(self.env, delay_s)
        wake.callbacks.append(self._wake)

    def _wake(self, event: Event) -> None:
        if event is self._armed:
            if self._steps:
                self._apply(self._steps)
            elif self.env.now > self._start_s:
                self.meter.wake(self.env.now - self._start_s)
            self._plan()

    def _elapsed(self, steps: int) -> float:
        """Seconds from the start of the run to the end of its first `steps` steps."""
        first, slope = self._time
        return steps * (first + slope * (steps - 1) / 2)

    def _steps_until(self, passed_s: float) -> int:
        """The fewest steps of the run that take at least `passed_s`: a root of a quadratic, then mended for rounding."""
        first, slope = self._time
        middle = first - slope / 2
        steps = int(2 * passed_s / (middle + sqrt(middle * middle + 2 * slope * passed_s))) + 1
        while self._elapsed(steps) < passed_s:
            steps += 1
        while steps > 0 and self._elapsed(steps - 1) >= passed_s:
            steps -= 1
        return steps

    def _steps_done(self, passed_s: float) -> int:
        """Whole steps of the run that `passed_s` holds."""
        steps = min(self._steps_until(passed_s), self._steps)
        return steps if self._elapsed(steps) <= passed_s else steps - 1

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """At a step boundary: decide the next step, or run of steps, and sleep until its end."""
        scheduler, now = self.scheduler, self.env.now
        if scheduler.deadlines:
            for request in scheduler.expire(now):
                self._ended(request, Status.TIMED_OUT)
        batch, kv = scheduler.batch, scheduler.kv
        scheduler.short_of = NOTHING
        short = kv.phases[-batch.step % kv.size] > kv.free
        if short:
            scheduler.make_room(now)
        if scheduler.waiting or scheduler.partial is not None:
            scheduler.schedule(not short, now)
        self._start_s = now
        if scheduler.chunks:
            self._start_mixed()
        elif batch.rows:
            self._start_run()
        else:
            self._armed = None

    def _start_run(self) -> None:
        """Decode steps only, until the batch must change or the next client hangs up."""
        batch, kv = self.scheduler.batch, self.scheduler.kv
        rows, growing = len(batch.rows), batch.growing
        t0, t_ctx, t_lim, e0, e_ctx, e_lim = self._cost.decode(rows)
        context, limited = batch.context + rows, batch.limited + growing
        first_s, next_s = t0 + t_ctx * context + t_lim * limited, t_ctx * rows + t_lim * growing
        first_j, next_j = e0 + e_ctx * context + e_lim * limited, e_ctx * rows + e_lim * growing
        steps = kv.steps_that_fit(batch.step, batch.run_length(), rows)
        cap_w = self.cap_w
        over, grows = first_j - cap_w * first_s, next_j - cap_w * next_s
        if over > 0.0 or over + grows * steps > 0.0:
            first_s, next_s, first_j, next_j, steps = self._cost.governed(
                rows, Steps(first_s, next_s, first_j, next_j, steps), cap_w
            )
        self._time, self._energy = (first_s, next_s), (first_j, next_j)
        if self.scheduler.deadlines:
            left_s = self.scheduler.deadlines[0][0] - self._start_s
            if left_s < self._elapsed(steps):
                steps = self._steps_until(left_s)
        self._steps = steps
        self._sleep(self._elapsed(steps))

    def _start_mixed(self) -> None:
        """One step of prompt chunks and, for every decoding sequence, one token."""
        batch, window = self.scheduler.batch, self._cost.limit
        rows = sampled = tokens = len(batch.rows)
        pairs = keys = longest = pairs_limited = keys_seen = longest_seen = 0
        for request, prefix, new in self.scheduler.chunks:
            tokens += new
            sampled += prefix + new == request.prompt
            pairs += attended(prefix, new)
            keys += prefix + new
            if prefix + new > longest:
                longest = prefix + new
            if window is not None:
                pairs_limited += attended_limited(prefix, new, window)
                seen = keys_limited(prefix, new, window)
                keys_seen += seen
                longest_seen = max(longest_seen, seen)
        context, limited = batch.context + rows, batch.limited + batch.growing
        seconds, joules = self._cost.mixed(
            tokens, sampled, rows, context, limited, pairs, keys, longest, pairs_limited, keys_seen, longest_seen
        )
        if joules > self.cap_w * seconds:
            seconds, joules = self._capped(tokens, seconds, joules)
        self._time, self._energy, self._decodes = (seconds, 0.0), (joules, 0.0), (0.0, 0.0)
        if rows:
            t0, t_ctx, t_lim, e0, e_ctx, e_lim = self._cost.decode(rows)
            alone_s, alone_j = t0 + t_ctx * context + t_lim * limited, e0 + e_ctx * context + e_lim * limited
            if alone_j > self.cap_w * alone_s:
                alone_s, alone_j = self._capped(rows, alone_s, alone_j)
            self._decodes = (alone_s, alone_j)
        self._steps = 1
        self._sleep(seconds)

    def _capped(self, tokens: int, seconds: float, joules: float) -> tuple[float, float]:
        """Seconds and joules of one step that would draw more than the power cap."""
        cap_w = self.cap_w
        if cap_w == self._cost.limit_w:  # times were measured under it
            return seconds, cap_w * seconds
        step = self._cost.governed(tokens, Steps(seconds, 0.0, joules, 0.0, 1), cap_w)
        return step.first_s, step.first_j

    def _apply(self, steps: int) -> None:
        """`steps` steps of the run are over: book them, then let their tokens out."""
        scheduler, batch, kv = self.scheduler, self.scheduler.batch, self.scheduler.kv
        rows, chunks, context, (first, slope) = len(batch.rows), scheduler.chunks, batch.context, self._time
        seconds = steps * (first + slope * (steps - 1) / 2)
        if chunks:
            joules = self._share_mixed(1.0)
            scheduler.chunks = []
        else:
            joules = steps * (self._energy[0] + self._energy[1] * (steps - 1) / 2)
            batch.charge(seconds * self._cost.devices, joules)
        grown = kv.grow(batch.step, steps, rows) if rows else 0
        scheduler.stalls[scheduler.short_of] += steps
        meter, notes = self.meter, self.meter.notes
        meter.active_j += joules
        meter.row_steps += rows * steps
        notes.append((self._start_s, seconds, rows, steps, first, slope, context, kv.free, grown))
        if len(notes) == NOTES:
            meter.settle()
        if rows:
            for request in batch.advance(steps):
                scheduler.leave(request)
                self._answer(request)
        for request, prefix, new in chunks:
            request.computed = prefix + new
            if request.computed == request.prompt:
                self._first_token(request)

    def _share_mixed(self, part: float) -> float:
        """Charge `part` of a mixed step: its decodes pay what they would have cost alone, the chunks share the rest by tokens.

        Return the joules of that part.
        """
        scheduler, devices = self.scheduler, self._cost.devices
        seconds, joules, (decode_s, decode_j) = self._time[0], self._energy[0], self._decodes
        if decode_s:
            scheduler.batch.charge(decode_s * part * devices, decode_j * part)
        tokens = sum([new for _, _, new in scheduler.chunks])
        token_s, token_j = (seconds - decode_s) * part * devices / tokens, (joules - decode_j) * part / tokens
        for request, _, new in scheduler.chunks:
            account = request.account
            request.device_s += token_s * new
            request.energy_j += token_j * new
            account.prefill_device_s += token_s * new
            account.prefill_j += token_j * new
        return joules * part

    def _first_token(self, request: Request) -> None:
        """The prompt is in KV memory, and with it a token comes out."""
        now = self.env.now
        request.generated += 1
        self.meter.prompts += 1
        if isnan(request.first_s):
            request.first_s = now
            request.account.prompt(request.input_tokens, request.cached)
        else:
            self.meter.gap(request.last_s, now - request.last_s)
        if request.generated < request.output_tokens:
            self.scheduler.join(request)
        else:
            self.scheduler.evict(request)
            self._answer(request)

    def _answer(self, request: Request) -> None:
        self._ended(request, Status.COMPLETED if self.env.now <= request.deadline_s else Status.TIMED_OUT)

    # -- looking from outside -----------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Where this replica stands now; changes nothing."""
        scheduler, passed = self.scheduler, self.env.now - self._start_s
        kv, rows, steps = scheduler.kv, len(scheduler.batch.rows), self._steps
        running, held = rows + len(scheduler.chunks), kv.total - kv.free
        if self._armed is None:
            resting = self.meter.resting
            return Snapshot(running, scheduler.waiting, held, 0, resting.joules(passed), resting.off_s(passed))
        if not steps:
            return Snapshot(running, scheduler.waiting, held, 0, self._cost.gap_w * passed)
        done = self._steps_done(passed)
        grown = kv.growth(scheduler.batch.step, done, rows) if rows and done else 0
        joules = passed / self._elapsed(steps) * steps * (self._energy[0] + self._energy[1] * (steps - 1) / 2)
        return Snapshot(running, scheduler.waiting, held + grown, done * rows, joules)

    def close(self) -> None:
        """The simulation ends now: book what is done of the run in progress, and end all requests as in flight."""
        if self._armed is None:
            self.meter.rest(self.env.now - self._start_s)
        elif self._steps:
            self._close_run(self.env.now - self._start_s)
        else:
            self.meter.wake(self.env.now - self._start_s)
        self._armed, self._start_s = None, self.env.now
        for request in self.scheduler.drain():
            self._ended(request, Status.IN_FLIGHT)

    def _close_run(self, passed_s: float) -> None:
        """Book the whole steps that `passed_s` holds, and its part of the one in progress."""
        done = self._steps_done(passed_s)
        whole_s = self._elapsed(done)
        ends = done == self._steps
        if done:
            self._apply(done)
        if not ends and passed_s > whole_s:
            self._book_part(done, passed_s - whole_s)

    def _book_part(self, steps: int, left_s: float) -> None:
        """Book the first `left_s` seconds of the step after `steps` steps: no token comes of it."""
        batch, kv = self.scheduler.batch, self.scheduler.kv
        seconds, joules = self._time[0] + steps * self._time[1], self._energy[0] + steps * self._energy[1]
        if self.scheduler.chunks:
            booked_j = self._share_mixed(left_s / seconds)
        else:
            booked_j = joules * left_s / seconds
            batch.charge(left_s * self._cost.devices, booked_j)
        self.meter.active_j += booked_j
        self.meter.notes.append((self._start_s, left_s, 0, 0, seconds, 0.0, 0, kv.free, 0))
