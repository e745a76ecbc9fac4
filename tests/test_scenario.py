"""Scenarios: what is left out, what goes together, variants and overrides, and the schema that editors use."""

import pickle
from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from simfleet.document import Mark, SpecError, read
from simfleet.facility.cost import Own, Rent
from simfleet.hardware.step import Parallel, Precisions
from simfleet.library import Library
from simfleet.pool import Pool
from simfleet.scenario import DEFAULT_SITE, Scenario, check_variants, load
from simfleet.serving.engine import DEFAULT_ENGINE, Continuous, Static
from simfleet.spec import json_schema

SCENARIOS = sorted((Path(__file__).parents[1] / "scenarios").glob("*.yaml"))
MINIMAL = {
    "name": "minimal",
    "workload": {
        "streams": [
            {
                "name": "chat",
                "model": "llama-3.1-8b",
                "arrival": {"rate": "1 /s"},
                "tokens": {"input": {"dist": "constant", "value": 100}, "output": {"dist": "constant", "value": 10}},
                "count": 5,
            }
        ]
    },
    "pools": {"chat": {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm"}},
}
SITE = {"carbon_intensity": "1 g/kWh", "water": "1 L/kWh", "electricity_price": "0.1 $/kWh", "pue": 1.1}


MIXTRAL = {"workload.streams.chat.model": "mixtral-8x7b", "pools.chat.model": "mixtral-8x7b"}


def messages(*overrides, data=MINIMAL):
    with pytest.raises(SpecError) as caught:
        load(data, overrides)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


# -- what is left out ----------------------------------------------------------------------------------------------------


def test_defaults():
    scenario = load(MINIMAL)
    pool = scenario.pools["chat"]
    assert (scenario.horizon, scenario.drain, scenario.warmup) == (None, True, 0.0)
    assert (pool.replicas, pool.tensor_parallel, pool.devices) == (1, 1, 1)
    assert isinstance(pool.engine, Continuous)
    assert pool.engine.preset == DEFAULT_ENGINE
    assert pool.parallel == Parallel(tensor=1, pipeline=1, expert=1, attention_dp=1)
    assert pool.cost == Rent()
    assert pool.precision == Precisions("bf16", "bf16", "bf16")
    assert scenario.routing.kind == "round_robin"


def test_a_scenario_without_sites_has_the_documented_one_and_says_so():
    scenario = load(MINIMAL)
    assert scenario.sites == {DEFAULT_SITE: Library().site(DEFAULT_SITE)}
    assert scenario.pools["chat"].site == DEFAULT_SITE
    assert scenario.assumptions[0] == f"no site is given: `{DEFAULT_SITE}` is assumed"
    assert any("bf16" in line for line in scenario.assumptions)
    assert load(MINIMAL, [("sites", {"here": SITE}), ("pools.chat.precision", "bf16")]).assumptions == []


def test_one_site_need_not_be_named_and_two_must_be():
    assert load(MINIMAL, {"sites": {"here": SITE}}).pools["chat"].site == "here"
    two = {"sites": {"here": SITE, "there": SITE}}
    assert load(MINIMAL, {**two, "pools.chat.site": "there"}).pools["chat"].site == "there"
    assert messages(*two.items()) == ["pools.chat.site: missing, expected the name of a site; known: here, there"]


@pytest.mark.parametrize(
    ("written", "precisions"),
    [
        ("bf16", ("bf16", "bf16", "bf16")),
        ("fp16", ("fp16", "fp16", "fp16")),
        ("fp8", ("fp8", "bf16", "fp8")),
        ("int4", ("int4", "bf16", "bf16")),
        ("{weights: fp8}", ("fp8", "bf16", "fp8")),
        ("{weights: fp8, kv: fp8, activations: bf16}", ("fp8", "fp8", "bf16")),
        ("{weights: int4, kv: fp8}", ("int4", "fp8", "bf16")),
    ],
)
def test_precision_is_a_word_or_one_for_each_part(written, precisions):
    pool = load(MINIMAL, [("pools.chat.precision", written), ("pools.chat.device", "nvidia-h200-sxm")]).pools["chat"]
    assert pool.precision == Precisions(*precisions)


def test_a_precision_needs_weights():
    assert messages(("pools.chat.precision", 7)) == ["pools.chat.precision: expected a mapping, got `7`"]
    assert messages(("pools.chat.precision", {"kv": "fp8"})) == [
        "pools.chat.precision.weights: missing, expected one of fp32, tf32, bf16, fp16, fp8, fp8_block, int8, fp4, nvfp4, "
        "mxfp4, int4"
    ]


def test_kinds():
    pool = load(MINIMAL, [("pools.chat.engine.kind", "static"), ("pools.chat.cost.kind", "own")]).pools["chat"]
    assert isinstance(pool.engine, Static)
    assert isinstance(pool.cost, Own)


# -- what goes together --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"workload.streams.chat.class": "x"}, ["workload.streams.chat.class: unknown class `x`"]),
        (
            {"pools.chat.model": "qwen3-8b"},
            ["workload.streams.chat.model: no pool serves `llama-3.1-8b`; known: qwen3-8b"],
        ),
        ({"workload.streams.chat.count": None}, ["workload.streams.chat: expected a `horizon` such as `10 min`"]),
        (
            {"pools.chat.tensor_parallel": 16},
            ["pools.chat.tensor_parallel: expected at most 8, the scale-up domain of `nvidia-h100-sxm`"],
        ),
        (
            {"pools.chat.tensor_parallel": 3},
            ["pools.chat.tensor_parallel: expected a divisor of the 32 attention heads"],
        ),
        (
            {"pools.chat.pipeline_parallel": 33},
            ["pools.chat.pipeline_parallel: expected at most the 32 layers of `llama-3.1-8b`, got 33"],
        ),
        (
            {"pools.chat.expert_parallel": 2, "pools.chat.tensor_parallel": 2},
            ["pools.chat.expert_parallel: expected 1: `llama-3.1-8b` has no experts, got 2"],
        ),
        (
            {"pools.chat.attention_dp": 2},
            ["pools.chat.attention_dp: expected 1: `llama-3.1-8b` has no experts, got 2"],
        ),
        (
            {**MIXTRAL, "pools.chat.tensor_parallel": 4, "pools.chat.expert_parallel": 8},
            [
                "pools.chat.expert_parallel: expected a divisor of the 4 devices (tensor_parallel * attention_dp) and of the 8 experts, got 8"
            ],
        ),
        (
            {"pools.chat.engine": "vlm"},
            ["pools.chat.engine.preset: unknown engine `vlm`; did you mean `vllm`?"],
        ),
        (
            {"pools.chat.engine": {"preset": "vllm", "hosts": "1 ms"}},
            ["pools.chat.engine.hosts: unknown key; did you mean `host`?"],
        ),
        (
            {"pools.chat.device": "google-tpu-v5e", "pools.chat.precision": "fp8"},
            ["pools.chat.precision: `google-tpu-v5e` has no fp8 arithmetic; it has: bf16, int8"],
        ),
        ({"horizon": "10 s", "warmup": "10 s"}, ["warmup: expected less than the horizon (10 s), got 10 s"]),
        ({"pools.chat.site": "mars"}, ["pools.chat.site: unknown site `mars`; known: us-virginia"]),
        (
            {"pools.chat.device": "nvidia-grace-cpu"},
            ["pools.chat.cost: no rental offer is known for `nvidia-grace-cpu`"],
        ),
        (
            {"pools.chat.replicas": 0, "horizon": "soon", "workload.streams.chat.timeout": 5},
            [
                "horizon: expected seconds",
                "workload.streams.chat.timeout: expected seconds",
                "pools.chat.replicas: expected at least 1",
            ],
        ),
        (
            {
                "pools.chat.tensor_parallel": 5,
                "pools.chat.engine.token_budget": 16,
                "workload.streams.chat.region": "moon",
            },
            [
                "pools.chat.tensor_parallel: expected a divisor",
                "pools.chat.engine.token_budget: expected at least max_sequences (256), got 16",
                "workload.streams.chat.region: unknown region `moon` in network_latency of site `us-virginia`",
            ],
        ),
    ],
)
def test_what_does_not_go_together_is_said_before_the_run(overrides, expected):
    found = messages(*overrides.items())
    assert len(found) == len(expected)
    for line in expected:
        assert any(message.startswith(line) for message in found), found


