"""Joules and dollars add up whoever shares them; text says what the numbers say; docs name what the report names."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.records import Account
from simfleet.report import summary
from simfleet.report.metrics import SAMPLES, summarise
from simfleet.report.shares import BOUNDARIES, lines_usd
from tests.factories import NIGHT, TALK, Row, full_run, ledger, make_run

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
            "usd_total": 2.0, "usd_input": 0.5, "usd_output": 1.5, "usd_unattributed": 0.0,
            "usd_per_mtok_input": 0.5,  # $0.5 for 1,000,000 tokens
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


def test_a_pool_that_nobody_used_is_a_line_of_its_own():
    rented = ledger("rented", devices=2, duration_s=1000.0, accelerator_j=9.0, node_j=9.0, facility_j=9.0)
    report = summarise(make_run(pools=[rented, ledger("owned")]))
    money = report["cost"]
    assert (money["usd_total"], money["usd_unattributed"], money["spent_usd"]["idle"]) == pytest.approx((2.0, 2.0, 2.0))
    assert (money["usd_per_mtok_output"], money["usd_per_request"]) == (None, None)
    assert report["energy"]["unattributed_facility_j"] == 9.0
    assert report["energy"]["joules_per_output_token"]["facility"] is None


# -- conservation --------------------------------------------------------------------------------------------------------

amounts = st.floats(0.001, 1e6)
tokens = st.integers(1, 10**9)


@st.composite
def accounts_and_pools(draw):
    """Every stream in both pools, and ledgers that agree with them."""
    accounts, pools = [], []
    for pool, name in enumerate(("rented", "owned")):
        mine = [
            Account(
                pool,
                stream,
                [draw(tokens), 0, 0, 0, 0],
                draw(tokens),
                draw(tokens),
                0,
                0,
                *[draw(amounts) for _ in "ssjj"],
            )
            for stream in range(3)
        ]
        busy_s = sum(account.prefill_device_s + account.decode_device_s for account in mine)
        active_j = sum(account.prefill_j + account.decode_j for account in mine)
        accelerator_j = active_j + draw(amounts)
        rest = {"facility_j": accelerator_j * 2, "grams_co2e": draw(amounts), "electricity_usd": draw(amounts)}
        times = {"devices": 2, "duration_s": busy_s / 2 + draw(amounts), "busy_device_s": busy_s}
        joules = {"active_j": active_j, "accelerator_j": accelerator_j, "node_j": accelerator_j + draw(amounts)}
        pools.append(ledger(name, **times, **joules, **rest))
        accounts += mine
    return accounts, pools


@given(accounts_and_pools())
def test_conservation(drawn):
    """Input and output parts, classes, models, pools, and the lines of the waterfall: each sums to the one total."""
    accounts, pools = drawn
    report = summarise(make_run(accounts=accounts, pools=pools))
    money, joules = report["cost"], report["energy"]["joules"]
    asked = sum(account.input_tokens for account in accounts)
    answered = sum(account.output_tokens for account in accounts)
    usd = pytest.approx(money["usd_total"], rel=EXACT)
    assert (money["usd_per_mtok_input"] * asked + money["usd_per_mtok_output"] * answered) / 1e6 == usd
    assert sum(money["lines_usd"].values()) == usd
    assert sum(money["spent_usd"].values()) == usd
    for scope in BOUNDARIES:
        per_input = report["energy"]["prefill_joules_per_input_token"][scope]
        per_output = report["energy"]["decode_joules_per_output_token"][scope]
        assert per_input * asked + per_output * answered == pytest.approx(joules[scope], rel=EXACT)
    for groups in ("pools", "classes", "models"):
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
    assert "stream talk: 1 bad rows of asked.csv were left out" in lines


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
    known = set(keys_of(report)) | set(full_run().records.requests.array().dtype.names)
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
