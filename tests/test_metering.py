"""Joules, grams and dollars on random fleets with caps, sleep, weather, grid and prices that change: nothing is lost, nothing counted twice."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simfleet import Result, load, simulate
from simfleet.facility.site import MONTH_S
from simfleet.report.cost import waterfall
from simfleet.report.shares import per_request, total, whole

EXACT = 1e-9
HORIZON_S = 1800.0


@st.composite
def series(draw: st.DrawFn, unit: str, low: float, high: float) -> Any:
    """A constant, or up to six steps, repeated or held."""
    if draw(st.booleans()):
        return f"{draw(st.floats(low, high)):.6f} {unit}"
    times = sorted(draw(st.sets(st.integers(1, 2 * int(HORIZON_S)), max_size=5)))
    steps = {f"{t} s": f"{draw(st.floats(low, high)):.6f} {unit}" for t in [0, *times]}
    return {"steps": steps} | ({"repeat": f"{max([0, *times]) + 7} s"} if draw(st.booleans()) else {})


@st.composite
def sites(draw: st.DrawFn) -> dict[str, Any]:
    site: dict[str, Any] = {
        "carbon_intensity": draw(series("g/kWh", 0.0, 900.0)),
        "electricity_price": draw(series("$/kWh", 0.0, 0.5)),
        "water": "0.5 L/kWh",
        "demand_charge": draw(st.sampled_from(["0 $/kW-month", "15 $/kW-month"])),
    }
    if draw(st.booleans()):
        return site | {"pue": draw(st.floats(1.0, 2.0))}
    return site | {"overhead": {"wet_bulb_c": {"steps": {"0 s": 10.0, f"{draw(st.integers(1, 1700))} s": 29.0}}}}


@st.composite
def pools(draw: st.DrawFn, site: str) -> dict[str, Any]:
    pool: dict[str, Any] = {
        "site": site,
        "model": "llama-3.1-8b",
        "device": draw(st.sampled_from(["nvidia-h100-sxm", "nvidia-l40s"])),
        "replicas": draw(st.integers(1, 3)),
        "cost": draw(st.sampled_from([{"kind": "rent"}, {"kind": "own"}, {"kind": "own", "years": 3.0}])),
    }
    if draw(st.booleans()):
        pool["power_cap"] = draw(series("W", 180.0, 700.0))
    if draw(st.booleans()):
        pool["sleep"] = {"after": f"{draw(st.integers(1, 90))} s", "draw": "20 W", "wake": f"{draw(st.floats(0, 3))} s"}
    if draw(st.booleans()):
        pool["off"] = {"after": f"{draw(st.integers(91, 300))} s", "wake": "20 s"}
    return pool


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Two sites, two or three pools, two streams; sometimes hardly any work, sometimes too much, sometimes cut off at the horizon."""
    tokens = {
        "input": {"dist": "lognormal", "median": 300, "sigma": 1.0, "max": 4000},
        "output": {"dist": "uniform", "low": 1, "high": 120},
    }
    rates = [draw(st.sampled_from([0.0005, 0.02, 0.4])) for _ in range(2)]
    streams = [
        {"name": name, "model": "llama-3.1-8b", "arrival": {"rate": f"{rate} /s"}, "tokens": tokens}
        | ({"timeout": "3 s"} if draw(st.booleans()) else {})
        for name, rate in zip("ab", rates, strict=True)
    ]
    places = {"east": draw(sites()), "west": draw(sites())}
    groups = {f"p{i}": draw(pools(draw(st.sampled_from(["east", "west"])))) for i in range(draw(st.integers(2, 3)))}
    groups["p0"]["site"], groups["p1"]["site"] = "east", "west"
    return {
        "name": "random",
        "horizon": f"{HORIZON_S} s",
        "drain": draw(st.booleans()),
        "workload": {"streams": streams},
        "sites": places,
        "pools": groups,
    }


def integral(result: Result, column: str, pool: str) -> float:
    """Watts over the recorded timeline [J]."""
    rows = result.timeline[result.timeline["pool"] == pool]
    return float((rows[column] * np.diff(rows["time_s"], prepend=0.0)).sum())


