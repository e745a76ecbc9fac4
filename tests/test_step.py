"""A step's time and energy: by hand, against a naive sum over layers and tokens, by laws, and against measured servers."""

import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from simfleet.hardware.profile import (
    DecodeAttention,
    Experts,
    Gemm,
    PowerConstants,
    PrefillAttention,
    Profile,
    StepConstants,
    Sustained,
)
from simfleet.hardware.roofline import COMPUTE, HOST, LAUNCH, LINK, MEMORY
from simfleet.hardware.step import (
    HostConstants,
    Parallel,
    Precisions,
    StepCost,
    attended,
    attended_limited,
    keys_limited,
    step_cost,
)
from simfleet.library import Library
from simfleet.spec import Fact
from simfleet.workload.models import LayerGroup, Model

SHARED = Path(__file__).parents[2] / "shared" / "data"
LIBRARY = Library()
H100 = LIBRARY.profile("nvidia-h100-sxm")
LLAMA_8B = LIBRARY.model("llama-3.1-8b")
VLLM = HostConstants(0.59e-3, 10e-6, 0.77)
BF16 = Precisions("bf16", "bf16", "bf16")
FP8 = Precisions("fp8", "bf16", "fp8")
FP4_WEIGHTS = Precisions("fp4", "bf16", "bf16")
BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5}
OWN_KERNELS = HostConstants(
    1e-3, 5e-6, 0.6, graph_tokens=200, eager_layer_s=300e-6, eager_collective_s=50e-6, eager_narrow_s=70e-6, compute_factor=1.1, memory_factor=1.2,
    experts_factor=0.5, quantise_factor=0.25, expert_tile=64,
)  # fmt: skip

CASES = {
    "dense": ("llama-3.1-8b", "nvidia-h100-sxm", Parallel(1), BF16),
    "dense, two devices": ("llama-3.1-8b", "nvidia-h100-sxm", Parallel(2), BF16),
    "dense, fp8": ("llama-3.1-70b", "nvidia-h100-sxm", Parallel(4), FP8),
    "windows and experts in 4 bits": ("gpt-oss-20b", "nvidia-h100-sxm", Parallel(1), FP4_WEIGHTS),
    "windows and experts, two devices": ("gpt-oss-120b", "nvidia-h200-sxm", Parallel(2), FP4_WEIGHTS),
    "experts, more devices than KV heads": ("qwen3-235b-a22b", "nvidia-h200-sxm", Parallel(8), BF16),
    "latent attention": ("deepseek-v3", "nvidia-h200-sxm", Parallel(8), FP8),
    "latent attention with top-k": ("deepseek-v3.2", "nvidia-b200-sxm", Parallel(8), FP8),
    "compressed attention": ("deepseek-v4-pro", "nvidia-b200-sxm", Parallel(8), Precisions("fp4", "bf16", "fp8")),
    "linear layers": ("qwen3.5-27b", "nvidia-h100-sxm", Parallel(1), BF16),
    "layers of one half each": ("nemotron-3-super-120b-a12b", "nvidia-h200-sxm", Parallel(4), FP8),
    "windows, dense": ("gemma-3-27b", "nvidia-h100-sxm", Parallel(2), BF16),
    "8-bit cache": ("qwen3-32b", "nvidia-h100-sxm", Parallel(2), Precisions("fp8", "fp8", "fp8")),
    "pipeline": ("llama-3.1-70b", "nvidia-h100-sxm", Parallel(2, pipeline=4), BF16),
    "pipeline over servers": ("llama-3.1-405b", "nvidia-h100-sxm", Parallel(8, pipeline=2), BF16),
    "whole experts": ("qwen3-235b-a22b", "nvidia-h200-sxm", Parallel(4, expert=4), FP8),
    "groups of attention": ("deepseek-v3", "nvidia-h200-sxm", Parallel(1, expert=8, attention_dp=8), FP8),
    "all at once": ("deepseek-v3", "nvidia-h200-sxm", Parallel(2, 2, 2, 2), FP8),
    "own kernels": ("llama-3.1-70b", "nvidia-h100-sxm", Parallel(4), FP8),
    "own kernels, experts": ("gpt-oss-120b", "nvidia-h200-sxm", Parallel(2, expert=2), FP4_WEIGHTS),
    "own kernels, padded experts": ("deepseek-v3", "nvidia-h200-sxm", Parallel(2, 1, 2, 2), FP8),
    "own kernels, padded slices": ("deepseek-v3", "nvidia-b200-sxm", Parallel(8), FP8),
}
SPLIT = ("pipeline", "pipeline over servers", "groups of attention", "all at once")


def host_of(name: str) -> HostConstants:
    return OWN_KERNELS if name.startswith("own kernels") else VLLM


def cost_of(
    model: str, device: str, parallel: Parallel | int = 1, precision: Precisions = BF16, host: HostConstants = VLLM
) -> StepCost:
    return step_cost(LIBRARY.model(model), LIBRARY.profile(device), host, parallel, precision)


COSTS = {name: cost_of(*case, host_of(name)) for name, case in CASES.items()}
every_case = pytest.mark.parametrize("name", CASES)


def changed(profile: Profile, **values) -> Profile:
    """The profile with other numbers, by dotted path with `__` for the dots."""
    for path, value in values.items():
        *parents, last = path.split("__")
        owners = [profile]
        for parent in parents:
            owners.append(owners[-1][parent] if isinstance(owners[-1], dict) else getattr(owners[-1], parent))
        part = owners.pop().model_copy(update={last: value})
        for owner, parent in zip(reversed(owners), reversed(parents), strict=True):
            if isinstance(owner, dict):
                part = owner | {parent: part}
            else:
                part = owner.model_copy(update={parent: part})
        profile = part
    return profile


def fact(value):
    return Fact(value=value, source="made up", grade="estimate")


def of(cost: StepCost, rows: int, context: int, name: str, field: str = "bytes") -> float:
    """A field of all operators of one name."""
    return sum(getattr(operator, field) for operator in cost.explain(rows, context) if operator.name == name)


def head_seconds(cost: StepCost, sampled: float) -> float:
    """LM head, gathering of logits and sampler [s]."""
    return sum(operator.seconds for operator in cost._shard.head(sampled))


def decode_s(cost: StepCost, contexts: list[int]) -> tuple[float, float]:
    """Seconds and joules of a decode step of sequences of these lengths."""
    t0, t_ctx, t_lim, e0, e_ctx, e_lim = cost.decode(len(contexts))
    total, limited = sum(contexts), sum(min(c, cost.limit or 0) for c in contexts)
    return t0 + t_ctx * total + t_lim * limited, e0 + e_ctx * total + e_lim * limited


def mixed_s(cost: StepCost, contexts: list[int], chunks: list[tuple[int, int]], ends: int = 0) -> tuple[float, float]:
    """The same with prompt chunks (prefix, tokens), of which `ends` end their prompt."""
    rows, limit = len(contexts), cost.limit or 0
    return cost.mixed(
        rows + sum(new for _, new in chunks),
        rows + ends,
        rows,
        sum(contexts),
        sum(min(c, limit) for c in contexts),
        sum(attended(prefix, new) for prefix, new in chunks),
        sum(prefix + new for prefix, new in chunks),
        max((prefix + new for prefix, new in chunks), default=0),
        sum(attended_limited(prefix, new, limit) for prefix, new in chunks) if limit else 0,
        sum(keys_limited(prefix, new, limit) for prefix, new in chunks) if limit else 0,
        max((keys_limited(prefix, new, limit) for prefix, new in chunks), default=0) if limit else 0,
    )


# -- by hand -----------------------------------------------------------------------------------------------------------


