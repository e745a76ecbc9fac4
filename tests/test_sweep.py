"""Sweeps: the grid, the table and its intervals, errors as rows, and the names under which runs are kept."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

import simfleet as sf
from simfleet.cli import cli
from simfleet.serving.routing import RoundRobin
from simfleet.sweeping import command, executors, table
from simfleet.sweeping.points import Axis, Cache, axes, content, default_folder, points, program, write, written_axes
from simfleet.sweeping.sweep import Progress
from simfleet.sweeping.table import Sweep, metric_sets
from simfleet.workload import tracefile

TINY: dict[str, Any] = {
    "name": "tiny",
    "workload": {
        "classes": {"chat": {"ttft": "1 s", "tpot": "60 ms", "target": 0.9}},
        "streams": [
            {
                "name": "talk", "model": "llama-3.1-8b", "class": "chat", "count": 30, "arrival": {"rate": "20 /s"},
                "tokens": {"input": {"dist": "uniform", "low": 100, "high": 2000}, "output": {"dist": "uniform", "low": 5, "high": 50}},
            }
        ],
    },
    "pools": {"chat": {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm"}},
}  # fmt: skip
RATE = "workload.streams.talk.arrival.rate"
REPLICAS = "pools.chat.replicas"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMFLEET_CACHE", str(tmp_path / "cache"))


def tiny(over: dict[str, Any], seeds: Any = 1, **options: Any) -> Sweep:
    return sf.sweep(TINY, over, seeds, **{"workers": 1, **options})


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.json"))


# -- the grid ------------------------------------------------------------------------------------------------------------


def test_values_are_those_of_yaml() -> None:
    found = written_axes(["a.b=4,8", "c=1 s,{kind: own, life: 5},fp8", "d=true,false"])
    assert found == {"a.b": [4, 8], "c": ["1 s", {"kind": "own", "life": 5}, "fp8"], "d": [True, False]}
    assert Axis("c", tuple(found["c"])).labels == ["1 s", "{kind: own, life: 5}", "fp8"]
    assert Axis("a.b", (4, 8.5)).labels == [4, 8.5]
    assert Axis("d", (True, 1, None)).labels == ["true", "1", "null"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["pools.chat.replicas"], "expected PATH=V1,V2"),
        (["a=1", "a=2"], "--over: a: expected once"),
        (["a=1,2,1"], "--over: a: expected different values, got `1` twice"),
        (["a= "], "expected PATH=V1,V2"),
        (["a=[1,2"], "not YAML"),
        ([], "expected at least one path"),
    ],
)
def test_bad_axes_are_named(texts: list[str], message: str) -> None:
    with pytest.raises(sf.SpecError) as caught:
        axes(written_axes(texts))
    assert message in str(caught.value)


def test_the_last_path_comes_first() -> None:
    base, _ = sf.scenario.draft(TINY)
    found = [point.labels for point in points(base, axes({REPLICAS: [1, 2], "warmup": ["0 s", "1 s"]}))]
    assert found == [(1, "0 s"), (1, "1 s"), (2, "0 s"), (2, "1 s")]


# -- the table -----------------------------------------------------------------------------------------------------------


def test_a_point_is_what_simulate_says() -> None:
    found = tiny({REPLICAS: [1, 2]}, [7])
    report = sf.simulate(sf.load(TINY, overrides={REPLICAS: 2}), seed=7).summary
    whole = found.table.query("of == 'all'").iloc[1]
    assert whole[REPLICAS] == 2
    assert whole["ttft_p50_s"] == report["latency"]["ttft_s"]["p50"]
    assert whole["facility_joules_per_output_token"] == report["energy"]["joules_per_output_token"]["facility"]
    assert whole["spent_idle_usd"] == report["cost"]["spent_usd"]["idle"]
    pool = found.table.query("of == 'pool'").iloc[1]
    assert (pool["group"], pool["devices"], pool["device"]) == ("chat", 2, "nvidia-h100-sxm")
    assert pool["kv_occupancy_peak"] == report["pools"][0]["kv"]["occupancy_peak"]
    chat = found.table.query("of == 'class'").iloc[1]
    assert (chat["group"], chat["target"], chat["attainment"]) == ("chat", 0.9, report["attainment"]["overall"])
    assert not [name for name in found.table if name.startswith("low_")]


def test_every_number_of_a_report_has_one_column() -> None:
    """No two numbers of an entry share a column, and none but lists and texts is left out."""

    def leaves(value: Any) -> int:
        if isinstance(value, dict):
            return sum(leaves(item) for item in value.values())
        return int(value is None or isinstance(value, int | float))

    report = sf.simulate(sf.load(TINY)).summary
    texts = {
        "schema_version",
        "seed",
        "scenario",
        "kept",
        "device_power_cap_w",
        "precision",
        "binds",
        "facility_range_j",
    }
    for entry, numbers in zip(
        [report, *report["classes"], *report["pools"], *report["models"]], metric_sets(report), strict=True
    ):
        sections = {key: value for key, value in entry.items() if key not in (*texts, "targets")}
        wanted = sum(
            leaves({key: item for key, item in value.items() if key not in texts} if isinstance(value, dict) else value)
            for value in sections.values()
        )
        columns = [name for name, value in numbers.items() if not isinstance(value, str)]
        assert len(columns) == wanted + ("targets" in entry), numbers["of"]


def test_intervals_are_students() -> None:
    found = tiny({RATE: ["20 /s", "200 /s"]}, 4)
    for point, row in enumerate(found.table.query("of == 'all'").to_dict("records")):
        values = found.runs.query("of == 'all'")["ttft_mean_s"].iloc[4 * point : 4 * point + 4]
        low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
        assert [row["low_ttft_mean_s"], row["high_ttft_mean_s"]] == pytest.approx([low, high], rel=1e-12)
        assert row["ttft_mean_s"] == pytest.approx(values.mean(), rel=1e-14)
        assert low < high


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 2,000 intervals from five normal draws, 95 % hold the mean, give or take three standard errors."""
    draws = np.random.default_rng(1).normal(3.0, 2.0, (2000, 5)).tolist()
    found = [table._interval("ttft_mean_s", values, 5) for values in draws]
    held = np.mean([row["low_ttft_mean_s"] <= 3.0 <= row["high_ttft_mean_s"] for row in found])
    assert abs(held - 0.95) < 3 * (0.95 * 0.05 / 2000) ** 0.5


