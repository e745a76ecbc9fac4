"""What a step of a model asks of each device: its operators, layers summed."""

from collections.abc import Iterator
from typing import NamedTuple

from simfleet.hardware.profile import Arithmetic, Collective, Gemm, Precision, Profile, Sustained
from simfleet.hardware.roofline import (
    ACTIVATION_BYTES,
    Attention,
    Operator,
    collective_s,
    decode_attention,
    elementwise,
    experts,
    experts_touched,
    gemm,
    one_kernel_s,
    prefill_attention,
    sampler,
)
from simfleet.spec import Fact
from simfleet.workload.models import (
    BYTES_PER_ELEMENT,
    INDEX_BYTES,
    STATE_BYTES,
    STATE_FLOPS,
    LayerGroup,
    Model,
    Part,
)

SIXTEEN_BITS: tuple[Arithmetic, ...] = ("bf16", "fp16")
PARTS: tuple[Part, ...] = ("attention", "mlp", "expert", "lm_head")
NATIVE: dict[str, Arithmetic] = {
    "fp32": "fp32", "tf32": "tf32", "bf16": "bf16", "fp16": "fp16", "fp8": "fp8", "fp8_block": "fp8", "int8": "int8", "nvfp4": "fp4",
}  # fmt: skip
"""Formats that devices multiply in; mxfp4 and int4 are formats of weights, multiplied in 16 bits."""


class Precisions(NamedTuple):
    """Names of `BYTES_PER_ELEMENT`: how weights are stored, how KV is stored, in what the arithmetic is done."""

    weights: Precision
    kv: Precision
    activations: Precision


class Transfer(NamedTuple):
    """How an engine's kernels compare with the operator tables': launches (of experts apart), arithmetic, memory traffic, ... take so many times as
    long [1]; and the rows of each block-scaled expert are filled up to `expert_tile`, None: they are not."""

    launch: float = 1.0
    experts: float = 1.0
    compute: float = 1.0
    memory: float = 1.0
    quantise: float = 1.0
    expert_tile: int | None = None


