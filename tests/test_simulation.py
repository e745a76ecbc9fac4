"""Whole runs: network, closed loops, bursts, horizons, several models and pools, and the replay of the real Azure trace."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from simfleet import Result, load, simulate
from simfleet.hardware.step import attended

TRACE = Path(__file__).parents[2] / "shared" / "data" / "traces" / "AzureLLMInferenceTrace_conv.csv.gz"
LENGTHS = {"input": {"dist": "constant", "value": 300}, "output": {"dist": "constant", "value": 40}}


def scenario(stream: dict, pool: dict | None = None, **keys):
    """One stream, one pool of one H100, changed as asked."""
    site = {"preset": "us-virginia", "network_latency": {"near": "0 ms", "far": "70 ms"}}
    data = {
        "name": "test",
        "workload": {"streams": [{"name": "s", "model": "llama-3.1-8b", **stream}]},
        "sites": {"here": site},
        "pools": {"p": {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm", **(pool or {})}},
    }
    return load({**data, **keys})


def run(stream: dict, pool: dict | None = None, **keys) -> Result:
    return simulate(scenario(stream, pool, **keys), seed=2)


def test_network_latency_is_paid_twice() -> None:
    """A lone request from afar waits one way in the queue's eyes, and both ways in the user's."""
    lone = {"arrival": {"kind": "burst"}, "tokens": LENGTHS, "count": 1}
    near, far = (run({**lone, "region": region}).run.requests[0] for region in ("near", "far"))
    assert far["queue_wait_s"] - near["queue_wait_s"] == pytest.approx(0.07, rel=1e-9)
    assert far["ttft_s"] - near["ttft_s"] == pytest.approx(0.14, rel=1e-9)
    assert far["e2e_s"] - near["e2e_s"] == pytest.approx(0.14, rel=1e-9)


def test_a_lone_request_by_hand() -> None:
    """TTFT = one prefill step + front end; E2E = that + 39 decode steps, whose contexts grow by one."""
    spec = scenario({"arrival": {"kind": "burst"}, "tokens": LENGTHS, "count": 1})
    cost = spec.pools["p"].step_cost()
    prefill_s, prefill_j = cost.mixed(300, 1, 0, 0, 0, 300 * 301 // 2, 300, 300, 0, 0, 0)
    t0, t_ctx, _, e0, e_ctx, _ = cost.decode(1)
    decode_s = [t0 + t_ctx * (300 + step) for step in range(1, 40)]
    decode_j = [min(cost.limit_w * s, e0 + e_ctx * (300 + step)) for step, s in enumerate(decode_s, 1)]
    result = simulate(spec)
    row, front_end_s = result.run.requests[0], spec.pools["p"].engine.front_end
    assert row["ttft_s"] == pytest.approx(prefill_s + front_end_s, rel=1e-12)
    assert row["e2e_s"] == pytest.approx(prefill_s + sum(decode_s) + front_end_s, rel=1e-12)
    assert row["energy_j"] == pytest.approx(min(cost.limit_w * prefill_s, prefill_j) + sum(decode_j), rel=1e-9)
    assert result.run.records.itl.mean == pytest.approx(float(np.mean(decode_s)), rel=1e-9)


@pytest.mark.parametrize(
    ("prefix", "asked", "block", "cached"),
    [(40, 300, 16, 32), (40, 300, 1, 40), (40, 33, 16, 32), (40, 32, 16, 16), (40, 16, 16, 0), (40, 40, 1, 39), (15, 300, 16, 0), (40, 1, 1, 0)],
)  # fmt: skip
def test_a_shared_prefix_is_not_computed_again(prefix: int, asked: int, block: int, cached: int) -> None:
    """Whole blocks of it, and never the whole prompt: its last token has to be computed for the first one to come out."""
    tokens = {
        "input": {"dist": "constant", "value": asked},
        "output": {"dist": "constant", "value": 1},
        "shared_prefix": prefix,
    }
    spec = scenario({"arrival": {"kind": "burst"}, "tokens": tokens, "count": 1}, {"engine": {"block_size": block}})
    pool, new = spec.pools["p"], asked - cached
    prefill_s, prefill_j = pool.step_cost().mixed(new, 1, 0, 0, 0, attended(cached, new), asked, asked, 0, 0, 0)
    row = simulate(spec).run.requests[0]
    assert row["input_tokens"] == asked
    assert row["ttft_s"] == pytest.approx(prefill_s + pool.engine.front_end, rel=1e-12)
    assert row["energy_j"] == pytest.approx(min(pool.step_cost().limit_w * prefill_s, prefill_j), rel=1e-12)


def test_pools_of_other_blocks_hold_other_parts_of_a_prefix() -> None:
    """One stream, two engines: 40 tokens are two blocks of 16 in one and all 40 in the other."""
    tokens = LENGTHS | {"output": {"dist": "constant", "value": 1}, "shared_prefix": 40}
    pool = {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm"}
    pools = {name: {**pool, "engine": {"block_size": size}} for name, size in (("a", 16), ("b", 1))}
    spec = scenario({"arrival": {"kind": "burst"}, "tokens": tokens, "count": 2}, pools=pools)
    for row in simulate(spec).run.requests:
        served = list(spec.pools.values())[row["pool"]]
        cached = (32, 40)[row["pool"]]
        prefill_s = served.step_cost().mixed(
            300 - cached, 1, 0, 0, 0, attended(cached, 300 - cached), 300, 300, 0, 0, 0
        )[0]
        assert row["ttft_s"] == pytest.approx(prefill_s + served.engine.front_end, rel=1e-12)
    assert sorted(simulate(spec).run.requests["pool"]) == [0, 1]


def test_closed_loop_keeps_its_users_busy() -> None:
    """Eight users, each with one request at a time; one that thinks asks less often."""
    loop = {"arrival": {"kind": "closed_loop", "users": 8}, "tokens": LENGTHS}
    rows = run(loop, horizon="20 s").run.requests
    moments = np.concatenate([rows["arrival_s"], rows["arrival_s"] + rows["e2e_s"]])
    changes = np.concatenate([np.ones(len(rows)), -np.ones(len(rows))])
    level = np.cumsum(changes[np.lexsort((changes, moments))])
    assert level.max() == 8
    assert np.all(rows["arrival_s"][:8] == 0)
    busy = float(np.sum(rows["e2e_s"][rows["arrival_s"] + rows["e2e_s"] <= 20])) / (8 * 20)
    assert 0.9 < busy <= 1
    thinking = run(
        {**loop, "arrival": {"kind": "closed_loop", "users": 8, "think": "2 s"}}, horizon="20 s"
    ).run.requests
    assert len(thinking) < 0.4 * len(rows)


def test_closed_loop_survives_rejection() -> None:
    """Users who are turned away try again later; nothing hangs and everything is counted."""
    loop = {"arrival": {"kind": "closed_loop", "users": 40}, "tokens": LENGTHS}
    asked = run(loop, {"engine": {"max_sequences": 2, "queue_limit": 4}}, horizon="15 s").summary["requests"]
    assert asked["rejected"] > 20
    assert asked["completed"] > 20
    assert asked["in_flight"] == 0


def test_burst_comes_at_once_and_is_batched() -> None:
    result = run({"arrival": {"kind": "burst", "at": "3 s"}, "tokens": LENGTHS, "count": 60})
    rows = result.run.requests
    assert np.all(rows["arrival_s"] == 3.0)
    assert len(np.unique(rows["queue_wait_s"])) == -(-60 * 300 // 8192)  # full steps of 8,192 tokens


def test_horizon_without_drain_leaves_the_rest_in_flight() -> None:
    stream = {"arrival": {"rate": "30 /s"}, "tokens": LENGTHS | {"output": {"dist": "constant", "value": 900}}}
    result = run(stream, horizon="10 s", drain=False)
    assert result.run.records.duration_s == 10
    assert result.summary["requests"]["in_flight"] > 50
    drained = run(stream, horizon="10 s")
    assert drained.summary["requests"]["in_flight"] == 0
    assert drained.run.records.duration_s > 10
    assert drained.summary["requests"]["arrived"] == result.summary["requests"]["arrived"]


def test_idle_fleet_draws_idle_power() -> None:
    """No request in an hour: gap watts for a second, then idle watts; everything is unattributed."""
    result = run({"arrival": {"rate": "0.0000001 /s"}, "tokens": LENGTHS}, horizon="1 h")
    profile = result.run.scenario.pools["p"].profile
    ledger = result.run.records.pools[0]
    expected = profile.power.gap.value + 3599 * profile.power.idle.value
    assert ledger.accelerator_j == pytest.approx(expected, rel=1e-9)
    assert result.summary["energy"]["unattributed_facility_j"] == pytest.approx(ledger.facility_j, rel=1e-9)
    assert result.summary["cost"]["usd_per_mtok_output"] is None
    assert result.summary["energy"]["embodied_grams_co2e"] == pytest.approx(164_000 / (5 * 365.25 * 24))


def test_each_model_goes_to_the_pools_that_serve_it() -> None:
    streams = [
        {"name": model[:5], "model": model, "arrival": {"rate": "5 /s"}, "tokens": LENGTHS}
        for model in ("llama-3.1-8b", "qwen3-8b")
    ]
    pools = {
        "a": {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm"},
        "b": {"model": "qwen3-8b", "device": "nvidia-l40s", "replicas": 2},
        "c": {"model": "qwen3-8b", "device": "nvidia-h100-sxm"},
    }
    result = simulate(load({"name": "t", "horizon": "20 s", "workload": {"streams": streams}, "pools": pools}))
    counted = result.requests.groupby(["stream", "pool"], observed=False).size().unstack()
    assert (counted.loc["llama"] > 0).tolist() == [True, False, False]
    assert (counted.loc["qwen3"] > 0).tolist() == [False, True, True]


def test_static_batches_wait_for_their_longest() -> None:
    """With static batching a request that finds a batch running waits for all of it; continuous batching lets it in."""
    stream = {
        "arrival": {"rate": "8 /s"},
        "tokens": LENGTHS | {"output": {"dist": "uniform", "low": 10, "high": 400}},
        "count": 300,
    }
    static, continuous = (
        run(stream, {"engine": {"kind": kind}}).summary["latency"]["ttft_s"]["mean"]
        for kind in ("static", "continuous")
    )
    assert static > 5 * continuous


def test_more_devices_per_replica_are_faster_and_share_the_weights() -> None:
    stream = {"arrival": {"rate": "3 /s"}, "tokens": LENGTHS, "count": 100}
    one, four = (run(stream, {"tensor_parallel": devices}) for devices in (1, 4))
    assert four.summary["latency"]["tpot_s"]["mean"] < 0.6 * one.summary["latency"]["tpot_s"]["mean"]
    assert (
        four.summary["pools"][0]["kv"]["blocks_per_replica"] > 4 * one.summary["pools"][0]["kv"]["blocks_per_replica"]
    )
    assert four.summary["pools"][0]["devices"] == 4


def test_progress_is_told_in_simulated_time() -> None:
    told: list[float] = []
    simulate(scenario({"arrival": {"rate": "5 /s"}, "tokens": LENGTHS}, horizon="10 s"), progress=told.append)
    assert told == sorted(told)
    assert len(told) > 200
    assert told[-1] >= 10


def test_users_start_over_the_ramp_and_the_run_ends_with_their_last_answer() -> None:
    """Ten users over 5 s start half a second apart; nobody is waited for after the last answer, however long they would think."""
    loop = {"kind": "closed_loop", "users": 10, "ramp": "5 s", "think": "50 s"}
    result = run({"arrival": loop, "tokens": LENGTHS}, horizon="8 s")
    rows = result.run.requests
    assert rows["arrival_s"].tolist() == pytest.approx([0.5 * number for number in range(10)])
    assert result.run.records.duration_s == 8
    counted = run({"arrival": {**loop, "ramp": "0 s"}, "tokens": LENGTHS, "count": 10})
    assert counted.run.records.duration_s < 2


@pytest.mark.parametrize(
    ("stream", "engine", "binds"),
    [
        (
            {"arrival": {"kind": "closed_loop", "users": 30}},
            {"max_sequences": 4},
            "max_sequences, then memory bandwidth",
        ),
        ({"arrival": {"kind": "closed_loop", "users": 30}}, {"num_kv_blocks": 150}, "KV memory, then memory bandwidth"),
        ({"arrival": {"kind": "closed_loop", "users": 30}}, {}, "memory bandwidth"),
        ({"arrival": {"rate": "9 /s"}, "long": True}, {}, "compute"),
    ],
)
def test_what_binds(stream: dict, engine: dict, binds: str) -> None:
    """Seats, blocks, memory bandwidth where answers take the time, compute where prompts do."""
    stream = dict(stream)
    tokens = (
        {"input": {"dist": "constant", "value": 6000}, "output": {"dist": "constant", "value": 1}}
        if stream.pop("long", 0)
        else LENGTHS
    )
    result = run({**stream, "tokens": tokens}, {"engine": engine}, horizon="20 s")
    pool = result.summary["pools"][0]
    assert pool["binds"].startswith(binds)
    short = {"max_sequences": pool["kv"]["steps_short_of_seats"], "KV memory": pool["kv"]["steps_short_of_blocks"]}
    for name, steps in short.items():
        assert steps <= pool["iterations"]
        assert (steps > 0.5 * pool["iterations"]) == binds.startswith(name)


def test_warm_up_leaves_out_the_gaps_that_begin_before_it() -> None:
    """One long answer: steps are of nearly equal length, so with a warm-up at half its time half the gaps are left."""
    lone = {
        "arrival": {"kind": "burst"},
        "tokens": LENGTHS | {"output": {"dist": "constant", "value": 2001}},
        "count": 1,
    }
    whole = run(lone)
    assert whole.run.records.itl.count == 2000
    row, front_end_s = whole.run.requests[0], scenario(lone).pools["p"].engine.front_end
    steps_s = np.linspace(row["ttft_s"] - front_end_s, row["e2e_s"] - front_end_s, 2001)[:-1]
    half = run(lone, warmup="7 s").run.records.itl.count
    assert half == pytest.approx(float((steps_s >= 7).sum()), abs=12)
    assert 0.3 * 2000 < half < 0.7 * 2000


def test_kv_occupancy_by_hand() -> None:
    """A lone request of 300 + 1,000 tokens: 19 blocks of 16 while its prompt is computed, then up to 82, nearly evenly."""
    lone = {
        "arrival": {"kind": "burst"},
        "tokens": LENGTHS | {"output": {"dist": "constant", "value": 1000}},
        "count": 1,
    }
    result = run(lone, {"engine": {"num_kv_blocks": 100}})
    ledger = result.run.records.pools[0]
    assert ledger.kv_peak == 0.82
    assert ledger.kv_mean == pytest.approx((19 + 82) / 2 / 100, rel=0.01)
    timeline = result.timeline
    middle = timeline[timeline["time_s"] < ledger.duration_s]
    expected = 19 + (82 - 19) * (middle["time_s"] - 0.01) / ledger.duration_s
    assert np.all(np.abs(middle["kv_occupancy"] * 100 - expected) < 2)


@pytest.mark.parametrize("horizon", ["10 s", "11 s", "7.3 s"])
def test_timeline_stays_physical_to_its_last_row(horizon: str) -> None:
    """No negative rates, no watts beyond the limit of the device, whatever the end cuts through."""
    timeline = run({"arrival": {"rate": "20 /s"}, "tokens": LENGTHS}, horizon=horizon, drain=False).timeline
    assert timeline["accelerator_w"].between(0, 700).all()
    assert timeline["output_tok_s"].between(0, 20_000).all()
    assert 240 <= len(timeline) <= 242


def test_timeline_is_bounded_for_any_length() -> None:
    """Ten times as long, not ten times as many rows."""
    for count in (200, 2000, 8000):
        times = run({"arrival": {"rate": "5 /s"}, "tokens": LENGTHS, "count": count}).timeline["time_s"].to_numpy()
        assert 100 <= len(times) <= 482
        assert np.ptp(np.diff(times)[:-1]) < 1e-6


@pytest.mark.skipif(not TRACE.exists(), reason="needs the Azure 2023 trace beside the checkout")
def test_azure_trace_is_replayed_whole() -> None:
    """All 19,366 requests on four 8xA100 replicas: every one ends, and the token sums are the file's."""
    with gzip.open(TRACE, "rt") as file:
        rows = list(csv.DictReader(file))
    data = {
        "name": "azure",
        "workload": {
            "streams": [{"name": "conv", "model": "llama-2-70b", "trace": {"file": str(TRACE), "format": "azure-2023"}}]
        },
        "pools": {
            "a100": {"model": "llama-2-70b", "device": "nvidia-a100-sxm-80gb", "replicas": 4, "tensor_parallel": 8}
        },
        "routing": {"kind": "least_loaded"},
    }
    result = simulate(load(data), seed=1)
    asked = result.summary["requests"]
    assert asked["arrived"] == len(rows) == 19_366
    assert asked["arrived"] == sum(asked[key] for key in ("completed", "rejected", "failed", "timed_out", "in_flight"))
    assert asked["completed"] == 19_366
    assert result.requests["input_tokens"].sum() == sum(int(row["ContextTokens"]) for row in rows)
    assert result.requests["output_tokens"].sum() == sum(int(row["GeneratedTokens"]) for row in rows)
