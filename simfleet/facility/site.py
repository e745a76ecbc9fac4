"""A place: from device joules to wall and meter, and what a metered joule emits, drinks and costs there."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from simfleet.hardware.profile import Profile, Server
from simfleet.series import Series
from simfleet.signals import Signal
from simfleet.spec import Provenance, Spec, preset, refusal
from simfleet.units import Fraction, LitresPerJoule, Seconds, UsdPerWattMonth, Watts

DEMAND_S = 900.0
"""A demand charge goes by the highest mean of so many seconds: a quarter of an hour."""
MONTH_S = 365.25 / 12 * 86_400.0


def node_j(server: Server, accelerator_j: float, servers: float, duration_s: float) -> float:
    """Wall energy of `servers` servers [J]: CPUs, memory, NICs, fans and power supplies around the devices.

        E_node = P_host * servers * t + factor * E_accelerator

    server       -- the profile's server: host [W] and factor [wall W per device W], with their sources
    accelerator_j -- energy of all devices of the pool, idle included [J]
    servers      -- servers in use, fractions allowed: 1 of 8 devices is 1/8 of a server (see `servers_of`)
    duration_s   -- how long they stood there [s]
    """
    return server.host.value * servers * duration_s + server.factor.value * accelerator_j


def servers_of(server: Server, devices: int) -> float:
    """Servers that `devices` devices take: a fraction, since devices are rented and shared one by one."""
    return devices / server.devices


def rated_w(profile: Profile, devices: int) -> float:
    """Wall watts of `devices` devices and their share of servers with every device at its power limit [W]."""
    draw_w = profile.power.limit.value * devices
    return node_j(profile.server, draw_w, servers_of(profile.server, devices), 1.0)


def _or_a_name(schema: dict[str, Any]) -> None:
    """A JSON Schema that also takes the name of a preset."""
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "description": "Name or path of one of cooling"}, mapping]


class Overhead(Spec):
    """What a facility draws beyond its machines: P_fac = P_IT*(1 + electrical + mechanical(T)) + fixed*P_IT_rated.

    Defaults are estimates tied to published annual PUE: 1.09 at full load below 18 C wet bulb.
    """

    model_config = ConfigDict(json_schema_extra=_or_a_name)

    preset: str | None = Field(
        None,
        description="Shipped or own cooling to start from: `free-cooled`, `liquid`, `chiller`; keys given here replace its keys",
    )
    description: str = Field("", description="For people")
    electrical: Fraction = Field(0.03, description="Distribution and UPS losses, per IT watt")
    fixed: Fraction = Field(0.02, description="Lights, pumps and what else runs whatever the load, per rated IT watt")
    mechanical: Fraction = Field(0.04, description="Cooling per IT watt, up to the wet-bulb temperature `threshold_c`")
    threshold_c: float = Field(
        18.0, description="Wet-bulb temperature from which cooling works harder, in degrees Celsius"
    )
    per_degree: Fraction = Field(
        0.008, description="More cooling per IT watt for each degree Celsius above `threshold_c`"
    )
    cap: Fraction = Field(0.25, description="Most that cooling takes per IT watt")
    wet_bulb_c: Annotated[Signal, Series(None, -60.0, 40.0)] = Field(
        default_factory=lambda: Signal.constant(15.0),
        description="Wet-bulb temperature of the air outside, in degrees Celsius",
        json_schema_extra={"default": 15},
    )

    water: LitresPerJoule | None = Field(
        None, description="Water evaporated on site per IT energy (WUE), where the site gives none"
    )
    sources: dict[str, Provenance] = Field({}, description="`overhead` or `water` -> where its numbers come from")

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, values: Any, info: ValidationInfo) -> Any:
        """The name of a preset stands for it; given keys replace the preset's, and its word on them."""
        values = {"preset": values} if isinstance(values, str) else values
        if not isinstance(values, dict) or not isinstance(values.get("preset"), str):
            return values
        merged = dict(preset(values, info, "cooling"))
        given = {"water" if key == "water" else "overhead" for key in values if key not in ("preset", "wet_bulb_c")}
        if "sources" not in values:
            merged["sources"] = {key: fact for key, fact in merged.get("sources", {}).items() if key not in given}
        return merged | {"preset": values["preset"]}

    def cooling(self, time_s: float = 0.0) -> float:
        """Cooling watts per IT watt at that time: k = min(cap, mechanical + per_degree * max(0, T - threshold))."""
        warm_c = max(0.0, self.wet_bulb_c.at(time_s) - self.threshold_c)
        return min(self.cap, self.mechanical + self.per_degree * warm_c)


class Rack(Spec):
    """What one rack may draw at the wall, and how many servers stand in it."""

    limit: Watts = Field(description="Most that one rack may draw at the wall")
    servers: int = Field(ge=1, description="Servers that stand in one rack")


def _schema(schema: dict[str, Any]) -> None:
    schema.pop("required", None)  # a preset gives them


