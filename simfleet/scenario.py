"""What the user writes: one frozen Scenario, checked as a whole before anything runs."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    model_validator,
)

from simfleet.document import Document, Mark, Problem, SpecError, did_you_mean, overlay, override, read
from simfleet.facility.caps import Bound, Caps
from simfleet.facility.site import Site
from simfleet.library import Library
from simfleet.pool import Complaint, Pool
from simfleet.serving.routing import AnyRouting, RoundRobin
from simfleet.spec import Spec, build, default_kind, refusal
from simfleet.units import PositiveSeconds, Seconds
from simfleet.workload.streams import Stream, Workload

DEFAULT_SITE = "us-virginia"


def _or_text(schema: dict[str, Any]) -> None:
    """A JSON Schema that also takes a text."""
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "examples": ["p95 <= 1 s"]}, mapping]


class Wanted(Spec):
    """What a metric is held to, such as `p95 <= 1 s`; the text alone is an error where it is missed."""

    model_config = ConfigDict(json_schema_extra=_or_text)

    expect: str = Field(description="Percentile where there are any, comparison and number: `p95 <= 1 s`, `>= 99 %`")
    level: Literal["error", "warn"] = Field(
        "error", description="Whether `simfleet check` fails where it is missed (`error`), or only says so"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"expect": value} if isinstance(value, str) else value


Targets = dict[str, tuple[Wanted, ...]]
"""Metric with tags -> what is wanted of it (simfleet.gate reads them)."""


class Scenario(Spec):
    """One simulation, complete. `horizon` is when arrivals end; with `drain` the run goes on until all have their answers."""

    name: str = Field(description="Name for reports")
    description: str = Field("", description="One line for reports and `simfleet scenarios`")
    horizon: PositiveSeconds | None = Field(
        None, description="When arrivals end; needed where a stream never ends by itself"
    )
    drain: bool = Field(
        True, description="Whether the run goes on until all requests have their answers; else it ends with the horizon"
    )
    warmup: Seconds = Field(0.0, description="Requests that arrive before are left out of latency and attainment")
    workload: Workload = Field(description="What is asked")
    sites: dict[str, Site] = Field({}, description=f"Name -> place where pools stand; left out, one: `{DEFAULT_SITE}`")
    pools: dict[str, Pool] = Field(min_length=1, description="Name -> equal replicas on one kind of device")
    routing: Annotated[AnyRouting, default_kind("round_robin")] = Field(
        RoundRobin(), description="Which replica of a model a request goes to, by its `kind`"
    )
    variants: dict[str, dict[str, Any]] = Field(
        {}, description="Name -> dotted path -> value, laid over the rest with `--variant NAME`"
    )
    targets: Targets = Field(
        {}, exclude=True, description="Metric, such as `ttft{class=chat}` -> what `simfleet check` holds it to"
    )
    _document: Document = PrivateAttr()
    _library: Library = PrivateAttr()

    @model_validator(mode="wrap")
    @classmethod
    def _from_data(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Fill in the one site, and keep what was written, so that `replace` can start from it."""
        if not isinstance(values, dict):
            return handler(values)
        context = info.context or {}
        library = context.get("library") or Library()
        scenario = handler(_with_sites(values, library))
        scenario._document = context.get("document") or Document.from_data(values)
        scenario._library = library
        return scenario

    @model_validator(mode="after")
    def _together(self) -> Self:
        complaints = [*self._pool_complaints(), *self._stream_complaints()]
        complaints += [] if complaints else self._power_complaints()
        if self.horizon is not None and self.warmup >= self.horizon:
            complaints.append(
                (("warmup",), f"expected less than the horizon ({self.horizon:g} s), got {self.warmup:g} s")
            )
        if complaints:
            raise refusal(complaints)
        return self

    def _pool_complaints(self) -> Iterator[Complaint]:
        for name, pool in self.pools.items():
            if pool.site not in self.sites:
                what = f"unknown site `{pool.site}`" if pool.site else "missing, expected the name of a site"
                yield ("pools", name, "site"), what + did_you_mean(pool.site, self.sites)
            for location, message in pool.complaints():
                yield ("pools", name, *location), message

    def _power_complaints(self) -> Iterator[Complaint]:
        """Whether every limit leaves each device what it draws awake and without work, and files reach to the end of the arrivals."""
        end_s = inf if self.horizon is None else self.horizon
        for name, site in self.sites.items():
            if site.known_until_s < end_s < inf:
                yield (
                    ("sites", name),
                    f"a file ends after {site.known_until_s:g} s, before the horizon of {end_s:g} s: give `repeat`, or more rows",
                )
        caps, seen = Caps(self.pools, self.sites), set()
        for time_s in caps.times(end_s):
            for name, pool in self.pools.items():
                for bound in caps.bounds(name, time_s):
                    if bound.watts < pool.profile.power.gap.value and bound.path not in seen:
                        seen.add(bound.path)
                        yield bound.path, _too_little(bound, time_s)

    def _stream_complaints(self) -> Iterator[Complaint]:
        served = {pool.network.name: None for pool in self.pools.values()}
        for number, stream in enumerate(self.workload.streams):
            here = ("workload", "streams", number)
            if stream.model.name not in served:
                yield (*here, "model"), f"no pool serves `{stream.model.name}`{did_you_mean(stream.model.name, served)}"
            if stream.endless and self.horizon is None:
                needed = "expected a `horizon` such as `10 min` for the scenario, or a `count`"
                yield here, f"{needed}: stream `{stream.name}` never ends by itself"
            yield from ((here + location, message) for location, message in self._region_complaints(stream))

    def _region_complaints(self, stream: Stream) -> Iterator[Complaint]:
        """Every site that may serve the stream has to know how far its clients are."""
        names = {
            pool.site: None
            for pool in self.pools.values()
            if pool.network.name == stream.model.name and pool.site in self.sites
        }
        for name in names if stream.region is not None else ():
            regions = self.sites[name].network_latency
            if stream.region not in regions:
                known = did_you_mean(str(stream.region), regions) or "; it has none"
                yield ("region",), f"unknown region `{stream.region}` in network_latency of site `{name}`{known}"

    @property
    def assumptions(self) -> list[str]:
        """What was not written and taken for granted, one sentence each."""
        pools = [name for name, pool in self.pools.items() if "formats" not in pool.model_fields_set]
        lines = [f"pool {name}: bf16 weights, KV and arithmetic are assumed" for name in pools]
        return lines if self._document.data.get("sites") else [f"no site is given: `{DEFAULT_SITE}` is assumed", *lines]

    @property
    def document(self) -> Document:
        """What was written, overrides laid over, with the place of everything."""
        return self._document

    def replace(self, path: str, value: Any) -> "Scenario":
        """The same scenario with one value changed, such as ("pools.chat.replicas", 8); text is plain text. Raises SpecError."""
        return built(overlay(self._document, path, value, {(): Mark("replace")}), self._library)

    def __repr__(self) -> str:
        return f"<Scenario {self.name}: {', '.join(self._in_words())}>"

    __str__ = __repr__

    def _in_words(self) -> list[str]:
        """How long, what comes and what serves it."""
        span = "until all are served" if self.horizon is None else f"{self.horizon:g} s"
        streams = ", ".join(stream.name for stream in self.workload.streams)
        pools = [f"{name} {pool.devices} x {pool.profile.name}" for name, pool in self.pools.items()]
        return [span, f"streams {streams}", *(f"pool {words}" for words in pools)]

    def _repr_html_(self) -> str:
        """For notebooks: pools and streams as tables."""
        pools = [
            (name, pool.site, pool.network.name, pool.formats.weights, pool.profile.name, pool.replicas, pool.devices)
            for name, pool in self.pools.items()
        ]
        streams = [
            (stream.name, stream.service_class or "-", stream.model.name, stream.region or "-")
            for stream in self.workload.streams
        ]
        classes = [
            (
                name,
                *(f"{limit:g} s" if limit else "-" for limit in (goal.ttft, goal.tpot, goal.e2e)),
                f"{goal.target:.1%}",
            )
            for name, goal in self.workload.classes.items()
        ]
        span = "until all are served" if self.horizon is None else f"arrivals for {self.horizon:g} s"
        return (
            f"<div><b>{escape(self.name)}</b><br>{escape(self.description)}<br>{span}"
            + _html_table(("pool", "site", "model", "weights", "device", "replicas", "devices"), pools)
            + _html_table(("stream", "class", "model", "region"), streams)
            + _html_table(("class", "TTFT", "TPOT", "E2E", "wanted"), classes)
            + "</div>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return built, (self._document, self._library)


def _html_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table for a notebook; nothing without rows."""
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{name}</th>" for name in columns)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def _too_little(bound: Bound, time_s: float) -> str:
    when = f" at {time_s:g} s" if time_s else ""
    drawn = "what is drawn with all devices awake and without work"
    return f"expected at least {bound.least_w:,.0f} W, {drawn}, got {bound.limit_w:,.0f} W{when}"


def built(document: Document, library: Library) -> Scenario:
    """The scenario of a document. Raises SpecError."""
    return build(Scenario, document, {"library": library})


def _with_sites(values: dict[str, Any], library: Library) -> dict[str, Any]:
    """Without `sites`: one, the shipped DEFAULT_SITE. Where there is one site, pools need not name it."""
    sites = values.get("sites") or {DEFAULT_SITE: library.site(DEFAULT_SITE)}
    pools = values.get("pools")
    if isinstance(pools, dict) and isinstance(sites, dict) and len(sites) == 1:
        pools = {name: _at(pool, next(iter(sites))) for name, pool in pools.items()}
    return {**values, "sites": sites, "pools": pools} if "pools" in values else {**values, "sites": sites}


def _at(pool: Any, site: str) -> Any:
    if isinstance(pool, Pool):
        return pool if pool.site else pool.model_copy(update={"site": site})
    return {**pool, "site": site} if isinstance(pool, dict) and "site" not in pool else pool


def load(
    scenario: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    variant: str | None = None,
    paths: str | Path | Iterable[str | Path] = (),
) -> Scenario:
    """A scenario from a file, a shipped name such as "quickstart", or plain data.

    overrides -- dotted path -> value, laid over the variant, which is laid over the file; text is read as YAML
    variant   -- name of one of its variants; those not asked for are not looked at (`check_variants` does)
    paths     -- folders of own profiles, models, sites and scenarios, searched before those of SIMFLEET_PATH and the shipped

    Raises SpecError with every problem at once, each with file:line:column and path.
    """
    return built(*draft(scenario, overrides, variant, paths))


def draft(
    scenario: Scenario | str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    variant: str | None = None,
    paths: str | Path | Iterable[str | Path] = (),
) -> tuple[Document, Library]:
    """What `load` builds from: the document, variant and overrides laid over, and where its names are looked up. Raises SpecError."""
    if isinstance(scenario, Scenario):
        written, library = scenario._document, scenario._library
    else:
        library = Library(tuple(map(Path, [paths] if isinstance(paths, str | Path) else paths)))
        written = _written(scenario, library)
    document = written if variant is None else _varied(written, variant)
    for path, value in dict(overrides).items():
        document = override(document, path, value)
    return document, library


def _written(scenario: str | Path | Mapping[str, Any], library: Library) -> Document:
    if isinstance(scenario, Mapping):
        return Document.from_data(scenario)
    if isinstance(scenario, Path):
        return read(scenario)
    try:
        return library.document("scenarios", scenario)
    except LookupError as error:
        if Path(scenario).exists():
            return read(Path(scenario))
        raise SpecError([Problem(Mark(scenario), "", error.args[0])]) from None


def _varied(document: Document, name: str) -> Document:
    """The document with a variant laid over; the variant's values keep their places."""
    variants = document.data.get("variants")
    changes = variants.get(name) if isinstance(variants, dict) else None
    if not isinstance(changes, dict):
        known = did_you_mean(name, variants) if isinstance(variants, dict) and variants else "; the scenario has none"
        raise SpecError([Problem(document.mark(("variants",)), "variants", f"unknown variant `{name}`{known}")])
    varied = document
    for path, value in changes.items():
        here = ("variants", name, path)
        marks = {place[3:]: mark for place, mark in document.marks.items() if place[:3] == here}
        varied = overlay(varied, path, value, {(): document.mark(here)} | marks)
    return varied


def check_variants(
    scenario: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    paths: str | Path | Iterable[str | Path] = (),
) -> Scenario:
    """The scenario as `load` gives it without a variant, once every variant has been built too. Raises SpecError with the problems of all."""
    laid = dict(overrides)
    base = load(scenario, laid, paths=paths)
    problems: dict[Problem, None] = {}
    for name, changes in base.variants.items():
        try:
            document, library = draft(scenario, laid, name, paths)
            if not any(path.startswith("workload") for path in changes):  # as it was read for the base
                document = overlay(document, "workload", base.workload, {})
            built(document, library)
        except SpecError as error:
            problems |= {
                problem._replace(message=f"{problem.message} (in variant `{name}`)"): None for problem in error.problems
            }
    if problems:
        raise SpecError(problems)
    return base
