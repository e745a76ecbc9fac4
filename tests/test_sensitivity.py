"""explain: answers known by hand, the plain run as it is reported, one simulation for what one can show, and what is left out."""

import json
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from click.testing import CliRunner

from simfleet import Scenario, load, simulate
from simfleet.cli import cli
from simfleet.hardware.profile import MeasuredPower
from simfleet.sensitivity import Explained, Row, explain, simulations
from simfleet.sensitivity.edits import edited, faster, longer, multiplied, stretched
from simfleet.sensitivity.inputs import ANSWERS, RANGES, inputs
from simfleet.signals import Signal
from simfleet.streams import Streams
from simfleet.workload.lengths import Tokens

SITE = {"carbon_intensity": "360 g/kWh", "water": "1.8 L/kWh", "electricity_price": "0.36 $/kWh", "pue": 1.2}
STREAM = {
    "name": "talk",
    "model": "llama-3.1-8b",
    "arrival": {"rate": "4 /s"},
    "count": 60,
    "tokens": {"input": {"dist": "constant", "value": 500}, "output": {"dist": "constant", "value": 100}},
}
POOL = {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm"}


def scenario(pool: dict[str, Any] | None = None, stream: dict[str, Any] | None = None, **more: Any) -> Scenario:
    data: dict[str, Any] = {
        "name": "small",
        "workload": {"streams": [{**STREAM, **(stream or {})}]},
        "sites": {"here": SITE},
        "pools": {"chat": {**POOL, **(pool or {})}},
    }
    return load({**data, **more})


def row(found: Explained, name: str) -> Row:
    (only,) = [row for row in found.rows if row.name == name]
    return only


def names(spec: Scenario, what: str) -> set[str]:
    return {item.name for item in inputs(spec, what)[0]}


# -- by hand --------------------------------------------------------------------------------------------------------------


def test_rent_moves_the_cost_of_a_rented_pool_by_as_much() -> None:
    found = row(explain(scenario({"cost": {"kind": "rent", "price": "$2/h"}}), "cost"), "nvidia-h100-sxm: rent")
    plain = explain(scenario({"cost": {"kind": "rent", "price": "$2/h"}}), "cost").answer
    assert (found.value, found.low, found.high, found.origin) == (2.0, 1.4, 2.6, "price")
    assert found.answer_low == pytest.approx(0.7 * plain, rel=1e-12)
    assert found.answer_high == pytest.approx(1.3 * plain, rel=1e-12)
    assert found.swing == pytest.approx(0.6, rel=1e-12)


def test_the_price_of_electricity_moves_the_metered_part_of_an_owners_cost() -> None:
    spec = scenario({"cost": {"kind": "own"}})
    found = explain(spec, "cost")
    money = simulate(spec, requests=False).summary["cost"]
    price = row(found, "here: electricity price")
    assert price.value == pytest.approx(1e-7)  # 0.36 $/kWh in $/J
    assert price.swing == pytest.approx(0.6 * money["lines_usd"]["electricity"] / money["usd_total"], rel=1e-9)
    device = row(found, "nvidia-h100-sxm: device price")
    hourly = 25_000 * 0.26379748 * 1.125 / 8760 + 25_000 * 1.125 * 0.05 / 8760  # its part of network and upkeep too
    share = hourly * money["usd_total"] / sum(money["lines_usd"].values())
    hours = simulate(spec, requests=False).run.records.duration_s / 3600
    assert device.swing == pytest.approx(0.6 * share * hours / money["usd_total"], rel=1e-6)


def without_other_joules(spec: Scenario) -> Scenario:
    """Devices that draw busy watts while their kernels run, and nothing else; hosts that take no time."""
    power = ("pools", "chat", "profile", "power")
    none = [((*power, field, "value"), 0.0) for field in ("idle", "gap", "per_byte", "per_flop", "per_activation")]
    host = ("host", "per_sequence", "eager_layer", "eager_narrow", "eager_collective")
    return edited(spec, [*none, *((("pools", "chat", "engine", field), 0.0) for field in host)])


@pytest.mark.parametrize("times", [0.9, 1.1])
def test_busy_watts_against_a_hand_computation(times: float) -> None:
    """PUE * (host watts of an eighth of a server + factor * watts * busy seconds) / tokens."""
    spec = without_other_joules(scenario())
    ledger = simulate(spec, requests=False).run.records.pools[0]
    server, busy_w = spec.pools["chat"].profile.server, spec.pools["chat"].profile.power.busy.value
    assert ledger.accelerator_j == pytest.approx(busy_w * ledger.busy_device_s, rel=1e-9)
    host_j = server.host.value / 8 * ledger.duration_s
    expected = 1.2 * (host_j + server.factor.value * times * busy_w * ledger.busy_device_s) / (60 * 100)
    found = row(explain(spec, "energy"), "nvidia-h100-sxm: power.busy")
    assert found.origin == "calibrated"
    assert (found.answer_high if times > 1 else found.answer_low) == pytest.approx(expected, rel=1e-9)


def test_twice_the_busy_watts_against_a_hand_computation() -> None:
    spec = without_other_joules(scenario())
    doubled = edited(spec, [(("pools", "chat", "profile", "power", "busy", "value"), 300.0)])
    once, twice = (
        simulate(s, requests=False).run.records.pools[0]
        for s in (edited(spec, [(("pools", "chat", "profile", "power", "busy", "value"), 150.0)]), doubled)
    )
    assert twice.accelerator_j == pytest.approx(2 * once.accelerator_j, rel=1e-12)


def test_pue_host_and_factor_against_a_hand_computation() -> None:
    spec = scenario()
    ledger, server = simulate(spec, requests=False).run.records.pools[0], spec.pools["chat"].profile.server
    found = explain(spec, "energy")
    pue = row(found, "here: PUE")
    assert (pue.low, pue.high) == pytest.approx((1.14, 1.26))  # a fifth more or less 30 % of it
    assert pue.answer_low == pytest.approx(found.answer * 1.14 / 1.2, rel=1e-12)
    host = row(found, "nvidia-h100-sxm: server.host")
    more_j = 1.2 * (host.high - host.value) / 8 * ledger.duration_s
    assert host.answer_high - found.answer == pytest.approx(more_j / 6000, rel=1e-9)
    factor = row(found, "nvidia-h100-sxm: server.factor")
    assert factor.high - 1 == pytest.approx((server.factor.value - 1) * (1 + RANGES[server.factor.grade]))
    more_j = 1.2 * (factor.high - factor.value) * ledger.accelerator_j
    assert factor.answer_high - found.answer == pytest.approx(more_j / 6000, rel=1e-9)


# -- laws -----------------------------------------------------------------------------------------------------------------


TWO = {
    "sites": {"here": SITE, "there": {"preset": "us-virginia", "overhead": {}}},
    "pools": {
        "chat": {**POOL, "site": "here", "cost": {"kind": "own"}},
        "more": {**POOL, "site": "there", "device": "nvidia-l40s", "cost": {"kind": "own", "years": 4}},
    },
}


@pytest.fixture(scope="module", params=ANSWERS)
def two(request: pytest.FixtureRequest) -> tuple[Scenario, Explained]:
    spec = scenario(**TWO)
    return spec, explain(spec, request.param, seed=3)


def test_the_plain_answer_is_the_reports(two: tuple[Scenario, Explained]) -> None:
    spec, found = two
    report = simulate(spec, seed=3, requests=False).summary
    energy = report["energy"]["joules_per_output_token"]["facility"]
    assert found.answer == {"energy": energy, "cost": report["cost"]["usd_per_mtok_total"]}[found.what]


def test_every_row_is_what_a_simulation_of_its_own_gives(two: tuple[Scenario, Explained]) -> None:
    """Whether simulated together with another device's, made from the plain run, or only paid otherwise."""
    spec, found = two
    for item in inputs(spec, found.what)[0]:
        mine = row(found, item.name)
        for way, answer in (("down", mine.answer_low), ("up", mine.answer_high)):
            report = simulate(edited(spec, item.edits[way]), seed=3, requests=False).summary
            energy = report["energy"]["joules_per_output_token"]["facility"]
            expected = {"energy": energy, "cost": report["cost"]["usd_per_mtok_total"]}[found.what]
            assert answer == pytest.approx(expected, rel=1e-9), (item.name, way)


def test_rows_are_sorted_by_swing_and_values_lie_between(two: tuple[Scenario, Explained]) -> None:
    _, found = two
    swings = [row.swing for row in found.rows]
    assert swings == sorted(swings, reverse=True)
    assert all(row.low <= row.value <= row.high for row in found.rows)
    assert len({row.name for row in found.rows}) == len(found.rows)


def test_devices_share_the_simulations_of_their_watts(two: tuple[Scenario, Explained]) -> None:
    spec, found = two
    items = inputs(spec, found.what)[0]
    joules = {item.constant for item in items if item.stage == "joules"}
    assert len([item for item in items if item.stage == "joules"]) == 2 * len(joules)
    timed = [item for item in items if item.stage == "times"]
    assert found.simulations == simulations(spec, found.what) == 1 + 2 * (len(timed) + len(joules))


def test_the_same_in_processes() -> None:
    spec, seen = scenario(), []
    with ProcessPoolExecutor(2) as executor:
        there = explain(spec, "cost", executor=executor, progress=lambda: seen.append(1))
    assert there == explain(spec, "cost")
    assert len(seen) == there.simulations


# -- what is moved --------------------------------------------------------------------------------------------------------


def test_grades_say_how_far() -> None:
    for item in inputs(scenario(), "energy")[0]:
        if item.origin in ("datasheet", "measured", "calibrated") and "factor" not in item.name:
            assert item.high == pytest.approx(item.value * (1 + RANGES[item.origin])), item.name


def test_step_times_that_are_estimates_move_by_half() -> None:
    spans = {
        item.origin: (item.low, item.high)
        for device in ("nvidia-h100-sxm", "google-tpu-v7")
        for item in inputs(scenario({"device": device}), "energy")[0]
        if item.name == f"{device}: step times"
    }
    assert spans == {"calibrated": (0.9, 1.1), "estimate": (pytest.approx(1 / 1.5), 1.5)}


@pytest.mark.parametrize("tensor_parallel", [1, 4])
def test_step_times_scale_the_time_of_a_step(tensor_parallel: int) -> None:
    spec = scenario({"tensor_parallel": tensor_parallel})
    (item,) = [i for i in inputs(spec, "energy")[0] if i.name.endswith("step times")]
    seconds = {way: edited(spec, item.edits[way]).pools["chat"].step_cost().decode(16)[0] for way in item.edits}
    plain = spec.pools["chat"].step_cost().decode(16)[0]
    assert seconds["down"] == pytest.approx(0.9 * plain, rel=0.01)
    assert seconds["up"] == pytest.approx(1.1 * plain, rel=0.01)


def test_rented_devices_have_no_watts_in_their_cost_unless_capped() -> None:
    found, notes = inputs(scenario(), "cost")
    assert not [item for item in found if "power." in item.name or "server." in item.name or "PUE" in item.name]
    assert "electricity is in the rent of chat" in notes[0]
    capped = names(scenario({"power_cap": "400 W"}), "cost")
    assert {"nvidia-h100-sxm: power.busy", "here: PUE"} <= capped
    assert "here: electricity price" not in capped
    assert all(item.stage in ("times", "rates") for item in inputs(scenario({"power_cap": "400 W"}), "cost")[0])


def test_what_changes_in_time_is_simulated() -> None:
    site = {
        **SITE,
        "electricity_price": {"steps": {"0 s": "0.1 $/kWh", "5 s": "0.5 $/kWh"}},
        "demand_charge": "15 $/kW-month",
    }
    spec = scenario({"cost": {"kind": "own"}}, sites={"here": site})
    found = {item.name: item for item in inputs(spec, "cost")[0]}
    assert {found[f"here: {name}"].stage for name in ("PUE", "electricity price", "demand charge")} == {"times"}
    lines = simulate(spec, requests=False).summary["cost"]
    swing = row(explain(spec, "cost"), "here: electricity price").swing
    assert swing == pytest.approx(0.6 * lines["lines_usd"]["electricity"] / lines["usd_total"], rel=1e-9)


def test_an_owner_is_asked_only_for_what_is_not_known() -> None:
    assert "own: server share" not in names(scenario({"cost": {"kind": "own"}}), "cost")  # the profile knows the server
    assert "own: spares" not in names(scenario({"cost": {"kind": "own"}}), "cost")
    given = names(scenario({"cost": {"kind": "own", "spares": 0.1, "network": "$900", "provisioned": "1 kW"}}), "cost")
    assert {"own: spares", "own: network", "own: provisioned"} <= given
    assert "own: network share" not in given


def test_pools_that_differ_are_told_apart_and_others_move_together() -> None:
    found = {item.name: item for item in inputs(scenario(**TWO), "cost")[0]}
    assert {"own: years (chat)", "own: years (more)", "own: rate"} <= set(found)
    assert found["own: rate"].pools == ("chat", "more")


def test_what_is_zero_is_not_moved_and_noted() -> None:
    spec = edited(
        scenario(), [(("pools", "chat", "profile", "power", "per_flop", "value"), 0.0), (("sites", "here", "pue"), 1.0)]
    )
    found, notes = inputs(spec, "energy")
    assert not {"nvidia-h100-sxm: power.per_flop", "here: PUE"} & {item.name for item in found}
    assert notes == ["nothing to move a share of: nvidia-h100-sxm: power.per_flop, here: PUE"]


def test_a_table_of_measured_watts_stands_in_place_of_the_equation() -> None:
    table = MeasuredPower(
        model="llama-3.1-8b", devices=1, watts={1: "200 W", 64: "400 W"}, source="mlenergy", grade="measured"
    )
    spec = edited(scenario(), [(("pools", "chat", "profile", "power", "measured"), (table,))])
    found = explain(spec, "energy")
    assert not {f"nvidia-h100-sxm: power.{name}" for name in ("busy", "per_byte", "per_flop")} & {
        r.name for r in found.rows
    }
    ledger, server = simulate(spec, requests=False).run.records.pools[0], spec.pools["chat"].profile.server
    more_j = 1.2 * server.factor.value * 0.05 * ledger.active_j
    watts = row(found, "nvidia-h100-sxm: measured watts of llama-3.1-8b")
    assert watts.answer_high - found.answer == pytest.approx(more_j / 6000, rel=1e-9)


def test_prefix_hits_only_where_there_are_any() -> None:
    assert "prefix hits" not in names(scenario(), "energy")
    found = explain(scenario(stream={"tokens": {**STREAM["tokens"], "shared_prefix": 256}}), "energy")  # type: ignore[dict-item]
    hits = row(found, "prefix hits")
    assert (hits.value, hits.unit) == (256.0, "tokens")
    assert hits.answer_high < hits.answer_low


@pytest.mark.parametrize(
    "length",
    [
        {"dist": "constant", "value": 500},
        {"dist": "uniform", "low": 100, "high": 900},
        {"dist": "lognormal", "mu": 5, "sigma": 0.5, "max": 2000},
        {"dist": "lognormal", "mean": 300, "std": 200},
        {"dist": "lognormal", "median": 300, "sigma": 0.8, "max": 1500},
        {"dist": "lognormal", "p50": 300, "p95": 900},
        {"dist": "empirical", "quantiles": {0: 100, 0.5: 300, 1: 800}},
        {"dist": "mixture", "parts": [{"weight": 1, "dist": "constant", "value": 100}, {"weight": 2, "dist": "constant", "value": 400}]},
    ],
)  # fmt: skip
def test_a_stretched_length_is_that_much_longer(length: dict[str, Any]) -> None:
    plain = Tokens.model_validate({"input": length, "output": length}).output
    for factor in (0.8, 1.2):
        assert stretched(plain, factor).mean == pytest.approx(factor * plain.mean, rel=0.005)


ARRIVALS: list[dict[str, Any]] = [
    {"arrival": {"rate": "40 /s"}, "count": None},
    {"arrival": {"envelope": {"kind": "stages", "stages": [{"duration": "50 s", "rate": "40 /s"}]}}, "count": None},
]


@pytest.mark.parametrize("stream", ARRIVALS)
def test_more_requests_per_second(stream: dict[str, Any]) -> None:
    (plain,) = scenario(stream=stream, horizon="50 s").workload.streams
    edit = faster(plain, 1.5)
    assert edit is not None
    spec = edited(scenario(stream=stream, horizon="50 s"), [(("workload", "streams", 0, *edit[0]), edit[1])])
    before, after = (len(list(s.requests(Streams(0), 50.0))) for s in (plain, spec.workload.streams[0]))
    assert after == pytest.approx(1.5 * before, rel=0.1)


def test_a_trace_can_be_longer_and_faster(tmp_path: Any) -> None:
    (tmp_path / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n0,10,100\n12,10,1\n")
    stream = {**STREAM, "trace": {"file": str(tmp_path / "trace.csv")}}
    for key in ("arrival", "tokens", "count"):
        del stream[key]
    spec = load({"name": "t", "workload": {"streams": [stream]}, "sites": {"here": SITE}, "pools": {"chat": POOL}})
    (plain,) = spec.workload.streams
    for edit, expected in (
        (longer(plain, 1.2), [(0.0, 10, 120), (12.0, 10, 1)]),
        (faster(plain, 1.2), [(0.0, 10, 100), (10.0, 10, 1)]),
    ):
        assert edit is not None
        varied = edited(spec, [(("workload", "streams", 0, *edit[0]), edit[1])]).workload.streams[0]
        assert list(varied.requests(Streams(0), 1e9)) == [pytest.approx(row) for row in expected]
    assert next(iter(plain.requests(Streams(0), 1e9)))[2] == 100


def test_users_of_a_closed_loop_and_a_burst() -> None:
    loop = scenario(stream={"arrival": {"kind": "closed_loop", "users": 10}}).workload.streams[0]
    assert faster(loop, 1.2) == (("arrival", "users"), 12)
    found, notes = inputs(scenario(stream={"arrival": {"kind": "burst"}}), "energy")
    assert "request rate" not in {item.name for item in found}
    assert "the rate of talk cannot be scaled" in notes[0]


def test_a_multiplied_signal() -> None:
    signal = multiplied(Signal.steps([0.0, 2.0], [1.0, 3.0], 4.0), 2.0)
    assert [signal.at(t) for t in (0.0, 2.0, 5.0, 6.0)] == [2.0, 6.0, 2.0, 6.0]


# -- outside --------------------------------------------------------------------------------------------------------------


def test_unknown_words_and_scenarios_are_one_clear_error() -> None:
    with pytest.raises(ValueError, match="got `enrgy`; did you mean `energy`"):
        explain(scenario(), "enrgy")
    for arguments, hint in ((("quickstart", "costs"), "`cost`"), (("quikstart", "cost"), "`quickstart`")):
        result = CliRunner().invoke(cli, ["explain", *arguments])
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert f"did you mean {hint}" in result.stderr


def test_no_tokens_are_an_error() -> None:
    with pytest.raises(ValueError, match="none came out"):
        explain(scenario(stream={"arrival": {"rate": "0 /s"}, "count": None}, horizon="1 s"), "energy")


SHORT = ["--set", "horizon=1 min", "--set", "warmup=5 s", "--workers", "1"]


def test_the_command_prints_a_table_and_says_how_many_simulations() -> None:
    result = CliRunner().invoke(cli, ["explain", "quickstart", "cost", *SHORT, "--top", "3"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "simulations" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("quickstart: $")
    assert "11 assumptions moved one at a time, 19 simulations, seed 0" in lines
    assert lines[3].split() == ["assumption", "value", "from", "low", "high", "at", "low", "at", "high", "swing"]
    assert "... and 8 more, none above" in result.stdout


def test_the_json_has_a_stable_form() -> None:
    result = CliRunner().invoke(cli, ["explain", "w1", "energy", "--set", "workload.streams.chat.count=40", "--top", "2", "--workers", "1", "--format", "json"], catch_exceptions=False)  # fmt: skip
    found = json.loads(result.stdout)
    assert set(found) == {
        "scenario", "what", "unit", "boundary", "seed", "simulations", "answer", "rows", "rows_left_out", "notes",
    }  # fmt: skip
    assert len(found["rows"]) == 2
    assert found["rows_left_out"] > 10
    assert set(found["rows"][0]) == {
        "name", "value", "unit", "origin", "source", "low", "high", "answer_low", "answer_high", "swing",
    }  # fmt: skip
