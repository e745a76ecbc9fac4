"""Whether a run stayed where the simulator was held against measurements."""

from typing import Any

import numpy as np

from simfleet.facility.caps import Caps
from simfleet.hardware.profile import Validity
from simfleet.pool import Pool
from simfleet.report.cost import peak_facility_w
from simfleet.run import Run
from simfleet.terminal import counted

ESTIMATE_FACTOR = 1.5
"""How far times may be off, either way, where a device's step constants are its class's (docs/hardware.md)."""


POWER_ESTIMATE = 0.3
"""How far watts may be off, either way, where a device's power constants are scaled from its TDP (docs/energy.md)."""


CAPS_COMPARED = 0.5
"""The deepest power cap that was compared with measured runs, as a share of a device's own limit (docs/energy.md)."""


def validity(run: Run) -> list[str]:
    """How far off the same device and engine were, or in what a pool goes beyond what was compared; and what estimated watts imply."""
    pools = list(enumerate(run.scenario.pools.items()))
    times = [f"{name}: {_of(run, number, pool)}" for number, (name, pool) in pools]
    watts = [f"{name}: {line}" for number, (name, _) in pools if (line := _watts(run, number))]
    return times + watts


def facility_range_j(run: Run, number: int) -> list[float] | None:
    """Joules at the meter of a pool if the watts of its devices, only estimated, are off by POWER_ESTIMATE; None where they are fitted."""
    ledger = run.records.pools[number]
    pool = run.scenario.pools[ledger.name]
    power = pool.profile.power
    if power.busy.grade != "estimate" or power.measured or not ledger.node_j:
        return None
    per_device_j = pool.profile.server.factor.value * ledger.facility_j / ledger.node_j
    off_j = POWER_ESTIMATE * ledger.active_j * per_device_j
    return [ledger.facility_j - off_j, ledger.facility_j + off_j]


def power_caps_w(run: Run, name: str) -> list[float] | None:
    """Least and most that a device of a pool was allowed to draw during the run [W]; None where no limit but its own held."""
    caps, pool = Caps(run.scenario.pools, run.scenario.sites), run.scenario.pools[name]
    watts = [caps.device_w(name, time_s) for time_s in caps.times(run.records.duration_s)]
    return [min(watts), max(watts)] if min(watts) < pool.profile.power.limit.value else None


def power_limits(run: Run) -> list[dict[str, Any]]:
    """Every power limit that the scenario sets, also one that never held a device back.

    Each has `name` (such as `site finland`), `limit_w` and `device_w`, the least and the most of it and of what it leaves a device [W], and
    for a site `peak_w`, the most at its meter [W]; None for the others, which have no meter of their own.
    """
    caps = Caps(run.scenario.pools, run.scenario.sites)
    found: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for time_s in caps.times(run.records.duration_s):
        for pool in run.scenario.pools:
            for bound in caps.bounds(pool, time_s):
                found.setdefault(bound.path, []).append((bound.limit_w, bound.watts))
    return [
        {"name": _limit_of(path), "limit_w": [min(limits), max(limits)], "device_w": [min(watts), max(watts)], "peak_w": _peak_w(run, path)}
        for path, bounds in found.items()
        for limits, watts in [tuple(zip(*bounds, strict=True))]
    ]  # fmt: skip


def _limit_of(path: tuple[str, ...]) -> str:
    """What a limit at this path of the scenario is of."""
    kinds = {"power_cap": "each device of", "power_limit": path[0].removesuffix("s"), "rack": "each rack at"}
    return f"{kinds[path[-1]]} {path[1]}"


def _peak_w(run: Run, path: tuple[str, ...]) -> float | None:
    if path[0] != "sites" or path[-1] != "power_limit":
        return None
    return peak_facility_w(run, [n for n, name in enumerate(run.pools) if run.scenario.pools[name].site == path[1]])


def _watts(run: Run, number: int) -> str:
    """What a pool's estimated watts imply for its joules per token."""
    ledger, span = run.records.pools[number], facility_range_j(run, number)
    if span is None or not ledger.output_tokens:
        return ""
    low, high = (joules / ledger.output_tokens for joules in span)
    device = run.scenario.pools[ledger.name].profile.name
    return f"watts of {device} are estimates: {low:.3g} to {high:.3g} J per output token at the meter rather than one number"


def _of(run: Run, number: int, pool: Pool) -> str:
    device, engine = pool.profile, pool.engine.preset or "an engine of its own"
    compared = [entry for entry in device.validity if entry.engine == engine]
    if not compared:
        others = ", ".join(dict.fromkeys(entry.engine for entry in device.validity))
        only = f", only with {others}" if others else ""
        return f"OUTSIDE: {device.name} with {engine} was never compared with a serving run{only}{_range(run, number, pool)}"
    entry = max(compared, key=lambda entry: pool.network.name in entry.models)
    beyond = _beyond(run, number, pool, entry)
    where = f"{device.name} with {entry.engine}, median errors {entry.error}"
    return (
        f"OUTSIDE what was compared ({where}): {', '.join(beyond)}" if beyond else f"within what was compared: {where}"
    )


def _range(run: Run, number: int, pool: Pool) -> str:
    """What step constants that are all estimates imply for the mean time per token."""
    mine = run.tpot_s[run.requests["pool"] == number]
    mine = mine[~np.isnan(mine)]
    guessed = all(fact.grade == "estimate" for fact in pool.profile.step.gemm.values())
    if not guessed or pool.profile.step.sustained is not None or not len(mine):
        return ""
    low, high = float(mine.mean()) / ESTIMATE_FACTOR, float(mine.mean()) * ESTIMATE_FACTOR
    return (
        f"; its step constants are estimates: {low * 1e3:.3g} to {high * 1e3:.3g} ms per token rather than one number"
    )


def _beyond(run: Run, number: int, pool: Pool, entry: Validity) -> list[str]:
    """In what a pool goes beyond the runs of an entry."""
    ledger = run.records.pools[number]
    longest = max((account.longest for account in run.records.accounts if account.pool == number), default=0)
    rows = ledger.output_tokens / max(ledger.iterations, 1)
    limit_w = pool.profile.power.limit.value
    least_w = min(power_caps_w(run, ledger.name) or [limit_w])
    found = {
        f"model {pool.network.name}": pool.network.name not in entry.models,
        f"{counted(pool.parallel.devices, 'device')} a replica (compared: {entry.devices})": pool.parallel.devices
        > entry.devices,
        f"{counted(round(rows), 'sequence')} a step (compared: {entry.sequences})": rows > entry.sequences,
        f"{longest:,} tokens (compared: {entry.context:,})": longest > entry.context,
        f"devices held to {least_w:,.0f} W (compared: down to {CAPS_COMPARED * limit_w:,.0f} W)": least_w
        < CAPS_COMPARED * limit_w,
    }
    return [what for what, is_beyond in found.items() if is_beyond]
