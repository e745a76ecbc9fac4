"""Time and energy of one engine step of a model on a device: affine in context, which is what runs of steps rest on."""

from collections.abc import Iterable
from math import log2
from typing import NamedTuple

import numpy as np

from simfleet.hardware.operators import Parallel, Precisions, Shard, Transfer
from simfleet.hardware.power import Steps, governed
from simfleet.hardware.profile import MeasuredPower, Profile
from simfleet.hardware.roofline import COMPUTE, MEMORY, Operator
from simfleet.workload.models import BYTES_PER_ELEMENT, Model

__all__ = [
    "HostConstants",
    "Parallel",
    "Precisions",
    "StepCost",
    "attended",
    "attended_limited",
    "keys_limited",
    "step_cost",
]

DecodeLine = tuple[float, float, float, float, float, float]
Cost = tuple[float, float]
"""Seconds and joules."""
Reach = tuple[float, float, float]
"""Of prompt chunks: query-key pairs, keys, and keys of the longest."""


REPEATED = 0.1
"""Share of the energy of activations that every device of a tensor group spends again; the rest is shared out [docs/energy.md]."""
SLOWING = 0.62
"""A step bound by arithmetic takes so much longer per second of power beyond a cap [17 pairs of H200 runs, docs/energy.md]."""
MEMORY_CLOCKED = 0.05
"""Share of reading from memory that the clock of the arithmetic slows [12 capped runs of an RTX PRO 6000, docs/energy.md]."""


class HostConstants(NamedTuple):
    """The engine's share: per step [s], per sampled sequence [s], and how its kernels compare with the operator tables' (`Transfer`) [1].

    A step of more than `graph_tokens` tokens is not replayed as a captured graph: the host launches
    its kernels one by one: at least `eager_layer_s` for each layer, `eager_narrow_s` more where its weights are narrower than 16 bits,
    and `eager_collective_s` for each collective.
    """

    host_s: float
    per_sequence_s: float
    launch_factor: float
    graph_tokens: int = 1 << 30
    eager_layer_s: float = 0.0
    compute_factor: float = 1.0
    memory_factor: float = 1.0
    experts_factor: float = 1.0
    quantise_factor: float = 1.0
    eager_collective_s: float = 0.0
    eager_narrow_s: float = 0.0
    expert_tile: int | None = None


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
    model: Model, profile: Profile, host: HostConstants, parallel: Parallel | int, precision: Precisions
) -> "StepCost":
    """Step time and energy of `model` on the devices of `parallel`. Raises ValueError for what the profile cannot do."""
    return StepCost(model, profile, host, Parallel(parallel) if isinstance(parallel, int) else parallel, precision)


