"""What a plan shows: one screen of text, and the same for notebooks."""

from shlex import quote
from textwrap import shorten, wrap
from typing import Any

from simfleet.document import flow
from simfleet.report.summary import Table, number, seconds
from simfleet.terminal import counted
from simfleet.units import written

Json = dict[str, Any]
TARGETS = ("ttft", "tpot", "e2e")
MARKS = {"within": "", "OUTSIDE what": " +", "OUTSIDE:": " *"}
LEGEND = "+ beyond the runs that were compared, * device and engine never compared with measurements, ~ watts estimated"
HOUR_S, NEAR_S = 3600.0, 300.0
"""Times of day beyond the first hour are told to the nearest of these."""
SHORT = {"memory bandwidth": "bandwidth", "kernel launches": "launches"}


def verdict(plan: Json) -> str:
    """The answer in a line."""
    if not plan["fleets"]:
        return f"{plan['scenario']}: no fleet that was tried keeps the targets"
    best = plan["fleets"][0]
    return (
        f"{plan['scenario']}: {best['devices']} x {best['device']} ({_layout(plan, best)}), ${number(best['usd_per_hour'])}/h, "
        f"{best['devices_n_plus_1']} with a spare replica"
    )


def _layout(plan: Json, fleet: Json) -> str:
    """Replicas and devices of each, and whatever else was varied."""
    each = fleet["devices"] // fleet["replicas"]
    return ", ".join([f"{fleet['replicas']} x TP{each}", *_varied(plan, fleet["varied"])])


def _varied(plan: Json, changes: Json) -> list[str]:
    """What else than device, devices per replica and replicas was varied, values alone."""
    here = f"pools.{plan['pool']}."
    fixed = (f"{here}device", f"{here}tensor_parallel", f"{here}replicas")
    shown = {path: flow(value) if isinstance(value, dict) else value for path, value in changes.items()}
    return [f"{path.removeprefix(here).split('.')[-1]} {value}" for path, value in shown.items() if path not in fixed]


def headline(plan: Json) -> list[str]:
    """What was asked, and what was tried."""
    asked, goals = plan["demand"], []
    for name, goal in plan["goals"].items():
        limits = ", ".join(f"{key.upper()} {seconds(goal[key])}" for key in TARGETS if goal[key] is not None)
        goals.append(f"{name}: {goal['target'] * 100:g} % of {limits or 'answers complete'}")
    load = (
        [f"{number(asked['rate_per_s'])} requests/s ({number(asked['peak_per_s'])} in the busiest minute)"]
        if asked["rate_per_s"]
        else []
    )
    load += [f"{asked['users']:,} users"] if asked["users"] else []
    lengths = f"{number(asked['input_tokens'])} tokens in, {number(asked['output_tokens'])} out on average"
    seeds = f"seed{'s' if len(plan['seeds']) > 1 else ''} {', '.join(map(str, plan['seeds']))}"
    runs = counted(plan["simulations"], "simulation")
    tried = f"{counted(plan['candidates'], 'candidate')}, {plan['searched']:,} searched with {runs} of the whole scenario, {seeds}"
    kept = [f"keeps {'; '.join(goals)}", *([f"and {', '.join(plan['targets'])}"] if plan["targets"] else [])]
    return [verdict(plan), *kept, f"{plan['model']}, {'; '.join(load)}, {lengths}", *_beyond(plan), tried]


def _beyond(plan: Json) -> list[str]:
    """That more comes after the planned horizon."""
    more = plan["demand"]["beyond"]
    if more is None:
        return []
    at_s = more["peak_at_s"] if more["peak_at_s"] < HOUR_S else NEAR_S * round(more["peak_at_s"] / NEAR_S)
    span, at = written(plan["horizon_s"], "seconds"), written(at_s, "seconds")
    planned, peak = number(more["planned_per_s"]), number(more["peak_per_s"])
    return [
        f"BELOW THE PEAK: the planned {span} reach {planned} requests/s; the peak of the streams is {peak}/s at {at}"
    ]


