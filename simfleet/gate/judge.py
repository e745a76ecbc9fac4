"""From repetitions to verdicts: simulate every seed, judge each target on the worse side of its interval."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from multiprocessing import get_context
from operator import mul
from pathlib import Path
from typing import Any, Literal

from simfleet.document import Mark, SpecError
from simfleet.gate.metrics import MEAN_SAMPLES, Answer, Ask, Json, answer, fewest_samples, shown
from simfleet.gate.targets import FEWEST_SEEDS, SIGNS, Gate, Level, Target, read_gate
from simfleet.intervals import Interval, interval, share_interval
from simfleet.scenario import Scenario
from simfleet.simulation import simulate
from simfleet.terminal import BAD_INPUT, SIMULATION_ERROR, counted, mistake

State = Literal["kept", "missed", "cannot judge", "bad input"]
KEPT, MISSED, CANNOT_JUDGE = 0, 1, 3
NO_MISTAKE = "to be without mistakes"
NO_STEADY_STATE = ("overloaded", "nothing served")
EXTREMES = ("max",)
"""Statistics of the worst moment of a run: the worst run counts, not only the mean of runs."""


@dataclass(frozen=True)
class Row:
    """One line of an answer."""

    name: str
    wanted: str
    state: State
    got: str = "n/a"
    note: str = ""
    level: Level = "error"
    mark: Mark = Mark("")  # noqa: RUF009 - a tuple
    numbers: Json = field(default_factory=dict)
    """For programs: metric, tags, statistic, limit, mean, low, high, values by seed, in SI."""

    @property
    def message(self) -> str:
        """The whole of it in one line."""
        if self.state == "bad input":
            return f"bad input: {self.note}"
        state = f"{self.state} (warning)" if self.level == "warn" and self.state != "kept" else self.state
        return f"{state}: {self.name}: wanted {self.wanted}, got {self.got}" + (f"; {self.note}" if self.note else "")


@dataclass(frozen=True)
class Suite:
    """All lines about one scenario, or one comparison."""

    name: str
    rows: tuple[Row, ...]
    facts: tuple[str, ...] = ()
    """Lines to read first: seeds, hash, what changed."""
    broken: str = ""
    """The simulation error that ended it."""
    data: Json = field(default_factory=dict)
    """More for programs."""

    @property
    def exit_code(self) -> int:
        """0 kept, 1 missed, 2 bad input, 3 cannot judge, 4 simulation error; rows at level `warn` do not count."""
        states = {row.state for row in self.rows if row.level == "error"}
        if self.broken:
            return SIMULATION_ERROR
        if "bad input" in states:
            return BAD_INPUT
        if "missed" in states:
            return MISSED
        return CANNOT_JUDGE if "cannot judge" in states or not self.rows else KEPT


def check(
    scenario: str | Path | Gate,
    seeds: int | None = None,
    overrides: Sequence[tuple[str, Any]] = (),
    variant: str | None = None,
    paths: Sequence[Path] = (),
    workers: int = 1,
) -> Suite:
    """Hold a scenario (file, shipped name, SLA file) to its targets: one row each, `exit_code` 0 when all are kept.

    seeds -- repetitions, at least 2; those of the SLA file, or 4, where it is None
    workers -- processes; with 1 nothing is started

    Raises SpecError for bad input, ValueError for fewer than 2 seeds. A run that fails is a suite with `broken` set.
    """
    gate = scenario if isinstance(scenario, Gate) else read_gate(str(scenario), overrides, variant, paths)
    number = gate.seeds if seeds is None else seeds
    if number < FEWEST_SEEDS:
        raise ValueError(f"expected at least {FEWEST_SEEDS} seeds, got {number}: one run has no interval")
    return checked(gate, number, workers)


def checked(gate: Gate, seeds: int, workers: int = 1, done: Callable[[], None] | None = None) -> Suite:
    """The answer of so many repetitions, or of a run that failed; `done` is called after each."""
    try:
        reports = reports_of(gate.scenario, range(seeds), workers, done)
    except Exception as error:  # scripts tell a broken run from bad input by its exit code
        return broken(gate.name, error, gate.targets)
    return judged(gate, reports)


def reports_of(
    scenario: Scenario, seeds: Sequence[int], workers: int = 1, done: Callable[[], None] | None = None
) -> list[Json]:
    """The content of report.json for each seed, in order; `done` is called after each."""
    found: list[Json] = []
    if workers == 1 or len(seeds) == 1:
        for report in map(_report, repeat(scenario), seeds):
            found.append(report)
            _tell(done)
        return found
    with ProcessPoolExecutor(min(workers, len(seeds)), get_context("spawn")) as executor:
        for report in executor.map(_report, repeat(scenario), seeds):
            found.append(report)
            _tell(done)
    return found


def _tell(done: Callable[[], None] | None) -> None:
    if done is not None:
        done()


def _report(scenario: Scenario, seed: int) -> Json:
    return simulate(scenario, seed=seed, requests=False).summary


def broken(name: str, error: Exception, targets: Sequence[Target] = ()) -> Suite:
    """The answer where a run failed: none of the targets can be judged; without targets one row says so."""
    rows = [_row(target, "cannot judge", note="simulation error") for target in targets]
    rows = rows or [Row("simulation", "to end without an error", "cannot judge")]
    return Suite(name, tuple(rows), broken=f"{type(error).__name__}: {error}")


def refused(name: str, error: Exception) -> Suite:
    """The answer where the input is wrong: a row for each problem, at its place."""
    if not isinstance(error, SpecError):
        return Suite(name, (Row("input", NO_MISTAKE, "bad input", note=mistake(error).removeprefix("error: ")),))
    rows = [Row(p.path or "input", NO_MISTAKE, "bad input", note=str(p), mark=p.mark) for p in error.problems]
    return Suite(name, tuple(rows))


def judged(gate: Gate, reports: Sequence[Json]) -> Suite:
    """The answer of these repetitions."""
    sha256, version = reports[0]["scenario"]["sha256"], reports[0]["simfleet_version"]
    seeds = [report["seed"] for report in reports]
    rows = [judge(target, reports, gate.confidence) for target in gate.targets]
    facts = [
        f"seeds {', '.join(map(str, seeds))}; {gate.confidence * 100:g} % intervals over them (Student t), judged on their worse side",
        f"scenario sha256 {sha256[:12]}, simfleet {version}",
    ]
    if gate.sha256 is not None and not sha256.startswith(gate.sha256):
        note = f"hash mismatch: the targets are for {gate.sha256[:12]}, the scenario with its profiles is {sha256[:12]}"
        rows = [_row(target, "cannot judge", note=note) for target in gate.targets]
    data = {"scenario": gate.scenario.name, "sha256": sha256, "simfleet_version": version, "seeds": seeds}
    return Suite(gate.name, tuple(rows), tuple(facts), data=data | {"confidence": gate.confidence})


# -- one target ----------------------------------------------------------------------------------------------------------


def judge(target: Target, reports: Sequence[Json], confidence: float) -> Row:
    """The verdict on one target, from independent runs.

    A limit from above is compared with the upper end of the interval of the mean, one from below with the lower end; for a `max`
    with the worst run if that is worse. Words, `==` and `!=` must hold in every run. What cannot be judged is missed all the same where
    it is `missed_in_any_case`.
    """
    answers = [answer(report, target.ask) for report in reports]
    seeds = [report["seed"] for report in reports]
    promised = target.limit if target.sign in (">=", ">") and isinstance(target.limit, float) else 0.0
    reason = cannot_judge(target.ask, reports, answers, promised)
    numbers = _numbers(target, seeds, answers)
    if reason and missed_in_any_case(target, answers, confidence):
        return _row(
            target, "missed", _listed(target.ask, answers), f"missed in any case; {reason.partition(':')[0]}", numbers
        )
    if reason:
        return _row(target, "cannot judge", _listed(target.ask, answers), reason, numbers)
    keeps = SIGNS[target.sign]
    if target.sign in ("==", "!="):
        missed = [seed for seed, found in zip(seeds, answers, strict=True) if not keeps(found.value, target.limit)]
        note = f"not with seed {', '.join(map(str, missed))}" if missed else ""
        return _row(target, "missed" if missed else "kept", _listed(target.ask, answers), note, numbers)
    values = [float(found.value) for found in answers if found.value is not None]
    bounds = interval(values, confidence)
    worse = bounds.high if target.from_above else bounds.low
    if target.ask.statistic in EXTREMES:
        worse = max(worse, *values) if target.from_above else min(worse, *values)
    kept = keeps(worse, target.limit)
    close = not kept and keeps(bounds.mean, target.limit)
    note = "the mean keeps it, the interval does not: more seeds narrow it" if close else ""
    numbers |= {**bounds._asdict(), "judged": worse}
    return _row(target, "kept" if kept else "missed", spread(bounds, target.ask), note, numbers)


def missed_in_any_case(target: Target, answers: Sequence[Answer], confidence: float) -> bool:
    """Whether even the better end of the interval misses: then neither an overload nor a lack of samples can have made it look so.

    An attainment has, besides the interval over runs, that of its requests counted together (Clopper-Pearson): a few of them can show
    that 99 % is out of reach, and never that it is kept. Of a latency, too few samples show nothing.
    """
    values = [found.value for found in answers if found.value is not None]
    keeps, ask = SIGNS[target.sign], target.ask
    if len(values) < len(answers) or (ask.metric.dimension == "seconds" and _few(answers)):
        return False
    if target.sign in ("==", "!="):
        return not all(keeps(value, target.limit) for value in values)
    numbers = [float(value) for value in values]
    ends = [interval(numbers, confidence)]
    if ask.name.startswith("attainment"):
        samples = [found.samples or 0 for found in answers]
        ends.append(share_interval(sum(map(mul, numbers, samples)), sum(samples), confidence))
    better = min(end.low for end in ends) if target.from_above else max(end.high for end in ends)
    return not keeps(better, target.limit)


def _few(answers: Sequence[Answer]) -> bool:
    return any(found.samples is not None and found.samples < MEAN_SAMPLES for found in answers)


def cannot_judge(ask: Ask, reports: Sequence[Json], answers: Sequence[Answer], promised: float = 0.0) -> str:
    """Why these runs do not answer a question; "" where they do. `promised` is the least share that is asked for."""
    for report in reports if ask.name != "regime" else ():
        if report["regime"] in NO_STEADY_STATE:
            return f"{report['regime']} with seed {report['seed']}: such a run's figures say only how long it was"
    needed = fewest_samples(ask, promised)
    for report, found in zip(reports, answers, strict=True):
        if needed == float("inf"):
            return "no number of samples shows 100 %; `== 100 %` asks it of the simulated requests alone"
        if found.samples is not None and found.samples < needed:
            return f"{counted(found.samples, 'sample')} with seed {report['seed']}, {needed:,.0f} are needed: a longer run has more"
        if found.value is None:
            return f"absent from the report with seed {report['seed']}"
    return ""


def spread(bounds: Interval, ask: Ask) -> str:
    """A mean with its interval."""
    if bounds.low == bounds.high:
        return shown(bounds.mean, ask)
    return f"{shown(bounds.mean, ask)} ({shown(bounds.low, ask)} to {shown(bounds.high, ask)})"


def _listed(ask: Ask, answers: Sequence[Answer]) -> str:
    return ", ".join(dict.fromkeys(shown(found.value, ask) for found in answers))


def _row(target: Target, state: State, got: str = "n/a", note: str = "", numbers: Json | None = None) -> Row:
    return Row(str(target.ask), target.wanted, state, got, note, target.level, target.mark, numbers or _numbers(target))


def _numbers(target: Target, seeds: Sequence[int] = (), answers: Sequence[Answer] = ()) -> Json:
    ask = target.ask
    return {
        "metric": ask.name, "tags": dict(ask.tags), "statistic": ask.statistic or None, "sign": target.sign, "limit": target.limit,
        "values": {str(seed): found.value for seed, found in zip(seeds, answers, strict=True)},
    }  # fmt: skip