def test_an_engine_follows_one_attention_limit():
    model = deepcopy(Library().data("models", "llama-3.1-8b"))
    window = {**model["layers"][0]["attention"], "kind": "window"}
    model["layers"] = [{**model["layers"][0], "attention": {**window, "limit": limit}} for limit in (1024, 4096)]
    model["layers"].append(Library().data("models", "llama-3.1-8b")["layers"][0])
    both = {"workload.streams.chat.model": model, "pools.chat.model": model}
    assert messages(*both.items()) == [
        "pools.chat.model: expected at most one attention limit, got a model with [1024, 4096]"
    ]


def test_a_region_has_to_be_known_where_the_stream_may_be_served_only():
    near, far = {**SITE, "network_latency": {"east": "10 ms"}}, {**SITE, "network_latency": {"west": "10 ms"}}
    pools = {
        "a": {**MINIMAL["pools"]["chat"], "site": "near"},
        "b": {**MINIMAL["pools"]["chat"], "site": "far", "model": "qwen3-8b"},
    }
    data = {**MINIMAL, "sites": {"near": near, "far": far}, "pools": pools}
    assert load(data, {"workload.streams.chat.region": "east"}).workload.streams[0].region == "east"
    assert "unknown region `west` in network_latency of site `near`; did you mean `east`?" in messages(
        ("workload.streams.chat.region", "west"), data=data
    )[0]  # fmt: skip


