"""Whether a run stayed where the simulator was held against measurements."""

import numpy as np

from simfleet.hardware.profile import Validity
from simfleet.run import Run
from simfleet.scenario import Pool

ESTIMATE_FACTOR = 1.5
"""How far times may be off, either way, where a device's step constants are its class's (docs/hardware.md)."""


def validity(run: Run) -> list[str]:
    """One sentence per pool: how far off the same device and engine were, or in what the run goes beyond what was compared."""
    return [f"{name}: {_of(run, number, pool)}" for number, (name, pool) in enumerate(run.scenario.pools.items())]


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
    ledger, requests = run.records.pools[number], run.requests
    mine = requests["pool"] == number
    names = requests.dtype.names or ()
    prompts = requests["input_tokens"][mine] if "input_tokens" in names else np.zeros(int(mine.sum()))
    longest = int((prompts + requests["output_tokens"][mine]).max(initial=0))
    rows = ledger.output_tokens / max(ledger.iterations, 1)
    found = {
        f"model {pool.network.name}": pool.network.name not in entry.models,
        f"{pool.parallel.devices} devices a replica (compared: {entry.devices})": pool.parallel.devices > entry.devices,
        f"{rows:.0f} sequences a step (compared: {entry.sequences})": rows > entry.sequences,
        f"{longest:,} tokens (compared: {entry.context:,})": longest > entry.context,
    }
    return [what for what, is_beyond in found.items() if is_beyond]
