"""A hardware profile: what one device is, every number with its source and grade."""

import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import PydanticCustomError, core_schema

from simfleet.document import did_you_mean
from simfleet.spec import Fact, Grade, Spec
from simfleet.units import (
    Bytes,
    BytesPerSecond,
    FlopsPerSecond,
    Grams,
    JoulesPerByte,
    JoulesPerElement,
    JoulesPerFlop,
    Seconds,
    Usd,
    UsdPerHour,
    Watts,
)

Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp8_block", "int8", "fp4", "nvfp4", "mxfp4", "int4"]
"""Formats of numbers. `fp8` and `fp4` of weights are whatever a network's own checkpoints use; `fp8_block` has a scale per 128 x 128."""

Arithmetic = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"]
"""What a device multiplies in, with a peak of its own."""


MOST_SHARE = 1.2
"""Measured shares of a datasheet's peak may pass 1 a little: clocks boost, caches help."""


class Memory(Spec):
    """Where weights and KV cache live, and how fast they are read."""

    kind: str = Field(description="Technology, such as `HBM3` or `SRAM only`")
    capacity: Fact[Bytes]
    bandwidth: Fact[BytesPerSecond]
    unified: bool = Field(False, description="Shared with the host's own programs")
    sram: Fact[Bytes] | None = Field(None, description="On-chip cache or scratchpad, not counted in capacity")
    second_tier: Fact[Bytes] | None = Field(
        None, description="Slower memory behind it (DDR, MemoryX); not used by the simulator"
    )
    note: str | None = None


class ScaleUp(Spec):
    """The link that tensor parallelism runs over."""

    kind: str
    bandwidth: Fact[BytesPerSecond] = Field(description="Per device, one direction")
    domain: int = Field(gt=0, description="Devices that reach each other over it")


class Server(Spec):
    """What stands around the devices: wall watts = host + factor * device watts, for one server."""

    devices: int = Field(gt=0)
    host: Fact[Watts]
    factor: Fact[float] = Field(description="Wall watts per device watt: fans and power supplies")


class _Dated:
    """A pydantic annotation: a year, a month or a day, `2026`, `2026-05` or `2026-05-18`, kept as text."""

    wanted = "a date such as `2026-05`"
    _PATTERN = r"(19|20)[0-9]{2}(-[0-9]{2}){0,2}"

    def _validate(self, value: Any) -> str:
        text = str(value)
        try:
            day = date.fromisoformat(f"{text}-01-01"[:10]) if re.fullmatch(self._PATTERN, text) else None
        except ValueError:  # such as a month 13
            day = None
        if day is None:
            raise PydanticCustomError(
                "date", "expected a date such as `2026`, `2026-05` or `2026-05-18`, got `{got}`", {"got": text}
            )
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": ["string", "integer"], "pattern": f"^{self._PATTERN}$", "examples": ["2026-05"]}


Dated = Annotated[str, _Dated()]


class Rent(Spec):
    """One dated offer, per device-hour."""

    price: UsdPerHour
    provider: str
    kind: str
    date: Dated
    source: str


class Own(Spec):
    """What buying costs, per device; the server's share in it only where `includes_server` says so."""

    date: Dated = Field(description="When these prices were asked")
    device: Fact[Usd]
    includes_server: bool = False
    server: Fact[Usd] | None = Field(
        None, description="Chassis, CPUs, NICs per device; missing is an estimated share of the device"
    )


Share = Annotated[float, Field(gt=0, le=MOST_SHARE)]
Number = Annotated[float, Field(ge=0)]


class Gemm(Spec):
    """Time of a matrix product: see `roofline.gemm`."""

    t0: Seconds = Field(description="Launch and drain")
    compute: Share = Field(description="Share of the peak, at a product of 1 ms")
    bandwidth: Share
    per_k: Seconds = Field(0.0, description="Serial time per element of the inner dimension")
    fill: Number = Field(0.0, description="Start and end of a tile, as elements of the inner dimension")
    fade: float = Field(0.0, ge=0, le=0.25, description="Fall of the share with the duration, a power")
    quantise: Number = Field(0.0, description="Bytes moved to quantise one input element")
    quantise_row: Seconds = Field(0.0, description="Time to quantise, per row")


