"""Who used what: joules and dollars of every pool, shared over streams, input and output tokens, so that the parts are the whole."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simfleet.facility.site import rated_w
from simfleet.hardware.step import StepCost, attended, attended_limited, keys_limited
from simfleet.records import Account, PoolLedger
from simfleet.run import Run

LIFE_S = 5 * 365.25 * 86_400.0
"""Over this time the emissions of making a device are spread [assumption: five years in service]."""

BOUNDARIES = ("accelerator_active", "accelerator", "node", "facility")

BY_ENERGY = ("electricity", "demand")
"""Lines that follow joules; all others follow device-seconds."""


@dataclass(frozen=True, slots=True)
class Share:
    """Device-seconds, joules at the four boundaries, dollars, grams of CO2e and litres; shares add up with `total`.

    `idle_usd` is the part of `usd` for time in which devices had no work. `embodied_grams_co2e` is this time's part of what making
    the devices emitted, NaN where a profile does not say. `electricity_usd` is what the joules at the meter cost by the site's price,
    whether they are paid beside the devices or in their rent. `provisioned_j` is what the meter would count with every device at its
    limit all the time.
    """

    device_s: float = 0.0
    accelerator_active_j: float = 0.0
    accelerator_j: float = 0.0
    node_j: float = 0.0
    facility_j: float = 0.0
    usd: float = 0.0
    grams_co2e: float = 0.0
    litres_water: float = 0.0
    idle_usd: float = 0.0
    embodied_grams_co2e: float = 0.0
    electricity_usd: float = 0.0
    provisioned_j: float = 0.0

    def joules(self, boundary: str) -> float:
        """Joules at one of BOUNDARIES."""
        return float(getattr(self, f"{boundary}_j"))


class Parts(NamedTuple):
    """Shares of the prompts' new tokens, of those found in the prefix cache, and of the answers."""

    new: Share
    cached: Share
    answers: Share

    @property
    def prompts(self) -> Share:
        """Shares of the whole prompts."""
        return total((self.new, self.cached))


def total(shares: Iterable[Share]) -> Share:
    """The sum of shares."""
    shares = list(shares)
    return Share(*(sum(getattr(share, field.name) for share in shares) for field in fields(Share)))


def lines_usd(run: Run, number: int) -> dict[str, float]:
    """What pool `number` cost, line by line: rent; or devices, servers, network, facility, upkeep and electricity, spares and demand [$]."""
    ledger = run.records.pools[number]
    pool = run.scenario.pools[ledger.name]
    device_h = ledger.devices * ledger.duration_s / 3600
    site = run.scenario.sites[pool.site]
    lines = {name: rate * device_h for name, rate in pool.cost.rates(pool.profile, site).items()}
    if pool.cost.metered:
        lines["electricity"] = ledger.electricity_usd
        if site.demand_charge:
            lines["demand"] = ledger.demand_usd
    return lines


def whole(run: Run, number: int) -> Share:
    """All that pool `number` used."""
    ledger = run.records.pools[number]
    lines = lines_usd(run, number)
    return Share(
        ledger.busy_device_s, ledger.active_j, ledger.accelerator_j, ledger.node_j, ledger.facility_j,
        sum(lines.values()), ledger.grams_co2e, ledger.litres_water, _idle_usd(ledger, lines), _embodied_grams(run, number),
        ledger.electricity_usd, _provisioned_j(run, number),
    )  # fmt: skip


def utilisation(ledger: PoolLedger) -> float:
    """Share of a pool's device time with work."""
    held_s = ledger.devices * ledger.duration_s
    return ledger.busy_device_s / held_s if held_s else 0.0


def _embodied_grams(run: Run, number: int) -> float:
    """Grams of CO2e from making the devices of a pool, for the time of the run."""
    ledger = run.records.pools[number]
    embodied = run.scenario.pools[ledger.name].profile.embodied
    return nan if embodied is None else embodied.value * ledger.devices * ledger.duration_s / LIFE_S


def _provisioned_j(run: Run, number: int) -> float:
    """Joules at the meter with every device of a pool at its limit all the time, under the cooling that the run had."""
    ledger = run.records.pools[number]
    pool = run.scenario.pools[ledger.name]
    site = run.scenario.sites[pool.site]
    rated_j = rated_w(pool.profile, ledger.devices) * ledger.duration_s
    fixed_j = site.fixed * rated_j
    return fixed_j + rated_j * ((ledger.facility_j - fixed_j) / ledger.node_j if ledger.node_j else site.share())


def _by_energy_usd(lines: dict[str, float]) -> float:
    """Dollars of the lines that follow joules."""
    return sum(lines.get(name, 0.0) for name in BY_ENERGY)


