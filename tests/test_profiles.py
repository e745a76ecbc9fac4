"""Shipped hardware profiles: each number says where it comes from, obeys physics, and agrees with the tables it came from."""

import csv
import re
from pathlib import Path

import pytest
import yaml

from simfleet.document import Document, SpecError
from simfleet.hardware.operators import NATIVE
from simfleet.hardware.profile import Profile, estimates, facts
from simfleet.hardware.roofline import PASSED, collective_s
from simfleet.library import Library
from simfleet.spec import build

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "hardware"
DOCS = ROOT / "docs" / "hardware.md"
DEVICES = {  # name -> row of the shared device table
    "nvidia-a100-sxm-80gb": "a100_sxm_80gb", "nvidia-h100-sxm": "h100_sxm", "nvidia-h200-sxm": "h200_sxm",
    "nvidia-b200-sxm": "b200_sxm", "nvidia-b300": "b300_sxm", "nvidia-gb200-nvl72": "gb200_nvl72",
    "nvidia-gb300-nvl72": "gb300_nvl72", "nvidia-l4": "l4", "nvidia-l40s": "l40s", "nvidia-a10g": "a10g",
    "nvidia-rtx-pro-6000": "rtx_pro_6000_blackwell_server", "nvidia-rtx-4090": "rtx_4090", "amd-mi300x": "mi300x", "amd-mi325x": "mi325x",
    "amd-mi355x": "mi355x", "google-tpu-v5e": "tpu_v5e", "google-tpu-v5p": "tpu_v5p", "google-tpu-v6e": "tpu_v6e",
    "google-tpu-v7": "tpu_v7_ironwood", "aws-inferentia2": "inferentia2", "aws-trainium2": "trainium2",
    "aws-trainium3": "trainium3", "intel-gaudi2": "gaudi2", "intel-gaudi3": "gaudi3", "microsoft-maia-200": "maia_200", "groq-lpu": "groq_lpu_v1",
    "cerebras-cs3": "cerebras_cs3_wse3", "sambanova-sn40l": "sambanova_sn40l", "nvidia-jetson-orin": "jetson_agx_orin_64gb",
    "apple-m3-ultra": "apple_m3_ultra", "amd-epyc-9654": "epyc_9654", "nvidia-grace-cpu": "grace_cpu",
}  # fmt: skip
NARROWER = (("fp32", "tf32"), ("fp32", "bf16"), ("tf32", "bf16"), ("bf16", "fp8"), ("fp8", "fp4"))
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_receive")

library = Library()
profiles = pytest.mark.parametrize("name", library.names("hardware_profiles"))


def sixteen(profile: Profile) -> str:
    return "bf16" if "bf16" in profile.flops else "fp16"


def graded(profile: Profile, paths: tuple[str, ...]) -> str:
    """`calibrated` where all of these facts are, `estimate` where one is."""
    grades = {fact.grade for path, fact in facts(profile) if path.startswith(paths)}
    return "estimate" if "estimate" in grades else "calibrated"


def step_facts(profile: Profile) -> tuple[str, ...]:
    """Products and attention at 16 bits."""
    return tuple(f"step.{part}.{sixteen(profile)}" for part in ("gemm", "decode_attention", "prefill_attention"))


def size(number: float, unit: str) -> str:
    """A number in the largest of P, T, G, M that leaves at least 1: 3.35e12 -> 3.35 TB."""
    prefix, scale = next((p, s) for p, s in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)) if number >= s)
    return f"{number / scale:.3g} {prefix}{unit}"


def row(profile: Profile) -> str:
    """The line of the table in docs/hardware.md, from the profile alone."""
    precision = sixteen(profile)
    flops, bandwidth = profile.flops[precision].value, profile.memory.bandwidth.value
    cells = [
        f"`{profile.name}`",
        size(profile.memory.capacity.value, "B"),
        size(bandwidth, "B/s"),
        f"{flops / 1e12:,.1f}".removesuffix(".0") + ("" if precision == "bf16" else " (fp16)"),
        f"{profile.power.tdp.value:,.0f}",
        f"{flops / bandwidth:.3g}",
        f"{profile.rent[0].price:.2f}" if profile.rent else "-",
        graded(profile, step_facts(profile)),
        graded(profile, ("power.busy",)),
    ]
    return "| " + " | ".join(cells) + " |"


def test_the_promised_devices_are_there():
    assert library.names("hardware_profiles") == sorted(DEVICES)


@profiles
def test_the_file_is_named_like_its_profile(name):
    assert library.profile(name).name == name


def test_a_name_or_an_alias_means_one_device():
    called = [word for name in DEVICES for word in (name, *library.profile(name).aliases)]
    assert len(called) == len(set(called))
    assert library.profile("h100").name == "nvidia-h100-sxm"


@profiles
def test_every_source_is_declared_and_every_declared_source_is_used(name):
    profile = library.profile(name)
    assert {fact.source for _, fact in facts(profile)} == set(profile.sources)