class Site(Spec):
    """One place where pools stand. Every number is asked for, none is a silent default; what changes in time holds in steps."""

    model_config = ConfigDict(json_schema_extra=_schema)

    preset: str | None = Field(
        None, description="Shipped or own site to start from, such as `finland`; keys given here replace its keys"
    )
    description: str = Field("", description="For people")
    pue: float | None = Field(
        None,
        ge=1.0,
        description="Facility energy / IT energy, fixed; left out, `overhead` makes it follow load and weather",
    )
    overhead: Overhead = Field(
        Overhead(),
        json_schema_extra={"default": {}},
        description="Cooling and distribution: a preset's name, or a mapping; not beside `pue`",
    )
    carbon_intensity: Annotated[Signal, Series("grams per joule")] = Field(
        description="CO2e emitted by the grid per facility energy, location-based, operational; required unless `preset` gives it"
    )
    water: LitresPerJoule | None = Field(
        None,
        description="Water evaporated on site per IT energy (WUE), power plants' not in it; left out, the preset's or the cooling's",
    )
    electricity_price: Annotated[Signal, Series("dollars per joule", low=-1e-6)] = Field(
        description="Price per facility energy, all charges per kWh included, which pools that own pay; required unless `preset` gives it"
    )
    demand_charge: UsdPerWattMonth = Field(
        0.0,
        description="Per month, for the highest quarter of an hour at the meter; pools that own pay it",
    )
    power_limit: Annotated[Signal, Series("watts")] | None = Field(
        None, description="Most that the site may draw at the meter; shared out as caps of its devices"
    )
    rack: Rack | None = Field(None, description="Most that a rack may draw; shared out as caps of its devices")
    network_latency: dict[str, Seconds] = Field(
        {}, description="Clients' region -> one way from there; the answer takes as long again"
    )
    sources: dict[str, Provenance] = Field({}, description="Key of a number above -> where it comes from")

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, values: Any, info: ValidationInfo) -> Any:
        """Lay the given keys over the preset's; a replaced number loses the preset's source with it."""
        if not isinstance(values, dict) or not isinstance(values.get("preset"), str):
            return values
        merged = dict(preset(values, info, "sites"))
        for given, other in (("pue", "overhead"), ("overhead", "pue")):
            if given in values and other not in values:
                merged.pop(other, None)
        if "sources" in merged and "sources" not in values:
            merged["sources"] = {
                key: fact for key, fact in merged["sources"].items() if key in merged and key not in values
            }
        return merged | {"preset": values["preset"]}

    @model_validator(mode="after")
    def _one_pue(self) -> Self:
        if {"pue", "overhead"} <= self.model_fields_set and self.pue is not None:
            raise ValueError("expected `pue` (fixed) or `overhead` (follows the load), got both")
        if self.water is None and self.overhead.water is None:
            raise refusal([(("water",), "missing, expected litres per joule such as `1.8 L/kWh`, or a cooling preset")])
        return self

    def share(self, time_s: float = 0.0) -> float:
        """Facility watts per IT watt at that time, without what runs whatever the load [1]."""
        return self.pue if self.pue is not None else 1.0 + self.overhead.electrical + self.overhead.cooling(time_s)

    @property
    def fixed(self) -> float:
        """Facility watts per rated IT watt that run whatever the load [1]."""
        return 0.0 if self.pue is not None else self.overhead.fixed

    @property
    def wue(self) -> float:
        """Litres evaporated on site per joule of IT energy."""
        return self.water if self.water is not None else self.overhead.water or 0.0

    def facility_j(self, node_j: float, rated_w: float, duration_s: float, time_s: float = 0.0) -> float:
        """Energy at the meter [J]: E_fac = E_IT*(1 + k_el + k_mech) + phi*P_IT_rated*t, or E_IT*PUE where it is fixed.

        Linear in E_IT, so it is exact for a load that varies, and pools of one site add up.

        node_j     -- energy of the servers over the time [J]
        rated_w    -- what those servers draw with every device at its limit [W] (see `rated_w`)
        duration_s -- the time [s]
        time_s     -- when it began: the weather holds from then on [s]
        """
        return node_j * self.share(time_s) + self.fixed * rated_w * duration_s

    def next_change(self, time_s: float) -> float:
        """The first time after `time_s` at which a joule becomes another number of grams or dollars, or needs other cooling [s]."""
        signals = (self.carbon_intensity, self.electricity_price, self.overhead.wet_bulb_c)
        return min(signal.next_change(time_s) for signal in signals)

    @property
    def known_until_s(self) -> float:
        """Beyond this time one of the files has nothing to say [s]."""
        signals = (self.carbon_intensity, self.electricity_price, self.overhead.wet_bulb_c, self.power_limit)
        return min(signal.known_until_s for signal in signals if signal is not None)

    def pue_of(self, node_j: float, rated_w: float, duration_s: float) -> float:
        """Facility energy / IT energy over that time; rises as the load falls. NaN where nothing was drawn."""
        return self.facility_j(node_j, rated_w, duration_s) / node_j if node_j else float("nan")

    @property
    def design_pue(self) -> float:
        """PUE with every machine at its rated watts."""
        return self.facility_j(1.0, 1.0, 1.0)

    def estimates(self) -> list[str]:
        """The numbers behind this site that are estimates, one sentence each."""
        lines = [
            f"site: {key} is an estimate ({fact.source})"
            for key, fact in self.sources.items()
            if fact.grade == "estimate"
        ]
        if self.pue is None:
            lines += [
                f"site: {self.overhead.preset} cooling: {key} is an estimate ({fact.source})"
                for key, fact in self.overhead.sources.items()
                if fact.grade == "estimate" and not (key == "water" and self.water is not None)
            ]
            if "overhead" not in self.model_fields_set:
                lines.append(f"site: overhead is an assumption (PUE {self.design_pue:.3g} at full load)")
        return lines

    def grams_co2e(self, facility_j: float, time_s: float = 0.0) -> float:
        """Operational emissions of energy metered from that time on [g CO2e], location-based: E_fac * carbon intensity of the grid."""
        return facility_j * self.carbon_intensity.at(time_s)

    def litres(self, node_j: float) -> float:
        """Water evaporated on site [L]: E_IT * WUE. WUE counts IT energy, not the meter's."""
        return node_j * self.wue

    def electricity_usd(self, facility_j: float, time_s: float = 0.0) -> float:
        """Price of energy metered from that time on [$]."""
        return facility_j * self.electricity_price.at(time_s)
