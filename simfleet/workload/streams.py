"""Streams of requests and the service classes they belong to: the `workload` section of a scenario."""

from collections.abc import Iterator
from itertools import islice, repeat
from math import inf
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from simfleet.spec import Named, Spec, did_you_mean, preset
from simfleet.streams import Streams
from simfleet.units import Fraction, PositiveSeconds
from simfleet.workload.arrivals import AnyArrival, Burst, ClosedLoop, Open
from simfleet.workload.lengths import TokenCounts, draws
from simfleet.workload.models import Model
from simfleet.workload.traces import Trace

Request = tuple[float, int, int]
"""Arrival [s], input tokens, output tokens."""


class ServiceClass(Spec):
    """What users of a class expect. A request keeps its targets when it meets every one that is given."""

    ttft: PositiveSeconds | None = Field(None, description="Time to first token")
    tpot: PositiveSeconds | None = Field(None, description="Time per output token after the first")
    e2e: PositiveSeconds | None = Field(None, description="Time to the last token")
    target: Fraction = Field(0.95, description="Wanted share of requests that keep them")


class Stream(Spec):
    """One independent source of requests. Arrivals, prompt and answer lengths have random streams of their own."""

    model_config = ConfigDict(populate_by_name=True)

    name: str
    model: Annotated[Model, Named("models")]
    service_class: str | None = Field(None, alias="class")
    region: str | None = Field(None, description="Where the clients are; a site's `network_latency` names it")
    preset: str | None = Field(None, description="Workload to start from; keys given here replace its keys")
    arrival: AnyArrival | None = None
    tokens: TokenCounts | None = None
    trace: Trace | None = None
    count: int | None = Field(None, ge=1, description="Most requests")
    timeout: PositiveSeconds | None = Field(None, description="Clients hang up this long after asking")
    source: str | None = None
    note: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any, info: ValidationInfo) -> Any:
        named = isinstance(values, dict) and isinstance(values.get("preset"), str)
        return {**preset(values, info, "workloads"), "preset": values["preset"]} if named else values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.trace is not None and (self.arrival is not None or self.tokens is not None):
            raise ValueError("expected either `trace`, or `arrival` and `tokens`, got both")
        if self.trace is None and (self.arrival is None or self.tokens is None):
            raise ValueError("expected `arrival` and `tokens`, or `trace`, or a `preset` that has them")
        if isinstance(self.arrival, Burst) and self.count is None:
            raise ValueError("expected a `count` beside a burst")
        return self

    @property
    def endless(self) -> bool:
        """Whether only the scenario's horizon ends it."""
        return self.trace is None and self.count is None and not (isinstance(self.arrival, Open) and self.arrival.end_s < inf)

    def requests(self, streams: Streams, horizon_s: float) -> Iterator[Request]:
        """Requests in order of arrival, before `horizon_s`; made as they are asked for. Not for closed loops."""
        if self.trace is not None:
            requests = self.trace.requests(streams, self.name, horizon_s)
        else:
            lengths = self.lengths(streams)
            requests = ((time, *next(lengths)) for time in self._times(streams, horizon_s))
        return islice(requests, self.count)

    def _times(self, streams: Streams, horizon_s: float) -> Iterator[float]:
        if isinstance(self.arrival, Burst):
            return repeat(self.arrival.at) if self.arrival.at < horizon_s else iter(())
        if isinstance(self.arrival, ClosedLoop) or self.arrival is None:
            raise TypeError(f"stream `{self.name}` has no arrival times of its own")
        return self.arrival.times(streams("arrivals", self.name), horizon_s)

    def lengths(self, streams: Streams) -> Iterator[tuple[int, int]]:
        """Endless (input, output) tokens."""
        if self.tokens is None:
            raise TypeError(f"stream `{self.name}` replays a trace")
        return zip(
            draws(self.tokens.input, streams("input", self.name)), draws(self.tokens.output, streams("output", self.name)), strict=True
        )


class Workload(Spec):
    """All that is asked of the fleet."""

    classes: dict[str, ServiceClass] = {}
    streams: tuple[Stream, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [stream.name for stream in self.streams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"expected streams with different names, got `{name}` {names.count(name)} times")
        return self

    def unknown_classes(self) -> Iterator[tuple[int, str]]:
        """(stream number, message) of every class that is not declared."""
        for number, stream in enumerate(self.streams):
            if stream.service_class is not None and stream.service_class not in self.classes:
                yield number, f"unknown class `{stream.service_class}`{did_you_mean(stream.service_class, list(self.classes))}"