def fleet_table(plan: Json) -> Table:
    """The ranking."""
    targets = [key for key in TARGETS if any(goal[key] is not None for goal in plan["goals"].values())]
    many = len(plan["goals"]) > 1
    columns = [
        "",
        "device",
        "fleet",
        "chips",
        "N+1",
        "attained",
        "(95 %)",
        *(["of"] if many else []),
        *(f"{key.upper()} p95" for key in targets),
    ]
    unit, watts_of = ("MW", 1e6) if any(fleet["peak_facility_w"] >= 1e5 for fleet in plan["fleets"]) else ("kW", 1e3)
    mixed = len({fleet["paid"] for fleet in plan["fleets"]}) > 1
    columns += ["$/h", *(["paid"] if mixed else []), "$/Mtok in+out", "J/tok out", f"{unit} peak", "binds"]
    rows = []
    for place, fleet in enumerate(plan["fleets"], start=1):
        part = fleet["attainment"][fleet["worst_class"]]
        watts = f"{'~' if fleet['joules_estimated'] else ''}{number(fleet['joules_per_output_token'])}"
        rows.append(
            [str(place), fleet["device"] + _mark(fleet), _layout(plan, fleet), f"{fleet['devices']:,}", f"{fleet['devices_n_plus_1']:,}",
             _share(part["value"]), f"{part['low'] * 100:.1f}..{part['high'] * 100:.1f}", *([fleet["worst_class"]] if many else []),
             *(seconds(fleet["p95"][f"{key}_s"]) for key in targets), number(fleet["usd_per_hour"]), *([fleet["paid"]] if mixed else []), number(fleet["usd_per_mtok_total"]),
             watts, number(fleet["peak_facility_w"] / watts_of), _binds(fleet)]
        )  # fmt: skip
    close = [row[1] for row, fleet in zip(rows, plan["fleets"], strict=True) if _is_close(fleet)]
    notes = [
        LEGEND,
        f"binds: the target that one replica fewer misses{_single(plan['fleets'])}, and what the steps wait for",
    ]
    notes += [f"by chance? the interval reaches below the target: {', '.join(close)}"] if close else []
    return Table("Fleets that keep every target, one per device, the cheapest first", columns, rows, notes)


def _single(fleets: list[Json]) -> str:
    """What is meant by one fewer than a single replica."""
    single = [fleet for fleet in fleets if fleet["replicas"] == 1]
    if not single:
        return ""
    beside = " (of a single one: that the other pools miss without it)"
    return beside if single[0]["one_fewer"] else " (of a single one there is none fewer, so none)"


def _share(value: float) -> str:
    """A share of one, with the digits that tell 99.9 % from 99.99 %."""
    return f"{value * 100:.2f} %"


def _mark(fleet: Json) -> str:
    line = fleet["validity"][0].partition(": ")[2] if fleet["validity"] else ""
    return next((mark for start, mark in MARKS.items() if line.startswith(start)), "")


def _binds(fleet: Json) -> str:
    target, device = fleet["binds"]["target"], fleet["binds"]["device"].split(",")[0]
    return ", ".join(
        [*([target.upper() if target in TARGETS else target] if target else []), SHORT.get(device, device)]
    )


def _is_close(fleet: Json) -> bool:
    return any(part["low"] < part["target"] for part in fleet["attainment"].values())


def lines(plan: Json) -> list[str]:
    """Failure, growth, what the answer hangs on, and how far to trust it."""
    if not plan["fleets"]:
        return []
    best, growth = plan["fleets"][0], plan["growth"]
    each = best["devices"] // best["replicas"]
    found = [*_judged(best), *_without(plan["pool"], best), _failure(best, each)]
    if growth["devices"] is None:
        found.append(f"{growth['factor'] * 100 - 100:.0f} % more traffic: not known, or not kept")
    else:
        more = growth["devices"] - best["devices"]
        found.append(f"{growth['factor'] * 100 - 100:.0f} % more traffic: {_chips(growth['devices'])}, {more:,} more")
    estimates = f"{best['estimates']} numbers behind it are estimates (`simfleet run` with --out lists them)"
    valid = "; ".join(line.partition(": ")[2] for line in best["validity"])
    return [*found, f"Validity: {best['regime']}; {valid}; {estimates}"]


