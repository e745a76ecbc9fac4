"""Energy of accelerators: steps under a power cap, and time without work."""

from collections.abc import Sequence
from math import ceil, floor, inf
from typing import NamedTuple

REST_S = 1.0
"""Seconds without work after which a device falls from its gap watts to its idle watts [assumption, docs/energy.md]."""

MOST_STEPS = 10**15
"""As good as for ever."""


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
    above_cap, above_limit = ((first_j - watts * first_s, next_j - watts * next_s) for watts in (cap_w, limit_w))
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


def _same_side(first: float, slope: float) -> int:
    """How many of first, first + slope, ... lie on the same side of 0 as the first; 0 itself is below."""
    leaves = slope < 0.0 if first > 0.0 else slope > 0.0
    steps = min(-first / slope, MOST_STEPS) if leaves else MOST_STEPS
    return max(ceil(steps), 1) if first > 0.0 else floor(steps) + 1


class State(NamedTuple):
    """What a replica without work falls into after a while: asleep, or off together with its share of the server."""

    after_s: float
    watts: float
    wake_s: float
    off: bool = False


class Resting:
    """A replica without work, of all its devices: awake at `gap_w`, after `delay_s` at `idle_w`, then in one state after another.

    states -- in order of `after_s`, none before `delay_s`
    """

    def __init__(self, gap_w: float, idle_w: float, delay_s: float, states: Sequence[State] = ()) -> None:
        self._states = [State(0.0, gap_w, 0.0), State(delay_s, idle_w, 0.0), *states]
        ends_s = [*(state.after_s for state in self._states[1:]), inf]
        self._spans = [(state, end_s - state.after_s) for state, end_s in zip(self._states, ends_s, strict=True)]

    def joules(self, duration_s: float) -> float:
        """Joules of the first `duration_s` without work [J]."""
        return sum(
            [
                state.watts * min(duration_s - state.after_s, span_s)
                for state, span_s in self._spans
                if duration_s > state.after_s
            ]
        )

    def off_s(self, duration_s: float) -> float:
        """Of the first `duration_s` without work, those switched off [s]."""
        return sum([max(min(duration_s - state.after_s, span_s), 0.0) for state, span_s in self._spans if state.off])

    def wake_s(self, duration_s: float) -> float:
        """How long it takes to be back after `duration_s` without work [s]."""
        return next(state.wake_s for state in reversed(self._states) if duration_s >= state.after_s)
