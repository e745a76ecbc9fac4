"""Measured rows as loads, simulated and scored: what is read, what is skipped and said, and that a perfect simulator would score 0."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from simfleet.cli import cli
from simfleet.evidence import pictures
from simfleet.evidence.accuracy import Accuracy, Comparison, accuracy, metrics, replay, simulated
from simfleet.evidence.rows import Row, Skipped, read
from simfleet.library import Library

LIBRARY = Library()
CLOSED = {
    "hardware": "h100_sxm", "num_devices": "2", "model": "meta-llama/Llama-3.1-70B", "precision": "fp8", "tp": "2", "engine": "vllm 0.18.0",
    "isl": "1000", "osl": "100", "concurrency": "4", "ttft_mean_s": "0.1", "tpot_mean_s": "0.02", "origin": "source_file=x.csv",
}  # fmt: skip


def write(path: Path, *rows: dict[str, Any]) -> Path:
    """A CSV file of rows that need not have the same columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def one(path: Path, **changes: Any) -> Row | Skipped:
    """The one row of a file: CLOSED with changes; None takes a column out."""
    cells = {key: value for key, value in {**CLOSED, **changes}.items() if value is not None}
    (found,) = read(write(path / "runs.csv", cells), LIBRARY)
    return found


def row(path: Path, **changes: Any) -> Row:
    found = one(path, **changes)
    assert isinstance(found, Row), found
    return found


def test_a_closed_loop_is_read_as_it_was_measured(tmp_path: Path) -> None:
    found = row(tmp_path)
    stream, pool = found.scenario["workload"]["streams"][0], found.scenario["pools"]["measured"]
    assert (found.device, found.model, found.engine) == ("nvidia-h100-sxm", "llama-3.1-70b", "vllm")
    assert stream["arrival"] == {"kind": "closed_loop", "users": 4}
    assert stream["count"] == 40
    assert stream["tokens"]["input"] == {"dist": "uniform", "low": 800, "high": 1000}
    assert pool["tensor_parallel"] == 2
    assert pool["precision"] == {"weights": "fp8", "kv": "bf16", "activations": "fp8"}
    assert found.measured["e2e_mean_s"] == pytest.approx(0.1 + 0.02 * (90 - 1))


@pytest.mark.parametrize(
    ("changes", "arrival", "count"),
    [
        (
            {"concurrency": None, "request_rate": "2.5", "stage_duration_s": "60"},
            {"rate": "2.5 /s", "micro": {"kind": "deterministic"}},
            150,
        ),
        (
            {"concurrency": None, "request_rate": "2", "workload": "MLPerf x Server"},
            {"rate": "2.0 /s", "micro": {"kind": "poisson"}},
            360,
        ),
        ({"concurrency": None, "batch_size": "16"}, {"kind": "burst"}, 16),
        ({"num_requests": "77"}, {"kind": "closed_loop", "users": 4}, 77),
    ],
)
def test_loads(tmp_path: Path, changes: dict[str, Any], arrival: dict[str, Any], count: int) -> None:
    stream = row(tmp_path, **changes).scenario["workload"]["streams"][0]
    assert stream["arrival"] == arrival
    assert stream["count"] == count


def test_engine_settings_and_a_shared_prefix_are_taken_from_the_row(tmp_path: Path) -> None:
    found = row(
        tmp_path, total_kv_blocks="8000", max_num_batched_tokens="2048", max_num_seqs="128", shared_prefix_len="100"
    )
    engine = found.scenario["pools"]["measured"]["engine"]
    assert engine == {"preset": "vllm", "num_kv_blocks": 8000, "token_budget": 2048, "max_sequences": 128}
    assert found.scenario["workload"]["streams"][0]["tokens"]["shared_prefix"] == 100


