"""Networks as shapes: parameters, bytes and flops computed layer by layer from what a config file says."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from simfleet.spec import Spec
from simfleet.units import Tokens

BYTES_PER_ELEMENT = {
    "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625, "int4": 0.5625,
}  # fmt: skip
"""Stored bytes per weight or KV element; 4-bit formats with one byte of scale per 16 elements (NVFP4's layout)."""

Part = Literal["attention", "mlp", "expert", "lm_head", "embedding"]
Shape = dict[str, int | bool | None]
Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """`count` layers of one shape, in elements per layer.

    Weights: `qkv` and `out` of attention, `mlp` (dense MLP, shared experts, router), `expert` of ONE routed expert.
    Attention: a query of `heads` heads multiplies `head_dim` with each key and `value_dim` with each value, of at most `limit`
    tokens (None: all). Memory: `kv_elements` per token of context, `state_elements` per sequence, whatever its length.
    """

    count: int
    attention: str
    limit: int | None
    qkv: int
    out: int
    mlp: int
    expert: int
    experts: int
    experts_per_token: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    kv_elements: int
    state_elements: int
    kv_sharded: bool


class Full(Spec):
    """Multi-head or grouped-query attention over the whole context."""

    kind: Literal["full"]
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    gated: bool = Field(False, description="A gate as wide as the queries on the output")
    limit: None = None

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer."""
        queries = self.heads * self.head_dim
        kv = 2 * self.kv_heads * self.head_dim
        return {
            "qkv": hidden * (queries * (2 if self.gated else 1) + kv), "out": queries * hidden, "heads": self.heads,
            "kv_heads": self.kv_heads, "head_dim": self.head_dim, "value_dim": self.head_dim, "kv_elements": kv,
            "state_elements": 0, "kv_sharded": True, "limit": self.limit,
        }  # fmt: skip


class Window(Full):
    """The same over the last `limit` tokens."""

    kind: Literal["window"]  # type: ignore[assignment]
    limit: Tokens  # type: ignore[assignment]


class Latent(Spec):
    """Multi-head latent attention: one compressed key-value vector per token, shared by all heads; `limit`: top-k of sparse attention."""

    kind: Literal["mla"]
    heads: Positive
    q_lora: Positive
    kv_lora: Positive
    nope_dim: Positive
    rope_dim: Positive
    value_dim: Positive
    limit: Tokens | None = Field(None, description="Tokens that sparse attention picks for each query")
    indexer_heads: int = Field(0, ge=0, description="Heads of the indexer that picks them")
    indexer_dim: int = Field(0, ge=0)

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer."""
        down = hidden * (self.q_lora + self.kv_lora + self.rope_dim)
        up_q = self.q_lora * self.heads * (self.nope_dim + self.rope_dim)
        up_kv = self.kv_lora * self.heads * (self.nope_dim + self.value_dim)
        indexer = self.indexer_heads * (self.q_lora * self.indexer_dim + hidden) + hidden * self.indexer_dim
        return {
            "qkv": down + up_q + up_kv + indexer, "out": self.heads * self.value_dim * hidden, "heads": self.heads, "kv_heads": 1,
            "head_dim": self.nope_dim + self.rope_dim, "value_dim": self.value_dim, "kv_elements": self.kv_lora + self.rope_dim,
            "state_elements": 0, "kv_sharded": False, "limit": self.limit,
        }  # fmt: skip


class Linear(Spec):
    """Linear attention or a state-space layer: a state of fixed size per sequence instead of a KV cache."""

    kind: Literal["linear"]
    key_heads: Positive
    key_dim: Positive
    value_heads: Positive
    value_dim: Positive
    limit: None = None

    def shape(self, hidden: int) -> Shape:
        """Elements of one layer: keys and queries, values and gate, decay per head; the state is keys x values."""
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        return {
            "qkv": hidden * (2 * keys + 2 * values + 2 * self.value_heads), "out": values * hidden, "heads": self.value_heads,
            "kv_heads": self.value_heads, "head_dim": self.key_dim, "value_dim": self.value_dim, "kv_elements": 0,
            "state_elements": values * self.key_dim, "kv_sharded": True, "limit": None,
        }  # fmt: skip


class Dense(Spec):
    """One MLP for every token."""

    kind: Literal["dense"]
    size: Positive
    gated: bool = True

    def shape(self, hidden: int) -> dict[str, int]:
        """Elements of one layer."""
        return {"mlp": (3 if self.gated else 2) * hidden * self.size, "expert": 0, "experts": 0, "experts_per_token": 0}


class Experts(Spec):
    """Routed experts, of which a token uses a few, beside an MLP (`shared`) that all use."""

    kind: Literal["moe"]
    size: Positive
    experts: Positive
    experts_per_token: Positive
    shared: int = Field(0, ge=0, description="Width of the shared experts and dense MLP beside the routed ones, summed")
    gated: bool = True
    latent: Positive | None = Field(None, description="Width in which routed experts work, if not the hidden size")

    def shape(self, hidden: int) -> dict[str, int]:
        """Elements of one layer; the router and the way into the latent width count as MLP."""
        matrices, width = 3 if self.gated else 2, self.latent or hidden
        detour = 2 * hidden * width if self.latent else 0
        return {
            "mlp": matrices * hidden * self.shared + hidden * self.experts + detour, "expert": matrices * width * self.size,
            "experts": self.experts, "experts_per_token": self.experts_per_token,
        }  # fmt: skip


AnyAttention = Annotated[Full | Window | Latent | Linear, Field(discriminator="kind")]
AnyMlp = Annotated[Dense | Experts, Field(discriminator="kind")]
NO_ATTENTION: Shape = {
    "qkv": 0, "out": 0, "heads": 0, "kv_heads": 1, "head_dim": 0, "value_dim": 0, "kv_elements": 0, "state_elements": 0,
    "kv_sharded": True, "limit": None,
}  # fmt: skip
NO_MLP = {"mlp": 0, "expert": 0, "experts": 0, "experts_per_token": 0}


class Layers(Spec):
    """Layers of the same shape; either half may be missing, as in networks that alternate them."""

    count: Positive
    attention: AnyAttention | None = None
    mlp: AnyMlp | None = None


class Published(Spec):
    """What its makers say, to hold the computed figures against."""

    parameters: float | None = Field(None, gt=0)
    active: float | None = Field(None, gt=0)
    source: str


class Model(Spec):
    """One network: what a config file says about its shape. Everything else is computed."""

    model_config = ConfigDict(ignored_types=(cached_property,))

    name: str
    family: str
    source: str
    hidden: Positive
    vocab: Positive
    tied_embeddings: bool = Field(False, description="The LM head is the embedding")
    max_context: Tokens
    layers: tuple[Layers, ...] = Field(min_length=1)
    quantised: tuple[Part, ...] = Field(
        ("attention", "mlp", "expert"),
        description="Parts that a format below 16 bits covers; the rest stays at 16 bits",
    )
    published: Published
    note: str | None = None

    @cached_property
    def groups(self) -> tuple[LayerGroup, ...]:
        """Layers by shape."""
        return tuple(self._group(layers) for layers in self.layers)

    def _group(self, layers: Layers) -> LayerGroup:
        attention = layers.attention.shape(self.hidden) if layers.attention else NO_ATTENTION
        mlp = layers.mlp.shape(self.hidden) if layers.mlp else NO_MLP
        kind = layers.attention.kind if layers.attention else "none"
        return LayerGroup(count=layers.count, attention=kind, **attention, **mlp)  # type: ignore[arg-type]

    @property
    def embedding(self) -> int:
        """Weights of the embedding; it is read one row per token, not multiplied."""
        return self.vocab * self.hidden

    @property
    def lm_head(self) -> int:
        """Weights of the product that gives the next token's logits."""
        return self.vocab * self.hidden

    @cached_property
    def parameters(self) -> int:
        """All weights, norms aside."""
        layers = sum(g.count * (g.qkv + g.out + g.mlp + g.expert * g.experts) for g in self.groups)
        return layers + self.embedding + (0 if self.tied_embeddings else self.lm_head)

    @cached_property
    def active_parameters(self) -> int:
        """Weights that one token meets, embedding and head included as published figures do."""
        layers = sum(g.count * (g.qkv + g.out + g.mlp + g.expert * g.experts_per_token) for g in self.groups)
        return layers + self.embedding + (0 if self.tied_embeddings else self.lm_head)

    def part_precision(self, part: Part, precision: str) -> str:
        """How a part is stored when the model is in `precision`: 16 bits where the format does not cover it."""
        wide = BYTES_PER_ELEMENT[precision] >= BYTES_PER_ELEMENT["bf16"]
        return precision if wide or part in self.quantised else "bf16"

    def element_bytes(self, part: Part, precision: str) -> float:
        """Bytes per weight of a part [B]."""
        return BYTES_PER_ELEMENT[self.part_precision(part, precision)]

    def weight_bytes(self, precision: str, tensor_parallel: int = 1) -> float:
        """Bytes of weights on each of `tensor_parallel` devices; embedding and head are split too [B]."""
        sizes: dict[Part, int] = {"embedding": self.embedding, "lm_head": 0 if self.tied_embeddings else self.lm_head}
        sizes["attention"] = sum(g.count * (g.qkv + g.out) for g in self.groups)
        sizes["mlp"] = sum(g.count * g.mlp for g in self.groups)
        sizes["expert"] = sum(g.count * g.expert * g.experts for g in self.groups)
        total = sum(size * self.element_bytes(part, precision) for part, size in sizes.items())
        return total / tensor_parallel

    def kv_bytes_per_token(self, bytes_per_element: float, tensor_parallel: int = 1) -> float:
        """KV bytes on each device per token of context [B]: layers that keep every token.

        Heads are split over devices and repeat where there are more devices than KV heads; latent vectors are on each.
        """
        return bytes_per_element * sum(
            g.count * g.kv_elements / _shards(g, tensor_parallel) for g in self.groups if g.attention != "window"
        )

    def state_bytes(self, bytes_per_element: float, tensor_parallel: int = 1, max_context: int | None = None) -> float:
        """Bytes on each device per sequence, whatever its length: full windows (or `max_context` if shorter) and linear states [B]."""
        total = 0.0
        for g in self.groups:
            kept = min(g.limit or 0, max_context or self.max_context) * g.kv_elements if g.attention == "window" else 0
            total += g.count * (kept + g.state_elements) / _shards(g, tensor_parallel)
        return bytes_per_element * total

    def flops_per_token(self, context: int) -> float:
        """Forward floating-point operations of one token at `context` tokens of context.

        2 per active weight of a product, 2 per head, dimension and token attended to for scores and again for values, and 4 per
        element of a linear state (decay, update, read).
        """
        total = 2.0 * self.lm_head
        for g in self.groups:
            seen = min(context, g.limit) if g.limit is not None else context
            scores = 2.0 * g.heads * (g.head_dim + g.value_dim) * seen if g.kv_elements else 4.0 * g.state_elements
            total += g.count * (2.0 * (g.qkv + g.out + g.mlp + g.expert * g.experts_per_token) + scores)
        return total


def _shards(group: LayerGroup, tensor_parallel: int) -> int:
    return min(tensor_parallel, group.kv_heads) if group.kv_sharded else 1
