"""The inference engine of a replica: what it batches, what it holds back, what its host costs."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from simfleet.hardware.profile import Profile
from simfleet.hardware.step import Parallel, Precisions
from simfleet.spec import Provenance, Spec, preset
from simfleet.units import Bytes, Fraction, Seconds, Tokens
from simfleet.workload.models import BYTES_PER_ELEMENT, Model

DEFAULT_ENGINE = "vllm"


class Engine(Spec):
    """Limits, KV memory and host time. Defaults where no preset is named: the `generic` preset's."""

    preset: str | None = Field(
        None, description="Shipped or own engine to start from; keys given here replace its keys"
    )
    release: str | None = Field(None, description="Releases that the numbers are for; for people")
    aliases: tuple[str, ...] = Field(
        (), description="Other names under which scenarios and measured rows may ask for it"
    )
    sources: dict[str, Provenance] = Field({}, description="Key of a number -> where it comes from")
    token_budget: Tokens = Field(8192, description="Most tokens of one step, decoding and prompts together")
    max_sequences: int = Field(256, ge=1, description="Most sequences in one batch; at most `token_budget`")
    block_size: int = Field(16, ge=1, description="Tokens in one block of KV memory")
    num_kv_blocks: int | None = Field(
        None,
        ge=1,
        description="KV blocks of a replica; left out, what weights and `reserve` leave of the device's memory",
    )
    memory_fraction: Fraction = Field(0.9, description="Share of the device's memory that the engine may use")
    reserve: Bytes = Field(2e9, description="Memory of one device held back for activations, graphs and buffers")
    queue_limit: int | None = Field(
        None, ge=1, description="Requests that may wait at a replica, one more is rejected; left out, any number"
    )
    host: Seconds = Field(0.59e-3, description="Time of the engine's own work in each step, while devices wait")
    per_sequence: Seconds = Field(10e-6, description="More of it for each sequence that gets a token in the step")
    launch_factor: float = Field(
        0.77, gt=0, description="`kap`: launch times of its kernels over those of the profile, in captured graphs"
    )
    compute_factor: float = Field(
        1.0, gt=0, description="Arithmetic time of its kernels over that of the profile: the peak is divided by it"
    )
    memory_factor: float = Field(
        1.0, gt=0, description="Memory time of its kernels over that of the profile: the bandwidth is divided by it"
    )
    experts_factor: float = Field(
        1.0, gt=0, description="`kapm`: launch and sorting time of experts over that of the profile"
    )
    quantise_factor: float = Field(
        1.0, ge=0, description="`fused`: time to quantise inputs over that of the profile; 0: inside the kernel before"
    )
    expert_tile: int | None = Field(
        None,
        ge=2,
        description="Rows to which kernels fill up each block-scaled expert that a device holds, beside a row for every pick of the group",
    )
    graph_tokens: int = Field(
        512,
        ge=0,
        description="Most tokens of a step replayed as a captured graph, and never more than 2 x `max_sequences`",
    )
    eager_layer: Seconds = Field(
        0.0, description="Beyond `graph_tokens`: least time of a layer, whose kernels the host launches one by one"
    )
    eager_narrow: Seconds = Field(
        0.0,
        description="Beyond `graph_tokens`: more for a layer with weights narrower than 16 bits, whose inputs are quantised",
    )
    eager_collective: Seconds = Field(0.0, description="Beyond `graph_tokens`: more for each collective")
    front_end: Seconds = Field(
        12.9e-3, description="HTTP, tokeniser and detokeniser: added to every request's first token and answer"
    )

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, values: Any, info: ValidationInfo) -> Any:
        """Lay the given keys over the preset's; a replaced number loses the preset's source with it."""
        if not isinstance(values, dict) or not isinstance(values.get("preset"), str):
            return values
        merged = preset(values, info, "engines")
        sources = merged.get("sources")
        if isinstance(sources, dict) and "sources" not in values:
            merged["sources"] = {key: fact for key, fact in sources.items() if key not in values}
        return merged | {"preset": values["preset"]}

    def estimates(self) -> list[str]:
        """The numbers behind this engine that are estimates, in one sentence for those of the same source."""
        if self.preset is None:
            return ["engine: limits and host times are those of no particular engine"]
        guessed: dict[str, list[str]] = {}
        for key, fact in self.sources.items():
            if fact.grade == "estimate":
                guessed.setdefault(fact.source, []).append(key)
        return [f"engine {self.preset}: {', '.join(keys)} estimated ({source})" for source, keys in guessed.items()]


class Continuous(Engine):
    """Iteration-level scheduling with chunked prefill, decodes first (vLLM V1's order)."""

    kind: Literal["continuous"] = "continuous"


class Static(Engine):
    """Request-level scheduling: a batch runs until its last sequence ends, then the next one starts."""

    kind: Literal["static"]


AnyEngine = Annotated[Continuous | Static, Field(discriminator="kind")]


def block_bytes(model: Model, engine: Engine, parallel: Parallel, precision: Precisions) -> float:
    """Bytes of one KV block on each device that holds a part of it [B]: its group's, of its stage's layers."""
    per_token = model.kv_bytes_per_token(BYTES_PER_ELEMENT[precision.kv], parallel.tensor)
    return engine.block_size * per_token / parallel.pipeline


def sequence_blocks(model: Model, engine: Engine, parallel: Parallel, precision: Precisions) -> int:
    """Blocks that a sequence holds whatever its length: full windows and linear states, in whole blocks."""
    state = model.state_bytes(BYTES_PER_ELEMENT[precision.kv], parallel.tensor) / parallel.pipeline
    return -int(-state // block_bytes(model, engine, parallel, precision))


def kv_blocks(model: Model, profile: Profile, engine: Engine, parallel: Parallel, precision: Precisions) -> int:
    """KV blocks of one replica: as given, or what weights and reserve leave of the memory; below 1 it does not fit.

    A given number is taken even where it is more than `memory_blocks` (engines have been measured with more), but not on a device
    that could not hold the weights.
    """
    blocks = memory_blocks(model, profile, engine, parallel, precision)
    return blocks if engine.num_kv_blocks is None or blocks < 1 else engine.num_kv_blocks


def memory_blocks(model: Model, profile: Profile, engine: Engine, parallel: Parallel, precision: Precisions) -> int:
    """KV blocks that weights and reserve leave room for; negative where they do not fit themselves. Groups of `attention_dp` each have theirs."""
    memory = engine.memory_fraction * profile.memory.capacity.value
    left = memory - device_weights(model, parallel, precision) - engine.reserve
    return int(left // block_bytes(model, engine, parallel, precision)) * parallel.attention_dp


def device_weights(model: Model, parallel: Parallel, precision: Precisions) -> float:
    """Bytes of weights on each device [B]."""
    stages, group = parallel.pipeline, parallel.tensor
    return model.weight_bytes(precision.weights, group * stages, group * parallel.attention_dp * stages)
