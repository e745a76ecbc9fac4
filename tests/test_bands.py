"""Errors on measured runs stay within their bands, and a slower or faster simulator would leave them."""

import json

import pytest

from tests.bands import BANDS, QUICK, SERVING, broken, errors

shared = pytest.mark.skipif(not SERVING.is_dir(), reason="the measured runs (../shared/data/serving) are not here")


@shared
def test_errors_stay_within_their_bands() -> None:
    bands = json.loads(BANDS.read_text(encoding="utf-8"))
    assert set(QUICK) <= set(bands)
    assert broken(errors(QUICK), bands) == []


def test_worse_errors_and_missing_rows_are_told() -> None:
    bands = {"a.csv": {"all": {"tpot_mean_s": [10, 4.0, 9.0, 0.1]}}}
    assert broken({"a.csv": {"all": {"tpot_mean_s": [10, 4.0, 20.0, 0.0]}}}, bands) == []
    (worse,) = broken({"a.csv": {"all": {"tpot_mean_s": [10, 4.5, 9.0, 0.1]}}}, bands)
    assert "median error 4.5 %, the band is 4.0 %" in worse
    (fewer,) = broken({"a.csv": {"all": {"tpot_mean_s": [9, 4.0, 9.0, 0.1]}}}, bands)
    assert "9 rows, there were 10" in fewer
    (gone,) = broken({"a.csv": {}}, bands)
    assert "0 rows, there were 10" in gone
