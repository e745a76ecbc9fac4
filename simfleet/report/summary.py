"""One screen for a planner, from the content of report.json: plain text and Markdown from the same tables."""

from collections.abc import Sequence
from math import floor, log10
from textwrap import shorten, wrap
from typing import Any, NamedTuple

from simfleet.terminal import counted
from simfleet.units import written

Json = dict[str, Any]
PERCENTILES = ("mean", "p50", "p90", "p95", "p99")
TARGETS = ("ttft_s", "tpot_s", "e2e_s")
WIDTH = 100
"""Characters of a line, where names are not longer."""


class Table(NamedTuple):
    """A heading, column names (the first column is left-aligned), rows of text, and lines to read below them."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def number(value: float | None) -> str:
    """Three significant digits, or all before the point, with thousands commas; n/a for what is undefined or has too few samples."""
    if value is None:
        return "n/a"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.2e}"
    return f"{value:.{2 - floor(log10(abs(value)))}f}"


def seconds(value: float | None) -> str:
    """A time in seconds, or in milliseconds below one."""
    if value is None:
        return "n/a"
    return f"{number(value)} s" if value >= 1 or value == 0 else f"{number(value * 1e3)} ms"


def scaled(value: float | None, *units: tuple[float, str]) -> str:
    """A number in the largest of some units, (factor, name) from large to small, that leaves it at least 1."""
    if value is None:
        return "n/a"
    factor, unit = next(((f, u) for f, u in units if abs(value) >= f or (f, value) == (1.0, 0.0)), units[-1])
    return f"{number(value / factor)} {unit}"


def watts(value: float | None) -> str:
    """Power in W, kW or MW."""
    return scaled(value, (1e6, "MW"), (1e3, "kW"), (1.0, "W"))


def _mass(grams: float | None) -> str:
    return scaled(grams, (1e6, "t"), (1e3, "kg"), (1.0, "g"))


def _volume(litres: float | None) -> str:
    return scaled(litres, (1e3, "m3"), (1.0, "L"))


def percent(value: float | None) -> str:
    """A share of one."""
    return "n/a" if value is None else f"{value * 100:.1f} %"


def dollars(lines: dict[str, float]) -> str:
    """Amounts by name."""
    return ", ".join(f"{name.replace('_', ' ')} ${number(usd)}" for name, usd in lines.items())


def tables(report: Json) -> list[Table]:
    """Everything on the screen."""
    return [_latency(report), _service(report), _pools(report), _energy(report), _cost(report)]


def headline(report: Json) -> list[str]:
    """What was run, and how it went."""
    asked, rate = report["requests"], report["throughput"]
    ends = ", ".join(
        f"{asked[name]:,} {name.replace('_', ' ')}"
        for name in asked
        if name not in ("arrived", "completed") and asked[name]
    )
    return [
        f"{report['scenario']['name']}: {report['scenario']['description']}".rstrip(": "),
        f"regime: {report['regime']} | {seconds(report['duration_s'])} simulated, seed {report['seed']}",
        f"{counted(asked['arrived'], 'request')}: {asked['completed']:,} completed" + (f", {ends}" if ends else ""),
        f"{number(rate['output_tok_s'])} output tok/s, {number(rate['input_tok_s'])} input tok/s, "
        f"{number(rate['output_tok_s_per_device'])} output tok/s per device",
    ]


def _latency(report: Json) -> Table:
    """What each class felt; the queue and the gaps between tokens are the fleet's."""
    felt = {"ttft_s": "first token", "tpot_s": "per token", "e2e_s": "whole answer"}
    rows = [
        _percentiles(group["name"], label, group["latency"][name])
        for group in report["classes"]
        for name, label in felt.items()
    ]
    rows += [
        _percentiles("all", label, report["latency"][name])
        for name, label in (("itl_s", "token gap"), ("queue_wait_s", "queue wait"))
    ]
    return Table("Latency", ("class", "", *PERCENTILES, "samples"), rows)


def _percentiles(group: str, label: str, found: Json) -> list[str]:
    return [group, label, *(seconds(found[key]) for key in PERCENTILES), f"{found['n']:,}"]


def _target(name: str | None) -> str:
    """A target as people write it."""
    return "-" if name is None else name.upper() if f"{name}_s" in TARGETS else name


def _service(report: Json) -> Table:
    rows = []
    for group in report["classes"]:
        targets, reached = group["targets"], group["attainment"]
        goal = ", ".join(f"{key[:-2].upper()} {_round(targets[key])}" for key in TARGETS if targets.get(key))
        wanted = f"{targets['target'] * 100:g} % of: {goal}" if goal else "none"
        verdict = {True: "kept", False: "MISSED", None: "-"}[group["kept"]]
        rows.append(
            [group["name"], wanted, percent(reached["overall"]), verdict, _target(reached["binds"]),
             number(group["goodput"]["goodput_rps"]), number(group["cost"]["usd_per_mtok_output"])]
        )  # fmt: skip
    return Table("Service", ("class", "wanted", "attained", "", "binds", "good req/s", "$/Mtok out"), rows)


def _round(limit_s: float) -> str:
    """A target as people give it."""
    return f"{limit_s:g} s" if limit_s >= 1 else f"{limit_s * 1e3:g} ms"


