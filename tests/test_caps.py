"""Power caps: even shares of every limit above a device, never exceeded, refused where nothing is left."""

from typing import Any

import pytest

from simfleet import load, simulate
from simfleet.document import SpecError
from simfleet.facility.caps import Caps
from simfleet.facility.site import rated_w
from simfleet.scenario import Scenario

SITE: dict[str, Any] = {
    "carbon_intensity": "1 g/kWh",
    "water": "1 L/kWh",
    "electricity_price": "0.1 $/kWh",
    "pue": 1.25,
}
POOL = {"model": "llama-3.1-8b", "device": "nvidia-h100-sxm", "replicas": 8}
PROMPTS = {
    "name": "all",
    "model": "llama-3.1-8b",
    "arrival": {"kind": "burst"},
    "count": 200,
    "tokens": {"input": {"dist": "constant", "value": 2000}, "output": {"dist": "constant", "value": 200}},
}


def scenario(pool: dict[str, Any] | None = None, site: dict[str, Any] | None = None, **pools: Any) -> Scenario:
    return load(
        {
            "name": "capped",
            "workload": {"streams": [PROMPTS]},
            "sites": {"here": SITE | (site or {})},
            "pools": {"chat": POOL | (pool or {}), **pools},
        }
    )


def device_w(found: Scenario, time_s: float = 0.0, pool: str = "chat") -> float:
    return Caps(found.pools, found.sites).device_w(pool, time_s)


def test_without_limits_a_device_has_its_own() -> None:
    assert device_w(scenario()) == 690.0


def test_a_device_cap_in_steps() -> None:
    capped = scenario({"power_cap": {"steps": {"0 h": "500 W", "1 h": "800 W"}, "repeat": "2 h"}})
    assert [device_w(capped, hours * 3600) for hours in (0, 0.9, 1, 2)] == [500.0, 500.0, 690.0, 500.0]
    assert list(Caps(capped.pools, capped.sites).times(3 * 3600)) == [0.0, 3600.0, 7200.0, 10_800.0]


def test_a_limit_of_the_pool_is_at_the_wall() -> None:
    """Eight H100 in one server: 1735 W + 1.088 x device watts."""
    assert device_w(scenario({"power_limit": f"{1735 + 1.088 * 8 * 400} W"})) == pytest.approx(400.0)


def test_a_rack_holds_whole_servers() -> None:
    limit = 4 * (1735 + 1.088 * 8 * 300)
    assert device_w(scenario(site={"rack": {"limit": f"{limit} W", "servers": 4}})) == pytest.approx(300.0)


def test_a_site_scales_all_its_devices_alike() -> None:
    other = {**POOL, "device": "nvidia-l40s", "replicas": 4}
    both = scenario(site={"power_limit": "8 kW"}, other=other)
    shares = [device_w(both, pool=name) / both.pools[name].profile.power.limit.value for name in ("chat", "other")]
    assert shares[0] == pytest.approx(shares[1])
    whole_w = sum(
        1.25 * rated_w(pool.profile, pool.devices)
        - 1.25 * pool.profile.server.factor.value * pool.devices * pool.profile.power.limit.value * (1 - shares[0])
        for pool in both.pools.values()
    )
    assert whole_w == pytest.approx(8000.0)


def test_cooling_takes_from_the_machines_when_it_is_warm() -> None:
    overhead = {"wet_bulb_c": {"steps": {"0 h": 15, "1 h": 30}}}
    place = {key: value for key, value in SITE.items() if key != "pue"} | {"power_limit": "7 kW", "overhead": overhead}
    data = {"name": "w", "workload": {"streams": [PROMPTS]}, "sites": {"here": place}, "pools": {"chat": POOL}}
    warm = load(data)
    assert device_w(warm, 3600) < device_w(warm) < 690.0


