"""A pool: equal replicas of one model on one kind of device, and whether its parts go together."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import (
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from simfleet.document import Location
from simfleet.facility.cost import AnyCost, Rent
from simfleet.hardware.power import REST_S, State
from simfleet.hardware.profile import Precision, Profile
from simfleet.hardware.step import HostConstants, Parallel, Precisions, StepCost, step_cost
from simfleet.series import Series
from simfleet.serving.engine import (
    DEFAULT_ENGINE,
    AnyEngine,
    Continuous,
    device_weights,
    kv_blocks,
    memory_blocks,
    sequence_blocks,
)
from simfleet.signals import Signal
from simfleet.spec import Named, OrName, Spec, default_kind
from simfleet.units import PositiveSeconds, Seconds, Watts
from simfleet.workload.models import Model

WEIGHTS_ONLY = ("int4", "mxfp4")
MOST_DEVICES = 1024

Complaint = tuple[Location, str]
"""A place inside the value that is being checked, and what is wrong there."""


def _or_one_word(schema: dict[str, Any]) -> None:
    """A JSON Schema that also takes the name of a format."""
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "enum": list(get_args(Precision))}, mapping]


class PoolPrecision(Spec):
    """Formats of a pool: how weights and KV cache are stored, and in what weights are multiplied."""

    model_config = ConfigDict(json_schema_extra=_or_one_word)

    weights: Precision = Field(
        description="Format in which attention, MLP and experts are stored; `fp8` and `fp4` are the network's own"
    )
    kv: Precision = Field(
        "bf16", description="Format of the KV cache; left out, that of 16- and 32-bit weights, else `bf16`"
    )
    activations: Precision = Field(
        "bf16",
        description="Format in which products are computed; left out, the weights' own, `bf16` for `int4` and `mxfp4`",
    )


class Sleep(Spec):
    """A replica's devices asleep: they draw little, and need time to be back."""

    after: PositiveSeconds = Field(description="Time without work until it sleeps; at least 1 s")
    draw: Watts = Field(description="Watts of one device asleep; at most its idle watts")
    wake: Seconds = Field(
        description="From the next request until the first step; devices are awake, but do not compute"
    )


class Off(Spec):
    """A replica switched off, and its share of the server with it: nothing is drawn, and starting takes long."""

    after: PositiveSeconds = Field(description="Time without work until it is off; more than `sleep.after`")
    wake: Seconds = Field(description="From the next request until the first step: start, weights into memory, engine")


