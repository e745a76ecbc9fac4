"""A hardware profile: what one device is, every number with its source and grade."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from simfleet.document import did_you_mean
from simfleet.spec import Fact, Spec
from simfleet.units import (
    Bytes,
    BytesPerSecond,
    FlopsPerSecond,
    Grams,
    JoulesPerByte,
    JoulesPerFlop,
    JoulesPerToken,
    Seconds,
    Usd,
    UsdPerHour,
    Watts,
)

Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4"]


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


class Rent(Spec):
    """One dated offer, per device-hour."""

    price: UsdPerHour
    provider: str
    kind: str
    date: str
    source: str


class Own(Spec):
    """What buying costs, per device; the server's share in it only where `includes_server` says so."""

    device: Fact[Usd]
    includes_server: bool = False
    server: Fact[Usd] | None = Field(
        None, description="Chassis, CPUs, NICs per device; missing is an estimated share of the device"
    )


class Gemm(Spec):
    """Time of a matrix product: t0 + max(flops / (compute * peak), bytes / (bandwidth * BW))."""

    t0: Fact[Seconds]
    compute: Fact[float]
    bandwidth: Fact[float]


class AllReduce(Spec):
    """Time to sum over n devices: alpha(n) + bytes / (efficiency(n) * link)."""

    alpha: Fact[dict[int, Seconds]]
    efficiency: Fact[dict[int, float]]


class StepConstants(Spec):
    """Measured or estimated constants of the step-time equations (docs/physics.md)."""

    gemm: dict[Precision, Gemm]
    decode_attention_t0: Fact[Seconds]
    decode_attention_bandwidth: Fact[float]
    prefill_attention_compute: Fact[float]
    moe_t0: Fact[Seconds]
    moe_compute: Fact[float]
    moe_bandwidth: Fact[float]
    all_reduce: AllReduce | None = Field(None, description="None: a device that runs alone")


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
    per_token_layer: Fact[JoulesPerToken]


class Profile(Spec):
    """One accelerator or processor."""

    name: str
    vendor: str
    kind: Literal["gpu", "asic", "soc", "cpu", "wafer"]
    aliases: tuple[str, ...] = ()
    description: str
    sources: dict[str, str] = Field(description="Short key -> document and date; facts name a key")
    memory: Memory
    flops: dict[Precision, Fact[FlopsPerSecond]] = Field(description="Dense peak per precision")
    scale_up: ScaleUp | None = None
    scale_out: Fact[BytesPerSecond] | None = Field(None, description="Network per device")
    server: Server
    power: PowerConstants
    step: StepConstants
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

    @model_validator(mode="after")
    def _shares_are_shares(self) -> Self:
        for path, fact in facts(self):
            share = path.startswith("step.") and isinstance(fact.value, float) and not path.endswith("t0")
            if share and not 0 < fact.value <= MOST_SHARE:
                raise ValueError(
                    f"{path}: expected a share of the peak, above 0 and at most {MOST_SHARE}, got {fact.value:g}"
                )
        return self


def facts(profile: Profile) -> Iterator[tuple[str, Fact[Any]]]:
    """Every stored number of a profile with its dotted path, in the order of the schema: ("memory.capacity", Fact(...))."""
    yield from _facts("", profile)


def estimates(profile: Profile) -> list[str]:
    """What is only estimated, one sentence for neighbours that share a note: "step.gemm.fp16: t0, compute estimated (as bf16)"."""
    names: dict[tuple[str, str], list[str]] = {}
    for path, fact in facts(profile):
        if fact.grade == "estimate":
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
