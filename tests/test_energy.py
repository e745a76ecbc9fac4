"""Measured watts and joules: how rows are read, that the imposed pace is the simulator's own equation, and what the fits reach."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from simfleet.calibration import power
from simfleet.calibration.tune import tune
from simfleet.calibration.writing import write_power
from simfleet.cli import cli
from simfleet.document import Document, override
from simfleet.evidence import energy
from simfleet.evidence.accuracy import Accuracy, Comparison, accuracy, simulated
from simfleet.evidence.energy import Watts, imposed_w, kinds
from simfleet.evidence.rows import PROMPTS, Pace, Row, Skipped, read
from simfleet.library import Library
from simfleet.pool import Pool
from simfleet.scenario import built
from tests.test_accuracy import write

LIBRARY = Library()
FILE = Path(__file__).parents[2] / "shared" / "data" / "energy" / "calibration" / "mlenergy_v3_llm.csv"
shared = pytest.mark.skipif(not FILE.exists(), reason="the measured watts (../shared/data/energy) are not here")

CHAT = {
    "task": "lm-arena-chat", "model_id": "Qwen/Qwen3-8B", "weight_precision": "bfloat16", "gpu_model": "H100", "num_gpus": "1",
    "tensor_parallel": "1.0", "expert_parallel": "1.0", "max_num_seqs": "32.0", "avg_batch_size": "31.8", "avg_output_len": "600",
    "output_throughput_tokens_per_sec": "3000", "energy_per_token_joules": "0.17", "median_itl_ms": "9.5", "power_per_gpu_watts": "520",
}  # fmt: skip
EXPERTS = {"model_id": "Qwen/Qwen3-30B-A3B-Thinking-2507", "num_gpus": "2", "expert_parallel": "2.0"}


def one(path: Path, **changes: str) -> Row | Skipped:
    """The one row of a file: CHAT with changes."""
    (found,) = read(write(path / "watts.csv", {**CHAT, **changes}), LIBRARY)
    return found


def pool_of(row: Row) -> Pool:
    return built(Document.from_data(row.scenario), LIBRARY).pools["measured"]


def row_and_pool(path: Path, **changes: str) -> tuple[Row, Pool, Pace]:
    row = one(path, **changes)
    assert isinstance(row, Row)
    assert row.pace is not None
    return row, pool_of(row), row.pace


# -- reading -------------------------------------------------------------------------------------------------------------


def test_a_row_is_a_closed_loop_of_its_task(tmp_path: Path) -> None:
    row, pool, pace = row_and_pool(tmp_path, **EXPERTS)
    stream = row.scenario["workload"]["streams"][0]
    assert (row.device, row.model, row.engine) == ("nvidia-h100-sxm", "qwen3-30b-a3b", "vllm-mlenergy")
    assert row.tags["task"] == "lm-arena-chat"
    assert stream["arrival"] == {"kind": "closed_loop", "users": 32}
    assert stream["tokens"]["input"] == {"dist": "constant", "value": PROMPTS["lm-arena-chat"]}
    assert stream["tokens"]["output"]["mean"] == 600
    assert (pool.parallel.devices, pool.expert_parallel, pool.engine.max_sequences) == (2, 2, 32)
    assert pool.precision == ("bf16", "bf16", "bf16")
    assert pace == (31.8, 90, 600.0, pytest.approx(31.8 / 3000))
    assert row.measured == {
        "output_tok_per_s": 3000.0, "joules_per_token": 0.17, "itl_p50_s": pytest.approx(9.5e-3), "power_imposed": 520.0,
        "power_predicted": 520.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "formats"),
    [
        ({"weight_precision": "fp8", "gpu_model": "B200"}, ("fp8", "bf16", "fp8")),
        ({"weight_precision": "mxfp4", "model_id": "openai/gpt-oss-20b"}, ("mxfp4", "bf16", "bf16")),
        (
            {"weight_precision": "mxfp4", "model_id": "openai/gpt-oss-20b", "gpu_model": "B200"},
            ("mxfp4", "bf16", "fp8"),
        ),
    ],
)
def test_formats_are_the_row_s_and_the_cache_has_16_bits(
    tmp_path: Path, changes: dict[str, str], formats: tuple[str, str, str]
) -> None:
    assert row_and_pool(tmp_path, **changes)[1].precision == formats


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "chess"}, "unknown task `chess`"),
        ({"model_id": "org/who-knows-7b"}, "unknown model `org/who-knows-7b`"),
        ({"avg_batch_size": ""}, "no sequences in the batch"),
        ({"power_per_gpu_watts": "much"}, "column `power_imposed`: expected a number"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    found = one(tmp_path, **changes)
    assert isinstance(found, Skipped)
    assert reason in str(found)


# -- the imposed pace ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, EXPERTS, {"avg_output_len": "20"}, {"avg_batch_size": "8", "gpu_model": "B200"}]
)
def test_at_its_own_pace_a_step_costs_what_the_simulator_says(tmp_path: Path, changes: dict[str, str]) -> None:
    """The host's time draws the gap, the rest what `StepCost` says: the mean of its joules over the mean of its seconds."""
    _, pool, pace = row_and_pool(tmp_path, **changes)
    steps, cost = kinds(pool, pace), pool.step_cost()
    rows, own_s = round(pace.batch), sum(kind.share * kind.seconds for kind in steps)
    prompts = rows / pace.output
    joules = steps[0].share * energy._step(cost, rows, 0.0, pace)[1]
    joules += steps[1].share * energy._step(cost, rows, max(prompts, 1.0), pace)[1]
    watts = Watts.of(pool.profile.power)._replace(limit=1e9)
    assert imposed_w(steps, watts, own_s) == pytest.approx(joules / own_s / cost.devices, rel=1e-9)


