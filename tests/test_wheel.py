"""The wheel, built and installed elsewhere, carries its data and runs from another folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_runs_from_another_folder(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([sys.executable, "-m", "build", "-w", "-n", "-o", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("simfleet-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel],
        check=True,
        capture_output=True,
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import simfleet, sys; from simfleet.cli import cli; print(simfleet.__file__, file=sys.stderr); cli()"
    run = subprocess.run(
        [sys.executable, "-c", code, "run", "w1", "--set", "workload.streams.chat.count=50", "--format", "json"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(tmp_path / "site") in run.stderr
    assert json.loads(run.stdout)["requests"]["completed"] == 50
