"""From rows to numbers: latency, attainment, throughput, energy and cost, as docs/metrics.md defines them."""

from collections.abc import Sequence
from hashlib import sha256
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simfleet.records import Account, Status
from simfleet.report.assumptions import assumptions, inputs
from simfleet.report.cost import cost, energy, over, peak_facility_w, waterfall
from simfleet.report.shares import caused, utilisation, whole
from simfleet.report.validity import facility_range_j, power_caps_w, power_limits, validity
from simfleet.run import NO_CLASS, Run
from simfleet.spec import Spec

SCHEMA_VERSION = 1
SAMPLES = {0.5: 20, 0.9: 100, 0.95: 200, 0.99: 2000}
"""Percentile -> fewest samples for which it is given."""
REGIME_SAMPLES = 8
"""Fewer requests than this show no trend: the regime is `stable`."""

REGIMES = ("stable", "backlogged", "overloaded", "nothing served")
"""What `regime` says, from best to worst."""
GROUPS = {"class": "classes", "pool": "pools", "model": "models", "tenant": "tenants"}
"""Kind of group -> list of the report with an entry for each."""
NO_TENANT = "(no tenant)"

Array = NDArray[np.float64]
Json = dict[str, Any]
FORMULAS = {
    "queue_wait_s": "first scheduled step - arrival",
    "ttft_s": "first output token at the user - arrival (network, queue, steps, front end)",
    "tpot_s": "(e2e_s - ttft_s) / (output tokens - 1); undefined for one token",
    "itl_s": "gaps between consecutive tokens, pooled over all requests, in buckets 0.5 % wide",
    "e2e_s": "last token at the user - arrival",
    "percentiles": "linear interpolation; p50 needs 20 samples, p90 100, p95 200, p99 2000, else null",
    "attainment": "requests that met every target / all that arrived after the warm-up, those in flight left out",
    "joules_per_output_token": "all joules within the boundary / output tokens",
    "joules_per_input_token": "all joules within the boundary / input tokens; not to be added to the former",
    "prefill_joules_per_input_token": "joules caused by prompts / input tokens; with the next, the parts sum to the whole",
    "decode_joules_per_output_token": "joules caused by answers / output tokens",
    "provisioned_joules_per_output_token": "facility joules with every device at its power limit all the time / output tokens",
    "usd_per_mtok_input": "dollars by the device-seconds that prompts' new tokens caused / input tokens not cached * 1e6",
    "usd_per_mtok_cached_input": "dollars by the device-seconds of attention to tokens found in the prefix cache / these tokens * 1e6",
    "usd_per_mtok_output": "dollars by the device-seconds that answers caused / output tokens * 1e6",
    "usd_per_mtok_total": "all dollars / (input + output tokens) * 1e6",
    "electricity_share": "facility joules at the site's price / all dollars; of rent, what is in it for electricity",
    "spent_usd": "dollars by device time: with work for prompts, with work for answers, without work; they sum to usd_total",
}


def summarise(run: Run) -> Json:
    """The content of report.json: plain data, null for what is undefined."""
    everything = np.ones(len(run.requests), dtype=bool)
    accounts, pools = run.records.accounts, range(len(run.pools))
    used = [whole(run, number) for number in pools]
    found: Json = _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "simfleet_version": run.version,
            "scenario": {
                "name": run.scenario.name, "description": run.scenario.description, "sha256": _hash(run.scenario),
                "horizon_s": run.scenario.horizon, "warmup_s": run.scenario.warmup, "inputs": inputs(run.scenario),
            },
            "seed": run.seed,
            "duration_s": run.records.duration_s,
            "regime": regime(run),
            "requests": requests(accounts),
            "latency": latency(run, everything) | {"itl_s": _sketch(run)},
            "attainment": attainment(run)["all"],
            "goodput": goodput(run, everything),
            "throughput": throughput(run, pools),
            "energy": energy(run, used, accounts) | {"peak_facility_w": peak_facility_w(run, pools)},
            "power_limits": power_limits(run),
            "cost": cost(run, used, accounts) | {"lines_usd": waterfall(run, pools)},
            "pools": [_pool(run, number) for number in pools],
            "classes": [_class(run, name) for name in run.classes],
            "models": [_model(run, name) for name in dict.fromkeys(s.model.name for s in run.scenario.workload.streams)],
            **_tenants(run),
            "validity": validity(run),
            "assumptions": assumptions(run),
            "formulas": FORMULAS,
        }
    )  # fmt: skip
    return found


