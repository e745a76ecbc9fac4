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

    kind: str = Field(description="Technology, such as `HBM3` or `SRAM only`; for people")
    capacity: Fact[Bytes] = Field(
        description="What the device reports, else what the label says; the engine takes `memory_fraction` of it"
    )
    bandwidth: Fact[BytesPerSecond] = Field(
        description="`BW`: peak of the datasheet, read and write; operators reach shares of it"
    )
    unified: bool = Field(
        False,
        description="Whether the host's own programs live in the same memory: lower the engine's `memory_fraction` for them",
    )
    sram: Fact[Bytes] | None = Field(
        None,
        description="On-chip cache or scratchpad, not counted in `capacity`; larger experts are read again (x of the equation)",
    )
    second_tier: Fact[Bytes] | None = Field(
        None, description="Slower memory behind it (DDR, MemoryX); for people, not simulated"
    )
    note: str | None = Field(None, description="Anything else worth knowing; for people")


class ScaleUp(Spec):
    """The link that tensor parallelism runs over."""

    kind: str = Field(description="Technology, such as `NVLink 4`; for people")
    bandwidth: Fact[BytesPerSecond] = Field(description="`link`: of one device, in one direction")
    domain: int = Field(gt=0, description="Devices that reach each other over it: the most of `tensor_parallel`")


class Server(Spec):
    """What stands around the devices: wall watts = host + factor * device watts, for one server."""

    devices: int = Field(gt=0, description="Devices in one server; a pool is charged its share of servers")
    host: Fact[Watts] = Field(description="Wall watts of one server besides its devices: CPUs, memory, NICs")
    factor: Fact[float] = Field(description="Wall watts per device watt, such as 1.1: fans and power supplies")


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

    price: UsdPerHour = Field(description="Price of one device for an hour, server and electricity in it")
    provider: str = Field(description="Who offers it")
    kind: str = Field(description="Terms, such as `on-demand`, `spot` or `1-year contract`; for people")
    date: Dated = Field(description="When it was offered")
    source: str = Field(description="Document in which the offer was read, in words")


class Own(Spec):
    """What buying costs, per device; the server's share in it only where `includes_server` says so."""

    date: Dated = Field(description="When these prices were asked")
    device: Fact[Usd] = Field(description="Price of one device")
    includes_server: bool = Field(
        False, description="Whether the device's price has its share of the server in it; then `server` is not used"
    )
    server: Fact[Usd] | None = Field(
        None, description="Chassis, CPUs, NICs per device; left out, the pool's `cost.server_share` of the device"
    )


Share = Annotated[float, Field(gt=0, le=MOST_SHARE)]
Number = Annotated[float, Field(ge=0)]


class Gemm(Spec):
    """Time of a matrix product: GEMM in docs/physics.md."""

    t0: Seconds = Field(description="`t0`: launch and drain, times the engine's `launch_factor`")
    compute: Share = Field(description="`ef`: share of the peak that a product of 1 ms reaches")
    bandwidth: Share = Field(description="`eb`: share of the memory's bandwidth")
    per_k: Seconds = Field(0.0, description="`tk`: serial time per element of the inner dimension")
    fill: Number = Field(0.0, description="`k0`: start and end of a tile, as elements of the inner dimension")
    fade: float = Field(
        0.0,
        ge=0,
        le=0.25,
        description="`fade`: how the share of the peak falls with the duration, as a power; 0: not at all",
    )
    quantise: Number = Field(
        0.0, description="`q`: bytes moved to quantise one input element, times the engine's `quantise_factor`"
    )
    quantise_row: Seconds = Field(
        0.0, description="`qr`: time to quantise one row, times the engine's `quantise_factor`"
    )


class Experts(Spec):
    """Time of a fused layer of routed experts: experts in docs/physics.md."""

    t0: Seconds = Field(description="`t0m`: launch and sorting of tokens, times the engine's `experts_factor`")
    compute: Share = Field(description="`efm`: share of the peak")
    bandwidth: Share = Field(description="`ebm`: share of the memory's bandwidth on weights")
    moved: Annotated[float, Field(gt=0, le=2)] = Field(
        description="`ea`: share of the bandwidth on rows that are sorted, activated and added up"
    )
    sent: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="`lam`: of the pairs of token and expert that other devices compute, the share that is moved here too",
    )
    overlap: Annotated[float, Field(ge=1, le=8)] = Field(
        3.0, description="`p`: how sharp the maximum of arithmetic and memory is, as a power; 1: they add up"
    )
    tile: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Rows for which an expert larger than `memory.sram` is read once; left out, each is read once a step",
    )


