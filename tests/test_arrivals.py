"""Arrivals: counts follow the integral of the rate, gaps keep their law through any envelope, bursts look like the traces."""

from itertools import islice
from math import inf, sqrt
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from simfleet.library import Library
from simfleet.signals import Signal
from simfleet.workload.arrivals import AnyArrival, Burst, ClosedLoop, Open, weibull_shape

PRESETS = Path(__file__).parents[1] / "simfleet" / "library" / "workloads"
ARRIVAL = TypeAdapter(AnyArrival)
WEEK_S = 7 * 86400.0
MICROS = {
    "poisson": {"kind": "poisson"},
    "gamma": {"kind": "gamma", "cv": 3},
    "even gamma": {"kind": "gamma", "cv": 0.5},
    "weibull": {"kind": "weibull", "cv": 2},
    "weibull by shape": {"kind": "weibull", "shape": 0.7},
    "deterministic": {"kind": "deterministic"},
}
DAY = {"kind": "sinusoid", "period": "1000 s", "amplitude": 0.8, "peak": "300 s"}
SPIKE = {"kind": "spike", "at": "500 s", "duration": "50 s", "factor": 5}
STAGES = {
    "kind": "stages",
    "repeat": True,
    "stages": [
        {"duration": "100 s", "factor": 0.5},
        {"duration": "50 s", "factor": 0},
        {"duration": "50 s", "factor": 3},
    ],
}
RAMP = {"kind": "ramp", "start": "100 s", "duration": "600 s", "from": 0.2, "to": 2}
ENVELOPES = {
    "none": [],
    "constant": {"kind": "constant", "factor": 2},
    "day": DAY,
    "stages": STAGES,
    "ramp": RAMP,
    "all": [DAY, SPIKE, STAGES, RAMP],
}


def arrival(rate="10 /s", context=None, **keys):
    given = {"rate": rate, **keys} if rate else keys
    return ARRIVAL.validate_python(given, context=context)


def times(spec, limit_s, seed=1, chunk=4096):
    return np.concatenate([np.empty(0), *spec.chunks(np.random.default_rng(seed), limit_s, chunk)])


def counts(t_s, window_s, end_s):
    return np.histogram(t_s, bins=np.arange(0, end_s + 1e-9, window_s))[0]


def dispersion(t_s, window_s, end_s):
    """Variance over mean of the counts in windows; 1 for Poisson."""
    n = counts(t_s, window_s, end_s)
    return n.var() / n.mean()


def area(spec, t_s):
    """Integral of the rate from 0 to each time, by the midpoint rule on 0.25 s: it shares no code with the inverse."""
    edges = np.arange(0, t_s[-1] + 0.25, 0.25)
    factors = np.full(len(edges) - 1, spec.rate or 1.0)
    for envelope in spec.envelope:
        signal = envelope.signal()
        factors *= [signal.at(t) for t in (edges[:-1] + 0.125).tolist()]
    return np.interp(t_s, edges, np.insert(np.cumsum(factors * 0.25), 0, 0.0))


# Laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", MICROS)
@pytest.mark.parametrize("envelope", ENVELOPES)
def test_the_count_is_the_integral_of_the_rate(envelope, micro):
    spec = arrival(envelope=ENVELOPES[envelope], micro=MICROS[micro])
    expected = area(spec, np.array([1000.0]))[0]
    found = np.array([len(times(spec, 1000.0, seed)) for seed in range(40)])
    error = max(found.std(ddof=1) / sqrt(len(found)), 0.5)
    assert abs(found.mean() - expected) < 4 * error


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_rescaled_gaps_are_exponential_for_poisson(envelope):
    """The compensator turns any Poisson process into one of rate 1 (Papangelou; time-rescaling theorem)."""
    spec = arrival("3 /s", envelope=ENVELOPES[envelope])
    gaps = np.diff(area(spec, times(spec, 1000.0, seed=5)))
    assert stats.kstest(gaps, "expon").pvalue > 0.001


@pytest.mark.parametrize("envelope", ["none", "all"])
@pytest.mark.parametrize(("micro", "cv"), [("gamma", 3), ("even gamma", 0.5), ("weibull", 2), ("deterministic", 0)])
def test_rescaled_gaps_keep_their_coefficient_of_variation(envelope, micro, cv):
    spec = arrival("20 /s", envelope=ENVELOPES[envelope], micro=MICROS[micro])
    gaps = np.diff(area(spec, times(spec, 4000.0)))
    assert gaps.mean() == pytest.approx(1, abs=5 * (cv + 0.01) / sqrt(len(gaps)))
    assert gaps.std() == pytest.approx(cv, rel=0.06, abs=0.06)


