"""Latency, attainment, throughput and regime: values worked out by hand."""

import numpy as np
import pytest

from simfleet.records import Account, Status
from simfleet.report.metrics import attainment, goodput, latency, regime, statistics, summarise, throughput
from tests.factories import FREE, NAN, NIGHT, Row, ledger, make_run, turned_away

# -- percentiles ---------------------------------------------------------------------------------------------------------


def test_percentiles_interpolate_linearly_between_order_statistics():
    found = statistics(np.arange(2000.0)[::-1])
    assert found == pytest.approx(
        {"mean": 999.5, "p50": 999.5, "p90": 1799.1, "p95": 1899.05, "p99": 1979.01, "n": 2000}
    )


@pytest.mark.parametrize(("name", "least"), [("p50", 20), ("p90", 100), ("p95", 200), ("p99", 2000)])
def test_too_few_samples_give_no_percentile(name, least):
    assert statistics(np.ones(least - 1))[name] is None
    assert statistics(np.ones(least))[name] == 1.0


def test_undefined_values_are_no_samples():
    assert statistics(np.array([1.0, NAN, 3.0])) == {
        "mean": 2.0,
        "p50": None,
        "p90": None,
        "p95": None,
        "p99": None,
        "n": 2,
    }
    assert statistics(np.array([]))["mean"] is None


def test_gaps_have_the_same_sample_floor():
    for count, known in ((199, False), (200, True)):
        gaps = summarise(make_run(gaps_s=[0.1] * count))["latency"]["itl_s"]
        assert (gaps["n"], gaps["p99"], gaps["p95"] is not None) == (count, None, known)
        assert gaps["mean"] == pytest.approx(0.1)
    assert gaps["p95"] == pytest.approx(0.1, rel=0.005)


# -- time per token ------------------------------------------------------------------------------------------------------


def test_tpot_leaves_the_first_token_out():
    run = make_run([Row(output_tokens=11, ttft_s=0.5, e2e_s=1.5)])
    assert run.tpot_s == pytest.approx([0.1])


def test_one_token_has_no_tpot_and_is_judged_on_the_rest():
    run = make_run([Row(output_tokens=1, ttft_s=0.5, e2e_s=0.5)])
    assert np.isnan(run.tpot_s).all()
    everything = np.ones(1, dtype=bool)
    assert latency(run, everything)["tpot_s"]["n"] == 0
    assert latency(run, everything)["ttft_s"]["n"] == 1
    assert attainment(run)["chat"]["overall"] == 1.0


def test_no_answer_has_no_tpot():
    assert np.isnan(make_run([turned_away(Status.REJECTED)]).tpot_s).all()


# -- service level -------------------------------------------------------------------------------------------------------


def test_whoever_arrived_counts_and_whoever_is_in_flight_is_counted_apart():
    """Ten judged: six keep both targets, one is late with the first token, three never complete. Two more are in flight."""
    rows = [Row(arrival_s=i) for i in range(6)] + [Row(arrival_s=6, ttft_s=1.01)]
    rows += [turned_away(fate, arrival_s=7) for fate in (Status.REJECTED, Status.FAILED, Status.TIMED_OUT)]
    rows += [turned_away(Status.IN_FLIGHT, arrival_s=8), Row(status=Status.IN_FLIGHT, arrival_s=9, e2e_s=NAN)]
    assert attainment(make_run(rows))["chat"] == {
        "overall": 0.6, "completion": 0.7, "ttft": 0.6, "tpot": 0.7, "e2e": 0.7, "binds": "ttft", "n": 10, "censored": 2,
    }  # fmt: skip


def test_a_request_meets_all_targets_or_none():
    """One misses the first token, another the pace: each target is kept by two of three, all of them by one."""
    slow = Row(e2e_s=0.5 + 10 * 0.151)
    found = attainment(make_run([Row(), Row(ttft_s=1.2, e2e_s=2.2), slow]))["chat"]
    assert (found["overall"], found["ttft"], found["tpot"]) == pytest.approx((1 / 3, 2 / 3, 2 / 3))


def test_a_target_met_exactly_is_met():
    assert attainment(make_run([Row(ttft_s=1.0, e2e_s=2.0)]))["chat"]["overall"] == 1.0


