"""For the tests of gates: a scenario that runs in no time, its reports, and reports with numbers of the test's own."""

from copy import deepcopy
from functools import cache
from typing import Any

from simfleet.gate.metrics import Known, groups_of
from simfleet.scenario import Scenario, load
from simfleet.simulation import simulate

SMALL = """\
name: small
workload:
  classes:
    chat: {ttft: 1 s, tpot: 50 ms, target: 0.95}
    night: {e2e: 30 s, target: 0.9}
  streams:
    - name: talk
      model: llama-3.1-8b
      class: chat
      arrival: {rate: 8 /s}
      tokens:
        input: {dist: lognormal, median: 400, sigma: 0.5, max: 2000}
        output: {dist: constant, value: 20}
      count: 300
    - name: batch
      model: llama-3.1-8b
      class: night
      arrival: {rate: 2 /s}
      tokens:
        input: {dist: constant, value: 500}
        output: {dist: constant, value: 20}
      count: 120
pools:
  chat: {model: llama-3.1-8b, device: nvidia-h100-sxm}
"""
OVERLOADED = "{kind: continuous, max_sequences: 1, queue_limit: 1}"


@cache
def small(**overrides: str) -> Scenario:
    """SMALL with values replaced; dots of a path are written `__`."""
    import yaml  # noqa: PLC0415

    return load(yaml.safe_load(SMALL), {path.replace("__", "."): value for path, value in overrides.items()})


@cache
def _reports(seeds: int) -> list[dict[str, Any]]:
    return [simulate(small(), seed=seed, requests=False).summary for seed in range(seeds)]


def reports(seeds: int = 3) -> list[dict[str, Any]]:
    """Reports of SMALL, yours to change."""
    return deepcopy(_reports(seeds))


def known() -> Known:
    return groups_of(small())


def with_values(path: str, *values: Any) -> list[dict[str, Any]]:
    """A report for each value, which stands at a dotted path."""
    found = reports(1) * 0
    for seed, value in enumerate(values):
        report = reports(1)[0] | {"seed": seed}
        *keys, last = path.split(".")
        entry = report
        for key in keys:
            entry = entry[key]
        entry[last] = value
        found.append(report)
    return found
