"""Plans: the same cheapest fleet as brute force, honest reasons for the others, and the same answer however it is run."""

import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from simfleet import Scenario, SpecError, load, simulate
from simfleet.cli import cli
from simfleet.gate.judge import Row
from simfleet.gate.targets import targets_of
from simfleet.planning import candidates, screen, search
from simfleet.planning.demand import Steps, alone_s, beyond, demand
from simfleet.planning.plan import Plan, plan
from simfleet.planning.search import Settled, Share, Task, Tried, attempt, is_budget, settle, share

DEVICES = ("nvidia-h100-sxm", "nvidia-l40s", "amd-mi300x")
CHAT: dict[str, Any] = {"ttft": "600 ms", "tpot": "25 ms", "target": 0.95}


def service(horizon: str = "40 s", **stream: Any) -> dict[str, Any]:
    """A chat service on one pool, as data."""
    tokens = {
        "input": {"dist": "lognormal", "median": 700, "sigma": 0.7, "max": 6000},
        "output": {"dist": "lognormal", "median": 120, "sigma": 0.5, "max": 800},
    }
    chat = {
        "name": "chat",
        "model": "llama-3.1-8b",
        "class": "chat",
        "arrival": {"rate": "25 /s"},
        "tokens": tokens,
        **stream,
    }
    return {
        "name": "service", "horizon": horizon, "workload": {"classes": {"chat": CHAT}, "streams": [chat]},
        "pools": {"chat": {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm"}}, "routing": {"kind": "least_loaded"},
    }  # fmt: skip


def with_changes(scenario: Scenario, **pool: Any) -> Scenario:
    return scenario.replace("pools.chat", scenario.document.data["pools"]["chat"] | pool)


def is_kept(scenario: Scenario) -> bool:
    report = simulate(scenario, requests=False).summary
    return report["regime"] != "overloaded" and all(group["kept"] for group in report["classes"])


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(load(service()), {"pools.chat.tensor_parallel": [1, 2]}, device=DEVICES)


# -- the answer -----------------------------------------------------------------------------------------------------------


def test_cheapest_fleet_is_that_of_brute_force(planned: Plan) -> None:
    """Every device, devices per replica and number of replicas on a small grid, each simulated."""
    scenario, most = load(service()), 9
    asked = demand(scenario, "chat", 0)
    fewest: dict[tuple[str, int], int] = {}
    for device, size in product(DEVICES, (1, 2)):
        grid = {"pools.chat.device": (device,), "pools.chat.tensor_parallel": (size,)}
        screened = candidates.candidates(scenario, "chat", asked, grid, {})[0]
        for replicas in range(1, most + 1):
            if is_kept(with_changes(scenario, device=device, tensor_parallel=size, replicas=replicas)):
                fewest[device, size] = replicas
                assert screened.least <= replicas, (device, size)
                assert abs(screened.guess - replicas) <= max(1, 0.25 * replicas), (device, size)
                break
    prices = {name: scenario._library.profile(name).rent[0].price for name in DEVICES}
    costs = {fleet: replicas * fleet[1] * prices[fleet[0]] for fleet, replicas in fewest.items()}
    cheapest = min(costs, key=lambda fleet: (round(costs[fleet], 6), fewest[fleet] * fleet[1]))
    best = planned.best
    assert best is not None
    assert (best.device, best.chips // best.tried.replicas, best.tried.replicas) == (*cheapest, fewest[cheapest])
    assert best.usd_per_hour == pytest.approx(costs[cheapest], rel=1e-6)
    for fleet in planned.fleets:
        mine = {key: cost for key, cost in costs.items() if key[0] == fleet.device}
        assert fleet.usd_per_hour == pytest.approx(min(mine.values()), rel=1e-6)
    assert len(fewest) >= 4


def test_rows_are_what_a_run_of_the_fleet_reports(planned: Plan) -> None:
    """`changes` laid over the scenario give the very run that the row was made of, and one replica fewer misses."""
    for fleet in planned.fleets:
        row = fleet.as_json()
        report = simulate(load(service(), overrides=fleet.changes), requests=False).summary
        assert row["attainment"]["chat"]["value"] == report["attainment"]["overall"] >= 0.95
        assert row["usd_per_mtok_total"] == report["cost"]["usd_per_mtok_total"]
        assert row["joules_per_output_token"] == report["energy"]["joules_per_output_token"]["facility"]
        assert row["peak_facility_w"] == report["energy"]["peak_facility_w"]
        assert row["p95"]["ttft_s"] == report["latency"]["ttft_s"]["p95"]
        if fleet.tried.replicas > 1:
            assert fleet.one_fewer is not None
            assert not fleet.one_fewer.kept
    costs = [fleet.usd_per_hour for fleet in planned.fleets]
    assert costs == sorted(costs)
    assert len(costs) == len(DEVICES)


def test_processes_give_the_same_answer(planned: Plan) -> None:
    with ProcessPoolExecutor(2) as executor:
        again = plan(load(service()), {"pools.chat.tensor_parallel": [1, 2]}, device=DEVICES, executor=executor)
    assert json.dumps(again.as_json()) == json.dumps(planned.as_json())


@pytest.mark.parametrize(("one", "two"), [(2.0, 2.0), (30.0, 2.0), (3.0, 9.0)])
def test_cheapest_fleet_does_not_hang_on_the_guess(
    planned: Plan, monkeypatch: pytest.MonkeyPatch, one: float, two: float
) -> None:
    """Whatever step times alone say of replicas of one and of two devices, simulations still find the same fleet."""
    monkeypatch.setattr(candidates, "load", lambda pool, *_: one if pool.tensor_parallel == 1 else two)
    found = plan(load(service()), {"pools.chat.tensor_parallel": [1, 2]}, device=(DEVICES[0], DEVICES[2]))
    assert found.best is not None
    assert planned.best is not None
    assert found.best.changes == planned.best.changes


def test_growth_is_the_plan_of_more_traffic(planned: Plan) -> None:
    best = planned.best
    assert best is not None
    busier = load(service(arrival={"rate": "32.5 /s"}))
    sizes = {path: [value] for path, value in best.varied.items() if path != "pools.chat.device"}
    answer = plan(busier, sizes, device=[best.device]).best
    assert answer is not None
    assert planned.growth == answer.chips


def test_several_seeds_are_judged_together() -> None:
    scenario = load(service("15 s"))
    task = Task(scenario, "chat", (0, 1), ("chat",), 2, 8)
    both, one, other = (attempt(Task(scenario, "chat", seeds, ("chat",), 2, 8), 2) for seeds in ((0, 1), (0,), (1,)))
    judged = [tried.reports[0]["attainment"]["n"] for tried in (one, other)]
    pooled = sum(n * tried.shares["chat"].value for n, tried in zip(judged, (one, other), strict=True)) / sum(judged)
    assert both.shares["chat"].value == pytest.approx(pooled)
    assert len(both.reports) == len(task.seeds)


def test_own_prices_and_precision_can_decide() -> None:
    """A device that costs next to nothing wins, in the format that needs fewer of it; the row's changes hold the price."""
    over = {"pools.chat.tensor_parallel": [1], "pools.chat.precision": ["bf16", "fp8"]}
    scenario = load(service("20 s"))
    found = plan(scenario, over, device=["nvidia-h100-sxm", "nvidia-l40s"], price={"nvidia-l40s": 0.01})
    best = found.best
    assert best is not None
    assert best.device == "nvidia-l40s"
    assert best.changes["pools.chat"]["cost"] == {"kind": "rent", "price": "$0.01/h"}
    assert best.usd_per_hour == pytest.approx(0.01 * best.chips, rel=1e-6)
    assert is_kept(load(service("20 s"), overrides=best.changes))


def test_one_pool_of_several_is_planned() -> None:
    data = service("20 s")
    data["workload"]["classes"] = {"chat": CHAT | {"tpot": "80 ms"}}
    data["pools"] |= {"old": {"model": "llama-3.1-8b", "device": "nvidia-l40s"}}
    with pytest.raises(SpecError, match="expected --pool NAME, as there are several: chat, old"):
        plan(load(data))
    with pytest.raises(SpecError, match="unknown pool `chats`; did you mean `chat`"):
        plan(load(data), pool="chats")
    found = plan(load(data), {"pools.chat.tensor_parallel": [1]}, pool="chat", device=["nvidia-h100-sxm"])
    assert found.best is not None
    assert {pool["name"] for pool in found.best.tried.reports[0]["pools"]} == {"chat", "old"}


@pytest.fixture(scope="module", params=["enough", "too few"])
def beside(request: pytest.FixtureRequest) -> tuple[bool, dict[str, Any], Plan]:
    """Whether an old pool does without the planned one; the scenario's data; the plan, whose answer is a single replica."""
    enough = request.param == "enough"
    data = service("20 s", arrival={"rate": "29 /s" if enough else "40 /s"})
    data["pools"] |= {"old": {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm"}}
    data["targets"] = {"utilisation{pool=chat}": ["<= 100 %"]}
    found = plan(load(data), {"pools.chat.tensor_parallel": [1]}, pool="chat", device=["nvidia-h100-sxm"])
    assert found.best is not None
    assert found.best.tried.replicas == 1
    return enough, data, found


def test_one_fewer_than_a_single_replica_is_the_other_pools(beside: tuple[bool, dict[str, Any], Plan]) -> None:
    """They are simulated: what binds is what they miss, nothing where they miss nothing, and then the pool is not needed."""
    enough, data, found = beside
    assert found.best is not None
    row, text = found.best.as_json(), found.text()
    alone = simulate(load(data | {"pools": {"old": data["pools"]["old"]}, "targets": {}}), requests=False).summary
    assert row["one_fewer"] == row["without_pool"]["attainment"]
    assert row["one_fewer"]["chat"]["value"] == alone["attainment"]["overall"]
    assert alone["attainment"]["overall"] < 1, "so that a run has something that it reaches least"
    assert row["without_pool"]["kept"] is enough is alone["classes"][0]["kept"]
    assert row["binds"]["target"] == (None if enough else alone["classes"][0]["attainment"]["binds"])
    assert ("NOT NEEDED: without chat the other pools keep every target: " in text) is enough
    kept = f"{alone['attainment']['overall'] * 100:.2f} % of chat by the other pools while it is gone"
    assert f"Lose the only replica (1 chip): {kept}" in " ".join(text.split())
    assert "(of a single one: that the other pools miss without it)" in text


def test_of_a_single_replica_alone_nothing_is_said_to_bind() -> None:
    scenario = load(service("20 s", arrival={"rate": "10 /s"}))
    found = plan(scenario, {"pools.chat.tensor_parallel": [1]}, device=["nvidia-h100-sxm"])
    assert found.best is not None
    row = found.best.as_json()
    assert (row["replicas"], row["binds"]["target"], row["one_fewer"], row["without_pool"]) == (1, None, None, None)
    assert "(of a single one there is none fewer, so none)" in found.text()
    assert "Lose the only replica: the pool serves nothing" in found.text()


# -- the busiest of what comes --------------------------------------------------------------------------------------------

DAY = {"kind": "sinusoid", "period": "1 d", "amplitude": 0.5, "peak": "14 h"}


def known_beyond(arrival: dict[str, Any], horizon: str, *others: dict[str, Any]) -> Any:
    data = service(horizon, arrival=arrival)
    first = data["workload"]["streams"][0]
    data["workload"]["streams"] += [first | {"name": f"other{i}", "arrival": each} for i, each in enumerate(others)]
    return beyond(load(data), "chat", 0)


def test_a_peak_after_the_horizon_is_known() -> None:
    """Rates are known by hand: a swing of one half around the mean, two hours before the trough."""
    found = known_beyond({"rate": "20 /s", "envelope": DAY}, "15 min")
    assert found.peak_per_s == pytest.approx(30, rel=1e-3)
    assert found.peak_at_s == pytest.approx(14 * 3600, abs=300)
    assert found.planned_per_s == pytest.approx(20 + 10 * np.cos(2 * np.pi * 14 / 24), rel=1e-2)
    assert known_beyond({"rate": "20 /s", "envelope": DAY}, "1 d") is None
    assert known_beyond({"rate": "20 /s", "envelope": DAY}, "11 h") is None, "nine tenths of the peak"
    assert known_beyond({"rate": "20 /s", "envelope": {**DAY, "amplitude": 0.05}}, "15 min") is None
    assert known_beyond({"rate": "20 /s"}, "15 min") is None


def test_streams_peak_together_or_not_at_all() -> None:
    night = {"rate": "20 /s", "envelope": {**DAY, "peak": "2 h"}}
    assert known_beyond({"rate": "20 /s", "envelope": DAY}, "15 min", night) is None
    both = known_beyond({"rate": "20 /s", "envelope": DAY}, "15 min", {"rate": "10 /s"})
    assert both.peak_per_s == pytest.approx(40, rel=1e-3)


def test_what_has_ended_does_not_add_to_a_peak() -> None:
    ends = {"kind": "stages", "stages": [{"duration": "5 min", "factor": 1}]}
    spike = {"kind": "spike", "at": "10 min", "duration": "2 min", "factor": 4}
    found = known_beyond({"rate": "5 /s", "envelope": spike}, "5 min", {"rate": "20 /s", "envelope": ends})
    assert found is None, "25 at first, 20 in the spike"
    alone = known_beyond({"rate": "5 /s", "envelope": spike}, "5 min")
    assert alone == pytest.approx((5, 20, 600))


def test_the_busiest_minute_of_a_trace_is_known(tmp_path: Any) -> None:
    rows = [f"{second},500,50" for second in range(300)] + [f"{400 + i / 5},500,50" for i in range(300)]
    (tmp_path / "busy.csv").write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]))
    data = service("4 min")
    stream = {key: data["workload"]["streams"][0][key] for key in ("name", "model", "class")}
    data["workload"]["streams"] = [stream | {"trace": {"file": str(tmp_path / "busy.csv")}}]
    found = beyond(load(data), "chat", 0)
    assert found == pytest.approx((1, 200 / 60, 420), rel=0.05)
    assert beyond(load(data | {"horizon": "10 min"}), "chat", 0) is None


def test_a_plan_of_the_night_says_so() -> None:
    arrival = {"rate": "10 /s", "envelope": DAY}
    found = plan(
        load(service("20 s", arrival=arrival)), {"pools.chat.tensor_parallel": [1]}, device=["nvidia-h100-sxm"]
    )
    assert "BELOW THE PEAK: the planned 20 s reach 5.67 requests/s; the peak of the streams is 15.0/s at 14 h" in (
        found.text()
    )
    assert found.as_json()["demand"]["beyond"]["peak_per_s"] == pytest.approx(15, rel=1e-3)


# -- the scenario's targets -----------------------------------------------------------------------------------------------


def with_targets(**targets: list[Any]) -> Scenario:
    """The service for 20 s on H100s, one device a replica, held to targets: `METRIC__class` is that metric of the class chat."""
    named = {name.replace("__class", "{class=chat}"): wanted for name, wanted in targets.items()}
    return load(service("20 s") | {"targets": named})


def planned_on_h100(scenario: Scenario) -> Plan:
    return plan(scenario, {"pools.chat.tensor_parallel": [1]}, device=["nvidia-h100-sxm"])


@pytest.fixture(scope="module")
def reports() -> dict[int, dict[str, Any]]:
    """Replicas -> the report of so many. One keeps the service level."""
    scenarios = {n: with_changes(with_targets(), replicas=n, tensor_parallel=1) for n in (1, 2, 3)}
    assert is_kept(scenarios[1])
    return {n: simulate(scenario, requests=False).summary for n, scenario in scenarios.items()}


def test_a_target_stricter_than_the_service_level_needs_a_larger_fleet(reports: dict[int, dict[str, Any]]) -> None:
    """One that two replicas just miss takes three, and it is what binds."""
    limit_s = 0.999 * reports[2]["latency"]["e2e_s"]["p95"]
    assert reports[3]["latency"]["e2e_s"]["p95"] < limit_s
    plain = planned_on_h100(with_targets())
    found = planned_on_h100(with_targets(e2e__class=[f"p95 <= {limit_s} s"], rejected=["== 0"], regime=["== stable"]))
    assert plain.best is not None
    assert plain.best.chips == 1
    best = found.best
    assert best is not None
    assert (best.chips, best.unjudged) == (3, [])
    row = best.as_json()
    assert row["binds"]["target"] == "e2e{class=chat} p95"
    assert [held["state"] for held in row["targets"]] == ["kept"] * 3
    assert [held["name"] for held in row["one_fewer_misses"]] == ["e2e{class=chat} p95"]
    text = found.text()
    assert f"and e2e{{class=chat}} p95 <= {limit_s} s, rejected == 0, regime == stable" in text
    assert "e2e{class=chat} p95, " in text
    assert "Lose one replica of 3 (1 chip): 100.00 % of chat, e2e{class=chat} p95 " in text


@pytest.mark.parametrize(
    ("metric", "path", "limit"),
    [
        ("usd_per_mtok_output", ("cost", "usd_per_mtok_output"), "<= ${:.9f}"),
        (
            "joules_per_output_token{scope=facility}",
            ("energy", "joules_per_output_token", "facility"),
            "<= {:.9f} J",
        ),
        ("power_facility", ("energy", "peak_facility_w"), "max <= {:.6f} W"),
    ],
)
def test_a_budget_that_the_fleet_breaks_leaves_none(
    reports: dict[int, dict[str, Any]], metric: str, path: tuple[str, ...], limit: str
) -> None:
    """A little more and a little less than the dollars, joules and watts of three replicas; more replicas would take more still."""
    slow_s, spent = 0.999 * reports[2]["latency"]["e2e_s"]["p95"], reports[3]
    for key in path:
        spent = spent[key]
    enough, short = (
        planned_on_h100(with_targets(e2e__class=[f"p95 <= {slow_s} s"], **{metric: [limit.format(factor * spent)]}))
        for factor in (1.001, 0.999)
    )
    assert enough.best is not None
    assert enough.best.chips == 3
    assert short.best is None
    assert short.left[0].why.startswith(f"target missed: {metric}")
    assert short.left[0].why.endswith(" with 3 replicas, fewer miss other targets")


def test_what_cannot_be_judged_is_said_and_warnings_decide_nothing(tmp_path: Any) -> None:
    """A p99 of 500 requests is no statement; a warning that nothing could keep changes no fleet."""
    targets = {"ttft{class=chat}": ["p99 <= 9 s", {"expect": "p95 <= 1 ms", "level": "warn"}]}
    path = tmp_path / "service.yaml"
    path.write_text(json.dumps(service("20 s") | {"targets": targets}))
    words = [
        "plan",
        str(path),
        "--workers",
        "1",
        "--device",
        "nvidia-h100-sxm",
        "--over",
        "pools.chat.tensor_parallel=1",
    ]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 3, result.output
    assert "1 x nvidia-h100-sxm" in result.stdout
    assert "NOT JUDGED, so not known to be kept: ttft{class=chat} p99 n/a (<= 9 s wanted): " in result.stdout
    assert "Warnings of the cheapest: ttft{class=chat} p95 " in result.stdout
    path.write_text(json.dumps(service("20 s") | {"targets": {"ttft{class=chta}": ["p95 <= 9 s"]}}))
    result = CliRunner().invoke(cli, words)
    assert (result.exit_code, "service.yaml:1:" in result.output) == (2, True)
    assert "unknown class `chta`; did you mean `chat`" in result.output


@pytest.mark.parametrize(
    ("metric", "expression", "budget"),
    [
        ("usd_total", "<= $5", True),
        ("tok_s_per_watt", ">= 1", True),
        ("power_facility", "max <= 5 kW", True),
        ("output_tok_s_per_device", ">= 5 tok/s", True),
        ("utilisation{pool=chat}", ">= 40 %", True),
        ("utilisation{pool=chat}", "<= 90 %", False),
        ("kv_occupancy{pool=chat}", "max <= 90 %", False),
        ("goodput_rps", ">= 5 /s", False),
        ("rejected", "== 0", False),
        ("attainment_ttft{class=chat}", ">= 99 %", False),
    ],
)
def test_budgets_are_what_more_replicas_do_not_help(metric: str, expression: str, budget: bool) -> None:
    scenario = load(service() | {"targets": {metric: [expression]}})
    assert is_budget(targets_of(scenario)[0]) is budget


# -- the search -----------------------------------------------------------------------------------------------------------


def fake(monkeypatch: pytest.MonkeyPatch, kept: set[int], power: int = 1000, paid: int = 1000) -> list[int]:
    """Replicas that keep the targets, the most that a power limit allows and that a budget pays for, in place of simulations; the
    numbers that were tried."""
    asked: list[int] = []

    def attempt(task: Task, replicas: int) -> Tried:
        asked.append(replicas)
        if replicas > power:
            return Tried(replicas, why="expected at least 9 W")
        value = 1.0 if replicas in kept else 0.5
        budget = Row("usd_total", "<= $9", "kept" if replicas <= paid else "missed", "$10")
        shares = {"chat": Share(value, value, value, 0.9)}
        return Tried(replicas, shares, ({"regime": "stable"},), budgets=(budget,))

    monkeypatch.setattr(search, "attempt", attempt)
    return asked


def searched(guess: int, most: int = 400) -> Settled:
    return settle(Task(load(service()), "chat", (0,), ("chat",), guess, most), {})


@pytest.mark.parametrize("answer", [1, 2, 7, 16, 99, 400])
@pytest.mark.parametrize("guess", [1, 7, 50, 400])
def test_search_ends_at_the_fewest(monkeypatch: pytest.MonkeyPatch, answer: int, guess: int) -> None:
    """The answer and its predecessor are both tried, and not many others: steps double, then halve."""
    asked = fake(monkeypatch, set(range(answer, 500)))
    assert searched(guess).fewest == answer
    assert {answer, answer - 1} - {0} <= set(asked)
    assert len(asked) == len(set(asked)) <= 2 + 2 * np.log2(1 + abs(answer - guess))


def test_search_beside_a_hole_still_ends_where_one_fewer_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, {3, 5, 6, 8, 9, *range(10, 100)})
    for guess in range(1, 40):
        found = searched(guess)
        assert found.fewest is not None
        assert found.tried[found.fewest].kept
        assert not found.tried[found.fewest - 1].kept


def test_search_under_a_power_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, set(range(6, 500)), power=8)
    assert searched(40).fewest == 6
    fake(monkeypatch, set(range(12, 500)), power=8)
    nothing = searched(40)
    assert nothing.fewest is None
    assert nothing.why(np.inf, 1).startswith("power cap: 9 replicas: expected at least 9 W")


