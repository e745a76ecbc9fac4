"""Where the numbers behind a run come from: every stored number of its devices, sites and engines."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from simfleet.facility.cost import Rent
from simfleet.hardware.profile import Profile, facts
from simfleet.report.summary import number
from simfleet.run import Run
from simfleet.signals import Signal
from simfleet.spec import Fact as Stored
from simfleet.spec import Spec
from simfleet.units import UNITS

Show = Callable[[float, str | None], str]
"""A number in SI and its dimension, if it has one -> how it is shown."""
Row = tuple[str, str, str, str, str]
"""Name, value, grade, note and source."""


class Fact(NamedTuple):
    """One number as it is shown; `source` counts the sources of its table from 1."""

    name: str
    value: str
    grade: str
    note: str
    source: int


class Facts(NamedTuple):
    """The numbers of one device, site or engine, and their sources."""

    heading: str
    rows: list[Fact]
    sources: list[str]


def sources(run: Run) -> list[Facts]:
    """A table for each device, site and engine, with the pools that it stands behind."""
    found: dict[str, tuple[Facts, list[str]]] = {}
    for name, pool in run.scenario.pools.items():
        site, engine = run.scenario.sites[pool.site], pool.engine
        for table in (
            _profile(pool.profile, rented=isinstance(pool.cost, Rent) and pool.cost.price is None),
            _specs(
                f"Site {pool.site}", (("", site, site.sources), ("cooling: ", site.overhead, site.overhead.sources))
            ),
            _specs(f"Engine {engine.preset or 'of its own'}", (("", engine, engine.sources),)),
        ):
            found.setdefault(repr(table), (table, []))[1].append(name)
    return [
        table._replace(heading=f"{table.heading} ({', '.join(pools)})") for table, pools in found.values() if table.rows
    ]


def _profile(profile: Profile, rented: bool) -> Facts:
    rows: list[Row] = [
        (name, value, fact.grade, fact.note or "", profile.sources.get(fact.source, fact.source))
        for path, fact in facts(profile)
        for name, value in numbers(path, fact)
    ]
    if rented:
        offer = profile.rent[0]
        said = f"{offer.provider}, {offer.kind}, {offer.date}"
        source = profile.sources.get(offer.source, offer.source)
        rows.append(("rent", quantity(offer.price, "dollars per hour"), "offer", said, source))
    return _table(f"Device {profile.name}", rows)


def numbers(path: str, fact: Stored[Any], show: Show | None = None) -> Iterable[tuple[str, str]]:
    """The one number of a fact with its dotted path, or all of those that were found together, as `show` (else `quantity`) has them."""
    if isinstance(fact.value, Spec):
        for key in type(fact.value).model_fields:
            yield f"{path}.{key}", _field(fact.value, key, show)
    else:
        yield path, _field(fact, "value", show)


def _specs(heading: str, parts: Iterable[tuple[str, Spec, Mapping[str, Any]]]) -> Facts:
    """Numbers of specs that keep the sources of their fields beside them."""
    rows: list[Row] = [
        (f"{prefix}{key}", _field(spec, key), said.grade, said.note or "", said.source)
        for prefix, spec, told in parts
        for key, said in told.items()
    ]
    return _table(heading, rows)


def _field(spec: Spec, key: str, show: Show | None = None) -> str:
    """The value of a field, where it is a number or one that changes in time."""
    value, dimension = getattr(spec, key, None), _dimension(type(spec), key)
    if isinstance(value, Signal):
        ends = dict.fromkeys(quantity(end, dimension) for end in (value.low, value.high))
        return " to ".join(ends)
    return (show or quantity)(value, dimension) if isinstance(value, int | float) else str(value or "")


def _table(heading: str, rows: list[Row]) -> Facts:
    known = list(dict.fromkeys(row[-1] for row in rows))
    return Facts(heading, [Fact(*row[:-1], known.index(row[-1]) + 1) for row in rows], known)


def _dimension(spec: type[Spec], field: str) -> str | None:
    """The dimension of a field that holds a quantity."""
    found = spec.model_fields.get(field)
    marks = found.metadata if found is not None else []
    return next((mark.dimension for mark in marks if getattr(mark, "dimension", None)), None)


def quantity(value: float, dimension: str | None) -> str:
    """A number in SI in the unit that people would take: 8e10 bytes as `80.0 GB`."""
    if dimension is None:
        return f"{value:.4g}"
    units = {unit: factor for unit, factor in UNITS[dimension].items() if "i" not in unit.partition("/")[0]}
    fitting = {unit: factor for unit, factor in units.items() if factor <= (abs(value) or 1.0)}
    unit = max(fitting, key=lambda name: fitting[name]) if fitting else min(units, key=lambda name: units[name])
    return (
        f"${number(value / units[unit])}{unit[1:]}" if unit.startswith("$") else f"{number(value / units[unit])} {unit}"
    )
