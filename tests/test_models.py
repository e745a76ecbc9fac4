"""Computed shapes against published totals and against figures that can be worked out by hand."""

import csv
import re
from dataclasses import FrozenInstanceError
from math import isclose
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.document import Document, SpecError
from simfleet.library import Library
from simfleet.spec import build
from simfleet.workload.models import BYTES_PER_ELEMENT, LONG_WINDOW, STATE_BYTES, Model, Part

ROOT = Path(__file__).parents[1]
CSV = ROOT.parent / "shared" / "data" / "hardware" / "models.csv"
LIBRARY = Library()
NAMES = LIBRARY.names("models")
MODELS = {name: LIBRARY.model(name) for name in NAMES}
COLLECTED = [name for name in NAMES if name != "nemotron-nano-12b-v2"]
"""Those in the table of facts; the other one is needed to read measured watts."""
FULL_ATTENTION = "kv_bytes_per_token_bf16_full_attn_layers"
PARTS: tuple[Part, ...] = ("attention", "mlp", "expert", "lm_head", "embedding")
GIB = 2**30


def index_bytes(model: Model) -> int:
    """Bytes per token of the indexers' keys, one byte each."""
    return sum(group.count * group.index_elements for group in model.groups)


def long_windows(model: Model) -> int:
    """Bytes per token of windows so long that they are held like layers that see all."""
    return sum(2 * group.count * group.kv_elements for group in model.groups if group.window > LONG_WINDOW)


# -- against what others say ---------------------------------------------------------------------------------------------


def test_there_are_37() -> None:
    assert len(NAMES) == 37


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_published_ones(name: str) -> None:
    """Within 2 % of what its makers say: rounding, vision towers and norms are what is left."""
    model = MODELS[name]
    assert model.name == name
    assert model.published.parameters is not None
    assert isclose(model.parameters, model.published.parameters, rel_tol=0.02)


@pytest.mark.parametrize("name", [name for name in NAMES if MODELS[name].published.active])
def test_active_parameters_are_the_published_ones(name: str) -> None:
    """Within 3 %, or 5 % of a figure that is rounded to 10 B; makers count the embedding or leave it out (gpt-oss, MiniMax, GLM-5)."""
    model = MODELS[name]
    published = model.published.active or 0.0
    near = min((model.active_parameters, model.active_parameters - model.embedding), key=lambda n: abs(n - published))
    assert isclose(near, published, rel_tol=0.05 if published == 10e9 else 0.03)


@pytest.mark.skipif(not CSV.exists(), reason="needs the collected facts beside the checkout")
@pytest.mark.parametrize("name", COLLECTED)
def test_shapes_are_those_collected(name: str) -> None:
    """Layers, widths, parameters and KV bytes per token of the table of facts, which leaves indexers and windows out."""
    row, model = {row["model"]: row for row in csv.DictReader(CSV.read_text().splitlines())}[name], MODELS[name]
    assert sum(layers.count for layers in model.layers) == int(row["layers"])
    assert (model.hidden, model.vocab, model.max_context) == (
        int(row["hidden"]),
        int(row["vocab"]),
        int(row["max_ctx"]),
    )
    assert model.tied_embeddings == (row["tie_embeddings"] == "True")
    assert row["source"].startswith(model.source)
    if row[FULL_ATTENTION]:
        assert model.kv_bytes_per_token(2.0) - index_bytes(model) - long_windows(model) == int(row[FULL_ATTENTION])
    if row["params_basis"] == "computed from config":
        indexers = {"deepseek-v3.2": 852e6, "glm-5": 731e6}.get(name, 0.0)
        assert isclose(model.parameters - indexers, float(row["params_total_b"]) * 1e9, rel_tol=1e-4)


@pytest.mark.skipif(not CSV.exists(), reason="needs the collected facts beside the checkout")
def test_every_language_model_collected_is_here() -> None:
    rows = csv.DictReader(CSV.read_text().splitlines())
    assert sorted(row["model"] for row in rows if row["family"] != "non-LLM") == sorted(COLLECTED)


@pytest.mark.parametrize(
    ("name", "precision", "size"), [("gpt-oss-120b", "fp4", 60.8 * GIB), ("gpt-oss-20b", "fp4", 12.8 * GIB)]
)
def test_released_files_are_as_large(name: str, precision: str, size: float) -> None:
    """The model card of gpt-oss gives its checkpoints' sizes: MXFP4 experts, the rest in 16 bits."""
    assert isclose(MODELS[name].weight_bytes(precision), size, rel_tol=0.005)