def test_a_model_that_does_not_fit_says_what_would():
    both = {
        "workload.streams.chat.model": "llama-3.1-405b",
        "pools.chat.model": "llama-3.1-405b",
        "pools.chat.precision": "fp8",
    }
    (message,) = messages(*both.items(), ("pools.chat.tensor_parallel", 2))
    memory = Library().profile("nvidia-h100-sxm").memory.capacity.value / 1e9
    weights = Library().model("llama-3.1-405b").weight_bytes("fp8", 2) / 1e9
    assert message == (
        f"pools.chat.model: `llama-3.1-405b` does not fit on 2 x `nvidia-h100-sxm`: {weights:.1f} GB of fp8 weights per device, "
        f"{memory:.1f} GB of memory, of which the engine may use {0.9 * memory - 2:.1f} GB; tensor_parallel 8 would fit"
    )
    assert messages(*both.items(), ("pools.chat.tensor_parallel", 4))[0].endswith("tensor_parallel 8 would fit")
    scenario = load(MINIMAL, {**both, "pools.chat.tensor_parallel": 8})
    assert scenario.pools["chat"].kv_blocks() >= 1
    five = {
        "workload.streams.chat.model": "qwen2.5-32b",
        "pools.chat.model": "qwen2.5-32b",
        "pools.chat.device": "nvidia-l4",
    }
    (message,) = messages(*five.items(), ("pools.chat.engine.memory_fraction", 0.7))
    assert message.endswith(
        "tensor_parallel 5 would fit"
    )  # of its 40 heads 5 is the least divisor above the 4 devices that its weights take
    (message,) = messages(*both.items(), ("pools.chat.precision", "bf16"))
    assert message.endswith(
        "no tensor_parallel would fit: take smaller weights, a larger device or more pipeline_parallel"
    )
    stages = {
        **both,
        "pools.chat.precision": "bf16",
        "pools.chat.tensor_parallel": 8,
        "pools.chat.pipeline_parallel": 2,
    }
    assert load(MINIMAL, stages).pools["chat"].kv_blocks() >= 1


