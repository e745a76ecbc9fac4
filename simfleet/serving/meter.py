"""What a replica's time and energy went into."""

from simfleet.hardware.power import idle_j, run_energy
from simfleet.hardware.step import StepCost
from simfleet.records import Sketch
from simfleet.serving.batching import Scheduler
from simfleet.serving.kv import BlockPool

REST_S = 1.0
"""Seconds without work after which a device falls from its gap watts to its idle watts [assumption, docs/physics.md]."""

Line = tuple[float, float]
"""A quantity of a run's steps: its value in the first step, and how much each next one adds."""


class Meter:
    """Running totals of one replica; joules are the accelerators', of all its devices.

    A decode step is shared evenly by its rows. A mixed step's decodes pay what the step would have cost without the prompt
    chunks; the chunks share the rest by their tokens.
    """

    __slots__ = (
        "_devices",
        "_gaps",
        "_limit_w",
        "_warmup_s",
        "active_j",
        "block_s",
        "blocks_peak",
        "context_steps",
        "cost",
        "idle_j",
        "iterations",
        "prompts",
        "rest_s",
        "row_steps",
    )

    def __init__(self, cost: StepCost, gaps: Sketch, warmup_s: float = 0.0) -> None:
        self.cost = cost
        self.rest_s = 0.0
        self.active_j = 0.0
        self.idle_j = 0.0
        self.iterations = 0
        self.prompts = 0  # prompts computed to the end: each brings a token
        self.row_steps = 0  # decoding sequences, summed over steps: each step brings each a token
        self.context_steps = 0.0  # their tokens in KV memory, summed over steps
        self.blocks_peak = 0
        self.block_s = 0.0
        self._gaps = gaps
        self._warmup_s = warmup_s
        self._limit_w = cost.limit_w
        self._devices = cost.devices

    @property
    def output_tokens(self) -> int:
        """Tokens that have come out, whether their requests have ended or not."""
        return self.row_steps + self.prompts

    def run(self, start_s: float, steps: int, scheduler: Scheduler, time: Line, energy: Line) -> None:
        """Book `steps` decode steps, which the batch is about to advance, and the blocks that they take."""
        batch, kv = scheduler.batch, scheduler.kv
        rows = len(batch.rows)
        first, slope = time
        seconds = steps * (first + slope * (steps - 1) / 2)
        joules = run_energy(first, slope, energy[0], energy[1], steps, self._limit_w)
        batch.clock_s += seconds * self._devices / rows
        batch.clock_j += joules / rows
        self.active_j += joules
        self.iterations += steps
        self.row_steps += rows * steps
        self.context_steps += batch.context * steps
        self._hold(kv, kv.grow(batch.step, steps, rows), seconds)
        if start_s >= self._warmup_s:
            self._gaps.add(first, slope, steps, rows)

    def mixed(self, start_s: float, scheduler: Scheduler, whole: Line, decodes: Line) -> None:
        """Book one step with prompt chunks: (seconds, joules before the limit) of all of it, and of its decodes alone."""
        batch, kv, seconds = scheduler.batch, scheduler.kv, whole[0]
        rows = len(batch.rows)
        self.share(scheduler, whole, decodes, 1.0)
        self.iterations += 1
        if not rows:
            self._hold(kv, 0, seconds)
            return
        self.row_steps += rows
        self.context_steps += batch.context
        self._hold(kv, kv.grow(batch.step, 1, rows), seconds)
        if start_s >= self._warmup_s:
            self._gaps.add(seconds, 0.0, 1, rows)

    def share(self, scheduler: Scheduler, whole: Line, decodes: Line, part: float) -> None:
        """Charge `part` of one step to its decodes and its prompt chunks."""
        rows, limit_w = len(scheduler.batch.rows), self._limit_w
        joules = min(limit_w * whole[0], whole[1]) * part
        decode_j = min(limit_w * decodes[0], decodes[1]) * part
        self.active_j += joules
        if rows:
            scheduler.batch.clock_s += decodes[0] * part * self._devices / rows
            scheduler.batch.clock_j += decode_j / rows
        tokens = sum([tokens for _, _, tokens in scheduler.chunks])
        for request, _, new in scheduler.chunks:
            account = request.account
            device_s = (whole[0] - decodes[0]) * part * self._devices * new / tokens
            chunk_j = (joules - decode_j) * new / tokens
            request.device_s += device_s
            request.energy_j += chunk_j
            account.prefill_device_s += device_s
            account.prefill_j += chunk_j

    def gap(self, start_s: float, seconds: float, weight: int) -> None:
        """`weight` sequences waited `seconds` for their next token."""
        if start_s >= self._warmup_s:
            self._gaps.add(seconds, 0.0, 1, weight)

    def _hold(self, kv: BlockPool, grown: int, seconds: float) -> None:
        """Book KV occupancy: `grown` blocks, evenly over these seconds, have led to what is held now."""
        held = kv.total - kv.free
        self.block_s += (held - grown / 2) * seconds
        if held > self.blocks_peak:
            self.blocks_peak = held

    def rest_j(self, seconds: float) -> float:
        """Joules of `seconds` without work."""
        return idle_j(self.cost.gap_w, self.cost.idle_w, REST_S, seconds)

    def rest(self, seconds: float) -> None:
        self.rest_s += seconds
        self.idle_j += self.rest_j(seconds)