@pytest.mark.parametrize("guess", [1, 5, 40])
def test_search_does_not_run_away_from_a_budget(monkeypatch: pytest.MonkeyPatch, guess: int) -> None:
    """Too many replicas break it, but the fewest that are served do not; where they do, no number will."""
    fake(monkeypatch, set(range(6, 500)), paid=8)
    assert searched(guess).fewest == 6
    asked = fake(monkeypatch, set(range(6, 500)), paid=5)
    nothing = searched(guess)
    assert nothing.fewest is None
    assert max(asked) <= max(guess, 9)
    why = "target missed: usd_total <= $9: $10 with 6 replicas of 2 chips, fewer miss other targets"
    assert nothing.why(np.inf, 2) == why


def test_a_hole_above_a_budget_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four are served and paid for, five are not served, six are not paid for: what six break is the reason."""
    fake(monkeypatch, {4, 6, 7}, paid=5)
    task = Task(load(service()), "chat", (0,), ("chat",), 5, 400)
    nothing = settle(task, {n: search.attempt(task, n) for n in (4, 5)})
    assert nothing.fewest is None
    assert nothing.why(np.inf, 1).startswith("target missed: usd_total <= $9: $10 with 6 replicas")


def test_search_that_finds_nothing_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, set())
    nothing = searched(3, 12)
    assert nothing.fewest is None
    assert nothing.why(np.inf, 1) == "SLO missed: 50.00% of `chat` with 12 replicas"


# -- intervals ------------------------------------------------------------------------------------------------------------


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Independent requests: 95 % of 400 intervals, give or take three standard errors; requests that miss in clumps need wider ones."""
    rng = np.random.default_rng(1)
    runs = [rng.random(2000) < 0.97 for _ in range(400)]
    covered = [part.low <= 0.97 <= part.high for part in (share([run], 0.9) for run in runs)]
    assert abs(np.mean(covered) - 0.96) < 0.04
    clumped = np.repeat(rng.random(100) < 0.9, 20)
    spread = clumped[rng.permutation(len(clumped))]
    wide, narrow = share([clumped], 0.9), share([spread], 0.9)
    assert wide.value == narrow.value
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)


