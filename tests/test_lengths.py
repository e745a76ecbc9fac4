"""Lengths: the parametrisations agree, draws have the mean and the quantiles that the parameters promise, limits hold."""

import gzip
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from simfleet.workload.lengths import AnyLength, Tokens

SHARED = Path(__file__).parents[2] / "shared" / "data" / "traces"
PRESETS = Path(__file__).parents[1] / "simfleet" / "library" / "workloads"
LENGTH = TypeAdapter(AnyLength)
N = 40_000


def length(dist, **keys):
    return LENGTH.validate_python({"dist": dist, **keys})


def drawn(spec, n=N, seed=1):
    return spec.draw(np.random.default_rng(seed), n)


MANY = {
    "constant": length("constant", value="2k"),
    "uniform": length("uniform", low=10, high=29),
    "lognormal": length("lognormal", median=500, sigma=0.8),
    "clipped": length("lognormal", median=500, sigma=1.5, min=100, max=2000),
    "empirical": length("empirical", quantiles={0: 3, 0.5: 1020, 0.9: 4000, 1: 14050}),
    "clipped empirical": length("empirical", quantiles={0: 3, 0.5: 1020, 0.9: 4000, 1: 14050}, min=500, max=5000),
    "clipped uniform": length("uniform", low=10, high=29, min=15, max=20),
    "uniform above its limit": length("uniform", low=10, high=29, max=8),
    "lognormal without a spread": length("lognormal", median=500, sigma=0.0),
    "empirical with a step": length("empirical", quantiles={0: 5, 0.3: 5, 1: 25}),
    "mixture": length(
        "mixture",
        parts=[
            {"weight": 3, "dist": "lognormal", "median": 500, "sigma": 0.8, "max": 900},
            {"weight": 1, "dist": "uniform", "low": 4000, "high": 6000},
        ],
        max=5000,
    ),
}


@pytest.fixture(params=MANY, ids=str)
def some(request):
    return MANY[request.param]


# Laws of every distribution ---------------------------------------------------------------------------------------


def test_the_mean_is_that_of_the_draws(some):
    lengths = drawn(some)
    assert abs(lengths.mean() - some.mean) <= 4 * lengths.std() / sqrt(N) + 0.01


def test_draws_are_whole_and_within_the_limits(some):
    lengths = drawn(some)
    assert lengths.dtype == np.int64
    assert lengths.min() >= some.min
    assert some.max is None or lengths.max() <= some.max


def test_draws_do_not_depend_on_how_many_are_asked_for_at_once(some):
    rng = np.random.default_rng(1)
    parts = np.concatenate([some.draw(rng, n) for n in (1, 7, 500, 0, 492)])
    assert parts.tolist() == drawn(some, 1000).tolist()


def test_draws_do_not_depend_on_each_other(some):
    lengths = drawn(some).astype(float)
    if lengths.std() > 0:
        assert abs(np.corrcoef(lengths[:-1], lengths[1:])[0, 1]) < 4 / sqrt(N)


# Each one ---------------------------------------------------------------------------------------------------------


def test_uniform_reaches_both_ends_equally_often():
    counts = np.bincount(drawn(MANY["uniform"]), minlength=30)[10:30]
    assert counts.sum() == N
    assert np.abs(counts - N / 20).max() < 5 * sqrt(N / 20)


def test_lognormal_is_normal_in_logarithms():
    logs = np.log(drawn(length("lognormal", mu=12, sigma=0.7)))
    assert stats.kstest(logs, stats.norm(12, 0.7).cdf).pvalue > 0.001


def test_four_ways_to_say_one_lognormal():
    mu, sigma = log(500), 0.8
    mean = exp(mu + sigma**2 / 2)
    ways = [
        length("lognormal", mu=mu, sigma=sigma),
        length("lognormal", mean=mean, std=mean * sqrt(exp(sigma**2) - 1)),
        length("lognormal", median=500, sigma=sigma),
        length("lognormal", p50=500, p95=500 * exp(1.6448536269514722 * sigma)),
    ]
    for way in ways:
        assert way.shape == pytest.approx((mu, sigma), rel=1e-12)
        assert way.mean == pytest.approx(mean, rel=1e-4)


def test_arithmetic_moments_are_those_of_the_tokens():
    lengths = drawn(length("lognormal", mean="4k", std=2000))
    assert lengths.mean() == pytest.approx(4000, abs=4 * 2000 / sqrt(N))
    assert lengths.std() == pytest.approx(2000, rel=0.05)


def test_percentiles_are_those_of_the_tokens():
    lengths = drawn(length("lognormal", p50=1000, p95=9000))
    assert np.mean(lengths <= 1000) == pytest.approx(0.5, abs=4 * sqrt(0.25 / N))
    assert np.mean(lengths <= 9000) == pytest.approx(0.95, abs=4 * sqrt(0.05 * 0.95 / N))