# -- latency and service level --------------------------------------------------------------------------------------------


def statistics(values: Array) -> Json:
    """Mean, percentiles (None below SAMPLES) and number of finite values."""
    values = values[np.isfinite(values)]
    found: Json = {"mean": float(values.mean()) if len(values) else None}
    for q, least in SAMPLES.items():
        found[f"p{q * 100:.0f}"] = float(np.quantile(values, q)) if len(values) >= least else None
    return found | {"n": len(values)}


def latency(run: Run, chosen: NDArray[np.bool_]) -> Json:
    """Statistics of the chosen requests that arrived after the warm-up."""
    chosen = chosen & run.measured
    rows = run.requests[chosen]
    columns = {name: rows[name] for name in ("ttft_s", "e2e_s", "queue_wait_s")}
    return {name: statistics(values) for name, values in (columns | {"tpot_s": run.tpot_s[chosen]}).items()}


def _sketch(run: Run) -> Json:
    itl = run.records.itl
    found: Json = {f"p{q * 100:.0f}": itl.quantile(q) if itl.count >= least else None for q, least in SAMPLES.items()}
    return {"mean": itl.mean, **found, "n": round(itl.count)}


def attainment(run: Run) -> dict[str, Json]:
    """Per class and for `all` that have one: the share that met every target, and each one; `binds` is the target met least.

    Of those that arrived after the warm-up; the ones still in flight are not judged but counted as `censored`.
    """
    met = targets_met(run)
    chosen = {name: run.in_class(name) for name in run.classes} | {"all": ~run.in_class(NO_CLASS)}
    censored = run.requests["status"] == Status.IN_FLIGHT
    return {
        name: _attained(met, run.measured & mine & ~censored)
        | {"censored": int((run.measured & mine & censored).sum())}
        for name, mine in chosen.items()
    }


def targets_met(run: Run) -> dict[str, NDArray[np.bool_]]:
    """For every request whether it came to its end (`completion`), kept `ttft`, `tpot`, `e2e` of its class, and `all` of them.

    Who did not complete missed everything; a target not given is kept by completing.
    """
    completed = run.requests["status"] == Status.COMPLETED
    values = {"ttft": run.requests["ttft_s"], "tpot": run.tpot_s, "e2e": run.requests["e2e_s"]}
    met = {name: completed.copy() for name in values}
    for name, spec in run.scenario.workload.classes.items():
        chosen = run.in_class(name)
        for target, column in values.items():
            limit = getattr(spec, target)
            if limit is not None:
                met[target] &= ~chosen | ~(column > limit)
    return met | {"completion": completed, "all": met["ttft"] & met["tpot"] & met["e2e"]}


def _attained(met: dict[str, NDArray[np.bool_]], judged: NDArray[np.bool_]) -> Json:
    """Shares of the judged; what binds is the target kept least, or `completion` where no target was missed by who completed."""
    n = int(judged.sum())
    shares = {name: over(float(met[name][judged].sum()), n) for name in ("all", "completion", "ttft", "tpot", "e2e")}
    kept = {name: share for name, share in shares.items() if share is not None and name != "all"}
    least = min(kept, key=lambda name: kept[name], default=None)
    return {"overall": shares.pop("all"), **shares, "binds": least if least and kept[least] < 1 else None, "n": n}