def test_shares_stay_shares_and_what_a_seed_lacks_is_empty() -> None:
    sets = [{"of": "all", "regime": regime, "attainment": share, "ttft_p95_s": p95, "devices": 2}
            for regime, share, p95 in (("stable", 1.0, 0.1), ("overloaded", 0.9, None))]  # fmt: skip
    found = table._over_seeds(sets)
    assert (found["attainment"], found["high_attainment"], found["regime"], found["devices"]) == (
        0.95,
        1.0,
        "overloaded",
        2,
    )
    assert 0.0 <= found["low_attainment"] < 0.95
    assert [found[name] for name in ("ttft_p95_s", "low_ttft_p95_s", "high_ttft_p95_s")] == [None] * 3


def test_points_share_their_random_numbers() -> None:
    runs = tiny({REPLICAS: [1, 3]}, [4, 9]).runs.query("of == 'all'")
    assert runs["input_tok_s"].nunique() == 4
    tokens = (runs["input_tok_s"] * runs["duration_s"]).to_numpy()
    assert tokens[:2] == pytest.approx(tokens[2:])
    assert tokens[0] != pytest.approx(tokens[1])


def test_tables_in_files_and_on_screens(tmp_path: Path) -> None:
    found = tiny({REPLICAS: [1, 2], "pools.chat.precision": ["bf16", {"weights": "fp8"}]}, 2)
    found.save(tmp_path / "a.csv")
    found.save(tmp_path / "a.parquet")
    read = pd.read_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read, found.table, check_dtype=False)
    assert pd.read_csv(tmp_path / "a.csv")["low_ttft_mean_s"].equals(read["low_ttft_mean_s"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.parquet", "cache"]
    rows = json.loads(found.json())["rows"]
    assert len(rows) == len(found.table) == 4 * 4
    lines = found.text().splitlines()
    assert lines[0].split()[:2] == [REPLICAS, "pools.chat.precision"]
    assert len(lines) == 1 + 4 + 1
    assert "±" in lines[1]
    assert "{weights: fp8}" in found._repr_html_()
    with pytest.raises(ValueError, match=r"ends in \.csv or \.parquet"):
        found.save(tmp_path / "a.txt")
    assert repr(found) == f"<Sweep of tiny: 2 {REPLICAS} x 2 pools.chat.precision, 2 seeds, 0 of 4 points failed>"


# -- failures ------------------------------------------------------------------------------------------------------------


def test_a_failing_point_is_a_row() -> None:
    found = tiny({"pools.chat.device": ["nvidia-h100-sxm", "nvidia-h100-sx"]}, 2)
    good, bad = found.table.query("of == 'all'").to_dict("records")
    assert (good["status"], good["error"], bad["status"]) == ("ok", "", "bad input")
    assert (
        "pools.chat.device: unknown hardware profile `nvidia-h100-sx`; did you mean `nvidia-h100-sxm`?" in bad["error"]
    )
    assert np.isnan(bad["ttft_mean_s"])
    assert list(found.failures) == [1]
    assert found.text().splitlines()[-1].startswith("1 point failed: --over: pools.chat.device")


def test_a_simulation_that_fails_is_a_row_and_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def simulate(scenario: sf.Scenario, seed: int, **options: Any) -> sf.Result:
        if scenario.pools["chat"].replicas == 2 and seed == 1:
            raise RuntimeError("books do not balance")
        return sf.simulate(scenario, seed, **options)

    with monkeypatch.context() as patch:
        patch.setattr(executors, "simulate", simulate)
        found = tiny({REPLICAS: [1, 2]}, 2)
    assert found.failures == {1: "seed 1: RuntimeError: books do not balance"}
    assert found.table["status"].tolist() == ["ok"] * 4 + ["simulation error"]
    assert len(kept(tmp_path / "cache")) == 3
    assert tiny({REPLICAS: [1, 2]}, 2).failures == {}


def test_without_one_valid_point_there_is_no_table() -> None:
    with pytest.raises(sf.SpecError, match="unknown key; did you mean `replicas`"):
        tiny({"pools.chat.replica": [1, 2]})
    with pytest.raises(ValueError, match="each once"):
        tiny({REPLICAS: [1]}, [1, 1])


# -- names of runs -------------------------------------------------------------------------------------------------------


class Mine(RoundRobin):
    """A policy of the user's own."""


def test_the_name_of_a_run_holds_all_that_its_numbers_depend_on() -> None:
    base = content(sf.load(TINY))
    changed: list[tuple[str, Any]] = [
        (REPLICAS, 2),
        ("pools.chat.device", "nvidia-h200-sxm"),
        ("pools.chat.engine", "sglang"),
        ("routing", {"kind": "random"}),
        ("routing", Mine()),
        ("sites", {"here": {"preset": "finland"}}),
        ("warmup", "1 s"),
    ]
    names = [content(sf.load(TINY).replace(path, value)) for path, value in changed]
    assert len({base, *names}) == 1 + len(changed)
    assert "" not in names
    words = {"name": "other", "description": "other", "variants": {"two": {REPLICAS: 2}}}
    assert content(sf.load({**TINY, **words})) == base
    assert len({Cache.key(base, 0), Cache.key(base, 1), Cache.key(names[0], 0)}) == 3


def test_profiles_and_files_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    profile = (sf.library.shipped("hardware_profiles") / "nvidia-h100-sxm.yaml").read_text()
    rows = ["arrival_s,input_tokens,output_tokens", "0,100,10", "1,200,20"]

    def named(folder: str, profile: str = profile, rows: list[str] = rows, factor: int = 1) -> str:
        here = tmp_path / folder
        here.mkdir(exist_ok=True)
        (here / "mine.yaml").write_text(profile)
        (here / "rows.csv").write_text("\n".join(rows))
        (here / "factor.csv").write_text(f"time_s,factor\n0,1\n60,{factor}\n")
        streams = [
            {"name": "replay", "model": "llama-3.1-8b", "trace": {"file": "rows.csv"}},
            {**TINY["workload"]["streams"][0], "arrival": {"rate": "20 /s", "envelope": {"kind": "series", "file": "factor.csv", "repeat": True}}},
        ]  # fmt: skip
        values = {**TINY, "workload": {**TINY["workload"], "streams": streams}}
        (here / "scenario.yaml").write_text(json.dumps(values))
        return content(sf.load(here / "scenario.yaml", overrides={"pools.chat.device": "mine"}, paths=here))

    first = named("a")
    assert named("b") == first
    others = [
        named("b", rows=[*rows, "2,1,1"]),
        named("b", factor=3),
        named("b", profile.replace("3.35 TB/s", "3.36 TB/s")),
    ]
    assert len({first, *others}) == 4


def test_a_profile_edited_between_two_sweeps_is_read_again(tmp_path: Path) -> None:
    """In one process, whose workers keep what they have read."""
    mine, profile = (
        tmp_path / "mine.yaml",
        (sf.library.shipped("hardware_profiles") / "nvidia-h100-sxm.yaml").read_text(),
    )
    means = []
    for bandwidth in ("3.35 TB/s", "1 TB/s", "nonsense", "3.35 TB/s"):
        mine.write_text(profile.replace("3.35 TB/s", bandwidth))
        if bandwidth == "nonsense":
            with pytest.raises(sf.SpecError, match="nonsense"):
                tiny({"pools.chat.device": ["mine"]}, paths=tmp_path, cache=False)
        else:
            found = tiny({"pools.chat.device": ["mine"]}, paths=tmp_path, cache=False)
            means.append(found.table["tpot_mean_s"].iloc[0])
    assert means[0] == means[2] < means[1]


def test_own_policies_without_a_source_are_not_kept(tmp_path: Path) -> None:
    names: dict[str, Any] = {"RoundRobin": RoundRobin, "__name__": "nowhere"}
    exec("class Hidden(RoundRobin):\n    pass", names)
    assert content(sf.load({**TINY, "routing": names["Hidden"]()})) == ""
    with pytest.raises(ValueError, match="define own policies in a module"):
        tiny({"routing": [names["Hidden"]()]})
    assert tiny({"routing": [Mine()]}).failures == {}
    assert len(kept(tmp_path / "cache")) == 1


def test_program_names_the_code() -> None:
    assert program().startswith(f"simfleet {sf.__version__} (code ")
    assert f"numpy {np.__version__}" in program()


# -- what is kept --------------------------------------------------------------------------------------------------------


def test_a_second_sweep_computes_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny({REPLICAS: [1, 2]}, 2)
    calls: list[int] = []

    def simulate(scenario: sf.Scenario, seed: int, **options: Any) -> sf.Result:
        calls.append(scenario.pools["chat"].replicas)
        return sf.simulate(scenario, seed, **options)

    monkeypatch.setattr(executors, "simulate", simulate)
    seen: list[Progress] = []
    again = tiny({REPLICAS: [2, 1]}, 2, progress=seen.append)
    assert calls == []
    assert seen[-1] == Progress(4, 4, 4, 0)
    order = [REPLICAS, "of"]
    assert again.table.sort_values(order, ignore_index=True).equals(first.table.sort_values(order, ignore_index=True))
    tiny({REPLICAS: [1, 3]}, 3)
    assert calls == [1, 3, 3, 3]
    tiny({REPLICAS: [1]}, 1, cache=False)
    assert calls[4:] == [1]
    broken = kept(tmp_path / "cache")[0]
    broken.write_text(broken.read_text()[:100])
    tiny({REPLICAS: [1, 2, 3]}, 3)
    assert len(calls) == 5 + 1 + 1


def test_a_table_from_kept_runs_has_the_same_bytes(tmp_path: Path) -> None:
    tables = []
    for name in ("fresh", "kept", "none"):
        found = tiny({REPLICAS: [1, 2], RATE: ["20 /s", "99 /s"]}, 3, **({"cache": False} if name == "none" else {}))
        found.save(tmp_path / f"{name}.csv")
        tables.append((tmp_path / f"{name}.csv").read_bytes())
    assert tables[0] == tables[1] == tables[2]


def test_another_program_knows_nothing_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny({REPLICAS: [1]})
    monkeypatch.setattr("simfleet.sweeping.points.program", lambda: "simfleet 9")
    seen: list[Progress] = []
    tiny({REPLICAS: [1]}, progress=seen.append)
    assert seen[-1].kept == 0
    assert len(kept(tmp_path / "cache")) == 2


def test_a_worker_with_another_program_or_other_files_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            executors, "simulated", lambda *given: SIMULATED(given[0], given[1], given[2], "simfleet 9", given[4])
        )
        with pytest.raises(ValueError, match="expected workers with simfleet 9, got simfleet"):
            tiny({REPLICAS: [1]})
    monkeypatch.setattr(executors, "content", lambda scenario: "other")
    with pytest.raises(ValueError, match="a worker sees other files"):
        tiny({RATE: ["33 /s"]})


SIMULATED = executors.simulated


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    write(path, b"old", tmp_path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, b"new and longer", tmp_path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("table.csv", b"old")]


def test_leftovers_of_a_killed_sweep_go(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    for name, age_s in (("old", 4000), ("new", 10)):
        (tmp_path / "tmp" / name).write_text("half")
        then = (tmp_path / "tmp" / name).stat().st_mtime - age_s
        os.utime(tmp_path / "tmp" / name, (then, then))
    Cache(tmp_path)
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["new"]


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_folder() == tmp_path / "cache"
    monkeypatch.delenv("SIMFLEET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_folder() == Path("/caches/simfleet")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "simfleet"


def test_a_trace_is_parsed_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text("arrival_s,input_tokens,output_tokens\n0,100,10\n1,200,20\n")
    stream = {"name": "replay", "model": "llama-3.1-8b", "trace": {"file": str(tmp_path / "rows.csv")}}
    values = {**TINY, "workload": {"streams": [stream]}}
    calls: list[Path] = []
    read = tracefile.read_rows
    monkeypatch.setattr(tracefile, "read_rows", lambda path, *given: calls.append(path) or read(path, *given))
    scales = [{"factor": factor, "method": "compress"} for factor in (1, 2, 4)]
    over = {REPLICAS: [1, 2], "workload.streams.replay.trace.rate_scale": scales}
    assert sf.sweep(values, over, 2, workers=1).failures == {}
    assert len(calls) == 1
    (tmp_path / "rows.csv").write_text("arrival_s,input_tokens,output_tokens\n0,100,10\n1,200,21\n")
    sf.sweep(values, {REPLICAS: [1]}, workers=1)
    assert len(calls) == 2


# -- the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    return str(tmp_path / "tiny.yaml")


def test_command(file: str, tmp_path: Path) -> None:
    words = ["sweep", file, "--over", f"{REPLICAS}=1,2", "--workers", "1"]
    shown = CliRunner().invoke(cli, [*words, "--seeds", "2", "--out", str(tmp_path / "t.parquet")])
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout.splitlines()) == 4
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 8
    plain = CliRunner().invoke(cli, [*words, "--format", "json", "--no-cache"])
    assert [row[REPLICAS] for row in json.loads(plain.stdout)["rows"] if row["of"] == "all"] == [1, 2]
    table = CliRunner().invoke(cli, [*words, "--format", "csv", "--out", str(tmp_path / "t.csv")])
    assert table.stdout == (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--over", "pools.chat.replica=1,2"], 2, "unknown key; did you mean `replicas`?"),
        (["--over", "pools.chatt.replicas=1,2"], 2, "did you mean `chat`?"),
        (["--over", f"{REPLICAS}"], 2, "expected PATH=V1,V2"),
        (["--over", f"{REPLICAS}=1", "--out", "t.xlsx"], 2, "ends in .csv or .parquet"),
        (["--over", f"{REPLICAS}=1", "--out", "nowhere/t.csv"], 2, "no such folder: `nowhere`"),
        (["--over", f"{REPLICAS}=1", "--executor", "slurm"], 2, "unknown executor `slurm`"),
        (["--over", f"{REPLICAS}=1", "--cache", "/proc/nowhere"], 2, "/proc/nowhere"),
        (["--seeds", "2"], 2, "--over"),
    ],
)
def test_command_says_what_is_wrong(file: str, words: list[str], code: int, message: str) -> None:
    shown = CliRunner().invoke(cli, ["sweep", file, *words])
    assert (shown.exit_code, message in shown.stderr) == (code, True), shown.output


def test_command_tells_failed_runs_from_bad_input(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(*given: Any, **options: Any) -> sf.Result:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(executors, "simulate", simulate)
    shown = CliRunner().invoke(cli, ["sweep", file, "--over", f"{REPLICAS}=1", "--workers", "1"])
    assert shown.exit_code == 4
    assert "ZeroDivisionError: division by zero" in shown.stdout

    def interrupted(*given: Any, **options: Any) -> sf.Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(executors, "simulate", interrupted)
    shown = CliRunner().invoke(cli, ["sweep", file, "--over", f"{REPLICAS}=1", "--workers", "1"])
    assert (shown.exit_code, "the same command goes on from there" in shown.stderr) == (130, True)


def test_the_time_left_leaves_out_what_was_kept() -> None:
    assert command.words(Progress(100, 60, 50, 0), 30.0) == "60 of 100 runs, 50 kept from before, 0:02:00 left"
    assert command.words(Progress(100, 50, 50, 0), 30.0) == "50 of 100 runs, 50 kept from before"
    assert command.words(Progress(4000, 1000, 0, 2), 3600.0) == "1,000 of 4,000 runs, 2 failed, 3:00:00 left"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_bar_on_a_terminal_only(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is a terminal of its own; nothing of the bar comes into standard output."""
    ours, theirs = os.openpty()
    seen: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # what Linux says when the other side is closed
            while part := os.read(ours, 4096):
                seen.append(part)

    reader = Thread(target=read)
    reader.start()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with command._bar() as progress:
            assert progress is not None
            sf.sweep(TINY, {REPLICAS: [1, 2, 3]}, workers=1, progress=progress)
    reader.join()
    os.close(ours)
    assert b"3 of 3 runs" in b"".join(seen)
    monkeypatch.undo()
    with command._bar() as nothing:
        assert nothing is None
