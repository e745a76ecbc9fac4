"""Time and energy of one engine step of a model on a device: affine in context, which is what runs of steps rest on."""

from collections.abc import Iterator
from typing import NamedTuple

from simfleet.hardware.profile import Gemm, Precision, Profile
from simfleet.hardware.roofline import Operator, all_reduce, elementwise, experts_touched, gemm
from simfleet.workload.models import BYTES_PER_ELEMENT, LayerGroup, Model, Part

HOST = "host"
SIXTEEN_BITS: tuple[Precision, ...] = ("bf16", "fp16")
PARTS: tuple[Part, ...] = ("attention", "mlp", "expert", "lm_head")
DecodeLine = tuple[float, float, float, float, float, float]


class Precisions(NamedTuple):
    """Names of `BYTES_PER_ELEMENT`: how weights are stored, how KV is stored, in what the arithmetic is done."""

    weights: Precision
    kv: Precision
    activations: Precision


class HostConstants(NamedTuple):
    """The engine's share: per step [s], per sampled sequence [s], kernel launch time against the operator tables' [1]."""

    host_s: float
    per_sequence_s: float
    launch_factor: float


class Attention(NamedTuple):
    """All attention layers of one kind, on one device.

    Reading one token of context in a decode step takes `decode_s`; a prefill takes the slower of `pair_s` per query-key pair and
    `key_s` per key. `key_bytes` and `pair_flops` count their traffic and arithmetic.
    """

    limited: bool
    decode_s: float
    pair_s: float
    key_s: float
    key_bytes: float
    pair_flops: float
    decode_flops: float
    memory_bound: bool


def attended(prefix: int, tokens: int) -> int:
    """Query-key pairs of a chunk whose tokens see all before and themselves: sum of p over prefix < p <= prefix + tokens."""
    return tokens * prefix + tokens * (tokens + 1) // 2


def attended_limited(prefix: int, tokens: int, limit: int) -> int:
    """The same where each token sees at most `limit` tokens: sum of min(p, limit)."""
    growing = min(max(limit - prefix, 0), tokens)
    return attended(prefix, growing) + (tokens - growing) * limit


def keys_limited(prefix: int, tokens: int, limit: int) -> int:
    """Keys that a chunk reads where each token sees at most `limit`: from limit - 1 before its first token to its last."""
    return min(prefix + tokens, limit - 1 + tokens)


def step_cost(
    model: Model, profile: Profile, host: HostConstants, tensor_parallel: int, precision: Precisions
) -> "StepCost":
    """Step time and energy of `model` on `tensor_parallel` devices. Raises ValueError for what the profile cannot do."""
    return StepCost(model, profile, host, tensor_parallel, precision)


