"""Verdicts: the worse side of the interval decides, and what cannot be judged is never kept."""

from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import t as student

import simfleet as sf
from simfleet.gate import judge as judging
from simfleet.gate.judge import Row, Suite, judge
from simfleet.gate.targets import Gate, expression, targets_of
from simfleet.intervals import interval, share_interval
from tests.gates import OVERLOADED, known, reports, small, with_values

values = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=2, max_size=20)


@given(values, st.floats(0.5, 0.999))
def test_interval_is_students(numbers: list[float], confidence: float) -> None:
    found = interval(numbers, confidence)
    n, spread = len(numbers), np.std(numbers, ddof=1)
    half = student.ppf((1 + confidence) / 2, n - 1) * spread / sqrt(n)
    assert found.mean == pytest.approx(np.mean(numbers), rel=1e-9, abs=1e-9)
    assert found.high - found.mean == pytest.approx(half, rel=1e-6, abs=1e-6)
    assert found.mean - found.low == pytest.approx(half, rel=1e-6, abs=1e-6)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """Of normal samples, 90 % intervals hold the true mean in 90 % of cases."""
    draws = np.random.default_rng(7).normal(3.0, 2.0, (2000, 4)).tolist()
    held = np.mean([found.low <= 3.0 <= found.high for found in (interval(row, 0.9) for row in draws)])
    assert held == pytest.approx(0.9, abs=4 * sqrt(0.9 * 0.1 / len(draws)))


def verdict(name: str, text: str, path: str, *found: Any) -> Row:
    return judge(expression(name, text, known()), with_values(path, *found), 0.95)


def test_the_worse_side_decides() -> None:
    """Mean 1 and standard deviation 0.1 of four runs: 95 % intervals reach 0.159 to either side."""
    half = float(student.ppf(0.975, 3)) * np.std([0.9, 1.1, 0.9, 1.1], ddof=1) / 2
    for limit, state in ((1 + half + 1e-9, "kept"), (1 + half - 1e-9, "missed"), (0.5, "missed")):
        row = verdict("usd_total", f"<= ${limit:.12f}", "cost.usd_total", 0.9, 1.1, 0.9, 1.1)
        assert (row.state, row.numbers["judged"]) == (state, pytest.approx(1 + half))
        assert ("more seeds" in row.note) == (state == "missed" and limit >= 1)
    for limit, state in ((1 - half - 1e-9, "kept"), (1 - half + 1e-9, "missed")):
        row = verdict("goodput_rps", f">= {limit:.12f} /s", "goodput.goodput_rps", 0.9, 1.1, 0.9, 1.1)
        assert row.state == state


@given(values.map(lambda numbers: [abs(x) for x in numbers]), st.floats(0, 1e6))
def test_never_kept_where_the_mean_misses(numbers: list[float], limit: float) -> None:
    upper = judging.judge(expression("usd_total", f"<= ${limit!r}", known()), _tiny("usd_total", numbers), 0.95)
    lower = judging.judge(
        expression("tokens_per_usd", f">= {limit!r}", known()), _tiny("tokens_per_usd", numbers), 0.95
    )
    mean = float(np.mean(numbers))
    assert upper.state == "missed" or mean <= limit * (1 + 1e-9)
    assert lower.state == "missed" or mean >= limit * (1 - 1e-9)


def _tiny(name: str, numbers: list[float]) -> list[dict[str, Any]]:
    return [{"regime": "stable", "seed": seed, "cost": {name: value}} for seed, value in enumerate(numbers)]


def test_equal_runs_have_no_interval() -> None:
    row = verdict("usd_total", "<= $2", "cost.usd_total", 2.0, 2.0)
    assert (row.state, row.got, row.numbers["low"], row.numbers["high"]) == ("kept", "$2.00", 2.0, 2.0)
    assert verdict("usd_total", "< $2", "cost.usd_total", 2.0, 2.0).state == "missed"


def test_of_a_maximum_the_worst_run_counts() -> None:
    """25 runs, one of them with a peak of 3 kW: the interval of the mean ends far below it."""
    path, peaks = "energy.peak_facility_w", [1000.0] * 24 + [3000.0]
    row = verdict("power_facility", "max <= 2 kW", path, *peaks)
    assert row.numbers["high"] < 2000 < row.numbers["judged"] == 3000
    assert row.state == "missed"
    assert verdict("power_facility", "max <= 3 kW", path, *peaks).state == "kept"