def test_completion_binds_where_no_target_was_missed():
    found = attainment(make_run([Row(NIGHT), Row(NIGHT), turned_away(Status.REJECTED, stream=NIGHT)]))["batch"]
    assert (found["binds"], found["overall"]) == ("completion", pytest.approx(2 / 3))


def test_nothing_binds_where_all_is_kept():
    assert attainment(make_run([Row()]))["chat"]["binds"] is None


def test_all_is_over_the_classes_and_leaves_streams_without_one_out():
    found = attainment(make_run([Row(), Row(NIGHT, e2e_s=11.0), Row(FREE), turned_away(Status.REJECTED, stream=FREE)]))
    assert (found["all"]["overall"], found["all"]["n"]) == (0.5, 2)
    assert (found["batch"]["binds"], found["(no class)"]["overall"]) == ("e2e", 0.5)


def test_no_requests_no_attainment():
    found = attainment(make_run())["chat"]
    assert (found["overall"], found["ttft"], found["binds"], found["n"], found["censored"]) == (None, None, None, 0, 0)


def test_kept_compares_with_the_wanted_share():
    rows = [Row() for _ in range(6)] + [Row(ttft_s=2.0, e2e_s=3.0) for _ in range(4)]  # 60 % where 60 % is wanted
    for extra, kept in (([], True), ([turned_away(Status.REJECTED)], False)):
        groups = {group["name"]: group for group in summarise(make_run(rows + extra))["classes"]}
        assert groups["chat"]["kept"] is kept
    assert groups["batch"]["kept"] is None
    assert groups["(no class)"]["kept"] is None


def test_the_warm_up_is_left_out_of_latency_and_service():
    rows = [Row(arrival_s=9.9, ttft_s=5.0, e2e_s=6.0), Row(arrival_s=10.0)]
    run = make_run(rows, overrides=[("warmup", "10 s")])
    assert latency(run, np.ones(2, dtype=bool))["ttft_s"]["n"] == 1
    assert attainment(run)["chat"]["overall"] == 1.0
    assert make_run(rows).measured.all()


def test_goodput_counts_what_kept_its_targets():
    """Of three measured, two are good, 22 tokens in the 100 s - 10 s measured."""
    rows = [Row(arrival_s=5), Row(arrival_s=20), Row(arrival_s=30), Row(arrival_s=40, ttft_s=3.0, e2e_s=4.0)]
    run = make_run(rows, overrides=[("warmup", "10 s")], duration_s=100.0)
    assert goodput(run, np.ones(4, dtype=bool)) == pytest.approx({"goodput_rps": 2 / 90, "goodput_tok_s": 22 / 90})


def test_a_run_shorter_than_its_warm_up_has_no_goodput():
    found = goodput(make_run(overrides=[("warmup", "10 s")], duration_s=5.0), np.ones(0, dtype=bool))
    assert found == {"goodput_rps": None, "goodput_tok_s": None}


def test_requests_are_in_order_of_arrival():
    run = make_run([Row(arrival_s=2.0), Row(arrival_s=1.0), Row(NIGHT, arrival_s=0.5)])
    assert run.requests["arrival_s"].tolist() == [0.5, 1.0, 2.0]


# -- regime --------------------------------------------------------------------------------------------------------------


def rows_with_waits(waits, serve_s=1.0, every_s=1.0):
    """A request every so often, each waiting so long, then served."""
    return [
        Row(arrival_s=i * every_s, queue_wait_s=wait, ttft_s=wait + 0.1, e2e_s=wait + serve_s)
        for i, wait in enumerate(waits)
    ]


def test_stable_when_hardly_anyone_waits():
    assert regime(make_run(rows_with_waits([0.05] * 40))) == "stable"


def test_backlogged_when_waiting_is_over_a_tenth_of_the_stay():
    assert regime(make_run(rows_with_waits([0.10] * 40))) == "stable"  # 0.10 of 1.10 s
    assert regime(make_run(rows_with_waits([0.12] * 40))) == "backlogged"  # 0.12 of 1.12 s


def test_overloaded_when_the_queue_only_grows():
    """Every request waits half a second longer than the one before: two arrive for each that ends."""
    assert regime(make_run(rows_with_waits([0.5 * i for i in range(40)]))) == "overloaded"


def test_a_queue_of_less_than_a_second_is_no_overload():
    """The same growth in milliseconds: answers take so long that few end, but nobody waits."""
    rows = rows_with_waits([0.02 * i for i in range(40)], serve_s=60.0)
    assert regime(make_run(rows)) == "stable"


