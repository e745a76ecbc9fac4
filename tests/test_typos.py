"""Typical slips in every kind of file: one clear line with file, place, what was expected and the nearest right name."""

from pathlib import Path

import pytest

from simfleet.document import SpecError
from simfleet.library import shipped
from simfleet.scenario import load

SCENARIO = """\
name: typos
horizon: 1 min
sites: {here: {preset: germany}}
workload:
  classes: {chat: {ttft: 1 s}}
  streams:
    - name: chat
      class: chat
      model: llama-3.1-8b
      arrival: {rate: 1 /s}
      tokens: {input: {dist: constant, value: 10}, output: {dist: constant, value: 10}}
pools:
  a: {model: llama-3.1-8b, device: h100}
"""
PRESET = "      preset: ./own.yaml\n"
KINDS = {
    "hardware_profiles": ("nvidia-l4", {"device: h100": "device: ./own.yaml"}),
    "models": ("llama-3.1-8b", {"model: llama-3.1-8b": "model: ./own.yaml"}),
    "engines": ("vllm", {"device: h100": "device: h100, engine: ./own.yaml"}),
    "engines laid over": ("vllm", {"device: h100": "device: h100, engine: {preset: ./own.yaml, block_size: 32}"}),
    "sites": ("germany", {"preset: germany": "preset: ./own.yaml"}),
    "cooling": ("liquid", {"preset: germany": "preset: germany, overhead: ./own.yaml"}),
    "workloads": ("azure-2023-code", {"      arrival: {rate: 1 /s}\n": PRESET, SCENARIO[SCENARIO.index("      tokens") : SCENARIO.index("pools")]: ""}),
}  # fmt: skip
"""Kind of file -> a shipped one, and how the scenario above names a copy of it."""

