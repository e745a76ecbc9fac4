"""What can be asked of a report: metrics by name, the tags that narrow them, their units, and where they stand in report.json."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from simfleet.document import did_you_mean
from simfleet.report.metrics import GROUPS, REGIMES, SAMPLES
from simfleet.report.summary import number, percent, seconds
from simfleet.scenario import Scenario
from simfleet.units import parse

Json = dict[str, Any]
Path = tuple[str, ...]
Better = Literal["lower", "higher"]
Known = Mapping[str, Sequence[str]]
"""Kind of group (class, pool, model, tenant) -> names that there are."""

SCOPES = ("accelerator_active", "accelerator", "node", "facility")
MEAN_SAMPLES = SAMPLES[0.5]
WHOLE = ""


@dataclass(frozen=True)
class Metric:
    """One number of the report, or one for each statistic or choice of a tag."""

    dimension: str
    """A dimension of `simfleet.units`, `share`, `number`, or `regime`."""
    better: Better | None
    paths: Mapping[str, Path]
    """Statistic ("" where there is one number only) -> keys that lead to it, in the whole report or in a group's entry."""
    groups: tuple[str, ...] = (WHOLE,)
    """Tags that may pick a group; WHOLE where none is needed."""
    choices: tuple[str, tuple[str, ...]] | None = None
    """Another tag, needed, and its values; the last key of the path."""


def _one(dimension: str, better: Better | None, *path: str, groups: tuple[str, ...] = (WHOLE, *GROUPS)) -> Metric:
    return Metric(dimension, better, {"": path}, groups)


def _scoped(*path: str) -> Metric:
    return Metric("joules", "lower", {"": path}, (WHOLE, *GROUPS), ("scope", SCOPES))


def _catalogue() -> dict[str, Metric]:
    quantiles = ("mean", *(f"p{q * 100:.0f}" for q in SAMPLES))
    served, placed = (WHOLE, "class"), (WHOLE, "pool")
    found: dict[str, Metric] = {"regime": Metric("regime", None, {"": ("regime",)})}
    for name in ("ttft", "tpot", "e2e", "queue_wait", "itl"):
        paths = {statistic: ("latency", f"{name}_s", statistic) for statistic in quantiles}
        found[name] = Metric("seconds", "lower", paths, served if name != "itl" else (WHOLE,))
    found["attainment"] = _one("share", "higher", "attainment", "overall", groups=served)
    for name in ("ttft", "tpot", "e2e", "completion"):
        found[f"attainment_{name}"] = _one("share", "higher", "attainment", name, groups=served)
    found["goodput_rps"] = _one("rate", "higher", "goodput", "goodput_rps", groups=served)
    found["goodput_tok_s"] = _one("tokens per second", "higher", "goodput", "goodput_tok_s", groups=served)
    for kind in ("output", "input", "total"):
        for name in (f"{kind}_tok_s", f"{kind}_tok_s_per_device"):
            found[name] = _one("tokens per second", "higher", "throughput", name, groups=placed)
    found["requests_per_s"] = _one("rate", "higher", "throughput", "requests_per_s", groups=placed)
    found["cached_input_share"] = _one("share", "higher", "throughput", "cached_input_share", groups=placed)
    ends: dict[str, Better | None] = {"arrived": None, "completed": "higher", "rejected": "lower", "failed": "lower"}
    for name, better in (ends | {"timed_out": "lower", "in_flight": None}).items():
        found[name] = _one("number", better, "requests", name)
    return found | _energy() | _cost() | _pools()


def _energy() -> dict[str, Metric]:
    found = {"joules": _scoped("energy", "joules")}
    for per in ("output_token", "input_token", "total_token", "request"):
        found[f"joules_per_{per}"] = _scoped("energy", f"joules_per_{per}")
    for name in ("prefill_joules_per_input_token", "decode_joules_per_output_token"):
        found[name] = _scoped("energy", name)
    name = "provisioned_joules_per_output_token"
    found[name] = _one("joules", "lower", "energy", name)
    for name, dimension in (("grams_co2e", "grams"), ("embodied_grams_co2e", "grams"), ("litres_water", "litres")):
        for suffix in ("", "_per_mtok_output", "_per_request"):
            found[name + suffix] = _one(dimension, "lower", "energy", name + suffix)
    found["tok_s_per_watt"] = _one("number", "higher", "energy", "tok_s_per_watt")
    watts = {"mean": ("energy", "mean_facility_w"), "max": ("energy", "peak_facility_w")}
    found["power_facility"] = Metric("watts", "lower", watts, (WHOLE, "pool"))
    found["power_accelerator"] = Metric("watts", "lower", {"mean": ("energy", "mean_accelerator_w")}, (WHOLE, "pool"))
    return found


