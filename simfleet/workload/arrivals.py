"""When requests come: a rate envelope times micro-bursts, users in a closed loop, or all at once.

Open arrivals are a renewal process with gaps of mean 1 in operational time, mapped to real time through the inverse of the
integrated rate (time-rescaling): the envelope gives the slow swings, the gaps the burstiness within.
"""

from collections.abc import Iterator
from math import gamma, inf, isfinite, pi
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, model_validator

from simfleet.signals import Signal
from simfleet.spec import Spec, default_kind, preset
from simfleet.units import PerSecond, PositiveSeconds, Seconds

CHUNK = 4096
WEEK_S, HALF_HOUR_S = 604_800.0, 1800.0
FOREVER_S = 1e10  # a rate that has been zero for this long stays zero
Array = NDArray[np.float64]


# -- envelopes: factors on the rate --------------------------------------------------------------------------------------


class Envelope(Spec):
    """A factor on the rate that changes in time. After `end_s` nothing comes any more."""

    @property
    def end_s(self) -> float:
        return inf

    def signal(self, end_s: float) -> Signal:
        """The factor from 0 to at least `end_s` [s]."""
        raise NotImplementedError


class Constant(Envelope):
    """The same factor all the time."""

    kind: Literal["constant"]
    factor: float = Field(1.0, ge=0)

    def signal(self, end_s: float) -> Signal:
        return Signal([0.0], [self.factor])


class Sinusoid(Envelope):
    """1 + amplitude * cos(2*pi*(t - peak) / period): mean 1 over a period. Drawn with 96 straight lines."""

    kind: Literal["sinusoid"]
    period: PositiveSeconds
    amplitude: float = Field(ge=0, le=1)
    peak: Seconds = 0.0

    def signal(self, end_s: float) -> Signal:
        times = np.linspace(0.0, self.period, 97)
        return Signal(times, 1 + self.amplitude * np.cos(2 * pi * (times - self.peak) / self.period), self.period)


class Weekly(Envelope):
    """336 half-hours from Monday 00:00, scaled to mean 1; the simulation starts at `start` in the week."""

    kind: Literal["weekly"]
    preset: str | None = None
    factors: tuple[float, ...] = Field(min_length=336, max_length=336)
    start: Seconds = 0.0
    source: str | None = None
    note: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any, info: ValidationInfo) -> Any:
        named = isinstance(values, dict) and isinstance(values.get("preset"), str)
        return {**preset(values, info, "workloads"), "preset": values["preset"]} if named else values

    def signal(self, end_s: float) -> Signal:
        shift, within = divmod(self.start % WEEK_S, HALF_HOUR_S)
        factors = np.roll(np.array(self.factors) / np.mean(self.factors), -int(shift))
        times = np.concatenate([[0.0], HALF_HOUR_S - within + HALF_HOUR_S * np.arange(335 + (within > 0))])
        return Signal.steps(times, np.append(factors, factors[:1])[: len(times)], WEEK_S)


class Ramp(Envelope):
    """From factor `from` at `start` in a straight line to `to`, `duration` later."""

    kind: Literal["ramp"]
    start: Seconds = 0.0
    duration: PositiveSeconds
    low: float = Field(ge=0, alias="from")
    high: float = Field(ge=0, alias="to")

    def signal(self, end_s: float) -> Signal:
        times = [0.0, self.start, self.start + self.duration]
        return Signal(times, [self.low, self.low, self.high])


class Spike(Envelope):
    """`factor` for `duration` from `at` on, 1 before and after."""

    kind: Literal["spike"]
    at: Seconds
    duration: PositiveSeconds
    factor: float = Field(ge=0)

    def signal(self, end_s: float) -> Signal:
        return Signal.steps([0.0, self.at, self.at + self.duration], [1.0, self.factor, 1.0])


class Stage(Spec):
    """A factor held for a while."""

    duration: PositiveSeconds
    factor: float = Field(ge=0)


