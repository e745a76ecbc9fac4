"""When requests arrive: a rate, times envelopes, with micro-bursts inside; or users that wait; or all at once.

Open arrivals are a renewal process with gaps of mean 1 in operational time, brought to real time by inverting the integral of the
rate (time rescaling): the expected count in any span is the integral of the rate, and the gaps' shape stays.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from math import exp, expm1, inf, lgamma, pi, sqrt
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PrivateAttr,
    ValidationInfo,
    model_validator,
)
from pydantic_core import core_schema

from simfleet.signals import Clock, Signal, read_points
from simfleet.spec import Spec, default_kind, found
from simfleet.units import Fraction, PerSecond, PositiveSeconds, Seconds

Floats = NDArray[np.float64]
Factor = Annotated[float, Field(ge=0)]

CHUNK = 4096
CHORDS = 360
"""A sinusoid is drawn as so many chords a period: off by less than 4e-5 of its amplitude."""
HALF_HOUR_S, WEEK_S, SLOTS = 1800.0, 604_800.0, 336


# Envelopes: factors on the rate, 1 = the stream's `rate` -------------------------------------------------------------


class Constant(Spec):
    """The same factor always."""

    kind: Literal["constant"]
    factor: Factor = Field(description="Times the rate")

    def signal(self) -> Signal:
        """The factor over time."""
        return Signal.constant(self.factor)


class Sinusoid(Spec):
    """1 + amplitude * cos(2 pi (t - peak) / period): mean 1 over a period."""

    kind: Literal["sinusoid"]
    period: PositiveSeconds = Field(86_400.0, description="Time from one maximum to the next")
    amplitude: Fraction = Field(description="Swing around the mean: 0.5 goes from half the rate to one and a half")
    peak: Seconds = Field(0.0, description="Time of the first maximum")

    def signal(self) -> Signal:
        """The factor over time, in chords."""
        times_s = np.linspace(0.0, self.period, CHORDS + 1)
        return Signal.lines(
            times_s, 1 + self.amplitude * np.cos(2 * pi * (times_s - self.peak) / self.period), self.period
        )


class Weekly(Spec):
    """A profile of the week in 336 half hours from Monday 00:00, divided by its mean: mean 1 over a week."""

    kind: Literal["weekly"]
    preset: str | None = Field(None, description="Workload preset whose `week` is taken; left out, `values`")
    values: tuple[Factor, ...] | None = Field(
        None,
        min_length=SLOTS,
        max_length=SLOTS,
        description="336 numbers, one for each half hour from Monday 00:00; only their relation counts",
    )
    start: Seconds = Field(0.0, description="How far into the week time 0 is: `2 d` is Wednesday 00:00")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("preset"), str):
            return values
        if "values" in values:
            raise ValueError("expected either `preset` or `values`, got both")
        shelf = found(info, "workloads", values["preset"]).data
        if "week" not in shelf:
            raise ValueError(f"expected a preset with a profile of the week, got `{values['preset']}`, which has none")
        return {**values, "values": shelf["week"]}

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.values is None or not any(self.values):
            raise ValueError("expected `preset`, or `values` that are not all 0")
        return self

    def signal(self) -> Signal:
        """The factor over time, in steps."""
        profile = np.array(self.values)
        mean = profile.mean()
        starts_s = (np.arange(SLOTS) * HALF_HOUR_S - self.start) % WEEK_S
        order = np.argsort(starts_s)
        if starts_s[order[0]] > 0:  # time 0 is inside a half hour, whose other part ends the period
            starts_s, profile, order = (
                np.append(starts_s, 0.0),
                np.append(profile, profile[order[-1]]),
                np.append(len(order), order),
            )
        return Signal.steps(starts_s[order], (profile / mean)[order], WEEK_S)


class Ramp(Spec):
    """A straight line from one factor to another, which hold before and after it."""

    kind: Literal["ramp"]
    start: Seconds = Field(0.0, description="When it begins")
    duration: PositiveSeconds = Field(description="How long it takes")
    from_factor: Factor = Field(0.0, alias="from", description="Times the rate, until `start`")
    to_factor: Factor = Field(1.0, alias="to", description="Times the rate, from `start` + `duration` on")

    def signal(self) -> Signal:
        """The factor over time."""
        return Signal.lines([self.start, self.start + self.duration], [self.from_factor, self.to_factor])


class Spike(Spec):
    """A factor for some time, and 1 before and after."""

    kind: Literal["spike"]
    at: Seconds = Field(description="When it begins")
    duration: PositiveSeconds = Field(description="How long it lasts")
    factor: Factor = Field(description="Times the rate, while it lasts")

    def signal(self) -> Signal:
        """The factor over time."""
        if self.at == 0:
            return Signal.steps([0.0, self.duration], [self.factor, 1.0])
        return Signal.steps([0.0, self.at, self.at + self.duration], [1.0, self.factor, 1.0])


class Stage(Spec):
    """One stage: how long, and its factor on the rate, or a rate of its own."""

    duration: PositiveSeconds = Field(description="How long it lasts")
    factor: Factor | None = Field(None, description="Times the rate of the arrivals; in all stages or in none")
    rate: PerSecond | None = Field(
        None, description="Requests per time, in place of the arrivals' `rate`; in all stages or in none"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.factor is None) == (self.rate is None):
            raise ValueError("expected either `factor` or `rate`")
        return self


class Stages(Spec):
    """Steps, one after the other; then nothing comes any more, or they repeat."""

    kind: Literal["stages"]
    stages: tuple[Stage, ...] = Field(min_length=1, description="One after the other, from time 0")
    repeat: bool = Field(False, description="Whether the first follows the last; else nothing comes after it")

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if len({stage.rate is None for stage in self.stages}) > 1:
            raise ValueError("expected a `factor` in all stages, or a `rate` in all")
        return self

    @property
    def absolute(self) -> bool:
        """Whether the stages give rates rather than factors."""
        return self.stages[0].rate is not None

    @property
    def end_s(self) -> float:
        """When arrivals end [s]."""
        return inf if self.repeat else sum(stage.duration for stage in self.stages)

    def signal(self) -> Signal:
        """The factor over time, or the rate where stages give rates [1/s]."""
        values = [stage.rate if stage.factor is None else stage.factor for stage in self.stages]
        ends_s = np.cumsum([stage.duration for stage in self.stages])
        return Signal.steps(
            [0.0, *ends_s[:-1]], np.array(values, dtype=float), float(ends_s[-1]) if self.repeat else None
        )


class Series(Spec):
    """Factors from a CSV file with the columns time_s, rising from 0, and factor. It ends at the last row's time, or repeats."""

    kind: Literal["series"]
    file: str = Field(description="CSV, relative to the folder of the scenario")
    interpolation: Literal["step", "linear"] = Field(
        "step", description="Between rows: the last row's factor (`step`), or a straight line"
    )
    repeat: bool = Field(False, description="Whether it begins again after the last row; else nothing comes after it")

    _points: tuple[Floats, Floats] = PrivateAttr()

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        path = Path((info.context or {}).get("folder", ".")) / self.file
        try:
            self._points = read_points(path, "factor")
        except OSError as error:
            raise ValueError(
                f"expected a file with the columns time_s and factor, got `{path}`: {error.strerror}"
            ) from None
        return self

    @property
    def end_s(self) -> float:
        """When arrivals end [s]."""
        return inf if self.repeat else float(self._points[0][-1])

    def signal(self) -> Signal:
        """The factor over time, from the file as it was when the scenario was built."""
        times_s, factors = self._points
        period_s = float(times_s[-1]) if self.repeat else None
        if self.interpolation == "linear":
            return Signal.lines(times_s, factors, period_s)
        return Signal.steps(times_s[:-1], factors[:-1], period_s)


