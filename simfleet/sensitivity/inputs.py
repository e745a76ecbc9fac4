"""Every assumption that can move an answer, with the two values to try: from workload, devices, servers, sites and prices."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from typing import Any, Literal, NamedTuple

from simfleet.document import did_you_mean
from simfleet.facility.cost import Own
from simfleet.facility.site import Site
from simfleet.hardware.operators import NATIVE
from simfleet.hardware.profile import Collective, OneKernel, PowerConstants, Profile
from simfleet.pool import Pool
from simfleet.records import Account, PoolLedger
from simfleet.report.cost import over
from simfleet.report.validity import ESTIMATE_FACTOR
from simfleet.scenario import Scenario
from simfleet.sensitivity.edits import Edit, Path, faster, longer, multiplied
from simfleet.spec import Fact

ANSWERS = ("energy", "cost")
RANGES: dict[str, float] = {
    "datasheet": 0.05,  # peaks and rates that devices of one type reach within a few percent
    "measured": 0.05,  # boards of one type differ by so much
    "calibrated": 0.10,  # fits miss rows that were left out by a median of 5 to 10 %
    "estimate": 0.30,  # what scaled watts are held to (report/validity.py)
    "workload": 0.20,  # next year's requests
    "setting": 0.20,  # the user's own choice: whether it matters at all
    "site": 0.30,  # of PUE - 1: buildings and seasons of one operator differ so
    "price": 0.30,  # contracts differ by so much; rents of one device by more
}
"""Where a number comes from -> how far it is moved down and up, as a share of it. Step times that are all estimates: ESTIMATE_FACTOR."""

TIMES = (
    "launch_factor", "experts_factor", "compute_factor", "memory_factor",
    "host", "per_sequence", "eager_layer", "eager_narrow", "eager_collective",
)  # fmt: skip
"""Fields of an engine in which the time of a step is linear, collectives left out."""
WAITS, SHARES = ("t0", "per_device", "fill"), ("low", "high", "one_shot", "two_shots")
"""The same of a collective, whose time is inverse in the latter."""
EQUATION = {"busy": "W", "per_byte": "J/B", "per_flop": "J/FLOP", "per_activation": "J/element", "scale": "x"}
"""Power constants of a step, where no watts of it were measured."""
OVERHEAD = ("electrical", "fixed", "mechanical", "per_degree", "cap")
OWN = {
    "server_share": "", "network": "$", "network_share": "", "spares": "", "rate": "", "years": "years", "facility": "$/W",
    "facility_years": "years", "provisioned": "W", "upkeep": "",
}  # fmt: skip
"""What an owner assumes, beside the prices of device and server."""

Stage = Literal["times", "joules", "wall", "rates"]
"""What an input changes first. `times` need a simulation each; `joules` of several devices share one; `wall` and `rates` need none."""


class Books(NamedTuple):
    """What a simulation leaves behind of which answers are made."""

    pools: list[PoolLedger]
    accounts: list[Account]
    duration_s: float


class Input(NamedTuple):
    """One assumption: the values to try, in SI units, and the edits of a scenario for each. Pools that share it move together.

    `constant` is the name without its device's. `of` gives what a value of 1 is in the plain run, where it is a factor.
    """

    name: str
    value: float
    unit: str
    low: float
    high: float
    origin: str
    source: str
    stage: Stage
    edits: Mapping[str, tuple[Edit, ...]]
    pools: tuple[str, ...] = ()
    constant: str = ""
    of: Callable[[Books], float] | None = None


def inputs(scenario: Scenario, what: str) -> tuple[list[Input], list[str]]:
    """Every assumption that can move the answer "energy" or "cost", and notes on what was left out. Raises ValueError for another word."""
    if what not in ANSWERS:
        raise ValueError(f"expected one of {', '.join(ANSWERS)}, got `{what}`{did_you_mean(what, ANSWERS)}")
    capped = _capped(scenario)
    drawing = {n: p for n, p in scenario.pools.items() if what == "energy" or capped or p.cost.metered}
    items = list(_workload(scenario))
    for name, pool in scenario.pools.items():
        items += _speed(name, pool)
        items += _watts(name, pool) if name in drawing else []
        items += _money(name, pool) if what == "cost" else []
    for site in dict.fromkeys(pool.site for pool in drawing.values()):
        items.append(_overhead(site, scenario.sites[site]))
        if what == "cost" and any(pool.cost.metered for pool in drawing.values() if pool.site == site):
            items += _electricity(site, scenario.sites[site], scenario.horizon)
    items = [item._replace(stage=_stage(scenario, what, item.stage, capped)) for item in items]
    named = _told_apart(_together(items))
    still = [item.name for item in named if item.low == item.high]
    notes = [f"nothing to move a share of: {', '.join(still)}"] if still else []
    return [item for item in named if item.name not in still], _notes(scenario, drawing) + notes


def _notes(scenario: Scenario, drawing: Iterable[str]) -> list[str]:
    streams = [stream.name for stream in scenario.workload.streams if faster(stream, 1.0) is None]
    notes = [f"the rate of {', '.join(streams)} cannot be scaled, and stays"] if streams else []
    rented = [name for name in scenario.pools if name not in drawing]
    if rented:
        notes.append(
            f"electricity is in the rent of {', '.join(rented)}: watts, servers and sites do not move its cost"
        )
    return notes


# -- how an input is tried ------------------------------------------------------------------------------------------------


def _capped(scenario: Scenario) -> bool:
    """Whether a limit above the devices' own holds, so that watts change times."""
    pools = any(pool.power_cap is not None or pool.power_limit is not None for pool in scenario.pools.values())
    return pools or any(site.power_limit is not None or site.rack is not None for site in scenario.sites.values())