def _cost() -> dict[str, Metric]:
    names = [f"usd_per_mtok_{kind}" for kind in ("input", "cached_input", "output", "total")]
    names += ["usd_total", "usd_input", "usd_cached_input", "usd_output", "usd_per_request", "electricity_usd_metered"]
    found = {name: _one("dollars", "lower", "cost", name) for name in names}
    higher = {name: _one("number", "higher", "cost", name) for name in ("tokens_per_usd", "tok_s_per_usd_per_hour")}
    return found | higher | {"electricity_share": _one("share", None, "cost", "electricity_share")}


def _pools() -> dict[str, Metric]:
    held = {"mean": ("kv", "occupancy_mean"), "max": ("kv", "occupancy_peak")}
    waiting = {"max": ("waiting_peak_per_replica",)}
    return {
        "kv_occupancy": Metric("share", "lower", held, ("pool",)),
        "waiting": Metric("number", "lower", waiting, ("pool",)),
        "preemptions": _one("number", "lower", "kv", "preemptions", groups=("pool",)),
        "recomputed_tokens": _one("number", "lower", "kv", "recomputed_tokens", groups=("pool",)),
        "utilisation": _one("share", None, "utilisation", groups=("pool",)),
    }


METRICS = _catalogue()


# -- asking --------------------------------------------------------------------------------------------------------------


class Ask(NamedTuple):
    """One number: a metric, the tags that narrow it, a statistic where it has several."""

    name: str
    tags: tuple[tuple[str, str], ...] = ()
    statistic: str = ""

    @property
    def metric(self) -> Metric:
        return METRICS[self.name]

    @property
    def subject(self) -> str:
        """Name and tags as users write them: ttft{class=chat}."""
        tags = ",".join(f"{key}={value}" for key, value in self.tags)
        return f"{self.name}{{{tags}}}" if tags else self.name

    def __str__(self) -> str:
        return f"{self.subject} {self.statistic}".rstrip()


_SUBJECT = re.compile(r"\s*(\w+)\s*(?:\{([^{}]*)\})?\s*")


def subject(text: str, known: Known) -> Ask:
    """Metric and tags of a text such as `ttft{class=chat}`; `known` are the groups there are. Raises ValueError."""
    match = _SUBJECT.fullmatch(text)
    if not match:
        raise ValueError(f"expected a metric such as `ttft{{class=chat}}`, got `{text}`")
    name = match[1].removesuffix("_s") if match[1] not in METRICS else match[1]
    if name not in METRICS:
        raise ValueError(f"unknown metric `{match[1]}`{did_you_mean(match[1], METRICS)}")
    tags = tuple(_tag(part) for part in match[2].split(",")) if match[2] and match[2].strip() else ()
    _check_tags(name, dict(tags), len(tags), known)
    return Ask(name, tags)


def _tag(part: str) -> tuple[str, str]:
    key, sign, value = (piece.strip() for piece in part.partition("="))
    if not (key and sign and value):
        raise ValueError(f"expected tags such as `{{class=chat}}`, got `{part.strip()}`")
    return key, value.strip("\"'")


def _check_tags(name: str, tags: dict[str, str], given: int, known: Known) -> None:
    metric = METRICS[name]
    options = [group for group in metric.groups if group] + ([metric.choices[0]] if metric.choices else [])
    for key, value in tags.items():
        if key not in options:
            raise ValueError(f"`{name}` has no tag `{key}`{did_you_mean(key, options) or '; it takes none'}")
        names = known.get(key, ()) if key in GROUPS else metric.choices[1] if metric.choices else ()
        if value not in names:
            raise ValueError(f"unknown {key} `{value}`{did_you_mean(value, names) or '; there is none'}")
    if given != len(tags) or len([key for key in tags if key in GROUPS]) > 1:
        raise ValueError(f"expected at most one of {', '.join(options)}, each once, got `{','.join(tags)}`")
    if metric.choices and metric.choices[0] not in tags:
        raise ValueError(f"expected {metric.choices[0]}=, one of {', '.join(metric.choices[1])}: `{name}` has several")
    if WHOLE not in metric.groups and not any(key in GROUPS for key in tags):
        raise ValueError(
            f"expected {' or '.join(f'{key}=' for key in metric.groups)}: `{name}` is not of the whole run"
        )


def with_statistic(ask: Ask, statistic: str) -> Ask:
    """The same with a statistic. Raises ValueError where there is none such, or one is needed."""
    if statistic in ask.metric.paths:
        return ask._replace(statistic=statistic)
    known = [name for name in ask.metric.paths if name]
    if not known:
        raise ValueError(f"`{ask.name}` is one number: expected no `{statistic}` before the comparison")
    if not statistic:
        raise ValueError(
            f"expected a statistic before the comparison, one of {', '.join(known)}: `{ask.name}` has several"
        )
    raise ValueError(f"unknown statistic `{statistic}` of `{ask.name}`{did_you_mean(statistic, known)}")


