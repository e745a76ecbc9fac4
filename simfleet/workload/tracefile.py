"""Trace files: every row as numbers, or an error that names the file, the line and the column.

A trace is text, gzipped or not, with one request a row: when it arrived, how many tokens came in, how many went out.
`FORMATS` says how each public format writes these three. A row is first cut into three texts (`_csv_rows`,
`_json_rows`), then a block of rows becomes numbers at once; only a block with something wrong in it is read again
cell by cell, to say what and where.
"""

import csv
import gzip
import hashlib
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simfleet.document import Mark, Problem, SpecError

BLOCK = 65_536
MOST_TOKENS = 10**9
MOST_SHOWN = 10
"""Bad rows that an error names; the others are counted."""
PREFIX_BLOCK = 512
"""Tokens that one of Mooncake's `hash_ids` stands for."""
_STAMP = re.compile(r"((?:19[7-9]|2[01]\d)\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|\+00:00)?")

Cells = tuple[str, str, str]
Numbers = npt.NDArray[Any]
Block = tuple[Numbers, Numbers, Numbers, Numbers]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a format writes a request: its three columns (arrival, input, output), and what the arrival is.

    Numbers count `per_s` units a second, unless `stamped`: then they are timestamps; None is for either.
    """

    columns: tuple[str, str, str]
    stamped: bool | None = False
    per_s: float = 1.0
    json_lines: bool = False


FORMATS: dict[str, Layout] = {
    "azure-2023": Layout(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), stamped=True),
    "splitwise": Layout(("arrival_timestamp", "prompt_size", "token_size")),
    "vidur": Layout(("arrived_at", "num_prefill_tokens", "num_decode_tokens")),
    "mooncake": Layout(("timestamp", "input_length", "output_length"), per_s=1e3, json_lines=True),
    "csv": Layout(("arrival_s", "input_tokens", "output_tokens"), stamped=None),
}
"""Sources: AzurePublicDataset (LLM inference trace 2023), splitwise-sim, Vidur's processed traces, Mooncake's FAST'25
traces (milliseconds). The last is simfleet's own, whose column names can be changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:  # noqa: PLW1641 - arrays have no hash
    """The requests of a trace file in order of arrival: seconds since the first row, tokens in, tokens out.

    `dropped` has one message for each bad row that was left out.
    """

    arrival_s: npt.NDArray[np.float64]
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    dropped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Rows)
            and self.dropped == other.dropped
            and all(map(np.array_equal, self.columns(), other.columns()))
        )

    def columns(self) -> tuple[Numbers, Numbers, Numbers]:
        return self.arrival_s, self.input_tokens, self.output_tokens

    def take(self, index: Any) -> "Rows":
        """The rows at `index`: a mask, a slice or positions."""
        return Rows(self.arrival_s[index], self.input_tokens[index], self.output_tokens[index], self.dropped)


@dataclass(slots=True)
class _Faults:
    """Bad rows of a file, in the order in which they were found: to be left out, or to be refused once all were seen."""

    file: str
    drop: bool
    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, message: str) -> None:
        self.found.append(Problem(Mark(self.file, line), "", message))

    def end(self, line: int, message: str) -> None:
        """What nothing can be read after: not a row to leave out, but one more to refuse. Raises SpecError with `drop`."""
        self.add(line, message)
        if self.drop:
            raise SpecError(self.found[-1:])

    def messages(self) -> tuple[str, ...]:
        return tuple(map(str, self.found))

    def refuse(self) -> None:
        """Raise SpecError for bad rows that are not to be dropped: the first ones of the file, and how many more there are."""
        if self.drop or not self.found:
            return
        shown, more = sorted(self.found)[:MOST_SHOWN], len(self.found) - MOST_SHOWN
        if more > 0:
            rows = "1 more bad row" if more == 1 else f"{more:,} more bad rows"
            hint = "`on_bad_row: drop` leaves bad rows out and counts them"
            shown.append(Problem(Mark(self.file), "", f"{rows} after these; {hint}"))
        raise SpecError(shown)