def test_tensor_count_of_a_hybrid() -> None:
    """Qwen3.5-397B with 251,392 words (Intern-S2-397B): its files hold 9,824,459,520 weights beside experts of 12,582,912."""
    model = MODELS["qwen3.5-397b-a17b"].model_copy(update={"vocab": 251392})
    assert isclose(model.parameters - model.parts["expert"], 9_824_459_520, rel_tol=1e-4)
    assert {group.expert for group in model.groups} == {12_582_912}


@pytest.mark.parametrize(("name", "published_gib"), [("deepseek-v4-pro", 9.62), ("deepseek-v3.2", 83.9)])
def test_cache_of_a_million_tokens(name: str, published_gib: float) -> None:
    """vLLM's figures for 2**20 tokens with everything, indexers too, in 16 bits."""
    elements = sum(group.count * (group.kv_elements + group.index_elements) for group in MODELS[name].groups)
    assert round(2 * elements * 2**20 / GIB, 2 if published_gib < 10 else 1) == published_gib


# -- by hand -------------------------------------------------------------------------------------------------------------


def test_llama_by_hand() -> None:
    model = MODELS["llama-3.1-8b"]
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336
    assert model.parameters == model.active_parameters == 32 * layer + 2 * 128256 * 4096
    assert model.kv_bytes_per_token(2.0) == 2 * 8 * 128 * 2 * 32 == 131072
    assert model.weight_bytes("bf16") == 2 * model.parameters
    assert round(model.weight_bytes("bf16") / 1e9, 2) == 16.06
    assert model.weight_bytes("fp8", 4) == (32 * layer + 2 * 2 * 128256 * 4096) / 4
    assert model.flops_per_token(1000) == 2 * (32 * layer + 128256 * 4096) + 32 * 4 * 32 * 128 * 1000
    assert model.state_bytes(2.0) == 0
    assert MODELS["llama-3.1-70b"].kv_bytes_per_token(2.0) == 2 * 8 * 128 * 2 * 80 == 327680


def test_latent_attention_by_hand() -> None:
    """DeepSeek keeps 512 + 64 elements per token and layer, on every device; scores take 192 and values 128 per head."""
    model = MODELS["deepseek-v3"]
    assert model.kv_bytes_per_token(2.0) == 576 * 2 * 61 == 70272
    assert model.kv_bytes_per_token(2.0, 8) == model.kv_bytes_per_token(2.0)
    assert model.flops_per_token(1001) - model.flops_per_token(1) == 61 * 2 * 128 * (192 + 128) * 1000


def test_sparse_attention_by_hand() -> None:
    """DeepSeek-V3.2 attends to 2,048 tokens, but its indexer of 64 heads reads a key of 128 bytes of every token."""
    sparse, whole = MODELS["deepseek-v3.2"], MODELS["deepseek-v3"]
    assert sparse.kv_bytes_per_token(2.0) - whole.kv_bytes_per_token(2.0) == 61 * 128
    assert sparse.flops_per_token(101_000) - sparse.flops_per_token(100_000) == 61 * 2 * 64 * 128 * 1000
    assert sparse.flops_per_token(1000) > whole.flops_per_token(1000)
    assert sparse.flops_per_token(100_000) < 0.5 * whole.flops_per_token(100_000)
    assert {(group.attention, group.limit) for group in sparse.groups} == {("sparse", 2048)}


def test_compressed_attention_by_hand() -> None:
    """DeepSeek-V4: one key of 512 for 4 tokens in 30 layers, of which a query sees 1,024, or for 128 tokens in 31 layers."""
    model = MODELS["deepseek-v4-pro"]
    assert model.kv_bytes_per_token(2.0) == 30 * (2 * 512 + 128) / 4 + 31 * 2 * 512 / 128
    assert model.state_bytes(2.0) == 61 * 128 * 512 * 2
    heavy, index = 31 * 2 * 128 * 2 * 4, 30 * 2 * 64 * 32
    assert model.flops_per_token(5096) - model.flops_per_token(4096) == (heavy + index) * 1000
    assert model.flops_per_token(4096) - model.flops_per_token(3096) == (heavy + index + 30 * 2 * 128 * 2 * 128) * 1000
    window = 61 * 2 * 128 * 2 * 512
    assert (
        model.flops_per_token(128) - model.flops_per_token(0) == (heavy + index + 30 * 2 * 128 * 2 * 128 + window) * 128
    )


