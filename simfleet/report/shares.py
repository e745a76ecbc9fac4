"""Who used what: joules and dollars of every pool, shared over streams, input and output tokens, so that the parts are the whole."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import nan

from simfleet.records import Account, PoolLedger
from simfleet.run import Run

LIFE_S = 5 * 365.25 * 86_400.0
"""Over this time the emissions of making a device are spread [assumption: five years in service]."""

BOUNDARIES = ("accelerator_active", "accelerator", "node", "facility")


@dataclass(frozen=True, slots=True)
class Share:
    """Device-seconds, joules at the four boundaries, dollars, grams of CO2e and litres; shares add up with `total`.

    `idle_usd` is the part of `usd` for time in which devices had no work. `embodied_grams_co2e` is this time's part of what making
    the devices emitted, NaN where a profile does not say.
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

    def joules(self, boundary: str) -> float:
        """Joules at one of BOUNDARIES."""
        return float(getattr(self, f"{boundary}_j"))


def total(shares: Iterable[Share]) -> Share:
    """The sum of shares."""
    shares = list(shares)
    return Share(*(sum(getattr(share, field.name) for share in shares) for field in fields(Share)))


def lines_usd(run: Run, number: int) -> dict[str, float]:
    """What pool `number` cost, line by line: rent, or devices, servers, network, facility, upkeep and electricity [$]."""
    ledger = run.records.pools[number]
    pool = run.scenario.pools[ledger.name]
    device_h = ledger.devices * ledger.duration_s / 3600
    rates = pool.cost.rates(pool.profile, run.scenario.sites[pool.site])
    lines = {name: rate * device_h for name, rate in rates.items()}
    return lines | ({"electricity": ledger.electricity_usd} if pool.cost.metered else {})


def whole(run: Run, number: int) -> Share:
    """All that pool `number` used."""
    ledger = run.records.pools[number]
    lines = lines_usd(run, number)
    return Share(
        ledger.busy_device_s, ledger.active_j, ledger.accelerator_j, ledger.node_j, ledger.facility_j,
        sum(lines.values()), ledger.grams_co2e, ledger.litres_water, _idle_usd(ledger, lines), _embodied_grams(run, number),
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


def _idle_usd(ledger: PoolLedger, lines: dict[str, float]) -> float:
    """Dollars for devices without work: electricity by accelerator joules, everything else by device-seconds."""
    by_time = 1 - utilisation(ledger)
    by_energy = 1 - ledger.active_j / ledger.accelerator_j if ledger.accelerator_j else by_time
    electricity = lines.get("electricity", 0.0)
    return (sum(lines.values()) - electricity) * by_time + electricity * by_energy


def parts(run: Run, account: Account) -> tuple[Share, Share]:
    """The shares of one stream in one pool: for its prompts, and for its answers.

    Idle joules, idle dollars and embodied carbon follow busy device-seconds. What the node and the facility add, and operational
    carbon and water, follow accelerator joules. Of the dollars, electricity follows joules, the rest device-seconds.
    """
    ledger = run.records.pools[account.pool]
    used, electricity = whole(run, account.pool), lines_usd(run, account.pool).get("electricity", 0.0)
    return (
        _part(ledger, used, electricity, account.prefill_device_s, account.prefill_j),
        _part(ledger, used, electricity, account.decode_device_s, account.decode_j),
    )


def _part(ledger: PoolLedger, used: Share, electricity_usd: float, device_s: float, active_j: float) -> Share:
    """The part of a pool's use that comes with these busy device-seconds and active joules."""
    if not ledger.busy_device_s:
        return Share()
    by_time = device_s / ledger.busy_device_s
    accelerator_j = active_j + (ledger.accelerator_j - ledger.active_j) * by_time
    by_energy = accelerator_j / ledger.accelerator_j if ledger.accelerator_j else by_time
    return Share(
        device_s, active_j, accelerator_j, used.node_j * by_energy, used.facility_j * by_energy,
        (used.usd - electricity_usd) * by_time + electricity_usd * by_energy,
        used.grams_co2e * by_energy, used.litres_water * by_energy, used.idle_usd * by_time, used.embodied_grams_co2e * by_time,
    )  # fmt: skip


def caused(run: Run, accounts: Iterable[Account]) -> tuple[Share, Share]:
    """What the prompts of some streams used, and what their answers used."""
    shares = [parts(run, account) for account in accounts]
    return total(prompt for prompt, _ in shares), total(answer for _, answer in shares)
