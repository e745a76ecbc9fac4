"""From device joules to the meter while the run goes on: weather, grid and prices hold from one change to the next."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from simfleet.facility.site import DEMAND_S, MONTH_S, Site, node_j, rated_w, servers_of
from simfleet.pool import Pool
from simfleet.scenario import Scenario
from simfleet.serving.fleet import Fleet, totals
from simfleet.serving.replica import Snapshot


@dataclass(slots=True)
class Bill:
    """What one pool drew at the wall and at the meter since the start, and what came of it."""

    node_j: float = 0.0
    facility_j: float = 0.0
    grams_co2e: float = 0.0
    litres_water: float = 0.0
    electricity_usd: float = 0.0
    demand_usd: float = 0.0
    windows_j: list[float] = field(default_factory=lambda: [0.0])  # at the meter, per quarter of an hour


class Wall:
    """One pool as its server's plug and its site's meter see it."""

    def __init__(self, pool: Pool, site: Site) -> None:
        self.site = site
        self._server = pool.profile.server
        self._servers = servers_of(self._server, pool.devices)
        self._servers_of_replica = servers_of(self._server, pool.parallel.devices)
        self._rated_w = rated_w(pool.profile, pool.devices)

    def joules(self, accelerator_j: float, off_s: float, start_s: float, end_s: float) -> tuple[float, float]:
        """Joules of the servers and at the meter.

        accelerator_j -- of all devices of the pool in that time [J]
        off_s         -- replica-seconds switched off, together with their share of the server
        """
        server_s = self._servers * (end_s - start_s) - self._servers_of_replica * off_s
        wall_j = node_j(self._server, accelerator_j, server_s, 1.0)
        return wall_j, self.site.facility_j(wall_j, self._rated_w, end_s - start_s, start_s)


class Metering:
    """A bill for every pool. Read at each change of a site's weather, grid or price, and each quarter of an hour where that is charged."""

    def __init__(self, fleet: Fleet, scenario: Scenario) -> None:
        self._fleet = fleet
        self._sites = list({pool.site: scenario.sites[pool.site] for pool in scenario.pools.values()}.values())
        self._windowed = any(site.demand_charge for site in self._sites)
        self.walls = [Wall(pool, scenario.sites[pool.site]) for pool in scenario.pools.values()]
        self.bills = [Bill() for _ in self.walls]
        self._read = [(0.0, 0.0) for _ in self.walls]  # joules, replica-seconds off
        self._since_s = 0.0

    def watch(self) -> Generator[Any, None, None]:
        """A process that reads the meters whenever it must."""
        now = 0.0
        while True:
            mark_s = DEMAND_S * len(self.bills[0].windows_j) if self._windowed else inf
            now = min(mark_s, *(site.next_change(now) for site in self._sites))
            if now == inf:
                return
            yield self._fleet.env.timeout(max(now - self._fleet.env.now, 0.0))
            self.read(now)
            if now == mark_s:
                for bill in self.bills:
                    bill.windows_j.append(0.0)

    def read(self, now_s: float) -> list[Snapshot]:
        """Add what was drawn since the last reading, under the weather and the prices of that time; return where the pools stand."""
        start_s, self._since_s = self._since_s, now_s
        found = []
        for number, (pool, wall, bill) in enumerate(zip(self._fleet.pools, self.walls, self.bills, strict=True)):
            sums, (joules, off_s) = totals(pool), self._read[number]
            self._read[number] = (sums.joules, sums.off_s)
            wall_j, meter_j = wall.joules(sums.joules - joules, sums.off_s - off_s, start_s, now_s)
            bill.node_j += wall_j
            bill.facility_j += meter_j
            bill.grams_co2e += wall.site.grams_co2e(meter_j, start_s)
            bill.litres_water += wall.site.litres(wall_j)
            bill.electricity_usd += wall.site.electricity_usd(meter_j, start_s)
            bill.windows_j[-1] += meter_j
            found.append(sums)
        return found

    def close(self, now_s: float) -> None:
        """The last reading, after the fleet has been closed; then the charges for the highest quarter of an hour."""
        self.read(now_s)
        for site in self._sites:
            if site.demand_charge:
                mine = [bill for bill, wall in zip(self.bills, self.walls, strict=True) if wall.site is site]
                _charge(mine, site.demand_charge, now_s)


def _charge(bills: Iterable[Bill], charge: float, duration_s: float) -> None:
    """Share out a month's charge for the site's highest window, for this part of a month; an unfinished one counts if it is alone."""
    bills = list(bills)
    whole = len(bills[0].windows_j) - 1
    sums = [sum(column) for column in zip(*(bill.windows_j[: whole or 1] for bill in bills), strict=True)]
    peak = max(range(len(sums)), key=sums.__getitem__)
    seconds = DEMAND_S if whole else duration_s
    for bill in bills:
        if seconds:
            bill.demand_usd = bill.windows_j[peak] / seconds * charge * duration_s / MONTH_S
