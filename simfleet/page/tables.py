"""The tables of a page: those of the screen, and what each class, pool, model and tenant did, with what each column means."""

from collections.abc import Callable
from typing import Any, NamedTuple

from simfleet.report.summary import Table, number, percent, seconds, tables

Json = dict[str, Any]
Show = Callable[[Any], str]


class Column(NamedTuple):
    """A heading, what it means, where its value is in a group of the report, and how to show it."""

    name: str
    meaning: str
    path: str
    show: Show = number


class Wide(NamedTuple):
    """A table with meanings of its columns."""

    heading: str
    columns: list[Column]
    rows: list[list[str]]


def count(value: int | None) -> str:
    """A whole number."""
    return "n/a" if value is None else f"{value:,}"


def words(value: Any) -> str:
    """Text as it is."""
    return "-" if value is None else str(value)


def thousand(usd: float | None) -> str:
    """Dollars of one request as dollars of a thousand."""
    return number(usd and usd * 1e3)


def at(group: Json, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    found: Any = group
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


CAUSED = [
    Column("arrived", "requests that reached the fleet", "requests.arrived", count),
    Column("completed", "whole answers that came before the client hung up", "requests.completed", count),
    Column("rejected", "found the line full", "requests.rejected", count),
    Column("failed", "could never fit into KV memory", "requests.failed", count),
    Column("timed out", "the client hung up", "requests.timed_out", count),
    Column("in flight", "the run ended first", "requests.in_flight", count),
    Column("J/tok out", "all joules at the meter / output tokens", "energy.joules_per_output_token.facility"),
    Column("J/request", "all joules at the meter / completed requests", "energy.joules_per_request.facility"),
    Column("g CO2e/request", "operational emissions / completed requests", "energy.grams_co2e_per_request"),
    Column("$/Mtok in", "dollars that new prompt tokens caused / those tokens", "cost.usd_per_mtok_input"),
    Column("$/Mtok out", "dollars that answers caused / output tokens", "cost.usd_per_mtok_output"),
    Column("$/Mtok in+out", "all dollars / (input + output tokens)", "cost.usd_per_mtok_total"),
    Column("$/1000 requests", "all dollars / completed requests * 1000", "cost.usd_per_request", thousand),
]
CLASS = [
    Column("attained", "met every target / all that arrived after the warm-up", "attainment.overall", percent),
    Column("TTFT met", "arrival to first token", "attainment.ttft", percent),
    Column("TPOT met", "time per token after the first", "attainment.tpot", percent),
    Column("E2E met", "arrival to last token", "attainment.e2e", percent),
    Column("TTFT p95", "arrival to first token", "latency.ttft_s.p95", seconds),
    Column("TPOT p95", "time per token after the first", "latency.tpot_s.p95", seconds),
    Column("E2E p95", "arrival to last token", "latency.e2e_s.p95", seconds),
    Column("good req/s", "requests per second that met every target", "goodput.goodput_rps"),
    Column("good tok/s", "their output tokens per second", "goodput.goodput_tok_s"),
]
POOL = [
    Column("site", "where it stands", "site", words),
    Column("model", "what it serves", "model", words),
    Column("device", "hardware profile", "device", words),
    Column("devices", "all provisioned", "devices", count),
    Column("busy", "share of device time with work", "utilisation", percent),
    Column("KV mean", "share of KV blocks held, mean over time", "kv.occupancy_mean", percent),
    Column("KV peak", "the most at any replica", "kv.occupancy_peak", percent),
    Column("longest line", "most requests waiting at one replica", "waiting_peak_per_replica", count),
    Column("preempted", "sequences thrown out for want of KV blocks", "kv.preemptions", count),
    Column("tok/s out", "output tokens per second", "throughput.output_tok_s"),
    Column("tok/s/device", "output tokens per second and device", "throughput.output_tok_s_per_device"),
    Column("cached in", "share of input tokens found in the prefix cache", "throughput.cached_input_share", percent),
    Column("W accel.", "mean power of the accelerators", "energy.mean_accelerator_w"),
    Column("W meter", "mean power at the meter", "energy.mean_facility_w"),
    Column("W peak", "most power at the meter", "energy.peak_facility_w"),
]
GROUPS = {
    "classes": ("class", {"Classes: service": CLASS, "Classes: requests, energy and cost": CAUSED}),
    "pools": ("pool", {"Pools: load and power": POOL, "Pools: requests, energy and cost": CAUSED}),
    "models": ("model", {"Models": CAUSED}),
    "tenants": ("tenant", {"Tenants": CAUSED}),
}
"""Group of the report -> what one of them is called, and its tables."""
QUIET = ("rejected", "failed", "timed out", "in flight", "cached in", "preempted")
"""Columns that are left out where there is nothing in them."""


def groups(report: Json) -> list[Wide]:
    """What each class and pool did, and each model and tenant where there are several."""
    return [
        _group(report[key], one, heading, columns)
        for key, (one, found) in GROUPS.items()
        if len(report.get(key, ())) > (key in ("models", "tenants"))
        for heading, columns in found.items()
    ]


def _group(entries: list[Json], one: str, heading: str, columns: list[Column]) -> Wide:
    shown = [
        column for column in columns if column.name not in QUIET or any(at(entry, column.path) for entry in entries)
    ]
    shown.insert(0, Column(one, "", "name", words))
    return Wide(heading, shown, [[column.show(at(entry, column.path)) for column in shown] for entry in entries])


def of_screen(report: Json) -> dict[str, Table]:
    """The tables of the text report by the first word of their heading: latency, service, pools, energy, cost."""
    return {table.heading.split()[0].lower(): table for table in tables(report)}
