"""The state of every pool over time, in a bounded number of samples."""

from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any

from simfleet.records import Records
from simfleet.serving.fleet import Fleet
from simfleet.serving.replica import Replica

SAMPLES = 240
"""Points of the timeline: between this many and twice as many, whatever the length of the run."""

Progress = Callable[[float], None]


class Timeline:
    """Samples of every pool at even intervals; when there are too many, every other one goes and the interval doubles."""

    def __init__(self, fleet: Fleet, records: Records, horizon_s: float | None, progress: Progress | None) -> None:
        self._fleet = fleet
        self._table = records.timeline
        self._interval_s = horizon_s / SAMPLES if horizon_s else 0.25
        self._progress = progress
        self._samples: list[tuple[float, list[list[float]]]] = []

    def sample(self) -> Generator[Any, None, None]:
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
        if len(self._samples) > 1 and self._fleet.env.now - self._samples[-1][0] < 1e-6 * self._interval_s:
            self._samples.pop()  # rounding put a sample just before the end
        self._take()
        now, levels = self._samples.pop()
        self._fleet.close()
        self._take()  # totals with everything booked, of which the levels are gone
        self._samples[-1] = (now, [old[:3] + new[3:] for old, new in zip(levels, self._samples[-1][1], strict=True)])
        blocks = [sum(replica.scheduler.kv.total for replica in pool) for pool in self._fleet.pools]
        for (before_s, before), (now, sums) in pairwise(self._samples):
            seconds = now - before_s
            for pool, (old, new) in enumerate(zip(before, sums, strict=True)):
                rates = [(new[i] - old[i]) / seconds if seconds else 0.0 for i in (4, 3)]
                self._table.append((now, pool, int(new[0]), int(new[1]), new[2] / blocks[pool], *rates))
