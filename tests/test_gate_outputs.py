"""The answer in its forms: each says the verdict first, holds what users wrote, and is what its readers can take."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from simfleet.document import Mark
from simfleet.gate.judge import Row, Suite, refused
from simfleet.gate.outputs import annotations, as_json, exit_code, junit, markdown, text

SCHEMA = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))
ROWS = (
    Row("ttft{class=chat} p95", "<= 1 s", "kept", "354 ms (338 ms to 369 ms)", mark=Mark("a.yaml", 3, 5)),
    Row("regime", "== stable", "missed", "stable, backlogged", "not with seed 1", mark=Mark("a,b.yaml", 9, 5)),
    Row("tpot mean", "<= 50 ms", "missed", "60.0 ms", level="warn", mark=Mark("a.yaml", 4, 5)),
    Row("ttft p99", "<= 3 s", "cannot judge", note="360 samples\nwith seed 0", mark=Mark("a.yaml", 5, 5)),
    Row("e2e p99", "<= 3 s", "cannot judge", level="warn", numbers={"values": {"0": None}}),
)
SUITE = Suite("fleet", ROWS, ("seeds 0, 1",), data={"sha256": "ab"})
BROKEN = Suite("broken", (Row("regime", "== stable", "cannot judge"),), broken="RuntimeError: 100 % <odd>")
anything = st.text(max_size=40)
suites = st.builds(
    Suite,
    anything,
    st.lists(
        st.builds(
            Row, anything, anything, st.sampled_from(["kept", "missed", "cannot judge", "bad input"]), anything, anything, st.sampled_from(["error", "warn"])
        ),
        max_size=4,
    ).map(tuple),
    st.lists(anything, max_size=2).map(tuple),
    st.sampled_from(["", "RuntimeError: \x00"]),
)  # fmt: skip


def test_exit_code_of_several() -> None:
    kept = Suite("kept", ROWS[:1])
    assert exit_code([kept]) == 0
    assert exit_code([kept, Suite("unknown", ROWS[3:4])]) == 3
    assert exit_code([kept, Suite("unknown", ROWS[3:4]), SUITE]) == 1
    assert exit_code([kept, SUITE, BROKEN]) == 4
    wrong = refused("a.yaml", ValueError("no such file"))
    assert exit_code([kept, wrong]) == 2
    assert wrong.rows[0].message == "bad input: no such file"


def test_junit_follows_the_schema_and_counts() -> None:
    written = junit([SUITE, BROKEN])
    SCHEMA.validate(written)
    root = ElementTree.fromstring(written.encode())
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("6", "1", "2")
    suite = root[0]
    assert [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["5", "1", "1", "2"]
    ends = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert ends == {
        "ttft{class=chat} p95 <= 1 s": ["system-out"], "regime == stable": ["failure"], "tpot mean <= 50 ms": ["skipped"],
        "ttft p99 <= 3 s": ["error"], "e2e p99 <= 3 s": ["skipped"],
    }  # fmt: skip
    assert "got stable, backlogged; not with seed 1" in suite.find(".//failure").get("message", "")
    assert root[1].find(".//error").get("message") == "simulation error: RuntimeError: 100 % <odd>"


def test_the_schema_refuses_what_is_not_junit() -> None:
    """The schema is no formality."""
    good = junit([SUITE])
    for wrong in (
        good.replace('tests="5"', 'tests="many"'),
        good.replace("<failure", "<fail").replace("</failure", "</fail"),
        good.replace('classname="fleet"', ""),
    ):
        assert wrong != good
        with pytest.raises(xmlschema.XMLSchemaValidationError):
            SCHEMA.validate(wrong)


@given(st.lists(suites, max_size=3))
def test_any_text_is_good_xml_and_markdown_and_one_line_each(found: list[Suite]) -> None:
    SCHEMA.validate(junit(found))
    assert len(markdown(found).encode()) < 64_000
    json.loads(as_json(found))
    assert text(found)
    for line in annotations(found).split("\n")[:-1]:
        assert re.match(r"::(error|warning) title=[^\r\n:,]*::[^\r\n]*$", line)


def test_without_what_is_kept_it_is_counted() -> None:
    """Kept rows with a note, such as `better`, are shown before those that are only counted."""
    better = Row("usd_total", "at most +1 %", "kept", "$2 -> $1", "better")
    found = Suite("two", (ROWS[0], better, ROWS[1], ROWS[0]))
    lines = text([found], whole=False).splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["missed", "kept"]
    assert lines[4:] == ["  2 rows kept within the tolerance, listed with --all"]
    assert [line.split()[1] for line in text([found]).splitlines()[2:]] == [
        "regime",
        "usd_total",
        *["ttft{class=chat}"] * 2,
    ]
    assert "--all" not in text([found])
    assert markdown([found], whole=False).splitlines()[-1] == "2 rows kept within the tolerance, listed with --all"
    assert (
        text([Suite("one", (ROWS[0],))], whole=False).splitlines()[-1]
        == "  1 row kept within the tolerance, listed with --all"
    )


def test_markdown_has_the_verdict_first_then_what_failed() -> None:
    lines = markdown([Suite("fine", ROWS[:1]), SUITE]).splitlines()
    assert lines[0] == "## ❌ Simulated service levels: missed"
    assert [line for line in lines if line.startswith("### ")] == ["### fleet", "### fine"]
    states = [
        line.split(" | ")[0][2:]
        for line in lines
        if line.startswith("| ") and "---" not in line and "target" not in line
    ]
    assert states == ["missed", "missed (warning)", "cannot judge", "cannot judge (warning)", "kept", "kept"]
    assert "| missed | regime | == stable | stable, backlogged | not with seed 1 |" in lines


def test_markdown_is_cut_below_the_limit_and_says_so() -> None:
    rows = tuple(Row(f"metric {i}", "<= 1", "kept" if i else "missed", "x" * 200, "y" * 500) for i in range(1000))
    found = markdown([Suite("a", rows), Suite("b", rows[1:])])
    assert len(found.encode()) < 64_000
    assert "| missed | metric 0 |" in found
    shown = found.count("| metric ")
    assert shown > 100
    assert f"{1999 - shown} more rows are left out here." in found
    assert SCHEMA.is_valid(junit([Suite("a", rows)]))


def test_annotations_stand_at_their_lines() -> None:
    assert annotations([SUITE, BROKEN]).splitlines() == [
        "::error file=a%2Cb.yaml,line=9,title=fleet%3A regime::missed: regime: wanted == stable, got stable, backlogged; not with seed 1",
        "::warning file=a.yaml,line=4,title=fleet%3A tpot mean::missed (warning): tpot mean: wanted <= 50 ms, got 60.0 ms",
        "::error file=a.yaml,line=5,title=fleet%3A ttft p99::cannot judge: ttft p99: wanted <= 3 s, got n/a; 360 samples%0Awith seed 0",
        "::warning title=fleet%3A e2e p99::cannot judge (warning): e2e p99: wanted <= 3 s, got n/a",
        "::error title=broken::simulation error: RuntimeError: 100 %25 <odd>",
    ]


def test_json_and_text_have_it_all() -> None:
    found: Any = json.loads(as_json([SUITE]))
    assert (found["verdict"], found["exit_code"], found["suites"][0]["sha256"]) == ("missed", 1, "ab")
    assert [row["state"] for row in found["suites"][0]["targets"]] == [
        "missed",
        "missed",
        "cannot judge",
        "cannot judge",
        "kept",
    ]
    assert found["suites"][0]["targets"][3]["values"] == {"0": None}
    assert text([SUITE]).splitlines()[:2] == ["fleet: missed (2 missed, 2 cannot judge, 1 kept)", "seeds 0, 1"]
    assert text([BROKEN]).startswith("broken: simulation error: RuntimeError")