class Parallel(NamedTuple):
    """How a replica's devices share a model.

    `tensor` devices share every matrix, `pipeline` stages the layers; of `attention_dp` groups each keeps its own sequences and all of
    attention; `expert` devices hold whole experts, of a slice each where there are more devices.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    attention_dp: int = 1

    @property
    def devices(self) -> int:
        """Of one replica."""
        return self.tensor * self.pipeline * self.attention_dp

    @property
    def expert_slices(self) -> float:
        """Devices that share one expert."""
        return self.tensor * self.attention_dp / self.expert


class Shard:
    """One device's share of a model. Raises ValueError for what the profile has no constants for.

    Tokens, rows and contexts are of one group of `attention_dp` and one
    micro-batch. `halves` counts attention and MLP halves of layers: two for most layers, one where they alternate.
    """

    def __init__(
        self, model: Model, profile: Profile, transfer: Transfer, parallel: Parallel, precision: Precisions
    ) -> None:
        sustained = profile.step.sustained.value if profile.step.sustained is not None else Sustained()
        self._parallel, self._transfer = parallel, transfer
        self._launch, self._experts_launch = transfer.launch * sustained.launch, transfer.experts * sustained.launch
        self._pace, self._narrow_pace = 1.0 / transfer.compute, sustained.narrow / transfer.compute
        self._model, self._profile, self._precision = model, profile, precision
        self._bandwidth = profile.memory.bandwidth.value * sustained.memory / transfer.memory
        self._sram = profile.memory.sram.value if profile.memory.sram is not None else 0.0
        self._check()
        self._layers = list(self._attention())
        self.halves = sum(group.count * (bool(group.out) + bool(group.mlp or group.experts)) for group in model.groups)

    # -- what depends on the number of tokens alone --------------------------------------------------------------------

    def trunk(self, tokens: float) -> Iterator[Operator]:
        """Products, experts, elementwise and what passes between devices, for `tokens` tokens."""
        hidden, parallel = self._model.hidden, self._parallel
        for group in self._model.groups:
            for operator in self._products(group, tokens):
                yield operator.times(group.count)
        share = self._gemm_constants("attention").bandwidth
        yield elementwise(self._bandwidth, share, self._launch, tokens, hidden).times(self.halves / 2)
        size = ACTIVATION_BYTES * tokens * hidden
        if parallel.tensor > 1:
            yield Operator("all-reduce", link_s=self._all_reduce_s(size)).times(self._all_reduces)
        if parallel.attention_dp > 1:
            everyone, together = parallel.tensor * parallel.attention_dp, size * parallel.attention_dp
            for kind, constants in (
                ("all-gather", self._profile.step.all_gather),
                ("reduce-scatter", self._profile.step.reduce_scatter),
            ):
                seconds = self._collective_s(kind, constants, together, everyone)
                yield Operator(kind, link_s=seconds).times(self._expert_layers)
        if parallel.pipeline > 1:
            seconds = self._collective_s("send-receive", self._profile.step.send_receive, size, 2)
            yield Operator("send-receive", link_s=seconds).times(parallel.pipeline)

    @property
    def collectives(self) -> int:
        """Collectives of a step."""
        parallel = self._parallel
        everyone = 2 * self._expert_layers if parallel.attention_dp > 1 else 0
        return (
            everyone
            + (self._all_reduces if parallel.tensor > 1 else 0)
            + (parallel.pipeline if parallel.pipeline > 1 else 0)
        )

    @property
    def _all_reduces(self) -> int:
        return self.halves - (self._expert_layers if self._parallel.attention_dp > 1 else 0)

    @property
    def _expert_layers(self) -> int:
        return sum(group.count for group in self._model.groups if group.experts)

    def _products(self, group: LayerGroup, tokens: float) -> Iterator[Operator]:
        """Matrix products of one layer."""
        hidden, tp = self._model.hidden, self._parallel.tensor
        if group.out:
            yield self._gemm("QKV", "attention", tokens, hidden, group.qkv / hidden / tp)
            yield self._gemm("attention out", "attention", tokens, group.out / hidden / tp, hidden)
        router = hidden * group.experts
        if dense := group.mlp - router:
            up = dense * 2 // 3
            yield self._gemm("MLP up", "mlp", tokens, hidden, up / hidden / tp)
            yield self._gemm("MLP down", "mlp", tokens, (dense - up) / hidden / tp, hidden)
        if group.experts:
            yield self._gemm("router", "lm_head", tokens, hidden, group.experts)
            yield self._experts(group, tokens)

    def head(self, sampled: float) -> Iterator[Operator]:
        """The LM head, for the rows that emit a token; every device gathers all logits and samples all rows, as engines do."""
        tp, vocab = self._parallel.tensor, self._model.vocab
        yield self._gemm("LM head", "lm_head", sampled, self._model.hidden, vocab / tp)
        if tp > 1:
            size = ACTIVATION_BYTES * sampled * vocab
            yield Operator(
                "all-gather, logits", link_s=self._collective_s("all-gather", self._profile.step.all_gather, size, tp)
            )
        yield sampler(self._bandwidth, self._gemm_constants("lm_head").bandwidth, self._launch, sampled, vocab)

    def _gemm(self, name: str, part: Part, rows: float, inner: float, outer: float) -> Operator:
        kernel = self._kernel(part)
        arithmetic = self._arithmetic(kernel)
        weight_bytes = self._model.element_bytes(part, self._precision.weights)
        operator = gemm(
            name, self._gemm_constants(part), self._speed(arithmetic), self._bandwidth, self._launch,
            rows, inner, outer, weight_bytes, BYTES_PER_ELEMENT[arithmetic],
        )  # fmt: skip
        return operator._replace(flops=operator.flops * self._flop_weight(arithmetic))

    def _experts(self, group: LayerGroup, tokens: float) -> Operator:
        """Routed experts: those touched are read whole, each token computes its own."""
        parallel, kernel = self._parallel, self._kernel("expert")
        arithmetic = self._arithmetic(kernel)
        everyone = tokens * parallel.attention_dp
        weights = group.expert / parallel.expert_slices
        picks = everyone * group.experts_per_token
        here = group.experts / parallel.expert
        touched = experts_touched(here, group.experts_per_token / group.experts, everyone, self._model.expert_skew)
        width = group.expert / (3.0 * self._model.hidden) / parallel.expert_slices
        operator = experts(
            self._profile.step.experts[kernel].value, self._profile.flops[arithmetic].value, self._bandwidth, self._experts_launch,
            picks / parallel.expert, picks, touched, self._model.hidden, width, weights,
            self._model.element_bytes("expert", self._precision.weights), self._sram, self._padded(kernel, here, picks),
        )  # fmt: skip
        return operator._replace(flops=operator.flops * self._flop_weight(arithmetic))

    def _padded(self, kernel: Precision, here: float, picks: float) -> float:
        """Rows that a kernel with a contiguous layout computes for nothing: its buffer has room for all picks of the group and for each of
        `here` experts to fill its last tile, and all of it is multiplied."""
        tile = self._transfer.expert_tile
        if tile is None or kernel != "fp8_block":
            return 0.0
        return picks - picks / self._parallel.expert + here * (tile - 1)

    # -- between devices -----------------------------------------------------------------------------------------------

    def _all_reduce_s(self, size: float) -> float:
        """By the engine's own kernel where it has one for this size, and it is not dearer, else as a collective."""
        step, devices, link = self._profile.step, self._parallel.tensor, self._profile.scale_up
        seconds = self._collective_s("all-reduce", step.all_reduce, size, devices)
        own = step.one_kernel.value if step.one_kernel is not None else None
        if own is not None and link is not None and size < own.below and devices <= own.most:
            seconds = min(seconds, one_kernel_s(size, devices, own, link.bandwidth.value))
        return seconds

    def _collective_s(self, kind: str, constants: Fact[Collective] | None, size: float, devices: int) -> float:
        """Over the scale-up link, or the network where these devices do not fit into its domain; stages where the replica does not."""
        profile, spread = self._profile, self._parallel.devices if kind == "send-receive" else devices
        assert constants is not None  # `_check` has seen to it
        inside = profile.scale_up is not None and spread <= profile.scale_up.domain
        link = profile.scale_up if inside else profile.scale_out
        assert link is not None
        speed = link.value if isinstance(link, Fact) else link.bandwidth.value
        return collective_s(kind, size, devices, constants.value, speed)

    # -- attention -----------------------------------------------------------------------------------------------------

    def decode(self, rows: float) -> Iterator[tuple[Operator, Operator, bool]]:
        """Of each kind of layer: what decoding `rows` sequences takes whatever their context, what each token of context adds, and whether
        it is limited to what the window or the top-k lets through."""
        constants, peak = self._profile.step.decode_attention[self._precision.kv].value, self._peak()
        for layer in self._layers:
            fixed_s, compute_s, memory_s = decode_attention(layer, constants, peak, self._bandwidth, self._launch, rows)
            each = Operator(
                "attention, decode", 0.0, compute_s, memory_s,
                bytes=layer.layers * layer.key_bytes, flops=layer.layers * layer.decode_flops,
            )  # fmt: skip
            yield Operator("attention", fixed_s), each, layer.limited

    def prefill(
        self, tokens: float, whole: tuple[float, float, float], limited: tuple[float, float, float]
    ) -> Iterator[Operator]:
        """Attention of prompt chunks of `tokens` tokens; (pairs, keys, longest) of layers that see all, and of limited ones."""
        constants, peak = self._profile.step.prefill_attention[self._precision.kv].value, self._peak()
        for layer in self._layers:
            pairs, keys, longest = limited if layer.limited else whole
            yield prefill_attention(layer, constants, peak, self._bandwidth, self._launch, tokens, pairs, keys, longest)

    def prefill_rates(self) -> Iterator[tuple[bool, Operator, Operator, float]]:
        """Of each kind of layer: whether it is limited, one more pair, one more key, and the pairs per key of the longest that are the least
        work; `prefill` is linear in pairs, keys and tokens but for the maximum of arithmetic and memory."""
        constants, peak = self._profile.step.prefill_attention[self._precision.kv].value, self._peak()
        for layer in self._layers:
            rates = (constants, peak, self._bandwidth, 0.0)
            pair = prefill_attention(layer, *rates, 0.0, 1.0, 0.0, 0.0)
            yield (
                layer.limited,
                pair,
                prefill_attention(layer, *rates, 0.0, 0.0, 1.0, 0.0),
                constants.rows / layer.heads,
            )

    def _attention(self) -> Iterator[Attention]:
        """Attention whose work grows with context: keys and values, and indexers, which see all where attention is limited.

        A cache that is not split by heads is decoded in its compressed form and prefilled with keys and values expanded per head.
        """
        tp, kv_bytes = self._parallel.tensor, BYTES_PER_ELEMENT[self._precision.kv]
        for group in self._model.groups:
            heads = group.heads / tp
            if group.kv_elements:
                shards = self._shards(group)
                per_pair = 2.0 * heads * (group.head_dim + group.value_dim)
                absorbed = 4.0 * heads * group.kv_elements
                new = ACTIVATION_BYTES * (heads * (group.head_dim + group.value_dim) + group.kv_elements / shards)
                yield Attention(
                    group.limit is not None, group.count, heads, max(group.kv_heads / shards, 1.0), group.kv_elements * kv_bytes / shards,
                    per_pair if group.kv_sharded else absorbed, per_pair, new,
                )  # fmt: skip
            if group.index_elements:
                flops = 2.0 * group.index_heads * group.index_elements
                size = group.index_elements * INDEX_BYTES
                yield Attention(False, group.count, group.index_heads, 1.0, size, flops, flops, 0.0)

    def per_row(self, rows: float) -> list[Operator]:
        """What a decoding sequence reads whatever its length: linear states, also written, and windows beside compressed keys."""
        speed, peak = self._attention_roofs()
        states = 2.0 * rows * STATE_BYTES * self._state_elements()
        window_bytes = rows * self._window_elements() * BYTES_PER_ELEMENT[self._precision.kv]
        window_flops = rows * self._window_flops()
        return [
            Operator("states, decode", memory_s=states / speed, bytes=states),
            Operator("windows, decode", memory_s=max(window_bytes / speed, window_flops / peak), bytes=window_bytes, flops=window_flops),
        ]  # fmt: skip

    def per_prompt_token(self, tokens: float) -> list[Operator]:
        """The arithmetic of the same for prompt tokens; each chunk reads its state and window once, which is not counted."""
        _, peak = self._attention_roofs()
        scanned, windows = tokens * STATE_FLOPS * self._state_elements(), tokens * self._window_flops()
        return [
            Operator("states, prefill", compute_s=scanned / peak, flops=scanned),
            Operator("windows, prefill", compute_s=windows / peak, flops=windows),
        ]

    def linear_launches(self) -> Operator:
        """One kernel for each layer that keeps no cache of tokens."""
        layers = sum(group.count for group in self._model.groups if group.out and not group.kv_elements)
        t0 = self._profile.step.decode_attention[self._precision.kv].value.t0
        return Operator("attention", self._launch * t0 * layers)

    def _attention_roofs(self) -> tuple[float, float]:
        """Bandwidth [B/s] and arithmetic [FLOP/s] that attention kernels reach; they compute in 16 bits."""
        step, kv = self._profile.step, self._precision.kv
        return step.decode_attention[kv].value.bandwidth * self._bandwidth, step.prefill_attention[
            kv
        ].value.compute * self._peak()

    def _state_elements(self) -> float:
        """Elements of one sequence's linear states on this device."""
        return sum(group.count * group.state_elements / self._shards(group) for group in self._model.groups)

    def _window_elements(self) -> float:
        """Elements of one sequence's windows beside compressed keys, on each device: full ones, an overestimate for shorter contexts."""
        return float(sum(group.count * group.window * group.window_elements for group in self._compressed()))

    def _window_flops(self) -> float:
        """Operations of one query over them: scores and values."""
        return sum(
            group.count * 4.0 * group.heads * group.window * group.window_elements / self._parallel.tensor
            for group in self._compressed()
        )

    def _compressed(self) -> list[LayerGroup]:
        return [group for group in self._model.groups if group.attention == "compressed"]

    def _shards(self, group: LayerGroup) -> int:
        """Devices that a group's cache is split over: heads repeat where there are more devices, latent vectors are on each."""
        return min(self._parallel.tensor, group.kv_heads) if group.kv_sharded else 1

    # -- precisions ----------------------------------------------------------------------------------------------------

    def _kernel(self, part: Part) -> Precision:
        """The kernel that multiplies a part: of its stored format; of the activations' where they are wider; 16 bits for weights alone.

        Experts stored in mxfp4 or int4 have kernels of their own where a profile has constants for them.
        """
        stored: Precision = self._model.part_precision(part, self._precision.weights)  # type: ignore[assignment]
        if stored in SIXTEEN_BITS:
            return self._sixteen()
        acts = self._precision.activations
        if stored in NATIVE and BYTES_PER_ELEMENT[acts] > BYTES_PER_ELEMENT[NATIVE[stored]] * 1.01:
            return self._sixteen() if acts in SIXTEEN_BITS else acts
        if stored in NATIVE:
            return stored
        return stored if part == "expert" and stored in self._profile.step.experts else self._sixteen()

    def _arithmetic(self, kernel: Precision) -> Arithmetic:
        """What a kernel multiplies in: mxfp4 meets 8-bit activations at the 8-bit rate on devices with 4-bit units, else 16 bits."""
        if kernel == "mxfp4" and self._precision.activations == "fp8" and "fp4" in self._profile.flops:
            return "fp8"
        return NATIVE.get(kernel) or self._sixteen()

    def _sixteen(self) -> Arithmetic:
        return next((name for name in SIXTEEN_BITS if name in self._profile.flops), "bf16")

    def _peak(self) -> float:
        """Operations per second in 16 bits, as attention kernels compute [FLOP/s]."""
        return self._speed(self._sixteen())

    def _speed(self, arithmetic: Arithmetic) -> float:
        """Operations per second that a kernel's share of the peak is of [FLOP/s]."""
        pace = self._narrow_pace if BYTES_PER_ELEMENT[arithmetic] < 2 else self._pace
        return self._profile.flops[arithmetic].value * pace

    @property
    def sixteen_bit_peak(self) -> float:
        """The device's own, whatever an engine reaches of it [FLOP/s]."""
        return self._profile.flops[self._sixteen()].value

    def _gemm_constants(self, part: Part) -> Gemm:
        constants, factor = self._profile.step.gemm[self._kernel(part)].value, self._transfer.quantise
        quantised = {"quantise": constants.quantise * factor, "quantise_row": constants.quantise_row * factor}
        return constants if factor == 1.0 else constants.model_copy(update=quantised)

    def _flop_weight(self, arithmetic: Arithmetic) -> float:
        """Energy of an operation against a 16-bit one: as the peaks are, 16 bits to this precision."""
        flops = self._profile.flops
        return flops[self._sixteen()].value / flops[arithmetic].value

    def _check(self) -> None:
        """Raise ValueError, naming the choices, for a format or a spread over devices that the profile has no constants for."""
        profile, step = self._profile, self._profile.step
        for part in PARTS:
            kernel = self._kernel(part)
            arithmetic = self._arithmetic(kernel)
            if arithmetic not in profile.flops or (kernel in NATIVE and kernel not in step.gemm):
                known = ", ".join(name for name in step.gemm if NATIVE.get(name) in profile.flops)
                raise ValueError(
                    f"`{profile.name}` has no {kernel} arithmetic; it has: {known}; weights alone may be narrower, as in `precision: {{weights: {kernel}, activations: bf16}}`"
                )
            if part == "expert" and any(group.experts for group in self._model.groups) and kernel not in step.experts:
                raise ValueError(
                    f"`{profile.name}` has no constants for {kernel} experts; it has: {', '.join(step.experts)}"
                )
        kv = self._precision.kv
        if kv not in step.decode_attention or kv not in step.prefill_attention:
            known = ", ".join(name for name in step.decode_attention if name in step.prefill_attention)
            raise ValueError(f"`{profile.name}` has no attention over a {kv} cache; it has: {known}")
        self._check_links()

    def _check_links(self) -> None:
        profile, step, parallel = self._profile, self._profile.step, self._parallel
        needed = {
            "all_reduce": parallel.tensor > 1, "all_gather": parallel.attention_dp > 1 or parallel.tensor > 1, "reduce_scatter": parallel.attention_dp > 1,
            "send_receive": parallel.pipeline > 1,
        }  # fmt: skip
        if parallel.devices > 1 and profile.scale_up is None and (parallel.tensor > 1 or profile.scale_out is None):
            raise ValueError(
                f"`{profile.name}` has no scale-up link: expected tensor_parallel 1, got {parallel.tensor}"
            )
        if profile.scale_up is not None and parallel.devices > profile.scale_up.domain and profile.scale_out is None:
            raise ValueError(
                f"`{profile.name}` has no network: expected at most {profile.scale_up.domain} devices, got {parallel.devices}"
            )
        for name, wanted in needed.items():
            if wanted and getattr(step, name) is None:
                raise ValueError(f"`{profile.name}` has no constants for {name}")
