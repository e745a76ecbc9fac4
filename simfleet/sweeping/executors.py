"""Where the runs of a sweep are computed: in this process, in processes beside it, or on a Dask cluster."""

import gc
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import connection, get_context, parent_process
from typing import Any, Literal, NamedTuple

from simfleet.document import Document, SpecError
from simfleet.library import Library
from simfleet.scenario import Scenario, built
from simfleet.simulation import simulate
from simfleet.sweeping.points import Json, content, program

Status = Literal["ok", "bad input", "simulation error"]
DASK = "dask://"
DASK_WAITS_S = 20
DASK_DEATH = "KilledWorker"
"""What Dask raises for a task that several workers died of."""
LEAST_ON_DASK = 256
"""Runs handed to a cluster at least before answers are awaited, so that it may grow."""


class Job(NamedTuple):
    """One run: a point under a seed. `payload` is its scenario, packed."""

    point: int
    seed: int
    payload: bytes
    content: str
    key: str = ""


class Answer(NamedTuple):
    """The metric sets of a run, or why there are none."""

    status: Status
    sets: list[Json]
    error: str = ""


class ForeignWorkerError(ValueError):
    """A worker has another program or other files than the process that gives out the work."""


# -- in a worker ----------------------------------------------------------------------------------------------------------


def pack(document: Document, library: Library) -> bytes:
    """A scenario to send: what was written, without the places, and where names are looked up. Raises ValueError."""
    bare = replace(document, marks={}, keys={})
    try:
        return pickle.dumps((bare, tuple(path.absolute() for path in library.paths)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"cannot be sent to a worker: {error}; define own policies in a module") from None


@lru_cache(maxsize=2)
def unpack(payload: bytes) -> tuple[Scenario, str]:
    """The scenario and its content; the seeds of a point share it."""
    document, paths = pickle.loads(payload)
    scenario = built(document, _library(paths))
    return scenario, content(scenario)


_library = lru_cache(maxsize=4)(Library)
"""Profiles and models are read once in a process; trace files too (simfleet.workload.tracefile)."""


def _as_sent(payload: bytes, wanted: str) -> Scenario:
    """The scenario; files that changed since an earlier sweep are read again. Raises ForeignWorkerError, SpecError."""
    for again in (False, True):
        try:
            scenario, found = unpack(payload)
        except SpecError:
            if again:
                raise
        else:
            if found == wanted:
                return scenario
        unpack.cache_clear()
        _library.cache_clear()
    raise ForeignWorkerError("a worker sees other files than there were at the start of the sweep: run it again")


def simulated(
    payload: bytes, seed: int, wanted: str, wanted_program: str, pick: Callable[[Json], list[Json]]
) -> Answer:
    """Run one point under one seed. Raises ForeignWorkerError; what fails in the run itself is the answer."""
    if program() != wanted_program:
        raise ForeignWorkerError(f"expected workers with {wanted_program}, got {program()}")
    try:
        scenario = _as_sent(payload, wanted)
    except SpecError as error:
        raise ForeignWorkerError(f"a worker does not see the files that are here: {error}") from None
    except (AttributeError, ImportError) as error:
        hint = "define own policies in a module that workers can import, or give workers=1"
        raise ForeignWorkerError(f"a worker does not know a policy: {error}; {hint}") from None
    try:
        return Answer("ok", pick(simulate(scenario, seed, requests=False).summary))
    except Exception as error:  # one bad point is not the end of a sweep
        return Answer("simulation error", [], f"{type(error).__name__}: {error}")


# -- pools of workers -----------------------------------------------------------------------------------------------------


class Here(Executor):
    """Runs in this process, one after the other."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future is done when it is given back."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # it is the future's
            future.set_exception(error)
        return future


@dataclass
class Pool:
    """An executor, how many runs it is given at once, and how to have another one when a worker has died and broken it."""

    executor: Executor
    at_once: int
    renew: Callable[[], Executor] | None = None

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return self.executor.submit(call, *arguments)
        except BrokenExecutor as error:
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def replaced(self, error: BaseException) -> None:
        """Go on with new workers. Raises the error where that cannot be."""
        if self.renew is None:
            raise error
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = self.renew()


@contextmanager
def open_pool(where: str | Executor | None, workers: int | None) -> Iterator[Pool]:
    """Workers: `local` processes, `dask://host:port`, or any executor. Raises ValueError for anything else, or where nobody answers."""
    if isinstance(where, Executor):
        yield Pool(where, LEAST_ON_DASK)
    elif where is None or where == "local":
        with _local(workers or _processors()) as pool:
            yield pool
    elif where.startswith(DASK):
        with _dask(where.removeprefix(DASK)) as pool:
            yield pool
    else:
        raise ValueError(f"unknown executor `{where}`: expected `local` or `{DASK}host:port`")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _local(workers: int) -> Iterator[Pool]:
    def processes() -> Executor:
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)

    pool = Pool(Here(), 1) if workers == 1 else Pool(processes(), 2 * workers, processes)
    try:
        yield pool
    except BaseException:
        for process in list((getattr(pool.executor, "_processes", None) or {}).values()):  # runs may take long
            process.terminate()
        raise
    finally:
        pool.executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, and ends with it even when the parent was killed. What it has imported stays to the end, so that
    nothing is looked for in it, least of all when the worker ends."""
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _dask(address: str) -> Iterator[Pool]:
    try:
        import distributed  # noqa: PLC0415 - only who has a cluster needs it
    except ImportError:
        raise ValueError("expected the package `distributed`; `pip install simfleet[dask]` brings it") from None
    connect: Any = distributed.Client
    where = address if "://" in address else f"tcp://{address}"
    try:
        client = connect(where, timeout=DASK_WAITS_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at `{where}`: {error}") from None
    with client:
        threads = sum(client.nthreads().values())
        yield Pool(client.get_executor(pure=False), max(LEAST_ON_DASK, 4 * threads))


# -- the work -------------------------------------------------------------------------------------------------------------


def answered(
    pool: Pool, jobs: Iterator[Job | None], pick: Callable[[Json], list[Json]]
) -> Iterator[tuple[Job, Answer]]:
    """Every job with its answer, as they come; where `jobs` gives None there is nothing to do but to look whether one came.

    Raises ForeignWorkerError, and RuntimeError where no worker lives long enough to answer.
    """
    running: dict[Future[Answer], Job] = {}
    suspects: deque[Job] = deque()
    more, proven, broken = True, False, BrokenExecutor()
    while more or running or suspects:
        room = more and not suspects and len(running) < pool.at_once
        if room:
            try:
                job = next(jobs)
            except StopIteration:
                more, job = False, None
            if job is not None:
                running[_submit(pool, job, pick)] = job
        elif not running:
            yield suspects[0], _alone(pool, suspects.popleft(), pick)
        for future in wait(running, timeout=0 if room else None, return_when=FIRST_COMPLETED).done:
            job, error = running.pop(future), _error(future)
            if isinstance(error, BrokenExecutor):
                broken = error
                suspects.append(job)
            else:
                proven = True
                yield job, future.result() if error is None else _died(error)
        if broken.args and suspects and not running:
            _go_on(pool, proven, broken)
            broken = BrokenExecutor()


def _submit(pool: Pool, job: Job, pick: Callable[[Json], list[Json]]) -> Future[Answer]:
    return pool.submit(simulated, job.payload, job.seed, job.content, program(), pick)


def _error(future: Future[Answer]) -> BaseException | None:
    """What went wrong with a worker, not with a run. Raises what concerns them all."""
    try:
        error = future.exception()
    except CancelledError:
        raise RuntimeError("the scheduler is gone: what was finished is kept, run it again to go on") from None
    if error is None or isinstance(error, BrokenExecutor) or type(error).__name__ == DASK_DEATH:
        return error
    if isinstance(error, ForeignWorkerError | KeyboardInterrupt):
        raise error
    raise ForeignWorkerError(f"a worker cannot simulate: {type(error).__name__}: {error}") from error


def _died(error: BaseException) -> Answer:
    return Answer("simulation error", [], f"no worker survived it: {error}")


def _go_on(pool: Pool, proven: bool, broken: BrokenExecutor) -> None:
    """New workers after one died. Raises RuntimeError where they die without any work."""
    pool.replaced(broken)
    if not proven and isinstance(pool.submit(program).exception(), BrokenExecutor):
        hint = "in a script, call sweep() under `if __name__ == '__main__':`"
        raise RuntimeError(f"worker processes end as soon as they begin; {hint}, or give workers=1")


def _alone(pool: Pool, job: Job, pick: Callable[[Json], list[Json]]) -> Answer:
    """A run that was under way when a worker died, once more and with nothing beside it."""
    future = _submit(pool, job, pick)
    error = _error(future)
    if isinstance(error, BrokenExecutor):
        pool.replaced(error)
        return Answer("simulation error", [], "the process that simulated it died twice: is there enough memory?")
    return future.result() if error is None else _died(error)
