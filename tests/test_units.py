"""Quantities: what is written means one number, and what is ambiguous means none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from simfleet.units import (
    UNITS,
    Bytes,
    BytesPerSecond,
    Fraction,
    PositiveSeconds,
    Tokens,
    UsdPerHour,
    Watts,
    dimension_of,
    parse,
    written,
)

ALL_UNITS = [(dimension, unit) for dimension, units in UNITS.items() for unit in units]
numbers = st.floats(min_value=0, max_value=1e15, allow_nan=False)


@given(st.sampled_from(ALL_UNITS), numbers, st.sampled_from(["", " ", "  "]))
def test_every_unit_reads_back(known, number, space):
    dimension, unit = known
    assert parse(f"{number!r}{space}{unit}", dimension) == number * UNITS[dimension][unit]


@given(st.sampled_from(["", "k"]), numbers)
def test_a_dollar_may_lead(prefix, number):
    assert parse(f"${number!r}", "dollars") == number
    assert parse(f"${number!r}/h", "dollars per hour") == parse(f"{number!r} $/h", "dollars per hour") == number
    assert parse(f"{number!r} {prefix}$", "dollars") == number * UNITS["dollars"][prefix + "$"]


@given(st.integers(0, 10**12))
def test_thousands_may_be_set_off(number):
    assert parse(f"{number:,} W", "watts") == parse(f"{number:_} W", "watts") == number


@pytest.mark.parametrize(
    ("text", "dimension", "number"),
    [
        ("80 GB", "bytes", 80e9),
        ("80 GiB", "bytes", 80 * 2**30),
        ("400 Gbit/s", "bytes per second", 50e9),
        ("400 GB/s", "bytes per second", 400e9),
        ("1 kWh", "joules", 3.6e6),
        ("0.08 $/kWh", "dollars per joule", 0.08 / 3.6e6),
        ("380 g/kWh", "grams per joule", 380 / 3.6e6),
        ("989 TFLOP/s", "operations per second", 989e12),
        ("393 TOP/s", "operations per second", 393e12),
        ("60 /min", "rate", 1.0),
        ("1.5e-3 s", "seconds", 1.5e-3),
    ],
)
def test_known_values(text, dimension, number):
    assert parse(text, dimension) == pytest.approx(number, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "dimension", "phrase"),
    [
        ("80", "bytes", "without one"),
        ("80 Gb", "bytes", "did you mean `GB`"),
        ("400 Gb/s", "bytes per second", "got the unit `Gb/s`"),
        ("400 Gbit", "bytes", "got the unit `Gbit`"),
        ("50 MS", "seconds", "did you mean `ms`"),
        ("1,5 GB", "bytes", "got `1,5 GB`"),
        ("1.2.3 s", "seconds", "got"),
        ("fast", "seconds", "got `fast`"),
        ("", "seconds", "got ``"),
        ("$$2", "dollars", "got"),
        ("$2.5 $/h", "dollars per hour", "got the unit"),
        ("2.5 €/h", "dollars per hour", "got the unit `€/h`"),
    ],
)
def test_what_is_unclear_is_refused(text, dimension, phrase):
    with pytest.raises(ValueError, match="expected") as caught:
        parse(text, dimension)
    assert phrase in str(caught.value)


@given(st.text(), st.sampled_from(sorted(UNITS)))
def test_any_text_is_a_number_or_a_value_error(text, dimension):
    try:
        number = parse(text, dimension)
    except ValueError as error:
        number, message = 0.0, str(error)
    else:
        message = "expected"
    assert message.startswith("expected")
    assert not math.isnan(number)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Bytes, 80),
        (Bytes, None),
        (Bytes, True),
        (Bytes, "-1 GB"),
        (Watts, "1e400 W"),
        (BytesPerSecond, "0 B/s"),
        (PositiveSeconds, "0 s"),
        (UsdPerHour, ["2 $/h"]),
        (Tokens, 0),
        (Tokens, 1.5),
        (Tokens, True),
        (Tokens, "12.5k"),
        (Tokens, "1,5k"),
        (Tokens, "9" * 5000),
        (Fraction, 1.1),
        (Fraction, "101 %"),
        (Fraction, "1.2.3 %"),
        (Fraction, math.nan),
        (Fraction, True),
    ],
)
def test_fields_refuse(kind, value):
    with pytest.raises(ValidationError, match="expected"):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("kind", "value", "number"),
    [
        (Bytes, "0 B", 0.0),
        (Tokens, 8192, 8192),
        (Tokens, "128k", 128_000),
        (Tokens, "128 Ki", 131_072),
        (Tokens, "1,048,576", 1_048_576),
        (Fraction, "30 %", 0.3),
        (Fraction, 1, 1.0),
    ],
)
def test_fields_read(kind, value, number):
    assert TypeAdapter(kind).validate_python(value) == number


def test_schemas_describe_units():
    schema = TypeAdapter(Bytes).json_schema()
    assert schema["type"] == "string"
    assert "GiB" in schema["description"]
    assert {"type": "integer", "minimum": 1} in TypeAdapter(Tokens).json_schema()["anyOf"]
    assert TypeAdapter(Fraction).json_schema()["anyOf"][0]["maximum"] == 1
    assert [dimension_of(TypeAdapter(kind).json_schema()) for kind in (Bytes, UsdPerHour, Tokens, Fraction)] == ["bytes", "dollars per hour", "", ""]  # fmt: skip


@given(st.sampled_from(list(UNITS)), st.floats(min_value=1e-14, max_value=1e16))
def test_what_is_written_reads_back(dimension, number):
    text = written(number, dimension)
    assert parse(text, dimension) == pytest.approx(number, rel=1e-5)


@pytest.mark.parametrize(
    ("number", "dimension", "text"),
    [
        (0.0, "seconds", "0 s"), (5.9e-4, "seconds", "590 us"), (86_400.0, "seconds", "1 d"), (1e-12, "seconds", "0.001 ns"), (6e11, "bytes per second", "600 GB/s"),
        (2e9, "bytes", "2 GB"), (12.0, "dollars per watt", "12 $/W"), (0.0, "rate", "0 /s"), (90.0, "seconds", "1.5 min"),
    ],
)  # fmt: skip
def test_the_largest_unit_that_fits_is_written(number, dimension, text):
    assert written(number, dimension) == text
