"""Trace files are read exactly or refused with a place; windows, jitter and rate scaling do what they say."""

import csv
import gzip
import json
import math
import pickle
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from simfleet.document import Document, Mark, SpecError
from simfleet.spec import build
from simfleet.streams import Streams
from simfleet.workload import tracefile
from simfleet.workload.describe import dispersion
from simfleet.workload.tracefile import FORMATS, Rows, read_prompts, read_rows
from simfleet.workload.traces import RateScale, Trace

SHARED = Path(__file__).parents[2] / "shared" / "data" / "traces"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the public traces in ../shared are not here")
AZURE = [("AzureLLMInferenceTrace_conv.csv.gz", 19_366), ("AzureLLMInferenceTrace_code.csv.gz", 8_819)]
HEADER = "arrival_s,input_tokens,output_tokens\n"
Make = Callable[..., Trace]
Requests = list[tuple[float, int, int]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A trace of a file with the given text, and other keys."""

    def trace(text: str | bytes, name: str = "t.csv", **keys: Any) -> Trace:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return Trace.model_validate({"file": name, **keys}, context={"folder": tmp_path})

    return trace


def all_of(trace: Trace, seed: int = 0, name: str = "a", limit_s: float = math.inf) -> Requests:
    return list(trace.requests(Streams(seed), name, limit_s))


def table(rows: Requests) -> str:
    return HEADER + "".join(f"{time!r},{tokens_in},{tokens_out}\n" for time, tokens_in, tokens_out in rows)


# The real files ------------------------------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(("file", "count"), AZURE)
def test_azure_is_what_an_independent_reader_reads(file: str, count: int) -> None:
    trace = Trace(file=str(SHARED / file), format="azure-2023")
    with gzip.open(SHARED / file, "rt") as text:
        rows = list(csv.DictReader(text))
    requests = all_of(trace)
    assert trace.rows == len(requests) == len(rows) == count
    assert [r[1:] for r in requests] == [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in rows]
    first, *_ = ticks = [_tenths_of_microseconds(row["TIMESTAMP"]) for row in rows]
    assert [r[0] for r in requests] == [(tick - first) / 10**7 for tick in ticks]
    assert trace.dropped == ()


def _tenths_of_microseconds(stamp: str) -> int:
    """Since midnight, in whole numbers; the traces are of one day."""
    hours, minutes, seconds = stamp.split(" ")[1].split(":")
    return (int(hours) * 60 + int(minutes)) * 60 * 10**7 + int(seconds.replace(".", ""))


@needs_shared
def test_mooncake_is_what_an_independent_reader_reads() -> None:
    file = SHARED / "mooncake_conversation_trace.jsonl.gz"
    with gzip.open(file, "rt") as text:
        rows = [json.loads(line) for line in text]
    trace = Trace(file=str(file), format="mooncake")
    assert trace.rows == 12_031
    assert all_of(trace) == [(row["timestamp"] / 1000, row["input_length"], row["output_length"]) for row in rows]
    prompts = trace.prompts()
    assert prompts is not None
    assert sum(len(ids) for _, ids in prompts) == sum(len(row["hash_ids"]) for row in rows)


# Formats -------------------------------------------------------------------------------------------------------------

WANTED = [(0.0, 374, 44), (4.314579, 396, 109)]
SAMPLES = {
    "azure-2023": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    "splitwise": "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n0,2,0,0,1,374,44\n1,2,0,4.314579,1,396,109\n",
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n",
    "mooncake": '{"timestamp": 0, "input_length": 374, "output_length": 44}\n{"timestamp": 4314.579, "input_length": 396, "output_length": 109}\n',
    "csv": HEADER + "0,374,44\n4.314579,396,109\n",
}


@pytest.mark.parametrize("form", SAMPLES)
def test_formats(make: Make, form: str) -> None:
    trace = make(SAMPLES[form], format=form)
    assert all_of(trace) == WANTED
    assert trace.span_s == 4.314579


def test_all_formats_have_a_sample() -> None:
    assert set(SAMPLES) == set(FORMATS)


@pytest.mark.parametrize("form", SAMPLES)
def test_gzip_is_plain(make: Make, form: str) -> None:
    packed = gzip.compress(SAMPLES[form].encode())
    assert all_of(make(packed, "t.gz", format=form)) == all_of(make(packed, "t.txt", format=form)) == WANTED


@pytest.mark.parametrize("zone", ["", "Z", "+00:00"])
@pytest.mark.parametrize("between", [" ", "T"])
def test_csv_takes_timestamps_and_names(make: Make, zone: str, between: str) -> None:
    text = f"when,model,in,out\n2024-02-28{between}23:59:59.5{zone},x,1,2\n2024-03-01{between}00:00:00{zone},y,3,4\n"
    trace = make(text, columns={"arrival": "when", "input": "in", "output": "out"})
    assert all_of(trace) == [(0.0, 1, 2), (86_400.5, 3, 4)]


def test_nanoseconds_survive_an_epoch(make: Make) -> None:
    """Years after 1970 a float has 2e-7 s left; whole nanoseconds have all."""
    trace = make(
        "arrival_s,input_tokens,output_tokens\n2023-11-16 18:15:46.000000001,1,1\n2023-11-16 18:15:46.000000003,1,1\n"
    )
    assert all_of(trace)[1][0] == 2e-9


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + SAMPLES["csv"],
        SAMPLES["csv"].replace("\n", "\r\n"),
        SAMPLES["csv"] + "\n\n",
        SAMPLES["csv"].replace(",", ", "),
    ],
)
def test_harmless_differences(make: Make, text: str) -> None:
    assert all_of(make(text)) == WANTED


def test_whole_floats_are_whole(make: Make) -> None:
    assert all_of(make(HEADER + "0,374.0,44.0\n")) == [(0.0, 374, 44)]


# Bad rows ------------------------------------------------------------------------------------------------------------

BAD_ROWS = {
    "nan time": ("nan,1,1", "column arrival_s: expected a time of at least 0, got `nan`"),
    "infinite time": ("1e999,1,1", "column arrival_s: expected a time of at least 0, got `1e999`"),
    "negative time": ("-1,1,1", "column arrival_s: expected a time of at least 0, got `-1`"),
    "no time": (",1,1", "column arrival_s: expected a time of at least 0, got ``"),
    "time back": ("0.5,1,1", "column arrival_s: expected a time not before the rows above, got one 0.5 s earlier"),
    "zero input": ("1,0,1", "column input_tokens: expected a whole number of at least 1, got `0`"),
    "negative output": ("1,1,-3", "column output_tokens: expected a whole number of at least 1, got `-3`"),
    "zero output": ("1,1,0", "column output_tokens: expected a whole number of at least 1, got `0`"),
    "nan tokens": ("1,nan,1", "column input_tokens: expected a whole number of at least 1, got `nan`"),
    "fraction": ("1,1,2.5", "column output_tokens: expected a whole number of at least 1, got `2.5`"),
    "word": ("1,many,1", "column input_tokens: expected a whole number of at least 1, got `many`"),
    "empty cell": ("1,,1", "column input_tokens: expected a whole number of at least 1, got ``"),
    "too many": ("1,1,99999999999999999999999", "column output_tokens: expected at most 1000000000 tokens, got"),
    "endless": ("1,1,inf", "column output_tokens: expected at most 1000000000 tokens, got `inf`"),
    "long cell": (
        f"1,1,{'x' * 90}",
        f"column output_tokens: expected a whole number of at least 1, got `{'x' * 37}...`",
    ),
    "short row": ("1,1", "expected 3 fields, got 2"),
    "long row": ("1,1,1,1", "expected 3 fields, got 4"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_row_is_located(make: Make, kind: str) -> None:
    row, message = BAD_ROWS[kind]
    with pytest.raises(ValidationError, match=re.escape(f"bad.csv:3: {message}")):
        make(f"{HEADER}1,1,1\n{row}\n2,1,1\n", "bad.csv")


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_row_is_dropped_and_counted(make: Make, kind: str) -> None:
    row, message = BAD_ROWS[kind]
    trace = make(f"{HEADER}1,1,1\n{row}\n2,1,1\n", on_bad_row="drop")
    assert all_of(trace) == [(0.0, 1, 1), (1.0, 1, 1)]
    (dropped,) = trace.dropped
    assert dropped.startswith("t.csv:3: ")
    assert message in dropped


def refused(tmp_path: Path, text: str, **keys: Any) -> list[str]:
    """What is said about a trace of a scenario, a line for each problem."""
    (tmp_path / "t.csv").write_text(text)
    document = Document.from_data({"file": "t.csv", **keys}, "s.yaml")
    with pytest.raises(SpecError) as caught:
        build(Trace, document, {"folder": tmp_path})
    return [str(problem) for problem in caught.value.problems]


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    """In order of the file, whatever is wrong with them, each as a problem of its own at the trace's place in the scenario."""
    text = HEADER + "0,1,1\n5,x,1\n4,1\n6,1,1\n3,1,1\n7,1,0\n"
    assert refused(tmp_path, text) == [
        "s.yaml: t.csv:3: column input_tokens: expected a whole number of at least 1, got `x`",
        "s.yaml: t.csv:4: expected 3 fields, got 2",
        "s.yaml: t.csv:6: column arrival_s: expected a time not before the rows above, got one 3 s earlier; `sort: true` puts rows in order",
        "s.yaml: t.csv:7: column output_tokens: expected a whole number of at least 1, got `0`",
    ]


@pytest.mark.parametrize(
    ("bad", "more"), [(10, []), (11, ["1 more bad row after"]), (1234, ["1,224 more bad rows after"])]
)
@pytest.mark.parametrize("block", [7, 100_000])
def test_the_first_ten_bad_rows_and_how_many_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int, more: list[str], block: int
) -> None:
    monkeypatch.setattr(tracefile, "BLOCK", block)
    first, *others = refused(tmp_path, HEADER + "1,1,1\n" + "1,1,0\n1,1,1\n" * bad)
    assert first.startswith("s.yaml: t.csv:3: column output_tokens")
    assert [line.split(": ")[1] for line in others[:9]] == [f"t.csv:{line}" for line in range(5, 23, 2)]
    assert [line.removeprefix("s.yaml: t.csv: ").partition(" these")[0] for line in others[9:]] == more
    assert all("`on_bad_row: drop` leaves bad rows out" in line for line in others[9:])