def _failure(best: Json, each: int) -> str:
    spare = f"{_chips(best['devices_n_plus_1'])} lose one and keep the targets"
    if best["one_fewer"] is None:
        return f"Lose the only replica: the pool serves nothing; {spare}"
    got, which = _got(best["one_fewer"], best["one_fewer_misses"]), f"one replica of {best['replicas']}"
    if best["replicas"] == 1:
        which, got = "the only replica", f"{got} by the other pools"
    return f"Lose {which} ({_chips(each)}): {got} while it is gone; {spare}"


def _without(pool: str, best: Json) -> list[str]:
    """What the other pools do alone, where the failure line does not say it."""
    alone = best["without_pool"]
    if alone is None:
        return []
    got = _got(alone["attainment"], alone["misses"])
    if alone["kept"]:
        return [f"NOT NEEDED: without {pool} the other pools keep every target: {got}"]
    return [f"Without {pool}: {got}"] if best["replicas"] > 1 else []


def _got(attained: Json, misses: list[Json]) -> str:
    """Attainment by class, and the other targets that were missed."""
    told = [f"attainment{{class={name}}}" for name in attained]
    kept = ", ".join(f"{_share(part['value'])} of {name}" for name, part in attained.items())
    return kept + "".join(f", {_said(row)}" for row in misses if row["name"] not in told)


def _judged(best: Json) -> list[str]:
    """What the cheapest fleet's runs could not answer, and the warnings that it misses."""
    rows = best["targets"]
    unjudged = [
        f"{_said(row)}: {row['note']}" for row in rows if row["state"] == "cannot judge" and row["level"] == "error"
    ]
    warned = [_said(row) for row in rows if row["state"] != "kept" and row["level"] == "warn"]
    found = [f"NOT JUDGED, so not known to be kept: {'; '.join(unjudged)}"] if unjudged else []
    return [*found, *([f"Warnings of the cheapest: {'; '.join(warned)}"] if warned else [])]


def _said(row: Json) -> str:
    return f"{row['name']} {row['got']} ({row['wanted']} wanted)"


def _chips(number_of: int) -> str:
    return counted(number_of, "chip")


def tornado_table(plan: Json) -> Table:
    """What moves the cost of the cheapest fleet."""
    rows = []
    for row in plan["sensitivity"][:6]:
        span = f"{row['low']:.2f} .. {row['high']:.2f} x" if row["low"] else f"none .. {row['high']:.0%} of the prompt"
        rows.append(
            [
                row["name"],
                row["origin"],
                span,
                f"{row['chips_low']:,} .. {row['chips_high']:,}",
                f"{row['cost_low']:+.1%} .. {row['cost_high']:+.1%}",
            ]
        )
    note = "from step times alone, $/h in parts of replicas; how far each is moved: docs/sensitivity.md"
    return Table("What moves the cost of the cheapest", ("input", "from", "moved", "chips", "$/h"), rows, [note])


def frontier_table(plan: Json) -> Table:
    """Points that no other beats, the fastest for the user first."""
    chosen = sorted((p for p in plan["frontier"] if p["fast"] or p["cheap"]), key=lambda p: -p["tok_s_per_user"])
    tensor = f"pools.{plan['pool']}.tensor_parallel"
    rows = [
        [p["device"], ", ".join([f"TP{p['changes'][tensor]}", *_varied(plan, p["changes"])]), str(p["rows"]),
         number(p["tok_s_per_user"]), number(p["tok_s_per_device"]), number(p["usd_per_mtok"]),
         " and ".join(word for word, on in (("per device", p["fast"]), ("per $", p["cheap"])) if on)]
        for p in chosen
    ]  # fmt: skip
    columns = ("device", "replica", "sequences", "tok/s per user", "tok/s per device", "$/Mtok in+out", "best")
    note = "replicas always busy with so many sequences of mean length, from step times alone; targets and queues play no part"
    return Table("Frontier: speed for each user against output per device and dollars", columns, rows, [note])


