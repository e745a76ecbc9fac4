"""The page of a run and of two: what it says, and that it stands alone. In a browser: test_page_browser."""

import json
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from simfleet import load, simulate
from simfleet.cli import cli
from simfleet.document import Document
from simfleet.hardware.profile import facts
from simfleet.page import charts, pictures
from simfleet.page.charts import Chart, Series, draw, even_ticks, log_axis
from simfleet.page.compare import Metric, changes, compare_page
from simfleet.page.page import REGIMES, tiles
from simfleet.page.sources import quantity, sources
from simfleet.page.tables import GROUPS, at, groups
from simfleet.page.written import yaml
from simfleet.report.metrics import summarise
from simfleet.report.summary import number, percent
from simfleet.result import Result
from simfleet.run import Run
from tests.factories import Row, full_run, make_run

ROOT = Path(__file__).parents[1]
VOID = {"meta", "link", "br", "line", "path", "rect", "circle"}


class Tree(HTMLParser):
    """Every tag is closed in order; ids are counted, and what would be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        self.fetched += [values[key] for key in ("src", "srcset", "data", "poster") if key in values]
        self.fetched += [values["href"]] if tag != "a" and "href" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID, tag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


@pytest.fixture(scope="module")
def quick():
    return simulate(load("quickstart", [("horizon", "8 min"), ("warmup", "30 s")]), seed=3)


@pytest.fixture(scope="module")
def page(quick):
    return quick.html()


@pytest.fixture(scope="module")
def versus(quick):
    other = simulate(load("quickstart", [("horizon", "8 min"), ("warmup", "30 s")], variant="owned"), seed=3)
    return compare_page(quick.summary, other.summary, ("rented", "owned"))


# -- the page as text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["page", "versus"])
def test_it_stands_alone(kind, request):
    """Nothing is fetched, and the browser is told to fetch nothing; every tag is closed, every link inside leads somewhere."""
    text = request.getfixturevalue(kind)
    tree = Tree(text)
    assert tree.open == []
    assert len(tree.ids) == len(set(tree.ids)) > 3
    assert {link.removeprefix("#") for link in tree.links} <= set(tree.ids)
    assert tree.fetched == ["data:,"]
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|url\(", re.sub(r'(?s)<ol class="sources">.*?</ol>', "", text))
    assert len(text.encode()) < 1_000_000


def test_the_answer_comes_first_and_agrees_with_the_report(quick, page):
    report = quick.summary
    first = page[: page.index('id="latency"')]
    for value in (
        report["cost"]["usd_per_mtok_output"],
        report["energy"]["joules_per_output_token"]["facility"],
        report["throughput"]["output_tok_s"],
    ):
        assert number(value) in first
    assert report["regime"] in first
    assert all(f"<b>{pool['name']}</b>" in first and pool["binds"] in first for pool in report["pools"])
    order = [
        page.index(f'id="{name}"')
        for name in ("answer", "latency", "load", "power", "cost", "groups", "trust", "scenario")
    ]
    assert order == sorted(order)


def test_everything_that_was_assumed_is_there_with_its_sources(quick, page):
    text = re.sub(r"\s+", " ", _plain(page))
    for line in [*quick.summary["assumptions"], *quick.summary["validity"]]:
        assert line in text
    pool = quick.run.scenario.pools["h100"]
    assert all(source in text for key, source in pool.profile.sources.items() if key in _used_sources(pool.profile))
    assert "50.0 GB/s" in text or "450 GB/s" in text


def _used_sources(profile):
    return {fact.source for _, fact in facts(profile)}


def _plain(page):
    parts = []
    parser = HTMLParser(convert_charrefs=True)
    parser.handle_data = parts.append
    parser.feed(page)
    return "".join(parts)


def test_every_class_and_pool_has_its_row(quick, page):
    for table in groups(quick.summary):
        assert f"<h3>{table.heading}</h3>" in page
        for row in table.rows:
            assert len(row) == len(table.columns)
            assert f"<td>{row[0]}</td>" in page


def test_every_column_of_the_groups_is_in_the_report():
    report = summarise(full_run())
    for key, (_, tables) in GROUPS.items():
        for column in [column for columns in tables.values() for column in columns]:
            group = report.get(key, [None])[0]
            if group is not None:
                parent = at(group, column.path.rpartition(".")[0]) if "." in column.path else group
                assert column.path.rpartition(".")[2] in parent, column.path


def test_quiet_columns_appear_only_where_something_happened():
    shown = {table.heading: [column.name for column in table.columns] for table in groups(summarise(full_run()))}
    assert "timed out" in shown["Classes: requests, energy and cost"]
    calm = {table.heading: [column.name for column in table.columns] for table in groups(summarise(make_run([Row()])))}
    assert "timed out" not in calm["Classes: requests, energy and cost"]


def test_names_cannot_break_out():
    wild = '</script><img src="x" onerror="alert(1)">'
    run = make_run([Row()], overrides=[("description", json.dumps(wild))])
    for text in (
        Result(run).html(),
        Result(run)._repr_html_(),
        run.scenario._repr_html_(),
        compare_page(*[summarise(run)] * 2, (wild, "b")),
    ):
        assert "<img" not in text
        assert "&lt;img" in text or "\\u003cimg" in text


@pytest.mark.parametrize(
    "run", [make_run(duration_s=0.0), make_run([Row()]), full_run()], ids=["nothing", "one", "all"]
)
def test_any_run_has_a_page(run):
    tree = Tree(Result(run).html())
    assert tree.open == []
    assert Tree(compare_page(summarise(run), summarise(full_run()))).open == []


def test_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys; from tests.factories import full_run; from simfleet.result import Result; "
        "from simfleet.page.compare import compare_page; r = Result(full_run()); "
        "sys.stdout.buffer.write((r.html() + compare_page(r.summary, r.summary)).encode())"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) > 50_000


def test_files_of_the_page_are_packaged():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["include"]
    for file in (ROOT / "simfleet" / "page").iterdir():
        if file.is_file():
            assert any(fnmatch(f"simfleet/page/{file.name}", pattern) for pattern in patterns), file.name


# -- the answer ----------------------------------------------------------------------------------------------------------


def test_the_verdict_says_who_missed():
    run = make_run([Row(ttft_s=5.0, e2e_s=6.0), Row(1)])
    tile = tiles(summarise(run))[0]
    assert (tile.value, tile.unit, tile.state) == ("MISSED", "1 of 2", "bad")
    assert tile.note.startswith("chat; 50.0 % of requests")
    assert repr(Result(run)).endswith("stable, MISSED by 1 of 2 classes>")
    kept = make_run([Row(), Row(1)])
    assert (tiles(summarise(kept))[0].value, tiles(summarise(kept))[0].state) == ("kept", "good")
    assert tiles(summarise(make_run()))[0].value == "n/a"


def test_every_regime_is_explained():
    known = re.findall(r"`(stable|backlogged|overloaded|nothing served)`", (ROOT / "docs" / "metrics.md").read_text())
    assert set(REGIMES) == set(known)


# -- charts --------------------------------------------------------------------------------------------------------------


def curve(shape, **more):
    x, y = np.array([1.0, 2.0, 4.0]), np.array([10.0, 30.0, 20.0])
    return draw(Chart("t", "time [s]", "y", [Series("a", x, y, 0)], shape, **more))


@pytest.mark.parametrize(
    ("shape", "path"),
    [
        ("line", "M158.5 152.7L261 14L466 83.3"),
        ("before", "M158.5 152.7V14H261V83.3H466"),
        ("after", "M158.5 222H158.5V152.7H261V14H466V83.3"),
    ],
)
def test_curves_stand_where_their_values_say(shape, path):
    drawing = curve(shape)
    assert drawing.paths == [("a", 0, path)]
    assert drawing.y_ticks[0] == (charts.BOTTOM, "0")
    assert drawing.y_ticks[-1] == (charts.TOP, "30")
    assert drawing.hover["series"] == [["a", 0, [1, 2, 4], [10, 30, 20]]]


def test_nothing_to_draw_is_no_chart():
    assert draw(Chart("t", "x", "y", [Series("a", np.array([]), np.array([]), 0)])) is None
    assert curve("line", x_log=True) is not None
    zero = draw(Chart("t", "x", "y", [Series("a", np.zeros(2), np.zeros(2), 0)], x_log=True))
    assert zero is not None
    assert "nan" not in zero.paths[0][2]


@given(st.floats(1e-9, 1e12))
def test_ticks_reach_the_top_and_are_few(high):
    ticks = even_ticks(high)
    values = [value for value, _ in ticks]
    assert values[0] == 0
    assert values[-1] >= high * (1 - 1e-6)
    assert values[-2] < high
    assert 2 <= len(ticks) <= charts.MOST_TICKS + 1
    assert len({label for _, label in ticks}) == len(ticks)


@given(st.floats(1e-6, 1e5), st.floats(1.0, 1e9))
def test_logarithmic_ticks_are_inside_and_few(low, factor):
    axis = log_axis(low, low * factor)
    assert axis.low < axis.high
    assert len(axis.ticks) <= charts.MOST_TICKS + 1
    assert all(axis.low * 0.999 <= value <= axis.high * 1.001 for value, _ in axis.ticks)


def test_counts_have_no_tick_between_one_and_two():
    assert [label for _, label in even_ticks(1.0, least=1.0)] == ["0", "1"]
    assert [label for _, label in even_ticks(1.0)] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_the_waterfalls_end_where_the_report_does():
    report = summarise(full_run())
    paid = [bar for bar in pictures.cost(report).bars if bar.colour == 0]
    whole = next(bar for bar in pictures.cost(report).bars if bar.label == "total")
    assert paid[0].x == pictures.LEFT
    assert paid[-1].x + paid[-1].width == pytest.approx(whole.x + whole.width, abs=1.1)
    assert whole.text == number(report["cost"]["usd_total"])
    spent = [bar for bar in pictures.cost(report).bars if bar.colour == 1]
    assert spent[0].x + spent[0].width == pytest.approx(whole.x + whole.width, abs=1.1)
    assert spent[-1].x == pytest.approx(pictures.LEFT, abs=1.1)
    steps = pictures.energy(report).bars
    assert steps[-1].text == number(report["energy"]["joules_per_output_token"]["facility"])
    assert steps[-2].x + steps[-2].width == pytest.approx(steps[-1].x + steps[-1].width, abs=1.1)


# -- the scenario and the sources ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quickstart", "gpu-vs-asic", "azure-conversation", "w1"])
def test_the_scenario_on_the_page_is_the_scenario(name):
    data = load(name).document.data
    assert Document.from_text(yaml(data)).data == data


KEYS = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12).filter(
    lambda key: key != "<<"
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | KEYS | st.sampled_from(["1e9", "NO", "1:30", "~", "8 ms", "$2.5/h", "- a", "a: b", "a #b"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_written_is_read_again(data):
    assert Document.from_text(yaml(data)).data == data if data else yaml(data)


def test_every_number_has_a_source(quick):
    tables = sources(quick.run)
    headings = [table.heading for table in tables]
    assert len(headings) == len(set(headings))
    assert sum("nvidia-h100-sxm (h100)" in heading for heading in headings) == 1
    assert any(heading.startswith("Engine") and "h100, l40s" in heading for heading in headings)
    for table in tables:
        assert table.rows
        assert all(1 <= row.source <= len(table.sources) and row.grade for row in table.rows)
    values = {row.name: row.value for table in tables for row in table.rows if "nvidia-h100-sxm" in table.heading}
    assert values["power.tdp"] == "700 W"
    assert values["memory.bandwidth"] == "3.35 TB/s"


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (8e10, "bytes", "80.0 GB"),
        (5e10, "bytes per second", "50.0 GB/s"),
        (9.89e14, "operations per second", "989 TFLOP/s"),
        (2.5, "dollars per hour", "$2.50/h"),
        (0.0, "watts", "0 W"),
        (0.75, None, "0.75"),
    ],
)
def test_quantities_have_units_that_people_use(value, dimension, text):
    assert quantity(value, dimension) == text


# -- two runs ------------------------------------------------------------------------------------------------------------


def test_changes_say_how_much_and_whether_it_is_better():
    metrics = [
        Metric("up", "a", number, 1),
        Metric("down", "a", number, -1),
        Metric("share", "b", percent, 1),
        Metric("gone", "c"),
    ]
    rows = changes({"a": 2.0, "b": 0.5}, {"a": 3.0, "b": 0.4}, metrics)
    assert [(row.name, row.change, row.state) for row in rows] == [
        ("up", "+50.0 %", "better"),
        ("down", "+50.0 %", "worse"),
        ("share", "-10.0 points", "worse"),
    ]
    small, large, zero = (
        changes({"a": one}, {"a": other}, metrics[:1])[0] for one, other in ((1.0, 1.001), (1.0, 30.0), (0.0, 1.0))
    )
    assert (small.change, small.state) == ("+0.1 %", "")
    assert (large.change, zero.change) == ("x 30.0", "from 0")
    assert changes({"a": None}, {"a": 1.0}, metrics[:1])[0].one == "n/a"


def test_what_was_asked_comes_before_what_came_out(versus):
    asked = versus[versus.index('id="inputs"') : versus.index('id="whole"')]
    assert "scenario and profiles (sha256)" in asked
    assert "<td>seed</td>" not in asked
    text = versus[versus.index('id="whole"') :]
    assert {"$/Mtok in", "$/Mtok out", "$/Mtok in+out"} <= set(re.findall(r">(\$/Mtok [a-z+]+)<", text))
    assert "Class chat" in text
    assert "Pool l40s" in text


def test_no_input_is_called_the_same_while_the_hash_differs(quick):
    other = {**quick.summary, "scenario": {**quick.summary["scenario"], "sha256": "f" * 64}}
    text = compare_page(quick.summary, other)
    assert "nothing that these reports hold" in text
    assert "all others" not in text
    assert "The same scenario" not in text
    rented = quick.run.scenario.replace("pools.h100.cost", {"kind": "rent", "price": "$2.5/h"})
    cheaper = summarise(Run(rented, quick.run.seed, quick.run.records, quick.run.version))
    assert '<td>pools.h100.cost.price</td><td class="text">not given</td><td class="text">$2.5/h</td>' in compare_page(
        quick.summary, cheaper
    )


def test_other_seeds_of_the_same_scenario_are_said(quick):
    text = compare_page(quick.summary, {**quick.summary, "seed": 99})
    assert "The seeds differ: " in text
    assert "The same scenario, profiles and version." in text


def test_the_same_run_twice_differs_in_nothing(quick):
    text = compare_page(quick.summary, quick.summary)
    assert "The same scenario, profiles, seed and version." in text
    assert not re.search(r">(better|worse|differs)<", text)


def test_the_command_writes_the_page(quick, tmp_path):
    (tmp_path / "report.json").write_text(quick.json())
    arguments = ["compare", str(tmp_path), str(tmp_path), "--html", str(tmp_path / "two.html")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "two.html").read_text() == compare_page(quick.summary, quick.summary)


# -- notebooks -----------------------------------------------------------------------------------------------------------


def test_a_scenario_in_a_notebook():
    scenario = load("quickstart")
    assert repr(scenario) == str(scenario)
    assert len(repr(scenario)) < 200
    assert all(word in repr(scenario) for word in ("quickstart", "chat, summaries", "h100 2 x nvidia-h100-sxm"))
    html = scenario._repr_html_()
    assert Tree(html).open == []
    assert Tree(html).tags.count("table") == 3
    assert "<td>99.0%</td>" in html