# -- names, variants, overrides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_shipped_scenarios_and_all_their_variants_are_valid(path):
    scenario = load(path.stem)
    assert scenario.name == path.stem
    assert scenario.description
    for variant in scenario.variants:
        assert load(path, variant=variant).name == path.stem


def test_a_scenario_is_found_by_name_path_and_data(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIOS[-1].read_text())
    monkeypatch.chdir(tmp_path)
    loaded = [
        load(source) for source in (path, str(path), "mine.yaml", "./mine.yaml", Path("mine.yaml"), read(path).data)
    ]
    assert all(scenario.model_dump() == loaded[0].model_dump() for scenario in loaded)
    with pytest.raises(SpecError, match=r"mine2: unknown scenario `mine2`; known: "):
        load("mine2")


def test_overrides_lie_over_the_variant_and_the_variant_over_the_file():
    data = {**MINIMAL, "variants": {"big": {"pools.chat.replicas": 8, "drain": False}}}
    replicas = [load(data, overrides, variant).pools["chat"].replicas for overrides, variant in [
        ((), None), ((), "big"), ([("pools.chat.replicas", "3")], "big"),
    ]]  # fmt: skip
    assert replicas == [1, 8, 3]
    assert load(data, variant="big").drain is False
    assert list(load(data).variants) == ["big"]


def test_a_variants_text_is_not_read_twice():
    assert load({**MINIMAL, "variants": {"x": {"description": "true"}}}, variant="x").description == "true"
    assert messages(("description", "true")) == ["description: expected text, got `true`"]


VARIANTS = """
variants:
  fine: {pools.chat.replicas: 2}
  typo: {pools.chta.replicas: 2}
  wrong:
    pools.chat.replicas: 0
    pools.chat.engine:
      kind: static
      token_budget: much
  misspelt: {pools.chat.replicsa: 2}
"""


def test_every_declared_variant_is_checked_where_it_is_written(tmp_path):
    path = tmp_path / "v.yaml"
    text = next(scenario for scenario in SCENARIOS if scenario.stem == "w1").read_text()
    path.write_text(text + VARIANTS)
    line = len(text.splitlines()) + 1
    with pytest.raises(SpecError) as caught:
        check_variants(path)
    assert [str(problem).removeprefix(f"{path}:").partition(" got")[0] for problem in caught.value.problems] == [
        f"{line + 3}:31: pools.chta.replicas: no `chta` in `pools`; did you mean `chat`? (in variant `typo`)",
        f"{line + 5}:26: pools.chat.replicas: expected at least 1,",
        f"{line + 8}:21: pools.chat.engine.token_budget: expected a whole number of at least 1, such as 8192 or 128k,",
        f"{line + 9}:35: pools.chat.replicsa: unknown key; did you mean `replicas`? (in variant `misspelt`)",
    ]
    assert load(path).pools["chat"].replicas == 1
    assert load(path, variant="fine").pools["chat"].replicas == 2
    with pytest.raises(SpecError, match="unknown variant `wong`; did you mean `wrong`"):
        load(path, variant="wong")


def test_only_what_is_asked_for_stops_a_run() -> None:
    """An override that a variant has no room for is no matter of the base; under the variants it lies where `load` lays it, on top."""
    data = {**MINIMAL, "variants": {"big": {"pools.chat.replicas": 8}, "other": {"pools.chat.device": "nvidia-l40s"}}}
    renamed = {"pools": {"main": MINIMAL["pools"]["chat"]}}
    assert list(load(data, renamed).pools) == list(check_variants(data, renamed).pools) == ["main"]
    wrong = {**data, "variants": {**data["variants"], "none": {"pools.chat.replicas": 0}}}
    assert load(wrong, variant="big").pools["chat"].replicas == 8
    with pytest.raises(SpecError, match=r"at least 1, got `0` \(in variant `none`\)"):
        check_variants(wrong)
    assert check_variants(wrong, {"pools.chat.replicas": 3}).pools["chat"].replicas == 3


