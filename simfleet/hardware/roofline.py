"""Single operators on one device: a launch, and arithmetic and memory that overlap as far as the kernels let them."""

from math import sqrt
from typing import NamedTuple

from simfleet.hardware.profile import Collective, DecodeAttention, Experts, Gemm, OneKernel, PrefillAttention

LAUNCH, COMPUTE, MEMORY, LINK, HOST = "kernel launch", "compute", "memory bandwidth", "interconnect", "host"
ELEMENTWISE_KERNELS, ELEMENTWISE_S = 4, 2.5e-6
"""Kernels of a layer besides products and attention, and the launch time of one [s] (fitted, docs/physics.md)."""
SAMPLER_KERNELS, SAMPLER_BYTES = 2, 2.0 + 4.0 + 4.0
"""Greedy sampling: one kernel reads 16-bit logits and writes 32-bit ones, one reads those for the largest; bytes per logit [B]."""
OUT_BYTES = 2.0
"""Results are written in 16 bits."""
ACTIVATION_BYTES = 2.0
"""Activations between kernels, and what collectives carry."""
FADE_S = 1e-3
"""Duration of a product at which its share of the peak is quoted [s]."""
MEASURED_DEVICES = 8
"""Most devices that collectives were measured on; beyond, their share of the link stays."""


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
        """The sum of its parts [s]: what memory takes beyond the arithmetic that hides it is in `memory_s`, or the other way round."""
        return self.launch_s + self.compute_s + self.memory_s + self.link_s + self.host_s

    def by_resource(self) -> dict[str, float]:
        """The same seconds by what they wait for [s]."""
        return {
            LAUNCH: self.launch_s,
            COMPUTE: self.compute_s,
            MEMORY: self.memory_s,
            LINK: self.link_s,
            HOST: self.host_s,
        }

    @property
    def bound(self) -> str:
        """The resource that takes most of its time."""
        waits = self.by_resource()
        return max(waits, key=lambda resource: waits[resource])

    def times(self, count: float) -> "Operator":
        """The same operator `count` times."""
        return Operator(self.name, *(count * number for number in self[1:]))


def overlapped(compute_s: float, memory_s: float, power: float) -> tuple[float, float]:
    """(compute_s^p + memory_s^p)^(1/p), all of it on the side of the slower: (seconds of compute, seconds of memory)."""
    slow, fast = (compute_s, memory_s) if compute_s > memory_s else (memory_s, compute_s)
    if fast <= 0.0:
        return compute_s, memory_s
    if power == 4.0:
        ratio = (fast / slow) ** 2
        both = slow * sqrt(sqrt(1.0 + ratio * ratio))
    else:
        both = slow * float((1.0 + (fast / slow) ** power) ** (1.0 / power))
    return (both, 0.0) if compute_s > memory_s else (0.0, both)


def gemm(
    name: str, constants: Gemm, peak: float, bandwidth: float, launch: float,
    rows: float, inner: float, outer: float, weight_bytes: float, input_bytes: float,
) -> Operator:  # fmt: skip
    """Matrix product of [rows x inner] with [inner x outer]: t0 + tk*k + (tc^4 + tm^4)^(1/4) + q*m*k/(eb*BW) + qr*m.

        tc = t1 / min(1, ef * (1 ms / t1)^fade),  t1 = 2*m*n*(k + k0) / peak
        tm = (n*k*weight_bytes + m*k*input_bytes + 2*m*n) / (eb*BW)

    constants -- of the profile, for the format of the arithmetic
    peak      -- dense operations per second of that format [FLOP/s]
    bandwidth -- of the memory [B/s]
    launch    -- kernel launch time against the operator tables' [1]
    weight_bytes, input_bytes -- per element [B]
    """
    flops = 2.0 * rows * outer * inner
    ideal_s = 2.0 * rows * outer * (inner + constants.fill) / peak
    share = constants.compute
    if constants.fade and ideal_s:
        share = min(1.0, share * (FADE_S / ideal_s) ** constants.fade)
    moved = outer * inner * weight_bytes + rows * inner * input_bytes + OUT_BYTES * rows * outer
    speed = constants.bandwidth * bandwidth
    compute_s, memory_s = overlapped(ideal_s / share, moved / speed, 4.0)
    quantised_s = constants.quantise * rows * inner / speed + constants.quantise_row * rows
    launch_s = launch * constants.t0 + constants.per_k * inner
    return Operator(name, launch_s, compute_s, memory_s + quantised_s, bytes=moved, flops=flops)


