"""What notebooks and scripts get: tables, files, HTML."""

import json
import pickle
import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from simfleet import load, simulate
from simfleet.records import Status
from simfleet.result import Result
from tests.factories import NIGHT, Row, full_run, make_run, turned_away

DETAIL = ["replica", "input_tokens", "preemptions", "device_s", "energy_j"]
FILES = ["report.json", "report.md", "report.html", "timeline.csv"]
FILES += [f"{name}.{kind}" for name in ("latency", "kv", "power", "energy", "cost") for kind in ("png", "svg")]


@pytest.fixture(scope="module")
def result():
    return Result(full_run())


# -- tables --------------------------------------------------------------------------------------------------------------


def test_requests_have_names_for_numbers():
    rows = [
        Row(arrival_s=1.0),
        turned_away(Status.REJECTED, stream=NIGHT, pool=1, arrival_s=0.5),
        Row(2, arrival_s=2.0),
    ]
    table = Result(make_run(rows)).requests
    assert table.index.name == "request"
    assert table["arrival_s"].tolist() == [0.5, 1.0, 2.0]
    assert table["stream"].tolist() == ["night", "talk", "free"]
    assert table["class"].tolist() == ["batch", "chat", "(no class)"]
    assert table["pool"].tolist() == ["owned", "rented", "rented"]
    assert table["status"].tolist() == ["rejected", "completed", "completed"]
    assert table["tpot_s"].tolist() == pytest.approx([np.nan, 0.1, 0.1], nan_ok=True)
    assert table["energy_j"].tolist() == [2.0, 2.0, 2.0]


def test_detail_that_was_not_kept_says_how_to_keep_it():
    table = Result(full_run(detail=False)).requests
    assert len(table["ttft_s"]) == len(table) == 2004
    assert not set(DETAIL) & set(table.columns)
    for name in DETAIL:
        with pytest.raises(KeyError, match=f"`{name}` was not kept .* requests=True"):
            table[name]
    with pytest.raises(KeyError, match=r"^'nonsense'$"):
        table["nonsense"]
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(table)), pd.DataFrame(table))


def test_tables_are_copies(result):
    table = result.requests
    table["ttft_s"] = 0.0
    assert result.requests["ttft_s"].min() > 0
    timeline = result.timeline
    timeline["running"] = 99
    assert result.timeline["running"].max() == 4


def test_timeline_has_a_row_per_instant_and_pool(result):
    table = result.timeline
    assert table["pool"].tolist() == ["rented", "owned"] * 5
    assert table["time_s"].tolist() == [0, 0, 250, 250, 500, 500, 750, 750, 1000, 1000]


def test_energy_is_pools_by_boundaries(result):
    table = result.energy
    assert table.columns.tolist() == ["accelerator_active_j", "accelerator_j", "node_j", "facility_j"]
    assert table.loc["rented"].tolist() == [1000, 1500, 3000, 3600]
    assert table.loc["owned"].tolist() == [500, 750, 1500, 1800]


# -- report.json ---------------------------------------------------------------------------------------------------------


def test_the_report_has_what_programs_read(result):
    report = result.summary
    assert set(report) >= {
        "schema_version", "simfleet_version", "scenario", "seed", "regime", "requests", "latency", "attainment", "throughput",
        "energy", "cost", "pools", "classes", "assumptions",
    }  # fmt: skip
    assert set(report["requests"]) == {"arrived", "completed", "rejected", "failed", "timed_out", "in_flight"}
    assert set(report["latency"]) == {"ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_wait_s"}
    for column in report["latency"].values():
        assert set(column) == {"mean", "p50", "p90", "p95", "p99", "n"}
        assert type(column["n"]) is int
    for name in ("output_token", "input_token", "total_token", "request"):
        scopes = report["energy"][f"joules_per_{name}"]
        assert list(scopes) == ["accelerator_active", "accelerator", "node", "facility"]
        assert list(scopes.values()) == sorted(scopes.values())
    assert (report["seed"], report["simfleet_version"], report["schema_version"]) == (7, "0.0.test", 1)


def test_json_is_strict_and_null_where_nothing_is_known():
    empty = Result(make_run(duration_s=0.0))
    report = json.loads(empty.json(), parse_constant=pytest.fail)
    assert report["latency"]["ttft_s"] == {"mean": None, "p50": None, "p90": None, "p95": None, "p99": None, "n": 0}
    assert report["throughput"]["output_tok_s"] is None
    assert "n/a" in empty.text()
    assert "n/a" in empty.markdown()


