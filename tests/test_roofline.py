"""Single operators: the equations by hand, their limits, and the measured tables that the constants stand for."""

import csv
from collections.abc import Iterator
from math import exp
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.hardware.profile import Gemm, StepConstants
from simfleet.hardware.roofline import (
    COMPUTE,
    HOST,
    LAUNCH,
    LINK,
    MEMORY,
    Attention,
    Operator,
    all_reduce,
    elementwise,
    experts,
    experts_touched,
    gemm,
)
from simfleet.library import Library

TABLES = Path(__file__).parents[2] / "shared" / "data" / "operators"
DEVICES = {
    "a100_sxm": "nvidia-a100-sxm-80gb", "h100_sxm": "nvidia-h100-sxm", "h200_sxm": "nvidia-h200-sxm", "b200_sxm": "nvidia-b200-sxm",
}  # fmt: skip
FORMATS = {"bfloat16": ("bf16", 2), "fp8": ("fp8", 1)}
LIBRARY = Library()


def fact(value):
    return {"value": value, "source": "made up", "grade": "estimate"}


CONSTANTS = Gemm.model_validate({"t0": fact("4 us"), "compute": fact(0.8), "bandwidth": fact(0.5)})
STEP = StepConstants.model_validate(
    {
        "gemm": {"bf16": {"t0": fact("4 us"), "compute": fact(0.8), "bandwidth": fact(0.5)}},
        "decode_attention_t0": fact("10 us"),
        "decode_attention_bandwidth": fact(0.8),
        "prefill_attention_compute": fact(0.5),
        "moe_t0": fact("20 us"),
        "moe_compute": fact(0.4),
        "moe_bandwidth": fact(0.5),
    }
)


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_gemm_waits_for_memory_or_for_arithmetic() -> None:
    """2e9 weights at 16 bits, 0.5 x 4 TB/s: 2 ms to read. 1,000 tokens at 0.8 x 1 PFLOP/s: 5 ms to multiply."""
    few = gemm("x", CONSTANTS, 1e15, 4e12, 0.5, 1, 2e9, 4e9)
    many = gemm("x", CONSTANTS, 1e15, 4e12, 0.5, 1000, 2e9, 4e9)
    assert few.seconds == pytest.approx(0.5 * 4e-6 + 2e-3)
    assert many.seconds == pytest.approx(0.5 * 4e-6 + 5e-3)
    assert (few.bound, many.bound) == (MEMORY, COMPUTE)
    assert (few.bytes, many.flops) == (4e9, 4e12)


def test_elementwise_is_four_kernels_and_16_bytes() -> None:
    operator = elementwise(2e12, 0.5, 0.8, 1000, 4096)
    assert operator.seconds == pytest.approx(0.8 * 10e-6 + 16 * 1000 * 4096 / 1e12)


def test_all_reduce_is_a_ring() -> None:
    """Of 2 bytes per element, each device sends 2*(n-1)/n: 1.75 times its data over 8 devices."""
    operator = all_reduce(5e-6, 0.5, 400e9, 0.8, 1000, 8192, 8)
    assert operator.seconds == pytest.approx(0.8 * 5e-6 + 2 * 1000 * 8192 * 1.75 / 200e9)
    assert operator.by_resource()[LINK] == pytest.approx(operator.seconds - 0.8 * 5e-6)


def test_experts_by_hand() -> None:
    memory = experts(STEP, 1e15, 4e12, 0.5, flops=1e9, read=2e9, passed_s=3e-6)
    compute = experts(STEP, 1e15, 4e12, 0.5, flops=4e12, read=2e9, passed_s=3e-6)
    assert memory.seconds == pytest.approx(0.5 * 20e-6 + 1e-3 + 3e-6)
    assert compute.seconds == pytest.approx(0.5 * 20e-6 + 1e-2 + 3e-6)


# -- laws --------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 512), st.integers(1, 16), st.integers(1, 10_000))
def test_experts_touched_lie_between_one_token_s_and_all(total: int, per_token: int, tokens: int) -> None:
    per_token = min(per_token, total)
    touched = experts_touched(total, per_token, tokens)
    assert per_token <= touched <= min(total, per_token * tokens) * (1 + 1e-12)
    assert touched <= experts_touched(total, per_token, tokens + 1)


def test_experts_touched_by_hand() -> None:
    assert experts_touched(128, 4, 1) == 4.0
    assert experts_touched(128, 4, 64) == pytest.approx(128 * (1 - exp(-2)))
    assert experts_touched(128, 4, 10_000) == pytest.approx(128)


numbers = st.floats(0, 1e3)


