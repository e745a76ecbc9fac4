"""Fit an engine's constants, and how fast devices stay under load, to measured serving runs by simulating them."""

import copy
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simfleet.document import Document
from simfleet.evidence.accuracy import simulated
from simfleet.evidence.rows import Row, Skipped, read
from simfleet.library import Library
from simfleet.serving.engine import Continuous
from simfleet.spec import build

Floats = NDArray[np.float64]

FITTED = ("ttft_mean_s", "tpot_mean_s")
WEIGHTS = {"ttft_mean_s": 0.7, "tpot_mean_s": 1.0, "output_tok_per_s": 1.0}
"""First tokens count less: a few prompts that met on the way decide their mean."""
PACED, PACED_TASK, PACED_ENGINE = ("output_tok_per_s",), "lm-arena-chat", ("host", "per_sequence")
"""What is compared, and fitted, where rows give a pace and no times: of chats, whose prompts are short, and which are too many to be
bound by what comes before the engine."""
STEP = 0.06
"""Relative step of the finite differences: larger than the noise of requests changing places."""
SOFT = 0.08
"""Relative error from which a row counts less than squared."""


class Bounds(NamedTuple):
    """Where a constant starts and between what it may end; seconds where `unit` says so."""

    start: float
    low: float
    high: float
    unit: str = ""


ENGINE = {
    "host": Bounds(0.36e-3, 5e-5, 1e-2, " s"),
    "per_sequence": Bounds(8e-6, 5e-7, 1e-4, " s"),
    "launch_factor": Bounds(1.0, 0.2, 1.5),
    "experts_factor": Bounds(0.65, 0.1, 1.5),
    "memory_factor": Bounds(0.95, 0.93, 1.3),
    "eager_collective": Bounds(0.1e-3, 1e-6, 1e-3, " s"),
    "eager_narrow": Bounds(0.2e-3, 1e-6, 4e-3, " s"),
    "eager_layer": Bounds(0.35e-3, 1e-5, 4e-3, " s"),
    "front_end": Bounds(13e-3, 2e-3, 50e-3, " s"),
    "compute_factor": Bounds(1.0, 0.6, 2.0),
}
"""Constants of an engine that serving runs tell."""
DEVICE = {
    "sustained.narrow": Bounds(0.65, 0.3, 1.15),
    "sustained.memory": Bounds(1.0, 0.5, 1.6),
    "sustained.launch": Bounds(1.0, 0.5, 5.0),
    "mxfp4.compute": Bounds(0.25, 0.05, 1.2),
    "mxfp4.bandwidth": Bounds(0.75, 0.3, 1.0),
    "mxfp4.moved": Bounds(0.1, 0.02, 1.2),
}
"""Constants of a device that serving runs tell: shares of `step.sustained`; experts in mxfp4, whose table is of another kernel than serves."""
ESTIMATED = ("sustained.memory", "sustained.launch")
"""Those that are fitted only where no operator table has told them."""
MXFP4 = ("gpt-oss-120b", "gpt-oss-20b")
"""Models with such experts."""
CONFOUNDED = ("compute_factor", "memory_factor")
"""Constants of an engine that cannot be told from those of the devices; the engine that both are fitted with is the measure of the others."""

Key = tuple[str, str]
"""("engine", constant) or (device, share)."""


@dataclass(frozen=True)
class Tuned:
    """Fitted constants, and the errors of every row before and after: {metric: simulated / measured - 1}."""

    engine: str
    constants: dict[Key, float]
    rows: list[Row]
    before: Floats
    after: Floats
    files: dict[str, str]

    def errors(self, rows: Callable[[Row], bool] = lambda row: True) -> dict[str, float]:
        """Median absolute error of some of the rows, after."""
        chosen = [i for i, row in enumerate(self.rows) if rows(row)]
        return {name: median(abs(np.exp(self.after[chosen, i]) - 1.0)) for i, name in enumerate(_metrics(self.rows))}

    def text(self) -> str:
        """The constants and the errors, for people."""
        lines = [f"{self.engine}: {len(self.rows)} rows of {', '.join(self.files)}"]
        lines += [f"  {where:20} {name:24} {value:.4g}" for (where, name), value in self.constants.items()]
        for key in sorted({(row.device, row.model) for row in self.rows}):
            mask = [(row.device, row.model) == key for row in self.rows]
            for when, errors in (("before", self.before), ("after", self.after)):
                shown = [
                    f"{name[:4]} {100 * median(abs(np.exp(errors[mask, i]) - 1)):5.1f} %"
                    for i, name in enumerate(_metrics(self.rows))
                ]
                lines.append(f"  {' '.join(key):44} {when:7} n {sum(mask):4}  median error {'  '.join(shown)}")
        return "\n".join(lines)