@pytest.mark.parametrize(
    ("changes", "formats"),
    [
        ({"precision": "FP16"}, ("fp16", "bf16", "fp16")),
        ({"precision": "Weight = fp16, KV Cache = fp8"}, ("fp16", "fp8", "fp16")),
        ({"hardware": "b200_sxm"}, ("fp8", "fp8", "fp8")),
        ({"engine": "trtllm 1.2"}, ("fp8", "fp8", "fp8")),
        ({"precision": "fp4"}, ("fp4", "bf16", "bf16")),
        ({"precision": "fp4", "hardware": "b200_sxm"}, ("fp4", "fp8", "fp4")),
        ({"precision": "fp4", "hardware": "b200_sxm", "model": "openai/gpt-oss-120b"}, ("fp4", "fp8", "fp8")),
        ({"precision": ""}, ("bf16", "bf16", "bf16")),
    ],
)
def test_formats(tmp_path: Path, changes: dict[str, Any], formats: tuple[str, str, str]) -> None:
    precision = row(tmp_path, **changes).scenario["pools"]["measured"]["precision"]
    assert (precision["weights"], precision["kv"], precision["activations"]) == formats


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hardware": "abacus"}, "unknown device `abacus`"),
        ({"model": "org/who-knows-7b"}, "unknown model `org/who-knows-7b`"),
        ({"engine": "llama.cpp"}, "engine `llama.cpp` is not simulated"),
        ({"disagg": "True"}, "separate devices"),
        ({"spec_decode": "eagle3"}, "speculative"),
        ({"suspect": "True"}, "suspect"),
        ({"concurrency": None}, "no load"),
        ({"isl": None}, "no input or output lengths"),
        ({"isl": "many"}, "column `isl`: expected a number of at least 0, got `many`"),
        ({"ttft_mean_s": "-1"}, "column `ttft_mean_s`: expected a number of at least 0, got `-1`"),
        ({"ttft_mean_s": None, "tpot_mean_s": None}, "nothing measured"),
    ],
)
def test_what_is_not_simulated_says_why(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    found = one(tmp_path, **changes)
    assert isinstance(found, Skipped)
    assert reason in str(found)


def test_exported_device_counts_are_undone(tmp_path: Path) -> None:
    pool = row(tmp_path, tp="16", ep="4", num_devices="16", model="openai/gpt-oss-120b").scenario["pools"]["measured"]
    assert (pool["tensor_parallel"], pool["expert_parallel"]) == (4, 4)
    pool = row(tmp_path, tp="1", dp="4", ep="2", num_devices="4", model="openai/gpt-oss-120b").scenario["pools"][
        "measured"
    ]
    assert (pool.get("tensor_parallel", 1), pool["attention_dp"], pool["expert_parallel"]) == (1, 4, 2)


def test_device_counts_of_other_origins_stay(tmp_path: Path) -> None:
    cells = {"tp": "4", "ep": "2", "num_devices": "4", "model": "openai/gpt-oss-120b"}
    found = row(tmp_path, **cells, origin="source_file=gap-analysis/data.csv")
    pool = found.scenario["pools"]["measured"]
    assert (pool["tensor_parallel"], pool["expert_parallel"]) == (4, 2)
    assert found.scenario["workload"]["streams"][0]["tokens"]["input"] == {"dist": "constant", "value": 1000}


def test_a_perfect_simulator_scores_zero(tmp_path: Path) -> None:
    """What the simulator gives for a row, written down as measured, is met exactly; 10 % less is 10 % off."""
    first = row(tmp_path)
    given = simulated(first)
    assert isinstance(given, dict)
    exact = {
        **CLOSED,
        **{
            name: repr(given[name])
            for name in ("ttft_mean_s", "tpot_mean_s", "e2e_mean_s", "output_tok_per_s", "ttft_p90_s")
        },
    }
    scaled = {**exact, "ttft_mean_s": repr(given["ttft_mean_s"] / 1.1)}
    found = accuracy([write(tmp_path / "exact.csv", exact)], LIBRARY)
    assert {group["metric"]: group["median_ape"] for group in found.groups()} == pytest.approx(
        {"ttft_mean_s": 0, "tpot_mean_s": 0, "e2e_mean_s": 0, "output_tok_per_s": 0, "ttft_p90_s": 0}, abs=1e-9
    )
    both = accuracy([write(tmp_path / "scaled.csv", exact, scaled)], LIBRARY)
    (group,) = [g for g in both.groups() if g["group"] == "all" and g["metric"] == "ttft_mean_s"]
    assert (group["n"], group["median_ape"], group["bias"]) == (2, pytest.approx(0.05), pytest.approx(0.05))
    assert group["p90_ape"] == pytest.approx(0.09)


def test_every_set_of_rows_is_printed_once(tmp_path: Path) -> None:
    """By the name of the widest group that has it; the JSON keeps all names."""

    def printed(*devices: str) -> tuple[list[str], str]:
        rows = [row(tmp_path, hardware=device) for device in devices]
        found = Accuracy([Comparison(one, dict(one.measured)) for one in rows])
        lines = found.text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("runs.csv") and "ttft" in line], lines[0]

    assert printed("h100_sxm", "h100_sxm") == (["all"], "2 runs simulated, 0 rows skipped")
    assert printed("h100_sxm")[1] == "1 run simulated, 0 rows skipped"
    names = ["all", "hardware=nvidia-h100-sxm", "hardware=nvidia-h200-sxm"]
    assert printed("h100_sxm", "h200_sxm", "h200_sxm")[0] == names
    found = Accuracy([Comparison(one := row(tmp_path), dict(one.measured))])
    assert len({group["group"] for group in found.groups()}) == 5
    assert found.text().splitlines()[-1] == "4 groups with the same rows as one above left out"


