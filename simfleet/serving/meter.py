"""What a replica's time and energy went into."""

from simfleet.hardware.power import idle_j, run_energy
from simfleet.hardware.step import StepCost
from simfleet.records import Sketch
from simfleet.serving.batching import Scheduler

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
        "output_tokens",
        "rest_s",
        "row_steps",
    )

    def __init__(self, cost: StepCost, gaps: Sketch, warmup_s: float = 0.0) -> None:
        self.cost = cost
        self.rest_s = 0.0
        self.active_j = 0.0
        self.idle_j = 0.0
        self.iterations = 0
        self.output_tokens = 0
        self.row_steps = 0  # decoding sequences, summed over steps
        self.context_steps = 0.0  # their tokens in KV memory, summed over steps
        self.blocks_peak = 0
        self.block_s = 0.0
        self._gaps = gaps
        self._warmup_s = warmup_s
        self._limit_w = cost.limit_w
        self._devices = cost.devices

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
        self.output_tokens += rows * steps
        self.row_steps += rows * steps
        self.context_steps += batch.context * steps
        self._hold(kv.total - kv.free, kv.grow(batch.step, steps, rows), seconds)
        if start_s >= self._warmup_s:
            self._gaps.add(first, slope, steps, rows)

    def mixed(self, start_s: float, scheduler: Scheduler, whole: Line, decodes: Line) -> None:
        """Book one step with prompt chunks: (seconds, joules before the limit) of all of it, and of its decodes alone."""
        batch, kv = scheduler.batch, scheduler.kv
        rows, held = len(batch.rows), kv.total - kv.free
        self.share(scheduler, whole, decodes, 1.0)
        self.iterations += 1
        if rows:
            self.output_tokens += rows
            self.row_steps += rows
            self.context_steps += batch.context
            self._hold(held, kv.grow(batch.step, 1, rows), whole[0])
            self.gap(start_s, whole[0], rows)
        else:
            self._hold(held, 0, whole[0])

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

    def _hold(self, blocks: int, grown: int, seconds: float) -> None:
        self.block_s += (blocks + grown / 2) * seconds
        if blocks + grown > self.blocks_peak:
            self.blocks_peak = blocks + grown

    def rest_j(self, seconds: float) -> float:
        """Joules of `seconds` without work."""
        return idle_j(self.cost.gap_w, self.cost.idle_w, REST_S, seconds)

    def rest(self, seconds: float) -> None:
        self.rest_s += seconds
        self.idle_j += self.rest_j(seconds)