def _stage(scenario: Scenario, what: str, stage: Stage, capped: bool) -> Stage:
    """Whether what could be had from the plain run has to be simulated all the same."""
    sites = [scenario.sites[pool.site] for pool in scenario.pools.values()]
    together = capped or (what == "cost" and any(site.demand_charge for site in sites))
    changing = any(site.pue is None and not site.overhead.wet_bulb_c.is_constant for site in sites)
    changing |= what == "cost" and not all(site.electricity_price.is_constant for site in sites)
    simulated = (stage == "joules" and together) or (stage == "wall" and (together or changing))
    return "times" if simulated else stage


def _together(items: Iterable[Input]) -> list[Input]:
    """What has the same name and values is one assumption."""
    merged: dict[tuple[Any, ...], Input] = {}
    for item in items:
        key = (item.name, item.value, item.low, item.high, item.origin)
        first = merged.get(key)
        if first is not None:
            edits = {way: first.edits[way] + item.edits[way] for way in item.edits}
            item = item._replace(pools=first.pools + item.pools, edits=edits)  # noqa: PLW2901
        merged[key] = item
    return list(merged.values())


def _told_apart(items: list[Input]) -> list[Input]:
    """Pools are named where one name has several values."""
    names = [item.name for item in items]
    return [i._replace(name=f"{i.name} ({', '.join(i.pools)})") if names.count(i.name) > 1 else i for i in items]


def _number(
    name: str, value: float, unit: str, origin: str, source: str, stage: Stage, path: Path, pool: str = "", beyond: float = 0.0,
    least: float = 0.0, most: float = inf,
) -> Input:  # fmt: skip
    """One number at a path: what it is `beyond` some value moves as far as its origin says, from `least` to `most`."""
    low, high = (max(least, min(most, beyond + (value - beyond) * (1 + sign * RANGES[origin]))) for sign in (-1, 1))
    edits: dict[str, tuple[Edit, ...]] = {"down": ((path, low),), "up": ((path, high),)}
    return Input(name, value, unit, low, high, origin, source, stage, edits, (pool,) if pool else ())


