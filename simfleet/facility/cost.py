"""Two ways to hold devices, rent or own: dollars per device-hour, line by line, before metered electricity."""

from math import expm1, log1p
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from simfleet.facility.site import Site, rated_w
from simfleet.hardware.profile import Profile
from simfleet.spec import Spec
from simfleet.units import Fraction, Usd, UsdPerHour, UsdPerWatt, Watts

HOURS_PER_YEAR = 8760.0


def crf(rate: float, years: float) -> float:
    """Capital recovery factor: the yearly payment that repays one dollar over `years` at `rate`.

        CRF = r * (1 + r)^n / ((1 + r)^n - 1) = r / (1 - (1 + r)^-n),  1/n where r = 0

    rate  -- yearly rate of return [1]
    years -- life [a]
    """
    if rate < 1e-12:  # 0/0 beside it; the limit is off by less than years * 1e-12
        return 1.0 / years
    return rate / -expm1(-years * log1p(rate))


class Rent(Spec):
    """Devices by the hour, with servers, network, space and electricity in the price."""

    kind: Literal["rent"] = "rent"
    price: UsdPerHour | None = Field(
        None, description="Price of one device for an hour; left out, the first offer of the device's profile"
    )

    @property
    def metered(self) -> bool:
        """Whether electricity is paid beside these lines: no."""
        return False

    def check(self, profile: Profile) -> None:
        """Raise ValueError where neither a price nor an offer is known."""
        if self.price is None and not profile.rent:
            raise ValueError(
                f"no rental offer is known for `{profile.name}`: give `cost: {{kind: rent, price: $2.5/h}}`"
            )

    def rates(self, profile: Profile, site: Site) -> dict[str, float]:
        """Lines in $ per device-hour: {"rent": price}."""
        self.check(profile)
        return {"rent": profile.rent[0].price if self.price is None else self.price}

    def estimates(self, profile: Profile) -> list[str]:
        """What was assumed."""
        if self.price is not None:
            return []
        self.check(profile)
        offer = profile.rent[0]
        return [
            f"rent: ${offer.price:g}/h is what {offer.provider} asked ({offer.kind}, {offer.date}); offers vary up to fivefold"
        ]


class Capital(NamedTuple):
    """What is bought per device in use [$]."""

    devices: float
    servers: float
    network: float
    spares: float
    facility: float


class Own(Spec):
    """Devices bought and paid back over their life; electricity is metered at the site's price.

    The defaults are estimates; docs/cost.md says where each comes from and how they compare with published owner's rates.
    """

    kind: Literal["own"] = "own"
    device: Usd | None = Field(None, description="Price of one device; left out, the profile's")
    server: Usd | None = Field(
        None, description="Chassis, CPUs, NICs per device; left out, the profile's, else `server_share` of the device"
    )
    server_share: Fraction = Field(0.5, description="Server per dollar of device, where its price is not known")
    network: Usd | None = Field(
        None, description="Switches and cables per device; left out, `network_share` of device and server"
    )
    network_share: Fraction = Field(
        0.125, description="Network per dollar of device and server, where `network` is left out"
    )
    spares: Fraction = Field(0.0, description="Devices and servers kept ready, per one in use; they draw nothing")
    rate: Fraction = Field(0.10, description="Yearly rate of return on what is bought")
    years: float = Field(5.0, gt=0.0, description="Life of devices, servers and network, in years")
    facility: UsdPerWatt = Field(12.0, description="Building, power and cooling per provisioned watt")
    facility_years: float = Field(15.0, gt=0.0, description="Life of the facility, in years")
    provisioned: Watts | None = Field(
        None, description="Facility watts held per device; left out, rated wall watts x PUE at full load"
    )
    upkeep: Fraction = Field(0.05, description="Repair and staff: share of all that was bought, per year")

    @property
    def metered(self) -> bool:
        """Whether electricity is paid beside these lines: yes."""
        return True

    def check(self, profile: Profile) -> None:
        """Raise ValueError where no price of the device is known."""
        self._device(profile)

    def capital(self, profile: Profile, site: Site) -> Capital:
        """What is bought per device [$]. Raises ValueError where no price of the device is known."""
        device = self._device(profile)
        server = self._server(profile, device)
        network = self.network_share * (device + server) if self.network is None else self.network
        watts = rated_w(profile, 1) * site.design_pue if self.provisioned is None else self.provisioned
        return Capital(device, server, network, self.spares * (device + server), self.facility * watts)

    def rates(self, profile: Profile, site: Site) -> dict[str, float]:
        """Lines in $ per device-hour: price * CRF / 8760, and the yearly upkeep share of it all / 8760; `spares` where there are any."""
        bought = self.capital(profile, site)
        hourly = crf(self.rate, self.years) / HOURS_PER_YEAR
        lines = {name: getattr(bought, name) * hourly for name in ("devices", "servers", "network")}
        if self.spares:
            lines["spares"] = bought.spares * hourly
        lines["facility"] = bought.facility * crf(self.rate, self.facility_years) / HOURS_PER_YEAR
        lines["upkeep"] = sum(bought) * self.upkeep / HOURS_PER_YEAR
        return lines

    def estimates(self, profile: Profile) -> list[str]:
        """What was assumed because nobody gave it, one sentence each."""
        assumed = {
            "server_share": f"server {self.server_share:.0%} of the device's price",
            "network_share": f"network {self.network_share:.1%} of device and server",
            "spares": "no spares",
            "rate": f"rate of return {self.rate:.0%} a year",
            "years": f"device life {self.years:g} years",
            "facility": f"facility ${self.facility:g}/W",
            "facility_years": f"facility life {self.facility_years:g} years",
            "provisioned": "rated wall watts x PUE at full load provisioned, no redundancy",
            "upkeep": f"upkeep {self.upkeep:.0%} of what was bought a year",
        }
        known = set(self.model_fields_set)
        if self.server is not None or (profile.own and (profile.own.includes_server or profile.own.server)):
            known.add("server_share")
        if self.network is not None:
            known.add("network_share")
        lines = [f"own: {text} is an assumption" for name, text in assumed.items() if name not in known]
        return self._asked(profile) + lines

    def _asked(self, profile: Profile) -> list[str]:
        """Of the profile's prices that are used: from when they are, and who says so."""
        if profile.own is None:
            return []
        prices = {"device": profile.own.device, "server": profile.own.server}
        return [
            f"own: {name} at ${fact.value:,.0f}, a price of {profile.own.date} ({profile.sources[fact.source]})"
            for name, fact in prices.items()
            if fact is not None and getattr(self, name) is None
        ]

    def _device(self, profile: Profile) -> float:
        if self.device is not None:
            return self.device
        if profile.own is None:
            raise ValueError(
                f"no purchase price is known for `{profile.name}`: give `cost: {{kind: own, device: $25000}}`"
            )
        return profile.own.device.value

    def _server(self, profile: Profile, device: float) -> float:
        if self.server is not None:
            return self.server
        if profile.own and profile.own.includes_server:
            return 0.0
        if profile.own and profile.own.server:
            return profile.own.server.value
        return self.server_share * device


AnyCost = Annotated[Rent | Own, Field(discriminator="kind")]