def goodput(run: Run, chosen: NDArray[np.bool_]) -> Json:
    """Requests and output tokens per second of those that met their targets, over the time from the warm-up to the end."""
    seconds = run.records.duration_s - run.scenario.warmup
    good = targets_met(run)["all"] & chosen & run.measured
    tokens = float(run.requests["output_tokens"][good].sum())
    return {"goodput_rps": over(float(good.sum()), seconds), "goodput_tok_s": over(tokens, seconds)}


def requests(accounts: list[Account]) -> Json:
    """How many arrived, and how they ended; the five add up."""
    ends = {status.name.lower(): sum(account.ended[status] for account in accounts) for status in Status}
    return {"arrived": sum(ends.values()), **ends}


def regime(run: Run) -> str:
    """`nothing served`, `overloaded`, `backlogged` or `stable`, judged by what arrived after the warm-up (docs/metrics.md).

    Overloaded: more than 1 % were turned away or hung up, or over the second half of the arrivals fewer than 95 % as many requests
    ended as arrived while the mean queue wait of the last quarter is over twice the second quarter's and over 1 s. Backlogged:
    otherwise, when waiting takes more than a tenth of the mean time from arrival to last token. Who is still in flight has waited
    until the end, and who hung up for as long as the stream's timeout.
    """
    rows = run.requests[run.measured]
    if len(rows) and not (rows["status"] == Status.COMPLETED).any() and not (rows["status"] == Status.IN_FLIGHT).any():
        return "nothing served"
    turned_away = np.isin(rows["status"], (Status.REJECTED, Status.FAILED))
    if np.isin(rows["status"], (Status.REJECTED, Status.TIMED_OUT)).sum() > 0.01 * len(rows):
        return "overloaded"
    rows = rows[~turned_away]
    if len(rows) < REGIME_SAMPLES:
        return "stable"
    patience_s = np.array(
        [np.inf if stream.timeout is None else stream.timeout for stream in run.scenario.workload.streams]
    )
    so_far_s = np.minimum(run.records.duration_s - rows["arrival_s"], patience_s[rows["stream"]])
    waits = np.where(np.isnan(rows["queue_wait_s"]), so_far_s, rows["queue_wait_s"])
    stays = np.where(np.isnan(rows["e2e_s"]), so_far_s, rows["e2e_s"])
    second, fourth = (float(waits[len(rows) * i // 4 : len(rows) * (i + 1) // 4].mean()) for i in (1, 3))
    if _falls_behind(rows) and fourth > max(1.0, 2 * second):
        return "overloaded"
    return "backlogged" if waits.mean() > 0.1 * stays.mean() else "stable"


def _falls_behind(rows: NDArray[np.void]) -> bool:
    """Whether, while the second half of `rows` arrived, fewer than 95 % as many ended."""
    middle_s, last_s = rows["arrival_s"][len(rows) // 2], rows["arrival_s"][-1]
    ended_s = rows["arrival_s"] + np.nan_to_num(rows["e2e_s"], nan=np.inf)
    came = int((rows["arrival_s"] > middle_s).sum())
    ended = int(((ended_s > middle_s) & (ended_s <= last_s)).sum())
    return ended < 0.95 * came


# -- throughput ---------------------------------------------------------------------------------------------


def throughput(run: Run, pools: Sequence[int]) -> Json:
    """Tokens and requests per second over the whole run, also per provisioned device."""
    chosen = [account for account in run.records.accounts if account.pool in pools]
    seconds = run.records.duration_s
    devices = sum(run.records.pools[number].devices for number in pools)
    output = sum(run.records.pools[number].output_tokens for number in pools)
    rates = {"output": float(output), "input": float(sum(account.input_tokens for account in chosen))}
    rates["total"] = rates["output"] + rates["input"]
    found: Json = {f"{name}_tok_s": over(tokens, seconds) for name, tokens in rates.items()}
    found |= {f"{name}_tok_s_per_device": over(tokens, seconds * devices) for name, tokens in rates.items()}
    cached = sum(account.cached_tokens for account in chosen)
    found["cached_input_share"] = over(cached, rates["input"])
    return found | {"requests_per_s": over(sum(account.completed for account in chosen), seconds)}


# -- groups ---------------------------------------------------------------------------------------------------------------


def _pool(run: Run, number: int) -> Json:
    ledger = run.records.pools[number]
    accounts = [account for account in run.records.accounts if account.pool == number]
    pool = run.scenario.pools[ledger.name]
    return {
        "name": ledger.name, "site": pool.site, "model": pool.network.name, "device": pool.profile.name,
        "profile_sha256": _hash(pool.profile), "replicas": ledger.replicas, "devices": ledger.devices,
        "tensor_parallel": pool.tensor_parallel, "precision": pool.precision._asdict(), "binds": ledger.binds,
        "utilisation": utilisation(ledger), "requests": requests(accounts), "throughput": throughput(run, [number]),
        "kv": {
            "blocks_per_replica": ledger.kv_blocks, "occupancy_mean": ledger.kv_mean, "occupancy_peak": ledger.kv_peak,
            "preemptions": ledger.preemptions, "recomputed_tokens": sum(account.recomputed_tokens for account in accounts),
            "steps_short_of_blocks": ledger.kv_stalls, "steps_short_of_seats": ledger.seat_stalls,
        },
        "waiting_peak_per_replica": ledger.waiting_peak, "iterations": ledger.iterations,
        "device_power_cap_w": power_caps_w(run, ledger.name),
        "energy": energy(run, [whole(run, number)], accounts)
        | {"peak_facility_w": peak_facility_w(run, [number]), "facility_range_j": facility_range_j(run, number)},
        "cost": cost(run, [whole(run, number)], accounts) | {"lines_usd": waterfall(run, [number])},
    }  # fmt: skip


def _class(run: Run, name: str) -> Json:
    accounts = [account for account in run.records.accounts if run.class_of(account.stream) == name]
    spec = run.scenario.workload.classes.get(name)
    reached = attainment(run)[name]
    targets = {f"{key}_s": getattr(spec, key) for key in ("ttft", "tpot", "e2e")} if spec else {}
    judged = spec is not None and reached["overall"] is not None
    return {
        "name": name, "targets": targets | ({"target": spec.target} if spec else {}), "requests": requests(accounts),
        "latency": latency(run, run.in_class(name)), "attainment": reached,
        "kept": bool(reached["overall"] >= spec.target) if spec and judged else None,
        "goodput": goodput(run, run.in_class(name)), **_attributed(run, accounts),
    }  # fmt: skip


def _model(run: Run, name: str) -> Json:
    streams = run.scenario.workload.streams
    accounts = [account for account in run.records.accounts if streams[account.stream].model.name == name]
    return {"name": name, "requests": requests(accounts), **_attributed(run, accounts)}


def _tenants(run: Run) -> Json:
    """The group `tenants`, where a stream has one."""
    streams = run.scenario.workload.streams
    if all(stream.tenant is None for stream in streams):
        return {}
    groups: dict[str, list[Account]] = {stream.tenant or NO_TENANT: [] for stream in streams}
    for account in run.records.accounts:
        groups[streams[account.stream].tenant or NO_TENANT].append(account)
    return {
        "tenants": [
            {"name": name, "requests": requests(accounts), **_attributed(run, accounts)}
            for name, accounts in groups.items()
        ]
    }


def _attributed(run: Run, accounts: list[Account]) -> Json:
    """Energy and cost of what some streams caused."""
    used = list(caused(run, accounts))
    return {"energy": energy(run, used, accounts), "cost": cost(run, used, accounts)}


def _hash(spec: Spec) -> str:
    return sha256(spec.model_dump_json().encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Numbers and text only; None where a number is not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