def _idle_usd(ledger: PoolLedger, lines: dict[str, float]) -> float:
    """Dollars for devices without work: lines BY_ENERGY by accelerator joules, everything else by device-seconds."""
    by_time = 1 - utilisation(ledger)
    by_energy = 1 - ledger.active_j / ledger.accelerator_j if ledger.accelerator_j else by_time
    metered_usd = _by_energy_usd(lines)
    return (sum(lines.values()) - metered_usd) * by_time + metered_usd * by_energy


def parts(run: Run, account: Account) -> Parts:
    """The shares of one stream in one pool.

    Idle joules, idle dollars, provisioned joules and embodied carbon follow busy device-seconds. What the node and the facility add,
    and operational carbon and water, follow accelerator joules. Of the dollars, lines BY_ENERGY follow joules, the rest device-seconds.
    """
    ledger = run.records.pools[account.pool]
    used, metered_usd = whole(run, account.pool), _by_energy_usd(lines_usd(run, account.pool))
    time, energy = _cached_part(run, account)
    busy = (
        (account.prefill_device_s * (1 - time), account.prefill_j * (1 - energy)),
        (account.prefill_device_s * time, account.prefill_j * energy),
        (account.decode_device_s, account.decode_j),
    )
    return Parts(*(_part(ledger, used, metered_usd, device_s, active_j) for device_s, active_j in busy))


def _cached_part(run: Run, account: Account) -> tuple[float, float]:
    """Of a stream's prompts in one pool, the shares of device-seconds and of joules that their cached tokens took [1].

    1 - (mean prompt without the tokens found in the prefix cache) / (the same with them), each alone in its step: what attention takes
    longer for the keys that were there before.
    """
    if not account.cached_tokens:
        return 0.0, 0.0
    cost = run.scenario.pools[run.records.pools[account.pool].name].step_cost()
    cached = round(account.cached_tokens / account.prompts)
    new = max(round(account.input_tokens / account.prompts) - cached, 1)
    with_s, with_j = _prompt_cost(cost, cached, new)
    without_s, without_j = _prompt_cost(cost, 0, new)
    return 1 - without_s / with_s, 1 - without_j / with_j


def _prompt_cost(cost: StepCost, cached: int, new: int) -> tuple[float, float]:
    """Seconds and joules of a step that computes the last `new` tokens of a prompt, `cached` before them in KV memory."""
    limit, keys = cost.limit or cached + new, cached + new
    seen = keys_limited(cached, new, limit)
    pairs = attended(cached, new), attended_limited(cached, new, limit)
    return cost.mixed(new, 1, 0, 0, 0, pairs[0], keys, keys, pairs[1], seen, seen)


def _part(ledger: PoolLedger, used: Share, metered_usd: float, device_s: float, active_j: float) -> Share:
    """The part of a pool's use that comes with these busy device-seconds and active joules."""
    if not ledger.busy_device_s:
        return Share()
    by_time = device_s / ledger.busy_device_s
    accelerator_j = active_j + (ledger.accelerator_j - ledger.active_j) * by_time
    by_energy = accelerator_j / ledger.accelerator_j if ledger.accelerator_j else by_time
    return Share(
        device_s, active_j, accelerator_j, used.node_j * by_energy, used.facility_j * by_energy,
        (used.usd - metered_usd) * by_time + metered_usd * by_energy,
        used.grams_co2e * by_energy, used.litres_water * by_energy, used.idle_usd * by_time, used.embodied_grams_co2e * by_time,
        used.electricity_usd * by_energy, used.provisioned_j * by_time,
    )  # fmt: skip


def caused(run: Run, accounts: Iterable[Account]) -> Parts:
    """What the prompts of some streams used, and what their answers used."""
    shares = [parts(run, account) for account in accounts]
    return Parts(*(total(share[i] for share in shares) for i in range(3)))


PER_REQUEST = ("accelerator_active_j", "accelerator_j", "node_j", "facility_j", "usd", "grams_co2e", "litres_water")
"""Columns of `per_request`."""


def per_request(run: Run) -> dict[str, NDArray[np.float64]]:
    """What every request used, idle time of its pool included, in the order of `run.requests`: a column for each of PER_REQUEST.

    With what pools without any work used, they sum to the whole. Raises ValueError where requests were not kept in full.
    """
    rows = run.requests
    if "energy_j" not in (rows.dtype.names or ()):
        raise ValueError("expected a run that kept its requests in full: simulate(scenario, requests=True)")
    columns = {name: np.zeros(len(rows)) for name in PER_REQUEST}
    for number, ledger in enumerate(run.records.pools):
        mine = rows["pool"] == number
        device_s, energy_j = rows["device_s"][mine], rows["energy_j"][mine]
        part = _part(ledger, whole(run, number), _by_energy_usd(lines_usd(run, number)), device_s, energy_j)
        for name, column in columns.items():
            column[mine] = getattr(part, name)
    return columns
