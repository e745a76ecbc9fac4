"""Quantities that change in time: three ways to write them, and what is refused."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import ValidationError

from simfleet.series import Series
from simfleet.signals import Signal
from simfleet.spec import Spec


class Priced(Spec):
    price: Annotated[Signal, Series("dollars per joule", low=-1.0)]
    wet_bulb: Annotated[Signal, Series(None, -60.0, 40.0)] = Signal.constant(15.0)


def price(written: object, folder: Path = Path()) -> Signal:
    found: Signal = Priced.model_validate({"price": written}, context={"folder": folder}).price
    return found


def file(folder: Path, *rows: str) -> Path:
    (folder / "series.csv").write_text("\n".join(["time_s,value", *rows]) + "\n")
    return folder


def test_one_value_holds_for_good() -> None:
    assert price("0.5 $/J") == Signal.constant(0.5)
    assert price("0.5 $/J").next_change(0.0) == float("inf")


def test_steps_hold_until_the_next_and_begin_again() -> None:
    signal = price({"steps": {"0 h": "0 $/kWh", "8 h": "36 $/kWh"}, "repeat": "1 d"})
    values = [signal.at(h * 3600) for h in (0, 7.9, 8, 23.9, 24, 33)]
    assert values == pytest.approx([0, 0, 1e-5, 1e-5, 0, 1e-5])
    assert [signal.next_change(h * 3600) / 3600 for h in (0, 8, 24)] == [8, 24, 32]


def test_a_file_holds_from_row_to_row(tmp_path: Path) -> None:
    written = {"file": "series.csv", "unit": "$/kWh"}
    signal = price(written, file(tmp_path, "0,36", "3600,-72", "7200,36"))
    assert [signal.at(t) for t in (0, 3599, 3600, 1e9)] == pytest.approx([1e-5, 1e-5, -2e-5, 1e-5])
    assert signal.known_until_s == 10_800
    again = price({**written, "repeat": "3 h"}, tmp_path)
    assert again.at(3 * 3600 + 3600) == pytest.approx(-2e-5)
    assert again.known_until_s == float("inf")


def test_a_signal_is_taken_as_it_is() -> None:
    signal = Signal.steps([0.0, 5.0], [1.0, 2.0])
    assert price(signal) is signal


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (5, "expected dollars per joule with a unit, such as"),
        ("5 g/kWh", "got the unit `g/kWh`"),
        ([1, 2], "expected dollars per joule with a unit, such as `0.08 \\$/kWh`"),
        ({}, "or `steps` or a `file`"),
        ({"step": {"0 h": "1 $/J"}}, "or `steps` or a `file`"),
        ({"steps": {}}, "expected steps such as"),
        ({"steps": {"1 h": "1 $/J"}}, "expected the first step at `0 h`, got `1 h`"),
        ({"steps": {"0 h": "1 $/J", "2 h": "1 $/J", "1 h": "1 $/J"}}, "expected times that rise, got `1 h`"),
        ({"steps": {0: "1 $/J"}}, "expected seconds with a unit"),
        ({"steps": {"0 h": "1 $/J", "5 h": "1 $/J"}, "repeat": "5 h"}, "expected `repeat` after the last step"),
        ({"steps": {"0 h": "1 $/J"}, "repeats": "1 d"}, "unknown key `repeats`; did you mean `repeat`"),
        ({"file": "series.csv"}, "expected the `unit` of the file's values, one of"),
        ({"file": "series.csv", "unit": "$"}, "got `\\$`"),
        ({"file": "none.csv", "unit": "$/J"}, "expected a file with the columns time_s and value"),
        ({"file": "series.csv", "unit": "$/J", "repeat": "4 h"}, "expected `repeat` to be where the file ends, 7200 s"),
    ],
)
def test_what_is_refused(written: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        price(written, file(tmp_path, "0,1", "3600,1"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ("0,1", "3600,1", "7200,1", "14400,1"),
            "row 5, column `time_s`: expected a row every 3600 s, got a gap of 7200",
        ),
        (("0,1", "3600,", "7200,1"), "row 3, column `value`: expected a number, got ``"),
        (("0,1", "3600,nan"), "row 3, column `value`: expected a number"),
        (("0,1", "3600,-9e9"), "row 3, column `value`: expected at least -1"),
        (("3600,1", "7200,1"), "from time 0 on"),
        (("0,1",), "expected at least two rows"),
        (("0,1", "0,1"), "expected a time after 0"),
    ],
)
def test_files_with_gaps(rows: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        price({"file": "series.csv", "unit": "$/J"}, file(tmp_path, *rows))


def test_plain_numbers_have_bounds() -> None:
    bulb = Priced.model_validate({"price": "1 $/J", "wet_bulb": -20}).wet_bulb
    assert bulb == Signal.constant(-20.0)
    for wrong in ("15 C", True, 41.0, None):
        with pytest.raises(ValidationError, match="expected"):
            Priced.model_validate({"price": "1 $/J", "wet_bulb": wrong})


def test_json_is_the_value_or_the_pieces() -> None:
    assert Priced.model_validate({"price": "1 $/J"}).model_dump()["price"] == 1.0
    steps = Priced.model_validate({"price": {"steps": {"0 s": "1 $/J", "9 s": "2 $/J"}}}).model_dump()["price"]
    assert steps["left"] == (1.0, 2.0)
