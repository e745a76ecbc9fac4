"""A report says whether its run stayed where the simulator was compared with measured runs."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from simfleet import load, simulate
from simfleet.cli import cli


def said(**pool: Any) -> str:
    """What a short run of w1 says of its validity, with its pool changed."""
    changes = {
        "workload.streams.chat.count": 20,
        **{f"pools.chat.{path.replace('__', '.')}": value for path, value in pool.items()},
    }
    line = simulate(load("w1", overrides=changes)).summary["validity"][0]
    assert isinstance(line, str)
    return line


def test_inside() -> None:
    assert said().startswith("chat: within what was compared: nvidia-h100-sxm with vllm, median errors TTFT")


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"engine": {"preset": "sglang"}}, "with sglang was never compared with a serving run, only with vllm"),
        ({"device": "nvidia-l40s"}, "nvidia-l40s with vllm was never compared with a serving run"),
        ({"device": "aws-trainium2"}, "its step constants are estimates: "),
    ],
)
def test_outside(pool: dict[str, Any], words: str) -> None:
    line = said(**pool)
    assert line.startswith("chat: OUTSIDE")
    assert words in line


def test_a_cap_below_half_of_the_limit_is_beyond() -> None:
    limit_w = load("w1").pools["chat"].profile.power.limit.value
    assert "held to" not in said(power_cap=f"{0.51 * limit_w} W")
    line = said(power_cap=f"{0.49 * limit_w} W")
    assert line.startswith("chat: OUTSIDE what was compared")
    assert line.endswith(f": devices held to {0.49 * limit_w:.0f} W (compared: down to {0.5 * limit_w:.0f} W)")


def test_the_range_of_estimates_is_a_factor() -> None:
    result = simulate(load("w1", overrides={"workload.streams.chat.count": 20, "pools.chat.device": "aws-trainium2"}))
    mean_ms = 1e3 * result.summary["latency"]["tpot_s"]["mean"]
    assert f"{mean_ms / 1.5:.3g} to {mean_ms * 1.5:.3g} ms per token" in result.summary["validity"][0]


def test_the_range_of_estimated_watts_is_carried_to_the_meter() -> None:
    """30 % of the busy joules either way, times the server's factor and the PUE."""
    result = simulate(load("w1", overrides={"workload.streams.chat.count": 20, "pools.chat.device": "nvidia-l40s"}))
    ledger, pool = result.run.records.pools[0], result.run.scenario.pools["chat"]
    site = result.run.scenario.sites[pool.site]
    assert site.pue is not None
    off_j = 0.3 * ledger.active_j * pool.profile.server.factor.value * site.pue
    low, high = (ledger.facility_j + sign * off_j for sign in (-1, 1))
    assert result.summary["pools"][0]["energy"]["facility_range_j"] == pytest.approx([low, high])
    line = result.summary["validity"][1]
    assert (
        f"{low / ledger.output_tokens:.3g} to {high / ledger.output_tokens:.3g} J per output token at the meter" in line
    )
    fitted = simulate(load("w1", overrides={"workload.streams.chat.count": 20})).summary
    assert fitted["pools"][0]["energy"]["facility_range_j"] is None


def test_beyond_what_was_compared() -> None:
    load_ = {"workload.streams.chat.arrival": {"kind": "burst"}, "workload.streams.chat.count": 250}
    longer = {"workload.streams.chat.tokens.input": {"dist": "constant", "value": 20_000}}
    result = simulate(load("w1", overrides={**load_, **longer}))
    assert simulate(load("w1", overrides={**load_, **longer}), requests=False).summary == result.summary
    (line,) = result.summary["validity"]
    assert line.startswith("chat: OUTSIDE what was compared")
    assert "20,250 tokens (compared: 16,384)" in line
    assert "sequences a step" not in line
    (line,) = simulate(load("w1", overrides=load_)).summary["validity"]
    assert "sequences a step (compared: 64)" in line


def test_it_is_printed() -> None:
    result = CliRunner().invoke(cli, ["run", "w1", "--set", "workload.streams.chat.count=20"])
    assert "Validity\n  chat: within what was compared" in result.stdout
    found = json.loads(
        CliRunner().invoke(cli, ["run", "w1", "--set", "workload.streams.chat.count=20", "--format", "json"]).stdout
    )
    assert len(found["validity"]) == 1
