"""How many tokens a request brings and asks for: distributions of lengths, whole and at least 1."""

from abc import abstractmethod
from itertools import pairwise
from math import erf, exp, isfinite, log, pi, sqrt
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator, model_validator

from simfleet.spec import Spec
from simfleet.units import Count
from simfleet.units import Tokens as Whole

Floats = NDArray[np.float64]

MOST_TOKENS = 10**9
"""No draw is longer, whatever a distribution's tail."""
Z95 = 1.6448536269514722
"""The 95th percentile of the standard normal distribution."""


def _amount(value: Any, whole: ValidatorFunctionWrapHandler) -> float:
    return value if isinstance(value, float) and value > 0 and isfinite(value) else float(whole(value))


Amount = Annotated[
    float, Count(), WrapValidator(_amount),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "examples": ["128k"]}]}),
]  # fmt: skip
"""Tokens of a parameter: need not be whole, since only draws are rounded."""


class Length(Spec):
    """What all distributions share. A draw is rounded, then clipped: beyond `min` or `max` it becomes that limit."""

    weight: PositiveFloat | None = Field(
        None, description="In a mixture only: share of this part, relative to the other parts"
    )
    min: Whole = Field(1, description="Shorter draws become this long")
    max: Whole | None = Field(None, description="Longer draws become this long; left out, no limit")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"expected max of at least min, got min {self.min} and max {self.max}")
        return self

    @property
    def limits(self) -> tuple[int, int]:
        """The shortest and the longest length that can be drawn."""
        return self.min, MOST_TOKENS if self.max is None else min(self.max, MOST_TOKENS)

    @property
    def uniforms(self) -> int:
        """How many uniform numbers a draw uses up."""
        return 1

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """`n` lengths. Every draw uses the same count of random numbers, so two draws of n/2 are one of n."""
        values = np.clip(self.values(rng.random((n, self.uniforms))), *self.limits)
        return np.rint(values).astype(np.int64)

    @property
    def mean(self) -> float:
        """Expected length after clipping, before rounding [tokens]."""
        return self.clipped_mean(*self.limits)

    @abstractmethod
    def values(self, u: Floats) -> Floats:
        """Draws before rounding and clipping, from uniform numbers of shape (draws, uniforms)."""

    @abstractmethod
    def clipped_mean(self, low: float, high: float) -> float:
        """Expected value of min(max(X, low), high) [tokens]."""


class Constant(Length):
    """Always the same."""

    dist: Literal["constant"]
    value: Whole = Field(description="Every length")

    @property
    def uniforms(self) -> int:
        return 0

    def values(self, u: Floats) -> Floats:
        return np.full(len(u), float(self.value))

    def clipped_mean(self, low: float, high: float) -> float:
        return min(max(self.value, low), high)


class Uniform(Length):
    """Every whole number from `low` to `high`, both included, equally often."""

    dist: Literal["uniform"]
    low: Whole = Field(description="Shortest length")
    high: Whole = Field(description="Longest length")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.high < self.low:
            raise ValueError(f"expected high of at least low, got low {self.low} and high {self.high}")
        return self

    def values(self, u: Floats) -> Floats:
        values: Floats = np.floor(self.low + u[:, 0] * (self.high - self.low + 1))
        return values

    def clipped_mean(self, low: float, high: float) -> float:
        first, last = max(self.low, low), min(self.high, high)
        if first > last:
            return low if self.high < low else high
        below, above = first - self.low, self.high - last
        inside = last - first + 1
        return (below * low + above * high + inside * (first + last) / 2) / (below + inside + above)


class LogNormal(Length):
    """ln X is normal. Exactly one pair says how.

    - mu, sigma: mean and standard deviation of ln X
    - mean, std: of X itself; sigma^2 = ln(1 + std^2/mean^2), mu = ln(mean) - sigma^2/2
    - median, sigma: mu = ln(median)
    - p50, p95: mu = ln(p50), sigma = ln(p95/p50)/1.645
    """

    PAIRS: ClassVar = (("mu", "sigma"), ("mean", "std"), ("median", "sigma"), ("p50", "p95"))

    dist: Literal["lognormal"]
    mu: float | None = Field(None, le=20, description="Mean of ln X")
    sigma: float | None = Field(None, ge=0, le=20, description="Standard deviation of ln X")
    arithmetic_mean: Amount | None = Field(None, alias="mean", description="Mean of X")
    std: Amount | None = Field(None, description="Standard deviation of X")
    median: Amount | None = Field(None, description="Median of X")
    p50: Amount | None = Field(None, description="Median of X")
    p95: Amount | None = Field(None, description="95th percentile of X")

    @model_validator(mode="after")
    def _one_pair(self) -> Self:
        named = {"mean": self.arithmetic_mean} | {
            name: getattr(self, name) for pair in self.PAIRS for name in pair if name != "mean"
        }
        given = {name for name, value in named.items() if value is not None}
        if given not in [set(pair) for pair in self.PAIRS]:
            pairs = " or ".join(f"({first}, {second})" for first, second in self.PAIRS)
            raise ValueError(f"expected exactly one pair of {pairs}, got {', '.join(sorted(given)) or 'none'}")
        if self.p50 and self.p95 and self.p95 < self.p50:
            raise ValueError(f"expected p95 of at least p50, got p50 {self.p50:g} and p95 {self.p95:g}")
        return self

    @property
    def uniforms(self) -> int:
        return 2

    @property
    def shape(self) -> tuple[float, float]:
        """Mean and standard deviation of ln X, whichever pair was given."""
        if self.arithmetic_mean and self.std:
            variance = log(1 + (self.std / self.arithmetic_mean) ** 2)
            return log(self.arithmetic_mean) - variance / 2, sqrt(variance)
        if self.p50 and self.p95:
            return log(self.p50), log(self.p95 / self.p50) / Z95
        return log(self.median) if self.median else self.mu or 0.0, self.sigma or 0.0

    def values(self, u: Floats) -> Floats:
        mu, sigma = self.shape
        normal = np.sqrt(-2 * np.log1p(-u[:, 0])) * np.cos(2 * pi * u[:, 1])  # Box and Muller, 1958
        values: Floats = np.exp(mu + sigma * normal)
        return values

    def clipped_mean(self, low: float, high: float) -> float:
        mu, sigma = self.shape
        if sigma == 0:
            return min(max(exp(mu), low), high)
        below, above = (_normal_cdf((log(limit) - mu) / sigma) for limit in (low, high))
        inner = [_normal_cdf((log(limit) - mu) / sigma - sigma) for limit in (low, high)]
        return low * below + exp(mu + sigma**2 / 2) * (inner[1] - inner[0]) + high * (1 - above)


