"""Energy of runs and of rest: the closed forms are the naive sums."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.hardware.power import idle_j, run_energy

first = st.floats(1e-6, 10.0)
rise = st.floats(0.0, 1.0)
counts = st.integers(1, 400)


def naive(t_first: float, t_slope: float, e_first: float, e_slope: float, steps: int, limit_w: float) -> float:
    return sum(min(limit_w * (t_first + t_slope * j), e_first + e_slope * j) for j in range(steps))


@given(first, rise, first, rise, counts, st.floats(1e-3, 1e3))
def test_run_is_the_sum_of_its_steps(
    t_first: float, t_slope: float, e_first: float, e_slope: float, steps: int, limit_w: float
) -> None:
    args = (t_first, t_slope, e_first, e_slope, steps, limit_w)
    assert run_energy(*args) == pytest.approx(naive(*args), rel=1e-12)


@given(st.integers(2, 300), st.integers(-5, 305), st.sampled_from([-1.0, 1.0]))
def test_limit_that_binds_from_a_whole_step_on(steps: int, at: int, sign: float) -> None:
    """Watts cross the limit of 100 W exactly at step `at`, upwards or downwards: no step is lost or counted twice."""
    t_first, t_slope = 1.0, 0.001
    args = (t_first, t_slope, 100 * t_first - sign * at * 0.05, 100 * t_slope + sign * 0.05, steps, 100.0)
    assert run_energy(*args) == pytest.approx(naive(*args), rel=1e-12)


@pytest.mark.parametrize(
    ("limit_w", "joules"),
    [
        (10.0, 10.0 * (1 + 2 + 3 + 4)),  # always binds
        (1e6, 130.0 + 140.0 + 150.0 + 160.0),  # never
        (60.0, 60.0 + 120.0 + 150.0 + 160.0),  # binds in the first two of 130, 140, 150, 160 J over 1, 2, 3, 4 s
    ],
)
def test_by_hand(limit_w: float, joules: float) -> None:
    assert run_energy(1.0, 1.0, 130.0, 10.0, 4, limit_w) == pytest.approx(joules, rel=1e-14)


def test_one_step() -> None:
    assert run_energy(2.0, 0.5, 30.0, 7.0, 1, 10.0) == 20.0
    assert run_energy(2.0, 0.5, 30.0, 7.0, 1, 100.0) == 30.0


@given(first, rise, first, rise, counts, counts, st.floats(1e-3, 1e3))
def test_a_run_cut_in_two_costs_the_same(
    t_first: float, t_slope: float, e_first: float, e_slope: float, before: int, after: int, limit_w: float
) -> None:
    whole = run_energy(t_first, t_slope, e_first, e_slope, before + after, limit_w)
    head = run_energy(t_first, t_slope, e_first, e_slope, before, limit_w)
    tail = run_energy(t_first + before * t_slope, t_slope, e_first + before * e_slope, e_slope, after, limit_w)
    assert whole == pytest.approx(head + tail, rel=1e-12)


@given(first, rise, first, rise, counts, st.floats(1e-3, 1e3), st.floats(1.0, 3.0))
def test_a_higher_limit_never_saves(
    t_first: float, t_slope: float, e_first: float, e_slope: float, steps: int, limit_w: float, more: float
) -> None:
    low, high = (run_energy(t_first, t_slope, e_first, e_slope, steps, watts) for watts in (limit_w, limit_w * more))
    assert low <= high * (1 + 1e-12)


def test_rest_is_gap_then_idle() -> None:
    assert idle_j(130.0, 70.0, 1.0, 0.0) == 0.0
    assert idle_j(130.0, 70.0, 1.0, 0.25) == pytest.approx(32.5)
    assert idle_j(130.0, 70.0, 1.0, 1.0) == pytest.approx(130.0)
    assert idle_j(130.0, 70.0, 1.0, 11.0) == pytest.approx(130.0 + 700.0)
