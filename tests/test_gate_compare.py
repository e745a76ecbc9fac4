"""Two sides: what went in, then differences of the same seeds, each within its tolerance or not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.document import Document, SpecError
from simfleet.gate import compare as held
from simfleet.gate.compare import changes, compare, read_reports, read_tolerances, rules, save
from simfleet.gate.judge import Row
from simfleet.gate.metrics import Ask
from simfleet.simulation import simulate
from simfleet.spec import build
from tests.gates import known, reports, small, with_values


def tolerances(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tolerances.yaml"
    path.write_text(text)
    return path


def row_of(rows: tuple[Row, ...], name: str) -> Row:
    (found,) = [row for row in rows if row.name == name]
    return found


def test_a_side_against_itself_is_kept_whatever_the_tolerance(tmp_path: Path) -> None:
    suite = compare(reports(), reports(), tolerances(tmp_path, "default: {rel: 0}\n"))
    assert {row.state for row in suite.rows} <= {"kept", "cannot judge"}
    assert row_of(suite.rows, "usd_total").got.endswith(", the same")
    assert suite.facts[0] == "nothing went in that is not the same"
    assert {row.name for row in suite.rows if row.state == "cannot judge"} == set()


@given(
    st.lists(st.tuples(st.floats(50, 150), st.floats(-5, 5)), min_size=2, max_size=6), st.floats(0, 0.1), st.sampled_from(["lower", "higher"])
)  # fmt: skip
def test_turning_both_sides_and_the_direction_keeps_the_verdict(
    pairs: list[tuple[float, float]], rel: float, direction: str
) -> None:
    """Worse by d under one direction is better by d under the other: mirrored values have mirrored verdicts."""
    other = {"lower": "higher", "higher": "lower"}[direction]
    before, after = [a for a, _ in pairs], [a + d for a, d in pairs]
    mirrored = held._numeric(rule(rel, other), [-a for a in before], [-a for a in after], 0.95)
    assert held._numeric(rule(rel, direction), before, after, 0.95).state == mirrored.state


def rule(rel: float, direction: str) -> held.Rule:
    document = Document.from_data({"default": None, "metrics": {"usd_total": {"rel": rel, "direction": direction}}})
    return rules(build(held.Tolerances, document), document, known())[0]


def compared(tmp_path: Path, text: str, before: list[float], after: list[float]) -> Row:
    path = tolerances(tmp_path, "default: null\nmetrics:\n  " + text)
    suite = compare(with_values("cost.usd_total", *before), with_values("cost.usd_total", *after), path)
    assert len(suite.rows) == 1
    return suite.rows[0]


def test_tolerances_are_shares_or_amounts_and_have_a_direction(tmp_path: Path) -> None:
    """Every seed 3 % up: the differences agree, so that only the tolerance decides."""
    for text, state in (
        ("usd_total: {rel: 3.1 %}", "kept"),
        ("usd_total: {rel: 2.9 %}", "missed"),
        ("usd_total: {abs: $3.1}", "kept"),
        ("usd_total: {abs: $2.9}", "missed"),
        ("usd_total: {rel: 1 %, abs: $3.1}", "kept"),
        ("usd_total: {direction: higher}", "kept"),
        ("usd_total: {rel: 2.9 %, direction: same}", "missed"),
    ):
        row = compared(tmp_path, text, [100.0, 100.0], [103.0, 103.0])
        assert (row.state, row.numbers["difference"]) == (state, 3.0), text
    for text, state in (("usd_total: {}", "kept"), ("usd_total: {rel: 2 %, direction: same}", "missed")):
        assert compared(tmp_path, text, [103.0, 103.0], [100.0, 100.0]).state == state


def test_differences_are_taken_pair_by_pair(tmp_path: Path) -> None:
    """Seeds differ by a hundred times more than the two sides do, and the small difference is still seen."""
    before, after = [50.0, 100.0, 150.0], [51.0, 101.0, 151.0]
    assert compared(tmp_path, "usd_total: {abs: $1.01}", before, after).state == "kept"
    row = compared(tmp_path, "usd_total: {abs: $0.99}", before, after)
    assert (row.state, row.got) == ("missed", "$100 -> $101, +1.00 %")


def test_noise_is_neither_kept_nor_missed(tmp_path: Path) -> None:
    row = compared(tmp_path, "usd_total: {rel: 1 %}", [100.0, 100.0, 100.0], [95.0, 100.0, 105.0])
    assert row.state == "cannot judge"
    assert "more seeds" in row.note


def test_what_got_better_is_told(tmp_path: Path) -> None:
    assert compared(tmp_path, "usd_total: {rel: 1 %}", [100.0, 100.0], [90.0, 90.0]).note == "better"


def test_from_nothing_any_amount_is_more(tmp_path: Path) -> None:
    row = compared(tmp_path, "usd_total: {rel: 50 %}", [0.0, 0.0], [1.0, 1.0])
    assert (row.state, row.got) == ("missed", "$0 -> $1.00, +$1.00")


def test_regimes_may_not_get_worse(tmp_path: Path) -> None:
    stable, backlogged = (with_values("regime", *[word] * 2) for word in ("stable", "backlogged"))
    assert row_of(compare(stable, backlogged).rows, "regime").state == "missed"
    better = row_of(compare(backlogged, stable).rows, "regime")
    assert (better.state, better.note) == ("kept", "better")
    same = tolerances(tmp_path, "metrics: {regime: {direction: same}}\n")
    assert row_of(compare(backlogged, stable, same).rows, "regime").state == "missed"


def test_an_overloaded_side_is_not_judged_but_for_its_regime() -> None:
    suite = compare(reports(2), with_values("regime", "stable", "overloaded"))
    assert {row.name for row in suite.rows if row.state != "cannot judge"} == {"regime"}
    assert row_of(suite.rows, "usd_total").note.startswith("new: overloaded with seed 1")
    assert suite.exit_code == 1
    assert compare(with_values("regime", "overloaded"), reports(1)).exit_code == 3


def test_what_only_one_side_has_is_not_judged() -> None:
    suite = compare(with_values("cost.usd_total", 1.0), with_values("cost.usd_total", None))
    assert row_of(suite.rows, "usd_total").note == "new: absent from the report with seed 0"


def test_only_seeds_of_both_sides_count() -> None:
    suite = compare(reports(3), reports(3)[1:])
    assert suite.data["seeds"] == [1, 2]
    with pytest.raises(ValueError, match="same seeds"):
        compare(reports(3)[:1], reports(3)[1:])
    assert "one run has no interval" in compare(reports(1), reports(1)).facts[-2]


# -- what went in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("pools.chat.replicas", "2", ["pool chat: replicas: 1 -> 2"]),
        ("pools.chat.precision", "fp8", ["pool chat: precision: weights bf16, kv bf16, activations bf16 -> weights fp8, kv bf16, activations fp8"]),
        ("pools.chat.device", "nvidia-l40s", ["pool chat: device: nvidia-h100-sxm -> nvidia-l40s"]),
        ("horizon", "30 s", ["horizon: none -> 30 s"]),
        ("workload.classes.chat.ttft", "2 s", ["class chat: targets: TTFT 1 s, TPOT 50 ms, 95 % -> TTFT 2 s, TPOT 50 ms, 95 %"]),
        ("workload.streams.talk.arrival.rate", "9 /s", ["workload.streams.talk.arrival.rate: 8 /s -> 9 /s"]),
        ("pools.more", "{model: llama-3.1-8b, device: nvidia-h100-sxm}", ["pool more: absent -> there"]),
        ("pools.chat.power_cap", "400 W", ["pool chat: device power cap: none -> 400 W", "pools.chat.power_cap: not given -> 400 W"]),
        ("pools.chat.cost", "{kind: rent, price: $2/h}", ["pools.chat.cost.kind: not given -> rent", "pools.chat.cost.price: not given -> $2/h"]),
    ],
)  # fmt: skip
def test_changed_inputs_are_told_first(path: str, value: str, told: list[str]) -> None:
    changed = small(**{path.replace(".", "__"): value})
    new = [simulate(changed, seed=seed, requests=False).summary for seed in range(2)]
    suite = compare(reports(2), new)
    hashes = [side[0]["scenario"]["sha256"][:12] for side in (reports(2), new)]
    assert suite.data["changed"] == [f"scenario and profiles (sha256): {hashes[0]} -> {hashes[1]}", *told]
    assert suite.facts[: 1 + len(told)] == tuple(f"changed: {line}" for line in suite.data["changed"])
    assert not [row for row in suite.rows if "{pool=more}" in row.name]


def test_profile_and_version_are_told() -> None:
    new: Any = reports(1)[0] | {"simfleet_version": "9.9"}
    new["pools"][0]["profile_sha256"] = "f" * 64
    was = reports(1)[0]
    assert changes(was, new) == [
        f"simfleet: {was['simfleet_version']} -> 9.9",
        f"profile of nvidia-h100-sxm: {was['pools'][0]['profile_sha256'][:12]} -> ffffffffffff",
    ]
    assert changes(was, reports(1)[0]) == []


def test_another_hash_is_never_called_the_same() -> None:
    """Where nothing that the reports hold explains it, that is said; so too where reports do not hold what was written."""
    new: Any = reports(1)[0]
    new["scenario"]["sha256"] = "f" * 64
    unknown = "in it: nothing that these reports hold: a model, preset or file that the scenario names"
    assert changes(reports(1)[0], new)[1:] == [unknown]
    del new["scenario"]["inputs"]
    assert changes(reports(1)[0], new)[1:] == [unknown]


def test_one_class_stands_once() -> None:
    """With two classes each has rows of its own; one class is the whole run."""
    one = [report | {"classes": report["classes"][:1]} for report in reports(1)]
    names = [row.name for row in compare(one, one).rows]
    assert "ttft mean" in names
    assert not [name for name in names if "class=" in name]
    both = {row.name for row in compare(reports(1), reports(1)).rows}
    assert {"ttft mean", "ttft{class=chat} mean", "attainment{class=night}"} <= both


def test_the_tolerance_reads_the_same_whichever_way_is_better(tmp_path: Path) -> None:
    wanted = {row.name: row.wanted for row in compare(reports(1), reports(1)).rows}
    assert {wanted[name] for name in ("goodput_rps", "ttft mean")} == {"at most 1 % worse"}
    same = tolerances(tmp_path, "default: null\nmetrics: {usd_total: {rel: 2 %, abs: $3, direction: same}}\n")
    assert compare(reports(1), reports(1), same).rows[0].wanted == "at most 2 % or $3.00 apart"


# -- files ---------------------------------------------------------------------------------------------------------------


def test_baselines_read_back(tmp_path: Path) -> None:
    save(reports(2), tmp_path / "deep" / "base.json")
    assert read_reports(tmp_path / "deep" / "base.json") == reports(2)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["base.json"]
    (tmp_path / "report.json").write_text(json.dumps(reports(1)[0]))
    assert read_reports(tmp_path) == read_reports(tmp_path / "report.json") == reports(1)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("{", "not JSON"),
        ("[]", "expected a report.json"),
        ('{"reports": []}', "expected a report.json"),
        ('{"seed": 0}', "expected a report.json"),
        (json.dumps(reports(1)[0] | {"schema_version": 99}), "expected reports of layout 1, got 99"),
        (json.dumps({"reports": reports(1) * 2}), "expected each seed once"),
    ],
)
def test_files_that_are_no_reports(tmp_path: Path, text: str, phrase: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=phrase):
        read_reports(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("metrics: {ttfft: {rel: 1 %}}", ":1:11: metrics.ttfft: unknown metric `ttfft`; did you mean `ttft`"),
        ("metrics:\n  ttft p98: {rel: 1 %}", ":2:3: .*unknown statistic `p98`"),
        ("metrics: {ttft: {abs: 1 W}}", "got the unit `W`"),
        ("metrics: {ttft: {abs: -1 s}}", "at least 0"),
        ("metrics:\n  utilisation{pool=chat}: {rel: 1 %}", "expected a direction"),
        ("metrics: {ttft: {rel: 200 %}}", "share"),
        ("metrics: {ttft: {direction: up}}", "one of lower, higher, same"),
        ("default: {abs: 1 s}", "metrics differ in their units"),
        ("default: null", "expected metrics"),
        ("defualt: null", "did you mean `default`"),
    ],
)
def test_mistakes_of_a_tolerance_file(tmp_path: Path, text: str, phrase: str) -> None:
    with pytest.raises(SpecError, match=phrase):
        compare(
            reports(1), reports(1), tolerances(tmp_path, text.replace("{pool=chat}", "") if ":1:" in phrase else text)
        )


def test_a_metric_means_all_of_its_statistics(tmp_path: Path) -> None:
    found, document = read_tolerances(
        tolerances(tmp_path, "default: null\nmetrics: {'ttft{class=chat}': {}, e2e p95: {}}\n")
    )
    asks = [rule.ask for rule in rules(found, document, known())]
    chat = (("class", "chat"),)
    assert asks == [*(Ask("ttft", chat, name) for name in ("mean", "p50", "p90", "p95", "p99")), Ask("e2e", (), "p95")]


def test_what_is_asked_for_by_name_cannot_be_left_out(tmp_path: Path) -> None:
    """SMALL has no p99: left out by itself, but not where it was asked for."""
    assert not [row for row in compare(reports(1), reports(1)).rows if row.name == "ttft p99"]
    suite = compare(reports(1), reports(1), tolerances(tmp_path, "default: null\nmetrics: {ttft p99: {}}\n"))
    assert (suite.rows[0].state, suite.exit_code) == ("cannot judge", 3)


def test_paired_seeds_beat_noise() -> None:
    """One more replica makes answers faster, and three paired seeds are enough to say so."""
    faster = small(pools__chat__replicas="2")
    suite = compare(reports(3), [simulate(faster, seed=seed, requests=False).summary for seed in range(3)])
    assert row_of(suite.rows, "tpot mean").note == "better"
    assert row_of(suite.rows, "power_facility mean").state == "missed"