def groups_of(scenario: Scenario) -> Known:
    """The groups that a report of this scenario will have."""
    streams = scenario.workload.streams
    without = [] if all(stream.service_class for stream in streams) else ["(no class)"]
    tenants = [stream.tenant or "(no tenant)" for stream in streams] if any(s.tenant for s in streams) else []
    models = dict.fromkeys(stream.model.name for stream in streams)
    classes = [*scenario.workload.classes, *without]
    return {"class": classes, "pool": [*scenario.pools], "model": [*models], "tenant": [*dict.fromkeys(tenants)]}


def groups_in(reports: Iterable[Json]) -> Known:
    """The groups that these reports have."""
    found: dict[str, dict[str, None]] = {tag: {} for tag in GROUPS}
    for report in reports:
        for tag, key in GROUPS.items():
            found[tag] |= dict.fromkeys(entry["name"] for entry in report.get(key, ()))
    return {tag: [*names] for tag, names in found.items()}


# -- answers -------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """A value, None where the report has none, and the samples behind it, None where they are not counted."""

    value: float | str | None
    samples: int | None = None


def answer(report: Json, ask: Ask) -> Answer:
    """What a report says; a group that it does not have is no value."""
    entry: Any = report
    for tag, name in ask.tags:
        if tag in GROUPS:
            entry = next((item for item in report.get(GROUPS[tag], ()) if item["name"] == name), {})
    path = ask.metric.paths[ask.statistic]
    if ask.metric.choices:
        path = (*path, dict(ask.tags)[ask.metric.choices[0]])
    parent = _at(entry, path[:-1])
    counted = parent.get("n") if path[0] in ("latency", "attainment") and isinstance(parent, dict) else None
    return Answer(_at(parent, path[-1:]), counted)


def _at(data: Any, path: Path) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def fewest_samples(ask: Ask, share: float = 0.0) -> float:
    """Samples needed in a run before `ask` can be judged: those of a percentile, and of a `share` those of the percentile that it
    stands for (99 % of requests within a time is a p99)."""
    if ask.metric.dimension == "seconds":
        return {f"p{q * 100:.0f}": least for q, least in SAMPLES.items()}.get(ask.statistic, MEAN_SAMPLES)
    if not ask.name.startswith("attainment"):
        return 0
    if share >= 1:
        return float("inf")
    tabled = [least for q, least in SAMPLES.items() if q >= share]
    return tabled[0] if tabled else 20 / (1 - share)


# -- units ---------------------------------------------------------------------------------------------------------------

_PER = {"_per_mtok_": r"Mtok", "_token": r"tok(?:en)?", "_per_request": r"req(?:uest)?"}
"""Part of a metric's name -> what may follow the unit, as in `0.8 J/tok`."""
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)")
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


def quantity(text: str, ask: Ask) -> float | str:
    """A limit in SI from a text in the metric's own unit. Raises ValueError, saying what was expected."""
    dimension, text = ask.metric.dimension, text.strip()
    if dimension == "regime":
        if text not in REGIMES:
            raise ValueError(f"unknown regime `{text}`{did_you_mean(text, REGIMES)}")
        return text
    if dimension == "share":
        match = _SHARE.fullmatch(text)
        value = float(match[1]) / (100 if match[2] else 1) if match else 2.0
        if value > 1:
            raise ValueError(f"expected a share from 0 to 1 such as 0.99 or `99 %`, got `{text}`")
        return value
    if dimension == "number":
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"expected a number without a unit, got `{text}`")
        return float(text.replace(",", "").replace("_", ""))
    for part, word in _PER.items():
        if part in ask.name:
            text = re.sub(rf"\s*/\s*{word}$", "", text)
    return parse(text, dimension)


def shown(value: float | str | None, ask: Ask) -> str:
    """A value as people read it, with its unit."""
    if value is None or isinstance(value, str):
        return value or "n/a"
    dimension = ask.metric.dimension
    if dimension == "seconds":
        return seconds(value) if value >= 0 else f"-{seconds(-value)}"
    if dimension == "share":
        return percent(value)
    if dimension == "dollars":
        return f"${number(value)}" if value >= 0 else f"-${number(-value)}"
    if dimension in ("watts", "joules") and abs(value) >= 1000:
        return f"{number(value / 1000)} k{dimension[0].upper()}"
    unit = {"watts": "W", "joules": "J", "rate": "/s", "tokens per second": "tok/s", "grams": "g", "litres": "L"}
    return f"{number(value)} {unit.get(dimension, '')}".rstrip()
