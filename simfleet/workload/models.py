"""Networks as shapes: parameters, bytes and flops computed layer by layer from what a config file says."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from simfleet.spec import Spec, refusal
from simfleet.units import Tokens

BYTES_PER_ELEMENT = {
    "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp8_block": 1.0 + 4.0 / 128**2, "int8": 1.0,
    "fp4": 0.5625, "nvfp4": 0.5625, "mxfp4": 0.53125, "int4": 0.5625,
}  # fmt: skip
"""Stored bytes per weight or KV element, scales included: one byte per 16 (NVFP4, int4) or 32 elements (MXFP4), four per 128 x 128."""

FOUR_BITS = ("fp4", "nvfp4", "mxfp4", "int4")
STATE_BYTES = 4.0
"""Bytes per element of a linear layer's state: engines keep it in 32 bits whatever the cache's precision."""

INDEX_BYTES = 1.0
"""Bytes per element of an indexer's keys: engines keep them in 8 bits (DeepSeek-V3.2's release)."""

STATE_FLOPS = 6.0
"""Operations per state element and token: decay, delta rule, update, read (arXiv:2510.26692: 6*d*d per head)."""

LONG_WINDOW = 2048
"""Windows beyond this many tokens are held like layers that see all: exact for sequences shorter than the window, as most then are."""

Part = Literal["attention", "mlp", "expert", "lm_head", "embedding"]
Shape = dict[str, Any]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """`count` layers of one shape, in elements per layer.

    Weights: `qkv` and `out` of attention, `mlp` (dense MLP, shared experts, router), `expert` of ONE routed expert.
    Attention ("full", "window", "mla", "sparse", "compressed", "linear", "none"): a query of `heads` heads multiplies `head_dim`
    with each key and `value_dim` with each value, of at most `limit` tokens (None: all). An indexer of `index_heads` heads scores
    `index_elements` of every token, whatever the limit.
    Memory: `kv_elements` and `index_elements` per token of context, `window_elements` for each of the last `window` tokens,
    `state_elements` per sequence. `kv_sharded`: split over devices by KV head.
    """

    count: int
    attention: str = "none"
    limit: int | None = None
    qkv: int = 0
    out: int = 0
    mlp: int = 0
    expert: int = 0
    experts: int = 0
    experts_per_token: int = 0
    heads: int = 0
    kv_heads: int = 1
    head_dim: int = 0
    value_dim: int = 0
    kv_elements: int = 0
    state_elements: int = 0
    kv_sharded: bool = True
    index_heads: int = 0
    index_elements: int = 0
    window: int = 0
    window_elements: int = 0

    @property
    def keeps_all(self) -> bool:
        """Whether its cache grows with every token, rather than being one full window per sequence."""
        return self.attention != "window" or self.window > LONG_WINDOW


def _divisor(key: str, value: int, of: str, whole: int) -> None:
    """Raise an error at `key` unless it divides `whole`."""
    if whole % value:
        raise refusal([((key,), f"expected a divisor of the {whole} {of}, got {value}")])


def _together(**keys: int | None) -> None:
    """Raise an error unless all of `keys` are given, or none."""
    if len({not value for value in keys.values()}) > 1:
        raise refusal([((), f"expected {', '.join(f'`{key}`' for key in keys)} together or none of them")])


# -- attention -----------------------------------------------------------------------------------------------------------


class Heads(Spec):
    """Multi-head or grouped-query attention over the whole context, or in a `window` over the last `limit` tokens."""

    kind: Literal["full", "window"] = Field(
        description="`full`: every token is seen; `window`: the last `limit` tokens"
    )
    heads: Positive = Field(description="Query heads")
    kv_heads: Positive = Field(description="Key and value heads; a divisor of `heads`")
    head_dim: Positive = Field(description="Width of one head, in elements")
    limit: Tokens | None = Field(None, description="With `window` only: last tokens that a token sees")
    gated: bool = Field(False, description="Whether a gate as wide as the queries is on the output")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _divisor("kv_heads", self.kv_heads, "heads", self.heads)
        if (self.kind == "window") == (self.limit is None):
            raise refusal(
                [(("limit",), f"expected {'a' if self.kind == 'window' else 'no'} limit with kind `{self.kind}`")]
            )
        return self

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer."""
        queries, kv = self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim
        return {
            "attention": self.kind, "limit": self.limit, "qkv": hidden * (queries * (1 + self.gated) + kv), "out": queries * hidden,
            "heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim, "value_dim": self.head_dim,
            "kv_elements": kv, "window": self.limit or 0, "window_elements": kv,
        }  # fmt: skip


