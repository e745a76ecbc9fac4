"""Signals: values, areas and their inverse agree with each other and with pictures drawn by hand."""

from itertools import pairwise
from math import inf, isinf

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simfleet.signals import Clock, Signal, product, read_points

levels = st.floats(0, 100).map(lambda x: round(x, 3))
times = st.floats(0, 5000).map(lambda x: round(x, 3))


@st.composite
def signals(draw):
    """Steps or lines through up to six points, held or repeated."""
    widths = draw(st.lists(st.floats(0.5, 500), min_size=1, max_size=6))
    knots = np.cumsum([0.0, *widths])
    values = draw(st.lists(levels, min_size=len(knots), max_size=len(knots)))
    period_s = draw(st.sampled_from([None, float(knots[-1] + 10)]))
    return draw(st.sampled_from([Signal.steps, Signal.lines]))(knots, values, period_s)


def tolerance(signal, t_s):
    return 1e-9 * (1 + t_s * float(max(signal.left.max(), signal.right.max())))


# Pictures ---------------------------------------------------------------------------------------------------------


def test_steps_hold_from_their_time_on():
    signal = Signal.steps([0, 10, 20], [1, 3, 0])
    assert [signal.at(t) for t in (-5, 0, 9.9, 10, 19.9, 20, 99)] == [1, 1, 1, 3, 3, 0, 0]
    assert signal.integral(0, 100) == 10 * 1 + 10 * 3
    assert signal.integral(5, 12) == 5 * 1 + 2 * 3


def test_lines_join_points_and_hold_outside():
    signal = Signal.lines([10, 20], [0, 4])
    assert [signal.at(t) for t in (0, 10, 15, 20, 30)] == [0, 0, 2, 4, 4]
    assert signal.integral(0, 25) == 20 + 5 * 4


def test_a_period_repeats():
    day = Signal.steps([0, 6, 18], [0, 2, 0], period_s=24)
    assert [day.at(t) for t in (3, 6, 30, 41.9, 42, 24 * 1000 + 7)] == [0, 2, 2, 2, 0, 2]
    assert day.integral(0, 240) == 10 * 24
    assert day.inverse(24, 0) == 18
    assert day.inverse(25, 0) == 24 + 6.5
    assert day.inverse(1, 12) == 12.5


def test_a_line_within_a_period_holds_to_its_end():
    signal = Signal.lines([5, 10], [1, 3], period_s=20)
    assert [signal.at(t) for t in (0, 5, 7.5, 10, 19, 20, 27.5)] == [1, 1, 2, 3, 3, 1, 2]


def test_an_area_that_is_never_gathered_takes_for_ever():
    assert Signal.steps([0, 10], [1, 0]).inverse(10.001, 0) == inf
    assert Signal.constant(0).inverse(1, 0) == inf
    assert Signal.steps([0, 10], [0, 0], period_s=20).inverse(1, 0) == inf


def test_the_inverse_is_the_earliest_time():
    gap = Signal.steps([0, 10, 20], [1, 0, 1])
    assert gap.inverse(10, 0) == 10
    assert gap.inverse(10.5, 0) == 20.5
    assert gap.inverse(0, 15) == 15


def test_the_inverse_may_begin_before_the_first_knot():
    late = Signal.lines([10, 20], [2, 4])
    assert late.inverse(6, 0) == 3
    assert late.integral(0, late.inverse(50, 0)) == pytest.approx(50)
    assert Signal.lines([5], [3]).integral(0, 10) == 30


def test_a_price_may_be_negative_but_not_inverted():
    price = Signal.steps([0, 10], [-1, 2])
    assert price.integral(0, 20) == 10
    with pytest.raises(ValueError, match="never negative"):
        price.inverse(1, 0)


@pytest.mark.parametrize(
    ("knots", "left", "right", "period_s"),
    [([0], [], [], None), ([0, 1, 1], [1, 1], [1, 1], None), ([0, 1], [1, 2], [1], None), ([0, 5], [1], [1], 10.0)],
)
def test_what_is_no_signal_is_refused(knots, left, right, period_s):
    with pytest.raises(ValueError, match="expected"):
        Signal(knots, left, right, period_s)


def test_the_callers_array_is_left_alone():
    knots = np.array([2.0, 5.0])
    Signal.steps(knots, [1, 2], period_s=10)
    assert knots.tolist() == [2, 5]


# Laws -------------------------------------------------------------------------------------------------------------


@given(signals(), times, times, times)
def test_areas_add_up(signal, first, second, third):
    a, b, c = sorted([first, second, third])
    assert signal.integral(a, c) == pytest.approx(
        signal.integral(a, b) + signal.integral(b, c), abs=tolerance(signal, c)
    )


@given(signals(), times, st.floats(0.01, 100))
def test_the_area_is_that_of_many_thin_slices(signal, start, width):
    edges = np.unique(np.concatenate([[start, start + width], signal.knots(start, start + width)]))
    middles = (edges[1:] + edges[:-1]) / 2  # exact where the signal is straight between the edges
    total = sum(
        signal.at(middle) * (right - left) for middle, left, right in zip(middles, edges, edges[1:], strict=False)
    )
    assert signal.integral(start, start + width) == pytest.approx(total, abs=1e3 * tolerance(signal, start + width))