def _fact(
    pool: str, profile: Profile, constant: str, unit: str, stage: Stage, fact: Fact[float], where: Path, beyond: float = 0.0,
    least: float = 0.0, most: float = inf,
) -> Input:  # fmt: skip
    """A stored number of a device."""
    name, path = f"{profile.name}: {constant}", ("pools", pool, "profile", *where, "value")
    source = profile.sources.get(fact.source, fact.source)
    found = _number(name, fact.value, unit, fact.grade, source, stage, path, pool, beyond, least, most)
    return found._replace(constant=constant)


def _factor(
    name: str, unit: str, origin: str, source: str, stage: Stage, edits: Callable[[float], Iterable[Edit]], pool: str = "",
    span: tuple[float, float] | None = None,
) -> Input:  # fmt: skip
    """Several numbers times one factor, which is 1 in the plain run."""
    low, high = span or (1 - RANGES[origin], 1 + RANGES[origin])
    moved = {"down": tuple(edits(low)), "up": tuple(edits(high))}
    return Input(name, 1.0, unit, low, high, origin, source, stage, moved, (pool,) if pool else ())


# -- workload -------------------------------------------------------------------------------------------------------------


def _workload(scenario: Scenario) -> Iterator[Input]:
    """Answers, requests per second and what the prefix cache holds, of all streams together."""
    streams = [(("workload", "streams", i), stream) for i, stream in enumerate(scenario.workload.streams)]
    prefixes = {here: s.tokens.shared_prefix for here, s in streams if s.tokens is not None and s.tokens.shared_prefix}

    def answers(factor: float) -> list[Edit]:
        return [_inside(here, longer(stream, factor)) for here, stream in streams]

    def arrivals(factor: float) -> list[Edit]:
        found = [(here, faster(stream, factor)) for here, stream in streams]
        return [_inside(here, edit) for here, edit in found if edit is not None]

    def cached(factor: float) -> list[Edit]:
        return [((*here, "tokens", "shared_prefix"), round(tokens * factor)) for here, tokens in prefixes.items()]

    kind: tuple[str, str, Stage] = ("workload", "scenario", "times")
    yield _factor("output length", "tokens", *kind, answers)._replace(of=_per_prompt("output_tokens"))
    if arrivals(1.0):
        yield _factor("request rate", "/s", *kind, arrivals)._replace(of=_per_second)
    if prefixes:
        yield _factor("prefix hits", "tokens", *kind, cached)._replace(of=_per_prompt("cached_tokens"))


def _inside(here: Path, edit: Edit) -> Edit:
    return (*here, *edit[0]), edit[1]


def _per_prompt(field: str) -> Callable[[Books], float]:
    def mean(books: Books) -> float:
        amount, prompts = (sum(getattr(a, name) for a in books.accounts) for name in (field, "prompts"))
        return over(amount, prompts) or 0.0

    return mean


def _per_second(books: Books) -> float:
    return over(sum(account.arrived for account in books.accounts), books.duration_s) or 0.0


# -- devices and servers --------------------------------------------------------------------------------------------------


def _speed(name: str, pool: Pool) -> Iterator[Input]:
    """How fast a pool's device is, how long its steps take beyond that, and how many sequences its engine batches."""
    profile, engine = pool.profile, pool.engine
    yield _fact(name, profile, "memory bandwidth", "B/s", "times", profile.memory.bandwidth, ("memory", "bandwidth"))
    yield from _peaks(name, pool)
    guessed = all(fact.grade == "estimate" for fact in profile.step.gemm.values()) and profile.step.sustained is None
    yield _factor(
        f"{profile.name}: step times", "x", "estimate" if guessed else "calibrated", "docs/hardware.md" if guessed else "docs/accuracy.md",
        "times", lambda factor: _slower(name, pool, factor), name, (1 / ESTIMATE_FACTOR, ESTIMATE_FACTOR) if guessed else None,
    )  # fmt: skip
    known, path = engine.sources.get("max_sequences"), ("pools", name, "engine", "max_sequences")
    source = known.source if known is not None else "given"
    limit = _number(
        "batch limit", engine.max_sequences, "sequences", "setting", source, "times", path, name,
        least=1.0, most=engine.token_budget,
    )  # fmt: skip
    low, high = round(limit.low), round(limit.high)
    yield limit._replace(low=low, high=high, edits={"down": ((path, low),), "up": ((path, high),)})