class Experts(Spec):
    """Time of a fused layer of routed experts: see `roofline.experts`."""

    t0: Seconds = Field(description="Launch and sorting")
    compute: Share
    bandwidth: Share = Field(description="On weights")
    moved: Annotated[float, Field(gt=0, le=2)] = Field(description="Share of bandwidth on activations")
    sent: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Of the pairs that other devices compute, those moved here too"
    )
    overlap: Annotated[float, Field(ge=1, le=8)] = Field(
        3.0, description="How sharp the maximum of arithmetic and memory is, a power"
    )
    tile: Annotated[float, Field(gt=0)] | None = Field(None, description="Rows for which a large expert is read once")


class DecodeAttention(Spec):
    """Time of decode attention, affine in context: see `roofline.decode_attention`."""

    t0: Seconds
    bandwidth: Share
    compute: Share
    item: Seconds = Field(0.0, description="Per sequence and KV head beyond `slots`")
    slots: Number = 0.0
    swap: Seconds = Field(0.0, description="For grouped heads and more than one sequence")
    fill: Number = Field(0.0, description="Work items that are lost to idle cores")


class PrefillAttention(Spec):
    """Time of prefill attention: see `roofline.prefill_attention`."""

    t0: Seconds
    compute: Share
    bandwidth: Share
    tokens: Annotated[float, Field(gt=0, le=4)] = Field(
        4.0, description="Share of bandwidth on queries, outputs, new keys and values"
    )
    rows: Number = Field(0.0, description="Query rows, of any head, that fill the device")


class Sustained(Spec):
    """While serving for hours, as shares of what the sets above give: heat, power, uneven routing. Fitted to serving runs."""

    narrow: Share = Field(1.0, description="Arithmetic of products in 8 and 4 bits; 16 bits keep theirs")
    memory: Annotated[float, Field(gt=0, le=2)] = Field(
        1.0, description="Bandwidth; beyond 1 where the sets are estimates"
    )
    launch: Annotated[float, Field(gt=0, le=5)] = Field(
        1.0, description="Launch times, a factor; for sets that are estimates"
    )


class Collective(Spec):
    """Time of a collective: see `roofline.collective_s`."""

    t0: Seconds
    per_device: Seconds = 0.0
    low: Share = Field(description="Share of the link, protocol of low latency")
    high: Share = Field(description="Share of the link, pipelined protocol")
    fill: Seconds = Field(0.0, description="Time to fill its pipe")
    fade: Annotated[float, Field(ge=-1, le=3)] = Field(0.0, description="Fall of the shares with the devices, a power")


class OneKernel(Spec):
    """Time of an engine's own all-reduce kernel, used below `below` bytes among at most `most` devices: see `roofline.one_kernel_s`."""

    t0: Seconds
    per_device: Seconds = 0.0
    one_shot: Share
    two_shots: Share
    fill: Seconds = 0.0
    below: Bytes
    most: int = Field(ge=2)


class StepConstants(Spec):
    """Measured or estimated constants of the step-time equations (docs/physics.md); each set is one fit, with one source and grade."""

    gemm: dict[Precision, Fact[Gemm]] = Field(description="By format of the arithmetic; weights alone may be narrower")
    experts: dict[Precision, Fact[Experts]]
    decode_attention: dict[Precision, Fact[DecodeAttention]] = Field(description="By format of the KV cache")
    prefill_attention: dict[Precision, Fact[PrefillAttention]]
    sustained: Fact[Sustained] | None = Field(
        None, description="Arithmetic while serving against the operator tables'; None: all of it"
    )
    all_reduce: Fact[Collective] | None = Field(None, description="None: a device that runs alone")
    one_kernel: Fact[OneKernel] | None = Field(None, description="All-reduce of small messages, in graphs")
    all_gather: Fact[Collective] | None = None
    reduce_scatter: Fact[Collective] | None = None
    all_to_all: Fact[Collective] | None = None
    send_receive: Fact[Collective] | None = None


class Validity(Spec):
    """What serving runs this device's times were held against (docs/accuracy.md); beyond it a report says so."""

    engine: str = Field(description="Engine preset")
    models: tuple[str, ...]
    devices: int = Field(ge=1, description="Most devices of a replica")
    sequences: int = Field(ge=1, description="Most sequences in a batch")
    context: int = Field(ge=1, description="Longest prompt and answer, together")
    error: str = Field(description="Median errors over these runs")