def experts(
    constants: Experts, peak: float, bandwidth: float, launch: float,
    rows: float, sent: float, touched: float, hidden: float, width: float, weights: float, weight_bytes: float, sram: float, padded: float = 0.0,
) -> Operator:  # fmt: skip
    """Fused routed experts on one device: t0 + (tc^p + tm^p)^(1/p) + ta.

        tc = 2*(rows + padded)*w / (ef*peak)
        tm = (touched*w*wb + rows*w*wb/tile * x^4/(1 + x^4)) / (eb*BW),  x = w*wb / sram: large experts are read again
        ta = ((rows + lam*(sent - rows)) * (2*hidden + 3*width) + padded*3*width) * 2 / (ea*BW)

    rows    -- pairs of token and expert that this device computes
    sent    -- pairs of its whole group, of which others compute the rest
    touched -- experts of this device that a token picks: their weights are read
    width   -- hidden width of an expert on this device
    weights -- elements of one expert on this device
    sram    -- cache in which weights stay while they are used [B]; 0: they always stay
    padded  -- rows that this device computes for nothing: multiplied and activated, not sorted
    """
    size = weights * weight_bytes
    read = touched * size
    if constants.tile is not None and sram:
        large = (size / sram) ** 4
        read += rows * size / constants.tile * large / (1.0 + large)
    flops = 2.0 * (rows + padded) * weights
    compute_s, memory_s = overlapped(
        flops / (constants.compute * peak), read / (constants.bandwidth * bandwidth), constants.overlap
    )
    sorted_rows = rows + constants.sent * max(0.0, sent - rows)
    moved = (sorted_rows * (2.0 * hidden + 3.0 * width) + padded * 3.0 * width) * ACTIVATION_BYTES
    moved_s = moved / (constants.moved * bandwidth)
    return Operator("experts", launch * constants.t0, compute_s, memory_s + moved_s, bytes=read + moved, flops=flops)


def experts_touched(experts: float, chance: float, tokens: float, skew: float = 0.0) -> float:
    """Expected experts out of `experts` that `tokens` tokens reach, each with `chance` per token: E * (1 - (1 - k/E)^T).

    With `skew` theta some experts are more popular than others, chances gamma-distributed: E * (1 - (1 + theta*T*k/E)^(-1/theta)).
    """
    if skew:
        return experts * (1.0 - float((1.0 + skew * chance * tokens) ** (-1.0 / skew)))
    return experts * (1.0 - float((1.0 - min(chance, 1.0)) ** tokens))


def elementwise(bandwidth: float, efficiency: float, launch: float, tokens: float, hidden: int) -> Operator:
    """Norms, rotations, KV writes and residuals of one layer: four kernels of 2.5 us, and 16 bytes per token and hidden element."""
    moved = 16.0 * tokens * hidden
    launch_s = ELEMENTWISE_KERNELS * ELEMENTWISE_S * launch
    return Operator("elementwise", launch_s, memory_s=moved / (efficiency * bandwidth), bytes=moved)


def sampler(bandwidth: float, efficiency: float, launch: float, rows: float, vocab: int) -> Operator:
    """A token out of each row of logits: two kernels of 2.5 us, and 10 bytes per row and entry of the vocabulary."""
    moved = SAMPLER_BYTES * rows * vocab
    launch_s = SAMPLER_KERNELS * ELEMENTWISE_S * launch
    return Operator("sampler", launch_s, memory_s=moved / (efficiency * bandwidth), bytes=moved)


# -- between devices ------------------------------------------------------------------------------------------------------

PASSED = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0, "send-receive": 0.0}
"""How often each byte passes a link, times (n - 1) / n; point to point once."""


