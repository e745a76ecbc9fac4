"""The fleet's books: requests on the way when the run ends, and a check that fails when something is missing."""

import pytest
from simpy import Environment

from simfleet import load, simulate
from simfleet.records import Records, Status, request_table, timeline_table
from simfleet.simulation import build, start
from simfleet.streams import Streams


def scenario(**changes):
    overrides = [("horizon", "30 s"), ("warmup", "0 s"), *changes.items()]
    return load("quickstart", overrides=overrides)


def test_requests_on_the_wire_are_in_flight() -> None:
    """With a second each way, those of the last second have not reached a replica when the run ends."""
    slow = [
        ("drain", False),
        ("sites.virginia.network_latency.us-east", "1 s"),
        ("sites.finland.network_latency.us-east", "1 s"),
    ]
    result = simulate(load("quickstart", overrides=[("horizon", "30 s"), ("warmup", "0 s"), *slow]), seed=1)
    rows = result.run.requests
    last = rows[rows["arrival_s"] > 29]
    assert len(last) > 2
    assert set(last["status"]) == {Status.IN_FLIGHT}
    answered = rows[rows["status"] == Status.COMPLETED]
    assert answered["queue_wait_s"].min() == pytest.approx(1, rel=1e-9)
    assert answered["ttft_s"].min() > 2


def test_a_client_that_hangs_up_on_the_way_is_timed_out() -> None:
    slow = [("sites.virginia.network_latency.us-east", "1 s"), ("sites.finland.network_latency.us-east", "1 s")]
    impatient = [("workload.streams.chat.timeout", "1.5 s"), ("workload.streams.summaries.timeout", "1.5 s")]
    result = simulate(load("quickstart", overrides=[("horizon", "20 s"), ("warmup", "0 s"), *slow, *impatient]), seed=1)
    asked = result.summary["requests"]
    assert asked["timed_out"] == asked["arrived"] > 20
    assert result.run.records.pools[0].output_tokens == 0


def test_a_lost_request_is_noticed() -> None:
    env, records = Environment(), Records(request_table(detail=False), timeline_table())
    spec = scenario()
    fleet = build(env, spec, Streams(0), records, detail=False)
    start(fleet, spec, Streams(0))
    env.run(until=fleet.drained)
    fleet.close()
    fleet.check()
    records.accounts[0].ended[Status.COMPLETED] -= 1
    with pytest.raises(RuntimeError, match="arrived"):
        fleet.check()