def read_rows(path: Path, layout: Layout, drop: bool = False, sort: bool = False) -> Rows:
    """Read a trace file.

    With `drop`, bad rows are left out and noted in `Rows.dropped`; with `sort`, rows may come in any order of time.
    Raises SpecError with a problem "file:line: column x: expected ..., got ..." for each of the first bad rows, and
    ValueError for a missing column and a file that is empty, broken, or has no good row.
    """
    faults = _Faults(path.name, drop)
    cut = _json_rows if layout.json_lines else _csv_rows
    rows = cut(read_text(path), layout.columns, faults)
    blocks = list(_blocks(rows, layout, faults))
    if not blocks:
        faults.refuse()
        raise ValueError(f"{path.name}: expected at least one request, got none{_among(faults)}")
    line, arrival, tokens_in, tokens_out = (np.concatenate(column) for column in zip(*blocks, strict=True))
    order = np.argsort(arrival, kind="stable") if sort else _in_order(arrival, line, layout, faults)
    faults.refuse()
    seconds = _seconds(arrival[order], layout)
    return Rows(seconds, tokens_in[order], tokens_out[order], faults.messages())


def known_rows(path: Path, layout: Layout, drop: bool = False, sort: bool = False) -> Rows:
    """As `read_rows`; those of the last few files are kept in this process, known by what is in the file. Their arrays are read-only."""
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return read_rows(path, layout, drop, sort)
    return _kept_rows(path, sha256, layout, drop, sort)


@lru_cache(maxsize=4)
def _kept_rows(path: Path, sha256: str, layout: Layout, drop: bool, sort: bool) -> Rows:
    rows = read_rows(path, layout, drop, sort)
    for column in rows.columns():
        column.flags.writeable = False
    return rows


