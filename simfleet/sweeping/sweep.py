"""Many scenarios under many seeds: every point of a grid simulated, what was finished before taken from the cache."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from simfleet.document import Document, SpecError
from simfleet.library import Library
from simfleet.scenario import Scenario, built, draft
from simfleet.sweeping.executors import Answer, Job, answered, open_pool, pack
from simfleet.sweeping.points import Cache, axes, content, count, default_folder, points
from simfleet.sweeping.table import Sweep, metric_sets


class Progress(NamedTuple):
    """Runs of a sweep: all of them, those that have their answer, and of these how many were kept from before or failed."""

    total: int
    done: int
    kept: int
    failed: int


def sweep(
    scenario: Scenario | str | Path | Mapping[str, Any],
    over: Mapping[str, Iterable[Any]],
    seeds: int | Iterable[int] = 1,
    *,
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    variant: str | None = None,
    paths: str | Path | Iterable[str | Path] = (),
    executor: str | Executor | None = None,
    workers: int | None = None,
    cache: str | Path | Literal[False] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Sweep:
    """Simulate every point of a grid under every seed.

    scenario  -- what `load` takes, or a Scenario
    over      -- dotted path -> values; the grid is their product, the last path first
    seeds     -- how many (0, 1, ...) or which; the same at every point, so that points differ by what was changed, not by luck
    overrides, variant, paths -- as for `load`
    executor  -- "local" processes, "dask://host:port", or any concurrent.futures.Executor
    workers   -- local processes, all processors by default; 1 is this process itself
    cache     -- folder for the numbers of every run, so that a sweep that was stopped goes on; False keeps none, None is the default
                 folder (SIMFLEET_CACHE, or `simfleet` in the user's folder for caches)
    progress  -- called with `Progress` after every run

    A point that is no valid scenario, or whose simulation fails, is a row with its error. Raises SpecError where not one point is
    valid, OSError for a cache that cannot be written, ValueError for an executor that does not answer or has another simfleet.
    """
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"expected at least one seed, and each once, got {list(numbers)}")
    base, library = draft(scenario, overrides, variant, paths)
    found = Sweep(str(base.data.get("name", "")), tuple(axes(over)), numbers)
    store = None if cache is False else Cache(Path(cache) if cache is not None else default_folder())
    gathering = _Gathering(found, store, progress)
    with open_pool(executor, workers) as pool:
        for job, answer in answered(pool, gathering.jobs(base, library), metric_sets):
            gathering.keep(job, answer)
    if len(gathering.refused) == len(found.points):
        raise gathering.refused[0]
    return found


@dataclass
class _Gathering:
    """A sweep on its way: runs that were kept from before are taken, the others handed out, and their answers noted."""

    found: Sweep
    store: Cache | None
    progress: Callable[[Progress], None] | None
    taken: int = 0
    failed: int = 0
    refused: list[SpecError] = field(default_factory=list)

    def jobs(self, base: Document, library: Library) -> Iterator[Job | None]:
        """The runs to compute, made as they are asked for; None for those that need not be."""
        for point in points(base, self.found.axes):
            self.found.points.append(point.labels)
            try:
                if isinstance(point.document, SpecError):
                    raise point.document
                named = content(built(point.document, library))
            except SpecError as error:
                self.refused.append(error)
                for seed in self.found.seeds:
                    self._note(point.number, seed, Answer("bad input", [], str(error)))
                yield None
                continue
            payload = pack(point.document, library)
            for seed in self.found.seeds:
                job = Job(point.number, seed, payload, named, Cache.key(named, seed) if named else "")
                yield None if self._take(job) else job

    def _take(self, job: Job) -> bool:
        """Whether the numbers of a run were kept; they are noted."""
        sets = self.store.get(job.key) if self.store is not None and job.key else None
        if sets is None:
            return False
        self.taken += 1
        self._note(job.point, job.seed, Answer("ok", sets))
        return True

    def keep(self, job: Job, answer: Answer) -> None:
        """Put the answer of a run where a sweep that is stopped will find it. Raises OSError."""
        if self.store is not None and job.key and answer.status == "ok":
            self.store.put(job.key, answer.sets)
        self._note(job.point, job.seed, answer)

    def _note(self, point: int, seed: int, answer: Answer) -> None:
        self.found.answers[point, seed] = answer
        self.failed += answer.status != "ok"
        if self.progress is not None:
            total = count(self.found.axes) * len(self.found.seeds)
            self.progress(Progress(total, len(self.found.answers), self.taken, self.failed))
