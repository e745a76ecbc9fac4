"""Two runs, or two sets of runs, held against each other: what went in first, then what came out of the same seeds."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from simfleet.document import Document, Problem, SpecError, read
from simfleet.gate.judge import Row, State, Suite, cannot_judge
from simfleet.gate.metrics import METRICS, SCOPES, Ask, Json, Known, answer, groups_in, quantity, shown, subject
from simfleet.gate.targets import CONFIDENCE, Confidence
from simfleet.intervals import interval
from simfleet.page.compare import inputs
from simfleet.report.metrics import GROUPS, REGIMES, SCHEMA_VERSION
from simfleet.spec import Spec, build
from simfleet.units import Fraction

Direction = Literal["lower", "higher", "same"]
DEFAULTS: dict[str, tuple[str, ...]] = {
    "regime": ("",), "ttft": ("mean", "p50", "p95", "p99"), "tpot": ("mean", "p50", "p95", "p99"), "e2e": ("mean", "p95"),
    "attainment": ("",), "goodput_rps": ("",), "rejected": ("",), "timed_out": ("",), "failed": ("",), "output_tok_s": ("",),
    "joules_per_output_token": ("",), "power_facility": ("mean", "max"), "grams_co2e_per_mtok_output": ("",),
    "usd_per_mtok_output": ("",), "usd_per_mtok_total": ("",), "usd_total": ("",), "kv_occupancy": ("max",), "preemptions": ("",),
}  # fmt: skip
"""Metrics compared where nothing else is said -> their statistics: of the whole run, those of latency and service also by class."""
BY_CLASS = ("ttft", "tpot", "e2e", "attainment", "goodput_rps")


class Tolerance(Spec):
    """How much worse a metric may get: the larger of a share of the baseline and an amount in its own unit."""

    rel: Fraction = Field(0.0, description="Share of the baseline's value, such as 2 %")
    abs: str | int | float | None = Field(None, description="Amount in the metric's own unit, such as 10 ms or $0.05")
    direction: Direction | None = Field(
        None, description="Which way is better, or `same` for no change either way; left out: the metric's own"
    )


class Tolerances(Spec):
    """A tolerance file. `default: null` compares only what is listed."""

    default: Tolerance | None = Field(
        Tolerance(rel=0.01),
        description="Of metrics that are not listed, without an amount; null compares only what is listed",
    )
    confidence: Confidence = Field(CONFIDENCE, description="Of the intervals of the differences over seeds")
    metrics: dict[str, Tolerance] = Field(
        {}, description="Metric with tags and, if wanted, a statistic, such as `ttft{class=chat} p95` -> its tolerance"
    )


@dataclass(frozen=True)
class Rule:
    """One number to compare: how much worse it may get, and which way is worse."""

    ask: Ask
    rel: float
    amount: float
    direction: Direction
    listed: bool = False

    @property
    def wanted(self) -> str:
        if self.ask.metric.dimension == "regime":
            return "the same" if self.direction == "same" else "no worse"
        amounts = [f"{self.rel * 100:g} %"] if self.rel or not self.amount else []
        amounts += [shown(self.amount, self.ask)] if self.amount else []
        return f"at most {' or '.join(amounts)} {'apart' if self.direction == 'same' else 'worse'}"


# -- reading -------------------------------------------------------------------------------------------------------------


def read_reports(path: Path) -> list[Json]:
    """The reports in a file: a report.json, its folder, or a baseline that `save` wrote. Raises ValueError, OSError."""
    path = path / "report.json" if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; `simfleet compare {path} SCENARIO --update` writes a baseline"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    reports = data.get("reports") if isinstance(data, dict) and "reports" in data else [data]
    if not isinstance(reports, list) or not reports or not all(_is_report(report) for report in reports):
        raise ValueError(f"{path}: expected a report.json, or a baseline written with --update")
    for report in reports:
        if report["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: expected reports of layout {SCHEMA_VERSION}, got {report['schema_version']}: write it anew"
            )
    seeds = [report["seed"] for report in reports]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{path}: expected each seed once, got {', '.join(map(str, seeds))}")
    return reports


def _is_report(data: Any) -> bool:
    keys = (
        "schema_version",
        "simfleet_version",
        "scenario",
        "seed",
        "regime",
        "latency",
        "energy",
        "cost",
        "pools",
        "classes",
    )
    return isinstance(data, dict) and all(key in data for key in keys)


def save(reports: Sequence[Json], path: Path) -> None:
    """Write a baseline; an interrupted write leaves the old one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(
        json.dumps({"reports": list(reports)}, indent=1, allow_nan=False) + "\n", encoding="utf-8", newline="\n"
    )
    beside.replace(path)


def read_tolerances(path: Path | None) -> tuple[Tolerances, Document]:
    """A tolerance file, or 1 % for everything. Raises SpecError."""
    document = Document.from_data({}) if path is None else read(path)
    return build(Tolerances, document), document


