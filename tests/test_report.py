"""Joules and dollars add up whoever shares them; text says what the numbers say; docs name what the report names."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet import simulate
from simfleet.facility.site import rated_w
from simfleet.hardware.step import attended
from simfleet.page import compare, tables
from simfleet.records import Account
from simfleet.report import summary
from simfleet.report.metrics import SAMPLES, summarise
from simfleet.report.shares import BOUNDARIES, lines_usd, parts, whole
from simfleet.run import Run
from simfleet.scenario import load
from tests.factories import NIGHT, SCENARIO, SITE, TALK, Row, full_run, ledger, make_run

EXACT = 1e-9
DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"

# -- by hand -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    """The pool `rented`: 2 devices x 1,000 s at $3.6/h = $2, half of it without work; a quarter of the work was prompts."""
    return summarise(full_run())


def test_dollars_by_hand(report):
    money = report["pools"][0]["cost"]
    assert {name: value for name, value in money.items() if not isinstance(value, dict)} == pytest.approx(
        {
            "usd_total": 2.0, "usd_input": 0.5, "usd_cached_input": 0.0, "usd_output": 1.5, "usd_unattributed": 0.0,
            "electricity_usd_metered": 0.0, "electricity_share": 0.0,
            "usd_per_mtok_input": 0.5,  # $0.5 for 1,000,000 tokens
            "usd_per_mtok_cached_input": None,
            "usd_per_mtok_output": 3.0,  # $1.5 for 500,000
            "usd_per_mtok_total": 2 / 1.5, "usd_per_request": 0.002, "tokens_per_usd": 750_000.0,
            "tok_s_per_usd_per_hour": 500.0 / 7.2,  # 500 tok/s for $7.2/h
        }
    )  # fmt: skip
    assert money["lines_usd"] == pytest.approx({"rent": 2.0})
    assert money["spent_usd"] == pytest.approx({"prompts": 0.25, "answers": 0.75, "idle": 1.0})


def test_joules_by_hand(report):
    """1,000 J of work, 400 of them for prompts, and 500 J idle, shared 1:3 as device-seconds; 3,600 J at the meter."""
    used = report["pools"][0]["energy"]
    assert used["joules"] == {"accelerator_active": 1000.0, "accelerator": 1500.0, "node": 3000.0, "facility": 3600.0}
    assert used["joules_per_output_token"]["facility"] == pytest.approx(3600 / 500_000)
    assert used["joules_per_input_token"]["facility"] == pytest.approx(3600 / 10**6)
    assert used["joules_per_total_token"]["node"] == pytest.approx(3000 / 1.5e6)
    assert used["joules_per_request"]["accelerator"] == pytest.approx(1.5)
    prompts = {scope: value * 1e6 for scope, value in used["prefill_joules_per_input_token"].items()}
    assert prompts == pytest.approx({"accelerator_active": 400, "accelerator": 525, "node": 1050, "facility": 1260})
    answers = {scope: value * 5e5 for scope, value in used["decode_joules_per_output_token"].items()}
    assert answers == pytest.approx({"accelerator_active": 600, "accelerator": 975, "node": 1950, "facility": 2340})
    assert (used["idle_j"], used["mean_accelerator_w"], used["mean_facility_w"]) == (500.0, 1.5, 3.6)
    assert used["tok_s_per_watt"] == pytest.approx(500 / 3.6)


def test_provisioned_joules_are_those_of_every_device_at_its_limit(report):
    """Two devices' share of a server at their limits for 1,000 s, at the PUE of 1.2, over 500,000 tokens; metered is 3,600 J."""
    used, profile = report["pools"][0]["energy"], make_run().scenario.pools["rented"].profile
    joules = rated_w(profile, 2) * 1000.0 * 1.2
    assert used["provisioned_joules_per_output_token"] == pytest.approx(joules / 500_000)


