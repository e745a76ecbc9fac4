"""Streams of requests and the service classes they belong to: the `workload` section of a scenario."""

from collections.abc import Callable, Iterator
from itertools import islice, repeat
from math import inf
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from simfleet.document import did_you_mean
from simfleet.spec import Named, Spec, found, only, preset, refusal
from simfleet.streams import Streams
from simfleet.units import Fraction, PositiveSeconds
from simfleet.workload.arrivals import CHUNK, SLOTS, AnyArrival, Burst, Factor, Open
from simfleet.workload.lengths import Tokens
from simfleet.workload.models import Model
from simfleet.workload.traces import Trace

MOST_AT_ONCE = 10_000_000

Request = tuple[float, int, int]
"""Arrival [s], input tokens, output tokens."""


class ServiceClass(Spec):
    """What users of a class expect. A request keeps its targets when it meets every one that is given."""

    ttft: PositiveSeconds | None = Field(None, description="Most time to the first token; left out, any")
    tpot: PositiveSeconds | None = Field(
        None, description="Most time per output token after the first, mean of an answer; left out, any"
    )
    e2e: PositiveSeconds | None = Field(None, description="Most time to the last token; left out, any")
    target: Fraction = Field(0.95, description="Share of requests that should meet all of these")


class WorkloadPreset(Spec):
    """A workload preset: what a stream may start from."""

    description: str = Field("", description="For people")
    source: str = Field("", description="Where the figures were read or fitted; for people")
    licence: str = Field("", description="Terms of that source; for people")
    note: str = Field("", description="How they were fitted, and how well; for people")
    arrival: AnyArrival | None = Field(None, description="Arrivals of a stream that starts from it")
    tokens: Tokens | None = Field(None, description="Lengths of such a stream; left out, the stream gives its own")
    week: tuple[Factor, ...] | None = Field(
        None,
        min_length=SLOTS,
        max_length=SLOTS,
        description="336 numbers, one for each half hour from Monday 00:00, for envelopes of kind `weekly` that name it",
    )


