"""How many replicas: numbers of them simulated until n keep the targets and n - 1 do not; candidates searched side by side."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simfleet.document import SpecError
from simfleet.gate.judge import NO_STEADY_STATE, Row, judge
from simfleet.gate.targets import CONFIDENCE, Target
from simfleet.intervals import share_interval
from simfleet.planning.candidates import Candidate
from simfleet.records import Status
from simfleet.report.metrics import targets_met
from simfleet.result import Result
from simfleet.scenario import Scenario
from simfleet.sensitivity.edits import edited, faster
from simfleet.simulation import simulate
from simfleet.terminal import counted

Json = dict[str, Any]
AT_MOST = 6
"""Devices that are simulated where none are named, besides the scenario's own."""
FURTHEST = 4
"""Most replicas that are tried, in guesses."""
BATCHES = 20
"""Parts of a run whose scatter says how far attainment is by chance."""
SPARED = ("utilisation", "kv_occupancy")
"""Metrics that a limit from below asks to be used, not spared: more replicas do not help."""

# -- one number of replicas -----------------------------------------------------------------------------------------------


class Share(NamedTuple):
    """Requests of a class that met every target / all that are judged, its 95 % interval, and the wanted share [1]."""

    value: float
    low: float
    high: float
    target: float

    @property
    def margin(self) -> float:
        """How far above the target, as a share of what may be missed."""
        return (self.value - self.target) / max(1 - self.target, 1e-9)


def share(parts: Sequence[NDArray[np.bool_]], target: float) -> Share:
    """The share over all `parts` (one per seed, in order of arrival) with its interval for as many requests as are independent.

    Requests in one queue miss together: n is divided by how much further the means of BATCHES parts of each run scatter than those of
    independent requests would, and by no less than 1.
    """
    n, met = sum(map(len, parts)), sum(int(part.sum()) for part in parts)
    if not n:
        return Share(0.0, 0.0, 1.0, target)
    p = met / n
    means = [(len(chunk), chunk.mean()) for part in parts for chunk in np.array_split(part, BATCHES) if len(chunk)]
    scatter = sum(size * (mean - p) ** 2 for size, mean in means) / max(len(means) - 1, 1)
    independent = n / max(scatter / (p * (1 - p)), 1.0) if 0 < met < n else n
    _, low, high = share_interval(p * independent, independent, CONFIDENCE)
    return Share(p, low, high, target)


@dataclass(frozen=True)
class Tried:
    """One number of replicas, simulated under every seed; `why` where it could not be built.

    shares  -- by class
    reports -- one per seed
    targets -- verdicts on the scenario's targets that more replicas help to keep: latency, attainment, rejections ...
    budgets -- and on those that they do not: dollars, joules, watts, output per device
    """

    replicas: int
    shares: dict[str, Share] = field(default_factory=dict)
    reports: tuple[Json, ...] = ()
    targets: tuple[Row, ...] = ()
    budgets: tuple[Row, ...] = ()
    why: str = ""

    @property
    def served(self) -> bool:
        """Whether every class reached its target, no run fell behind for good, and no target but of the budgets was missed."""
        sound = all(report["regime"] not in NO_STEADY_STATE for report in self.reports)
        reached = all(part.value >= part.target for part in self.shares.values())
        return bool(self.reports) and sound and reached and not missed(self.targets)

    @property
    def kept(self) -> bool:
        """Whether it is served within the budgets."""
        return self.served and not missed(self.budgets)

    @property
    def worst(self) -> str:
        """The class nearest to its target, or furthest below."""
        return min(self.shares, key=lambda name: self.shares[name].margin)

    def mean(self, of: Callable[[Json], float | None]) -> float | None:
        """The mean of a number over the reports, None where one has none."""
        values = [of(report) for report in self.reports]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None


def missed(rows: Iterable[Row]) -> list[Row]:
    """Those that are missed, warnings left out."""
    return [row for row in rows if row.state == "missed" and row.level == "error"]


def is_budget(target: Target) -> bool:
    """Whether a target asks for fewer replicas rather than more: of dollars, joules, watts; output per device or use from below."""
    ask = target.ask
    path = next(iter(ask.metric.paths.values()))
    used = ask.name in SPARED or ask.name.endswith("_per_device")
    return path[0] in ("cost", "energy") or (used and target.sign in (">", ">="))


@dataclass(frozen=True)
class Task:
    """Where to search: a scenario and its pool, classes and targets to keep, the first guess, the most replicas, a factor on all traffic."""

    scenario: Scenario
    pool: str
    seeds: tuple[int, ...]
    classes: tuple[str, ...]
    guess: int
    most: int
    traffic: float = 1.0
    targets: tuple[Target, ...] = ()