def _peaks(name: str, pool: Pool) -> Iterator[Input]:
    """The peaks of all formats, moved together; shown is that of the pool's arithmetic."""
    flops = pool.profile.flops
    shown = flops.get(NATIVE.get(pool.precision.activations, "bf16")) or next(iter(flops.values()))
    moved = _fact(name, pool.profile, "peak arithmetic", "FLOP/s", "times", shown, ())

    def edits(value: float) -> tuple[Edit, ...]:
        return tuple(
            (("pools", name, "profile", "flops", kind, "value"), fact.value * value / shown.value)
            for kind, fact in flops.items()
        )

    yield moved._replace(edits={"down": edits(moved.low), "up": edits(moved.high)})


def _slower(name: str, pool: Pool, factor: float) -> Iterator[Edit]:
    """All that a step waits for `factor` times as long: kernels, the host, and collectives."""
    here = ("pools", name)
    yield from (((*here, "engine", field), getattr(pool.engine, field) * factor) for field in TIMES)
    for kind in type(pool.profile.step).model_fields:
        fact = getattr(pool.profile.step, kind)
        if isinstance(fact, Fact) and isinstance(fact.value, Collective | OneKernel):
            path = (*here, "profile", "step", kind, "value")
            known = {field for field in (*WAITS, *SHARES) if hasattr(fact.value, field)}
            yield from (((*path, field), getattr(fact.value, field) * factor) for field in WAITS if field in known)
            yield from (((*path, field), getattr(fact.value, field) / factor) for field in SHARES if field in known)


def _watts(name: str, pool: Pool) -> Iterator[Input]:
    """What a pool's devices draw, and what their servers add."""
    profile, power, server = pool.profile, pool.profile.power, pool.profile.server
    tables = [
        i for i, t in enumerate(power.measured) if (t.model, t.devices) == (pool.network.name, pool.parallel.devices)
    ]
    for number in tables[:1]:
        yield _measured_watts(name, profile, number)
    facts = {} if tables else {field: getattr(power, field) for field in EQUATION}
    for field, fact in facts.items():
        if fact is not None:
            yield _fact(name, profile, f"power.{field}", EQUATION[field], "joules", fact, ("power", field))
    for field, (least, most) in _bounds(power).items():
        fact = getattr(power, field)
        yield _fact(name, profile, f"power.{field}", "W", "joules", fact, ("power", field), least=least, most=most)
    yield _fact(name, profile, "server.host", "W", "wall", server.host, ("server", "host"))
    yield _fact(name, profile, "server.factor", "x", "wall", server.factor, ("server", "factor"), beyond=1.0)


def _measured_watts(name: str, profile: Profile, number: int) -> Input:
    """The table of board watts that stands in place of the equation."""
    table, path = profile.power.measured[number], ("pools", name, "profile", "power", "measured", number, "watts")
    constant, source = f"measured watts of {table.model}", profile.sources.get(table.source, table.source)

    def edits(factor: float) -> list[Edit]:
        return [(path, {rows: watts * factor for rows, watts in table.watts.items()})]

    found = _factor(f"{profile.name}: {constant}", "x", table.grade, source, "joules", edits, name)
    return found._replace(constant=constant)


def _bounds(power: PowerConstants) -> dict[str, tuple[float, float]]:
    """idle <= gap <= limit, as a profile must have them."""
    idle, gap, limit = power.idle.value, power.gap.value, power.limit.value
    return {"idle": (0.0, gap), "gap": (idle, limit), "limit": (gap, inf)}