@settings(max_examples=60, deadline=None)
@given(data=scenarios(), seed=st.integers(0, 1000))
def test_sum_over_requests_and_what_nobody_caused_is_the_integral(data: dict[str, Any], seed: int) -> None:
    """Joules at every boundary, dollars, grams and litres, for every pool and in all, to 1e-9."""
    result = simulate(load(data), seed)
    run = result.run
    requests = per_request(run)
    for number, ledger in enumerate(run.records.pools):
        used, mine = whole(run, number), run.requests["pool"] == number
        assert integral(result, "accelerator_w", ledger.name) == pytest.approx(ledger.accelerator_j, rel=EXACT)
        assert integral(result, "facility_w", ledger.name) == pytest.approx(ledger.facility_j, rel=EXACT)
        for column in (
            "accelerator_active_j",
            "accelerator_j",
            "node_j",
            "facility_j",
            "usd",
            "grams_co2e",
            "litres_water",
        ):
            caused = float(requests[column][mine].sum())
            whole_amount = getattr(used, column)
            nobodys = 0.0 if ledger.busy_device_s else whole_amount
            assert caused + nobodys == pytest.approx(whole_amount, rel=EXACT, abs=1e-12)
        assert ledger.active_j <= ledger.accelerator_j * (1 + EXACT)
        assert ledger.accelerator_j <= ledger.node_j <= ledger.facility_j * (1 + EXACT)
    everything = total(whole(run, number) for number in range(len(run.pools)))
    assert sum(waterfall(run, range(len(run.pools))).values()) == pytest.approx(everything.usd, rel=EXACT)
    summary = result.summary
    assert summary["energy"]["joules"]["facility"] == pytest.approx(everything.facility_j, rel=EXACT)