class DecodeAttention(Spec):
    """Time of decode attention, affine in context: attention, decode in docs/physics.md."""

    t0: Seconds = Field(description="`t0a`: launch, times the engine's `launch_factor`")
    bandwidth: Share = Field(description="`eba`: share of the memory's bandwidth on keys and values")
    compute: Share = Field(description="`efa`: share of the 16-bit peak")
    item: Seconds = Field(0.0, description="Time of each work item (sequence x KV head) beyond `slots`")
    slots: Number = Field(0.0, description="Work items that run at once, without time of their own")
    swap: Seconds = Field(0.0, description="Added where heads share keys and more than one sequence decodes")
    fill: Number = Field(
        0.0, description="Work items' worth of bandwidth lost to idle cores: reads take 1 + fill / items times as long"
    )


class PrefillAttention(Spec):
    """Time of prefill attention: attention, prefill in docs/physics.md."""

    t0: Seconds = Field(description="`t0p`: launch, times the engine's `launch_factor`")
    compute: Share = Field(description="`efp`: share of the 16-bit peak")
    bandwidth: Share = Field(description="`ebp`: share of the memory's bandwidth on keys and values")
    tokens: Annotated[float, Field(gt=0, le=4)] = Field(
        4.0,
        description="`et`: share of the bandwidth on queries, outputs, new keys and values; may pass 1",
    )
    rows: Number = Field(0.0, description="Query rows, of any head, that fill the device; fewer take as long as these")


class Sustained(Spec):
    """While serving for hours, as shares of what the sets above give: heat, power, uneven routing. Fitted to serving runs."""

    narrow: Share = Field(
        1.0, description="`pace`: arithmetic of products in 8 and 4 bits that is left, as a share; 16 bits keep theirs"
    )
    memory: Annotated[float, Field(gt=0, le=2)] = Field(
        1.0, description="Memory bandwidth that is left, as a share; above 1 where the sets themselves are estimates"
    )
    launch: Annotated[float, Field(gt=0, le=5)] = Field(
        1.0, description="Times all launch times; for sets that are estimates"
    )


class Collective(Spec):
    """Time of a collective: collective in docs/physics.md."""

    t0: Seconds = Field(description="`a0`: launch and latency, whatever the message")
    per_device: Seconds = Field(0.0, description="`a1`: more for each device besides the first")
    low: Share = Field(
        description="`s`: share of the link that the protocol of low latency reaches between two devices"
    )
    high: Share = Field(description="`e`: share of the link that the pipelined protocol reaches between two devices")
    fill: Seconds = Field(0.0, description="`be`: time to fill the pipe of the pipelined protocol")
    fade: Annotated[float, Field(ge=-1, le=3)] = Field(
        0.0, description="`g`: how the shares fall with the number of devices, as a power; below 0 they rise"
    )


class OneKernel(Spec):
    """Time of an engine's own all-reduce kernel, for messages below `below` among at most `most` devices: all-reduce, small in docs/physics.md."""

    t0: Seconds = Field(description="`a0`: launch and latency, whatever the message")
    per_device: Seconds = Field(0.0, description="`a1`: more for each device besides the first")
    one_shot: Share = Field(description="`s`: share of the link where each device sends all it has to all others")
    two_shots: Share = Field(
        description="`e`: share of the link where devices reduce a part each, then gather; for more than two devices"
    )
    fill: Seconds = Field(0.0, description="`be`: more for the second of the two shots")
    below: Bytes = Field(description="Messages below this size use it")
    most: int = Field(ge=2, description="Most devices it is used among")


class StepConstants(Spec):
    """Measured or estimated constants of the step-time equations (docs/physics.md); each set is one fit, with one source and grade."""

    gemm: dict[Precision, Fact[Gemm]] = Field(
        description="Matrix products, by format of the arithmetic; weights alone may be narrower"
    )
    experts: dict[Precision, Fact[Experts]] = Field(
        description="Routed experts, by format of the arithmetic; a model with experts needs its own"
    )
    decode_attention: dict[Precision, Fact[DecodeAttention]] = Field(
        description="Attention of decoding sequences, by format of the KV cache"
    )
    prefill_attention: dict[Precision, Fact[PrefillAttention]] = Field(
        description="Attention of prompts, by format of the KV cache"
    )
    sustained: Fact[Sustained] | None = Field(
        None, description="What serving for hours leaves of the sets above; left out, all of it"
    )
    all_reduce: Fact[Collective] | None = Field(
        None, description="Sums over a tensor group; left out, the device runs alone (`tensor_parallel: 1`)"
    )
    one_kernel: Fact[OneKernel] | None = Field(
        None, description="The engine's own all-reduce of small messages; left out, `all_reduce` serves for all"
    )
    all_gather: Fact[Collective] | None = Field(
        None,
        description="Gathers of logits and, with `attention_dp`, of tokens before experts; needed for `tensor_parallel` above 1",
    )
    reduce_scatter: Fact[Collective] | None = Field(
        None, description="Scatters sums after experts; needed for `attention_dp`"
    )
    all_to_all: Fact[Collective] | None = Field(
        None, description="Tokens to their experts and back; for people, not simulated"
    )
    send_receive: Fact[Collective] | None = Field(
        None, description="Activations from one stage to the next; needed for `pipeline_parallel`"
    )