@given(st.sampled_from(sorted(ENVELOPES)), st.sampled_from(sorted(MICROS)), st.integers(1, 700))
@settings(max_examples=30, deadline=None)
def test_times_do_not_depend_on_the_chunks(envelope, micro, chunk):
    spec = arrival("2 /s", envelope=ENVELOPES[envelope], micro=MICROS[micro])
    whole = times(spec, 400.0)
    assert times(spec, 400.0, chunk=chunk).tolist() == whole.tolist()
    assert (np.diff(whole) >= 0).all()


def test_a_longer_horizon_only_adds():
    spec = arrival(envelope=ENVELOPES["all"], micro=MICROS["gamma"])
    short, long = times(spec, 300.0), times(spec, 900.0)
    assert long[: len(short)].tolist() == short.tolist()
    assert long[len(short)] > 300.0 >= short[-1]


def test_a_factor_of_one_changes_nothing():
    plain, enveloped = arrival(), arrival(envelope={"kind": "constant", "factor": 1})
    assert times(plain, 500.0) == pytest.approx(times(enveloped, 500.0))


@pytest.mark.parametrize(("micro", "cv"), [("poisson", 1), ("gamma", 3), ("even gamma", 0.5), ("weibull", 2)])
def test_the_first_arrival_of_a_bursty_stream_is_not_early(micro, cv):
    """Seen from any moment the rest of a gap has the mean (1 + CV^2)/2."""
    spec = arrival("1 /s", micro=MICROS[micro])
    first = np.array([next(spec.chunks(np.random.default_rng(seed), inf))[0] for seed in range(3000)])
    assert first.mean() == pytest.approx((1 + cv**2) / 2, abs=4 * first.std() / sqrt(3000))


@pytest.mark.parametrize("cv", [0.1, 0.5, 1.0, 2.0, 10.0])
def test_the_shape_of_a_weibull_has_the_coefficient_of_variation(cv):
    k = weibull_shape(cv)
    assert stats.weibull_min(k).std() / stats.weibull_min(k).mean() == pytest.approx(cv, rel=1e-9)


# Each envelope ----------------------------------------------------------------------------------------------------


def even(rate, limit_s, **keys):
    """Times of even arrivals: the envelope without any noise."""
    return times(arrival(rate, micro={"kind": "deterministic"}, **keys), limit_s)


def test_even_arrivals_are_one_gap_apart():
    assert even("2 /s", 3.0).tolist() == [0.5, 1, 1.5, 2, 2.5, 3]


def test_a_sinusoid_peaks_where_it_says_and_keeps_the_rate():
    n = counts(even("10 /s", 1000.0, envelope=DAY), 100, 1000)
    assert n.sum() == pytest.approx(10_000, abs=1)
    assert n.argmax() in (2, 3)
    assert n.argmin() in (7, 8)
    assert n[2] == pytest.approx(1000 * (1 + 0.8 * np.sin(np.pi / 10) / (np.pi / 10) * np.cos(np.pi / 10)), rel=0.01)


def test_a_spike_multiplies_for_its_time_only():
    assert counts(even("10 /s", 700.0, envelope=SPIKE), 50, 700).tolist()[8:13] == [500, 500, 2500, 500, 500]
    early = {**SPIKE, "at": "0 s"}
    assert counts(even("10 /s", 200.0, envelope=early), 50, 200) == pytest.approx([2500, 500, 500, 500], abs=1)


def test_a_ramp_climbs_in_a_straight_line():
    n = counts(even("100 /s", 900.0, envelope=RAMP), 100, 900)
    assert n == pytest.approx([2000, *(2000 + 3000 * (np.arange(6) + 0.5)), 20_000, 20_000], abs=2)


def test_stages_end_or_repeat():
    once = arrival(envelope={**STAGES, "repeat": False}, micro={"kind": "deterministic"})
    assert once.end_s == 200.0
    assert len(times(once, inf)) == 500 + 1500
    assert len(times(once, 1000.0)) == 500 + 1500
    assert arrival(envelope=STAGES).end_s == inf
    assert len(even("10 /s", 1000.0, envelope=STAGES)) == pytest.approx(5 * 2000, abs=1)


def test_stages_may_have_rates_of_their_own():
    stages = [{"duration": "10 s", "rate": "1 /s"}, {"duration": "10 s", "rate": "2 /s"}]
    spec = arrival(None, envelope={"kind": "stages", "stages": stages}, micro={"kind": "deterministic"})
    assert times(spec, inf) == pytest.approx([*range(1, 11), *(10 + np.arange(1, 21) / 2)])