def tune(
    paths: Iterable[Path], engine: str, library: Library, executor: Executor, keep: Callable[[Row], bool] = lambda row: True,
    without: Iterable[str] = (), what: Literal["engine", "devices", "both"] = "both", fresh: bool = False,
    evaluations: int = 6,
) -> Tuned:  # fmt: skip
    """Least squares on log(simulated / measured) of TTFT and TPOT, or of tokens per second where rows give a pace and no times; soft-l1,
    physical bounds. Raises ValueError where no row is for `engine`.

    keep        -- which rows to fit on
    without     -- engine constants that stay as the preset has them
    what        -- fit the constants of the engine, of every device in the rows, or both; with both CONFOUNDED stay
    fresh       -- start from the search's own starting points, not from the constants that there are
    evaluations -- most evaluations of all rows
    """
    from scipy.optimize import least_squares  # noqa: PLC0415 - heavy, and only needed here

    files = list(paths)
    rows = [row for path in files for row in _usable(path, library) if row.engine == engine and keep(row)]
    if not rows:
        raise ValueError(
            f"no row of {', '.join(map(str, files))} is for the engine `{engine}` with mean TTFT and TPOT, or a pace"
        )
    bounds = dict(_bounds(rows, library, what, {*without, *(CONFOUNDED if what == "both" else ())}))
    problem = _Problem(rows, list(bounds.items()), library, executor)
    start = np.log([bound.start if fresh else _start(library, engine, key, bound) for key, bound in bounds.items()])
    before = problem.errors(rows)
    solution = least_squares(
        problem.residuals, start, jac=problem.jacobian, loss="soft_l1", f_scale=SOFT, max_nfev=evaluations,
        bounds=(np.log([b.low for b in bounds.values()]), np.log([b.high for b in bounds.values()])),
    )  # fmt: skip
    problem.residuals(solution.x)
    constants = {key: float(f"{exp(value):.4g}") for key, value in zip(bounds, solution.x, strict=True)}
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in files}
    return Tuned(engine, constants, rows, before, problem.found, hashes)


def score(tuned: Tuned, paths: Iterable[Path], library: Library, executor: Executor, model: str) -> list[str]:
    """Errors, a line for each device, of rows of a model that was left out of the fit; experts in mxfp4 keep their devices' sets."""
    rows = [row for path in paths for row in _usable(path, library) if (row.engine, row.model) == (tuned.engine, model)]
    bounds = [(key, ENGINE[key[1]] if key[0] == "engine" else DEVICE[key[1]]) for key in tuned.constants]
    if not rows:
        return [f"no row of {model} to score"]
    problem = _Problem(rows, bounds, library, executor)
    at = np.log(list(tuned.constants.values()))
    errors = np.exp(problem.errors([problem.changed(row, at) for row in rows])) - 1.0
    lines = []
    for device in sorted({row.device for row in rows}):
        mine = errors[[row.device == device for row in rows]]
        shown = "  ".join(f"{name[:4]} {100 * median(abs(mine[:, i])):5.1f} %" for i, name in enumerate(_metrics(rows)))
        lines.append(f"  left out: {model} on {device:24} n {len(mine):4}  median error {shown}")
    return lines


def _bounds(rows: list[Row], library: Library, what: str, fixed: set[str]) -> Iterator[tuple[Key, Bounds]]:
    """The constants to fit."""
    if what != "devices":
        told = PACED_ENGINE if _metrics(rows) == PACED else ENGINE
        yield from ((("engine", name), ENGINE[name]) for name in told if name not in fixed)
    for device in sorted({row.device for row in rows}) if what != "engine" else ():
        experts = any(row.device == device and row.model in MXFP4 for row in rows)
        measured = any(fact.grade == "calibrated" for fact in library.profile(device).step.gemm.values())
        for name, bound in DEVICE.items():
            if (experts or not name.startswith("mxfp4")) and not (measured and name in ESTIMATED):
                yield (device, name), bound