Envelope = Constant | Sinusoid | Weekly | Ramp | Spike | Stages | Series
AnyEnvelope = Annotated[Envelope, Field(discriminator="kind")]


class _Short:
    """A pydantic annotation: a shorter way to write the same, spelled out before it is read."""

    def __init__(self, spell_out: Callable[[Any], Any], schema: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._spell_out, self._schema = spell_out, schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._spell_out, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        long = handler(schema)
        return {"anyOf": [self._schema(long), long]}


_ONE = _Short(lambda value: [value] if isinstance(value, dict | Spec) else value, lambda many: many["items"])
_DURATION = _Short(
    lambda value: {"dist": "constant", "mean": value} if isinstance(value, str) else value,
    lambda _: {"type": "string", "examples": ["5 s"]},
)


# Micro-bursts: gaps of mean 1 in operational time --------------------------------------------------------------------


class Poisson(Spec):
    """Exponential gaps: CV 1, no memory."""

    kind: Literal["poisson"] = "poisson"

    def gaps(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` gaps of mean 1."""
        return rng.standard_exponential(n)

    def first(self, rng: np.random.Generator) -> float:
        """Time to the first arrival."""
        return float(rng.standard_exponential())


class Gamma(Spec):
    """Gamma gaps with this coefficient of variation: shape 1/cv^2. Above 1 bursty, below 1 even."""

    kind: Literal["gamma"]
    cv: float = Field(gt=0, le=30, description="Standard deviation of the gaps over their mean; Poisson has 1")

    def gaps(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` gaps of mean 1."""
        return rng.standard_gamma(self.cv**-2, n) * self.cv**2

    def first(self, rng: np.random.Generator) -> float:
        """Time to the first arrival: a uniform part of a gap picked in proportion to its length."""
        return float(rng.random() * rng.standard_gamma(self.cv**-2 + 1) * self.cv**2)


class Weibull(Spec):
    """Weibull gaps: P(gap > x) = exp(-(x/scale)^shape), from their coefficient of variation or their shape (below 1 bursty)."""

    kind: Literal["weibull"]
    cv: float | None = Field(
        None, ge=0.05, le=30, description="Standard deviation of the gaps over their mean; either this or `shape`"
    )
    shape: float | None = Field(None, ge=0.2, le=25, description="Exponent, below 1 bursty; either this or `cv`")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.cv is None) == (self.shape is None):
            raise ValueError("expected either `cv` or `shape`")
        return self

    def gaps(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` gaps of mean 1."""
        return self._unit(rng.standard_exponential(n))

    def first(self, rng: np.random.Generator) -> float:
        """Time to the first arrival: a uniform part of a gap picked in proportion to its length."""
        return float(rng.random() * self._unit(rng.standard_gamma(1 + 1 / self._k, 1))[0])

    @property
    def _k(self) -> float:
        return self.shape if self.shape is not None else weibull_shape(self.cv or 1.0)

    def _unit(self, hazard: Floats) -> Floats:
        unit: Floats = hazard ** (1 / self._k) / exp(lgamma(1 + 1 / self._k))
        return unit


def weibull_shape(cv: float) -> float:
    """The shape k with CV^2 = G(1 + 2/k)/G(1 + 1/k)^2 - 1, by bisection."""
    low, high = 0.1, 100.0
    for _ in range(60):
        k = sqrt(low * high)
        squared: float = expm1(lgamma(1 + 2 / k) - 2 * lgamma(1 + 1 / k))
        low, high = (k, high) if squared > cv**2 else (low, k)
    return k


class Deterministic(Spec):
    """Even gaps in operational time; the first arrival is one gap after the start."""

    kind: Literal["deterministic"]

    def gaps(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` gaps of 1."""
        return np.ones(n)

    def first(self, rng: np.random.Generator) -> float:
        """Time to the first arrival."""
        return 1.0


AnyMicro = Annotated[Poisson | Gamma | Weibull | Deterministic, Field(discriminator="kind")]


# Arrivals -----------------------------------------------------------------------------------------------------------


class Open(Spec):
    """Requests that come whatever the fleet does: `rate` times the factors of all envelopes, with `micro` gaps inside."""

    kind: Literal["open"] = "open"
    rate: PerSecond | None = Field(None, description="Requests per time at factor 1; left out where stages give rates")
    envelope: Annotated[tuple[AnyEnvelope, ...], _ONE] = Field(
        (), description="Factors on the rate over time; those of a list are multiplied; left out, 1 always"
    )
    micro: AnyMicro = Field(Poisson(), description="How gaps between neighbours scatter, by its `kind`")

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        absolute = sum(isinstance(envelope, Stages) and envelope.absolute for envelope in self.envelope)
        if absolute + (self.rate is not None) != 1:
            raise ValueError("expected one `rate`, of the arrivals or of the stages of one envelope")
        return self

    @property
    def end_s(self) -> float:
        """When an envelope ends the arrivals [s]; inf where none does."""
        return min((envelope.end_s for envelope in self.envelope if isinstance(envelope, Stages | Series)), default=inf)

    def chunks(self, rng: np.random.Generator, limit_s: float, chunk: int = CHUNK) -> Iterator[Floats]:
        """Arrival times up to and with `limit_s`, never falling, in arrays of at most `chunk`, whose size changes no time [s]."""
        limit_s = min(limit_s, self.end_s)
        rate = 1.0 if self.rate is None else self.rate
        if rate <= 0:
            return
        clock = (
            Clock([Signal.constant(rate), *(envelope.signal() for envelope in self.envelope)], limit_s)
            if self.envelope
            else None
        )
        operational = np.array([self.micro.first(rng)])
        while True:
            times_s = clock(operational) if clock else operational / rate
            kept = (
                int(np.searchsorted(times_s, limit_s, side="right"))
                if limit_s < inf
                else int(np.isfinite(times_s).sum())
            )
            yield times_s[:kept]
            if kept < len(times_s):
                return
            gaps = self.micro.gaps(rng, chunk)
            gaps[0] += operational[-1]
            operational = np.cumsum(gaps)


class Think(Spec):
    """How long users take from an answer to the next question: always the same, or exponential."""

    dist: Literal["constant", "exponential"] = Field("constant", description="Always the mean, or exponential")
    mean: Seconds = Field(0.0, description="Mean time")

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Endless times [s]."""
        while self.dist == "exponential":
            yield from (self.mean * rng.standard_exponential(CHUNK)).tolist()
        yield from repeat(self.mean)


class ClosedLoop(Spec):
    """Users who ask, wait for the whole answer, think, and ask again: the load follows the fleet's speed."""

    kind: Literal["closed_loop"]
    users: int = Field(ge=1, le=1_000_000, description="Users at once; each has at most one request on its way")
    think: Annotated[Think, _DURATION] = Field(
        Think(),
        json_schema_extra={"default": "0 s"},
        description="Time from an answer to the next question: a duration, or a distribution",
    )
    ramp: Seconds = Field(0.0, description="Users start evenly over this time")

    def think_times(self, rng: np.random.Generator) -> Iterator[float]:
        """Endless times from an answer to the next question [s]."""
        return self.think.times(rng)


class Burst(Spec):
    """All requests of the stream at once, as many as its `count`: offline work."""

    kind: Literal["burst"]
    at: Seconds = Field(0.0, description="When all of them come")


AnyArrival = Annotated[Open | ClosedLoop | Burst, Field(discriminator="kind"), default_kind("open")]