def fleet(**site: Any) -> dict[str, Any]:
    tokens = {"input": {"dist": "constant", "value": 500}, "output": {"dist": "constant", "value": 100}}
    stream = {"name": "a", "model": "llama-3.1-8b", "arrival": {"rate": "2 /s"}, "tokens": tokens}
    place = {"carbon_intensity": "100 g/kWh", "electricity_price": "0.1 $/kWh", "water": "0 L/kWh", "pue": 1.2} | site
    pool = {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm", "cost": {"kind": "own"}}
    return {
        "name": "f",
        "horizon": "40 min",
        "drain": False,
        "workload": {"streams": [stream]},
        "sites": {"here": place},
        "pools": {"chat": pool},
    }


def test_a_kilowatt_hour_costs_what_it_costs_at_its_hour() -> None:
    """Prices that are 1 in one quarter of an hour and 0 in the others meter that quarter; together they meter all."""
    quarters = [0, 900, 1800]
    metered = []
    for chosen in quarters:
        steps = {f"{t} s": f"{int(t == chosen)} $/kWh" for t in quarters}
        metered.append(simulate(load(fleet(electricity_price={"steps": steps}))).run.records.pools[0].electricity_usd)
    always = simulate(load(fleet(electricity_price="1 $/kWh"))).run.records.pools[0]
    assert always.electricity_usd == pytest.approx(always.facility_j / 3.6e6)
    assert sum(metered) == pytest.approx(always.electricity_usd, rel=EXACT)
    assert metered[0] == pytest.approx(metered[1], rel=0.2)
    assert metered[2] == pytest.approx(metered[1] * 2 / 3, rel=0.2)


def test_grams_follow_the_grid() -> None:
    dirty = simulate(load(fleet(carbon_intensity={"steps": {"0 s": "100 g/kWh", "20 min": "700 g/kWh"}})))
    ledger = dirty.run.records.pools[0]
    assert 3.8 * 100 < ledger.grams_co2e / (ledger.facility_j / 3.6e6) < 4.2 * 100


def test_the_highest_quarter_of_an_hour_is_charged_for_the_part_of_a_month() -> None:
    """Two whole quarters and an unfinished one; only whole ones count."""
    ledger = simulate(load(fleet(demand_charge="12 $/kW-month"))).run.records.pools[0]
    peaks = []
    for quarter in range(2):
        steps = {"0 s": "0 $/kWh"} if quarter else {"0 s": "1 $/kWh"}
        steps |= {f"{900 * quarter} s": "1 $/kWh", f"{900 * quarter + 900} s": "0 $/kWh"}
        one = simulate(load(fleet(electricity_price={"steps": steps}))).run.records.pools[0].electricity_usd
        peaks.append(one * 3.6e6 / 900)  # watts
    assert ledger.demand_usd == pytest.approx(max(peaks) / 1000 * 12 * 2400 / MONTH_S, rel=EXACT)
    assert simulate(load(fleet())).run.records.pools[0].demand_usd == 0.0


def test_asleep_and_off_by_hand() -> None:
    """One request at 0 and one at 1000 s: between them 1 s awake, idle to 100 s, asleep to 400 s, off, and 20 s to start again."""
    data = fleet()
    stream = data["workload"]["streams"][0]
    stream["arrival"], stream["count"] = {"rate": "0.001 /s", "micro": {"kind": "deterministic"}}, 2
    del data["horizon"], data["drain"]
    free = simulate(load(data))
    data["pools"]["chat"] |= {
        "sleep": {"after": "100 s", "draw": "20 W", "wake": "1 s"},
        "off": {"after": "400 s", "wake": "20 s"},
    }
    result = simulate(load(data))
    requests, ledger = result.requests, result.run.records.pools[0]
    power = result.run.scenario.pools["chat"].profile.power
    assert len(requests) == 2
    waited = requests["ttft_s"].tolist()[1] - free.requests["ttft_s"].tolist()[1]
    engine = result.run.scenario.pools["chat"].engine
    gap_s = float(np.diff(requests["arrival_s"])[0] - requests["e2e_s"][0] + engine.front_end)
    first_s = float(requests["arrival_s"][0])
    expected = _rest_j(power, first_s) + _rest_j(power, gap_s) + power.gap.value * (_wake(first_s) + _wake(gap_s))
    assert waited == pytest.approx(_wake(gap_s), abs=1e-9)
    assert ledger.accelerator_j - ledger.active_j == pytest.approx(expected, rel=EXACT)
    assert ledger.off_s == pytest.approx(max(first_s - 400, 0) + max(gap_s - 400, 0), rel=EXACT)
    server = result.run.scenario.pools["chat"].profile.server
    hosts_j = server.host.value / 8 * (ledger.duration_s - ledger.off_s)
    assert ledger.node_j == pytest.approx(hosts_j + server.factor.value * ledger.accelerator_j, rel=EXACT)


def test_a_pool_that_only_wakes_up_did_no_work() -> None:
    """Requests that give up while it starts leave it nothing: not even what rounding makes of its many rests."""
    data = fleet()
    stream, pool = data["workload"]["streams"][0], data["pools"]["chat"]
    stream["arrival"], stream["timeout"] = {"rate": "0.00371 /s"}, "3 s"
    data["pools"] = {name: {**pool, "replicas": 3, "off": {"after": "7 s", "wake": "20 s"}} for name in ("a", "b")}
    data["horizon"] = "5 h"
    result = simulate(load(data))
    assert result.summary["requests"]["timed_out"] == len(result.requests) > 40
    assert [ledger.busy_device_s for ledger in result.run.records.pools] == [0.0, 0.0]
    assert result.summary["energy"]["joules"]["facility"] > 0


def _wake(rest_s: float) -> float:
    return 20.0 if rest_s >= 400 else 1.0 if rest_s >= 100 else 0.0


def _rest_j(power: Any, rest_s: float) -> float:
    spans = [min(rest_s, 1.0), min(max(rest_s - 1, 0), 99.0), min(max(rest_s - 100, 0), 300.0)]
    return float(np.dot(spans, [power.gap.value, power.idle.value, 20.0]))