ROUND = changed(
    H100,
    step=StepConstants.model_construct(
        gemm={"bf16": fact(Gemm.model_construct(t0=3e-6, compute=0.8, bandwidth=0.9, per_k=0.2e-9, fill=256.0))},
        experts={"bf16": fact(Experts.model_construct(t0=20e-6, compute=0.5, bandwidth=0.8, moved=0.5))},
        decode_attention={"bf16": fact(DecodeAttention.model_construct(t0=10e-6, bandwidth=0.8, compute=0.5, item=20e-9, slots=112.0, swap=1e-6, fill=2.0))},
        prefill_attention={"bf16": fact(PrefillAttention.model_construct(t0=12e-6, compute=0.6, bandwidth=0.8, tokens=0.5, rows=12_800.0))},
    ),
    power__gap=fact(130.0), power__busy=fact(256.0), power__per_byte=fact(80e-12), power__per_flop=fact(1.04e-12), power__per_activation=fact(86e-9),
)  # fmt: skip
"""An H100 of round constants, to compute with by hand whatever the fitted ones are."""


def slower(*parts_s: float) -> float:
    """Arithmetic and memory of a product: their norm of fourth power."""
    return sum(part_s**4 for part_s in parts_s) ** 0.25


def test_llama_8b_on_an_h100_by_hand() -> None:
    """Decode step of 64 sequences of 1,000 tokens, from published shapes and round constants, in microseconds."""
    read, peak = 0.9 * 3.35e6, 0.8 * 989e6  # bytes and operations per microsecond that products reach

    def product(inner: int, outer: int) -> float:
        moved = 2 * (inner * outer + 64 * (inner + outer))
        return 0.77 * 3 + 0.2e-3 * inner + slower(2 * 64 * outer * (inner + 256) / peak, moved / read)

    qkv = product(4096, 6144)  # 25.2 M weights: 32 query heads, 2 x 8 KV heads of 128
    out = product(4096, 4096)
    up = product(4096, 28672)  # gate and up, 14336 each
    down = product(14336, 4096)
    elementwise = 0.77 * 10 + 16 * 64 * 4096 / read
    items = 64 * 8  # 400 more than the slots; 2 of them lost
    attention = (
        0.77 * 10 + 400 * 20e-3 + 1 + 64_000 * 4096 / (0.8 * 3.35e6) * (1 + 2 / items)
    )  # 2 x 8 x 128 elements of 2 bytes
    layer = qkv + out + up + down + elementwise + attention
    head = product(4096, 128256)
    sampler = 0.77 * 2 * 2.5 + 64 * 128256 * 10 / read  # read in 16 bits, written and read in 32
    host = 590 + 64 * 10
    assert layer == pytest.approx(20.7 + 15.0 + 83.0 + 44.7 + 9.1 + 114.9, abs=1.5)
    assert head == pytest.approx(358, abs=2)
    assert sampler == pytest.approx(31, abs=1)
    cost = step_cost(LLAMA_8B, ROUND, VLLM, 1, BF16)
    seconds, joules = decode_s(cost, [1000] * 64)
    assert seconds == pytest.approx((32 * layer + head + sampler + host) * 1e-6, rel=1e-12)
    assert seconds == pytest.approx(10.8e-3, rel=0.02)

    weights = 2 * (32 * (25_165_824 + 16_777_216 + 176_160_768) + 525_336_576)  # bytes
    moved = weights + 64_000 * 131_072 + 32 * 64 * 4096 * 16
    moved += 64 * 2 * (32 * (10_240 + 8_192 + 32_768 + 18_432) + 132_352)  # activations of products
    moved += 64 * 10 * 128_256  # the sampler
    flops = 64 * weights + 64_000 * 32 * 4 * 32 * 128
    work = 80e-12 * moved + 1.04e-12 * flops + 86e-9 * 64 * 32 * 4096
    assert joules == pytest.approx(130 * host * 1e-6 + 256 * (seconds - host * 1e-6) + work, rel=1e-12)


def test_a_prompt_of_llama_8b_by_hand() -> None:
    """Attention of 2,000 tokens after 1,000 cached ones: 32 heads of 128, the last of 12,800 rows' worth of tokens idle nothing."""
    cost = step_cost(LLAMA_8B, ROUND, VLLM, 1, BF16)
    pairs, keys = 2000 * 1000 + 2000 * 2001 / 2, 3000
    new = 2000 * 2 * (32 * 256 + 2 * 8 * 128) / (0.5 * 3.35e12)  # queries and outputs, new keys and values
    attention = 0.77 * 12e-6 + new + max(pairs * 4 * 32 * 128 / (0.6 * 989e12), keys * 4096 / (0.8 * 3.35e12))
    whole = mixed_s(cost, [], [(1000, 2000)])[0]
    trunk = sum(part.seconds for part in cost._shard.trunk(2000)) + head_seconds(cost, 0) + 0.59e-3
    assert whole - trunk == pytest.approx(32 * attention, rel=1e-9)


# -- the naive sum -----------------------------------------------------------------------------------------------------


LATENT = ("mla", "sparse", "compressed")