def test_words_and_equalities_hold_in_every_run() -> None:
    assert verdict("regime", "== stable", "regime", "stable", "stable").state == "kept"
    row = verdict("regime", "== stable", "regime", "stable", "backlogged", "overloaded")
    assert (row.state, row.note, row.got) == ("missed", "not with seed 1, 2", "stable, backlogged, overloaded")
    assert verdict("regime", "!= overloaded", "regime", "stable", "backlogged").state == "kept"
    assert verdict("rejected", "== 0", "requests.rejected", 0, 0).state == "kept"
    assert verdict("rejected", "== 0", "requests.rejected", 0, 1).state == "missed"
    assert verdict("attainment", "== 100 %", "attainment.overall", 1.0, 1.0).state == "kept"


# -- what cannot be judged -----------------------------------------------------------------------------------------------


def test_a_percentile_needs_its_samples() -> None:
    """SMALL has 420 requests: enough for a p95, not for a p99; 120 of class night are too few for a p95."""
    for name, text, state in (
        ("ttft", "p95 <= 100 s", "kept"),
        ("ttft", "p99 <= 100 s", "cannot judge"),
        ("ttft{class=night}", "p95 <= 100 s", "cannot judge"),
        ("ttft{class=night}", "p50 <= 100 s", "kept"),
        ("attainment", ">= 95 %", "kept"),
        ("attainment", ">= 99 %", "cannot judge"),
        ("attainment{class=night}", ">= 95 %", "cannot judge"),
        ("attainment", ">= 100 %", "cannot judge"),
    ):
        row = judge(expression(name, text, known()), reports(), 0.95)
        assert row.state == state, (name, text)
    assert row.note.startswith("no number of samples shows 100 %")
    row = judge(expression("ttft", "p99 <= 100 s", known()), reports(), 0.95)
    assert row.note == "420 samples with seed 0, 2,000 are needed: a longer run has more"


def test_one_run_that_cannot_be_judged_is_enough() -> None:
    assert verdict("usd_total", "<= $99", "cost.usd_total", 1.0, None).state == "cannot judge"
    assert verdict("usd_total", "<= $99", "cost.usd_total", None).note == "absent from the report with seed 0"
    runs = reports(2)
    runs[1]["latency"]["ttft_s"] |= {"p95": None, "n": 12}
    row = judge(expression("ttft", "p95 <= 100 s", known()), runs, 0.95)
    assert (row.state, row.note[:25]) == ("cannot judge", "12 samples with seed 1, 2")


@pytest.mark.parametrize("regime", ["overloaded", "nothing served"])
def test_an_overloaded_run_says_only_that_it_is(regime: str) -> None:
    for name, text in (
        ("usd_total", "<= $99"),
        ("ttft", "p95 <= 99 s"),
        ("rejected", "== 0"),
        ("attainment", ">= 1 %"),
    ):
        row = judge(expression(name, text, known()), with_values("regime", "stable", regime), 0.95)
        assert (row.state, row.note.split(":")[0]) == ("cannot judge", f"{regime} with seed 1")
    assert verdict("regime", "== stable", "regime", "stable", regime).state == "missed"
    assert verdict("regime", "!= stable", "regime", regime, regime).state == "kept"


def test_a_real_overload_misses_its_attainment_and_keeps_nothing() -> None:
    """Of 420 requests almost all are turned away: that is plainly missed, and whatever seems kept cannot be judged."""
    crowded = small(pools__chat__engine=OVERLOADED)
    suite = sf.check(Gate("crowded", crowded, targets_of(crowded)), seeds=3)
    assert {row.state for row in suite.rows} == {"missed"}
    assert suite.exit_code == 1
    assert suite.rows[0].note == "missed in any case; overloaded with seed 0"
    lenient = (expression("attainment", ">= 1 %", known()), expression("usd_total", "<= $99", known()))
    suite = sf.check(Gate("crowded", crowded, lenient), seeds=3)
    assert [row.state for row in suite.rows] == ["cannot judge"] * 2
    assert suite.exit_code == 3


def overloaded(name: str, text: str, path: str, *found: Any) -> str:
    runs = [report | {"regime": "overloaded"} for report in with_values(path, *found)]
    return judge(expression(name, text, known()), runs, 0.95).state