class MeasuredPower(Spec):
    """Board watts of one model's serving runs by sequences in the batch: what a run of it draws in place of the equation."""

    model: str
    devices: int = Field(ge=1, description="Of a replica")
    watts: dict[int, Watts] = Field(min_length=1, description="Sequences in the batch -> mean watts of one device")
    source: str
    grade: Grade

    @model_validator(mode="before")
    @classmethod
    def _batches_are_numbers(cls, values: Any) -> Any:
        """Keys of a YAML mapping are text."""
        watts = values.get("watts") if isinstance(values, dict) else None
        if not isinstance(watts, dict):
            return values
        if not all(str(key).isdigit() and int(key) > 0 for key in watts):
            raise ValueError("expected `watts` by whole numbers of sequences, such as `{8: 450 W, 64: 510 W}`")
        return {**values, "watts": {int(key): value for key, value in watts.items()}}


class PowerConstants(Spec):
    """Constants of the energy equation, per device (docs/physics.md)."""

    tdp: Fact[Watts]
    idle: Fact[Watts]
    gap: Fact[Watts]
    busy: Fact[Watts]
    limit: Fact[Watts]
    per_byte: Fact[JoulesPerByte]
    per_flop: Fact[JoulesPerFlop] = Field(
        description="At 16 bits; narrower formats scale by their share of 16-bit time"
    )
    per_activation: Fact[JoulesPerElement] = Field(
        description="Per element of a token's hidden state, in each layer; a tenth of it on every device of a tensor group"
    )
    scale: Fact[float] | None = Field(
        None, description="One-point calibration: measured over predicted joules of steps, gaps left out"
    )
    measured: tuple[MeasuredPower, ...] = ()


class Profile(Spec):
    """One accelerator or processor."""

    name: str
    vendor: str
    kind: Literal["gpu", "asic", "soc", "cpu", "wafer"]
    aliases: tuple[str, ...] = ()
    description: str
    sources: dict[str, str] = Field(description="Short key -> document and date; facts name a key")
    memory: Memory
    flops: dict[Arithmetic, Fact[FlopsPerSecond]] = Field(description="Dense peak per precision")
    scale_up: ScaleUp | None = None
    scale_out: Fact[BytesPerSecond] | None = Field(None, description="Network per device")
    server: Server
    power: PowerConstants
    step: StepConstants
    validity: tuple[Validity, ...] = Field((), description="None: no serving run was compared")
    rent: tuple[Rent, ...] = Field((), description="Offers; the first is the default")
    own: Own | None = None
    embodied: Fact[Grams] | None = None

    @model_validator(mode="after")
    def _power_in_order(self) -> Self:
        power = self.power
        if not power.idle.value <= power.gap.value <= power.limit.value:
            raise ValueError("expected power idle <= gap <= limit")
        return self

    @model_validator(mode="after")
    def _sources_are_declared(self) -> Self:
        for path, fact in facts(self):
            if fact.source not in self.sources:
                raise ValueError(f"{path}: unknown source `{fact.source}`{did_you_mean(fact.source, self.sources)}")
        return self


def facts(profile: Profile) -> Iterator[tuple[str, Fact[Any]]]:
    """Every stored number of a profile with its dotted path, in the order of the schema: ("memory.capacity", Fact(...))."""
    yield from _facts("", profile)


def estimates(profile: Profile, without: tuple[str, ...] = ()) -> list[str]:
    """What is only estimated, one sentence for neighbours that share a note: "step.gemm: tf32, fp16 estimated (bf16's)".

    Facts whose path begins with one of `without` are left out.
    """
    names: dict[tuple[str, str], list[str]] = {}
    for path, fact in facts(profile):
        if fact.grade == "estimate" and not f"{path}.".startswith(without):
            parent, _, name = path.rpartition(".")
            reason = fact.note or profile.sources.get(fact.source, fact.source)
            names.setdefault((parent or "device", reason), []).append(name)
    return [f"{parent}: {', '.join(group)} estimated ({reason})" for (parent, reason), group in names.items()]


def _facts(path: str, part: object) -> Iterator[tuple[str, Fact[Any]]]:
    if isinstance(part, Fact):
        yield path, part
        return
    inside: dict[str, object] = {}
    if isinstance(part, Spec):
        inside = {name: getattr(part, name) for name in type(part).model_fields}
    elif isinstance(part, dict):
        inside = part
    for name, value in inside.items():
        yield from _facts(f"{path}.{name}" if path else name, value)
