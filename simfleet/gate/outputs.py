"""An answer for its readers: text, Markdown, JUnit XML and annotations of a code host, JSON."""

import json
import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from simfleet.gate.judge import CANNOT_JUDGE, KEPT, MISSED, Row, State, Suite
from simfleet.gate.metrics import Json
from simfleet.terminal import BAD_INPUT, SIMULATION_ERROR, counted

ORDER: tuple[State, ...] = ("bad input", "missed", "cannot judge", "kept")
WORDS = {
    KEPT: "kept",
    MISSED: "missed",
    BAD_INPUT: "bad input",
    CANNOT_JUDGE: "cannot judge",
    SIMULATION_ERROR: "simulation error",
}
MOST_BYTES = 60_000
"""Of a Markdown summary; code hosts cut comments at 65,536."""
LONGEST_CELL = 300


def exit_code(suites: Sequence[Suite]) -> int:
    """That of all: bad input, then a simulation error before a miss, a miss before what cannot be judged."""
    codes = {suite.exit_code for suite in suites}
    return next((code for code in (BAD_INPUT, SIMULATION_ERROR, MISSED, CANNOT_JUDGE) if code in codes), KEPT)


def ordered(rows: Iterable[Row]) -> list[Row]:
    """What failed first, errors before warnings; of what is kept, the rows that there is something to say about."""
    return sorted(
        rows, key=lambda row: (ORDER.index(row.state), row.level != "error", row.state == "kept" and not row.note)
    )


def _shown(suite: Suite, whole: bool) -> tuple[list[Row], str]:
    """The rows of a table and the line below it: without `whole` those kept with nothing to say about them are only counted."""
    rows = ordered(suite.rows)
    if whole:
        return rows, ""
    shown = [row for row in rows if row.state != "kept" or row.note]
    left_out = len(rows) - len(shown)
    return shown, f"{counted(left_out, 'row')} kept within the tolerance, listed with --all" if left_out else ""


def verdict(suite: Suite) -> str:
    """One line: name, verdict, how many of what."""
    if suite.broken:
        return f"{suite.name}: simulation error: {suite.broken}"
    numbers = {state: sum(row.state == state for row in suite.rows) for state in ORDER}
    parts = ", ".join(f"{n} {state}" for state, n in numbers.items() if n)
    return f"{suite.name}: {WORDS[suite.exit_code]} ({parts or 'nothing asked'})"


def _state(row: Row) -> str:
    return f"{row.state} (warning)" if row.level == "warn" and row.state != "kept" else row.state


# -- people --------------------------------------------------------------------------------------------------------------

COLUMNS = ("", "target", "wanted", "got", "note")