def test_a_series_comes_from_a_file(tmp_path):
    (tmp_path / "load.csv").write_text("time_s,factor\n0,1\n10,3\n20,0\n")
    keys = {"kind": "series", "file": "load.csv"}
    steps, lines = (
        arrival("1 /s", {"folder": tmp_path}, envelope={**keys, **more}, micro={"kind": "deterministic"})
        for more in ({}, {"interpolation": "linear", "repeat": True})
    )
    assert counts(times(steps, inf), 10, 40).tolist() == pytest.approx([10, 30, 0, 0], abs=1)
    assert steps.end_s == 20
    assert counts(times(lines, 40.0), 10, 40).tolist() == pytest.approx([20, 15, 20, 15], abs=1)


def test_a_week_has_mean_one_and_starts_where_told():
    values = (np.arange(336) % 48 + 1.0).tolist()
    week = arrival(envelope={"kind": "weekly", "values": values}).envelope[0].signal()
    assert week.integral(0, WEEK_S) == pytest.approx(WEEK_S)
    for start_s in (0.0, 1800.0, 100.0, 3 * 86400.0 + 5000.0, WEEK_S - 1.0, WEEK_S, WEEK_S + 900.0):
        keys = {"kind": "weekly", "values": values, "start": f"{start_s} s"}
        shifted = arrival(envelope=keys).envelope[0].signal()
        assert shifted.integral(0, WEEK_S) == pytest.approx(WEEK_S)
        for t in (0.0, 1.0, 1799.0, 1850.0, 86400.0, 600_000.0):
            assert shifted.at(t) == week.at(t + start_s)


def test_no_rate_means_no_requests_and_an_end():
    assert len(times(arrival("0 /s"), inf)) == 0
    assert len(times(arrival(envelope={"kind": "constant", "factor": 0}), inf)) == 0
    night = {"kind": "stages", "repeat": True, "stages": [{"duration": "1 h", "factor": 0}]}
    assert len(times(arrival(envelope=[DAY, night]), inf)) == 0
    gone = {"kind": "ramp", "duration": "10 s", "from": 1, "to": 0}
    assert len(times(arrival(envelope=[gone], micro={"kind": "deterministic"}), inf)) == 50


def test_memory_stays_bounded_over_years():
    """A minute's profile over 30 years is 10^9 pieces; only the window around the present is held."""
    fast = {"kind": "sinusoid", "period": "1 min", "amplitude": 1}
    first = list(islice(arrival("1 /s", envelope=[fast, STAGES]).chunks(np.random.default_rng(0), 1e9, 100), 4))
    assert [len(chunk) for chunk in first] == [1, 100, 100, 100]


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "expected one `rate`"),
        ({"rate": 10}, "expected rate with a unit"),
        ({"rate": "-1 /s"}, "at least 0"),
        ({"rate": "1 /s", "envelope": {"kind": "sinusoid", "amplitude": 1.5}}, "share from 0 to 1"),
        ({"rate": "1 /s", "envelope": {"kind": "constant", "factor": -1}}, "greater than or equal to 0"),
        ({"rate": "1 /s", "envelope": {"kind": "weekly", "values": [1.0] * 335}}, "at least 336"),
        ({"rate": "1 /s", "envelope": {"kind": "weekly", "values": [0.0] * 336}}, "not all 0"),
        ({"rate": "1 /s", "envelope": {"kind": "weekly"}}, "expected `preset`, or `values`"),
        ({"rate": "1 /s", "envelope": {"kind": "weekly", "preset": "x", "values": [1.0] * 336}}, "got both"),
        (
            {"rate": "1 /s", "envelope": {"kind": "stages", "stages": [{"duration": "1 s"}]}},
            "either `factor` or `rate`",
        ),
        (
            {"rate": "1 /s", "envelope": {"kind": "stages", "stages": [{"duration": "1 s", "rate": "1 /s"}]}},
            "expected one `rate`",
        ),
        ({"rate": "1 /s", "envelope": {"kind": "series", "file": "nowhere.csv"}}, "No such file"),
        ({"rate": "1 /s", "micro": {"kind": "gamma"}}, "Field required"),
        ({"rate": "1 /s", "micro": {"kind": "gamma", "cv": 0}}, "greater than 0"),
        ({"rate": "1 /s", "micro": {"kind": "gamma", "shape": 2}}, "Extra inputs"),
        ({"rate": "1 /s", "micro": {"kind": "weibull", "cv": 2, "shape": 0.5}}, "either `cv` or `shape`"),
        ({"rate": "1 /s", "burstiness": 2}, "Extra inputs"),
        ({"kind": "closed_loop", "users": 0}, "greater than or equal to 1"),
        ({"kind": "closed_loop", "users": 2, "think": {"dist": "exponential", "mean": 5}}, "with a unit"),
        ({"kind": "closed_loop", "users": 2, "rate": "1 /s"}, "Extra inputs"),
        ({"kind": "batch"}, "does not match any of the expected tags"),
    ],
)
def test_what_is_ambiguous_or_impossible_is_refused(keys, message):
    with pytest.raises(ValidationError) as error:
        ARRIVAL.validate_python(keys)
    assert message in str(error.value)


