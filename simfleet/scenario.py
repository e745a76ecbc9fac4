"""What the user writes: one frozen Scenario, checked as a whole before anything runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from simfleet.facility.cost import AnyCost, Rent
from simfleet.facility.site import Site
from simfleet.hardware.profile import Precision, Profile
from simfleet.hardware.step import HostConstants, Precisions, StepCost, step_cost
from simfleet.library import Library
from simfleet.serving.engine import AnyEngine, Continuous, kv_blocks
from simfleet.serving.routing import AnyRouting, RoundRobin
from simfleet.spec import Document, Location, Mark, Named, Problem, Spec, SpecError, build, default_kind, did_you_mean, override
from simfleet.units import PositiveSeconds, Seconds
from simfleet.workload.models import Model
from simfleet.workload.streams import Workload

DEFAULT_SITE = "us-virginia"


class PoolPrecision(Spec):
    """Formats of a pool. Weights below 8 bits and KV are multiplied in 16 bits unless said otherwise."""

    weights: Precision
    kv: Precision = "bf16"
    activations: Precision = "bf16"


class Pool(Spec):
    """Equal replicas of one model on one kind of device, at one site."""

    model_config = ConfigDict(populate_by_name=True)

    site: str = Field("", description="Name under `sites`; may be left out where there is one")
    network: Annotated[Model, Named("models")] = Field(alias="model")
    profile: Annotated[Profile, Named("hardware_profiles")] = Field(alias="device")
    replicas: int = Field(1, ge=1)
    tensor_parallel: int = Field(1, ge=1, description="Devices per replica")
    formats: PoolPrecision = Field(PoolPrecision(weights="bf16"), alias="precision")
    engine: Annotated[AnyEngine, default_kind("continuous")] = Continuous()
    cost: Annotated[AnyCost, default_kind("rent")] = Rent()

    @field_validator("formats", mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        """`fp8` alone: weights and arithmetic in it, KV in 16 bits; a weights-only format (int4) leaves arithmetic at 16 bits too."""
        if isinstance(value, str):
            return {"weights": value} if value == "int4" else {"weights": value, "activations": value}
        return value

    @property
    def precision(self) -> Precisions:
        return Precisions(self.formats.weights, self.formats.kv, self.formats.activations)

    @property
    def devices(self) -> int:
        """Devices of the whole pool."""
        return self.replicas * self.tensor_parallel

    def step_cost(self) -> StepCost:
        """Step time and energy of one replica. Raises ValueError for what its device cannot do."""
        host = HostConstants(self.engine.host, self.engine.per_sequence, self.engine.launch_factor)
        return step_cost(self.network, self.profile, host, self.tensor_parallel, self.precision)

    def kv_blocks(self) -> int:
        """KV blocks of one replica; below 1 the model does not fit."""
        return kv_blocks(self.network, self.profile, self.engine, self.tensor_parallel, self.precision)

    def problems(self) -> Iterator[tuple[Location, str]]:
        """(key, message) of what does not go together."""
        tp, heads = self.tensor_parallel, max(group.heads for group in self.network.groups)
        domain = self.profile.scale_up.domain if self.profile.scale_up else 1
        if tp > domain:
            yield ("tensor_parallel",), f"expected at most {domain}, the scale-up domain of `{self.profile.name}`, got {tp}"
        elif heads % tp:
            yield ("tensor_parallel",), f"expected a divisor of the {heads} attention heads of `{self.network.name}`, got {tp}"
        else:
            yield from self._physics_problems()
        if self.engine.token_budget < self.engine.max_sequences:
            yield ("engine",), (
                f"expected a token_budget of at least max_sequences ({self.engine.max_sequences}), got {self.engine.token_budget}"
            )
        try:
            self.cost.check(self.profile)
        except ValueError as error:
            yield ("cost",), str(error)

    def _physics_problems(self) -> Iterator[tuple[Location, str]]:
        try:
            self.step_cost()
        except ValueError as error:
            yield ("tensor_parallel" if "tensor_parallel" in str(error) else "precision",), str(error)
            return
        if self.kv_blocks() < 1:
            weights = self.network.weight_bytes(self.formats.weights, self.tensor_parallel)
            memory = self.profile.memory.capacity.value
            yield ("model",), (
                f"`{self.network.name}` does not fit: {weights / 1e9:.1f} GB of {self.formats.weights} weights per device, "
                f"{self.engine.memory_fraction:.0%} of {memory / 1e9:.1f} GB less {self.engine.reserve / 1e9:g} GB reserve on "
                f"`{self.profile.name}` x {self.tensor_parallel}{self._what_fits()}"
            )

    def _what_fits(self) -> str:
        for devices in (2, 4, 8, 16, 32, 64):
            if kv_blocks(self.network, self.profile, self.engine, devices, self.precision) >= 1:
                return f"; tensor_parallel {devices} would"
        return ""


class Scenario(Spec):
    """One simulation, complete. `horizon` is when arrivals end; with `drain` the run goes on until all have their answers."""

    name: str
    description: str = ""
    horizon: PositiveSeconds | None = Field(None, description="Needed where a stream never ends by itself")
    drain: bool = True
    warmup: Seconds = Field(0.0, description="Requests that arrive before are left out of latency and attainment")
    workload: Workload
    sites: dict[str, Site] = {}
    pools: dict[str, Pool] = Field(min_length=1)
    routing: AnyRouting = RoundRobin()
    variants: dict[str, dict[str, Any]] = {}
    _document: Document | None = PrivateAttr(None)
    _context: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _default_site(cls, values: Any, info: ValidationInfo) -> Any:
        """Without `sites`: one, the shipped DEFAULT_SITE. Where there is one site, pools need not name it."""
        if not isinstance(values, dict):
            return values
        sites = values.get("sites") or {DEFAULT_SITE: {"preset": DEFAULT_SITE}}
        pools = values.get("pools")
        if isinstance(pools, dict) and isinstance(sites, dict) and len(sites) == 1:
            only = next(iter(sites))
            pools = {name: {"site": only, **pool} if isinstance(pool, dict) else pool for name, pool in pools.items()}
        return {**values, "sites": sites} | ({"pools": pools} if pools is not None else {})

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = list(self._problems())
        if problems:
            text = "; ".join(message for _, message in problems)
            raise PydanticCustomError("together", "{text}", {"text": text, "problems": problems})
        return self

    def _problems(self) -> Iterator[tuple[Location, str]]:
        for name, pool in self.pools.items():
            if pool.site not in self.sites:
                known = did_you_mean(pool.site, list(self.sites))
                yield ("pools", name, "site"), (f"unknown site `{pool.site}`" if pool.site else "missing, expected a site's name") + known
            for location, message in pool.problems():
                yield ("pools", name, *location), message
        for number, message in self.workload.unknown_classes():
            yield ("workload", "streams", number, "class"), message
        yield from self._stream_problems()
        if self.horizon is not None and self.warmup >= self.horizon:
            yield ("warmup",), f"expected less than the horizon ({self.horizon:g} s), got {self.warmup:g} s"

    def _stream_problems(self) -> Iterator[tuple[Location, str]]:
        served = {pool.network.name for pool in self.pools.values()}
        for number, stream in enumerate(self.workload.streams):
            here = ("workload", "streams", number)
            if stream.model.name not in served:
                yield (*here, "model"), f"no pool serves `{stream.model.name}`{did_you_mean(stream.model.name, sorted(served))}"
            if stream.endless and self.horizon is None:
                yield ("horizon",), f"missing: stream `{stream.name}` never ends; give a horizon such as `10 min`, or the stream a count"
            for pool in self.pools.values():
                regions = self.sites[pool.site].network_latency if pool.site in self.sites else {}
                if stream.region is not None and stream.model.name == pool.network.name and stream.region not in regions:
                    message = f"site `{pool.site}` has no network_latency from `{stream.region}`"
                    yield (*here, "region"), message + did_you_mean(stream.region, list(regions))

    def replace(self, path: str, value: Any) -> "Scenario":
        """The same scenario with one value changed, such as ("pools.chat.replicas", 8). Raises SpecError."""
        if self._document is None:
            raise TypeError("only a scenario from simfleet.load() can be changed by path")
        return _build(override(self._document, path, value, origin="replace"), self._context)


def load(
    scenario: str | Path | Mapping[str, Any],
    overrides: Sequence[tuple[str, Any]] = (),
    variant: str | None = None,
    paths: Sequence[Path | str] = (),
) -> Scenario:
    """A scenario from a file, a shipped name such as "quickstart", or plain data.

    overrides -- (dotted path, value) pairs, laid over the variant, which is laid over the file
    variant   -- name of one of its variants
    paths     -- folders of own profiles, models, sites and scenarios, searched before those of SIMFLEET_PATH and the shipped

    Raises SpecError with every problem of the file at once, each with file:line:column and path; LookupError for an unknown name.
    """
    library = Library(tuple(Path(path) for path in paths))
    if isinstance(scenario, Mapping):
        document = Document.from_data(scenario)
    else:
        name = str(scenario)
        document = library.document("scenarios", f"./{name}" if Path(name).is_file() and "/" not in name else name)
    chosen = _variant(document, variant)
    for path, value in [*chosen.items(), *overrides]:
        document = override(document, path, value)
    return _build(document, {"library": library, "folder": document.folder})


def _variant(document: Document, variant: str | None) -> Mapping[str, Any]:
    """The overrides of one variant; the paths of all of them are tried."""
    variants = document.data.get("variants") or {}
    for name, overrides in variants.items() if isinstance(variants, dict) else ():
        for path, value in overrides.items() if isinstance(overrides, dict) else ():
            override(document, path, value, origin=f"{document.mark(('variants', name, path))}: variant {name}:")
    if variant is None:
        return {}
    if variant not in variants:
        message = f"unknown variant `{variant}`{did_you_mean(variant, list(variants))}" if variants else "this scenario has no variants"
        raise SpecError([Problem(Mark(document.file), "variants", message)])
    chosen: Mapping[str, Any] = variants[variant]
    return chosen


def _build(document: Document, context: dict[str, Any]) -> Scenario:
    scenario = build(Scenario, document, context)
    scenario._document, scenario._context = document, context
    return scenario


def json_schema() -> dict[str, Any]:
    """JSON Schema of a scenario file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema(by_alias=True)}