class Validity(Spec):
    """What serving runs this device's times were held against (docs/accuracy.md); beyond it a report says so."""

    engine: str = Field(description="Engine preset that the runs used")
    models: tuple[str, ...] = Field(description="Models that the runs served")
    devices: int = Field(ge=1, description="Most devices of a replica in these runs")
    sequences: int = Field(ge=1, description="Most sequences in a batch in these runs")
    context: int = Field(ge=1, description="Longest prompt and answer together in these runs, in tokens")
    error: str = Field(description="Median errors over these runs, in words: printed with every run of the device")


class MeasuredPower(Spec):
    """Board watts of one model's serving runs by sequences in the batch: what a run of it draws in place of the equation."""

    model: str = Field(description="Model that was served: the rows hold for it alone")
    devices: int = Field(ge=1, description="Devices of the replica that was measured: the rows hold for as many alone")
    watts: dict[int, Watts] = Field(
        min_length=1,
        description="Sequences in the batch -> mean watts of one device, straight lines in their logarithm between",
    )
    source: str = Field(description="Key of `sources`")
    grade: Grade = Field(description="How good the watts are")

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

    tdp: Fact[Watts] = Field(
        description="Thermal design power, the figure on the label; shown by `simfleet profiles`, not in the equation"
    )
    idle: Fact[Watts] = Field(description="Drawn after a second without work; at most `gap`")
    gap: Fact[Watts] = Field(
        description="`P_gap`: drawn while a step waits for the host, and in the first second without work; at most `limit`"
    )
    busy: Fact[Watts] = Field(description="`P_busy`: drawn by operators, whatever they do")
    limit: Fact[Watts] = Field(description="`P_limit`: most that a step draws under the device's own governor")
    per_byte: Fact[JoulesPerByte] = Field(description="`e_byte`: for each byte of memory traffic")
    per_flop: Fact[JoulesPerFlop] = Field(
        description="`e_flop`: for each operation at 16 bits; narrower formats weigh as their peak stands to the 16-bit peak"
    )
    per_activation: Fact[JoulesPerElement] = Field(
        description="`e_act`: for each element of a token's hidden state, in each layer; a tenth of it on every device of a tensor group"
    )
    scale: Fact[float] | None = Field(
        None,
        description="Times P_busy, e_byte, e_flop and e_act: measured over predicted joules of one run; left out, 1",
    )
    measured: tuple[MeasuredPower, ...] = Field(
        (), description="Watts read from boards, which replace the equation for their model"
    )


class Profile(Spec):
    """One accelerator or processor."""

    name: str = Field(description="Name for reports; the file's name, without .yaml, is what scenarios say")
    vendor: str = Field(description="Who makes it; for people")
    kind: Literal["gpu", "asic", "soc", "cpu", "wafer"] = Field(description="What it is; for people")
    aliases: tuple[str, ...] = Field(
        (), description="Other names under which scenarios and measured rows may ask for it"
    )
    description: str = Field(description="One line for `simfleet profiles`")
    sources: dict[str, str] = Field(description="Short key -> document and date; facts name a key")
    memory: Memory = Field(description="Where weights and KV cache live")
    flops: dict[Arithmetic, Fact[FlopsPerSecond]] = Field(
        description="Format -> peak: dense operations per second; a format that is absent cannot be used"
    )
    scale_up: ScaleUp | None = Field(
        None, description="Link between devices of a server or rack; left out, the device runs alone"
    )
    scale_out: Fact[BytesPerSecond] | None = Field(
        None, description="`link` beyond the scale-up domain: network bandwidth of one device in one direction"
    )
    server: Server = Field(description="What stands around the devices, and what it draws")
    power: PowerConstants = Field(description="Watts, and joules of work")
    step: StepConstants = Field(description="Constants of the step-time equations")
    validity: tuple[Validity, ...] = Field(
        (), description="Serving runs that its times were held against; left out, none"
    )
    rent: tuple[Rent, ...] = Field((), description="Offers; the first is the price of a pool that rents and says none")
    own: Own | None = Field(None, description="What buying it costs; left out, a pool that owns has to say")
    embodied: Fact[Grams] | None = Field(
        None, description="CO2e emitted by making one device, spread over five years of service; left out, not reported"
    )

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