class StepCost:
    """One replica's step; joules are of all its devices, before the power limit: the engine takes min(limit_w * t, joules).

    Tokens, rows and contexts are counts. `limit` is the model's attention window or top-k, None where every layer sees all.
    """

    def __init__(
        self, model: Model, profile: Profile, host: HostConstants, tensor_parallel: int, precision: Precisions
    ) -> None:
        self.devices = tensor_parallel
        self._model, self._profile, self._host, self._precision = model, profile, host, precision
        self._bandwidth = profile.memory.bandwidth.value
        self._check()
        self.limit = _one_limit(model)
        power = profile.power
        self.limit_w, self.idle_w, self.gap_w = (
            watts.value * tensor_parallel for watts in (power.limit, power.idle, power.gap)
        )
        self._attention = [self._attention_of(group) for group in model.groups if group.kv_elements]
        self._launch_s = len(self._attention) and host.launch_factor * profile.step.decode_attention_t0.value * sum(
            group.count for group in model.groups if group.kv_elements
        )
        self._decode_lines: dict[int, DecodeLine] = {}
        self._trunks: dict[int, tuple[float, float]] = {}
        self._heads: dict[int, tuple[float, float]] = {}

    # -- what the engine asks ------------------------------------------------------------------------------------------

    def decode(self, rows: int) -> DecodeLine:
        """(t0, t_ctx, t_lim, e0, e_ctx, e_lim) of a decode-only step of `rows` sequences.

        With S the summed context, the token being written included, and W the sum of min(context, limit):
        seconds = t0 + t_ctx*S + t_lim*W, joules = e0 + e_ctx*S + e_lim*W.
        """
        line = self._decode_lines.get(rows)
        if line is None:
            line = self._decode_lines[rows] = self._decode_line(rows)
        return line

    def mixed(
        self, tokens: int, sampled: int, rows: int, context: int, limited: int, pairs: int, keys: int, pairs_limited: int, keys_seen: int
    ) -> tuple[float, float]:  # fmt: skip
        """Seconds and joules of a step of `tokens` tokens: `rows` decodes, the rest prompt chunks; `sampled` rows emit a token.

        context, limited           -- S and W of the decodes, as in `decode`
        pairs, keys                -- over the chunks: sum of `attended`, and of prefix + chunk
        pairs_limited, keys_seen   -- the same for layers with a limit: `attended_limited`, `keys_limited`
        """
        trunk = self._trunks.get(tokens) or self._trunk(tokens)
        head = self._heads.get(sampled) or self._head(sampled)
        seconds, joules = trunk[0] + head[0], trunk[1] + head[1]
        if rows:
            _, t_ctx, t_lim, _, e_ctx, e_lim = self.decode(rows)
            fixed_s, fixed_j = self._rows(rows)
            seconds += fixed_s + t_ctx * context + t_lim * limited
            joules += fixed_j + e_ctx * context + e_lim * limited
        if pairs:
            prefill_s, prefill_j = self._prefill(pairs, keys, pairs_limited, keys_seen)
            seconds += prefill_s
            joules += prefill_j
        return seconds, joules

    def binding(self, rows: int, context: int) -> dict[str, float]:
        """Seconds of a decode step of `rows` sequences of `context` tokens each, by the resource that they wait for."""
        host_s = self._host.host_s + self._host.per_sequence_s * rows
        waits = {HOST: host_s}
        for operator in [*self.trunk_operators(rows), self.head_operator(rows), *self._decode_operators(rows, context)]:
            for resource, seconds in operator.by_resource().items():
                waits[resource] = waits.get(resource, 0.0) + seconds
        return waits

    # -- parts of a step -----------------------------------------------------------------------------------------------

    def _decode_line(self, rows: int) -> DecodeLine:
        slopes = [0.0, 0.0, 0.0, 0.0]
        for part in self._attention:
            slopes[part.limited] += part.decode_s
            slopes[2 + part.limited] += self._joules(part.decode_s, part.key_bytes, part.decode_flops)
        parts = [self._trunk(rows), self._head(rows), self._rows(rows)]
        t0, e0 = sum(part[0] for part in parts), sum(part[1] for part in parts)
        return (t0, slopes[0], slopes[1], e0, slopes[2], slopes[3])

    def _trunk(self, tokens: int) -> tuple[float, float]:
        """What depends on the number of tokens alone: projections, MLP or experts, elementwise, all-reduce."""
        operators = list(self.trunk_operators(tokens))
        seconds = sum(operator.seconds for operator in operators)
        moved, flops = sum(operator.bytes for operator in operators), sum(operator.flops for operator in operators)
        per_token = (
            self._profile.power.per_token_layer.value * tokens * sum(group.count for group in self._model.groups)
        )
        self._trunks[tokens] = (seconds, self._joules(seconds, moved, flops) + per_token * self.devices)
        return self._trunks[tokens]

    def _head(self, sampled: int) -> tuple[float, float]:
        """What depends on the rows that emit a token: the LM head, and the host, while which the device waits."""
        operator = self.head_operator(sampled)
        host_s = self._host.host_s + self._host.per_sequence_s * sampled
        joules = self._joules(operator.seconds, operator.bytes, operator.flops) + self.gap_w * host_s
        self._heads[sampled] = (operator.seconds + host_s, joules)
        return self._heads[sampled]

    def _rows(self, rows: int) -> tuple[float, float]:
        """What decode attention takes whatever the context: launches, and the states of linear layers."""
        operators = self._state_operators(rows)
        seconds = self._launch_s + sum(operator.seconds for operator in operators)
        return seconds, self._joules(seconds, sum(operator.bytes for operator in operators), 0.0)

    def _prefill(self, pairs: int, keys: int, pairs_limited: int, keys_seen: int) -> tuple[float, float]:
        """Attention of the prompt chunks of a step."""
        seconds, moved, flops = self._launch_s, 0.0, 0.0
        for part in self._attention:
            a, k = (pairs_limited, keys_seen) if part.limited else (pairs, keys)
            seconds += max(part.pair_s * a, part.key_s * k)
            moved += part.key_bytes * k
            flops += part.pair_flops * a
        return seconds, self._joules(seconds, moved, flops)

    def _joules(self, busy_s: float, moved: float, flops: float) -> float:
        """E = (P_busy*t + e_byte*bytes + e_flop*flops) * devices [J]; bytes and 16-bit-equivalent flops of one device."""
        power = self._profile.power
        return (power.busy.value * busy_s + power.per_byte.value * moved + power.per_flop.value * flops) * self.devices

    # -- operators -----------------------------------------------------------------------------------------------------

    def trunk_operators(self, tokens: int) -> Iterator[Operator]:
        """All operators, layers summed, whose work depends on the number of tokens alone."""
        step, launch = self._profile.step, self._host.launch_factor
        hidden, layers = self._model.hidden, sum(group.count for group in self._model.groups)
        for group in self._model.groups:
            for operator in (*self._projections(group, tokens), *self._feed_forward(group, tokens)):
                yield operator.times(group.count)
        efficiency = self._constants(self._arithmetic("attention")).bandwidth.value
        yield elementwise(self._bandwidth, efficiency, launch, tokens, hidden).times(layers)
        if self.devices > 1 and step.all_reduce is not None and self._profile.scale_up is not None:
            alpha_s, share = step.all_reduce.alpha.value[self.devices], step.all_reduce.efficiency.value[self.devices]
            link = self._profile.scale_up.bandwidth.value
            yield all_reduce(alpha_s, share, link, launch, tokens, hidden, self.devices).times(2 * layers)

    def head_operator(self, sampled: int) -> Operator:
        """The LM head, for the rows that emit a token."""
        return self._gemm("LM head", "lm_head", sampled, self._model.lm_head)

    def _projections(self, group: LayerGroup, tokens: int) -> Iterator[Operator]:
        yield self._gemm("QKV", "attention", tokens, group.qkv)
        yield self._gemm("attention out", "attention", tokens, group.out)

    def _feed_forward(self, group: LayerGroup, tokens: int) -> Iterator[Operator]:
        if group.mlp:
            yield self._gemm("MLP up", "mlp", tokens, group.mlp * 2 // 3)
            yield self._gemm("MLP down", "mlp", tokens, group.mlp - group.mlp * 2 // 3)
        if group.experts:
            yield self._experts(group, tokens)

    def _gemm(self, name: str, part: Part, tokens: int, weights: int) -> Operator:
        arithmetic, on_device = self._arithmetic(part), weights / self.devices
        activations = (self._model.hidden + on_device / self._model.hidden) * BYTES_PER_ELEMENT[arithmetic]
        moved = on_device * self._model.element_bytes(part, self._precision.weights) + tokens * activations
        constants, peak = self._constants(arithmetic), self._profile.flops[arithmetic].value
        operator = gemm(name, constants, peak, self._bandwidth, self._host.launch_factor, tokens, on_device, moved)
        return operator._replace(flops=operator.flops * self._flop_weight(arithmetic))

    def _experts(self, group: LayerGroup, tokens: int) -> Operator:
        """Routed experts: those touched are read whole, each token computes its own."""
        step, arithmetic, k = self._profile.step, self._arithmetic("expert"), group.experts_per_token
        weights = group.expert / self.devices
        flops = 2.0 * tokens * k * weights
        read = (
            experts_touched(group.experts, k, tokens)
            * weights
            * self._model.element_bytes("expert", self._precision.weights)
        )
        passed = 8.0 * tokens * k * self._model.hidden
        efficiency = self._constants(arithmetic).bandwidth.value
        memory_s = read / (step.moe_bandwidth.value * self._bandwidth)
        compute_s = flops / (step.moe_compute.value * self._profile.flops[arithmetic].value)
        extra_s = passed / (efficiency * self._bandwidth)
        launch_s = self._host.launch_factor * step.moe_t0.value
        return Operator(
            "experts",
            launch_s,
            compute_s + extra_s,
            memory_s + extra_s,
            0.0,
            read + passed,
            flops * self._flop_weight(arithmetic),
        )

    def _attention_of(self, group: LayerGroup) -> Attention:
        """Attention layers of one group, per token of context and per query-key pair."""
        step, tp = self._profile.step, self.devices
        peak = self._profile.flops[self._sixteen()].value * step.prefill_attention_compute.value
        bandwidth = self._bandwidth * step.decode_attention_bandwidth.value
        shards = min(tp, group.kv_heads) if group.kv_sharded else 1
        key_bytes = group.count * group.kv_elements * BYTES_PER_ELEMENT[self._precision.kv] / shards
        pair_flops = group.count * 2.0 * group.heads * (group.head_dim + group.value_dim) / tp
        decode_flops = pair_flops if group.kv_sharded else group.count * 4.0 * group.heads * group.kv_elements / tp
        key_s, decode_s = key_bytes / bandwidth, decode_flops / peak
        return Attention(
            group.limit is not None,
            max(key_s, decode_s),
            pair_flops / peak,
            key_s,
            key_bytes,
            pair_flops,
            decode_flops,
            key_s >= decode_s,
        )

    def _decode_operators(self, rows: int, context: int) -> Iterator[Operator]:
        yield Operator("attention", self._launch_s)
        for part in self._attention:
            seen = rows * (min(context, self.limit) if part.limited and self.limit is not None else context)
            memory_s, compute_s = (part.decode_s * seen, 0.0) if part.memory_bound else (0.0, part.decode_s * seen)
            yield Operator("attention", 0.0, compute_s, memory_s, 0.0, part.key_bytes * seen, part.decode_flops * seen)
        yield from self._state_operators(rows)

    def _state_operators(self, rows: int) -> list[Operator]:
        """Linear layers read and write one state per sequence and step."""
        bandwidth = self._bandwidth * self._profile.step.decode_attention_bandwidth.value
        launch_s = self._host.launch_factor * self._profile.step.decode_attention_t0.value
        operators = []
        for group in self._model.groups:
            if group.state_elements:
                moved = (
                    2.0
                    * rows
                    * group.count
                    * group.state_elements
                    * BYTES_PER_ELEMENT[self._precision.kv]
                    / self.devices
                )
                operators.append(Operator("states", group.count * launch_s, 0.0, moved / bandwidth, 0.0, moved))
        return operators

    # -- precisions ----------------------------------------------------------------------------------------------------

    def _arithmetic(self, part: Part) -> Precision:
        """Precision in which a part is multiplied: its own where it is stored in 16 bits, else the activations'."""
        stored = self._model.part_precision(part, self._precision.weights)
        return self._sixteen() if stored in SIXTEEN_BITS else self._precision.activations

    def _sixteen(self) -> Precision:
        return next((name for name in SIXTEEN_BITS if name in self._profile.flops), self._precision.activations)

    def _constants(self, arithmetic: Precision) -> Gemm:
        return self._profile.step.gemm[arithmetic]

    def _flop_weight(self, arithmetic: Precision) -> float:
        """Energy of an operation against a 16-bit one: as the peaks are, 16 bits to this precision."""
        flops = self._profile.flops
        return flops[self._sixteen()].value / flops[arithmetic].value

    def _check(self) -> None:
        """Raise ValueError, naming the choices, for a precision or a number of devices that the profile has no constants for."""
        profile, tp = self._profile, self.devices
        for part in PARTS:
            arithmetic = self._arithmetic(part)
            if arithmetic not in profile.flops or arithmetic not in profile.step.gemm:
                known = ", ".join(name for name in profile.flops if name in profile.step.gemm)
                raise ValueError(f"`{profile.name}` has no {arithmetic} arithmetic; it has: {known}")
        if tp > 1 and (profile.step.all_reduce is None or profile.scale_up is None):
            raise ValueError(f"`{profile.name}` has no scale-up link: expected tensor_parallel 1, got {tp}")
        if tp > 1 and profile.step.all_reduce is not None and tp not in profile.step.all_reduce.alpha.value:
            known = ", ".join(str(n) for n in (1, *profile.step.all_reduce.alpha.value))
            raise ValueError(f"`{profile.name}` has all-reduce constants for tensor_parallel {known}, not {tp}")


def _one_limit(model: Model) -> int | None:
    """The one attention limit of a model's layers; the engine follows one."""
    limits = sorted({group.limit for group in model.groups if group.limit is not None})
    if len(limits) > 1:
        raise ValueError(f"`{model.name}` has layers with different attention limits {limits}: expected at most one")
    return limits[0] if limits else None
