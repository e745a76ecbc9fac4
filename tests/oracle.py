"""The naive oracle: one replica, step by step, with plain lists. No SimPy, no closed forms, no running totals.

It shares nothing with the engine but the step-time and energy functions, whose one-step values it adds up.
"""

from dataclasses import dataclass, field
from math import inf, nan

from simfleet.hardware.step import StepCost, keys_limited


@dataclass
class Ask:
    """One request, and what became of it."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    deadline_s: float = inf
    cached: int = 0  # first tokens of its prompt, in whole blocks, that the prefix cache holds
    status: str = "waiting"
    started_s: float = nan
    first_s: float = nan
    end_s: float = nan
    generated: int = 0
    prompt: int = 0  # tokens to prefill this time
    held: int = 0  # tokens in KV memory
    decoding: bool = False
    preemptions: int = 0
    last_s: float = nan


@dataclass
class Oracle:
    """Rules as in docs/architecture.md; every quantity is recomputed from the lists at every step."""

    cost: StepCost
    total: int
    block: int = 16
    per_sequence: int = 0
    token_budget: int = 8192
    max_sequences: int = 256
    queue_limit: int | None = None
    static: bool = False
    caps: list[tuple[float, float]] = field(default_factory=list)  # (from [s] on, watts), in order of time
    now: float = 0.0
    busy_s: float = 0.0
    joules: float = 0.0
    iterations: int = 0
    prefill_s: float = 0.0  # of busy_s and joules, what prompts caused: a mixed step less its decodes alone
    prefill_j: float = 0.0
    recomputed: int = 0
    waiting_peak: int = 0
    blocks_peak: int = 0
    gaps: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)  # seconds at rest before each busy period, and after the last

    def blocks(self, tokens: int) -> int:
        return (tokens + self.block - 1) // self.block + self.per_sequence

    def free(self) -> int:
        return self.total - sum(self.blocks(a.held if a.decoding else a.prompt) for a in self.running)

    def need(self) -> int:
        return sum(a.held % self.block == 0 for a in self.running if a.decoding)

    def run(self, asks: list[Ask]) -> None:
        """Serve `asks`, in order of arrival, to the end of the last."""
        self.waiting: list[Ask] = []
        self.running: list[Ask] = []
        asks, idle = list(asks), 0.0
        while asks or self.waiting or self.running:
            while asks and asks[0].arrival_s <= self.now:
                self.arrive(asks.pop(0))
            self.expire()
            chunks = self.schedule(self.make_room())
            if not self.running:
                idle += asks[0].arrival_s - self.now if asks else 0.0
                self.now = asks[0].arrival_s if asks else self.now
                continue
            self.idle.append(idle)
            idle = 0.0
            self.step(chunks)
        self.idle.append(idle)

    def arrive(self, ask: Ask) -> None:
        ask.prompt = ask.input_tokens
        if self.blocks(ask.input_tokens + ask.output_tokens - 1) > self.total:
            ask.status = "failed"
        elif ask.deadline_s <= ask.arrival_s:
            ask.status = "timed_out"
        elif self.queue_limit is not None and len(self.waiting) >= self.queue_limit:
            ask.status = "rejected"
        else:
            self.waiting.append(ask)
            self.waiting_peak = max(self.waiting_peak, len(self.waiting))

    def expire(self) -> None:
        for ask in [a for a in self.running + self.waiting if a.deadline_s <= self.now]:
            ask.status, ask.decoding = "timed_out", False
            (self.running if ask in self.running else self.waiting).remove(ask)

    def make_room(self) -> bool:
        preempted = False
        while self.need() > self.free():
            ask = self.running.pop()
            if ask.decoding:
                ask.last_s = self.now
            self.recomputed += ask.held - ask.cached
            ask.held, ask.decoding, ask.prompt = 0, False, ask.input_tokens + ask.generated
            ask.preemptions += 1
            self.waiting.insert(0, ask)
            preempted = True
        return preempted

    def schedule(self, preempted: bool) -> list[tuple[Ask, int, int]]:
        rows = sum(a.decoding for a in self.running)
        budget = 10**18 if self.static else self.token_budget - rows
        chunks = []
        for ask in self.running:
            if not ask.decoding:
                chunks.append((ask, ask.held, min(budget, ask.prompt - ask.held)))
                budget -= chunks[-1][2]
        while self.waiting and budget > 0 and not preempted and not (self.static and rows):
            ask = self.waiting[0]
            if len(self.running) == self.max_sequences or self.blocks(ask.prompt) > self.free() - self.need():
                break
            self.running.append(self.waiting.pop(0))
            ask.started_s = self.now if ask.started_s != ask.started_s else ask.started_s
            chunks.append((ask, ask.cached, min(budget, ask.prompt - ask.cached)))
            budget -= chunks[-1][2]
        return chunks

    def step(self, chunks: list[tuple[Ask, int, int]]) -> None:
        decoding = [a for a in self.running if a.decoding]
        for ask in decoding:
            ask.held += 1
        cap_w = ([self.cost.limit_w] + [watts for since_s, watts in self.caps if since_s <= self.now])[-1]
        seconds, joules = self.price(decoding, chunks, cap_w)
        self.blocks_peak = max(self.blocks_peak, self.total - self.free())
        if chunks:
            alone = self.price(decoding, [], cap_w) if decoding else (0.0, 0.0)
            self.prefill_s += seconds - alone[0]
            self.prefill_j += joules - alone[1]
        self.now += seconds
        self.busy_s += seconds
        self.joules += joules
        self.iterations += 1
        for ask in decoding:
            self.gaps.append(seconds)
            self.emit(ask)
        for ask, prefix, new in chunks:
            ask.held = prefix + new
            if ask.held == ask.prompt:
                self.gaps += [] if ask.first_s != ask.first_s else [self.now - ask.last_s]
                ask.first_s = self.now if ask.first_s != ask.first_s else ask.first_s
                ask.decoding = True
                self.emit(ask)

    def price(self, decoding: list[Ask], chunks: list[tuple[Ask, int, int]], cap_w: float) -> tuple[float, float]:
        """Seconds and joules of one step: what is demanded beyond the cap makes it longer."""
        seconds, joules = self.uncapped(decoding, chunks)
        demand = min(joules, self.cost.limit_w * seconds)
        if demand <= cap_w * seconds:
            return seconds, demand
        slowing = self.cost.slowing(len(decoding) + sum(new for _, _, new in chunks))
        seconds += slowing * (demand / cap_w - seconds)
        return seconds, cap_w * seconds

    def uncapped(self, decoding: list[Ask], chunks: list[tuple[Ask, int, int]]) -> tuple[float, float]:
        window = self.cost.limit or 10**18
        rows, context, limited = (
            len(decoding),
            sum(a.held for a in decoding),
            sum(min(a.held, window) for a in decoding),
        )
        if not chunks:
            t0, t_ctx, t_lim, e0, e_ctx, e_lim = self.cost.decode(rows)
            w = limited if self.cost.limit else 0
            return t0 + t_ctx * context + t_lim * w, e0 + e_ctx * context + e_lim * w
        tokens = rows + sum(new for _, _, new in chunks)
        sampled = rows + sum(prefix + new == ask.prompt for ask, prefix, new in chunks)
        pairs = sum(p for _, prefix, new in chunks for p in range(prefix + 1, prefix + new + 1))
        keys = sum(prefix + new for _, prefix, new in chunks)
        longest = max(prefix + new for _, prefix, new in chunks)
        if not self.cost.limit:
            return self.cost.mixed(tokens, sampled, rows, context, 0, pairs, keys, longest, 0, 0, 0)
        pairs_limited = sum(min(p, window) for _, prefix, new in chunks for p in range(prefix + 1, prefix + new + 1))
        seen = [keys_limited(prefix, new, window) for _, prefix, new in chunks]
        return self.cost.mixed(
            tokens, sampled, rows, context, limited, pairs, keys, longest, pairs_limited, sum(seen), max(seen)
        )

    def emit(self, ask: Ask) -> None:
        ask.generated += 1
        if ask.generated == ask.output_tokens:
            ask.status = "completed" if self.now <= ask.deadline_s else "timed_out"
            ask.end_s = self.now
            ask.decoding = False
            self.running.remove(ask)