def test_kv_heads_repeat_beyond_their_number() -> None:
    model = MODELS["llama-3.1-70b"]
    shares = [model.kv_bytes_per_token(2.0, tp) / model.kv_bytes_per_token(2.0) for tp in (2, 8, 16)]
    assert shares == [1 / 2, 1 / 8, 1 / 8]


def test_windows_do_not_grow() -> None:
    """gpt-oss: 18 of 36 layers keep 128 tokens of 8 heads of 64."""
    model = MODELS["gpt-oss-120b"]
    assert model.kv_bytes_per_token(2.0) == 18 * 2 * 8 * 64 * 2
    assert model.state_bytes(2.0) == 18 * 128 * 2 * 8 * 64 * 2
    assert model.state_bytes(2.0, max_context=50) == 18 * 50 * 2 * 8 * 64 * 2
    assert model.state_bytes(2.0, tensor_parallel=4) == model.state_bytes(2.0) / 4
    assert model.flops_per_token(1128) - model.flops_per_token(128) == 18 * 4 * 64 * 64 * 1000


def test_long_windows_grow_like_layers_that_see_all() -> None:
    """Llama 4: all 48 layers keep 8 heads of 128, three of four of them for 8,192 tokens that few sequences fill; work is limited."""
    model = MODELS["llama-4-maverick"]
    assert long_windows(model) == 36 * 2 * 8 * 128 * 2
    assert model.kv_bytes_per_token(2.0) == 48 * 2 * 8 * 128 * 2
    assert model.state_bytes(2.0) == 0
    assert [group.keeps_all for group in MODELS["gpt-oss-120b"].groups] == [
        group.attention == "full" for group in MODELS["gpt-oss-120b"].groups
    ]
    assert model.flops_per_token(11_000) - model.flops_per_token(10_000) == 12 * 4 * 40 * 128 * 1000


def test_linear_states_do_not_grow() -> None:
    """Qwen3.5: 45 layers keep 64 matrices of 128 x 128 and 3 tokens of keys, queries and values, in 32 bits whatever the cache's format."""
    model = MODELS["qwen3.5-397b-a17b"]
    state = 64 * 128 * 128 + 3 * (2 * 16 + 64) * 128
    assert model.state_bytes(2.0) == model.state_bytes(1.0) == 45 * state * STATE_BYTES
    assert model.kv_bytes_per_token(2.0) == 15 * 2 * 2 * 256 * 2
    grown = model.flops_per_token(1000) - model.flops_per_token(0)
    assert grown == 15 * 2 * 32 * 2 * 256 * 1000


def test_experts_by_hand() -> None:
    """Mixtral: 2 of 8 experts; Kimi K3's work in a latent width, beside two shared ones."""
    model = MODELS["mixtral-8x7b"]
    assert model.parameters - model.active_parameters == 32 * 6 * 3 * 4096 * 14336
    latent = MODELS["kimi-k3"].groups[-1]
    assert latent.expert == 3 * 3584 * 3072
    assert latent.mlp == 3 * 7168 * 6144 + 2 * 7168 * 3584 + 7168 * 896


# -- precisions ----------------------------------------------------------------------------------------------------------


def test_a_mixed_checkpoint() -> None:
    """gpt-oss in 4 bits: experts alone, with one byte of scale for 32; other formats cover all layers."""
    model = MODELS["gpt-oss-120b"]
    experts = sum(group.count * group.expert * group.experts for group in model.groups)
    assert model.weight_bytes("fp4") == experts * (0.5 + 1 / 32) + (model.parameters - experts) * 2
    assert [model.part_precision(part, "fp4") for part in PARTS] == ["bf16", "bf16", "mxfp4", "bf16", "bf16"]
    assert [model.part_precision(part, "fp8") for part in PARTS] == ["fp8", "fp8", "fp8", "bf16", "bf16"]
    deepseek = MODELS["deepseek-v4-pro"]
    assert [deepseek.part_precision(part, "fp4") for part in PARTS] == [
        "fp8_block",
        "fp8_block",
        "mxfp4",
        "bf16",
        "bf16",
    ]
    assert [deepseek.part_precision(part, "nvfp4") for part in PARTS] == [
        "fp8_block",
        "fp8_block",
        "nvfp4",
        "bf16",
        "bf16",
    ]
    assert MODELS["llama-3.1-8b"].part_precision("mlp", "fp8_block") == "fp8_block"  # asked for by name
    assert [MODELS["llama-3.1-8b"].part_precision("mlp", name) for name in ("fp8", "fp4")] == ["fp8", "nvfp4"]


