"""Power caps, servers and boundaries against measurements: what docs/energy.md says of them."""

import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

from simfleet import load, simulate
from simfleet.facility.site import node_j
from simfleet.hardware.power import Steps, governed
from simfleet.hardware.step import SLOWING, StepCost
from simfleet.library import Library

SHARED = Path(__file__).parents[2] / "shared" / "data" / "energy" / "calibration"
LIBRARY = Library()
MLPERF = {
    "llama2-70b-99": ("llama-2-70b", 1200),
    "mixtral-8x7b": ("mixtral-8x7b", 3000),
    "gptj-99": ("llama-3.1-8b", 3600),
}
"""Benchmark -> model, and tokens in a step: prompts' lengths and batches are not recorded, so these are assumptions; GPT-J's stand-in is a dense 8B."""
RTX = {"dense-27b": "qwen3.5-27b", "coder-next": "qwen3-30b-a3b"}
"""The second model's stand-in is another sparse one of its class."""


def rows(name: str) -> Iterator[dict[str, str]]:
    if not SHARED.exists():
        pytest.skip("../shared is not here")
    with (SHARED / name).open(newline="") as file:
        yield from csv.DictReader(file)


def cost_of(model: str, device: str, precision: Any, engine: str) -> StepCost:
    """The step of one replica, as a scenario has it."""
    length = {"dist": "constant", "value": 1}
    stream = {
        "name": "a",
        "model": model,
        "arrival": {"kind": "burst"},
        "count": 1,
        "tokens": {"input": length, "output": length},
    }
    pool = {
        "model": model,
        "device": device,
        "precision": precision,
        "engine": engine,
        "cost": {"kind": "rent", "price": "$1/h"},
    }
    return load({"name": "a", "workload": {"streams": [stream]}, "pools": {"p": pool}}).pools["p"].step_cost()


def h200_pairs() -> list[tuple[dict[str, str], float]]:
    """Each pair, and the throughput that we expect at the cap over that at 700 W; the run draws 700 W without it."""
    found = []
    for row in rows("mlperf_h200_powercap_pairs.csv"):
        slowing = SLOWING  # bound by arithmetic
        if row["benchmark"] in MLPERF:
            model, tokens = MLPERF[row["benchmark"]]
            fp8 = {"weights": "fp8", "kv": "fp8", "activations": "fp8"}
            slowing = cost_of(model, "nvidia-h200-sxm", fp8, "tensorrt-llm").slowing(tokens)
        step = governed(Steps(1.0, 0.0, 700.0, 0.0, 1), 700.0, float(row["gpu_power_limit_W"]), slowing)
        found.append((row, 1.0 / step.first_s))
    return found


def test_caps_of_an_h200() -> None:
    """17 pairs of MLPerf runs; the six that serve language models are all within 5 %."""
    errors = {
        (row["benchmark"], row["scenario"]): abs(ratio / float(row["perf_ratio"]) - 1) for row, ratio in h200_pairs()
    }
    assert len(errors) == 17
    served = [error for (benchmark, _), error in errors.items() if benchmark in MLPERF]
    assert len(served) == 6
    assert max(served) <= 0.05
    assert median(served) <= 0.03
    assert median(errors.values()) <= 0.05


def test_caps_of_an_rtx_pro_6000() -> None:
    """Throughput at 450 to 550 W over that at 600 W, dense and sparse, 1 and 32 streams: all twelve within 3 %."""
    runs = list(rows("powercap_rtxpro6000_vllm.csv"))
    errors = []
    for name in dict.fromkeys(row["phase"] for row in runs):
        mine = {float(row["cap_W"]): row for row in runs if row["phase"] == name}
        model = next(model for part, model in RTX.items() if part in name)
        slowing = cost_of(model, "nvidia-rtx-pro-6000", "int4", "vllm").slowing(int(mine[600.0]["concurrency"]))
        demand = max(float(mine[cap]["mean_W"]) for cap in (550.0, 600.0))
        for cap in (450.0, 500.0, 550.0):
            step = governed(Steps(1.0, 0.0, demand, 0.0, 1), 600.0, cap, slowing)
            measured = float(mine[cap]["agg_tok_s"]) / float(mine[600.0]["agg_tok_s"])
            errors.append(abs(1 / step.first_s / measured - 1))
            assert step.first_j / step.first_s == pytest.approx(float(mine[cap]["mean_W"]), rel=0.06)
    assert len(errors) == 12
    assert max(errors) <= 0.03