class Pool(Spec):
    """Equal replicas of one model on one kind of device, at one site."""

    site: str = Field("", description="Name under `sites`; left out where there is one")
    network: Annotated[Model, Named("models")] = Field(
        alias="model", description="What it serves: streams of this model are routed here"
    )
    profile: Annotated[Profile, Named("hardware_profiles")] = Field(alias="device", description="What it runs on")
    replicas: int = Field(
        1, ge=1, le=65_535, description="Copies of the model that serve side by side, each with its own queue"
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        description="Devices that share every layer's matrices; a replica has tensor x pipeline x attention_dp devices",
    )
    formats: PoolPrecision = Field(
        PoolPrecision(weights="bf16"),
        json_schema_extra={"default": "bf16"},
        alias="precision",
        description="Formats of numbers: one name, such as `fp8`, or one for each part",
    )
    engine: Annotated[AnyEngine, default_kind("continuous"), OrName("engines")] = Field(
        Continuous(),
        json_schema_extra={"default": DEFAULT_ENGINE},
        description="Inference engine: a preset's name, or a mapping that changes numbers of one",
    )
    pipeline_parallel: int = Field(1, ge=1, description="Stages that the layers are split into, one after the other")
    expert_parallel: int = Field(
        1,
        ge=1,
        description="Devices among which whole experts are dealt out; a divisor of tensor x attention_dp and of the experts",
    )
    attention_dp: int = Field(
        1, ge=1, description="Groups that each keep their own sequences and all attention weights; experts are shared"
    )
    cost: Annotated[AnyCost, default_kind("rent")] = Field(
        Rent(), description="How devices are paid for, by its `kind`"
    )
    power_cap: Annotated[Signal, Series("watts")] | None = Field(
        None, description="Most that one device may draw; the device's own limit holds besides"
    )
    power_limit: Annotated[Signal, Series("watts")] | None = Field(
        None, description="Most that the pool's servers may draw at the wall; shared out as caps of its devices"
    )
    sleep: Sleep | None = Field(None, description="When a replica's devices sleep; left out, never")
    off: Off | None = Field(
        None, description="When a replica and its share of the server are switched off; left out, never"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_engine(cls, values: Any, info: ValidationInfo) -> Any:
        """An engine may be a name alone; without a preset it is DEFAULT_ENGINE's."""
        engine = values.get("engine", {}) if isinstance(values, dict) else None
        if isinstance(engine, str):
            return {**values, "engine": {"preset": engine}}
        if isinstance(engine, dict) and "preset" not in engine and "library" in (info.context or {}):
            return {**values, "engine": {"preset": DEFAULT_ENGINE, **engine}}
        return values

    @field_validator("formats", mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        """`fp8` alone means weights and arithmetic in fp8, KV in 16 bits; `int4` is a format of weights only, arithmetic in bf16."""
        given = {"weights": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or "weights" not in given:
            return given
        weights = given["weights"]
        kv = weights if weights in ("fp16", "fp32") else "bf16"
        return {"kv": kv, "activations": "bf16" if weights in WEIGHTS_ONLY else weights, **given}

    @property
    def precision(self) -> Precisions:
        """The formats as the equations take them."""
        return Precisions(self.formats.weights, self.formats.kv, self.formats.activations)

    @property
    def parallel(self) -> Parallel:
        """How the devices of a replica share the model."""
        return Parallel(self.tensor_parallel, self.pipeline_parallel, self.expert_parallel, self.attention_dp)

    @property
    def devices(self) -> int:
        """Devices of the whole pool."""
        return self.replicas * self.parallel.devices

    def step_cost(self) -> StepCost:
        """Step time and energy of one replica. Raises ValueError for what its device cannot do."""
        engine = self.engine
        graphs = min(engine.graph_tokens, 2 * engine.max_sequences)
        host = HostConstants(
            engine.host, engine.per_sequence, engine.launch_factor, graphs, engine.eager_layer, engine.compute_factor, engine.memory_factor,
            engine.experts_factor, engine.quantise_factor, engine.eager_collective, engine.eager_narrow, engine.expert_tile,
        )  # fmt: skip
        return step_cost(self.network, self.profile, host, self.parallel, self.precision)

    def resting_states(self) -> list[State]:
        """What a replica falls into without work, in order, watts of all its devices."""
        states = [State(rest.after, rest.draw * self.parallel.devices, rest.wake) for rest in (self.sleep,) if rest]
        return states + [State(rest.after, 0.0, rest.wake, off=True) for rest in (self.off,) if rest]

    def kv_blocks(self) -> int:
        """KV blocks of one replica; below 1 the model does not fit."""
        return kv_blocks(self.network, self.profile, self.engine, self.parallel, self.precision)

    def memory_blocks(self) -> int:
        """KV blocks that memory has room for, whatever the engine was given."""
        return memory_blocks(self.network, self.profile, self.engine, self.parallel, self.precision)

    def complaints(self) -> Iterator[Complaint]:
        """What does not go together."""
        parallel = _parallel(self)
        yield from parallel or _formats(self)
        if self.engine.token_budget < self.engine.max_sequences:
            wanted = f"expected at least max_sequences ({self.engine.max_sequences})"
            yield ("engine", "token_budget"), f"{wanted}, got {self.engine.token_budget}"
        yield from _rest(self)
        try:
            self.cost.check(self.profile)
        except ValueError as error:
            yield ("cost",), str(error)


def _rest(pool: Pool) -> Iterator[Complaint]:
    """Whether the states without work come one after the other, each drawing less."""
    idle_w = pool.profile.power.idle.value
    if pool.sleep is not None and pool.sleep.draw > idle_w:
        wanted = f"expected at most {idle_w:g} W, what `{pool.profile.name}` draws idle"
        yield ("sleep", "draw"), f"{wanted}, got {pool.sleep.draw:g} W"
    if pool.sleep is not None and pool.off is not None and pool.off.after <= pool.sleep.after:
        yield ("off", "after"), f"expected more than sleep.after ({pool.sleep.after:g} s), got {pool.off.after:g} s"
    for key, rest in (("sleep", pool.sleep), ("off", pool.off)):
        if rest is not None and rest.after < REST_S:
            yield (key, "after"), f"expected at least {REST_S:g} s, when the clocks fall, got {rest.after:g} s"


def _parallel(pool: Pool) -> list[Complaint]:
    """Whether this many devices can share the model."""
    tp, network = pool.tensor_parallel, pool.network
    domain = pool.profile.scale_up.domain if pool.profile.scale_up else 1
    if tp > domain:
        return [
            (("tensor_parallel",), f"expected at most {domain}, the scale-up domain of `{pool.profile.name}`, got {tp}")
        ]
    for heads in (group.heads for group in network.groups):
        if heads % tp:
            return [
                (
                    ("tensor_parallel",),
                    f"expected a divisor of the {heads} attention heads of `{network.name}`, got {tp}",
                )
            ]
    layers = sum(group.count for group in network.groups)
    if pool.pipeline_parallel > layers:
        return [
            (
                ("pipeline_parallel",),
                f"expected at most the {layers} layers of `{network.name}`, got {pool.pipeline_parallel}",
            )
        ]
    return _experts(pool)


def _experts(pool: Pool) -> list[Complaint]:
    """Whether experts can be dealt out so."""
    together, experts = (
        pool.tensor_parallel * pool.attention_dp,
        {group.experts for group in pool.network.groups if group.experts},
    )
    for key, number in (("expert_parallel", pool.expert_parallel), ("attention_dp", pool.attention_dp)):
        if number > 1 and not experts:
            return [((key,), f"expected 1: `{pool.network.name}` has no experts, got {number}")]
    wanted = [together, *experts]
    if any(number % pool.expert_parallel for number in wanted):
        what = f"{together} devices (tensor_parallel * attention_dp) and of the {', '.join(map(str, experts))} experts"
        return [(("expert_parallel",), f"expected a divisor of the {what}, got {pool.expert_parallel}")]
    return []


def _formats(pool: Pool) -> Iterator[Complaint]:
    """Whether the device computes in these formats and holds the weights."""
    limits = sorted({group.limit for group in pool.network.groups if group.limit is not None})
    if len(limits) > 1:
        yield ("model",), f"expected at most one attention limit, got a model with {limits}"
        return
    alone = {"tensor_parallel": 1, "pipeline_parallel": 1, "expert_parallel": 1, "attention_dp": 1}
    for tried, key in ((pool.model_copy(update=alone), "precision"), (pool, "tensor_parallel")):
        try:
            tried.step_cost()
        except ValueError as error:
            yield (key,), str(error)
            return
    state = sequence_blocks(pool.network, pool.engine, pool.parallel, pool.precision)
    if pool.kv_blocks() < 1 + state:
        yield ("model",), _too_big(pool)


def _too_big(pool: Pool) -> str:
    weights = device_weights(pool.network, pool.parallel, pool.precision)
    memory = pool.profile.memory.capacity.value
    devices = (
        f"{pool.parallel.devices} x `{pool.profile.name}`" if pool.parallel.devices > 1 else f"`{pool.profile.name}`"
    )
    usable = pool.engine.memory_fraction * memory - pool.engine.reserve
    fits = _smallest_that_fits(pool)
    return (
        f"`{pool.network.name}` does not fit on {devices}: {weights / 1e9:.1f} GB of {pool.formats.weights} weights per device, "
        f"{memory / 1e9:.1f} GB of memory, of which the engine may use {max(usable, 0.0) / 1e9:.1f} GB; "
        + (
            f"tensor_parallel {fits} would fit"
            if fits
            else "no tensor_parallel would fit: take smaller weights, a larger device or more pipeline_parallel"
        )
    )


def _smallest_that_fits(pool: Pool) -> int | None:
    for tp in range(pool.tensor_parallel + 1, MOST_DEVICES + 1):
        larger = pool.model_copy(update={"tensor_parallel": tp})
        if not _parallel(larger):
            state = sequence_blocks(pool.network, pool.engine, larger.parallel, pool.precision)
            if larger.kv_blocks() >= 1 + state and _computes(larger):
                return tp
    return None


def _computes(pool: Pool) -> bool:
    try:
        pool.step_cost()
    except ValueError:
        return False
    return True