def _pools(report: Json) -> Table:
    rows = []
    for pool in report["pools"]:
        kv, used = pool["kv"], pool["energy"]
        rows.append(
            [pool["name"], f"{pool['devices']} x {pool['device']}", percent(pool["utilisation"]),
             f"{percent(kv['occupancy_mean'])} / {percent(kv['occupancy_peak'])}", f"{kv['preemptions']:,}",
             number(used["mean_accelerator_w"]), number(pool["throughput"]["output_tok_s"]),
             number(used["joules_per_output_token"]["facility"]), number(pool["cost"]["usd_per_mtok_output"])]
        )  # fmt: skip
    columns = ("pool", "devices", "busy", "KV mean / peak", "preempted", "W", "tok/s out", "J/tok out", "$/Mtok out")
    notes = [f"{pool['name']} is held back by {pool['binds']}" for pool in report["pools"]]
    notes += [_capped(pool) for pool in report["pools"] if pool["device_power_cap_w"]]
    return Table("Pools (W of the accelerators, J at the meter)", columns, rows, notes)


def _capped(pool: Json) -> str:
    low, high = (number(cap_w) for cap_w in pool["device_power_cap_w"])
    return f"{pool['name']}: a device may draw {low if low == high else f'{low} to {high}'} W"


def _energy(report: Json) -> Table:
    used = report["energy"]
    rows = [
        [scope.replace("_", " "), number(used["joules"][scope] / 3.6e6), number(used["joules_per_output_token"][scope]),
         number(used["prefill_joules_per_input_token"][scope]), number(used["decode_joules_per_output_token"][scope]),
         number(used["joules_per_request"][scope])]
        for scope in used["joules"]
    ]  # fmt: skip
    columns = ("boundary", "kWh", "J/tok out", "prompt J/tok in", "answer J/tok out", "J/request")
    heading = (
        f"Energy ({watts(used['mean_facility_w'])} at the meter, peak {watts(used['peak_facility_w'])}; "
        f"{_mass(used['grams_co2e'])} CO2e and {_volume(used['litres_water'])}, "
        f"{number(used['grams_co2e_per_mtok_output'])} g and {number(used['litres_water_per_mtok_output'])} L per Mtok out)"
    )
    note = "J, g and L per token out count everything; prompt and answer joules are the parts of the whole"
    return Table(heading, columns, rows, [*map(_limit, report["power_limits"]), note])


def _limit(found: Json) -> str:
    """A power limit, and how near it was come to."""
    low, high = (written(limit_w, "watts") for limit_w in found["limit_w"])
    held = f"limit {low if low == high else f'{low} to {high}'}"
    if found["peak_w"] is not None:
        return f"{found['name']}: {held}, peak {watts(found['peak_w'])}"
    least, most = map(watts, found["device_w"])
    return f"{found['name']}: {held}, which leaves a device {least if least == most else f'{least} to {most}'}"


def _cost(report: Json) -> Table:
    money = report["cost"]
    spent = {"prompts": "on prompts", "answers": "on answers", "idle": "on idle devices"}
    row = [number(money[f"usd_per_mtok_{name}"]) for name in ("input", "output", "total")]
    return Table(
        f"Cost (${number(money['usd_total'])})",
        ("", "$/Mtok in", "$/Mtok out", "$/Mtok in+out", "$/1000 requests", "Mtok/$"),
        [["", *row, number(money["usd_per_request"] and money["usd_per_request"] * 1e3),
          number(money["tokens_per_usd"] and money["tokens_per_usd"] / 1e6)]],
        ["$/Mtok in and out: dollars of prompts and answers over their own tokens; in+out: all over all",
         f"paid: {dollars(money['lines_usd'])}; spent: {dollars({words: money['spent_usd'][name] for name, words in spent.items()})}"],
    )  # fmt: skip


def text(report: Json, most_assumptions: int = 4) -> str:
    """One screen of plain text."""
    blocks = ["\n".join(headline(report))]
    for table in tables(report):
        rows = [list(table.columns), *map(list, table.rows)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
        lines = ["  ".join(_cell(cell, widths[i], i, table) for i, cell in enumerate(row)).rstrip() for row in rows]
        lines += [line for note in table.notes for line in wrap(note, WIDTH - 2, subsequent_indent="  ")]
        blocks.append("\n".join([table.heading, *(f"  {line}" for line in lines)]))
    valid = [part for line in report["validity"] for part in wrap(line, WIDTH - 4, subsequent_indent="  ")]
    blocks.append("\n".join(["Validity", *(f"  {line}" for line in valid)]))
    return "\n\n".join([*blocks, _assumed(report["assumptions"], most_assumptions)])


def _cell(cell: str, width: int, column: int, table: Table) -> str:
    wordy = column == 0 or table.columns[column] in ("wanted", "devices", "")
    return cell.ljust(width) if wordy else cell.rjust(width)


def _assumed(lines: list[str], most: int) -> str:
    if not lines:
        return "Estimates used: none"
    more = [f"  ... and {len(lines) - most} more in report.json"] if len(lines) > most else []
    shown = [f"  - {shorten(line, WIDTH - 4, placeholder='...')}" for line in lines[:most]]
    return "\n".join([f"Estimates used: {len(lines)}", *shown, *more])


def markdown(report: Json) -> str:
    """report.md: the same tables, all assumptions, and the formulas."""
    lines = [f"# {report['scenario']['name']}", "", *(f"{line}  " for line in headline(report))]
    for table in tables(report):
        lines += ["", f"## {table.heading}", ""]
        lines += [f"| {' | '.join(table.columns)} |", "|" + " --- |" * len(table.columns)]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table.rows]
        lines += ["", *(f"{note}  " for note in table.notes)] if table.notes else []
    lines += ["", "## Validity", "", *(f"- {line}" for line in report["validity"])]
    lines += ["", "## Estimates used", "", *(f"- {line}" for line in report["assumptions"])]
    lines += ["", "## Formulas", "", *(f"- `{name}`: {formula}" for name, formula in report["formulas"].items())]
    return "\n".join(lines) + "\n"