class Empirical(Length):
    """Straight lines between quantiles, such as {0: 3, 0.5: 1020, 0.95: 4000, 1: 14050}; 0 and 1 are required."""

    dist: Literal["empirical"]
    quantiles: dict[Annotated[float, Field(ge=0, le=1)], Amount] = Field(
        description="Share of requests, from 0 to 1 -> longest length among them"
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        shares, values = self.points
        if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1:
            raise ValueError(
                f"expected quantiles from 0 to 1, both given, got {', '.join(f'{share:g}' for share in shares) or 'none'}"
            )
        for before, after in pairwise(values):
            if after < before:
                raise ValueError(f"expected quantiles that never fall, got {after:g} after {before:g}")
        return self

    @property
    def points(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Shares from 0 to 1 and the lengths there, in order of share."""
        shares = tuple(sorted(self.quantiles))
        return shares, tuple(self.quantiles[share] for share in shares)

    def values(self, u: Floats) -> Floats:
        return np.interp(u[:, 0], *self.points)

    def clipped_mean(self, low: float, high: float) -> float:
        shares, values = self.points
        inner = [_clipped_line(*ends, low, high) for ends in pairwise(values)]
        return float(np.dot(np.diff(shares), inner))


class Mixture(Length):
    """Each draw comes from one of the parts, chosen by weight; a part's own limits apply before the mixture's."""

    dist: Literal["mixture"]
    parts: tuple[Annotated[Constant | Uniform | LogNormal | Empirical, Field(discriminator="dist")], ...] = Field(
        min_length=1, description="Distributions, each with a `weight`"
    )

    @model_validator(mode="after")
    def _weighted(self) -> Self:
        missing = [number for number, part in enumerate(self.parts) if part.weight is None]
        if missing:
            raise ValueError(f"expected a weight on each part, got none on part {missing[0]}")
        return self

    @property
    def uniforms(self) -> int:
        return 1 + max(part.uniforms for part in self.parts)

    @property
    def shares(self) -> Floats:
        """Probability of each part."""
        weights = np.array([part.weight for part in self.parts], dtype=float)
        shares: Floats = weights / weights.sum()
        return shares

    def values(self, u: Floats) -> Floats:
        part_of = np.searchsorted(np.cumsum(self.shares)[:-1], u[:, 0], side="right")
        values = np.empty(len(u))
        for number, part in enumerate(self.parts):
            chosen = part_of == number
            values[chosen] = np.clip(part.values(u[chosen, 1:]), *part.limits)
        return values

    def clipped_mean(self, low: float, high: float) -> float:
        limits = [[min(max(limit, low), high) for limit in part.limits] for part in self.parts]
        return float(
            sum(
                share * part.clipped_mean(*both)
                for share, part, both in zip(self.shares, self.parts, limits, strict=True)
            )
        )


AnyLength = Annotated[Constant | Uniform | LogNormal | Empirical | Mixture, Field(discriminator="dist")]


class Tokens(Spec):
    """Lengths of a stream's requests: tokens of the prompt, and tokens generated; drawn independently."""

    input: AnyLength = Field(description="Lengths of prompts, by their `dist`")
    output: AnyLength = Field(description="Lengths of answers, by their `dist`")
    shared_prefix: Annotated[int, Field(ge=0)] = Field(
        0, description="First tokens of every prompt that the prefix cache holds already; whole blocks count"
    )

    @model_validator(mode="after")
    def _unweighted(self) -> Self:
        if self.input.weight is not None or self.output.weight is not None:
            raise ValueError("expected a weight in the parts of a mixture only")
        return self


def _normal_cdf(z: float) -> float:
    return (1 + erf(z / sqrt(2))) / 2


def _clipped_line(start: float, end: float, low: float, high: float) -> float:
    """Mean of min(max(x, low), high) with x uniform from `start` to `end`."""
    if start == end:
        return min(max(start, low), high)
    first, last = (min(max(value, low), high) for value in (start, end))
    below, above = max(0.0, min(low, end) - start), max(0.0, end - max(high, start))
    return (below * low + above * high + (end - start - below - above) * (first + last) / 2) / (end - start)
