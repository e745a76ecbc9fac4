"""The page of one run: a single HTML file that needs nothing else, from the run and the content of its report.json."""

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from simfleet.page import pictures
from simfleet.page.charts import Chart, Drawing, draw
from simfleet.page.sources import sources
from simfleet.page.tables import Json, groups, of_screen
from simfleet.page.written import yaml
from simfleet.report.summary import headline, number, percent, seconds, tables, watts
from simfleet.run import Run
from simfleet.terminal import counted

if TYPE_CHECKING:
    import jinja2

REGIMES = {
    "stable": ("good", "Requests are served as they come."),
    "backlogged": ("warn", "Waiting takes more than a tenth of the time from arrival to last token."),
    "overloaded": (
        "bad",
        "More arrives than is served: latencies depend on how long the run was, and say nothing else.",
    ),
    "nothing served": ("bad", "Requests came, and none was served."),
}
"""Regime -> how it is shown, and what it means (docs/metrics.md)."""


class Tile(NamedTuple):
    """One figure of the answer. `state` is `good`, `warn`, `bad` or nothing."""

    label: str
    value: str
    unit: str
    note: str
    state: str = ""


def report_page(run: Run, report: Json) -> str:
    """report.html as text: the answer, charts, tables, assumptions with sources, and the scenario. The same run, the same bytes.

    report -- what `simfleet.report.metrics.summarise(run)` gives
    """
    return render(
        "report.html",
        report=report, headline=headline(report), regime=REGIMES[report["regime"]], tiles=tiles(report), screen=of_screen(report),
        latency=_drawn(pictures.latency(run)), load=_drawn(pictures.load(run)), power=_drawn(pictures.power(run)),
        energy=pictures.energy(report), cost=pictures.cost(report), groups=groups(report), facts=sources(run),
        scenario=yaml(run.scenario.document.data),
    )  # fmt: skip


def cell(report: Json) -> str:
    """A piece of HTML for a notebook: the headline and the tables of the text report."""
    verdict = tiles(report)[0]
    return render("cell.html", report=report, headline=headline(report), tables=tables(report), verdict=verdict)


def tiles(report: Json) -> list[Tile]:
    """The answer on one screen: service level, latency, money, joules, power and throughput."""
    felt, rate, used, money = report["latency"], report["throughput"], report["energy"], report["cost"]
    devices = sum(pool["devices"] for pool in report["pools"])
    per_token = used["joules_per_output_token"]
    return [
        _verdict(report),
        Tile("First token", *_parts(seconds(felt["ttft_s"]["p95"])), f"p95; token {seconds(felt['tpot_s']['p95'])}, whole answer {seconds(felt['e2e_s']['p95'])}"),
        Tile("$/Mtok out", f"${number(money['usd_per_mtok_output'])}", "", f"{number(money['usd_per_mtok_input'])} $/Mtok in, {number(money['usd_per_mtok_total'])} $/Mtok in+out, ${number(money['usd_total'])} in all"),
        Tile("Energy per token out", number(per_token["facility"]), "J", f"at the meter; {number(per_token['accelerator'])} at the accelerators"),
        Tile("Power", *_parts(watts(used["mean_facility_w"])), f"at the meter; {watts(used['peak_facility_w'])} at its peak"),
        Tile("Throughput", number(rate["output_tok_s"]), "tok/s out", f"{number(rate['output_tok_s_per_device'])} per device of {devices:,}"),
    ]  # fmt: skip


def _verdict(report: Json) -> Tile:
    """How many classes reached the attainment that was wanted."""
    judged = [group for group in report["classes"] if group["kept"] is not None]
    kept = [group for group in judged if group["kept"]]
    reached = f"{percent(report['attainment']['overall'])} of requests met every target"
    if not judged:
        return Tile("Service levels", "n/a", "", "no class has targets that could be judged")
    if len(kept) == len(judged):
        return Tile("Service levels", "kept", f"{len(kept)} of {len(judged)}", reached, "good")
    missed = ", ".join(group["name"] for group in judged if not group["kept"])
    return Tile(
        "Service levels", "MISSED", f"{len(judged) - len(kept)} of {len(judged)}", f"{missed}; {reached}", "bad"
    )


def _parts(text: str) -> tuple[str, str]:
    """A figure and its unit."""
    value, _, unit = text.partition(" ")
    return value, unit


def _drawn(charts: list[Chart]) -> list[Drawing]:
    return [drawing for drawing in map(draw, charts) if drawing is not None]


@cache
def _environment() -> "jinja2.Environment":
    import jinja2  # noqa: PLC0415 - only who writes a page waits for it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simfleet", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )  # fmt: skip
    environment.globals["counted"] = counted
    return environment


def render(name: str, **values: Any) -> str:
    """One of the room's templates, filled in."""
    return str(_environment().get_template(name).render(values))