def test_a_plain_checkpoint() -> None:
    """Embedding and head stay at 16 bits and the layers are as asked; 16 bits and more are for all."""
    model = MODELS["qwen3-32b"]
    assert model.element_bytes("mlp", "fp4") == BYTES_PER_ELEMENT["fp4"] == 0.5 + 1 / 16
    assert [model.part_precision(part, "fp16") for part in PARTS] == ["fp16"] * 5
    assert model.weight_bytes("fp32") == 4 * model.parameters
    assert sum(model.parts[part] * model.element_bytes(part, "int4") for part in PARTS) == model.weight_bytes("int4")


def test_scales_by_hand() -> None:
    """One byte for 32 elements in MXFP4, for 16 in NVFP4 and int4; four for 128 x 128 in blocked fp8."""
    model = MODELS["qwen3-32b"]
    sizes = [model.element_bytes("mlp", name) for name in ("mxfp4", "nvfp4", "int4", "fp8_block", "int8", "bf16")]
    assert sizes == [17 / 32, 9 / 16, 9 / 16, 4097 / 4096, 1, 2]
    assert set(sizes) <= set(BYTES_PER_ELEMENT.values())


def test_experts_may_be_split_among_more_devices() -> None:
    """The rest of the weights two ways, experts eight ways."""
    model = MODELS["mixtral-8x7b"]
    experts = 2 * model.parts["expert"]
    assert model.weight_bytes("bf16", 2, 8) == pytest.approx((2 * model.parameters - experts) / 2 + experts / 8)
    assert model.weight_bytes("bf16", 2, 2) == model.weight_bytes("bf16", 2)


def test_tied_embeddings_are_stored_once_and_multiplied() -> None:
    model = MODELS["gemma-3-27b"]
    assert model.parts["lm_head"] == 0
    assert model.parameters - sum(g.count * (g.qkv + g.out + g.mlp) for g in model.groups) == 262144 * 5376
    assert model.flops_per_token(0) == 2 * model.parameters


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match=r"expected one of fp32, .*, got `fp3`"):
        MODELS["phi-4"].weight_bytes("fp3")


# -- laws ----------------------------------------------------------------------------------------------------------------


@given(name=st.sampled_from(NAMES), context=st.integers(0, 10**6), more=st.integers(1, 10**5))
def test_flops_never_fall_with_context(name: str, context: int, more: int) -> None:
    model = MODELS[name]
    least = 2 * (model.active_parameters - model.embedding)
    assert model.flops_per_token(context + more) >= model.flops_per_token(context) >= least


