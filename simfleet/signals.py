"""A number that changes in time: its value, its integral, and when the integral reaches an amount."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Signal:
    """A piecewise linear function of time, constant after its last point, or repeated every `period_s`.

    Steps are two points at the same time. `at`, `integral` and `inverse` take numbers or arrays.
    """

    def __init__(self, times_s: Sequence[float] | Array, values: Sequence[float] | Array, period_s: float | None = None) -> None:
        """Points (times_s[i], values[i]), times from 0 on and not falling [s]. Raises ValueError otherwise, or below zero."""
        self._times = np.asarray(times_s, dtype=float)
        self._values = np.asarray(values, dtype=float)
        self._period_s = period_s
        if self._times[0] != 0.0 or np.any(np.diff(self._times) < 0):
            raise ValueError("expected times from 0 on, not falling")
        if np.any(self._values < 0):
            raise ValueError("expected values of at least 0")
        if period_s is not None and self._times[-1] < period_s:
            self._times, self._values = np.append(self._times, period_s), np.append(self._values, self._values[-1])
        areas = np.diff(self._times) * (self._values[1:] + self._values[:-1]) / 2
        self._areas = np.concatenate([[0.0], np.cumsum(areas)])

    @classmethod
    def steps(cls, times_s: Sequence[float] | Array, values: Sequence[float] | Array, period_s: float | None = None) -> "Signal":
        """Piecewise constant: values[i] from times_s[i] on."""
        times, values = np.asarray(times_s, dtype=float), np.asarray(values, dtype=float)
        ends = np.append(times[1:], period_s if period_s is not None else times[-1])
        return cls(np.column_stack([times, ends]).ravel(), np.repeat(values, 2), period_s)

    def at(self, time_s: float | Array) -> Array:
        """Value at a time; at a step the later one."""
        time = np.asarray(time_s, dtype=float)
        if self._period_s is not None:
            time = np.mod(time, self._period_s)
        after = np.searchsorted(self._times, time, side="right")
        before = np.maximum(after - 1, 0)
        after = np.minimum(after, len(self._times) - 1)
        width = self._times[after] - self._times[before]
        share = np.divide(time - self._times[before], width, out=np.zeros_like(time), where=width > 0)
        return np.asarray(self._values[before] + share * (self._values[after] - self._values[before]))

    def before(self, time_s: Array) -> Array:
        """Value just before a time: differs from `at` where there is a step."""
        time = np.asarray(time_s, dtype=float)
        if self._period_s is not None:
            within = np.mod(time, self._period_s)
            time = np.where((within == 0.0) & (time > 0.0), self._period_s, within)
        after = np.minimum(np.searchsorted(self._times, time, side="left"), len(self._times) - 1)
        start = np.maximum(after - 1, 0)
        width = self._times[after] - self._times[start]
        share = np.divide(np.minimum(time, self._times[after]) - self._times[start], width, out=np.ones_like(time), where=width > 0)
        return np.asarray(self._values[start] + share * (self._values[after] - self._values[start]))

    def points(self, end_s: float) -> Array:
        """Times of its points before `end_s`, periods unrolled [s]."""
        times = self._times
        if self._period_s is not None:
            periods = int(np.ceil(end_s / self._period_s))
            times = (np.arange(periods)[:, None] * self._period_s + times[None, :]).ravel()
        return times[times < end_s]

    def integral(self, start_s: float | Array, end_s: float | Array) -> Array:
        """Area between two times."""
        return self._area(end_s) - self._area(start_s)

    def _area(self, time_s: float | Array) -> Array:
        """Area from 0 to a time."""
        time = np.asarray(time_s, dtype=float)
        whole = np.zeros_like(time)
        if self._period_s is not None:
            whole, time = np.divmod(time, self._period_s)
        before = np.maximum(np.searchsorted(self._times, time, side="right") - 1, 0)
        since = time - self._times[before]
        value = self._values[before]
        end = self.at(time) if self._period_s is None else self._inside(time)
        return whole * self._areas[-1] + self._areas[before] + since * (value + end) / 2

    def _inside(self, time: Array) -> Array:
        """Value at a time within the first period, or at its end."""
        return np.interp(time, self._times, self._values)

    def inverse(self, area: float | Array) -> Array:
        """The first time at which the area from 0 reaches `area` [s]; inf where it never does."""
        goal = np.asarray(area, dtype=float)
        whole = np.zeros_like(goal)
        if self._period_s is not None:
            if self._areas[-1] <= 0:
                return np.where(goal > 0, np.inf, 0.0)
            whole, goal = np.divmod(goal, self._areas[-1])
        after = np.searchsorted(self._areas, goal, side="left")
        before = np.clip(after - 1, 0, len(self._areas) - 1)
        left = np.maximum(goal - self._areas[before], 0.0)
        following = np.minimum(before + 1, len(self._times) - 1)
        width = self._times[following] - self._times[before]
        slope = np.divide(self._values[following] - self._values[before], width, out=np.zeros_like(goal), where=width > 0)
        value = np.where(width > 0, self._values[before], self._values[-1])
        root = value + np.sqrt(np.maximum(value * value + 2 * slope * left, 0.0))
        passed = np.divide(2 * left, root, out=np.full_like(goal, np.inf), where=root > 0)
        passed = np.where(left == 0.0, 0.0, passed)
        return np.asarray(whole * (self._period_s or 0.0) + self._times[before] + passed)