def test_the_hash_is_of_the_scenario_not_of_its_place(tmp_path):
    """The same file in two folders is the same scenario; another number makes it another one."""
    shipped = Path(__file__).parents[1] / "scenarios" / "quickstart.yaml"
    hashes = []
    for folder, change in (("here", []), ("there", []), ("there", [("warmup", "3 min")])):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(shipped, tmp_path / folder / "same.yaml")
        run = make_run()
        object.__setattr__(run, "scenario", load(tmp_path / folder / "same.yaml", change))
        run.records.pools.clear()
        run.records.pools.extend(full_run().records.pools)
        for ledger, name in zip(run.records.pools, run.pools, strict=True):
            ledger.name = name
        hashes.append(Result(run).summary["scenario"]["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


# -- files ---------------------------------------------------------------------------------------------------------------


def test_two_saves_are_the_same_bytes_whatever_the_style(tmp_path):
    Result(full_run()).save(tmp_path / "one", requests="csv")
    with mpl.rc_context({"lines.linewidth": 7, "svg.fonttype": "none", "font.size": 20}):
        Result(full_run()).save(tmp_path / "two", requests="csv")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted([*FILES, "requests.csv"])
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_files_hold_no_date_path_or_program(tmp_path, result):
    result.save(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        for trace in (b"<dc:date>", b"tEXtSoftware", str(tmp_path).encode(), str(Path.home()).encode() + b"/"):
            assert trace not in content, (path.name, trace)
        assert b"\r\n" not in content or path.suffix == ".png"


@pytest.mark.parametrize("nothing", [False, None])
def test_requests_are_written_when_asked_for(tmp_path, result, nothing):
    result.save(tmp_path / "deep" / "out", requests=nothing)
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == sorted(FILES)


def test_csv_comes_back_as_it_was(tmp_path, result):
    result.save(tmp_path, requests="csv")
    back = pd.read_csv(tmp_path / "requests.csv", index_col="request")
    table = result.requests
    for name in table.select_dtypes("category"):
        table[name] = table[name].astype(str)
    pd.testing.assert_frame_equal(back, table, check_dtype=False, check_exact=True)
    timeline = pd.read_csv(tmp_path / "timeline.csv")
    assert timeline["accelerator_w"].tolist() == result.timeline["accelerator_w"].tolist()


def test_parquet_comes_back_with_its_types(tmp_path, result):
    pytest.importorskip("pyarrow", reason="needs simfleet[parquet]")
    result.save(tmp_path, requests="parquet")
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "requests.parquet"), result.requests, check_categorical=False
    )


@pytest.mark.parametrize("kind", ["xlsx", True])
def test_another_kind_of_file_is_refused_before_anything_is_written(tmp_path, result, kind):
    with pytest.raises(ValueError, match=f"csv, parquet, False, got `{kind}`"):
        result.save(tmp_path / "out", requests=kind)
    assert not (tmp_path / "out").exists()


# -- notebooks -----------------------------------------------------------------------------------------------------------


def test_repr_is_one_line(result):
    assert repr(result) == "<Result by-hand, seed 7: 2,000 of 2,004 completed, backlogged, targets kept>"


def test_html_shows_the_tables_and_escapes_names():
    result = Result(make_run([Row()], overrides=[("description", "a <b>bold</b> claim")]))
    html = result._repr_html_()
    assert html.count("<table>") == 5
    assert "a &lt;b&gt;bold&lt;/b&gt; claim" in html
    assert "<b>bold" not in html
    assert "by-hand" in html


def test_pictures_by_name(result):
    assert result.plot.latency().get_title(loc="left") == "Time to first token"
    assert result.plot is result.plot
    with pytest.raises(AttributeError, match="no plot `joules`; there are: latency, kv, power, energy, cost"):
        result.plot.joules  # noqa: B018


# -- a real run ----------------------------------------------------------------------------------------------------------


def test_a_real_run_agrees_with_its_own_table():
    """The summary's figures, computed again from the table of requests with pandas."""
    result = simulate(load("quickstart", [("horizon", "4 min"), ("warmup", "20 s")]), seed=2)
    table, report = result.requests, result.summary
    measured = table[table["arrival_s"] >= 20]
    for column in ("ttft_s", "e2e_s", "queue_wait_s", "tpot_s"):
        assert report["latency"][column]["mean"] == pytest.approx(measured[column].mean())
        assert report["latency"][column]["p90"] == pytest.approx(measured[column].quantile(0.9))
    chat = measured[measured["class"] == "chat"]
    good = (chat["status"] == "completed") & (chat["ttft_s"] <= 1) & ~(chat["tpot_s"] > 0.06)
    assert report["classes"][0]["attainment"]["overall"] == pytest.approx(good.mean())
    assert report["requests"]["arrived"] == len(table)
    assert report["throughput"]["output_tok_s"] * report["duration_s"] == pytest.approx(table["output_tokens"].sum())
    assert report["energy"]["joules"]["accelerator_active"] == pytest.approx(table["energy_j"].sum())
    assert np.isnan(result.run.tpot_s).sum() == table["tpot_s"].isna().sum()