def test_a_slower_pace_draws_less_down_to_the_gap_and_a_faster_one_up_to_the_limit(tmp_path: Path) -> None:
    _, pool, pace = row_and_pool(tmp_path)
    steps, watts = kinds(pool, pace), Watts.of(pool.profile.power)
    drawn = [imposed_w(steps, watts, factor * pace.step_s) for factor in (0.01, 0.5, 1, 2, 10, 1e6)]
    assert drawn == pytest.approx(sorted(drawn, reverse=True), rel=1e-12)
    assert drawn[0] == pytest.approx(watts.limit)
    assert drawn[-1] == pytest.approx(watts.gap, rel=1e-3)


def test_one_point_leaves_the_gap_alone(tmp_path: Path) -> None:
    _, pool, pace = row_and_pool(tmp_path)
    power_ = pool.profile.power
    fact = power_.gap.model_copy(update={"value": 1.1})
    scaled = Watts.of(power_.model_copy(update={"scale": fact}))
    assert scaled == pytest.approx(Watts.of(power_).scaled(1.1))
    assert (scaled.gap, scaled.limit) == (power_.gap.value, power_.limit.value)
    assert scaled.busy == pytest.approx(1.1 * power_.busy.value)
    assert imposed_w(kinds(pool, pace), scaled, pace.step_s) > imposed_w(
        kinds(pool, pace), Watts.of(power_), pace.step_s
    )


@pytest.mark.parametrize(
    "changes", [{}, EXPERTS, {"avg_output_len": "100", "max_num_seqs": "256", "avg_batch_size": "256"}]
)
def test_imposed_and_simulated_watts_agree_at_the_simulated_pace(tmp_path: Path, changes: dict[str, str]) -> None:
    """The mean step of the one is the run of the other: contexts and prompts that come one by one are all that is left."""
    row, pool, pace = row_and_pool(tmp_path, **changes)
    given = simulated(row)
    assert isinstance(given, dict)
    same = pace._replace(step_s=pace.batch / given["output_tok_per_s"])
    found = imposed_w(kinds(pool, same), Watts.of(pool.profile.power), same.step_s)
    assert found == pytest.approx(given["power_predicted"], rel=0.03)
    joules = given["power_predicted"] * pool.devices / given["output_tok_per_s"]
    assert given["joules_per_token"] == pytest.approx(joules, rel=1e-9)


