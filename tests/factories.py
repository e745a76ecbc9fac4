"""Runs made by hand: a real scenario, and records whose every number the test knows."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from simfleet.records import Account, PoolLedger, Records, Sketch, Status, request_table, timeline_table
from simfleet.run import Run
from simfleet.scenario import load

NAN = float("nan")
TOKENS = {"input": {"dist": "constant", "value": 100}, "output": {"dist": "constant", "value": 11}}
SITE = {"carbon_intensity": "360 g/kWh", "water": "1.8 L/kWh", "electricity_price": "0.36 $/kWh", "pue": 1.2}
SCENARIO: dict[str, Any] = {
    "name": "by-hand",
    "workload": {
        "classes": {"chat": {"ttft": "1 s", "tpot": "150 ms", "target": 0.6}, "batch": {"e2e": "10 s", "target": 0.9}},
        "streams": [
            {"name": name, "model": "llama-3.1-8b", "arrival": {"rate": "1 /s"}, "tokens": TOKENS, "count": 5, **group}
            for name, group in (("talk", {"class": "chat"}), ("night", {"class": "batch"}), ("free", {}))
        ],
    },
    "sites": {"here": SITE},
    "pools": {
        "rented": {
            "model": "llama-3.1-8b",
            "device": "nvidia-h100-sxm",
            "replicas": 2,
            "cost": {"kind": "rent", "price": "$3.6/h"},
        },
        "owned": {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm", "cost": {"kind": "own", "device": "$25000"}},
    },
}
TALK, NIGHT, FREE = range(3)


@dataclass
class Row:
    """One request, in the order of the table's columns; as it is, it takes 0.1 s per token after the first."""

    stream: int = TALK
    pool: int = 0
    status: Status = Status.COMPLETED
    output_tokens: int = 11
    arrival_s: float = 0.0
    queue_wait_s: float = 0.125
    ttft_s: float = 0.5
    e2e_s: float = 1.5
    replica: int = 0
    input_tokens: int = 100
    preemptions: int = 0
    device_s: float = 1.0
    energy_j: float = 2.0


def turned_away(status: Status, **given: Any) -> Row:
    """A request that never got a token."""
    unknown = {"output_tokens": 0, "queue_wait_s": NAN, "ttft_s": NAN, "e2e_s": NAN}
    return Row(**{"status": status, **unknown, **given})


def ledger(name: str, **given: Any) -> PoolLedger:
    """A pool's ledger, nothing in it but what is given."""
    zero: dict[str, Any] = {field.name: 0 for field in fields(PoolLedger)}
    return PoolLedger(**{**zero, "name": name, "replicas": 1, "devices": 1, "binds": "compute", **given})


def make_run(
    rows: Iterable[Row] = (),
    accounts: Iterable[Account] = (),
    pools: Iterable[PoolLedger] | None = None,
    overrides: Iterable[tuple[str, Any]] = (),
    duration_s: float = 1000.0,
    detail: bool = True,
    gaps_s: Iterable[float] = (),
) -> Run:
    """A run of SCENARIO with these records."""
    table, itl = request_table(detail), Sketch()
    for row in rows:
        table.append(astuple(row)[: 13 if detail else 8])
    gaps = np.array([*gaps_s])
    if len(gaps):
        itl.add(gaps, 0 * gaps, np.ones(len(gaps)), np.ones(len(gaps)))
    if pools is None:
        pools = [ledger("rented", devices=2, replicas=2, duration_s=duration_s), ledger("owned", duration_s=duration_s)]
    records = Records(table, timeline_table(), duration_s, list(accounts), list(pools), itl)
    return Run(load(SCENARIO, overrides), 7, records, "0.0.test")


def full_run(detail: bool = True) -> Run:
    """A run with something of everything: two thousand requests of three streams, all fates, a timeline of two pools."""
    fates = list(Status)
    rows = [Row(i % 3, i % 2, arrival_s=i / 4, ttft_s=0.2 + i / 4000, e2e_s=1.2 + i / 4000) for i in range(2000)]
    rows += [turned_away(fate, arrival_s=100.0 + fate) for fate in fates[1:]]
    rented = Account(0, TALK, [1000, 1, 1, 1, 1], 10**6, 500_000, 0, 250.0, 750.0, 400.0, 600.0)
    owned = Account(1, NIGHT, [1000, 0, 0, 0, 0], 10**6, 500_000, 0, 100.0, 100.0, 300.0, 200.0)
    joules = {"active_j": 1000.0, "accelerator_j": 1500.0, "node_j": 3000.0, "facility_j": 3600.0}
    half = {name: value / 2 for name, value in joules.items()}
    pools = [
        ledger(
            "rented", devices=2, replicas=2, duration_s=1000.0, busy_device_s=1000.0, output_tokens=500_000, **joules
        ),
        ledger("owned", duration_s=1000.0, busy_device_s=200.0, output_tokens=500_000, electricity_usd=3.0, **half),
    ]
    run = make_run(rows, [rented, owned], pools, detail=detail, gaps_s=[0.1] * 20_000)
    for i in range(5):
        for pool in (0, 1):
            run.records.timeline.append((250.0 * i, pool, i, 2 * i, 0.1 * i, 300.0 + i, 700.0 + i, 1000.0 * pool))
    return run
