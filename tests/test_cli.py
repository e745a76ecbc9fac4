"""The command line as scripts use it: what goes to stdout, and the exit codes."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from simfleet.cli import cli
from simfleet.library import Library
from simfleet.terminal import counted

ROOT = Path(__file__).parents[1]
SHORT = ["--set", "horizon=1 min", "--set", "warmup=5 s"]


def simfleet(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def test_run_prints_one_screen() -> None:
    text = simfleet("run", "quickstart", *SHORT).stdout
    assert len(text.splitlines()) <= 55
    for heading in ("Latency", "Service", "Pools", "Energy", "Cost", "Estimates used"):
        assert f"\n{heading}" in text
    assert "memory bandwidth" in text


def test_json_is_all_there_is_on_stdout() -> None:
    report = json.loads(simfleet("run", "quickstart", *SHORT, "--format", "json", "--seed", "7").stdout)
    assert report["seed"] == 7
    assert report["schema_version"] == 1
    assert set(report["latency"]) == {"ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_wait_s"}
    assert all({"mean", "p50", "p90", "p95", "p99", "n"} == set(column) for column in report["latency"].values())
    assert set(report["requests"]) == {"arrived", "completed", "rejected", "failed", "timed_out", "in_flight"}
    assert set(report["energy"]["joules_per_output_token"]) == {"accelerator_active", "accelerator", "node", "facility"}
    assert {
        "simfleet_version",
        "scenario",
        "regime",
        "attainment",
        "throughput",
        "cost",
        "pools",
        "classes",
        "assumptions",
    } <= set(report)
    assert {"usd_per_mtok_output", "usd_per_mtok_input", "usd_per_mtok_total"} <= set(report["cost"])


def test_out_writes_every_file(tmp_path: Path) -> None:
    simfleet("run", "quickstart", *SHORT, "--out", str(tmp_path / "out"), "--requests", "parquet")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    plots = {f"{name}.{kind}" for name in ("latency", "kv", "power", "cost", "energy") for kind in ("png", "svg")}
    assert names == {"report.html", "report.json", "report.md", "timeline.csv", "requests.parquet"} | plots
    assert (tmp_path / "out" / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["requests"]["completed"] > 0


@pytest.mark.parametrize("name", Library().names("scenarios"))
def test_shipped_scenarios_are_valid(name: str) -> None:
    assert simfleet("validate", name).stdout.startswith(f"{name}: ok")


@pytest.mark.parametrize("name", Library().names("scenarios"))
def test_shipped_variants_are_valid(name: str) -> None:
    for variant in Library().document("scenarios", name).data.get("variants", {}):
        assert simfleet("validate", name, "--variant", variant).stdout.startswith(f"{name}: ok")


def test_schema_is_the_shipped_one_and_accepts_the_scenarios() -> None:
    schema = json.loads(simfleet("schema").stdout)
    assert schema == json.loads((ROOT / "scenarios" / "scenario.schema.json").read_text())
    for path in (ROOT / "scenarios").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "x", "pools": {}, "workload": {"streams": []}, "horizont": "1 h"}, schema)


@pytest.mark.parametrize("kind", ["sla", "tolerances"])
def test_schemas_of_gates_are_the_shipped_ones(kind: str) -> None:
    schema = json.loads(simfleet("schema", kind).stdout)
    assert schema == json.loads((ROOT / "scenarios" / f"{kind}.schema.json").read_text())
    block = re.search(rf"```yaml {kind}\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    assert block
    good = yaml.safe_load(block[1])
    jsonschema.validate(good, schema)
    for wrong in ({**good, "seed": 2}, {**good, "targets": {}, "metrics": {"ttft": {"relative": 1}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    described = [*schema["properties"].values(), *schema["$defs"].get("Tolerance", {}).get("properties", {}).values()]
    assert all("description" in part for part in described)


def test_one_of_a_thing_is_not_many() -> None:
    assert [counted(number, "pool") for number in (0, 1, 2, 1200)] == ["0 pools", "1 pool", "2 pools", "1,200 pools"]
    assert (counted(1, "class", "classes"), counted(2, "class", "classes")) == ("1 class", "2 classes")
    assert simfleet("validate", "w1").stdout == "w1: ok (1 pool, 1 stream)\n"
    one = ["w1", "--set", "workload.streams.chat.count=1"]
    for text in (simfleet("run", *one).stdout, simfleet("workload", "describe", *one).stdout):
        assert "1 request" in text
        assert not re.search(r"\b1 (requests|sequences|pools|devices|users|streams)\b", text)


def test_a_variant_that_is_not_asked_for_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = (
        ROOT / "scenarios" / "w1.yaml"
    ).read_text() + "variants: {big: {pools.chat.replicas: 0}, two: {pools.chat.replicas: 2}}\n"
    path.write_text(text)
    few = ("--set", "workload.streams.chat.count=30")
    for arguments in (("run", *few), ("run", *few, "--variant", "two"), ("validate", "--variant", "two")):
        simfleet(arguments[0], str(path), *arguments[1:])
    wrong = CliRunner().invoke(cli, ["validate", str(path)])
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith(f"{path}:{len(text.splitlines())}:")
    assert "in variant `big`" in wrong.stderr


def test_profiles_lists_and_explains() -> None:
    listed = simfleet("profiles").stdout.splitlines()
    assert [line.split()[0] for line in listed] == Library().names("hardware_profiles")
    explained = simfleet("profiles", "h100").stdout
    assert explained.startswith("nvidia-h100-sxm")
    lines = [line.split() for line in explained.splitlines()]
    assert ["number", "value", "grade", "source", "-", "note"] in lines
    assert ["memory.bandwidth", "3.35", "TB/s", "datasheet"] in [line[:4] for line in lines]
    assert ["server.host", "1.735", "kW", "estimate"] in [line[:4] for line in lines]
    assert "t0 3.156 us, compute 0.8086, " in explained
    assert not re.search(r"e[+-]\d\d\b", explained.partition("sources:")[0])
    assert all(line.partition("TFLOP/s ")[2] for line in listed)
    assert "datasheet" in explained
    assert "sources:" in explained


def test_scenarios_lists() -> None:
    assert [line.split()[0] for line in simfleet("scenarios").stdout.splitlines()] == Library().names("scenarios")


def test_own_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of the same name in SIMFLEET_PATH or --path replaces the shipped one."""
    shipped = Library().path("hardware_profiles", "nvidia-h100-sxm").read_text()
    (tmp_path / "nvidia-h100-sxm.yaml").write_text(shipped.replace("3.35 TB/s", "6.7 TB/s"))
    arguments = ["run", "w1", "--set", "workload.streams.chat.count=200", "--format", "json"]
    slow = json.loads(simfleet(*arguments).stdout)["latency"]["tpot_s"]["mean"]
    fast = json.loads(simfleet(*arguments, "--path", str(tmp_path)).stdout)["latency"]["tpot_s"]["mean"]
    monkeypatch.setenv("SIMFLEET_PATH", str(tmp_path))
    same = json.loads(simfleet(*arguments).stdout)["latency"]["tpot_s"]["mean"]
    assert fast < 0.75 * slow
    assert same == fast


