"""Sweeps over several processes and on a Dask cluster: killed at any moment and run again, the same table."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import simfleet as sf
from simfleet.serving.routing import RoundRobin
from simfleet.sweeping import executors
from simfleet.sweeping.executors import open_pool
from simfleet.sweeping.sweep import Progress
from simfleet.sweeping.table import Sweep
from tests.deadly import Deadly
from tests.test_sweep import RATE, REPLICAS, TINY, kept

ROOT = Path(__file__).parents[1]
GRID = {
    REPLICAS: list(range(1, 11)),
    RATE: [f"{rate} /s" for rate in (10, 20, 40, 80, 160)],
    "pools.chat.precision": ["bf16", "fp8"],
    "warmup": ["0 s", "100 ms"],
}
"""200 points."""
PATIENCE_S = 120


def tables(found: Sweep, path: Path) -> bytes:
    found.save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of GRID from one process that nothing interrupts."""
    return tables(sf.sweep(TINY, GRID, workers=1, cache=False), tmp_path_factory.mktemp("whole") / "whole.csv")


def until(true: Callable[[], Any], what: str) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


# -- processes -----------------------------------------------------------------------------------------------------------


def test_two_processes_give_the_table_of_one(tmp_path: Path) -> None:
    over = {REPLICAS: [1, 2, 3], RATE: ["20 /s", "80 /s"]}
    one, two = (tables(sf.sweep(TINY, over, 2, workers=n, cache=False), tmp_path / f"{n}.csv") for n in (1, 2))
    assert one == two


@pytest.mark.parametrize(("times", "failed"), [(1, False), (99, True)])
def test_a_worker_that_dies_costs_no_other_point(tmp_path: Path, times: int, failed: bool) -> None:
    """Once: it is tried again. Always: its own point is a row with an error."""
    deadly = Deadly(folder=str(tmp_path), times=times)
    found = sf.sweep(TINY, {"routing": [deadly, RoundRobin()]}, workers=2, cache=tmp_path / "cache")
    wholes = found.table.query("of == 'all'")
    assert (wholes["status"] == "ok").tolist() == [not failed, True]
    assert len(kept(tmp_path / "cache")) == (1 if failed else 2)
    assert all("died twice" in error for error in found.failures.values())


def test_workers_that_cannot_begin_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_begin", os.abort)
    with pytest.raises(RuntimeError, match="if __name__ == '__main__'"):
        sf.sweep(TINY, {REPLICAS: [1]}, workers=2, cache=False)


def test_any_executor_will_do(tmp_path: Path) -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, *given: Any, **named: Any) -> Any:
            raise BrokenProcessPool("gone")

    with ThreadPoolExecutor(1) as threads:
        assert sf.sweep(TINY, {REPLICAS: [1, 2]}, executor=threads, cache=False).failures == {}
    with Broken(1) as broken, pytest.raises(BrokenProcessPool):
        sf.sweep(TINY, {REPLICAS: [1]}, executor=broken, cache=False)


def test_what_is_finished_is_stored_before_the_next_run_is_looked_for(tmp_path: Path) -> None:
    """Wherever a sweep is killed, all answers that had come are in the cache: among kept runs too."""
    sf.sweep(TINY, {REPLICAS: [2, 3, 4]}, workers=1, cache=tmp_path)
    seen = []
    sf.sweep(
        TINY,
        {REPLICAS: [1, 2, 3, 4, 5]},
        workers=1,
        cache=tmp_path,
        progress=lambda _: seen.append(len(kept(tmp_path))),
    )
    assert seen == [4, 4, 4, 4, 5]


def test_a_worker_that_cannot_simulate_ends_the_sweep() -> None:
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, *given: Any, **named: Any) -> Any:
            return super().submit(__import__, "a module that is not here")

    with Elsewhere(1) as other, pytest.raises(ValueError, match="a worker cannot simulate: ModuleNotFoundError"):
        sf.sweep(TINY, {REPLICAS: [1]}, executor=other, cache=False)


# -- killed --------------------------------------------------------------------------------------------------------------


def command(scenario: Path, cache: Path, out: Path, *more: str) -> list[str]:
    over = [word for path, values in GRID.items() for word in ("--over", f"{path}={','.join(map(str, values))}")]
    main = [sys.executable, "-c", "from simfleet.cli import main; main()"]
    return [*main, "sweep", str(scenario), *over, "--cache", str(cache), "--out", str(out), *more]