def test_a_queue_that_goes_down_again_is_a_backlog():
    waits = [0.5 * min(i, 40 - i) for i in range(40)]
    assert regime(make_run(rows_with_waits(waits))) == "backlogged"


@pytest.mark.parametrize("fate", [Status.REJECTED, Status.TIMED_OUT])
def test_overloaded_when_more_than_one_in_a_hundred_is_lost(fate):
    rows = rows_with_waits([0.0] * 198)
    one, three = ([turned_away(fate, arrival_s=50.0)] * count for count in (1, 3))
    patient = [("workload.streams.talk.timeout", "2 s")]
    assert regime(make_run(rows + one, overrides=patient, duration_s=199.0)) == "stable"
    assert regime(make_run(rows + three, overrides=patient, duration_s=199.0)) == "overloaded"


def test_requests_that_could_never_fit_say_nothing_about_load():
    rows = rows_with_waits([0.0] * 40) + [turned_away(Status.FAILED, arrival_s=i) for i in range(20)]
    assert regime(make_run(rows)) == "stable"


def test_whoever_is_still_in_line_has_waited_until_the_end():
    rows = [turned_away(Status.IN_FLIGHT, arrival_s=float(i)) for i in range(40)]
    assert regime(make_run(rows, duration_s=40.0)) == "backlogged"
    served = rows_with_waits([0.0] * 20) + [turned_away(Status.IN_FLIGHT, arrival_s=20.0 + i / 100) for i in range(20)]
    assert regime(make_run(served, duration_s=60.0)) == "overloaded"


def test_a_handful_shows_no_trend():
    assert regime(make_run(rows_with_waits([9.0] * 7))) == "stable"
    assert regime(make_run()) == "stable"


# -- counts --------------------------------------------------------------------------------------------------------------


def test_throughput_divides_by_time_and_by_every_device():
    """200 s; 1,000 tokens by two devices of which none was idle, 3,000 prompt tokens, and a third device without work."""
    accounts = [Account(0, 0, [8, 1, 0, 0, 0], input_tokens=3000, output_tokens=1000)]
    pools = [ledger("rented", devices=2, output_tokens=1000), ledger("owned", devices=1)]
    run = make_run(accounts=accounts, pools=pools, duration_s=200.0)
    assert throughput(run, range(2)) == pytest.approx(
        {
            "output_tok_s": 5.0, "input_tok_s": 15.0, "total_tok_s": 20.0, "requests_per_s": 0.04, "cached_input_share": 0.0,
            "output_tok_s_per_device": 5 / 3, "input_tok_s_per_device": 5.0, "total_tok_s_per_device": 20 / 3,
        }
    )  # fmt: skip
    assert throughput(run, [0])["output_tok_s_per_device"] == 2.5
    assert throughput(run, [1])["output_tok_s_per_device"] == 0.0


def test_the_five_ends_add_up():
    accounts = [Account(0, 0, [5, 4, 3, 2, 1]), Account(1, 1, [1, 0, 0, 0, 1])]
    assert summarise(make_run(accounts=accounts))["requests"] == {
        "arrived": 17, "completed": 6, "rejected": 4, "failed": 3, "timed_out": 2, "in_flight": 2,
    }  # fmt: skip


def test_pools_carry_memory_queue_and_what_holds_them_back():
    accounts = [Account(0, 0, recomputed_tokens=5), Account(0, 1, recomputed_tokens=7)]
    pools = [
        ledger(
            "rented", devices=2, duration_s=100.0, busy_device_s=50.0, kv_blocks=10, kv_mean=0.25, kv_peak=0.5,
            waiting_peak=4, preemptions=3, kv_stalls=2, seat_stalls=1, iterations=9, binds="KV memory",
        ),
        ledger("owned"),
    ]  # fmt: skip
    pool = summarise(make_run(accounts=accounts, pools=pools))["pools"][0]
    assert pool["kv"] == {
        "blocks_per_replica": 10, "occupancy_mean": 0.25, "occupancy_peak": 0.5, "preemptions": 3,
        "recomputed_tokens": 12, "steps_short_of_blocks": 2, "steps_short_of_seats": 1,
    }  # fmt: skip
    assert (pool["utilisation"], pool["waiting_peak_per_replica"], pool["binds"]) == (0.25, 4, "KV memory")
