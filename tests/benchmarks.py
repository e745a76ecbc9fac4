"""Speed and memory of the simulation alone: `python -m tests.benchmarks [NAME ...]`.

Every figure stands beside the cost of a bare SimPy timeout measured in the same process, because machines differ and noise comes and
goes: CPU time of `env.run()` over 200,000 `yield env.timeout(1.0)` in 100 processes. Memory is peak RSS minus the RSS before the fleet
is built. Each case runs in a process of its own. `sweep` is another thing: how many points per minute two local processes give for one's,
beside what the machine's two processors give where nothing is shared.
"""

import json
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from simpy import Environment

from simfleet.scenario import Scenario, load
from simfleet.simulation import simulate
from simfleet.sweeping.sweep import sweep

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
    """Of a sweep of CPU-bound points, 15 minutes of the quickstart each, start and end of the processes and all; nothing is kept."""
    start = perf_counter()
    over = {"pools.h100.replicas": [1, 2, 3, 4]}
    sweep("quickstart", over, seeds, overrides={"horizon": "15 min"}, workers=workers, cache=False)
    return 60 * len(over["pools.h100.replicas"]) * seeds / (perf_counter() - start)


def side_by_side(seeds: int) -> float:
    """Points per minute of two processes that have begun and share nothing, half of the seeds each: what the machine has to give."""
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        for count in (1, seeds // 2):
            rates = list(executor.map(points_per_minute, (1, 1), (count, count)))
    return sum(rates)


def print_sweep(rounds: int = 3, seeds: int = 36) -> None:
    """Points per minute of one process (this one, which need not start), of two, and of two that share nothing, in turns.

    A round is about a minute of work for one process. Two take half a second to start, which counts against them.
    """
    rates = [[points_per_minute(1, seeds), points_per_minute(2, seeds), side_by_side(seeds)] for _ in range(rounds)]
    for one, two, most in [*rates, [max(column) for column in zip(*rates, strict=True)]]:
        print(
            f"sweep: points per minute: one process {one:,.0f}; two {two:,.0f}, {two / one:.2f} times as many; "
            f"two that share nothing {most:,.0f}, {most / one:.2f} times",
            flush=True,
        )
    print("the last line is the best of each")


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