def test_exact_requests_are_replayed(tmp_path: Path) -> None:
    """A file with a row per request is one run; its own latencies, written down as measured, are met exactly."""
    base = {name: CLOSED[name] for name in ("hardware", "num_devices", "model", "precision", "tp", "engine")}
    rows = [
        {**base, "request_id": n, "isl": 50 + 7 * n, "osl": 5 + n, "arrival_s": 0.05 * n, "ttft_s": 1, "e2e_s": 2}
        for n in range(30)
    ]
    (found,) = read(write(tmp_path / "requests.csv", *rows), LIBRARY)
    assert isinstance(found, Row)
    assert len(found.requests) == 30
    served = replay(found).run.requests
    assert served["input_tokens"].tolist() == [50 + 7 * n for n in range(30)]
    assert served["arrival_s"].tolist() == pytest.approx([0.05 * n for n in range(30)])
    for cells, ttft_s, e2e_s in zip(rows, served["ttft_s"].tolist(), served["e2e_s"].tolist(), strict=True):
        cells |= {"ttft_s": ttft_s, "e2e_s": e2e_s}
    again = accuracy([write(tmp_path / "again.csv", *rows)], LIBRARY)
    assert max(group["median_ape"] for group in again.groups()) < 1e-9


def test_metrics_of_a_run_by_hand(tmp_path: Path) -> None:
    """Means over completed requests, tokens from first arrival to last answer."""
    found = row(tmp_path, concurrency="1", num_requests="3")
    result = replay(found)
    requests, given = result.run.requests, metrics(result)
    assert given["e2e_mean_s"] == pytest.approx(requests["e2e_s"].mean())
    seconds = (requests["arrival_s"] + requests["e2e_s"]).max()
    assert given["output_tok_per_s"] == pytest.approx(requests["output_tokens"].sum() / seconds)
    assert given["total_tok_per_s"] == pytest.approx(
        (requests["output_tokens"] + requests["input_tokens"]).sum() / seconds
    )


def test_command(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.csv", CLOSED, {**CLOSED, "hardware": "abacus"}, {**CLOSED, "model": "nobody/nothing"})
    result = CliRunner().invoke(
        cli, ["accuracy", str(path), "--format", "json", "--workers", "1", "--plot", str(tmp_path / "plots")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["rows"] == 1
    assert found["skipped"] == {"unknown device `abacus`": 1, "unknown model `nobody/nothing`": 1}
    assert {"file", "group", "metric", "n", "median_ape", "p90_ape", "bias"} == set(found["groups"][0])
    assert {group["group"] for group in found["groups"]} >= {
        "all",
        "hardware=nvidia-h100-sxm",
        "engine=vllm",
        "model=llama-3.1-70b",
    }
    assert "simulated" in (tmp_path / "plots" / "ttft_mean_s.svg").read_text()
    text = (
        CliRunner()
        .invoke(cli, ["accuracy", str(path), "--workers", "1", "--set", "pools.measured.engine.host=50 ms"])
        .stdout
    )
    assert "unknown device `abacus`" in text
    slow = [line for line in text.splitlines() if " all " in line and "tpot_mean_s" in line]
    assert "+2" in slow[0] or "+1" in slow[0], "50 ms of host time a step is far too slow"


@pytest.mark.parametrize(
    ("content", "message"),
    [("a,b\n1,2\n", "missing columns hardware, model, engine"), (None, "No such file")],
)
def test_bad_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_text(content)
    result = CliRunner().invoke(cli, ["accuracy", str(path), "--workers", "1"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_replay_draws(tmp_path: Path) -> None:
    base = {name: CLOSED[name] for name in ("hardware", "num_devices", "model", "precision", "tp", "engine")}
    rows = [
        {**base, "request_id": n, "isl": 50, "osl": 5, "arrival_s": 0.1 * n, "ttft_s": 0.1, "e2e_s": 0.2}
        for n in range(5)
    ]
    found = accuracy([write(tmp_path / "requests.csv", *rows)], LIBRARY)
    series = tmp_path / "series.csv"
    series.write_text("hardware,t,running,waiting,kv_cache_pct\nh100_sxm,0,1,0,3\nh100_sxm,1,2,1,50\n")
    levels = pictures.read_series(series, LIBRARY)
    assert levels["nvidia-h100-sxm"].tolist() == [[0, 1, 0, 0.03], [1, 2, 1, 0.5]]
    names = [path.name for path in pictures.save(found.compared, tmp_path / "plots", levels)]
    assert "replay-0-nvidia-h100-sxm.svg" in names
    assert "running, measured" in (tmp_path / "plots" / "replay-0-nvidia-h100-sxm.svg").read_text()
    series.write_text("t,running\n")
    with pytest.raises(ValueError, match="missing columns hardware, waiting, kv_cache_pct"):
        pictures.read_series(series, LIBRARY)


def test_nothing_is_lost() -> None:
    assert Accuracy().as_json() == {"rows": 0, "skipped": {}, "groups": []}