@pytest.mark.parametrize(
    ("pool", "site", "cap_w"),
    [
        ({"power_cap": "400 W"}, {}, 400.0),
        ({}, {"power_limit": "7 kW"}, (7000 / 1.25 - 1735) / 1.088 / 8),
    ],
)
def test_nothing_draws_more_than_its_cap(pool: dict[str, Any], site: dict[str, Any], cap_w: float) -> None:
    capped, free = simulate(scenario(pool, site)), simulate(scenario())
    assert free.timeline["accelerator_w"].max() > 8 * cap_w
    assert capped.timeline["accelerator_w"].max() <= 8 * cap_w * (1 + 1e-9)
    assert capped.run.records.duration_s > free.run.records.duration_s
    assert capped.summary["energy"]["joules"]["accelerator"] < free.summary["energy"]["joules"]["accelerator"]
    if "power_limit" in site:
        assert capped.timeline["facility_w"].max() <= 7000 * (1 + 1e-9)


def test_decode_hardly_slows_and_prompts_do() -> None:
    """At two thirds of its watts an H100 loses little where it waits for memory, a quarter where it computes."""

    def slower(inputs: int, outputs: int) -> float:
        tokens = {"input": {"dist": "constant", "value": inputs}, "output": {"dist": "constant", "value": outputs}}
        stream = {**PROMPTS, "tokens": tokens, "count": 64}
        seconds = []
        for cap in ("690 W", "460 W"):
            pools = {"chat": {**POOL, "replicas": 1, "power_cap": cap}}
            data = {"name": "c", "workload": {"streams": [stream]}, "sites": {"here": SITE}, "pools": pools}
            seconds.append(simulate(load(data)).run.records.duration_s)
        return seconds[1] / seconds[0] - 1

    assert 0.0 <= slower(10, 500) < 0.05
    assert 0.2 < slower(8000, 1) < 0.35


@pytest.mark.parametrize(
    ("pool", "site", "path", "message"),
    [
        (
            {"power_cap": "100 W"},
            {},
            "pools.chat.power_cap",
            "expected at least 1\\d\\d W, what is drawn with all devices awake and without work, got 100 W",
        ),
        ({"power_cap": {"steps": {"0 h": "500 W", "3 h": "90 W"}}}, {}, "pools.chat.power_cap", "got 90 W at 10800 s"),
        ({"power_limit": "2 kW"}, {}, "pools.chat.power_limit", "expected at least 3,0\\d\\d W, .*, got 2,000 W"),
        ({}, {"power_limit": "2 kW"}, "sites.here.power_limit", "expected at least 3,8\\d\\d W, .*, got 2,000 W"),
        ({}, {"rack": {"limit": "5 kW", "servers": 4}}, "sites.here.rack", "expected at least 12,\\d\\d\\d W"),
        ({"power_cap": "500"}, {}, "pools.chat.power_cap", "expected watts with a unit"),
        ({"sleep": {"after": "1 min", "draw": "90 W", "wake": "1 s"}}, {}, "pools.chat.sleep.draw", "at most 68 W"),
        ({"sleep": {"after": "0.5 s", "draw": "9 W", "wake": "1 s"}}, {}, "pools.chat.sleep.after", "at least 1 s"),
        (
            {"sleep": {"after": "9 s", "draw": "9 W", "wake": "1 s"}, "off": {"after": "9 s", "wake": "1 min"}},
            {},
            "pools.chat.off.after",
            "expected more than sleep.after \\(9 s\\)",
        ),
    ],
)
def test_what_is_refused(pool: dict[str, Any], site: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        scenario(pool, site)
    assert [problem.path for problem in error.value.problems] == [path]


def test_a_file_that_ends_before_the_arrivals_is_refused(tmp_path: Any) -> None:
    (tmp_path / "grid.csv").write_text("time_s,value\n0,300\n3600,200\n")
    (tmp_path / "s.yaml").write_text(
        "name: short\nhorizon: 3 h\nworkload: {streams: [{name: a, model: llama-3.1-8b, arrival: {rate: 1 /s}, "
        "tokens: {input: {dist: constant, value: 9}, output: {dist: constant, value: 9}}}]}\n"
        "sites:\n  here:\n    pue: 1.1\n    water: 1 L/kWh\n    electricity_price: 0.1 $/kWh\n"
        "    carbon_intensity: {file: grid.csv, unit: g/kWh}\n"
        "pools: {chat: {model: llama-3.1-8b, device: nvidia-h100-sxm}}\n"
    )
    with pytest.raises(
        SpecError, match=r"s\.yaml:5:.*a file ends after 7200 s, before the horizon of 10800 s: give `repeat`"
    ):
        load(tmp_path / "s.yaml")