class Naive:
    """Every layer, product and token by itself, as docs/physics.md has it. Shares with the code: profiles and LayerGroup.

    A step's parts (tokens through the layers, rows that emit, decodes, prompts) are each dealt out evenly to the groups of attention
    and to micro-batches, as many as stages where there are as many; what one device does in one of them is counted here.
    """

    def __init__(
        self, model: Model, profile: Profile, host: HostConstants, parallel: Parallel, precision: Precisions
    ) -> None:
        self.model, self.profile, self.host, self.parallel, self.precision = model, profile, host, parallel, precision
        self.tp = parallel.tensor
        sustained = profile.step.sustained.value if profile.step.sustained else Sustained()
        self.launch, self.experts_launch = host.launch_factor * sustained.launch, host.experts_factor * sustained.launch
        self.pace, self.narrow = 1 / host.compute_factor, sustained.narrow / host.compute_factor
        self.bw = profile.memory.bandwidth.value * sustained.memory / host.memory_factor
        self.peak = profile.flops["bf16"].value * self.pace
        self.busy_s = self.bytes = self.flops = 0.0
        self.collectives = 0

    def use(self, seconds: float, moved: float = 0.0, flops: float = 0.0) -> None:
        self.busy_s += seconds
        self.bytes += moved
        self.flops += flops

    def formats(self, part: str) -> tuple[str, str]:
        """The kernel of a part, and what it multiplies in: 16 bits where it is stored or meant so, experts of MXFP4 in 8 bits."""
        stored = self.model.part_precision(part, self.precision.weights)
        if (part, stored) == ("expert", "mxfp4"):
            return "mxfp4", "fp8" if self.precision.activations == "fp8" and "fp4" in self.profile.flops else "bf16"
        if "bf16" in (stored, self.precision.activations):
            return "bf16", "bf16"
        return (stored if stored in ("fp8", "fp8_block") else "fp8"), "fp8"

    def product(self, part: str, rows: float, inner: float, outer: float) -> None:
        kernel, arithmetic = self.formats(part)
        gemm, peak = self.profile.step.gemm[kernel].value, self.profile.flops[arithmetic].value
        size = self.model.element_bytes(part, self.precision.weights)
        ideal_s = 2 * rows * outer * (inner + gemm.fill) / (peak * (self.pace if arithmetic == "bf16" else self.narrow))
        share = min(1.0, gemm.compute * (1e-3 / ideal_s) ** gemm.fade) if gemm.fade and rows else gemm.compute
        moved = inner * outer * size + rows * inner * BYTES[arithmetic] + 2 * rows * outer
        speed = gemm.bandwidth * self.bw
        quantised_s = self.host.quantise_factor * (gemm.quantise * rows * inner / speed + gemm.quantise_row * rows)
        seconds = self.launch * gemm.t0 + gemm.per_k * inner + slower(ideal_s / share, moved / speed) + quantised_s
        self.use(seconds, moved, 2 * rows * inner * outer * self.profile.flops["bf16"].value / peak)

    def experts(self, group: LayerGroup, tokens: float) -> None:
        kernel, arithmetic = self.formats("expert")
        constants, peak = self.profile.step.experts[kernel].value, self.profile.flops[arithmetic].value
        devices, tokens = self.tp * self.parallel.attention_dp, tokens * self.parallel.attention_dp
        slices, picks = devices / self.parallel.expert, tokens * group.experts_per_token
        here = picks / self.parallel.expert
        chance, unread, theta = group.experts_per_token / group.experts, 1.0, self.model.expert_skew
        for _ in range(int(tokens)):
            unread *= 1 - chance
        unread *= (1 - chance) ** (tokens - int(tokens))
        unread = (1 + theta * tokens * chance) ** (-1 / theta) if theta else unread
        weights = group.expert / slices
        size = weights * self.model.element_bytes("expert", self.precision.weights)
        read = group.experts / self.parallel.expert * (1 - unread) * size
        if constants.tile and self.profile.memory.sram:
            x = (size / self.profile.memory.sram.value) ** 4
            read += here * size / constants.tile * x / (1 + x)
        width = weights / (3 * self.model.hidden)
        passed = 2 * (here + constants.sent * (picks - here)) * (2 * self.model.hidden + 3 * width)
        rows = here
        if self.host.expert_tile and kernel == "fp8_block":
            rows = picks + group.experts / self.parallel.expert * (self.host.expert_tile - 1)
        passed += 2 * (rows - here) * 3 * width
        compute_s = 2 * rows * weights / (constants.compute * peak)
        memory_s, power = read / (constants.bandwidth * self.bw), constants.overlap
        roof_s = (compute_s**power + memory_s**power) ** (1 / power)
        passed_s = passed / (constants.moved * self.bw)
        flops = 2 * rows * weights * self.profile.flops["bf16"].value / peak
        self.use(self.experts_launch * constants.t0 + roof_s + passed_s, read + passed, flops)

    def half_layer(self, tokens: float) -> None:
        """Half of the elementwise work."""
        efficiency = self.profile.step.gemm[self.formats("attention")[0]].value.bandwidth
        moved = 8 * tokens * self.model.hidden
        self.use(self.launch * 2 * 2.5e-6 + moved / (efficiency * self.bw), moved)

    def pass_on(self, kind: str, size: float, devices: int, spread: int) -> None:
        """A collective of `devices`, over the network where `spread` devices do not fit into the domain."""
        constants, up = getattr(self.profile.step, kind).value, self.profile.scale_up
        link = up.bandwidth.value if spread <= up.domain else self.profile.scale_out.value
        times = {"all_reduce": 2, "send_receive": devices / (devices - 1)}.get(kind, 1)
        bytes_, fade = times * size * (devices - 1) / devices, (min(devices, 8) / 2) ** -constants.fade
        low, high = (min(1.0, share * fade) * link for share in (constants.low, constants.high))
        seconds = constants.t0 + constants.per_device * (devices - 1)
        seconds += min(bytes_ / low, constants.fill + bytes_ / high)
        own = self.profile.step.one_kernel.value if kind == "all_reduce" and self.profile.step.one_kernel else None
        if own and size < own.below and devices <= own.most:
            once = (devices - 1) * size / (own.one_shot * up.bandwidth.value)
            twice = own.fill + 2 * (devices - 1) / devices * size / (own.two_shots * up.bandwidth.value)
            kernel_s = own.t0 + own.per_device * (devices - 1) + (once if devices == 2 else min(once, twice))
            seconds = min(seconds, kernel_s)
        self.collectives += 1
        self.use(seconds)

    def shards(self, group: LayerGroup) -> int:
        return min(self.tp, group.kv_heads) if group.attention not in LATENT else 1

    def decode(self, rows: float, contexts: list[int]) -> None:
        """`rows` of the contexts fall to this device, and as large a part of their tokens."""
        constants, part = self.profile.step.decode_attention[self.precision.kv].value, rows / len(contexts)
        bw, prefill = constants.bandwidth * self.bw, self.profile.step.prefill_attention[self.precision.kv].value

        def read(heads: float, kv_heads: float, key: float, flops: float, seen: float) -> None:
            items, fixed_s = rows * kv_heads, self.launch * constants.t0
            fixed_s += constants.item * max(0, items - constants.slots)
            fixed_s += constants.swap if rows > 1 and 1 < kv_heads < heads else 0
            compute_s = seen * flops / (constants.compute * self.peak)
            memory_s = seen * key / bw * (1 + constants.fill / items)
            self.use(fixed_s + max(compute_s, memory_s), seen * key, seen * flops)

        for group in self.layers():
            if not group.kv_elements:
                self.use(self.launch * constants.t0)
            else:
                heads, elements = group.heads / self.tp, group.kv_elements
                pair = (
                    4 * heads * elements
                    if group.attention in LATENT
                    else 2 * heads * (group.head_dim + group.value_dim)
                )
                seen = part * sum(min(c, group.limit or c) for c in contexts)
                key = elements / self.shards(group) * (1 if self.precision.kv == "fp8" else 2)
                read(heads, max(1, group.kv_heads / self.shards(group)), key, pair, seen)
            state = 2 * 4 * rows * group.state_elements / self.shards(group)  # read and written, 32 bits
            self.use(state / bw, state)
            if group.index_elements:
                scored = 2 * group.index_heads * group.index_elements
                read(group.index_heads, 1, group.index_elements, scored, part * sum(contexts))
        windows = [group for group in self.layers() if group.attention == "compressed"]
        window = rows * sum(group.window * group.window_elements for group in windows)
        flops = rows * sum(4 * group.heads * group.window * group.window_elements / self.tp for group in windows)
        moved = window * (1 if self.precision.kv == "fp8" else 2)
        self.use(max(moved / bw, flops / (prefill.compute * self.peak)), moved, flops)

    def prefill(self, tokens: float, chunks: list[tuple[int, int]]) -> None:
        """`tokens` of those of the chunks fall to this device."""
        constants = self.profile.step.prefill_attention[self.precision.kv].value
        part = tokens / sum(new for _, new in chunks)

        def attend(heads: float, key: float, pair: float, new: float, limit: int | None) -> None:
            seen = [[min(p, limit or p) for p in range(prefix + 1, prefix + n + 1)] for prefix, n in chunks]
            keys = [prefix + n - max(prefix + 1 - (limit or prefix + 1), 0) for prefix, n in chunks]
            pairs = part * sum(map(sum, seen))
            busy = max(pairs, constants.rows / heads * max(keys))
            compute_s = busy * pair / (constants.compute * self.peak)
            memory_s = part * sum(keys) * key / (constants.bandwidth * self.bw)
            new_s = tokens * new / (constants.tokens * self.bw)
            moved = part * sum(keys) * key + tokens * new
            self.use(self.launch * constants.t0 + new_s + max(compute_s, memory_s), moved, pairs * pair)

        for group in self.layers():
            if group.kv_elements:
                heads, elements = group.heads / self.tp, group.kv_elements / self.shards(group)
                wide = group.head_dim + group.value_dim
                size = 1 if self.precision.kv == "fp8" else 2
                attend(heads, elements * size, 2 * heads * wide, 2 * (heads * wide + elements), group.limit)
            else:
                self.use(self.launch * self.profile.step.decode_attention[self.precision.kv].value.t0)
            if group.index_elements:
                scored = 2 * group.index_heads * group.index_elements
                attend(group.index_heads, group.index_elements, scored, 0, None)
            flops = tokens * 6 * group.state_elements / self.shards(group)
            if group.attention == "compressed":
                flops += tokens * 4 * group.heads * group.window * group.window_elements / self.tp
            self.use(flops / (constants.compute * self.peak), 0.0, flops)

    def layers(self) -> list[LayerGroup]:
        """Attention of every layer that has some, one by one."""
        return [group for group in self.model.groups for _ in range(group.count) if group.out]

    def trunk(self, tokens: float) -> None:
        hidden, size = self.model.hidden, 2 * tokens * self.model.hidden
        groups, replica = self.parallel.attention_dp, self.parallel.devices
        for group in (each for each in self.model.groups for _ in range(each.count)):
            router = group.experts * hidden
            up = (group.mlp - router) * 2 // 3
            if group.out:
                self.product("attention", tokens, hidden, group.qkv / hidden / self.tp)
                self.product("attention", tokens, group.out / hidden / self.tp, hidden)
            if group.mlp > router:
                self.product("mlp", tokens, hidden, up / hidden / self.tp)
                self.product("mlp", tokens, (group.mlp - router - up) / hidden / self.tp, hidden)
            if group.experts:
                self.product("lm_head", tokens, hidden, group.experts)
                self.experts(group, tokens)
            for half in (group.out, group.mlp or group.experts):
                if half:
                    self.half_layer(tokens)
                    if self.tp > 1 and not (half is not group.out and group.experts and groups > 1):
                        self.pass_on("all_reduce", size, self.tp, self.tp)
            if group.experts and groups > 1:
                self.pass_on("all_gather", size * groups, self.tp * groups, self.tp * groups)
                self.pass_on("reduce_scatter", size * groups, self.tp * groups, self.tp * groups)
        for _ in range(self.parallel.pipeline if self.parallel.pipeline > 1 else 0):
            self.pass_on("send_receive", size, 2, replica)

    def head(self, rows: float) -> None:
        """Logits of a share of the vocabulary, gathered by all; each device rounds them up to 32 bits and looks for the largest."""
        vocab = self.model.vocab
        self.product("lm_head", rows, self.model.hidden, vocab / self.tp)
        if self.tp > 1:
            self.pass_on("all_gather", 2 * rows * vocab, self.tp, self.tp)
            self.collectives -= 1  # not one of the layers'
        bw = self.profile.step.gemm[self.formats("lm_head")[0]].value.bandwidth * self.bw
        for moved in (rows * vocab * (2 + 4), rows * vocab * 4):
            self.use(self.launch * 2.5e-6 + moved / bw, moved)

    def step(self, contexts: list[int], chunks: list[tuple[int, int]], ends: int) -> tuple[float, float]:
        rows, new = len(contexts), sum(new for _, new in chunks)
        power, devices = self.profile.power, self.parallel.devices
        parts = [
            (rows + ends, self.head),
            (rows + new, self.trunk),
            (rows, lambda n: self.decode(n, contexts)),
            (new, lambda n: self.prefill(n, chunks)),
        ]
        seconds, joules = [], 0.0
        for number, work in parts:
            self.busy_s = self.bytes = self.flops = 0.0
            batches = min(self.parallel.pipeline, max(number, 1))
            if number or not seconds:
                work(number / (self.parallel.attention_dp * batches))
            busy = devices / self.parallel.pipeline * batches
            seconds.append(self.busy_s)
            work_j = (
                power.busy.value * self.busy_s + power.per_byte.value * self.bytes + power.per_flop.value * self.flops
            )
            joules += busy * work_j + (devices - busy) * power.gap.value * self.busy_s
        halves = sum(group.count * (bool(group.out) + bool(group.mlp or group.experts)) for group in self.model.groups)
        repeated = 0.1 * self.tp + 0.9  # a tenth of it on each device of a tensor group, the rest once
        joules += power.per_activation.value * self.model.hidden * (rows + new) * halves / 2 * repeated
        idle_s = self.host.host_s + self.host.per_sequence_s * (rows + ends)
        if new and rows + new > self.host.graph_tokens:
            layer_s = self.host.eager_layer_s + (self.host.eager_narrow_s if self.precision.weights != "bf16" else 0)
            launched_s = layer_s * halves / 2 + self.host.eager_collective_s * self.collectives
            launched_s *= self.profile.step.sustained.value.launch if self.profile.step.sustained else 1
            idle_s += max(0.0, launched_s - sum(seconds[1:]))
        return idle_s + sum(seconds), joules + power.gap.value * devices * idle_s


