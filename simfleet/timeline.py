"""The state of every pool over time, in a bounded number of samples."""

from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any, NamedTuple

from simfleet.metering import Metering
from simfleet.records import Records
from simfleet.serving.fleet import Fleet
from simfleet.serving.replica import Snapshot

SAMPLES = 240
"""Points of the timeline: between this many and twice as many, whatever the length of the run."""

Progress = Callable[[float], None]


class Sample(NamedTuple):
    """A pool at an instant, and what its site's meter has counted for it since the start [J]."""

    pool: Snapshot
    facility_j: float


class Timeline:
    """Samples of every pool at even intervals; when there are too many, every other one goes and the interval doubles."""

    def __init__(
        self, fleet: Fleet, metering: Metering, records: Records, horizon_s: float | None, progress: Progress | None
    ) -> None:
        self._fleet = fleet
        self._metering = metering
        self._table = records.timeline
        self._interval_s = horizon_s / SAMPLES if horizon_s else 0.25
        self._progress = progress
        self._samples: list[tuple[float, list[Sample]]] = []

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
        pools = self._metering.read(now)
        counted = [bill.facility_j for bill in self._metering.bills]
        self._samples.append((now, [Sample(*pair) for pair in zip(pools, counted, strict=True)]))
        if self._progress is not None:
            self._progress(now)

    def close(self) -> None:
        """Close the fleet, and write the rows: levels at each instant, watts and tokens per second over the interval before it."""
        if len(self._samples) > 1 and self._fleet.env.now - self._samples[-1][0] < 1e-6 * self._interval_s:
            self._samples.pop()  # rounding put a sample just before the end
        self._take()
        now, levels = self._samples.pop()
        self._fleet.close()
        self._take()  # totals with everything booked, of which the levels are gone
        ends = self._samples[-1][1]
        kept = [
            Sample(Snapshot(*old.pool[:3], *new.pool[3:]), new.facility_j)
            for old, new in zip(levels, ends, strict=True)
        ]
        self._samples[-1] = (now, kept)
        blocks = [sum(replica.scheduler.kv.total for replica in pool) for pool in self._fleet.pools]
        for (before_s, before), (now, samples) in pairwise(self._samples):
            for number, (old, new) in enumerate(zip(before, samples, strict=True)):
                rates = _rates(old, new, now - before_s)
                level = new.pool
                row = (now, number, int(level.running), int(level.waiting), level.blocks / blocks[number], *rates)
                self._table.append(row)


def _rates(old: Sample, new: Sample, seconds: float) -> tuple[float, float, float]:
    """Watts of the devices and at the meter, and output tokens per second, in the time between two samples."""
    if not seconds:
        return 0.0, 0.0, 0.0
    return (
        (new.pool.joules - old.pool.joules) / seconds,
        (new.facility_j - old.facility_j) / seconds,
        (new.pool.output_tokens - old.pool.output_tokens) / seconds,
    )
