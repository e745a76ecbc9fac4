"""Trace: requests recorded elsewhere, cut to a window, scaled in rate and replayed.

The steps, in this order: the rows of the file -> `window` -> `tie_jitter` -> `rate_scale` -> `offset` -> the horizon.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from simfleet.document import SpecError, near_file
from simfleet.spec import Spec, refusal
from simfleet.streams import Streams
from simfleet.units import PositiveSeconds, Seconds
from simfleet.workload.tracefile import FORMATS, Layout, Rows, known_rows, read_prompts

CHUNK = 8192


class Columns(Spec):
    """Names of the columns of a plain CSV file; the arrival may be seconds or ISO timestamps."""

    arrival: str = Field(
        FORMATS["csv"].columns[0], description="Column with the time of arrival: seconds or ISO timestamps"
    )
    input: str = Field(FORMATS["csv"].columns[1], description="Column with the tokens of the prompt")
    output: str = Field(FORMATS["csv"].columns[2], description="Column with the tokens of the answer")


class RateScale(Spec):
    """More or fewer requests from the same trace. IDC: variance over mean of counts in windows of w seconds.

    - thin (factor p <= 1): each request stays with probability p; IDC' = 1 + p (IDC - 1).
    - compress (factor k): times are divided by k; IDC'(w) = IDC(k w), and slow swings become fast ones.
    - superpose (whole factor k): k copies, all but the first turned round by an independent uniform time; IDC' = IDC on
      average, and an envelope is smoothed because each copy has its peak elsewhere.
    - replicate (factor k >= 1): each request k times at once, with f = k - floor(k) one more with probability f;
      IDC' = k IDC + f (1 - f) / k.
    """

    factor: float = Field(
        gt=0, le=10_000, description="Requests wanted for each one of the trace; which values fit, the method says"
    )
    method: Literal["thin", "compress", "superpose", "replicate"] = Field(description="How the trace is changed")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = {
            "thin": "from 0 to 1",
            "superpose": "a whole number of at least 1",
            "replicate": "at least 1",
            "compress": "above 0",
        }
        fits = {
            "thin": self.factor <= 1,
            "superpose": self.factor >= 1 and self.factor.is_integer(),
            "replicate": self.factor >= 1,
        }
        if not fits.get(self.method, True):
            raise ValueError(f"expected a factor {wanted[self.method]} for `{self.method}`, got `{self.factor:g}`")
        return self

    def apply(self, rows: Rows, span_s: float, rng: np.random.Generator) -> Rows:
        """The scaled rows in order of time; `span_s` is the time after which a copy turns round [s]."""
        if self.method == "compress":
            return replace(rows, arrival_s=rows.arrival_s / self.factor)
        if self.method == "superpose":
            return _superpose(rows, int(self.factor), span_s, rng)
        whole = int(self.factor)
        copies = whole + (rng.random(len(rows)) < self.factor - whole)
        return rows.take(np.repeat(np.arange(len(rows)), copies))


class Trace(Spec):
    """A trace file and how to replay it. The file is read, and every row checked, when the scenario is built."""

    file: str = Field(description="Relative to the folder of the scenario; gzip is seen by itself")
    format: Literal["azure-2023", "splitwise", "vidur", "mooncake", "csv"] = Field(
        "csv", description="Whose columns it has; `csv`: arrival_s, input_tokens, output_tokens, or as `columns` says"
    )
    columns: Columns | None = Field(None, description="Names of the columns of a plain csv; left out, those above")
    window: tuple[Seconds, PositiveSeconds] | None = Field(
        None,
        description="[from, to) in time since the first row of the file; `from` becomes time 0; left out, all of it",
    )
    offset: Seconds = Field(0.0, description="Time of the simulation at which the trace starts")
    rate_scale: RateScale | None = Field(
        None, description="More or fewer requests from the same trace; left out, as it is"
    )
    tie_jitter: Seconds = Field(0.0, description="Rows that share a timestamp are spread over this time after it")
    on_bad_row: Literal["error", "drop"] = Field("error", description="`drop` leaves bad rows out and counts them")
    sort: bool = Field(False, description="Accept rows in any order of time")

    _path: Path = PrivateAttr()
    _rows: Rows = PrivateAttr()
    _span_s: float = PrivateAttr()

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        if self.columns and self.format != "csv":
            raise ValueError(f"expected `columns` with format `csv` only, got them with `{self.format}`")
        self._path = path = _existing(Path((info.context or {}).get("folder", ".")) / self.file)
        try:
            rows = known_rows(path, self._layout(), self.on_bad_row == "drop", self.sort)
        except SpecError as error:
            raise refusal(((), str(problem)) for problem in error.problems) from None
        self._rows, self._span_s = _cut(rows, self.window, path.name)
        return self

    def _layout(self) -> Layout:
        columns = self.columns or Columns()
        named = replace(FORMATS["csv"], columns=(columns.arrival, columns.input, columns.output))
        return named if self.format == "csv" else FORMATS[self.format]

    @property
    def rows(self) -> int:
        """Requests of the file in the window, before scaling."""
        return len(self._rows)

    @property
    def span_s(self) -> float:
        """Length of the replayed part of the trace, before scaling [s]."""
        return self._span_s

    @property
    def dropped(self) -> tuple[str, ...]:
        """One message for each bad row of the file that was left out."""
        return self._rows.dropped

    def prompts(self) -> Iterator[tuple[int, list[int]]] | None:
        """Input tokens and prefix block ids of every request of the whole file, read again; None where the format has none.

        Bad lists of ids raise SpecError at the end, or are dropped as `on_bad_row` says.
        """
        layout = FORMATS[self.format]
        return read_prompts(self._path, layout, self.on_bad_row == "drop") if layout.json_lines else None

    def requests(self, streams: Streams, name: str, limit_s: float) -> Iterator[tuple[float, int, int]]:
        """(arrival [s], input tokens, output tokens) up to and with `limit_s`, in order of time.

        The random parts draw from the streams ("tie_jitter", name) and ("rate_scale", name).
        """
        rows = _spread(self._rows, self.tie_jitter, streams("tie_jitter", name))
        if self.rate_scale:
            rows = self.rate_scale.apply(rows, self._span_s, streams("rate_scale", name))
        arrival_s = rows.arrival_s + self.offset
        end = int(np.searchsorted(arrival_s, limit_s, side="right"))
        for i in range(0, end, CHUNK):
            part = slice(i, min(i + CHUNK, end))
            yield from zip(
                arrival_s[part].tolist(),
                rows.input_tokens[part].tolist(),
                rows.output_tokens[part].tolist(),
                strict=True,
            )


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"expected a trace file, got `{path.name}` in the folder `{folder}`, which does not exist")
    hint = near_file(path.name, sorted(p.name for p in folder.iterdir() if p.is_file()))
    raise ValueError(f"expected a trace file, got `{path.name}`, which is not in `{folder}`{hint}")


def _cut(rows: Rows, window: tuple[float, float] | None, file: str) -> tuple[Rows, float]:
    """The rows from `window[0]` to before `window[1]`, counted from the former, and the length of this part [s]."""
    last_s = float(rows.arrival_s[-1])
    if window is None:
        return rows, last_s
    start_s, end_s = window
    if not start_s < end_s:
        raise ValueError(f"expected a window [from, to] with from < to, got {start_s:g} s and {end_s:g} s")
    part = rows.take((rows.arrival_s >= start_s) & (rows.arrival_s < end_s))
    if not len(part):
        raise ValueError(
            f"expected a window with requests in it, got {start_s:g} s to {end_s:g} s of `{file}`, which is {last_s:g} s long"
        )
    return replace(part, arrival_s=part.arrival_s - start_s), min(end_s, last_s) - start_s


def _spread(rows: Rows, jitter_s: float, rng: np.random.Generator) -> Rows:
    """Rows with the same time moved by a uniform time in [0, jitter_s), and put in order again."""
    same = np.diff(rows.arrival_s) == 0
    tied = np.append(same, False) | np.insert(same, 0, False)
    if not jitter_s or not tied.any():
        return rows
    moved = rows.arrival_s + np.where(tied, rng.random(len(rows)) * jitter_s, 0.0)
    return _ordered(replace(rows, arrival_s=moved))


def _superpose(rows: Rows, copies: int, span_s: float, rng: np.random.Generator) -> Rows:
    turns = np.insert(rng.random(copies - 1) * span_s, 0, 0.0)
    turned = [rows.arrival_s if not turn else (rows.arrival_s + turn) % span_s for turn in turns]
    return _ordered(
        Rows(
            np.concatenate(turned),
            np.tile(rows.input_tokens, copies),
            np.tile(rows.output_tokens, copies),
            rows.dropped,
        )
    )


def _ordered(rows: Rows) -> Rows:
    return rows.take(np.argsort(rows.arrival_s, kind="stable"))
