"""Calibration: constants that made a table are found again, bad tables say where, and the shipped profiles are what the command gives."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from simfleet.calibration.operators import NO_BENCH, Bench, Constants, calibrate, fit, plain, predict
from simfleet.calibration.tables import Decode, Message, Product, Prompt, Record, Routed, Shape, digest, read
from simfleet.calibration.writing import write
from simfleet.cli import cli
from simfleet.document import Document, SpecError
from simfleet.evidence.rows import Skipped
from simfleet.hardware.profile import Collective, DecodeAttention, Experts, Gemm, OneKernel, PrefillAttention, Profile
from simfleet.library import Library
from simfleet.spec import build

ROOT = Path(__file__).parents[1]
OPERATORS = Path(__file__).parents[2] / "shared" / "data" / "operators"
AIC = [OPERATORS / f"aic_op_{name}.csv" for name in ("gemm", "attention", "moe", "comm")]
MEASURED = (
    "nvidia-a100-sxm-80gb", "nvidia-h100-sxm", "nvidia-h200-sxm", "nvidia-b200-sxm", "nvidia-b300", "nvidia-gb200-nvl72",
    "nvidia-gb300-nvl72", "nvidia-l40s", "nvidia-rtx-pro-6000",
)  # fmt: skip
HEADER = "system,engine,gemm_dtype,m,n,k,latency_ms"

library = Library()
h100 = library.profile("h100")
shared = pytest.mark.skipif(not OPERATORS.is_dir(), reason="the shared operator tables are not here")

ROWS = (1, 8, 32, 128, 512, 2048, 8192)
WEIGHTS = tuple(product((1024, 4096, 16384), repeat=2))
HEADS = ((8, 1), (32, 8), (16, 16), (64, 8))


def made(
    family: str, form: str, shapes: Iterator[Shape], constants: Constants, bench: Bench = NO_BENCH
) -> list[Record]:
    """A table without noise: what the model itself says."""
    blank = [Record("nvidia-h100-sxm", family, form, shape, 1.0, "made.csv") for shape in shapes]
    return [replace(record, seconds=predict(record, constants, h100, bench)) for record in blank]


def products() -> Iterator[Shape]:
    return (Product(float(m), float(k), float(n)) for m, (n, k) in product(ROWS, WEIGHTS))


def decodes() -> Iterator[Shape]:
    for rows, context, (heads, kv) in product((1, 4, 16, 64, 256), (128, 1024, 8192, 65536), HEADS):
        yield Decode(rows, context, heads, kv, 128)


def prompts() -> Iterator[Shape]:
    for count, tokens, (heads, kv) in product((1, 4, 16), (32, 256, 1024, 4096, 16384), HEADS):
        yield Prompt(count, tokens, 0, heads, kv, 128)


def routed() -> Iterator[Shape]:
    for tokens, (hidden, width, experts, picks), parallel in product(
        (1, 4, 16, 64, 256, 1024, 4096), ((2048, 768, 128, 8), (4096, 14336, 8, 2), (6144, 16384, 8, 2), (4096, 1536, 128, 8)), (1, 4)
    ):  # fmt: skip
        pairs = tokens * picks
        yield Routed(pairs / parallel, pairs, min(experts / parallel, max(pairs / parallel, 1.0)), hidden, width)


def messages() -> Iterator[Shape]:
    return (Message(2.0**power, devices) for power, devices in product(range(11, 30), (2, 4, 8)))


gemm = Gemm(t0="4 us", compute=0.7, bandwidth=0.85, per_k="0.4 ns", fill=150, fade=0.04)
narrow = Gemm(t0="5 us", compute=0.75, bandwidth=0.8, per_k="0.4 ns", fill=300, quantise=8, quantise_row="3 ns")
block = Gemm(t0="5 us", compute=0.65, bandwidth=0.8, per_k="0.4 ns", quantise=8, quantise_row="3 ns")
moe = Experts(t0="25 us", compute=0.6, bandwidth=0.8, moved=0.5, sent=0.3, overlap=2.5, tile=200)
decode = DecodeAttention(t0="10 us", bandwidth=0.8, compute=0.6, item="25 ns", slots=50, swap="3 us", fill=1.5)
prefill = PrefillAttention(t0="11 us", compute=0.6, bandwidth=0.8, tokens=0.4, rows=14000)
own = OneKernel(t0="5 us", per_device="0.2 us", one_shot=0.5, two_shots=0.7, fill="6 us", below="8 MiB", most=8)
nccl = Collective(t0="7 us", per_device="1 us", low=0.25, high=0.6, fill="15 us", fade=-0.2)


def known() -> dict[tuple[str, str], tuple[Constants, list[Record]]]:
    """One made-up table per family with what made it."""
    return {
        ("gemm", "bf16"): (gemm, made("gemm", "bf16", products(), gemm)),
        ("gemm", "fp8"): (narrow, made("gemm", "fp8", products(), narrow)),
        ("experts", "bf16"): (moe, made("experts", "bf16", routed(), moe, Bench(cached=0.7))),
        ("decode_attention", "bf16"): (decode, made("decode_attention", "bf16", decodes(), decode)),
        ("prefill_attention", "bf16"): (prefill, made("prefill_attention", "bf16", prompts(), prefill)),
        ("one_kernel", ""): (own, made("all_reduce", "", messages(), nccl, Bench(one_kernel=own))),
        ("all_gather", ""): (nccl, made("all_gather", "", messages(), nccl)),
    }


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Constants]:
    records = [record for _, rows in known().values() for record in rows]
    return {(one.family, one.form): one.constants for one in fit(records, h100)}


@pytest.mark.parametrize("group", known(), ids="-".join)
def test_a_fit_finds_the_constants_that_made_its_table(
    group: tuple[str, str], found: dict[tuple[str, str], Constants]
) -> None:
    truth = known()[group][0]
    for name in type(truth).model_fields:
        wanted, got = getattr(truth, name), getattr(found[group], name)
        rel = 0.1 if name == "fill" else 0.05
        assert got == pytest.approx(wanted, rel=rel, abs=0.01 if name == "fade" else 1e-9), name


def test_an_eager_launch_of_the_benchmark_stays_out_of_the_profile() -> None:
    """Block-scaled products of a benchmark that takes at least 200 us each: the floor is found, and no constant has it."""
    rows = made("gemm", "fp8", products(), narrow) + made("gemm", "fp8_block", products(), block, Bench(host=2e-4))
    one = {one.form: one for one in fit(rows, h100)}["fp8_block"]
    assert one.bench.host == pytest.approx(2e-4, rel=0.02)
    assert isinstance(one.constants, Gemm)
    assert one.constants.t0 == pytest.approx(block.t0, rel=0.1)
    assert one.constants.compute == pytest.approx(block.compute, rel=0.1)
    assert re.search("eager launch of (198|199|200|201|202) us is left out", one.note)
    assert "host" not in plain(one.constants)


def test_noise_shows_in_the_error_and_not_in_the_bias() -> None:
    random = np.random.default_rng(7)
    rows = [
        replace(row, seconds=row.seconds * float(np.exp(random.normal(0, 0.1))))
        for row in made("gemm", "bf16", products(), gemm)
    ]
    one = fit(rows, h100)[0]
    assert 0.04 < one.inside.median < 0.09  # 0.0675 is the median size of a normal error of 0.1
    assert abs(one.inside.bias) < 0.03
    assert one.outside.median > one.inside.median
    assert fit(rows, h100)[0] == one


# -- tables ---------------------------------------------------------------------------------------------------------------


def table(folder: Path, *lines: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_become_shapes(tmp_path: Path) -> None:
    moe_header = (
        "system,engine,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,latency_ms"
    )
    attention = (
        "system,engine,op_name,attn_dtype,kv_cache_dtype,batch_size,isl,step,num_heads,num_key_value_heads,latency_ms"
    )
    comm = "system,engine,op_name,kernel_source,dtype,num_gpus,message_size,latency_ms"
    lines = {
        "gemm.csv": (HEADER, "h100_sxm,v,bfloat16,8,1024,2048,0.01"),
        "moe.csv": (moe_header, "h100_sxm,v,w4a16_mxfp4,4,2880,2880,4,128,2,4,0.05"),
        "attention.csv": (attention, "h100_sxm,v,generation_attention,bfloat16,fp8,4,1,1023,32,8,0.02"),
        "comm.csv": (comm, "h100_sxm,v,alltoall,NCCL,half,8,4096,0.02"),
        "dense.csv": (
            "hardware,model,tp,layer,tokens,time_us",
            "RTX4090,meta-llama/Llama-3.1-8B,1,gate_up_proj,16,100",
        ),
    }
    rows = [record for name, text in lines.items() for record in read(table(tmp_path, *text, name=name), library)]
    device = "nvidia-h100-sxm"
    assert rows == [
        Record(device, "gemm", "bf16", Product(8, 2048, 1024), pytest.approx(1e-5), "gemm.csv"),
        Record(device, "experts", "mxfp4", Routed(4, 16, 4, 2880, 1440), pytest.approx(5e-5), "moe.csv"),
        Record(device, "decode_attention", "fp8", Decode(4, 1024, 32, 8, 128), pytest.approx(2e-5), "attention.csv"),
        Record(device, "all_to_all", "", Message(8192, 8), pytest.approx(2e-5), "comm.csv"),
        Record("nvidia-rtx-4090", "gemm", "bf16", Product(16, 4096, 28672), pytest.approx(1e-4), "dense.csv"),
    ]


def test_other_benchmarks_rows_become_shapes_too(tmp_path: Path) -> None:
    """A model's layers give the shapes; DeepSeek's 256 experts are picked in groups, so that the first device has more pairs."""
    moe = "system,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,latency_ms"
    network = "network,collective,num_workers,devices_per_node,size_bytes,median_ms"
    chip = "hardware,model,prefill_chunk_size,kv_cache_size,batch_size,is_prefill,mean_ns"
    card = "hardware,model,tp,prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    lines = {
        "moe.csv": (moe, "h100_sxm,fp8_block,2,7168,2048,8,256,1,4,0.05", "h100_sxm,fp8_block,2,7168,2048,8,256,1,1,0.05"),
        "network.csv": (
            network, "h100_dgx,send_recv,2,2,4096,0.01", "h100_dgx,send_recv,2,1,4096,0.01", "h100_dgx,all_reduce,2,2,4096,0.01",
            "h100_dgx,send_recv,2,2,4,0.01", "h100_dgx,send_recv,1,1,4096,0.01",
        ),
        "chip.csv": (chip, "TPU-v6e-1,Llama-3.1-8B,512,1024,1,True,5e4", "TPU-v6e-1,Llama-3.1-8B,0,256,4,False,5e4"),
        "card.csv": (
            card, "RTX4090,meta-llama/Llama-3.1-8B,2,0,0,4,256,9", "RTX4090,meta-llama/Llama-3.1-8B,1,32,64,0,0,9",
            "RTX4090,meta-llama/Llama-3.1-8B,1,32,64,4,256,9", "RTX4090,acme/unheard-of,1,32,64,0,0,9",
        ),
        "layers.csv": ("hardware,model,layer_name,tokens,tp_size,latency_ns", "TPU-v6e-1,Llama-3.1-8B,lm_head,1,1,7e5", "TPU-v6e-1,Llama-3.1-8B,rope,1,1,200"),
    }  # fmt: skip
    rows = [record for name, text in lines.items() for record in read(table(tmp_path, *text, name=name), library)]
    assert [row.shape for row in rows if isinstance(row, Record)] == [
        Routed(2 * (2 + 4), 16, 8, 7168, 2048), Routed(16, 16, 12, 7168, 2048), Message(4096, 2), Prompt(1, 512, 1024, 32, 8, 128),
        Decode(4, 256, 32, 8, 128), Decode(4, 256, 16, 4, 128), Prompt(1, 32, 64, 32, 8, 128), Product(1, 4096, 128256),
    ]  # fmt: skip
    assert [str(row) for row in rows if isinstance(row, Skipped)] == [
        "send_recv between servers", "all_reduce by another benchmark", "message below 2 KiB or above 512 MiB",
        "messages within one device", "prefill and decode in one row", "unknown model `acme/unheard-of`",
        "layer `rope` is not a matrix product",
    ]  # fmt: skip


def test_what_is_not_known_is_counted_by_reason(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER, *["b60,v,bfloat16,1,1024,1024,0.01"] * 3, "h100_sxm,v,ternary,1,1024,1024,0.01",
                 *[f"h100_sxm,v,bfloat16,{m},1024,1024,{0.004 + m * 1e-5}" for m in range(1, 21)])  # fmt: skip
    assert next(str(row) for row in read(path, library) if isinstance(row, Skipped)) == "unknown device `b60`"
    found = calibrate([path], library)
    assert found.skipped["unknown device `b60`"] == 3
    assert sum(found.skipped.values()) == 4
    assert [one.inside.rows for one in found.fitted["nvidia-h100-sxm"]] == [20]


BAD = {
    "no such number": (["h100_sxm,v,bfloat16,1,1024,1024,fast"], "table.csv:2:7: latency_ms: expected a number above 0, got `fast`"),
    "zero": (["h100_sxm,v,bfloat16,1,0,1024,0.1"], "table.csv:2:5: n: expected a number above 0, got `0`"),
    "infinite": (["h100_sxm,v,bfloat16,1,1024,1e999,0.1"], "table.csv:2:6: k: expected a number above 0, got `1e999`"),
    "short row": (["h100_sxm,v,bfloat16,1,1,1,0.1", "h100_sxm,v"], "table.csv:3:1: expected 7 cells, got 2"),
    "nothing": ([], "nothing to fit: no rows at all"),
    "strangers": (["b60,v,bfloat16,1,1,1,0.1"], "nothing to fit: 1 rows: unknown device `b60`"),
    "few": (["h100_sxm,v,bfloat16,1,1,1,0.1"], "nothing to fit: 1 rows: fewer than 10 rows of gemm bf16"),
}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["calibrate", *map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_end_with_one_clear_message(case: str, tmp_path: Path) -> None:
    lines, message = BAD[case]
    result = run(table(tmp_path, HEADER, *lines))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_other_bad_input(tmp_path: Path) -> None:
    good = table(tmp_path, HEADER, "h100_sxm,v,bfloat16,1,1024,1024,0.01")
    assert "not an operator table" in run(table(tmp_path, "a,b", "1,2", name="other.csv")).stderr
    assert "did you mean `h100" in run(good, "--profile", "h10").stderr
    assert "No such file" in run(tmp_path / "none.csv").stderr
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"\n\xff,1\n")
    assert "expected text in UTF-8" in run(tmp_path / "latin.csv").stderr
    assert "nothing to fit for `nvidia-l4`: 1 rows: of another device" in run(good, "--profile", "l4").stderr


def test_starting_the_command_line_is_quick() -> None:
    """`validate` needs neither scipy nor pandas."""
    code = "import sys, simfleet.cli; print([name for name in ('scipy', 'pandas') if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# -- profiles -------------------------------------------------------------------------------------------------------------


def gemm_table(folder: Path) -> Path:
    rows = [(record.shape, record.seconds) for record in made("gemm", "bf16", products(), gemm)]
    lines = [f"h100_sxm,v,bfloat16,{m:.0f},{n:.0f},{k:.0f},{1e3 * seconds:.9g}" for (m, k, n), seconds in rows]
    return table(folder, HEADER, *lines)


def test_a_written_profile_loads_and_has_the_fitted_set(tmp_path: Path) -> None:
    path, out = gemm_table(tmp_path), tmp_path / "own" / "nvidia-h100-sxm.yaml"
    out.parent.mkdir()
    result = run(path, "--profile", "h100", "--out", out, "--format", "json")
    report = json.loads(result.stdout)
    assert report["fits"][0]["inside"]["rows"] == 63
    step = Library((out.parent,)).profile("nvidia-h100-sxm").step
    sets = step.gemm
    assert sets["bf16"].value.compute == pytest.approx(gemm.compute, rel=0.02)
    assert (sets["bf16"].grade, sets["bf16"].source) == ("calibrated", "operators")
    assert "63 rows" in str(sets["bf16"].note)
    assert sets["tf32"].value == sets["fp16"].value == sets["bf16"].value  # borrowed: "bf16's"
    assert (sets["tf32"].grade, sets["tf32"].note) == ("estimate", "bf16's")
    assert sets["fp8"] == h100.step.gemm["fp8"]
    assert step.experts == h100.step.experts
    assert f"table.csv {digest(path).split()[1]}" in out.read_text()


def test_only_the_step_and_its_sources_are_rewritten(tmp_path: Path) -> None:
    """Comments and order elsewhere stay, writing twice changes nothing, and a folder is written without --profile."""
    path, old = gemm_table(tmp_path), (ROOT / "hardware_profiles" / "nvidia-h100-sxm.yaml").read_text()
    found = calibrate([path], library)
    new = write(old, found.fitted["nvidia-h100-sxm"], found.digests)
    assert new.count("source: serving") == old.count("source: serving") > 0  # what serving runs told stays
    start, end = old.index("\nstep:"), old.index("\nrent:")
    kept = [line for line in old[:start].splitlines() if not line.startswith("  operators:")]
    assert [line for line in new[: new.index("\nstep:")].splitlines() if not line.startswith("  operators:")] == kept
    assert new[new.index("\nrent:") :].rstrip() == old[end:].rstrip()
    assert write(new, found.fitted["nvidia-h100-sxm"], found.digests) == new
    assert run(path, "--out", tmp_path / "folder").exit_code == 0
    assert (tmp_path / "folder" / "nvidia-h100-sxm.yaml").read_text() == new


def test_a_set_that_is_calibrated_as_anothers_stays_so(tmp_path: Path) -> None:
    """Somebody has decided it, and the note says why; a mere estimate gives way to rows of its own."""
    found = calibrate([gemm_table(tmp_path)], library)
    lines = (ROOT / "hardware_profiles" / "nvidia-h100-sxm.yaml").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("    bf16: {value: {t0: 3.1"))
    for grade, kept in (("calibrated", True), ("estimate", False)):
        lines[place] = (
            f'    bf16: {{value: {{t0: 9 us, compute: 0.5, bandwidth: 0.5}}, source: vidur, grade: {grade}, note: "fp8\'s: untuned"}}'
        )
        text = write("\n".join(lines), found.fitted["nvidia-h100-sxm"], found.digests)
        one = build(Profile, Document.from_text(text)).step.gemm["bf16"]
        assert (one.note == "fp8's: untuned") is kept
        assert (one.value.t0 == 9e-6) is kept


def test_a_profile_without_the_source_or_with_an_endless_step_is_written_too(tmp_path: Path) -> None:
    found = calibrate([gemm_table(tmp_path)], library)
    old = (ROOT / "hardware_profiles" / "nvidia-h100-sxm.yaml").read_text()
    lines = [
        line for line in old.replace("source: operators", "source: vidur").splitlines() if "  operators:" not in line
    ]
    moved = "\n".join(lines)
    start, end = moved.index("\nstep:"), moved.index("\nrent:")
    last = (moved[:start] + moved[end:] + moved[start:end]).replace("grade: calibrated", "grade: estimate")
    profile = build(Profile, Document.from_text(write(last, found.fitted["nvidia-h100-sxm"], found.digests)))
    assert profile.sources["operators"].startswith("Operator tables")
    assert profile.step.gemm["bf16"].source == "operators"
    with pytest.raises(SpecError):
        write(old.replace("vendor:", "vndor:"), found.fitted["nvidia-h100-sxm"], found.digests)


# -- the shipped constants ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def medians() -> Callable[[str, str], dict[str, float]]:
    """(device, family) -> median error of the shipped constants by format."""
    errors: dict[tuple[str, str, str], list[float]] = {}
    profiles = {name: library.profile(name) for name in MEASURED}
    for path in AIC:
        for record in read(path, library):
            if isinstance(record, Skipped) or record.family in ("all_gather", "reduce_scatter", "all_to_all"):
                continue
            profile = profiles[record.device]
            place = getattr(profile.step, record.family)
            if record.form and re.match(r"\w+'s", place[record.form].note or ""):
                continue  # decided to be another's: its own rows are not what serving shows
            if record.form and place[record.form].source == "serving":
                continue  # fitted to serving runs: the table is of another kernel
            bench = Bench(cached=0.6, one_kernel=profile.step.one_kernel.value)
            seconds = predict(record, (place[record.form] if record.form else place).value, profile, bench)
            errors.setdefault((record.device, record.family, record.form), []).append(abs(seconds / record.seconds - 1))
    return lambda device, family: {
        form: float(np.median(values))
        for (name, what, form), values in errors.items()
        if (name, what) == (device, family)
    }


LINES = {  # family -> format -> median error that the forms reached when they were found
    "gemm": {"bf16": 0.08, "fp8": 0.12, "nvfp4": 0.12},
    "decode_attention": {"bf16": 0.10, "fp8": 0.10},
    "prefill_attention": {"bf16": 0.10, "fp8": 0.10},
    "experts": {"bf16": 0.15, "fp8": 0.15, "fp8_block": 0.15, "nvfp4": 0.15, "mxfp4": 0.15},
    "all_reduce": {"": 0.15},
}


@shared
@pytest.mark.parametrize("family", LINES)
@pytest.mark.parametrize("device", MEASURED)
def test_shipped_constants_are_near_their_tables(
    device: str, family: str, medians: Callable[[str, str], dict[str, float]]
) -> None:
    found = {form: error for form, error in medians(device, family).items() if form in LINES[family]}
    assert found or (family == "experts" and device == "nvidia-a100-sxm-80gb")
    assert all(error <= LINES[family][form] for form, error in found.items()), found


@shared
def test_shipped_constants_are_what_a_fit_gives() -> None:
    records = [
        row
        for row in read(AIC[0], library)
        if isinstance(row, Record) and (row.device, row.form) == ("nvidia-h100-sxm", "bf16")
    ]
    one = fit(records, h100)[0]
    shipped = h100.step.gemm["bf16"]
    for name in Gemm.model_fields:
        assert getattr(one.constants, name) == pytest.approx(getattr(shipped.value, name), rel=0.01), name
    assert shipped.note == one.note


@shared
def test_shipped_profiles_cite_the_tables_that_are_here() -> None:
    with (OPERATORS / "aic_op_gemm.csv").open() as lines:
        assert "gemm_dtype" in next(csv.reader(lines))
    assert digest(AIC[0]) in h100.sources["operators"]