class Stages(Envelope):
    """One factor after the other; after the last nothing comes any more."""

    kind: Literal["stages"]
    stages: tuple[Stage, ...] = Field(min_length=1)

    @property
    def end_s(self) -> float:
        return sum(stage.duration for stage in self.stages)

    def signal(self, end_s: float) -> Signal:
        times = np.cumsum([0.0, *(stage.duration for stage in self.stages)])
        return Signal.steps(times, [*(stage.factor for stage in self.stages), 0.0])


class Series(Envelope):
    """Factors from a CSV file with the columns `time_s` and `factor`, as steps or straight lines; nothing comes after the last row."""

    kind: Literal["series"]
    file: str
    interpolation: Literal["step", "linear"] = "step"
    points: tuple[tuple[float, float], ...] = Field((), exclude=True, json_schema_extra={"readOnly": True})

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("file"), str) or "points" in values:
            return values
        folder = (info.context or {}).get("folder")
        path = folder / values["file"] if folder is not None else values["file"]
        try:
            with open(path, encoding="utf-8") as file:
                return {**values, "points": tuple(_series(file.read().splitlines(), values["file"]))}
        except OSError as error:
            raise ValueError(f"no such file: {values['file']}" if isinstance(error, FileNotFoundError) else str(error)) from None

    @property
    def end_s(self) -> float:
        return self.points[-1][0]

    def signal(self, end_s: float) -> Signal:
        times, factors = np.array(self.points).T
        return Signal.steps(times, factors) if self.interpolation == "step" else Signal(times, factors)


def _series(lines: list[str], name: str) -> Iterator[tuple[float, float]]:
    """Rows of a series file. Raises ValueError naming file and row."""
    if not lines or [cell.strip() for cell in lines[0].split(",")] != ["time_s", "factor"]:
        raise ValueError(f"{name}:1: expected the columns time_s,factor, got `{lines[0] if lines else 'nothing'}`")
    before = -inf
    for number, line in enumerate(lines[1:], 2):
        try:
            time_s, factor = (float(cell) for cell in line.split(","))
        except ValueError:
            raise ValueError(f"{name}:{number}: expected two numbers, got `{line}`") from None
        if not isfinite(time_s) or not isfinite(factor) or factor < 0 or time_s <= before or (number == 2 and time_s != 0):
            raise ValueError(f"{name}:{number}: expected times that rise from 0 and factors of at least 0, got `{line}`")
        before = time_s
        yield time_s, factor


AnyEnvelope = Annotated[Constant | Sinusoid | Weekly | Ramp | Spike | Stages | Series, Field(discriminator="kind")]


# -- micro-bursts: gaps of mean 1 ----------------------------------------------------------------------------------------


class Poisson(Spec):
    """Exponential gaps: independent users."""

    kind: Literal["poisson"] = "poisson"

    def gaps(self, rng: np.random.Generator, n: int) -> Array:
        return rng.standard_exponential(n)


class Gamma(Spec):
    """Gamma gaps with coefficient of variation `cv` (shape 1/cv^2): above 1 burstier than Poisson."""

    kind: Literal["gamma"]
    cv: float = Field(gt=0, le=100)

    def gaps(self, rng: np.random.Generator, n: int) -> Array:
        return rng.gamma(self.cv**-2, self.cv**2, n)


class Weibull(Spec):
    """Weibull gaps with coefficient of variation `cv`."""

    kind: Literal["weibull"]
    cv: float = Field(ge=0.05, le=20)

    @property
    def shape(self) -> float:
        """k with Gamma(1 + 2/k) / Gamma(1 + 1/k)^2 = 1 + cv^2, by bisection."""
        low, high = 0.1, 100.0
        for _ in range(200):
            k = (low * high) ** 0.5
            low, high = (k, high) if gamma(1 + 2 / k) / gamma(1 + 1 / k) ** 2 > 1 + self.cv**2 else (low, k)
        return k

    def gaps(self, rng: np.random.Generator, n: int) -> Array:
        return rng.weibull(self.shape, n) / gamma(1 + 1 / self.shape)