# -- what rules fleets out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{}, {"precision": "fp8"}, {"engine": {"token_budget": 512, "max_sequences": 64}}, {"tensor_parallel": 2}]
)
def test_a_request_alone_takes_what_the_simulator_takes(change: dict[str, Any]) -> None:
    """Chunks, first token and decode steps of one request on an empty replica, prefix cache included."""
    tokens = {
        "input": {"dist": "constant", "value": 5000},
        "output": {"dist": "constant", "value": 90},
        "shared_prefix": 1000,
    }
    data = service("1 s", arrival={"kind": "burst"}, count=1, tokens=tokens)
    scenario = with_changes(load(data), **change)
    pool, row = scenario.pools["chat"], simulate(scenario).requests.iloc[0]
    first_s, rest_s = alone_s(pool.step_cost(), pool, 5000, 90, 1000 // 16 * 16)
    assert first_s + pool.engine.front_end == pytest.approx(row["ttft_s"], rel=1e-9)
    assert rest_s == pytest.approx(row["e2e_s"] - row["ttft_s"], rel=1e-9)


@pytest.mark.parametrize("rows", [4, 32, 128])
def test_steady_state_is_that_of_a_closed_loop(rows: int) -> None:
    """As many users as sequences, constant lengths: answers per second and time per token within 6 %."""
    tokens = {"input": {"dist": "constant", "value": 600}, "output": {"dist": "constant", "value": 150}}
    scenario = load(
        service("50 s", arrival={"kind": "closed_loop", "users": rows, "ramp": "2 s"}, tokens=tokens) | {"drain": False}
    )
    asked = demand(scenario, "chat", 0)
    steady = Steps(scenario.pools["chat"], asked).at(rows)
    table = simulate(scenario).requests
    ended = table[(table["arrival_s"] + table["e2e_s"]).between(15, 45)]
    assert steady.requests_per_s == pytest.approx(len(ended) / 30, rel=0.06)
    assert steady.step_s == pytest.approx(ended["tpot_s"].mean(), rel=0.06)


def reasons(data: dict[str, Any], over: dict[str, Any], **options: Any) -> dict[str, str]:
    return {left.device: left.why for left in plan(load(data), over, **options).left}


def test_fleets_without_hope_say_why() -> None:
    one = {"pools.chat.tensor_parallel": [1]}
    data = service("20 s")
    data["pools"]["chat"]["model"] = data["workload"]["streams"][0]["model"] = "llama-3.1-70b"
    data["pools"]["chat"]["precision"] = "fp8"
    assert "does not fit on" in reasons(data, one, device=["nvidia-l40s"])["nvidia-l40s"]
    hasty = service("8 s")
    hasty["workload"]["classes"] = {"chat": CHAT | {"tpot": "1 ms"}}
    assert reasons(hasty, one, device=["nvidia-l40s"])["nvidia-l40s"].startswith(
        "SLO out of reach: TPOT 0.001 s kept by 0.0%"
    )
    long = service(
        "20 s", tokens={"input": {"dist": "constant", "value": 60_000}, "output": {"dist": "constant", "value": 10}}
    )
    long["workload"]["classes"] = {"chat": {"e2e": "60 s"}}
    long["pools"]["chat"]["engine"] = {"num_kv_blocks": 1000}
    assert (
        reasons(long, one)["nvidia-h100-sxm"]
        == "KV capacity: 100.0% of `chat` need more than the 16,000 tokens of a replica"
    )
    capped = service("8 s", arrival={"rate": "40 /s"})
    capped["pools"]["chat"]["power_limit"] = "1.4 kW"
    assert reasons(capped, one, device=["nvidia-l40s"])["nvidia-l40s"].startswith("power cap: ")


def test_without_any_fleet_there_is_still_an_answer() -> None:
    hasty = service("8 s")
    hasty["workload"]["classes"] = {"chat": CHAT | {"tpot": "1 ms"}}
    found = plan(load(hasty), {"pools.chat.tensor_parallel": [1]}, device=["nvidia-l40s"])
    assert found.best is None
    assert "no fleet that was tried keeps the targets" in found.text()
    assert "SLO out of reach" in found.text()
    assert "SLO out of reach" in found._repr_html_()


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"pools.chat.replicas": [1, 2]}, "expected another path than `replicas`"),
        ({"pools.chat.tensor_paralel": [1]}, "unknown key; did you mean `tensor_parallel`"),
        ({"pools.chats.precision": ["fp8"]}, "no `chats`"),
        ({"pools.chat.precision": ["fp9"]}, "did you mean `fp8`"),
        ({"pools.chat.precision": []}, "expected values for `pools.chat.precision`, got none"),
    ],
)
def test_bad_paths_and_values_are_refused(over: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan(load(service()), over)


def test_a_scenario_without_targets_or_requests_is_refused() -> None:
    data = service()
    data["workload"]["streams"][0].pop("class")
    with pytest.raises(SpecError, match=r"expected a class with targets for a stream of `llama-3\.1-8b`"):
        plan(load(data))
    with pytest.raises(SpecError, match=r"expected requests for `llama-3\.1-8b`, got none"):
        plan(load(service(arrival={"rate": "0 /s"})))
    with pytest.raises(LookupError, match="did you mean `nvidia-h100-sxm`"):
        plan(load(service()), device=["nvidia-h100-smx"])


# -- what is shown --------------------------------------------------------------------------------------------------------


def test_what_was_combined_is_shown_as_it_is_written() -> None:
    varied = {
        "pools.chat.tensor_parallel": 2,
        "pools.chat.cost": {"kind": "own", "years": 4},
        "pools.chat.precision": "fp8",
    }
    fleet = {"device": "d", "devices": 6, "replicas": 3, "devices_n_plus_1": 8, "usd_per_hour": 7.5, "varied": varied}
    line = screen.verdict({"scenario": "service", "pool": "chat", "fleets": [fleet]})
    assert (
        line == "service: 6 x d (3 x TP2, cost {kind: own, years: 4}, precision fp8), $7.50/h, 8 with a spare replica"
    )


def test_screen_says_what_a_planner_asks(planned: Plan) -> None:
    text, best = planned.text(show_frontier=True), planned.best
    assert best is not None
    assert repr(planned) == f"<Plan {text.splitlines()[0]}>"
    for needed in (
        "attained",
        "N+1",
        "$/Mtok in+out",
        "J/tok out",
        "TTFT p95",
        "Lose ",
        "30 % more traffic",
        "Validity: stable",
        "output length",
        "Frontier",
    ):
        assert needed in text
    assert f"--set pools.chat.replicas={best.tried.replicas}" in text.splitlines()[-1]
    page = planned._repr_html_()
    assert page.count("<tr>") >= len(planned.fleets) + len(planned.sensitivity[:6]) + 2


def test_rent_moves_cost_by_as_much_as_it_moves(planned: Plan) -> None:
    """What is known by hand: rent 30 % up is 30 % more; longer answers and more requests cost more, prefix hits less."""
    rows = {row.name.partition(": ")[2] or row.name: row for row in planned.sensitivity}
    assert (rows["rent"].cost_low, rows["rent"].cost_high) == pytest.approx((-0.3, 0.3))
    assert (rows["request rate"].cost_low, rows["request rate"].cost_high) == pytest.approx((-0.2, 0.2), abs=0.06)
    assert rows["output length"].cost_low < 0 < rows["output length"].cost_high
    assert rows["prefix hits"].cost_high < 0 == rows["prefix hits"].cost_low
    swings = [row.swing for row in planned.sensitivity]
    assert swings == sorted(swings, reverse=True)


def test_frontier_has_no_point_that_another_beats(planned: Plan) -> None:
    points = planned.frontier
    for point in points:
        beaten = [p for p in points if p.tok_s_per_user >= point.tok_s_per_user and p != point]
        if point.fast:
            assert all(p.tok_s_per_device < point.tok_s_per_device or p.fast for p in beaten)
        else:
            assert any(p.tok_s_per_device >= point.tok_s_per_device for p in beaten)
        if point.cheap:
            assert all(p.usd_per_mtok > point.usd_per_mtok or p.cheap for p in beaten)
        else:
            assert any(p.usd_per_mtok <= point.usd_per_mtok for p in beaten)
    left, right = planned.plot()
    assert "tok/s" in left.get_xlabel()
    assert "per device" in left.get_ylabel()
    assert "$" in right.get_ylabel()


def test_command(tmp_path: Any) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(json.dumps(service("15 s")))
    words = [
        "plan",
        str(path),
        "--device",
        "nvidia-h100-sxm,nvidia-l40s",
        "--over",
        "pools.chat.tensor_parallel=1,2",
        "--workers",
        "2",
    ]
    result = CliRunner().invoke(cli, [*words, "--format", "json", "--plot", str(tmp_path / "plots")])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["over"]["pools.chat.tensor_parallel"] == [1, 2]
    assert report["fleets"][0]["attainment"]["chat"]["value"] >= 0.95
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"frontier.png", "frontier.svg"}