STEPS = {
    "decode": ([1, 100, 5000, 40_000], [], 0),
    "large batch": (list(range(10, 2000, 9)), [], 0),
    "prompt": ([], [(0, 3000)], 1),
    "one token": ([], [(0, 1)], 1),
    "middle of a prompt": ([], [(8000, 4000)], 0),
    "all of it": ([7, 300, 9000], [(0, 50), (100, 700), (6000, 300)], 2),
}


@every_case
@pytest.mark.parametrize("step", STEPS)
def test_naive_sum(name: str, step: str) -> None:
    """Closed forms, memos and groups of layers change nothing: seconds and joules to 1e-9."""
    model, device, parallel, precision = CASES[name]
    naive = Naive(LIBRARY.model(model), LIBRARY.profile(device), host_of(name), parallel, precision).step(*STEPS[step])
    assert mixed_s(COSTS[name], *STEPS[step]) == pytest.approx(naive, rel=1e-9)


# -- laws --------------------------------------------------------------------------------------------------------------

contexts = st.lists(st.integers(1, 100_000), min_size=1, max_size=300)
prompts = st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 8192)), max_size=6)


@every_case
@settings(max_examples=30)
@given(lengths=contexts)
def test_mixed_without_prompts_is_decode(name: str, lengths: list[int]) -> None:
    """To the last bit: the engine moves between the two."""
    assert mixed_s(COSTS[name], lengths, []) == decode_s(COSTS[name], lengths)


@every_case
@settings(max_examples=30)
@given(lengths=contexts, chunks=prompts, more=st.integers(1, 1000))
def test_more_work_takes_more_time_and_energy(
    name: str, lengths: list[int], chunks: list[tuple[int, int]], more: int
) -> None:
    """Longer contexts, one more sequence as long as the longest, one more prompt, later chunks. A short sequence beside a lone long
    one may help, as it busies idle cores; so may a few more rows than there are micro-batches and groups, of which the mean counts."""
    cost = COSTS[name]
    if name in SPLIT:
        lengths, chunks = lengths * 8, [(prefix, new + 8) for prefix, new in chunks or [(0, more)]]
    seconds, joules = mixed_s(cost, lengths, chunks)
    longer = mixed_s(cost, [c + more for c in lengths], chunks)
    wider = mixed_s(cost, [*lengths, max(lengths) + more], chunks)
    fuller = mixed_s(cost, lengths, [*chunks, (0, more)], 1)
    later = mixed_s(cost, lengths, [(prefix + more, new) for prefix, new in chunks])
    for other in (longer, wider, fuller, later):
        assert other[0] >= seconds * (1 - 1e-12)
        assert other[1] >= joules * (1 - 1e-12)


@every_case
@settings(max_examples=30)
@given(tokens=st.integers(1, 20_000), more=st.integers(1, 20_000))
def test_a_longer_prompt_never_takes_less(name: str, tokens: int, more: int) -> None:
    if name in SPLIT:
        tokens += 8
    shorter, longer = (mixed_s(COSTS[name], [], [(0, new)], 1) for new in (tokens, tokens + more))
    assert longer[0] >= shorter[0]
    assert longer[1] >= shorter[1]