# -- accuracy ------------------------------------------------------------------------------------------------------------


def test_a_perfect_simulator_scores_zero(tmp_path: Path) -> None:
    row, _, _ = row_and_pool(tmp_path)
    given = simulated(row)
    assert isinstance(given, dict)
    exact = {
        "energy_per_token_joules": repr(given["joules_per_token"]), "output_throughput_tokens_per_sec": repr(given["output_tok_per_s"]),
        "median_itl_ms": repr(1e3 * given["itl_p50_s"]), "power_per_gpu_watts": repr(given["power_predicted"]),
    }  # fmt: skip
    unknown = {**CHAT, "model_id": "org/who-knows-7b"}
    path = write(tmp_path / "exact.csv", {**CHAT, **exact}, unknown)
    result = CliRunner().invoke(
        cli, ["accuracy", str(path), "--format", "json", "--workers", "1", "--plot", str(tmp_path / "plots")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["rows"], found["skipped"]) == (1, {"unknown model `org/who-knows-7b`": 1})
    errors = {group["metric"]: group["median_ape"] for group in found["groups"] if group["group"] == "all"}
    assert errors.pop("power_imposed") < 0.03
    assert errors == pytest.approx(
        {"joules_per_token": 0, "output_tok_per_s": 0, "itl_p50_s": 0, "power_predicted": 0}, abs=1e-9
    )
    assert {group["group"] for group in found["groups"]} >= {"task=lm-arena-chat", "nvidia-h100-sxm lm-arena-chat"}
    assert {file.name for file in (tmp_path / "plots").iterdir()} >= {"joules_per_token.svg", "power_imposed.svg"}


# -- calibration ---------------------------------------------------------------------------------------------------------


MADE = Watts(150.0, 333.0, 60e-12, 0.2e-12, 300e-9, 690.0)
SERVED = (
    "Qwen/Qwen3-8B",
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3-30B-A3B-Instruct-2507",
    "google/gemma-3-27b-it",
)


def made(path: Path) -> Path:
    """Watts that these constants give, to all digits."""
    rows = []
    for model in SERVED:
        for batch, rate in ((8, 500), (64, 3000), (256, 6000)):
            load = {
                "max_num_seqs": str(batch),
                "avg_batch_size": str(batch),
                "output_throughput_tokens_per_sec": str(rate),
            }
            _, pool, pace = row_and_pool(path, model_id=model, **load)
            watts = imposed_w(kinds(pool, pace), MADE, pace.step_s)
            rows.append({**CHAT, "model_id": model, **load, "power_per_gpu_watts": repr(watts)})
    return write(path / "made.csv", *rows)


def test_a_fit_finds_the_constants_that_made_its_rows(tmp_path: Path) -> None:
    path = made(tmp_path)
    (fit,) = power.calibrate([path], LIBRARY).fits
    assert fit.fitted == ("busy", "per_activation")
    assert fit.watts == pytest.approx(MADE, rel=1e-3)
    assert fit.figures[power.OUTSIDE].p90 < 1e-3
    assert fit.figures["one point per model and devices, text"].rows == 8
    assert fit.figures["one point per model and devices, text"].p90 < 1e-3
    assert fit.figures["constant watts, left out"].median > 0.05


def test_the_command_writes_only_power_and_its_source(tmp_path: Path) -> None:
    out = tmp_path / "new.yaml"
    arguments = [
        "calibrate",
        str(made(tmp_path)),
        "--power",
        "--profile",
        "h100",
        "--out",
        str(out),
        "--format",
        "json",
    ]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["fits"][0]
    assert found["constants"]["busy"] == pytest.approx(333, rel=1e-3)
    assert found["errors"]["inside the fit"]["rows"] == 12
    old = LIBRARY.path("hardware_profiles", "h100").read_text().splitlines()
    changed = [line.split(":")[0].strip() for line in out.read_text().splitlines() if line not in old]
    assert changed == ["mlenergy", "busy", "per_activation"]
    profile = Library((tmp_path,)).profile("new")
    assert profile.power.busy.value == pytest.approx(333, rel=1e-3)
    assert profile.power.busy.grade == "calibrated"
    assert "architectures left out 0.0 %" in (profile.power.busy.note or "")
    assert "files: made.csv" in profile.sources["mlenergy"]
    text = CliRunner().invoke(cli, arguments[:-2]).stdout
    assert "per_byte 60 pJ/B (held)" in text


def test_a_device_without_power_of_its_own_gets_a_source(tmp_path: Path) -> None:
    (fit,) = power.calibrate([made(tmp_path)], LIBRARY).fits
    old = LIBRARY.path("hardware_profiles", "h200").read_text()
    text = write_power(old, replace(fit, device="nvidia-h200-sxm"), ["made.csv 01234567"])
    assert "  board-power: 'Board watts of serving runs, fitted to docs/physics.md; files: made.csv 01234567'" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([CHAT], "fewer than 10 rows of text on `nvidia-h100-sxm`"),
        ([{**CHAT, "task": "chess"}], "unknown task `chess`"),
        ([{"hardware": "h100", "model": "phi-4", "engine": "vllm"}], "nothing measured"),
        ([{"a": "1"}], "missing columns"),
    ],
)
def test_nothing_to_fit_is_said(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    result = CliRunner().invoke(cli, ["calibrate", str(write(tmp_path / "few.csv", *rows)), "--power"])
    assert result.exit_code == 2
    assert message in result.stderr


def test_power_or_an_engine(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["calibrate", str(write(tmp_path / "few.csv", CHAT)), "--power", "--engine", "vllm"]
    )
    assert result.exit_code == 2
    assert "expected one of them" in result.stderr


def test_a_host_is_found_again_from_tokens_per_second(tmp_path: Path) -> None:
    """Rows that give a pace and no times tell what the host takes for a step, and for each sequence in it."""
    rows = []
    for number, model in product((8, 64), SERVED[:2]):
        cells = {
            **CHAT,
            "model_id": model,
            "max_num_seqs": str(number),
            "avg_batch_size": str(number),
            "avg_output_len": "100",
        }
        (row,) = read(write(tmp_path / "blank.csv", cells), LIBRARY)
        assert isinstance(row, Row)
        row.scenario["pools"]["measured"]["engine"].update({"host": "6 ms", "per_sequence": "30 us"})
        given = simulated(row)
        assert isinstance(given, dict)
        rows.append({**cells, "output_throughput_tokens_per_sec": repr(given["output_tok_per_s"])})
    path = write(tmp_path / "runs.csv", *rows, {**rows[0], "task": "gpqa", "output_throughput_tokens_per_sec": "1"})
    with ThreadPoolExecutor(1) as executor:
        tuned = tune([path], "vllm-mlenergy", LIBRARY, executor, what="engine", fresh=True, evaluations=20)
    assert len(tuned.rows) == len(rows), "only chats are fitted"
    assert tuned.constants == pytest.approx({("engine", "host"): 6e-3, ("engine", "per_sequence"): 30e-6}, rel=0.02)
    assert tuned.errors()["output_tok_per_s"] < 0.01


# -- the measured rows ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fits() -> dict[str, power.PowerFit]:
    found = power.calibrate([FILE], LIBRARY)
    assert not found.skipped, "every row is counted"
    return {fit.device: fit for fit in found.fits}


@shared
@pytest.mark.parametrize(("device", "median"), [("nvidia-h100-sxm", 0.09), ("nvidia-b200-sxm", 0.07)])
def test_board_power_of_architectures_left_out(device: str, median: float, fits: dict[str, power.PowerFit]) -> None:
    """The measured pace imposed, text and all five tasks; half of what the best constant watts give, and nearer with one point of the model itself."""
    figures = fits[device].figures
    assert figures[power.OUTSIDE].median <= median
    assert figures["one point per model and devices, text"].median <= 0.05
    assert figures["constant watts, left out"].median > 1.4 * figures[power.OUTSIDE].median
    assert figures["  all tasks"].median <= median


@shared
@pytest.mark.parametrize("device", ["nvidia-h100-sxm", "nvidia-b200-sxm"])
def test_shipped_power_is_what_a_fit_gives(device: str, fits: dict[str, power.PowerFit]) -> None:
    profile = LIBRARY.profile(device)
    assert Watts.of(profile.power) == pytest.approx(fits[device].watts, rel=0.01)
    assert "mlenergy_v3_llm.csv" in profile.sources[profile.power.busy.source]


@pytest.fixture(scope="module")
def chats() -> Accuracy:
    """All chat rows, simulated."""
    rows = [row for row in read(FILE, LIBRARY) if isinstance(row, Row) and row.tags["task"] == "lm-arena-chat"]
    with ProcessPoolExecutor(2) as executor:
        outcomes = list(executor.map(simulated, rows, chunksize=8))
    return Accuracy(
        [Comparison(row, found) for row, found in zip(rows, outcomes, strict=True) if isinstance(found, dict)]
    )


@shared
@pytest.mark.parametrize(("device", "rows"), [("nvidia-h100-sxm", 143), ("nvidia-b200-sxm", 108)])
def test_joules_per_token_end_to_end(device: str, rows: int, chats: Accuracy) -> None:
    """Time and power predicted, of every chat row."""
    groups = {group["metric"]: group for group in chats.groups() if group["group"] == f"hardware={device}"}
    assert groups["joules_per_token"]["n"] == rows
    assert groups["joules_per_token"]["median_ape"] <= 0.15
    assert abs(groups["joules_per_token"]["bias"]) <= 0.06
    assert groups["output_tok_per_s"]["median_ape"] <= 0.15
    assert groups["power_imposed"]["median_ape"] <= 0.09


@shared
def test_padded_rows_make_block_scaled_experts_as_slow_and_as_hot_as_measured(chats: Accuracy) -> None:
    """Rows that vLLM 0.11.1 computes for nothing, by the rule of its code: nothing here was fitted to these models' pace alone."""
    fp8 = [one for one in chats.compared if one.row.tags["served"].endswith("235B-A22B-Instruct-2507-FP8")]
    assert len(fp8) == 23
    with_it, without = (
        {metric: np.median([dict(one.errors())[metric] for one in rows]) for metric in ("output_tok_per_s", "power_imposed")}
        for rows in (fp8, [unpadded(one.row) for one in fp8])
    )  # fmt: skip
    assert abs(with_it["output_tok_per_s"]) < 0.1
    assert abs(with_it["power_imposed"]) < 0.15
    assert without["output_tok_per_s"] > 0.2
    assert without["power_imposed"] < -0.25


def unpadded(row: Row) -> Comparison:
    """The row simulated with kernels that compute what is asked for."""
    document = override(Document.from_data(row.scenario), "pools.measured.engine.expert_tile", None)
    found = simulated(replace(row, scenario=document.data))
    assert isinstance(found, dict)
    return Comparison(row, found)


def test_rows_of_other_files_have_no_watts(tmp_path: Path) -> None:
    """Columns decide what a file is: the same numbers without the watts are refused."""
    path = write(tmp_path / "watts.csv", {key: value for key, value in CHAT.items() if key != "power_per_gpu_watts"})
    with pytest.raises(ValueError, match="missing columns hardware, model, engine"):
        accuracy([path], LIBRARY)
