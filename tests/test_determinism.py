"""I10: the same scenario and seed give the same bytes, in any process, under any hash seed, beside another simulation."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from simpy import Environment

from simfleet import load, simulate
from simfleet.records import Records, request_table, timeline_table
from simfleet.simulation import build, start
from simfleet.streams import Streams

SHORT = [("horizon", "2 min"), ("warmup", "10 s")]


def test_same_bytes_under_other_hash_seeds(tmp_path: Path) -> None:
    for seed in ("0", "77"):
        command = [sys.executable, "-c", "from simfleet.cli import main; main()", "run", "quickstart", "--seed", "5"]
        command += [argument for path, value in SHORT for argument in ("--set", f"{path}={value}")]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [*command, "--out", tmp_path / seed, "--requests"], check=True, capture_output=True, env=environment
        )
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    plots = [f"{name}.{kind}" for name in ("cost", "energy", "kv", "latency", "power") for kind in ("png", "svg")]
    assert names == sorted(["report.html", "report.json", "report.md", "requests.csv", "timeline.csv", *plots])
    for name in names:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "77" / name).read_bytes(), name


def test_seeds_differ_and_repeat() -> None:
    scenario = load("quickstart", overrides=SHORT)
    first, again, other = (simulate(scenario, seed=seed).json() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_two_simulations_interleaved_are_two_simulations_alone() -> None:
    """Two environments stepped in turns leave the rows that each leaves alone."""
    scenario = load("quickstart", overrides=SHORT)
    alone = [simulate(scenario, seed=seed).run.records.requests.array().tobytes() for seed in (1, 2)]
    sims = []
    for seed in (1, 2):
        env, records = Environment(), Records(request_table(detail=True), timeline_table())
        fleet = build(env, scenario, Streams(seed), records, detail=True)
        start(fleet, scenario, Streams(seed))
        sims.append((env, fleet, records))
    while not all(fleet.drained.triggered for _, fleet, _ in sims):
        for env, fleet, _ in sims:
            if not fleet.drained.triggered:
                env.step()
    assert [records.requests.array().tobytes() for _, _, records in sims] == alone


def test_adding_a_stream_does_not_shift_another() -> None:
    """Common random numbers: the chat requests are the same with and without summaries."""
    both = load("quickstart", overrides=SHORT)
    data = {key: value for key, value in both.workload.streams[1].model_dump().items() if key == "name"}
    assert data == {"name": "summaries"}
    only = load("quickstart", overrides=[*SHORT, ("workload.streams.summaries.arrival.rate", "0.001 /s")])
    asked = []
    for scenario in (both, only):
        rows = simulate(scenario, seed=4).run.requests
        chat = rows[rows["stream"] == 0]
        asked.append((chat["arrival_s"], chat["input_tokens"], chat["output_tokens"]))
    assert all(np.array_equal(one, other) for one, other in zip(*asked, strict=True))
