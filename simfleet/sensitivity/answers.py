"""The question, simulated once as it is and again for each assumption: rows sorted by how far they move the answer."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from itertools import repeat
from typing import Any

from simfleet.metering import Wall
from simfleet.records import PoolLedger, Records, request_table, timeline_table
from simfleet.report.cost import over
from simfleet.report.shares import total, whole
from simfleet.report.summary import number, percent
from simfleet.run import Run
from simfleet.scenario import Scenario
from simfleet.sensitivity.edits import Edit, edited
from simfleet.sensitivity.inputs import Books, Input, inputs
from simfleet.simulation import simulate
from simfleet.terminal import counted

UNITS = {"energy": "J per output token", "cost": "$/Mtok in+out"}
BOUNDARIES = {
    "energy": "facility: at the meter, with servers, cooling and time without work",
    "rent": "rent: servers, network, space and electricity in the price",
    "own": "own: devices, servers, network, facility, upkeep and metered electricity",
}
SHOWN = 15
"""Rows of the text unless told otherwise."""
NOISE = 0.001
"""A swing above this share that is the same both ways is remarked on."""
HEAD = ("assumption", "value", "from", "low", "high", "at low", "at high", "swing")
PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}

Job = tuple[str, str]
"""One simulation: what is moved, and whether "down" or "up"."""
PLAIN: Job = ("", "")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One assumption: its value and the two tried, in SI units, where it comes from, and the answers [unit of the question].

    `swing` is the span of the two answers and the plain one, as a share of the plain one [1].
    """

    name: str
    value: float
    unit: str
    origin: str
    source: str
    low: float
    high: float
    answer_low: float
    answer_high: float
    swing: float


@dataclasses.dataclass(frozen=True, slots=True)
class Explained:
    """The plain answer, and one row per assumption, the largest swing first. `notes` say what was not moved, and why."""

    scenario: str
    what: str
    unit: str
    boundary: str
    seed: int
    simulations: int
    answer: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def as_json(self, top: int | None = None) -> dict[str, Any]:
        """Plain data; with `top`, only so many rows, and how many were left out."""
        found = dataclasses.asdict(self)
        shown = list(found["rows"][:top])
        return found | {"rows": shown, "rows_left_out": len(self.rows) - len(shown), "notes": list(self.notes)}

    def text(self, top: int | None = SHOWN) -> str:
        """A table of the first `top` rows, None for all, with the plain answer above and notes below."""
        table = [HEAD, *(_cells(row) for row in self.rows[:top])]
        hidden = self.rows[len(table) - 1 :]
        lines = [
            f"{self.scenario}: {_with_unit(self.answer, self.unit)} ({self.boundary})",
            f"{counted(len(self.rows), 'assumption')} moved one at a time, {counted(self.simulations, 'simulation')}, seed {self.seed}",
            "",
            *_aligned(table),
        ]
        lines += [f"... and {len(hidden)} more, none above {percent(hidden[0].swing)}"] if hidden else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def explain(
    scenario: Scenario,
    what: str,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Callable[[], None] | None = None,
) -> Explained:
    """Simulate `scenario` as it is, and once for each assumption and direction, always with the same random numbers.

    what     -- "energy": joules at the meter per output token; "cost": dollars per million tokens, input and output together
    executor -- where to simulate, such as a ProcessPoolExecutor, then of a scenario from `load` or `replace`; None: here, one by one
    progress -- called after each of as many simulations as `simulations` says

    What changes no time is computed from the plain run where that is exact. Raises ValueError for another word than these two, naming the
    nearest, and where no token came out.
    """
    found, notes = inputs(scenario, what)
    jobs = _jobs(found)
    runs = (executor.map if executor is not None else map)(_simulated, repeat(scenario), jobs.values(), repeat(seed))
    books: dict[Job, Books] = {}
    for job, done in zip(jobs, runs, strict=True):
        books[job] = done
        if progress is not None:
            progress()
    answer = _answer(scenario, books[PLAIN], what)
    rows = sorted((_row(scenario, what, item, books, answer) for item in found), key=lambda row: (-row.swing, row.name))
    notes += _by_chance(rows, answer)
    return Explained(
        scenario=scenario.name, what=what, unit=UNITS[what], boundary=_boundary(scenario, what), seed=seed,
        simulations=len(jobs), answer=answer, rows=tuple(rows), notes=tuple(notes),
    )  # fmt: skip


def simulations(scenario: Scenario, what: str) -> int:
    """How many simulations `explain` will take. Raises ValueError for an unknown word."""
    return len(_jobs(inputs(scenario, what)[0]))


def _jobs(found: Iterable[Input]) -> dict[Job, list[Edit]]:
    """The plain run, and what has to be simulated: joules of one device change no time, so one run moves the same constant of all."""
    jobs: dict[Job, list[Edit]] = {PLAIN: []}
    for item in found:
        if item.stage in ("times", "joules"):
            for direction, edits in item.edits.items():
                jobs.setdefault((_moved(item), direction), []).extend(edits)
    return jobs