def rules(tolerances: Tolerances, document: Document, known: Known) -> list[Rule]:
    """What is compared, in the order of the report: what is listed first, then the rest. Raises SpecError."""
    found: dict[Ask, Rule] = {}
    problems: list[Problem] = []
    if tolerances.default is not None and tolerances.default.abs is not None:
        message = "expected no amount here: metrics differ in their units"
        problems.append(Problem(document.mark(("default", "abs")), "default.abs", message))
    for name, tolerance in tolerances.metrics.items():
        try:
            found |= {ask: _rule(ask, tolerance, listed=True) for ask in _asks(name, known)}
        except ValueError as error:
            location = ("metrics", name)
            problems.append(Problem(document.mark(location), document.path(location), str(error)))
    if tolerances.default is None and not tolerances.metrics:
        problems.append(Problem(document.mark(()), "metrics", "missing, expected metrics where `default` is null"))
    if problems:
        raise SpecError(problems)
    if tolerances.default is not None:
        for ask in _defaults(known):
            found.setdefault(ask, _rule(ask, tolerances.default))
    return list(found.values())


def _asks(text: str, known: Known) -> list[Ask]:
    """The numbers meant by a key such as `ttft{class=chat} p95`, or `ttft` for all of its statistics."""
    name, _, statistic = (
        text.rpartition(" ") if not text.rstrip().endswith("}") and " " in text.strip() else (text, "", "")
    )
    ask = subject(name, known)
    if statistic and statistic not in ask.metric.paths:
        raise ValueError(f"unknown statistic `{statistic}` of `{ask.name}`; known: {', '.join(ask.metric.paths)}")
    return [ask._replace(statistic=one) for one in ([statistic] if statistic else ask.metric.paths)]


def _rule(ask: Ask, tolerance: Tolerance, listed: bool = False) -> Rule:
    direction = tolerance.direction or ask.metric.better or ("lower" if ask.name == "regime" else None)
    if direction is None:
        raise ValueError(
            f"expected a direction, one of lower, higher, same: `{ask.name}` is better neither way by itself"
        )
    amount = 0.0 if tolerance.abs is None else quantity(str(tolerance.abs), ask)
    if isinstance(amount, str) or amount < 0:
        raise ValueError(f"expected an amount of at least 0, got `{tolerance.abs}`")
    return Rule(ask, tolerance.rel, amount, direction, listed)


def _defaults(known: Known) -> Iterator[Ask]:
    for name, statistics in DEFAULTS.items():
        tags: list[tuple[tuple[str, str], ...]] = [()]
        if name in BY_CLASS:
            tags += [(("class", each),) for each in known["class"] if len(known["class"]) > 1]  # one class is the whole
        elif METRICS[name].groups == ("pool",):
            tags = [(("pool", each),) for each in known["pool"]]
        elif METRICS[name].choices:
            tags = [(("scope", SCOPES[-1]),)]
        yield from (Ask(name, tag, statistic) for tag in tags for statistic in statistics)


# -- comparing -----------------------------------------------------------------------------------------------------------


def compare(
    baseline: Sequence[Json], new: Sequence[Json], tolerances: Path | None = None, name: str = "new against baseline"
) -> Suite:
    """Hold the reports of `new` against those of `baseline` with the same seeds: one row for each metric, what changed in `facts`.

    Differences are new - baseline of each seed (common random numbers). Kept where the worse side of the interval of their mean is
    within the tolerance, missed where the mean is not, and not to be judged between.
    Raises SpecError for a bad tolerance file, ValueError where no seed is in both.
    """
    seeds = sorted({report["seed"] for report in baseline} & {report["seed"] for report in new})
    if not seeds:
        raise ValueError("expected runs with the same seeds on both sides, got none: differences would be chance")
    sides = [[next(r for r in side if r["seed"] == seed) for seed in seeds] for side in (baseline, new)]
    read_from, document = read_tolerances(tolerances)
    chosen = rules(read_from, document, groups_in([*baseline, *new]))
    rows = [row for rule in chosen if (row := _row(rule, sides[0], sides[1], read_from.confidence)) is not None]
    changed = changes(sides[0][0], sides[1][0])
    told = _tolerance_told(read_from, tolerances)
    text = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, the same on both sides"
    text += (
        f"; {read_from.confidence * 100:g} % intervals of the differences (Student t)"
        if len(seeds) > 1
        else "; one run has no interval"
    )
    facts = [
        *(f"changed: {line}" for line in changed),
        *([] if changed else ["nothing went in that is not the same"]),
        text,
        told,
    ]
    return Suite(name, tuple(rows), tuple(facts), data={"changed": changed, "seeds": seeds})


