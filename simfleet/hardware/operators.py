"""What a step of a model asks of each device: its operators, layers summed."""

from collections.abc import Iterator
from typing import NamedTuple, cast

from simfleet.hardware.profile import Gemm, Precision, Profile
from simfleet.hardware.roofline import Attention, Operator, all_reduce, elementwise, experts, experts_touched, gemm
from simfleet.workload.models import (
    BYTES_PER_ELEMENT,
    INDEX_BYTES,
    STATE_BYTES,
    STATE_FLOPS,
    LayerGroup,
    Model,
    Part,
)

SIXTEEN_BITS: tuple[Precision, ...] = ("bf16", "fp16")
PARTS: tuple[Part, ...] = ("attention", "mlp", "expert", "lm_head")


class Precisions(NamedTuple):
    """Names of `BYTES_PER_ELEMENT`: how weights are stored, how KV is stored, in what the arithmetic is done."""

    weights: Precision
    kv: Precision
    activations: Precision


class Shard:
    """One device's share of a model under tensor parallelism. Raises ValueError for what the profile has no constants for.

    `launch` is the kernel launch time against the operator tables' [1]. `halves` counts attention and MLP halves of layers: two for most
    layers, one where they alternate.
    """

    def __init__(
        self, model: Model, profile: Profile, launch: float, tensor_parallel: int, precision: Precisions
    ) -> None:
        self._devices, self._launch = tensor_parallel, launch
        self._model, self._profile, self._precision = model, profile, precision
        self._bandwidth = profile.memory.bandwidth.value
        self._check()
        self.halves = sum(group.count * (bool(group.out) + bool(group.mlp or group.experts)) for group in model.groups)

    def trunk(self, tokens: int) -> Iterator[Operator]:
        """Operators whose work depends on the number of tokens alone: products, experts, elementwise, all-reduce."""
        hidden = self._model.hidden
        for group in self._model.groups:
            for operator in self._products(group, tokens):
                yield operator.times(group.count)
        efficiency = self._gemm_constants("attention").bandwidth.value
        yield elementwise(self._bandwidth, efficiency, self._launch, tokens, hidden).times(self.halves / 2)
        sums, link = self._profile.step.all_reduce, self._profile.scale_up
        if self._devices > 1 and sums is not None and link is not None:
            alpha_s, share = sums.alpha.value[self._devices], sums.efficiency.value[self._devices]
            speed = link.bandwidth.value
            operator = all_reduce(alpha_s, share, speed, self._launch, tokens, hidden, self._devices)
            yield operator.times(self.halves)

    def _products(self, group: LayerGroup, tokens: int) -> Iterator[Operator]:
        """Matrix products of one layer."""
        if group.out:
            yield self._gemm("QKV", "attention", tokens, group.qkv)
            yield self._gemm("attention out", "attention", tokens, group.out)
        router = self._model.hidden * group.experts
        if dense := group.mlp - router:
            up = dense * 2 // 3
            yield self._gemm("MLP up", "mlp", tokens, up)
            yield self._gemm("MLP down", "mlp", tokens, dense - up)
        if group.experts:
            yield self._gemm("router", "mlp", tokens, router)
            yield self._experts(group, tokens)

    def head(self, sampled: int) -> Operator:
        """The LM head, for the rows that emit a token."""
        return self._gemm("LM head", "lm_head", sampled, self._model.lm_head)

    def _gemm(self, name: str, part: Part, tokens: int, weights: int) -> Operator:
        arithmetic, on_device = self._arithmetic(part), weights / self._devices
        activations = (self._model.hidden + on_device / self._model.hidden) * BYTES_PER_ELEMENT[arithmetic]
        moved = on_device * self._model.element_bytes(part, self._precision.weights) + tokens * activations
        constants, peak = self._gemm_constants(part), self._profile.flops[arithmetic].value
        operator = gemm(name, constants, peak, self._bandwidth, self._launch, tokens, on_device, moved)
        return operator._replace(flops=operator.flops * self._flop_weight(arithmetic))

    def _experts(self, group: LayerGroup, tokens: int) -> Operator:
        """Routed experts: those touched are read whole, each token computes its own."""
        arithmetic, weights = self._arithmetic("expert"), group.expert / self._devices
        picks = tokens * group.experts_per_token
        touched = experts_touched(group.experts, group.experts_per_token, tokens)
        read = touched * weights * self._model.element_bytes("expert", self._precision.weights)
        passed = 8.0 * picks * self._model.hidden
        passed_s = passed / (self._gemm_constants("expert").bandwidth.value * self._bandwidth)
        step, peak, launch = self._profile.step, self._profile.flops[arithmetic].value, self._launch
        operator = experts(step, peak, self._bandwidth, launch, 2.0 * picks * weights, read, passed_s)
        return operator._replace(bytes=read + passed, flops=operator.flops * self._flop_weight(arithmetic))

    def attention(self) -> Iterator[Attention]:
        """Attention whose work grows with context: keys and values, and indexers, which see all where attention is limited.

        A cache that is not split by heads is decoded in its compressed form and prefilled with keys and values expanded per head.
        """
        tp, kv_bytes = self._devices, BYTES_PER_ELEMENT[self._precision.kv]
        for group in self._model.groups:
            if group.kv_elements:
                key_bytes = group.count * group.kv_elements * kv_bytes / self._shards(group)
                pair_flops = group.count * 2.0 * group.heads * (group.head_dim + group.value_dim) / tp
                absorbed = group.count * 4.0 * group.heads * group.kv_elements / tp
                decode_flops = pair_flops if group.kv_sharded else absorbed
                yield self._attention_of(group.limit is not None, key_bytes, decode_flops, pair_flops)
            if group.index_elements:
                flops = group.count * 2.0 * group.index_heads * group.index_elements
                yield self._attention_of(False, group.count * group.index_elements * INDEX_BYTES, flops, flops)

    def _attention_of(self, limited: bool, key_bytes: float, decode_flops: float, pair_flops: float) -> Attention:
        bandwidth, peak = self._attention_roofs()
        seconds = key_bytes / bandwidth, decode_flops / peak, pair_flops / peak
        return Attention(limited, *seconds, key_bytes, decode_flops, pair_flops)

    def _attention_roofs(self) -> tuple[float, float]:
        """Bandwidth [B/s] and arithmetic [FLOP/s] that attention kernels reach; they compute in 16 bits."""
        step, peak = self._profile.step, self._profile.flops[self._sixteen()].value
        return step.decode_attention_bandwidth.value * self._bandwidth, step.prefill_attention_compute.value * peak

    def launches(self) -> list[Operator]:
        """One attention kernel per layer, for all decodes or for all chunks of a step."""
        launch_s = self._launch * self._profile.step.decode_attention_t0.value
        layers = sum(group.count for group in self._model.groups if group.out)
        return [Operator("attention", launch_s * layers)]

    def per_row(self, rows: int) -> list[Operator]:
        """What a decoding sequence reads whatever its length: linear states, also written, and windows beside compressed keys."""
        bandwidth, peak = self._attention_roofs()
        states = 2.0 * rows * STATE_BYTES * self._state_elements()
        window_bytes = rows * self._window_elements() * BYTES_PER_ELEMENT[self._precision.kv]
        window_flops = rows * self._window_flops()
        window_s = window_flops / peak, window_bytes / bandwidth
        return [
            Operator("states, decode", memory_s=states / bandwidth, bytes=states),
            Operator("windows, decode", 0.0, *window_s, bytes=window_bytes, flops=window_flops),
        ]

    def per_prompt_token(self, tokens: int) -> list[Operator]:
        """The arithmetic of the same for prompt tokens; each chunk reads its state and window once, which is not counted."""
        _, peak = self._attention_roofs()
        scanned, windows = tokens * STATE_FLOPS * self._state_elements(), tokens * self._window_flops()
        return [
            Operator("states, prefill", compute_s=scanned / peak, flops=scanned),
            Operator("windows, prefill", compute_s=windows / peak, flops=windows),
        ]

    def _state_elements(self) -> float:
        """Elements of one sequence's linear states on this device."""
        return sum(group.count * group.state_elements / self._shards(group) for group in self._model.groups)

    def _window_elements(self) -> float:
        """Elements of one sequence's windows beside compressed keys, on each device: full ones, an overestimate for shorter contexts."""
        return float(sum(group.count * group.window * group.window_elements for group in self._compressed()))

    def _window_flops(self) -> float:
        """Operations of one query over them: scores and values."""
        return sum(
            group.count * 4.0 * group.heads * group.window * group.window_elements / self._devices
            for group in self._compressed()
        )

    def _compressed(self) -> list[LayerGroup]:
        return [group for group in self._model.groups if group.attention == "compressed"]

    def _shards(self, group: LayerGroup) -> int:
        """Devices that a group's cache is split over: heads repeat where there are more devices, latent vectors are on each."""
        return min(self._devices, group.kv_heads) if group.kv_sharded else 1

    # -- precisions ----------------------------------------------------------------------------------------------------

    def _arithmetic(self, part: Part) -> Precision:
        """Precision in which a part is multiplied: 16 bits where it is stored so, else the wider of storage and activations."""
        stored = cast(Precision, self._model.part_precision(part, self._precision.weights))
        if stored in SIXTEEN_BITS:
            return self._sixteen()
        return max((self._precision.activations, stored), key=lambda name: BYTES_PER_ELEMENT[name])

    def _sixteen(self) -> Precision:
        return next((name for name in SIXTEEN_BITS if name in self._profile.flops), self._precision.activations)

    def _gemm_constants(self, part: Part) -> Gemm:
        return self._profile.step.gemm[self._arithmetic(part)]

    def _flop_weight(self, arithmetic: Precision) -> float:
        """Energy of an operation against a 16-bit one: as the peaks are, 16 bits to this precision."""
        flops = self._profile.flops
        return flops[self._sixteen()].value / flops[arithmetic].value

    def _check(self) -> None:
        """Raise ValueError, naming the choices, for a precision or a number of devices that the profile has no constants for."""
        profile, tp = self._profile, self._devices
        for part in PARTS:
            arithmetic = self._arithmetic(part)
            if arithmetic not in profile.flops or arithmetic not in profile.step.gemm:
                known = ", ".join(name for name in profile.flops if name in profile.step.gemm)
                raise ValueError(
                    f"`{profile.name}` has no {arithmetic} arithmetic; it has: {known}; weights alone may be narrower, as in `precision: {{weights: {arithmetic}, activations: bf16}}`"
                )
        sums = profile.step.all_reduce
        if tp != 1 and (sums is None or profile.scale_up is None):
            raise ValueError(f"`{profile.name}` has no scale-up link: expected tensor_parallel 1, got {tp}")
        if tp != 1 and sums is not None and not (tp in sums.alpha.value and tp in sums.efficiency.value):
            known = ", ".join(str(n) for n in (1, *sums.alpha.value))
            raise ValueError(f"`{profile.name}` has all-reduce constants for tensor_parallel {known}, not {tp}")
