"""Who is in the next step: requests, the decoding batch as totals and heaps, and the scheduler that fills it."""

from collections import deque
from heapq import heappop, heappush
from math import inf, isnan, nan
from typing import TYPE_CHECKING, NamedTuple

from simpy import Event

from simfleet.records import Account, Status
from simfleet.serving.kv import BlockPool

if TYPE_CHECKING:
    from simfleet.serving.replica import Replica

UNLIMITED = 1 << 62
WAITING, PREFILLING = 0, -1
NOTHING, BLOCKS, SEATS = 0, 1, 2


class Request:
    """What was asked, where it stands, and what it has cost so far. Times are simulated seconds.

    Tokens in KV memory while decoding:  [0 ........ base + step)  with `step` the replica's count of decode steps.
    """

    base: int
    clock_s: float  # the batch's clocks when it joined
    clock_j: float
    last_s: float  # last token before a preemption

    __slots__ = (
        "account", "arrival_s", "base", "cached", "clock_j", "clock_s", "computed", "deadline_s", "device_s", "done", "energy_j", "entry",
        "first_s", "generated", "input_tokens", "last_s", "output_tokens", "preemptions", "prompt", "replica", "return_s",
        "started_s", "status",
    )  # fmt: skip

    def __init__(
        self, arrival_s: float, input_tokens: int, output_tokens: int, account: Account, replica: "Replica"
    ) -> None:
        self.arrival_s = arrival_s
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.account = account
        self.replica = replica
        self.prompt = input_tokens  # tokens to prefill: after a preemption the generated ones too
        self.computed = self.cached = 0  # of these, in KV memory; and found there by the prefix cache
        self.entry = WAITING  # or PREFILLING, or its number among those that decode
        self.generated = 0  # tokens out when it last was not decoding
        self.status: Status | None = None
        self.done: Event | None = None  # somebody waits for the answer
        self.deadline_s = inf  # when the client hangs up, as the replica sees it
        self.return_s = 0.0  # from the replica to the user: network and front end
        self.started_s = self.first_s = nan
        self.device_s = self.energy_j = 0.0
        self.preemptions = 0


class Limits(NamedTuple):
    """What the engine allows: tokens in a step, sequences in a batch, requests waiting; a `static` batch never refills."""

    token_budget: int
    max_sequences: int
    queue_limit: int | None = None
    static: bool = False


Chunk = tuple[Request, int, int]
"""A piece of a prompt in one step: tokens [prefix .. prefix + tokens) of a request, as (request, prefix, tokens)."""

Entries = list[tuple[int, int, Request]]
"""A heap of (decode step, number in the batch, request); an entry whose request has another number by now is stale."""