@given(name=st.sampled_from(NAMES), devices=st.sampled_from([1, 2, 4, 8, 64]))
def test_narrower_is_smaller_and_devices_share(name: str, devices: int) -> None:
    model = MODELS[name]
    widths = (
        ("mxfp4", "nvfp4", "int8", "fp8_block", "bf16", "fp32"),
        ("mxfp4", "fp4", "nvfp4", "fp8", "fp8_block", "fp16", "tf32"),
    )
    for by_width in widths:  # `fp4` and `fp8` are whatever its checkpoints use
        sizes = [model.weight_bytes(precision, devices) for precision in by_width]
        assert sizes == sorted(sizes)
    assert isclose(model.weight_bytes("bf16", devices) * devices, 2 * model.parameters)
    for whole, share in (
        (model.kv_bytes_per_token(2.0), model.kv_bytes_per_token(2.0, devices)),
        (model.state_bytes(2.0), model.state_bytes(2.0, devices)),
    ):
        assert share <= whole <= share * devices * (1 + 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_the_whole(name: str) -> None:
    model = MODELS[name]
    assert sum(group.count for group in model.groups) == sum(layers.count for layers in model.layers)
    assert sum(model.parts.values()) == model.parameters >= model.active_parameters
    assert model.groups is model.groups  # computed once, but not for a copy
    assert model.model_copy(update={"hidden": 64}).groups != model.groups
    assert len({group.limit for group in model.groups} - {None}) <= 1  # the engine follows one
    assert model.kv_bytes_per_token(1.0) > 0  # blocks need something to hold
    with pytest.raises(FrozenInstanceError):
        model.groups[0].count = 1  # type: ignore[misc]


# -- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("llama-3.1-8b", "kind: full", "kind: fulll", "layers.0.attention.kind: expected one of full, window, mla, compressed, linear"),
        ("llama-3.1-8b", "kind: full", "kind: fulll", "did you mean `full`?"),
        ("llama-3.1-8b", "hidden: 4096", "hidden: -1", "mine.yaml:5:9: hidden: expected above 0, got `-1`"),
        ("llama-3.1-8b", "head_dim: 128", "headdim: 128", "did you mean `head_dim`?"),
        ("llama-3.1-8b", "layers:", "blocks:", "layers: missing, expected a list"),
        ("llama-3.1-8b", "count: 32", "count: 0", "layers.0.count: expected above 0"),
        ("llama-3.1-8b", "kv_heads: 8", "kv_heads: 5", "layers.0.attention.kv_heads: expected a divisor of the 32 heads, got 5"),
        ("llama-3.1-8b", "kind: full", "kind: window", "layers.0.attention.limit: expected a limit with kind `window`"),
        ("llama-3.1-8b", "head_dim: 128", "head_dim: 128, limit: 9", "expected no limit with kind `full`"),
        ("mistral-7b-v0.1", "full, heads: 32", "window, limit: 4096, heads: 32", "layers: expected a layer that keeps every token"),
        ("deepseek-v4-pro", "rest: fp8", "rest: fp5", "rest: expected one of bf16, fp16, fp8, int8, got `fp5`"),
        ("gpt-oss-20b", "[expert]", "[experts]", "quantised.0: expected one of attention, mlp, expert, got `experts`"),
        ("mixtral-8x7b", "experts_per_token: 2", "experts_per_token: 9", "experts_per_token: expected at most the 8 experts, got 9"),
        ("deepseek-v3.2", ", indexer_dim: 128", "", "expected `limit`, `indexer_heads`, `indexer_dim` together or none of them"),
        ("deepseek-v4-pro", "top_k: 1024, ", "", "expected `top_k`, `indexer_heads`, `indexer_dim` together"),
        ("deepseek-v4-pro", "ratio: 128", "ratio: 100", "ratio: expected a divisor of the 512 elements of `head_dim`, got 100"),
        ("qwen3.5-27b", "key_heads: 16", "key_heads: 15", "key_heads: expected a divisor of the 48 value heads, got 15"),
        ("nemotron-3-super-120b-a12b", "attention: {kind: full, heads: 32, kv_heads: 2, head_dim: 128}", "mlp:", "got neither"),
    ],
)  # fmt: skip
def test_bad_shapes_are_located(name: str, old: str, new: str, message: str) -> None:
    text = LIBRARY.path("models", name).read_text()
    assert old in text
    with pytest.raises(SpecError, match=re.escape(message)):
        build(Model, Document.from_text(text.replace(old, new), "mine.yaml"))


# -- the page ------------------------------------------------------------------------------------------------------------


def table_row(name: str) -> str:
    """A row of the table in docs/models.md."""
    model = MODELS[name]
    return (
        f"| {name} | {model.parameters / 1e9:,.1f} | {model.active_parameters / 1e9:,.1f} | {model.weight_bytes('bf16') / 1e9:,.0f} "
        f"| {model.kv_bytes_per_token(2.0) / 1024:,.1f} | {model.state_bytes(2.0) / 1e6:,.1f} |"
    )


def test_table_of_the_docs_is_computed() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    rows = [
        line for line in page.split("## The 37")[1].splitlines() if line.startswith("| ") and "parameters" not in line
    ]
    assert rows == [table_row(name) for name in NAMES]


def test_example_of_the_docs_is_a_model() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    example = build(Model, Document.from_text(page.split("```yaml\n")[1].split("```")[0], "example"))
    assert [group.attention for group in example.groups] == ["window", "full"]
    assert example.kv_bytes_per_token(2.0) == 8 * 2 * 8 * 128 * 2
