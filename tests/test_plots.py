"""Pictures: what is drawn is what was recorded."""

import re
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from simfleet.page import pictures
from simfleet.records import Status
from simfleet.report import plots
from simfleet.report.metrics import summarise
from simfleet.run import Run
from simfleet.scenario import load
from tests.factories import NIGHT, SCENARIO, Row, full_run, make_run, turned_away

ALL = sorted(plots.ALL)


@pytest.mark.parametrize("name", ALL)
def test_draws_on_the_axes_given_or_on_new_ones(name):
    axes = Figure().add_subplot()
    assert plots.ALL[name](full_run(), axes) is axes
    assert plots.ALL[name](full_run()).figure is not axes.figure
    assert plots.ALL[name](full_run(), ax=axes) is axes


@pytest.mark.parametrize("name", ALL)
def test_every_axis_says_what_it_shows(name):
    axes = plots.ALL[name](full_run())
    assert axes.get_title(loc="left")
    assert axes.get_ylabel()
    assert axes.get_xlabel().endswith("[s]") or name in ("cost", "energy")
    assert re.search(r"\[(s|W|J|\$)\]$", axes.get_xlabel() + axes.get_ylabel()) or name in ("latency", "kv")


@pytest.mark.parametrize("name", ALL)
def test_nothing_recorded_is_an_empty_picture(name, tmp_path):
    """No request, no time, no dollars: no warning either (warnings are errors)."""
    plots.ALL[name](make_run(duration_s=0.0)).figure.savefig(tmp_path / "empty.png")


def test_curves_are_shares_of_answered_requests_per_class():
    rows = [Row(ttft_s=ttft_s, e2e_s=9.0) for ttft_s in (0.4, 0.1, 0.2, 0.3)] + [turned_away(Status.REJECTED)]
    axes = plots.latency(make_run([*rows, Row(NIGHT, ttft_s=0.7)]))
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines if len(line.get_xdata()) != 2}
    assert curves["chat"] == [[0.1, 0.25], [0.2, 0.5], [0.3, 0.75], [0.4, 1.0]]
    assert curves["batch"] == [[0.7, 1.0]]


@pytest.mark.parametrize(
    ("column", "limits", "label"),
    [
        ("ttft_s", [1.0], "chat target 1 s"),
        ("tpot_s", [0.15], "chat target 0.15 s"),
        ("e2e_s", [10.0], "batch target 10 s"),
    ],
)
def test_targets_stand_where_the_classes_have_them(column, limits, label):
    axes = plots.latency(full_run(), column=column)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == pytest.approx(limits)
    assert [text.get_text() for text in axes.texts] == [label]


def test_the_wait_has_no_target_and_nonsense_no_picture():
    assert not plots.latency(full_run(), column="queue_wait_s").texts
    with pytest.raises(KeyError):
        plots.latency(full_run(), column="nonsense")


def test_a_million_requests_draw_as_small_as_a_few_thousand():
    rows = [Row(ttft_s=0.1 + i * 1e-6, e2e_s=1.0) for i in range(3 * plots.POINTS)]
    points = plots.latency(make_run(rows)).lines[0].get_xydata()
    assert len(points) == plots.POINTS
    assert points[0].tolist() == pytest.approx([0.1, 1 / len(rows)])
    assert points[-1].tolist() == pytest.approx([rows[-1].ttft_s, 1.0])
    assert np.all(np.diff(points, axis=0) > 0)


def test_the_warm_up_is_not_drawn():
    rows = [Row(arrival_s=1.0, ttft_s=5.0), Row(arrival_s=20.0, ttft_s=0.5)]
    axes = plots.latency(make_run(rows, overrides=[("warmup", "10 s")]))
    assert axes.lines[0].get_xydata().tolist() == [[0.5, 1.0]]


def test_timelines_are_the_recorded_columns():
    run = full_run()
    axes = plots.power(run)
    power = axes.lines
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["rented", "owned"]
    assert power[1].get_ydata().tolist() == [300, 301, 302, 303, 304]
    assert [line.get_ydata().tolist() for line in power[2:]] == [[700, 701, 702, 703, 704]] * 2
    assert {line.get_linestyle() for line in power[2:]} == {"--"}
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 704
    left, right = plots.kv(run).figure.axes
    assert left.lines[0].get_ydata().tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert right.lines[0].get_ydata().tolist() == [0, 2, 4, 6, 8]


def test_watts_end_with_the_last_whole_interval():
    """As on the page; levels are shown to the end."""
    run = full_run()
    run.records.timeline.append((1100.0, 0, 0, 0, 0.0, 10.0, 20.0, 0.0))
    run.records.timeline.append((1100.0, 1, 0, 0, 0.0, 10.0, 20.0, 0.0))
    assert plots.power(run).lines[0].get_xdata().tolist() == [0, 250, 500, 750, 1000]
    assert plots.kv(run).lines[0].get_xdata().tolist() == [0, 250, 500, 750, 1000, 1100]
    (accelerators, _), (held, *_) = pictures.power(run), pictures.load(run)
    assert accelerators.series[0].x.max() * 60 == pytest.approx(1000)
    assert held.series[0].x.max() * 60 == pytest.approx(1100)


@pytest.mark.parametrize(("horizon_s", "last_s"), [(990, 750), (900, 1000), (1000, 1000), (2000, 1000)])
def test_a_brief_drain_is_left_out_of_watts(horizon_s, last_s):
    run = full_run()
    drained = Run(load(SCENARIO, {"horizon": f"{horizon_s} s"}), run.seed, run.records, run.version)
    assert plots.power(drained).lines[0].get_xdata().max() == last_s


def test_the_waterfall_rises_to_the_total_and_falls_to_nothing():
    run = full_run()
    money = summarise(run)["cost"]
    paid, spent = money["lines_usd"], money["spent_usd"]
    bars = plots.cost(run).patches
    assert [bar.get_height() for bar in bars] == pytest.approx([*paid.values(), *spent.values()])
    level = 0.0
    for bar in bars[: len(paid)]:
        assert bar.get_y() == pytest.approx(level)
        level += bar.get_height()
    assert level == pytest.approx(money["usd_total"])
    for bar in bars[len(paid) :]:
        level -= bar.get_height()
        assert bar.get_y() == pytest.approx(level, abs=1e-9)
    assert level == pytest.approx(0.0, abs=1e-9)


def test_joules_add_up_from_boundary_to_boundary():
    run = full_run()
    per_token = summarise(run)["energy"]["joules_per_output_token"]
    *steps, whole = plots.energy(run).patches
    assert [bar.get_y() + bar.get_height() for bar in steps] == pytest.approx([*per_token.values()])
    assert sum(bar.get_height() for bar in steps) == pytest.approx(whole.get_height())
    assert whole.get_y() == 0


def test_no_global_state_is_touched(tmp_path):
    before = dict(mpl.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    plots.save(full_run(), tmp_path)
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded
