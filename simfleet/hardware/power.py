"""Energy of accelerators: steps under a power cap, and time without work."""

from math import ceil, floor
from typing import NamedTuple


class Steps(NamedTuple):
    """Like steps in a row: step j = 0 .. steps - 1 takes first_s + j * next_s seconds and first_j + j * next_j joules."""

    first_s: float
    next_s: float
    first_j: float
    next_j: float
    steps: int


def governed(free: Steps, limit_w: float, cap_w: float, slowing: float) -> Steps:
    """What becomes of steps where a power cap holds, for as many of them as one straight line describes: at least one.

        demand = min(limit * t, e)          the times were measured under the device's own limit
        t'     = t + slowing * max(demand / cap - t, 0),   e' = cap * t' where demand > cap * t, else demand

    The clocks fall until the power fits; how much longer a step then takes for each joule beyond the cap is `slowing`. Times and
    joules are affine in j, so which of the bounds binds changes at most twice, and the line holds until then.

    free    -- times, and joules before any limit [s, J]
    limit_w -- the device's own limit [W]
    cap_w   -- the cap, at most the limit [W]
    slowing -- seconds per second of power excess [1], see `StepCost.slowing`
    """
    first_s, next_s, first_j, next_j, steps = free
    above_cap, above_limit = (
        (first_j - watts * first_s, next_j - watts * next_s) for watts in (cap_w, limit_w)
    )
    if above_cap[0] <= 0.0:
        return free._replace(steps=min(steps, _same_side(*above_cap)))
    if above_limit[0] > 0.0:
        first_j, next_j = limit_w * first_s, limit_w * next_s
        steps = min(steps, _same_side(*above_limit))
    else:
        steps = min(steps, _same_side(*above_cap), _same_side(*above_limit))
    first_s += slowing * (first_j / cap_w - first_s)
    next_s += slowing * (next_j / cap_w - next_s)
    return Steps(first_s, next_s, cap_w * first_s, cap_w * next_s, steps)


def _same_side(first: float, slope: float) -> float:
    """How many of first, first + slope, ... lie on the same side of 0 as the first; 0 itself is below."""
    if first > 0.0:
        return max(ceil(first / -slope), 1) if slope < 0.0 else float("inf")
    return floor(-first / slope) + 1 if slope > 0.0 else float("inf")


def idle_j(gap_w: float, idle_w: float, delay_s: float, duration_s: float) -> float:
    """Joules of `duration_s` without work: `gap_w` until the clocks fall after `delay_s`, then `idle_w` [W, s]."""
    return gap_w * min(duration_s, delay_s) + idle_w * max(duration_s - delay_s, 0.0)
