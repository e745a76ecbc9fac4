"""A quantity that may change in time, as a user writes it: one value, steps, or a file."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import PydanticCustomError, core_schema

from simfleet.document import did_you_mean, short
from simfleet.signals import Signal, read_points
from simfleet.units import UNITS, Quantity, parse

_KEYS = {"steps": ("steps", "repeat"), "file": ("file", "unit", "repeat")}
_SPACING = 1e-6
"""Times of a file count as evenly spaced within this share of their spacing."""


class Series:
    """A pydantic annotation: one quantity, steps in time or a CSV file outside, a Signal of SI values inside.

        430 g/kWh
        {steps: {0 h: 430 g/kWh, 8 h: 310 g/kWh}, repeat: 1 d}      each value holds until the next
        {file: carbon.csv, unit: g/kWh, repeat: 1 d}                columns time_s, evenly spaced from 0 on, and value

    dimension -- of `units.UNITS`; None: a plain number
    low, high -- bounds of a value, in SI units

    Without `repeat` the last of the steps holds for good, and a file has to reach to the end of the arrivals.
    """

    def __init__(self, dimension: str | None, low: float = 0.0, high: float = math.inf) -> None:
        self.dimension, self.low, self.high = dimension, low, high
        self.wanted = Quantity(dimension).wanted if dimension else "a number"

    def _validate(self, value: Any, info: ValidationInfo) -> Signal:
        if isinstance(value, Signal):
            return value
        if not isinstance(value, dict):
            return Signal.constant(self._number(value))
        form = next((key for key in _KEYS if key in value), None)
        if form is None:
            raise _refused(f"expected {self.wanted}, or `steps` or a `file`, got `{short(value)}`")
        unknown = [key for key in value if key not in _KEYS[form]]
        if unknown:
            raise _refused(f"unknown key `{unknown[0]}`{did_you_mean(str(unknown[0]), _KEYS[form])}")
        return self._steps(value) if form == "steps" else self._file(value, info)

    def _steps(self, value: dict[str, Any]) -> Signal:
        steps = value["steps"]
        if not isinstance(steps, dict) or not steps:
            raise _refused(f"expected steps such as `{{0 h: ..., 8 h: ...}}`, got `{short(steps)}`")
        times_s = [_seconds(time) for time in steps]
        if times_s[0] != 0.0:
            raise _refused(f"expected the first step at `0 h`, got `{next(iter(steps))}`")
        for before, after, written in zip(times_s, times_s[1:], list(steps)[1:], strict=False):
            if after <= before:
                raise _refused(f"expected times that rise, got `{written}` after {before:g} s")
        period_s = _period(value, times_s[-1])
        return Signal.steps(times_s, [self._number(level) for level in steps.values()], period_s)

    def _file(self, value: dict[str, Any], info: ValidationInfo) -> Signal:
        factor = self._factor(value)
        path = Path((info.context or {}).get("folder", ".")) / str(value["file"])
        try:
            times_s, values = read_points(path, "value", low=-math.inf)
        except OSError as error:
            wanted = "expected a file with the columns time_s and value"
            raise _refused(f"{wanted}, got `{path}`: {error.strerror}") from None
        except ValueError as error:
            raise _refused(str(error)) from None
        spacing_s = float(times_s[1] - times_s[0])
        wrong = np.flatnonzero(np.abs(np.diff(times_s) - spacing_s) > _SPACING * spacing_s)
        if len(wrong):
            row = int(wrong[0]) + 3
            gap = f"a gap of {times_s[wrong[0] + 1] - times_s[wrong[0]]:g} s after {times_s[wrong[0]]:g} s"
            raise _refused(
                f"`{path.name}`, row {row}, column `time_s`: expected a row every {spacing_s:g} s, got {gap}"
            )
        outside = np.flatnonzero((values * factor < self.low) | (values * factor > self.high))
        if len(outside):
            row = int(outside[0])
            raise _refused(
                f"`{path.name}`, row {row + 2}, column `value`: expected {self._bounds()}, got `{values[row]:g}`"
            )
        end_s = float(times_s[-1]) + spacing_s
        period_s = _period(value, end_s, exactly=True)
        signal = Signal(np.append(times_s, end_s), values * factor, values * factor, period_s)
        signal.known_until_s = math.inf if period_s is not None else end_s
        return signal

    def _factor(self, value: dict[str, Any]) -> float:
        """What a number of the file is in SI units."""
        if self.dimension is None:
            return 1.0
        unit = value.get("unit")
        units = UNITS[self.dimension]
        if unit not in units:
            got = "without one" if unit is None else f"got `{short(unit)}`"
            raise _refused(f"expected the `unit` of the file's values, one of {', '.join(units)}, {got}")
        return units[unit]

    def _number(self, value: Any) -> float:
        if self.dimension is not None:
            number = Quantity(self.dimension, self.low)._validate(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        else:
            raise _refused(f"expected a number, got `{short(value)}`")
        if not self.low <= number <= self.high:
            raise _refused(f"expected {self._bounds()}, got `{value}`")
        return number

    def _bounds(self) -> str:
        return f"at least {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(Signal.plain)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        one = Quantity(self.dimension).json_schema() if self.dimension else {"type": "number"}
        repeat = {"type": "string", "description": "Begin again after this long; left out, never", "examples": ["1 d"]}
        steps = {
            "type": "object",
            "additionalProperties": one,
            "description": "Time, from `0 h` on -> value, which holds until the next",
        }
        file = {
            "type": "string",
            "description": "CSV with the columns time_s, evenly spaced from 0, and value; relative to the folder of the scenario",
        }
        unit = {"type": "string", "description": "Unit of the file's values, such as `g/kWh`; none for plain numbers"}
        return {
            "anyOf": [
                one,
                _mapping({"steps": steps, "repeat": repeat}, ["steps"]),
                _mapping({"file": file, "unit": unit, "repeat": repeat}, ["file"]),
            ]
        }


def _mapping(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _seconds(value: Any) -> float:
    try:
        return parse(value, "seconds") if isinstance(value, str) else _refuse_bare(value)
    except ValueError as error:
        raise _refused(str(error)) from None


def _refuse_bare(value: Any) -> float:
    raise ValueError(f"expected seconds with a unit, such as `8 h`, got `{short(value)}`")


def _period(value: dict[str, Any], end_s: float, exactly: bool = False) -> float | None:
    """`repeat` [s]: after the last step, or where the file ends."""
    if "repeat" not in value:
        return None
    period_s = _seconds(value["repeat"])
    if period_s <= end_s and not exactly:
        raise _refused(f"expected `repeat` after the last step at {end_s:g} s, got `{value['repeat']}`")
    if exactly and not math.isclose(period_s, end_s, rel_tol=1e-9):
        raise _refused(f"expected `repeat` to be where the file ends, {end_s:g} s, got `{value['repeat']}`")
    return end_s if exactly else period_s


def _refused(message: str) -> PydanticCustomError:
    return PydanticCustomError("series", "{message}", {"message": message})