class Deterministic(Spec):
    """Even gaps."""

    kind: Literal["deterministic"]

    def gaps(self, rng: np.random.Generator, n: int) -> Array:
        return np.ones(n)


AnyMicro = Annotated[Poisson | Gamma | Weibull | Deterministic, Field(discriminator="kind"), default_kind("poisson")]


# -- arrivals ------------------------------------------------------------------------------------------------------------


class Open(Spec):
    """Requests that come whatever the fleet does: `rate` (at factor 1) x envelopes, with `micro` gaps."""

    kind: Literal["open"] = "open"
    rate: PerSecond
    envelope: tuple[AnyEnvelope, ...] = Field((), description="One or a list; their factors multiply")
    micro: AnyMicro = Poisson()

    @model_validator(mode="before")
    @classmethod
    def _one_envelope(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("envelope"), dict):
            return {**values, "envelope": [values["envelope"]]}
        return values

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.rate <= 0:
            raise ValueError("expected a rate above 0")
        return self

    @property
    def end_s(self) -> float:
        """When the last envelope has ended [s]."""
        return min((envelope.end_s for envelope in self.envelope), default=inf)

    def rate_signal(self, end_s: float) -> Signal:
        """Requests per second from 0 to `end_s`: the product of rate and envelopes, straight between their points."""
        signals = [envelope.signal(end_s) for envelope in self.envelope]
        times = np.unique(np.concatenate([[0.0, end_s], *(signal.points(end_s) for signal in signals)]))
        right, left = np.full(len(times), self.rate), np.full(len(times), self.rate)
        for signal in signals:
            right, left = right * signal.at(times), left * signal.before(times)
        points = np.column_stack([left, right]).ravel()[1:]
        return Signal(np.repeat(times, 2)[1:], points)

    def times(self, rng: np.random.Generator, limit_s: float) -> Iterator[float]:
        """Arrival times before `limit_s`, rising [s]."""
        end_s, operational = min(limit_s, self.end_s), 0.0
        span_s, signal = 0.0, Signal([0.0], [self.rate])
        if self.envelope:
            span_s = min(4 * CHUNK / self.rate, end_s)
            signal = self.rate_signal(span_s)
        while True:
            sums = operational + np.cumsum(self.micro.gaps(rng, CHUNK))
            operational = float(sums[-1])
            while self.envelope and span_s < min(end_s, FOREVER_S) and signal.integral(0.0, span_s) < operational:
                span_s = min(2 * span_s, end_s)
                signal = self.rate_signal(span_s)
            times = signal.inverse(sums) if self.envelope else sums / self.rate
            times = times[times < end_s] if not self.envelope or span_s < end_s else times[times < span_s]
            yield from times.tolist()
            if len(times) < CHUNK:
                return


class ClosedLoop(Spec):
    """`users` who each ask, wait for the whole answer, think, and ask again. They start evenly over `ramp`."""

    kind: Literal["closed_loop"]
    users: int = Field(gt=0)
    think: Seconds = 0.0
    think_distribution: Literal["constant", "exponential"] = "constant"
    ramp: Seconds = 0.0

    def think_times(self, rng: np.random.Generator) -> Iterator[float]:
        """Endless times between an answer and the next question [s]."""
        while True:
            constant = self.think_distribution == "constant" or not self.think
            yield from ([self.think] * CHUNK if constant else (self.think * rng.standard_exponential(CHUNK)).tolist())


class Burst(Spec):
    """All requests of the stream at once: offline work. The stream's `count` says how many."""

    kind: Literal["burst"]
    at: Seconds = 0.0


AnyArrival = Annotated[Open | ClosedLoop | Burst, Field(discriminator="kind"), default_kind("open")]