def _tolerance_told(tolerances: Tolerances, path: Path | None) -> str:
    """What judged, in one line."""
    default = tolerances.default
    rest = "left out" if default is None else f"{default.rel * 100:g} % of the baseline"
    if path is None:
        return f"tolerance: {rest} for every metric compared, as no file of tolerances is given"
    return f"tolerance: as {path} says; metrics that it does not list: {rest}"


def changes(baseline: Json, new: Json) -> list[str]:
    """Which inputs differ: version, hash of the scenario with its profiles, and what in it the reports tell."""
    return [
        f"{name}: {before} -> {after}" if after else f"{name}: {before}"
        for name, before, after in inputs(baseline, new)
    ]


def _row(rule: Rule, baseline: Sequence[Json], new: Sequence[Json], confidence: float) -> Row | None:
    """The verdict on one number; None where neither side has it and nobody asked for it."""
    ask = rule.ask
    answers = [[answer(report, ask) for report in side] for side in (baseline, new)]
    if not rule.listed and all(found.value is None for side in answers for found in side):
        return None
    if not rule.listed and any(_gone(ask, side[0]) for side in (baseline, new)):
        return None
    for side, reports, found in zip(("baseline", "new"), (baseline, new), answers, strict=True):
        reason = cannot_judge(ask, reports, found)
        if reason:
            return Row(str(ask), rule.wanted, "cannot judge", note=f"{side}: {reason}", numbers=_numbers(rule))
    before, after = ([found.value for found in side] for side in answers)
    if ask.metric.dimension == "regime":
        return _regimes(rule, [str(value) for value in before], [str(value) for value in after])
    return _numeric(
        rule, [float(v) for v in before if v is not None], [float(v) for v in after if v is not None], confidence
    )


def _gone(ask: Ask, report: Json) -> bool:
    """Whether the group that a question is about is not in a report, which `changes` tells."""
    return any(
        name not in (entry["name"] for entry in report.get(GROUPS[tag], ())) for tag, name in ask.tags if tag in GROUPS
    )


def _regimes(rule: Rule, before: Sequence[str], after: Sequence[str]) -> Row:
    worse = [REGIMES.index(b) > REGIMES.index(a) for a, b in zip(before, after, strict=True)]
    missed = any(worse) if rule.direction != "same" else before != after
    got = " -> ".join(", ".join(dict.fromkeys(side)) for side in (before, after))
    numbers = _numbers(rule) | {"baseline": list(before), "new": list(after)}
    note = "better" if not missed and list(before) != list(after) else ""
    return Row(str(rule.ask), rule.wanted, "missed" if missed else "kept", got, note, numbers=numbers)


def _numeric(rule: Rule, before: Sequence[float], after: Sequence[float], confidence: float) -> Row:
    differences = [b - a for a, b in zip(before, after, strict=True)]
    bounds = interval(differences, confidence)
    old, new = interval(before, confidence).mean, interval(after, confidence).mean
    allowed = max(rule.rel * abs(old), rule.amount)
    worse = {"lower": bounds.high, "higher": -bounds.low, "same": max(abs(bounds.low), abs(bounds.high))}[
        rule.direction
    ]
    mean = {"lower": bounds.mean, "higher": -bounds.mean, "same": abs(bounds.mean)}[rule.direction]
    state: State = "kept" if worse <= allowed else "missed" if mean > allowed else "cannot judge"
    note = "the mean is within, the interval is not: more seeds narrow it" if state == "cannot judge" else ""
    best = {"lower": bounds.high, "higher": -bounds.low, "same": 0.0}[rule.direction]
    note = "better" if best < -allowed and best < 0 else note
    numbers = _numbers(rule) | {"baseline": old, "new": new, "allowed": allowed, "difference": bounds.mean}
    numbers |= {"low": bounds.low, "high": bounds.high, "pairs": [*zip(before, after, strict=True)]}
    got = f"{shown(old, rule.ask)} -> {shown(new, rule.ask)}"
    got += f", {_signed(rule.ask, old, *bounds)}" if any(differences) else ", the same"
    return Row(str(rule.ask), rule.wanted, state, got, note, numbers=numbers)


def _signed(ask: Ask, old: float, mean: float, low: float, high: float) -> str:
    """A difference with its interval: in % of the baseline where that is not 0."""

    def one(value: float) -> str:
        return f"{value / abs(old) * 100:+.2f} %" if old else ("+" if value >= 0 else "") + shown(value, ask)

    return one(mean) if low == high else f"{one(mean)} ({one(low)} to {one(high)})"


def _numbers(rule: Rule) -> Json:
    ask = rule.ask
    return {
        "metric": ask.name, "tags": dict(ask.tags), "statistic": ask.statistic or None, "rel": rule.rel, "abs": rule.amount,
        "direction": rule.direction,
    }  # fmt: skip
