"""Power caps: what a device may draw, from all the limits that hold above it."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol

from simfleet.facility.site import Site, rated_w, servers_of
from simfleet.hardware.profile import Profile, Server
from simfleet.signals import Signal


class Powered(Protocol):
    """What a cap needs to know of a pool."""

    @property
    def site(self) -> str: ...
    @property
    def profile(self) -> Profile: ...
    @property
    def power_cap(self) -> Signal | None: ...
    @property
    def power_limit(self) -> Signal | None: ...
    @property
    def devices(self) -> int: ...


class Bound(NamedTuple):
    """One limit as it reaches the devices of a pool."""

    watts: float  # per device
    limit_w: float  # as it was written
    least_w: float  # drawn, where it was written, with all devices awake and without work
    path: tuple[str, ...]


class Caps:
    """Watts per device of every pool over time: the least of its own cap and of its even share of each limit above it.

    A limit is shared before anything runs, as if all devices drew their caps at once, so it is never exceeded:

        pool  W_device = (limit - host * servers) / (factor * devices)
        rack  the same with the rack's servers and devices
        site  W_device = scale * the device's own limit, one scale for all pools:
              scale = ((limit - fixed * rated) / share - sum of host * servers) / sum of factor * own limit * devices
    """

    def __init__(self, pools: Mapping[str, Powered], sites: Mapping[str, Site]) -> None:
        self._pools, self._sites = pools, sites
        signals: list[Signal | None] = [s for pool in pools.values() for s in (pool.power_cap, pool.power_limit)]
        for site in sites.values():
            signals += [site.power_limit, site.overhead.wet_bulb_c if site.power_limit is not None else None]
        self._signals: Sequence[Signal] = [signal for signal in signals if signal is not None]

    def device_w(self, name: str, time_s: float) -> float:
        """What a device of a pool may draw at that time [W]."""
        own_w = self._pools[name].profile.power.limit.value
        return min([own_w, *(bound.watts for bound in self.bounds(name, time_s))])

    def bounds(self, name: str, time_s: float) -> Iterator[Bound]:
        """All limits that reach a pool, at that time."""
        pool, site = self._pools[name], self._sites[self._pools[name].site]
        server, gap_w = pool.profile.server, pool.profile.power.gap.value
        if pool.power_cap is not None:
            cap_w = pool.power_cap.at(time_s)
            yield Bound(cap_w, cap_w, gap_w, ("pools", name, "power_cap"))
        if pool.power_limit is not None:
            servers, limit_w = servers_of(server, pool.devices), pool.power_limit.at(time_s)
            yield _shared(server, servers, limit_w, gap_w, ("pools", name, "power_limit"))
        if site.rack is not None:
            yield _shared(server, site.rack.servers, site.rack.limit, gap_w, ("sites", pool.site, "rack"))
        if site.power_limit is not None:
            limit_w = site.power_limit.at(time_s)
            watts = self._scale(pool.site, limit_w, time_s) * pool.profile.power.limit.value
            yield Bound(watts, limit_w, self._least_w(pool.site, time_s), ("sites", pool.site, "power_limit"))

    def _scale(self, site_name: str, limit_w: float, time_s: float) -> float:
        """Share of its own limit that every device of a site may draw."""
        site, (hosts_w, rated) = self._sites[site_name], self._walls(site_name)
        it_w = (limit_w - site.fixed * rated) / site.share(time_s)
        return (it_w - hosts_w) / (rated - hosts_w)

    def _least_w(self, site_name: str, time_s: float) -> float:
        """The limit that leaves every device of a site what it draws awake and without work [W]."""
        site, (hosts_w, rated) = self._sites[site_name], self._walls(site_name)
        watts = [pool.profile.power for pool in self._pools.values() if pool.site == site_name]
        scale = max(power.gap.value / power.limit.value for power in watts)
        return site.facility_j(hosts_w + scale * (rated - hosts_w), rated, 1.0, time_s)

    def _walls(self, site_name: str) -> tuple[float, float]:
        """Wall watts of a site's servers, with devices that draw nothing and with devices at their own limits."""
        pools = [pool for pool in self._pools.values() if pool.site == site_name]
        hosts_w = sum(pool.profile.server.host.value * servers_of(pool.profile.server, pool.devices) for pool in pools)
        return hosts_w, sum(rated_w(pool.profile, pool.devices) for pool in pools)

    def next_change(self, time_s: float) -> float:
        """The first time after `time_s` at which some cap may change [s]; inf if none."""
        return min((signal.next_change(time_s) for signal in self._signals), default=inf)

    def times(self, end_s: float) -> Iterator[float]:
        """0, and every time up to `end_s` at which a cap may change; of what repeats, the first two weeks."""
        time_s, end_s = 0.0, min(end_s, 1_209_600.0)
        while time_s <= end_s:
            yield time_s
            time_s = self.next_change(time_s)


def _shared(server: Server, servers: float, limit_w: float, gap_w: float, path: tuple[str, ...]) -> Bound:
    """A limit at the wall of some servers, shared evenly by their devices."""
    devices, host_w = servers * server.devices, server.host.value * servers
    watts = (limit_w - host_w) / server.factor.value / devices
    return Bound(watts, limit_w, host_w + server.factor.value * gap_w * devices, path)