def test_provisioned_is_metered_where_everything_always_runs_at_its_limit():
    """Also where a part of the facility runs whatever the load."""
    run = make_run(overrides=[("sites.here", {**SITE, "pue": None, "overhead": {"fixed": 0.1, "mechanical": 0.2}})])
    site, profile = run.scenario.sites["here"], run.scenario.pools["rented"].profile
    rated_j = rated_w(profile, 2) * 10.0
    full = {"node_j": rated_j, "facility_j": site.facility_j(rated_j, rated_w(profile, 2), 10.0)}
    run.records.pools[0] = ledger("rented", devices=2, duration_s=10.0, **full)
    assert whole(run, 0).provisioned_j == pytest.approx(full["facility_j"])
    half = {"node_j": rated_j / 2, "facility_j": site.facility_j(rated_j / 2, rated_w(profile, 2), 10.0)}
    run.records.pools[0] = ledger("rented", devices=2, duration_s=10.0, **half)
    assert whole(run, 0).provisioned_j == pytest.approx(full["facility_j"])
    run.records.pools[0] = ledger("rented", devices=2)
    assert whole(run, 0).provisioned_j == 0.0  # it stood for no time


def test_carbon_and_water_per_request_and_million_tokens():
    accounts = [Account(0, TALK, [4, 0, 0, 0, 0], 100, 2000, prefill_device_s=1.0, decode_device_s=1.0, decode_j=1.0)]
    used = {"busy_device_s": 2.0, "active_j": 1.0, "accelerator_j": 2.0, "grams_co2e": 8.0, "litres_water": 2.0}
    found = summarise(make_run(accounts=accounts, pools=[ledger("rented", duration_s=9.0, **used), ledger("owned")]))
    energy = found["energy"]
    assert (energy["grams_co2e_per_request"], energy["litres_water_per_request"]) == (2.0, 0.5)
    assert (energy["grams_co2e_per_mtok_output"], energy["litres_water_per_mtok_output"]) == (4000.0, 1000.0)


def test_electricity_follows_joules_and_everything_else_time():
    """Prompts: 1/4 of the time and half of the active joules. Idle: 1/2 of the time and 1/3 of the joules."""
    account = Account(1, NIGHT, [1, 0, 0, 0, 0], 1000, 1000, prefill_device_s=25.0, decode_device_s=75.0)
    account.prefill_j = account.decode_j = 50.0
    owned = ledger(
        "owned", duration_s=200.0, busy_device_s=100.0, active_j=100.0, accelerator_j=150.0, electricity_usd=3.0
    )
    run = make_run(accounts=[account], pools=[ledger("rented"), owned])
    lines = lines_usd(run, 1)
    capital = sum(lines.values()) - 3.0
    money = summarise(run)["pools"][1]["cost"]
    assert set(lines) == {"devices", "servers", "network", "facility", "upkeep", "electricity"}
    assert money["usd_input"] == pytest.approx(capital / 4 + 3.0 * (50 + 50 / 4) / 150)
    assert money["spent_usd"]["prompts"] == pytest.approx(capital / 8 + 1.0)
    assert money["spent_usd"]["idle"] == pytest.approx(capital / 2 + 1.0)


def test_demand_follows_joules_and_is_paid_by_owners_only():
    """As above, with $6 for the highest quarter of an hour beside the $3 of electricity."""
    account = Account(1, NIGHT, [1, 0, 0, 0, 0], 1000, 1000, prefill_device_s=25.0, decode_device_s=75.0)
    account.prefill_j = account.decode_j = 50.0
    joules = {"active_j": 100.0, "accelerator_j": 150.0, "electricity_usd": 3.0, "demand_usd": 6.0}
    pools = [ledger("rented", **joules), ledger("owned", duration_s=200.0, busy_device_s=100.0, **joules)]
    free = make_run(accounts=[account], pools=pools)
    charged = make_run(accounts=[account], pools=pools, overrides=[("sites.here.demand_charge", "15 $/kW-month")])
    assert "demand" not in lines_usd(free, 1)
    assert lines_usd(charged, 0) == {"rent": 0.0}
    assert lines_usd(charged, 1) == lines_usd(free, 1) | {"demand": 6.0}
    before, after = (summarise(run)["pools"][1]["cost"] for run in (free, charged))
    assert after["usd_total"] - before["usd_total"] == pytest.approx(6.0)
    assert after["usd_input"] - before["usd_input"] == pytest.approx(6.0 * (50 + 50 / 4) / 150)
    assert after["spent_usd"]["idle"] - before["spent_usd"]["idle"] == pytest.approx(6.0 / 3)