@profiles
def test_an_estimate_says_how_it_was_made(name):
    unexplained = [path for path, fact in facts(library.profile(name)) if fact.grade == "estimate" and not fact.note]
    assert not unexplained


@profiles
def test_what_is_from_memory_or_of_a_class_is_an_estimate(name):
    claimed = [
        p
        for p, fact in facts(library.profile(name))
        if fact.source in ("memory", "class", "rule") and fact.grade != "estimate"
    ]
    assert not claimed


@profiles
def test_each_peak_can_run_and_nothing_runs_without_a_peak(name):
    profile = library.profile(name)
    step = profile.step
    assert {NATIVE[name] for name in step.gemm} == set(profile.flops)
    assert set(step.decode_attention) == set(step.prefill_attention) >= {sixteen(profile)}
    assert sixteen(profile) in step.experts
    assert {NATIVE[name] for name in step.experts if name in NATIVE} <= set(profile.flops)
    assert {name for name in step.experts if name not in NATIVE} <= {"mxfp4", "int4"}


@profiles
def test_narrower_floats_are_not_slower(name):
    flops = library.profile(name).flops
    for wide, narrow in NARROWER:
        if wide in flops and narrow in flops:
            assert flops[narrow].value >= flops[wide].value


@profiles
def test_watts_are_in_order(name):
    power = library.profile(name).power
    assert 0 < power.idle.value <= power.gap.value <= power.busy.value <= power.limit.value <= 1.1 * power.tdp.value
    assert power.idle.value < power.tdp.value


def fitted_sets(profile: Profile) -> list[tuple[str, dict[str, float]]]:
    """Path and numbers of every set of step constants."""
    return [
        (path, fact.value.model_dump(exclude_none=True))
        for path, fact in facts(profile)
        if path.startswith("step.") and path != "step.sustained"
    ]


@profiles
def test_efficiencies_are_shares_of_what_the_device_has(name):
    shares = [
        number
        for _, numbers in fitted_sets(library.profile(name))
        for key, number in numbers.items()
        if key in ("compute", "bandwidth", "low", "high", "one_shot", "two_shots")
    ]
    assert len(shares) >= 6
    assert all(0 < share <= 1.2 for share in shares)


@profiles
def test_launches_take_microseconds(name):
    launches = [numbers["t0"] for _, numbers in fitted_sets(library.profile(name))]
    assert len(launches) >= 4
    assert all(0 <= launch_s < 1e-3 for launch_s in launches)


@profiles
def test_further_devices_rows_and_sequences_take_less_than_launches(name):
    """What is counted per device, row, item or element is far below a launch."""
    for path, numbers in fitted_sets(library.profile(name)):
        assert numbers.get("per_device", 0) < 1e-4, path
        assert max(numbers.get(key, 0) for key in ("per_k", "quantise_row", "item")) < 1e-6, path


@profiles
def test_devices_that_reach_each_other_have_all_collectives_and_a_lone_one_has_none(name):
    profile = library.profile(name)
    known = {kind for kind in COLLECTIVES if getattr(profile.step, kind) is not None}
    assert known == (set(COLLECTIVES) if profile.scale_up else set())
    assert profile.scale_up or profile.step.one_kernel is None


@profiles
def test_collectives_are_no_faster_than_the_link_and_grow_with_the_message(name):
    """Two devices: each sends its share once, so nothing beats size / link; a larger message is never faster."""
    profile = library.profile(name)
    if not profile.scale_up:
        assert profile.step.all_reduce is None
        return
    link = profile.scale_up.bandwidth.value
    for kind in COLLECTIVES:
        constants = getattr(profile.step, kind).value
        for devices in (2, 4, 8):
            seconds = [
                collective_s(kind.replace("_", "-"), 2.0**power, devices, constants, link) for power in range(8, 34)
            ]
            assert seconds == sorted(seconds)
            passed = PASSED[kind.replace("_", "-")] * (devices - 1) / devices or 1.0
            assert seconds[-1] > passed * 2.0**33 / link / 1.2


@profiles
def test_offers_are_dated_and_sourced(name):
    for offer in library.profile(name).rent:
        assert 0.1 < offer.price < 50
        assert re.fullmatch(r"20\d\d(-\d\d){0,2}", offer.date)
        assert offer.provider
        assert offer.kind
        assert offer.source


