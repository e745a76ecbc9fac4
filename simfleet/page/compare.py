"""Two runs side by side, from the content of their report.json: first what differs in what was asked, then what came out."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from simfleet.page.page import REGIMES, render, tiles
from simfleet.page.pictures import Bars, pairs
from simfleet.page.tables import GROUPS, Json, at, count, thousand, words
from simfleet.report.summary import TARGETS, number, percent, seconds
from simfleet.units import written

WORTH = 0.01
"""Relative changes smaller than this are called neither better nor worse."""
MUCH = 9.0
"""Larger ones are shown as a factor."""


class Metric(NamedTuple):
    """A number of the report: its path, how to show it, and whether more of it is better (1), worse (-1) or neither (0)."""

    name: str
    path: str
    show: Callable[[Any], str] = number
    better: int = 0


class Change(NamedTuple):
    """One row: a metric in both runs. `state` is `better`, `worse` or nothing."""

    name: str
    one: str
    other: str
    change: str
    state: str


WHOLE = {
    "Service": [
        Metric("regime", "regime", words),
        Metric("attainment", "attainment.overall", percent, 1),
        Metric("good requests per second", "goodput.goodput_rps", number, 1),
        Metric("requests arrived", "requests.arrived", count),
        Metric("requests completed", "requests.completed", count),
    ],
    "Latency": [
        Metric(f"{title}, {key}", f"latency.{name}.{key}", seconds, -1)
        for name, title in (
            ("ttft_s", "first token"), ("tpot_s", "per token"), ("e2e_s", "whole answer"), ("itl_s", "token gap"), ("queue_wait_s", "queue wait"),
        )
        for key in ("p50", "p95")
    ],
    "Throughput": [
        Metric("output tokens per second", "throughput.output_tok_s", number, 1),
        Metric("output tokens per second and device", "throughput.output_tok_s_per_device", number, 1),
        Metric("cached share of input", "throughput.cached_input_share", percent, 1),
    ],
    "Energy": [
        *(
            Metric(f"J per output token, {scope.replace('_', ' ')}", f"energy.joules_per_output_token.{scope}", number, -1)
            for scope in ("accelerator_active", "accelerator", "node", "facility")
        ),
        Metric("mean W at the meter", "energy.mean_facility_w", number),
        Metric("peak W at the meter", "energy.peak_facility_w", number),
        Metric("g CO2e per Mtok out", "energy.grams_co2e_per_mtok_output", number, -1),
        Metric("L of water per Mtok out", "energy.litres_water_per_mtok_output", number, -1),
    ],
    "Cost": [
        Metric("$ in all", "cost.usd_total", number, -1),
        Metric("$/Mtok in", "cost.usd_per_mtok_input", number, -1),
        Metric("$/Mtok out", "cost.usd_per_mtok_output", number, -1),
        Metric("$/Mtok in+out", "cost.usd_per_mtok_total", number, -1),
        Metric("$/1000 requests", "cost.usd_per_request", thousand, -1),
    ],
}  # fmt: skip
CLASS = [
    Metric("attained", "attainment.overall", percent, 1),
    Metric("wanted", "targets.target", percent),
    Metric("kept", "kept", lambda kept: {True: "kept", False: "MISSED", None: "-"}[kept]),
    *(
        Metric(f"{name.upper()} {key}", f"latency.{name}_s.{key}", seconds, -1)
        for name in ("ttft", "tpot", "e2e") for key in ("p50", "p95", "p99")
    ),
    Metric("good requests per second", "goodput.goodput_rps", number, 1),
    Metric("J per output token at the meter", "energy.joules_per_output_token.facility", number, -1),
    Metric("$/Mtok out", "cost.usd_per_mtok_output", number, -1),
]  # fmt: skip
POOL = [
    Metric("busy", "utilisation", percent),
    Metric("KV held, mean", "kv.occupancy_mean", percent),
    Metric("KV held, peak", "kv.occupancy_peak", percent),
    Metric("preempted", "kv.preemptions", count, -1),
    Metric("output tokens per second", "throughput.output_tok_s", number, 1),
    Metric("mean W of the accelerators", "energy.mean_accelerator_w", number),
    Metric("J per output token at the meter", "energy.joules_per_output_token.facility", number, -1),
    Metric("$/Mtok out", "cost.usd_per_mtok_output", number, -1),
]
RUN_INPUTS = {
    "simfleet": "simfleet_version",
    "scenario and profiles (sha256)": "scenario.sha256",
    "name": "scenario.name",
}
HELD = {
    "pools": ("site", "model", "device", "replicas", "tensor_parallel", "precision", "device_power_cap_w"),
    "classes": ("targets",),
}
"""Kind of group -> inputs that its entries hold."""
ELSEWHERE = "nothing that these reports hold: a model, preset or file that the scenario names"
"""What differs where only the hash of a scenario tells it."""
Input = tuple[str, str, str]
LONGEST = 60
"""Characters of an input that are shown."""


def compare_page(report_a: Json, report_b: Json, names: tuple[str, str] = ("baseline", "new")) -> str:
    """Two reports as one HTML file that needs nothing else; a negative change means that the second one has less.

    report_a, report_b -- contents of report.json
    names              -- what to call the two
    """
    both = (report_a, report_b)
    return render(
        "compare.html",
        names=names, reports=both, tiles=[tiles(report) for report in both], regimes=[REGIMES[report["regime"]] for report in both],
        inputs=inputs(*both), seeds=[report["seed"] for report in both],
        same=at(report_a, "scenario.sha256") == at(report_b, "scenario.sha256"), whole={heading: changes(*both, metrics) for heading, metrics in WHOLE.items()},
        classes=_by_name("classes", CLASS, *both), pools=_by_name("pools", POOL, *both), binds=[{pool["name"]: pool["binds"] for pool in report["pools"]} for report in both], charts=_charts(*both, names),
    )  # fmt: skip


def changes(one: Json, other: Json, metrics: Iterable[Metric]) -> list[Change]:
    """A row for each metric that either of two reports, or groups of them, knows."""
    rows = []
    for metric in metrics:
        a, b = at(one, metric.path), at(other, metric.path)
        if a is not None or b is not None:
            rows.append(Change(metric.name, metric.show(a), metric.show(b), *_change(metric, a, b)))
    return rows


def _change(metric: Metric, one: Any, other: Any) -> tuple[str, str]:
    """How much more the second one is, and whether that is better."""
    if one == other:
        return "", ""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
        return "differs", ""
    by = (other - one) / abs(one) if one else float("inf")
    if metric.show is percent:
        text = f"{100 * (other - one):+.1f} points"
    else:
        text = "from 0" if not one else f"x {number(other / one)}" if by > MUCH else f"{100 * by:+.1f} %"
    judged = 0 if abs(by) < WORTH else metric.better * (1 if other > one else -1)
    return text, {1: "better", -1: "worse", 0: ""}[judged]


def inputs(one: Json, other: Json) -> list[Input]:
    """What differs in what was asked: (name, in the first report, in the second); version and hash first, then all that tells why.

    Of pools, classes and arrivals it is what the reports hold, defaults filled in; of all else what the scenarios say, as it was written.
    Where nothing explains a difference of the hashes, the last entry says so.
    """
    asked = [(name, at(one, path), at(other, path)) for name, path in RUN_INPUTS.items()]
    found = [(name, _short(a), _short(b)) for name, a, b in asked if a != b]
    within = _held(one, other) + _profiles(one, other)
    if at(one, "scenario.sha256") != at(other, "scenario.sha256"):
        within += _written(one, other)
        within += [] if within or len(found) > 2 else [("in it", ELSEWHERE, "")]
    return found + within


def _held(one: Json, other: Json) -> list[Input]:
    """What the reports hold of inputs: arrivals, pools and targets."""
    asked: list[Input] = [
        (key.removesuffix("_s"), *_both(key, one["scenario"], other["scenario"])) for key in ("horizon_s", "warmup_s")
    ]
    for kind, keys in HELD.items():
        a, b = ({group["name"]: group for group in report[kind]} for report in (one, other))
        for name in dict.fromkeys([*a, *b]):
            here = f"{GROUPS[kind][0]} {name}"
            if name not in a or name not in b:
                asked.append((here, "there" if name in a else "absent", "there" if name in b else "absent"))
                continue
            asked += [
                (f"{here}: {key.removesuffix('_w').replace('_', ' ')}", *_both(key, a[name], b[name])) for key in keys
            ]
    return [(name, x, y) for name, x, y in asked if x != y]


def _both(key: str, one: Json, other: Json) -> tuple[str, str]:
    return _worded(key, one.get(key)), _worded(key, other.get(key))


def _written(one: Json, other: Json) -> list[Input]:
    """What the scenarios say differently, where reports hold what they say and `_held` has not told it."""
    if not all(at(report, "scenario.inputs") for report in (one, other)):
        return []
    a, b = (dict(at(report, "scenario.inputs")) for report in (one, other))
    told = ("horizon.", "warmup.", *_told("pools", one, other), *_told("classes", one, other))
    paths = [path for path in dict.fromkeys([*a, *b]) if not f"{path}.".startswith(told)]
    pairs = [(path, a.get(path, "not given"), b.get(path, "not given")) for path in paths]
    return [(path, _cut(x), _cut(y)) for path, x, y in pairs if x != y]


def _told(kind: str, one: Json, other: Json) -> list[str]:
    """Beginnings of the paths that `_held` tells of a kind of group: its keys, or all of a group that only one report has."""
    names = [{group["name"] for group in report[kind]} for report in (one, other)]
    if kind == "classes":
        return [f"workload.classes.{name}." for name in names[0] | names[1]]
    shared = names[0] & names[1]
    return [f"pools.{name}.{key}." for name in shared for key in HELD[kind]] + [
        f"pools.{name}." for name in names[0] ^ names[1]
    ]


def _profiles(one: Json, other: Json) -> list[Input]:
    """Devices of the same name with other numbers."""
    a, b = ({pool["device"]: pool.get("profile_sha256") for pool in report["pools"]} for report in (one, other))
    return [(f"profile of {name}", _short(a[name]), _short(b[name])) for name in a if name in b and a[name] != b[name]]


def _worded(key: str, value: Any) -> str:
    """An input with its unit: 400.0 twice as `400 W`, targets as `TTFT 1 s, TPOT 50 ms, 95 %`."""
    if isinstance(value, list):
        return " to ".join(dict.fromkeys(_worded(key, item) for item in value))
    if isinstance(value, dict):
        return ", ".join(_named(name, item) for name, item in value.items() if item is not None) or "none"
    if value is None or not key.endswith(("_s", "_w")):
        return "none" if value is None else f"{value}"
    return written(value, "seconds" if key.endswith("_s") else "watts")


def _named(key: str, value: Any) -> str:
    """One of several inputs, with its name where it does not go without."""
    if key == "target":
        return f"{value * 100:g} %"
    return f"{key.removesuffix('_s').upper() if key in TARGETS else key} {_worded(key, value)}"


def _short(value: Any) -> str:
    """An input as the table shows it: of hashes the beginning."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else f"{value}"