def test_stages_are_factors_or_rates_not_both():
    stages = [{"duration": "1 s", "rate": "1 /s"}, {"duration": "1 s", "factor": 1}]
    with pytest.raises(ValidationError, match="in all stages"):
        arrival(None, envelope={"kind": "stages", "stages": stages})


# Closed loops and bursts ------------------------------------------------------------------------------------------


def test_users_think():
    still = ARRIVAL.validate_python({"kind": "closed_loop", "users": 4})
    assert isinstance(still, ClosedLoop)
    assert (still.users, still.ramp, list(islice(still.think_times(np.random.default_rng(0)), 3))) == (4, 0, [0, 0, 0])
    fixed = ARRIVAL.validate_python({"kind": "closed_loop", "users": 4, "think": "5 s", "ramp": "1 min"})
    assert (fixed.ramp, list(islice(fixed.think_times(np.random.default_rng(0)), 3))) == (60, [5, 5, 5])
    varied = ARRIVAL.validate_python(
        {"kind": "closed_loop", "users": 4, "think": {"dist": "exponential", "mean": "5 s"}}
    )
    waits = list(islice(varied.think_times(np.random.default_rng(0)), 20_000))
    assert np.mean(waits) == pytest.approx(5, abs=4 * 5 / sqrt(20_000))
    assert np.std(waits) == pytest.approx(5, rel=0.05)


def test_kinds_are_told_apart():
    assert isinstance(arrival(), Open)
    assert isinstance(ARRIVAL.validate_python({"kind": "burst", "at": "5 s"}), Burst)


def test_the_schema_takes_the_short_forms():
    schema = ARRIVAL.json_schema()
    for keys in ({"envelope": DAY}, {"envelope": [DAY, SPIKE]}):
        jsonschema.validate({"kind": "open", "rate": "1 /s", **keys}, schema)
    for think in ("5 s", {"dist": "exponential", "mean": "5 s"}):
        jsonschema.validate({"kind": "closed_loop", "users": 3, "think": think}, schema)


# Presets ----------------------------------------------------------------------------------------------------------


def preset(name):
    shelf = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    return shelf, arrival(**shelf["arrival"], context={"library": Library(), "folder": Path()})


@pytest.mark.parametrize(
    ("name", "hour_s", "expected", "within"),
    [  # index of dispersion at 1, 10, 60, 300 s, of the trace's own profile with the same bursts inside
        ("azure-2023-conversation", 3501.7, (1.3, 3.7, 17, 55), (0.15, 0.2, 0.25, 0.15)),
        ("azure-2023-code", 3435.9, (14, 42, 177, 156), (0.1, 0.1, 0.1, 0.1)),
    ],
)
def test_presets_burst_like_the_trace(name, hour_s, expected, within):
    """At four time scales, where a renewal process of the same gap CV alone stays near 1 (WORKLOAD figures; means of 20 hours)."""
    _, spec = preset(name)
    runs = [times(spec, hour_s, seed) for seed in range(20)]
    found = [np.mean([dispersion(t_s, window_s, hour_s) for t_s in runs]) for window_s in (1, 10, 60, 300)]
    for value, wanted, share in zip(found, expected, within, strict=True):
        assert value == pytest.approx(wanted, rel=share)


@pytest.mark.parametrize("name", ["azure-2023-conversation", "azure-2023-code"])
def test_stages_of_presets_keep_the_mean_rate(name):
    _, spec = preset(name)
    stages = spec.envelope[0].stages
    total_s = sum(stage.duration for stage in stages)
    assert sum(stage.duration * stage.factor for stage in stages) / total_s == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("name", "swing", "weekend"), [("conversation", 3.7, 0.57), ("code", 37, 0.32)])
def test_weeks_of_presets_swing_as_measured(name, swing, weekend):
    shelf, spec = preset(f"azure-2024-{name}")
    week = np.array(shelf["week"])
    assert len(week) == 336
    assert week.mean() == pytest.approx(1, abs=1e-4)
    assert week.max() / week.min() == pytest.approx(swing, rel=0.02)
    assert week[240:].mean() / week[:240].mean() == pytest.approx(weekend, abs=0.005)
    signal = spec.envelope[0].signal()
    assert isinstance(signal, Signal)
    assert [signal.at(1800.0 * slot) for slot in (0, 100, 335)] == pytest.approx(week[[0, 100, 335]] / week.mean())


def test_a_preset_without_a_week_is_refused():
    with pytest.raises(ValidationError, match="which has none"):
        arrival(
            envelope={"kind": "weekly", "preset": "azure-2023-code"}, context={"library": Library(), "folder": Path()}
        )