@given(numbers, numbers, numbers, numbers, numbers, st.integers(1, 100))
def test_resources_add_up(launch: float, compute: float, memory: float, link: float, host: float, count: int) -> None:
    """Waiting for compute and for memory exclude each other; the parts are the whole, once or many times."""
    operator = Operator("x", launch, compute, memory, link, host)
    waits = operator.by_resource()
    assert sum(waits.values()) == pytest.approx(operator.seconds)
    assert not (COMPUTE in waits and MEMORY in waits)
    assert (waits[LAUNCH], waits[HOST]) == (launch, host)
    assert waits[operator.bound] == max(waits.values())
    assert operator.times(count).seconds == pytest.approx(count * operator.seconds)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_decode_attention_is_linear_whichever_side_binds(one: float, other: float) -> None:
    for part in (Attention(False, 2e-9, 1e-9, 5e-9, 1, 1, 1), Attention(False, 1e-9, 2e-9, 5e-9, 1, 1, 1)):
        apart = part.decode(one).seconds + part.decode(other).seconds
        assert part.decode(one + other).seconds == pytest.approx(apart)
        assert part.decode(one).seconds == pytest.approx(2e-9 * one)


def test_prefill_attention_takes_the_slower_side() -> None:
    part = Attention(False, 2e-9, 1e-9, 5e-9, 1, 1, 1)
    assert part.prefill(pairs=100, keys=1000).seconds == pytest.approx(2e-6)
    assert part.prefill(pairs=1000, keys=1000).seconds == pytest.approx(5e-6)


# -- measured tables ---------------------------------------------------------------------------------------------------


def rows(name: str) -> Iterator[dict[str, str]]:
    if not TABLES.exists():
        pytest.skip("../shared is not here")
    with (TABLES / name).open(newline="") as file:
        yield from (row for row in csv.DictReader(file) if row["system"] in DEVICES)


def of(system: str):
    """Profile and memory bandwidth of a table's device."""
    profile = LIBRARY.profile(DEVICES[system])
    return profile, profile.memory.bandwidth.value


def error(operator_s: float, row: dict[str, str]) -> float:
    return abs(operator_s / (float(row["latency_ms"]) * 1e-3) - 1)


@pytest.mark.parametrize(
    ("system", "dtype", "worst"),
    [("a100_sxm", "bfloat16", 0.10), ("h100_sxm", "bfloat16", 0.10), ("h200_sxm", "bfloat16", 0.10), ("b200_sxm", "bfloat16", 0.10),
     ("h100_sxm", "fp8", 0.20), ("h200_sxm", "fp8", 0.20), ("b200_sxm", "fp8", 0.30)],
)  # fmt: skip
def test_gemm_tables(system: str, dtype: str, worst: float) -> None:
    """Median error; the constants were fitted on these tables, so this shows the form fits and units are right."""
    profile, bandwidth = of(system)
    name, size = FORMATS[dtype]
    errors = []
    for row in rows("aic_op_gemm.csv"):
        if (row["system"], row["gemm_dtype"]) == (system, dtype):
            m, n, k = int(row["m"]), int(row["n"]), int(row["k"])
            peak, moved = profile.flops[name].value, size * (n * k + m * (n + k))
            errors.append(error(gemm("x", profile.step.gemm[name], peak, bandwidth, 1.0, m, n * k, moved).seconds, row))
    assert len(errors) > 300
    assert median(errors) < worst


@pytest.mark.parametrize(("system", "worst"), [("h100_sxm", 0.10), ("h200_sxm", 0.10), ("b200_sxm", 0.25)])
def test_experts_tables(system: str, worst: float) -> None:
    profile, bandwidth = of(system)
    errors = []
    for row in rows("aic_op_moe.csv"):
        if (row["system"], row["moe_dtype"], row["moe_ep_size"]) == (system, "bfloat16", "1"):
            tokens, hidden, inner, k, total, tp = (
                int(row[key])
                for key in ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size")
            )
            weights = 3 * hidden * inner / tp
            passed_s = 8 * tokens * k * hidden / (profile.step.gemm["bf16"].bandwidth.value * bandwidth)
            read, flops = experts_touched(total, k, tokens) * weights * 2, 2 * tokens * k * weights
            peak = profile.flops["bf16"].value
            errors.append(error(experts(profile.step, peak, bandwidth, 1.0, flops, read, passed_s).seconds, row))
    assert len(errors) > 100
    assert median(errors) < worst


@pytest.mark.parametrize("system", DEVICES)
def test_all_reduce_tables(system: str) -> None:
    """Up to 64 MiB, kernels as graphs launch them; message sizes count elements."""
    profile, _ = of(system)
    constants, link = profile.step.all_reduce, profile.scale_up.bandwidth.value
    errors = []
    for row in rows("aic_op_comm.csv"):
        n, elements = int(row["num_gpus"]), int(row["message_size"])
        wanted = row["system"] == system and row["op_name"] == "all_reduce" and "graph" in row["kernel_source"]
        if wanted and n in constants.alpha.value and elements <= 2**25:
            alpha_s, share = constants.alpha.value[n], constants.efficiency.value[n]
            errors.append(error(all_reduce(alpha_s, share, link, 1.0, 1, elements, n).seconds, row))
    assert len(errors) > 40
    assert median(errors) < 0.12
