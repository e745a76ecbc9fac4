"""Lengths of prompts and answers, in tokens."""

from collections.abc import Iterator
from math import erf, exp, log, sqrt
from statistics import NormalDist
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from simfleet.spec import Spec
from simfleet.units import Fraction, Tokens

CHUNK = 4096
Lengths = NDArray[np.int64]


class Constant(Spec):
    """Every one the same."""

    dist: Literal["constant"]
    value: Tokens

    def draw(self, rng: np.random.Generator, n: int) -> Lengths:
        """`n` lengths [tokens]."""
        return np.full(n, self.value, dtype=np.int64)

    @property
    def mean(self) -> float:
        return float(self.value)


class Uniform(Spec):
    """Any whole number from `low` to `high`, both included."""

    dist: Literal["uniform"]
    low: Tokens
    high: Tokens

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.high < self.low:
            raise ValueError(f"expected low <= high, got {self.low} and {self.high}")
        return self

    def draw(self, rng: np.random.Generator, n: int) -> Lengths:
        """`n` lengths [tokens]."""
        return rng.integers(self.low, self.high, n, endpoint=True)

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2


class Lognormal(Spec):
    """Logarithms are normal. Give exactly one pair: `mu, sigma` of the logarithm, `mean, std` of the lengths themselves, `median,
    sigma`, or the percentiles `p50, p95`. Draws outside `min` .. `max` are moved to the bound."""  # fmt: skip

    dist: Literal["lognormal"]
    mu: float | None = None
    sigma: float | None = Field(None, gt=0)
    mean_tokens: float | None = Field(None, gt=0, alias="mean")
    std: float | None = Field(None, gt=0)
    median: float | None = Field(None, gt=0)
    p50: float | None = Field(None, gt=0)
    p95: float | None = Field(None, gt=0)
    min: Tokens = 1
    max: Tokens | None = None

    @model_validator(mode="after")
    def _one_pair(self) -> Self:
        names = ("mu", "sigma", "mean_tokens", "std", "median", "p50", "p95")
        given = {name.removesuffix("_tokens") for name in names if getattr(self, name) is not None}
        if given not in ({"mu", "sigma"}, {"mean", "std"}, {"median", "sigma"}, {"p50", "p95"}):
            got = ", ".join(sorted(given)) or "none"
            raise ValueError(f"expected exactly one of (mu, sigma), (mean, std), (median, sigma), (p50, p95), got {got}")
        if self.p50 is not None and self.p95 is not None and self.p95 <= self.p50:
            raise ValueError(f"expected p50 < p95, got {self.p50:g} and {self.p95:g}")
        return self

    @property
    def log_moments(self) -> tuple[float, float]:
        """mu and sigma of the logarithm, whichever way they were given."""
        if self.mean_tokens is not None and self.std is not None:
            variance = log(1 + (self.std / self.mean_tokens) ** 2)
            return log(self.mean_tokens) - variance / 2, sqrt(variance)
        if self.p50 is not None and self.p95 is not None:
            return log(self.p50), log(self.p95 / self.p50) / NormalDist().inv_cdf(0.95)
        mu = self.mu if self.mu is not None else log(self.median or 1.0)
        return mu, self.sigma or 0.0

    def draw(self, rng: np.random.Generator, n: int) -> Lengths:
        """`n` lengths [tokens]."""
        mu, sigma = self.log_moments
        lengths = np.rint(np.exp(mu + sigma * rng.standard_normal(n)))
        return np.clip(lengths, self.min, self.max or 10**9).astype(np.int64)

    @property
    def mean(self) -> float:
        """Mean after clipping at `max` (the bound at `min` and rounding to whole tokens are left out)."""
        mu, sigma = self.log_moments
        whole = exp(mu + sigma**2 / 2)
        if self.max is None:
            return whole
        z = (log(self.max) - mu) / sigma
        return whole * _normal_cdf(z - sigma) + self.max * (1 - _normal_cdf(z))


class Empirical(Spec):
    """Between the given quantiles, a straight line: {0: 3, 0.5: 1020, 0.99: 4000, 1: 14050}."""

    dist: Literal["empirical"]
    quantiles: dict[Fraction, float] = Field(min_length=2)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        shares = sorted(self.quantiles)
        values = [self.quantiles[share] for share in shares]
        if shares[0] != 0 or shares[-1] != 1 or values != sorted(values) or values[0] < 1:
            raise ValueError("expected quantiles from 0 to 1 with values of at least 1 that do not fall")
        return self

    def draw(self, rng: np.random.Generator, n: int) -> Lengths:
        """`n` lengths [tokens]."""
        shares = sorted(self.quantiles)
        return np.rint(np.interp(rng.random(n), shares, [self.quantiles[share] for share in shares])).astype(np.int64)

    @property
    def mean(self) -> float:
        shares = sorted(self.quantiles)
        return float(np.trapezoid([self.quantiles[share] for share in shares], shares))


class Part(Spec):
    """One component of a mixture: a share of the weights, and the keys of its distribution."""

    weight: float = Field(gt=0)
    of: "AnyLength"


class Mixture(Spec):
    """Each length comes from one of the parts, chosen by weight."""

    dist: Literal["mixture"]
    parts: tuple[Part, ...] = Field(min_length=1)
    min: Tokens = 1
    max: Tokens | None = None

    @property
    def weights(self) -> NDArray[np.float64]:
        """Shares of the parts; they sum to 1."""
        weights = np.array([part.weight for part in self.parts])
        return np.asarray(weights / weights.sum())

    def draw(self, rng: np.random.Generator, n: int) -> Lengths:
        """`n` lengths [tokens]."""
        which = np.searchsorted(np.cumsum(self.weights)[:-1], rng.random(n), side="right")
        lengths = np.choose(which, [part.of.draw(rng, n) for part in self.parts])
        return np.clip(lengths, self.min, self.max or 10**9)

    @property
    def mean(self) -> float:
        """Mean before the mixture's own bounds."""
        return float(sum(weight * part.of.mean for weight, part in zip(self.weights, self.parts, strict=True)))


AnyLength = Annotated[Constant | Uniform | Lognormal | Empirical | Mixture, Field(discriminator="dist")]
Part.model_rebuild()


class TokenCounts(Spec):
    """Prompt and answer of a request."""

    input: AnyLength
    output: AnyLength


def draws(length: AnyLength, rng: np.random.Generator) -> Iterator[int]:
    """Endless lengths, drawn some thousands at a time."""
    while True:
        yield from length.draw(rng, CHUNK).tolist()


def _normal_cdf(z: float) -> float:
    return (1 + erf(z / sqrt(2))) / 2