@every_case
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_decode_is_affine_in_context(name: str, rows: int) -> None:
    """Runs of steps rest on it: beyond the limit a token of context costs the same everywhere, and so below it, by the explained step."""
    cost = COSTS[name]
    limit = cost.limit or 0
    starts = [limit] if not limit else [limit, limit // 4]
    for start in starts:
        step = (start or 1000) // 4
        seconds = [sum(part.seconds for part in cost.explain(rows, start + k * step)) for k in (0, 1, 3)]
        assert seconds[2] - seconds[0] == pytest.approx(3 * (seconds[1] - seconds[0]), rel=1e-8)
        t0, t_ctx, t_lim, *_ = cost.decode(rows)
        for k, found in zip((0, 1, 3), seconds, strict=True):
            seen = start + k * step
            assert t0 + rows * (t_ctx * seen + t_lim * min(seen, limit)) == pytest.approx(found, rel=1e-12)


@every_case
@settings(max_examples=30)
@given(chunks=st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 8192)), min_size=1, max_size=6))
def test_the_fast_path_of_prompts_is_the_sum_of_their_operators(name: str, chunks: list[tuple[int, int]]) -> None:
    cost, tokens = COSTS[name], sum(new for _, new in chunks)
    limit = cost.limit or 10**9
    whole = [(attended(*chunk), sum(chunk)) for chunk in chunks]
    limited = [(attended_limited(*chunk, limit), keys_limited(*chunk, limit)) for chunk in chunks]
    reaches = [
        (sum(pairs for pairs, _ in each), sum(keys for _, keys in each), max(keys for _, keys in each))
        for each in (whole, limited)
    ]
    added_up = cost._cost(cost._prompt_operators(tokens, *reaches), tokens)
    assert cost._prompt(tokens, *reaches) == pytest.approx(added_up, rel=1e-12)


@every_case
@settings(max_examples=30)
@given(rows=st.integers(1, 512), context=st.integers(1, 100_000))
def test_no_step_beats_the_roofs(name: str, rows: int, context: int) -> None:
    """Of one device: every weight that a token meets and all KV are read once, every operation is done, at datasheet peaks."""
    model, device, parallel, precision = CASES[name]
    network, profile, devices = LIBRARY.model(model), LIBRARY.profile(device), parallel.devices
    seconds, joules = decode_s(COSTS[name], [context] * rows)
    active = network.active_parameters - network.embedding * (not network.tied_embeddings)
    seen = sum(g.count * g.kv_elements * min(context, g.limit or context) for g in network.groups)
    memory_s = (
        (active * BYTES[precision.weights] + rows * seen * BYTES[precision.kv])
        / devices
        / profile.memory.bandwidth.value
    )
    peak = max(fact.value for fact in profile.flops.values())
    assert seconds > memory_s
    assert seconds > rows * network.flops_per_token(context) / devices / peak
    assert joules > COSTS[name].gap_w * seconds


def test_twice_the_bandwidth_halves_the_memory_bound_part() -> None:
    bandwidth = H100.memory.bandwidth.model_copy(update={"value": 2 * H100.memory.bandwidth.value})
    fast = step_cost(LLAMA_8B, changed(H100, memory__bandwidth=bandwidth), VLLM, 1, BF16)
    slow_waits, fast_waits = COSTS["dense"].binding(8, 4000), fast.binding(8, 4000)
    assert slow_waits[COMPUTE] == 0
    assert fast_waits[MEMORY] == pytest.approx(slow_waits[MEMORY] / 2, rel=1e-4)
    assert {name: fast_waits[name] for name in (HOST, LAUNCH)} == pytest.approx(
        {name: slow_waits[name] for name in (HOST, LAUNCH)}
    )


def test_two_devices_halve_the_products_and_add_collectives() -> None:
    """8 KV heads split in two as well; host and launches stay, and each device samples all rows."""
    one = {operator.name: operator for operator in COSTS["dense"].explain(8, 4000)}
    two = {operator.name: operator for operator in COSTS["dense, two devices"].explain(8, 4000)}
    assert set(two) - set(one) == {"all-reduce", "all-gather, logits"}
    assert two["sampler"] == one["sampler"]
    hidden_io = 8 * 4096 * 2  # what every product reads or writes whole, whatever the number of devices
    for name, layers in (("QKV", 32), ("attention out", 32), ("MLP up", 32), ("MLP down", 32), ("LM head", 1)):
        assert two[name].bytes - layers * hidden_io == pytest.approx((one[name].bytes - layers * hidden_io) / 2)
        assert two[name].flops == pytest.approx(one[name].flops / 2)
    assert two["attention, decode"].bytes == pytest.approx(one["attention, decode"].bytes / 2)
    own, ring = H100.step.one_kernel.value, H100.step.all_reduce.value
    link = H100.scale_up.bandwidth.value
    ring_s = ring.t0 + ring.per_device + min(hidden_io / (ring.low * link), ring.fill + hidden_io / (ring.high * link))
    own_s = own.t0 + own.per_device + hidden_io / (own.one_shot * link)
    assert two["all-reduce"].link_s == pytest.approx(64 * min(ring_s, own_s))
    assert COSTS["dense, two devices"].limit_w == 2 * COSTS["dense"].limit_w


def test_large_messages_are_not_for_the_own_kernel() -> None:
    """Below 8 MiB, that is 1,024 tokens of 4,096 elements of 2 bytes, the engine's kernel; from there the library's, whatever it takes."""
    dear = {"t0": 1.0, "per_device": 0.0}
    own_only = changed(H100, step__all_reduce=fact(H100.step.all_reduce.value.model_copy(update=dear)))
    cost = step_cost(LLAMA_8B, own_only, VLLM, 2, BF16)
    own = H100.step.one_kernel.value
    assert own.below == 2**23
    sums = {tokens: cost._shard._all_reduce_s(tokens * 8192) for tokens in (1023, 1024)}
    assert sums[1023] < 1e-3
    assert sums[1024] > 1.0
    alone = changed(own_only, step__one_kernel=fact(own.model_copy(update={"most": 2})))
    assert step_cost(LLAMA_8B, alone, VLLM, 4, BF16)._shard._all_reduce_s(8192) > 1.0
    assert step_cost(LLAMA_8B, changed(own_only, step__one_kernel=None), VLLM, 2, BF16)._shard._all_reduce_s(8192) > 1.0


def test_kv_heads_repeat_and_latent_caches_are_not_split() -> None:
    """4 KV heads on 8 devices read as on 4; a latent cache is read whole by each."""
    four, eight = (cost_of("qwen3-235b-a22b", "nvidia-h200-sxm", tp).decode(1)[1] for tp in (4, 8))
    assert four == eight
    latent = [of(cost_of("deepseek-v3", "nvidia-h200-sxm", tp, FP8), 1, 5000, "attention, decode") for tp in (4, 8)]
    assert latent == pytest.approx([61 * 576 * 2 * 5000] * 2)


def test_an_8_bit_cache_is_read_in_half_the_bytes() -> None:
    wide = cost_of("qwen3-32b", "nvidia-h100-sxm", 2, FP8)
    assert of(COSTS["8-bit cache"], 4, 3000, "attention, decode") == of(wide, 4, 3000, "attention, decode") / 2


def test_windows_and_linear_layers_do_not_grow_with_context() -> None:
    windows, linear = COSTS["windows and experts in 4 bits"], COSTS["linear layers"]
    assert windows.limit == 128
    t_ctx, t_lim = windows.decode(1)[1:3]
    assert t_ctx == pytest.approx(t_lim)  # every other layer has a window
    assert linear.limit is None
    constants = H100.step.decode_attention["bf16"].value
    bandwidth = constants.bandwidth * 3.35e12 * H100.step.sustained.value.memory
    slope = 16 * 2 * 4 * 256 * 2 / bandwidth * (1 + constants.fill / 4)  # 16 of 64 layers keep tokens, 4 KV heads
    assert linear.decode(1)[1] == pytest.approx(slope)
    state = 48 * (
        48 * 128 * 128 + 3 * (2 * 16 * 128 + 48 * 128)
    )  # 48 layers: 48 heads of 128 x 128, and the convolution's
    assert [of(linear, n, 1, "states, decode") for n in (1, 65)] == pytest.approx([n * 2 * 4 * state for n in (1, 65)])