def _start(library: Library, engine: str, key: Key, bound: Bounds) -> float:
    """The number there is, if it is a calibrated one and within bounds, else where the search starts by itself."""
    where, name = key
    part, _, constant = name.rpartition(".")
    if where == "engine":
        preset = build(Continuous, Document.from_data(library.data("engines", engine)))
        known = name in preset.sources and preset.sources[name].grade == "calibrated"
        value = float(getattr(preset, name)) if known else bound.start
    else:
        step = library.profile(where).step
        fact: Any = step.sustained if part == "sustained" else step.experts.get("mxfp4")
        value = float(getattr(fact.value, constant)) if fact is not None and fact.source == "serving" else bound.start
    return min(max(value, bound.low * 1.001), bound.high / 1.001)


def _usable(path: Path, library: Library) -> Iterator[Row]:
    for row in read(path, library):
        if isinstance(row, Skipped) or row.requests:
            continue
        if all(name in row.measured for name in FITTED) or row.tags.get("task") == PACED_TASK:
            yield row


def _metrics(rows: Iterable[Row]) -> tuple[str, ...]:
    """What is compared."""
    return PACED if all(row.pace is not None for row in rows) else FITTED


class _Problem:
    """Residuals and their slopes, each from simulations; a constant that a row does not know costs that row nothing."""

    def __init__(self, rows: list[Row], bounds: list[tuple[Key, Bounds]], library: Library, executor: Executor) -> None:
        self._rows, self._bounds, self._library, self._executor = rows, bounds, library, executor
        files = Counter(row.file for row in rows)
        self._metrics = _metrics(rows)
        self._weights = np.array([[WEIGHTS[name] / sqrt(files[row.file]) for name in self._metrics] for row in rows])
        self._weights *= sqrt(len(rows) / len(files))  # every file counts the same
        self.found: Floats = np.zeros((len(rows), len(self._metrics)))
        self._at: Floats = np.full(len(bounds), np.nan)

    def errors(self, rows: list[Row]) -> Floats:
        """log(simulated / measured) [rows x metrics]; a row that does not run any more counts as 3."""
        outcomes = self._executor.map(simulated, rows, chunksize=8)
        return np.array([
            [3.0] * len(self._metrics) if isinstance(found, str) else [log(found[name] / row.measured[name]) for name in self._metrics]
            for row, found in zip(rows, outcomes, strict=True)
        ])  # fmt: skip

    def residuals(self, at: Floats) -> Floats:
        self.found, self._at = self.errors([self.changed(row, at) for row in self._rows]), at.copy()
        weighed: Floats = (self.found * self._weights).ravel()
        return weighed

    def jacobian(self, at: Floats) -> Floats:
        if not np.array_equal(at, self._at):
            self.residuals(at)
        slopes = np.zeros((len(self._rows), len(self._metrics), len(at)))
        moved, where = [], []
        for number, ((device, name), bound) in enumerate(self._bounds):
            step = STEP if at[number] + STEP <= log(bound.high) else -STEP
            other = at.copy()
            other[number] += step
            for i, row in enumerate(self._rows):
                if device in ("engine", row.device) and (row.model in MXFP4 or not name.startswith("mxfp4")):
                    moved.append(self.changed(row, other))
                    where.append((i, number, step))
        for (i, number, step), errors in zip(where, self.errors(moved), strict=True):
            slopes[i, :, number] = (errors - self.found[i]) / step
        weighed: Floats = (slopes * self._weights[:, :, None]).reshape(-1, len(at))
        return weighed

    def changed(self, row: Row, at: Floats) -> Row:
        """The row with constants at exp(at)."""
        scenario = copy.deepcopy(row.scenario)
        pool: dict[str, Any] = scenario["pools"]["measured"]
        found = {
            name: exp(value)
            for ((device, name), _), value in zip(self._bounds, at, strict=True)
            if device == row.device
        }
        if found:
            pool["device"] = device_with(self._library.data("hardware_profiles", row.device), found)
        for ((device, name), bound), value in zip(self._bounds, at, strict=True):
            if device == "engine":
                pool["engine"][name] = f"{exp(value):.6g}{bound.unit}" if bound.unit else exp(value)
        return replace(row, scenario=scenario)