def test_nothing_but_bad_rows_names_them(tmp_path: Path) -> None:
    assert [line.partition(": column")[0] for line in refused(tmp_path, HEADER + "x,1,1\ny,1,1\n")] == [
        "s.yaml: t.csv:2",
        "s.yaml: t.csv:3",
    ]


def test_bad_rows_before_an_open_quote_are_named(tmp_path: Path) -> None:
    text = HEADER + '0,1,0\n0,1,1\n0,1,"1\n' + "0,1,1\n" * 30_000
    first, second = refused(tmp_path, text)
    assert first.startswith("s.yaml: t.csv:2: column output_tokens")
    assert "expected rows of a CSV file, got" in second
    assert refused(tmp_path, text, on_bad_row="drop") == [second]


def test_a_file_of_ones_own_reading_is_refused_with_places(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(HEADER + "0,1,0\n0,0,1\n")
    with pytest.raises(SpecError) as caught:
        read_rows(tmp_path / "t.csv", FORMATS["csv"])
    assert [problem.mark for problem in caught.value.problems] == [Mark("t.csv", 2), Mark("t.csv", 3)]


BAD_STAMPS = [
    "2023-02-30 00:00:00",
    "2023-11-16",
    "now",
    "NaT",
    "",
    "2023-11-16 18:00:00+02:00",
    "1700158546",
    "2023-11-16 24:00:01",
    "9999-01-01 00:00:00",
]


@pytest.mark.parametrize("stamp", BAD_STAMPS)
def test_bad_timestamp(make: Make, stamp: str) -> None:
    text = f"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n{stamp},1,1\n"
    with pytest.raises(ValidationError, match=re.escape("t.csv:3: column TIMESTAMP: expected a timestamp in UTC")):
        make(text, format="azure-2023")


def test_clocks_do_not_mix(make: Make) -> None:
    with pytest.raises(ValidationError, match=re.escape("t.csv:4: column arrival_s: expected a timestamp")):
        make(HEADER + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:47,1,1\n3,1,1\n")


GOOD_JSON = '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]}\n'
BAD_JSON = {
    "not json": ("{timestamp: 1}", "expected a JSON object, got what is not JSON"),
    "cut off": ('{"timestamp": 1, "inp', "expected a JSON object, got what is not JSON"),
    "too deep": ("[" * 100_000, "expected a JSON object, got what is not JSON"),
    "a list": ("[0, 5, 5]", "expected a JSON object, got `[0, 5, 5]`"),
    "no field": (
        '{"timestamp": 1, "input_length": 5}',
        "expected a field `output_length`, got `timestamp`, `input_length`",
    ),
    "null": (
        '{"timestamp": 1, "input_length": null, "output_length": 5}',
        "column input_length: expected a whole number of at least 1, got `None`",
    ),
    "true": (
        '{"timestamp": 1, "input_length": true, "output_length": 5}',
        "column input_length: expected a whole number of at least 1, got `True`",
    ),
    "nan": (
        '{"timestamp": NaN, "input_length": 5, "output_length": 5}',
        "column timestamp: expected a time of at least 0, got `nan`",
    ),
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_bad_json_row(make: Make, kind: str) -> None:
    row, message = BAD_JSON[kind]
    text = GOOD_JSON + row + "\n" + GOOD_JSON
    with pytest.raises(ValidationError, match=re.escape(f"t.jsonl:2: {message}")):
        make(text, "t.jsonl", format="mooncake")
    trace = make(text, "t.jsonl", format="mooncake", on_bad_row="drop")
    assert (trace.rows, len(trace.dropped)) == (2, 1)
    prompts = trace.prompts()
    assert prompts is not None
    assert [tokens for tokens, _ in prompts][:1] == [5]


@pytest.mark.parametrize("ids", ['"1"', '["a"]', "7"])
def test_bad_prefix_ids(tmp_path: Path, ids: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(GOOD_JSON + GOOD_JSON.replace("[1]", ids))
    with pytest.raises(SpecError, match=re.escape("t.jsonl:2: column hash_ids: expected a list of whole numbers")):
        list(read_prompts(path, FORMATS["mooncake"]))
    assert list(read_prompts(path, FORMATS["mooncake"], drop=True)) == [(5, [1])]


def test_prompts_are_those_of_formats_that_have_them(make: Make) -> None:
    assert make(SAMPLES["csv"]).prompts() is None


BAD_FILES = {
    "empty": (b"", "t.csv:1: expected a column `arrival_s`, got an empty file"),
    "header only": (HEADER.encode(), "t.csv: expected at least one request, got none"),
    "other columns": (
        b"arrival,input_tokens,output_tokens\n0,1,1\n",
        "t.csv:1: expected a column `arrival_s`, got `arrival`, `input_tokens`, `output_tokens`; did you mean `arrival`?",
    ),
    "no such columns": (
        b"when,in,out\n0,1,1\n",
        "t.csv:1: expected a column `arrival_s`, got `when`, `in`, `out`; `format` or `columns` of the trace says what its columns are",
    ),
    "not text": (b"\xff\xfe\x00", "t.csv: expected text in UTF-8, got the byte 0xff at position 0"),
    "cut gzip": (gzip.compress(HEADER.encode() * 50)[:40], "t.csv: expected a whole gzip file"),
    "broken gzip": (gzip.compress(HEADER.encode() * 50)[:30] + b"\0" * 99, "t.csv: expected a whole gzip file"),
    "open quote": (HEADER.encode() + b'0,1,"1\n' + b"0,1,1\n" * 30_000, "expected rows of a CSV file, got"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("on_bad_row", ["error", "drop"])
def test_bad_file(make: Make, kind: str, on_bad_row: str) -> None:
    data, message = BAD_FILES[kind]
    with pytest.raises(ValidationError, match=re.escape(message)):
        make(data, on_bad_row=on_bad_row)


def test_gz_that_is_not_gzip(make: Make) -> None:
    with pytest.raises(ValidationError, match=re.escape("t.csv.gz: expected a whole gzip file")):
        make(SAMPLES["csv"], "t.csv.gz")


def test_nothing_but_bad_rows(make: Make) -> None:
    with pytest.raises(
        ValidationError, match=re.escape("got none among 2 bad rows, the first: t.csv:2: column arrival_s")
    ):
        make(HEADER + "x,1,1\ny,1,1\n", on_bad_row="drop")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a file that can be read"):
        read_rows(tmp_path, FORMATS["csv"])


def test_missing_file_names_the_nearest(make: Make, tmp_path: Path) -> None:
    make(SAMPLES["csv"], "conversation.csv")
    document = Document.from_text("format: csv\nfile: convrsation.csv\n", "s.yaml", tmp_path)
    with pytest.raises(SpecError, match=re.escape("got `convrsation.csv`, which is not in")) as caught:
        build(Trace, document)
    (problem,) = caught.value.problems
    assert problem.mark.file == "s.yaml"
    assert problem.message.endswith("did you mean `conversation.csv`?")


def test_a_suffix_alone_is_not_alike(make: Make, tmp_path: Path) -> None:
    make(SAMPLES["csv"], "bad.csv")
    with pytest.raises(ValidationError, match=r"got `nope\.csv`, which is not in `[^`]*` \["):
        Trace.model_validate({"file": "nope.csv"}, context={"folder": tmp_path})


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"in the folder .*gone`, which does not exist"):
        Trace.model_validate({"file": "gone/t.csv"}, context={"folder": tmp_path})


def test_scenario_errors(make: Make) -> None:
    with pytest.raises(ValidationError, match="expected `columns` with format `csv` only"):
        make(SAMPLES["vidur"], format="vidur", columns={"arrival": "arrived_at"})
    with pytest.raises(ValidationError, match=re.escape("expected a window [from, to] with from < to")):
        make(SAMPLES["csv"], window=["5 s", "5 s"])
    with pytest.raises(
        ValidationError,
        match=r"expected a window with requests in it, got 5 s to 9 s of `t\.csv`, which is 4\.31458 s long",
    ):
        make(SAMPLES["csv"], window=["5 s", "9 s"])


NUMBERS = st.one_of(
    st.integers(-2, 5).map(str),
    st.sampled_from(["1.0", "nan", "inf", "", " 3", "1e3", "1_0", "+7", "٣", "x", "0x1", "1e400"]),
)


@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=12), block=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_blocks_and_cells_agree(rows: list[tuple[str, str, str]], block: int) -> None:
    """What is read does not depend on how rows fall into blocks, and every row is either kept or dropped."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "t.csv"
        path.write_text(HEADER + "".join(",".join(row) + "\n" for row in [("0", "1", "1"), *rows]), encoding="utf-8")
        whole = read_rows(path, FORMATS["csv"], drop=True)
        patch.setattr(tracefile, "BLOCK", block)
        assert read_rows(path, FORMATS["csv"], drop=True).columns()[0].tolist() == whole.arrival_s.tolist()
        assert sorted(read_rows(path, FORMATS["csv"], drop=True).dropped) == sorted(whole.dropped)
        assert len(whole) + len(whole.dropped) == 1 + len(rows)
        assert (np.diff(whole.arrival_s) >= 0).all()


# Order, window, offset, horizon --------------------------------------------------------------------------------------


def test_sort_takes_any_order(make: Make) -> None:
    trace = make(HEADER + "3,1,1\n1,2,2\n2,3,3\n1,4,4\n", sort=True)
    assert all_of(trace) == [(0.0, 2, 2), (0.0, 4, 4), (1.0, 3, 3), (2.0, 1, 1)]


TIMES = st.lists(st.integers(0, 400), min_size=1, max_size=60).map(lambda ticks: [tick / 8 for tick in sorted(ticks)])


@given(
    times=TIMES, start=st.integers(0, 30), length=st.integers(1, 40), offset=st.integers(0, 9), limit=st.integers(0, 60)
)
@settings(max_examples=60, deadline=None)
def test_window_offset_and_limit(times: list[float], start: int, length: int, offset: int, limit: int) -> None:
    rows = [(time, i + 1, 1) for i, time in enumerate(times)]
    inside = [
        (time - times[0] - start + offset, i, o) for time, i, o in rows if start <= time - times[0] < start + length
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.csv").write_text(table(rows))
        keys = {"file": "t.csv", "window": [f"{start} s", f"{start + length} s"], "offset": f"{offset} s"}
        if not inside:
            with pytest.raises(ValidationError, match="expected a window with requests in it"):
                Trace.model_validate(keys, context={"folder": Path(folder)})
            return
        trace = Trace.model_validate(keys, context={"folder": Path(folder)})
    assert all_of(trace) == inside
    assert trace.rows == len(inside)
    assert all_of(trace, limit_s=limit) == [request for request in inside if request[0] <= limit]


def test_more_rows_than_a_chunk_or_a_block(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(i / 4, i % 7 + 1, 1) for i in range(20_000)]
    monkeypatch.setattr(tracefile, "BLOCK", 999)
    assert all_of(make(table(rows))) == rows


# Jitter --------------------------------------------------------------------------------------------------------------


@given(ticks=st.lists(st.integers(0, 20), min_size=1, max_size=80).map(sorted), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_jitter_of_a_tick_keeps_ticks_and_rows(ticks: list[int], seed: int) -> None:
    """Rows stay on their tick with their lengths; those alone on it do not move."""
    rows = [(3.0 * tick, i + 1, 1) for i, tick in enumerate(ticks)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.csv").write_text(table(rows))
        trace = Trace.model_validate({"file": "t.csv", "tie_jitter": "3 s"}, context={"folder": Path(folder)})
    moved = all_of(trace, seed)
    times = [time for time, *_ in moved]
    assert times == sorted(times)
    assert {(3 * (time // 3), i) for time, i, _ in moved} == {(time - rows[0][0], i) for time, i, _ in rows}
    alone = {tick for tick, count in Counter(ticks).items() if count == 1}
    assert {i: time for time, i, _ in moved if ticks[i - 1] in alone} == {
        i: time - rows[0][0] for time, i, _ in rows if ticks[i - 1] in alone
    }


def test_jitter_is_uniform(make: Make) -> None:
    """Mean and variance of 4,000 uniform numbers in [0, 2), within four standard errors."""
    n, width = 4000, 2.0
    times = np.array([time for time, *_ in all_of(make(table([(0.0, 1, 1)] * n), tie_jitter="2 s"))])
    assert abs(times.mean() - width / 2) < 4 * width / math.sqrt(12 * n)
    assert abs(times.var() - width**2 / 12) < 4 * width**2 * math.sqrt(1 / 180 / n)
    assert 0 <= times.min() <= times.max() < width


def test_random_parts_depend_on_seed_and_name_alone(make: Make) -> None:
    trace = make(
        table([(0.0, i + 1, 1) for i in range(50)]), tie_jitter="1 s", rate_scale={"factor": 0.5, "method": "thin"}
    )
    assert all_of(trace) == all_of(trace)
    assert all_of(trace) != all_of(trace, seed=1)
    assert all_of(trace) != all_of(trace, name="b")
    assert all_of(trace, limit_s=0.5) == [request for request in all_of(trace) if request[0] <= 0.5]


# Rate scaling --------------------------------------------------------------------------------------------------------

SPAN_S, WINDOW_S = 600.0, 10.0


def bursty(seed: int = 5) -> Rows:
    """3,000 rows or so in bursts of a few seconds."""
    rng = np.random.default_rng(seed)
    times = np.sort((rng.uniform(0, SPAN_S, 60)[:, None] + rng.exponential(4.0, (60, 50))).ravel())
    times = times[times < SPAN_S]
    return Rows(times, rng.integers(1, 99, len(times)), rng.integers(1, 99, len(times)))


ROWS = bursty()
IDC = dispersion(ROWS.arrival_s, SPAN_S, WINDOW_S) or 0.0


def scaled(method: Any, factor: float, seed: int, rows: Rows = ROWS) -> Rows:
    return RateScale(method=method, factor=factor).apply(rows, SPAN_S, np.random.default_rng(seed))


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def dispersions(method: str, factor: float, n: int = 300) -> list[float]:
    return [dispersion(scaled(method, factor, seed).arrival_s, SPAN_S, WINDOW_S) or 0.0 for seed in range(n)]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_thinning_law(p: float) -> None:
    """IDC' = 1 + p (IDC - 1): the mean of 300 thinned traces within four of its standard errors, and n' is binomial."""
    mean, error = mean_and_error(dispersions("thin", p))
    assert IDC > 10
    assert abs(mean - (1 + p * (IDC - 1))) < 4 * error
    counts = [len(scaled("thin", p, seed)) for seed in range(100)]
    assert abs(np.mean(counts) - p * len(ROWS)) < 4 * math.sqrt(p * (1 - p) * len(ROWS) / 100)


@pytest.mark.parametrize("k", [1.3, 2.5])
def test_replication_law(k: float) -> None:
    """IDC' = k IDC + f (1 - f)/k, f = k - floor(k)."""
    f = k - int(k)
    mean, error = mean_and_error(dispersions("replicate", k))
    assert abs(mean - (k * IDC + f * (1 - f) / k)) < 4 * error


def test_superposition_law() -> None:
    """Copies turned independently do not correlate: the IDC is the mean of the copies' own."""
    k, rng = 3, np.random.default_rng(1)
    turned = [
        dispersion(np.sort((ROWS.arrival_s + rng.uniform(0, SPAN_S)) % SPAN_S), SPAN_S, WINDOW_S) or 0.0
        for _ in range(300)
    ]
    own, own_error = mean_and_error(turned)
    mean, error = mean_and_error(dispersions("superpose", k))
    assert abs(mean - (IDC + (k - 1) * own) / k) < 4 * math.hypot(error, own_error)


@given(seed=st.integers(0, 999), p=st.floats(0.01, 1))
@settings(max_examples=30, deadline=None)
def test_thinned_rows_are_some_of_the_rows(seed: int, p: float) -> None:
    kept = scaled("thin", p, seed)
    assert not Counter(zip(*kept.columns(), strict=True)) - Counter(zip(*ROWS.columns(), strict=True))
    assert (np.diff(kept.arrival_s) >= 0).all()


@given(factor=st.floats(0.05, 50))
@settings(max_examples=30, deadline=None)
def test_compressed_times_are_divided(factor: float) -> None:
    fast = scaled("compress", factor, 0)
    assert np.array_equal(fast.arrival_s, ROWS.arrival_s / factor)
    assert np.array_equal(fast.input_tokens, ROWS.input_tokens)


def test_compression_law() -> None:
    """IDC'(w) = IDC(k w); exact for k = 4, which loses no bit."""
    assert dispersion(scaled("compress", 4, 0).arrival_s, SPAN_S / 4, WINDOW_S / 4) == IDC


@given(seed=st.integers(0, 999), k=st.floats(1, 5))
@settings(max_examples=30, deadline=None)
def test_replicated_rows_come_floor_or_ceiling_times(seed: int, k: float) -> None:
    rows = Rows(np.arange(40.0), np.arange(1, 41), np.arange(1, 41))
    copies = np.bincount(scaled("replicate", k, seed, rows).input_tokens)[1:]
    assert len(copies) == 40
    assert set(copies.tolist()) <= {int(k), int(k) + (k > int(k))}


@given(seed=st.integers(0, 999), k=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_superposed_copies_are_turned_not_torn(seed: int, k: int) -> None:
    """k n rows in the same span, every row's lengths k times, and the first copy as it was."""
    many = scaled("superpose", k, seed)
    assert len(many) == k * len(ROWS)
    assert (np.diff(many.arrival_s) >= 0).all()
    assert 0 <= many.arrival_s[0] <= many.arrival_s[-1] <= SPAN_S
    lengths = Counter(zip(ROWS.input_tokens, ROWS.output_tokens, strict=True))
    assert Counter(zip(many.input_tokens, many.output_tokens, strict=True)) == Counter(
        {pair: k * n for pair, n in lengths.items()}
    )
    assert np.isin(ROWS.arrival_s, many.arrival_s).all()


@pytest.mark.parametrize(("method", "factor"), [("thin", 1), ("compress", 1), ("superpose", 1), ("replicate", 1)])
def test_factor_one_changes_nothing(method: str, factor: float) -> None:
    assert scaled(method, factor, 0) == ROWS


@pytest.mark.parametrize(
    ("method", "factor", "wanted"),
    [
        ("thin", 1.5, "from 0 to 1"),
        ("superpose", 2.5, "a whole number of at least 1"),
        ("superpose", 0.5, "a whole number of at least 1"),
        ("replicate", 0.5, "at least 1"),
    ],
)
def test_factor_that_does_not_fit(method: Any, factor: float, wanted: str) -> None:
    with pytest.raises(ValidationError, match=f"expected a factor {wanted} for `{method}`, got `{factor}`"):
        RateScale(method=method, factor=factor)


@pytest.mark.parametrize("method", ["thin", "compress", "superpose", "replicate"])
def test_trace_of_one_row_can_be_scaled(make: Make, method: str) -> None:
    trace = make(HEADER + "7,3,4\n", rate_scale={"method": method, "factor": 1}, offset="2 s")
    assert all_of(trace) == [(2.0, 3, 4)]


def test_scale_keeps_the_offset(make: Make) -> None:
    trace = make(SAMPLES["csv"], offset="10 s", rate_scale={"method": "compress", "factor": 2})
    assert [time for time, *_ in all_of(trace)] == [10.0, 10 + 4.314579 / 2]


def test_traces_compare_and_travel(make: Make) -> None:
    """To the worker processes of a sweep, and in `Scenario.__eq__`."""
    trace, other = make(SAMPLES["csv"]), make(SAMPLES["csv"].replace("374", "375"), "u.csv")
    assert pickle.loads(pickle.dumps(trace)) == trace
    assert trace != other
    assert all_of(pickle.loads(pickle.dumps(trace))) == WANTED