def test_experts_are_read_as_they_are_touched() -> None:
    """A token touches 4 of 32; a large batch all: the fixed part grows towards all weights and no further."""
    cost = COSTS["windows and experts in 4 bits"]
    assert H100.step.experts["mxfp4"].value.tile is None
    read = [of(cost, rows, 1, "experts") for rows in (1, 16, 4096)]
    expert = 24 * 3 * 2880 * 2880 * (0.5 + 1 / 32)  # MXFP4
    passed = 24 * 4 * (2 * 2880 + 3 * 2880) * 2
    assert read == pytest.approx(
        [4 * expert + passed, 32 * (1 - (28 / 32) ** 16) * expert + 16 * passed, 32 * expert + 4096 * passed]
    )


def test_serving_for_hours_is_a_share_of_the_tables() -> None:
    """Half the pace of 8 bits is twice an engine's arithmetic there, 0.8 of the bandwidth its memory time, launches twice as long."""
    cold = changed(H100, step__sustained=None)
    shares = Sustained.model_construct(narrow=0.5, memory=0.8, launch=2.0)
    hot = changed(H100, step__sustained=fact(shares))
    slow = VLLM._replace(memory_factor=1.25, launch_factor=1.54)
    for step in STEPS.values():
        by_share, by_factor = (
            mixed_s(step_cost(LLAMA_8B, *both, 1, BF16), *step) for both in ((hot, VLLM), (cold, slow))
        )
        assert by_share[0] == pytest.approx(by_factor[0], rel=1e-12)
    qkv = [step_cost(LLAMA_8B, profile, VLLM, 1, FP8).explain(0, 0, 8192)[1] for profile in (cold, hot)]
    assert {operator.name for operator in qkv} == {"QKV"}
    assert qkv[1].compute_s == pytest.approx(2 * qkv[0].compute_s, rel=1e-2)
    assert qkv[1].flops == qkv[0].flops  # energy counts operations


# -- devices that share a model -----------------------------------------------------------------------------------------

LLAMA_70B = LIBRARY.model("llama-3.1-70b")
QWEN = LIBRARY.model("qwen3-235b-a22b")
H200 = LIBRARY.profile("nvidia-h200-sxm")


def only(profile: Profile, **watts: float) -> Profile:
    """The profile with all energies 0 but those given."""
    zero = {f"power__{key}": fact(0.0) for key in ("gap", "busy", "idle", "per_byte", "per_flop", "per_activation")}
    return changed(profile, **zero | {f"power__{key}": fact(value) for key, value in watts.items()})


def test_a_number_of_devices_is_that_tensor_parallel() -> None:
    assert cost_of("llama-3.1-8b", "nvidia-h100-sxm", 2).decode(7) == COSTS["dense, two devices"].decode(7)
    assert [parallel.devices for parallel in (Parallel(), Parallel(2, 3), Parallel(2, 1, 4, 4))] == [1, 6, 8]
    assert [parallel.expert_slices for parallel in (Parallel(8), Parallel(8, expert=8), Parallel(2, 1, 4, 4))] == [
        8,
        1,
        2,
    ]


@pytest.mark.parametrize("step", [([3000] * 8, [], 0), ([], [(0, 4096)], 1), ([500] * 4, [(0, 60), (100, 200)], 2)])
def test_stages_do_the_same_work(step: tuple) -> None:
    """All operations of the tokens, whatever the stages; each token of context is read once; weights once for each micro-batch."""
    flops = [
        mixed_s(step_cost(LLAMA_70B, only(H100, per_flop=1.0), VLLM, Parallel(2, stages), BF16), *step)[1]
        for stages in (1, 2, 4)
    ]
    assert flops == pytest.approx([flops[0]] * 3, rel=1e-9)
    read = [step_cost(LLAMA_70B, only(H100, per_byte=1.0), VLLM, Parallel(2, stages), BF16) for stages in (1, 4)]
    assert read[0].decode(8)[4] == pytest.approx(read[1].decode(8)[4])  # a token's keys
    assert read[0].decode(8)[4] == pytest.approx(80 * 2 * 8 * 128 * 2)
    # four micro-batches: four times the weights; the head sees as many
    weights = 2 * (LLAMA_70B.parameters - LLAMA_70B.embedding)
    more = read[1].decode(8)[3] - read[0].decode(8)[3]
    assert more == pytest.approx(3 * weights, rel=1e-2)


def test_stages_that_wait_draw_gap_watts() -> None:
    """One sequence is in one of four stages at a time; four sequences keep all busy, and the host keeps all waiting."""
    cost = step_cost(LLAMA_70B, only(H100, busy=100.0, gap=7.0), VLLM, Parallel(2, 4), BF16)
    host_s = 0.59e-3 + 10e-6
    seconds, joules = decode_s(cost, [1000])
    assert joules == pytest.approx(8 * 7 * host_s + (2 * 100 + 6 * 7) * (seconds - host_s), rel=1e-12)
    host_s += 30e-6
    seconds, joules = decode_s(cost, [1000] * 4)
    assert joules == pytest.approx(8 * 7 * host_s + 8 * 100 * (seconds - host_s), rel=1e-12)
    seconds, joules = mixed_s(cost, [], [(0, 3)])  # three tokens, no head rows: one micro-batch waits
    head_s = head_seconds(cost, 0)
    busy = (6 * 100 + 2 * 7) * (seconds - 0.59e-3 - head_s) + (2 * 100 + 6 * 7) * head_s
    assert joules == pytest.approx(8 * 7 * 0.59e-3 + busy, rel=1e-12)


def test_stages_pass_tokens_on_and_do_not_speed_one_up() -> None:
    """A lone sequence passes all stages one after the other: it takes what one stage of all layers takes, and the sends between them."""
    one, four = (step_cost(LLAMA_70B, H100, VLLM, Parallel(2, stages), BF16) for stages in (1, 4))
    sends = [operator for operator in four.explain(1, 2000) if operator.name == "send-receive"]
    assert len(sends) == 1
    constants, link = H100.step.send_receive.value, H100.scale_up.bandwidth.value
    size = 2 * LLAMA_70B.hidden
    each_s = (
        constants.t0
        + constants.per_device
        + min(size / (constants.low * link), constants.fill + size / (constants.high * link))
    )
    assert sends[0].link_s == pytest.approx(4 * each_s)
    assert decode_s(four, [2000])[0] - sends[0].link_s == pytest.approx(decode_s(one, [2000])[0], rel=1e-12)
    assert decode_s(four, [2000] * 64)[0] < decode_s(one, [2000] * 64)[0]
    assert (four.devices, four.limit_w) == (8, 4 * one.limit_w)


def test_what_stays_in_a_server_passes_its_links() -> None:
    """Sixteen devices in two servers: sums of eight stay inside, stages send over the network."""
    inside, across = (COSTS[name] for name in ("dense, fp8", "pipeline over servers"))
    assert inside.devices == 4
    prompt = {operator.name: operator for operator in across.explain(0, 0, 8192)}
    link, network = H100.scale_up.bandwidth.value, H100.scale_out.value
    constants, size = (
        H100.step.all_reduce.value,
        2 * 4096 * LIBRARY.model("llama-3.1-405b").hidden,
    )  # two micro-batches of 4,096 tokens
    assert size > H100.step.one_kernel.value.below
    least_s = 2 * 126 * 1.75 * size / link
    assert least_s < prompt["all-reduce"].link_s < 3 * least_s
    assert constants.high * network < 0.1 * link
    assert prompt["send-receive"].link_s > 2 * size / network


