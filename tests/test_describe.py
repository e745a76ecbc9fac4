"""Descriptions: figures by hand, laws of Poisson, the goldens of the public traces, and the text."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simfleet.document import Document
from simfleet.library import Library
from simfleet.spec import build
from simfleet.workload import describe
from simfleet.workload.describe import dispersion, prefix_hits, spearman
from simfleet.workload.streams import Workload
from simfleet.workload.traces import Trace

SHARED = Path(__file__).parents[2] / "shared" / "data" / "traces"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the public traces in ../shared are not here")
TOKENS = "tokens: {input: {dist: constant, value: 9}, output: {dist: uniform, low: 1, high: 3}}"


def workload(text: str, folder: Path | None = None) -> Workload:
    document = Document.from_text("streams:\n" + "".join(f"  {line}\n" for line in text.splitlines()), folder=folder)
    return build(Workload, document, {"library": Library()})


def test_by_hand() -> None:
    requests = [(0.0, 10, 1), (0.5, 20, 3), (1.0, 30, 2), (3.5, 40, 4)]
    one = describe.describe(requests, duration_s=4.0)
    assert one["requests"] == 4
    assert one["rate_per_s"] == 1.0
    assert one["windows_s"] == {1: {"dispersion": 0.5, "peak_per_s": 2.0}}  # counts 2, 1, 0, 1
    gaps = [0.5, 0.5, 2.5]
    assert one["gap_cv"] == pytest.approx(np.std(gaps) / np.mean(gaps))
    assert one["input_tokens"] == {
        "total": 100,
        "mean": 25.0,
        "p50": 25.0,
        "p90": 37.0,
        "p95": 38.5,
        "p99": pytest.approx(39.7),
        "max": 40,
    }
    assert one["output_tokens"]["total"] == 10
    assert one["length_correlation"] == pytest.approx(0.8)


def test_only_whole_windows_count() -> None:
    """The last half window would look like a lull."""
    times = np.arange(0, 25) + 0.5
    assert dispersion(times, 25.0, 10.0) == 0.0


def test_duration_is_the_last_arrival_unless_given() -> None:
    assert describe.describe([(0.0, 1, 1), (4.0, 1, 1)])["rate_per_s"] == 0.5
    assert describe.describe([(0.0, 1, 1), (4.0, 1, 1)], 8.0)["rate_per_s"] == 0.25


@pytest.mark.parametrize("requests", [[], [(0.0, 5, 5)], [(0.0, 5, 5), (0.0, 5, 5), (0.0, 5, 5)]])
def test_what_is_not_determined_is_none(requests: list[tuple[float, int, int]]) -> None:
    one = describe.describe(requests)
    assert (one["rate_per_s"], one["gap_cv"], one["length_correlation"], one["windows_s"]) == (None, None, None, {})
    assert "nan" not in json.dumps(one).lower()
    assert describe.text({"a": one})


def test_text_is_for_people() -> None:
    """Thousands commas, hours where seconds are many, two digits of a correlation and no minus zero."""
    one = describe.describe([(12.0 * i, 20_000 + i % 7, 100 + i % 5) for i in range(7201)])
    text = describe.text({"a": one | {"length_correlation": -0.0003281}})
    assert "  7,201 requests in 86,400 s (24 h), 0.0833 /s; CV of gaps 0" in text
    assert "144,0" in text
    assert text.endswith("rank correlation of input and output 0.00")
    assert describe.text({"a": one | {"length_correlation": -0.256}}).endswith(" -0.26")


def test_silence_has_no_dispersion() -> None:
    one = describe.describe([(700.0, 1, 1)], 700.0)
    assert one["windows_s"][300] == {"dispersion": None, "peak_per_s": 0.0}
    assert describe.text({"a": one})


def test_poisson_has_dispersion_one() -> None:
    """(m - 1) IDC is chi-squared with m - 1 degrees of freedom for m windows: within four standard errors, sqrt(2/m)."""
    one = describe.streams(
        workload(f"- {{name: a, model: llama-3.1-8b, arrival: {{rate: 20 /s}}, {TOKENS}}}"), 3, 6000.0
    )["a"]
    for window_s, figures in one["windows_s"].items():
        assert abs(figures["dispersion"] - 1) < 4 * math.sqrt(2 / (6000 / window_s)), window_s
    assert abs(one["gap_cv"] - 1) < 4 / math.sqrt(one["requests"])
    assert abs(one["length_correlation"] or 0.0) < 4 / math.sqrt(one["requests"])


@needs_shared
@pytest.mark.parametrize(
    ("file", "wanted", "gap_cv"), [("conv", (1.4, 3.9, 16, 56), 1.09), ("code", (13, 72, 164, 138), 13.2)]
)
def test_azure_goldens(file: str, wanted: tuple[float, ...], gap_cv: float) -> None:
    """Published with the workload notes: dispersion at 1/10/60/300 s to two or three figures."""
    path = SHARED / f"AzureLLMInferenceTrace_{file}.csv.gz"
    text = f"- {{name: a, model: llama-3.1-8b, trace: {{file: {path}, format: azure-2023}}}}"
    one = describe.streams(workload(text))["a"]
    assert [window["dispersion"] for window in one["windows_s"].values()] == pytest.approx(wanted, rel=0.02)
    assert one["gap_cv"] == pytest.approx(gap_cv, rel=0.01)
    assert one["dropped_rows"] == 0
    assert abs(one["length_correlation"]) < 0.1


@needs_shared
def test_mooncake_goldens() -> None:
    """Prefix hits: 37.4 % of tokens with an endless cache; 4.5/21.1/35.5 % of blocks with the 1k/10k/50k used last."""
    trace = Trace(file=str(SHARED / "mooncake_conversation_trace.jsonl.gz"), format="mooncake")
    prompts = list(trace.prompts() or ())
    assert prefix_hits(prompts)["tokens"] == pytest.approx(0.374, abs=0.0005)
    shares = [prefix_hits(prompts, capacity)["blocks"] for capacity in (1000, 10_000, 50_000)]
    assert shares == pytest.approx([0.045, 0.211, 0.355], abs=0.0006)


def test_prefix_hits_by_hand() -> None:
    """Only what leads the prompt counts: block 2 of the third prompt comes after a miss."""
    prompts = [(1000, [0, 1]), (700, [0, 1]), (1536, [0, 9, 1])]
    hits = prefix_hits(prompts)
    assert hits == {"blocks": 3 / 7, "tokens": (700 + 512) / 3236}


def test_least_recently_used_block_goes_first() -> None:
    order = [(512, [i]) for i in (0, 1, 0, 2, 0, 1)]
    assert prefix_hits(order, capacity=2)["blocks"] == 2 / 6
    assert prefix_hits(order)["blocks"] == 3 / 6
    with pytest.raises(ValueError, match="expected prompts with blocks"):
        prefix_hits([])


@given(pairs=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs).T
    if len(set(x.tolist())) == 1 or len(set(y.tolist())) == 1:
        assert spearman(x, y) is None
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_closed_loop_has_lengths_only() -> None:
    text = f"- {{name: a, model: llama-3.1-8b, count: 50, arrival: {{kind: closed_loop, users: 7}}, {TOKENS}}}"
    described = describe.streams(workload(text))
    assert (described["a"]["users"], described["a"]["requests"], described["a"]["input_tokens"]["p50"]) == (7, 50, 9.0)
    assert "7 users in a closed loop" in describe.text(described)


def test_endless_stream_needs_a_horizon() -> None:
    with pytest.raises(ValueError, match="expected a horizon for the stream `a`"):
        describe.streams(workload(f"- {{name: a, model: llama-3.1-8b, arrival: {{rate: 1 /s}}, {TOKENS}}}"))


def test_text_shows_figures_drops_and_hits(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"timestamp": 1000 * i, "input_length": 512 + i, "output_length": 3, "hash_ids": [0, i + 1]} for i in range(700)
    ]
    rows[5]["output_length"] = 0
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "- {name: replay, model: llama-3.1-8b, trace: {file: t.jsonl, format: mooncake, on_bad_row: drop}}"
    described = describe.streams(workload(text, tmp_path))
    json.dumps(described)
    lines = describe.text(described).splitlines()
    assert lines[:3] == [
        "replay",
        "  699 requests in 699 s, 1 /s; CV of gaps 0.0378",
        "  bad rows of the file, dropped: 1",
    ]
    assert lines[3].split() == ["window", "1", "s", "10", "s", "60", "s", "300", "s"]
    assert lines[4].split()[0] == "dispersion"
    assert lines[6].split() == ["tokens", "total", "mean", "p50", "p90", "p95", "p99", "max"]
    assert lines[-1].startswith("  prefix hits with an endless cache: ")
    assert len({len(line) for line in lines[3:6]}) == 1
