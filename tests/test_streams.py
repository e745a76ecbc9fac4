"""Random streams depend on the seed and their names alone."""

import os
import subprocess
import sys

import numpy as np
import pytest

from simfleet.streams import Streams

NAMES = [("arrivals", "chat"), ("arrivals", "code"), ("input", "chat"), ("arrivals",), ("chat", "arrivals")]


def first(seed, *names):
    return Streams(seed)(*names).random(4).tolist()


def test_the_same_names_give_the_same_numbers_whatever_was_drawn_before():
    streams = Streams(7)
    expected = streams("arrivals", "chat").random(4).tolist()
    streams("input", "chat").random(1000)
    assert streams("arrivals", "chat").random(4).tolist() == expected


def test_other_names_and_other_seeds_give_other_numbers():
    drawn = [tuple(first(seed, *names)) for seed in (0, 1) for names in NAMES]
    assert len(set(drawn)) == len(drawn)


def test_names_do_not_run_together():
    assert len({tuple(first(0, *names)) for names in [("ab", "c"), ("a", "bc"), ("abc",), ('ab", "c',)]}) == 4


def test_the_hash_seed_of_the_process_does_not_matter():
    code = "from simfleet.streams import Streams; print(Streams(3)('arrivals', 'chat').random(4).tolist())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{first(3, 'arrivals', 'chat')}\n"}


def test_streams_are_not_correlated():
    drawn = [Streams(0)(*names).standard_normal(20_000) for names in NAMES]
    off_diagonal = np.corrcoef(drawn)[np.triu_indices(len(NAMES), 1)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(20_000)


def test_the_numbers_are_those_of_the_first_release():
    """A change here changes every published result: it needs a note in the changelog."""
    assert Streams(0)("arrivals", "chat").integers(0, 1000, 4).tolist() == [135, 835, 104, 585]


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Streams(-1)
