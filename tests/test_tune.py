"""An engine's constants found again from the serving runs that they made."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from simfleet.calibration.tune import ENGINE, device_with, save, score, tune
from simfleet.cli import cli
from simfleet.evidence.accuracy import accuracy, simulated
from simfleet.evidence.rows import Row, read
from simfleet.library import Library
from tests.test_accuracy import CLOSED, write

LIBRARY = Library()
HOST, LAUNCH = "2 ms", 1.3
FEW = tuple(name for name in ENGINE if name not in ("host", "launch_factor"))


def made(path: Path, changes: dict[str, Any], precision: str = "bf16", device: dict[str, float] | None = None) -> Path:
    """Runs at several loads, measured on an engine with these settings, and a device with these."""
    loads = [{"concurrency": users, "isl": inputs} for users in ("2", "8") for inputs in ("200", "2000")]
    blank = [
        {**CLOSED, "model": "llama-3.1-8b", "tp": "1", "num_devices": "1", "precision": precision, **load}
        for load in loads
    ]
    rows = []
    for cells, row in zip(blank, read(write(path / "blank.csv", *blank), LIBRARY), strict=True):
        assert isinstance(row, Row)
        row.scenario["pools"]["measured"]["engine"].update(changes)
        if device is not None:
            profile = device_with(LIBRARY.data("hardware_profiles", row.device), device)
            row.scenario["pools"]["measured"]["device"] = profile
        given = simulated(row)
        assert isinstance(given, dict)
        rows.append({**cells, "ttft_mean_s": repr(given["ttft_mean_s"]), "tpot_mean_s": repr(given["tpot_mean_s"])})
    return write(path / "runs.csv", *rows)


def test_constants_are_found_again(tmp_path: Path) -> None:
    path = made(tmp_path, {"host": HOST, "launch_factor": LAUNCH})
    with ThreadPoolExecutor(1) as executor:
        tuned = tune([path], "vllm", LIBRARY, executor, without=FEW, what="engine", fresh=True, evaluations=20)
    assert tuned.constants["engine", "host"] == pytest.approx(2e-3, rel=0.05)
    assert tuned.constants["engine", "launch_factor"] == pytest.approx(LAUNCH, rel=0.1)
    assert max(tuned.errors().values()) < 0.01
    assert max(abs(tuned.before[:, 1])) > 0.1, "it was off before"
    save(tuned, LIBRARY, tmp_path / "engines")
    found = accuracy([path], Library((tmp_path,)))
    assert max(group["median_ape"] for group in found.groups(("ttft_mean_s", "tpot_mean_s"))) < 0.01


def test_devices_are_found_again(tmp_path: Path) -> None:
    """8-bit arithmetic at 0.4 of the table's rate shows in the prompts."""
    path = made(tmp_path, {}, "fp8", {"sustained.narrow": 0.4})
    with ThreadPoolExecutor(1) as executor:
        tuned = tune([path], "vllm", LIBRARY, executor, what="devices")
    assert tuned.constants["nvidia-h100-sxm", "sustained.narrow"] == pytest.approx(0.4, rel=0.05)
    written = {file.name for file in save(tuned, LIBRARY, tmp_path / "out")}
    assert written == {"vllm.yaml", "nvidia-h100-sxm.yaml"}
    sustained = Library((tmp_path / "out",)).profile("nvidia-h100-sxm").step.sustained
    assert sustained is not None
    assert sustained.grade == "calibrated"
    assert sustained.value.narrow == tuned.constants["nvidia-h100-sxm", "sustained.narrow"]
    found = accuracy([path], Library((tmp_path / "out",)))
    assert max(group["median_ape"] for group in found.groups(("ttft_mean_s", "tpot_mean_s"))) < 0.02
    own = tmp_path / "own"
    own.mkdir()
    text = (tmp_path / "out" / "nvidia-h100-sxm.yaml").read_text()
    (own / "nvidia-h100-sxm.yaml").write_text(text.replace("sustained: {value: {", "sustained: {value: {launch: 1.5, "))
    save(tuned, Library((own,)), tmp_path / "again")
    kept = Library((tmp_path / "again",)).profile("nvidia-h100-sxm").step.sustained
    assert kept is not None
    assert kept.value.launch == 1.5, "a share that was not fitted stays"


def test_a_model_left_out_is_scored(tmp_path: Path) -> None:
    """Constants found on one model hold for the other, since both were made with them; the command prints it."""
    path = made(tmp_path, {"host": HOST, "launch_factor": LAUNCH})
    other = [{**CLOSED, "model": "qwen3-8b", "tp": "1", "num_devices": "1", "precision": "bf16", "concurrency": "4"}]
    (row,) = read(write(tmp_path / "blank.csv", *other), LIBRARY)
    assert isinstance(row, Row)
    row.scenario["pools"]["measured"]["engine"].update({"host": HOST, "launch_factor": LAUNCH})
    given = simulated(row)
    assert isinstance(given, dict)
    cells = {**other[0], "ttft_mean_s": repr(given["ttft_mean_s"]), "tpot_mean_s": repr(given["tpot_mean_s"])}
    both = [path, write(tmp_path / "other.csv", cells)]
    with ThreadPoolExecutor(1) as executor:
        tuned = tune(
            both,
            "vllm",
            LIBRARY,
            executor,
            lambda row: row.model != "qwen3-8b",
            without=FEW,
            what="engine",
            fresh=True,
            evaluations=20,
        )
        (line,) = score(tuned, both, LIBRARY, executor, "qwen3-8b")
        assert score(tuned, both, LIBRARY, executor, "phi-4") == ["no row of phi-4 to score"]
    assert "left out: qwen3-8b on nvidia-h100-sxm" in line
    assert all(float(part) < 1.0 for part in re.findall(r"([\d.]+) %", line))


def test_no_rows_for_an_engine(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["calibrate", str(write(tmp_path / "runs.csv", CLOSED)), "--engine", "sglang"])
    assert result.exit_code == 2
    assert "no row of" in result.stderr
