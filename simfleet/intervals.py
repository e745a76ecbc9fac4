"""Confidence intervals: of the mean of independent runs, and of a share of independent trials."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple


class Interval(NamedTuple):
    """What was found and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float], confidence: float) -> Interval:
    """Confidence interval of the mean of independent values: mean +- t * s / sqrt(n), Student's t with n - 1 degrees of freedom.

    One value, or equal ones, have no spread: the interval is the value itself.
    """
    if max(values) == min(values):
        return Interval(values[0], values[0], values[0])
    from scipy.special import stdtrit  # noqa: PLC0415 - scipy takes long to import

    mean, n = fmean(values), len(values)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * stdev(values) / sqrt(n)
    return Interval(mean, mean - half, mean + half)


def share_interval(successes: float, n: float, confidence: float) -> Interval:
    """Clopper and Pearson's interval of a share (Biometrika 26, 1934): `successes` of n independent ones, whole numbers or not."""
    from scipy.special import betaincinv  # noqa: PLC0415 - scipy takes long to import

    if not n:
        return Interval(0.5, 0.0, 1.0)
    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Interval(successes / n, low, high)
