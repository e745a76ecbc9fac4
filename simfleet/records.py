"""What happened, one row per thing: packed bytes during the run, numpy tables after it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import log
from struct import Struct

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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

    def append(self, row: tuple[float, ...]) -> None:
        """Add one row: a value for each column, in order."""
        self._rows += self._pack(*row)

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
            ("facility_w", "d", "<f8"),
            ("output_tok_s", "d", "<f8"),
        )
    )


@dataclass(slots=True)
class Account:
    """What one stream asked of one pool. Device-seconds and joules (accelerator, busy) are those its requests caused."""

    pool: int
    stream: int
    ended: list[int] = field(default_factory=lambda: [0] * len(Status))
    input_tokens: int = 0
    output_tokens: int = 0
    recomputed_tokens: int = 0
    prefill_device_s: float = 0.0
    decode_device_s: float = 0.0
    prefill_j: float = 0.0
    decode_j: float = 0.0
    longest: int = 0  # most tokens of a request that ended, prompt and answer so far together
    too_long: int = 0  # requests beyond the longest context that the model was made for
    prompts: int = 0  # computed to the end, the first time
    cached_tokens: int = 0  # of their input tokens, those found in the prefix cache

    def prompt(self, tokens: int, cached: int) -> None:
        """A prompt of `tokens` tokens is computed to the end, for the first time; `cached` of them were in KV memory already."""
        self.prompts += 1
        self.input_tokens += tokens
        self.cached_tokens += cached

    @property
    def arrived(self) -> int:
        return sum(self.ended)

    @property
    def completed(self) -> int:
        return self.ended[Status.COMPLETED]


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
    demand_usd: float
    off_s: float
    kv_blocks: int
    kv_mean: float
    kv_peak: float
    waiting_peak: int
    preemptions: int
    kv_stalls: int
    seat_stalls: int
    iterations: int
    output_tokens: int
    binds: str


class Sketch:
    """Weighted quantiles of positive numbers in buckets 0.5 % wide: constant memory however many are added."""

    _WIDTH = log(1.005)

    def __init__(self) -> None:
        self.count = 0.0
        self.total = 0.0
        self._weights: dict[int, float] = {}

    def add(self, first: Floats, slope: Floats, steps: Floats, weight: Floats) -> None:
        """For each i add the steps[i] values first[i], first[i] + slope[i], ..., each weight[i] times; slopes are at least 0.

        Value v belongs to bucket ceil(log v / width). Of a run that spans several buckets, the values up to each bucket's edge are
        counted from the line.
        """
        last = first + slope * (steps - 1)
        low = np.ceil(np.log(first) / self._WIDTH).astype(int)
        high = np.ceil(np.log(last) / self._WIDTH).astype(int)
        self.count += float(np.sum(steps * weight))
        self.total += float(np.sum(steps * weight * (first + last) / 2))
        spans = high - low + 1
        starts = np.cumsum(spans) - spans
        run = np.repeat(np.arange(len(first)), spans)
        bucket = np.arange(len(run)) - starts[run] + low[run]
        with np.errstate(divide="ignore", invalid="ignore"):
            below = np.floor((np.exp(self._WIDTH * bucket) - first[run]) / slope[run]) + 1
        below = np.where(bucket == high[run], steps[run], np.minimum(below, steps[run]))
        shares = np.diff(below, prepend=0.0)
        shares[starts] = below[starts]
        names, where = np.unique(bucket, return_inverse=True)
        for name, share in zip(names.tolist(), np.bincount(where, shares * weight[run]).tolist(), strict=True):
            self._weights[name] = self._weights.get(name, 0.0) + share

    @property
    def mean(self) -> float:
        """Exact mean, NaN when empty."""
        return self.total / self.count if self.count else float("nan")

    def quantile(self, q: float) -> float:
        """Value at or below which a share `q` of the weight lies, within 0.25 %; NaN when empty."""
        count, seen = self.count, 0.0
        for bucket in sorted(self._weights):
            seen += self._weights[bucket]
            if seen >= q * count:
                return float(1.005 ** (bucket - 0.5))
        return float("nan")


@dataclass(slots=True)
class Records:
    """All that a run leaves behind."""

    requests: Table
    timeline: Table
    duration_s: float = 0.0
    accounts: list[Account] = field(default_factory=list)
    pools: list[PoolLedger] = field(default_factory=list)
    itl: Sketch = field(default_factory=Sketch)