def test_electricity_is_a_share_of_all_dollars_whoever_pays_it():
    """$3 of electricity: beside the devices of an owner, in the $2 of rent of the others."""
    used = {"duration_s": 1000.0, "electricity_usd": 3.0}
    run = make_run(pools=[ledger("rented", devices=2, **used), ledger("owned", **used)])
    rented, owned = (pool["cost"] for pool in summarise(run)["pools"])
    assert (rented["electricity_usd_metered"], rented["usd_total"]) == pytest.approx((3.0, 2.0))
    assert rented["electricity_share"] == pytest.approx(1.5)
    assert owned["lines_usd"]["electricity"] == owned["electricity_usd_metered"] == 3.0
    assert owned["electricity_share"] == pytest.approx(3.0 / owned["usd_total"])


def cached_run(cached):
    """Ten prompts of 2,000 tokens, so many of each found in the prefix cache; 100 device-seconds of prompts in 200, at $3.6/h."""
    account = Account(
        0, TALK, [10, 0, 0, 0, 0], 20_000, 1000, 0, 100.0, 100.0, 50.0, 50.0, prompts=10, cached_tokens=10 * cached
    )
    pools = [
        ledger("rented", devices=1, duration_s=200.0, busy_device_s=200.0, active_j=100.0, accelerator_j=100.0),
        ledger("owned"),
    ]
    return make_run(accounts=[account], pools=pools)


def test_cached_tokens_pay_for_the_attention_that_reads_them():
    """Of the mean prompt's step, what it takes longer for 1,600 tokens before its 400."""
    run = cached_run(1600)
    cost = run.scenario.pools["rented"].step_cost()
    alone_s, alone_j = cost.mixed(400, 1, 0, 0, 0, attended(0, 400), 400, 400, 0, 0, 0)
    whole_s, whole_j = cost.mixed(400, 1, 0, 0, 0, attended(1600, 400), 2000, 2000, 0, 0, 0)
    money = summarise(run)["cost"]
    assert money["usd_cached_input"] == pytest.approx(0.1 * (1 - alone_s / whole_s))
    assert money["usd_per_mtok_cached_input"] == pytest.approx(money["usd_cached_input"] * 1e6 / 16_000)
    assert money["usd_per_mtok_input"] == pytest.approx(money["usd_input"] * 1e6 / 4_000)
    assert 0 < money["usd_per_mtok_cached_input"] < 0.2 * money["usd_per_mtok_input"]
    assert money["usd_input"] + money["usd_cached_input"] == pytest.approx(0.1)
    assert parts(run, run.records.accounts[0]).cached.accelerator_active_j == pytest.approx(
        50 * (1 - alone_j / whole_j)
    )
    assert summarise(run)["throughput"]["cached_input_share"] == 0.8


def test_without_cached_tokens_they_have_no_price():
    money = summarise(cached_run(0))["cost"]
    assert (money["usd_cached_input"], money["usd_per_mtok_cached_input"]) == (0.0, None)
    assert money["usd_per_mtok_input"] == pytest.approx(0.1 * 1e6 / 20_000)


def test_a_run_counts_its_cached_tokens():
    """Of 100 tokens 40 are shared: two whole blocks of 16 are found in the cache, and prices of the three kinds sum to the whole."""
    prefix = [("workload.streams.talk.tokens.shared_prefix", 40), ("horizon", "1 min")]
    result = simulate(make_run(overrides=prefix).scenario, seed=1)
    accounts = result.run.records.accounts
    talk = [account for account in accounts if account.stream == TALK]
    assert sum(account.prompts for account in talk) == 5
    assert sum(account.cached_tokens for account in talk) == 5 * 32
    assert sum(account.cached_tokens for account in accounts) == 5 * 32
    money, rate = result.summary["cost"], result.summary["throughput"]
    assert rate["cached_input_share"] == pytest.approx(160 / 1500)
    counted = (("input", 1500 - 160), ("cached_input", 160), ("output", 165))
    priced = sum(money[f"usd_per_mtok_{kind}"] * tokens / 1e6 for kind, tokens in counted)
    assert priced + money["usd_unattributed"] == pytest.approx(money["usd_total"], rel=EXACT)


