"""From rows to numbers: latency, attainment, throughput, energy and cost, as docs/metrics.md defines them."""

from hashlib import sha256
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simfleet.hardware.profile import estimates
from simfleet.records import Account, Status
from simfleet.report.shares import BOUNDARIES, Share, caused, lines_usd, total, whole
from simfleet.run import NO_CLASS, Run
from simfleet.scenario import Pool
from simfleet.spec import Spec

SCHEMA_VERSION = 1
SAMPLES = {0.5: 20, 0.9: 100, 0.95: 200, 0.99: 2000}
"""Percentile -> fewest samples for which it is given."""

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
    "prefill_joules_per_input_token": "joules caused by prompts / input tokens; with the next, the parts sum to the whole",
    "decode_joules_per_output_token": "joules caused by answers / output tokens",
    "usd_per_mtok_input": "dollars by the device-seconds that prompts caused / input tokens * 1e6",
    "usd_per_mtok_output": "dollars by the device-seconds that answers caused / output tokens * 1e6",
    "usd_per_mtok_total": "all dollars / (input + output tokens) * 1e6",
}


def summarise(run: Run) -> Json:
    """The content of report.json: plain data, null for what is undefined."""
    everything = np.ones(len(run.requests), dtype=bool)
    accounts = run.records.accounts
    found: Json = _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "simfleet_version": run.version,
            "scenario": {
                "name": run.scenario.name, "description": run.scenario.description, "sha256": _hash(run.scenario),
                "horizon_s": run.scenario.horizon, "warmup_s": run.scenario.warmup,
            },
            "seed": run.seed,
            "duration_s": run.records.duration_s,
            "regime": regime(run),
            "requests": requests(accounts),
            "latency": latency(run, everything) | {"itl_s": _sketch(run)},
            "attainment": attainment(run)["all"],
            "goodput": goodput(run, everything),
            "throughput": throughput(run, range(len(run.pools))),
            "energy": energy(run, [whole(run, i) for i in range(len(run.pools))], accounts),
            "cost": cost(run, [whole(run, i) for i in range(len(run.pools))], accounts) | {"lines_usd": waterfall(run)},
            "pools": [_pool(run, number) for number in range(len(run.pools))],
            "classes": [_class(run, name) for name in run.classes],
            "models": [_model(run, name) for name in dict.fromkeys(s.model.name for s in run.scenario.workload.streams)],
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


def tpot_s(run: Run) -> Array:
    """Time per output token after the first of every request [s]; NaN for one-token answers."""
    rows = run.requests
    after = rows["output_tokens"].astype(float) - 1
    found: Array = np.divide(rows["e2e_s"] - rows["ttft_s"], after, out=np.full(len(rows), np.nan), where=after > 0)
    return found


def latency(run: Run, chosen: NDArray[np.bool_]) -> Json:
    """Statistics of the chosen requests that arrived after the warm-up."""
    chosen = chosen & run.measured
    rows = run.requests[chosen]
    columns = {name: rows[name] for name in ("ttft_s", "e2e_s", "queue_wait_s")}
    return {name: statistics(values) for name, values in (columns | {"tpot_s": tpot_s(run)[chosen]}).items()}


def _sketch(run: Run) -> Json:
    itl = run.records.itl
    found: Json = {"mean": itl.mean}
    return (
        found
        | {f"p{q * 100:.0f}": itl.quantile(q) if itl.count >= n else None for q, n in SAMPLES.items()}
        | {"n": itl.count}
    )


def attainment(run: Run) -> dict[str, Json]:
    """Per class and for `all`: the share that met every target, and each one; `binds` is the target met least."""
    met = targets_met(run)
    judged = run.measured & (run.requests["status"] != Status.IN_FLIGHT)
    found = {name: _attained(met, judged & run.in_class(name)) for name in run.classes}
    return found | {"all": _attained(met, judged & ~run.in_class(NO_CLASS))}


def targets_met(run: Run) -> dict[str, NDArray[np.bool_]]:
    """For every request whether it kept `ttft`, `tpot`, `e2e` of its class, and `all`; a target not given is kept by completing."""
    completed = run.requests["status"] == Status.COMPLETED
    values = {"ttft": run.requests["ttft_s"], "tpot": tpot_s(run), "e2e": run.requests["e2e_s"]}
    met = {name: completed.copy() for name in values}
    for name, spec in run.scenario.workload.classes.items():
        chosen = run.in_class(name)
        for target, column in values.items():
            limit = getattr(spec, target)
            if limit is not None:
                met[target] &= ~chosen | ~(column > limit)
    return met | {"all": met["ttft"] & met["tpot"] & met["e2e"]}


def _attained(met: dict[str, NDArray[np.bool_]], judged: NDArray[np.bool_]) -> Json:
    n = int(judged.sum())
    if not n:
        return {"overall": None, "ttft": None, "tpot": None, "e2e": None, "binds": None, "n": 0}
    shares = {name: float(met[name][judged].mean()) for name in ("ttft", "tpot", "e2e")}
    least = min(shares, key=lambda name: shares[name])
    return {
        "overall": float(met["all"][judged].mean()),
        **shares,
        "binds": least if shares[least] < 1 else None,
        "n": n,
    }


