"""The invariants of docs/invariants.md, by number, on every shipped scenario."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from simfleet import Result, load, simulate
from simfleet.library import Library
from simfleet.records import Status
from simfleet.report.shares import BOUNDARIES, lines_usd, parts, total, whole

EXACT = 1e-9
SHIPPED = Library().names("scenarios")
SHORTER = {"w8": [("workload.streams.chat.count", 8000)], "w1": [("workload.streams.chat.count", 3000)]}
PRESSED = "quickstart under pressure"


@cache
def result(name: str) -> Result:
    """One run of each; the last has so little memory, so short queues and such impatient users that every fate occurs."""
    if name != PRESSED:
        return simulate(load(name, overrides=SHORTER.get(name, [])), seed=3)
    tight = {"engine": {"num_kv_blocks": 700, "max_sequences": 32, "queue_limit": 3}}
    changes = [("horizon", "4 min"), ("workload.streams.chat.timeout", "6 s"), ("drain", False)]
    changes += [(f"pools.{pool}.{key}", value) for pool in ("h100", "l40s") for key, value in tight.items()]
    return simulate(load("quickstart", overrides=changes), seed=3)


pytestmark = pytest.mark.parametrize("name", [*SHIPPED, PRESSED])


def test_i1_every_request_ends_once(name: str) -> None:
    run = result(name).run
    ends = np.bincount(run.requests["status"], minlength=5)
    assert len(run.requests) == sum(account.arrived for account in run.records.accounts) > 0
    for status in Status:
        assert ends[status] == sum(account.ended[status] for account in run.records.accounts)
    if name == PRESSED:
        assert all(ends[status] for status in Status)
    for account in run.records.accounts:
        mine = (run.requests["pool"] == account.pool) & (run.requests["stream"] == account.stream)
        assert mine.sum() == account.arrived


def test_i3_times_are_in_order(name: str) -> None:
    rows = result(name).run.requests
    done = rows[rows["status"] == Status.COMPLETED]
    assert np.all(done["queue_wait_s"] >= 0)
    assert np.all(done["queue_wait_s"] < done["ttft_s"])
    assert np.all((done["ttft_s"] < done["e2e_s"]) | (done["output_tokens"] == 1))
    for status in (Status.REJECTED, Status.FAILED):
        assert np.all(np.isnan(rows[rows["status"] == status]["queue_wait_s"]))


def test_i4_tokens_are_counted_once(name: str) -> None:
    run = result(name).run
    by_pool = np.zeros(len(run.pools))
    for account in run.records.accounts:
        by_pool[account.pool] += account.output_tokens
    assert by_pool.tolist() == [pool.output_tokens for pool in run.records.pools]
    assert run.requests["output_tokens"].sum() == by_pool.sum()
    answered = run.requests[run.requests["output_tokens"] > 0]
    assert answered["input_tokens"].sum() == sum(account.input_tokens for account in run.records.accounts)


def test_i5_device_seconds_add_up(name: str) -> None:
    run = result(name).run
    for number, pool in enumerate(run.records.pools):
        mine = [account for account in run.records.accounts if account.pool == number]
        caused = sum(account.prefill_device_s + account.decode_device_s for account in mine)
        assert caused == pytest.approx(pool.busy_device_s, rel=EXACT)
        assert pool.busy_device_s <= pool.devices * pool.duration_s * (1 + EXACT)
    assert run.requests["device_s"].sum() == pytest.approx(
        sum(pool.busy_device_s for pool in run.records.pools), rel=EXACT
    )


def test_i6_joules_add_up(name: str) -> None:
    run = result(name).run
    for number, pool in enumerate(run.records.pools):
        mine = [account for account in run.records.accounts if account.pool == number]
        assert sum(account.prefill_j + account.decode_j for account in mine) == pytest.approx(pool.active_j, rel=EXACT)
    assert run.requests["energy_j"].sum() == pytest.approx(sum(pool.active_j for pool in run.records.pools), rel=EXACT)


def test_i7_boundaries_and_the_integral_of_power(name: str) -> None:
    run = result(name).run
    timeline = run.records.timeline.array()
    for number, pool in enumerate(run.records.pools):
        joules = [pool.active_j, pool.accelerator_j, pool.node_j, pool.facility_j]
        assert joules == sorted(joules)
        mine = timeline[timeline["pool"] == number]
        integral = float(np.sum(mine["accelerator_w"] * np.diff(mine["time_s"], prepend=0.0)))
        assert integral == pytest.approx(pool.accelerator_j, rel=EXACT)
        tokens = float(np.sum(mine["output_tok_s"] * np.diff(mine["time_s"], prepend=0.0)))
        assert tokens == pytest.approx(pool.output_tokens, abs=64 * run.scenario.pools[pool.name].replicas)


def test_i8_dollars_and_joules_have_one_total(name: str) -> None:
    outcome = result(name)
    run, summary = outcome.run, outcome.summary
    used = total(whole(run, number) for number in range(len(run.pools)))
    caused = total(share for account in run.records.accounts for share in parts(run, account))
    lines = sum(usd for number in range(len(run.pools)) for usd in lines_usd(run, number).values())
    assert caused.usd == pytest.approx(used.usd, rel=EXACT)
    assert lines == pytest.approx(used.usd, rel=EXACT)
    for boundary in BOUNDARIES:
        assert caused.joules(boundary) == pytest.approx(used.joules(boundary), rel=EXACT)
    for groups in ("pools", "classes", "models"):
        assert sum(group["cost"]["usd_total"] for group in summary[groups]) == pytest.approx(used.usd, rel=EXACT)
        facility = sum(group["energy"]["joules"]["facility"] for group in summary[groups])
        assert facility == pytest.approx(used.facility_j, rel=EXACT)
    money, tokens = (
        summary["cost"],
        [sum(getattr(a, key) for a in run.records.accounts) for key in ("input_tokens", "output_tokens")],
    )
    priced = (money["usd_per_mtok_input"] * tokens[0] + money["usd_per_mtok_output"] * tokens[1]) / 1e6
    assert priced == pytest.approx(used.usd, rel=EXACT)


def test_i9_shares_are_shares(name: str) -> None:
    for pool in result(name).run.records.pools:
        assert 0 <= pool.kv_mean <= pool.kv_peak <= 1
        assert 0 <= pool.busy_device_s / (pool.devices * pool.duration_s) <= 1 + EXACT


def test_i11_first_come_first_served(name: str) -> None:
    """In each replica, requests that were never preempted start in order of arrival at it."""
    rows = result(name).run.requests
    for pool in np.unique(rows["pool"]):
        for replica in np.unique(rows[rows["pool"] == pool]["replica"]):
            mine = rows[(rows["pool"] == pool) & (rows["replica"] == replica) & ~np.isnan(rows["queue_wait_s"])]
            assert np.all(np.diff(mine["arrival_s"] + mine["queue_wait_s"]) > -EXACT)


def test_i12_limits_that_are_never_reached_change_nothing(name: str) -> None:
    if name not in ("w1", "gpu-vs-asic"):
        pytest.skip("two scenarios are enough")
    pools = load(name).pools
    more = [
        (f"pools.{pool}.engine.{key}", value)
        for pool in pools
        for key, value in {"max_sequences": 2000, "queue_limit": 10**6}.items()
    ]
    other = simulate(load(name, overrides=[*SHORTER.get(name, []), *more]), seed=3)
    assert np.array_equal(other.run.requests, result(name).run.requests, equal_nan=False) or np.all(
        other.run.requests.tobytes() == result(name).run.requests.tobytes()
    )


def test_scenario_is_listed_with_the_schema_header(name: str) -> None:
    if name == PRESSED:
        pytest.skip("not a file")
    path: Path = Library().path("scenarios", name)
    assert path.read_text().startswith("# yaml-language-server: $schema=scenario.schema.json\n")
