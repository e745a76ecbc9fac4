"""Time and energy of one engine step of a model on a device: affine in context, which is what runs of steps rest on."""

from collections.abc import Iterable
from typing import NamedTuple

from simfleet.hardware.operators import Precisions, Shard
from simfleet.hardware.profile import Profile
from simfleet.hardware.roofline import Operator
from simfleet.workload.models import Model

__all__ = ["HostConstants", "Precisions", "StepCost", "attended", "attended_limited", "keys_limited", "step_cost"]

DecodeLine = tuple[float, float, float, float, float, float]
Cost = tuple[float, float]
"""Seconds and joules."""


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
        self._host, self._shard = host, Shard(model, profile, host.launch_factor, tensor_parallel, precision)
        self.limit = _one_limit(model)
        watts = profile.power
        self.limit_w, self.idle_w, self.gap_w, self._busy_w = (
            fact.value * tensor_parallel for fact in (watts.limit, watts.idle, watts.gap, watts.busy)
        )
        self._byte_j, self._flop_j = (fact.value * tensor_parallel for fact in (watts.per_byte, watts.per_flop))
        self._layer_token_j = watts.per_token_layer.value * tensor_parallel * self._shard.halves / 2
        self._attention = list(self._shard.attention())
        self._chunk_rates = [
            (part.limited, part.pair_s, part.key_s, part.pair_flops * self._flop_j, part.key_bytes * self._byte_j)
            for part in self._attention
        ]
        self._prompt_fixed = self._cost(self._shard.launches())
        self._prompt_token = self._cost(self._shard.per_prompt_token(1))
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
        """Operators of a step, layers of one shape summed: `rows` decodes of `context` tokens each and a whole prompt of `prompt` tokens.

        Their seconds add up to the step's.
        """
        sampled = rows + (prompt > 0)
        host_s = self._host.host_s + self._host.per_sequence_s * sampled
        operators = [
            Operator("host", host_s=host_s),
            *self._shard.trunk(rows + prompt),
            self._shard.head(sampled),
        ]
        if rows:
            least = min(context, self.limit or context)
            operators += [part.decode(rows * (least if part.limited else context)) for part in self._attention]
            operators += [*self._shard.launches(), *self._shard.per_row(rows)]
        if prompt:
            pairs, limit = attended(0, prompt), self.limit or prompt
            limited = attended_limited(0, prompt, limit), keys_limited(0, prompt, limit)
            operators += [part.prefill(*(limited if part.limited else (pairs, prompt))) for part in self._attention]
            operators += [*self._shard.launches(), *self._shard.per_prompt_token(prompt)]
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
        fixed = self._fixed[rows] = self._cost([*self._shard.launches(), *self._shard.per_row(rows)])
        all_see, limited = (
            self._cost([part.decode(1) for part in self._attention if part.limited is kind]) for kind in (False, True)
        )
        t0, e0 = trunk[0] + head[0] + fixed[0], trunk[1] + head[1] + fixed[1]
        line = self._lines[rows] = (t0, all_see[0], limited[0], e0, all_see[1], limited[1])
        return line

    def _trunk(self, tokens: int) -> Cost:
        """What depends on the number of tokens alone: projections, MLP or experts, elementwise, all-reduce."""
        seconds, joules = self._cost(self._shard.trunk(tokens))
        cost = self._trunks[tokens] = (seconds, joules + self._layer_token_j * tokens)
        return cost

    def _head(self, sampled: int) -> Cost:
        """What depends on the rows that emit a token: the LM head, and the host, while which the device waits."""
        seconds, joules = self._cost([self._shard.head(sampled)])
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

    def _cost(self, operators: Iterable[Operator]) -> Cost:
        """Seconds, and E = (P_busy*t + e_byte*bytes + e_flop*flops) * devices [J]."""
        seconds = joules = 0.0
        for operator in operators:
            seconds += operator.seconds
            joules += self._byte_j * operator.bytes + self._flop_j * operator.flops
        return seconds, joules + self._busy_w * seconds


def _one_limit(model: Model) -> int | None:
    """The one attention limit of a model's layers; the engine follows one."""
    limits = sorted({group.limit for group in model.groups if group.limit is not None})
    if len(limits) > 1:
        raise ValueError(f"`{model.name}` has layers with different attention limits {limits}: expected at most one")
    return limits[0] if limits else None