def read_text(path: Path) -> str:
    """The text of a file, unzipped when it starts like gzip. Raises ValueError when it is broken."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name}: expected a file that can be read, got: {error.strerror}") from None
    try:
        if data[:2] == b"\x1f\x8b" or path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name}: expected a whole gzip file, got one that does not unpack: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name}: expected text in UTF-8, got the byte {data[error.start]:#04x} at position {error.start}"
        ) from None


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _among(faults: _Faults) -> str:
    return f" among {len(faults.found)} bad rows, the first: {faults.found[0]}" if faults.found else ""


def _csv_rows(text: str, columns: Sequence[str], faults: _Faults) -> Iterator[tuple[int, Cells]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        pick = itemgetter(*(_position(name, header, faults.file) for name in columns))
        for row in reader:
            if len(row) == len(header):
                yield reader.line_num, pick(row)
            elif row:
                faults.add(reader.line_num, f"expected {len(header)} fields, got {len(row)}")
    except csv.Error as error:
        faults.end(reader.line_num, f"expected rows of a CSV file, got: {error}")


def _position(name: str, header: list[str], file: str) -> int:
    if name in header:
        return header.index(name)
    known = ", ".join(f"`{column}`" for column in header) or "an empty file"
    near = get_close_matches(name, header, n=1)
    other = "; `format` or `columns` of the trace says what its columns are" if header else ""
    hint = f"; did you mean `{near[0]}`?" if near else other
    raise ValueError(f"{file}:1: expected a column `{name}`, got {known}{hint}")


def _json_rows(text: str, columns: Sequence[str], faults: _Faults) -> Iterator[tuple[int, Cells]]:
    for line, record in _objects(text, faults):
        missing = [name for name in columns if name not in record]
        if missing:
            faults.add(
                line, f"expected a field `{missing[0]}`, got {', '.join(f'`{key}`' for key in record) or 'none'}"
            )
        else:
            arrival, tokens_in, tokens_out = (str(record[name]) for name in columns)
            yield line, (arrival, tokens_in, tokens_out)


def read_prompts(path: Path, layout: Layout, drop: bool = False) -> Iterator[tuple[int, list[int]]]:
    """Input tokens and ids of the prefix blocks of every request that has them, in order of the file.

    Raises SpecError for bad rows after the last good one, unless they are to be dropped.
    """
    faults, name = _Faults(path.name, drop), layout.columns[1]
    for line, record in _objects(read_text(path), faults):
        ids = record.get("hash_ids", [])
        if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
            faults.add(line, f"column hash_ids: expected a list of whole numbers, got `{_short(str(ids))}`")
            continue
        try:
            tokens = _tokens(str(record.get(name)))
        except ValueError as error:
            faults.add(line, f"column {name}: {error}, got `{_short(str(record.get(name)))}`")
            continue
        if ids:
            yield tokens, ids
    faults.refuse()


def _objects(text: str, faults: _Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object of each line that has one, with its line number."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(number, f"expected a JSON object, got what is not JSON: {error}")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            faults.add(number, f"expected a JSON object, got `{_short(str(record))}`")


def _blocks(rows: Iterator[tuple[int, Cells]], layout: Layout, faults: _Faults) -> Iterator[Block]:
    """Blocks of (line, arrival, input, output) as arrays; the arrival in nanoseconds since 1970 or in units of time."""
    arrival_of: Callable[[str], float] | None = None
    while block := list(islice(rows, BLOCK)):
        if arrival_of is None:
            arrival_of = _time_reader(block, layout)
        try:
            lines, cells = zip(*block, strict=True)
            arrivals, inputs, outputs = zip(*cells, strict=True)
            yield np.array(lines), _column(arrivals, arrival_of), _token_column(inputs), _token_column(outputs)
        except (ValueError, OverflowError):
            yield from _cell_by_cell(block, arrival_of, layout, faults)


def _time_reader(block: Sequence[tuple[int, Cells]], layout: Layout) -> Callable[[str], float]:
    """What reads an arrival. Where a format allows both, what most of the first rows look like."""
    stamped = layout.stamped
    if stamped is None:
        stamped = 2 * sum(":" in cells[0] for _, cells in block) > len(block)
    return _stamp if stamped else _moment


def _column(cells: Sequence[str], arrival_of: Callable[[str], float]) -> Numbers:
    if arrival_of is _stamp:
        return _stamps(cells)
    column = np.array(list(map(float, cells)))
    if not (np.isfinite(column).all() and column.min() >= 0):
        raise ValueError("a time is not a number of at least 0")
    return column


def _token_column(cells: Sequence[str]) -> Numbers:
    column = np.array(list(map(int, cells)), dtype=np.int64)
    if column.min() < 1 or column.max() > MOST_TOKENS:
        raise ValueError("a token count is out of range")
    return column


def _stamps(cells: Sequence[str]) -> Numbers:
    matches = [_STAMP.fullmatch(cell) for cell in cells]
    if None in matches:
        raise ValueError("not a timestamp")
    return np.array([match[1] for match in matches if match], dtype="datetime64[ns]").astype(np.int64)


def _cell_by_cell(
    block: Sequence[tuple[int, Cells]], arrival_of: Callable[[str], float], layout: Layout, faults: _Faults
) -> Iterator[Block]:
    """The good rows of a block one by one; the bad ones go to `faults`."""
    good = []
    for line, cells in block:
        values: list[float] = []
        for name, cell, value_of in zip(layout.columns, cells, (arrival_of, _tokens, _tokens), strict=True):
            try:
                values.append(value_of(cell.strip()))
            except ValueError as error:
                faults.add(line, f"column {name}: {error}, got `{_short(cell)}`")
                break
        else:
            good.append((line, *values))
    if good:
        lines, arrivals, inputs, outputs = zip(*good, strict=True)
        yield np.array(lines), np.array(arrivals), np.array(inputs), np.array(outputs)


def _stamp(cell: str) -> int:
    """Nanoseconds since 1970 of an ISO timestamp in UTC or without a zone, up to nine decimals, exact."""
    try:
        return int(_stamps([cell])[0])
    except ValueError:
        raise ValueError("expected a timestamp in UTC such as `2023-11-16 18:17:03.9799600`") from None


def _moment(cell: str) -> float:
    try:
        return float(_column([cell], _moment)[0])
    except ValueError:
        raise ValueError("expected a time of at least 0") from None


def _tokens(cell: str) -> int:
    """A whole number of tokens; `374.0`, as some programs write it, is whole too."""
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if number > MOST_TOKENS:
        raise ValueError(f"expected at most {MOST_TOKENS} tokens")
    if not (number >= 1 and number.is_integer()):
        raise ValueError("expected a whole number of at least 1")
    return int(number)


def _in_order(arrival: Numbers, line: Numbers, layout: Layout, faults: _Faults) -> Numbers:
    """The mask of rows that are not earlier than any row before them."""
    latest = np.maximum.accumulate(arrival)
    keep: Numbers = arrival == latest
    for i in np.flatnonzero(~keep):
        early_s = float(latest[i] - arrival[i]) / _per_s(arrival, layout)
        message = (
            f"expected a time not before the rows above, got one {early_s:g} s earlier; `sort: true` puts rows in order"
        )
        faults.add(int(line[i]), f"column {layout.columns[0]}: {message}")
    return keep


def _per_s(arrival: Numbers, layout: Layout) -> float:
    return 1e9 if arrival.dtype == np.int64 else layout.per_s


def _seconds(arrival: Numbers, layout: Layout) -> npt.NDArray[np.float64]:
    """Seconds since the first row. Integer nanoseconds are subtracted before they become floats, so no decimal is lost."""
    since: npt.NDArray[np.float64] = (arrival - arrival[0]) / _per_s(arrival, layout)
    return since