def test_a_heavy_tail_stays_a_number():
    lengths = drawn(length("lognormal", mu=10, sigma=20))
    assert lengths.min() == 1
    assert lengths.max() == 10**9


def test_mixture_takes_parts_by_weight():
    share = np.mean(drawn(MANY["mixture"]) >= 4000)
    assert share == pytest.approx(0.25, abs=4 * sqrt(0.25 * 0.75 / N))


def test_limits_of_a_part_come_before_those_of_the_mixture():
    lengths = drawn(MANY["mixture"])
    assert not ((lengths > 900) & (lengths < 4000)).any()
    assert np.mean(lengths == 5000) == pytest.approx(0.125, abs=0.01)


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=12), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_empirical_quantiles_are_kept(values, seed):
    shares = np.linspace(0, 1, len(values)).tolist()
    spec = length("empirical", quantiles=dict(zip(shares, sorted(map(float, values)), strict=True)))
    lengths = drawn(spec, 2000, seed)
    assert lengths.min() >= min(values)
    assert lengths.max() <= max(values)
    for share, value in spec.quantiles.items():
        below, upto = np.mean(lengths < value), np.mean(lengths <= value)
        assert below - share < 5 * sqrt(0.25 / 2000)
        assert share - upto < 5 * sqrt(0.25 / 2000) + 1 / max(1, min(np.diff([*sorted(values)])) or 1)


def test_quantiles_as_yaml_writes_them():
    keys = {"0": 3, "0.5": "1k", "1": 2000}
    assert length("empirical", quantiles=keys).quantiles == {0.0: 3, 0.5: 1000, 1.0: 2000}


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dist": "lognormal", "median": 500, "std": 100}, "exactly one pair"),
        ({"dist": "lognormal", "mean": 500, "sigma": 0.8}, "got mean, sigma"),
        ({"dist": "lognormal", "mu": 6, "sigma": 0.8, "median": 500}, "got median, mu, sigma"),
        ({"dist": "lognormal"}, "got none"),
        ({"dist": "lognormal", "p50": 500, "p95": 400}, "p95 of at least p50"),
        ({"dist": "lognormal", "median": 0.0, "sigma": 1}, "whole number of at least 1"),
        ({"dist": "lognormal", "mean": "12 B", "std": 1}, "12 B"),
        ({"dist": "constant", "value": 0}, "at least 1, such as"),
        ({"dist": "constant", "value": 2.5}, "whole number"),
        ({"dist": "uniform", "low": 20, "high": 10}, "high of at least low"),
        ({"dist": "constant", "value": 5, "min": 9, "max": 8}, "max of at least min"),
        ({"dist": "empirical", "quantiles": {0: 1, 0.5: 5}}, "from 0 to 1, both given"),
        ({"dist": "empirical", "quantiles": {0: 1, 0.5: 5, 1: 4}}, "never fall, got 4 after 5"),
        ({"dist": "empirical", "quantiles": {}}, "got none"),
        ({"dist": "mixture", "parts": []}, "at least 1 item"),
        ({"dist": "mixture", "parts": [{"dist": "constant", "value": 5}]}, "a weight on each part, got none on part 0"),
        ({"dist": "mixture", "parts": [{"weight": 0, "dist": "constant", "value": 5}]}, "greater than 0"),
        ({"dist": "normal", "mean": 5}, "does not match any of the expected tags"),
    ],
)
def test_what_is_ambiguous_or_impossible_is_refused(keys, message):
    with pytest.raises(ValidationError) as error:
        LENGTH.validate_python(keys)
    assert message in str(error.value)


def test_a_weight_outside_a_mixture_is_refused():
    one = {"dist": "constant", "value": 5}
    with pytest.raises(ValidationError, match="weight in the parts"):
        Tokens.model_validate({"input": {**one, "weight": 1}, "output": one})


# Against the real traces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "short"), [("conversation", "conv"), ("code", "code")])
def test_presets_have_the_lengths_of_the_trace(name, short):
    """Kolmogorov-Smirnov distances as the presets' notes state them, plus sampling error."""
    file = SHARED / f"AzureLLMInferenceTrace_{short}.csv.gz"
    if not file.exists():
        pytest.skip("the Azure traces are not here")
    tokens = Tokens.model_validate(yaml.safe_load((PRESETS / f"azure-2023-{name}.yaml").read_text())["tokens"])
    with gzip.open(file, "rt") as lines:
        real = np.loadtxt(lines, delimiter=",", skiprows=1, usecols=(1, 2))
    for column, spec in enumerate((tokens.input, tokens.output)):
        grid = np.arange(real[:, column].max() + 1)
        cdfs = [
            np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (real[:, column], drawn(spec, 200_000))
        ]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 0.042
        assert spec.mean == pytest.approx(real[:, column].mean(), rel=0.07)