def test_tenants_are_a_group_where_a_stream_has_one():
    account = Account(0, TALK, [1, 0, 0, 0, 0], 100, 10, 0, 1.0, 1.0, 1.0, 1.0)
    pools = [ledger("rented", devices=1, duration_s=4.0, busy_device_s=2.0), ledger("owned")]
    assert "tenants" not in summarise(make_run(accounts=[account], pools=pools))
    named = [("workload.streams.talk.tenant", "acme"), ("workload.streams.night.tenant", "acme")]
    report = summarise(make_run(accounts=[account], pools=pools, overrides=named))
    assert [group["name"] for group in report["tenants"]] == ["acme", "(no tenant)"]
    assert report["tenants"][0]["requests"]["completed"] == 1
    assert report["tenants"][0]["cost"]["usd_total"] == pytest.approx(report["cost"]["usd_total"])
    assert report["tenants"][1]["cost"]["usd_total"] == 0.0


def test_a_pool_that_nobody_used_is_a_line_of_its_own():
    rented = ledger("rented", devices=2, duration_s=1000.0, accelerator_j=9.0, node_j=9.0, facility_j=9.0)
    report = summarise(make_run(pools=[rented, ledger("owned")]))
    money = report["cost"]
    assert (money["usd_total"], money["usd_unattributed"], money["spent_usd"]["idle"]) == pytest.approx((2.0, 2.0, 2.0))
    assert (money["usd_per_mtok_output"], money["usd_per_request"]) == (None, None)
    assert report["energy"]["unattributed_facility_j"] == 9.0
    assert report["energy"]["joules_per_output_token"]["facility"] is None


# -- conservation --------------------------------------------------------------------------------------------------------

EVERY_LINE = [
    ("workload.streams.talk.tenant", "acme"),
    ("sites.here.demand_charge", "15 $/kW-month"),
    ("pools.owned.cost.spares", 0.1),
]
LINES = {"rent", "devices", "servers", "network", "spares", "facility", "upkeep", "electricity", "demand"}
amounts = st.floats(0.001, 1e6)
tokens = st.integers(1, 10**9)


def draw_account(draw, pool, stream):
    """Any prompts, any part of their tokens from the prefix cache."""
    asked = draw(tokens)
    account = Account(
        pool, stream, [draw(tokens), 0, 0, 0, 0], asked, draw(tokens), 0, *(draw(amounts) for _ in "ssjj")
    )
    account.prompts, account.cached_tokens = draw(st.integers(1, 1000)), draw(st.integers(0, asked - 1))
    return account


@st.composite
def accounts_and_pools(draw):
    """Every stream in both pools, and ledgers that agree with them."""
    accounts, pools = [], []
    for pool, name in enumerate(("rented", "owned")):
        mine = [draw_account(draw, pool, stream) for stream in range(3)]
        busy_s = sum(account.prefill_device_s + account.decode_device_s for account in mine)
        active_j = sum(account.prefill_j + account.decode_j for account in mine)
        accelerator_j = active_j + draw(amounts)
        rest = {"facility_j": accelerator_j * 2, "grams_co2e": draw(amounts), "electricity_usd": draw(amounts)}
        rest["demand_usd"] = draw(amounts)
        times = {"devices": 2, "duration_s": busy_s / 2 + draw(amounts), "busy_device_s": busy_s}
        joules = {"active_j": active_j, "accelerator_j": accelerator_j, "node_j": accelerator_j + draw(amounts)}
        pools.append(ledger(name, **times, **joules, **rest))
        accounts += mine
    return accounts, pools