def _cells(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    return [(_state(row), row.name, row.wanted, row.got, row.note) for row in rows]


def text(suites: Sequence[Suite], whole: bool = True) -> str:
    """Plain text, a table for each; without `whole` kept rows are counted in one line."""
    return "\n\n".join("\n".join(_lines(suite, whole)) for suite in suites) + "\n"


def _lines(suite: Suite, whole: bool) -> list[str]:
    lines = [verdict(suite), *suite.facts]
    shown, more = _shown(suite, whole)
    if shown:
        cells = [COLUMNS, *_cells(shown)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
    return [*lines, *([f"  {more}"] if more else [])]


def markdown(suites: Sequence[Suite], title: str = "Simulated service levels", whole: bool = True) -> str:
    """Verdict first, then failed rows, then kept ones (without `whole` only their number); below 64 kB, saying how many rows were left out."""
    mark = {KEPT: "✅", MISSED: "❌", BAD_INPUT: "⛔", CANNOT_JUDGE: "❔", SIMULATION_ERROR: "💥"}
    code = exit_code(suites)
    lines = [f"## {mark[code]} {title}: {WORDS[code]}", ""]
    lines += [f"- {mark[suite.exit_code]} {_inline(verdict(suite))}" for suite in suites]
    size, left_out = len("\n".join(lines).encode()), 0
    for suite in sorted(suites, key=lambda suite: suite.exit_code == 0):
        head = ["", f"### {_inline(suite.name)}", "", *(f"{_inline(fact)}  " for fact in suite.facts), ""]
        shown, more = _shown(suite, whole)
        if shown:
            head += [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
        rows = [f"| {' | '.join(_inline(cell) for cell in row)} |" for row in _cells(shown)]
        for part in ["\n".join(head), *rows, *([f"\n{more}"] if more else [])]:
            size += len(part.encode()) + 1
            if size > MOST_BYTES:
                left_out += part.startswith("| ")
            else:
                lines.append(part)
    return "\n".join([*lines, *([f"\n{left_out} more rows are left out here."] if left_out else [])]) + "\n"


def _inline(cell: str) -> str:
    """Text that Markdown leaves alone."""
    cell = re.sub(r"\s+", " ", cell)
    cell = cell if len(cell) <= LONGEST_CELL else cell[: LONGEST_CELL - 3] + "..."
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", cell)


# -- programs ------------------------------------------------------------------------------------------------------------


def as_json(suites: Sequence[Suite]) -> str:
    """Everything, numbers in SI."""
    found = {
        "verdict": WORDS[exit_code(suites)],
        "exit_code": exit_code(suites),
        "suites": [_suite(suite) for suite in suites],
    }
    return json.dumps(found, indent=2, allow_nan=False)


def _suite(suite: Suite) -> Json:
    rows = [
        {"target": row.name, "wanted": row.wanted, "state": row.state, "level": row.level, "got": row.got, "note": row.note,
         "place": str(row.mark), **row.numbers}
        for row in ordered(suite.rows)
    ]  # fmt: skip
    return {
        "name": suite.name,
        "verdict": WORDS[suite.exit_code],
        "broken": suite.broken,
        **suite.data,
        "targets": rows,
    }


def junit(suites: Sequence[Suite], name: str = "simfleet") -> str:
    """JUnit XML as Jenkins, GitLab and others read it: a test suite for each scenario, a test case for each target.

    Missed is a failure, what cannot be judged an error; warnings are skipped with their message. Bad input and a simulation error are
    errors whatever the level. There are no times in it, so that the same answer is the same bytes.
    """
    root = ElementTree.Element("testsuites", name=name)
    for suite in suites:
        element = ElementTree.SubElement(root, "testsuite", name=_printable(suite.name), tests=str(len(suite.rows)))
        properties = ElementTree.SubElement(element, "properties")
        for number, fact in enumerate(suite.facts):
            ElementTree.SubElement(properties, "property", name=f"fact {number + 1}", value=_printable(fact))
        kinds = [_case(element, suite, row) for row in suite.rows]
        for key, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            element.set(key, str(kinds.count(kind)))
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(element.get(key, "0")) for element in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(parent: ElementTree.Element, suite: Suite, row: Row) -> str:
    """Add one test case; the kind of what it ended in, "" for kept."""
    case = ElementTree.SubElement(
        parent, "testcase", classname=_printable(suite.name), name=_printable(f"{row.name} {row.wanted}")
    )
    kind = {"kept": "", "missed": "failure"}.get(row.state, "error")
    if kind and row.level == "warn" and not suite.broken:
        kind = "skipped"
    message = _printable(f"simulation error: {suite.broken}" if suite.broken else row.message)
    if kind:
        ended = WORDS[SIMULATION_ERROR] if suite.broken else row.state
        found = ElementTree.SubElement(case, kind, type=ended, message=message)
        found.text = f"{_printable(str(row.mark))}\n{message}" if row.mark.file else message
    else:
        ElementTree.SubElement(case, "system-out").text = message
    return kind


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def annotations(suites: Sequence[Suite]) -> str:
    """GitHub's workflow commands, one for each row that is not kept, at its line of the scenario."""
    lines = []
    for suite in suites:
        if suite.broken:
            lines.append(f"::error title={_property(suite.name)}::{_escaped('simulation error: ' + suite.broken)}")
            continue
        for row in ordered(suite.rows):
            if row.state != "kept":
                kind = "error" if row.level == "error" else "warning"
                place = f"file={_property(row.mark.file)},line={row.mark.line}," if row.mark.line else ""
                title = _property(f"{suite.name}: {row.name}")
                lines.append(f"::{kind} {place}title={title}::{_escaped(row.message)}")
    return "".join(f"{line}\n" for line in lines)


def _escaped(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _escaped(value).replace(":", "%3A").replace(",", "%2C")
