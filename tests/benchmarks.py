"""Speed and memory of the simulation alone: `python -m tests.benchmarks [NAME ...]`.

Every figure stands beside the cost of a bare SimPy timeout measured in the same process, because machines differ and noise comes and
goes: CPU time of `env.run()` over 200,000 `yield env.timeout(1.0)` in 100 processes. Memory is peak RSS minus the RSS before the fleet
is built. Each case runs in a process of its own. `sweep` is another thing: how many points per minute two local processes give for one's.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from simpy import Environment

from simfleet.planning.sweep import sweep
from simfleet.scenario import Scenario, load
from simfleet.simulation import simulate

TRACE = Path(__file__).parents[2] / "shared" / "data" / "traces" / "AzureLLMInferenceTrace_conv.csv.gz"
SHOWN = ("requests", "cpu_s", "requests_per_cpu_s", "output_tok_per_cpu_s", "iterations_per_cpu_s", "timeouts_per_s", "timeouts_per_request",
         "rss_mb", "bytes_per_request")  # fmt: skip


def _scaled(replicas: int, rate: int, count: int) -> Scenario:
    """w8's load on any number of replicas."""
    values = {
        "pools.chat.replicas": replicas,
        "workload.streams.chat.arrival.rate": f"{rate} /s",
        "workload.streams.chat.count": count,
    }
    return load("w8", overrides=list(values.items()))


def _azure() -> Scenario:
    """The Azure 2023 conversation trace on four 8xA100 replicas of Llama-2-70B."""
    trace = {"file": str(TRACE), "format": "azure-2023"}
    return load(
        {
            "name": "azure-trace",
            "workload": {"streams": [{"name": "conv", "model": "llama-2-70b", "trace": trace}]},
            "sites": {"here": {"preset": "us-virginia"}},
            "pools": {
                "a100": {
                    "site": "here",
                    "model": "llama-2-70b",
                    "device": "nvidia-a100-sxm-80gb",
                    "replicas": 4,
                    "tensor_parallel": 8,
                }
            },
            "routing": {"kind": "least_loaded"},
        }
    )


CASES = {
    "w1": lambda: load("w1"),
    "w8": lambda: load("w8"),
    "azure": _azure,
    "64 replicas, 10k": lambda: _scaled(64, 640, 10_000),
    "64 replicas, 1M": lambda: _scaled(64, 640, 1_000_000),
    "8 replicas, 100k": lambda: _scaled(8, 80, 100_000),
    "1024 replicas, 100k": lambda: _scaled(1024, 10_240, 100_000),
}


def bare_timeout_s() -> float:
    """CPU seconds of one bare SimPy timeout: the best of three."""

    def wait(env: Environment) -> Any:
        for _ in range(2000):
            yield env.timeout(1.0)

    best = float("inf")
    for _ in range(3):
        env = Environment()
        for _ in range(100):
            env.process(wait(env))
        start = process_time()
        env.run()
        best = min(best, process_time() - start)
    return best / 200_000


def rss_bytes() -> int:
    """Peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str) -> dict[str, float]:
    """Run one case in this process."""
    scenario, bare_s, base = CASES[name](), bare_timeout_s(), rss_bytes()
    start = process_time()
    records = simulate(scenario, seed=1, requests=False).run.records
    cpu_s = process_time() - start
    requests = sum(account.arrived for account in records.accounts)
    return {
        "requests": requests,
        "cpu_s": cpu_s,
        "requests_per_cpu_s": requests / cpu_s,
        "output_tok_per_cpu_s": sum(pool.output_tokens for pool in records.pools) / cpu_s,
        "iterations_per_cpu_s": sum(pool.iterations for pool in records.pools) / cpu_s,
        "timeouts_per_s": 1 / bare_s,
        "timeouts_per_request": cpu_s / requests / bare_s,
        "rss_mb": rss_bytes() / 1e6,
        "bytes_per_request": (rss_bytes() - base) / requests,
    }


def points_per_minute(workers: int, seeds: int) -> float:
    """Of a sweep of CPU-bound points, 15 minutes of the quickstart each, start of the processes and all; nothing is kept."""
    start = perf_counter()
    over = {"pools.h100.replicas": [1, 2, 3, 4]}
    sweep("quickstart", over, seeds, overrides={"horizon": "15 min"}, workers=workers, cache=False)
    return 60 * len(over["pools.h100.replicas"]) * seeds / (perf_counter() - start)


def print_sweep(rounds: int = 2, seeds: int = 30) -> None:
    """Points per minute of one process (this one) and of two, in turns, and the best of each as a ratio."""
    rates = [[points_per_minute(workers, seeds) for workers in (1, 2)] for _ in range(rounds)]
    one, two = (max(column) for column in zip(*rates, strict=True))
    shown = "; ".join(f"{first:,.0f} and {second:,.0f} ({second / first:.2f})" for first, second in rates)
    print(f"sweep: points per minute of one process and of two: {shown}; best of each: {two / one:.2f} times as many")


def main(names: list[str]) -> None:
    """Print one row per case."""
    if names[:1] == ["--json"]:
        print(json.dumps(measure(names[1])))
        return
    print(f"{'case':22}" + "".join(f"{name:>22}" for name in SHOWN))
    for name in names or [*CASES, "sweep"]:
        if name == "sweep":
            print_sweep()
            continue
        command = [sys.executable, "-m", "tests.benchmarks", "--json", name]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{name:22}" + "".join(f"{row[key]:>22,.{1 if row[key] < 1000 else 0}f}" for key in SHOWN), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