@given(signals(), times, st.floats(1e-3, 1e5))
def test_the_inverse_gathers_the_area(signal, start, area):
    end = signal.inverse(area, start)
    if isinf(end):
        assert signal.integral(start, 1e6) <= area * (1 + 1e-9)
        return
    assert end >= start
    assert signal.integral(start, end) == pytest.approx(area, abs=tolerance(signal, end), rel=1e-6)


@given(signals(), times, st.floats(0.1, 5000))
def test_the_inverse_of_the_integral_is_where_it_ended(signal, start, width):
    end = start + width
    assume(signal.at(end) > 0.01 and signal.at(end - 1e-3) > 0.01)
    assert signal.inverse(signal.integral(start, end), start) == pytest.approx(end, rel=1e-6, abs=1e-6)


@given(st.lists(signals(), min_size=1, max_size=3), times)
@settings(deadline=None)
def test_a_product_meets_its_factors(factors, start):
    whole = product(factors, start, start + 500)
    edges = np.unique(np.concatenate([whole.times_s, *(factor.knots(start, start + 500) for factor in factors)]))
    for left, right in pairwise(edges):
        if right - left < 1e-6:
            continue  # at a knot, rounding says on which side of a jump a time is
        nearly = left + 1e-9 * (right - left)
        expected = np.prod([factor.at(nearly) for factor in factors])
        assert whole.at(nearly) == pytest.approx(expected, rel=1e-6, abs=1e-6 * 100 ** len(factors))


def test_knots_that_differ_by_rounding_do_not_break_a_product():
    third = [Signal.lines([0, 1], [1, 2], period_s=1 + k * 1e-15) for k in (0, 1, 3)]
    assert product(third, 0, 500).integral(0, 500) == pytest.approx(500 * 3.75, rel=0.01)


def test_a_product_of_steps_is_exact():
    both = product([Signal.steps([0, 10], [2, 3]), Signal.steps([0, 4], [1, 0], period_s=8)], 0, 16)
    assert both.integral(0, 16) == 4 * 2 + 2 * 2 + 2 * 3
    assert [both.at(t) for t in (0, 4, 8, 10, 12)] == [2, 0, 2, 3, 0]


def test_a_product_of_two_slopes_is_close():
    both = product([Signal.lines([0, 1], [0, 1]), Signal.lines([0, 1], [0, 1])], 0, 1)
    assert both.integral(0, 1) == pytest.approx(1 / 3, abs=0.003)
    assert both.at(0.5) == pytest.approx(0.25, abs=1e-12)


# The clock --------------------------------------------------------------------------------------------------------


@given(st.lists(signals(), min_size=1, max_size=2), st.integers(1, 400))
@settings(deadline=None, max_examples=50)
def test_the_clock_does_not_care_about_chunks(factors, size):
    operational = np.linspace(0, 5e4, 801)
    whole = Clock(factors, 1e6)(operational)
    clock = Clock(factors, 1e6)
    parts = np.concatenate([clock(operational[i : i + size]) for i in range(0, len(operational), size)])
    assert parts.tolist() == whole.tolist()
    assert (np.diff(whole[np.isfinite(whole)]) >= 0).all()


def test_the_clock_inverts_the_rate():
    rate = Signal.lines([0, 6, 18, 24], [1, 5, 0, 1], period_s=24)
    clock = Clock([rate, Signal.steps([0, 100], [1, 2])])
    assert clock(np.array([rate.integral(0, 77)])) == pytest.approx(77)
    later = rate.integral(0, 100) + 2 * rate.integral(100, 1e5)
    assert clock(np.array([later])) == pytest.approx(1e5)


@pytest.mark.parametrize(
    "factors",
    [
        [Signal.constant(0)],
        [Signal.steps([0, 10], [1, 0])],
        [Signal.steps([0, 5], [1, 0], period_s=10), Signal.steps([0, 5], [0, 1], period_s=10)],
        [Signal.steps([0, 5], [1, 0], period_s=10), Signal.steps([0, 5], [1, 0])],
    ],
)
def test_the_clock_stops_where_the_rate_is_zero_for_good(factors):
    assert Clock(factors)(np.array([11.0])) == inf


# Files ------------------------------------------------------------------------------------------------------------


def test_points_are_read_by_column_name(tmp_path):
    file = tmp_path / "load.csv"
    file.write_text("factor,day,time_s\n1.5,Mon,0\n2,Mon,60\n")
    times_s, values = read_points(file, "factor")
    assert times_s.tolist() == [0, 60]
    assert values.tolist() == [1.5, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a column `time_s`, got none"),
        ("time_s,fator\n0,1\n", "expected a column `factor`, got time_s, fator"),
        ("time_s,factor\n0,1\n", "at least two rows"),
        ("time_s,factor\n5,1\n6,1\n", "from time 0"),
        ("time_s,factor\n0,1\n5,nan\n", "row 3, column `factor`: expected a number of at least 0, got `nan`"),
        ("time_s,factor\n0,1\n5,-1\n", "row 3, column `factor`"),
        ("time_s,factor\n0,1\nfive,1\n", "row 3, column `time_s`: expected a number of at least 0, got `five`"),
        ("time_s,factor\n0,1\n5\n", "row 3, column `factor`"),
        ("time_s,factor\n0,1\n5,1\n5,2\n", "row 4, column `time_s`: expected a time after 5"),
    ],
)
def test_bad_files_name_row_and_column(tmp_path, text, message):
    file = tmp_path / "load.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"`load\.csv`") as error:
        read_points(file, "factor")
    assert message in str(error.value)