def _cut(text: str) -> str:
    """Of a long input the beginning."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _by_name(kind: str, metrics: list[Metric], one: Json, other: Json) -> dict[str, list[Change]]:
    """Changes of the groups that both reports have."""
    theirs = {group["name"]: group for group in other[kind]}
    return {
        group["name"]: changes(group, theirs[group["name"]], metrics) for group in one[kind] if group["name"] in theirs
    }


def _charts(one: Json, other: Json, names: tuple[str, str]) -> list[Bars]:
    """Pairs of bars: latency per class, joules, dollars."""
    theirs = {group["name"]: group for group in other["classes"]}
    shared = [group for group in one["classes"] if group["name"] in theirs]
    drawn = [
        pairs(f"{title}, p95", "", ((group["name"], at(group, path), at(theirs[group["name"]], path)) for group in shared), names, seconds)
        for title, path in (("First token", "latency.ttft_s.p95"), ("Time per token", "latency.tpot_s.p95"), ("Whole answer", "latency.e2e_s.p95"))
    ]  # fmt: skip
    scopes = [(scope.replace("_", " "), f"energy.joules_per_output_token.{scope}") for scope in one["energy"]["joules"]]
    drawn.append(
        pairs("Energy per output token", "J", ((name, at(one, path), at(other, path)) for name, path in scopes), names)
    )
    lines = dict.fromkeys([*one["cost"]["lines_usd"], *other["cost"]["lines_usd"]])
    paid = (
        (name.replace("_", " "), *(report["cost"]["lines_usd"].get(name, 0.0) for report in (one, other)))
        for name in lines
    )
    return [*drawn, pairs("What was paid", "$", paid, names)]