def left_lines(plan: Json, width: int = 118) -> list[str]:
    """Devices that are not in the table, a line each; those that were too expensive in one."""
    dear = [
        f"{left['device']} (at least ${number(left['least_usd_per_hour'])}/h)"
        for left in plan["left_out"]
        if left["least_usd_per_hour"]
    ]
    others = [f"{left['device']}: {left['why']}" for left in plan["left_out"] if not left["least_usd_per_hour"]]
    found = (
        wrap(f"Not simulated, dearer by step times alone: {', '.join(dear)}", width, subsequent_indent="  ")
        if dear
        else []
    )
    return [
        *found,
        *(["No fleet:"] if others else []),
        *(f"  {shorten(line, width, placeholder='...')}" for line in others),
    ]


def text(plan: Json, show_frontier: bool, asked: str) -> str:
    """One screen of plain text, with the frontier's table below where wanted."""
    tables = [fleet_table(plan)] if plan["fleets"] else []
    head = [part for line in headline(plan) for part in wrap(line, 118, subsequent_indent="  ")]
    blocks = ["\n".join(head), *map(_plain, tables)]
    said = [part for line in lines(plan) for part in wrap(line, 118, subsequent_indent="  ")]
    blocks += ["\n".join(said)] if said else []
    blocks += [_plain(tornado_table(plan))] if plan["sensitivity"] else []
    blocks += ["\n".join(left_lines(plan))] if plan["left_out"] else []
    blocks += [_plain(frontier_table(plan))] if show_frontier and plan["frontier"] else []
    return "\n\n".join([*blocks, again(plan, asked)]).rstrip()


def again(plan: Json, asked: str) -> str:
    """The command that runs the cheapest fleet; `asked` is how the command line calls the scenario."""
    if not plan["fleets"]:
        return ""
    changes = plan["fleets"][0]["changes"].items()
    words = (f"{path}={flow(value) if isinstance(value, dict) else value}" for path, value in changes)
    return " ".join([f"Run it: simfleet run {asked}", *(f"--set {quote(word)}" for word in words)])


def _plain(table: Table) -> str:
    """A table as text: words to the left, numbers to the right."""
    wordy = {"device", "paid", "fleet", "binds", "input", "from", "best", "replica", "of"}
    rows = [list(table.columns), *map(list, table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    cells = [
        [c.ljust(w) if name in wordy else c.rjust(w) for c, w, name in zip(row, widths, table.columns, strict=True)]
        for row in rows
    ]
    return "\n".join(
        [table.heading, *("  " + "  ".join(row).rstrip() for row in cells), *(f"  {note}" for note in table.notes)]
    )


def html(plan: Json) -> str:
    """The same for notebooks."""
    import jinja2  # noqa: PLC0415

    tables = [fleet_table(plan)] if plan["fleets"] else []
    tables += [tornado_table(plan)] if plan["sensitivity"] else []
    template = jinja2.Environment(autoescape=True).from_string(HTML)
    return template.render(headline=headline(plan), tables=tables, lines=[*lines(plan), *left_lines(plan, 400)])


HTML = """<div><b>{{ headline[0] }}</b>{% for line in headline[1:] %}<br>{{ line }}{% endfor %}
{% for table in tables %}<h4>{{ table.heading }}</h4><table><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>{% for note in table.notes %}<p>{{ note }}</p>{% endfor %}{% endfor %}
{% for line in lines %}<p>{{ line }}</p>{% endfor %}</div>"""
