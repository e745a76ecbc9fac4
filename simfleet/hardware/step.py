"""Time and energy of one engine step of a model on a device: affine in context, which is what runs of steps rest on."""

from collections.abc import Iterator
from typing import NamedTuple

from simfleet.hardware.profile import Gemm, Precision, Profile
from simfleet.hardware.roofline import Attention, Operator, all_reduce, elementwise, experts, experts_touched, gemm
from simfleet.workload.models import BYTES_PER_ELEMENT, LayerGroup, Model, Part

SIXTEEN_BITS: tuple[Precision, ...] = ("bf16", "fp16")
PARTS: tuple[Part, ...] = ("attention", "mlp", "expert", "lm_head")
DecodeLine = tuple[float, float, float, float, float, float]
Cost = tuple[float, float]
"""Seconds and joules."""


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
        watts = profile.power
        self.limit_w, self.idle_w, self.gap_w, self._busy_w = (
            fact.value * tensor_parallel for fact in (watts.limit, watts.idle, watts.gap, watts.busy)
        )
        self._byte_j, self._flop_j = (fact.value * tensor_parallel for fact in (watts.per_byte, watts.per_flop))
        self._halves = sum(group.count * (bool(group.out) + bool(group.mlp or group.experts)) for group in model.groups)
        self._attention = [self._attention_of(group) for group in model.groups if group.kv_elements]
        self._chunk_rates = [
            (part.limited, part.pair_s, part.key_s, part.pair_flops * self._flop_j, part.key_bytes * self._byte_j)
            for part in self._attention
        ]
        self._prompt_fixed, self._prompt_token = self._cost(self._launches()), self._cost([self._scan(1)])
        self._lines: dict[int, DecodeLine] = {}
        self._trunks: dict[int, Cost] = {}
        self._heads: dict[int, Cost] = {}
        self._fixed: dict[int, Cost] = {}

    # -- what the engine asks ------------------------------------------------------------------------------------------

    def decode(self, rows: int) -> DecodeLine:
        """(t0, t_ctx, t_lim, e0, e_ctx, e_lim) of a decode-only step of `rows` sequences.

        With S the summed context, the token being written included, and W the sum of min(context, limit):
        seconds = t0 + t_ctx*S + t_lim*W, joules = e0 + e_ctx*S + e_lim*W.
        """
        return self._lines.get(rows) or self._line(rows)

    def mixed(
        self, tokens: int, sampled: int, rows: int, context: int, limited: int, pairs: int, keys: int, pairs_limited: int, keys_seen: int
    ) -> Cost:  # fmt: skip
        """Seconds and joules of a step of `tokens` tokens: `rows` decodes, the rest prompt chunks; `sampled` rows emit a token.

        context, limited           -- S and W of the decodes, as in `decode`
        pairs, keys                -- over the chunks: sum of `attended`, and of prefix + chunk
        pairs_limited, keys_seen   -- the same for layers with a limit: `attended_limited`, `keys_limited`
        """
        trunk = self._trunks.get(tokens) or self._trunk(tokens)
        head = self._heads.get(sampled) or self._head(sampled)
        seconds, joules = trunk[0] + head[0], trunk[1] + head[1]
        if rows:
            _, t_ctx, t_lim, _, e_ctx, e_lim = self._lines.get(rows) or self._line(rows)
            fixed = self._fixed[rows]
            seconds = seconds + fixed[0] + t_ctx * context + t_lim * limited
            joules = joules + fixed[1] + e_ctx * context + e_lim * limited
        if tokens > rows:
            prompt = self._prompt(tokens - rows, pairs, keys, pairs_limited, keys_seen)
            return seconds + prompt[0], joules + prompt[1]
        return seconds, joules

    def explain(self, rows: int, context: int, prompt: int = 0) -> list[Operator]:
        """Operators of a step, alike layers summed: `rows` decodes of `context` tokens each and a whole prompt of `prompt` tokens.

        Their seconds add up to the step's.
        """
        sampled = rows + (prompt > 0)
        host_s = self._host.host_s + self._host.per_sequence_s * sampled
        operators = [
            Operator("host", host_s=host_s),
            *self._trunk_operators(rows + prompt),
            self._head_operator(sampled),
        ]
        if rows:
            least = min(context, self.limit or context)
            operators += [part.decode(rows * (least if part.limited else context)) for part in self._attention]
            operators += [*self._launches(), self._states(rows)]
        if prompt:
            pairs, limit = attended(0, prompt), self.limit or prompt
            limited = attended_limited(0, prompt, limit), keys_limited(0, prompt, limit)
            operators += [part.prefill(*(limited if part.limited else (pairs, prompt))) for part in self._attention]
            operators += [*self._launches(), self._scan(prompt)]
        return [operator for operator in operators if operator.seconds]

    def binding(self, rows: int, context: int, prompt: int = 0) -> dict[str, float]:
        """Seconds of the step of `explain` by the resource that they wait for."""
        waits: dict[str, float] = {}
        for operator in self.explain(rows, context, prompt):
            for resource, seconds in operator.by_resource().items():
                waits[resource] = waits.get(resource, 0.0) + seconds
        return waits

    # -- parts of a step, remembered -----------------------------------------------------------------------------------

    def _line(self, rows: int) -> DecodeLine:
        trunk, head = self._trunk(rows), self._head(rows)
        fixed = self._fixed[rows] = self._cost([*self._launches(), self._states(rows)])
        all_see, limited = (
            self._cost([part.decode(1) for part in self._attention if part.limited is kind]) for kind in (False, True)
        )
        t0, e0 = trunk[0] + head[0] + fixed[0], trunk[1] + head[1] + fixed[1]
        line = self._lines[rows] = (t0, all_see[0], limited[0], e0, all_see[1], limited[1])
        return line

    def _trunk(self, tokens: int) -> Cost:
        """What depends on the number of tokens alone: projections, MLP or experts, elementwise, all-reduce."""
        seconds, joules = self._cost(self._trunk_operators(tokens))
        per_token_j = self._profile.power.per_token_layer.value * self.devices * self._halves / 2
        cost = self._trunks[tokens] = (seconds, joules + per_token_j * tokens)
        return cost

    def _head(self, sampled: int) -> Cost:
        """What depends on the rows that emit a token: the LM head, and the host, while which the device waits."""
        seconds, joules = self._cost([self._head_operator(sampled)])
        host_s = self._host.host_s + self._host.per_sequence_s * sampled
        cost = self._heads[sampled] = (seconds + host_s, joules + self.gap_w * host_s)
        return cost

    def _prompt(self, tokens: int, pairs: int, keys: int, pairs_limited: int, keys_seen: int) -> Cost:
        """Attention of the prompt chunks of a step, `tokens` tokens in all."""
        busy_s = 0.0
        joules = self._prompt_fixed[1] + self._prompt_token[1] * tokens
        for limited, pair_s, key_s, pair_j, key_j in self._chunk_rates:
            a, k = (pairs_limited, keys_seen) if limited else (pairs, keys)
            compute_s, memory_s = pair_s * a, key_s * k
            busy_s += compute_s if compute_s > memory_s else memory_s
            joules += pair_j * a + key_j * k
        return busy_s + self._prompt_fixed[0] + self._prompt_token[0] * tokens, joules + self._busy_w * busy_s

    def _cost(self, operators: Iterator[Operator] | list[Operator]) -> Cost:
        """Seconds, and E = (P_busy*t + e_byte*bytes + e_flop*flops) * devices [J]."""
        seconds = joules = 0.0
        for operator in operators:
            seconds += operator.seconds
            joules += self._byte_j * operator.bytes + self._flop_j * operator.flops
        return seconds, joules + self._busy_w * seconds

    # -- operators -----------------------------------------------------------------------------------------------------

    def _trunk_operators(self, tokens: int) -> Iterator[Operator]:
        """All operators, layers summed, whose work depends on the number of tokens alone."""
        launch, hidden = self._host.launch_factor, self._model.hidden
        for group in self._model.groups:
            for operator in self._products(group, tokens):
                yield operator.times(group.count)
        efficiency = self._gemm_constants("attention").bandwidth.value
        yield elementwise(self._bandwidth, efficiency, launch, tokens, hidden).times(self._halves / 2)
        sums, link = self._profile.step.all_reduce, self._profile.scale_up
        if self.devices > 1 and sums is not None and link is not None:
            alpha_s, share = sums.alpha.value[self.devices], sums.efficiency.value[self.devices]
            yield all_reduce(alpha_s, share, link.bandwidth.value, launch, tokens, hidden, self.devices).times(
                self._halves
            )

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

    def _head_operator(self, sampled: int) -> Operator:
        return self._gemm("LM head", "lm_head", sampled, self._model.lm_head)

    def _gemm(self, name: str, part: Part, tokens: int, weights: int) -> Operator:
        arithmetic, on_device = self._arithmetic(part), weights / self.devices
        activations = (self._model.hidden + on_device / self._model.hidden) * BYTES_PER_ELEMENT[arithmetic]
        moved = on_device * self._model.element_bytes(part, self._precision.weights) + tokens * activations
        constants, peak = self._gemm_constants(part), self._profile.flops[arithmetic].value
        operator = gemm(name, constants, peak, self._bandwidth, self._host.launch_factor, tokens, on_device, moved)
        return operator._replace(flops=operator.flops * self._flop_weight(arithmetic))

    def _experts(self, group: LayerGroup, tokens: int) -> Operator:
        """Routed experts: those touched are read whole, each token computes its own."""
        arithmetic, weights = self._arithmetic("expert"), group.expert / self.devices
        picks = tokens * group.experts_per_token
        touched = experts_touched(group.experts, group.experts_per_token, tokens)
        read = touched * weights * self._model.element_bytes("expert", self._precision.weights)
        passed = 8.0 * picks * self._model.hidden
        passed_s = passed / (self._gemm_constants("expert").bandwidth.value * self._bandwidth)
        step, peak, launch = self._profile.step, self._profile.flops[arithmetic].value, self._host.launch_factor
        operator = experts(step, peak, self._bandwidth, launch, 2.0 * picks * weights, read, passed_s)
        return operator._replace(bytes=read + passed, flops=operator.flops * self._flop_weight(arithmetic))

    def _attention_of(self, group: LayerGroup) -> Attention:
        """Attention layers of one group, per token of context and per query-key pair. A latent cache is read in absorbed form."""
        step, tp = self._profile.step, self.devices
        peak = self._profile.flops[self._sixteen()].value * step.prefill_attention_compute.value
        bandwidth = self._bandwidth * step.decode_attention_bandwidth.value
        shards = min(tp, group.kv_heads) if group.kv_sharded else 1
        key_bytes = group.count * group.kv_elements * BYTES_PER_ELEMENT[self._precision.kv] / shards
        pair_flops = group.count * 2.0 * group.heads * (group.head_dim + group.value_dim) / tp
        decode_flops = pair_flops if group.kv_sharded else group.count * 4.0 * group.heads * group.kv_elements / tp
        limited, key_s = group.limit is not None, key_bytes / bandwidth
        return Attention(limited, key_s, decode_flops / peak, pair_flops / peak, key_bytes, decode_flops, pair_flops)

    def _launches(self) -> list[Operator]:
        """One attention kernel per layer, for all decodes or for all chunks of a step."""
        launch_s = self._host.launch_factor * self._profile.step.decode_attention_t0.value
        layers = sum(group.count for group in self._model.groups if group.out)
        return [Operator("attention", launch_s * layers)]

    def _states(self, rows: int) -> Operator:
        """Linear layers read and write one state per decoding sequence."""
        bandwidth = self._bandwidth * self._profile.step.decode_attention_bandwidth.value
        moved = 2.0 * rows * self._state_elements() * BYTES_PER_ELEMENT[self._precision.kv]
        return Operator("states, decode", memory_s=moved / bandwidth, bytes=moved)

    def _scan(self, tokens: int) -> Operator:
        """Linear layers take prompt tokens up: 4 operations per element of the state and token (decay, update, read)."""
        peak = self._profile.flops[self._sixteen()].value * self._profile.step.prefill_attention_compute.value
        flops = 4.0 * tokens * self._state_elements()
        return Operator("states, prefill", compute_s=flops / peak, flops=flops)

    def _state_elements(self) -> float:
        """Elements of one sequence's linear states on this device."""
        return sum(
            group.count * group.state_elements / min(self.devices, group.kv_heads) for group in self._model.groups
        )

    # -- precisions ----------------------------------------------------------------------------------------------------

    def _arithmetic(self, part: Part) -> Precision:
        """Precision in which a part is multiplied: its own where it is stored in 16 bits, else the activations'."""
        stored = self._model.part_precision(part, self._precision.weights)
        return self._sixteen() if stored in SIXTEEN_BITS else self._precision.activations

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
        profile, tp = self._profile, self.devices
        for part in PARTS:
            arithmetic = self._arithmetic(part)
            if arithmetic not in profile.flops or arithmetic not in profile.step.gemm:
                known = ", ".join(name for name in profile.flops if name in profile.step.gemm)
                raise ValueError(f"`{profile.name}` has no {arithmetic} arithmetic; it has: {known}")
        sums = profile.step.all_reduce
        if tp != 1 and (sums is None or profile.scale_up is None):
            raise ValueError(f"`{profile.name}` has no scale-up link: expected tensor_parallel 1, got {tp}")
        if tp != 1 and sums is not None and not (tp in sums.alpha.value and tp in sums.efficiency.value):
            known = ", ".join(str(n) for n in (1, *sums.alpha.value))
            raise ValueError(f"`{profile.name}` has all-reduce constants for tensor_parallel {known}, not {tp}")


def _one_limit(model: Model) -> int | None:
    """The one attention limit of a model's layers; the engine follows one."""
    limits = sorted({group.limit for group in model.groups if group.limit is not None})
    if len(limits) > 1:
        raise ValueError(f"`{model.name}` has layers with different attention limits {limits}: expected at most one")
    return limits[0] if limits else None