@pytest.mark.parametrize("regime", ["stable", "overloaded"])
def test_a_miss_on_the_better_side_is_a_miss_in_any_regime(regime: str) -> None:
    """Mean 1, 95 % interval 0.841 to 1.159: below the lower end it is missed whatever the regime, above the upper one only kept when stable."""
    half = float(student.ppf(0.975, 3)) * np.std([0.9, 1.1, 0.9, 1.1], ddof=1) / 2
    for limit, stable, crowded in (
        (1 - half - 1e-9, "missed", "missed"),
        (1 - half + 1e-9, "missed", "cannot judge"),
        (1 + half - 1e-9, "missed", "cannot judge"),
        (1 + half + 1e-9, "kept", "cannot judge"),
    ):
        runs = [r | {"regime": regime} for r in with_values("cost.usd_total", 0.9, 1.1, 0.9, 1.1)]
        row = judge(expression("usd_total", f"<= ${limit:.12f}", known()), runs, 0.95)
        assert row.state == (stable if regime == "stable" else crowded), limit
    assert overloaded("tokens_per_usd", ">= 9", "cost.tokens_per_usd", 1.0, 1.1, 1.2) == "missed"
    assert overloaded("tokens_per_usd", ">= 1", "cost.tokens_per_usd", 1.0, 1.1, 1.2) == "cannot judge"
    assert overloaded("rejected", "== 0", "requests.rejected", 0, 0) == "cannot judge"
    assert overloaded("rejected", "== 0", "requests.rejected", 0, 7) == "missed"
    assert overloaded("usd_total", "<= $1", "cost.usd_total", 9.0, None) == "cannot judge"


def test_a_few_requests_may_show_that_an_attainment_is_out_of_reach() -> None:
    """99 % needs 2,000 samples to be kept; 40 requests of which half are late are enough to miss it, and 40 of which none is, not to keep it."""
    for share, state in ((0.0, "missed"), (0.5, "missed"), (0.975, "cannot judge"), (1.0, "cannot judge")):
        runs = with_values("attainment.overall", share, share)
        for run in runs:
            run["attainment"]["n"] = 20
        assert judge(expression("attainment", ">= 99 %", known()), runs, 0.95).state == state, share
    runs = with_values("latency.ttft_s.mean", 9.0, 9.0)
    for run in runs:
        run["latency"]["ttft_s"]["n"] = 3
    assert judge(expression("ttft", "mean <= 1 s", known()), runs, 0.95).state == "cannot judge"


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.5, 0.999))
def test_interval_of_a_share_is_the_binomial_tests(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    found = binomtest(successes, n).proportion_ci(confidence, method="exact")
    assert share_interval(successes, n, confidence)[1:] == pytest.approx((found.low, found.high), abs=1e-6)


def test_another_scenario_than_agreed_is_not_judged() -> None:
    sha256 = reports(1)[0]["scenario"]["sha256"]
    targets = targets_of(small())
    assert judging.judged(Gate("a", small(), targets, sha256=sha256[:8]), reports()).exit_code == 0
    other = judging.judged(Gate("a", small(), targets, sha256="0" * 8), reports())
    assert other.exit_code == 3
    assert {row.state for row in other.rows} == {"cannot judge"}
    assert other.rows[0].note.startswith("hash mismatch: the targets are for 00000000, the scenario")


# -- whole answers -------------------------------------------------------------------------------------------------------


def test_exit_codes_of_rows() -> None:
    def code(*states: tuple[str, str]) -> int:
        return Suite("a", tuple(Row("x", "y", state, level=level) for state, level in states)).exit_code  # type: ignore[arg-type]

    assert code(("kept", "error")) == 0
    assert code(("kept", "error"), ("missed", "warn"), ("cannot judge", "warn")) == 0
    assert code(("cannot judge", "error"), ("kept", "error")) == 3
    assert code(("cannot judge", "error"), ("missed", "error")) == 1
    assert code() == 3


def test_check_is_the_same_with_more_processes() -> None:
    gate = Gate("small", small(), targets_of(small()))
    assert sf.check(gate, seeds=3) == sf.check(gate, seeds=3, workers=2)


def test_check_needs_two_runs() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds"):
        sf.check(Gate("small", small(), targets_of(small())), seeds=1)


def test_a_run_that_breaks_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError("books do not balance")

    monkeypatch.setattr(judging, "simulate", breaks)
    suite = sf.check(Gate("small", small(), targets_of(small())), seeds=2)
    assert (suite.exit_code, suite.broken) == (4, "RuntimeError: books do not balance")
    assert {row.state for row in suite.rows} == {"cannot judge"}


def test_check_by_name_takes_overrides() -> None:
    short = [("horizon", "20 s"), ("warmup", "0 s"), ("targets", '{regime: ["== stable"], ttft: ["p95 <= 99 s"]}')]
    suite = sf.check("quickstart", seeds=2, overrides=short)
    assert [row.name for row in suite.rows] == ["regime", "ttft p95"]
    assert suite.data["seeds"] == [0, 1]