def test_replace_gives_another_scenario():
    scenario = load(MINIMAL, {"pools.chat.replicas": 2})
    larger = scenario.replace("pools.chat.replicas", 8).replace("workload.streams.chat.count", 7)
    assert (scenario.pools["chat"].replicas, larger.pools["chat"].replicas) == (2, 8)
    assert (scenario.workload.streams[0].count, larger.workload.streams[0].count) == (5, 7)
    with pytest.raises(SpecError, match=r"replace: pools\.chat\.replicas: expected at least 1, got `0`"):
        scenario.replace("pools.chat.replicas", 0)
    with pytest.raises(SpecError, match="no `chta` in `pools`"):
        scenario.replace("pools.chta.replicas", 1)


def test_loading_leaves_its_input_alone_and_gives_equals():
    data = deepcopy(MINIMAL)
    first, second = load(data, {"pools.chat.replicas": 2}), load(data, {"pools.chat.replicas": 2})
    assert data == MINIMAL
    assert first == second
    assert pickle.loads(pickle.dumps(first)) == first
    assert first != load(data)
    with pytest.raises(ValidationError, match="frozen"):
        first.name = "other"


def test_a_scenario_in_python_needs_no_file():
    library = Library()
    model, profile = library.model("llama-3.1-8b"), library.profile("nvidia-h100-sxm")
    stream = {**MINIMAL["workload"]["streams"][0], "model": model}
    pool = Pool(model=model, device=profile, replicas=3)
    scenario = Scenario(name="python", workload={"streams": [stream]}, pools={"chat": pool}, sites={"here": SITE})
    assert (scenario.pools["chat"].site, scenario.pools["chat"].replicas) == ("here", 3)
    assert scenario.replace("name", "other").name == "other"
    assert Scenario.model_validate(scenario) is scenario
    with pytest.raises(ValidationError, match="no pool serves"):
        Scenario(
            name="python",
            workload={"streams": [stream]},
            pools={"chat": Pool(model=library.model("qwen3-8b"), device=profile)},
        )


def test_problems_of_overrides_show_as_such():
    with pytest.raises(SpecError) as caught:
        load(SCENARIOS[-1], [("warmup", "5")])
    assert caught.value.problems[0].mark == Mark("--set")
    assert str(caught.value) == "--set: warmup: expected seconds with a unit, such as `50 ms`, got `5` without one"


# -- the schema ----------------------------------------------------------------------------------------------------------


def test_shipped_scenarios_keep_the_schema():
    schema = json_schema(Scenario)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in SCENARIOS:
        validator.validate(read(path).data)
    validator.validate({**MINIMAL, "sites": {"a": {"preset": "finland"}}})


@pytest.mark.parametrize(
    ("path", "value"),
    [("horizon", 60), ("horizont", "60 s"), ("drain", "yes"), ("pools", {}), ("pools", {"a": {"model": "m", "device": "d", "replicas": 0}}),
     ("pools", {"a": {"model": "m", "device": "d", "precision": "fp7"}}), ("name", None)],
)  # fmt: skip
def test_the_schema_refuses_what_load_refuses(path, value):
    assert not jsonschema.Draft202012Validator(json_schema(Scenario)).is_valid({**MINIMAL, path: value})
    assert messages((path, value) if not isinstance(value, str) else (path, f"'{value}'"))


def test_the_schema_describes_quantities():
    horizon = json_schema(Scenario)["properties"]["horizon"]
    assert "min" in str(horizon)
    assert "50 ms" in str(horizon)