class DecodeBatch:
    """Sequences that produce one token per step.

    `step` counts decode steps; every sequence holds `base + step` tokens. `context` is their sum and `limited` the sum of
    min(tokens, window), which only the `growing` ones, still shorter than the window, add to. Two clocks run on by each step's
    device-seconds and joules per row; a sequence pays the difference between its leaving and its joining.
    """

    __slots__ = (
        "_crossings",
        "_finishes",
        "_number",
        "_window",
        "clock_j",
        "clock_s",
        "context",
        "growing",
        "limited",
        "rows",
        "step",
    )

    def __init__(self, window: int | None) -> None:
        self.rows: dict[Request, None] = {}  # in order of admission
        self.step = 0
        self.context = 0
        self.limited = 0
        self.growing = 0
        self.clock_s = 0.0
        self.clock_j = 0.0
        self._window = window
        self._finishes: Entries = []
        self._crossings: Entries = []
        self._number = 0

    def join(self, request: Request, tokens: int, steps: int) -> None:
        """`request` holds `tokens` tokens and has `steps` decode steps to go."""
        self._number = request.entry = number = self._number + 1
        request.base = tokens - self.step
        request.clock_s = self.clock_s
        request.clock_j = self.clock_j
        self.rows[request] = None
        self.context += tokens
        heappush(self._finishes, (self.step + steps, number, request))
        if self._window is not None:
            self.limited += min(tokens, self._window)
            if tokens < self._window:
                self.growing += 1
                heappush(self._crossings, (self._window - request.base, number, request))

    def leave(self, request: Request) -> int:
        """Take `request` out and charge it for its steps; return the tokens that it holds."""
        del self.rows[request]
        request.entry = WAITING
        account = request.account
        device_s, joules = self.clock_s - request.clock_s, self.clock_j - request.clock_j
        request.device_s += device_s
        request.energy_j += joules
        account.decode_device_s += device_s
        account.decode_j += joules
        tokens = request.base + self.step
        self.context -= tokens
        if self._window is not None:
            self.limited -= min(tokens, self._window)
            self.growing -= tokens < self._window
        return tokens

    def run_length(self) -> int:
        """Steps until the first sequence finishes or fills its window."""
        steps = self._next(self._finishes) - self.step
        if self.growing:
            return min(steps, self._next(self._crossings) - self.step)
        return steps

    @staticmethod
    def _next(heap: Entries) -> int:
        """The step of the first entry that is not stale."""
        step, number, request = heap[0]
        while request.entry != number:
            heappop(heap)
            step, number, request = heap[0]
        return step

    def advance(self, steps: int) -> list[Request]:
        """`steps` decode steps are done, at most `run_length`; return those that have finished, still in the batch."""
        self.step += steps
        self.context += len(self.rows) * steps
        if self.growing:
            self.limited += self.growing * steps
            self.growing -= len(self._due(self._crossings))
        return self._due(self._finishes) if self._finishes[0][0] <= self.step else []

    def charge(self, device_s: float, joules: float) -> None:
        """These device-seconds and joules are shared evenly by the rows."""
        rows = len(self.rows)
        self.clock_s += device_s / rows
        self.clock_j += joules / rows

    def _due(self, heap: Entries) -> list[Request]:
        due: list[Request] = []
        while heap and heap[0][0] <= self.step:
            _, number, request = heappop(heap)
            if request.entry == number:
                due.append(request)
        return due


