"""Energy of steps under a cap, and of rest: straight lines are the naive steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.hardware.power import Resting, State, Steps, governed

first = st.floats(1e-6, 10.0)
rise = st.floats(0.0, 1.0)
counts = st.integers(1, 400)
watts = st.floats(1e-3, 1e3)
shares = st.floats(0.0, 1.0)


def naive(free: Steps, limit_w: float, cap_w: float, slowing: float) -> list[tuple[float, float]]:
    """Seconds and joules, step by step."""
    steps = []
    for j in range(free.steps):
        seconds = free.first_s + free.next_s * j
        demand = min(free.first_j + free.next_j * j, limit_w * seconds)
        if demand > cap_w * seconds:
            seconds += slowing * (demand / cap_w - seconds)
            demand = cap_w * seconds
        steps.append((seconds, demand))
    return steps


def pieces(free: Steps, limit_w: float, cap_w: float, slowing: float) -> list[Steps]:
    """All of `free`, one straight line after another."""
    found = []
    while free.steps:
        found.append(governed(free, limit_w, cap_w, slowing))
        done = found[-1].steps
        free = Steps(
            free.first_s + done * free.next_s, free.next_s, free.first_j + done * free.next_j, free.next_j,
            free.steps - done,
        )  # fmt: skip
    return found


@given(first, rise, first, rise, counts, watts, shares, shares)
def test_lines_are_the_steps(
    t: float, t_next: float, e: float, e_next: float, steps: int, limit_w: float, share: float, slowing: float
) -> None:
    free, cap_w = Steps(t, t_next, e, e_next, steps), limit_w * max(share, 0.1)
    lines = pieces(free, limit_w, cap_w, slowing)
    got = [
        (line.first_s + line.next_s * j, line.first_j + line.next_j * j) for line in lines for j in range(line.steps)
    ]
    wanted = naive(free, limit_w, cap_w, slowing)
    assert [s for s, _ in got] == pytest.approx([s for s, _ in wanted], rel=1e-9)
    assert [j for _, j in got] == pytest.approx([j for _, j in wanted], rel=1e-9)
    assert len(lines) <= 3  # which bound holds changes at most twice


@given(st.integers(2, 300), st.integers(-5, 305), st.sampled_from([-1.0, 1.0]))
def test_a_cap_that_binds_from_a_whole_step_on(steps: int, at: int, sign: float) -> None:
    """Watts cross the cap of 100 W exactly at step `at`, upwards or downwards: no step is lost or counted twice."""
    t, t_next = 1.0, 0.001
    free = Steps(t, t_next, 100 * t - sign * at * 0.05, 100 * t_next + sign * 0.05, steps)
    lines = pieces(free, 500.0, 100.0, 0.5)
    assert sum(line.steps for line in lines) == steps
    total = sum(line.steps * (line.first_j + line.next_j * (line.steps - 1) / 2) for line in lines)
    assert total == pytest.approx(sum(j for _, j in naive(free, 500.0, 100.0, 0.5)), rel=1e-12)


@pytest.mark.parametrize(
    ("cap_w", "wanted"),
    [
        (100.0, Steps(1.0, 0.0, 60.0, 0.0, 9)),  # drawn: 60 W
        (50.0, Steps(1.1, 0.0, 55.0, 0.0, 9)),  # 60 W into 50 W: 1 + 0.5 * (60/50 - 1) s
        (30.0, Steps(1.5, 0.0, 45.0, 0.0, 9)),  # half the watts, half as fast again, three quarters of the joules
    ],
)
def test_by_hand(cap_w: float, wanted: Steps) -> None:
    assert governed(Steps(1.0, 0.0, 60.0, 0.0, 9), 100.0, cap_w, 0.5) == pytest.approx(wanted)


def test_the_devices_own_limit_costs_no_time() -> None:
    """Times were measured under it; a cap counts from what it lets through."""
    steps = Steps(1.0, 0.0, 150.0, 0.0, 3)
    assert governed(steps, 100.0, 100.0, 0.5) == Steps(1.0, 0.0, 100.0, 0.0, 3)
    assert governed(steps, 100.0, 80.0, 0.5) == pytest.approx(Steps(1.125, 0.0, 90.0, 0.0, 3))


@given(first, first, watts, shares, shares, shares)
def test_a_lower_cap_never_speeds_up_and_never_costs_more(
    t: float, e: float, limit_w: float, high: float, low: float, slowing: float
) -> None:
    high = max(high, 0.1)
    caps = (limit_w * high, limit_w * high * max(low, 0.1))
    faster, slower = (governed(Steps(t, 0.0, e, 0.0, 1), limit_w, cap_w, slowing) for cap_w in caps)
    assert slower.first_s >= faster.first_s * (1 - 1e-12)
    assert slower.first_j <= faster.first_j * (1 + 1e-12)


def test_rest_is_gap_then_idle_then_one_state_after_another() -> None:
    resting = Resting(130.0, 70.0, 1.0, [State(10.0, 20.0, 2.0), State(100.0, 0.0, 60.0, off=True)])
    assert [resting.joules(s) for s in (0.0, 0.25, 1.0, 11.0, 500.0)] == pytest.approx(
        [0.0, 32.5, 130.0, 130.0 + 630.0 + 20.0, 130.0 + 630.0 + 1800.0]
    )
    assert [resting.wake_s(s) for s in (0.0, 9.9, 10.0, 99.0, 100.0, 1e9)] == [0.0, 0.0, 2.0, 2.0, 60.0, 60.0]
    assert [resting.off_s(s) for s in (0.0, 100.0, 130.0)] == [0.0, 0.0, 30.0]