def device_with(profile: dict[str, Any], constants: dict[str, float]) -> dict[str, Any]:
    """A profile's plain data with some of DEVICE."""
    changed = copy.deepcopy(profile)
    step, source = changed["step"], next(iter(changed["sources"]))
    step.setdefault("sustained", {"value": {}, "source": source, "grade": "calibrated"})
    for name, value in constants.items():
        part, constant = name.split(".")
        (step["sustained"] if part == "sustained" else step["experts"][part])["value"][constant] = value
    return changed


# -- writing ---------------------------------------------------------------------------------------------------------------


def save(tuned: Tuned, library: Library, folder: Path) -> list[Path]:
    """Write the engine, and every fitted device, as YAML into `folder`: the files there were, with the fitted numbers in; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    shares: dict[str, dict[str, float]] = {}
    for (where, name), value in tuned.constants.items():
        shares.setdefault(where, {})[name] = value
    error = ", ".join(f"{name.split('_')[0]} {value:.1%}" for name, value in tuned.errors().items())
    source = f"simfleet calibrate --engine {tuned.engine}: {len(tuned.rows)} serving rows, median error {error}"
    written = [folder / f"{tuned.engine}.yaml"]
    preset = library.path("engines", tuned.engine).read_text(encoding="utf-8")
    written[0].write_text(_engine(preset, shares.pop("engine", {}), source), encoding="utf-8", newline="\n")
    for device, numbers in shares.items():
        text = library.path("hardware_profiles", device).read_text(encoding="utf-8")
        before = library.data("hardware_profiles", device)["step"].get("sustained", {}).get("value", {})
        constants = {f"sustained.{name}": share for name, share in before.items()} | numbers
        own = tuned.errors(lambda row, device=device: row.device == device)  # type: ignore[misc]
        note = (
            f"with {tuned.engine}; median error {', '.join(f'{name[:4]} {value:.1%}' for name, value in own.items())}"
        )
        files = "; ".join(f"{name} (sha256 {digest})" for name, digest in tuned.files.items())
        written.append(folder / f"{device}.yaml")
        written[-1].write_text(_device(text, constants, note, files), encoding="utf-8", newline="\n")
    return written


def _engine(text: str, constants: dict[str, float], source: str) -> str:
    """A preset with other numbers, each with its source."""
    for name, value in constants.items():
        line = f"{name}: {value * 1e6:.4g} us" if ENGINE[name].unit else f"{name}: {value:.4g}"
        origin = f'  {name}: {{source: "{source}", grade: calibrated}}'
        text = re.sub(rf"^{name}: .*\n", "", text, flags=re.M)
        text = re.sub(rf"^  {name}: .*\n", "", text, flags=re.M)
        text = text.replace("sources:\n", f"{line}\nsources:\n{origin}\n", 1)
    return text


def _device(text: str, constants: dict[str, float], note: str, files: str) -> str:
    """A profile with some of DEVICE."""
    text = re.sub(r"^  serving: .*\n", "", text, flags=re.M)
    text = text.replace("sources:\n", f'sources:\n  serving: "closed-loop and open-loop serving runs, {files}"\n', 1)
    shares = ", ".join(
        f"{name.split('.')[1]}: {value:.4g}" for name, value in constants.items() if name.startswith("sustained")
    )
    fact = f'  sustained: {{value: {{{shares}}}, source: serving, grade: calibrated, note: "{note}"}}\n'
    text = re.sub(r"^  sustained: .*\n", "", text, flags=re.M).replace("\nstep:\n", f"\nstep:\n{fact}", 1)
    experts = {name.split(".")[1]: value for name, value in constants.items() if name.startswith("mxfp4")}
    if not experts:
        return text
    start = text.index("\n  experts:\n")
    head, line, rest = re.split(r"(?m)^(    mxfp4: .*\n)", text[start:], maxsplit=1)
    for name, value in experts.items():
        line = re.sub(rf"\b{name}: [^,}}]+", f"{name}: {value:.4g}", line, count=1)
    value_only = line[: line.index("}") + 1]
    return text[:start] + head + f'{value_only}, source: serving, grade: calibrated, note: "{note}"}}\n' + rest
