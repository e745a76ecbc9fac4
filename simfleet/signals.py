"""Signal: a number that changes in time, drawn in straight pieces: rates of arrival, and prices or carbon the same way."""

import csv
from collections.abc import Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

KNOTS = 1024
"""About this many pieces of a product are held at once, however long the run."""
SPLIT = 8
"""Where two factors slope at once, each piece of their product is drawn as this many chords."""
EMPTY_PERIODS = 10
"""Without a limit in time, a product that is zero for so many of its longest periods is taken to be zero for good."""


class Signal:
    """Straight pieces between knots, with jumps allowed; held before the first knot and after the last, or repeated.

        x(t) = left[i] + (right[i] - left[i]) * (t - times_s[i]) / (times_s[i+1] - times_s[i])

    Parameters
    ----------
    times_s : n + 1 increasing knots [s]
    left, right : n values, at the beginning and at the end of each piece
    period_s : repeat after this long [s]; the knots then reach from 0 to `period_s`
    """

    def __init__(self, times_s: ArrayLike, left: ArrayLike, right: ArrayLike, period_s: float | None = None) -> None:
        self.times_s: Floats = np.asarray(times_s, dtype=float)
        self.left: Floats = np.asarray(left, dtype=float)
        self.right: Floats = np.asarray(right, dtype=float)
        self.period_s = period_s
        self.known_until_s = inf  # beyond it nothing was said [s]
        widths = np.diff(self.times_s)
        if not len(widths) or not (len(widths) == len(self.left) == len(self.right)) or not (widths > 0).all():
            raise ValueError("expected increasing times, one more than there are pieces, and two values for each piece")
        if period_s is not None and (self.times_s[0] != 0.0 or self.times_s[-1] != period_s):
            raise ValueError(f"expected knots from 0 to the period of {period_s:g} s")
        self._slope = (self.right - self.left) / widths
        self.low = float(min(self.left.min(), self.right.min()))
        self.high = float(max(self.left.max(), self.right.max()))
        self._areas = np.insert(np.cumsum(widths * (self.left + self.right) / 2), 0, 0.0)

    @classmethod
    def constant(cls, value: float) -> Self:
        """The same value always."""
        return cls.steps([0.0], [value])

    @classmethod
    def steps(cls, times_s: ArrayLike, values: ArrayLike, period_s: float | None = None) -> Self:
        """Each value holds from its time to the next; before the first time the first value holds."""
        knots, levels = np.array(times_s, dtype=float), np.asarray(values, dtype=float)
        if period_s is not None:
            knots[0] = 0.0
        end_s = knots[-1] + 1.0 if period_s is None else period_s
        return cls(np.append(knots, end_s), levels, levels, period_s)

    @classmethod
    def lines(cls, times_s: ArrayLike, values: ArrayLike, period_s: float | None = None) -> Self:
        """Straight lines between the points; the first and the last value hold outside, within a period too."""
        knots, levels = np.asarray(times_s, dtype=float), np.asarray(values, dtype=float)
        if len(knots) == 1:
            return cls.steps(knots, levels, period_s)
        if period_s is not None and knots[0] > 0.0:
            knots, levels = np.insert(knots, 0, 0.0), np.insert(levels, 0, levels[0])
        if period_s is not None and knots[-1] < period_s:
            knots, levels = np.append(knots, period_s), np.append(levels, levels[-1])
        return cls(knots, levels[:-1], levels[1:], period_s)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signal) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[object, ...]:
        return (self.period_s, *(tuple(part.tolist()) for part in (self.times_s, self.left, self.right)))

    def plain(self) -> float | dict[str, object]:
        """Plain data: the value where it never changes."""
        if self.is_constant:
            return self.low
        names = ("period_s", "times_s", "left", "right")
        return dict(zip(names, self._values(), strict=True))

    def __repr__(self) -> str:
        if self.is_constant:
            return f"Signal({self.left[0]:g})"
        return f"<Signal of {len(self.left)} pieces, {self.low:g} to {self.high:g}>"

    @property
    def is_constant(self) -> bool:
        """Whether it never changes."""
        return self.low == self.high

    def at(self, t_s: float) -> float:
        """The value at `t_s` [s]; at a jump, the value after it."""
        if self.low == self.high:
            return self.low
        return float(self._at(np.array([t_s]))[0][0])

    def integral(self, t0_s: float, t1_s: float) -> float:
        """The area under the signal from `t0_s` to `t1_s` [unit of the signal times s]."""
        return self._area(t1_s) - self._area(t0_s)

    def inverse(self, area: float, t0_s: float) -> float:
        """The first time from `t0_s` on by which the signal has gathered `area` [s]; inf if it never does.

        Raises ValueError where the signal is negative somewhere.
        """
        if area <= 0:
            return t0_s
        target = self._area(t0_s) + area
        start_s = 0.0
        if self.period_s is not None:
            total = float(self._areas[-1])
            periods = np.ceil(target / total) - 1 if total > 0 else inf
            target -= periods * total if periods < inf else 0.0
            start_s = periods * self.period_s
        elif target < 0:  # gathered before the first knot, where the first value holds
            return float(self.times_s[0] + target / self.left[0])
        return max(t0_s, start_s + float(self.inverses(np.array([target]))[0]))

    def inverses(self, areas: Floats) -> Floats:
        """Like `inverse` from the first knot on, for many areas at once, without repetition; the last value holds."""
        if self.left.min() < 0 or self.right.min() < 0:
            raise ValueError("expected a signal that is never negative, since its integral is inverted")
        i = np.clip(np.searchsorted(self._areas, areas, side="left") - 1, 0, len(self.left) - 1)
        rest, start = areas - self._areas[i], self.left[i]
        # start*dt + slope*dt^2/2 = rest, in the form that does not cancel
        root = start + np.sqrt(np.maximum(start**2 + 2 * self._slope[i] * rest, 0.0))
        into_s = np.divide(2 * rest, root, out=np.zeros_like(rest), where=root > 0)
        times_s: Floats = np.minimum(self.times_s[i] + into_s, self.times_s[i + 1])
        beyond = areas > self._areas[-1]
        if beyond.any():
            tail = float(self.right[-1])
            times_s[beyond] = self.times_s[-1] + (areas[beyond] - self._areas[-1]) / tail if tail > 0 else inf
        return times_s

    def next_change(self, t_s: float) -> float:
        """The first time after `t_s` at which the signal may change its value or slope [s]; inf if none."""
        if self.is_constant:
            return inf
        starts = self.times_s[:-1]
        if self.period_s is None:
            later = starts[starts > t_s]
            return float(later[0]) if len(later) else inf
        first = t_s // self.period_s
        times_s = ((first + np.arange(3))[:, None] * self.period_s + starts).ravel()
        return float(times_s[times_s > t_s][0])

    def knots(self, t0_s: float, t1_s: float) -> Floats:
        """All knots between two times, repetitions included [s]."""
        knots = self.times_s
        if self.period_s is not None:
            periods = np.arange(t0_s // self.period_s, t1_s // self.period_s + 1)
            knots = (periods[:, None] * self.period_s + knots[None, :-1]).ravel()
        return knots[(knots > t0_s) & (knots < t1_s)]

    def _at(self, times_s: Floats) -> tuple[Floats, Floats]:
        """Values and slopes at many times."""
        t_s = times_s % self.period_s if self.period_s is not None else times_s
        i = np.clip(np.searchsorted(self.times_s, t_s, side="right") - 1, 0, len(self.left) - 1)
        inside = (t_s >= self.times_s[0]) & (t_s < self.times_s[-1])
        value = self.left[i] + self._slope[i] * (t_s - self.times_s[i])
        outside = np.where(t_s < self.times_s[0], self.left[0], self.right[-1])
        return np.where(inside, value, outside), np.where(inside, self._slope[i], 0.0)

    def _area(self, t_s: float) -> float:
        """The integral from the first knot to `t_s`, negative before it."""
        periods = 0.0
        if self.period_s is not None:
            periods, t_s = divmod(t_s, self.period_s)
        if t_s < self.times_s[0]:
            return float((t_s - self.times_s[0]) * self.left[0])
        i = min(int(np.searchsorted(self.times_s, t_s, side="right")) - 1, len(self.left))
        into_s = t_s - self.times_s[i]
        inside = i < len(self.left)
        mean = self.left[i] + self._slope[i] * into_s / 2 if inside else self.right[-1]
        return float(periods * self._areas[-1] + self._areas[i] + into_s * mean)


def product(signals: Sequence[Signal], t0_s: float, t1_s: float) -> Signal:
    """The product from `t0_s` to `t1_s`; `t1_s` may be inf where no signal repeats, and the last value holds.

    Exact where at most one factor slopes; where more do, chords between values that are exact.
    """
    inner = np.unique(np.concatenate([np.empty(0), *(signal.knots(t0_s, t1_s) for signal in signals)]))
    end_s = t1_s if t1_s < inf else max([t0_s, *inner.tolist()]) + 1.0
    knots = np.concatenate([[t0_s], inner, [end_s]])
    if sum(bool(signal._slope.any()) for signal in signals) > 1:
        parts = np.arange(SPLIT) / SPLIT
        knots = np.unique(np.append(knots[:-1, None] + np.diff(knots)[:, None] * parts, end_s))
    half_s, middle_s = np.diff(knots) / 2, (knots[:-1] + knots[1:]) / 2
    left, right = np.ones_like(middle_s), np.ones_like(middle_s)
    for signal in signals:
        value, slope = signal._at(middle_s)
        left, right = left * (value - slope * half_s), right * (value + slope * half_s)
    return Signal(knots, np.maximum(left, 0.0), np.maximum(right, 0.0))


class Clock:
    """From operational time to real time: t with integral of rate(0..t) = operational time, rate the product of signals.

    Called with non-decreasing operational times, chunk after chunk; what has passed is forgotten. A time that is never reached,
    or not before `limit_s`, is inf.
    """

    def __init__(self, signals: Sequence[Signal], limit_s: float = inf) -> None:
        self._signals = signals
        self._limit_s = limit_s
        repeating = [(signal.period_s, len(signal.left)) for signal in signals if signal.period_s is not None]
        self._window_s = min((KNOTS * period_s / pieces for period_s, pieces in repeating), default=inf)
        self._patience_s = EMPTY_PERIODS * max((period_s for period_s, _ in repeating), default=inf)
        self._empty_from_s = max(
            (float(signal.times_s[-1]) for signal in signals if signal.period_s is None), default=0.0
        )
        self._past = self._area = 0.0
        self._start_s = self._end_s = 0.0
        self._advance()

    def __call__(self, operational: Floats) -> Floats:
        """Real times of `operational` times, both non-decreasing [s]."""
        times_s = np.full(len(operational), inf)
        first = 0
        while first < len(operational) and not self._over():
            last = int(np.searchsorted(operational, self._past + self._area, side="right"))
            inside = np.minimum(operational[first:last] - self._past, self._area)
            times_s[first:last] = self._rate.inverses(inside)
            first = last
            if first < len(operational):
                self._past += self._area
                self._advance()
        return times_s

    def _advance(self) -> None:
        """Go on to the next window."""
        self._start_s, self._end_s = self._end_s, self._end_s + self._window_s
        if self._start_s == inf:
            return
        self._rate = product(self._signals, self._start_s, self._end_s)
        endless = self._end_s == inf and self._rate.right[-1] > 0
        self._area = inf if endless else float(self._rate._areas[-1])
        if self._area > 0:
            self._empty_from_s = max(self._empty_from_s, self._end_s)

    def _over(self) -> bool:
        given_up = self._limit_s == inf and self._start_s - self._empty_from_s > self._patience_s
        return self._start_s >= self._limit_s or given_up


def read_points(path: Path, column: str, low: float = 0.0) -> tuple[Floats, Floats]:
    """Times [s] and values from the columns `time_s` and `column` of a CSV file with a header.

    Raises ValueError naming file, row and column for a missing column, a value that is no finite number of at least `low`, a time
    that does not rise from 0, and for fewer than two rows; OSError for a file that cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for name in ("time_s", column):
            if name not in (reader.fieldnames or ()):
                raise ValueError(
                    f"`{path.name}`: expected a column `{name}`, got {', '.join(reader.fieldnames or ()) or 'none'}"
                )
        rows = [
            [_number(path, number, row, name, least) for name, least in (("time_s", 0.0), (column, low))]
            for number, row in enumerate(reader, 2)
        ]
    if len(rows) < 2 or rows[0][0] != 0:
        raise ValueError(f"`{path.name}`, row 2, column `time_s`: expected at least two rows, from time 0 on")
    times_s, values = np.array(rows).T
    wrong = np.flatnonzero(np.diff(times_s) <= 0)
    if len(wrong):
        raise ValueError(
            f"`{path.name}`, row {wrong[0] + 3}, column `time_s`: expected a time after {times_s[wrong[0]]:g}"
        )
    return times_s, values


def _number(path: Path, number: int, row: dict[str, Any], name: str, low: float) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = inf
    if not isfinite(value) or value < low:
        wanted = "a number" if low == -inf else f"a number of at least {low:g}"
        raise ValueError(f"`{path.name}`, row {number}, column `{name}`: expected {wanted}, got `{row[name]}`")
    return value