IN_SCENARIO = [
    ("horizon:", "horizont:", "s.yaml:2:1: horizont: unknown key; did you mean `horizon`?"),
    ("ttft", "TTFT", "s.yaml:5:20: workload.classes.chat.TTFT: unknown key; did you mean `ttft`?"),
    ("rate: 1 /s", "rate: 1", "s.yaml:10:23: workload.streams.chat.arrival.rate: expected rate with a unit, such as `10 /s`, got `1` without one"),
    ("device: h100", "device: h100, tp: 2", "s.yaml:13:42: pools.a.tp: unknown key; did you mean `tensor_parallel`?"),
    ("device: h100", "device: h100, cap: 400 W", "s.yaml:13:42: pools.a.cap: unknown key; did you mean `power_cap`?"),
    ("device: h100", "device: h100, engine: vlm", "s.yaml:13:50: pools.a.engine.preset: unknown engine `vlm`; did you mean `vllm`?"),
    ("device: h100", "device: h100, cost: own", "s.yaml:13:48: pools.a.cost: expected a mapping, such as `{kind: rent}`, got `own`"),
    ("horizon: 1 min", "horizon: 1 min\nrouting: random", "s.yaml:3:10: routing: expected a mapping, such as `{kind: round_robin}`, got `random`"),
    ("{preset: germany}", "germany", "s.yaml:3:15: sites.here: expected a mapping, such as `{preset: germany}`, got `germany`"),
]  # fmt: skip
IN_OTHERS = [
    ("hardware_profiles", "capacity:", "capcity:", "own.yaml:14:3: memory.capcity: unknown key; did you mean `capacity`?"),
    ("hardware_profiles", "capacity:", "capcity:", "own.yaml:12:1: memory.capacity: missing, expected a fact such as `{value: ..., source: ..., grade: estimate}`"),
    ("hardware_profiles", "tdp: {value: 72 W,", "tdp: 72 W #", "own.yaml:33:8: power.tdp: expected a fact such as `{value: ..., source: ..., grade: estimate}`, got `72 W` alone"),
    ("hardware_profiles", "grade: datasheet", "grade: data-sheet", "memory.capacity.grade: expected one of datasheet, measured, calibrated, estimate, got `data-sheet`; did you mean `datasheet`?"),
    ("hardware_profiles", "bf16:", "bfloat16:", "own.yaml:20:3: flops.bfloat16: expected one of fp32, tf32, bf16, fp16, fp8, int8, fp4, got `bfloat16`; did you mean `bf16`?"),
    ("hardware_profiles", "t0:", "t_0:", "step.gemm.fp32.value.t_0: unknown key; did you mean `t0`?"),
    ("models", "hidden:", "hidden_size:", "own.yaml:5:1: hidden_size: unknown key; did you mean `hidden`?"),
    ("models", "size:", "intermediate_size:", "layers.0.mlp.intermediate_size: unknown key; did you mean `size`?"),
    ("models", "kv_heads", "kv_head", "layers.0.attention.kv_head: unknown key; did you mean `kv_heads`?"),
    ("models", "kind: full", "kind: ful", "layers.0.attention.kind: expected one of full, window, mla, compressed, linear, got `ful`; did you mean `full`?"),
    ("models", "layers:", "layer:", "own.yaml:8:1: layer: unknown key; did you mean `layers`?"),
    ("engines", "max_sequences:", "max_sequence:", "own.yaml:4:1: max_sequence: unknown key; did you mean `max_sequences`?"),
    ("engines", "block_size:", "blocksize:", "own.yaml:5:1: blocksize: unknown key; did you mean `block_size`?"),
    ("engines", "reserve: 2 GB", "reserve: 2", "own.yaml:7:10: reserve: expected bytes with a unit, such as `80 GB`, got `2` without one"),
    ("engines", "memory_fraction: 0.9", "memory_fraction: 90", "own.yaml:6:18: memory_fraction: expected a share from 0 to 1 such as 0.3 or 30 %, got `90`"),
    ("engines laid over", "reserve: 2 GB", "reserve: 2", "own.yaml:7:10: reserve: expected bytes with a unit"),
    ("engines laid over", "max_sequences:", "max_sequence:", "own.yaml:4:1: max_sequence: unknown key; did you mean `max_sequences`?"),
    ("sites", "carbon_intensity:", "carbon:", "own.yaml:2:1: carbon: unknown key; did you mean `carbon_intensity`?"),
    ("sites", "electricity_price:", "price:", "own.yaml:4:1: price: unknown key; did you mean `electricity_price`?"),
    ("sites", "water:", "wter:", "own.yaml:3:1: wter: unknown key; did you mean `water`?"),
    ("sites", "$/kWh", "EUR/kWh", "own.yaml:4:20: electricity_price: expected dollars per joule such as `0.08 $/kWh`, got the unit `EUR/kWh`; did you mean `$/kWh`?"),
    ("cooling", "mechanical:", "mechanic:", "own.yaml:4:1: mechanic: unknown key; did you mean `mechanical`?"),
    ("cooling", "threshold_c:", "threshold:", "own.yaml:5:1: threshold: unknown key; did you mean `threshold_c`?"),
    ("cooling", "cap: 0.12", "cap: 12", "own.yaml:7:6: cap: expected a share from 0 to 1 such as 0.3 or 30 %, got `12`"),
    ("workloads", "arrival:", "arival:", "own.yaml:9:1: arival: unknown key; did you mean `arrival`?"),
    ("workloads", "description:", "descripton:", "own.yaml:1:1: descripton: unknown key; did you mean `description`?"),
    ("workloads", "envelope:", "envelop:", "own.yaml:11:3: arrival.envelop: unknown key; did you mean `envelope`?"),
    ("workloads", "kind: stages", "kind: stage", "arrival.envelope.0.kind: expected one of constant, sinusoid, weekly, ramp, spike, stages, series, got `stage`; did you mean `stages`?"),
    ("workloads", "weight:", "weigth:", "tokens.input.parts.0.weigth: unknown key; did you mean `weight`?"),
]  # fmt: skip


def problems(folder: Path, text: str) -> list[str]:
    (folder / "s.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load(folder / "s.yaml")
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize(("right", "wrong", "line"), IN_SCENARIO)
def test_in_a_scenario(right: str, wrong: str, line: str, tmp_path: Path) -> None:
    assert problems(tmp_path, SCENARIO.replace(right, wrong, 1)) == [line]


@pytest.mark.parametrize(("kind", "right", "wrong", "line"), IN_OTHERS)
def test_in_a_file_that_it_names(kind: str, right: str, wrong: str, line: str, tmp_path: Path) -> None:
    """The line is the other file's."""
    name, changes = KINDS[kind]
    own = (shipped(kind.partition(" ")[0]) / f"{name}.yaml").read_text()
    assert right in own
    (tmp_path / "own.yaml").write_text(own.replace(right, wrong, 1))
    text = SCENARIO
    for before, after in changes.items():
        text = text.replace(before, after)
    assert any(line in found and found.startswith("own.yaml:") for found in problems(tmp_path, text))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_slip_they_are_fine(kind: str, tmp_path: Path) -> None:
    name, changes = KINDS[kind]
    (tmp_path / "own.yaml").write_text((shipped(kind.partition(" ")[0]) / f"{name}.yaml").read_text())
    text = SCENARIO
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "s.yaml").write_text(text)
    assert load(tmp_path / "s.yaml").pools
