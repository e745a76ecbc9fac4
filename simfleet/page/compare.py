"""Two runs side by side, from the content of their report.json: first what differs in what was asked, then what came out."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from simfleet.page.page import REGIMES, render, tiles
from simfleet.page.pictures import Bars, pairs
from simfleet.page.tables import Json, at, count, words
from simfleet.report.summary import number, percent, seconds

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
        Metric("$ per request", "cost.usd_per_request", number, -1),
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
    "scenario": "scenario.name", "scenario and profiles (sha256)": "scenario.sha256", "arrivals end [s]": "scenario.horizon_s",
    "warm-up [s]": "scenario.warmup_s", "seed": "seed", "simfleet": "simfleet_version",
}  # fmt: skip
POOL_INPUTS = (
    "site",
    "model",
    "device",
    "profile_sha256",
    "replicas",
    "tensor_parallel",
    "devices",
    "precision",
    "device_power_cap_w",
)


def compare_page(report_a: Json, report_b: Json, names: tuple[str, str] = ("baseline", "new")) -> str:
    """Two reports as one HTML file that needs nothing else; a negative change means that the second one has less.

    report_a, report_b -- contents of report.json
    names              -- what to call the two
    """
    both = (report_a, report_b)
    return render(
        "compare.html",
        names=names, reports=both, tiles=[tiles(report) for report in both], regimes=[REGIMES[report["regime"]] for report in both],
        inputs=_inputs(*both), whole={heading: changes(*both, metrics) for heading, metrics in WHOLE.items()},
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


def _inputs(one: Json, other: Json) -> list[Change]:
    """What differs in what was asked: scenario, seed, version, targets, pools and their profiles."""
    asked: list[tuple[str, Any, Any]] = [(name, at(one, path), at(other, path)) for name, path in RUN_INPUTS.items()]
    for kind, keys in (("pools", POOL_INPUTS), ("classes", ("targets",))):
        groups = [{group["name"]: group for group in report[kind]} for report in (one, other)]
        for name in dict.fromkeys([*groups[0], *groups[1]]):
            here = f"{kind.removesuffix('s').replace('classe', 'class')} {name}"
            if any(name not in group for group in groups):
                there = ["there" if name in group else "absent" for group in groups]
                asked.append((here, there[0], there[1]))
                continue
            for key in keys:
                a, b = (group[name].get(key) for group in groups)
                asked.append((f"{here}: {key.replace('_', ' ')}", a, b))
    return [Change(name, _short(a), _short(b), "", "") for name, a, b in asked if a != b]


def _short(value: Any) -> str:
    """An input as the table shows it: of hashes the beginning."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items() if item is not None) or "-"
    if isinstance(value, list):
        return " to ".join(_short(item) for item in value)
    return value[:12] if isinstance(value, str) and len(value) == 64 else "-" if value is None else f"{value}"


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
