"""A place: from device joules to wall and meter, and what a metered joule emits, drinks and costs there."""

from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from simfleet.hardware.profile import Profile, Server
from simfleet.spec import Grade, Spec, preset
from simfleet.units import Fraction, GramsPerJoule, LitresPerJoule, Seconds, UsdPerJoule


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


class Overhead(Spec):
    """What a facility draws beyond its machines: P_fac = P_IT*(1 + electrical + mechanical(T)) + fixed*P_IT_rated.

    Defaults are estimates tied to published annual PUE: 1.09 at full load below 18 C wet bulb.
    """

    electrical: Fraction = Field(0.03, description="Distribution and UPS losses, per IT watt")
    fixed: Fraction = Field(0.02, description="What runs whatever the load, per rated IT watt")
    mechanical: Fraction = Field(0.04, description="Cooling per IT watt, up to the wet-bulb threshold")
    threshold_c: float = Field(18.0, description="Wet bulb from which cooling works harder, in degrees Celsius")
    per_degree: Fraction = Field(0.008, description="Cooling per IT watt and degree above the threshold")
    cap: Fraction = Field(0.25, description="Most that cooling takes per IT watt")
    wet_bulb_c: float = Field(15.0, ge=-60.0, le=40.0, description="Wet-bulb temperature, constant, in degrees Celsius")

    @property
    def cooling(self) -> float:
        """Cooling watts per IT watt at this wet bulb: k = min(cap, mechanical + per_degree * max(0, T - threshold))."""
        warm_c = max(0.0, self.wet_bulb_c - self.threshold_c)
        return min(self.cap, self.mechanical + self.per_degree * warm_c)


class Provenance(Spec):
    """Where one number of a preset comes from."""

    source: str
    grade: Grade
    note: str | None = None


def _schema(schema: dict[str, Any]) -> None:
    schema.pop("required", None)  # a preset gives them


class Site(Spec):
    """One place where pools stand. Everything is constant in time; every number is asked for, none is a silent default."""

    model_config = ConfigDict(json_schema_extra=_schema)

    preset: str | None = Field(None, description="Shipped or own site to start from; keys given here replace its keys")
    description: str = ""
    pue: float | None = Field(
        None, ge=1.0, description="Fixed facility/IT energy; left out, `overhead` makes it follow the load"
    )
    overhead: Overhead = Overhead()
    carbon_intensity: GramsPerJoule = Field(description="Grid CO2e per facility energy, location-based, operational")
    water: LitresPerJoule = Field(
        description="On-site water per IT energy (WUE); water of the power plants is not in it"
    )
    electricity_price: UsdPerJoule = Field(description="Price per facility energy, all charges included")
    network_latency: dict[str, Seconds] = Field(
        {}, description="Client region -> one way; the answer takes as long again"
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
        return self

    def facility_j(self, node_j: float, rated_w: float, duration_s: float) -> float:
        """Energy at the meter [J]: E_fac = E_IT*(1 + k_el + k_mech) + phi*P_IT_rated*t, or E_IT*PUE where it is fixed.

        Linear in E_IT, so it is exact for a load that varies, and pools of one site add up.

        node_j     -- energy of the servers over the time [J]
        rated_w    -- what those servers draw with every device at its limit [W] (see `rated_w`)
        duration_s -- the time [s]
        """
        if self.pue is not None:
            return node_j * self.pue
        share = 1.0 + self.overhead.electrical + self.overhead.cooling
        return node_j * share + self.overhead.fixed * rated_w * duration_s

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
        if self.pue is None and "overhead" not in self.model_fields_set:
            lines.append(f"site: overhead is an assumption (PUE {self.design_pue:.3g} at full load)")
        return lines

    def grams_co2e(self, facility_j: float) -> float:
        """Operational emissions of metered energy [g CO2e], location-based: E_fac * carbon intensity of the grid."""
        return facility_j * self.carbon_intensity

    def litres(self, node_j: float) -> float:
        """Water evaporated on site [L]: E_IT * WUE. WUE counts IT energy, not the meter's."""
        return node_j * self.water

    def electricity_usd(self, facility_j: float) -> float:
        """Price of metered energy [$]."""
        return facility_j * self.electricity_price