def children(process: int) -> list[int]:
    """Processes begun by a process, on Linux."""
    return [int(word) for path in Path(f"/proc/{process}/task").glob("*/children") for word in path.read_text().split()]


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_three_times_and_resumed_the_table_is_the_same(tmp_path: Path, whole: bytes) -> None:
    """200 points on two processes. What was finished is not computed again, and no worker outlives its parent."""
    scenario, cache, out = tmp_path / "tiny.yaml", tmp_path / "cache", tmp_path / "killed.csv"
    scenario.write_text(json.dumps(TINY))
    stamps: dict[str, int] = {}
    for wanted in (20, 80, 150):
        process = subprocess.Popen(command(scenario, cache, out, "--workers", "2"), stdout=subprocess.DEVNULL)
        until(lambda wanted=wanted: len(kept(cache)) >= wanted, f"{wanted} runs")
        workers = children(process.pid)
        process.kill()
        process.wait()
        until(lambda workers=workers: not any(map(lives, workers)), "the end of the workers")
        now = {path.name: path.stat().st_mtime_ns for path in kept(cache)}
        assert wanted <= len(now) < 200
        assert stamps.items() <= now.items()
        assert not out.exists()
        stamps = now
    last = subprocess.run(command(scenario, cache, out, "--workers", "2"), check=True, capture_output=True, text=True)
    assert len(last.stdout.splitlines()) == 202
    assert len(kept(cache)) == 200
    assert stamps.items() <= {path.name: path.stat().st_mtime_ns for path in kept(cache)}.items()
    assert out.read_bytes() == whole


# -- Dask ----------------------------------------------------------------------------------------------------------------


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers started from the command line: the address, and the three processes."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    here = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = [
        *dask,
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(file),
    ]
    worker = [*dask, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    processes = [subprocess.Popen(scheduler, **here)]
    try:
        until(file.exists, "the scheduler")
        processes += [subprocess.Popen(worker, **here) for _ in range(2)]
        yield json.loads(file.read_text())["address"].removeprefix("tcp://"), processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.filterwarnings("default")
def test_on_dask_with_a_worker_killed_the_table_is_the_same(tmp_path: Path, whole: bytes) -> None:
    """A scheduler and two workers from the command line; one is killed after 60 of 200 points."""
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with cluster(tmp_path) as (address, processes):
        with distributed.Client(f"tcp://{address}", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=PATIENCE_S)
        left: list[int] = []

        def kill(now: Progress) -> None:
            if now.done == 60:
                processes[1].send_signal(signal.SIGKILL)
                processes[1].wait()
            if now.done == 190:
                left.extend(process.pid for process in processes if process.poll() is None)

        found = sf.sweep(TINY, GRID, executor=f"dask://{address}", cache=False, progress=kill)
    assert len(left) == 2
    assert found.failures == {}
    assert tables(found, tmp_path / "dask.csv") == whole


@pytest.mark.filterwarnings("default")
def test_on_a_local_cluster(tmp_path: Path) -> None:
    """Killed by a point on every try, a worker costs that point only; the client's own executor will do as well."""
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    deadly = Deadly(folder=str(tmp_path), times=99)
    over = {"routing": [RoundRobin(), deadly], REPLICAS: [1]}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as local, distributed.Client(local, set_as_default=False) as client:
        address = local.scheduler_address.removeprefix("tcp://")
        found = sf.sweep(TINY, over, executor=f"dask://{address}", cache=tmp_path / "cache")
        again = sf.sweep(TINY, {REPLICAS: [1, 2]}, executor=client.get_executor(), cache=tmp_path / "cache")
    assert found.table["status"].tolist()[-1] == "simulation error"
    assert "no worker survived it: " in found.failures[1]
    assert (len(found.failures), again.failures, len(kept(tmp_path / "cache"))) == (1, {}, 2)


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    monkeypatch.setattr(executors, "DASK_WAITS_S", 0.2)
    with (
        pytest.raises(ValueError, match=r"no Dask scheduler answers at `tcp://127\.0\.0\.1:1`"),
        open_pool("dask://127.0.0.1:1", None),
    ):
        pass


def test_without_distributed_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"simfleet\[dask\]"), open_pool("dask://127.0.0.1:1", None):
        pass