def attempt(task: Task, replicas: int) -> Tried:
    """Simulate a number of replicas under every seed, over the whole scenario and with its own routing; 0 leaves the pool out."""
    try:
        scenario = _with_replicas(task.scenario, task.pool, replicas)
    except SpecError as error:
        return Tried(replicas, why=error.problems[0].message)
    edits = [(i, faster(stream, task.traffic)) for i, stream in enumerate(scenario.workload.streams)]
    if task.traffic != 1.0:
        scenario = edited(scenario, [(("workload", "streams", i, *e[0]), e[1]) for i, e in edits if e is not None])
    results = [simulate(scenario, seed, requests=False) for seed in task.seeds]
    goals = {name: scenario.workload.classes[name].target for name in task.classes}
    shares = {name: share([_met(result, name) for result in results], target) for name, target in goals.items()}
    reports = tuple(result.summary for result in results)
    targets = tuple(judge(target, reports, CONFIDENCE) for target in task.targets if not is_budget(target))
    budgets = tuple(judge(target, reports, CONFIDENCE) for target in task.targets if is_budget(target))
    return Tried(replicas, shares, reports, targets, budgets)


def _with_replicas(scenario: Scenario, pool: str, replicas: int) -> Scenario:
    if replicas:
        return scenario.replace(f"pools.{pool}.replicas", replicas)
    return scenario.replace(
        "pools", {name: data for name, data in scenario.document.data["pools"].items() if name != pool}
    )


def _met(result: Result, name: str) -> NDArray[np.bool_]:
    """For the judged requests of a class, in order of arrival, whether each met its targets."""
    run = result.run
    judged = run.measured & run.in_class(name) & (run.requests["status"] != Status.IN_FLIGHT)
    met: NDArray[np.bool_] = targets_met(run)["all"][judged]
    return met


# -- the fewest replicas --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """The fewest replicas that keep the targets, None where no number up to the most does; and all that were tried."""

    fewest: int | None
    tried: dict[int, Tried]

    @property
    def best(self) -> Tried | None:
        return None if self.fewest is None else self.tried[self.fewest]

    def why(self, limit: float, size: int) -> str:
        """Why there is no answer, by the most replicas that were tried, or by the fewest that are served but break a budget.

        limit -- the cheapest fleet's cost, if that stopped it [$/h]; size -- devices of a replica
        """

        def replicas(part: Tried) -> str:
            return counted(part.replicas, "replica") + (f" of {size} chips" if size > 1 else "")

        unbuilt = [part for part in self.tried.values() if part.why]
        unpaid = [part for part in self.tried.values() if part.served and not part.kept]
        dear = min(unpaid, key=lambda part: part.replicas, default=None)
        last = max((part for part in self.tried.values() if part.reports), key=lambda part: part.replicas, default=None)
        if dear is not None:
            return f"target missed: {said(missed(dear.budgets)[0])} with {replicas(dear)}, fewer miss other targets"
        if unbuilt:
            return f"power cap: {replicas(unbuilt[-1])}: {unbuilt[-1].why}"
        if last is None:
            return "not tried"
        part = last.shares[last.worst]
        short = missed(last.targets) if part.value >= part.target else []
        got = said(short[0]) if short else f"{part.value:.2%} of `{last.worst}`"
        if limit < inf:
            return f"dearer than ${limit:.3g}/h, which buys {replicas(last)}: {got}"
        return f"{'target' if short else 'SLO'} missed: {got} with {replicas(last)}"


def said(row: Row) -> str:
    """A verdict's target and what came instead."""
    return f"{row.name} {row.wanted}: {row.got}"


def settle(task: Task, tried: dict[int, Tried]) -> Settled:
    """Search from the guess in steps that double, then by halves, until n is served and n - 1, simulated too, is not.

    tried -- what is known already

    Under common random numbers attainment rises with replicas but for chance. Where it does not, this finds one of the numbers that keep
    the targets while the next lower one does not; fewer still are not looked for. Nor are more where the fewest that are served break a
    budget.
    """
    tried = dict(tried)

    def keeps(replicas: int) -> bool:
        if replicas not in tried:
            tried[replicas] = attempt(task, replicas)
        return tried[replicas].served

    short, kept, most, step = 0, 0, task.most, 1
    here = min(max(task.guess, 1), most)
    while not kept and short < most:
        if keeps(here):
            kept = here
        elif tried[here].why:  # a power limit leaves too little for so many
            most = here - 1
            here = (short + most + 1) // 2
        else:
            short = here
            here, step = min(here + step, most), 2 * step
    step = 1
    while kept - short > 1:
        here = (kept + short) // 2 if short else max(kept - step, 1)
        kept, short = (here, short) if keeps(here) else (kept, here)
        step *= 2
    return Settled(kept if kept and tried[kept].kept else None, tried)