def collective_s(kind: str, size: float, devices: int, constants: Collective, link: float) -> float:
    """Seconds of a collective over `devices` devices: a0 + a1*(n-1) + min(B/(s(n)*link), be + B/(e(n)*link)).

    The first piece is a protocol of low latency, the second one that has to fill its pipe. x(n) = min(1, x * (min(n, 8)/2)^-g).

    size -- bytes of the whole tensor: reduced, gathered, before it is scattered, sent by one device; B passes each link [B]
    link -- bandwidth of one device in one direction [B/s]
    """
    passed = size * (PASSED[kind] * (devices - 1) / devices if devices > 1 and PASSED[kind] else 1.0)
    fade: float = (min(devices, MEASURED_DEVICES) / 2.0) ** -constants.fade
    low, high = min(1.0, constants.low * fade) * link, min(1.0, constants.high * fade) * link
    return constants.t0 + constants.per_device * (devices - 1) + min(passed / low, constants.fill + passed / high)


def one_kernel_s(size: float, devices: int, constants: OneKernel, link: float) -> float:
    """Seconds of an engine's own all-reduce kernel: a0 + a1*(n-1) + the cheaper of one shot and two.

    One shot sends all to all, (n-1)*size/(s*link); two shots reduce and gather, be + 2*(n-1)/n*size/(e*link), for n > 2.
    """
    once = (devices - 1) * size / (constants.one_shot * link)
    twice = constants.fill + 2.0 * (devices - 1) / devices * size / (constants.two_shots * link)
    return constants.t0 + constants.per_device * (devices - 1) + (once if devices <= 2 else min(once, twice))


# -- attention ------------------------------------------------------------------------------------------------------------


class Attention(NamedTuple):
    """All attention layers of one shape on one device, as their keys and queries are laid out there.

    `heads` query heads over `kv_heads` key heads; per token of context `key_bytes` of cache, and `decode_flops` of one
    query of each head; per pair of query and key `pair_flops`; `query_bytes` per new token: queries, outputs, new keys and values.
    """

    limited: bool
    layers: int
    heads: float
    kv_heads: float
    key_bytes: float
    decode_flops: float
    pair_flops: float
    query_bytes: float


def decode_attention(
    layer: Attention, constants: DecodeAttention, peak: float, bandwidth: float, launch: float, rows: float
) -> tuple[float, float, float]:
    """(a, compute, memory): decode attention takes a + (compute + memory)*S seconds over S tokens of context; one of the two is 0.

        a = launch*t0 + item*max(0, X - slots) + swap,  X = rows * kv_heads work items; swap where heads share keys and rows > 1
        s = max(key_bytes/(eba*BW) * (1 + fill/X), decode_flops/(efa*peak))

    Affine in S: what follows from the number of rows and from the shape alone is in a and s.
    """
    items = rows * layer.kv_heads
    fixed_s = launch * constants.t0 + constants.item * max(0.0, items - constants.slots)
    if rows > 1 and 1 < layer.kv_heads < layer.heads:
        fixed_s += constants.swap
    memory_s = layer.key_bytes / (constants.bandwidth * bandwidth) * (1.0 + constants.fill / items)
    compute_s = layer.decode_flops / (constants.compute * peak)
    count = layer.layers
    slower = (compute_s * count, 0.0) if compute_s > memory_s else (0.0, memory_s * count)
    return (fixed_s * count, *slower)


def prefill_attention(
    layer: Attention, constants: PrefillAttention, peak: float, bandwidth: float, launch: float,
    tokens: float, pairs: float, keys: float, longest: float,
) -> Operator:  # fmt: skip
    """Prompt chunks of `tokens` new tokens, `pairs` query-key pairs over `keys` keys, at most `longest` of one sequence:

        t = launch*t0 + query_bytes*tokens/(share*BW) + max(pair_flops*max(pairs, rows/heads*longest)/(efa*peak), key_bytes*keys/(eba*BW))

    One tile of query rows walks its keys at its core's rate, however idle the other cores are: `rows` fill the device.
    """
    count = layer.layers
    busy = max(pairs, constants.rows / layer.heads * longest)
    compute_s = count * layer.pair_flops * busy / (constants.compute * peak)
    memory_s = count * layer.key_bytes * keys / (constants.bandwidth * bandwidth)
    moved = count * layer.query_bytes * tokens
    moved_s = moved / (constants.tokens * bandwidth)
    roof = (compute_s, moved_s) if compute_s > memory_s else (0.0, memory_s + moved_s)
    moved += count * layer.key_bytes * keys
    return Operator(
        "attention, prefill", launch * constants.t0 * count, *roof, bytes=moved, flops=count * layer.pair_flops * pairs
    )
