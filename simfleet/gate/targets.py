"""From a scenario, or an SLA file beside it, to the targets that it is held to; every mistake with its place."""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from simfleet.document import Document, Location, Mark, Problem, SpecError, read
from simfleet.gate.metrics import Ask, Known, groups_of, quantity, subject, with_statistic
from simfleet.report.metrics import REGIMES
from simfleet.scenario import Scenario, Targets, load
from simfleet.spec import Spec, build
from simfleet.units import Fraction

Level = Literal["error", "warn"]
SLA_SUFFIXES = (".sla.yaml", ".sla.yml")
SEEDS = 4
"""Repetitions where nothing else is said."""
FEWEST_SEEDS = 2
CONFIDENCE = 0.95
SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


def _confidence(share: float) -> float:
    if not 0.5 <= share < 1:
        raise ValueError(f"expected at least 0.5 and less than 1, such as 95 %, got `{share:g}`")
    return share


Confidence = Annotated[Fraction, AfterValidator(_confidence)]


class Sla(Spec):
    """An SLA file: targets for a scenario, and how they are judged."""

    scenario: str = Field("", description="Path from here, or a shipped name; left out: NAME.yaml beside NAME.sla.yaml")
    variant: str | None = Field(None, description="One of the scenario's variants")
    overrides: dict[str, Any] = Field(
        {}, alias="set", description="Dotted path, such as pools.chat.replicas -> value, laid over the scenario"
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{8,64}$",
        description="First digits, at least 8, of the scenario's hash as `simfleet check` prints it; another scenario cannot be judged",
    )
    seeds: int = Field(SEEDS, ge=FEWEST_SEEDS, le=1000, description="Repetitions: seeds 0, 1, 2, ...")
    confidence: Confidence = Field(CONFIDENCE, description="Of the interval over the seeds, whose worse side is judged")
    targets: Targets = Field(
        min_length=1, description="Metric with tags, such as ttft{class=chat} -> what is wanted, such as p95 <= 1 s"
    )


@dataclass(frozen=True)
class Target:
    """One thing that must hold, such as `ttft{class=chat} p95 <= 1 s`."""

    ask: Ask
    sign: str
    limit: float | str
    """In SI, or a word."""
    text: str
    """The expression as it was written."""
    level: Level
    mark: Mark

    @property
    def wanted(self) -> str:
        """Sign and limit as they were written."""
        return self.text[self.text.index(self.sign) :].strip()

    @property
    def from_above(self) -> bool:
        """Whether the limit is the most that may be, not the least."""
        return self.sign in ("<", "<=")

    def __str__(self) -> str:
        return f"{self.ask} {self.wanted}"


@dataclass(frozen=True)
class Gate:
    """A scenario and all that it is held to."""

    name: str
    scenario: Scenario
    targets: tuple[Target, ...]
    seeds: int = SEEDS
    confidence: float = CONFIDENCE
    sha256: str | None = None


def read_gate(
    text: str, overrides: Sequence[tuple[str, Any]] = (), variant: str | None = None, paths: Sequence[Path] = ()
) -> Gate:
    """The gate of a scenario (file or shipped name) or of an SLA file. Overrides are laid over those of the SLA.

    Raises SpecError with every problem at its place, also for a scenario without anything that it could be held to.
    """
    if is_sla(Path(text)):
        return _of_sla(Path(text), overrides, variant, paths)
    scenario = load(text, overrides, variant, paths)
    return Gate(scenario.name, scenario, targets_of(scenario))


def is_sla(path: Path) -> bool:
    """Whether a path is that of an SLA file: by its ending, or because it names a scenario and has no pools."""
    keys = _keys(path)
    return path.name.endswith(SLA_SUFFIXES) or ("scenario" in keys and "targets" in keys and "pools" not in keys)


def is_gate(path: Path) -> bool:
    """Whether a file is an SLA, or a scenario with something that it could be held to, or a scenario that is not even YAML."""
    data = _keys(path)
    if not data and path.suffix in (".yaml", ".yml"):
        return is_sla(path) or b"\npools:" in path.read_bytes()
    workload = data.get("workload")
    return is_sla(path) or (
        "pools" in data and isinstance(workload, dict) and bool(data.get("targets") or workload.get("classes"))
    )


def _keys(path: Path) -> dict[str, Any]:
    """The content of a file, nothing where it is not readable YAML: its reader will say what is wrong."""
    try:
        data: dict[str, Any] = read(path).data if path.suffix in (".yaml", ".yml") else {}
    except SpecError:
        return {}
    return data