@given(accounts_and_pools())
def test_conservation(drawn):
    """Parts by token, classes, models, tenants, pools, and the lines of the waterfall: each sums to the one total."""
    accounts, pools = drawn
    report = summarise(make_run(accounts=accounts, pools=pools, overrides=EVERY_LINE))
    money, joules = report["cost"], report["energy"]["joules"]
    asked = sum(account.input_tokens for account in accounts)
    cached = sum(account.cached_tokens for account in accounts)
    answered = sum(account.output_tokens for account in accounts)
    usd = pytest.approx(money["usd_total"], rel=EXACT)
    priced = money["usd_per_mtok_input"] * (asked - cached) + money["usd_per_mtok_output"] * answered
    assert (priced + (money["usd_per_mtok_cached_input"] or 0.0) * cached) / 1e6 == usd
    assert set(money["lines_usd"]) == LINES
    assert sum(money["lines_usd"].values()) == usd
    assert money["electricity_usd_metered"] == pytest.approx(sum(pool.electricity_usd for pool in pools), rel=EXACT)
    assert sum(money["spent_usd"].values()) == usd
    for scope in BOUNDARIES:
        per_input = report["energy"]["prefill_joules_per_input_token"][scope]
        per_output = report["energy"]["decode_joules_per_output_token"][scope]
        assert per_input * asked + per_output * answered == pytest.approx(joules[scope], rel=EXACT)
    for groups in ("pools", "classes", "models", "tenants"):
        assert sum(group["cost"]["electricity_usd_metered"] for group in report[groups]) == pytest.approx(
            money["electricity_usd_metered"], rel=EXACT
        )
        assert sum(group["cost"]["usd_total"] for group in report[groups]) == usd
        for scope in BOUNDARIES:
            summed = sum(group["energy"]["joules"][scope] for group in report[groups])
            assert summed == pytest.approx(joules[scope], rel=EXACT)
        grams = sum(group["energy"]["grams_co2e"] for group in report[groups])
        assert grams == pytest.approx(report["energy"]["grams_co2e"], rel=EXACT)
        for part in ("prompts", "answers", "idle"):
            spent = sum(group["cost"]["spent_usd"][part] for group in report[groups])
            assert spent == pytest.approx(money["spent_usd"][part], rel=EXACT, abs=EXACT * money["usd_total"])


# -- assumptions ---------------------------------------------------------------------------------------------------------


def test_assumptions_are_those_of_what_was_used():
    lines = summarise(make_run())["assumptions"]
    assert len(lines) == len(set(lines)) > 0
    assert not [line for line in lines if "rent: $" in line]  # the price was given
    assert [line for line in lines if line.startswith("nvidia-h100-sxm: own: upkeep")]
    assert "nvidia-h100-sxm: own: no spares is an assumption" in lines
    assert not [line for line in lines if ": step" in line]  # bf16 on one device: all of it is fitted
    halves = [(f"pools.{pool}.precision", "fp16") for pool in ("rented", "owned")]
    lines = summarise(make_run(overrides=halves))["assumptions"]
    assert [line.split(" estimated")[0] for line in lines if ": step" in line] == [
        f"nvidia-h100-sxm: step.{name}: fp16" for name in ("gemm", "decode_attention", "prefill_attention")
    ]
    offered = summarise(make_run(overrides=[("pools.rented.cost", {"kind": "rent"})]))["assumptions"]
    assert [line for line in offered if line.startswith("nvidia-h100-sxm: rent: $")]


def test_rows_left_out_of_a_trace_are_an_assumption(tmp_path):
    (tmp_path / "asked.csv").write_text("arrival_s,input_tokens,output_tokens\n0,10,5\n1,oops,5\n2,10,5\n")
    trace = {"file": str(tmp_path / "asked.csv"), "format": "csv", "on_bad_row": "drop"}
    streams = [{"name": "talk", "model": "llama-3.1-8b", "class": "chat", "trace": trace}]
    lines = summarise(make_run(overrides=[("workload.streams", streams)]))["assumptions"]
    assert "stream talk: 1 bad row of asked.csv left out" in lines


# -- text ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"), (0.0, "0"), (1234567.0, "1,234,567"), (100.0, "100"), (12.34, "12.3"), (1.0, "1.00"), (0.0123456, "0.0123"),
        (0.00012, "1.20e-04"), (-12.34, "-12.3"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert summary.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "n/a"), (0.0, "0 s"), (0.0123, "12.3 ms"), (1.5, "1.50 s"), (7200.0, "7,200 s")]
)
def test_times_are_in_the_unit_that_reads_best(value, text):
    assert summary.seconds(value) == text