class Latent(Spec):
    """Multi-head latent attention: one compressed key-value vector per token, shared by all heads; `limit`: top-k of sparse attention."""

    kind: Literal["mla"]
    heads: Positive = Field(description="Query heads")
    q_lora: Positive = Field(description="Width of the compressed queries, in elements")
    kv_lora: Positive = Field(description="Width of the latent key-value vector kept for each token, in elements")
    nope_dim: Positive = Field(description="Part of a head's key without rotation, in elements")
    rope_dim: Positive = Field(
        description="Part of a head's key with rotation, shared by all heads and kept for each token, in elements"
    )
    value_dim: Positive = Field(description="Width of a head's value, in elements")
    gated: bool = Field(False, description="Whether a gate as wide as the values is on the output")
    limit: Tokens | None = Field(
        None, description="Tokens that sparse attention picks for each query; left out, it attends to all"
    )
    indexer_heads: Count = Field(0, description="Heads of the indexer that picks them; together with `limit`")
    indexer_dim: Count = Field(
        0, description="Width of the indexer's key, kept for each token in 8 bits, in elements; together with `limit`"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _together(limit=self.limit, indexer_heads=self.indexer_heads, indexer_dim=self.indexer_dim)
        return self

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer."""
        down = hidden * (self.q_lora + self.kv_lora + self.rope_dim)
        up = self.heads * (
            self.q_lora * (self.nope_dim + self.rope_dim) + self.kv_lora * (self.nope_dim + self.value_dim)
        )
        indexer = self.indexer_heads * (self.q_lora * self.indexer_dim + hidden) + hidden * self.indexer_dim
        values = self.heads * self.value_dim * hidden
        return {
            "attention": "mla" if self.limit is None else "sparse", "limit": self.limit, "qkv": down + up + indexer + self.gated * values,
            "out": values, "heads": self.heads, "head_dim": self.nope_dim + self.rope_dim, "value_dim": self.value_dim,
            "kv_elements": self.kv_lora + self.rope_dim, "kv_sharded": False, "index_heads": self.indexer_heads,
            "index_elements": self.indexer_dim,
        }  # fmt: skip


class Compressed(Spec):
    """One key that is also the value for every `ratio` tokens, beside the last `window` tokens as they are (DeepSeek-V4).

    With `top_k`, compressed sparse attention: an indexer picks as many of them. Without, heavily compressed: all are attended to.
    """

    kind: Literal["compressed"]
    heads: Positive = Field(description="Query heads")
    head_dim: Positive = Field(
        description="Width of one head, and of a compressed key, in elements; a multiple of `ratio`"
    )
    q_lora: Positive = Field(description="Width of the compressed queries, in elements")
    out_lora: Positive = Field(description="Width between the two products of the output, in elements")
    out_groups: Positive = Field(description="Groups of heads that the first of these two products keeps apart")
    ratio: Positive = Field(description="Tokens behind one compressed key")
    window: Tokens = Field(description="Last tokens whose keys are kept as they are")
    top_k: Positive | None = Field(
        None, description="Compressed keys that the indexer picks for each query; left out, all are attended to"
    )
    indexer_heads: Count = Field(0, description="Heads of the indexer; together with `top_k`")
    indexer_dim: Count = Field(
        0, description="Width of the indexer's key, one for every `ratio` tokens, in elements; together with `top_k`"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _divisor("ratio", self.ratio, "elements of `head_dim`", self.head_dim)
        _together(top_k=self.top_k, indexer_heads=self.indexer_heads, indexer_dim=self.indexer_dim)
        return self

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer; keys per token of context. Sparse layers compress overlapping spans: twice the weights."""
        compress = 2 * hidden * (1 if self.top_k is None else 2)
        queries, key = self.heads * self.head_dim, self.head_dim // self.ratio
        indexer = self.indexer_heads * (self.q_lora * self.indexer_dim + hidden) + compress * self.indexer_dim
        down = hidden * (self.q_lora + self.head_dim) + compress * self.head_dim
        return {
            "attention": "compressed", "limit": self.top_k and self.top_k * self.ratio, "qkv": down + self.q_lora * queries + indexer,
            "out": self.out_lora * (queries + self.out_groups * hidden), "heads": self.heads, "head_dim": key, "value_dim": key,
            "kv_elements": key, "kv_sharded": False, "index_heads": self.indexer_heads,
            "index_elements": self.indexer_dim // self.ratio, "window": self.window, "window_elements": self.head_dim,
        }  # fmt: skip


class Linear(Spec):
    """Linear attention or a state-space layer: a state of fixed size per sequence instead of a KV cache."""

    kind: Literal["linear"]
    key_heads: Positive = Field(description="Heads of keys and queries; a divisor of `value_heads`")
    key_dim: Positive = Field(description="Width of a key, in elements")
    value_heads: Positive = Field(description="Heads of values, each with a state of key_dim x value_dim elements")
    value_dim: Positive = Field(description="Width of a value, in elements")
    conv: Positive = Field(4, description="Tokens under the convolution of keys, queries and values; 1: none")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _divisor("key_heads", self.key_heads, "value heads", self.value_heads)
        return self

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer: keys, queries, values, gate, two scalars per head; the state is keys x values per value head."""
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        mixed = 2 * keys + values
        return {
            "attention": "linear", "qkv": hidden * (mixed + values + 2 * self.value_heads) + self.conv * mixed, "out": values * hidden,
            "heads": self.value_heads, "kv_heads": self.value_heads, "head_dim": self.key_dim, "value_dim": self.value_dim,
            "state_elements": values * self.key_dim + (self.conv - 1) * mixed,
        }  # fmt: skip


# -- MLP -----------------------------------------------------------------------------------------------------------------


class Dense(Spec):
    """One MLP for every token."""

    kind: Literal["dense"]
    size: Positive = Field(description="Inner width, in elements (`intermediate_size` of most config files)")
    gated: bool = Field(True, description="Three matrices (SwiGLU and the like); false: two")

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer."""
        return {"mlp": (3 if self.gated else 2) * hidden * self.size}


class Experts(Spec):
    """Routed experts, of which a token uses a few, beside an MLP (`shared`) that all use."""

    kind: Literal["moe"]
    size: Positive = Field(
        description="Inner width of one routed expert, in elements (`moe_intermediate_size` of most config files)"
    )
    experts: Positive = Field(description="Routed experts of a layer")
    experts_per_token: Positive = Field(description="Routed experts that a token uses")
    shared: Count = Field(
        0,
        description="Inner width of what every token uses beside them, shared experts and dense MLP summed, in elements",
    )
    gated: bool = Field(True, description="Three matrices (SwiGLU and the like); false: two")
    latent: Positive | None = Field(
        None, description="Width in which routed experts work, in elements; left out, the hidden size"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.experts_per_token > self.experts:
            wanted = f"expected at most the {self.experts} experts"
            raise refusal([(("experts_per_token",), f"{wanted}, got {self.experts_per_token}")])
        return self

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer; the router and the way into the latent width count as MLP."""
        matrices, width = 3 if self.gated else 2, self.latent or hidden
        detour = 2 * hidden * width if self.latent else 0
        return {
            "mlp": matrices * hidden * self.shared + hidden * self.experts + detour, "expert": matrices * width * self.size,
            "experts": self.experts, "experts_per_token": self.experts_per_token,
        }  # fmt: skip


# -- the network ---------------------------------------------------------------------------------------------------------

AnyAttention = Annotated[Heads | Latent | Compressed | Linear, Field(discriminator="kind")]
AnyMlp = Annotated[Dense | Experts, Field(discriminator="kind")]


class Layers(Spec):
    """Layers of the same shape; either half may be missing, as in networks that alternate them."""

    count: Positive = Field(description="How many layers of the network are like this")
    attention: AnyAttention | None = Field(
        None, description="Attention half, by its `kind`; left out, the layer has none"
    )
    mlp: AnyMlp | None = Field(None, description="MLP half, by its `kind`; left out, the layer has none")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.attention is None and self.mlp is None:
            raise refusal([((), "expected `attention`, `mlp` or both, got neither")])
        return self

    def group(self, hidden: int) -> LayerGroup:
        """The same as numbers."""
        halves = [half.shape(hidden) for half in (self.attention, self.mlp) if half]
        return LayerGroup(self.count, **{key: number for half in halves for key, number in half.items()})


class Published(Spec):
    """What its makers say, to hold the computed figures against."""

    parameters: float | None = Field(None, gt=0, description="Parameters, as a number such as 70.6e9")
    active: float | None = Field(
        None,
        gt=0,
        description="Parameters that a token uses, as a number such as 5.1e9; makers differ in whether the embedding counts",
    )
    source: str = Field(description="Where it says so")


class Model(Spec):
    """One network: what a config file says about its shape. Everything else is computed."""

    model_config = ConfigDict(ignored_types=(cached_property,))

    name: str = Field(description="Name for reports; streams and pools must agree in it")
    aliases: tuple[str, ...] = Field(
        (), description="Other names under which scenarios and measured rows may ask for it"
    )
    family: str = Field(description="Networks of one architecture; for people")
    source: str = Field(description="Where the shape was read, such as a config.json with its date")
    hidden: Positive = Field(description="Hidden size, in elements")
    vocab: Positive = Field(description="Entries of the vocabulary")
    tied_embeddings: bool = Field(
        False, description="Whether the LM head is the embedding: stored once, still multiplied"
    )
    max_context: Tokens = Field(
        description="Longest context it was made for; longer requests are served and named among the assumptions"
    )
    layers: tuple[Layers, ...] = Field(min_length=1, description="Groups of equal layers, in any order")
    quantised: tuple[Literal["attention", "mlp", "expert"], ...] = Field(
        ("attention", "mlp", "expert"), description="Parts that the network's 4-bit checkpoints store in 4 bits"
    )
    rest: Literal["bf16", "fp16", "fp8", "int8"] = Field(
        "bf16", description="Format in which these checkpoints store the parts that are not in `quantised`"
    )
    fp8: Literal["fp8", "fp8_block"] = Field(
        "fp8",
        description="What precision `fp8` means for it: scaled per tensor or channel, or (`fp8_block`) per block of 128 x 128",
    )
    fp4: Literal["nvfp4", "mxfp4"] = Field("nvfp4", description="What precision `fp4` means for it: NVFP4 or MXFP4")
    expert_skew: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="theta of the experts' popularity: 0 even, 1 some several times as popular as others"
    )
    published: Published = Field(description="What its makers say, to hold the computed figures against")
    note: str | None = Field(None, description="What is approximated; for people")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(group.kv_elements for group in self.groups if group.attention != "window"):
            wanted = "expected a layer that keeps every token (full, mla, compressed): engines count memory in blocks of tokens"
            raise refusal([(("layers",), wanted)])
        return self

    @cached_property
    def groups(self) -> tuple[LayerGroup, ...]:
        """Layers by shape."""
        return tuple(layers.group(self.hidden) for layers in self.layers)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with its own `groups` where `update` changes the shape."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("groups", None)
        return copy

    @property
    def embedding(self) -> int:
        """Weights of the embedding; it is read one row per token, not multiplied."""
        return self.vocab * self.hidden

    @property
    def lm_head(self) -> int:
        """Weights of the product that gives the next token's logits; with `tied_embeddings` those of the embedding."""
        return self.vocab * self.hidden

    @property
    def parts(self) -> dict[Part, int]:
        """All weights by part, norms and biases aside; tied ones once, as the embedding."""
        return {
            "attention": sum(g.count * (g.qkv + g.out) for g in self.groups),
            "mlp": sum(g.count * g.mlp for g in self.groups),
            "expert": sum(g.count * g.expert * g.experts for g in self.groups),
            "embedding": self.embedding,
            "lm_head": 0 if self.tied_embeddings else self.lm_head,
        }

    @property
    def parameters(self) -> int:
        """All weights, norms and biases aside."""
        return sum(self.parts.values())

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets; embedding and head included, as in most published figures."""
        return self.parameters - sum(g.count * g.expert * (g.experts - g.experts_per_token) for g in self.groups)

    def part_precision(self, part: Part, precision: str) -> str:
        """How a part is stored when the model is in `precision`, one of BYTES_PER_ELEMENT. Raises ValueError.

        Below 16 bits, embedding and head stay at 16, as in released checkpoints; 4 bits are for `quantised` parts alone. `fp8` and
        `fp4` are whatever the network's own checkpoints use.
        """
        if precision not in BYTES_PER_ELEMENT:
            raise ValueError(f"expected one of {', '.join(BYTES_PER_ELEMENT)}, got `{precision}`")
        if BYTES_PER_ELEMENT[precision] >= BYTES_PER_ELEMENT["bf16"]:
            return precision
        if part in ("embedding", "lm_head"):
            return "bf16"
        stored = self.rest if precision in FOUR_BITS and part not in self.quantised else precision
        return {"fp8": self.fp8, "fp4": self.fp4}.get(stored, stored)

    def element_bytes(self, part: Part, precision: str) -> float:
        """Bytes per weight of a part, scales included [B]."""
        return BYTES_PER_ELEMENT[self.part_precision(part, precision)]

    def weight_bytes(self, precision: str, split: float = 1, experts_split: float | None = None) -> float:
        """Bytes of weights on each device, `split` ways, experts `experts_split` ways (None: as the rest) [B]. Raises ValueError."""
        ways = {"expert": split if experts_split is None else experts_split}
        return sum(
            size * self.element_bytes(part, precision) / ways.get(part, split) for part, size in self.parts.items()
        )

    def kv_bytes_per_token(self, bytes_per_element: float, tensor_parallel: int = 1) -> float:
        """KV bytes on each device per token of context [B]: layers that keep every token, and their indexers' keys.

        Heads are split over devices and repeat where there are more devices than KV heads; latent vectors are on each.
        """
        return sum(
            g.count * (g.kv_elements * bytes_per_element + g.index_elements * INDEX_BYTES) / _shards(g, tensor_parallel)
            for g in self.groups
            if g.keeps_all
        )

    def state_bytes(self, bytes_per_element: float, tensor_parallel: int = 1, max_context: int | None = None) -> float:
        """Bytes on each device per sequence, whatever its length: full windows (or `max_context` if shorter) and linear states [B]."""
        longest = max_context or self.max_context
        return sum(
            g.count
            * (_window(g, longest) * g.window_elements * bytes_per_element + g.state_elements * STATE_BYTES)
            / _shards(g, tensor_parallel)
            for g in self.groups
        )

    def flops_per_token(self, context: int) -> float:
        """Forward floating-point operations of one token at `context` tokens of context.

        2 per active weight of a product; 2 per head, dimension and token attended to for scores and again for values; 2 per element
        of an indexer's key, head and token of context; 6 per element of a linear state. Latent attention as in prefill, keys and
        values expanded per head; decoding in the compressed space takes 2*heads*(2*kv_lora + rope_dim) per token attended to.
        """
        total = 2.0 * self.lm_head
        for g in self.groups:
            weights = g.qkv + g.out + g.mlp + g.expert * g.experts_per_token
            seen = context if g.limit is None else min(context, g.limit)
            pairs = g.heads * (g.head_dim + g.value_dim) * seen if g.kv_elements else 0
            if g.attention == "compressed":
                pairs += 2 * g.heads * g.window_elements * min(context, g.window)
            index = g.index_heads * g.index_elements * context
            total += g.count * (2.0 * (weights + pairs + index) + STATE_FLOPS * g.state_elements)
        return total


def _window(group: LayerGroup, longest: int) -> int:
    """Tokens of a window that a sequence holds whatever its length."""
    return 0 if group.attention == "window" and group.keeps_all else min(group.window, longest)


def _shards(group: LayerGroup, tensor_parallel: int) -> int:
    return min(tensor_parallel, group.kv_heads) if group.kv_sharded else 1
