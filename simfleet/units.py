"""Quantities: "3.35 TB/s" outside, SI floats inside.

A field annotated `Bytes` reads "80 GB" and holds 8e10. A bare number is an error: its unit would be a guess. Units are
case-sensitive, bits are only written out ("400 Gbit/s"), and dollars lead or follow ("$2.5/h", "2.5 $/h").
"""

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BYTES = {p + "B": f for p, f in _DECIMAL.items()} | {p + "iB": 1024.0**i for i, p in enumerate("KMGTP", 1)}
_BITS = {p + "bit": f / 8 for p, f in _DECIMAL.items() if p}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

UNITS: dict[str, dict[str, float]] = {
    "bytes": _BYTES,
    "bytes per second": {u + "/s": f for u, f in (_BYTES | _BITS).items()},
    "operations per second": {p + u + "/s": f for p, f in _DECIMAL.items() for u in ("FLOP", "OP")},
    "seconds": _SECONDS,
    "rate": {"/" + u: 1 / f for u, f in _SECONDS.items()},
    "watts": {"mW": 1e-3, "W": 1.0, "kW": 1e3, "MW": 1e6},
    "joules": {"J": 1.0, "kJ": 1e3, "MJ": 1e6, "Wh": 3600.0, "kWh": 3.6e6, "MWh": 3.6e9},
    "joules per byte": {"pJ/B": 1e-12, "nJ/B": 1e-9, "J/B": 1.0},
    "joules per operation": {"pJ/FLOP": 1e-12, "nJ/FLOP": 1e-9, "J/FLOP": 1.0},
    "joules per element": {"pJ/element": 1e-12, "nJ/element": 1e-9, "J/element": 1.0},
    "dollars": {"$": 1.0, "k$": 1e3, "M$": 1e6},
    "dollars per hour": {"$/h": 1.0, "$/d": 1 / 24},
    "dollars per joule": {"$/J": 1.0, "$/kWh": 1 / 3.6e6, "$/MWh": 1 / 3.6e9},
    "dollars per watt": {"$/W": 1.0, "$/kW": 1e-3, "$/MW": 1e-6},
    "dollars per watt and month": {"$/W-month": 1.0, "$/kW-month": 1e-3, "$/MW-month": 1e-6},
    "grams per joule": {"g/J": 1.0, "g/kWh": 1 / 3.6e6, "kg/MWh": 1 / 3.6e6},
    "litres per joule": {"L/J": 1.0, "L/kWh": 1 / 3.6e6},
    "grams": {"g": 1.0, "kg": 1e3, "t": 1e6},
    "litres": {"mL": 1e-3, "L": 1.0},
    "tokens per second": {"tok/s": 1.0, "ktok/s": 1e3, "Mtok/s": 1e6},
}
"""Dimension -> unit -> factor to SI (dollars, hours of a price and litres are kept as people say them)."""

_QUANTITY = re.compile(
    r"\s*(?P<dollar>\$?)\s*(?P<number>[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d[\d_]*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>(?:[^\d,.\s].*?)?)\s*"
)
_EXAMPLES = {
    "bytes": "80 GB", "bytes per second": "3.35 TB/s", "operations per second": "989 TFLOP/s", "seconds": "50 ms",
    "rate": "10 /s", "watts": "700 W", "joules": "5 kJ", "joules per byte": "80 pJ/B", "joules per operation": "1.04 pJ/FLOP",
    "joules per element": "252 nJ/element", "dollars": "$25000", "dollars per hour": "$2.5/h", "dollars per joule": "0.08 $/kWh",
    "dollars per watt": "12 $/W", "dollars per watt and month": "15 $/kW-month", "grams per joule": "380 g/kWh", "litres per joule": "1.8 L/kWh", "grams": "164 kg",
    "litres": "0.2 L", "tokens per second": "2000 tok/s",
}  # fmt: skip


def parse(text: str, dimension: str) -> float:
    """Read a quantity such as "80 GB" and return it in SI.

    Raises ValueError, saying what was expected and the nearest known unit, for a missing or unknown unit or no number.
    """
    units, example = UNITS[dimension], _EXAMPLES[dimension]
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise ValueError(f"expected {dimension} such as `{example}`, got `{text}`")
    unit = (match["dollar"] + match["unit"]) if match["dollar"] else match["unit"]
    if not unit:
        raise ValueError(f"expected {dimension} with a unit, such as `{example}`, got `{text}` without one")
    if unit not in units:
        near = get_close_matches(unit, units, n=1, cutoff=0.4) or [u for u in units if u.lower() == unit.lower()][:1]
        hint = f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(units)}"
        raise ValueError(f"expected {dimension} such as `{example}`, got the unit `{unit}`{hint}")
    return float(match["number"].replace("_", "").replace(",", "")) * units[unit]


def dimension_of(schema: Mapping[str, Any]) -> str:
    """The dimension of a JSON Schema whose example is a quantity, as `Quantity` makes it; "" for any other."""
    examples = schema.get("examples", ()) if schema.get("type") == "string" else ()
    return next((dimension for dimension in UNITS for example in examples if _is_a(example, dimension)), "")