class Search:
    """Settles candidates, several at once with an executor. What it does depends on its arguments alone, never on who ends first."""

    def __init__(
        self, pool: str, seeds: tuple[int, ...], classes: tuple[str, ...], targets: tuple[Target, ...],
        executor: Executor | None, progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.settled: dict[int, Settled] = {}  # by the candidate's place in its list
        self.limits: dict[int, float] = {}  # of those that were searched only as far as they were cheaper
        self.simulations = 0
        self.pool, self.seeds, self._classes, self._targets, self._progress = pool, seeds, classes, targets, progress
        self._map: Callable[..., Iterable[Any]] = executor.map if executor is not None else map

    def task(self, candidate: Candidate, most: int | None = None, traffic: float = 1.0) -> Task:
        """The search of a candidate."""
        assert candidate.scenario is not None  # those that are ruled out are not searched
        guess = ceil(candidate.guess * traffic)
        most = FURTHEST * guess if most is None else min(most, FURTHEST * guess)
        return Task(candidate.scenario, self.pool, self.seeds, self._classes, guess, most, traffic, self._targets)

    def run(self, tasks: Sequence[Task], pairs: bool = True) -> list[Settled]:
        """Settle tasks side by side; with `pairs` the guess and one fewer at once, which mostly decide."""
        known: list[dict[int, Tried]] = [{} for _ in tasks]
        firsts = [
            (i, n) for i, task in enumerate(tasks) for n in (task.guess, task.guess - 1) if 0 < n <= task.most and pairs
        ]
        done = self._map(attempt, [tasks[i] for i, _ in firsts], [n for _, n in firsts])
        for (i, n), tried in zip(firsts, done, strict=True):
            known[i][n] = tried
            self._progress(_line(tasks[i], tried))
        found = list(self._map(settle, tasks, known))
        self.simulations += len(self.seeds) * sum(bool(part.reports) for each in found for part in each.tried.values())
        return found

    def search(self, found: Sequence[Candidate], own: str | None) -> None:
        """The likeliest candidate of every device; then those that may be cheaper than it, or than the cheapest of all.

        own -- the scenario's device, of whose rivals AT_MOST are searched; None: all are
        """
        open_ = {i: each for i, each in enumerate(found) if each.scenario is not None}
        leads: dict[str, int] = {}
        for i in sorted(open_, key=lambda i: (open_[i].guess * open_[i].usd_per_hour, i)):
            leads.setdefault(open_[i].device, i)
        chosen = [
            i for place, (device, i) in enumerate(leads.items()) if own is None or place < AT_MOST or device == own
        ]
        self.settled = dict(zip(chosen, self.run([self.task(open_[i]) for i in chosen]), strict=True))
        cost = {open_[i].device: self._usd(open_[i], each) for i, each in self.settled.items()}
        lowest = min(cost.values(), default=inf)
        rivals: dict[int, Task] = {}
        for i, each in open_.items():
            theirs = cost.get(each.device, lowest)
            limit = theirs if each.guess * each.usd_per_hour < theirs else lowest
            most = FURTHEST * each.guess if limit == inf else ceil(limit / each.usd_per_hour) - 1
            if i not in self.settled and each.least <= most:
                rivals[i], self.limits[i] = self.task(each, most), limit
        self.settled |= dict(zip(rivals, self.run([*rivals.values()], pairs=False), strict=True))

    def without(self, found: Sequence[Candidate]) -> list[Tried | None]:
        """For each candidate the other pools alone, simulated once for all that share them; None where none serves the pool's model."""
        here = f"pools.{self.pool}."
        keys = [str([change for change in each.changes if not change[0].startswith(here)]) for each in found]
        tasks = {key: self.task(each) for key, each in zip(keys, found, strict=True) if _has_others(each, self.pool)}
        done = dict(zip(tasks, self._map(attempt, tasks.values(), [0] * len(tasks)), strict=True))
        for key, tried in done.items():
            self._progress(_line(tasks[key], tried))
        self.simulations += len(self.seeds) * sum(bool(tried.reports) for tried in done.values())
        return [tried if (tried := done.get(key)) is not None and tried.reports else None for key in keys]

    def _usd(self, candidate: Candidate, settled: Settled) -> float:
        return (
            inf
            if settled.best is None
            else usd_per_hour(settled.best, self.pool) or settled.best.replicas * candidate.usd_per_hour
        )


def _has_others(candidate: Candidate, pool: str) -> bool:
    """Whether another pool serves the planned pool's model."""
    pools = {} if candidate.scenario is None else candidate.scenario.pools
    return any(name != pool and other.network.name == pools[pool].network.name for name, other in pools.items())


def _line(task: Task, tried: Tried) -> str:
    pool = task.scenario.pools[task.pool]
    outcome = tried.why or f"{tried.shares[tried.worst].value:.2%} of `{tried.worst}`"
    if not tried.replicas:
        return f"without {task.pool}: {outcome}"
    return f"{tried.replicas} x {pool.parallel.devices} {pool.profile.name}: {outcome}"


def usd_per_hour(tried: Tried, pool: str) -> float | None:
    """What a pool costs in an hour, metered electricity with it [$/h]."""
    return tried.mean(lambda report: pool_of(report, pool)["cost"]["usd_total"] / report["duration_s"] * 3600)


def pool_of(report: Json, name: str) -> Json:
    """The part of a report that is about a pool."""
    found: Json = next(pool for pool in report["pools"] if pool["name"] == name)
    return found
