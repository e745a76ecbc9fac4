"""Engines: presets whose every number has a source, the class's defaults, and the KV memory that weights leave."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.document import SpecError
from simfleet.hardware.step import HostConstants, Parallel, Precisions
from simfleet.library import Library
from simfleet.pool import Pool
from simfleet.scenario import load
from simfleet.serving.engine import (
    DEFAULT_ENGINE,
    Continuous,
    Engine,
    Static,
    block_bytes,
    device_weights,
    kv_blocks,
    memory_blocks,
    sequence_blocks,
)
from simfleet.workload.models import BYTES_PER_ELEMENT, STATE_BYTES

LIBRARY = Library()
PRESETS = LIBRARY.names("engines")
ABOUT = {"preset", "release", "aliases", "sources"}
NUMBERS = {name for name in Engine.model_fields if name not in ABOUT}
NOT_GIVEN = {"num_kv_blocks", "queue_limit"}
"""Limits that no engine has of its own."""
BF16 = Precisions("bf16", "bf16", "bf16")
H100 = LIBRARY.profile("nvidia-h100-sxm")


def engine(**given) -> Engine:
    """That of a pool, as a scenario has it."""
    return pool(engine=given).engine


def pool(**given) -> Pool:
    stream = {
        "name": "s",
        "model": given.get("model", "llama-3.1-8b"),
        "arrival": {"kind": "burst"},
        "tokens": {"input": {"dist": "constant", "value": 10}, "output": {"dist": "constant", "value": 2}},
        "count": 1,
    }
    pools = {"p": {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm", **given}}
    return load({"name": "x", "workload": {"streams": [stream]}, "pools": pools}).pools["p"]


# -- presets -------------------------------------------------------------------------------------------------------------


def test_the_promised_engines_are_there() -> None:
    assert PRESETS == ["generic", "sglang", "tensorrt-llm", "vllm", "vllm-mlenergy"]
    assert DEFAULT_ENGINE in PRESETS


def test_the_class_defaults_are_the_generic_preset_s() -> None:
    """Without a library, as in a notebook, an engine is the generic one."""
    generic = engine(preset="generic")
    for name in NUMBERS:
        written, default = getattr(generic, name), getattr(Engine(), name)
        assert written == (pytest.approx(default, rel=1e-12) if default else default), name
    assert Continuous().preset is None
    assert Static(kind="static").host == Continuous().host


@pytest.mark.parametrize("name", PRESETS)
def test_every_number_of_a_preset_has_a_source(name: str) -> None:
    """And every source a number; what is only estimated is said."""
    data, built = LIBRARY.data("engines", name), engine(preset=name)
    assert set(built.sources) == set(data) - ABOUT <= NUMBERS - NOT_GIVEN
    assert built.preset == name
    assert isinstance(built, Continuous)
    estimated = {(key, fact.source) for key, fact in built.sources.items() if fact.grade == "estimate"}
    assert said(built) == estimated


def said(built: Engine) -> set[tuple[str, str]]:
    """Each key that is estimated, and why, read from the sentences: "engine vllm: reserve, host estimated (why)"."""
    found = [re.fullmatch(rf"engine {built.preset}: (.+) estimated \((.+)\)", line) for line in built.estimates()]
    assert all(found)
    return {(key, line[2]) for line in found if line for key in line[1].split(", ")}


def test_a_pool_s_engine_is_the_default_preset() -> None:
    """Left out, empty, with other keys, or another kind."""
    for written in ({}, {"engine": {}}, {"engine": DEFAULT_ENGINE}, {"engine": {"kind": "continuous"}}):
        assert pool(**written).engine == engine(preset=DEFAULT_ENGINE)
    static = pool(engine={"kind": "static"}).engine
    assert isinstance(static, Static)
    assert static.host == engine().host


def test_an_engine_is_named_as_others_do() -> None:
    assert pool(engine="trtllm").engine.max_sequences == engine(preset="tensorrt-llm").max_sequences
    assert pool(engine="vLLM-V1").engine.host == engine(preset="vllm").host


def test_a_given_number_replaces_the_preset_s_and_its_source() -> None:
    plain, own = engine(preset="sglang"), engine(preset="sglang", host="7 ms", num_kv_blocks=70)
    assert (own.host, own.num_kv_blocks, own.preset) == (7e-3, 70, "sglang")
    assert set(plain.sources) - set(own.sources) == {"host"}
    rest = NUMBERS - {"host", "num_kv_blocks"}
    assert {name: getattr(own, name) for name in rest} == {name: getattr(plain, name) for name in rest}
    assert said(own) == {(key, source) for key, source in said(plain) if key != "host"}


def test_a_preset_of_one_s_own(tmp_path) -> None:
    """A file, by its path."""
    text = LIBRARY.path("engines", "generic").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("host: 0.59 ms", "host: 3 ms"))
    assert engine(preset=str(tmp_path / "mine.yaml")).host == 3e-3
    (tmp_path / "mine.yaml").write_text(text.replace("host: 0.59 ms", "host: 3"))
    with pytest.raises(SpecError, match=r"mine\.yaml:8:7: host: expected seconds with a unit, .* got `3`"):
        engine(preset=str(tmp_path / "mine.yaml"))


NAMED = {
    "host": "host_s", "per_sequence": "per_sequence_s", "launch_factor": "launch_factor", "graph_tokens": "graph_tokens",
    "eager_layer": "eager_layer_s", "eager_narrow": "eager_narrow_s", "eager_collective": "eager_collective_s",
    "compute_factor": "compute_factor", "memory_factor": "memory_factor", "experts_factor": "experts_factor",
    "quantise_factor": "quantise_factor", "expert_tile": "expert_tile",
}  # fmt: skip


def test_every_constant_of_the_host_is_a_key_of_engines() -> None:
    """A number of its own for each, to tell them apart."""
    assert set(NAMED.values()) == set(HostConstants._fields)
    numbers = {key: number for number, key in enumerate(NAMED, 2)}
    written = {key: f"{number} s" if NAMED[key].endswith("_s") else number for key, number in numbers.items()}
    assert pool(engine={"preset": "generic", **written}).step_cost()._host._asdict() == {
        NAMED[key]: number for key, number in numbers.items()
    }


def test_constants_reach_the_step() -> None:
    """Each one, by name: 1 ms and 0.1 ms of host time, launches, arithmetic, memory, and what eager steps take."""
    base = {"preset": "generic", "host": "1 ms", "per_sequence": "0.1 ms", "graph_tokens": 64}
    cost = pool(engine=base).step_cost()
    changes = {
        "host": "2 ms", "per_sequence": "0.2 ms", "launch_factor": 2.0, "compute_factor": 3.0, "memory_factor": 2.0, "eager_layer": "9 ms",
        "graph_tokens": 4096,
    }  # fmt: skip
    prompt = (1000, 1, 0, 0, 0, 500_500, 1000, 1000, 0, 0, 0)
    assert cost.decode(4)[0] == pytest.approx(
        pool(engine=base | {"host": "0 ms", "per_sequence": "0 ms"}).step_cost().decode(4)[0] + 1.4e-3
    )
    for name, value in changes.items():
        other = pool(engine=base | {name: value}).step_cost()
        slower = name != "graph_tokens"
        assert (other.mixed(*prompt)[0] > cost.mixed(*prompt)[0]) == slower, name
    eager = pool(engine=base | {"eager_layer": "9 ms"}).step_cost()
    assert eager.mixed(*prompt)[0] > 32 * 9e-3
    assert eager.decode(4) == cost.decode(4)
    captured = {"eager_layer": "9 ms", "graph_tokens": 4096, "max_sequences": 500}  # graphs for at most 1,000 tokens
    assert pool(engine=base | captured).step_cost().mixed(*prompt) == cost.mixed(*prompt)
    assert pool(engine=base | captured | {"max_sequences": 499}).step_cost().mixed(*prompt) == eager.mixed(*prompt)


def test_the_way_devices_share_reaches_the_step() -> None:
    given = {"tensor_parallel": 2, "pipeline_parallel": 2, "expert_parallel": 4, "attention_dp": 2, "replicas": 3}
    shared = pool(model="mixtral-8x7b", **given)
    assert shared.parallel == Parallel(tensor=2, pipeline=2, expert=4, attention_dp=2)
    assert (shared.devices, shared.step_cost().devices) == (24, 8)


# -- memory --------------------------------------------------------------------------------------------------------------


def test_kv_blocks_by_hand() -> None:
    """Llama 8B in 16 bits on 80 GiB: nine tenths, less 2 GB and 16.06 GB of weights, in blocks of 16 tokens of 128 KiB."""
    left = 0.9 * 80 * 2**30 - 2e9 - 16_059_990_016
    model = LIBRARY.model("llama-3.1-8b")
    assert device_weights(model, Parallel(), BF16) == pytest.approx(16_059_990_016, rel=1e-6)
    assert kv_blocks(model, H100, Engine(), Parallel(), BF16) == left // (16 * 131072)
    two = 0.9 * 80 * 2**30 - 2e9 - 16_059_990_016 / 2
    for parallel in (Parallel(2), Parallel(1, 2)):  # halves of every layer, or half of the layers: 64 KiB a token
        assert kv_blocks(model, H100, Engine(), parallel, BF16) == two // (16 * 65536)
        assert block_bytes(model, Engine(), parallel, BF16) == 16 * 65536


def test_given_blocks_are_taken_where_weights_fit() -> None:
    model = LIBRARY.model("llama-3.1-70b")
    given = Engine(num_kv_blocks=10**6)
    assert kv_blocks(model, H100, given, Parallel(4), BF16) == 10**6
    assert memory_blocks(model, H100, given, Parallel(4), BF16) < 10**6
    assert kv_blocks(model, H100, given, Parallel(), BF16) < 1


def test_groups_of_attention_hold_their_own_cache_and_a_share_of_experts() -> None:
    """Two groups: twice the blocks of one, of which experts leave more room; attention is on both whole."""
    model = LIBRARY.model("mixtral-8x7b")
    experts = 2 * model.parts["expert"]
    rest = 2 * model.parameters - experts
    one, two = Parallel(4), Parallel(4, expert=8, attention_dp=2)
    assert device_weights(model, one, BF16) == pytest.approx(rest / 4 + experts / 4)
    assert device_weights(model, two, BF16) == pytest.approx(rest / 4 + experts / 8)
    assert device_weights(model, Parallel(4, 2, 8, 2), BF16) == pytest.approx(rest / 8 + experts / 16)
    left = 0.9 * 80 * 2**30 - 2e9 - rest / 4 - experts / 8
    per_block = 16 * 32 * 2 * 8 * 128 * 2 / 4
    assert kv_blocks(model, H100, Engine(), two, BF16) == 2 * (left // per_block)
    assert kv_blocks(model, H100, Engine(), two, BF16) > 2 * kv_blocks(model, H100, Engine(), one, BF16)


def test_states_are_whole_blocks() -> None:
    """gpt-oss: 18 windows of 128 tokens beside 18 layers that keep all: 128 tokens' worth are 8 blocks of 16, on any devices."""
    model = LIBRARY.model("gpt-oss-120b")
    for parallel in (Parallel(), Parallel(4), Parallel(1, 2), Parallel(2, 2)):
        assert sequence_blocks(model, Engine(), parallel, BF16) == 8
    assert sequence_blocks(model, Engine(block_size=100), Parallel(), BF16) == 2
    assert sequence_blocks(LIBRARY.model("llama-3.1-8b"), Engine(), Parallel(), BF16) == 0
    linear = LIBRARY.model("qwen3.5-27b")
    state = linear.state_bytes(2.0)
    assert state % STATE_BYTES == 0
    assert sequence_blocks(linear, Engine(), Parallel(), BF16) == -(-state // (16 * linear.kv_bytes_per_token(2.0)))


@given(
    name=st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-20b"]),
    tensor=st.sampled_from([1, 2, 4]), pipeline=st.integers(1, 4), groups=st.integers(1, 4), weights=st.sampled_from(["bf16", "fp8", "fp4"]),
    kv=st.sampled_from(["bf16", "fp8"]),
)  # fmt: skip
def test_what_fits_is_in_memory(name: str, tensor: int, pipeline: int, groups: int, weights: str, kv: str) -> None:
    """Weights, reserve and every block, on each device, are within what the engine may use; one block more is not."""
    model, parallel = LIBRARY.model(name), Parallel(tensor, pipeline, tensor * groups, groups)
    precision = Precisions(weights, kv, "bf16")
    blocks = memory_blocks(model, H100, Engine(), parallel, precision)
    assert blocks % groups == 0
    size = block_bytes(model, Engine(), parallel, precision)
    usable = 0.9 * H100.memory.capacity.value - 2e9 - device_weights(model, parallel, precision)
    assert blocks / groups * size <= usable < (blocks / groups + 1) * size
    assert size <= 16 * model.kv_bytes_per_token(BYTES_PER_ELEMENT[kv]) / pipeline