def test_whole_experts_are_read_by_one_device() -> None:
    """Four devices with a quarter of the experts each read as much as with a quarter of each, and compute as much; what they pass on
    is whole activations of their own pairs and a part of the others', instead of slices of all."""
    constants = Experts.model_construct(t0=20e-6, compute=0.5, bandwidth=0.8, moved=0.5, sent=0.25)
    profile = changed(H200, step__experts={"bf16": fact(constants)})
    slices, whole = (step_cost(QWEN, profile, VLLM, Parallel(4, expert=expert), BF16) for expert in (1, 4))
    assert of(slices, 64, 1000, "experts", "flops") == pytest.approx(of(whole, 64, 1000, "experts", "flops"))
    pairs, hidden, width = 64 * 8, 4096, 1536
    passed = [2 * pairs * (2 * hidden + 3 * width / 4), 2 * pairs * (1 / 4 + 0.25 * 3 / 4) * (2 * hidden + 3 * width)]
    moved = [of(cost, 64, 1000, "experts", "bytes") for cost in (slices, whole)]
    assert moved[0] - moved[1] == pytest.approx(94 * (passed[0] - passed[1]), rel=1e-6)


def test_groups_of_attention_read_their_own_sequences() -> None:
    """Eight groups: an eighth of the context each, whole heads and all of attention's weights on each device; experts see all tokens."""
    deepseek = LIBRARY.model("deepseek-v3")
    split, groups = cost_of("deepseek-v3", "nvidia-h200-sxm", 8, FP8), COSTS["groups of attention"]
    assert of(groups, 64, 1000, "attention, decode") == pytest.approx(of(split, 64, 1000, "attention, decode") / 8)
    assert of(groups, 64, 1000, "experts", "flops") == pytest.approx(of(split, 64, 1000, "experts", "flops"))
    names = [{operator.name for operator in cost.explain(64, 1000)} for cost in (split, groups)]
    assert names[1] - names[0] == {"all-gather", "reduce-scatter"}
    assert names[0] - names[1] == {"all-reduce", "all-gather, logits"}
    qkv = of(groups, 8, 1, "QKV") / of(split, 8, 1, "QKV")
    assert 6 < qkv < 8.1  # all its weights
    constants, link = H200.step.all_gather.value, H200.scale_up.bandwidth.value
    passed, fade = 64 * 2 * deepseek.hidden * 7 / 8, 4**-constants.fade
    low, high = (min(1, share * fade) * link for share in (constants.low, constants.high))
    each_s = constants.t0 + 7 * constants.per_device + min(passed / low, constants.fill + passed / high)
    assert of(groups, 64, 1000, "all-gather", "link_s") == pytest.approx(58 * each_s)  # layers with experts


# -- eager steps --------------------------------------------------------------------------------------------------------


def test_a_step_too_large_for_a_graph_waits_for_its_launches() -> None:
    """32 layers of 1 ms and 64 all-reduces of 0.1 ms from 513 tokens on; decode steps and long prompts do not notice."""
    eager = VLLM._replace(graph_tokens=512, eager_layer_s=1e-3, eager_collective_s=1e-4)
    plain, late = COSTS["dense, two devices"], step_cost(LLAMA_8B, H100, eager, 2, BF16)
    for chunks in ([(0, 512)], [(0, 100), (7, 412)]):
        assert mixed_s(late, [], chunks) == mixed_s(plain, [], chunks)
    for contexts, new, ends in (([], 513, 0), ([1000] * 64, 449, 1)):
        head_s = 0.59e-3 + (len(contexts) + ends) * 10e-6 + head_seconds(plain, len(contexts) + ends)
        fast, slow = (mixed_s(cost, contexts, [(0, new)], ends) for cost in (plain, late))
        assert slow[0] == pytest.approx(32 * 1e-3 + 64 * 1e-4 + head_s, rel=1e-12)
        assert slow[0] > fast[0]
        assert slow[1] - fast[1] == pytest.approx(plain.gap_w * (slow[0] - fast[0]))
    assert mixed_s(late, [], [(0, 20_000)]) == mixed_s(plain, [], [(0, 20_000)])
    narrow = [step_cost(LLAMA_8B, H100, eager._replace(eager_narrow_s=more), 2, FP8) for more in (0.0, 0.5e-3)]
    assert mixed_s(narrow[1], [], [(0, 513)])[0] - mixed_s(narrow[0], [], [(0, 513)])[0] == pytest.approx(32 * 0.5e-3)
    wide = step_cost(LLAMA_8B, H100, eager._replace(eager_narrow_s=0.5e-3), 2, BF16)
    assert mixed_s(wide, [], [(0, 513)]) == mixed_s(late, [], [(0, 513)])
    slow = changed(H100, step__sustained=fact(Sustained.model_construct(launch=2.0)))
    longer = mixed_s(step_cost(LLAMA_8B, slow, eager, 2, BF16), [], [(0, 513)])[0]
    assert longer == pytest.approx(2 * (32 * 1e-3 + 64 * 1e-4), rel=0.03)
    assert late.decode(600) == plain.decode(600)  # as `explain` has it: whole batches of decodes are captured


# -- chunks ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 400))
def test_chunk_sums_are_closed_forms(prefix: int, tokens: int, limit: int) -> None:
    seen = range(prefix + 1, prefix + tokens + 1)
    assert attended(prefix, tokens) == sum(seen)
    assert attended_limited(prefix, tokens, limit) == sum(min(p, limit) for p in seen)
    read = {key for p in seen for key in range(max(p - limit, 0), p)}
    assert keys_limited(prefix, tokens, limit) == len(read)


@given(st.integers(0, 500), st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(1, 400))
def test_chunks_of_a_prompt_attend_as_the_whole(prefix: int, sizes: list[int], limit: int) -> None:
    pairs = limited = 0
    start = prefix
    for size in sizes:
        pairs += attended(start, size)
        limited += attended_limited(start, size, limit)
        start += size
    assert pairs == attended(prefix, sum(sizes))
    assert limited == attended_limited(prefix, sum(sizes), limit)


# -- what it waits for -------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize(("rows", "context", "prompt"), [(1, 1, 0), (64, 3000, 0), (64, 3000, 2048), (0, 0, 512)])
def test_explanation_adds_up(name: str, rows: int, context: int, prompt: int) -> None:
    cost = COSTS[name]
    operators, waits = cost.explain(rows, context, prompt), cost.binding(rows, context, prompt)
    seconds, _ = mixed_s(cost, [context] * rows, [(0, prompt)] if prompt else [], int(prompt > 0))
    assert sum(operator.seconds for operator in operators) == pytest.approx(seconds, rel=1e-12)
    assert sum(waits.values()) == pytest.approx(seconds, rel=1e-12)


def largest(waits: dict[str, float]) -> str:
    return max(waits, key=lambda name: waits[name])


def test_what_binds() -> None:
    """One sequence reads weights, a long prompt multiplies, a small network on a fast device waits for its host or launches."""
    assert largest(COSTS["dense"].binding(1, 1000)) == MEMORY
    assert largest(COSTS["dense"].binding(0, 0, prompt=8192)) == COMPUTE
    assert largest(cost_of("llama-3.1-8b", "nvidia-b200-sxm", 8).binding(1, 100)) in (LAUNCH, HOST)
    assert LINK in COSTS["dense, two devices"].binding(1, 1000)


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_formats_without_constants_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"`nvidia-a100-sxm-80gb` has no fp8 arithmetic; it has: .*bf16.*weights: fp8, activations: bf16",
    ):
        cost_of("llama-3.1-8b", "nvidia-a100-sxm-80gb", 1, FP8)
    with pytest.raises(ValueError, match=r"`nvidia-h100-sxm` has no nvfp4 arithmetic; it has: .*fp8_block"):
        cost_of("llama-3.1-8b", "nvidia-h100-sxm", 1, Precisions("fp4", "bf16", "fp4"))
    parts = ("decode_attention", "prefill_attention")
    caches = {f"step__{part}": {name: getattr(H100.step, part)[name] for name in ("bf16", "fp16")} for part in parts}
    wide = changed(H100, **caches)
    with pytest.raises(ValueError, match=r"`nvidia-h100-sxm` has no attention over a int8 cache; it has: bf16, fp16$"):
        step_cost(LLAMA_8B, wide, VLLM, 1, Precisions("bf16", "int8", "bf16"))
    no_fp8 = changed(H200, step__experts={"bf16": H200.step.experts["bf16"]})
    with pytest.raises(ValueError, match=r"`nvidia-h200-sxm` has no constants for fp8(_block)? experts; it has: bf16$"):
        step_cost(QWEN, no_fp8, VLLM, 8, FP8)
    assert step_cost(LIBRARY.model("qwen3-32b"), no_fp8, VLLM, 8, FP8).decode(1)[0] > 0  # no experts, no need