def test_one_screen(report):
    lines = summary.text(report).splitlines()
    assert len(lines) <= 60  # with what the run's validity is
    assert max(map(len, lines)) <= 110
    screen = "\n".join(lines)
    assert "regime: backlogged | 1,000 s simulated, seed 7\n" in screen
    for needed in ("chat", "batch", "(no class)", "60 % of: TTFT 1 s, TPOT 150 ms", "90 % of: E2E 10 s"):
        assert needed in screen
    assert "rented is held back by compute" in screen
    assert re.search(r"facility +0\.00150 ", screen)  # 5,400 J
    assert "2,004 requests: 2,000 completed, 1 rejected, 1 failed, 1 timed out, 1 in flight\n" in screen


def test_the_energy_heading_has_the_totals(report):
    """5,400 J at the meter over 1,000 s; grams and litres in the unit that people write."""
    told = {
        **report,
        "energy": {**report["energy"], "grams_co2e": 1500.0, "litres_water": 2345.0, "peak_facility_w": 1410.0},
    }
    (table,) = [table for table in summary.tables(told) if table.heading.startswith("Energy")]
    assert table.heading.startswith("Energy (5.40 W at the meter, peak 1.41 kW; 1.50 kg CO2e and 2.35 m3, ")
    none = {**told, "energy": {**told["energy"], "grams_co2e": 2.5e6, "litres_water": 0.0}}
    assert "; 2.50 t CO2e and 0 L, " in summary.tables(none)[3].heading


def test_every_power_limit_leaves_a_trace(report):
    """Also one far above what is drawn: a site's with its peak, all others with what they leave a device."""
    assert report["power_limits"] == []
    run = full_run()
    limits = {
        "sites.here.power_limit": "60 kW",
        "sites.here.rack": {"limit": "40 kW", "servers": 4},
        "pools.owned.power_limit": "{steps: {0 s: 5 kW, 500 s: 4 kW}}",
        "pools.rented.power_cap": "900 W",
    }
    told = summarise(Run(load(SCENARIO, limits), run.seed, run.records, run.version))
    found = {limit["name"]: limit for limit in told["power_limits"]}
    assert [*found] == ["each device of rented", "each rack at here", "site here", "pool owned"]
    assert found["site here"]["peak_w"] == told["energy"]["peak_facility_w"] == 2 * 704
    assert found["pool owned"]["limit_w"] == [4000, 5000]
    assert found["each device of rented"]["device_w"] == [900, 900]
    notes = summary.tables(told)[3].notes
    assert "site here: limit 60 kW, peak 1.41 kW" in notes
    assert "each device of rented: limit 900 W, which leaves a device 900 W" in notes
    assert any(note.startswith("pool owned: limit 4 kW to 5 kW, which leaves a device ") for note in notes)
    assert all(pool["device_power_cap_w"] is None for pool in told["pools"])


def test_the_report_holds_what_was_written():
    """Paths as `--set` has them, so that two reports can say in what they differ."""
    asked = dict(summarise(make_run(overrides=[("pools.owned.cost.rate", "8 %")]))["scenario"]["inputs"])
    assert asked["pools.owned.cost.kind"] == "own"
    assert asked["pools.owned.cost.rate"] == "8 %"
    assert asked["workload.streams.talk.arrival.rate"] == "1 /s"
    assert asked["workload.streams.talk.count"] == "5"
    assert "name" not in asked