class Stream(Spec):
    """One independent source of requests: arrivals, prompt and answer lengths, each with a random stream of its own."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(
        min_length=1,
        description="One word, without dots; names its random numbers, and `--set workload.streams.NAME...`",
    )
    model: Annotated[Model, Named("models")] = Field(description="Which model it asks; a pool has to serve it")
    service_class: str | None = Field(
        None, alias="class", description="Name under `classes`; left out, its requests have no targets"
    )
    tenant: str | None = Field(
        None, min_length=1, description="Who pays: a group of its own in the report; left out, none"
    )
    region: str | None = Field(
        None,
        description="Where the clients are; every site that serves them names it in `network_latency`; left out, no latency",
    )
    preset: str | None = Field(
        None,
        description="Workload preset to start from: its `arrival` and `tokens`, with the keys given here laid over",
    )
    arrival: AnyArrival | None = Field(None, description="When requests come, by its `kind`; not beside a `trace`")
    tokens: Tokens | None = Field(None, description="How long prompts and answers are; not beside a `trace`")
    trace: Trace | None = Field(None, description="Recorded arrivals and lengths, in place of `arrival` and `tokens`")
    count: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Most requests; left out, until the `horizon` or the end of arrivals; needed for a `burst`",
    )
    timeout: PositiveSeconds | None = Field(None, description="Clients hang up this long after asking; left out, never")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("preset"), str):
            return values
        preset(values, info, "workloads")  # so that errors in the preset's part name its file
        document = found(info, "workloads", values["preset"])
        only(document, WorkloadPreset)
        shelf = document.data
        taken = {key: _laid_over(shelf[key], values.get(key)) for key in ("arrival", "tokens") if key in shelf}
        return {**values, **taken}

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if "." in name or name.split() != [name]:
            raise ValueError(f"expected a name without dots and spaces, got `{name}`")
        return name

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.trace is not None and (self.arrival is not None or self.tokens is not None):
            raise ValueError("expected either `trace`, or `arrival` and `tokens`, got both")
        if self.trace is None and (self.arrival is None or self.tokens is None):
            missing = [f"`{key}`" for key in ("arrival", "tokens") if getattr(self, key) is None]
            raise ValueError(f"expected `arrival` and `tokens`, or a `trace`; missing: {' and '.join(missing)}")
        if isinstance(self.arrival, Burst) and self.count is None:
            raise ValueError("expected a `count` beside a burst")
        if isinstance(self.arrival, Burst) and (self.count or 0) > MOST_AT_ONCE:
            raise ValueError(f"expected at most {MOST_AT_ONCE:,} requests at once, got {self.count:,}")
        return self

    @property
    def endless(self) -> bool:
        """Whether only the scenario's horizon ends it."""
        if self.trace is not None or self.count is not None:
            return False
        return not (isinstance(self.arrival, Open) and self.arrival.end_s < inf)

    def requests(self, streams: Streams, horizon_s: float) -> Iterator[Request]:
        """Requests in order of arrival, up to and with `horizon_s`, at most `count`; made as they are asked for.

        Not for closed loops, whose times depend on the answers: raises TypeError.
        """
        if self.trace is not None:
            return islice(self.trace.requests(streams, self.name, horizon_s), self.count)
        if isinstance(self.arrival, Burst):
            times = repeat(self.arrival.at, (self.count or 0) if self.arrival.at <= horizon_s else 0)
            return ((time_s, *tokens) for time_s, tokens in zip(times, self.lengths(streams), strict=False))
        if not isinstance(self.arrival, Open):
            raise TypeError(f"stream `{self.name}` is a closed loop: its times depend on the answers")
        return islice(self._open(self.arrival, streams, horizon_s), self.count)

    def lengths(self, streams: Streams) -> Iterator[tuple[int, int]]:
        """Endless (input, output) tokens, the same ones that `requests` takes. Raises TypeError for a trace."""
        draw = self._draw(streams)
        while True:
            yield from zip(*draw(CHUNK), strict=True)

    def _open(self, arrival: Open, streams: Streams, horizon_s: float) -> Iterator[Request]:
        draw = self._draw(streams)
        for times_s in arrival.chunks(streams("arrivals", self.name), horizon_s):
            yield from zip(times_s.tolist(), *draw(len(times_s)), strict=True)

    def _draw(self, streams: Streams) -> Callable[[int], tuple[list[int], list[int]]]:
        """A function that gives the next n input and output lengths."""
        if self.tokens is None:
            raise TypeError(f"stream `{self.name}` replays a trace: its lengths come with its times")
        tokens, inputs, outputs = self.tokens, streams("input", self.name), streams("output", self.name)
        return lambda n: (tokens.input.draw(inputs, n).tolist(), tokens.output.draw(outputs, n).tolist())


def _laid_over(base: dict[str, Any], own: Any) -> Any:
    """A preset's mapping with a user's keys laid over; the user's alone where it is of another kind."""
    if own is None:
        return base
    if not isinstance(own, dict) or own.get("kind", "open") != base.get("kind", "open"):
        return own
    return {**base, **own}


class Workload(Spec):
    """All that is asked of the fleet."""

    classes: dict[str, ServiceClass] = Field(
        default_factory=dict, description="Name -> what users of the class expect; a stream names its `class`"
    )
    streams: tuple[Stream, ...] = Field(min_length=1, description="Sources of requests")

    @model_validator(mode="after")
    def _together(self) -> Self:
        names = [stream.name for stream in self.streams]
        twice = [
            (("streams", i, "name"), f"another stream is named `{name}` too")
            for i, name in enumerate(names)
            if name in names[:i]
        ]
        unknown = [(("streams", number, "class"), message) for number, message in self.unknown_classes()]
        if twice or unknown:
            raise refusal(twice + unknown)
        return self

    def unknown_classes(self) -> Iterator[tuple[int, str]]:
        """(stream number, message) of every class that is not declared."""
        for number, stream in enumerate(self.streams):
            if stream.service_class is not None and stream.service_class not in self.classes:
                yield (
                    number,
                    f"unknown class `{stream.service_class}`{did_you_mean(stream.service_class, list(self.classes))}",
                )