def test_devices_without_a_link_or_constants_are_refused() -> None:
    with pytest.raises(ValueError, match="`nvidia-h100-sxm` has no scale-up link: expected tensor_parallel 1, got 2"):
        step_cost(LLAMA_8B, changed(H100, scale_up=None), VLLM, 2, BF16)
    apart = changed(H100, scale_up=None)
    assert step_cost(LLAMA_8B, apart, VLLM, Parallel(1, 2), BF16).devices == 2  # stages pass the network
    with pytest.raises(ValueError, match="no scale-up link"):
        step_cost(LLAMA_8B, changed(apart, scale_out=None), VLLM, Parallel(1, 2), BF16)
    with pytest.raises(ValueError, match="`nvidia-h100-sxm` has no network: expected at most 8 devices, got 16"):
        step_cost(LLAMA_70B, changed(H100, scale_out=None), VLLM, Parallel(8, 2), BF16)
    for kind, parallel in (("all_reduce", Parallel(2)), ("all_gather", Parallel(2)), ("send_receive", Parallel(1, 2)), ("all_gather", Parallel(attention_dp=2)), ("reduce_scatter", Parallel(attention_dp=2))):  # fmt: skip
        without = changed(H100, **{f"step__{kind}": None})
        with pytest.raises(ValueError, match=f"`nvidia-h100-sxm` has no constants for {kind}$"):
            step_cost(LLAMA_8B, without, VLLM, parallel, BF16)
        assert step_cost(LLAMA_8B, without, VLLM, 1, BF16).decode(4) == COSTS["dense"].decode(4)


def test_two_attention_limits_are_refused() -> None:
    gemma = LIBRARY.model("gemma-3-27b")
    window, full = gemma.layers
    shorter = window.model_copy(update={"attention": window.attention.model_copy(update={"limit": 512})})
    with pytest.raises(ValueError, match=r"different attention limits \[512, 1024\]"):
        step_cost(gemma.model_copy(update={"layers": (window, shorter, full)}), H100, VLLM, 2, BF16)


# -- measured servers --------------------------------------------------------------------------------------------------


def table(*path: str) -> Iterator[dict[str, str]]:
    if not SHARED.exists():
        pytest.skip("../shared is not here")
    with SHARED.joinpath(*path).open(newline="") as file:
        yield from csv.DictReader(file)


def mean_step(cost: StepCost, rows: int, context: float, prompt: int, output: float) -> tuple[float, float]:
    """Seconds and joules of a mean step in steady state: each of `rows` sequences is replaced by a new prompt every `output` steps."""
    lengths = [round(context)] * rows
    decode, mixed = decode_s(cost, lengths), mixed_s(cost, lengths, [(0, prompt)], 1)
    share = rows / output
    return tuple((1 - share) * plain + share * full for plain, full in zip(decode, mixed, strict=True))


def test_llama_70b_on_vllm_servers() -> None:
    """Mean time per output token, closed loop, H100 and H200, fp8, 2 and 8 devices. Lengths are 0.88 of nominal (see the data's
    README). One row (two H100 with 64 x 8k prompts) lacks the KV memory for its batch: a median, not a worst case."""
    errors = []
    for row in table("serving", "calibration", "aic_silicon_dense_agg.csv"):
        wanted = (
            row["engine"].strip() == "vllm" and row["precision"] == "fp8" and row["model"].endswith("Llama-3.1-70B")
        )
        if wanted and row["hardware"] in ("h100_sxm", "h200_sxm"):
            cost = cost_of("llama-3.1-70b", "nvidia-" + row["hardware"].replace("_", "-"), int(float(row["tp"])), FP8)
            prompt, output = 0.88 * float(row["isl"]), 0.88 * float(row["osl"])
            seconds, _ = mean_step(cost, int(float(row["concurrency"])), prompt + output / 2, round(prompt), output)
            errors.append(seconds / float(row["tpot_mean_s"]) - 1)
    assert len(errors) >= 20
    assert median(abs(error) for error in errors) < 0.12
    assert abs(median(errors)) < 0.06


def test_share_of_peak_is_what_the_binding_resource_reaches() -> None:
    """A bandwidth-bound product moves its bytes at its profile's share; an arithmetic-bound one computes at less than its peak."""
    cost = cost_of("llama-3.1-8b", "nvidia-h100-sxm", 1, BF16)
    up = next(operator for operator in cost.explain(8, 500) if operator.name == "MLP up")
    assert cost.share_of_peak(up) == pytest.approx(up.bytes / up.seconds / 3.35e12)
    assert 0.6 < cost.share_of_peak(up) < 0.95
    long = next(operator for operator in cost.explain(0, 0, 8000) if operator.name == "MLP up")
    assert cost.share_of_peak(long) == pytest.approx(long.flops / long.seconds / 989e12)
    assert 0.5 < cost.share_of_peak(long) < 0.9
    assert cost.share_of_peak(cost.explain(8, 500)[0]) == 0.0  # the host


def with_power(**given: object) -> StepCost:
    profile = LIBRARY.profile("nvidia-h100-sxm")
    power = PowerConstants.model_validate(
        {name: getattr(profile.power, name) for name in PowerConstants.model_fields} | given
    )
    profile = profile.model_copy(update={"power": power})
    return step_cost(LIBRARY.model("llama-3.1-8b"), profile, HostConstants(1e-3, 0.0, 1.0), 1, BF16)


def test_measured_watts_stand_for_the_equation() -> None:
    """A table of one model: level outside, straight in the logarithm of the batch between its points."""
    table = {
        "model": "llama-3.1-8b",
        "devices": 1,
        "watts": {"4": "400 W", "16": "600 W"},
        "source": "x",
        "grade": "measured",
    }
    cost = with_power(measured=(table,))
    for rows, watts in ((1, 400.0), (4, 400.0), (8, 500.0), (16, 600.0), (100, 600.0)):
        t0, t_ctx, _, e0, e_ctx, _ = cost.decode(rows)
        assert (e0 / t0, e_ctx / t_ctx) == pytest.approx((watts, watts))
        seconds, joules = cost.mixed(rows + 100, rows, rows, 1000, 0, 5050, 100, 100, 0, 0, 0)
        assert joules / seconds == pytest.approx(watts)
    other = with_power(measured=({**table, "model": "llama-3.1-70b"},))
    assert other.decode(8) == with_power().decode(8)


def test_one_point_scales_what_steps_draw_but_not_gaps() -> None:
    """Twice the joules of work; the host's millisecond at the gap's watts stays."""
    plain, twice = with_power(), with_power(scale=fact(2.0))
    gap_j = plain.gap_w * 1e-3
    assert twice.decode(8)[3] - gap_j == pytest.approx(2 * (plain.decode(8)[3] - gap_j))
    assert twice.decode(8)[4] == pytest.approx(2 * plain.decode(8)[4])
    assert twice.decode(8)[:3] == plain.decode(8)[:3]


@pytest.mark.parametrize("watts", [{"x": "4 W"}, {"0": "4 W"}, {"4": 4.0}, {}])
def test_measured_watts_that_are_refused(watts: dict[str, object]) -> None:
    table = {"model": "m", "devices": 1, "watts": watts, "source": "x", "grade": "measured"}
    with pytest.raises(ValidationError):
        with_power(measured=(table,))