def _of_sla(path: Path, overrides: Sequence[tuple[str, Any]], variant: str | None, paths: Sequence[Path]) -> Gate:
    document = read(path)
    sla = build(Sla, document)
    stem = path.name.removesuffix(".yml").removesuffix(".yaml").removesuffix(".sla")
    beside = path.parent / (sla.scenario or f"{stem}.yaml")
    laid = [(key, _plain(value)) for key, value in sla.overrides.items()] + list(overrides)
    scenario = load(
        beside if beside.is_file() or not sla.scenario else sla.scenario, laid, variant or sla.variant, paths
    )
    targets = expressions(document, sla.targets, groups_of(scenario))
    name = stem if stem == scenario.name else f"{scenario.name} ({path.name})"
    return Gate(name, scenario, targets, sla.seeds, sla.confidence, sla.sha256)


def _plain(value: Any) -> Any:
    """A value that `load` will not read as YAML again."""
    return f"'{value.replace(chr(39), chr(39) * 2)}'" if isinstance(value, str) else value


def targets_of(scenario: Scenario) -> tuple[Target, ...]:
    """What a scenario holds itself to: its `targets`, without them the wanted attainment of each class. Raises SpecError."""
    if scenario.targets:
        return expressions(scenario.document, scenario.targets, groups_of(scenario))
    classes = scenario.workload.classes
    if not classes:
        message = 'missing, expected targets such as `regime: ["== stable"]`, or an SLA file: there is nothing to judge'
        raise SpecError([Problem(scenario.document.mark(()), "targets", message)])
    asked = {stream.service_class for stream in scenario.workload.streams}
    return tuple(
        Target(
            Ask("attainment", (("class", name),)), ">=", spec.target, f">= {spec.target * 100:.6g} %", "error",
            scenario.document.mark(("workload", "classes", name)),
        )
        for name, spec in classes.items() if name in asked
    )  # fmt: skip


# -- expressions ---------------------------------------------------------------------------------------------------------

_EXPRESSION = re.compile(r"\s*(?:([a-zA-Z]\w*)\s*)?(<=|>=|==|!=|<|>)\s*(.*\S)\s*")


def expressions(document: Document, wanted: Targets, known: Known) -> tuple[Target, ...]:
    """All targets of a document's key `targets`. Raises SpecError with every problem."""
    found: list[Target] = []
    problems: list[Problem] = []
    for location, text, make in _written(document, wanted, known):
        try:
            found.append(make())
        except ValueError as error:
            problems.append(Problem(document.mark(location), document.path(location), f"`{text}`: {error}"))
    if problems:
        raise SpecError(dict.fromkeys(problems))
    return tuple(found)


def _written(document: Document, wanted: Targets, known: Known) -> Iterator[tuple[Location, str, Callable[[], Target]]]:
    for name, items in wanted.items():
        if not items:
            yield ("targets", name), name, _nothing
        for number, item in enumerate(items):
            location = ("targets", name, number)
            mark = document.mark(location)
            yield (
                location,
                item.expect,
                lambda name=name, item=item, mark=mark: expression(  # type: ignore[misc]
                    name, item.expect, known, item.level, mark
                ),
            )


def _nothing() -> Target:
    raise ValueError("expected at least one expression such as `<= 1 s`")


def expression(name: str, text: str, known: Known, level: Level = "error", mark: Mark = Mark("")) -> Target:  # noqa: B008 - a tuple
    """One target: `name` is the metric with its tags, `text` such as "p95 <= 1 s". Raises ValueError."""
    ask = subject(name, known)
    match = _EXPRESSION.fullmatch(text)
    if not match:
        raise ValueError("expected `[STATISTIC] SIGN LIMIT` such as `p95 <= 1 s`, with a sign of <=, <, >=, >, ==, !=")
    ask = with_statistic(ask, match[1] or "")
    sign, limit = match[2], quantity(match[3], ask)
    if isinstance(limit, str) and sign not in ("==", "!="):
        raise ValueError(f"expected == or != for `{ask.name}`, which is one of {', '.join(REGIMES)}")
    if sign in ("==", "!=") and ask.metric.dimension not in ("regime", "number", "share"):
        raise ValueError(f"expected <=, <, >= or > for `{ask.name}`: no two runs are equal to the last digit")
    return Target(ask, sign, limit, text, level, mark)
