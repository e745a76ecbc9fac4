"""What the time and energy of a pool's replicas went into."""

from collections.abc import Sequence

import numpy as np

from simfleet.hardware.power import REST_S, Resting, State
from simfleet.hardware.step import StepCost
from simfleet.records import Floats, Sketch

NOTES = 4096

Note = tuple[float, float, int, int, float, float, int, int, int]
"""A run that is over: start [s], seconds, decoding rows, steps, first step [s], how much longer each next one took [s],
tokens in KV memory before it, blocks free after it, blocks that it took."""


class Meter:
    """Totals of one pool; joules are the accelerators', of all devices. Replicas note their runs; thousands are added up at once."""

    def __init__(
        self, cost: StepCost, blocks: int, gaps: Sketch, warmup_s: float = 0.0, states: Sequence[State] = ()
    ) -> None:
        self.cost = cost
        self.resting = Resting(cost.gap_w, cost.idle_w, REST_S, states)
        self.active_j = 0.0  # while steps ran
        self.rest_s = 0.0  # replica-seconds without steps, waking up included
        self.off_s = 0.0
        self.idle_j = 0.0
        self.prompts = 0  # prompts computed to the end: each brings a token
        self._blocks = blocks
        self._gaps = gaps
        self._warmup_s = warmup_s
        self.notes: list[Note] = []  # what may be added up later
        self._waits_s: list[float] = []
        self._iterations = 0
        self.row_steps = 0  # decoding sequences, summed over steps: each step brings each a token
        self._context_steps = 0.0  # their tokens in KV memory, summed over steps
        self._block_s = 0.0
        self._blocks_peak = 0

    def settle(self) -> None:
        """Add up what has been noted."""
        if self._waits_s:
            waits_s, once = np.array(self._waits_s), np.ones(len(self._waits_s))
            self._waits_s.clear()
            self._gaps.add(waits_s, 0 * once, once, once)
        if not self.notes:
            return
        start_s, seconds, rows, steps, first, slope, context, free, grown = np.array(self.notes).T
        self.notes.clear()
        held = self._blocks - free
        self._iterations += int(steps.sum())
        self._context_steps += float((context * steps).sum())
        self._block_s += float(((held - grown / 2) * seconds).sum())
        self._blocks_peak = max(self._blocks_peak, int(held.max()))
        skipped = self._begun_before(self._warmup_s - start_s, first, slope, steps)
        counts = (rows > 0) & (skipped < steps)
        first, steps = first + skipped * slope, steps - skipped
        self._gaps.add(first[counts], slope[counts], steps[counts], rows[counts])

    @staticmethod
    def _begun_before(since_s: Floats, first: Floats, slope: Floats, steps: Floats) -> Floats:
        """Of each run, the steps that begin before `since_s` after its start: step j begins after j*first + slope*j*(j-1)/2."""
        left, middle = np.maximum(since_s, 0.0), first - slope / 2
        begun = np.ceil(2 * left / (middle + np.sqrt(middle * middle + 2 * slope * left)))
        found: Floats = np.minimum(begun, steps)
        return found

    def gap(self, start_s: float, seconds: float) -> None:
        """One sequence waited `seconds` for its next token, outside a decode step."""
        if start_s >= self._warmup_s:
            self._waits_s.append(seconds)

    def rest(self, seconds: float) -> None:
        """A replica had no work for `seconds`."""
        self.rest_s += seconds
        self.off_s += self.resting.off_s(seconds)
        self.idle_j += self.resting.joules(seconds)

    def wake(self, seconds: float) -> None:
        """A replica spent `seconds` waking up, awake but not computing."""
        self.rest_s += seconds
        self.idle_j += self.cost.gap_w * seconds

    @property
    def iterations(self) -> int:
        """Steps."""
        self.settle()
        return self._iterations

    @property
    def output_tokens(self) -> int:
        """Tokens that have come out, whether their requests have ended or not."""
        return self.row_steps + self.prompts

    @property
    def block_s(self) -> float:
        """Blocks held, integrated over busy time, straight within a run."""
        self.settle()
        return self._block_s

    @property
    def blocks_peak(self) -> int:
        """Most blocks held by one replica."""
        self.settle()
        return self._blocks_peak

    @property
    def mean_rows(self) -> float:
        """Decoding sequences in a step, on average over steps."""
        self.settle()
        return self.row_steps / max(self._iterations, 1)

    @property
    def mean_context(self) -> float:
        """Tokens that a decoding sequence holds, on average over steps and sequences."""
        self.settle()
        return self._context_steps / max(self.row_steps, 1)