def test_only_where_some_are_owned_is_it_said_who_is(planned: Plan) -> None:
    assert "  paid  " not in planned.text()
    scenario = with_changes(load(service("20 s")), cost={"kind": "own"})
    sizes, names = {"pools.chat.tensor_parallel": [1]}, ["nvidia-h100-sxm", "nvidia-l40s"]
    found = plan(scenario, sizes, device=names, price={"nvidia-l40s": 1.0})
    paid = {fleet.device: fleet.paid for fleet in found.fleets}
    assert paid == {"nvidia-h100-sxm": "own", "nvidia-l40s": "rent"}
    table = found.text().partition("Fleets that keep")[2].splitlines()
    column = table[1].index("paid")
    assert {line[column:].split()[0] for line in table[2:4]} == {"own", "rent"}


def test_a_price_is_of_a_device_that_is_looked_at() -> None:
    scenario, sizes = load(service("20 s")), {"pools.chat.tensor_parallel": [1]}
    with pytest.raises(LookupError, match="price of `amd-mi300x`: it is not among the devices looked at: nvidia-l40s"):
        plan(scenario, sizes, device=["nvidia-l40s"], price={"amd-mi300x": 1.0})
    with pytest.raises(LookupError, match="did you mean `amd-mi300x`"):
        plan(scenario, sizes, price={"amd-mi300": 1.0})