def lower_median_on_demand(profile: Profile) -> float:
    prices = sorted(
        o.price for o in profile.rent if o.kind == "on-demand" and not o.provider.startswith(("market", "cheapest"))
    )
    return prices[(len(prices) - 1) // 2] if prices else profile.rent[0].price


@profiles
def test_the_default_offer_is_the_lower_median_of_on_demand_offers(name):
    profile = library.profile(name)
    if profile.rent:
        assert profile.rent[0].price == lower_median_on_demand(profile)


def test_memory_without_a_second_level_is_told_apart():
    assert library.profile("groq-lpu").memory.kind == "SRAM only"
    assert library.profile("cerebras-cs3").kind == "wafer"
    shared = {name for name in DEVICES if library.profile(name).memory.unified}
    assert shared == {"apple-m3-ultra", "nvidia-jetson-orin", "nvidia-grace-cpu", "amd-epyc-9654"}


def test_fitted_devices_are_calibrated():
    fitted = {n for n in DEVICES if graded(library.profile(n), step_facts(library.profile(n))) == "calibrated"}
    assert fitted == {
        "nvidia-a100-sxm-80gb", "nvidia-h100-sxm", "nvidia-h200-sxm", "nvidia-b200-sxm", "nvidia-b300", "nvidia-gb200-nvl72",
        "nvidia-gb300-nvl72", "nvidia-l40s", "nvidia-rtx-pro-6000", "nvidia-rtx-4090",
        "google-tpu-v6e",
    }  # fmt: skip


def test_facts_name_every_number_by_its_path():
    profile = library.profile("nvidia-h100-sxm")
    found = dict(facts(profile))
    assert found["memory.bandwidth"].value == 3.35e12
    assert found["step.gemm.fp8"].value.t0 == profile.step.gemm["fp8"].value.t0 == pytest.approx(5e-6, rel=0.5)
    assert found["step.all_reduce"].value.fill == pytest.approx(11e-6, rel=0.5)
    assert found["embodied"].value == 164e3
    data = yaml.safe_load((ROOT / "hardware_profiles" / "nvidia-h100-sxm.yaml").read_text())
    assert len(found) == count_facts(data)


def count_facts(data: object) -> int:
    if not isinstance(data, dict):
        return 0
    return 1 if "grade" in data else sum(count_facts(value) for value in data.values())


def test_estimates_join_neighbours_and_give_the_reason():
    lines = estimates(library.profile("nvidia-h100-sxm"))
    assert "step.gemm: int8 estimated (fp8's, the other 8-bit format)" in lines
    assert "step.gemm: fp32, tf32, fp16 estimated (bf16's)" in lines
    assert not any(line.startswith(("memory", "step: ")) for line in lines)
    assert any(line.startswith("power: per_byte, per_flop estimated (held") for line in lines)
    assert not [line for line in estimates(library.profile("nvidia-h100-sxm"), ("step.gemm.",)) if "step.gemm" in line]
    kept = estimates(library.profile("nvidia-h100-sxm"), ("step.gemm.int8.",))
    assert "step.gemm: fp32, tf32, fp16 estimated (bf16's)" in kept
    assert "step.gemm: int8 estimated (fp8's, the other 8-bit format)" not in kept
    assert any("power: gap, busy" in line for line in estimates(library.profile("nvidia-h200-sxm")))


@pytest.mark.parametrize("name", sorted(DEVICES))
@pytest.mark.parametrize("field", ["capacity", "bandwidth", "bf16", "tdp"])
def test_agrees_with_the_device_table(name, field):
    if not SHARED.exists():
        pytest.skip("../shared is not here")
    with (SHARED / "devices.csv").open() as lines:
        device = {row["device"]: row for row in csv.DictReader(lines)}[DEVICES[name]]
    profile = library.profile(name)
    gigabytes = float(device["mem_gb"] or 0)
    want, got = {
        "capacity": (
            (float(device["mem_bytes"] or 0), gigabytes * 1e9, gigabytes * 2**30),
            profile.memory.capacity.value,
        ),
        "bandwidth": ((float(device["mem_bw_gbs"]) * 1e9,), profile.memory.bandwidth.value),
        "bf16": (
            (float(device["bf16_tflops"] or device["fp16_tflops"] or 0) * 1e12,),
            profile.flops[sixteen(profile)].value,
        ),
        "tdp": ((float(device["tdp_w"] or 0),), profile.power.tdp.value),
    }[field]
    if not any(want):
        pytest.skip("the table has no such number")
    assert any(got == pytest.approx(number, rel=0.01) for number in want)


# The documentation ------------------------------------------------------------------------------------------------------


def example() -> str:
    return re.findall(r"```yaml\n(name: .*?)```", DOCS.read_text(), re.DOTALL)[0]


def test_the_example_builds():
    profile = build(Profile, Document.from_text(example(), "docs/hardware.md"))
    assert profile.memory.capacity.value == 48e9
    assert any("rule of thumb" in line for line in estimates(profile))


def test_the_python_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(code, {})
    printed = capsys.readouterr().out
    assert "memory.capacity 85899345920.0 measured" in printed
    assert "step.gemm: int8 estimated (fp8's, the other 8-bit format)" in printed


def test_watts_out_of_order_are_refused():
    text = example().replace("idle: {value: 20 W", "idle: {value: 90 W")
    with pytest.raises(SpecError, match="idle <= gap <= limit"):
        build(Profile, Document.from_text(text, "docs/hardware.md"))


@profiles
def test_the_table_of_devices_is_up_to_date(name):
    assert row(library.profile(name)) in DOCS.read_text().splitlines()


def test_the_table_has_no_other_devices():
    section = DOCS.read_text().split("## The shipped devices")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE) == list(DEVICES)