def _is_a(text: str, dimension: str) -> bool:
    try:
        parse(text, dimension)
    except ValueError:
        return False
    return True


def written(number: float, dimension: str) -> str:
    """A number in SI as a user would write it, in the largest unit that leaves it at least 1: 0.0006 -> "600 us", 6e11 -> "600 GB/s"."""
    units = {unit: factor for unit, factor in UNITS[dimension].items() if not re.search("iB|bit", unit)}
    fitting = [unit for unit, factor in units.items() if factor <= (abs(number) or 1.0)]
    unit = max(fitting or units, key=lambda name: units[name] if fitting else -units[name])
    return f"{number / units[unit]:.6g} {unit}"


class Quantity:
    """A pydantic annotation: a string with a unit outside, a finite SI float of at least `low` inside."""

    def __init__(self, dimension: str, low: float = 0.0, above: bool = False) -> None:
        self.dimension, self.low, self.above = dimension, low, above
        self.wanted = f"{dimension} such as `{_EXAMPLES[dimension]}`"

    def _validate(self, value: Any) -> float:
        if not isinstance(value, str):
            raise PydanticCustomError(
                "quantity",
                "expected {dimension} with a unit, such as `{example}`, got `{got}` without one",
                {"dimension": self.dimension, "example": _EXAMPLES[self.dimension], "got": str(value)},
            )
        try:
            number = parse(value, self.dimension)
        except ValueError as error:
            raise PydanticCustomError("quantity", "{message}", {"message": str(error)}) from None
        if not math.isfinite(number) or number < self.low or (self.above and number == self.low):
            bound = f"{'above' if self.above else 'at least'} {self.low:g}"
            raise PydanticCustomError(
                "quantity",
                "expected {dimension} {bound}, got `{got}`",
                {"dimension": self.dimension, "bound": bound, "got": value},
            )
        return number

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.json_schema()

    def json_schema(self) -> dict[str, Any]:
        """For editors: a text, its units and an example."""
        return {
            "type": "string",
            "description": f"{self.dimension}: {', '.join(UNITS[self.dimension])}",
            "examples": [_EXAMPLES[self.dimension]],
        }


_COUNT = re.compile(r"\s*(\d{1,3}(?:,\d{3}){1,5}|\d[\d_]{0,17})\s*(k|M|Ki|Mi)?\s*")


class Count:
    """A pydantic annotation: a whole number of tokens, written 8192, "128k" (128,000) or "128Ki" (131,072)."""

    _SUFFIX = {"": 1, "k": 1000, "M": 10**6, "Ki": 1024, "Mi": 1024**2}  # noqa: RUF012

    def __init__(self, low: int = 1) -> None:
        self.low = low
        self.wanted = "a whole number such as 8192 or `128k`"

    def _validate(self, value: Any) -> int:
        match = _COUNT.fullmatch(value) if isinstance(value, str) else None
        if match:
            value = int(match[1].replace("_", "").replace(",", "")) * self._SUFFIX[match[2] or ""]
        if isinstance(value, bool) or not isinstance(value, int) or value < self.low:
            raise PydanticCustomError(
                "count",
                "expected a whole number of at least {low}, such as 8192 or 128k, got `{got}`",
                {"low": self.low, "got": str(value)},
            )
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": self.low}, {"type": "string", "examples": ["128k"]}]}


def _fraction(value: Any) -> float:
    percent = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", value) if isinstance(value, str) else None
    number = float(percent[1]) / 100 if percent else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1:
        raise PydanticCustomError(
            "fraction", "expected a share from 0 to 1 such as 0.3 or 30 %, got `{got}`", {"got": str(value)}
        )
    return float(number)


class _Fraction:
    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(_fraction)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "examples": ["30 %"]}]}


Bytes = Annotated[float, Quantity("bytes")]
BytesPerSecond = Annotated[float, Quantity("bytes per second", above=True)]
FlopsPerSecond = Annotated[float, Quantity("operations per second", above=True)]
Seconds = Annotated[float, Quantity("seconds")]
PositiveSeconds = Annotated[float, Quantity("seconds", above=True)]
PerSecond = Annotated[float, Quantity("rate")]
Watts = Annotated[float, Quantity("watts")]
JoulesPerByte = Annotated[float, Quantity("joules per byte")]
JoulesPerFlop = Annotated[float, Quantity("joules per operation")]
JoulesPerElement = Annotated[float, Quantity("joules per element")]
Usd = Annotated[float, Quantity("dollars")]
UsdPerHour = Annotated[float, Quantity("dollars per hour")]
UsdPerWatt = Annotated[float, Quantity("dollars per watt")]
UsdPerWattMonth = Annotated[float, Quantity("dollars per watt and month")]
LitresPerJoule = Annotated[float, Quantity("litres per joule")]
Grams = Annotated[float, Quantity("grams")]
Tokens = Annotated[int, Count()]
Fraction = Annotated[float, _Fraction()]
