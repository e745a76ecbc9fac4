"""The table of a sweep: a row per point and metric set, with intervals over seeds; as files, on a screen, in a notebook."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simfleet.intervals import interval
from simfleet.report.metrics import GROUPS, REGIMES
from simfleet.report.summary import number, percent, seconds
from simfleet.sweeping.executors import Answer
from simfleet.sweeping.points import Axis, Json, write
from simfleet.terminal import counted

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
LABELS = ("regime", "site", "model", "device", "replicas", "tensor_parallel", "devices", "target")
"""What is not averaged over seeds."""
SHARES = ("attainment", "attainment_completion", "attainment_ttft", "attainment_tpot", "attainment_e2e", "utilisation", "kv_occupancy_mean",
          "kv_occupancy_peak", "cached_input_share", "electricity_share")  # fmt: skip
"""Metrics from 0 to 1, and so are their intervals."""
RANGE = "facility_range_j"
"""Two numbers, or none."""
KEPT_AS_THEY_ARE = ("requests", "goodput", "throughput", "energy", "cost")


# -- from a report to columns ---------------------------------------------------------------------------------------------


def metric_sets(report: Json) -> list[Json]:
    """The numbers of a report by column: of the whole run, and of every class, pool, model and tenant."""
    whole = {"of": "all", "group": "", **_columns(report)}
    groups = [
        {"of": kind, "group": entry["name"], **_columns(entry)}
        for kind, key in GROUPS.items()
        for entry in report.get(key, ())
    ]
    return [whole, *groups]


def _columns(entry: Json) -> Json:
    found = {name: entry[name] for name in LABELS if name in entry}
    if "target" in entry.get("targets", {}):
        found["target"] = entry["targets"]["target"]
    found |= {
        name: entry[name]
        for name in ("duration_s", "utilisation", "waiting_peak_per_replica", "iterations")
        if name in entry
    }
    for name, values in entry.get("latency", {}).items():
        stem = name.removesuffix("_s")
        found |= {f"{stem}_samples" if key == "n" else f"{stem}_{key}_s": value for key, value in values.items()}
    words = {"overall": "attainment", "n": "attainment_samples"}
    reached = entry.get("attainment", {})
    found |= {words.get(key, f"attainment_{key}"): value for key, value in reached.items() if key != "binds"}
    found |= {f"kv_{name}": value for name, value in entry.get("kv", {}).items()}
    for section in KEPT_AS_THEY_ARE:
        for name, value in entry.get(section, {}).items():
            found |= _flat(name, value)
    return found


def _flat(name: str, value: Any) -> Json:
    """One number, or one for each boundary of energy and each line of cost: facility_j, facility_joules_per_request, lines_rent_usd."""
    if isinstance(value, dict) and name.endswith("_usd"):
        return {f"{name.removesuffix('_usd')}_{key}_usd": item for key, item in value.items()}
    if isinstance(value, dict):
        return {f"{key}_{'j' if name == 'joules' else name}": item for key, item in value.items()}
    return {} if name == RANGE else {name: value}


# -- the table ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Sweep:
    """What came out of a sweep. Tables are copies: change them as you like."""

    name: str
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    points: list[tuple[Any, ...]] = field(default_factory=list, repr=False)
    """The value on every axis, point by point."""
    answers: dict[tuple[int, int], Answer] = field(default_factory=dict, repr=False)
    """Point and seed -> numbers or error."""

    @property
    def table(self) -> "pd.DataFrame":
        """One row per point and metric set, in the order of the grid.

        First the axes, by their paths; `of` and `group`, which set it is: `all`, or a `class`, `pool`, `model` or `tenant` and its name;
        `status`, `error`; `seeds`, how many. Then what is the same under all seeds, and the metrics: means over seeds, each with
        `low_` and `high_`, its Student t interval at 95 %, where there are several seeds. A metric that one of the seeds does not have
        (too few samples for a percentile, say) is empty, and so are all of a point where one of them failed.
        """
        return _frame(self._rows)

    @property
    def runs(self) -> "pd.DataFrame":
        """One row per point, seed and metric set, with the same columns, but `seed`, and no intervals."""
        rows = [
            {**self._place(point), "of": "all", "group": "", "seed": seed, "status": answer.status, "error": answer.error, **numbers}
            for point in range(len(self.points))
            for seed in self.seeds
            for answer in [self.answers[point, seed]]
            for numbers in answer.sets or [{}]
        ]  # fmt: skip
        return _frame(rows)

    @property
    def failures(self) -> dict[int, str]:
        """Number of a point -> why it has no numbers."""
        return {i: row["error"] for i, row in enumerate(self._wholes) if row["status"] != "ok"}

    @cached_property
    def _rows(self) -> list[Json]:
        return [row for point in range(len(self.points)) for row in self._point(point)]

    @property
    def _wholes(self) -> list[Json]:
        return [row for row in self._rows if row["of"] == "all"]

    def _place(self, point: int) -> Json:
        return {axis.path: label for axis, label in zip(self.axes, self.points[point], strict=True)}

    def _point(self, point: int) -> Iterator[Json]:
        answers = [self.answers[point, seed] for seed in self.seeds]
        bad = next((i for i, answer in enumerate(answers) if answer.status != "ok"), None)
        if bad is not None:
            several = answers[bad].status != "bad input" and len(self.seeds) > 1
            error = f"seed {self.seeds[bad]}: {answers[bad].error}" if several else answers[bad].error
            row = {"of": "all", "group": "", "status": answers[bad].status, "error": error, "seeds": len(self.seeds)}
            yield {**self._place(point), **row}
            return
        for sets in zip(*(answer.sets for answer in answers), strict=True):
            row = {"of": sets[0]["of"], "group": sets[0]["group"], "status": "ok", "error": "", "seeds": len(sets)}
            yield {**self._place(point), **row, **_over_seeds(sets)}

    def save(self, path: str | Path) -> None:
        """Write the table, CSV or Parquet by its suffix: whole or not at all. Raises ValueError for another suffix, OSError."""
        path = Path(path)
        if path.suffix == ".csv":
            data = self.table.to_csv(index=False, lineterminator="\n").encode()
        elif path.suffix == ".parquet":
            buffer = BytesIO()
            self.table.to_parquet(buffer, index=False)
            data = buffer.getvalue()
        else:
            raise ValueError(f"expected a file that ends in .csv or .parquet, got `{path}`")
        write(path, data, path.parent)

    def json(self) -> str:
        """The table as JSON text, with what was swept over; null for what is undefined."""
        swept = {axis.path: axis.labels for axis in self.axes}
        head = {"scenario": self.name, "over": swept, "seeds": list(self.seeds), "confidence": CONFIDENCE}
        return json.dumps({**head, "rows": self._rows}, indent=1, allow_nan=False) + "\n"

    def text(self) -> str:
        """One line per point."""
        head, lines = self._screen()
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        texts = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]
        ]
        return "\n".join([*(text.rstrip() for text in texts), *self._notes()])

    def _notes(self) -> list[str]:
        seeds = (
            f"mean of {len(self.seeds)} seeds ± half of its {CONFIDENCE:.0%} interval"
            if len(self.seeds) > 1
            else "one seed"
        )
        failures = Counter(self.failures.values())
        failed = [f"{counted(points, 'point')} failed: {error}" for error, points in failures.items()]
        return [f"{counted(len(self.points), 'point')}, {seeds}", *failed]

    def _screen(self) -> tuple[list[str], list[list[str]]]:
        """Column names and a row of texts for each point."""
        shown = [column for column in SCREEN if any(row.get(column[1]) is not None for row in self._wholes)]
        head = [*(axis.path for axis in self.axes), "regime", *(name for name, _, _ in shown)]
        lines = [
            [*(str(row[axis.path]) for axis in self.axes), str(row.get("regime", row["status"]))]
            + [_cell(row, name, form) for _, name, form in shown]
            for row in self._wholes
        ]
        return head, lines

    def _repr_html_(self) -> str:
        head, lines = self._screen()
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
        names = "".join(f"<th>{escape(name)}</th>" for name in head)
        notes = "<br>".join(map(escape, self._notes()))
        return f"<b>{escape(self.name)}</b><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>{notes}"

    def __repr__(self) -> str:
        over = " x ".join(f"{len(axis.values)} {axis.path}" for axis in self.axes)
        return f"<Sweep of {self.name}: {over}, {len(self.seeds)} seeds, {len(self.failures)} of {len(self.points)} points failed>"


SCREEN: Sequence[tuple[str, str, Callable[[float | None], str]]] = (
    ("attainment", "attainment", percent),
    ("TTFT p95", "ttft_p95_s", seconds),
    ("TPOT p95", "tpot_p95_s", seconds),
    ("tok/s out", "output_tok_s", number),
    ("$/Mtok out", "usd_per_mtok_output", number),
    ("J/tok out", "facility_joules_per_output_token", number),
    ("peak W", "peak_facility_w", number),
)


def _cell(row: Json, name: str, form: Callable[[float | None], str]) -> str:
    value, low, high = (row.get(key) for key in (name, f"low_{name}", f"high_{name}"))
    if value is None or low is None or high is None:
        return form(value) if row["status"] == "ok" else "-"
    return f"{form(value)} ± {form(max(high - value, value - low))}"


def _over_seeds(sets: Sequence[Json]) -> Json:
    """One metric set out of those of the seeds."""
    found: Json = {}
    for name in dict.fromkeys(name for numbers in sets for name in numbers if name not in ("of", "group")):
        values = [numbers.get(name) for numbers in sets]
        if name == "regime":  # the worst of all
            found[name] = max(values, key=REGIMES.index)
        elif name in LABELS:
            found[name] = values[0]
        else:
            found |= _interval(name, [value for value in values if value is not None], len(sets))
    return found


def _interval(name: str, values: list[float], wanted: int) -> Json:
    """Mean and, of several, its Student t interval, which supposes that runs of other seeds are independent."""
    columns = (name, f"low_{name}", f"high_{name}")[: 3 if wanted > 1 else 1]
    if len(values) < wanted:
        return dict.fromkeys(columns)
    if wanted == 1:
        return {name: values[0]}
    mean, low, high = interval([float(value) for value in values], CONFIDENCE)
    bounds = (max(low, 0.0), min(high, 1.0)) if name in SHARES else (low, high)
    return dict(zip(columns, (mean, *bounds), strict=True))


def _frame(rows: Iterable[Json]) -> "pd.DataFrame":
    """A table whose columns stand in the order in which they first come, labels before metrics."""
    import pandas as pd  # noqa: PLC0415 - heavy: only who wants a table waits for it

    listed = list(rows)
    names = dict.fromkeys(name for row in listed for name in row)
    first = [name for name in names if name not in LABELS]
    place = first.index("seed" if "seed" in names else "seeds") + 1
    columns = [*first[:place], *(name for name in LABELS if name in names), *first[place:]]
    return pd.DataFrame.from_records(listed, columns=columns).infer_objects()
