"""How far simulated runs are from measured ones: every row of a file simulated, errors by group."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from simfleet.document import Document, Mark, SpecError, overlay, override
from simfleet.evidence import energy
from simfleet.evidence.rows import Row, Skipped, read
from simfleet.library import Library
from simfleet.records import Status
from simfleet.result import Result
from simfleet.scenario import built
from simfleet.simulation import simulate
from simfleet.terminal import counted
from simfleet.workload.tracefile import FORMATS

GROUPS = ("hardware", "engine", "model", "task")
HEAD = f"{'file':34} {'group':46} {'metric':17} {'rows':>5} {'median':>8} {'p90':>8} {'bias':>8}"
SHOWN = (
    "ttft_mean_s",
    "tpot_mean_s",
    "e2e_mean_s",
    "itl_p50_s",
    "output_tok_per_s",
    "joules_per_token",
    "power_imposed",
    "power_predicted",
)


class Comparison(NamedTuple):
    """One measured row beside its simulation, metric -> value."""

    row: Row
    simulated: dict[str, float]

    def errors(self) -> Iterator[tuple[str, float]]:
        """(metric, simulated / measured - 1) of whatever was measured."""
        for metric, measured in self.row.measured.items():
            if metric in self.simulated and self.simulated[metric] == self.simulated[metric]:
                yield metric, self.simulated[metric] / measured - 1.0


@dataclass
class Accuracy:
    """All rows of some files: `compared` with their simulations, `skipped` reason -> rows."""

    compared: list[Comparison] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def groups(self, metrics: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Errors by file, and within it by hardware, engine, model and task: {file, group, metric, n, median_ape, p90_ape, bias}.

        Errors are shares of the measured value; bias is the median of the signed ones.
        """
        wanted = set(metrics)
        found: dict[tuple[str, str, str], list[float]] = {}
        for comparison in self.compared:
            for metric, error in comparison.errors():
                for name in _names(comparison.row) if not wanted or metric in wanted else ():
                    found.setdefault((comparison.row.file, name, metric), []).append(error)
        return [
            {"file": file, "group": group, "metric": metric, "n": len(errors), "median_ape": median(map(abs, errors)),
             "p90_ape": _p90([abs(error) for error in errors]), "bias": median(errors)}
            for (file, group, metric), errors in found.items()
        ]  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """What `simfleet accuracy --format json` prints."""
        return {"rows": len(self.compared), "skipped": dict(self.skipped.most_common()), "groups": self.groups()}

    def text(self) -> str:
        """One line for each file, group and metric, a group with the same rows as a wider one left out; then what was skipped and why."""
        counts = [counted(len(self.compared), "run"), counted(self.skipped.total(), "row")]
        lines = [f"{counts[0]} simulated, {counts[1]} skipped", "", HEAD]
        distinct, left_out = self._distinct(), set()
        groups = self.groups((*SHOWN, "total_tok_per_s"))
        for group in sorted(groups, key=lambda group: (group["file"], group["group"] != "all", group["group"])):
            if (group["file"], group["group"]) not in distinct:
                left_out.add((group["file"], group["group"]))
                continue
            lines.append(
                f"{group['file'][:34]:34} {group['group'][:46]:46} {group['metric']:17} {group['n']:5} {group['median_ape']:8.1%} "
                f"{group['p90_ape']:8.1%} {group['bias']:+8.1%}"
            )
        if left_out:
            lines.append(f"{counted(len(left_out), 'group')} with the same rows as one above left out")
        if self.skipped:
            lines += ["", "skipped:", *(f"  {count:5}  {reason}" for reason, count in self.skipped.most_common())]
        return "\n".join(lines)

    def _distinct(self) -> set[tuple[str, str]]:
        """(file, group) of every set of rows once, by the name of the widest group that has them."""
        rows: dict[tuple[str, str], list[int]] = {}
        for number, comparison in enumerate(self.compared):
            for name in _names(comparison.row):
                rows.setdefault((comparison.row.file, name), []).append(number)
        first: dict[tuple[int, ...], tuple[str, str]] = {}
        for group in sorted(rows, key=lambda group: _width(group[1])):
            first.setdefault(tuple(rows[group]), group)
        return set(first.values())