class Scheduler:
    """The waiting line, the batch and the KV memory of one replica, in the order of vLLM V1.

    In a step decodes come first, then the one unfinished prompt, then new requests in order of arrival while the token budget,
    the sequence limit and blocks for the whole prompt allow. It knows no clock: times come as arguments.
    """

    __slots__ = (
        "_enqueued",
        "_line",
        "batch",
        "chunks",
        "deadlines",
        "kv",
        "limits",
        "partial",
        "preemptions",
        "short_of",
        "stalls",
        "waiting",
        "waiting_peak",
    )

    def __init__(self, kv: BlockPool, limits: Limits, window: int | None) -> None:
        self.kv = kv
        self.limits = limits
        self.batch = DecodeBatch(window)
        self.chunks: list[Chunk] = []  # prompts in the step in progress
        self.partial: Request | None = None  # admitted, prompt not finished: always the last in the batch
        self.waiting = 0
        self.waiting_peak = 0
        self.preemptions = 0
        self.short_of = NOTHING  # what the head of the line waits for in the step in progress
        self.stalls = [0, 0, 0]  # steps in which it waited for NOTHING, BLOCKS, SEATS
        self.deadlines: list[tuple[float, int, Request]] = []
        self._line: deque[Request] = deque()  # may hold requests that have ended: skipped by their status
        self._enqueued = 0

    def enqueue(self, request: Request) -> None:
        self._line.append(request)
        self.waiting = waiting = self.waiting + 1
        if waiting > self.waiting_peak:
            self.waiting_peak = waiting
        if request.deadline_s < inf:
            self._enqueued += 1
            heappush(self.deadlines, (request.deadline_s, self._enqueued, request))

    @property
    def has_seat(self) -> bool:
        """Whether a request that arrives during a run could join before the run's planned end."""
        return len(self.batch.rows) < self.limits.max_sequences and not self.limits.static

    def expire(self, now: float) -> list[Request]:
        """Take out and return the requests whose clients have hung up."""
        expired: list[Request] = []
        deadlines = self.deadlines
        while deadlines and (deadlines[0][2].status is not None or deadlines[0][0] <= now):
            request = heappop(deadlines)[2]
            if request.status is None:
                self.evict(request)
                expired.append(request)
        return expired

    def evict(self, request: Request) -> int:
        """Take a request out of wherever it is; return how many of its tokens in KV memory are lost."""
        if request.entry > 0:
            return self.leave(request)
        if request.entry == WAITING:
            self.waiting -= 1
            return 0
        self.partial = None if request is self.partial else self.partial
        request.entry = WAITING
        self.kv.release(self.kv.blocks(request.prompt))
        return request.computed

    def join(self, request: Request) -> None:
        """The prompt is done and a token is out: decode from the next step on."""
        self.batch.join(request, request.prompt, request.output_tokens - request.generated)
        self.kv.join(request.base)

    def leave(self, request: Request) -> int:
        """Take a decoding request out of the batch; return its tokens in KV memory."""
        tokens = self.batch.leave(request)
        self.kv.leave(request.base, tokens)
        request.generated += tokens - request.prompt
        return tokens

    def make_room(self, now: float) -> None:
        """Preempt the last in until the next decode step's blocks are free."""
        batch, kv = self.batch, self.kv
        self.short_of = BLOCKS
        while kv.need(batch.step) > kv.free:
            self._preempt(self.partial or next(reversed(batch.rows)), now)

    def _preempt(self, request: Request, now: float) -> None:
        """Back to the head of the line, to be computed again together with what it has generated."""
        if request.entry > 0:
            request.last_s = now
        request.account.recomputed_tokens += self.evict(request) - request.cached
        request.computed = request.cached
        request.prompt = request.input_tokens + request.generated
        request.preemptions += 1
        self.preemptions += 1
        self._line.appendleft(request)
        self.waiting += 1

    def schedule(self, admit: bool, now: float) -> None:
        """Choose the `chunks` of the next step; nobody new unless `admit`."""
        limits, kv, rows = self.limits, self.kv, len(self.batch.rows)
        budget = UNLIMITED if limits.static else limits.token_budget - rows
        if self.partial is not None:
            budget -= self._chunk(self.partial, budget)
        if not admit or (limits.static and rows):
            return
        seats = limits.max_sequences - rows - len(self.chunks)
        free = kv.free - (kv.need(self.batch.step) if rows else 0)
        while self.waiting and budget > 0:
            request = self._head()
            blocks = kv.blocks(request.prompt)
            if blocks > free or not seats:
                self.short_of = BLOCKS if blocks > free else SEATS
                break
            self._admit(request, blocks, now)
            free -= blocks
            seats -= 1
            budget -= self._chunk(request, budget)

    def _head(self) -> Request:
        while self._line[0].status is not None:
            self._line.popleft()
        return self._line[0]

    def _admit(self, request: Request, blocks: int, now: float) -> None:
        self._line.popleft()
        self.waiting -= 1
        self.kv.reserve(blocks)
        request.entry = PREFILLING
        if isnan(request.started_s):
            request.started_s = now

    def _chunk(self, request: Request, budget: int) -> int:
        """Give `request` what the budget allows of its prompt; return the tokens taken."""
        left = request.prompt - request.computed
        tokens = min(left, budget)
        self.chunks.append((request, request.computed, tokens))
        self.partial = request if tokens < left else None
        return tokens

    def drain(self) -> list[Request]:
        """Take out and return everybody: those that decode, those in prefill, the line."""
        requests = [*self.batch.rows, *self._prefilling, *self._line]
        requests = [request for request in requests if request.status is None]
        for request in requests:
            self.evict(request)
        self.chunks = []
        return requests

    def check(self) -> None:
        """Raise RuntimeError unless the blocks of all sequences and the free ones are the whole memory."""
        prompts = [request.prompt for request in self._prefilling]
        contexts = [request.base + self.batch.step for request in self.batch.rows]
        self.kv.check(sum(map(self.kv.blocks, [*contexts, *prompts])))

    @property
    def _prefilling(self) -> list[Request]:
        """Who has been admitted and has no token yet, or again: those of the step in progress, and between steps the unfinished."""
        requests = [request for request, _, _ in self.chunks]
        return requests if self.partial is None or self.partial in requests else [*requests, self.partial]
