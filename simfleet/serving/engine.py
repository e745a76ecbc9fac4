"""The inference engine of a replica: what it batches, what it holds back, what its host costs."""

from typing import Annotated, Literal

from pydantic import Field

from simfleet.hardware.profile import Profile
from simfleet.hardware.step import Precisions
from simfleet.spec import Spec
from simfleet.units import Bytes, Fraction, Seconds, Tokens
from simfleet.workload.models import BYTES_PER_ELEMENT, Model


class Engine(Spec):
    """Limits, KV memory and host time. Defaults: vLLM V1's, host figures from docs/physics.md."""

    token_budget: Tokens = Field(8192, description="Most tokens in one step")
    max_sequences: int = Field(256, ge=1, description="Most sequences in one batch")
    block_size: int = Field(16, ge=1, description="Tokens in one KV block")
    num_kv_blocks: int | None = Field(None, ge=1, description="KV blocks per replica; None: from the device's memory")
    memory_fraction: Fraction = Field(0.9, description="Share of device memory the engine may use")
    reserve: Bytes = Field(2e9, description="Activations, graphs and buffers, per device")
    queue_limit: int | None = Field(None, ge=1, description="Requests that may wait at a replica; one more is rejected")
    host: Seconds = Field(0.59e-3, description="Host time per step")
    per_sequence: Seconds = Field(10e-6, description="Host time per sampled sequence and step")
    launch_factor: float = Field(0.77, gt=0, description="Kernel launch time against the operator tables'")
    front_end: Seconds = Field(12.9e-3, description="HTTP, tokeniser and detokeniser: added to every answer")


class Continuous(Engine):
    """Iteration-level scheduling with chunked prefill, decodes first (vLLM V1's order)."""

    kind: Literal["continuous"] = "continuous"


class Static(Engine):
    """Request-level scheduling: a batch runs until its last sequence ends, then the next one starts."""

    kind: Literal["static"]


AnyEngine = Annotated[Continuous | Static, Field(discriminator="kind")]


def block_bytes(model: Model, engine: Engine, tensor_parallel: int, precision: Precisions) -> float:
    """Bytes of one KV block on each device [B]."""
    return engine.block_size * model.kv_bytes_per_token(BYTES_PER_ELEMENT[precision.kv], tensor_parallel)


def sequence_blocks(model: Model, engine: Engine, tensor_parallel: int, precision: Precisions) -> int:
    """Blocks that a sequence holds whatever its length: full windows and linear states, in whole blocks."""
    state = model.state_bytes(BYTES_PER_ELEMENT[precision.kv], tensor_parallel)
    return -int(-state // block_bytes(model, engine, tensor_parallel, precision))


def kv_blocks(model: Model, profile: Profile, engine: Engine, tensor_parallel: int, precision: Precisions) -> int:
    """KV blocks of one replica: as given, or what weights and reserve leave of the memory; below 1 it does not fit.

    A given number is taken even where it is more than `memory_blocks` (engines have been measured with more), but not on a device
    that could not hold the weights.
    """
    blocks = memory_blocks(model, profile, engine, tensor_parallel, precision)
    return blocks if engine.num_kv_blocks is None or blocks < 1 else engine.num_kv_blocks


def memory_blocks(model: Model, profile: Profile, engine: Engine, tensor_parallel: int, precision: Precisions) -> int:
    """KV blocks that weights and reserve leave room for on each device; negative where they do not fit themselves."""
    memory = engine.memory_fraction * profile.memory.capacity.value
    left = memory - model.weight_bytes(precision.weights, tensor_parallel) - engine.reserve
    return int(left // block_bytes(model, engine, tensor_parallel, precision))