class StepCost:
    """One replica's step; joules are of all its devices, before the power limit: see `governed`.

    Tokens, rows and contexts are counts. `limit` is the model's attention window or top-k, None where every layer sees all. With pipeline
    stages a step is as many micro-batches as there are stages, or rows: each passes all stages, and another one is in every stage.
    """

    def __init__(
        self, model: Model, profile: Profile, host: HostConstants, parallel: Parallel, precision: Precisions
    ) -> None:
        self.devices = parallel.devices
        transfer = Transfer(
            host.launch_factor, host.experts_factor, host.compute_factor, host.memory_factor, host.quantise_factor, host.expert_tile
        )  # fmt: skip
        self._host, self._shard = host, Shard(model, profile, transfer, parallel, precision)
        self._groups, self._stages = parallel.attention_dp, parallel.pipeline
        self.limit = _one_limit(model)
        watts = profile.power
        self.limit_w, self.idle_w, self.gap_w = (
            fact.value * self.devices for fact in (watts.limit, watts.idle, watts.gap)
        )
        scale = watts.scale.value if watts.scale is not None else 1.0
        self._device_gap_w, self._busy_w = watts.gap.value, watts.busy.value * scale
        self._byte_j, self._flop_j = watts.per_byte.value * scale, watts.per_flop.value * scale
        self._measured = _measured_watts(watts.measured, model, self.devices)
        on_all = 1.0 + REPEATED * (parallel.tensor - 1)
        self._token_j = scale * watts.per_activation.value * model.hidden * self._shard.halves / 2 * on_all
        narrow = BYTES_PER_ELEMENT[precision.weights] < BYTES_PER_ELEMENT["bf16"]
        layer_s = host.eager_layer_s + (host.eager_narrow_s if narrow else 0.0)
        eager_s = layer_s * self._shard.halves / 2 + host.eager_collective_s * self._shard.collectives
        sustained = profile.step.sustained
        self._eager_s = eager_s * (sustained.value.launch if sustained is not None else 1.0)
        self._graph_tokens = host.graph_tokens
        self._bandwidth, self._peak = profile.memory.bandwidth.value, self._shard.sixteen_bit_peak
        self._alone = self._groups == self._stages == 1
        no_reach = (0.0, 0.0, 0.0)
        fixed, one = (self._sums(self._prompt_share(tokens, no_reach, no_reach)) for tokens in (0.0, 1.0))
        self._prompt_linear = (*fixed, one[0] - fixed[0], one[1] - fixed[1])
        self._prompt_rates = [
            (limited, pair.compute_s, key.memory_s, least, self._flop_j * pair.flops, self._byte_j * key.bytes)
            for limited, pair, key, least in self._shard.prefill_rates()
        ]
        self._lines: dict[int, DecodeLine] = {}
        self._trunks: dict[int, Cost] = {}
        self._heads: dict[int, Cost] = {}
        self._fixed: dict[int, Cost] = {}
        self._slowings: dict[int, float] = {}

    # -- what the engine asks ------------------------------------------------------------------------------------------

    def decode(self, rows: int) -> DecodeLine:
        """(t0, t_ctx, t_lim, e0, e_ctx, e_lim) of a decode-only step of `rows` sequences.

        With S the summed context, the token being written included, and W the sum of min(context, limit):
        seconds = t0 + t_ctx*S + t_lim*W, joules = e0 + e_ctx*S + e_lim*W.
        """
        return self._lines.get(rows) or self._line(rows)

    def mixed(
        self, tokens: int, sampled: int, rows: int, context: int, limited: int,
        pairs: int, keys: int, longest: int, pairs_limited: int, keys_seen: int, longest_seen: int,
    ) -> Cost:  # fmt: skip
        """Seconds and joules of a step of `tokens` tokens: `rows` decodes, the rest prompt chunks; `sampled` rows emit a token.

        context, limited                         -- S and W of the decodes, as in `decode`
        pairs, keys, longest                     -- over the chunks: sum of `attended`, and sum and maximum of prefix + chunk
        pairs_limited, keys_seen, longest_seen   -- the same for layers with a limit: `attended_limited`, `keys_limited`
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
            prompt = self._prompt(tokens - rows, (pairs, keys, longest), (pairs_limited, keys_seen, longest_seen))
            seconds += prompt[0]
            joules += prompt[1]
            if tokens > self._graph_tokens:
                late = self._eager_s + head[0] - seconds
                if late > 0.0:
                    seconds, joules = seconds + late, joules + self.gap_w * late
        if self._measured:
            joules = self._measured_w(rows) * seconds
        return seconds, joules

    def governed(self, tokens: int, free: Steps, cap_w: float) -> Steps:
        """Steps of `tokens` tokens each where all devices together may draw `cap_w` [W]: see `power.governed`."""
        return governed(free, self.limit_w, cap_w, self.slowing(tokens) if cap_w < self.limit_w else 0.0)

    def slowing(self, tokens: int) -> float:
        """How much longer a step of `tokens` tokens takes, per second of power beyond a cap [1]: docs/physics.md.

        The clock slows arithmetic in full, reading from memory in part, and the host not at all; shares are those of the products,
        whatever the context.
        """
        found = self._slowings.get(tokens)
        if found is None:
            seconds = {MEMORY: 0.0, COMPUTE: 0.0}
            for operator in self._shard.trunk(self._share(tokens)):
                for resource, part in operator.by_resource().items():
                    seconds[resource] = seconds.get(resource, 0.0) + part
            whole = sum(seconds.values()) + self._host.host_s
            found = SLOWING * (seconds[COMPUTE] + MEMORY_CLOCKED * seconds[MEMORY]) / whole
            self._slowings[tokens] = found
        return found

    def explain(self, rows: int, context: int, prompt: int = 0) -> list[Operator]:
        """Operators of a step, layers of one shape summed: `rows` decodes of `context` tokens each and a whole prompt of `prompt` tokens.

        Their seconds add up to the step's.
        """
        sampled, shard = rows + (prompt > 0), self._shard
        host_s = self._host.host_s + self._host.per_sequence_s * sampled
        operators = [
            Operator("host", host_s=host_s),
            *shard.trunk(self._share(rows + prompt)),
            *shard.head(self._share(sampled)),
        ]
        if rows:
            seen = {False: context, True: min(context, self.limit or context)}
            for fixed, each, limited in shard.decode(self._share(rows)):
                operators += [fixed, each.times(self._share(rows) * seen[limited])]
            operators += [shard.linear_launches(), *shard.per_row(self._share(rows))]
        if prompt:
            limit = self.limit or prompt
            whole = (attended(0, prompt), prompt, prompt)
            limited_ = (
                attended_limited(0, prompt, limit),
                keys_limited(0, prompt, limit),
                keys_limited(0, prompt, limit),
            )
            operators += self._prompt_operators(prompt, whole, limited_)
        known_s = sum(operator.seconds for operator in operators) - host_s
        if prompt and rows + prompt > self._host.graph_tokens:
            head_s = sum(operator.seconds for operator in shard.head(self._share(sampled)))
            late = self._eager_s - (known_s - head_s)
            operators.append(Operator("launches one by one", host_s=max(late, 0.0)))
        return [operator for operator in operators if operator.seconds]

    def share_of_peak(self, operator: Operator) -> float:
        """What an operator of `explain` reaches of the resource that binds it: of the device's bandwidth or 16-bit peak; 0 for what is neither."""
        if operator.bound == MEMORY:
            return operator.bytes / operator.seconds / self._bandwidth
        return operator.flops / operator.seconds / self._peak if operator.bound == COMPUTE else 0.0

    def binding(self, rows: int, context: int, prompt: int = 0) -> dict[str, float]:
        """Seconds of the step of `explain` by the resource that they wait for."""
        waits: dict[str, float] = {}
        for operator in self.explain(rows, context, prompt):
            for resource, seconds in operator.by_resource().items():
                waits[resource] = waits.get(resource, 0.0) + seconds
        return waits

    # -- parts of a step, remembered -----------------------------------------------------------------------------------

    def _share(self, number: float) -> float:
        """Of so many rows or tokens, those of one group and one micro-batch: an even share, also where there are fewer than groups."""
        return number / (self._groups * min(self._stages, max(number, 1)))

    def _line(self, rows: int) -> DecodeLine:
        trunk, head, share = self._trunk(rows), self._head(rows), self._share(rows)
        parts = list(self._shard.decode(share))
        fixed = self._fixed[rows] = self._cost(
            [*(part[0] for part in parts), self._shard.linear_launches(), *self._shard.per_row(share)], rows
        )
        # a token of context is in one group and one micro-batch: its joules are those of one device group
        slopes = []
        for kind in (False, True):
            seconds, joules = self._cost([each for _, each, limited in parts if limited is kind], rows)
            split = rows / share
            slopes.append((seconds / split, joules / split))
        (t_ctx, e_ctx), (t_lim, e_lim) = slopes
        t0, e0 = trunk[0] + head[0] + fixed[0], trunk[1] + head[1] + fixed[1]
        if self._measured:
            e0, e_ctx, e_lim = (self._measured_w(rows) * seconds for seconds in (t0, t_ctx, t_lim))
        line = self._lines[rows] = (t0, t_ctx, t_lim, e0, e_ctx, e_lim)
        return line

    def _measured_w(self, rows: int) -> float:
        """Measured watts of all devices, straight between the logarithms of the measured batches and level beyond them."""
        batches, watts = zip(*self._measured, strict=True)
        return self.devices * float(np.interp(log2(max(rows, 1)), np.log2(batches), watts))

    def _trunk(self, tokens: int) -> Cost:
        """What depends on the number of tokens alone: projections, MLP or experts, elementwise, all-reduce."""
        seconds, joules = self._cost(self._shard.trunk(self._share(tokens)), tokens)
        cost = self._trunks[tokens] = (seconds, joules + self._token_j * tokens)
        return cost

    def _head(self, sampled: int) -> Cost:
        """What depends on the rows that emit a token: the LM head, the sampler, and the host, while which the device waits."""
        seconds, joules = self._cost(self._shard.head(self._share(sampled)), sampled)
        host_s = self._host.host_s + self._host.per_sequence_s * sampled
        cost = self._heads[sampled] = (seconds + host_s, joules + self.gap_w * host_s)
        return cost

    def _prompt(self, tokens: int, whole: Reach, limited: Reach) -> Cost:
        """Attention of the prompt chunks of a step, `tokens` tokens in all: `_prompt_operators` added up, for the hot path."""
        if not self._alone:
            return self._cost(self._prompt_operators(tokens, whole, limited), tokens)
        fixed_s, fixed_j, token_s, token_j = self._prompt_linear
        seconds = fixed_s + token_s * tokens
        joules = fixed_j + token_j * tokens
        for is_limited, pair_s, key_s, least, pair_j, key_j in self._prompt_rates:
            pairs, keys, longest = limited if is_limited else whole
            busy = least * longest
            compute_s = pair_s * (pairs if pairs > busy else busy)
            memory_s = key_s * keys
            seconds += compute_s if compute_s > memory_s else memory_s
            joules += pair_j * pairs + key_j * keys
        return seconds, (joules + self._busy_w * seconds) * self.devices

    def _prompt_operators(self, tokens: int, whole: Reach, limited: Reach) -> list[Operator]:
        share = self._share(tokens)
        part = share / tokens if tokens else 1.0
        reaches = [(pairs * part, keys * part, longest) for pairs, keys, longest in (whole, limited)]
        return self._prompt_share(share, *reaches)

    def _prompt_share(self, tokens: float, whole: Reach, limited: Reach) -> list[Operator]:
        """The same of one group and one micro-batch."""
        return [
            *self._shard.prefill(tokens, whole, limited),
            self._shard.linear_launches(),
            *self._shard.per_prompt_token(tokens),
        ]

    def _cost(self, operators: Iterable[Operator], tokens: int) -> Cost:
        """Seconds and joules of operators of every busy device."""
        return self._on_all(*self._sums(operators), tokens)

    def _sums(self, operators: Iterable[Operator]) -> Cost:
        """Seconds, and e_byte*bytes + e_flop*flops of one device [J]."""
        seconds = joules = 0.0
        for operator in operators:
            seconds += operator.seconds
            joules += self._byte_j * operator.bytes + self._flop_j * operator.flops
        return seconds, joules

    def _on_all(self, seconds: float, joules: float, tokens: int) -> Cost:
        """E = P_busy*t and the joules of one device, times the devices; stages without a micro-batch draw P_gap."""
        busy = self.devices / self._stages * min(self._stages, max(tokens, 1))
        return seconds, (joules + self._busy_w * seconds) * busy + self._device_gap_w * (self.devices - busy) * seconds


def _measured_watts(tables: Iterable[MeasuredPower], model: Model, devices: int) -> list[tuple[int, float]]:
    """Sequences and watts of one device, in order, where this model was measured on so many devices."""
    found = [table for table in tables if (table.model, table.devices) == (model.name, devices)]
    return sorted(found[0].watts.items()) if found else []


def _one_limit(model: Model) -> int | None:
    """The one attention limit of a model's layers; the engine follows one."""
    limits = sorted({group.limit for group in model.groups if group.limit is not None})
    if len(limits) > 1:
        raise ValueError(f"`{model.name}` has layers with different attention limits {limits}: expected at most one")
    return limits[0] if limits else None