def _moved(item: Input) -> str:
    return item.constant if item.stage == "joules" else item.name


def _simulated(scenario: Scenario, edits: Iterable[Edit], seed: int) -> Books:
    records = simulate(edited(scenario, edits), seed, requests=False).run.records
    return Books(records.pools, records.accounts, records.duration_s)


def _row(scenario: Scenario, what: str, item: Input, books: Mapping[Job, Books], answer: float) -> Row:
    low, high = (_answer(varied, _after(item, varied, way, books), what) for way, varied in _varied(scenario, item))
    each = item.of(books[PLAIN]) if item.of is not None else 1.0
    return Row(
        name=item.name, value=item.value * each, unit=item.unit, origin=item.origin, source=item.source,
        low=item.low * each, high=item.high * each, answer_low=low, answer_high=high,
        swing=(max(low, high, answer) - min(low, high, answer)) / answer if answer else 0.0,
    )  # fmt: skip


def _varied(scenario: Scenario, item: Input) -> list[tuple[str, Scenario]]:
    return [(way, edited(scenario, edits)) for way, edits in item.edits.items()]


def _after(item: Input, varied: Scenario, way: str, books: Mapping[Job, Books]) -> Books:
    """The books of a run of the varied scenario: simulated, or made from the plain ones."""
    plain = books[PLAIN]
    if item.stage == "wall":
        return plain._replace(pools=[_metered(ledger, varied) for ledger in plain.pools])
    if item.stage == "rates":
        return plain
    after = books[_moved(item), way]
    if item.stage == "times":
        return after
    both = zip(plain.pools, after.pools, strict=True)
    return plain._replace(pools=[theirs if theirs.name in item.pools else mine for mine, theirs in both])


def _metered(ledger: PoolLedger, scenario: Scenario) -> PoolLedger:
    """The same device joules at another wall or meter; exact while weather and price hold."""
    pool = scenario.pools[ledger.name]
    site = scenario.sites[pool.site]
    node_j, facility_j = Wall(pool, site).joules(ledger.accelerator_j, ledger.off_s, 0.0, ledger.duration_s)
    return dataclasses.replace(
        ledger, node_j=node_j, facility_j=facility_j, electricity_usd=site.electricity_usd(facility_j)
    )


def _answer(scenario: Scenario, books: Books, what: str) -> float:
    """The number of a run's report: `joules_per_output_token` at the facility, or `usd_per_mtok_total`."""
    records = Records(request_table(detail=False), timeline_table(), books.duration_s, books.accounts, books.pools)
    run = Run(scenario=scenario, seed=0, records=records, version="")
    sums = total(whole(run, index) for index in range(len(books.pools)))
    output = sum(account.output_tokens for account in books.accounts)
    tokens = output + sum(account.input_tokens for account in books.accounts)
    found = over(sums.facility_j, output) if what == "energy" else over(sums.usd * 1e6, tokens)
    if found is None:
        raise ValueError("expected a run that makes tokens: none came out, so there is nothing to explain")
    return found


def _by_chance(rows: Iterable[Row], answer: float) -> list[str]:
    """Which rows show rather how runs differ than what the assumption does."""
    names = [
        row.name for row in rows if row.swing > NOISE and (row.answer_low - answer) * (row.answer_high - answer) > 0
    ]
    why = "the answer moves the same way down and up, by who was sent where and when the last answer ended"
    return [f"{', '.join(names)}: {why}"] if names else []


def _boundary(scenario: Scenario, what: str) -> str:
    kinds = [what] if what == "energy" else sorted({pool.cost.kind for pool in scenario.pools.values()})
    return "; ".join(BOUNDARIES[kind] for kind in kinds)


# -- text -----------------------------------------------------------------------------------------------------------------


def _cells(row: Row) -> tuple[str, ...]:
    value, low, high = (_with_unit(value, row.unit) for value in (row.value, row.low, row.high))
    return row.name, value, row.origin, low, high, number(row.answer_low), number(row.answer_high), percent(row.swing)


def _with_unit(value: float, unit: str) -> str:
    if unit == "$/J":
        return f"${number(value * 3.6e6)}/kWh"
    if unit == "$/W-month":
        return f"${number(value * 1e3)}/kW-month"
    if unit.startswith("$"):
        return f"${number(value)}{unit[1:]}"
    if unit.startswith(("J/", "B/", "FLOP/")):
        prefix = next((prefix for prefix, step in PREFIXES.items() if value >= step), "p")
        return f"{number(value / PREFIXES[prefix])} {prefix}{unit}"
    return f"{number(value)} {unit}".rstrip()


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Words to the left, numbers to the right."""
    widths = [max(len(cells[i]) for cells in table) for i in range(len(HEAD))]
    words = (HEAD.index("assumption"), HEAD.index("from"))
    lines = []
    for cells in table:
        columns = enumerate(zip(cells, widths, strict=True))
        lines.append("  ".join(c.ljust(w) if i in words else c.rjust(w) for i, (c, w) in columns).rstrip())
    return lines