@pytest.mark.parametrize(
    ("replicas", "rate", "joules", "binds"),
    [(1, "60 /s", "fewer", "max_sequences, then compute"), (2, "5.5 /s", "more", "memory bandwidth")],
)
def test_h200_against_h100_moves_as_physics_says(replicas: int, rate: str, joules: str, binds: str) -> None:
    """H200 has 1.43 times H100's memory bandwidth at the same arithmetic, and decoding waits for memory first: tokens come faster.

    Kept busy, it makes more of them from the same watts: fewer joules and, at the same price, fewer dollars per token. With little
    to do it finishes sooner, so fewer sequences share each reading of the weights: more joules per token, at the same dollars.
    """
    load = ["--set", f"pools.a100.replicas={replicas}", "--set", f"workload.streams.conversation.arrival.rate={rate}"]
    arguments = [
        "run",
        "azure-conversation",
        "--set",
        "horizon=4 min",
        *load,
        "--set",
        "pools.a100.cost.price=$3/h",
        "--format",
        "json",
    ]
    h100, h200 = (
        json.loads(simfleet(*arguments, "--set", f"pools.a100.device=nvidia-{name}-sxm").stdout)
        for name in ("h100", "h200")
    )
    assert h200["latency"]["tpot_s"]["mean"] < (0.95 if joules == "more" else 0.97) * h100["latency"]["tpot_s"]["mean"]
    ratio = (
        h200["energy"]["joules_per_output_token"]["accelerator"]
        / h100["energy"]["joules_per_output_token"]["accelerator"]
    )
    dollars = h200["cost"]["usd_per_mtok_total"] / h100["cost"]["usd_per_mtok_total"]
    if joules == "fewer":
        assert ratio < 0.98  # with more than a third of the time in arithmetic, which both have alike
        assert dollars < 0.97
    else:
        assert ratio > 1.01
        assert dollars == pytest.approx(1, abs=0.02)
    assert h100["pools"][0]["binds"].startswith(binds)


def test_a_run_that_breaks_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("requests: 3 arrived, 2 ended")

    monkeypatch.setattr("simfleet.cli.simulate", broken)
    result = CliRunner().invoke(cli, ["run", "w1"])
    assert result.exit_code == 4
    assert result.stderr == "simulation error: RuntimeError: requests: 3 arrived, 2 ended\n"


def test_an_out_folder_that_cannot_be_made_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli, ["run", "w1", "--out", str(tmp_path / "file" / "out")])
    assert result.exit_code == 2
    assert str(tmp_path / "file") in result.stderr


def test_workload_describe() -> None:
    text = simfleet("workload", "describe", "quickstart", *SHORT).stdout
    assert "chat" in text
    assert "summaries" in text
