"""Constants of the energy equation from measured board watts, the measured pace imposed: one fit per device.

    simfleet calibrate mlenergy_v3_llm.csv --power --out hardware_profiles

Least squares, soft-l1, on ln(predicted / measured) watts; every architecture weighs the same. What a profile holds because rows do not
tell it stays: `per_byte`, `per_flop`, and whatever has a note that begins with "held".
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from simfleet.calibration.operators import Errors
from simfleet.calibration.tables import digest
from simfleet.document import Document, Mark, Problem, SpecError
from simfleet.evidence.energy import Floats, Watts, kinds, uses
from simfleet.evidence.rows import Row, Skipped, read
from simfleet.hardware.profile import Profile
from simfleet.library import Library
from simfleet.scenario import built

TEXT = ("lm-arena-chat", "gpqa", "sourcegraph-fim")
"""Tasks that are fitted: how many tokens images and videos become is not known."""
STARTS = {"gap": 150.0, "busy": 400.0, "per_activation": 200e-9}
SOFT = 0.05
"""Error of a row from which it counts less than squared."""
GAP = 0.3
"""A device that waits for its host draws at most this share of its limit, and at least what it draws idle."""
FEWEST = 10
INSIDE, OUTSIDE = "inside the fit", "architectures left out"


@dataclass(frozen=True)
class Points:
    """Rows of one device: `shares` [rows x kinds] and `used` [rows x kinds x 5] as `energy.uses` gives them, measured watts of a device."""

    rows: Sequence[Row]
    shares: Floats
    used: Floats
    watts: Floats

    @property
    def batches(self) -> list[float]:
        """Sequences in the batch of each row."""
        return [row.pace.batch if row.pace is not None else 0.0 for row in self.rows]

    def where(self, keep: Callable[[Row], bool]) -> "Points":
        """Some of the rows."""
        return self.of([number for number, row in enumerate(self.rows) if keep(row)])

    def of(self, numbers: list[int]) -> "Points":
        """Rows by their numbers."""
        return Points([self.rows[i] for i in numbers], self.shares[numbers], self.used[numbers], self.watts[numbers])

    def without(self, model: str) -> "Points":
        """All rows but those of one architecture."""
        return self.where(lambda row: row.model != model)

    def predicted(self, constants: Sequence[Watts]) -> Floats:
        """Watts of each row under its own constants."""
        table = np.array(constants)
        drawn = np.einsum("rku,ru->rk", self.used, table[:, :-1])
        found: Floats = (self.shares * np.minimum(drawn, table[:, -1:])).sum(axis=1)
        return found

    def errors(self, predicted: Floats) -> Errors:
        """How far watts are from the measured ones."""
        return Errors.of((predicted / self.watts - 1.0).tolist())


@dataclass(frozen=True)
class PowerFit:
    """Constants of a device, those of them that were `fitted`, and errors of watts: `figures` name -> errors."""

    device: str
    watts: Watts
    fitted: tuple[str, ...]
    figures: dict[str, Errors]

    @property
    def note(self) -> str:
        """What the profile says beside the constants."""
        inside, outside = self.figures[INSIDE], self.figures[OUTSIDE]
        shown = [f"{100 * errors.median:.1f} % (p90 {100 * errors.p90:.0f} %)" for errors in (inside, outside)]
        return f"watts: error {shown[0]}, architectures left out {shown[1]}; {inside.rows} rows"

    def as_json(self) -> dict[str, Any]:
        """What `simfleet calibrate --power --format json` prints for a device; errors are shares of the measured watts."""
        return {
            "device": self.device, "constants": self.watts._asdict(), "fitted": list(self.fitted),
            "errors": {name.strip(): errors._asdict() for name, errors in self.figures.items()},
        }  # fmt: skip

    def text(self) -> str:
        """The constants and a line for every figure, errors in percent."""
        units = zip(
            Watts._fields, ("W", "W", "pJ/B", "pJ/FLOP", "nJ/element", "W"), (1, 1, 1e12, 1e12, 1e9, 1), strict=True
        )
        constants = ", ".join(
            f"{name} {scale * getattr(self.watts, name):.4g} {unit}{'' if name in self.fitted else ' (held)'}"
            for name, unit, scale in units
        )
        lines = [f"{self.device}: {constants}", f"  {'errors of watts, %':44} {'rows':>5} median   p90   bias"]
        for name, e in self.figures.items():
            lines.append(f"  {name:44} {e.rows:5} {100 * e.median:6.1f} {100 * e.p90:5.1f} {100 * e.bias:+6.1f}")
        return "\n".join(lines)


@dataclass(frozen=True)
class PowerCalibration:
    """A fit for each device, `skipped` reason -> rows, and digests of the files."""

    fits: Sequence[PowerFit]
    skipped: Counter[str]
    digests: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """What `simfleet calibrate --power --format json` prints."""
        fits = [fit.as_json() for fit in self.fits]
        return {"fits": fits, "skipped": dict(self.skipped.most_common()), "files": list(self.digests)}

    def text(self) -> str:
        """What `simfleet calibrate --power` prints."""
        skipped = [f"skipped {count} rows: {reason}" for reason, count in self.skipped.most_common()]
        return "\n".join([*(fit.text() for fit in self.fits), *skipped])


def calibrate(paths: Iterable[Path], library: Library, name: str | None = None) -> PowerCalibration:
    """Fit the device `name`, or every device with at least FEWEST rows of text.

    Raises SpecError where nothing can be fitted, LookupError for an unknown name, ValueError or OSError for a file that cannot be read.
    """
    files, skipped = list(paths), Counter[str]()
    wanted = library.path("hardware_profiles", name).stem if name is not None else None
    rows: dict[str, list[Row]] = {}
    for row in (row for path in files for row in read(path, library)):
        if isinstance(row, Skipped) or row.pace is None:
            skipped[str(row) if isinstance(row, Skipped) else "no watts measured"] += 1
        elif wanted in (None, row.device):
            rows.setdefault(row.device, []).append(row)
        else:
            skipped[f"of another device than `{wanted}`"] += 1
    for device in [device for device, found in rows.items() if sum(row.tags["task"] in TEXT for row in found) < FEWEST]:
        skipped[f"fewer than {FEWEST} rows of text on `{device}`"] += len(rows.pop(device))
    if not rows:
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in skipped.most_common(5)) or "no rows at all"
        raise SpecError([Problem(Mark(str(files[0])), "", f"no watts to fit: {reasons}")])
    fits = [_fit(library.profile(device), _points(found, library)) for device, found in rows.items()]
    return PowerCalibration(fits, skipped, [digest(path) for path in files])


def _points(rows: Sequence[Row], library: Library) -> Points:
    parts = []
    for row in rows:
        pool = built(Document.from_data(row.scenario), library).pools["measured"]
        assert row.pace is not None
        parts.append(uses(kinds(pool, row.pace), row.pace.step_s))
    shares, used = (np.array(part) for part in zip(*parts, strict=True))
    return Points(rows, shares, used, np.array([row.measured["power_imposed"] for row in rows]))


def _fit(profile: Profile, points: Points) -> PowerFit:
    power = profile.power
    start = Watts.of(power.model_copy(update={"scale": None}))
    held = (power.gap.note or "").startswith("held")
    bounds = {"gap": (power.idle.value, GAP * power.limit.value), "busy": (0.0, 2e3), "per_activation": (0.0, 1e-5)}
    if held:
        del bounds["gap"]
    text = points.where(lambda row: row.tags["task"] in TEXT)
    models = dict.fromkeys(row.model for row in text.rows)
    watts = _rounded(_solve(text, start, bounds), bounds)
    without = {model: _solve(text.without(model), start, bounds) for model in models if len(models) > 1}
    return PowerFit(profile.name, watts, tuple(bounds), _figures(points, text, watts, without))


def _figures(points: Points, text: Points, watts: Watts, without: Mapping[str, Watts]) -> dict[str, Errors]:
    """How far off watts are: inside the fit; under the constants `without` the row's own model, the tasks one by one; where one level
    is all there is; and with one point of the model itself."""

    def outside(rows: Points) -> Floats:
        return rows.predicted([without.get(row.model, watts) for row in rows.rows])

    figures = {INSIDE: text.errors(text.predicted([watts] * len(text.rows))), OUTSIDE: text.errors(outside(text))}
    for task in dict.fromkeys(row.tags["task"] for row in points.rows):
        some = points.where(lambda row: row.tags["task"] == task)  # noqa: B023
        figures[f"  {task}"] = some.errors(outside(some))
    figures["  all tasks"] = points.errors(outside(points))
    levels = {model: _level(text.without(model)) for model in without}
    if levels:
        figures["constant watts, left out"] = text.errors(np.array([levels[row.model] for row in text.rows]))
    for what, rows in (("text", text), ("all tasks", points)):
        errors = _one_point(rows, without, watts)
        if errors:
            figures[f"one point per model and devices, {what}"] = Errors.of(errors)
    return figures


def _level(points: Points) -> float:
    """The constant watts nearest to all architectures: the mean of their mean logarithms."""
    logs, models = np.log(points.watts), np.array([row.model for row in points.rows])
    return float(np.exp(np.mean([logs[models == model].mean() for model in set(models)])))


def _solve(points: Points, start: Watts, bounds: dict[str, tuple[float, float]]) -> Watts:
    from scipy.optimize import least_squares  # noqa: PLC0415 - heavy, and only needed here

    names, sizes = list(bounds), Counter(row.model for row in points.rows)
    weights = np.array([sqrt(len(points.rows) / len(sizes) / sizes[row.model]) for row in points.rows])
    unit = np.array([STARTS[name] for name in names])
    low, high = (np.array([bounds[name][i] for name in names]) / unit for i in range(2))

    def misses(at: Floats) -> Floats:
        constants = start._replace(**dict(zip(names, (at * unit).tolist(), strict=True)))
        found = points.predicted([constants] * len(points.rows))
        weighed: Floats = weights * np.log(found / points.watts)
        return weighed

    at = np.clip(np.ones(len(names)), low, high)
    solution = least_squares(misses, at, bounds=(low, high), loss="soft_l1", f_scale=SOFT)
    return start._replace(**dict(zip(names, (solution.x * unit).tolist(), strict=True)))


def _rounded(watts: Watts, names: Iterable[str]) -> Watts:
    """Four digits."""
    return watts._replace(**{name: float(f"{getattr(watts, name):.4g}") for name in names})


def _one_point(points: Points, without: Mapping[str, Watts], watts: Watts) -> list[float]:
    """Errors of the other rows of each model and number of devices where the row of middle batch gives `power.scale`."""
    groups: dict[tuple[str, int], list[int]] = {}
    for number, row in enumerate(points.rows):
        devices = row.scenario["pools"]["measured"].get("tensor_parallel", 1)
        groups.setdefault((row.tags["served"], devices), []).append(number)
    errors: list[float] = []
    for numbers in groups.values():
        numbers.sort(key=lambda number: points.batches[number])
        middle = numbers.pop(len(numbers) // 2)
        constants = without.get(points.rows[middle].model, watts)
        scaled = constants.scaled(_scale(points.of([middle]), constants))
        rest = points.of(numbers)
        errors += (rest.predicted([scaled] * len(numbers)) / rest.watts - 1.0).tolist() if numbers else []
    return errors


def _scale(one: Points, watts: Watts) -> float:
    """Measured over predicted joules of one row's steps, gaps left out."""
    gap_w = float((one.shares * one.used[:, :, 0]).sum()) * watts.gap
    return (float(one.watts[0]) - gap_w) / (float(one.predicted([watts])[0]) - gap_w)
