"""What happened, one row per thing: packed bytes during the run, numpy tables after it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import ceil, log
from struct import Struct

import numpy as np
from numpy.typing import NDArray


class Status(IntEnum):
    """How a request ended. The five add up to all that arrived."""

    COMPLETED = 0
    REJECTED = 1
    FAILED = 2
    TIMED_OUT = 3
    IN_FLIGHT = 4


# name, struct code, numpy type; times in seconds, NaN where the request never got there
_LATENCY = (
    ("stream", "H", "<u2"),
    ("pool", "H", "<u2"),
    ("status", "B", "u1"),
    ("output_tokens", "I", "<u4"),
    ("arrival_s", "d", "<f8"),
    ("queue_wait_s", "d", "<f8"),
    ("ttft_s", "d", "<f8"),
    ("e2e_s", "d", "<f8"),
)
_DETAIL = (
    ("replica", "H", "<u2"),
    ("input_tokens", "I", "<u4"),
    ("preemptions", "I", "<u4"),
    ("device_s", "d", "<f8"),
    ("energy_j", "d", "<f8"),
)


class Table:
    """Append-only rows of fixed width: `append` packs a tuple of the columns' values, `array` is the structured array."""

    def __init__(self, columns: Sequence[tuple[str, str, str]]) -> None:
        self._pack = Struct("<" + "".join(code for _, code, _ in columns)).pack
        self._dtype = np.dtype([(name, kind) for name, _, kind in columns])
        self._rows = bytearray()

    def append(self, *values: float) -> None:
        self._rows += self._pack(*values)

    def array(self) -> NDArray[np.void]:
        """All rows so far, one record each."""
        return np.frombuffer(bytes(self._rows), dtype=self._dtype)


def request_table(detail: bool) -> Table:
    """One row per request that ended; `detail` adds what the latency and SLO figures do not need."""
    return Table(_LATENCY + (_DETAIL if detail else ()))


def timeline_table() -> Table:
    """One row per sampling instant and pool."""
    return Table(
        (
            ("time_s", "d", "<f8"),
            ("pool", "H", "<u2"),
            ("running", "I", "<u4"),
            ("waiting", "I", "<u4"),
            ("kv_occupancy", "d", "<f8"),
            ("accelerator_w", "d", "<f8"),
            ("output_tok_s", "d", "<f8"),
        )
    )


@dataclass(slots=True)
class Account:
    """What one stream asked of one pool. Device-seconds and joules (accelerator, busy) are those its requests caused."""

    pool: int
    stream: int
    completed: int = 0
    rejected: int = 0
    failed: int = 0
    timed_out: int = 0
    in_flight: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    prefill_device_s: float = 0.0
    decode_device_s: float = 0.0
    prefill_j: float = 0.0
    decode_j: float = 0.0

    @property
    def arrived(self) -> int:
        return self.completed + self.rejected + self.failed + self.timed_out + self.in_flight


@dataclass(slots=True)
class PoolLedger:
    """What one pool did and drew over the run: device-seconds, joules at the four boundaries, memory and queue."""

    name: str
    replicas: int
    devices: int
    duration_s: float
    busy_device_s: float
    active_j: float
    accelerator_j: float
    node_j: float
    facility_j: float
    grams_co2e: float
    litres_water: float
    electricity_usd: float
    kv_blocks: int
    kv_mean: float
    kv_peak: float
    waiting_peak: int
    preemptions: int
    iterations: int
    input_tokens: int
    output_tokens: int
    binds: str


class Sketch:
    """Weighted quantiles of positive numbers in buckets 0.5 % wide: constant memory however many are added."""

    _WIDTH = log(1.005)

    def __init__(self) -> None:
        self.weights: dict[int, float] = {}
        self.count = 0.0
        self.total = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Add `value` [s], `weight` times."""
        bucket = ceil(log(value) / self._WIDTH)
        self.weights[bucket] = self.weights.get(bucket, 0.0) + weight
        self.count += weight
        self.total += value * weight

    def add_run(self, first: float, last: float, steps: int, weight: float) -> None:
        """Add `steps` evenly spaced values from `first` to `last`, each `weight` times."""
        low, high = ceil(log(first) / self._WIDTH), ceil(log(last) / self._WIDTH)
        weights = self.weights
        if low == high:
            weights[low] = weights.get(low, 0.0) + weight * steps
        else:
            gap, done = (last - first) / (steps - 1), 0
            for bucket in range(low, high):
                below = min(int((1.005**bucket - first) / gap) + 1, steps)
                weights[bucket] = weights.get(bucket, 0.0) + weight * (below - done)
                done = below
            weights[high] = weights.get(high, 0.0) + weight * (steps - done)
        self.count += weight * steps
        self.total += weight * steps * (first + last) / 2

    @property
    def mean(self) -> float:
        """Exact mean, NaN when empty."""
        return self.total / self.count if self.count else float("nan")

    def quantile(self, q: float) -> float:
        """Value at or below which a share `q` of the weight lies, within 0.25 %; NaN when empty."""
        seen = 0.0
        for bucket in sorted(self.weights):
            seen += self.weights[bucket]
            if seen >= q * self.count:
                return float(1.005 ** (bucket - 0.5))
        return float("nan")

    def merge(self, other: "Sketch") -> None:
        for bucket, weight in other.weights.items():
            self.weights[bucket] = self.weights.get(bucket, 0.0) + weight
        self.count += other.count
        self.total += other.total


@dataclass(slots=True)
class Records:
    """All that a run leaves behind."""

    requests: Table
    timeline: Table
    duration_s: float = 0.0
    accounts: list[Account] = field(default_factory=list)
    pools: list[PoolLedger] = field(default_factory=list)
    itl: Sketch = field(default_factory=Sketch)
