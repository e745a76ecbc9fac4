"""What came out of a simulation: tables, numbers, text and pictures, for notebooks and the command line."""

import json
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from simfleet.page.page import cell, report_page
from simfleet.records import Status, request_table
from simfleet.report import plots, summary
from simfleet.report.metrics import summarise
from simfleet.report.shares import BOUNDARIES, per_request
from simfleet.run import Run
from simfleet.terminal import counted

if TYPE_CHECKING:
    import pandas as pd


USED = ("facility_j", "usd", "grams_co2e")
"""What of `per_request` stands in the table of requests."""


class Plots:
    """Pictures by name: latency, kv, power, energy, cost. Each takes `ax=None` and returns the axes."""

    def __init__(self, run: Run) -> None:
        for name, draw in plots.ALL.items():
            setattr(self, name, partial(draw, run))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no plot `{name}`; there are: {', '.join(plots.ALL)}")


class Result:
    """One simulation's outcome. Every table is a copy: change it as you like."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of report.json (docs/metrics.md)."""
        return summarise(self.run)

    @property
    def requests(self) -> "pd.DataFrame":
        """One row per request, in order of arrival: names of stream, class, pool and status, times [s], output tokens, and, unless
        `simulate(..., requests=False)`, replica, input tokens, preemptions, device-seconds and joules, and its part of what its pool
        took: joules at the meter, dollars, grams of CO2e.

        Asking for one of these that was not kept raises KeyError saying so.
        """  # fmt: skip
        import pandas as pd  # noqa: PLC0415 - heavy: only who wants a table waits for it

        run, rows = self.run, self.run.requests
        table = _frame(rows)
        classes = [run.class_of(number) for number in range(len(run.streams))]
        table.insert(1, "class", [classes[number] for number in rows["stream"].tolist()])
        table["class"] = pd.Categorical(table["class"], run.classes)
        table["stream"] = _names(rows["stream"], run.streams)
        table["pool"] = _names(rows["pool"], run.pools)
        table["status"] = _names(rows["status"], [status.name.lower() for status in Status])
        table["tpot_s"] = run.tpot_s
        if "energy_j" in table:
            used = per_request(run)
            for name in USED:
                table[name] = used[name]
        table.index.name = "request"
        kept = [*(request_table(detail=True).array().dtype.names or ()), *USED]
        missing = [name for name in kept if name not in table]
        return _without(table, missing) if missing else table

    @property
    def timeline(self) -> "pd.DataFrame":
        """State of every pool over time: levels at `time_s`, watts and tokens per second since the row before."""
        rows = self.run.records.timeline.array()
        table = _frame(rows)
        table["pool"] = _names(rows["pool"], self.run.pools)
        return table

    @property
    def energy(self) -> "pd.DataFrame":
        """Joules of every pool (rows) at the four boundaries (columns)."""
        import pandas as pd  # noqa: PLC0415

        pools = {pool["name"]: list(pool["energy"]["joules"].values()) for pool in self.summary["pools"]}
        columns = [f"{boundary}_j" for boundary in BOUNDARIES]
        return pd.DataFrame.from_dict(pools, orient="index", columns=columns).rename_axis("pool")

    @cached_property
    def plot(self) -> Plots:
        """Pictures: `result.plot.latency(ax=None)`, `.kv`, `.power`, `.energy`, `.cost`."""
        return Plots(self.run)

    def json(self) -> str:
        """report.json as text."""
        return json.dumps(self.summary, indent=2, allow_nan=False) + "\n"

    def text(self) -> str:
        """One screen of plain text."""
        return summary.text(self.summary)

    def markdown(self) -> str:
        """report.md as text."""
        return summary.markdown(self.summary)

    def html(self) -> str:
        """report.html as text: one page that needs no network."""
        return report_page(self.run, self.summary)

    def save(self, folder: Path | str, requests: str | Literal[False] | None = False) -> None:
        """Write report.json, report.md, report.html, timeline.csv, the plots as PNG and SVG, and with `requests` ("csv" or "parquet") the requests.

        The same run writes the same bytes. Raises ValueError for another kind of file, OSError where the folder cannot be written.
        """
        if requests not in (None, False, "csv", "parquet"):
            raise ValueError(f"expected `requests` to be one of csv, parquet, False, got `{requests}`")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(self.json(), encoding="utf-8", newline="\n")
        (folder / "report.md").write_text(self.markdown(), encoding="utf-8", newline="\n")
        (folder / "report.html").write_text(self.html(), encoding="utf-8", newline="\n")
        self.timeline.to_csv(folder / "timeline.csv", index=False, lineterminator="\n")
        if requests == "csv":
            self.requests.to_csv(folder / "requests.csv", lineterminator="\n")
        elif requests == "parquet":
            self.requests.to_parquet(folder / "requests.parquet")
        plots.save(self.run, folder)

    def __repr__(self) -> str:
        asked, kept = self.summary["requests"], [group["kept"] for group in self.summary["classes"]]
        missed = kept.count(False)
        verdict = (
            f"MISSED by {missed} of {counted(len(kept) - kept.count(None), 'class', 'classes')}"
            if missed
            else "targets kept"
            if True in kept
            else "no targets"
        )
        return (
            f"<Result {self.run.scenario.name}, seed {self.run.seed}: {asked['completed']:,} of {asked['arrived']:,} completed, "
            f"{self.summary['regime']}, {verdict}>"
        )

    def _repr_html_(self) -> str:
        return cell(self.summary)


def _frame(rows: NDArray[np.void]) -> "pd.DataFrame":
    """The columns of a structured array."""
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame({name: rows[name] for name in rows.dtype.names or ()})


def _names(codes: NDArray[Any], names: list[str]) -> "pd.Categorical[str]":
    """Numbers as the names they stand for."""
    import pandas as pd  # noqa: PLC0415

    return pd.Categorical.from_codes(codes.astype(int).tolist(), pd.Index(names))


def _without(table: "pd.DataFrame", missing: list[str]) -> "pd.DataFrame":
    """The same table, which says how to get the columns that were not kept."""
    import pandas as pd  # noqa: PLC0415

    class WithoutDetail(pd.DataFrame):
        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, str) and key in missing:
                raise KeyError(f"`{key}` was not kept in this run; simulate(scenario, requests=True) keeps it")
            return super().__getitem__(key)

        def __reduce_ex__(self, protocol: Any) -> Any:
            return pd.DataFrame, (dict(self.items()), self.index)

    return WithoutDetail(table)