def goodput(run: Run, chosen: NDArray[np.bool_]) -> Json:
    """Requests and output tokens per second of those that met their targets, over the time from the warm-up to the end."""
    seconds = run.records.duration_s - run.scenario.warmup
    good = targets_met(run)["all"] & chosen & run.measured
    tokens = float(run.requests["output_tokens"][good].sum())
    return {"goodput_rps": _over(float(good.sum()), seconds), "goodput_tok_s": _over(tokens, seconds)}


def requests(accounts: list[Account]) -> Json:
    """How many arrived, and how they ended; the five add up."""
    ends = {status.name.lower(): sum(account.ended[status] for account in accounts) for status in Status}
    return {"arrived": sum(ends.values()), **ends}


def regime(run: Run) -> str:
    """`overloaded`, `backlogged` or `stable` (docs/metrics.md).

    Overloaded: more than 1 % were turned away or hung up, or over the second half of the arrivals fewer than 95 % as many requests
    ended as arrived while the mean queue wait of the last quarter is over twice the second quarter's and over 1 s. Backlogged:
    otherwise, when waiting takes more than a tenth of the mean end-to-end time.
    """
    rows = run.requests[run.measured]
    if len(rows) < 8:
        return "stable"
    lost = np.isin(rows["status"], (Status.REJECTED, Status.TIMED_OUT)).mean()
    middle, last = rows["arrival_s"][len(rows) // 2], rows["arrival_s"][-1]
    ended_s = rows["arrival_s"] + np.nan_to_num(rows["e2e_s"], nan=np.inf)
    came, ended = int((rows["arrival_s"] > middle).sum()), int(((ended_s > middle) & (ended_s <= last)).sum())
    waits = np.nan_to_num(rows["queue_wait_s"], nan=run.records.duration_s)
    second, fourth = (float(waits[len(rows) * i // 4 : len(rows) * (i + 1) // 4].mean()) for i in (1, 3))
    if lost > 0.01 or (ended < 0.95 * came and fourth > max(1.0, 2 * second)):
        return "overloaded"
    return "backlogged" if waits.mean() > 0.1 * np.nanmean(rows["e2e_s"]) else "stable"


# -- throughput, energy, cost ---------------------------------------------------------------------------------------------


def throughput(run: Run, pools: Any) -> Json:
    """Tokens and requests per second over the whole run, also per provisioned device."""
    chosen = [account for account in run.records.accounts if account.pool in pools]
    seconds = run.records.duration_s
    devices = sum(run.records.pools[number].devices for number in pools)
    output = sum(run.records.pools[number].output_tokens for number in pools)
    rates = {"output": float(output), "input": float(sum(account.input_tokens for account in chosen))}
    rates["total"] = rates["output"] + rates["input"]
    found: Json = {f"{name}_tok_s": _over(tokens, seconds) for name, tokens in rates.items()}
    found |= {f"{name}_tok_s_per_device": _over(tokens, seconds * devices) for name, tokens in rates.items()}
    return found | {"requests_per_s": _over(sum(account.completed for account in chosen), seconds)}


def energy(run: Run, used: list[Share], accounts: list[Account]) -> Json:
    """Joules at the four boundaries: totals, per token and request, and the parts of prompts and answers."""
    sums, counts = total(used), _counts(accounts)
    prompts, answers = caused(run, accounts)
    per: Json = {"joules": {scope: sums.joules(scope) for scope in BOUNDARIES}}
    for name, share, tokens in (
        ("joules_per_output_token", sums, counts["output"]),
        ("joules_per_total_token", sums, counts["input"] + counts["output"]),
        ("joules_per_request", sums, counts["completed"]),
        ("prefill_joules_per_input_token", prompts, counts["input"]),
        ("decode_joules_per_output_token", answers, counts["output"]),
    ):
        per[name] = {scope: _over(share.joules(scope), tokens) for scope in BOUNDARIES}
    return per | {
        "idle_j": sums.accelerator_j - sums.accelerator_active_j,
        "unattributed_facility_j": sums.facility_j - prompts.facility_j - answers.facility_j,
        "mean_accelerator_w": _over(sums.accelerator_j, run.records.duration_s),
        "mean_facility_w": _over(sums.facility_j, run.records.duration_s),
        "tok_s_per_watt": _over(counts["output"], sums.facility_j),
        "grams_co2e": sums.grams_co2e,
        "grams_co2e_per_mtok_output": _over(sums.grams_co2e * 1e6, counts["output"]),
        "litres_water": sums.litres_water,
        "litres_water_per_mtok_output": _over(sums.litres_water * 1e6, counts["output"]),
    }


def cost(run: Run, used: list[Share], accounts: list[Account]) -> Json:
    """Dollars: total, per million tokens in parts that sum to the whole, per request."""
    usd, counts = total(used).usd, _counts(accounts)
    prompts, answers = (share.usd for share in caused(run, accounts))
    return {
        "usd_total": usd,
        "usd_input": prompts,
        "usd_output": answers,
        "usd_unattributed": usd - prompts - answers,
        "usd_per_mtok_input": _over(prompts * 1e6, counts["input"]),
        "usd_per_mtok_output": _over(answers * 1e6, counts["output"]),
        "usd_per_mtok_total": _over(usd * 1e6, counts["input"] + counts["output"]),
        "usd_per_request": _over(usd, counts["completed"]),
        "tokens_per_usd": _over(counts["input"] + counts["output"], usd),
        "tok_s_per_usd_per_hour": _over(counts["output"] / 3600, usd),
    }


def waterfall(run: Run) -> Json:
    """Dollars line by line over all pools; beside them `idle`: the part of it all for time in which devices had no work."""
    lines: Json = {}
    idle = 0.0
    for number, ledger in enumerate(run.records.pools):
        for name, usd in lines_usd(run, number).items():
            lines[name] = lines.get(name, 0.0) + usd
            idle += usd * (1 - _utilisation(ledger)) if name != "electricity" else 0.0
    return lines | {"of_which_idle": idle}


def _counts(accounts: list[Account]) -> dict[str, int]:
    return {
        "input": sum(account.input_tokens for account in accounts),
        "output": sum(account.output_tokens for account in accounts),
        "completed": sum(account.completed for account in accounts),
    }


# -- groups ---------------------------------------------------------------------------------------------------------------


def _utilisation(ledger: Any) -> float:
    return float(_over(ledger.busy_device_s, ledger.devices * ledger.duration_s) or 0.0)


def _pool(run: Run, number: int) -> Json:
    ledger, accounts = (
        run.records.pools[number],
        [account for account in run.records.accounts if account.pool == number],
    )
    pool = run.scenario.pools[ledger.name]
    return {
        "name": ledger.name, "site": pool.site, "model": pool.network.name, "device": pool.profile.name,
        "profile_sha256": _hash(pool.profile), "replicas": ledger.replicas, "devices": ledger.devices,
        "tensor_parallel": pool.tensor_parallel, "precision": pool.precision._asdict(), "binds": ledger.binds,
        "utilisation": _utilisation(ledger), "requests": requests(accounts), "throughput": throughput(run, [number]),
        "kv": {
            "blocks_per_replica": ledger.kv_blocks, "occupancy_mean": ledger.kv_mean, "occupancy_peak": ledger.kv_peak,
            "preemptions": ledger.preemptions, "recomputed_tokens": sum(account.recomputed_tokens for account in accounts),
            "steps_short_of_blocks": ledger.kv_stalls, "steps_short_of_seats": ledger.seat_stalls,
        },
        "waiting_peak_per_replica": ledger.waiting_peak, "iterations": ledger.iterations,
        "energy": energy(run, [whole(run, number)], accounts),
        "cost": cost(run, [whole(run, number)], accounts) | {"lines_usd": lines_usd(run, number)},
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


def _attributed(run: Run, accounts: list[Account]) -> Json:
    """Energy and cost of what some streams caused."""
    used = list(caused(run, accounts))
    return {"energy": energy(run, used, accounts), "cost": cost(run, used, accounts)}


def assumptions(run: Run) -> list[str]:
    """Every number behind this report that is an estimate, once."""
    found: dict[str, None] = {}
    for name, pool in run.scenario.pools.items():
        device, site = pool.profile.name, run.scenario.sites[pool.site]
        found |= {f"{device}: {line}": None for line in estimates(pool.profile) if _used(line, pool)}
        found |= {f"{device}: {line}": None for line in pool.cost.estimates(pool.profile)}
        found |= {f"{pool.site}: {line}": None for line in site.estimates()}
        if pool.network.note is not None:
            found[f"{pool.network.name}: {pool.network.note}"] = None
        found[f"pool {name}: reserve, host, launch and front-end constants of its engine (docs/physics.md)"] = None
    return list(found)


def _used(line: str, pool: Pool) -> bool:
    """Whether an estimate of a profile plays a part in a pool: not those of other formats, or of parts that it has no use for."""
    formats = {*pool.precision, "bf16", "fp16"}
    unused = [f"step.gemm.{name}:" for name in pool.profile.step.gemm if name not in formats]
    unused += ["flops:", "scale_out", "device: embodied", "memory: sram", "memory: second_tier"]
    unused += ["own"] if pool.cost.kind == "rent" else []
    unused += ["step.all_reduce", "scale_up"] if pool.tensor_parallel == 1 else []
    return not line.startswith(tuple(unused))


def _hash(spec: Spec) -> str:
    return sha256(spec.model_dump_json().encode()).hexdigest()


def _over(amount: float, by: float) -> float | None:
    return amount / by if by else None


def _plain(value: Any) -> Any:
    """Numbers and text only; None where a number is not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