def test_the_watts_of_an_rtx_pro_6000() -> None:
    """The equation against the uncapped cells: four runs, three constants fitted to them."""
    runs = [row for row in rows("powercap_rtxpro6000_vllm.csv") if float(row["cap_W"]) == 600.0]
    errors = []
    for row in runs:
        model = next(model for part, model in RTX.items() if part in row["phase"])
        cost = cost_of(model, "nvidia-rtx-pro-6000", "int4", "vllm")
        batch = int(row["concurrency"])
        t0, t_ctx, _, e0, e_ctx, _ = cost.decode(batch)
        watts = min((e0 + e_ctx * 300 * batch) / (t0 + t_ctx * 300 * batch), cost.limit_w)
        errors.append(abs(watts / float(row["mean_W"]) - 1))
    assert len(errors) == 4
    assert max(errors) <= 0.1


def test_wall_watts_of_an_h200_server() -> None:
    """17 runs at their caps, mean error; and the same server idle."""
    server = LIBRARY.profile("nvidia-h200-sxm").server
    idle_w = node_j(server, 8 * LIBRARY.profile("nvidia-h200-sxm").power.idle.value, 1.0, 1.0)
    errors = []
    for row in rows("mlperf_h200_powercap_pairs.csv"):
        watts = node_j(server, 8 * float(row["gpu_power_limit_W"]), 1.0, 1.0)
        errors.append(abs(watts / float(row["wall_W"]) - 1))
        assert idle_w == pytest.approx(float(row["idle_wall_W"]), rel=0.03)
    assert mean(errors) <= 0.03
    assert median(errors) <= 0.03
    assert max(errors) <= 0.06


@pytest.mark.parametrize("measured_w", [1455.0, 1485.0])
def test_an_idle_dgx_a100(measured_w: float) -> None:
    profile = LIBRARY.profile("nvidia-a100-sxm-80gb")
    assert node_j(profile.server, 8 * profile.power.idle.value, 1.0, 1.0) == pytest.approx(measured_w, rel=0.05)


def gemini() -> dict[str, Any]:
    """A fleet of TPU v6e that serves a 27B model about 78 % of its time, at a PUE of 1.09."""
    tokens = {
        "input": {"dist": "lognormal", "median": 400, "sigma": 1.0, "max": 8000},
        "output": {"dist": "lognormal", "median": 200, "sigma": 0.8, "max": 2000},
    }
    model = "gemma-3-27b"
    site = {"pue": 1.09, "carbon_intensity": "100 g/kWh", "water": "0.27 L/kWh", "electricity_price": "0.07 $/kWh"}
    pool = {"model": model, "device": "google-tpu-v6e", "tensor_parallel": 8, "replicas": 4}
    return {
        "name": "gemini",
        "horizon": "20 min",
        "workload": {"streams": [{"name": "text", "model": model, "arrival": {"rate": "2 /s"}, "tokens": tokens}]},
        "sites": {"here": site},
        "pools": {"tpu": pool},
    }


def test_the_boundaries_split_as_google_reported() -> None:
    """Accelerators 58, host 25, idle machines 10, facility 8 % of Gemini's joules: within 5 points, at the duty that the docs state."""
    result = simulate(load(gemini()))
    ledger, profile = result.run.records.pools[0], result.run.scenario.pools["tpu"].profile
    duty = ledger.busy_device_s / (ledger.devices * ledger.duration_s)
    assert duty == pytest.approx(0.78, abs=0.03)
    server = profile.server
    host_j = server.host.value * ledger.devices / server.devices * ledger.duration_s
    split = {
        "accelerators": ledger.active_j,
        "host": duty * host_j + (server.factor.value - 1) * ledger.active_j,
        "idle machines": (1 - duty) * host_j + server.factor.value * (ledger.accelerator_j - ledger.active_j),
        "facility": ledger.facility_j - ledger.node_j,
    }
    assert sum(split.values()) == pytest.approx(ledger.facility_j)
    for (name, joules), reported in zip(split.items(), (0.58, 0.25, 0.10, 0.08), strict=True):
        assert joules / ledger.facility_j == pytest.approx(reported, abs=0.05), name
