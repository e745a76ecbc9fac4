"""Computed shapes against published totals and against figures that can be worked out by hand."""

import csv
import re
from math import isclose
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.document import Document, SpecError
from simfleet.library import Library
from simfleet.spec import build
from simfleet.workload.models import BYTES_PER_ELEMENT, Model

ROOT = Path(__file__).parents[1]
CSV = ROOT.parent / "shared" / "data" / "hardware" / "models.csv"
LIBRARY = Library()
NAMES = LIBRARY.names("models")
MODELS = {name: LIBRARY.model(name) for name in NAMES}
UNPUBLISHED = ("deepseek-v4-pro", "kimi-k3")


def test_there_are_36() -> None:
    assert len(NAMES) == 36


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_published_ones(name: str) -> None:
    """Within 2 % of what its makers, or its name, say. Two have no published total here: they must say ESTIMATE."""
    model = MODELS[name]
    assert model.name == name
    if model.published.parameters is None:
        assert name in UNPUBLISHED
        assert "ESTIMATE" in (model.note or "")
    else:
        assert isclose(model.parameters, model.published.parameters, rel_tol=0.02)


@pytest.mark.parametrize("name", [name for name in NAMES if MODELS[name].published.active])
def test_active_parameters(name: str) -> None:
    """Within 7 %, or 17 % where the published figure leaves the embedding out (gpt-oss) or is rounded to 10 B (MiniMax)."""
    model = MODELS[name]
    assert isclose(
        model.active_parameters,
        model.published.active or 0,
        rel_tol=0.17 if name[:7] in ("gpt-oss", "minimax") else 0.07,
    )


@pytest.mark.skipif(not CSV.exists(), reason="needs the measured data beside the checkout")
def test_shapes_are_those_collected() -> None:
    """Layers, parameters and KV bytes per token of the table of facts."""
    rows = {row["model"]: row for row in csv.DictReader(CSV.read_text().splitlines())}
    for name, model in MODELS.items():
        row = rows[name]
        assert sum(layers.count for layers in model.layers) == int(row["layers"])
        assert (model.hidden, model.vocab) == (int(row["hidden"]), int(row["vocab"]))
        if row["kv_bytes_per_token_bf16_full_attn_layers"]:
            assert model.kv_bytes_per_token(2.0) == int(row["kv_bytes_per_token_bf16_full_attn_layers"])
        if row["params_basis"] == "computed from config" and name not in (
            "deepseek-v3.2",
            "glm-5",
        ):  # these two count the indexer here
            assert isclose(model.parameters, float(row["params_total_b"]) * 1e9, rel_tol=2e-3)


def test_llama_by_hand() -> None:
    model = MODELS["llama-3.1-8b"]
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336
    assert model.parameters == 32 * layer + 2 * 128256 * 4096
    assert model.kv_bytes_per_token(2.0) == 2 * 8 * 128 * 2 * 32 == 131072
    assert model.weight_bytes("bf16") == 2 * model.parameters
    assert (
        model.weight_bytes("fp8", 4) == (32 * layer + 2 * 2 * 128256 * 4096) / 4
    )  # embedding and head stay at 16 bits
    assert model.flops_per_token(1000) == 2 * (32 * layer + 128256 * 4096) + 32 * 4 * 32 * 128 * 1000
    assert model.state_bytes(2.0) == 0


def test_latent_attention_by_hand() -> None:
    """DeepSeek keeps 512 + 64 elements per token and layer, on every device."""
    model = MODELS["deepseek-v3"]
    assert model.kv_bytes_per_token(2.0) == 576 * 2 * 61
    assert model.kv_bytes_per_token(2.0, 8) == model.kv_bytes_per_token(2.0)


def test_kv_heads_repeat_beyond_their_number() -> None:
    model = MODELS["llama-3.1-70b"]
    assert [model.kv_bytes_per_token(2.0, tp) / model.kv_bytes_per_token(2.0) for tp in (2, 8, 16)] == [
        1 / 2,
        1 / 8,
        1 / 8,
    ]


def test_windows_and_states_do_not_grow() -> None:
    """gpt-oss: 18 of 36 layers keep 128 tokens. Qwen3.5: linear layers keep 64 heads of 128 x 128."""
    windowed = MODELS["gpt-oss-120b"]
    assert windowed.kv_bytes_per_token(2.0) == 18 * 2 * 8 * 64 * 2
    assert windowed.state_bytes(2.0) == 18 * 128 * 2 * 8 * 64 * 2
    assert windowed.state_bytes(2.0, max_context=50) == 18 * 50 * 2 * 8 * 64 * 2
    assert MODELS["qwen3.5-397b-a17b"].state_bytes(2.0) == 45 * 64 * 128 * 128 * 2
    full, seen = windowed.flops_per_token(128), windowed.flops_per_token(1128)
    assert seen - full == 18 * 4 * 64 * 64 * 1000


def test_only_experts_of_gpt_oss_are_quantised() -> None:
    model = MODELS["gpt-oss-120b"]
    experts = sum(group.count * group.expert * group.experts for group in model.groups)
    assert model.weight_bytes("fp4") == experts * 0.5625 + (model.parameters - experts) * 2
    assert [model.part_precision(part, "fp4") for part in ("attention", "expert")] == ["bf16", "fp4"]


@given(name=st.sampled_from(NAMES), context=st.integers(0, 10**6), more=st.integers(1, 10**5))
def test_flops_never_fall_with_context(name: str, context: int, more: int) -> None:
    assert (
        MODELS[name].flops_per_token(context + more) >= MODELS[name].flops_per_token(context) > 2 * MODELS[name].lm_head
    )


@given(name=st.sampled_from(NAMES), devices=st.sampled_from([1, 2, 4, 8, 64]))
def test_narrower_is_smaller_and_devices_share(name: str, devices: int) -> None:
    model = MODELS[name]
    sizes = [
        model.weight_bytes(precision, devices)
        for precision in sorted(BYTES_PER_ELEMENT, key=lambda p: BYTES_PER_ELEMENT[p])
    ]
    assert sizes == sorted(sizes)
    assert isclose(model.weight_bytes("bf16", devices) * devices, 2 * model.parameters)
    assert model.kv_bytes_per_token(2.0, devices) * devices >= model.kv_bytes_per_token(2.0) * (1 - 1e-12)


def test_bad_shapes_are_located() -> None:
    text = LIBRARY.path("models", "llama-3.1-8b").read_text()
    for old, new, message in (
        ("kind: full", "kind: fulll", "did you mean `full`?"),
        ("hidden: 4096", "hidden: -1", "above 0"),
        ("head_dim: 128", "headdim: 128", "did you mean `head_dim`?"),
        ("layers:", "blocks:", "layers"),
    ):
        with pytest.raises(SpecError, match=re.escape(message)):
            build(Model, Document.from_text(text.replace(old, new), "mine.yaml"))


def table_row(name: str) -> str:
    """A row of the table in docs/models.md."""
    model = MODELS[name]
    return (
        f"| {name} | {model.parameters / 1e9:,.1f} | {model.active_parameters / 1e9:,.1f} | {model.weight_bytes('bf16') / 1e9:,.0f} "
        f"| {model.kv_bytes_per_token(2.0) / 1024:,.1f} | {model.state_bytes(2.0) / 1e6:,.1f} |"
    )


def test_table_of_the_docs_is_computed() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    for name in NAMES:
        assert table_row(name) in page, table_row(name)


def test_example_of_the_docs_is_a_model() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    assert build(Model, Document.from_text(example, "example")).parameters > 0