# -- sites and money ------------------------------------------------------------------------------------------------------


def _overhead(name: str, site: Site) -> Input:
    """What a site adds to a joule: PUE - 1, or all shares of its overhead together."""
    known = site.sources.get("pue") if site.pue is not None else site.overhead.sources.get("overhead")
    source = known.source if known is not None else "given"
    if site.pue is not None:
        return _number(f"{name}: PUE", site.pue, "", "site", source, "wall", ("sites", name, "pue"), beyond=1.0)

    def edits(factor: float) -> list[Edit]:
        return [(("sites", name, "overhead", field), getattr(site.overhead, field) * factor) for field in OVERHEAD]

    found = _factor(f"{name}: PUE at full load", "", "site", source, "wall", edits)
    low, high = (1 + (site.design_pue - 1) * factor for factor in (found.low, found.high))
    return found._replace(value=site.design_pue, low=low, high=high)


def _electricity(name: str, site: Site, horizon_s: float | None) -> Iterator[Input]:
    """What a site asks for a joule, by its mean price where it changes, and for its highest quarter of an hour."""
    known, signal = site.sources.get("electricity_price"), site.electricity_price
    source, path = known.source if known is not None else "given", ("sites", name, "electricity_price")
    end_s = signal.period_s or horizon_s or 1.0
    mean = signal.low if signal.is_constant else signal.integral(0.0, end_s) / end_s
    price = _number(f"{name}: electricity price", mean, "$/J", "price", source, "wall", path)
    down, up = (((path, multiplied(signal, 1 + sign * RANGES["price"])),) for sign in (-1, 1))
    yield price._replace(edits={"down": down, "up": up})
    if site.demand_charge:
        path = ("sites", name, "demand_charge")
        yield _number(f"{name}: demand charge", site.demand_charge, "$/W-month", "price", "given", "times", path)


def _money(name: str, pool: Pool) -> Iterator[Input]:
    """What a pool's devices cost."""
    cost, profile, path = pool.cost, pool.profile, ("pools", name, "cost")
    if isinstance(cost, Own):
        yield from _prices(name, profile, cost)
        for field, unit in _owners(profile, cost).items():
            origin, source = ("price", "given") if field in cost.model_fields_set else ("estimate", "docs/cost.md")
            label = f"own: {field.replace('_', ' ')}"
            yield _number(label, getattr(cost, field), unit, origin, source, "rates", (*path, field), name)
        return
    offer = profile.rent[0] if cost.price is None else None
    price = offer.price if offer is not None else cost.price or 0.0
    source = f"{offer.provider}, {offer.kind}, {offer.date}" if offer is not None else "given"
    yield _number(f"{profile.name}: rent", price, "$/h", "price", source, "rates", (*path, "price"), name)


def _prices(name: str, profile: Profile, cost: Own) -> Iterator[Input]:
    """Purchase prices of a device and its server, given or the profile's."""
    for field in ("device", "server"):
        label, given = f"{field} price", getattr(cost, field)
        fact = getattr(profile.own, field) if profile.own is not None else None
        included = field == "server" and profile.own is not None and profile.own.includes_server
        if given is not None:
            path = ("pools", name, "cost", field)
            yield _number(f"{profile.name}: {label}", given, "$", "price", "given", "rates", path, name)
        elif fact is not None and not included:
            yield _fact(name, profile, label, "$", "rates", fact, ("own", field))


def _owners(profile: Profile, cost: Own) -> dict[str, str]:
    """Of OWN, what plays a part: not the share of a price that is known, nor what is zero or left to others."""
    unused = {"network" if cost.network is None else "network_share"}
    if cost.server is not None or (profile.own and (profile.own.includes_server or profile.own.server)):
        unused.add("server_share")
    return {field: unit for field, unit in OWN.items() if field not in unused and getattr(cost, field)}