def _names(row: Row) -> list[str]:
    """The groups that a row belongs to."""
    tags = {key: row.tags[key] for key in GROUPS if key in row.tags}
    names = ["all", *(f"{key}={tag}" for key, tag in tags.items()), " ".join(tags.values())]
    return [*names, f"{tags['hardware']} {tags['task']}"] if "task" in tags else names


def _width(name: str) -> int:
    """All rows, those of one tag, those of several tags."""
    return 0 if name == "all" else 1 if name.startswith(tuple(f"{key}=" for key in GROUPS)) else 2


def _p90(values: list[float]) -> float:
    return quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]


def accuracy(
    paths: Iterable[Path], library: Library, overrides: Iterable[tuple[str, Any]] = (), executor: Executor | None = None,
    done: Callable[[int, int], None] | None = None,
) -> Accuracy:  # fmt: skip
    """Simulate every row of measured serving runs. Raises ValueError or OSError for a file that cannot be read.

    overrides -- dotted path in the scenario of a row, such as ("pools.measured.engine.max_sequences", 128), -> value
    executor  -- where rows are simulated; None: here
    done      -- called with (rows simulated, rows in all) as they end
    """
    found = Accuracy()
    rows: list[Row] = []
    for path in paths:
        for row in read(path, library):
            if isinstance(row, Skipped):
                found.skipped[str(row)] += 1
            else:
                rows.append(_changed(row, overrides))
    run = partial(simulated, paths=library.paths)
    outcomes = map(run, rows) if executor is None else executor.map(run, rows, chunksize=8)
    for number, (row, outcome) in enumerate(zip(rows, outcomes, strict=True), 1):
        if isinstance(outcome, str):
            found.skipped[outcome] += 1
        else:
            found.compared.append(Comparison(row, outcome))
        if done is not None:
            done(number, len(rows))
    return found


def simulated(row: Row, paths: tuple[Path, ...] = ()) -> dict[str, float] | str:
    """What the simulator gives for the metrics of a row, or why it cannot."""
    try:
        result = replay(row, paths)
        return metrics(result) | (energy.metrics(result, row.pace) if row.pace is not None else {})
    except SpecError as error:
        return error.problems[0].message


def replay(row: Row, paths: tuple[Path, ...] = ()) -> Result:
    """The run of a row, exact requests from a file of their own. Raises SpecError."""
    if not row.requests:
        return simulate(built(Document.from_data(row.scenario), _library(paths)), seed=0, requests=True)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "requests.csv"
        lines = [
            ",".join(FORMATS["csv"].columns),
            *(f"{arrival},{inputs},{outputs}" for arrival, inputs, outputs in row.requests),
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        document = overlay(
            Document.from_data(row.scenario), "workload.streams.requests.trace.file", str(file), {(): Mark(row.file)}
        )
        return simulate(built(document, _library(paths)), seed=0, requests=True)


def _changed(row: Row, overrides: Iterable[tuple[str, Any]]) -> Row:
    document = Document.from_data(row.scenario)
    for path, value in overrides:
        document = override(document, path, value)
    return dataclasses.replace(row, scenario=document.data)


_library = lru_cache(Library)
"""One per process: files are read once."""


def metrics(result: Result) -> dict[str, float]:
    """Means and percentiles of TTFT, TPOT and E2E [s] over completed requests, and tokens per second from first arrival to last answer."""
    requests = result.run.requests
    completed = requests["status"] == Status.COMPLETED
    found: dict[str, float] = {}
    for name, values in (("ttft", requests["ttft_s"]), ("tpot", result.run.tpot_s), ("e2e", requests["e2e_s"])):
        kept = values[completed & ~np.isnan(values)]
        if len(kept):
            found[f"{name}_mean_s"] = float(kept.mean())
            found |= {f"{name}_p{q}_s": float(np.percentile(kept, q)) for q in (50, 90, 95, 99)}
    ends = requests["arrival_s"] + requests["e2e_s"]
    if completed.any():
        seconds = float(ends[completed].max() - requests["arrival_s"].min())
        found["output_tok_per_s"] = float(requests["output_tokens"][completed].sum()) / seconds
        prompts = float(requests["input_tokens"][completed].sum())
        found["total_tok_per_s"] = found["output_tok_per_s"] + prompts / seconds
    return found
