"""Single operators on one device: a launch, and the slower of arithmetic and memory."""

from math import exp
from typing import NamedTuple

from simfleet.hardware.profile import Gemm, StepConstants

LAUNCH, COMPUTE, MEMORY, LINK, HOST = "kernel launch", "compute", "memory bandwidth", "interconnect", "host"
ELEMENTWISE_KERNELS, ELEMENTWISE_S = 4, 2.5e-6
"""Kernels of a layer besides products and attention, and the launch time of one [s] (fitted, docs/physics.md)."""


class Operator(NamedTuple):
    """What an operator asks of a device: seconds of each resource, bytes of memory traffic, floating-point operations.

    `flops` count as energy does: one of a narrow format weighs as much less than a 16-bit one as it is faster at its peak.
    """

    name: str
    launch_s: float = 0.0
    compute_s: float = 0.0
    memory_s: float = 0.0
    link_s: float = 0.0
    host_s: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0

    @property
    def seconds(self) -> float:
        """Launch + max(compute, memory) + link + host [s]."""
        return self.launch_s + max(self.compute_s, self.memory_s) + self.link_s + self.host_s

    def by_resource(self) -> dict[str, float]:
        """The same seconds by what they wait for [s]: compute or memory, whichever is slower, and not both."""
        slower = COMPUTE if self.compute_s > self.memory_s else MEMORY
        roof_s = max(self.compute_s, self.memory_s)
        return {LAUNCH: self.launch_s, slower: roof_s, LINK: self.link_s, HOST: self.host_s}

    @property
    def bound(self) -> str:
        """The resource that takes most of its time."""
        waits = self.by_resource()
        return max(waits, key=lambda resource: waits[resource])

    def times(self, count: float) -> "Operator":
        """The same operator `count` times."""
        return Operator(self.name, *(count * number for number in self[1:]))


def gemm(
    name: str, constants: Gemm, peak: float, bandwidth: float, launch: float, tokens: float, weights: float, moved: float
) -> Operator:  # fmt: skip
    """Matrix product of `tokens` rows with `weights` weights: launch * t0 + max(2*T*w / (ef*peak), bytes / (eb*BW)).

    constants -- t0 [s], ef and eb of the profile, for the precision of the arithmetic
    peak      -- dense operations per second of that precision [FLOP/s]
    bandwidth -- of the memory [B/s]
    launch    -- kernel launch time against the operator tables' [1]
    weights   -- elements on this device
    moved     -- weights and activations read and written [B]
    """
    flops = 2.0 * tokens * weights
    compute_s = flops / (constants.compute.value * peak)
    memory_s = moved / (constants.bandwidth.value * bandwidth)
    return Operator(name, launch * constants.t0.value, compute_s, memory_s, bytes=moved, flops=flops)


class Attention(NamedTuple):
    """All attention layers of one kind on one device: what each token of context costs.

    A decode step over S tokens takes max(key_s * S, decode_s * S), which stays affine in S; prompt chunks of A query-key pairs over
    K keys take max(key_s * K, pair_s * A). With eba, efa the profile's shares of bandwidth and peak:
    key_s = key_bytes / (eba*BW), decode_s = decode_flops / (efa*peak), pair_s = pair_flops / (efa*peak) [s];
    bytes [B] and flops are of one key, one token of context and one pair, on one device.
    """

    limited: bool
    key_s: float
    decode_s: float
    pair_s: float
    key_bytes: float
    decode_flops: float
    pair_flops: float

    def decode(self, seen: float) -> Operator:
        """One query per sequence over `seen` tokens of context in all."""
        moved, flops = self.key_bytes * seen, self.decode_flops * seen
        return Operator("attention, decode", 0.0, self.decode_s * seen, self.key_s * seen, bytes=moved, flops=flops)

    def prefill(self, pairs: float, keys: float) -> Operator:
        """Prompt chunks of `pairs` query-key pairs over `keys` keys."""
        moved, flops = self.key_bytes * keys, self.pair_flops * pairs
        return Operator("attention, prefill", 0.0, self.pair_s * pairs, self.key_s * keys, bytes=moved, flops=flops)


def experts(
    step: StepConstants, peak: float, bandwidth: float, launch: float, flops: float, read: float, passed_s: float
) -> Operator:
    """Fused routed experts: launch * t0m + max(flops / (efm*peak), read / (ebm*BW)) + passed.

    peak, bandwidth, launch -- as of `gemm`
    flops    -- 2 * T * k * weights of one expert on this device
    read     -- weights of the experts touched [B]: `experts_touched` * weights * bytes
    passed_s -- rows gathered to experts and their outputs summed up again [s]
    """
    compute_s = flops / (step.moe_compute.value * peak) + passed_s
    memory_s = read / (step.moe_bandwidth.value * bandwidth) + passed_s
    return Operator("experts", launch * step.moe_t0.value, compute_s, memory_s, bytes=read, flops=flops)


def experts_touched(experts: int, per_token: int, tokens: float) -> float:
    """Expected experts that `tokens` tokens reach when each picks `per_token` independently: E * (1 - exp(-k*T / E)).

    At least those that one token picks. Even routing is the limit theta -> 0 of skewed coverage; skew touches fewer.
    """
    return max(experts * (1.0 - exp(-per_token * tokens / experts)), float(min(per_token, experts)))


def elementwise(bandwidth: float, efficiency: float, launch: float, tokens: float, hidden: int) -> Operator:
    """Norms, rotations, KV writes and residuals of one layer: four kernels of 2.5 us, and 16 bytes per token and hidden element."""
    moved = 16.0 * tokens * hidden
    launch_s = ELEMENTWISE_KERNELS * ELEMENTWISE_S * launch
    return Operator("elementwise", launch_s, memory_s=moved / (efficiency * bandwidth), bytes=moved)


def all_reduce(
    alpha_s: float, efficiency: float, link: float, launch: float, tokens: float, hidden: int, devices: int
) -> Operator:
    """Sum of 16-bit activations over `devices` devices: launch * alpha + B / (efficiency * link).

    B = 2 * T * h * 2 * (n - 1) / n bytes pass each device; `link` is its bandwidth in one direction [B/s].
    """
    passed = 2.0 * tokens * hidden * 2.0 * (devices - 1) / devices
    return Operator("all-reduce", launch * alpha_s, link_s=passed / (efficiency * link))