def test_a_power_limit_is_for_fleets_that_are_looked_for(tmp_path: Any) -> None:
    """Eight replicas idle above it, and `run` refuses them; the plan finds the one that is needed. A limit below one is refused."""
    data = service("15 s", arrival={"rate": "10 /s"})
    data["pools"]["chat"]["replicas"] = 8
    path, words = tmp_path / "service.yaml", ["--device", "nvidia-h100-sxm", "--over", "pools.chat.tensor_parallel=1"]
    path.write_text(json.dumps(data | {"sites": {"here": {"preset": "germany", "power_limit": "2 kW"}}}))
    refused = CliRunner().invoke(cli, ["run", str(path)])
    assert (refused.exit_code, "expected at least" in refused.output) == (2, True)
    found = CliRunner().invoke(cli, ["plan", str(path), "--workers", "1", *words])
    assert found.exit_code == 0, found.output
    assert "1 x nvidia-h100-sxm (1 x TP1)" in found.output
    assert "--set pools.chat.replicas=1" in found.output
    for wrong, message in (
        ("sites.here.power_limit=100 W", "expected at least"),
        ("pools.chat.replicas=many", "whole number"),
    ):
        result = CliRunner().invoke(cli, ["plan", str(path), "--workers", "1", "--set", wrong, *words])
        assert (result.exit_code, message in result.output) == (2, True), result.output
    result = CliRunner().invoke(cli, ["plan", str(path), "--pool", "chta", *words])
    assert (result.exit_code, "unknown pool `chta`; did you mean `chat`" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--set", "workload.classes.chat.tpot=1 ms", "--device", "nvidia-l40s"], 1, "no fleet"),
        (["--pool", "chta"], 2, "did you mean `chat`"),
        (["--device", "h100x"], 2, "unknown hardware profile"),
        (["--price", "nvidia-l40s=cheap"], 2, "--price: expected DEVICE=USD"),
        (["--price", "nvidia-l40s"], 2, "--price: expected DEVICE=USD"),
        (["--over", "pools.chat.precision"], 2, "--over: expected PATH=V1,V2"),
        (
            ["--device", "nvidia-h100-sxm", "--price", "nvidia-l40s=1"],
            2,
            "error: price of `nvidia-l40s`: it is not among",
        ),
        (["--price", "nvidia-l40s=0"], 2, "--price: expected DEVICE=USD"),
        (["--price", "nvidia-l40s=-2"], 2, "--price: expected DEVICE=USD"),
        (["--price", "nvidia-l40s=nan"], 2, "--price: expected DEVICE=USD"),
        (["--set", "pools.chat.cost.price=$0/h", "--device", "nvidia-h100-sxm"], 1, "expected a price above $0/h"),
        (["--over", "pools.chat.replicas=1,2"], 2, "they are what is looked for"),
    ],
)
def test_exit_codes(tmp_path: Any, words: list[str], code: int, message: str) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(json.dumps(service("15 s")))
    result = CliRunner().invoke(cli, ["plan", str(path), "--workers", "1", *words])
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output