def test_dollars_per_million_tokens_have_one_name_each(report):
    """The screen's columns, and those of the pages, mean the same metric by the same words."""
    named = {
        "$/Mtok in": "usd_per_mtok_input",
        "$/Mtok out": "usd_per_mtok_output",
        "$/Mtok in+out": "usd_per_mtok_total",
    }
    (cost,) = [table for table in summary.tables(report) if table.heading.startswith("Cost")]
    (row,) = cost.rows
    shown = {column: row[i] for i, column in enumerate(cost.columns) if "/Mtok" in column}
    assert shown == {label: summary.number(report["cost"][key]) for label, key in named.items()}
    assert shown["$/Mtok out"] != shown["$/Mtok in+out"]
    metrics = [metric for metrics in (*compare.WHOLE.values(), compare.CLASS, compare.POOL) for metric in metrics]
    for column in (*tables.CAUSED, *metrics):
        if "usd_per_mtok" in column.path:
            assert column.path == f"cost.{named[column.name]}"
        if column.path == "cost.usd_per_request":
            assert (column.name, column.show(0.000335), column.show(None)) == ("$/1000 requests", "0.335", "n/a")
    for table in summary.tables(report)[1:3]:
        groups = report["classes" if table.heading == "Service" else "pools"]
        at = list(table.columns).index("$/Mtok out")
        assert [row[at] for row in table.rows] == [summary.number(g["cost"]["usd_per_mtok_output"]) for g in groups]


def test_latency_is_by_class():
    report = summarise(make_run([Row(ttft_s=0.25, e2e_s=1.25)] * 20 + [Row(NIGHT, ttft_s=3.0, e2e_s=5.0)] * 30))
    rows = {(row[0], row[1]): row[2:4] + row[-1:] for row in summary.tables(report)[0].rows}
    assert rows["chat", "first token"] == ["250 ms", "250 ms", "20"]
    assert rows["batch", "first token"] == ["3.00 s", "3.00 s", "30"]
    assert rows["batch", "per token"] == ["200 ms", "200 ms", "30"]
    assert rows["(no class)", "whole answer"] == ["n/a", "n/a", "0"]
    assert rows["all", "queue wait"] == ["125 ms", "125 ms", "50"]


def test_a_missed_class_stands_out():
    report = summarise(make_run([Row(ttft_s=9.0, e2e_s=9.5)]))
    chat = next(line for line in summary.text(report).split("\nService")[1].splitlines() if line.startswith("  chat"))
    assert "0.0 %" in chat
    assert "MISSED" in chat
    assert "TTFT" in chat.split("MISSED")[1]


def test_many_assumptions_are_counted_not_listed(report):
    text = summary.text(report, most_assumptions=2)
    assert f"Estimates used: {len(report['assumptions'])}" in text
    assert f"... and {len(report['assumptions']) - 2} more in report.json" in text
    assert text.count("\n  - ") == 2
    assert "Estimates used: none" in summary.text({**report, "assumptions": []})


def test_markdown_has_every_table_assumption_and_formula(report):
    text = summary.markdown(report)
    for table in summary.tables(report):
        assert f"\n## {table.heading}\n" in text
        for row in table.rows:
            assert len(row) == len(table.columns)
            assert f"| {' | '.join(row)} |" in text
    for line in report["assumptions"]:
        assert f"- {line}\n" in text
    for name, formula in report["formulas"].items():
        assert f"- `{name}`: {formula}\n" in text


def test_a_bar_in_a_name_does_not_break_a_table(report):
    pools = [{**report["pools"][0], "device": "a|b"}]
    rows = [line for line in summary.markdown({**report, "pools": pools}).splitlines() if "a/b" in line]
    assert rows[0].count("|") == 10


# -- documentation -------------------------------------------------------------------------------------------------------


def keys_of(value, inside=("lines_usd", "formulas", "precision", "scenario")):
    """All keys in a report, but not those that are names of something else."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys_of({} if key in inside else item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def test_every_exported_name_is_documented(report):
    text = DOCS.read_text()
    documented = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`([^`\n]+)`", text.replace("```", "")))))
    assert sorted(set(keys_of(report)) - documented) == []


def test_documented_numbers_exist(report):
    known = set(keys_of(report)) | set(full_run().records.requests.array().dtype.names) | {"tenants"}
    for line in DOCS.read_text().splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([a-z][a-z0-9_.]*)`", line.split("|")[1]):
                assert name.split(".")[-1] in known, name


def test_sample_floors_are_documented():
    text = DOCS.read_text()
    for q, least in SAMPLES.items():
        assert re.search(rf"p{q * 100:.0f}\s+(needs )?(?:a )?{least:,}", text), q


def test_formulas_are_of_exported_names(report):
    assert set(report["formulas"]) - {"percentiles"} <= set(keys_of(report))
